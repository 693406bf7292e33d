"""Verification: do two models hold the same state, bit for bit through the plan, and do they compute the same.

Compares every entry that the plan moves, one value at a time, and every condition that the plan has; what cannot be compared
is listed, never left out. Where outputs differ, the first layer that departs is looked for and named.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from stateregistry import sources
from stateregistry.conversion.api import RulesLike, planned
from stateregistry.conversion.execution import conditions
from stateregistry.conversion.execution.converted import Converted
from stateregistry.conversion.planning.plan import ALLOW, Plan
from stateregistry.conversion.verification import gaps
from stateregistry.conversion.verification.bisect import Found, Run, bisect
from stateregistry.conversion.verification.departure import Departure
from stateregistry.conversion.verification.gaps import TOLERANCE, Gap, number
from stateregistry.display import Displayed, counted
from stateregistry.errors import PlanError, StateError

if TYPE_CHECKING:
    from stateregistry.registry import StateRegistry

SCHEMA: Final = "stateregistry.verify/1"
#: Names of `allow` that a comparison does not take for granted: they leave entries out of it.
LEFT_OUT: Final = ("missing", "unexpected")
_SHOWN: Final = 20


@final
@dataclass(frozen=True, slots=True)
class Difference:
    """One entry whose bits differ: how many elements, and the largest absolute difference (`nan` where undefined)."""

    source: str
    target: str
    elements: int
    largest: float

    def __str__(self) -> str:
        return f"{self.target} <- {self.source}: {self.elements} elements differ, by at most {self.largest:.3g}"


@final
@dataclass(frozen=True, slots=True)
class Verification(Displayed):
    """What a comparison through a plan found.

    Attributes:
        plan: the plan that says what corresponds to what.
        equal_entries: how many entries are equal bit for bit.
        differences: those that are not.
        not_compared: entries without a counterpart, with the reason.
        output_difference, output_scale: the largest absolute difference of the outputs and the largest finite magnitude in
            them, of several outputs those of the one that differs most; `None` where no forward pass was given.
        outputs_skipped: why outputs say nothing although a forward pass was given: all of them are NaN; empty otherwise.
        unmet: conditions of the plan that the values of `a` do not meet: what they exclude cannot be in `b`.
        first_departure: where the models begin to compute something else; `None` where outputs agree, or nothing could be
            seen, which `notes` says.
        compared_layers: the layers of `a` and of `b` whose calls were compared to find it.
        notes: what was not seen or not compared on the way, and why.
    """

    plan: Plan
    equal_entries: int
    differences: tuple[Difference, ...]
    not_compared: Mapping[str, str]
    output_difference: float | None = None
    output_scale: float | None = None
    unmet: tuple[str, ...] = ()
    first_departure: Departure | None = None
    compared_layers: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    outputs_skipped: str = ""

    @property
    def equal(self) -> bool:
        """Every entry that has a counterpart holds its bits, every condition holds, and at least one was compared."""
        return not self.differences and not self.unmet and self.equal_entries > 0

    def outputs_equal(self, tolerance: float = TOLERANCE) -> bool:
        """Whether the outputs differ by at most `tolerance` of their scale.

        Raises:
            StateError: no forward pass was given, or its outputs say nothing.
        """
        if self.outputs_skipped:
            message = f"outputs were not compared: {self.outputs_skipped}"
            raise StateError(message, hint="give inputs for which both models compute numbers")
        if self.output_difference is None or self.output_scale is None:
            raise StateError("outputs were not compared", hint="verify with forward=(fa, fb, inputs)")
        return self.output_difference <= tolerance * self.output_scale

    def __str__(self) -> str:
        verdict = "EQUAL" if self.equal else "DIFFERENT"
        lines = [f"{verdict}: {counted(self.equal_entries, 'entry')} equal bit for bit, {len(self.differences)} differ"]
        lines += _cut([str(difference) for difference in self.differences])
        lines += _cut([f"a condition does not hold: {text}" for text in self.unmet])
        lines += _cut([f"not compared: {key}: {why}" for key, why in self.not_compared.items()])
        if self.outputs_skipped:
            lines.append(f"  outputs were not compared: {self.outputs_skipped}")
        if self.output_difference is not None and self.output_scale is not None:
            lines.append(f"  outputs differ by at most {Gap(self.output_difference, self.output_scale)}")
        if self.first_departure is not None:
            lines.append(
                f"first departure, of {counted(len(self.compared_layers), 'layer', 'that was', 'that were')} compared:"
            )
            lines += [f"  {line}" for line in str(self.first_departure).splitlines()]
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same as a dict of JSON types, with `schema` and `equal`; the plan by its digest."""
        outputs = None
        if self.output_difference is not None and self.output_scale is not None:
            outputs = {"difference": number(self.output_difference), "scale": number(self.output_scale)}
        return {
            "schema": SCHEMA,
            "equal": self.equal,
            "plan": self.plan.digest(),
            "equal_entries": self.equal_entries,
            "differences": [
                {"a": d.source, "b": d.target, "elements": d.elements, "max_abs": number(d.largest)}
                for d in self.differences
            ],
            "not_compared": dict(self.not_compared),
            "unmet": list(self.unmet),
            "outputs": outputs,
            "outputs_skipped": self.outputs_skipped,
            "first_departure": None if self.first_departure is None else self.first_departure.to_json(),
            "compared_layers": [list(pair) for pair in self.compared_layers],
            "notes": list(self.notes),
        }


