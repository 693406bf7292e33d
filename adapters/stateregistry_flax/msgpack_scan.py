"""Scan: the structure of a Flax msgpack file, without its values.

A scan reads names, shapes and dtypes and notes where the bytes of every array lie, so that a file of any size is
opened in the memory of its names and a value is read from the mapped file itself. (The `msgpack` package builds
every object, arrays included, before it shows any, so the structure is parsed here; the format is one byte of type
and a length.) The file may be hostile: every length is checked against what is left, nesting and dtypes are
limited to what Flax writes, a name that occurs twice, bytes after the end, and an array whose bytes do not fit its
shape are refused. Imports NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from stateregistry import errors
from stateregistry.entry import DTYPES
from stateregistry.stores.limits import DEFAULT, Limits
from stateregistry_flax.variables_file import Leaf, Other

#: Flax nests as deep as modules do. A file that nests deeper is no checkpoint.
MAX_DEPTH = 128

#: Bytes that are fetched at once: names and headers lie close together, values are jumped over.
_WINDOW = 4096

#: Dtypes that Flax can write and no registry holds. ml_dtypes keeps an element of each in a byte of its own.
_FOREIGN = frozenset(
    {
        "int2", "int4", "uint2", "uint4", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn", "float8_e3m4",
        "float8_e4m3", "float8_e4m3b11fnuz",
    }
)  # fmt: skip

NDARRAY, _COMPLEX, _SCALAR = 1, 2, 3
CHUNKED = "__msgpack_chunked_array__"


@final
@dataclass(frozen=True, slots=True)
class Array(Leaf):
    """An array in the file: where its bytes lie, as `(offset, size)` of one or more parts."""

    parts: tuple[tuple[int, int], ...]


class _CutOff(errors.FileFormatError):
    """The bytes end before the structure does."""


#: What a scan finds under a name: a mapping of names, an array, something else, or `None`.
Node = dict[str, Any] | Array | Other | None


class Scanner:
    """One pass over a msgpack document.

    Args:
        fetch: gives bytes by offset and count. It is asked for what is looked at, a window at a time.
        size: the bytes that there are.
        where: what to call the document in errors.
        limits: how much it may ask for.

    Attributes:
        names: how many names of members were read.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, where: str, limits: Limits) -> None:
        self._fetch = fetch
        self._size = size
        self._end = size
        self._where = where
        self._limits = limits
        self._at = 0
        self._arrays = 0
        self.names = 0
        self._window, self._start = b"", 0

    def document(self) -> dict[str, Any]:
        """The tree of the whole buffer.

        Raises:
            FileFormatError: it is not a msgpack map from names as Flax writes it, is cut off, or goes on after its end.
        """
        tree = self._value(0)
        if not isinstance(tree, dict):
            raise self._wrong("a msgpack map from names to arrays", "something else at the top")
        if self._at != self._size:
            raise self._wrong("the end of the file", f"{self._size - self._at} more bytes")
        return tree

    # ---------------------------------------------------------------- msgpack

    def _take(self, count: int) -> bytes:
        at = self._pass(count) - self._start
        if at < 0 or at + count > len(self._window):
            self._start = self._at - count
            self._window = self._fetch(self._start, min(max(count, _WINDOW), self._end - self._start))
            at = 0
            if len(self._window) < count:
                raise self._cut_off(count, len(self._window))
        return self._window[at : at + count]

    def _number(self, count: int) -> int:
        return int.from_bytes(self._take(count), "big")

    def _value(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self._wrong(f"at most {MAX_DEPTH} levels", "deeper nesting")
        code = self._number(1)
        if code <= 0x7F or code >= 0xE0:
            return Other("a Python int", code if code <= 0x7F else code - 256)
        if code <= 0x8F:
            return self._map(code & 0x0F, depth)
        if code <= 0x9F:
            return self._array(code & 0x0F, depth)
        if code <= 0xBF:
            return self._skip(code & 0x1F, "a Python str")
        return self._long(code, depth)

    def _long(self, code: int, depth: int) -> Node:
        match code:
            case 0xC0:
                return None
            case 0xC2 | 0xC3:
                return Other("a Python bool", code == 0xC3)
            case 0xC4 | 0xC5 | 0xC6:
                return self._skip(self._number(1 << (code - 0xC4)), "Python bytes")
            case 0xC7 | 0xC8 | 0xC9:
                return self._extension(self._number(1 << (code - 0xC7)))
            case 0xCA | 0xCB:
                return self._skip(4 << (code - 0xCA), "a Python float")
            case 0xCC | 0xCD | 0xCE | 0xCF:
                return Other("a Python int", self._number(1 << (code - 0xCC)))
            case 0xD0 | 0xD1 | 0xD2 | 0xD3:
                return self._skip(1 << (code - 0xD0), "a Python int")
            case 0xD4 | 0xD5 | 0xD6 | 0xD7 | 0xD8:
                return self._extension(1 << (code - 0xD4))
            case 0xD9 | 0xDA | 0xDB:
                return self._skip(self._number(1 << (code - 0xD9)), "a Python str")
            case 0xDC | 0xDD:
                return self._array(self._number(2 << (code - 0xDC)), depth)
            case 0xDE | 0xDF:
                return self._map(self._number(2 << (code - 0xDE)), depth)
        raise self._wrong("a msgpack value", f"the byte 0x{code:02x}, which starts none")

    def _skip(self, count: int, what: str) -> Other:
        self._pass(count)
        return Other(what)

    def _pass(self, count: int) -> int:
        """Go on by some bytes; returns where they begin."""
        self._room(count)
        self._at += count
        return self._at - count

    def _room(self, count: int) -> None:
        left = self._size - self._at
        if count > left:
            raise self._cut_off(count, left)

    def _cut_off(self, count: int, left: int) -> _CutOff:
        message = f"{self._where}: at byte {self._at}: {count} more bytes are announced and {left} are left"
        return _CutOff(message, expected=count, found=left, hint="the file is cut off: get it again")

    def _array(self, count: int, depth: int) -> dict[str, Any]:
        """A list: its members by index. Flax writes dicts, but a tree of plain lists is legal."""
        self._room(count)
        return {str(index): self._value(depth + 1) for index in range(count)}

    def _map(self, count: int, depth: int) -> Node:
        self._room(2 * count)
        found: dict[str, Any] = {}
        for _ in range(count):
            name = self._name()
            if name in found:
                raise self._wrong("names that occur once", f"{name!r} twice in one map")
            found[name] = self._value(depth + 1)
        return self._joined(found) if CHUNKED in found else found

    def _name(self) -> str:
        text = self._text()
        if text is None:
            raise self._wrong("a name", "a map whose key is no str")
        self.names += 1
        return text

    def _text(self) -> str | None:
        code = self._number(1)
        if 0xA0 <= code <= 0xBF:
            count = code & 0x1F
        elif 0xD9 <= code <= 0xDB:
            count = self._number(1 << (code - 0xD9))
        else:
            return None
        self._limits.check("name_chars", count, self._where)
        try:
            return str(self._take(count), "utf-8")
        except UnicodeDecodeError as error:
            raise self._wrong("text in UTF-8", str(error)) from error

    # ---------------------------------------------------------------- what Flax puts into it

    def _extension(self, count: int) -> Array | Other:
        code = self._number(1)
        end = self._pass(count) + count
        if code in (NDARRAY, _SCALAR):
            self._at = end - count
            self._arrays += 1
            self._limits.check("entries", self._arrays, self._where)
            array = self._ndarray(end)
            if self._at != end:
                raise self._wrong("an array that ends where its record ends", f"{end - self._at} more bytes")
            return array
        return Other("a Python complex" if code == _COMPLEX else f"a msgpack extension of type {code}")

    def _ndarray(self, end: int) -> Array:
        """`[shape, name of the dtype, bytes]`."""
        size, self._size = self._size, end  # what is inside a record must end inside of it
        try:
            if self._number(1) != 0x93:  # an array of three
                raise self._wrong("an array record [shape, dtype, bytes]", "something else")
            shape = self._shape()
            dtype = self._text() or ""
            itemsize = 1 if dtype in _FOREIGN else DTYPES.get(dtype)
            if itemsize is None:
                raise self._wrong("the name of a dtype", repr(dtype[:40]))
            self._possible(shape, itemsize)
            count = self._binary()
            expected = math.prod(shape) * itemsize
            if count != expected:
                raise self._wrong(f"{expected} bytes for {dtype}{list(shape)}", f"{count}")
            return Array(shape, dtype, ((self._pass(count), count),))
        finally:
            self._size = size

    def _shape(self) -> tuple[int, ...]:
        code = self._number(1)
        if 0x90 <= code <= 0x9F:
            rank = code & 0x0F
        elif code == 0xDC:  # more than fifteen axes
            rank = self._number(2)
        else:
            raise self._wrong("a shape", f"the byte 0x{code:02x}")
        shape = []
        for _ in range(rank):
            size = self._value(0)
            if not isinstance(size, Other) or type(size.value) is not int or size.value < 0:
                raise self._wrong("a shape of sizes that are not negative", "something else")
            shape.append(size.value)
        return tuple(shape)

    def _possible(self, shape: tuple[int, ...], itemsize: int) -> None:
        # NumPy counts the other axes of an empty array too.
        self._limits.check("rank", len(shape), self._where)
        if math.prod(size for size in shape if size) * itemsize >= 2**63:
            raise self._wrong("a shape that an array can have", f"{shape}"[:80])

    def _binary(self) -> int:
        code = self._number(1)
        if 0xC4 <= code <= 0xC6:
            return self._number(1 << (code - 0xC4))
        if 0xA0 <= code <= 0xBF:
            return code & 0x1F  # written without the binary type, by versions of msgpack before 1.0
        if 0xD9 <= code <= 0xDB:
            return self._number(1 << (code - 0xD9))
        raise self._wrong("the bytes of an array", f"the byte 0x{code:02x}")

    def _joined(self, chunks: Mapping[str, Any]) -> Array:
        """An array that Flax cut into flat parts, as msgpack cannot hold 4 GiB in one."""
        marker, shape, parts = chunks.get(CHUNKED), chunks.get("shape"), chunks.get("chunks")
        if set(chunks) != {CHUNKED, "shape", "chunks"} or not isinstance(marker, Other) or marker.value is not True:
            raise self._wrong("a chunked array: its shape and its chunks", f"{sorted(chunks)}"[:80])
        sizes = [size.value for size in self._in_order(shape) if isinstance(size, Other) and type(size.value) is int]
        arrays = [part for part in self._in_order(parts) if isinstance(part, Array)]
        if len(sizes) != len(shape or ()) or len(arrays) != len(parts or ()) or not arrays or min(sizes, default=0) < 0:
            raise self._wrong("a chunked array: sizes, and flat arrays", "something else")
        dtype, filled = arrays[0].dtype, sum(math.prod(part.shape) for part in arrays)
        if any(part.dtype != dtype or len(part.shape) != 1 for part in arrays):
            raise self._wrong(f"flat chunks of {dtype}", "another dtype or shape")
        self._possible(tuple(sizes), DTYPES.get(dtype, 1))
        if filled != math.prod(sizes):
            raise self._wrong(f"chunks that fill {tuple(sizes)}", f"{filled} elements")
        return Array(tuple(sizes), dtype, tuple(span for part in arrays for span in part.parts))

    def _in_order(self, members: Any) -> list[Any]:
        if not isinstance(members, dict) or set(members) != {str(index) for index in range(len(members))}:
            raise self._wrong("members numbered from 0", "something else")
        return [members[str(index)] for index in range(len(members))]

    def _wrong(self, expected: str, found: str) -> errors.FileFormatError:
        message = f"{self._where}: at byte {self._at}: expected {expected}, found {found}"
        hint = "write it again with flax.serialization.to_bytes or sr.save"
        return errors.FileFormatError(message, expected=expected, found=found, hint=hint)


def looks_like_it(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that starts like this is a msgpack map from names, cut off perhaps.

    What there is of it is scanned: a legacy pickle starts with 0x80 as well, which here is an empty map and the end.
    """
    if not head or not (0x80 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        return False
    scanner = Scanner(lambda at, count: head[at : at + count], size, "", DEFAULT)
    try:
        scanner.document()
    except _CutOff:
        return scanner.names > 0
    except errors.FileFormatError:
        return False
    return True
