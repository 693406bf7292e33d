"""Verdicts: what a check says about the requirements that it decides, one row per requirement.

A check declares its ids; an id about which it said nothing is `untested`, which is not conformant. So a return on the way, a
swallowed assertion or a skip cannot pass: only `passed()`, called after at least one assertion, does. The first assertion that
does not hold ends the check, so that one root cause is one failure. Imports NumPy and the core.
"""

from __future__ import annotations

import enum
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import numpy as np

from stateregistry import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@final
class Status(enum.Enum):
    """What became of one requirement in one check, or in all of them together."""

    PASS = "pass"
    FAIL = "fail"
    #: The suite or the harness broke, or the process ended: nothing is known about the adapter.
    ERROR = "error"
    #: It failed, and the author's list of known failures says so. Still a failure for a level.
    EXPECTED_FAIL = "expected-fail"
    #: The author's list of known failures says that it fails, and it does not, or no longer counts.
    STALE = "stale"
    #: The adapter does not claim the capability, or its framework cannot build the case.
    NOT_APPLICABLE = "not-applicable"
    #: No check came to a verdict.
    UNTESTED = "untested"


#: The note of a row: the harness needs a package that is not installed.
NOT_INSTALLED = "missing-package"
#: How the detail of a row begins whose check ended at another of its requirements.
NOT_REACHED = "the check ended before it: "
#: How the note of a row begins that could not be decided because a more basic requirement is broken: then come their ids.
BLOCKED_BY = "blocked-by "
LINE = "\n"

#: Which of several verdicts on one requirement counts: the first of these that is among them.
_WORST_FIRST = (
    Status.FAIL, Status.ERROR, Status.STALE, Status.UNTESTED, Status.EXPECTED_FAIL, Status.PASS, Status.NOT_APPLICABLE,
)  # fmt: skip


