"""Lying harnesses: the adapter behind them is the correct reference, and nothing that they say can be relied on.

A run over one of them must end in a verdict that blames the harness, and never in a level. Some end, crash, hang or rewrite
the process: these have a `hazard` and are for a process of their own, where `mutants.liars:l_exits` names one. Imports the
NumPy reference and the vocabulary of the suite; `pytest` only where a lie is about it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from mutants import hazards
from mutants.lying import Liar, Liars
from mutants.support import BUFFER, F32, PARAMETER, PLAIN, TIED, accepted, bits, error_of, noise, one, shown
from stateregistry.registry import StateRegistry
from stateregistry_conformance.capabilities import CAPABILITIES
from stateregistry_conformance.declaration import CannotBuild, Declaration, Leaf
from stateregistry_conformance.harness import Harness, Specimen
from stateregistry_numpy.harness import FrozenHarness, MutableHarness

LIARS = Liars()
liar = LIARS.liar


def all_liars() -> tuple[Liar, ...]:
    """Every liar."""
    return (*LIARS, *hazards.LIARS)


def honest() -> Harness:
    """The harness that all of them pretend to be."""
    return MutableHarness()


def __getattr__(name: str) -> Harness:
    if name == "l_cannot_be_imported":
        raise ImportError("this harness needs a framework that is not installed")
    for one_of_them in all_liars():
        if one_of_them.id.replace("-", "_") == name:
            return one_of_them.harness()
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


_HALF = one(noise((3,), "bfloat16"))
_OTHER = noise((3,), seed=9)


# ---------------------------------------------------------------------------------------------------------- capabilities


@liar(
    "l-claims-a-capability",
    "Declares `dtype.bfloat16`, since the framework has it, and cannot build it.",
    lie=lambda h: shown(
        "dtype.bfloat16" in h.capabilities and isinstance(error_of(lambda: h.build(_HALF)), CannotBuild)
    ),
)
class ClaimsACapability(MutableHarness):
    def build(self, declaration: Declaration, /) -> Any:
        if any(leaf.entry.dtype == "bfloat16" for leaf in declaration.leaves):
            raise CannotBuild("bfloat16 is for another day")
        return super().build(declaration)


@liar(
    "l-claims-ties",
    "Declares `ties` and builds copies: nothing that is written to one is seen at the other.",
    lie=lambda h: shown(
        bits(h.peek(h.poke(h.build(TIED), "tail", noise((2, 3), seed=9)), "head/w")) == bits(TIED.leaves[0].value)
    ),
)
class ClaimsTies(MutableHarness):
    def build(self, declaration: Declaration, /) -> Any:
        copies = [
            Leaf(
                alias,
                leaf.kind,
                leaf.value,
                trainable=leaf.trainable,
                persistent=leaf.persistent,
                concrete=leaf.concrete,
            )
            for alias in declaration.ties
            for leaf in [declaration.leaf(alias)]
        ]
        return super().build(Declaration((*declaration.leaves, *copies)))


@liar(
    "l-disclaims-ties",
    "Says that the framework has no ties, so that nobody asks; `build` makes them without trouble.",
    lie=lambda h: shown("ties" not in h.capabilities and accepted(lambda: h.build(TIED))),
)
class DisclaimsTies(MutableHarness):
    capabilities = frozenset(CAPABILITIES) - {"ties"}


@liar(
    "l-disclaims-everything",
    "Claims no capability at all over a framework that has every one: a clean report with nothing in it.",
    lie=lambda h: shown(not h.capabilities and accepted(lambda: h.build(_HALF))),
)
class DisclaimsEverything(MutableHarness):
    capabilities = frozenset()


@liar(
    "l-invents-a-capability",
    "Claims `dtype.int4`, which the vocabulary does not have.",
    lie=lambda h: shown(h.capabilities - set(CAPABILITIES)),
)
class InventsACapability(MutableHarness):
    capabilities = frozenset(CAPABILITIES) | {"dtype.int4"}


@liar(
    "l-changes-its-capabilities",
    "Claims everything when it is asked first, for the header of the report, and nothing when it matters.",
    lie=lambda h: shown(h.capabilities != h.capabilities),  # two questions, two answers
)
class ChangesItsCapabilities(MutableHarness):
    asked = 0

    @property
    def capabilities(self) -> frozenset[str]:
        self.asked += 1
        return frozenset(CAPABILITIES) if self.asked % 2 else frozenset()


@liar(
    "l-fault-that-does-not-fail",
    "Claims `fault` and returns a model that works: rolling back is never put to the test.",
    lie=lambda h: shown(accepted(lambda: h.registry(h.fault(h.build(PLAIN), "enc/b")).replace({"enc/b": _OTHER}))),
)
class FaultThatDoesNotFail(MutableHarness):
    def fault(self, model: Any, key: str, /) -> Any:
        return model


# ----------------------------------------------------------------------------------------------------------------- build


@liar(
    "l-one-model-for-all",
    "Building is slow, so the model of a declaration is kept: what one check writes the next one finds.",
    lie=lambda h: shown(h.build(PLAIN) is h.build(PLAIN)),
)
class OneModelForAll(MutableHarness):
    def build(self, declaration: Declaration, /) -> Any:
        kept: dict[tuple[str, ...], Any] = self.__dict__.setdefault("kept", {})
        names = tuple((leaf.key, leaf.entry) for leaf in declaration.leaves)
        return kept.setdefault((names, tuple(declaration.ties.items())), super().build(declaration))


@liar(
    "l-new-models-with-old-arrays",
    "Every model is new and all of them share their arrays: a fresh module over cached weights.",
    lie=lambda h: shown(_second_model_follows(h)),
)
class NewModelsWithOldArrays(MutableHarness):
    def build(self, declaration: Declaration, /) -> Any:
        arrays: dict[int, np.ndarray] = self.__dict__.setdefault("arrays", {})
        self.__dict__.setdefault("alive", []).append(declaration)
        model = super().build(declaration)
        for key, cell in model.cells():
            if cell.concrete:
                cell.array = arrays.setdefault(id(declaration.leaf(key)), cell.array)
        return model


def _second_model_follows(harness: Harness) -> bool:
    first, second = harness.build(PLAIN), harness.build(PLAIN)
    harness.poke(first, "enc/b", _OTHER)
    followed = bits(harness.peek(second, "enc/b")) == bits(_OTHER)
    harness.poke(first, "enc/b", PLAIN.values()["enc/b"])
    return followed


@liar(
    "l-builds-zeros",
    "The shapes are right and every value is zero: whatever is lost on the way cannot be told from what was there.",
    lie=lambda h: shown(not h.peek(h.build(PLAIN), "enc/w").any()),
)
class BuildsZeros(MutableHarness):
    def build(self, declaration: Declaration, /) -> Any:
        model = super().build(declaration)
        for _, cell in model.cells():
            if cell.concrete:
                cell.array[...] = np.zeros(cell.shape, cell.dtype)
        return model


@liar(
    "l-builds-something-easier",
    "Whatever is asked for, a model of two plain weights is built.",
    lie=lambda h: shown(len(h.registry(h.build(_HALF))) != 1),
)
class BuildsSomethingEasier(MutableHarness):
    def build(self, declaration: Declaration, /) -> Any:
        return super().build(PLAIN)


@liar(
    "l-cannot-build-anything",
    "`CannotBuild` for everything: no check runs, and a careless report has no failure.",
    lie=lambda h: shown(isinstance(error_of(lambda: h.build(PLAIN)), CannotBuild)),
)
class CannotBuildAnything(MutableHarness):
    def build(self, declaration: Declaration, /) -> Any:
        raise CannotBuild("the framework is not in the mood")

    def specimen(self, name: str, /) -> Specimen:
        raise CannotBuild("nor for specimens")


@liar(
    "l-build-raises",
    "`build` raises what the framework raises, for every declaration.",
    lie=lambda h: shown(isinstance(error_of(lambda: h.build(PLAIN)), RuntimeError)),
)
class BuildRaises(MutableHarness):
    def build(self, declaration: Declaration, /) -> Any:
        raise RuntimeError("no device found")


# ------------------------------------------------------------------------------------------------------------ side doors


@liar(
    "l-peeks-through-the-adapter",
    "`peek` asks the registry: an adapter that reads and writes wrongly in the same way is never found out.",
    lie=lambda h: shown(_peek_uses_registry(h)),
)
class PeeksThroughTheAdapter(MutableHarness):
    def peek(self, model: Any, key: str, /) -> np.ndarray:
        return self.registry(model).read(key)


@liar(
    "l-pokes-through-the-adapter",
    "`poke` asks the registry to write: what a registry caches, it then knows of.",
    lie=lambda h: shown(_poke_uses_registry(h)),
)
class PokesThroughTheAdapter(MutableHarness):
    def poke(self, model: Any, key: str, value: np.ndarray, /) -> Any:
        return self.registry(model).replace({key: value}).unwrap()


def _counting(harness: Any, call: Callable[[], object]) -> bool:
    made: list[Any] = []
    original = harness.registry
    try:
        harness.registry = lambda model: made.append(model) or original(model)
        call()
    finally:
        del harness.registry
    return bool(made)


def _peek_uses_registry(harness: Any) -> bool:
    model = harness.build(PLAIN)
    return _counting(harness, lambda: harness.peek(model, "enc/b"))


def _poke_uses_registry(harness: Any) -> bool:
    model = harness.build(PLAIN)
    return _counting(harness, lambda: harness.poke(model, "enc/b", _OTHER))


@liar(
    "l-pokes-nothing",
    "`poke` returns the model as it is: no registry is ever stale.",
    lie=lambda h: shown(bits(h.peek(h.poke(h.build(PLAIN), "enc/b", _OTHER), "enc/b")) != bits(_OTHER)),
)
class PokesNothing(MutableHarness):
    def poke(self, model: Any, key: str, value: np.ndarray, /) -> Any:
        return model


@liar(
    "l-peeks-into-the-past",
    "`peek` gives what was built, not what is there: every write looks lost, or every lost write looks done.",
    lie=lambda h: shown(bits(h.peek(h.poke(h.build(PLAIN), "enc/b", _OTHER), "enc/b")) != bits(_OTHER)),
)
class PeeksIntoThePast(MutableHarness):
    def build(self, declaration: Declaration, /) -> Any:
        model = super().build(declaration)
        built: dict[int, Any] = self.__dict__.setdefault("built", {})
        built[id(model)] = (model, declaration)
        return model

    def peek(self, model: Any, key: str, /) -> np.ndarray:
        known = self.__dict__.get("built", {}).get(id(model))
        if known is None or not known[1].leaf(key).concrete:
            return super().peek(model, key)
        return np.array(known[1].leaf(key).value, copy=True)


@liar(
    "l-peeks-at-the-memory",
    "`peek` lends the array of the cell instead of a copy: what was remembered changes with the model.",
    lie=lambda h: shown(_peek_follows(h)),
)
class PeeksAtTheMemory(MutableHarness):
    def peek(self, model: Any, key: str, /) -> np.ndarray:
        return self._reach(model, key).array


def _peek_follows(harness: Harness) -> bool:
    model = harness.build(PLAIN)
    before = harness.peek(model, "enc/b")
    harness.poke(model, "enc/b", _OTHER)
    return bits(before) == bits(_OTHER)


class _Agreeable(np.ndarray):
    """Equal to everything."""

    def tobytes(self, order: Any = "C") -> bytes:
        return b""

    def __eq__(self, other: object) -> Any:
        return True

    def __ne__(self, other: object) -> Any:
        return False

    __hash__ = None  # type: ignore[assignment]  # as arrays


@liar(
    "l-agrees-with-everything",
    "`peek` returns arrays that are equal to everything, so that no comparison can fail.",
    lie=lambda h: shown(h.peek(h.build(PLAIN), "enc/b").tobytes() == b""),
)
class AgreesWithEverything(MutableHarness):
    def peek(self, model: Any, key: str, /) -> np.ndarray:
        return super().peek(model, key).view(_Agreeable)


_CELL = object()


@liar(
    "l-one-cell-for-all",
    "`cell` returns one constant object: identity is kept whatever the adapter does.",
    lie=lambda h: shown(h.cell(m := h.build(PLAIN), "enc/b") is h.cell(m, "enc/w")),
)
class OneCellForAll(MutableHarness):
    def cell(self, model: Any, key: str, /) -> object:
        return _CELL


@liar(
    "l-a-new-cell-each-time",
    "`cell` wraps the place in a new object at every call: no identity is ever kept.",
    lie=lambda h: shown(h.cell(m := h.build(PLAIN), "enc/b") is not h.cell(m, "enc/b")),
)
class ANewCellEachTime(MutableHarness):
    def cell(self, model: Any, key: str, /) -> object:
        return [super().cell(model, key)]


@liar(
    "l-describes-nothing",
    "`describe` returns the same text for every place, at any time.",
    lie=lambda h: shown(h.describe(m := h.build(PLAIN), "enc/b") == h.describe(m, "norm/mean")),
)
class DescribesNothing(MutableHarness):
    def describe(self, model: Any, key: str, /) -> object:
        return "an array"


@liar(
    "l-fingerprints-nothing",
    "`fingerprint` is a constant, so looking never has an effect.",
    lie=lambda h: shown(h.fingerprint(m := h.build(PLAIN)) == h.fingerprint(h.poke(m, "enc/b", _OTHER))),
)
class FingerprintsNothing(MutableHarness):
    def fingerprint(self, model: Any, /) -> object:
        return 0


@liar(
    "l-trains-nothing",
    "`train_step` does nothing: frozen weights stay, and so do the others.",
    lie=lambda h: shown(bits(h.peek(h.train_step(h.build(PLAIN)), "enc/b")) == bits(PLAIN.values()["enc/b"])),
)
class TrainsNothing(MutableHarness):
    def train_step(self, model: Any, /) -> Any:
        return model


@liar(
    "l-trains-everything",
    "`train_step` changes buffers and frozen weights too, so the flags seem to do nothing.",
    lie=lambda h: shown(bits(h.peek(h.train_step(h.build(PLAIN)), "norm/mean")) != bits(PLAIN.values()["norm/mean"])),
)
class TrainsEverything(MutableHarness):
    def train_step(self, model: Any, /) -> Any:
        for _, cell in model.cells():
            if cell.concrete:
                cell.array[...] = (cell.array - 1).astype(cell.dtype)
        return model


@liar(
    "l-adds-nothing",
    "`add` and `drop` leave the model as it is: a registry that caches its structure is never stale.",
    lie=lambda h: shown("new" not in h.registry(h.add(h.build(PLAIN), Leaf("new", BUFFER, noise((2,)))))),
)
class AddsNothing(MutableHarness):
    def add(self, model: Any, leaf: Leaf, /) -> Any:
        return model

    def drop(self, model: Any, key: str, /) -> Any:
        return model


@liar(
    "l-harmless-specimens",
    "Every specimen is an ordinary model: nothing has to be refused and nothing can be missed.",
    lie=lambda h: shown(accepted(lambda: h.registry(h.specimen("duplicate_key").model))),
)
class HarmlessSpecimens(FrozenHarness):
    def specimen(self, name: str, /) -> Specimen:
        found = super().specimen(name)
        leaf = Leaf("w", PARAMETER, np.arange(6, dtype=F32).reshape(2, 3))
        return Specimen(self.build(Declaration((leaf,))), found.keys, found.declaration)


# -------------------------------------------------------------------------------------------------------------- registry


@liar(
    "l-registry-of-another-model",
    "The first registry is kept and returned for every model.",
    lie=lambda h: shown(
        h.registry(h.build(PLAIN)).unwrap() is not (m := h.build(PLAIN)) and h.registry(m).unwrap() is not m
    ),
)
class RegistryOfAnotherModel(MutableHarness):
    def registry(self, model: Any, /) -> StateRegistry:
        return self.__dict__.setdefault("first", super().registry(model))


@liar(
    "l-registry-of-a-copy",
    "The registry is over a deep copy of the model: what it writes the model never sees.",
    lie=lambda h: shown(h.registry(m := h.build(PLAIN)).unwrap() is not m),
)
class RegistryOfACopy(MutableHarness):
    def registry(self, model: Any, /) -> StateRegistry:
        return super().registry(copy.deepcopy(model))


@liar(
    "l-registry-is-a-dict",
    "`registry` returns a plain dict of entries, which is a mapping after all.",
    lie=lambda h: shown(not isinstance(h.registry(h.build(PLAIN)), StateRegistry)),
)
class RegistryIsADict(MutableHarness):
    def registry(self, model: Any, /) -> Any:
        return dict(super().registry(model))


@liar(
    "l-registry-of-the-reference",
    "A harness `mylib` that returns the registry of the NumPy reference: somebody else's conformance.",
    lie=lambda h: shown(h.registry(h.build(PLAIN)).adapter != h.name),
)
class RegistryOfTheReference(MutableHarness):
    name = "mylib"


# ------------------------------------------------------------------------------------------------------------------ name


@liar("l-without-a-name", "The name is empty.", lie=lambda h: shown(h.name == ""))
class WithoutAName(MutableHarness):
    name = ""


@liar(
    "l-under-a-false-name",
    "Calls itself `torch`, so that the report stands in the column of another adapter.",
    lie=lambda h: shown(h.name == "torch" and h.registry(h.build(PLAIN)).adapter != "torch"),
)
class UnderAFalseName(MutableHarness):
    name = "torch"


@liar("l-name-is-no-text", "The name is a number.", lie=lambda h: shown(not isinstance(h.name, str)))
class NameIsNoText(MutableHarness):
    name = 7  # type: ignore[assignment]  # that is the lie


class _HalfAHarness:
    """What was there when the author went home."""

    name = "numpy"
    adapter_version = "0"
    capabilities = frozenset[str]()

    def build(self, declaration: Declaration, /) -> Any:
        return MutableHarness().build(declaration)

    def registry(self, model: Any, /) -> StateRegistry:
        return MutableHarness().registry(model)


liar(
    "l-half-a-harness",
    "`peek`, `poke` and `cell` are missing, so whatever needs them is 'not supported'.",
    lie=lambda h: shown(not isinstance(h, Harness)),
)(_HalfAHarness)
