"""The conditions of a plan, evaluated before the first byte is written; all that do not hold are reported at once.

Values are looked at piece by piece where the condition is about elements, so that a large one needs no memory.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stateregistry import sources
from stateregistry.casting import Rule, cast
from stateregistry.conversion.planning import spectral, training
from stateregistry.conversion.planning.plan import Condition, Plan, PlanProblem
from stateregistry.conversion.residual import Residual
from stateregistry.conversion.side import Side
from stateregistry.display import counted
from stateregistry.entry import Entry
from stateregistry.errors import CastError, PlanError
from stateregistry.layers import axes
from stateregistry.registry import StateRegistry
from stateregistry.streaming.pieces import equal, pieces
from stateregistry.streaming.task import Origin


def check(plan: Plan, source: StateRegistry) -> None:
    """Evaluate every condition.

    Raises:
        PlanError: some do not hold.
    """
    asked = [condition for condition in plan.conditions if not _settled(condition, plan.residual, source)]
    failed = [text for condition in asked if (text := _broken(condition, source, plan.target))]
    if failed:
        problems = tuple(PlanProblem("condition", keys, text) for keys, text in failed)
        lines = "\n".join(f"  {problem}" for problem in problems)
        keys = tuple(dict.fromkeys(key for problem in problems for key in problem.keys))
        message = f"{counted(len(problems), 'condition')} of the plan failed, nothing was written\n{lines}"
        raise PlanError(message, plan=replace(plan, problems=problems), keys=keys)


def _settled(condition: Condition, residual: Residual | None, source: StateRegistry) -> bool:
    """Whether what a residual kept makes a condition needless."""

    def value(key: str) -> np.ndarray | None:
        return sources.value(source, key) if key in source or key in source.aliases else None

    return (
        residual is not None
        and bool(condition.unless)
        and all(key in residual.records and residual.records[key].fresh(value) for key in condition.unless)
    )


def _compared(condition: Condition, source: StateRegistry, target: Side) -> list[np.ndarray]:
    """The values that have to be equal, as they reach their place."""
    arrays = [sources.value(source, key) for key in condition.keys]
    if not condition.patterns:
        return arrays
    shape = target.entries[condition.target].shape
    return [
        axes.derive(left, array.shape, right, shape).apply(array) if left else array
        for array, (left, right) in zip(arrays, condition.patterns, strict=True)
    ]


def _broken(condition: Condition, source: StateRegistry, target: Side) -> tuple[tuple[str, ...], str] | None:
    if condition.test == "equal":
        if not condition.patterns and len({(source[key].shape, source[key].dtype) for key in condition.keys}) == 1:
            first_origin, *rest = (_origin(source, key) for key in condition.keys)
            same = all(equal(first_origin, other) for other in rest)
            return None if same else (condition.keys, "they hold different bits and become one place")
        first, *others = _compared(condition, source, target)
        same = all((o.dtype, o.shape, o.tobytes()) == (first.dtype, first.shape, first.tobytes()) for o in others)
        return None if same else (condition.keys, "they hold different bits and become one place")
    key = condition.keys[0]
    if condition.test == "converged":
        arrays = [sources.value(source, feed.key) for feed in condition.feeds]
        text = spectral.apart(*condition.iterations, condition.feeds, arrays)
        return (condition.keys, f"{text}; {condition.reason}") if text else None
    if condition.test == "counts":
        text = training.miscounted([sources.value(source, name) for name in condition.keys], condition.dtype)
        return (condition.keys, text) if text else None
    if condition.test == "zero":
        bound = axes.bind(condition.axes, source[key].shape)
        if np.any(bound.expand(sources.value(source, key))[condition.part]):
            return condition.keys, f"{condition.part or 'it'} is not zero, so this is impossible: {condition.reason}"
        return None
    wanted = replace(source[key], dtype=condition.dtype, trainable=False)
    rule: Rule = "lossless" if condition.lossless else "same_kind"
    if _fits(source, key, wanted, rule):
        return None
    try:  # asked again of the whole, which says how many values and where
        cast({key: sources.value(source, key)}, {key: wanted}, rule)
    except CastError as error:
        return condition.keys, error.message
    return None


def _fits(source: StateRegistry, key: str, wanted: Entry, rule: Rule) -> bool:
    try:
        for piece in pieces(_origin(source, key)):
            cast({key: piece}, {key: replace(wanted, shape=piece.shape)}, rule)
    except CastError:
        return False
    return True


def _origin(source: StateRegistry, key: str) -> Origin:
    place = sources.place(source, key)
    return place if place is not None else sources.held(source.view(key))
