"""What the `.metadata` of a torch distributed checkpoint says, without torch and without running anything from it.

It is a pickle, and torch itself reads it as one, which runs whatever it asks for. Here it goes through the machine that
knows the records of a checkpoint, plain containers and nothing else. What they say is held against itself: every chunk lies
in its tensor, the chunks of a tensor are all of it and none of it twice, each lies in a file of the directory, and no two
share bytes. Imports no framework.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeGuard, final

from stateregistry import errors
from stateregistry.entry import DTYPES
from stateregistry.stores.pickle_machine import Class, Function, Machine, Other, Record, Table
from stateregistry.stores.torch_objects import Allowlist, Opaque, TorchDtype

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stateregistry.stores.limits import Limits

_MODULES: Final = (
    "torch.distributed.checkpoint.metadata",
    "torch.distributed.checkpoint.filesystem",
    "torch.distributed._shard.sharded_tensor.metadata",
)
_RECORDS: Final = (
    "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties",
    "MetadataIndex", "StorageMeta", "_StorageInfo",
)  # fmt: skip
_PATHS: Final = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")
_MAX: Final = 2**63 - 1
#: Chunks of one tensor that are compared one by one, where they are not cut along a grid.
_COMPARED: Final = 2000

Sizes = tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of a file of the checkpoint: its name there, where it begins, how long it is."""

    file: str
    offset: int
    length: int


@final
@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a tensor: where it begins in it, its shape, and where it is stored."""

    offsets: Sizes
    sizes: Sizes
    place: Place


@final
@dataclass(frozen=True, slots=True)
class Described:
    """One tensor: its dtype, its global shape and its parts, all of it."""

    name: str
    dtype: str
    shape: Sizes
    requires_grad: bool
    chunks: tuple[Chunk, ...]


@final
@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a `.metadata` says.

    Attributes:
        items: what each name holds: a tensor, or what is none and why (`Opaque`, `Other`).
        paths: the path in the tree that was saved, of each name.
        files: every file that is spoken of, and where the last value in it ends.
    """

    items: Mapping[str, Described | Opaque | Other]
    paths: Mapping[str, tuple[str | int, ...]]
    files: Mapping[str, int]


def read_metadata(raw: bytes, where: str, limits: Limits) -> Checkpoint:
    """Read and check a `.metadata`.

    Raises:
        UnsafeFileError: reading it as torch does would run code from it, or it leads out of its directory.
        FileFormatError: damaged, contradicting itself, or over a limit.
    """
    return _Reader(raw, where, limits).checkpoint()


def _known(where: str, limits: Limits) -> Mapping[tuple[str, str], object]:
    known: dict[tuple[str, str], object] = dict(Allowlist(where, limits).known)
    known |= {(module, name): Class(name) for module in _MODULES for name in _RECORDS}
    known |= {(module, "_MEM_FORMAT_ENCODING"): _inert("memory format") for module in _MODULES}
    for module, name in itertools.product(("pathlib", "pathlib._local"), _PATHS):
        known[module, name] = _inert("path")
    return known


def _inert(what: str) -> Function:
    return Function(what, lambda _: Other(f"a {what}"))


