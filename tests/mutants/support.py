"""What the chapters of the corpus share: `Mutant`, how one is registered, the models of the proofs, a few mixins.

A mutant is a subclass of a reference registry that is wrong in one respect, and a proof: a function over a harness that
returns when the bug shows and raises `NotShown` when the registry behaves as the specification says. So a proof that runs
through on a mutant and raises `NotShown` on the reference shows that the two are not equivalent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np

from stateregistry import errors
from stateregistry.entry import Entry, Kind
from stateregistry.registry import StateRegistry
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.cells import Cell
from stateregistry_numpy.harness import FrozenHarness, MutableHarness
from stateregistry_numpy.module import Module
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry

PARAMETER, BUFFER = Kind.PARAMETER, Kind.BUFFER
F16, F32, F64 = np.float16, np.float32, np.float64
BF16 = ml_dtypes.bfloat16


class NotShown(AssertionError):
    """The registry behaves as the specification says: no bug to see."""


def shown(condition: object) -> None:
    """Go on if the bug shows."""
    if not condition:
        raise NotShown


def error_of(call: Callable[[], object]) -> Exception | None:
    """What a call raises, `None` where it returns."""
    try:
        call()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the answer
        return error
    return None


def accepted(call: Callable[[], object]) -> bool:
    """Whether a call returns."""
    return error_of(call) is None


def bits(array: object) -> tuple[tuple[int, ...], str, bytes]:
    """Shape, dtype and bytes: what "same bits" compares."""
    found = np.asarray(array)
    return found.shape, found.dtype.name, found.tobytes()


# ------------------------------------------------------------------------------------------------------------- harnesses


class MutableSubject(MutableHarness):
    """The harness of the mutable reference with another registry."""

    def __init__(self, registry_type: type[StateRegistry] = MutableRegistry) -> None:
        self.registry_type = registry_type

    def registry(self, model: Any, /) -> StateRegistry:
        return self.registry_type(model)


class FrozenSubject(FrozenHarness):
    """The harness of the frozen reference with another registry."""

    def __init__(self, registry_type: type[StateRegistry] = FrozenRegistry) -> None:
        self.registry_type = registry_type

    def build(self, declaration: Declaration, /) -> Any:
        """A model with arrays of its own: what a mutant writes in place must not reach the declaration."""
        leaves = tuple(dataclasses.replace(leaf) for leaf in declaration.leaves)
        return super().build(Declaration(leaves, declaration.ties))

    def registry(self, model: Any, /) -> StateRegistry:
        return self.registry_type(model)


# --------------------------------------------------------------------------------------------------------------- mutants


@dataclass(frozen=True, slots=True)
class Mutant:
    """A broken adapter.

    Attributes:
        id: its name, `m-...`.
        violates: the requirement that it breaks.
        also: further requirements that nobody could keep together with this bug.
        base: the reference that it is a mutant of.
        story: who does that, or how one comes to do it.
        harness: a new harness over the mutant.
        reference: a new harness over a correct registry that takes the same models.
        proof: returns when the bug shows, raises `NotShown` when it does not.
    """

    id: str
    violates: str
    also: tuple[str, ...]
    base: Literal["numpy", "numpy-frozen"]
    story: str
    harness: Callable[[], Harness]
    reference: Callable[[], Harness]
    proof: Callable[[Harness], None]


class Chapter:
    """The mutants of one chapter of the specification, in the order in which they are written down."""

    def __init__(self) -> None:
        self._mutants: list[Mutant] = []

    def mutant(
        self,
        name: str,
        violates: str,
        registry: type[StateRegistry],
        *,
        story: str,
        also: Sequence[str] = (),
        subject: Callable[[type[StateRegistry]], Harness] | None = None,
        correct: type[StateRegistry] | None = None,
    ) -> Callable[[Callable[[Harness], None]], Callable[[Harness], None]]:
        """Register a mutant; what is decorated is its proof.

        Args:
            subject: the type of its harness, where the plain one cannot build what it takes to show the bug.
            correct: the registry that does it right over the same models.
        """
        frozen = issubclass(registry, FrozenRegistry)
        make = subject or (FrozenSubject if frozen else MutableSubject)
        right = correct or (FrozenRegistry if frozen else MutableRegistry)

        def add(proof: Callable[[Harness], None]) -> Callable[[Harness], None]:
            self._mutants.append(
                Mutant(
                    id=name,
                    violates=f"SR-{violates}",
                    also=tuple(f"SR-{other}" for other in also),
                    base="numpy-frozen" if frozen else "numpy",
                    story=story,
                    harness=lambda: make(registry),
                    reference=lambda: make(right),
                    proof=proof,
                )
            )
            return proof

        return add

    def __iter__(self) -> Iterator[Mutant]:
        return iter(self._mutants)


# ---------------------------------------------------------------------------------------------------------------- models


def noise(shape: tuple[int, ...], dtype: Any = F32, seed: int = 7) -> np.ndarray:
    """Values of which no two are equal, none is zero and none is a small integer."""
    return np.asarray(np.random.default_rng(seed).normal(1.5, 0.5, shape), dtype)


#: The raw state of a generator.
GENERATOR = np.array([1234, 5], np.uint32)

#: Two parameters and a buffer, declared in an order that is not the sorted one.
PLAIN = Declaration(
    (
        Leaf("norm/mean", BUFFER, noise((3,), seed=1)),
        Leaf("enc/w", PARAMETER, noise((2, 3), seed=2)),
        Leaf("enc/b", PARAMETER, noise((3,), seed=3)),
    )
)

#: One place under three keys, of which neither the first nor the shortest is the least, beside a place of its own.
TIED = Declaration(
    (Leaf("head/w", PARAMETER, noise((2, 3), seed=4)), Leaf("z", BUFFER, noise((3,), seed=5))),
    {"emb/table/w": "head/w", "tail": "head/w"},
)


def one(value: object, key: str = "x", kind: Kind = PARAMETER, **flags: bool) -> Declaration:
    """A model with one place."""
    return Declaration((Leaf(key, kind, np.asarray(value), **flags),))


def over(harness: Harness, declaration: Declaration) -> tuple[Any, StateRegistry]:
    """A new model and the registry over it."""
    model = harness.build(declaration)
    return model, harness.registry(model)


def kept(harness: Harness, model: Any, declaration: Declaration) -> bool:
    """Whether every value of a model is the declared one."""
    return all(bits(harness.peek(model, key)) == bits(value) for key, value in declaration.values().items())


def entry_of(registry: StateRegistry, key: object) -> Entry | None:
    """The entry of a key or alias."""
    return registry.get(registry.aliases.get(key, key)) if isinstance(key, str) else None


def rebind(module: Module, old: Cell, new: Cell) -> None:
    """Put another cell in every place where one stands."""
    for _, container in module.modules():
        for name, member in container.members.items():
            if member is old:
                setattr(container, name, new)


def fields(entry: Entry) -> dict[str, Any]:
    """The attributes of an entry by name."""
    return {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry)}


# ---------------------------------------------------------------------------------------------------------------- mixins


class Alters:
    """Lists other entries than the reference: `alter` says which, `None` for none."""

    def alter(self, key: str, entry: Entry) -> Entry | None:
        return entry

    def _entries(self) -> Mapping[str, Entry]:
        altered = {key: self.alter(key, entry) for key, entry in super()._entries().items()}
        return {key: entry for key, entry in altered.items() if entry is not None}

    def _find(self, key: str, /) -> Entry | None:
        entry = super()._find(key)
        return None if entry is None else self.alter(key, entry)


class Orders:
    """Iterates in another order: `order` says which."""

    def order(self, entries: Mapping[str, Entry]) -> list[str]:
        return list(entries)

    def _sorted(self) -> dict[str, Entry]:
        listing = self._listing()
        return {key: listing[key] for key in self.order(listing)}

    def __iter__(self) -> Iterator[str]:
        return iter(self._sorted())


class Resolves:
    """`canonical` for the mutants that have to know which place a key of the caller means."""

    def canonical(self, key: str) -> str:
        return self.aliases.get(key, key)


#: What `Respelled` leaves out.
DROPPED: Any = object()


class Respelled(Mapping[Any, Any]):
    """A caller's mapping under other keys; a value that raises when it is read raises when it is asked for here, too."""

    def __init__(self, values: Mapping[Any, Any], respell: Callable[[Any], Any]) -> None:
        self._values, self._respell = values, respell
        self._old: dict[Any, Any] = {}

    def __iter__(self) -> Iterator[Any]:
        for old in self._values:
            new = self._respell(old)
            if new is not DROPPED:
                self._old[new] = old
                yield new

    def __getitem__(self, key: Any) -> Any:
        return self._values[self._old[key]]

    def __len__(self) -> int:
        return sum(1 for _ in self)


def without(values: Mapping[Any, Any], drop: Callable[[Any], bool]) -> Mapping[Any, Any]:
    """A caller's mapping less the keys for which `drop` is true."""
    return Respelled(values, lambda key: DROPPED if drop(key) else key)


def names_of(values: Mapping[Any, Any]) -> list[Any]:
    """The keys of a caller's mapping, none where it raises: the core finds that out again, and reports it."""
    try:
        return list(values)
    except Exception:  # noqa: BLE001  # as above
        return []


def looked(values: Mapping[Any, Any], key: Any) -> Any:
    """The value of a key if it is an array, `None` if it is none or cannot be read."""
    try:
        value = values[key]
    except Exception:  # noqa: BLE001  # the core reads it again and reports what it raises
        return None
    return value if isinstance(value, np.ndarray) else None


def unknown(key: str) -> errors.UnknownKeyError:
    """What a registry that does not find a key raises."""
    return errors.UnknownKeyError(f"no entry {key!r}", keys=(key,))
