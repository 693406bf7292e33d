"""Subject: a harness as the checks use it, with blame in the right place.

What the harness itself does wrong is a `HarnessError`; what its framework cannot build makes a case not applicable, unless
the harness declares the capability; a probe that it lacks leaves the case untested. Errors of the adapter pass through.
Imports NumPy and the core.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

import numpy as np

from stateregistry_conformance import samples
from stateregistry_conformance.check import PROFILES
from stateregistry_conformance.declaration import CannotBuild, Declaration, Leaf
from stateregistry_conformance.grounds import Blocked, Fault, Grounds, needed
from stateregistry_conformance.harness import (
    ODD_LAYERS,
    SPECIMENS,
    Harness,
    Specimen,
    SupportsDescription,
    SupportsFault,
    SupportsFingerprint,
    SupportsLayers,
    SupportsRestructure,
    SupportsSpecimens,
    SupportsTrainable,
    SupportsTraining,
)
from stateregistry_conformance.trials.trial import Trials
from stateregistry_conformance.verdict import (
    NOT_INSTALLED,
    FalseClaim,
    HarnessError,
    NotApplicable,
    NotHeld,
    NotTestable,
    Stop,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stateregistry.registry import StateRegistry
    from stateregistry_conformance.trials.case import LayerCase

P = TypeVar("P")

#: What an adapter violates whose use of a model keeps the framework from changing it.
_SPOILERS: Final = ("SR-LIST-009", "SR-WRITE-009")


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
        self._grounds = Grounds(self)
        self._ids: tuple[str, ...] = ()
        self._needs: frozenset[str] = frozenset()
        self._blocked: list[Fault] = []
        self._built: list[tuple[Any, Callable[[], Any]]] = []
        self._used: list[Any] = []
        #: The layers that were tried: each case once.
        self.trials = Trials(self)

    # ---------------------------------------------------------------- grounds

    def begin(self, ids: tuple[str, ...]) -> None:
        """A check of these requirements begins: what it builds must be sound as far as it stands on it."""
        self._ids, self._needs, self._blocked = ids, needed(ids), []
        self._built, self._used = [], []

    def end(self) -> tuple[Blocked, ...]:
        """The check has ended: why it had to leave something out."""
        left = tuple(Blocked(fault) for fault in self._blocked)
        self.begin(())
        return left

    def _spoilt(self, model: Any, door: Callable[[Any], object], error: HarnessError) -> None:
        """Blame the adapter for a side door that fails on a model that it has had, and works on a fresh one like it."""
        again = next((again for one, again in self._built if one is model), None)
        if again is None or not any(one is model for one in self._used):
            return
        try:
            door(again())
        except Exception:  # noqa: BLE001  # it fails on any model: the harness is wrong
            return
        text = f"a native change fails after the registry was used, and does not before: {error}"
        if not self._ids or set(self._ids) & set(_SPOILERS):
            raise NotHeld(text) from error
        raise Blocked(Fault("", _SPOILERS, text)) from error

    def _stand(self, declaration: Declaration) -> None:
        faults = self._grounds.faults(declaration, self._needs, self._ids) if self._needs else ()
        if faults:
            raise Blocked(faults[0])

    # ---------------------------------------------------------------- building

    def build(self, declaration: Declaration) -> Any:
        """A fresh model of what is declared."""
        missing = sorted(declaration.needs() - self.capabilities)
        if missing:
            raise NotApplicable(f"{self.name} does not claim {', '.join(missing)}")
        try:
            with self._blamed("build"):
                model = self.harness.build(declaration)
        except CannotBuild as reason:
            needs = ", ".join(sorted(declaration.needs())) or "the core only"
            raise FalseClaim(f"the harness cannot build what it claims ({needs}): {reason}") from reason
        self._stand(declaration)
        self._built.append((model, lambda: self.harness.build(declaration)))
        return model

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
                model = self.harness.build(declaration)
        except CannotBuild:
            return None
        self._stand(declaration)
        self._built.append((model, lambda: self.harness.build(declaration)))
        return model

    def rich(self) -> Declaration:
        """As much as the framework can hold at once: every dtype, rank, kind and flag that it has.

        Less the places that a check cannot stand on: it is blocked as far as they go.
        """
        if self._rich is None:
            held = tuple(leaf for leaf in samples.rich() if self._holds(leaf))
            self._rich = Declaration(held)
        faults = self._grounds.faults(self._rich, self._needs, self._ids)
        if not faults:
            return self._rich
        self._blocked += faults
        lost = {fault.key for fault in faults}
        left = Declaration(tuple(leaf for leaf in self._rich.leaves if leaf.key not in lost))
        if "" in lost or not left.leaves or self._grounds.faults(left, self._needs, self._ids):
            raise Blocked(faults[0])
        return left

    def _holds(self, leaf: Leaf) -> bool:
        if Declaration((leaf,)).needs() - self.capabilities:
            return False
        try:
            self.try_build(Declaration((leaf,)))
        except CannotBuild:
            return False
        return True

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
                found = probe.specimen(name)
        except CannotBuild as reason:
            return str(reason)
        self._built.append((getattr(found, "model", None), lambda: probe.specimen(name).model))
        return found

    def registry(self, model: Any) -> StateRegistry:
        """The registry under test."""
        self._used.append(model)
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
        try:
            with self._blamed("poke"):
                return self.harness.poke(model, key, value)
        except HarnessError as error:
            self._spoilt(model, lambda fresh: self.harness.poke(fresh, key, value), error)
            raise

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
            faulty = probe.fault(model, key)
        self._built = [(one, again) for one, again in self._built if one is not faulty]  # it is meant to fail
        return faulty

    def train_step(self, model: Any) -> Any:
        """One native step on every trainable parameter."""
        probe = self._probe(SupportsTraining, "train_step")
        try:
            with self._blamed("train_step"):
                return probe.train_step(model)
        except HarnessError as error:
            self._spoilt(model, probe.train_step, error)
            raise

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

    # ---------------------------------------------------------------- layers

    def sound(self) -> None:
        """Nothing, where every place that the framework can hold is listed, read and written as it should be.

        Raises:
            Blocked: it is not, so that nothing can be said of what is made of such places.
        """
        self.rich()
        if self._blocked:
            raise Blocked(self._blocked[0])
        self.build(samples.core())

    def layer_kinds(self) -> frozenset[str]:
        """The layer kinds that the adapter declares, and the wrappers that it knows."""
        probe = self._claimed(SupportsLayers, "build_layer", "layers")
        with self._blamed("layer_kinds"):
            return frozenset(probe.layer_kinds())

    def build_layer(self, case: LayerCase) -> Any:
        """A fresh model that is a layer.

        Raises:
            CannotBuild: the framework has no such thing.
        """
        probe = self._claimed(SupportsLayers, "build_layer", "layers")
        with self._blamed(f"build_layer({case.name!r})"):
            return probe.build_layer(case)

    def layer_forward(self, model: Any, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """What a layer computes, natively."""
        probe = self._claimed(SupportsLayers, "layer_forward", "layers")
        with self._blamed("layer_forward"):
            value = probe.layer_forward(model, inputs)
        if type(value) is not np.ndarray:
            raise HarnessError(f"layer_forward gave a {type(value).__name__}, not a plain array")
        return value

    def odd_layer(self, name: str) -> Specimen:
        """A model of `ODD_LAYERS`; not applicable where the framework has no such thing."""
        assert name in ODD_LAYERS  # a slip of the suite
        probe = self._claimed(SupportsLayers, "odd_layer", "layers")
        try:
            with self._blamed(f"odd_layer({name!r})"):
                return probe.odd_layer(name)
        except CannotBuild as reason:
            raise NotApplicable(str(reason)) from reason

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
            note = NOT_INSTALLED if isinstance(error, ModuleNotFoundError) else ""
            raise HarnessError(f"{what} of the harness raised {type(error).__name__}: {error}", note) from error
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
