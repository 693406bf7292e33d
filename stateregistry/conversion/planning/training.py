"""Training: how the state of an optimizer moves, from how the parameters of its model do.

An optimizer works element by element, so what it keeps of a parameter goes wherever the elements of the parameter go:
transposed, split, joined, stacked. What a plan of parameters adds up, fills or computes has no such way: one bias in the place
of two moves half as fast as both. That is refused, never approximated. Counts of updates become one another where they agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from stateregistry.conversion.planning import casts
from stateregistry.conversion.planning.plan import ALLOW, Condition, Feed, Finding, Move, Plan, PlanProblem
from stateregistry.entry import DTYPES, Entry, numpy_dtype
from stateregistry.errors import PlanError

if TYPE_CHECKING:
    import numpy as np

    from stateregistry.conversion.rules.rules import Rules
    from stateregistry.conversion.side import Side, Training
    from stateregistry.optimizers import Place

#: Where a finding about hyper-parameters stands: no layer has such a path.
OPTIMIZER: Final = "(the optimizer)"
_WHY: Final = {
    "sum": "the parameter is a sum of several that are trained one by one, which together move in larger steps",
    "fill": "the parameter has no counterpart that was trained: its values are filled in",
    "keep": "the parameter has no counterpart that was trained: its values are kept",
    "compute": "the parameter is computed from others",
}

_NEVER: Final = "the source's optimizer has made no update of this parameter: there is nothing to continue"


def continued(
    source: Side,
    target: Side,
    rules: Rules,
    allow: Collection[str],
    dtype: str | None,
    make: Callable[..., Plan],
) -> Plan:
    """The plan from the state of one optimizer to that of another; `make` plans between their models.

    Raises:
        PlanError: one side is the state of an optimizer and the other that of a model.
    """
    if source.training is None or target.training is None:
        message = "one side is the state of an optimizer, the other that of a model"
        hint = "pass registries of two optimizers: sr.of(optimizer, model=net) and sr.of(opt_state, model=variables)"
        raise PlanError(message, plan=None, hint=hint)
    # What becomes of buffers and of parameters that stay behind is asked of the models; here of what is trained.
    lenient = (set(ALLOW) - {"assumption"}) | set(allow)
    models = make(source.training.model, target.training.model, rules=rules, allow=lenient, dtype="target")
    lift = _Lift(source, target, source.training, target.training, models, dtype)
    lift.run()
    problems = [*models.problems, *(problem for problem in lift.problems if problem.problem not in allow)]
    return Plan(
        source, target, tuple(lift.moves), tuple(dict.fromkeys(problems)), tuple(dict.fromkeys(lift.conditions)),
        tuple(_settings(source.training.settings, target.training.settings)), rules, tuple(sorted(set(allow))), dtype,
    )  # fmt: skip


class _Lift:
    """The moves of one optimizer, from those of its model."""

    def __init__(
        self, source: Side, target: Side, here: Training, there: Training, models: Plan, dtype: str | None
    ) -> None:
        self.source, self.target, self.here, self.there, self.dtype = source, target, here, there, dtype
        self.ways = {move.target: move for move in models.moves if move.target}
        self.found = {(place.slot, name): key for key, place in here.places.items() for name in place.parameters}
        self.moves: list[Move] = []
        self.problems: list[PlanProblem] = []
        self.conditions: list[Condition] = []
        self.used: set[str] = set()

    def run(self) -> None:
        for key, entry in self.target.entries.items():
            place = self.there.places.get(key)
            if place is None:
                self._keep(key, "nothing says what this is of which parameter")
            elif place.slot == "setting":
                self.moves.append(Move("keep", key, reason="a hyper-parameter of the target's optimizer"))
            elif place.slot in ("step", "tally"):
                self._count(key, entry, place)
            else:
                self._move(key, entry, place)
        for key in self.source.entries:
            if key not in self.used:
                self._leave(key)
        for key, reason in self.source.opaque.items():
            self.problems.append(PlanProblem("unexpected", (key,), reason))

    def _keep(self, key: str, reason: str) -> None:
        self.moves.append(Move("keep", key, reason=reason))
        self.problems.append(PlanProblem("missing", (key,), reason, "allow=('missing',) keeps what the target has"))

    def _leave(self, key: str) -> None:
        place = self.here.places.get(key)
        reason = "a hyper-parameter of the source's optimizer" if place is not None and place.slot == "setting" else ""
        if place is not None and place.slot in ("step", "tally"):
            reason = "the target counts no updates here"
        self.moves.append(Move("drop", "", (Feed(key),), reason=reason or "the target's optimizer has no place for it"))
        if not reason:
            text = "the target's optimizer has no place for it"
            self.problems.append(PlanProblem("unexpected", (key,), text, "allow=('unexpected',) leaves it out"))

    def _move(self, key: str, entry: Entry, place: Place) -> None:
        (name,) = place.parameters
        way = self.ways.get(name)
        if way is None or way.op != "copy" or way.zeros:
            self._refuse(key, place, way)
            return
        feeds = [replace(feed, key=mine) for feed in way.sources if (mine := self.found.get((place.slot, feed.key)))]
        if len(feeds) != len(way.sources):
            lacking = [feed.key for feed in way.sources if (place.slot, feed.key) not in self.found]
            self._keep(key, f"the source's optimizer keeps no {_words(place.slot)} of {', '.join(lacking)}")
            return
        self.used.update(feed.key for feed in feeds)
        if any(not self.source.entries[feed.key].concrete for feed in feeds):
            self._keep(key, _NEVER)
            return
        move = replace(way, target=key, sources=tuple(feeds), cast="", cls="exact", residual="", anchors=(), reason="")
        for feed in feeds:
            cast = casts.plan_cast(feed.key, key, self.source.entries[feed.key].dtype, entry.dtype, self.dtype)
            if cast.problem is not None:
                self.problems.append(cast.problem)
                self.moves.append(Move("keep", key))
                return
            self.conditions += cast.conditions
            move = casts.applied(move, cast)
        self.moves.append(move)

    def _refuse(self, key: str, place: Place, way: Move | None) -> None:
        op = "keep" if way is None else way.op
        if op == "keep":
            self._keep(key, _WHY["keep"])
            return
        why = _WHY["fill" if op == "copy" else op]
        self.moves.append(Move("keep", key, reason=why))
        feeds = way.sources if way is not None else ()
        mine = tuple(found for feed in feeds if (found := self.found.get((place.slot, feed.key))))
        self.used.update(mine)
        self.problems.append(PlanProblem("impossible", (*mine, key), why, "begin the optimizer anew for this model"))

    def _count(self, key: str, entry: Entry, place: Place) -> None:
        """The updates that a count of the target stands for: what the source counted for the same parameters."""
        mine: dict[str, None] = {}
        for name in place.parameters:
            way = self.ways.get(name)
            for feed in way.sources if way is not None else ():
                counter = self.found.get(("step", feed.key)) or self.found.get(("tally", feed.key))
                if counter is not None:
                    mine[counter] = None
        self.used.update(mine)
        made = [each for each in mine if self.source.entries[each].concrete]
        if not made and place.slot == "tally":
            self.moves.append(
                Move("keep", key, reason="the source's optimizer counts no updates, and no rule reads it")
            )
            return
        if not made:
            self._keep(key, _NEVER if mine else "the source's optimizer counts no updates")
            return
        self.conditions.append(Condition("counts", tuple(made), dtype=entry.dtype))
        self.moves.append(Move("compute", key, tuple(map(Feed, made)), formula="count"))


def _words(slot: str) -> str:
    return slot.replace("_", " ")


def _settings(source: Mapping[str, object], target: Mapping[str, object]) -> list[Finding]:
    """Hyper-parameters in which both differ, one by one, and those of the source that the target does not show, at once."""
    found = [
        Finding(
            OPTIMIZER, name, source[name], target[name], "training", f"set {name} of the target's to {source[name]!r}"
        )
        for name in source
        if name in target and source[name] != target[name] and not _rounded(source[name], target[name])
    ]
    unseen = ", ".join(f"{name}={value!r}" for name, value in source.items() if name not in target)
    if unseen:
        hint = "the target's optimizer must have been made with these: its own cannot be read"
        found.append(Finding(OPTIMIZER, "settings", unseen, "not to be seen", "training", hint))
    return found


def _rounded(one: object, two: object) -> bool:
    """Whether two numbers are one, kept in float32 on one side."""
    return isinstance(one, float) and isinstance(two, float) and math.isclose(one, two, rel_tol=1e-6)


# -------------------------------------------------------------------- values


def miscounted(counts: Sequence[np.ndarray | None], dtype: str) -> str:
    """Why counts of updates are not one count in a dtype; empty if they are."""
    values = sorted({float(count) for count in counts if count is not None})
    if len(values) != 1:
        return f"they count {values[0]:g} to {values[-1]:g} updates, and the target has one count for all"
    (value,) = values
    if value != value // 1 or value < 0:
        return f"{value!r} is no number of updates"
    unfit = casts.cannot_hold(value, dtype)
    if unfit:
        return f"{value:g} {unfit}"
    return "" if DTYPES[dtype] >= 4 or value < 256 else f"{dtype} does not hold every count up to {value:g}"


def counted(counts: Sequence[np.ndarray], entry: Entry) -> np.ndarray:
    """One count in the dtype and shape of an entry; `miscounted` was asked before."""
    import numpy as np

    return np.full(entry.shape, float(counts[0]), numpy_dtype(entry.dtype))
