"""Writing Orbax directories: the tree by Orbax, as `StandardCheckpointer` lays it out, and large values by TensorStore.

Orbax wants all values at once. It gets the small ones, and for each large one a number in its place, which TensorStore then
writes over in the same database, by the same driver, a block at a time. What has to be made first is made by the engine, in
files beside the directory: in memory are windows and blocks, however large a value is. What Orbax cannot hold is refused
before it begins: arrays without elements, and names that differ only in where they are cut.
Imports Orbax.
"""

from __future__ import annotations

import itertools
import logging
import math
import warnings
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Self, final

import numpy as np

from stateregistry import errors, keys
from stateregistry.entry import Entry, numpy_dtype
from stateregistry.stores.memory import PersistentPart
from stateregistry.streaming import digests
from stateregistry.streaming.disk import File, unlink
from stateregistry.streaming.geometry import whole
from stateregistry.streaming.task import Held, Makes, Recipe, Task, perform
from stateregistry_flax.variables_tree import nested

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from stateregistry.registry import StateRegistry

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its own imports
        import orbax.checkpoint as ocp  # type: ignore[import-untyped]  # it ships no types
        import tensorstore
except ModuleNotFoundError as error:
    message = "writing an Orbax checkpoint needs the package 'orbax-checkpoint'"
    raise errors.MissingDependencyError(message, hint="pip install 'stateregistry[orbax]'") from error


#: Orbax gets values of at most so many bytes, while together they have no more than that.
_SMALL: Final = 1 << 16
_SMALL_IN_ALL: Final = 1 << 25
#: Bytes of a block, and of all that are under way.
_BLOCK: Final = 1 << 23
_UNDER_WAY: Final = 1 << 25


def write_orbax(path: Path, source: StateRegistry, /) -> dict[str, str]:
    """Write every entry of `source` under each of its names; the digest of every value by key.

    Raises:
        UnsupportedError: what Orbax cannot hold. FileAccessError: writing failed.
    """
    tree = nested(source)
    _refuse_unfit(tree, source)
    large = _large(source)
    found: dict[str, str] = {}
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False))
    try:
        with _quiet():
            checkpointer.save(path.absolute(), _valued(tree, source, large, found))
        _write_large(path, tree, source, large, found)
    except (OSError, ValueError) as error:
        if isinstance(error, errors.StateError):
            raise
        why = str(error).replace(f"{path.absolute()}", path.name)  # the directory beside it is gone by then
        message = f"{path.name}: Orbax could not write it: {why[:300]}"
        raise errors.FileAccessError(message, hint="see that there is room and permission") from error
    finally:
        checkpointer.close()
    return found


def _large(source: StateRegistry) -> frozenset[str]:
    """The entries that TensorStore writes."""
    left, large = _SMALL_IN_ALL, set()
    for key, entry in source.items():
        if entry.nbytes > min(_SMALL, left):
            large.add(key)
        else:
            left -= entry.nbytes
    return frozenset(large)


def _write_large(
    path: Path, tree: Mapping[str, Any], source: StateRegistry, large: frozenset[str], found: dict[str, str]
) -> None:
    """Put the large values in the places of their numbers, under every name."""
    names: dict[str, list[str]] = {}
    for way, key in _leaves(tree, ()):
        names.setdefault(source.aliases.get(key, key), []).append(".".join(way))
    # What is written is synced by the caller, once.
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}, "file_io_sync": False})
    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{path.absolute()}/"}}
    forms: dict[str, dict[str, Any]] = {}
    note = _recipes(source)[1]
    with closing(_made(path, source, sorted(large))) as values:
        for key, value in values:
            with value:
                found[key] = value.digest
                note(key, value.digest)
                for name in names[key]:
                    _write_one({**store, "path": f"{name}/"}, context, source[key], value, forms)


def _write_one(
    store: Mapping[str, Any], context: Any, entry: Entry, value: _Value, forms: dict[str, dict[str, Any]]
) -> None:
    """Write a value over the number in its place, in the form that Orbax gives its dtype."""
    spec: dict[str, Any] = {"driver": "zarr", "kvstore": store}
    if entry.dtype not in forms:
        there = tensorstore.open(spec, open=True, context=context).result()
        forms[entry.dtype] = there.spec().to_json()["metadata"]
    shape = _block(entry.shape, numpy_dtype(entry.dtype).itemsize)
    spec["metadata"] = {**forms[entry.dtype], "shape": list(entry.shape), "chunks": list(shape)}
    spec["store_data_equal_to_fill_value"] = True
    opened = tensorstore.open(spec, create=True, delete_existing=True, context=context).result()
    _write_blocks(opened, value, shape)


def _made(path: Path, source: StateRegistry, wanted: list[str]) -> Generator[tuple[str, _Value]]:
    """Values, each of them made while the one before it is written."""
    recipe = _recipes(source)[0]

    def make(number: int) -> _Value:
        key = wanted[number]
        return _Value(path.with_name(f"value-{number % 2}"), key, source[key], recipe(key))

    with ThreadPoolExecutor(1, thread_name_prefix="stateregistry-orbax") as beside:
        coming = [beside.submit(make, 0)] if wanted else []
        try:
            for number, key in enumerate(wanted):
                value = coming.pop().result()
                if number + 1 < len(wanted):
                    coming.append(beside.submit(make, number + 1))
                yield key, value
        finally:
            for future in coming:  # writing failed: nobody will take it
                if not future.cancel() and future.exception() is None:
                    future.result().close()


