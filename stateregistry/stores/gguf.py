"""The GGUF store: the tensors of a `.gguf` file that are not quantised, read by a parser of our own and mapped.

Every count and length is held against the file before it is believed, no two tensors share bytes, and a part of a split
model is refused, as it would pass for a whole one. A quantised tensor is opaque with the name of its form: its elements are
in no dtype. The format is read, not written: what it says of a model beside tensors is not in a registry. Imports NumPy, no
framework.
"""

from __future__ import annotations

import itertools
import math
import struct
import sys
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, final

import numpy as np

from stateregistry import errors
from stateregistry.entry import DTYPES, numpy_dtype
from stateregistry.stores import bits
from stateregistry.stores.collector import collector_paused
from stateregistry.stores.limits import DEFAULT, Limits
from stateregistry.stores.listed import OneFile
from stateregistry.stores.listing import Stored, list_stored
from stateregistry.stores.mapped import MappedFile
from stateregistry.stores.names import first_repeated
from stateregistry.streaming.task import Stored as Place

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stateregistry.stores.bits import ByteOrder

MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_ALIGNMENT: Final = "general.alignment"
_SPLIT: Final = "split.count"
#: Bytes that are read at once.
_WINDOW: Final = 1 << 20
_MAX: Final = 2**63 - 1
#: The forms of a tensor whose elements are of a dtype.
_PLAIN: Final = {
    0: "float32", 1: "float16", 24: "int8", 25: "int16", 26: "int32", 27: "int64", 28: "float64", 30: "bfloat16",
}  # fmt: skip
#: The quantised forms: name, elements of one block, bytes of one block.
_QUANTISED: Final = {
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
#: The scalars of the key-value part, by their number: how `struct` spells them.
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9


@final
@dataclass(frozen=True, slots=True)
class _Info:
    """One tensor as the header says it: the shape has the axis that runs fastest last."""

    name: str
    shape: tuple[int, ...]
    form: int
    offset: int

    @property
    def nbytes(self) -> int | None:
        """Bytes of its values; `None` for a form that is not known."""
        count = math.prod(self.shape)
        if self.form in _PLAIN:
            return count * DTYPES[_PLAIN[self.form]]
        if self.form not in _QUANTISED:
            return None
        _, block, nbytes = _QUANTISED[self.form]
        return count // block * nbytes


@final
@dataclass(frozen=True, slots=True)
class Header:
    """What a file says before its values: scalars and texts by name, tensors, where the values begin, the byte order."""

    metadata: Mapping[str, Any]
    tensors: tuple[_Info, ...]
    begin: int
    order: ByteOrder


@final
class _Reader:
    """Reads a header from its beginning on. Nothing is taken from beyond the file or the limit."""

    def __init__(self, file: MappedFile, limits: Limits) -> None:
        self._file, self._limits, self._where = file, limits, str(file.path)
        self._end = min(file.size, limits.header_bytes)
        self._at = 0
        self._window, self._first = b"", 0
        self._mark = "<"

    def header(self) -> Header:
        if self._take(4) != MAGIC:
            self._fail("does not begin as a GGUF file")
        version = int.from_bytes(self._take(4), "little")
        if version not in _VERSIONS:
            version = int.from_bytes(version.to_bytes(4, "little"), "big")
            self._mark = ">"
        if version not in _VERSIONS:
            self._fail(f"is of version {int.from_bytes(version.to_bytes(4, 'little'), 'big')} of GGUF, expected 2 or 3")
        count, pairs = self._number("Q"), self._number("Q")
        self._limits.check("entries", count, f"{self._where}: number of arrays")
        self._limits.check("entries", pairs, f"{self._where}: number of fields of the header")
        fields = [self._field() for _ in range(pairs)]
        self._once((name for name, _ in fields), "field")
        metadata = dict(fields)
        tensors = tuple(self._tensor() for _ in range(count))
        self._once((info.name for info in tensors), "tensor")
        if metadata.get(_SPLIT, 0) not in (0, 1):
            message = f"{self._where}: is one of the {metadata[_SPLIT]} parts of a model"
            hint = "join them first: llama-gguf-split --merge"
            raise errors.UnsupportedError(message, hint=hint)
        return Header(metadata, tensors, self._aligned(metadata, tensors), "little" if self._mark == "<" else "big")

    def _aligned(self, metadata: Mapping[str, Any], tensors: tuple[_Info, ...]) -> int:
        """Where the values begin; all of them lie in the file, aligned, none in the bytes of another."""
        alignment = metadata.get(_ALIGNMENT, 32)
        if type(alignment) is not int or not 0 < alignment <= 2**20:
            self._fail(f"aligns its values to {alignment!r:.40}, which is no number of bytes")
        begin = self._at + -self._at % alignment
        rows = sorted((info.offset, info.nbytes, info.name) for info in tensors if info.nbytes is not None)
        for offset, nbytes, name in rows:
            if offset % alignment:
                self._fail(f"puts the tensor {name[:80]!r} at byte {offset:,}, which is not aligned to {alignment}")
            if begin + offset + nbytes > self._file.size:
                self._fail(f"ends before the {nbytes:,} bytes of the tensor {name[:80]!r} do")
        for one, two in itertools.pairwise(row for row in rows if row[1]):
            if one[0] + one[1] > two[0]:
                self._fail(f"has the tensors {one[2][:80]!r} and {two[2][:80]!r} in the same bytes")
        return begin

    def _tensor(self) -> _Info:
        name = self._text()
        self._limits.check("name_chars", len(name), f"{self._where}: length of a name")
        rank = self._number("I")
        self._limits.check("rank", rank, f"{self._where}: number of axes of {name[:80]!r}")
        shape = tuple(self._number("Q") for _ in range(rank))[::-1]
        form, offset = self._number("I"), self._number("Q")
        if math.prod(size for size in shape if size) * 8 > _MAX or offset > _MAX:
            self._fail(f"gives the tensor {name[:80]!r} a shape or a place that no memory has")
        if form in _QUANTISED and (not shape or shape[-1] % _QUANTISED[form][1]):
            self._fail(f"quantises the tensor {name[:80]!r} {list(shape)} in blocks that do not fit its last axis")
        return _Info(name, shape, form, offset)

    def _field(self) -> tuple[str, Any]:
        name, kind = self._text(), self._number("I")
        return name, self._value(kind)

    def _value(self, kind: int) -> Any:
        """A scalar or a text; of an array, which can be a vocabulary, only that it is one."""
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _TEXT:
            return self._text()
        if kind != _ARRAY:
            self._fail(f"has a field of the unknown type {kind}")
        inner, count = self._number("I"), self._number("Q")
        self._skip(inner, count)
        return None

    def _skip(self, kind: int, count: int) -> None:
        if kind in _SCALARS:
            self._step(count * struct.calcsize(_SCALARS[kind]))
        elif kind == _TEXT:
            self._need(count * 8)  # each has a length at least
            for _ in range(count):
                self._step(self._number("Q"))
        else:
            self._fail(f"has an array of the type {kind} in a field, which no writer makes")

    # ------------------------------------------------------------------ bytes

    def _need(self, count: int) -> None:
        if count > self._end - self._at:
            if self._end < self._file.size:
                self._limits.check("header_bytes", self._at + count, f"{self._where}: length of the header")
            self._fail(f"ends within its header, at byte {self._file.size:,}")

    def _step(self, count: int) -> None:
        self._need(count)
        self._at += count

    def _take(self, count: int) -> bytes:
        self._need(count)
        begin = self._at - self._first
        if begin < 0 or begin + count > len(self._window):
            self._window = self._file.read(self._at, max(count, min(_WINDOW, self._end - self._at)))
            self._first, begin = self._at, 0
        self._at += count
        return self._window[begin : begin + count]

    def _number(self, code: str) -> Any:
        raw = self._take(struct.calcsize(f"={code}"))
        if code == "?" and raw not in (b"\0", b"\1"):
            self._fail("has a truth value in its header that is none")
        return struct.unpack(f"{self._mark}{code}", raw)[0]

    def _text(self) -> str:
        try:
            return self._take(self._number("Q")).decode("utf-8")
        except UnicodeDecodeError as error:
            message = f"{self._where}: has a text in its header that is none: {error}"
            raise errors.FileFormatError(message, hint="the file is damaged: get it again") from error

    def _once(self, names: Any, what: str) -> None:
        twice = first_repeated(names)
        if twice is not None:
            self._fail(f"has the {what} {twice[:80]!r} twice")

    def _fail(self, what: str) -> NoReturn:
        hint = "the file is truncated or damaged: get it again"
        raise errors.FileFormatError(f"{self._where}: {what}", hint=hint)


def open_gguf(path: Path, /, limits: Limits = DEFAULT) -> GgufRegistry:
    """A lazy, read-only registry over a GGUF file.

    Raises:
        FileFormatError: truncated, damaged, contradicting itself or over a limit. UnsupportedError: a part of a split model.
        FileMissingError, FileAccessError; KeyPathError, DuplicateKeyError (names that give no keys).
    """
    file = MappedFile(path)
    try:
        with collector_paused():
            return GgufRegistry(file, _Reader(file, limits).header())
    except BaseException:
        file.close()
        raise


@final
class GgufRegistry(OneFile):
    """A registry over a GGUF file.

    Attributes:
        metadata: the fields of the header; an array, which can be a vocabulary, is `None`.
    """

    adapter: ClassVar[str] = "gguf"

    def __init__(self, file: MappedFile, header: Header) -> None:
        names = [info.name for info in header.tensors]
        shapes = [info.shape for info in header.tensors]
        dtypes = [_PLAIN.get(info.form) for info in header.tensors]
        opaque = {info.name: _why(info.form) for info in header.tensors if info.form not in _PLAIN}
        listing = list_stored(Stored(names, shapes, dtypes, opaque=opaque), str(file.path))
        super().__init__(file, listing)
        self.metadata = MappingProxyType(dict(header.metadata))
        self._order = header.order
        self._starts = {key: header.begin + info.offset for key, info in zip(listing.keys, header.tensors, strict=True)}

    def place(self, key: str, /) -> Place | None:
        """Where the value lies."""
        if sys.byteorder == "big" or self._order == "big":
            return None
        entry, file = self._list.entries[key], self._file
        extents = ((self._starts[key], entry.nbytes),)
        return Place(file.absolute, file.size, file.modified, extents, entry.dtype, f"{self.path}: {key!r}")

    def _read(self, key: str, /) -> np.ndarray:
        entry = self._list.entries[key]
        raw = self._file.view(self._starts[key], entry.nbytes)
        return bits.decode(raw, entry.shape, entry.dtype, self._order, f"{self.path}: {key!r}")

    def _load(self, key: str, /) -> np.ndarray:
        entry = self._list.entries[key]
        array = np.empty(entry.shape, numpy_dtype(entry.dtype))
        self._file.copy_into(array, self._starts[key])
        return bits.settle(array, self._order, f"{self.path}: {key!r}")


def _why(form: int) -> str:
    if form in _QUANTISED:
        return f"quantised as {_QUANTISED[form][0]}: its elements are in no dtype"
    return f"of the form {form}, which is not known"
