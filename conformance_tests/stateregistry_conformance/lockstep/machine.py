"""The machine: Hypothesis writes programs for `Lockstep`, and one that fails is shortened and printed.

A search is a function of the profile: the same seed gives the same programs, nothing is remembered between runs, no clock
decides. Shortening replays the literal program with calls left out, which is cheaper than shrinking what was drawn.
Imports the standard library; Hypothesis when a search begins.
"""

from __future__ import annotations

import contextlib
import io
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

from stateregistry_conformance.lockstep.driver import ABSENT, HOT, Found, Lockstep
from stateregistry_conformance.lockstep.values import FAULTS, WORDS
from stateregistry_conformance.verdict import Stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateregistry_conformance.check import Profile
    from stateregistry_conformance.harness import Harness

#: One call of a program: the method of `Lockstep`, and its arguments, all literals.
Call: TypeAlias = "tuple[str, tuple[Any, ...]]"

_SUITE: Final = Path(__file__).resolve().parents[1]
#: How often a program that fails is run again at most, to make it shorter.
_REPLAYS: Final = 150


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """A program at whose last call adapter and oracle disagree.

    Attributes:
        requirement: the one that is broken.
        claim: what was expected and found.
        program: the calls.
    """

    requirement: str
    claim: str
    program: tuple[Call, ...]

    def text(self, named: str) -> str:
        """The program as Python that can be pasted; `named` is what `find_harness` takes."""
        lines = [f"run.{name}({', '.join(map(repr, arguments))})" for name, arguments in self.program]
        return "\n".join(
            (
                "from stateregistry_conformance.lockstep import Lockstep",
                "from stateregistry_conformance.runner import find_harness",
                f"run = Lockstep(find_harness({named!r}))",
                *lines,
                "",
            )
        )


