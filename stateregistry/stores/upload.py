"""Writing to a URL: the output is made beside nothing but itself in a local directory, then sent, whole or not at all.

Digests stand in the header of a file, before the values that they are made of, so a file is finished on disk first (`TMPDIR`
says where) and goes up in parts. An object store shows an object when its last part has arrived; on other servers the file gets
its name at the end. Of several files the one that names the others goes last, and those that it no longer names are removed
then. Imports fsspec.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from stateregistry import errors
from stateregistry.stores.safetensors_layout import index_path
from stateregistry.stores.sidecar import SUFFIX as SIDECAR
from stateregistry.stores.url import RemotePath
from stateregistry.streaming.remote import asked, filesystem

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Protocols that give and do not take.
_READ_ONLY: Final = ("http", "https")
#: Protocols where what is sent appears when it is complete.
_WHOLE: Final = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf", "memory", "oss", "r2")
#: Files that name the others of a directory.
_LAST: Final = (".metadata", "_METADATA")


@contextmanager
def spooled(target: RemotePath, /, *, overwrite: bool) -> Iterator[Path]:
    """A local path of the same name; what has appeared beside it when the block ends well goes up.

    Raises:
        TargetExistsError: there is something, and it is not to be replaced. UnsupportedError: a protocol that takes nothing.
        FileAccessError: the server refuses. What was there is as it was, unless the one that names the files had arrived.
    """
    refuse_read_only(target)
    refuse_existing(target, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="stateregistry-") as name:
        local = Path(name) / target.name
        before = _Before(target, local)
        try:
            yield local
        except errors.StateError as error:
            error.message = error.message.replace(str(local.parent), str(target.parent))
            raise
        refuse_existing(target, overwrite=overwrite)
        _send(target, local.parent, before)


def refuse_read_only(target: RemotePath, /) -> None:
    """Refuse a protocol that takes nothing.

    Raises:
        UnsupportedError.
    """
    if target.protocol in _READ_ONLY:
        message = f"{target}: {target.protocol} is read and not written"
        raise errors.UnsupportedError(message, hint="write to a file, or to a store such as s3://")


def refuse_existing(target: RemotePath, /, *, overwrite: bool) -> None:
    """Refuse what is there already.

    Raises:
        TargetExistsError: it is not to be replaced. FileAccessError: a directory, or the server refuses.
    """
    if not target.exists():
        return
    if target.is_dir():
        raise errors.FileAccessError(f"{target}: is a directory and is not replaced", hint="choose another URL")
    if not overwrite:
        raise errors.TargetExistsError(f"{target}: exists already", hint="pass overwrite=True to replace it")


@final
class _Before:
    """The output that is there, as empty files of its names: what a store removes of it locally is removed there at the end."""

    def __init__(self, target: RemotePath, local: Path) -> None:
        self._stood: dict[str, int] = {}
        self._folder = local.parent
        index = index_path(local)
        shards: list[Any] = []
        if target.with_name(index.name).exists():
            with target.with_name(index.name).open("rb") as file:
                text = file.read()
            index.write_bytes(text)
            self._note(index)
            try:
                shards = list(json.loads(text)["weight_map"].values())
            except (ValueError, KeyError, TypeError, AttributeError):
                shards = []  # an index that names nothing
        names = [target.name, f"{target.name}{SIDECAR}", *(name for name in set(shards) if isinstance(name, str))]
        for name in names:
            path = local.with_name(name) if name and Path(name).name == name else None
            if path is not None and not path.exists() and target.with_name(name).exists():
                path.touch()
                self._note(path)

    def _note(self, path: Path) -> None:
        self._stood[path.name] = path.stat().st_mtime_ns

    def new(self) -> list[str]:
        """The files that have appeared, by their path from the directory."""
        found = sorted(path for path in self._folder.rglob("*") if path.is_file())
        return [
            path.relative_to(self._folder).as_posix()
            for path in found
            if self._stood.get(path.name) != path.stat().st_mtime_ns or path.parent != self._folder
        ]

    def gone(self) -> list[str]:
        """The names of what was there and is no longer."""
        return [name for name in self._stood if not (self._folder / name).exists()]


def _send(target: RemotePath, folder: Path, before: _Before) -> None:
    names = before.new()
    names.sort(key=lambda name: (name.endswith(".index.json") or name.rpartition("/")[2] in _LAST, name))
    for name in names:
        put_file(folder / name, target.parent / name)
    for name in before.gone():
        remove_file(target.parent / name)


def remove_file(target: RemotePath, /) -> None:
    """Remove a file.

    Raises:
        FileMissingError, FileAccessError.
    """
    system, path = filesystem(str(target))
    asked(str(target), "removing", partial(system.rm_file, path))


def put_bytes(data: bytes, target: RemotePath, /) -> None:
    """Send a small file; it has its name when it is complete.

    Raises:
        FileAccessError: the server refuses.
    """
    with tempfile.TemporaryDirectory(prefix="stateregistry-") as folder:
        local = Path(folder) / "small"
        local.write_bytes(data)
        put_file(local, target)


def put_file(local: Path, target: RemotePath, /) -> None:
    """Send a file, in parts where the protocol has them; it has its name when it is complete.

    Raises:
        FileAccessError: the server refuses, or has another length than was sent.
    """
    url = str(target)
    system, path = filesystem(url)
    asked(url, "making the directory", lambda: system.makedirs(system._parent(path), exist_ok=True))  # noqa: SLF001
    if target.protocol in _WHOLE:
        asked(url, "sending", lambda: system.put_file(str(local), path))
    else:
        beside = f"{system._parent(path)}/.stateregistry-{secrets.token_hex(8)}.partial"  # noqa: SLF001
        try:
            asked(url, "sending", lambda: system.put_file(str(local), beside))
            asked(url, "giving the file its name", lambda: system.mv(beside, path))
        except errors.StateError as error:
            error.add_note(f"what was sent may be left as {beside}")
            raise
    size, wanted = target.stat().st_size, local.stat().st_size
    if size != wanted:
        message = f"{url}: has {size:,} bytes after {wanted:,} were sent"
        raise errors.FileAccessError(message, expected=wanted, found=size, hint="write it again")
