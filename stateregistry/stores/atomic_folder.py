"""Replaces a directory in one step, or not at all: the old one is whole until the new one is.

The new one is made within a hidden directory beside the target and gets its name by one rename; where one is there already,
the two are exchanged in one step (`renameat2`) and the old one is removed then. Only a checkpoint of the kind that is written
is ever replaced, and only where nothing else lies in its directory. What a killed run has left, the next one of the same target
removes. POSIX. Imports no framework.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import xxhash

from stateregistry import errors
from stateregistry.stores.atomic import destination
from stateregistry.streaming.disk import failure, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: How often, and after how many seconds, a directory is removed once more into which something still writes; and how
#: often it is looked at again when it is gone.
_TRIES: Final = 100
_PAUSE: Final = 0.02
_LOOKS: Final = 3
#: How `renameat2` is told to rename.
_NOREPLACE: Final = 1
_EXCHANGE: Final = 2
_HERE: Final = -100


@contextmanager
def replacing_folder(path: Path, /, *, overwrite: bool, strangers: Callable[[Path], Sequence[str]]) -> Iterator[Path]:
    """A path at which the block makes a directory, durable; it becomes `path` when the block ends well.

    Args:
        path: the target; where it is a symbolic link, that stays and its target is replaced.
        strangers: the names in a directory that are no part of a checkpoint of the kind that is written. One that has
            any is not replaced: they would be lost.

    Raises:
        TargetExistsError: it exists, or appeared meanwhile, and is not to be overwritten. FileMissingError: the directory above
            does not exist. FileAccessError: what is there is something else, or whatever the system refuses.
    """
    real = Path(os.path.realpath(path)) if os.path.islink(path) else path  # noqa: PTH114  # never raises
    there = _looked_at(real, path, overwrite=overwrite, strangers=strangers)
    room = real.with_name(f"{_mark(real)}{secrets.token_hex(4)}.tmp")
    try:
        room.mkdir()
        handle = os.open(room, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise errors.FileAccessError(f"{path}: cannot be written beside: {error.strerror}") from error
    whole = False
    try:
        with suppress(OSError):  # a file system without locks: then nobody removes what is not theirs
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _sweep(real, room)
        yield room / real.name
        _rename(room / real.name, real, _EXCHANGE if there else _NOREPLACE)
        sync_folder(real.parent)
        whole = True
    except FileExistsError as error:
        raise error if isinstance(error, errors.StateError) else _exists(path) from error
    except OSError as error:
        if isinstance(error, errors.StateError):
            raise
        raise failure(path, "writing, what was there is as it was:", error) from error
    finally:
        _remove(room, quiet=whole)  # with the new one, or the old one that was exchanged for it
        os.close(handle)


def _looked_at(real: Path, path: Path, *, overwrite: bool, strangers: Callable[[Path], Sequence[str]]) -> bool:
    """Whether there is a directory that may be replaced."""
    if not real.is_dir():
        destination(path, overwrite=False)
        return False
    if not overwrite:
        raise _exists(path)
    strange = sorted(strangers(real))
    if strange:
        listed = ", ".join(map(repr, strange[:5])) + (f" and {len(strange) - 5} more" if len(strange) > 5 else "")
        message = (
            f"{path}: is a directory of something else, or with something else in it, and is not replaced: {listed}"
        )
        raise errors.FileAccessError(message, found=tuple(strange), hint="choose another path, or move them away")
    if not os.access(real.parent, os.W_OK | os.X_OK):
        message = f"{path}: the directory {real.parent} is not writable"
        raise errors.FileAccessError(message, hint="change its permissions, or choose another path")
    return True


def _remove(room: Path, *, quiet: bool) -> None:
    """Remove a directory; where it is not `quiet`, threads of a library may still write and even make it again."""
    gone = 0
    for _ in range(_TRIES):
        shutil.rmtree(room, ignore_errors=True)
        gone = gone + 1 if not room.exists() else 0
        if gone > (0 if quiet else _LOOKS):
            return
        time.sleep(_PAUSE)


def _exists(path: Path) -> errors.TargetExistsError:
    return errors.TargetExistsError(f"{path}: exists already", hint="pass overwrite=True to replace it")


def _mark(real: Path) -> str:
    """How the names of what is written beside a target begin."""
    return f".stateregistry-{xxhash.xxh3_64_hexdigest(real.name.encode(errors='surrogateescape'))}-"


def _sweep(real: Path, mine: Path) -> None:
    """Remove what killed runs have left beside a target: directories of its name that nobody holds."""
    mark = _mark(real)
    with suppress(OSError):  # what cannot be removed is in nobody's way
        for other in list(real.parent.iterdir()):
            if other.name.startswith(mark) and other != mine and other.is_dir() and not other.is_symlink():
                handle = os.open(other, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(other)
                finally:
                    os.close(handle)


def _rename(old: Path, new: Path, how: int) -> None:
    """Rename as `renameat2` does, which Python lacks: to a name that is free, or exchanging two.

    Raises:
        OSError: as the system says.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    code = errno.ENOSYS if call is None else 0
    if call is not None and call(_HERE, os.fsencode(old), _HERE, os.fsencode(new), how):
        code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL) and how == _NOREPLACE and not os.path.lexists(new):
        old.rename(new)  # a system, or a file system, without
    elif code in (errno.ENOSYS, errno.EINVAL) and how == _EXCHANGE:
        raise OSError(code, "this file system cannot exchange two directories in one step: choose another path")
    elif code:
        raise OSError(code, os.strerror(code), str(new))