def combined(statuses: list[Status]) -> Status:
    """The verdict of several checks on one requirement; `UNTESTED` for none."""
    return next((status for status in _WORST_FIRST if status in statuses), Status.UNTESTED)


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One verdict: a requirement, the check that gave it, and why.

    Attributes:
        requirement: its id; empty for a verdict on the harness itself.
        detail: what was expected and found, or the reason of a verdict that is not a pass.
        repro: for a failure, a text to paste that runs the same check again.
        layer: the layer of the check.
        blame: whose fault it is, `adapter`, `harness` or `suite`; empty where nobody is to blame.
        note: for programs: what became of a capability that is not claimed (`stateregistry_conformance.claims`), or
            `BLOCKED_BY` and the requirements of which at least one is broken.
        seconds: how long the check took; two rows that differ in it only are equal.
    """

    requirement: str
    check: str
    status: Status
    detail: str = ""
    repro: str = ""
    layer: str = "directed"
    blame: str = ""
    note: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def blockers(self) -> frozenset[str]:
        """The requirements of which one is broken, so that this one could not be tried; none where it was tried."""
        blocked = self.note.startswith(BLOCKED_BY)
        return frozenset(self.note.removeprefix(BLOCKED_BY).split()) if blocked else frozenset()


class Stop(Exception):  # noqa: N818  # it ends a check; only some of its kinds are errors
    """Ends a check with a status for the requirements that it has not decided yet."""

    status = Status.ERROR
    blame = "suite"


@final
class NotHeld(Stop):
    """An assertion about the subject does not hold."""

    status = Status.FAIL
    blame = "adapter"


@final
class FalseClaim(Stop):
    """The harness claims a capability that it does not have."""

    status = Status.FAIL
    blame = "harness"


@final
class NotApplicable(Stop):
    """The case cannot arise for this harness, for the reason given."""

    status = Status.NOT_APPLICABLE
    blame = ""

    def __init__(self, reason: str, note: str = "") -> None:
        super().__init__(reason)
        self.note = note


@final
class NotTestable(Stop):
    """The harness lacks a probe that the case needs, or hides that its framework has the case."""

    status = Status.UNTESTED
    blame = "harness"

    def __init__(self, reason: str, note: str = "") -> None:
        super().__init__(reason)
        self.note = note


@final
class HarnessError(Stop):
    """The harness itself is wrong: nothing is said about the adapter."""

    status = Status.ERROR
    blame = "harness"

    def __init__(self, reason: str, note: str = "") -> None:
        super().__init__(reason)
        self.note = note


@final
class Verdict:
    """Collects the verdicts of one check."""

    def __init__(self, ids: tuple[str, ...]) -> None:
        self._ids = ids
        self._assertions = 0
        self.note = ""
        self.statuses: dict[str, tuple[Status, str]] = {}

    # ---------------------------------------------------------------- assertions

    def holds(self, condition: object, claim: str) -> None:
        """Assert; `claim` says what should be, and what is instead."""
        self._assertions += 1
        if not condition:
            raise NotHeld(claim)

    def equal(self, found: Any, expected: Any, what: str) -> None:
        """Assert `found == expected`."""
        self._assertions += 1
        if not found == expected:
            raise NotHeld(f"{what}: expected {_short(expected)}, found {_short(found)}")

    def same(self, found: Any, expected: np.ndarray, what: str) -> None:
        """Assert the same bits: shape, dtype and bytes."""
        self.holds(isinstance(found, np.ndarray), f"{what}: expected an array, found a {type(found).__name__}")
        self.equal(found.shape, expected.shape, f"{what}: shape")
        self.equal(found.dtype.name, expected.dtype.name, f"{what}: dtype")
        if _bytes(found) != _bytes(expected):
            raise NotHeld(f"{what}: the bits differ: expected {_short(expected)}, found {_short(found)}")

    def same_state(self, found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], what: str) -> None:
        """Assert the same keys and the same bits under each."""
        self.equal(sorted(found), sorted(expected), f"{what}: keys")
        for key in sorted(expected):
            self.same(found[key], expected[key], f"{what}: {key!r}")

    def lists(self, registry: Mapping[str, Any], expected: Mapping[str, Any], what: str) -> None:
        """Assert the entries of a registry, as its listing gives them and as its lookup does."""
        self.equal(dict(registry.items()), dict(expected), what)
        self.equal({key: registry[key] for key in expected}, dict(expected), f"{what}, looked up one by one")

    def finds(self, registry: Mapping[str, Any], expected: Mapping[str, Any], what: str) -> None:
        """Assert the entries of some keys, as the listing gives them and as lookups do, whatever else is listed."""
        listed = dict(registry.items())
        self.equal({key: listed.get(key) for key in expected}, dict(expected), what)
        self.equal({key: registry.get(key) for key in expected}, dict(expected), f"{what}, looked up one by one")

    @contextmanager
    def refuses(self, expected: type[Exception] | tuple[type[Exception], ...], what: str) -> Iterator[Refusal]:
        """Assert that the block raises one of the errors; the object yielded has it as `.error` afterwards."""
        refusal = Refusal()
        names = expected.__name__ if isinstance(expected, type) else " or ".join(e.__name__ for e in expected)
        try:
            yield refusal
        except Stop:
            raise
        except Exception as error:
            text = f"{what}: expected {names}, found {type(error).__name__}: {_short(str(error))}"
            if not isinstance(error, expected):
                raise NotHeld(text) from error
            self._assertions += 1
            refusal.error = error
        else:
            raise NotHeld(f"{what}: expected {names}, nothing was raised")

    def refusal(self, action: Callable[[], object], expected: type[Exception], what: str) -> Any:
        """The error of the class expected that the call raises."""
        with self.refuses(expected, what) as refusal:
            action()
        return refusal.error

    def report(self, error: Any) -> Any:
        """The report that an error carries."""
        found = getattr(error, "report", None)
        self.holds(found is not None, f"the {type(error).__name__} carries a report")
        return found

    # ---------------------------------------------------------------- verdicts

    def passed(self) -> None:
        """Every id that was not decided yet is met. The last line of a check."""
        if not self._assertions:
            raise RuntimeError("a check passed without one assertion: this is a bug of the suite")
        for name in self._ids:
            self.statuses.setdefault(name, (Status.PASS, ""))

    def blocked(self, reason: str, note: str) -> None:
        """What was met as far as it was tried is untested: a part could not be tried."""
        self.note = note
        for name, (status, _) in self.statuses.items():
            if status is Status.PASS:
                self.statuses[name] = (Status.UNTESTED, reason)

    def not_applicable(self, requirement: str, reason: str) -> None:
        """One of several ids cannot arise for this harness."""
        self.statuses.setdefault(requirement, (Status.NOT_APPLICABLE, reason))

    def stop(self, status: Status, detail: str) -> None:
        """End: the first id that was not decided gets the status, the others were not reached."""
        undecided = [name for name in self._ids if name not in self.statuses]
        for number, name in enumerate(undecided):
            reached = number == 0 or status is Status.NOT_APPLICABLE
            text = detail if reached else f"{NOT_REACHED}{detail.partition(LINE)[0]}"
            self.statuses[name] = (status if reached else Status.UNTESTED, text)

    def close(self) -> None:
        """Whatever was not decided is untested."""
        failed = [detail for status, detail in self.statuses.values() if status is Status.FAIL]
        why = f"{NOT_REACHED}{failed[0].partition(LINE)[0]}" if failed else "the check ended without a verdict"
        for name in self._ids:
            self.statuses.setdefault(name, (Status.UNTESTED, why))


@final
class Refusal:
    """Holds the error that a block raised."""

    error: Any = errors.StateError("nothing was raised")


def _bytes(array: np.ndarray) -> bytes:
    dtype = array.dtype if array.dtype.isnative else array.dtype.newbyteorder("=")
    return np.array(array, dtype=dtype, order="C", copy=True).tobytes()


def _short(value: object) -> str:
    if isinstance(value, np.ndarray):
        some = np.array(value).reshape(-1)[:20].tolist()
        text = f"{value.dtype}{list(value.shape)} {some!r}" + (" ..." if value.size > 20 else "")
    else:
        text = repr(value)
    return text if len(text) <= 300 else text[:300] + " ..."
