"""The Keras store: `.weights.h5` and `.keras` files of Keras 3, read without Keras and without its configuration.

A variable is `<path of the layer>/vars/<number>`: what Keras stores has no names and no kinds. The path says which class a
layer is of, and of a batch normalisation the last two variables are its statistics; all else is taken for a parameter and
marked as inferred. The state of an optimizer is opaque. `config.json` of a `.keras` archive, from which Keras builds objects,
is not looked at. Read, not written. Imports no framework.
"""

from __future__ import annotations

import re
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, final

import numpy as np

from stateregistry import errors
from stateregistry.entry import Entry, Kind, numpy_dtype
from stateregistry.stores import bits, zip_inflate
from stateregistry.stores.collector import collector_paused
from stateregistry.stores.document import load_object
from stateregistry.stores.hdf5.file import Hdf5, Stretch
from stateregistry.stores.hdf5.walk import Dataset
from stateregistry.stores.kinds import inferred
from stateregistry.stores.limits import DEFAULT, Limits
from stateregistry.stores.listed import OneFile
from stateregistry.stores.listing import Stored, list_stored
from stateregistry.stores.mapped import MappedFile
from stateregistry.stores.names import SLASH
from stateregistry.stores.zip_archive import LOCAL_MAGIC, Member, read_directory, read_member
from stateregistry.streaming.task import Stored as Place

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


_WEIGHTS: Final = "model.weights.h5"
_METADATA: Final = "metadata.json"
_CONFIG: Final = "config.json"
_VARS: Final = "vars"
_OPTIMIZER: Final = "optimizer"
_STATISTICS: Final = re.compile(r"(?:sync_)?batch_normalization(?:_\d+)?")


def open_keras(path: Path, /, limits: Limits = DEFAULT) -> KerasRegistry:
    """A lazy, read-only registry over the weights in a `.weights.h5` or `.keras` file.

    Raises:
        UnsafeFileError: it leads to another file, or needs a filter that would have to be loaded.
        FileFormatError: damaged, over a limit, or an HDF5 file that Keras 3 did not write.
        MissingDependencyError: no h5py. FileMissingError, FileAccessError; KeyPathError, DuplicateKeyError.
    """
    file = MappedFile(path)
    try:
        with collector_paused():
            return _open(file, limits)
    except BaseException:
        file.close()
        raise


def _open(file: MappedFile, limits: Limits) -> KerasRegistry:
    where = str(file.path)
    if file.read(0, min(4, file.size)) != LOCAL_MAGIC:
        return KerasRegistry(file, Hdf5(Stretch(file, 0, file.size), limits), 0, None, {}, limits)
    members = read_directory(file, limits)
    member, about = members.get(_WEIGHTS), members.get(_METADATA)
    if member is None:
        _fail(where, f"has no {_WEIGHTS}", "save the model again, or its weights alone with save_weights")
    if member.method or (about is not None and about.method):
        hint = "unzip it and zip it again with 'zip -0', or save it again"
        _fail(where, f"its member {_WEIGHTS} is compressed, which Keras does not do", hint)
    metadata: Mapping[str, Any] = {}
    if about is not None:
        limits.check("document_bytes", about.size, f"{where}: length of {_METADATA}")
        metadata = load_object(read_member(file, about), f"{where}: {_METADATA}")
    found = Hdf5(Stretch(file, member.offset, member.size), limits)
    return KerasRegistry(file, found, member.offset, member, metadata, limits)


