"""The system calls that touch files, in one place: complete reads and writes, and one kind of error.

Every call that a crash or a full disk can hit goes through `before`, so that a test can let the n-th one fail or be the
last thing that the process does. Short reads and writes are continued; an error names the file and what failed.
Imports the errors and NumPy.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import final

import numpy as np

from stateregistry import errors
from stateregistry.streaming.remote import RemoteFile, is_url

#: Told the name of each system call before it is made; a test replaces it. What it raises is as if the call had.
before: Callable[[str], None] | None = None

#: A single positioned read or write moves at most 2 GiB less a page on Linux.
_STEP = 1 << 30


def _about_to(call: str) -> None:
    if before is not None:
        before(call)


def failure(path: str | Path, what: str, error: OSError) -> errors.FileAccessError:
    """The one error that a failed system call becomes."""
    message = f"{path}: {what} failed: {error.strerror or error}"
    hints = {
        errno.ENOSPC: "make room, or write to another disk",
        errno.EDQUOT: "make room in the quota, or write to another disk",
        errno.EIO: "the disk or the share does not answer: check it",
    }
    return errors.FileAccessError(message, hint=hints.get(error.errno or 0, "see that there is room and permission"))


def refuse_full(target: Path, wanted: int, /) -> None:
    """Refuse a disk without room for what is to be written at `target`, before work begins.

    Raises:
        FileAccessError: it has less than `wanted` bytes free, or cannot be asked.
    """
    try:
        free = shutil.disk_usage(target.parent).free
    except OSError as error:
        raise failure(target.parent, "looking for room", error) from error
    if wanted > free:
        message = f"{target}: needs {wanted:,} bytes, and the disk has {free:,} free"
        raise errors.FileAccessError(message, expected=wanted, found=free, hint="make room, or write elsewhere")


@lru_cache(maxsize=1)
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """The system call of that name, which Python lacks; `None` where the system has none."""
    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is None:
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call  # type: ignore[no-any-return]  # ctypes knows no types


@final
class File:
    """An open file, read and written at positions. A context manager.

    Attributes:
        path: as given.
    """

    def __init__(self, path: str | Path, handle: int) -> None:
        self.path = str(path)
        self._handle = handle
        self._remote: RemoteFile | None = None

    @classmethod
    def reading(cls, path: str | Path, size: int | None = None, modified: int = 0) -> File:
        """Open to read; `size` and `modified` (0: whenever) are what it has to have.

        Raises:
            FileMissingError, FileAccessError. FileFormatError: it has another length than it had.
        """
        if is_url(str(path)):
            remote = cls(path, -1)
            remote._remote = RemoteFile(str(path))
            remote.expect(size, modified)
            return remote
        try:
            _about_to("open")
            file = cls(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError as error:
            raise errors.FileMissingError(f"{path}: there is no such file", hint="check the path") from error
        except OSError as error:
            raise failure(path, "opening", error) from error
        try:
            file.expect(size, modified)
        except BaseException:
            file.close()
            raise
        return file

    @classmethod
    def writing(cls, path: str | Path, *, make: bool = False) -> File:
        """Open a file to write into it; one that is not there is made where `make` says so.

        Raises:
            FileAccessError.
        """
        try:
            _about_to("open")
            return cls(path, os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0), 0o666))
        except OSError as error:
            raise failure(path, "opening", error) from error

    @classmethod
    def creating(cls, path: str | Path) -> File:
        """Make a new file with the mode that the umask gives.

        Raises:
            FileAccessError: it is there already, or cannot be made.
        """
        try:
            _about_to("create")
            return cls(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        except OSError as error:
            raise failure(path, "making the file", error) from error

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release it. Idempotent.

        Raises:
            FileAccessError: a share says only now that it could not keep what was written.
        """
        if self._remote is not None:
            self._remote.close()
        handle, self._handle = self._handle, -1
        if handle >= 0:
            try:
                os.close(handle)
            except OSError as error:
                raise failure(self.path, "closing", error) from error

    def fileno(self) -> int:
        """The descriptor."""
        return self._handle

    @property
    def size(self) -> int:
        """Its length now; of a URL, when it was opened."""
        if self._remote is not None:
            return self._remote.size
        return os.fstat(self._handle).st_size

    def expect(self, size: int | None, modified: int = 0) -> None:
        """Refuse a file that has changed since it was looked at.

        Raises:
            FileFormatError.
        """
        if self._remote is not None:
            found, changed = self._remote.size, self._remote.stamp
        else:
            status = os.fstat(self._handle)
            found, changed = status.st_size, status.st_mtime_ns
        hint = "another program writes this file: open it again when it is done"
        if size is not None and found != size:
            message = f"{self.path}: has {found:,} bytes, and had {size:,} when it was opened"
            raise errors.FileFormatError(message, expected=size, found=found, hint=hint)
        if modified and changed != modified:
            raise errors.FileFormatError(f"{self.path}: has changed since it was opened", hint=hint)

    def read_into(self, buffer: np.ndarray, offset: int) -> None:
        """Fill a C-contiguous array with the bytes from `offset` on.

        Raises:
            FileFormatError: the file ends early. FileAccessError: reading failed.
        """
        if buffer.nbytes == 0:
            return
        if self._remote is not None:
            self._remote.read_into(buffer, offset)
            return
        raw = buffer.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(raw):
            try:
                _about_to("read")
                count = os.preadv(self._handle, [raw[done : done + _STEP]], offset + done)
            except OSError as error:
                raise failure(self.path, "reading", error) from error
            if count == 0:
                message = f"{self.path}: ended after {offset + done:,} bytes while it was read"
                raise errors.FileFormatError(message, hint="another program writes this file: open it again")
            done += count

    def read_rows(self, raw: np.ndarray, pitch: int, span: int, offsets: Sequence[int]) -> None:
        """Fill the first `span` bytes of rows that are `pitch` bytes apart, each from its own offset.

        Raises:
            FileFormatError, FileAccessError: as `read_into`.
        """
        view = raw.data
        if self._remote is not None:
            for row, offset in enumerate(offsets):
                self._remote.read_into(raw[row * pitch : row * pitch + span], offset)
            return
        handle, preadv = self._handle, os.preadv
        for row, offset in enumerate(offsets):
            at = row * pitch
            try:
                if before is not None:
                    before("read")
                count = preadv(handle, [view[at : at + span]], offset) if span <= _STEP else 0
            except OSError as error:
                raise failure(self.path, "reading", error) from error
            if count != span:  # a signal or a network share cut it short
                self.read_into(raw[at + count : at + span], offset + count)

    def write(self, data: np.ndarray | bytes, offset: int) -> None:
        """Write all of a C-contiguous array, or bytes, at `offset`.

        Raises:
            FileAccessError: writing failed.
        """
        raw = memoryview(data) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(raw):
            try:
                _about_to("write")
                count = os.pwrite(self._handle, raw[done : done + _STEP], offset + done)
            except OSError as error:
                raise failure(self.path, "writing", error) from error
            if count == 0:
                raise failure(self.path, "writing", OSError(errno.ENOSPC, "nothing more could be written"))
            done += count

    def write_rows(self, raw: np.ndarray, span: int, offsets: Iterable[int]) -> None:
        """Write flat bytes in stretches of `span`, each at its own offset.

        Raises:
            FileAccessError: writing failed.
        """
        view, handle, pwrite = raw.data, self._handle, os.pwrite
        at = 0
        for offset in offsets:
            try:
                if before is not None:
                    before("write")
                count = pwrite(handle, view[at : at + span], offset) if span <= _STEP else 0
            except OSError as error:
                raise failure(self.path, "writing", error) from error
            if count != span:  # a signal or a network share cut it short
                self.write(raw[at + count : at + span], offset + count)
            at += span

    def empty(self) -> None:
        """Take everything out of it.

        Raises:
            FileAccessError.
        """
        try:
            os.ftruncate(self._handle, 0)
        except OSError as error:
            raise failure(self.path, "emptying", error) from error

    def allocate(self, size: int) -> None:
        """Give it its length, with room on the disk where the file system can promise it.

        Raises:
            FileAccessError: there is no room.
        """
        try:
            _about_to("allocate")
            os.ftruncate(self._handle, size)
            if size:
                os.posix_fallocate(self._handle, 0, size)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                return  # a file system without: running out of room is then said by a write
            raise failure(self.path, f"reserving {size:,} bytes", error) from error

    def advise(self, offset: int, size: int) -> None:
        """Let the disk fetch what will be read a little here and there, in one go. A hint."""
        if self._remote is None:
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._handle, offset, size, os.POSIX_FADV_WILLNEED)

    def hurry(self, offset: int, size: int) -> None:
        """Let the disk begin with bytes that were written, so that the sync at the end has less to wait for. A hint."""
        begin = _sync_file_range()
        if begin is not None:
            begin(self._handle, offset, size, 2)  # SYNC_FILE_RANGE_WRITE: starts, does not wait

    def sync(self) -> None:
        """Wait until its bytes are on the disk.

        Raises:
            FileAccessError.
        """
        try:
            _about_to("fsync")
            os.fsync(self._handle)
        except OSError as error:
            raise failure(self.path, "syncing", error) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a directory durable.

    Raises:
        FileAccessError: the disk failed.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _about_to("fsync")
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTSUP):
            return  # a file system whose directories need no sync
        message = f"{folder}: what was written is there, and whether it survives a power cut is not known"
        raise errors.FileAccessError(f"{message}: {error.strerror}", hint="check the disk") from error


def rename(old: Path, new: Path) -> None:
    """Move a file over another, in one step.

    Raises:
        OSError: as the system says.
    """
    _about_to("rename")
    old.replace(new)


def link(old: Path, new: Path) -> None:
    """A second name of a file, which must be free.

    Raises:
        OSError: as the system says.
    """
    _about_to("link")
    os.link(old, new)


def unlink(path: Path) -> None:
    """Remove a name, if it is there.

    Raises:
        FileAccessError.
    """
    _about_to("unlink")
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise failure(path, "removing", error) from error
