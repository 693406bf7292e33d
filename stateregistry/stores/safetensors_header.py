"""The header of a safetensors file: parsed, held against the format's rules, and written.

The rules are those of the format's own library (0.8) and a few more: no name twice, no unknown field, no space before
the `{`. Everything that the header declares is checked against the length of the file before any of it is believed:
sizes are shape times dtype, offsets leave no hole and do not overlap, nothing follows the last array.
Imports no framework.
"""

from __future__ import annotations

import json
import math
import re
import struct
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, final

from stateregistry import errors
from stateregistry.entry import DTYPES
from stateregistry.stores.names import first_repeated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stateregistry.stores.limits import Limits

#: The format's dtype names and ours.
DTYPE_OF: Mapping[str, str] = MappingProxyType(
    {
        "BOOL": "bool",
        "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
        "U64": "uint64", "I64": "int64",
        "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64",
        "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
        "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    }
)  # fmt: skip
NAME_OF: Mapping[str, str] = MappingProxyType({ours: theirs for theirs, ours in DTYPE_OF.items()})

#: Bits of the dtypes that the format has and a registry does not hold.
_OPAQUE_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
_DTYPE_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,31}")
#: The cap of the format.
MAX_HEADER = 100_000_000
_METADATA = "__metadata__"
#: The text of `__metadata__` that is ours, and of the metadata of an index.
METADATA_NAME = "stateregistry"
SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
_FIELDS = frozenset(("dtype", "shape", "data_offsets"))
_NUMPY_MAX = 2**63 - 1


