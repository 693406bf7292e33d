"""Subject: a harness as the checks use it, with blame in the right place.

What the harness itself does wrong is a `HarnessError`; what its framework cannot build makes a case not applicable, unless
the harness declares the capability; a probe that it lacks leaves the case untested. Errors of the adapter pass through.
Imports NumPy and the core.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, final

import numpy as np

from stateregistry_conformance import samples
from stateregistry_conformance.check import PROFILES
from stateregistry_conformance.declaration import CannotBuild, Declaration, Leaf
from stateregistry_conformance.harness import (
    SPECIMENS,
    Harness,
    Specimen,
    SupportsDescription,
    SupportsFault,
    SupportsFingerprint,
    SupportsRestructure,
    SupportsSpecimens,
    SupportsTrainable,
    SupportsTraining,
)
from stateregistry_conformance.verdict import FalseClaim, HarnessError, NotApplicable, NotTestable, Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stateregistry.registry import StateRegistry

P = TypeVar("P")


@final
class Subject:
    """The adapter under test, through its harness.

    Args:
        trace: is told what is about to be called, and the empty text when it has returned.
        alone: nobody presses keys in this process, so that a `KeyboardInterrupt` is the harness's own.
    """

    def __init__(self, harness: Harness, *, trace: Callable[[str], None] | None = None, alone: bool = False) -> None:
        self.harness = harness
        self.alone = alone
        self._trace = trace or _nobody
        self.name = harness.name
        #: How the harness is found again, for programs that are printed.
        self.named = harness.name
        self.capabilities = frozenset(harness.capabilities)
        self._rich: Declaration | None = None

    # ---------------------------------------------------------------- building

    def build(self, declaration: Declaration) -> Any:
        """A fresh model of what is declared."""
        missing = sorted(declaration.needs() - self.capabilities)
        if missing:
            raise NotApplicable(f"{self.name} does not claim {', '.join(missing)}")
        try:
            with self._blamed("build"):
                return self.harness.build(declaration)
        except CannotBuild as reason:
            needs = ", ".join(sorted(declaration.needs())) or "the core only"
            raise FalseClaim(f"the harness cannot build what it claims ({needs}): {reason}") from reason

    def try_build(self, declaration: Declaration) -> Any:
        """A fresh model, whatever the harness claims.

        Raises:
            CannotBuild: the framework has no such thing.
        """
        with self._blamed("build"):
            return self.harness.build(declaration)

    def can_build(self, declaration: Declaration) -> Any | None:
        """A fresh model, `None` where the framework has no such thing (odd names, odd combinations)."""
        if declaration.needs() - self.capabilities:
            return None
        try:
            with self._blamed("build"):
                return self.harness.build(declaration)
        except CannotBuild:
            return None

    def rich(self) -> Declaration:
        """As much as the framework can hold at once: every dtype, rank, kind and flag that it has."""
        if self._rich is None:
            held = tuple(leaf for leaf in samples.rich() if self.can_build(Declaration((leaf,))) is not None)
            self._rich = Declaration(held)
        return self._rich

    def specimen(self, name: str) -> Specimen:
        """An odd model of `SPECIMENS`; not applicable where the framework has no such thing."""
        found = self.can_specimen(name)
        if isinstance(found, str):
            raise NotApplicable(found)
        return found

    def can_specimen(self, name: str) -> Specimen | str:
        """An odd model of `SPECIMENS`, or the reason why the framework has no such thing."""
        assert name in SPECIMENS  # a slip of the suite
        probe = self._probe(SupportsSpecimens, "specimen")
        try:
            with self._blamed(f"specimen({name!r})"):
                return probe.specimen(name)
        except CannotBuild as reason:
            return str(reason)

    def registry(self, model: Any) -> StateRegistry:
        """The registry under test."""
        self._trace("registry")
        try:
            return self.harness.registry(model)
        finally:
            self._trace("")

    # ---------------------------------------------------------------- side doors

    def peek(self, model: Any, key: str) -> np.ndarray:
        """The value of a place, natively."""
        with self._blamed("peek"):
            value = self.harness.peek(model, key)
        if type(value) is not np.ndarray:  # a subclass may have a `==` and bytes of its own
            raise HarnessError(f"peek({key!r}) gave a {type(value).__name__}, not a plain array")
        return value

    def peek_all(self, model: Any, declaration: Declaration) -> dict[str, np.ndarray]:
        """The value of every concrete place under every key and alias, natively."""
        names = [leaf.key for leaf in declaration.leaves if leaf.concrete]
        names += [alias for alias, target in declaration.ties.items() if declaration.leaf(target).concrete]
        return {key: self.peek(model, key) for key in sorted(names)}

    def poke(self, model: Any, key: str, value: np.ndarray) -> Any:
        """Write natively; returns the model."""
        with self._blamed("poke"):
            return self.harness.poke(model, key, value)

    def cell(self, model: Any, key: str) -> object:
        """The native object that is the place."""
        with self._blamed("cell"):
            return self.harness.cell(model, key)

    def cells(self, model: Any, declaration: Declaration) -> dict[str, object]:
        """The native objects of all places, by key and alias."""
        return {key: self.cell(model, key) for key in sorted([*(x.key for x in declaration.leaves), *declaration.ties])}

    def fault(self, model: Any, key: str) -> Any:
        """A model whose native write of a place raises."""
        probe = self._claimed(SupportsFault, "fault", "fault")
        with self._blamed("fault"):
            return probe.fault(model, key)

    def train_step(self, model: Any) -> Any:
        """One native step on every trainable parameter."""
        probe = self._probe(SupportsTraining, "train_step")
        with self._blamed("train_step"):
            return probe.train_step(model)

    @property
    def trains(self) -> bool:
        """Whether the harness has `train_step`."""
        return isinstance(self.harness, SupportsTraining)

    def peek_trainable(self, model: Any, key: str) -> bool:
        """The native flag."""
        probe = self._claimed(SupportsTrainable, "peek_trainable", "native_trainable")
        with self._blamed("peek_trainable"):
            return bool(probe.peek_trainable(model, key))

    def poke_trainable(self, model: Any, key: str, *, flag: bool) -> Any:
        """Set the native flag; returns the model."""
        probe = self._claimed(SupportsTrainable, "poke_trainable", "native_trainable")
        with self._blamed("poke_trainable"):
            return probe.poke_trainable(model, key, flag)

    def add(self, model: Any, leaf: Leaf) -> Any:
        """Add a place natively."""
        probe = self._probe(SupportsRestructure, "add")
        with self._blamed("add"):
            return probe.add(model, leaf)

    def drop(self, model: Any, key: str) -> Any:
        """Remove a place natively."""
        probe = self._probe(SupportsRestructure, "drop")
        with self._blamed("drop"):
            return probe.drop(model, key)

    def describe(self, model: Any, key: str) -> object:
        """Everything about a native cell but its value: at least its type."""
        kind = type(self.cell(model, key))
        if not isinstance(self.harness, SupportsDescription):
            return kind
        with self._blamed("describe"):
            return kind, self.harness.describe(model, key)

    def fingerprint(self, model: Any) -> object:
        """What looking must not change; nothing where the harness does not say."""
        if not isinstance(self.harness, SupportsFingerprint):
            return None
        with self._blamed("fingerprint"):
            return self.harness.fingerprint(model)

    # ---------------------------------------------------------------- blame

    def _probe(self, protocol: type[P], name: str) -> P:
        if not isinstance(self.harness, protocol):
            raise NotTestable(f"the harness has no {name}")
        return self.harness

    def _claimed(self, protocol: type[P], name: str, capability: str) -> P:
        if capability not in self.capabilities:
            raise NotApplicable(f"{self.name} does not claim {capability}")
        if not isinstance(self.harness, protocol):
            raise FalseClaim(f"the harness claims {capability} and has no {name}")
        return self.harness

    @contextmanager
    def _blamed(self, what: str) -> Iterator[None]:
        # Also what derives from BaseException alone: a skip of a test runner must not look like a verdict.
        self._trace(what)
        try:
            yield
        except (CannotBuild, Stop):
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and not self.alone:
                raise
            raise HarnessError(f"{what} of the harness raised {type(error).__name__}: {error}") from error
        finally:
            self._trace("")


def smoke(harness: Harness) -> None:
    """Refuse a harness that is wrong by itself, before anything is said about its adapter.

    Raises:
        HarnessError: what the first smoke check that does not pass says; those in which the adapter takes part are left out.
    """
    from stateregistry_conformance.smoke import LENIENT, SMOKE, members  # uses this module
    from stateregistry_conformance.verdict import Verdict

    members(harness)
    subject = Subject(harness)
    for one in SMOKE.values():
        if one.name in LENIENT:
            continue
        try:
            one.decide(subject, Verdict(one.ids), PROFILES["quick"])
        except NotApplicable:
            continue
        except FalseClaim as error:
            raise HarnessError(str(error)) from error


def _nobody(_what: str, /) -> None:
    """Who is told where nobody wants to know."""