def _recipes(source: StateRegistry) -> tuple[Callable[[str], Recipe], Callable[[str, str], None]]:
    """How values are made, and who wants to know the digests of those that are."""
    from stateregistry.stores.streamed import as_it_is  # lazy: the engine, for who writes

    maker = source.whole if isinstance(source, PersistentPart) else source
    return (maker.recipe, maker.made) if isinstance(maker, Makes) else (as_it_is(source), lambda *_: None)


@final
class _Value:
    """A value to be looked at a block at a time: in memory where it lies there, else made in a file. A context manager.

    Attributes:
        digest: of the value.
    """

    def __init__(self, spool: Path, key: str, entry: Entry, recipe: Recipe) -> None:
        self._dtype, self.shape, self._file = numpy_dtype(entry.dtype), entry.shape, None
        only = recipe.origins[0] if len(recipe.origins) == 1 and not recipe.cast else None
        as_it_is = recipe.groups == (whole(math.prod(entry.shape)),)
        if isinstance(only, Held) and only.array.shape == entry.shape and as_it_is:
            self._array = only.array
            self.digest = digests.of_array(only.array)
            return
        self._spool = spool
        with File.writing(spool, make=True) as file:
            file.allocate(entry.nbytes)
        place = (((0, entry.nbytes),),)
        task = Task(key, entry.dtype, entry.shape, str(spool), place, recipe.origins, recipe.groups, recipe.cast)
        (outcome,) = perform((task,))
        self.digest = outcome.digest
        self._file = File.reading(spool)

    def block(self, place: tuple[slice, ...]) -> np.ndarray:
        """What lies there: some rows of the value, or some of one row."""
        if self._file is None:
            return self._array[place]
        begins, sizes = [], []
        for n, part in zip(self.shape, place, strict=True):
            begin, end, _ = part.indices(n)
            begins.append(begin)
            sizes.append(end - begin)
        block = np.empty(sizes, self._dtype)
        first = 0
        for n, begin in zip(self.shape, begins, strict=True):
            first = first * n + begin
        self._file.read_into(block, first * self._dtype.itemsize)
        return block

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was made for it."""
        if self._file is not None:
            self._file.close()
            unlink(self._spool)


def _block(shape: tuple[int, ...], width: int) -> tuple[int, ...]:
    """The shape of the blocks of a value: rows of it, or less than one."""
    left, sizes = max(1, _BLOCK // width), []
    for n in reversed(shape):
        sizes.append(max(1, min(n, left)))
        left //= sizes[-1]
    return tuple(reversed(sizes))


def _write_blocks(opened: Any, value: _Value, shape: tuple[int, ...]) -> None:
    """Write a value, and wait for it; a bounded number of bytes is under way."""
    waiting: deque[Any] = deque()
    try:
        _write_all(opened, value, shape, waiting)
    except BaseException:
        for future in waiting:  # what is under way would go on in a directory that is removed
            with suppress(ValueError, OSError):  # the first error is the one that is told
                future.result()
        raise


def _write_all(opened: Any, value: _Value, shape: tuple[int, ...], waiting: deque[Any]) -> None:
    most = max(1, _UNDER_WAY // (math.prod(shape) * opened.dtype.numpy_dtype.itemsize))
    for place in itertools.product(*(range(0, n, step) for n, step in zip(value.shape, shape, strict=True))):
        part = tuple(slice(start, start + step) for start, step in zip(place, shape, strict=True))
        block = value.block(part)
        stops = tuple(slice(start, start + n) for start, n in zip(place, block.shape, strict=True))
        waiting.append(opened[stops].write(block, can_reference_source_data_indefinitely=True))
        if len(waiting) >= most:
            waiting.popleft().result()
    while waiting:
        waiting.popleft().result()


def _refuse_unfit(tree: Mapping[str, Any], source: StateRegistry) -> None:
    empty = tuple(key for key, entry in source.items() if not math.prod(entry.shape))
    if empty:
        message = f"Orbax stores no array without elements, and {len(empty)} are: {', '.join(map(repr, empty[:5]))}"
        raise errors.UnsupportedError(message, keys=empty, hint="save as .safetensors or .msgpack, or leave them out")
    taken: dict[str, str] = {}
    for names, key in _leaves(tree, ()):
        stored = ".".join(names)
        if any("/" in name or "\\" in name or "\0" in name or name in (".", "..") for name in names):
            message = f"Orbax would take the name {stored[:200]!r} for a path"
            raise errors.UnsupportedError(message, keys=(key,), hint="rename the member, or save as .safetensors")
        if stored in taken:
            message = f"Orbax stores {taken[stored]!r} and {key!r} under one name, {stored!r}"
            raise errors.UnsupportedError(
                message, keys=(taken[stored], key), hint="rename one, or save as .safetensors"
            )
        taken[stored] = key


def _leaves(node: Mapping[str, Any], way: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, inner in node.items():
        if isinstance(inner, dict):
            yield from _leaves(inner, (*way, name))
        else:
            yield (*way, name), inner


def _valued(
    tree: Mapping[str, Any], source: StateRegistry, large: frozenset[str], found: dict[str, str]
) -> dict[str, Any]:
    """The tree with the small values, and a number in the place of every large one."""
    aliases = source.aliases
    values: dict[str, np.ndarray] = {}

    def value(key: str) -> np.ndarray:
        canonical = aliases.get(key, key)
        if canonical in large:
            return np.zeros((), numpy_dtype(source[canonical].dtype))
        if canonical not in values:
            values[canonical] = source.view(canonical)
            found[canonical] = digests.of_array(values[canonical])
        return values[canonical]

    flat = {keys.join(*names): value(key) for names, key in _leaves(tree, ())}
    return {**{name: {} for name in tree}, **keys.nest(flat)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Orbax tells its log every step; what goes wrong is raised."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