@final
@dataclass(frozen=True, slots=True)
class Header:
    """What a header declares, all of it checked. Sequences are in the order of the arrays in the file.

    Attributes:
        names: the stored names.
        shapes: the shape of each.
        dtypes: our dtype name of each, `None` for one that a registry does not hold.
        starts: absolute offset of the first byte of each.
        opaque: name -> reason, for the dtypes that a registry does not hold.
        metadata: the texts of `__metadata__`.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str | None, ...]
    starts: tuple[int, ...]
    opaque: Mapping[str, str]
    metadata: Mapping[str, str]


def header_length(prefix: bytes, size: int, where: str, limits: Limits) -> int:
    """The length of the JSON header, from the first 8 bytes of a file of `size` bytes.

    Raises:
        FileFormatError: no room for a header, or a length that is above the limit or beyond the end.
    """
    if len(prefix) < 8 or size < 10:
        message = f"{where}: has {size} bytes, a safetensors file has at least 10"
        raise errors.FileFormatError(message, hint="the file is truncated or not safetensors")
    (length,) = struct.unpack("<Q", prefix[:8])
    limits.check("header_bytes", length, f"{where}: header length")
    if length < 2 or 8 + length > size:
        message = f"{where}: the header is said to have {length:,} bytes, and the file has {size:,}"
        raise errors.FileFormatError(message, hint="the file is truncated or not safetensors")
    return int(length)


def parse_header(raw: bytes, size: int, where: str, limits: Limits) -> Header:
    """Parse and check a header.

    Args:
        raw: the bytes of the JSON.
        size: the bytes of the whole file.

    Raises:
        FileFormatError: anything that the format does not allow, or a limit is exceeded.
    """
    rows, metadata = _split(_json(raw, where, limits), where)
    limits.check("entries", len(rows), f"{where}: number of arrays")
    # JSON's true equals 1, and so would be found where the size 1 was measured before.
    truths = b"true" in raw or b"false" in raw
    return _checked(rows, metadata, 8 + len(raw), size, where, limits, truths=truths)


def _fail(where: str, what: str, *names: str) -> NoReturn:
    hint = "the file is damaged, or was not written by safetensors: get it again"
    raise errors.FileFormatError(f"{where}: {what}", keys=names, hint=hint)


def _json(raw: bytes, where: str, limits: Limits) -> tuple[tuple[str, Any], ...]:
    """The header with objects as tuples of pairs, so that a name that stands twice is seen; arrays are lists."""

    def refuse(text: str) -> NoReturn:
        message = f"the number {text[:40]} has no place in a header"
        raise ValueError(message)

    if not raw.startswith(b"{"):
        _fail(where, f"the header begins with {raw[:8]!r}, expected '{{'")
    # Before 100 MB of `[0,0,0,...]` become a gigabyte of objects: no header has this many values for its entries.
    limits.check("entries", raw.count(b",") // 16, f"{where}: a sixteenth of the values in the header")
    limits.check("entries", raw.count(b'"data_offsets"'), f"{where}: number of arrays")
    try:
        top = json.loads(raw.decode("utf-8"), object_pairs_hook=tuple, parse_float=refuse, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        reason = "it nests too deep" if isinstance(error, RecursionError) else str(error)[:200]
        message = f"{where}: the header is not the JSON of a safetensors file: {reason}"
        raise errors.FileFormatError(message, hint="the file is damaged, or not safetensors") from error
    return top  # type: ignore[no-any-return]  # it begins with '{', so it is the tuple of an object


def _split(top: tuple[tuple[str, Any], ...], where: str) -> tuple[tuple[tuple[str, Any], ...], Mapping[str, str]]:
    if len({name for name, _ in top}) != len(top):
        twice = str(first_repeated(name for name, _ in top))
        _fail(where, f"the name {twice[:200]!r} stands twice in the header", twice)
    rows = tuple(pair for pair in top if pair[0] != _METADATA)
    if len(rows) == len(top):
        return rows, {}
    pairs = dict(top)[_METADATA]
    if not isinstance(pairs, tuple) or not all(isinstance(text, str) for _, text in pairs):
        _fail(where, f"{_METADATA} is not an object of texts")
    metadata = dict(pairs)
    if len(metadata) != len(pairs):
        _fail(where, f"a name stands twice in {_METADATA}")
    return rows, metadata


def _checked(
    rows: Sequence[tuple[str, Any]],
    metadata: Mapping[str, str],
    begin: int,
    size: int,
    where: str,
    limits: Limits,
    *,
    truths: bool,
) -> Header:
    names, shapes, dtypes, starts, ends = [], [], [], [], []
    opaque: dict[str, str] = {}
    # (dtype, shape) -> our shape, dtype and length: most arrays of a checkpoint have those of another one.
    known: dict[object, tuple[tuple[int, ...], str | None, int]] = {}
    top_end = size - begin
    for name, row in rows:
        try:
            (one, theirs), (two, raw_shape), (three, offsets) = row
            usual = type(row) is tuple and type(raw_shape) is list
            usual = usual and one == "dtype" and two == "shape" and three == "data_offsets"
        except (TypeError, ValueError):
            usual = False
        if not usual:
            theirs, raw_shape, offsets = _fields(name, row, where)
        try:
            sizes = () if truths and bool in map(type, raw_shape) else (theirs, tuple(raw_shape))
            shape, dtype, nbytes = known[sizes]
        except (KeyError, TypeError):
            shape, dtype, nbytes = _measured(name, theirs, raw_shape, where, limits)
            known[theirs, shape] = shape, dtype, nbytes
        if type(offsets) is not list or len(offsets) != 2 or type(offsets[0]) is not int or type(offsets[1]) is not int:
            _fail(where, f"{name[:200]!r}: data_offsets is not a pair of integers", name)
        start, end = offsets
        if not 0 <= start <= end <= top_end:
            _fail(where, f"{name[:200]!r}: its bytes lie outside of the file, which has {top_end:,} of values", name)
        if end - start != nbytes and nbytes >= 0:
            what = f"{theirs}{list(shape)} takes {nbytes:,} bytes, and its offsets span {end - start:,}"
            _fail(where, f"{name[:200]!r}: {what}", name)
        if dtype is None:
            opaque[name] = f"its dtype {theirs} is not one that a registry holds"
        names.append(name)
        shapes.append(shape)
        dtypes.append(dtype)
        starts.append(start)
        ends.append(end)
    order = _contiguous(names, starts, ends, top_end, where)
    _check_names(names, where, limits)
    return Header(
        tuple(names[i] for i in order),
        tuple(shapes[i] for i in order),
        tuple(dtypes[i] for i in order),
        tuple(begin + starts[i] for i in order),
        opaque,
        metadata,
    )


def _fields(name: str, row: Any, where: str) -> tuple[Any, list[int], Any]:
    """dtype, shape and offsets of a row that has them in another order, or not at all."""
    if type(row) is not tuple:
        _fail(where, f"{name[:200]!r} is not an object with dtype, shape and data_offsets", name)
    fields = dict(row)
    if len(fields) != len(row) or fields.keys() != _FIELDS:
        listed = ", ".join(field[:40] for field, _ in row[:6])
        what = f"{name[:200]!r} has the fields {listed}; expected dtype, shape and data_offsets, each once"
        _fail(where, what, name)
    if type(fields["shape"]) is not list:
        _fail(where, f"{name[:200]!r}: its shape is not a list of sizes", name)
    return fields["dtype"], fields["shape"], fields["data_offsets"]


def _measured(
    name: str, theirs: Any, raw_shape: list[int], where: str, limits: Limits
) -> tuple[tuple[int, ...], str | None, int]:
    """Shape, our dtype and the bytes of an array; -1 bytes for a dtype of which nobody knows the width."""
    if not all(type(axis) is int and axis >= 0 for axis in raw_shape):
        _fail(where, f"{name[:200]!r}: its shape is not a list of sizes", name)
    limits.check("rank", len(raw_shape), f"{where}: {name[:200]!r}: number of axes")
    if type(theirs) is not str:
        _fail(where, f"{name[:200]!r}: its dtype is not a text", name)
    shape = tuple(raw_shape)
    dtype = DTYPE_OF.get(theirs)
    bits = DTYPES[dtype] * 8 if dtype is not None else _OPAQUE_BITS.get(theirs)
    # The sizes that are not zero: NumPy cannot hold (0, 2**62, 2**62) either.
    if math.prod(axis for axis in shape if axis) * max(bits or 8, 8) // 8 > _NUMPY_MAX:
        _fail(where, f"{name[:200]!r}: its shape has more elements than memory can have", name)
    if bits is None:
        if not _DTYPE_NAME.fullmatch(theirs):
            _fail(where, f"{name[:200]!r}: {theirs[:40]!r} is not a dtype of the format", name)
        return shape, None, -1
    total = math.prod(shape) * bits
    if total % 8:
        _fail(where, f"{name[:200]!r}: {theirs}{list(shape)} does not fill whole bytes", name)
    return shape, dtype, total // 8


def _contiguous(names: list[str], starts: list[int], ends: list[int], top_end: int, where: str) -> Sequence[int]:
    """The order of the arrays in the file, in which each begins where the one before it ends."""
    order: Sequence[int] = range(len(names))
    if starts != [0, *ends[:-1]][: len(starts)]:
        order = sorted(order, key=lambda i: (starts[i], ends[i]))
    cursor = 0
    for i in order:
        if starts[i] != cursor:
            what = "overlaps the array before it" if starts[i] < cursor else "leaves a hole before it"
            _fail(where, f"{names[i][:200]!r} {what}: begins at {starts[i]:,}, expected {cursor:,}", names[i])
        cursor = ends[i]
    if cursor != top_end:
        _fail(where, f"{top_end - cursor:,} bytes follow the last array, which ends at {cursor:,}")
    return order


def _check_names(names: Sequence[str], where: str, limits: Limits) -> None:
    longest = max(map(len, names), default=0)
    limits.check("name_chars", longest, f"{where}: length of a name")
    try:
        "".join(names).encode("utf-8")
    except UnicodeEncodeError:
        _fail(where, "a name has half of a surrogate pair, which is no text")


def build_header(rows: Sequence[tuple[str, str, tuple[int, ...], int]], metadata: Mapping[str, str]) -> bytes:
    """The first bytes of a file: length and JSON, padded so that the values begin at a multiple of 8.

    Args:
        rows: name, our dtype, shape and bytes of each array, in the order in which they will follow.
        metadata: texts for `__metadata__`.

    Raises:
        UnsupportedError: the header would be longer than the format allows.
        KeyPathError: a name is not text that UTF-8 has, or is reserved.
    """
    top: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    cursor = 0
    for name, dtype, shape, nbytes in rows:
        if name == _METADATA:
            message = f"{name!r} is reserved by the safetensors format and cannot name an array"
            raise errors.KeyPathError(message, keys=(name,), hint="rename the member in the model")
        top[name] = {"dtype": NAME_OF[dtype], "shape": shape, "data_offsets": (cursor, cursor + nbytes)}
        cursor += nbytes
    try:
        body = json.dumps(top, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        wrong = tuple(name for name, *_ in rows if _has_surrogate(name))
        message = f"{wrong!r}: half of a surrogate pair is no text that a safetensors file can hold"
        raise errors.KeyPathError(message, keys=wrong, hint="rename the member in the model") from error
    body += b" " * (-len(body) % 8)
    if len(body) > MAX_HEADER:
        message = f"the header would have {len(body):,} bytes, and the safetensors format allows {MAX_HEADER:,}"
        raise errors.UnsupportedError(message, hint="split the state over several files")
    return struct.pack("<Q", len(body)) + body


def _has_surrogate(name: str) -> bool:
    return any(0xD800 <= ord(char) <= 0xDFFF for char in name)