def _cut(lines: list[str]) -> list[str]:
    more = [f"  ... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [f"  {line}" for line in lines[:_SHOWN]] + more


def verify(
    a: Any,
    b: Any,
    *,
    plan: Plan | None = None,
    rules: RulesLike = None,
    allow: Collection[str] = (),
    forward: tuple[Callable[..., Any], Callable[..., Any], Any] | None = None,
    tolerance: float = TOLERANCE,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Compare the state of `b` with what the plan makes of the state of `a`, and what the two compute.

    Values are compared by their bits; of a file that carries digests, each is held against its own first. Outputs are
    compared as numbers: equal NaNs and equal infinities at one place are equal; a NaN on one side alone is an infinite
    difference. Outputs without one finite number say nothing, and are `outputs_skipped`.

    If outputs differ by more than `tolerance` of their scale, both functions are called a second time while the layers of `a`
    and `b` are watched (torch: hooks; Linen: intercepted methods; NNX: wrapped classes; JAX then compiles nothing, which is
    slow), and the first layer that departs is `first_departure`. Of layers, only those that the plan pairs are compared:
    activations by the names of their axes, so that channels may be first or last; every call of a layer with the same call.
    Their values are all kept until that is done: give a small batch.

    Args:
        a, b: registries, native objects or paths.
        plan: the plan that made `b`; by default one is made, with `rules` and `allow`.
        rules: as `plan`.
        allow: `missing`, `unexpected`: what has no counterpart is left out and listed. All else that a plan asks leave for is
            taken: whether it was right is what bits show.
        forward: `(fa, fb, inputs)`: both are called with `inputs` (a tuple is spread) and their outputs, arrays or
            nested sequences, mappings and dataclasses of arrays, are compared. They run `a` and `b`, in evaluation.
        tolerance: the share of the scale that outputs and activations may differ by. The default is for float32; with
            16-bit values it has to be larger.
        progress: called with bytes compared and bytes in all.

    Raises:
        PlanError: the two do not correspond. StateError: their outputs have different structures or shapes.
        FileFormatError: a file that carries digests is not what was written: what is damaged is listed.
    """
    with contextlib.ExitStack() as stack:
        here, there = stack.enter_context(sources.resolved(a)), stack.enter_context(sources.resolved(b))
        if plan is None:
            accepted = [name for name in ALLOW if name not in LEFT_OUT]
            plan = planned(here, there, None, rules, (*accepted, *_names(allow)), None, None)
        plan.require()
        for side in (here, there):
            sources.refuse_damaged(side)
        equal, differences, skipped = _state(plan, here, there, progress)
        unmet = _unmet(plan, here)
        outputs, found, skipped_outputs = None, Found(), ""
        if forward is not None:
            outputs, found, skipped_outputs = _outputs(
                plan, here, there, forward, [each.target for each in differences], tolerance
            )
    return Verification(
        plan, equal, tuple(differences), skipped, None if outputs is None else outputs.difference,
        None if outputs is None else outputs.scale, unmet, found.departure, found.compared, found.notes,
        skipped_outputs,
    )  # fmt: skip


def _names(allow: Collection[str]) -> Collection[str]:
    if isinstance(allow, str):
        raise PlanError(
            f"allow= takes a collection of names, not {allow!r}", plan=None, hint=f"write allow=({allow!r},)"
        )
    return allow


# -------------------------------------------------------------------- state


def _state(
    plan: Plan, here: StateRegistry, there: StateRegistry, progress: Callable[[int, int], None] | None
) -> tuple[int, list[Difference], dict[str, str]]:
    """How many entries are equal, those that are not, and those that have no counterpart."""
    made = Converted(plan, here, there)
    compared = ("copy", "sum", "compute")
    moved = [move for move in plan.moves if move.op in compared]
    skipped = {move.keys[0]: move.reason or move.op for move in plan.moves if move.op not in compared}
    total = sum(plan.target.entries[move.target].nbytes for move in moved)
    equal, done, differences = 0, 0, []
    for move in moved:
        expected, found = made.view(move.target), sources.value(there, move.target)
        difference = _difference(", ".join(dict.fromkeys(move.keys[:-1])), move.target, expected, found)
        if difference is None:
            equal += 1
        else:
            differences.append(difference)
        done += plan.target.entries[move.target].nbytes
        if progress is not None:
            progress(done, total)
    return equal, differences, skipped


def _unmet(plan: Plan, here: StateRegistry) -> tuple[str, ...]:
    try:
        conditions.check(plan, here)
    except PlanError as error:
        return tuple(map(str, error.plan.problems)) if error.plan is not None else (error.message,)
    return ()


def _difference(source: str, target: str, a: np.ndarray, b: np.ndarray) -> Difference | None:
    left, right = _bytes(a), _bytes(b)
    if (a.dtype.newbyteorder("="), a.shape) == (b.dtype.newbyteorder("="), b.shape) and np.array_equal(left, right):
        return None
    with np.errstate(all="ignore"):
        wide = np.complex128 if a.dtype.kind == "c" else np.float64
        gap = np.abs(a.astype(wide) - b.astype(wide))
    return Difference(source, target, int((left != right).any(axis=1).sum()), float(gap.max()) if gap.size else 0.0)


def _bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of every element, in native order."""
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return native.reshape(-1).view(np.uint8).reshape(-1, array.dtype.itemsize)


# -------------------------------------------------------------------- outputs


def _outputs(
    plan: Plan,
    here: StateRegistry,
    there: StateRegistry,
    forward: tuple[Callable[..., Any], Callable[..., Any], Any],
    differing: list[str],
    tolerance: float,
) -> tuple[Gap | None, Found, str]:
    """The gap of the outputs and, where it is too large, what the layers show; no gap but why, where they say nothing.

    Raises:
        StateError: the outputs cannot be compared; the message says where the models depart, if that was found.
    """
    try:
        fa, fb, inputs = forward
    except (TypeError, ValueError) as error:
        message = f"forward= takes (fa, fb, inputs), two functions and what both are called with, not {_shown(forward)}"
        raise StateError(message, hint="write forward=(lambda x: ..., lambda x: ..., inputs)") from error
    args = inputs if isinstance(inputs, tuple) else (inputs,)
    runs = _run("a", here, fa, args), _run("b", there, fb, args)
    try:
        found = gaps.outputs(runs[0].first, runs[1].first)
    except StateError as error:
        departure = bisect(plan, runs, differing, tolerance).departure
        if departure is not None:
            error.add_note(f"first departure: {departure}")
        raise
    if nothing := gaps.without_numbers(runs[0].first, runs[1].first):
        return None, Found(), nothing
    if found.difference <= tolerance * found.scale:
        return found, Found(), ""
    return found, bisect(plan, runs, differing, tolerance), ""


def _run(name: str, registry: StateRegistry, function: Callable[..., Any], args: tuple[Any, ...]) -> Run:
    return Run(name, registry, lambda: function(*_own(args)), function(*_own(args)))


def _shown(value: Any) -> str:
    return counted(len(value), "value") if isinstance(value, tuple | list) else type(value).__name__


def _own(value: Any) -> Any:
    """Inputs whose NumPy arrays nobody else has: a model that works in place must not change what the other is given."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) is tuple or type(value) is list:
        return type(value)(_own(each) for each in value)
    return {name: _own(each) for name, each in value.items()} if type(value) is dict else value