def search(harness: Callable[[], Harness], profile: Profile) -> Finding | None:
    """The first program of a profile on which an adapter and the oracle disagree, shortened; `None` where all agree.

    Raises:
        HarnessError: the harness itself fails.
    """
    from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
    from hypothesis.stateful import run_state_machine_as_test

    failures: list[tuple[BaseException, list[Call]]] = []
    machine = seed(profile.seed)(_machine(harness, failures))
    chosen = settings(
        max_examples=profile.examples,
        stateful_step_count=profile.steps,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        derandomize=False,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            run_state_machine_as_test(machine, settings=chosen)
    except KeyboardInterrupt:
        raise
    except BaseException:
        # Hypothesis runs a failing example again and says whether it failed alike; the first failure is what counts.
        if not failures:
            raise
    if not failures:
        return None
    error, program = failures[0]
    found = _found(error)
    if found is None:
        raise error
    return _shortened(harness, Finding(found.requirement, found.claim, tuple(program)))


def _found(error: BaseException) -> Found | None:
    """What an error says about the adapter; `None` where it is the harness's or ours."""
    if isinstance(error, Found):
        return error
    if isinstance(error, Stop) or not isinstance(error, Exception):
        return None
    where = traceback.extract_tb(error.__traceback__)[-1].filename
    if Path(where).resolve().is_relative_to(_SUITE):
        return None
    return Found("SR-ERR-004", f"the registry raised {type(error).__name__}: {error}")


def run(harness: Callable[[], Harness], program: tuple[Call, ...]) -> Found | None:
    """Run a program; what it finds."""
    lockstep = Lockstep(harness())
    try:
        for name, arguments in program:
            getattr(lockstep, name)(*arguments)
    except Exception as error:
        found = _found(error)
        if found is None:
            raise
        return found
    return None


def _shortened(harness: Callable[[], Harness], finding: Finding) -> Finding:
    """Leave out as many calls and keys as possible, as long as the same requirement is found broken."""
    best, replays = finding, 0

    def shorter(program: tuple[Call, ...]) -> bool:
        nonlocal best, replays
        if replays >= _REPLAYS:
            return False
        replays += 1
        found = run(harness, program)
        if found is None or found.requirement != finding.requirement:
            return False
        best = Finding(found.requirement, found.claim, program)
        return True

    size = max(1, (len(best.program) - 1) // 2)
    while size:
        at = 1  # the first call is the start
        while at < len(best.program):
            if not shorter(best.program[:at] + best.program[at + size :]):
                at += size
        size //= 2
    for at, (name, arguments) in enumerate(best.program):
        for place, argument in enumerate(arguments):
            for key in argument if isinstance(argument, dict) else ():
                kept = {other: value for other, value in best.program[at][1][place].items() if other != key}
                call = (name, (*best.program[at][1][:place], kept, *arguments[place + 1 :]))
                shorter((*best.program[:at], call, *best.program[at + 1 :]))
    return best


def _machine(harness: Callable[[], Harness], failures: list[tuple[BaseException, list[Call]]]) -> type:  # noqa: C901  # rules of one machine share its state
    """The state machine over a harness; the first failure and the program that led to it go to `failures`."""
    from hypothesis import strategies as st
    from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

    names = Lockstep(harness()).names()
    # What is tied, nearly the same, or scalar comes up more often; a tenth of the names of `some` is never there.
    known = st.sampled_from([*names, *[name for name in HOT if name in names] * 2])
    some = st.one_of(*[known] * 9, st.sampled_from(ABSENT))
    number = st.integers(0, 63)
    good = st.one_of(number, number, number, st.sampled_from(WORDS), known.map(lambda name: f"={name}"))
    anything = st.one_of(good, good, st.sampled_from(FAULTS))
    model = st.integers(0, 1)
    truth = st.sampled_from([False, False, True])

    class Machine(RuleBasedStateMachine):
        """Every rule is one call of `Lockstep`, which compares."""

        snapshots: Any = Bundle("snapshots")

        def __init__(self) -> None:
            super().__init__()
            self.lockstep = Lockstep(harness())
            self.program: list[Call] = []
            self.broken = False

        def call(self, name: str, *arguments: Any) -> None:
            """Make a call and write it down."""
            self.program.append((name, arguments))
            try:
                getattr(self.lockstep, name)(*arguments)
            except BaseException as error:
                self.broken = True
                failures.append((error, self.program))
                raise

        def taken(self) -> int:
            """The number of the snapshot taken last."""
            return self.lockstep.snapshots - 1

        @initialize(target=snapshots)
        def start(self) -> int:
            self.call("start")
            return self.taken()

        @rule(at=model, given=st.dictionaries(known, good, min_size=1, max_size=4))
        def replace(self, at: int, given: dict[str, Any]) -> None:
            self.call("replace", at, given)

        @rule(at=model, given=st.dictionaries(some, anything, max_size=4))
        def replace_anything(self, at: int, given: dict[str, Any]) -> None:
            self.call("replace", at, given)

        @rule(at=model, snapshot=snapshots)
        def load(self, at: int, snapshot: int) -> None:
            self.call("load", at, snapshot)

        @rule(
            at=model,
            snapshot=snapshots,
            changes=st.dictionaries(some, st.one_of(anything, st.just("-")), max_size=3),
            allow=st.sampled_from([(), ("missing",), ("unexpected",), ("missing", "unexpected")]),
        )
        def load_anything(self, at: int, snapshot: int, changes: dict[str, Any], allow: tuple[str, ...]) -> None:
            self.call("load", at, snapshot, changes, allow)

        @rule(at=model, mask=st.dictionaries(known, truth, min_size=1, max_size=3))
        def freeze(self, at: int, mask: dict[str, Any]) -> None:
            self.call("freeze", at, mask)

        @rule(at=model, mask=st.dictionaries(some, st.one_of(truth, st.sampled_from(["no", 1, None])), max_size=3))
        def freeze_anything(self, at: int, mask: dict[str, Any]) -> None:
            self.call("freeze", at, mask)

        @rule(at=model, mask=st.dictionaries(known, truth, min_size=1, max_size=3), number=number, snapshot=snapshots)
        def freeze_and_write(self, at: int, mask: dict[str, Any], number: int, snapshot: int) -> None:
            self.call("freeze", at, mask)
            self.call("replace", at, dict.fromkeys(mask, number))
            self.call("load", at, snapshot)

        @rule(at=model, name=known, number=number)
        def poke(self, at: int, name: str, number: int) -> None:
            self.call("poke", at, name, number)

        @rule(at=model, name=known, on=st.booleans())
        def flag(self, at: int, name: str, on: bool) -> None:  # the value of the flag
            self.call("flag", at, name, on)

        @rule(at=model)
        def train(self, at: int) -> None:
            self.call("train", at)

        @rule(at=model, number=st.integers(0, 2))
        def add(self, at: int, number: int) -> None:
            self.call("add", at, number)

        @rule(
            at=model, name=st.sampled_from([n for n in ("w", "ws", "net/W", "a/v", "tail", "layers/2/k") if n in names])
        )
        def drop(self, at: int, name: str) -> None:
            self.call("drop", at, name)

        @rule(at=model)
        def reopen(self, at: int) -> None:
            self.call("reopen", at)

        @rule(at=model, target=snapshots)
        def snapshot(self, at: int) -> int:
            self.call("snapshot", at)
            return self.taken()

        @rule(at=model, name=some)
        def look(self, at: int, name: str) -> None:
            self.call("look", at, name)

        @rule(at=model, number=number)
        def write_on_the_way(self, at: int, number: int) -> None:
            self.call("write_on_the_way", at, number)

        @rule(at=model, numbers=st.lists(number, min_size=1, max_size=3))
        def round_trip(self, at: int, numbers: list[int]) -> None:
            self.call("round_trip", at, numbers)

        def teardown(self) -> None:
            if not self.broken and self.program:
                self.call("finish")

    return Machine
