"""A URL as a path: what stores ask of a place, its name, its siblings, what is there, answered through fsspec.

Stores read through `MappedFile`, which reads ranges of a URL. Nothing is a link there. What a path can do and a URL cannot is
refused by the system as a file that does not exist. Imports fsspec when a URL is used.
"""

from __future__ import annotations

import io
import os
import re
import stat
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import unquote, urlsplit

from stateregistry import errors
from stateregistry.streaming.remote import RemoteFile, asked, filesystem, is_url, stamp_of

if TYPE_CHECKING:
    from collections.abc import Generator

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
#: Protocols whose servers list nothing.
_FLAT: Final = ("http", "https")


def path_of(path: str | os.PathLike[str], /) -> Path:
    """A path, or a URL as one; `file://` is a path.

    Raises:
        UnsupportedError: a URL that names no file.
    """
    text = os.fspath(path)
    if not is_url(text):
        return Path(text)
    if text.lower().startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    scheme, _, rest = text.partition("://")
    parts = rest.lstrip("/").split("/")
    if not rest.strip("/") or any(part in ("", ".", "..") for part in parts):
        message = f"{text!r} is no URL of a file: it has an empty part, '.' or '..'"
        raise errors.UnsupportedError(message, hint="write it out: s3://bucket/folder/model.safetensors")
    return RemotePath(f"{scheme}://{'/'.join(parts)}")


def refuse_url(path: Path, what: str, /) -> None:
    """Refuse a URL where a library reads by itself and knows paths alone.

    Raises:
        UnsupportedError: it is one.
    """
    if isinstance(path, RemotePath):
        message = f"{path}: {what} is read from a file of this machine, not from a URL"
        raise errors.UnsupportedError(message, hint="download it first")


@final
class RemotePath(PosixPath):
    """A URL of a file or directory."""

    def __str__(self) -> str:
        return _SCHEME.sub(r"\1://", super().__str__(), count=1)

    def __fspath__(self) -> str:
        return str(self)

    @property
    def protocol(self) -> str:
        """What stands before `://`."""
        return str(self).partition("://")[0].lower()

    def _info(self) -> dict[str, Any] | None:
        """What the file system says of it, `None` where there is nothing.

        Raises:
            FileAccessError, MissingDependencyError, UnsupportedError.
        """
        found, path = filesystem(str(self))
        found.invalidate_cache()
        try:
            info: dict[str, Any] = asked(str(self), "looking for the file", lambda: found.info(path))
        except errors.FileMissingError:
            return None
        return info

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Length, kind and, for the time of change, a number that changes with the file."""
        info = self._info()
        if info is None:
            raise errors.FileMissingError(f"{self}: there is no such file", hint="check the URL")
        mode = stat.S_IFDIR if info.get("type") == "directory" else stat.S_IFREG
        size, stamp = info.get("size") or 0, stamp_of(info)
        return os.stat_result((mode, 0, 0, 1, 0, 0, size, 0, 0, 0, 0.0, 0.0, 0.0, 0, stamp, 0))

    def lstat(self) -> os.stat_result:
        """As `stat`: there are no links."""
        return self.stat()

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is a file or directory."""
        return self._info() is not None

    def is_file(self) -> bool:
        """Whether there is a file."""
        info = self._info()
        return info is not None and info.get("type") != "directory"

    def is_dir(self) -> bool:
        """Whether there is a directory; never where a server lists nothing."""
        if self.protocol in _FLAT:
            return False
        info = self._info()
        return info is not None and info.get("type") == "directory"

    def is_symlink(self) -> bool:
        """Never."""
        return False

    def samefile(self, other_path: str | os.PathLike[str]) -> bool:
        """Whether the other is the same URL."""
        return str(self) == os.fspath(other_path)

    def iterdir(self) -> Generator[RemotePath, None, None]:
        """What is in a directory."""
        found, path = filesystem(str(self))
        names = asked(str(self), "listing", lambda: found.ls(path, detail=False))
        for name in names:
            last = str(name).rstrip("/").rpartition("/")[2]
            if last:
                yield self / last

    def open(self, mode: str = "r", *args: Any, **options: Any) -> Any:
        """The file, read from its beginning; all of it for a text."""
        if "r" not in mode or "+" in mode:
            message = f"{self}: a URL is written as a whole, by sr.save and sr.convert"
            raise errors.UnsupportedError(message, hint="use one of them")
        raw = io.BufferedReader(_Sequential(RemoteFile(str(self))))
        return (
            raw
            if "b" in mode
            else io.TextIOWrapper(raw, encoding=options.get("encoding"), errors=options.get("errors"))
        )


@final
class _Sequential(io.RawIOBase):
    """A remote file from its beginning on."""

    def __init__(self, file: RemoteFile) -> None:
        super().__init__()
        self._remote, self._at = file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        target = memoryview(buffer).cast("B")
        count = max(0, min(len(target), self._remote.size - self._at))
        if count:
            target[:count] = self._remote.read(self._at, count)
        self._at += count
        return count

    def close(self) -> None:
        self._remote.close()
        super().close()
