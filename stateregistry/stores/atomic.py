"""Replaces a file in one step, or not at all: the old file is whole until the new one is.

The new content is written to a sibling, made durable, moved over the target by one rename, and the rename made durable.
Whatever fails before, an interrupt included, removes the sibling and leaves the target as it was; what a killed run has
left, the next one of the same target removes. What can be known before the work starts (no such directory, not writable,
the target exists) is said before. POSIX. Imports no framework.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from stateregistry import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

#: File systems without hard links answer `link` with one of these.
_NO_LINKS = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES))


def destination(path: Path, /, *, overwrite: bool) -> Path:
    """Where a file that is to appear at `path` really goes: a symbolic link stays and its target is replaced.

    Raises:
        FileMissingError: the directory does not exist. FileAccessError: it cannot be written to, or something that
            is no regular file is in the way. TargetExistsError: the file exists and is not to be overwritten.
    """
    real = Path(os.path.realpath(path)) if os.path.islink(path) else path  # noqa: PTH114  # never raises
    folder = real.parent
    try:
        status = folder.stat()
    except FileNotFoundError as error:
        message = f"{path}: the directory {folder} does not exist"
        raise errors.FileMissingError(message, hint="make the directory first") from error
    except OSError as error:
        raise errors.FileAccessError(f"{path}: the directory {folder} cannot be used: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise errors.FileAccessError(f"{path}: {folder} is not a directory", hint="choose another path")
    if not os.access(folder, os.W_OK | os.X_OK):
        message = f"{path}: the directory {folder} is not writable"
        raise errors.FileAccessError(message, hint="change its permissions, or choose another path")
    try:
        status = real.lstat()
    except FileNotFoundError:
        return real
    except OSError as error:
        raise errors.FileAccessError(f"{path}: cannot be looked at: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        what = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise errors.FileAccessError(f"{path}: is {what} and is not replaced", hint="choose another path")
    if not overwrite:
        raise _exists(path)
    return real


def _exists(path: Path) -> errors.TargetExistsError:
    return errors.TargetExistsError(f"{path}: exists already", hint="pass overwrite=True to replace it")


@contextmanager
def replacing(path: Path, /, *, overwrite: bool = False) -> Iterator[Path]:
    """A new, empty file beside `path`, to be written in the block; it becomes `path` when the block ends well.

    A new file has the mode that the umask gives; one that replaces another has the mode of that.

    Raises:
        TargetExistsError: the target exists, or appeared meanwhile, and is not to be overwritten.
        FileMissingError, FileAccessError: see `destination`, and whatever the system refuses in between.
    """
    real = destination(path, overwrite=overwrite)
    try:
        temporary, handle = _temporary(real)
    except OSError as error:
        raise errors.FileAccessError(f"{path}: cannot be written beside: {error.strerror}") from error
    try:
        try:
            _sweep(real, temporary)
            yield temporary
            _commit(temporary, real, path, overwrite=overwrite)
        except BaseException as error:
            _discard(temporary, error)
            if isinstance(error, OSError) and not isinstance(error, errors.StateError):
                message = f"{path}: writing failed: {error.strerror or error}; what was there is as it was"
                raise errors.FileAccessError(message, hint="see that there is room and permission") from error
            raise
    finally:
        with suppress(OSError):  # nothing was written through it
            os.close(handle)
    _sync_folder(real.parent, path)


def _mark(real: Path) -> str:
    """How the names of what is written beside a target begin."""
    return f".stateregistry-{xxhash.xxh3_64_hexdigest(real.name.encode(errors='surrogateescape'))}-"


def _temporary(real: Path) -> tuple[Path, int]:
    """A new, empty sibling, and a descriptor whose lock says that somebody is at it."""
    while True:
        temporary = real.with_name(f"{_mark(real)}{secrets.token_hex(4)}.tmp{real.suffix[:16]}")
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # a file system without locks: then nobody removes what is not theirs
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if temporary.exists():
            return temporary, handle
        os.close(handle)  # removed by another run before it was locked


def _sweep(real: Path, mine: Path) -> None:
    """Remove what killed runs have left beside a target: files of its name that nobody holds."""
    mark = _mark(real)
    with suppress(OSError):  # what cannot be removed is in nobody's way
        for other in list(os.scandir(real.parent)):
            if other.name.startswith(mark) and other.name != mine.name and ".tmp" in other.name:
                handle = os.open(other.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(other.path)  # noqa: PTH108  # of scandir
                finally:
                    os.close(handle)


def _commit(temporary: Path, real: Path, path: Path, *, overwrite: bool) -> None:
    handle = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    if overwrite:
        if real.exists():
            temporary.chmod(stat.S_IMODE(real.stat().st_mode) & 0o777)
        temporary.replace(real)
        return
    # A rename would replace a file that appeared since it was looked for; a link does not.
    try:
        os.link(temporary, real)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        if real.exists() and real.samefile(temporary):
            pass  # it was done, whatever the system says
        elif error.errno not in _NO_LINKS:
            raise
        elif os.path.lexists(real):
            raise _exists(path) from error
        else:
            temporary.replace(real)
            return
    temporary.unlink()


def _discard(temporary: Path, error: BaseException) -> None:
    try:
        temporary.unlink(missing_ok=True)
    except OSError as left:
        error.add_note(f"the temporary file {temporary} could not be removed: {left}")


def _sync_folder(folder: Path, path: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTSUP):
            return  # a file system whose directories need no sync
        message = f"{path}: is written, and whether it survives a power cut is not known: {error.strerror}"
        raise errors.FileAccessError(message, hint="check the disk") from error
