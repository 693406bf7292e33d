"""Bisection: both models are run once more while their adapters watch the layers, to find the first that departs.

A layer is named only if it was seen to take what agrees and give what does not. Where the difference is there before a layer
runs, the place between two layers is named; where no layer was seen (compiled code, another model), that is said. Knows no
framework: adapters watch.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from stateregistry import plugins
from stateregistry.conversion.verification import gaps
from stateregistry.conversion.verification.departure import Departure, Where
from stateregistry.conversion.verification.gaps import Gap
from stateregistry.conversion.verification.matching import Matched, Step, match
from stateregistry.errors import StateError
from stateregistry.layers.calls import Observation

if TYPE_CHECKING:
    from stateregistry.conversion.planning.plan import Finding, Plan
    from stateregistry.registry import StateRegistry

#: By how much a difference has to grow in one place to have begun there.
_JUMP = 10.0
#: What arithmetic in another order makes of equal inputs, in steps of the dtype.
_ROUNDING = 8.0
#: How much of the message of a foreign error is told.
_TEXT = 200


@final
@dataclass(frozen=True, slots=True)
class Found:
    """What a bisection found.

    Attributes:
        departure: the first place where the models differ, `None` where it could not be found.
        compared: the layers of `a` and `b` whose calls were compared.
        notes: what was not compared, and why; for people.
    """

    departure: Departure | None = None
    compared: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Run:
    """One model and how it is run.

    Attributes:
        name: `a` or `b`. registry: of the model. function: what runs it. first: what it gave the first time.
    """

    name: str
    registry: StateRegistry
    function: Callable[[], Any]
    first: Any


def bisect(plan: Plan, runs: tuple[Run, Run], differing: Sequence[str], tolerance: float) -> Found:
    """Run both models watched and find the first layer that departs.

    Args:
        runs: of `a` and of `b`.
        differing: target keys whose bits differ.
    """
    seen: list[Observation] = []
    notes: list[str] = []
    for run in runs:
        observation, note = _watched(run, tolerance)
        notes += [note] if note else []
        if observation is None:
            return Found(notes=tuple(notes))
        seen.append(observation)
    matched = match(plan, seen[0], seen[1], tolerance)
    events = [_Event(step, step.inputs(tolerance), step.output(tolerance)) for step in matched.steps]
    compared = tuple(
        dict.fromkeys(
            (one.path, two.path)
            for event in events
            if event.inputs is not None or event.output is not None
            for one, two in event.step.layers
        )
    )
    notes += [*_unseen(runs, seen), *_left_out(matched)]
    departure = _first(plan, events, set(differing), tolerance) if compared else None
    return Found(departure, compared, tuple(notes))


# -------------------------------------------------------------------- watching


def _watched(run: Run, tolerance: float) -> tuple[Observation | None, str]:
    """What was seen of a model while it ran; `None`, and why, where that says nothing of the first run."""
    adapter = plugins.adapters().get(run.registry.adapter)
    if not isinstance(adapter, plugins.SupportsObservation) or not adapter.recognises(run.registry.unwrap()):
        what = run.registry.adapter or type(run.registry).__name__
        return (
            None,
            f"{run.name} cannot be watched while it runs ({what}), so layers were not compared: pass the live model",
        )
    failed = ""
    for compiled in (False, True):
        try:
            with adapter.observe(run.registry, compiled=compiled) as observation:
                result = run.function()
        except Exception as error:  # noqa: BLE001  # the caller's function, which worked unwatched: said, not hidden
            text = f"{type(error).__name__}: {error}".partition("\n")[0]
            failed = failed or f"f{run.name} fails while {run.name} is watched and nothing is compiled: {text[:_TEXT]}"
        else:
            seen, note = _told(run, observation, result, tolerance)
            return seen, "; ".join(filter(None, (note, failed)))
    return None, f"{failed}, so layers were not compared"


def _told(run: Run, observation: Observation, result: Any, tolerance: float) -> tuple[Observation | None, str]:
    with contextlib.suppress(StateError):  # outputs of another structure: whether they are repeated is not known
        again = gaps.outputs(run.first, result)
        if again.share > tolerance:
            return None, (
                f"f{run.name} gives something else the second time ({again}), so layers were not compared: switch off dropout"
                " and whatever else is random or changes state"
            )
    if not observation.calls:
        text = (
            f"no layer of {run.name} was seen while f{run.name} ran, so layers were not compared: it runs another model, or one"
            " that was compiled; call the model un-jitted"
        )
        return None, "; ".join([text, *_reasons(observation.unread)])
    return observation, ""


def _reasons(unread: Mapping[str, str]) -> Iterator[str]:
    """What could not be read, by reason."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in unread.items():
        by_reason.setdefault(reason, []).append(path or "(the model)")
    for reason, paths in by_reason.items():
        more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
        yield f"{', '.join(paths[:5])}{more}: {reason}"


def _unseen(runs: Sequence[Run], seen: Sequence[Observation]) -> Iterator[str]:
    for run, observation in zip(runs, seen, strict=True):
        for reason in _reasons(observation.unread):
            yield f"not seen in {run.name}: {reason}"


def _left_out(matched: Matched) -> Iterator[str]:
    for reason in _reasons(matched.left_out):
        yield f"not compared: {reason}"


