"""What an Orbax directory says of itself: its items, and the tree of one of them, with the name that each array is stored by.

The metadata are JSON and come from a stranger: every part is held against what Orbax writes, a stored name is no path that
leads out, no two arrays have one name. A directory of steps, of several items, or one that was never completed is refused
with what there is. Imports neither JAX, Flax nor Orbax.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, final

from stateregistry import errors, keys
from stateregistry.stores.document import load_object
from stateregistry.stores.folder import DOCUMENT
from stateregistry.stores.limits import DEFAULT
from stateregistry.stores.links import refuse_leading_out
from stateregistry.stores.mapped import MappedFile
from stateregistry_flax.msgpack_scan import MAX_DEPTH
from stateregistry_flax.variables_file import Other

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stateregistry.stores.limits import Limits

METADATA: Final = "_METADATA"
_CHECKPOINT: Final = "_CHECKPOINT_METADATA"
_SUCCESS: Final = "commit_success.txt"
_MANIFEST: Final = "manifest.ocdbt"
_UNFINISHED: Final = ".orbax-checkpoint-tmp"
#: What Orbax puts into the directory of a tree, and we.
_OWN: Final = frozenset({
    METADATA, _CHECKPOINT, _MANIFEST, DOCUMENT, _SUCCESS, "d", "_sharding", "array_metadatas", "descriptor",
})  # fmt: skip
_PROCESS: Final = re.compile(r"ocdbt\.process_\d+")
#: Types of value that are stored as an array.
_ARRAYS: Final = frozenset({"jax.Array", "np.ndarray", "scalar"})
#: Containers without members, and absence: they are no state.
_EMPTY: Final = frozenset({"None", "Dict", "List", "NamedTuple", "Tuple"})


@final
@dataclass(frozen=True, slots=True)
class Named:
    """An array of the tree, by the name that it is stored by."""

    name: str


@final
@dataclass(frozen=True, slots=True)
class Item:
    """One tree of arrays.

    Attributes:
        folder: its directory.
        tree: names to trees, `Named`, `Other` and `None`.
        ocdbt: all arrays are in one database, else each is a directory. zarr3: the format of one.
        sparse: a block that is all fill value may be missing, as Orbax once wrote it.
    """

    folder: Path
    tree: dict[str, Any]
    ocdbt: bool
    zarr3: bool
    sparse: bool


def is_checkpoint(path: Path, /) -> bool:
    """Whether a directory is one that Orbax writes: an item, several of them, or steps."""
    if any((path / name).is_file() for name in (METADATA, _CHECKPOINT, _MANIFEST)):
        return True
    inner = _folders(path)
    # A directory that has an Orbax one among other things is somebody's, and no checkpoint.
    return bool(inner) and _holds_folders_alone(path) and any(map(_is_orbax, inner))


def _is_orbax(folder: Path) -> bool:
    return (folder / _CHECKPOINT).is_file() or (folder / METADATA).is_file()


def _holds_folders_alone(path: Path) -> bool:
    """Whether a directory has no files but those that say something of it."""
    marks = (".", "_")
    return all(inner.is_dir() or inner.name.startswith(marks) or inner.name == _SUCCESS for inner in path.iterdir())


def strangers(folder: Path, /) -> tuple[str, ...]:
    """The names in a directory that are no part of one tree of arrays; all of them, or its own, where it is none.

    A directory of steps, or of several items, holds more than what is written over it would.
    """
    names = tuple(path.name for path in folder.iterdir())
    if not (folder / METADATA).is_file():
        return names or (folder.name,)
    try:
        item, _ = read_item(folder, "", DEFAULT)
    except errors.StateError:
        arrays = set()  # it is damaged: what it would name is not known to be its own
    else:
        arrays = set() if item.ocdbt else {leaf.name.split("/")[0] for leaf in _named(item.tree)}
    return tuple(name for name in names if not (name in _OWN or name in arrays or _PROCESS.fullmatch(name)))


def _named(node: dict[str, Any]) -> Iterator[Named]:
    for inner in node.values():
        if isinstance(inner, dict):
            yield from _named(inner)
        elif isinstance(inner, Named):
            yield inner


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(inner for inner in path.iterdir() if inner.is_dir() and not inner.name.startswith("."))
    except OSError:
        return []


def read_item(path: Path, part: str, limits: Limits, /) -> tuple[Item, bool]:
    """The item of a directory that is meant, and whether it is there as it was saved (not a part of it).

    Args:
        path: the directory. part: the name of an item, of a part of its tree, or both; names joined by `.`.

    Raises:
        FileFormatError: not finished, damaged, several items, or no such part. UnsafeFileError: it leads out.
    """
    if path.name.endswith(_UNFINISHED):
        _fail(path, "was never completed: the program that wrote it was stopped")
    folder, rest = _chosen(path, part)
    refuse_leading_out(folder, METADATA)
    item = _read(folder, limits)
    if not rest:
        return item, True
    tree: Any = item.tree
    for name in rest.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    if not isinstance(tree, dict):
        listed = ", ".join(repr(name) for name, node in item.tree.items() if isinstance(node, dict))
        _fail(folder, f"has no part {rest!r}; parts: {listed or 'none'}", "leave out '::', or name one of them")
    return Item(folder, tree, item.ocdbt, item.zarr3, item.sparse), False


def _chosen(path: Path, part: str) -> tuple[Path, str]:
    """The directory of the item, and what of `part` is left."""
    if (path / METADATA).is_file():
        return path, part
    inner = _folders(path)
    items = {folder.name: folder for folder in inner if (folder / METADATA).is_file()}
    name, _, rest = part.partition(".")
    if name in items:
        return items[name], rest
    if len(items) == 1 and not part and ((path / _CHECKPOINT).is_file() or len(inner) == 1):
        return next(iter(items.values())), ""
    if items:
        listed = ", ".join(map(repr, items))
        what = f"holds the items {listed}" if not part else f"has no item {name!r}, but {listed}"
        _fail(path, what, f"say which: '{path.name}::{next(iter(items))}'")
    steps = [folder.name for folder in inner if (folder / _CHECKPOINT).is_file()]
    if steps:
        _fail(path, f"holds the checkpoints {', '.join(map(repr, steps[:8]))}", "open one of these directories")
    what = f"has no {METADATA}: it is damaged, or was written by an Orbax from before 2024"
    return _fail(path, what, "restore it with Orbax and save it again")


def _read(folder: Path, limits: Limits) -> Item:
    path = folder / METADATA
    with MappedFile(path) as file:
        limits.check("header_bytes", file.size, f"{path}: length")
        body = load_object(file.read(0, file.size), str(path))
    rows = body.get("tree_metadata")
    flags = [body.get(name, False) for name in ("use_ocdbt", "use_zarr3", "store_array_data_equal_to_fill_value")]
    if not isinstance(rows, dict) or not all(isinstance(flag, bool) for flag in flags):
        _fail(path, "does not say which arrays there are")
    limits.check("entries", len(rows), f"{path}: number of arrays")
    tree: dict[str, Any] = {}
    taken: dict[str, str] = {}
    for text, row in rows.items():
        names, leaf = _leaf(text, row, path)
        if isinstance(leaf, Named):
            limits.check("name_chars", len(leaf.name), f"{path}: length of a name")
            _check_name(leaf.name, path)
            if leaf.name in taken:
                what = f"{taken[leaf.name]} and {text} are both stored as {leaf.name!r}"
                _fail(path, what, "rename one of them in the program that wrote it")
            taken[leaf.name] = text
        _put(tree, names, leaf, path)
    return Item(folder, _without_wrapping(tree), flags[0], flags[1], not flags[2])


def _leaf(text: str, row: Any, path: Path) -> tuple[list[str], Any]:
    """The names of the way to a leaf, and what it is."""
    steps = row.get("key_metadata") if isinstance(row, dict) else None
    value = row.get("value_metadata") if isinstance(row, dict) else None
    if not isinstance(steps, list) or not steps or not isinstance(value, dict):
        _fail(path, f"says nothing of {text[:200]!r}")
    names = [name for step in steps if isinstance(step, dict) and isinstance(name := step.get("key"), str) and name]
    if len(names) != len(steps) or len(names) > MAX_DEPTH:
        _fail(path, f"gives {text[:200]!r} names that are none, or more than {MAX_DEPTH}")
    kind = value.get("value_type")
    if not isinstance(kind, str):
        _fail(path, f"does not say what {text[:200]!r} is")
    if kind in _ARRAYS:
        return names, Named(".".join(names))
    return names, None if kind in _EMPTY else Other(f"a value of the type {kind[:80]!r}")


def _check_name(name: str, path: Path) -> None:
    """Refuse a name that is no plain place below its directory, were it a path."""
    parts = name.split("/")
    if "\0" in name or "\\" in name or any(part in ("", ".", "..") for part in parts):
        message = f"{path}: stores an array under {name[:200]!r}, which leads out of the directory"
        raise errors.UnsafeFileError(message, found=(name[:200],), hint="nothing was read from there")


def _put(tree: dict[str, Any], names: list[str], leaf: Any, path: Path) -> None:
    node = tree
    for name in names[:-1]:
        inner = node.setdefault(name, {})
        if not isinstance(inner, dict):
            _fail(path, f"has a value, and others below it, at {'.'.join(names)[:200]!r}")
        node = inner
    if names[-1] in node:
        _fail(path, f"has two values, or a value and others below it, at {'.'.join(names)[:200]!r}")
    node[names[-1]] = leaf


def _without_wrapping(tree: dict[str, Any]) -> dict[str, Any]:
    """A state of NNX puts each array below a name of its own, `value`: the tree without it, where every array has it."""
    ways = list(_ways(tree, ()))
    if len(ways) == 0 or any(len(way) < 2 or way[-1] != "value" for way in ways):
        return tree
    return keys.nest({keys.join(*way[:-1]): _at(tree, way) for way in ways})


def _ways(node: dict[str, Any], way: tuple[str, ...]) -> Any:
    for name, inner in node.items():
        if isinstance(inner, dict):
            yield from _ways(inner, (*way, name))
        elif inner is not None:
            yield (*way, name)


def _at(tree: Any, way: tuple[str, ...]) -> Any:
    for name in way:
        tree = tree[name]
    return tree


def _fail(path: Path, what: str, hint: str = "the checkpoint is incomplete or damaged: get it again") -> NoReturn:
    raise errors.FileFormatError(f"{path}: {what}", hint=hint)