@final
class KerasRegistry(OneFile):
    """A registry over the variables in a file of Keras 3.

    Attributes:
        metadata: of a `.keras` archive, what `metadata.json` says: the version of Keras, the date.
    """

    adapter: ClassVar[str] = "keras"

    def __init__(
        self,
        file: MappedFile,
        found: Hdf5,
        begin: int,
        member: Member | None,
        metadata: Mapping[str, Any],
        limits: Limits,
    ) -> None:
        datasets: dict[str, Dataset] = {}
        opaque: dict[str, str] = {}
        for one in found.datasets():
            if len(one.path) < 2 or one.path[-2] != _VARS or not one.path[-1].isdecimal():
                what = f"holds {'/'.join(one.path)[:200]!r}, which Keras 3 does not write"
                hint = "a file of Keras 2 is loaded by Keras and saved again with save_weights('x.weights.h5')"
                _fail(found.where, what, hint)
            if one.path[0] == _OPTIMIZER:
                opaque[_OPTIMIZER] = "the state of an optimizer, not of the model"
                continue
            datasets[SLASH.join(one.path)] = one
            limits.check("entries", len(datasets), f"{found.where}: number of arrays")
        opaque |= {name: one.opaque for name, one in datasets.items() if one.dtype is None}
        names = sorted({*datasets, *opaque}, key=_natural)
        shapes = [datasets[name].shape if name in datasets else () for name in names]
        dtypes = [None if name in opaque else datasets[name].dtype for name in names]
        first: dict[int, str] = {}
        aliases = {}
        for name in names:
            if name not in opaque and first.setdefault(datasets[name].link, name) != name:
                aliases[name] = first[datasets[name].link]
        stored = Stored(
            names, shapes, dtypes, opaque=opaque, declared=_declared(datasets, opaque), aliases=aliases, separator=SLASH
        )
        listing = list_stored(stored, found.where)
        super().__init__(file, listing)
        self.metadata = MappingProxyType(dict(metadata))
        self._hdf5, self._begin, self._member, self._proven = found, begin, member, False
        self._datasets = {key: datasets[name] for key, name in listing.stored.items()}

    def _prove(self) -> None:
        """Hold the weights in an archive against their CRC-32, once, before the first value is believed."""
        if self._member is not None and not self._proven:
            for _ in zip_inflate.pieces(self._file, self._member, str(self.path)):
                pass
        self._proven = True

    def place(self, key: str, /) -> Place | None:
        """Where the value lies, `None` for one that is in blocks, compressed or in another byte order."""
        one, file = self._datasets[key], self._file
        if one.offset is None or sys.byteorder == "big":
            return None
        self._prove()
        extents = ((self._begin + one.offset, one.nbytes),)
        return Place(file.absolute, file.size, file.modified, extents, str(one.dtype), f"{self.path}: {key!r}")

    def _read(self, key: str, /) -> np.ndarray:
        self._prove()
        one, entry, where = self._datasets[key], self._list.entries[key], f"{self.path}: {key!r}"
        if one.offset is None:
            return self._asked_for(key)
        return bits.decode(
            self._file.view(self._begin + one.offset, one.nbytes), entry.shape, entry.dtype, "little", where
        )

    def _load(self, key: str, /) -> np.ndarray:
        self._prove()
        one, entry = self._datasets[key], self._list.entries[key]
        if one.offset is None:
            return self._asked_for(key)
        array = np.empty(entry.shape, numpy_dtype(entry.dtype))
        self._file.copy_into(array, self._begin + one.offset)
        return bits.settle(array, "little", f"{self.path}: {key!r}")

    def _asked_for(self, key: str) -> np.ndarray:
        if self._file.closed:
            message = f"{self.path}: the registry over this file is closed"
            raise errors.UnsupportedError(message, hint="read the values inside the with block")
        array = self._hdf5.read(self._datasets[key])
        bits.check_bools(array, array.dtype.name, f"{self.path}: {key!r}")
        return array

    def close(self) -> None:
        """Release the file. Idempotent."""
        if not self._file.closed:
            self._hdf5.close()
        super().close()


def _natural(name: str) -> list[tuple[int, int, str]]:
    """The order in which Keras counts: numbers by their value."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(part), "") if part.isdecimal() and part.isascii() else (0, 0, part) for part in parts]


def _declared(datasets: Mapping[str, Dataset], opaque: Mapping[str, str]) -> dict[str, Entry]:
    """What the class of a layer says of its variables, marked as inferred."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, one in datasets.items():
        groups.setdefault(one.path[:-1], []).append(name)
    found = {}
    for path, names in groups.items():
        ordered = sorted(names, key=_natural)
        normalises = len(path) > 1 and _STATISTICS.fullmatch(path[-2]) is not None
        statistics = set(ordered[-2:]) if normalises and len(ordered) in (2, 3, 4) else set()
        for name in ordered:
            if name not in opaque:
                kind = Kind.BUFFER if name in statistics else Kind.PARAMETER
                found[name] = inferred(kind, datasets[name].shape, str(datasets[name].dtype))
    return found


def _fail(where: str, what: str, hint: str) -> NoReturn:
    raise errors.FileFormatError(f"{where}: {what}", hint=hint)


def is_archive(path: Path, head: bytes, /) -> bool:
    """Whether a file that begins as a zip archive holds the weights of a model."""
    if head[:4] != LOCAL_MAGIC:
        return False
    try:
        with MappedFile(path) as file:
            members = read_directory(file, DEFAULT)
    except errors.StateError:
        return False
    return _CONFIG in members and (_WEIGHTS in members or _METADATA in members)
