"""Writing Orbax directories by Orbax: the tree of variables, as `StandardCheckpointer` lays it out.

All values are asked for at once, as Orbax wants them; of a live model on the CPU and of a mapped file nothing is copied. What
Orbax cannot hold is refused before it begins: arrays without elements, and names that differ only in where they are cut.
Imports Orbax.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stateregistry import errors, keys
from stateregistry_flax.variables_tree import nested

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from stateregistry.registry import StateRegistry

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its own imports
        import orbax.checkpoint as ocp  # type: ignore[import-untyped]  # it ships no types
except ModuleNotFoundError as error:
    message = "writing an Orbax checkpoint needs the package 'orbax-checkpoint'"
    raise errors.MissingDependencyError(message, hint="pip install 'stateregistry[orbax]'") from error


def write_orbax(path: Path, source: StateRegistry, /) -> None:
    """Write every entry of `source` under each of its names.

    Raises:
        UnsupportedError: what Orbax cannot hold. FileAccessError: writing failed.
    """
    tree = nested(source)
    _refuse_unfit(tree, source)
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=False))
    try:
        with _quiet():
            checkpointer.save(path.absolute(), _valued(tree, source))
    except (OSError, ValueError) as error:
        message = f"{path}: Orbax could not write it: {str(error)[:300]}"
        raise errors.FileAccessError(message, hint="see that there is room and permission") from error
    finally:
        checkpointer.close()


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


def _valued(tree: Mapping[str, Any], source: StateRegistry) -> dict[str, Any]:
    aliases = source.aliases
    values: dict[str, np.ndarray] = {}

    def value(key: str) -> np.ndarray:
        canonical = aliases.get(key, key)
        if canonical not in values:
            values[canonical] = source.view(canonical)
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
