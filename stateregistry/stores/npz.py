"""The NumPy store: `.npz` archives, read by parsers of our own, without `allow_pickle` and without evaluating anything.

Stored members are mapped, compressed ones inflated when their value is asked for, within a limit. The CRC-32 of a member is
checked once, when its value is used for the first time, as `numpy.load` does. An array of Python objects makes the file
refused: only a pickle could give it. bfloat16 and float8, which the format does not have, are stored as integers of the same
width; our document, the member `stateregistry.json`, says what they are. Imports NumPy, no framework.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NoReturn, final

import numpy as np

from stateregistry import errors
from stateregistry.entry import DTYPES, EXTENDED
from stateregistry.stores import bits, zip_frame, zip_inflate
from stateregistry.stores.collector import collector_paused
from stateregistry.stores.document import Document, load_object
from stateregistry.stores.limits import DEFAULT, Limits
from stateregistry.stores.listed import OneFile
from stateregistry.stores.listing import Stored, list_stored
from stateregistry.stores.mapped import MappedFile
from stateregistry.stores.npy_header import MAGIC, NpyHeader, carrier, header_length, parse_npy_header
from stateregistry.stores.npz_write import RECORD, SUFFIX
from stateregistry.stores.zip_archive import LOCAL_MAGIC, Member, read_directory
from stateregistry.streaming.task import Stored as Place

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any


#: What an archive without a member is: the end of a directory, and nothing before it.
_EMPTY = b"PK\x05\x06" + b"\0" * 18
#: Most headers are this long, so that one read is enough.
_USUAL = 128


@final
@dataclass(frozen=True, slots=True)
class _Array:
    """One array: its member, what its header says, and the dtype that our document gives to its integers."""

    member: Member
    header: NpyHeader
    dtype: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.header.shape) * DTYPES[self.dtype]

    @property
    def mapped(self) -> bool:
        """Whether its values lie in the file as they are, if not necessarily in C order."""
        return self.member.method == zip_inflate.STORED

    @property
    def offset(self) -> int:
        return self.member.offset + self.header.length


def open_npz(path: Path, /, limits: Limits = DEFAULT) -> NpzRegistry:
    """A lazy, read-only registry over an `.npz` archive.

    Raises:
        UnsafeFileError: it holds arrays of Python objects. FileFormatError: damaged, contradicting itself or over a limit.
        FileMissingError, FileAccessError; KeyPathError, DuplicateKeyError (names that give no keys).
    """
    file = MappedFile(path)
    try:
        with collector_paused():
            return _open(file, limits)
    except BaseException:
        file.close()
        raise


def _open(file: MappedFile, limits: Limits) -> NpzRegistry:
    where = str(file.path)
    members = dict(read_directory(file, limits))
    zip_inflate.check_inflation(members, file.size, where, limits)
    document, given = _document(file, members.pop(RECORD, None), limits)
    arrays: dict[str, _Array] = {}
    opaque: dict[str, str] = {}
    unsafe: list[str] = []
    for path, member in members.items():
        if path.endswith("/") and not member.full:
            continue  # a directory, as `zip -r` adds them
        name = path.removesuffix(SUFFIX)
        limits.check("name_chars", len(name), f"{where}: length of a name")
        if not path.endswith(SUFFIX):
            opaque[path] = "a file that is no array"
            continue
        header = _header(file, member, limits)
        if header.unsafe:
            unsafe.append(name)
        elif header.opaque:
            opaque[name] = header.opaque
        else:
            arrays[name] = _Array(member, header, _told(name, header.dtype, given, where))
            _check_length(arrays[name], where)
        limits.check("entries", len(arrays), f"{where}: number of arrays")
    if unsafe:
        _refuse_objects(unsafe, where)
    missing = sorted(given.keys() - arrays.keys())
    if missing:
        message = f"{where}: our metadata gives a dtype to arrays that are not there: {', '.join(missing[:5])}"
        raise errors.FileFormatError(message, keys=tuple(missing), hint="the file was cut or edited: restore it")
    return NpzRegistry(file, arrays, opaque, document)


def _header(file: MappedFile, member: Member, limits: Limits) -> NpyHeader:
    where = f"{file.path}: {member.name!r}"
    head = zip_inflate.beginning(file, member, _USUAL, where)
    length = header_length(head, where, limits)
    if length > len(head):
        head = zip_inflate.beginning(file, member, length, where)
    if length > len(head):
        message = f"{where}: ends within the header of its array"
        raise errors.FileFormatError(message, hint="the file is truncated or damaged: get it again")
    return parse_npy_header(head[:length], where, limits)


def _check_length(array: _Array, where: str) -> None:
    held = array.member.full - array.header.length
    if held != array.nbytes:
        header = array.header
        what = f"{header.dtype}{list(header.shape)} takes {array.nbytes:,} bytes, and it holds {held:,}"
        message = f"{where}: {array.member.name!r}: {what}"
        raise errors.FileFormatError(
            message, expected=array.nbytes, found=held, hint="the file is damaged: get it again"
        )


def _told(name: str, dtype: str, given: Mapping[str, str], where: str) -> str:
    told = given.get(name)
    if told is None:
        return dtype
    if carrier(told) != dtype:
        message = f"{where}: our metadata says that {name!r} is {told}, and it is stored as {dtype}"
        raise errors.FileFormatError(message, keys=(name,), expected=carrier(told), found=dtype, hint="write it again")
    return told


def _refuse_objects(names: list[str], where: str) -> NoReturn:
    listed = ", ".join(repr(name[:80]) for name in names[:5])
    message = f"{where}: {len(names)} arrays hold Python objects, which only a pickle can give: {listed}"
    hint = "nothing was run; where the file is trusted, load it in the program that made it and save arrays of numbers alone"
    raise errors.UnsafeFileError(message, found=tuple(names), hint=hint)


def _document(file: MappedFile, member: Member | None, limits: Limits) -> tuple[Document | None, Mapping[str, str]]:
    """Our document, and the dtypes by stored name that it gives to integers."""
    if member is None:
        return None, {}
    where = str(file.path)
    limits.check("document_bytes", member.full, f"{where}: length of our metadata")
    raw = b"".join(zip_inflate.pieces(file, member, where))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise errors.FileFormatError(f"{where}: our metadata is not text: {error}", hint="write it again") from error
    given = load_object(text, where).get("dtypes", {})
    if not isinstance(given, dict) or not all(isinstance(name, str) and name in EXTENDED for name in given.values()):
        raise errors.FileFormatError(
            f"{where}: our metadata has a part of the wrong type: dtypes", hint="write it again"
        )
    return Document.from_json(text, where), given


@final
class NpzRegistry(OneFile):
    """A registry over an `.npz` archive."""

    adapter: ClassVar[str] = "npz"

    def __init__(
        self, file: MappedFile, arrays: Mapping[str, _Array], opaque: Mapping[str, str], document: Document | None
    ) -> None:
        names = (*arrays, *opaque)
        shapes = [array.header.shape for array in arrays.values()] + [()] * len(opaque)
        dtypes = [array.dtype for array in arrays.values()] + [None] * len(opaque)
        listing = list_stored(Stored(names, shapes, dtypes, opaque=opaque, document=document), str(file.path))
        super().__init__(file, listing, document=document)
        self._arrays = {key: arrays[name] for key, name in listing.stored.items()}
        #: Keys whose CRC-32 was found to fit.
        self._proven: set[str] = set()

    def place(self, key: str, /) -> Place | None:
        """Where the value lies, `None` for one that is not stored as it is: compressed, or in another order.

        Raises:
            FileFormatError: a file without digests is damaged there: its CRC-32 does not fit.
        """
        array, file = self._arrays[key], self._file
        header = array.header
        if not array.mapped or header.fortran or header.order == "big" or sys.byteorder == "big":
            return None
        if array.dtype == "bool":
            return None  # whether each is 0 or 1 is looked at by `read`
        if not self.has_digests:
            self._prove(key)
        where = f"{self.path}: {key!r}"
        return Place(file.absolute, file.size, file.modified, ((array.offset, array.nbytes),), array.dtype, where)

    def _prove(self, key: str) -> None:
        """Hold what a member holds against its CRC-32, once."""
        if key not in self._proven:
            for _ in zip_inflate.pieces(self._file, self._arrays[key].member, str(self.path)):
                pass
            self._proven.add(key)

    def _read(self, key: str, /) -> np.ndarray:
        array = self._arrays[key]
        if not array.mapped:
            return self._shaped(self._raw(key), key)
        self._prove(key)
        return self._shaped(self._file.view(array.offset, array.nbytes), key)

    def _load(self, key: str, /) -> np.ndarray:
        value = self._shaped(self._raw(key), key)
        return value if value.flags.c_contiguous else np.array(value, order="C", copy=True)

    def _raw(self, key: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """A copy of the bytes of a value, held against their CRC-32."""
        array = self._arrays[key]
        raw = np.empty(array.nbytes, np.uint8)
        zip_inflate.read_into(raw, self._file, array.member, array.header.length, str(self.path))
        self._proven.add(key)
        return raw

    def _shaped(self, raw: np.ndarray, key: str) -> np.ndarray:
        array, where = self._arrays[key], f"{self.path}: {key!r}"
        shape = array.header.shape
        if not array.header.fortran:
            return bits.decode(raw, shape, array.dtype, array.header.order, where)
        return bits.decode(raw, shape[::-1], array.dtype, array.header.order, where).transpose()

    def _frame_problem(self) -> str | None:
        arrays = [array for array in self._arrays.values() if array.mapped]
        return zip_frame.problem(self._file, [(array.offset, array.offset + array.nbytes) for array in arrays])


def is_npz(path: Path, head: bytes, /) -> bool:
    """Whether a file that begins as a zip archive has arrays in it."""
    if head == _EMPTY:
        return path.suffix.lower() == ".npz"  # an empty archive could be of any kind: here the name decides
    if head[:4] != LOCAL_MAGIC:
        return False
    first = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    return first.endswith(SUFFIX.encode()) or first == RECORD.encode() or _has_array(path)


def _has_array(path: Path) -> bool:
    """Whether a zip archive whose first member is something else has an array in it."""
    try:
        file = MappedFile(path)
    except errors.StateError:
        return False
    with file:
        try:
            found = read_directory(file, DEFAULT).values()
            return any(
                member.name.endswith(SUFFIX) and zip_inflate.beginning(file, member, 6, str(path)) == MAGIC
                for member in found
            )
        except errors.StateError:
            return False  # some other zip archive, or a damaged one whose first member is no array
