"""One open file: its bytes as read-only views into a memory map, or copied by positioned reads.

Touching a page of a map that lies beyond the end of a file kills the process, so the length of the file is looked at
before every access: a file that has shrunk or grown since it was opened is an error. Copies never go through the
map, so that they cannot be hit by what happens in between. A URL has no map: what is looked at is read by ranges.
Imports NumPy for values, no framework.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import weakref
from typing import TYPE_CHECKING, Any, Self, final

from stateregistry import errors
from stateregistry.streaming.remote import RemoteFile, is_url

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

#: A single positioned read moves at most 2 GiB less a page on Linux.
_STEP = 1 << 30


@final
class MappedFile:
    """A file that is open for reading.

    Attributes:
        path: as given.
        size: the bytes that it had when it was opened. modified: when it had been changed last, in nanoseconds.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`.

        Raises:
            FileMissingError: no such file. FileAccessError: a directory, a device, or not readable.
        """
        self.path = path
        self._finalizer: weakref.finalize[..., Self]
        self._map: mmap.mmap | None = None
        self._remote: RemoteFile | None = None
        self._absolute = os.fspath(path)
        if is_url(self._absolute):
            self._open_url(os.fspath(path))
            return
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        except FileNotFoundError as error:
            message = f"{path}: there is no such file"
            raise errors.FileMissingError(message, hint="check the path") from error
        except OSError as error:
            raise errors.FileAccessError(f"{path}: cannot be opened: {error.strerror or error}") from error
        self._finalizer = weakref.finalize(self, _closed, handle)
        self._handle = handle
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise errors.FileAccessError(f"{path}: is {what}", hint="give the path of a checkpoint file")
        self.size = status.st_size
        self.modified = status.st_mtime_ns
        # Now, once: the current directory may be another one when it is asked for, and it is asked for by every value.
        self._absolute = os.path.abspath(path)  # noqa: PTH100  # links stay as they are

    def _open_url(self, url: str) -> None:
        file = self._remote = RemoteFile(url)
        self._finalizer = weakref.finalize(self, file.close)
        self.size, self.modified = file.size, file.stamp

    def close(self) -> None:
        """Release the file. Views that were handed out keep the map alive until they are gone."""
        self._map = None
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def absolute(self) -> str:
        """The path, for a worker whose current directory is another one."""
        return self._absolute

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return not self._finalizer.alive

    def _check(self, offset: int, nbytes: int) -> None:
        if self.closed:
            message = f"{self.path}: the registry over this file is closed"
            raise errors.UnsupportedError(message, hint="read the values inside the with block")
        size = os.fstat(self._handle).st_size if self._remote is None else self._remote.size
        if size != self.size:
            message = f"{self.path}: has {size:,} bytes, and had {self.size:,} when it was opened"
            hint = "another program writes this file: open it again when it is done"
            raise errors.FileFormatError(message, expected=self.size, found=size, hint=hint)
        if offset < 0 or nbytes < 0 or offset + nbytes > size:
            message = f"{self.path}: bytes {offset:,} to {offset + nbytes:,} lie outside of its {size:,}"
            raise errors.FileFormatError(message, expected=size, found=offset + nbytes)

    def view(self, offset: int, nbytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Bytes of the file as a read-only `uint8` array over the map; of a URL, as they are read now.

        Raises:
            FileFormatError: the file has changed its length, or the bytes lie outside. UnsupportedError: closed.
        """
        import numpy as np  # lazy: a header is read without

        self._check(offset, nbytes)
        if nbytes == 0:
            return np.frombuffer(b"", np.uint8)
        if self._remote is not None:
            target = np.empty(nbytes, np.uint8)
            self.copy_into(target, offset)
            return target
        if self._map is None:
            try:
                self._map = mmap.mmap(self._handle, self.size, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise errors.FileAccessError(f"{self.path}: cannot be mapped into memory: {error}") from error
        return np.frombuffer(self._map, np.uint8, nbytes, offset)

    def copy_into(self, target: np.ndarray, offset: int) -> None:
        """Fill a C-contiguous array with the bytes from `offset` on.

        Raises:
            FileFormatError: the file has changed its length, or ends early. FileAccessError: reading failed.
        """
        import numpy as np  # lazy: a header is read without

        self._check(offset, target.nbytes)
        if target.nbytes == 0:
            return
        if self._remote is not None:
            self._remote.check()
            self._remote.read_into(target, offset)
            return
        buffer = target.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._handle, [buffer[done : done + _STEP]], offset + done)
            except OSError as error:
                raise errors.FileAccessError(f"{self.path}: reading failed: {error.strerror or error}") from error
            if count == 0:
                message = f"{self.path}: ended after {offset + done:,} bytes while it was read"
                raise errors.FileFormatError(message, hint="another program writes this file: open it again")
            done += count

    def read(self, offset: int, nbytes: int) -> bytes:
        """Bytes of the file, copied.

        Raises:
            FileFormatError, FileAccessError, UnsupportedError: as `copy_into`.
        """
        self._check(offset, nbytes)
        if self._remote is not None:
            return self._remote.read(offset, nbytes)
        try:
            raw = os.pread(self._handle, nbytes, offset)
        except OSError as error:
            raise errors.FileAccessError(f"{self.path}: reading failed: {error.strerror or error}") from error
        if len(raw) == nbytes:
            return raw
        import numpy as np  # lazy: as above

        target = np.empty(nbytes, np.uint8)  # a signal or a network share cut the read short: in steps then
        self.copy_into(target, offset)
        return target.tobytes()


def _closed(handle: int) -> None:
    """Close a descriptor that was only read from: nothing can be lost by it."""
    with contextlib.suppress(OSError):
        os.close(handle)
