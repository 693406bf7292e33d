"""The moves of a plan as recipes for the engine: where elements lie on both sides, derived from the declared axes.

`Bound.expand` takes an array apart into views; of an array that has strides and no memory it gives just the offsets and
strides of every part. So the algebra stays the only place that knows layouts. What is not a rearrangement of source
elements (a kept value, a record of a residual, sources of several dtypes) is computed whole and taken from memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import as_strided

from stateregistry import sources
from stateregistry.conversion.execution.converted import Converted, rule_of
from stateregistry.conversion.planning.plan import Move, Plan
from stateregistry.entry import Entry, numpy_dtype
from stateregistry.layers.axes import Assembly, Bound
from stateregistry.streaming.geometry import Group, group, whole
from stateregistry.streaming.task import Origin, Recipe


def recipes(plan: Plan, result: Converted) -> Callable[[str], Recipe]:
    """The recipe of every key of the target, made when it is asked for."""
    known: dict[int, tuple[Assembly, tuple[Group, ...]]] = {}  # equal moves of axes are one object

    def groups_of(assembly: Assembly) -> tuple[Group, ...]:
        if id(assembly) not in known:
            known[id(assembly)] = (assembly, geometry(assembly))
        return known[id(assembly)][1]

    def recipe(key: str) -> Recipe:
        entry, move = plan.target.entries[key], result.move(key)
        if move.op == "fill" and not result.restores(move):
            value = np.full((), move.value, numpy_dtype(entry.dtype))
            return Recipe((sources.held(np.broadcast_to(value, entry.shape)),), _as_it_is(entry))
        if move.op in ("copy", "sum") and not result.restores(move):
            made = _rearranged(plan, result, move, entry, groups_of)
            if made is not None:
                return made
        return Recipe((sources.held(result.view(key)),), _as_it_is(entry))

    return recipe


def positions(plan: Plan, result: Converted) -> Callable[[str], tuple[str, int]]:
    """Where reading begins for every key: a pass over the source is ordered by it."""

    def position(key: str) -> tuple[str, int]:
        feeds = result.move(key).sources
        place = sources.place(result.source, feeds[0].key) if feeds else None
        return (place.path, place.extents[0][0]) if place is not None and place.extents else ("", 0)

    return position


def _as_it_is(entry: Entry) -> tuple[Group, ...]:
    return (whole(max(1, math.prod(entry.shape))),)


def _rearranged(
    plan: Plan, result: Converted, move: Move, entry: Entry, groups_of: Callable[[Assembly], tuple[Group, ...]]
) -> Recipe | None:
    """The recipe of a copy or a sum; `None` where it is more than a rearrangement of elements of one dtype."""
    found = {plan.source.entries[feed.key].dtype for feed in move.sources}
    if len(found) != 1 or (found != {entry.dtype} and not move.cast):
        return None
    assembly = move.assembly(plan.source, plan.target)
    feeds = move.sources[:1] if assembly is None else move.sources
    if math.prod(entry.shape) == 0:
        groups: tuple[Group, ...] = ()
    elif assembly is None:
        groups = _as_it_is(entry)
    else:
        groups = groups_of(assembly)
    count = sum(one.count for one in groups)
    if count != math.prod(entry.shape):
        return None
    cast = rule_of(plan, move) if move.cast and found != {entry.dtype} else ""
    return Recipe(tuple(_origin(result, feed.key) for feed in feeds), groups, cast)


def _origin(result: Converted, key: str) -> Origin:
    place = sources.place(result.source, key)
    return place if place is not None else sources.held(sources.value(result.source, key))


def geometry(assembly: Assembly) -> tuple[Group, ...]:
    """Where every element of the target lies, and where it comes from. No array of the assembly is empty."""
    target = _expanded(assembly.target)
    taken = [_expanded(bound)[feed.part] for bound, feed in assembly.sources]
    groups = []
    for part, (shape, out, steps) in target.items():
        feeds = [
            (number, start, strides)
            for number, ((_, feed), (_, start, strides)) in enumerate(zip(assembly.sources, taken, strict=True))
            if feed.into == part
        ]
        groups.append(group(shape, (out, steps), feeds))
    return tuple(groups)


def _expanded(bound: Bound) -> dict[str, tuple[tuple[int, ...], int, tuple[int, ...]]]:
    """Shape, first element and strides of every neutral part, in elements."""
    steps = [math.prod(bound.shape[axis + 1 :]) for axis in range(len(bound.shape))]
    nothing = as_strided(np.zeros(1, np.uint8), bound.shape, steps)  # one byte wide: strides are elements; never read
    base = nothing.__array_interface__["data"][0]
    return {
        part: (view.shape, view.__array_interface__["data"][0] - base, view.strides)
        for part, view in bound.expand(nothing).items()
    }
