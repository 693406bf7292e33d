"""The header of a `.npy` array, read by a grammar of our own and never evaluated.

Knows the literals that NumPy writes (texts without escapes, numbers, truth values, tuples, lists, one dict) and nothing
else, within the limits of length and depth. A dtype that is no plain array of numbers or bools has no name here: it is
told apart into what is merely none of ours and what only a pickle could give. Imports no framework and no NumPy.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, final

from stateregistry import errors
from stateregistry.entry import EXTENDED

if TYPE_CHECKING:
    from stateregistry.stores.limits import Limits

MAGIC: Final = b"\x93NUMPY"
#: Bytes before the text, by version: magic, version, and the length of the text in 2 or 4 bytes.
PREFIX: Final = {1: 10, 2: 12, 3: 12}
#: NumPy pads a header so that the values of a `.npy` file begin at a multiple of this.
ALIGNMENT: Final = 64
_DEPTH: Final = 16
_TOKEN = re.compile(r"[ \t\n]*(?:('[^'\\\n]*'|\"[^\"\\\n]*\")|(\d+)L?|(True|False)|([{}\[\]():,]))")
_BLANK = re.compile(r"[ \t\n]*\Z")
#: Kind and width of a dtype as NumPy spells it.
_CODES: Final = {
    "b1": "bool", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64",
    "u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint64",
    "f2": "float16", "f4": "float32", "f8": "float64", "c8": "complex64", "c16": "complex128",
}  # fmt: skip
_DESCR = re.compile(r"([<>|=])([A-Za-z])(\d+)?(\[[^\[\]']*\])?\Z")
_SPELLED: Final = {name: code for code, name in _CODES.items()}


@final
@dataclass(frozen=True, slots=True)
class NpyHeader:
    """What a header says.

    Attributes:
        length: bytes of the header, after which the values begin.
        shape: of the array.
        dtype: a name in `DTYPES`; empty where no registry holds it.
        order: of the bytes of one element.
        fortran: the first axis runs fastest.
        opaque: why the dtype is none of ours; empty where it is one.
        unsafe: the dtype holds Python objects, which only a pickle can give.
    """

    length: int
    shape: tuple[int, ...]
    dtype: str
    order: Literal["little", "big"]
    fortran: bool
    opaque: str = ""
    unsafe: bool = False


def header_length(head: bytes, where: str, limits: Limits) -> int:
    """How many bytes the header has that begins with `head`, the first 12 bytes of an array or more.

    Raises:
        FileFormatError: not an array, of a version that nobody knows, or a header above the limit.
    """
    if head[:6] != MAGIC or len(head) < 12:
        _fail(where, "is no array: it does not begin as a .npy file does")
    prefix = PREFIX.get(head[6])
    if prefix is None or head[7]:
        _fail(where, f"is an array of the version {head[6]}.{head[7]} of .npy, which is not known")
    length = prefix + int.from_bytes(head[8:prefix], "little")
    limits.check("npy_header_bytes", length, f"{where}: length of the header of the array")
    return length


def parse_npy_header(raw: bytes, where: str, limits: Limits) -> NpyHeader:
    """Read a header of the length that `header_length` gave.

    Raises:
        FileFormatError: it is not what NumPy writes, or over a limit.
    """
    prefix = PREFIX[raw[6]]
    try:
        text = raw[prefix:].decode("utf-8" if raw[6] == 3 else "latin-1")
    except UnicodeDecodeError:
        _fail(where, "has a header that is no text")
    body = _Reader(text, where).document()
    if not isinstance(body, dict) or body.keys() != {"descr", "fortran_order", "shape"}:
        _fail(where, "has a header that is not made of descr, fortran_order and shape")
    descr, fortran, shape = body["descr"], body["fortran_order"], body["shape"]
    if type(fortran) is not bool or type(shape) is not tuple or not all(type(size) is int for size in shape):
        _fail(where, "has a header in which fortran_order is no truth value or shape is no tuple of sizes")
    limits.check("rank", len(shape), f"{where}: number of axes")
    if math.prod(size for size in shape if size) * 16 >= 2**63:
        _fail(where, "has a shape with more elements than memory can have")
    unsafe = _holds_objects(descr)
    dtype, order, opaque = _dtype(descr, where)
    return NpyHeader(len(raw), shape, dtype, order, fortran, opaque, unsafe)


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The header of a C-ordered, little-endian array; bfloat16 and float8 as integers of the same width."""
    code = _SPELLED[carrier(dtype)]
    mark = "|" if code in ("b1", "i1", "u1") else "<"
    text = f"{{'descr': '{mark}{code}', 'fortran_order': False, 'shape': {shape!r}, }}"
    padding = -(PREFIX[1] + len(text) + 1) % ALIGNMENT
    raw = text.encode("ascii") + b" " * padding + b"\n"
    return MAGIC + b"\x01\x00" + len(raw).to_bytes(2, "little") + raw


