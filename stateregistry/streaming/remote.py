"""A file behind a URL, read by ranges through fsspec: never more of it than is asked for.

A server that gives no ranges is refused when the first is asked for, before more than that has arrived. What changes while it
is open is an error: length and the tag that the server gives (ETag, version, time of change) are those of the beginning.
Errors of whatever library speaks the protocol become ours. Imports fsspec when a URL is used.
"""

from __future__ import annotations

import re
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

from stateregistry import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
INSTALL: Final = "pip install 'stateregistry[remote]'"
#: What a server may call the state of a file.
_TAGS: Final = (
    "ETag",
    "etag",
    "version_id",
    "generation",
    "blob_id",
    "LastModified",
    "Last-Modified",
    "mtime",
    "created",
)
#: Bytes that are asked for at once.
_STEP: Final = 1 << 25
#: Headers are read in small pieces that lie close together: so many bytes are asked for then.
_AHEAD: Final = 1 << 14


def is_url(text: str, /) -> bool:
    """Whether a text is a URL, of whatever protocol."""
    return _URL.match(text) is not None


def filesystem(url: str, /) -> tuple[Any, str]:
    """The file system of fsspec that a URL belongs to, and the path in it.

    Raises:
        MissingDependencyError: no fsspec, or the package for the protocol is not installed.
        UnsupportedError: a protocol that nobody knows.
    """
    try:
        import fsspec  # type: ignore[import-untyped]  # it ships no types
    except ModuleNotFoundError as error:
        raise errors.MissingDependencyError(f"{url}: reading a URL needs the package 'fsspec'", hint=INSTALL) from error
    try:
        found, path = fsspec.url_to_fs(url)
    except ImportError as error:
        message = f"{url}: the package for this protocol is not installed: {error}"
        raise errors.MissingDependencyError(message, hint=f"{INSTALL}, and what the message names") from error
    except ValueError as error:
        message = f"{url}: {error}"
        raise errors.UnsupportedError(message, hint="see that the protocol is one that fsspec knows") from error
    return found, path


def asked(url: str, what: str, question: Callable[[], Any], /) -> Any:
    """The answer of a file system.

    Raises:
        FileMissingError: there is no such file. FileAccessError: whatever else it says, with its words.
    """
    try:
        return question()
    except errors.StateError:
        raise
    except Exception as error:
        if _told_missing(error) or (isinstance(error, FileNotFoundError) and _says_so(error.__cause__)):
            raise errors.FileMissingError(f"{url}: there is no such file", hint="check the URL") from error
        error = error.__cause__ if isinstance(error.__cause__, Exception) else error
        message = f"{url}: {what} failed: {type(error).__name__}: {str(error)[:300]}"
        raise errors.FileAccessError(message, hint="check the connection, the address and what you may read") from error


def _says_so(cause: BaseException | None) -> bool:
    """Whether a file is missing, and not a server that cannot be reached: fsspec says the same of both over http."""
    if cause is None or isinstance(cause, FileNotFoundError) or _told_missing(cause):
        return True
    return getattr(cause, "status", 0) in (404, 410)


def _told_missing(error: BaseException) -> bool:
    """Whether a server answered that there is nothing: hf:// says so of a directory that is not there."""
    return getattr(getattr(error, "response", None), "status_code", 0) in (404, 410)


def stamp_of(info: dict[str, Any], /) -> int:
    """A number that another state of the file does not have, as far as the server tells; 0 where it tells nothing."""
    import xxhash  # lazy: only for URLs

    told = [f"{name}={info[name]}" for name in _TAGS if info.get(name)]
    return xxhash.xxh3_64_intdigest("\n".join(told).encode()) >> 1 if told else 0


@final
class RemoteFile:
    """A file behind a URL, open for reading at positions; threads may share it.

    Attributes:
        url: as given. size: its bytes. stamp: see `stamp_of`.
    """

    def __init__(self, url: str) -> None:
        """Look at it.

        Raises:
            FileMissingError, FileAccessError, MissingDependencyError, UnsupportedError. FileFormatError: the server does not
            say how long it is.
        """
        self.url = url
        self._system, self._path = filesystem(url)
        self.size, self.stamp = self._look()
        self._lock = threading.Lock()
        self._file: Any = None
        self._ahead = (0, b"")

    def _look(self) -> tuple[int, int]:
        self._system.invalidate_cache()
        info = asked(self.url, "looking for the file", lambda: self._system.info(self._path))
        if info.get("type") == "directory":
            raise errors.FileAccessError(f"{self.url}: is a directory", hint="give the URL of a checkpoint file")
        if not isinstance(info.get("size"), int):
            message = f"{self.url}: the server does not say how long the file is"
            raise errors.UnsupportedError(message, hint="download it first")
        return info["size"], stamp_of(info)

    def check(self) -> None:
        """See that it is still what it was.

        Raises:
            FileFormatError: it has changed. FileMissingError, FileAccessError.
        """
        size, stamp = self._look()
        if (size, stamp) != (self.size, self.stamp):
            message = f"{self.url}: has changed since it was opened"
            hint = "another program writes this file: open it again when it is done"
            raise errors.FileFormatError(message, expected=self.size, found=size, hint=hint)

    def read_into(self, buffer: np.ndarray, offset: int) -> None:
        """Fill a C-contiguous array with the bytes from `offset` on.

        Raises:
            UnsupportedError: the server gives no ranges. FileFormatError: less arrived. FileAccessError.
        """
        import numpy as np  # lazy: asking whether a path is a URL needs none

        raw = buffer.reshape(-1).view(np.uint8)
        for begin in range(0, raw.size, _STEP):
            count = min(_STEP, raw.size - begin)
            piece = asked(self.url, "reading", partial(self._piece, offset + begin, count))
            if len(piece) != count:
                message = f"{self.url}: gave {len(piece):,} bytes where {count:,} were asked for"
                raise errors.FileFormatError(message, hint="another program writes this file: open it again")
            raw[begin : begin + count] = np.frombuffer(piece, np.uint8)

    def read(self, offset: int, nbytes: int) -> bytes:
        """Bytes of the file, of a few in a row together. Raises what `read_into` does."""
        first, ahead = self._ahead
        if not first <= offset <= offset + nbytes <= first + len(ahead):
            import numpy as np  # lazy: as above

            target = np.empty(min(max(nbytes, _AHEAD), self.size - offset), np.uint8)
            self.read_into(target, offset)
            first, ahead = offset, target.tobytes()
            self._ahead = (first, ahead) if nbytes <= _AHEAD else self._ahead
        return ahead[offset - first : offset - first + nbytes]

    def _piece(self, offset: int, count: int) -> bytes:
        with self._lock:
            if self._file is None:
                self._file = self._system.open(self._path, "rb", cache_type="none")
            try:
                self._file.seek(offset)
                found = self._file.read(count)
            except ValueError as error:
                message = f"{self.url}: the server gives no part of a file: {str(error)[:200]}"
                raise errors.UnsupportedError(message, hint="download it first") from error
        return bytes(found)

    def close(self) -> None:
        """Release it. Idempotent."""
        with self._lock:
            file, self._file = self._file, None
        if file is not None:
            file.close()
