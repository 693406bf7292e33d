"""Optax states, taken apart: every array in one, what it is of which parameter, and a state with other arrays.

A state is a tree of named tuples; those that are known say what their fields hold. `mu`, `nu` and `trace` are trees like the
parameters that `tx.init` was given: bare parameters, all variables (`params/...`), or the `nnx.State` of `nnx.Optimizer`.
What is masked out is not there. Types are known by name: optax itself is not imported. Imports JAX.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, final

import jax

from stateregistry import errors, keys
from stateregistry.optimizers import Place, Slot
from stateregistry_flax import recognise
from stateregistry_flax.dialect import PARAMS

#: What the fields of a known state hold: a tree like the parameters, or a count of updates.
_KNOWN: Final[Mapping[str, Mapping[str, Slot]]] = MappingProxyType(
    {
        "ScaleByAdamState": {"count": "step", "mu": "first_moment", "nu": "second_moment"},
        # scale_by_amsgrad takes the maximum after the correction of the bias, torch before.
        "ScaleByAmsgradState": {
            "count": "step", "mu": "first_moment", "nu": "second_moment", "nu_max": "second_moment_max_corrected",
        },
        "TraceState": {"trace": "momentum"},
        "ScaleByScheduleState": {"count": "step"},
        "InjectHyperparamsState": {"count": "step", "hyperparams": "setting"},
        "InjectStatefulHyperparamsState": {"count": "step", "hyperparams": "setting"},
        "WrappedScheduleState": {"count": "step"},
    }
)  # fmt: skip
#: Counts of the updates of every parameter that the state has, not of those in the trees beside them.
_OF_ALL: Final = frozenset(
    {"ScaleByScheduleState", "InjectHyperparamsState", "InjectStatefulHyperparamsState", "WrappedScheduleState"}
)


@final
@dataclass(frozen=True, slots=True)
class Part:
    """One array of a state.

    Attributes:
        key: its path; the boxes of NNX and of metadata add nothing to it.
        value: the array, without its box. box: the NNX variable that holds it, `None` for none.
        place: what it is; `None` where no known state says so.
        steps: the path that JAX gives the array.
    """

    key: str
    value: Any
    box: Any
    place: Place | None
    steps: tuple[Any, ...]


def _is_known(node: object) -> bool:
    return (
        isinstance(node, tuple) and type(node).__module__.partition(".")[0] == "optax" and type(node).__name__ in _KNOWN
    )


def parts(state: Any, parameters: Collection[str], /) -> tuple[Part, ...]:
    """Every array of a state, in the order of its fields.

    Raises:
        UnsupportedError: an array that stands for a parameter which the model has not.
    """
    walk = _Walk(frozenset(parameters))
    found = tuple(walk.state(state, (), ()))
    if walk.strange:
        shown = ", ".join(map(repr, walk.strange[:3]))
        message = f"the state is of {len(walk.strange)} parameters that the model has not: {shown}"
        hint = "pass the model whose parameters tx.init was given"
        raise errors.UnsupportedError(message, keys=tuple(walk.strange), hint=hint)
    everything = tuple(sorted({name for part in found if part.place for name in part.place.parameters}))
    return tuple(_counting(part, everything) for part in found)


def _counting(part: Part, everything: tuple[str, ...]) -> Part:
    if part.place is None or part.place.slot != "step" or part.place.parameters:
        return part
    return Part(part.key, part.value, part.box, Place("step", everything), part.steps)


class _Walk:
    def __init__(self, parameters: frozenset[str]) -> None:
        self.parameters = parameters
        self.strange: list[str] = []

    def state(self, node: Any, path: tuple[str, ...], steps: tuple[Any, ...]) -> Iterator[Part]:
        name = type(node).__name__
        known = _KNOWN[name] if _is_known(node) else None
        if known is None:
            if _is_leaf(node):
                yield from self._leaf(node, path, steps, None)
                return
            for segment, step, child in _children(node):
                yield from self.state(child, (*path, segment), (*steps, step))
            return
        inside = {
            field: tuple(self._tree(getattr(node, field), (*path, field), (*steps, _field(field)), (), slot))
            for field, slot in known.items()
            if slot not in ("step", "setting")
        }
        counted = dict.fromkeys(
            p for found in inside.values() for part in found if part.place for p in part.place.parameters
        )
        for field in node._fields:
            child, below, way = getattr(node, field), (*path, field), (*steps, _field(field))
            if field in inside:
                yield from inside[field]
            elif field in known:
                whose = () if name in _OF_ALL else tuple(counted)
                yield from self._flat(child, below, way, Place(known[field], whose))
            else:
                yield from self.state(child, below, way)

    def _flat(self, node: Any, path: tuple[str, ...], steps: tuple[Any, ...], place: Place) -> Iterator[Part]:
        if _is_leaf(node):
            yield from self._leaf(node, path, steps, place)
            return
        for segment, step, child in _children(node):
            yield from self._flat(child, (*path, segment), (*steps, step), place)

    def _tree(
        self, node: Any, path: tuple[str, ...], steps: tuple[Any, ...], within: tuple[str, ...], slot: Slot
    ) -> Iterator[Part]:
        """A tree like the parameters; `within` is the path in it."""
        if _is_leaf(node):
            name = self._parameter(within)
            yield from self._leaf(node, path, steps, Place(slot, (name,)) if name is not None else None)
            return
        for segment, step, child in _children(node):
            yield from self._tree(child, (*path, segment), (*steps, step), (*within, segment), slot)

    def _parameter(self, within: tuple[str, ...]) -> str | None:
        whole = keys.join(*within) if within else ""
        short = keys.join(*within[1:]) if len(within) > 1 and within[0] == PARAMS else whole
        for name in (whole, short):
            if name in self.parameters:
                return name
        self.strange.append(whole)
        return None

    def _leaf(self, node: Any, path: tuple[str, ...], steps: tuple[Any, ...], place: Place | None) -> Iterator[Part]:
        box = node if recognise.is_nnx_variable(node) else None
        value = node
        while (inner := _inside(value)) is not None:
            step, value = inner
            steps = (*steps, step)
        yield Part(keys.join(*path), value, box, place, steps)


def _field(name: str) -> Any:
    return jax.tree_util.GetAttrKey(name)


def _is_box(node: object) -> bool:
    return recognise.is_nnx_variable(node) or recognise.is_metadata(node)


def _inside(node: Any) -> tuple[Any, Any] | None:
    """The one thing in a box, and the step to it."""
    if not _is_box(node):
        return None
    (((step, *_), child),) = _level(node)
    return step, child


def _is_leaf(node: Any) -> bool:
    """An array, or a box around one."""
    if _is_box(node):
        return True
    level = _level(node)
    return len(level) == 1 and not level[0][0]


def _level(node: Any) -> list[tuple[tuple[Any, ...], Any]]:
    found, _ = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda child: child is not node)
    return found


def _children(node: Any) -> Iterator[tuple[str, Any, Any]]:
    for (step, *_), child in _level(node):
        name = getattr(step, "name", getattr(step, "key", getattr(step, "idx", None)))
        yield str(name), step, child


def exchanged(state: Any, values: Mapping[tuple[Any, ...], Any], /) -> Any:
    """A state with other arrays at some paths, as `Part.steps` gives them; the old one stays as it is."""
    found, treedef = jax.tree_util.tree_flatten_with_path(state)
    return jax.tree_util.tree_unflatten(treedef, [values.get(steps, value) for steps, value in found])