@final
class _Reader:
    def __init__(self, raw: bytes, where: str, limits: Limits) -> None:
        self._where, self._limits = where, limits
        self._root = Machine(raw, _known(where, limits), self._no_storage, where, limits).run()
        #: Where each part of each name is stored, by name and where the part begins.
        self._places: dict[tuple[str, Sizes | None], Place] = {}
        #: The parts of tensors that the table has.
        self._spoken_of: set[tuple[str, Sizes | None]] = set()

    def _no_storage(self, _: object) -> object:
        self._fail("keeps something outside of its pickle")

    def checkpoint(self) -> Checkpoint:
        body = self._state(self._root, "Metadata")
        described = body.get("state_dict_metadata")
        if not isinstance(described, Table) or not all(type(name) is str for name in described):
            self._fail("has no table of what it holds by name")
        self._limits.check("entries", len(described), f"{self._where}: number of arrays")
        self._limits.check("name_chars", max(map(len, described), default=0), f"{self._where}: length of a name")
        self._read_places(body.get("storage_data"))
        items = {name: self._item(name, item) for name, item in described.items()}
        strange = {name for name, item in items.items() if not isinstance(item, Described)}
        left = [
            name for name, begin in self._places.keys() - self._spoken_of if begin is not None and name not in strange
        ]
        if left:
            self._fail(f"stores a part of {min(left)[:80]!r} of which its table does not speak")
        files: dict[str, int] = {}
        for place in self._places.values():
            files[place.file] = max(files.get(place.file, 0), place.offset + place.length)
        return Checkpoint(items, self._paths(body.get("planner_data"), described), files)

    # ---------------------------------------------------------------- places

    def _read_places(self, stored: Any) -> None:
        if not isinstance(stored, Table):
            self._fail("does not say where its values are stored")
        for index, info in stored.items():
            where, what = self._state(index, "MetadataIndex"), self._state(info, "_StorageInfo")
            name, begin = where.get("fqn"), where.get("offset")
            if type(name) is not str or not (begin is None or _is_sizes(begin)):
                self._fail("has a place that does not say whose it is")
            if (name, begin) in self._places:
                self._fail(f"says twice where a part of {name[:80]!r} is stored")
            self._places[name, begin] = self._place(name, what)
        rows = sorted((place.file, place.offset, place.length) for place in self._places.values())
        for one, two in itertools.pairwise(rows):
            if one[0] == two[0] and one[1] + one[2] > two[1]:
                self._fail(f"has two values in the same bytes of {two[0][:80]!r}, from byte {two[1]:,} on")

    def _place(self, name: str, info: Table) -> Place:
        file, offset, length = info.get("relative_path"), info.get("offset"), info.get("length")
        span = (offset, length)
        if type(file) is not str or not _is_sizes(span):
            self._fail(f"stores {name[:80]!r} at a place that is none")
        if file in ("", ".", "..", ".metadata") or set(file) & {"/", "\\", "\0"}:
            message = f"{self._where}: stores {name[:80]!r} in {file[:200]!r}, which is no file of its directory"
            hint = "nothing outside of the directory was looked at; get the checkpoint from who made it"
            raise errors.UnsafeFileError(message, found=(file[:200],), hint=hint)
        if info.get("transform_descriptors"):
            message = f"{self._where}: {name[:80]!r} is compressed or encrypted by an extension of torch"
            hint = "load it with torch.distributed.checkpoint and save it without extensions"
            raise errors.FileFormatError(message, hint=hint)
        return Place(file, span[0], span[1])

    # ---------------------------------------------------------------- tensors

    def _item(self, name: str, item: object) -> Described | Opaque | Other:
        if isinstance(item, Record) and item.name == "BytesStorageMetadata":
            return Other("a Python object that was pickled")
        body = self._state(item, "TensorStorageMetadata")
        properties, shape, chunks = body.get("properties"), body.get("size"), body.get("chunks")
        dtype, requires_grad = self._properties(name, properties)
        if not _is_sizes(shape) or type(chunks) is not list:
            self._fail(f"describes the tensor {name[:80]!r} by the wrong values")
        self._limits.check("rank", len(shape), f"{self._where}: number of axes of {name[:80]!r}")
        self._limits.check("entries", len(chunks), f"{self._where}: number of parts of {name[:80]!r}")
        if dtype.ours is None:
            return Opaque(f"its dtype torch.{dtype.torch} is not one that a registry holds")
        width = DTYPES[dtype.ours]
        if math.prod(size for size in shape if size) * width > _MAX:
            self._fail(f"gives {name[:80]!r} a shape with more elements than memory can have")
        parts = [part for part in (self._chunk(name, chunk, shape, width) for chunk in chunks) if part is not None]
        if not _covers(parts, shape):
            self._fail(f"cuts {name[:80]!r} into {len(parts)} parts that are not all of it, or some of it twice")
        return Described(name, dtype.ours, shape, requires_grad, tuple(parts))

    def _properties(self, name: str, properties: object) -> tuple[TorchDtype, bool]:
        """Dtype and whether it required a gradient; torch writes them as a tuple."""
        state = properties.state if isinstance(properties, Record) and properties.name == "TensorProperties" else None
        if isinstance(state, Table):
            state = (state.get("dtype"), state.get("layout"), state.get("requires_grad"))
        if (
            type(state) is not tuple
            or len(state) < 3
            or not isinstance(state[0], TorchDtype)
            or type(state[2]) is not bool
        ):
            self._fail(f"gives {name[:80]!r} properties that are none")
        return state[0], state[2]

    def _chunk(self, name: str, chunk: object, shape: Sizes, width: int) -> Chunk | None:
        """One part; `None` for one without elements, which a rank without a share has."""
        body = self._state(chunk, "ChunkStorageMetadata")
        offsets, sizes = body.get("offsets"), body.get("sizes")
        if not _is_sizes(offsets) or not _is_sizes(sizes) or not len(offsets) == len(sizes) == len(shape):
            self._fail(f"has a part of {name[:80]!r} that is not of its rank")
        if any(begin + size > whole for begin, size, whole in zip(offsets, sizes, shape, strict=True)):
            self._fail(f"has a part of {name[:80]!r} that reaches beyond it: {list(offsets)} + {list(sizes)}")
        self._spoken_of.add((name, offsets))
        if 0 in sizes:
            return None
        place = self._places.get((name, offsets))
        if place is None:
            self._fail(f"does not say where the part of {name[:80]!r} is stored that begins at {list(offsets)}")
        if place.length < math.prod(sizes) * width:
            self._fail(f"stores {math.prod(sizes) * width:,} bytes of {name[:80]!r} in {place.length:,}")
        return Chunk(offsets, sizes, place)

    # ---------------------------------------------------------------- the tree

    def _paths(self, planner: Any, names: Mapping[str, Any]) -> dict[str, tuple[str | int, ...]]:
        """The path of each name, as the planner of torch notes it; a checkpoint of another planner is flat."""
        if planner is None:
            return {name: (name,) for name in names}
        if not isinstance(planner, Table) or not all(_is_path(path) for path in planner.values()):
            self._fail("notes paths of its names that are none")
        return {name: planner.get(name, (name,)) for name in names}

    # ---------------------------------------------------------------- records

    def _state(self, value: object, name: str) -> Table:
        if not isinstance(value, Record) or value.name != name or not isinstance(value.state, Table):
            self._fail(f"holds something else where a {name} belongs")
        return value.state

    def _fail(self, what: str) -> NoReturn:
        hint = "the checkpoint is damaged, or of a torch that this version does not know"
        raise errors.FileFormatError(f"{self._where}: {what}", hint=hint)