# -------------------------------------------------------------------- the first place


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Event:
    """A step with its gaps; `None` where it could not be compared."""

    step: Step
    inputs: Gap | None
    output: Gap | None

    @property
    def noise(self) -> float:
        """What rounding alone may make of equal values, as a share."""
        calls = (*self.step.here, *self.step.there)
        arrays = [call.output for call in calls] + [one for call in calls for one in call.inputs.values()]
        return _ROUNDING * gaps.resolution(*arrays)


@final
@dataclass(frozen=True, slots=True)
class _Point:
    """One thing that was compared: what a step takes, or what it gives.

    Attributes:
        number: of the event. given: it is the input. gap: of it.
        before: the largest share that may have led to it. noise: what rounding may make.
    """

    number: int
    given: bool
    gap: Gap
    before: float
    noise: float

    @property
    def begins(self) -> bool:
        """Whether a difference begins here: it is much larger than whatever led to it, and than rounding."""
        return self.gap.share >= _JUMP * max(self.before, self.noise / 4)


def _points(events: Sequence[_Event]) -> list[_Point]:
    points: list[_Point] = []
    so_far = 0.0
    for number, event in enumerate(events):
        if event.inputs is not None:
            points.append(_Point(number, True, event.inputs, so_far, event.noise))
        if event.output is not None:
            before = so_far if event.inputs is None else event.inputs.share
            points.append(_Point(number, False, event.output, before, event.noise))
        so_far = max(so_far, *(each.share for each in (event.inputs, event.output) if each is not None), 0.0)
    return points


def _first(plan: Plan, events: Sequence[_Event], differing: set[str], tolerance: float) -> Departure:
    points = _points(events)
    passed = next((point for point in points if point.gap.share > tolerance), None)
    tell = _Teller(plan, events, differing)
    if passed is None:
        return tell.after()
    if passed.begins:
        return tell.at(passed)
    before = itertools.takewhile(lambda point: point is not passed, points)
    earlier = next((point for point in before if point.begins), None)
    return tell.gradual(passed) if earlier is None else tell.at(earlier, passes=passed)


@final
class _Teller:
    """Makes the departure of a point."""

    def __init__(self, plan: Plan, events: Sequence[_Event], differing: set[str]) -> None:
        self._plan, self._events, self._differing = plan, events, differing

    def at(self, point: _Point, passes: _Point | None = None) -> Departure:
        """That a difference begins at a point."""
        event = self._events[point.number]
        until = "" if passes is None else _names(self._events[passes.number].step)[0]
        if point.given:
            findings = self._activations()
            return self._made("between", point.number, passes=until, findings=findings)
        where: Where = "layer" if event.inputs is not None else "at or before"
        return self._made(where, point.number, passes=until, findings=self._findings(event.step))

    def gradual(self, point: _Point) -> Departure:
        """That no point stands out before this one passes the tolerance."""
        return self._made("gradual", point.number, findings=self._plan.findings)

    def after(self) -> Departure:
        """That everything that was compared agrees."""
        last = next(event for event in reversed(self._events) if event.output is not None or event.inputs is not None)
        names = _names(last.step)
        return Departure(
            "after", "", "", "", 1, 1, None, None, names, findings=self._activations(), state=self._loose()
        )

    def _made(self, where: Where, number: int, *, passes: str = "", findings: tuple[Finding, ...]) -> Departure:
        event = self._events[number]
        step = event.step
        source, target = _names(step)
        kinds = dict.fromkeys(one.kind for one, _ in step.layers)
        before = [_names(each.step) for each in self._events[:number] if each.output is not None]
        inside = where in ("layer", "at or before")
        return Departure(
            where, source, target, ", ".join(kinds), step.number, step.count,
            None if where == "between" else event.output, event.inputs, before[-1] if before else None, passes,
            findings, self._state(step) if inside else self._loose(), tuple(_remarks(step)) if inside else (),
        )  # fmt: skip

    def _findings(self, step: Step) -> tuple[Finding, ...]:
        paths = {layer.path for _, layer in step.layers}
        return tuple(finding for finding in self._plan.findings if finding.path in paths)

    def _activations(self) -> tuple[Finding, ...]:
        """Findings that are of no layer: functions without state."""
        paths = {layer.path for layer in self._plan.target.layers}
        return tuple(finding for finding in self._plan.findings if finding.path not in paths)

    def _keys(self, step: Step) -> set[str]:
        side = self._plan.target
        return {side.canonical(key) or key for _, layer in step.layers for key in layer.roles.values()}

    def _state(self, step: Step) -> tuple[str, ...]:
        return tuple(sorted(self._keys(step) & self._differing))

    def _loose(self) -> tuple[str, ...]:
        """Keys that differ and belong to no layer that was compared."""
        compared = {key for event in self._events for key in self._keys(event.step)}
        return tuple(sorted(self._differing - compared))


def _names(step: Step) -> tuple[str, str]:
    return ", ".join(one.path for one, _ in step.layers), ", ".join(two.path for _, two in step.layers)


def _remarks(step: Step) -> Iterator[str]:
    modes = step.here[0].mode, step.there[0].mode
    if modes[0] != modes[1]:
        yield f"it runs with {modes[0] or 'nothing said'} in a and with {modes[1] or 'nothing said'} in b"
    hidden = dict.fromkeys(what for call in (*step.here, *step.there) for what in call.unseen)
    if hidden:
        yield f"{', '.join(hidden)}: it was given, and is not compared"
