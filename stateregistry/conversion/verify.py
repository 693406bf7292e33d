"""Verification: do two models hold the same state, bit for bit through the plan, and do they compute the same.

Compares every entry that the plan moves, one value at a time; what cannot be compared is listed, never left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from stateregistry import sources
from stateregistry.conversion.api import RulesLike, planned
from stateregistry.conversion.execute import Converted
from stateregistry.conversion.plan import ALLOW, Plan
from stateregistry.errors import StateError


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
class Verification:
    """What a comparison through a plan found.

    Attributes:
        plan: the plan that says what corresponds to what.
        equal_entries: how many entries are equal bit for bit.
        differences: those that are not.
        not_compared: entries without a counterpart, with the reason.
        output_difference, output_scale: the largest absolute difference of the outputs and the largest magnitude in
            them; `None` where no forward pass was given.
    """

    plan: Plan
    equal_entries: int
    differences: tuple[Difference, ...]
    not_compared: Mapping[str, str]
    output_difference: float | None = None
    output_scale: float | None = None

    @property
    def equal(self) -> bool:
        """Every entry that has a counterpart holds its bits, and at least one was compared."""
        return not self.differences and self.equal_entries > 0

    def outputs_equal(self, tolerance: float = 1e-5) -> bool:
        """Whether the outputs differ by at most `tolerance` of their scale.

        Raises:
            StateError: no forward pass was given.
        """
        if self.output_difference is None or self.output_scale is None:
            raise StateError("outputs were not compared", hint="verify with forward=(fa, fb, inputs)")
        return self.output_difference <= tolerance * self.output_scale

    def __str__(self) -> str:
        verdict = "EQUAL" if self.equal else "DIFFERENT"
        lines = [f"{verdict}: {self.equal_entries} entries equal bit for bit, {len(self.differences)} differ"]
        lines += [f"  {difference}" for difference in self.differences[:20]]
        lines += [f"  not compared: {key}: {why}" for key, why in list(self.not_compared.items())[:20]]
        if self.output_difference is not None:
            lines.append(f"  outputs differ by at most {self.output_difference:.3g}, scale {self.output_scale:.3g}")
        return "\n".join(lines)


def verify(
    a: Any,
    b: Any,
    *,
    plan: Plan | None = None,
    rules: RulesLike = None,
    forward: tuple[Callable[..., Any], Callable[..., Any], Any] | None = None,
) -> Verification:
    """Compare the state of `b` with what the plan makes of the state of `a`.

    Args:
        a, b: registries, native objects or paths.
        plan: the plan that made `b`; by default one is made, with `rules`.
        forward: `(fa, fb, inputs)`: both are called with `inputs` (a tuple is spread) and their outputs, arrays or
            nested sequences and mappings of arrays, are compared.

    Raises:
        PlanError: the two do not correspond.
    """
    with contextlib.ExitStack() as stack:
        here, there = stack.enter_context(sources.resolved(a)), stack.enter_context(sources.resolved(b))
        if plan is None:
            accepted = [name for name in ALLOW if name not in ("missing", "unexpected")]
            plan = planned(here, there, None, rules, accepted, None, None)
        plan.require()
        made = Converted(plan, here, there)
        equal, differences, skipped = 0, [], {}
        for move in plan.moves:
            if move.op not in ("copy", "sum"):
                skipped[move.keys[0]] = move.reason or move.op
                continue
            expected, found = made.view(move.target), there.view(move.target)
            if (expected.dtype, expected.shape, expected.tobytes()) == (found.dtype, found.shape, found.tobytes()):
                equal += 1
            else:
                differences.append(_difference(", ".join(move.keys[:-1]), move.target, expected, found))
    outputs = (None, None) if forward is None else _outputs(*forward)
    return Verification(plan, equal, tuple(differences), skipped, *outputs)


def _difference(source: str, target: str, a: np.ndarray, b: np.ndarray) -> Difference:
    with np.errstate(all="ignore"):
        wide = np.complex128 if a.dtype.kind == "c" else np.float64
        gap = np.abs(a.astype(wide) - b.astype(wide))
    bits = (np.ascontiguousarray(x).reshape(-1).view(np.uint8).reshape(-1, a.dtype.itemsize) for x in (a, b))
    left, right = bits
    return Difference(source, target, int((left != right).any(axis=1).sum()), float(gap.max()) if gap.size else 0.0)


def _outputs(fa: Callable[..., Any], fb: Callable[..., Any], inputs: Any) -> tuple[float, float]:
    args = inputs if isinstance(inputs, tuple) else (inputs,)
    left, right = dict(_leaves(fa(*args))), dict(_leaves(fb(*args)))
    if left.keys() != right.keys():
        raise StateError(f"the outputs have different structure: {sorted(left)} against {sorted(right)}")
    largest = scale = 0.0
    for path, one in left.items():
        two = right[path]
        if one.shape != two.shape:
            raise StateError(f"output {path or '(all)'} has shape {one.shape} against {two.shape}")
        if one.size:
            gap = np.abs(one - two)
            largest = max(largest, float("inf") if np.isnan(gap).any() else float(gap.max()))
            scale = max(scale, float(np.abs(one).max()))
    return largest, scale


def _leaves(output: Any, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(output, Mapping):
        for name, value in output.items():
            yield from _leaves(value, f"{path}/{name}")
    elif isinstance(output, Sequence) and not isinstance(output, (str, bytes)):
        for number, value in enumerate(output):
            yield from _leaves(value, f"{path}/{number}")
    else:
        array = np.asarray(output.detach() if hasattr(output, "detach") else output)
        yield path, array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