def _is_sizes(value: object) -> TypeGuard[Sizes]:
    return type(value) is tuple and all(type(size) is int and 0 <= size <= _MAX for size in value)


def _is_path(value: object) -> bool:
    return type(value) is tuple and bool(value) and all(type(part) in (str, int) for part in value)


def _covers(parts: list[Chunk], shape: Sizes) -> bool:
    """Whether parts, which lie inside a shape and are not empty, are all of it and nothing of it twice."""
    if 0 in shape:
        return not parts
    if sum(math.prod(part.sizes) for part in parts) != math.prod(shape):
        return False
    return _is_grid(parts, shape) or _are_apart(parts)


def _is_grid(parts: list[Chunk], shape: Sizes) -> bool:
    """Whether the parts are the cells that the axes are cut into, as every layout of a device mesh gives them."""
    cuts = [sorted({part.offsets[axis] for part in parts}) for axis in range(len(shape))]
    if math.prod(map(len, cuts)) != len(parts) or len({part.offsets for part in parts}) != len(parts):
        return False
    ends = [dict(zip(cut, [*cut[1:], whole], strict=True)) for cut, whole in zip(cuts, shape, strict=True)]
    return all(
        part.offsets[axis] + part.sizes[axis] == ends[axis][part.offsets[axis]]
        for part in parts
        for axis in range(len(shape))
    )


def _are_apart(parts: list[Chunk]) -> bool:
    if len(parts) > _COMPARED:
        return False
    return not any(
        all(
            begin < other + length and other < begin + size
            for begin, size, other, length in zip(one.offsets, one.sizes, two.offsets, two.sizes, strict=True)
        )
        for one, two in itertools.combinations(parts, 2)
    )