def carrier(dtype: str) -> str:
    """The dtype that `.npy` has for the bits of a dtype."""
    if dtype not in EXTENDED:
        return dtype
    return "uint16" if dtype == "bfloat16" else "uint8"


def _fail(where: str, what: str) -> NoReturn:
    hint = "the file is damaged, or was not written by numpy.savez"
    raise errors.FileFormatError(f"{where}: {what}", hint=hint)


def _holds_objects(descr: Any) -> bool:
    """Whether any part of a dtype, which may be nested, is a Python object."""
    todo = [descr]
    while todo:
        part = todo.pop()
        if isinstance(part, str):
            if part.lstrip("<>|=").startswith("O"):
                return True
        elif isinstance(part, tuple):
            # A field: its name, its dtype and perhaps a shape. A name is no dtype.
            todo.extend(part[1:])
        elif isinstance(part, list):
            todo.extend(part)
    return False


def _dtype(descr: Any, where: str) -> tuple[str, Literal["little", "big"], str]:
    """Name, byte order, and why it is none of ours."""
    if isinstance(descr, list):
        return "", "little", "a structured dtype"
    found = _DESCR.match(descr) if isinstance(descr, str) else None
    if found is None:
        _fail(where, f"has a dtype that is none: {str(descr)[:80]!r}")
    mark, letter, width, unit = found.groups()
    name = _CODES.get(f"{letter}{width}") if unit is None else None
    if name is not None:
        if mark == "=":
            _fail(where, f"has the dtype {descr!r}, which does not say its byte order")
        single = name in ("bool", "int8", "uint8")
        if mark == "|" and not single:
            _fail(where, f"has the dtype {descr!r}, which does not say its byte order")
        return name, "big" if mark == ">" and not single else "little", ""
    if letter == "V":
        why = "raw bytes of which the file does not say the dtype (bfloat16 and float8 lose it in numpy.savez)"
        return "", "little", why
    return "", "little", f"its dtype {descr} is not one that a registry holds"


@final
class _Reader:
    """The literals of one header."""

    def __init__(self, text: str, where: str) -> None:
        self._text, self._where, self._at = text, where, 0

    def document(self) -> Any:
        value = self._value(0)
        if not _BLANK.match(self._text, self._at):
            _fail(self._where, "has a header that goes on after its end")
        return value

    def _next(self) -> tuple[str, Any]:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            _fail(self._where, "has a header that is no literal of NumPy")
        self._at = found.end()
        text, number, truth, mark = found.groups()
        if text is not None:
            return "value", text[1:-1]
        if number is not None:
            if len(number) > 20:
                _fail(self._where, "has a number in its header that is too long")
            return "value", int(number)
        return ("value", truth == "True") if truth is not None else (mark, None)

    def _value(self, depth: int) -> Any:
        return self._of(*self._next(), depth)

    def _of(self, kind: str, value: Any, depth: int) -> Any:
        if depth > _DEPTH:
            _fail(self._where, "has a header that nests too deep")
        if kind == "value":
            return value
        if kind == "{":
            return self._dict(depth)
        if kind == "(":
            items, comma = self._items(")", depth)
            return items[0] if len(items) == 1 and not comma else tuple(items)
        if kind == "[":
            return self._items("]", depth)[0]
        return _fail(self._where, f"has a header with {kind!r} where a value belongs")

    def _items(self, end: str, depth: int) -> tuple[list[Any], bool]:
        """The values up to the end, and whether a comma stands after the last of them."""
        items: list[Any] = []
        comma = True
        while True:
            kind, value = self._next()
            if kind == end:
                return items, comma
            items.append(self._of(kind, value, depth + 1))
            comma = self._comma(end)

    def _comma(self, end: str) -> bool:
        """Step over a comma; none is needed before the end."""
        begin = self._at
        kind, _ = self._next()
        if kind == ",":
            return True
        if kind != end:
            _fail(self._where, "has a header in which a comma is missing")
        self._at = begin
        return False

    def _dict(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while True:
            kind, name = self._next()
            if kind == "}":
                return found
            colon, _ = self._next()
            if kind != "value" or not isinstance(name, str) or colon != ":":
                _fail(self._where, "has a header in which a name is missing")
            if name in found:
                _fail(self._where, f"has the name {name[:80]!r} twice in its header")
            found[name] = self._value(depth + 1)
            self._comma("}")
