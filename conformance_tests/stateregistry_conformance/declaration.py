"""Declarations: the models that the suite asks a harness to build, said in no framework's words.

A `Declaration` lists leaves under their registry keys, in the order in which they are to be declared, and the ties
between them; `entries()` and `aliases()` say what the registry over it must list. Everything a model can be asked to hold
beyond the core is a capability (`needs()`). `CannotBuild` is how a harness says that its framework has no such thing: it is
never a pass. Imports NumPy and the core, no framework.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

import numpy as np

from stateregistry import keys
from stateregistry.entry import Entry, Kind, dtype_name

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The capability that a dtype asks for; the dtypes that are not here (`float16`, `float32`) are core.
_BY_DTYPE: Mapping[str, str] = MappingProxyType(
    {
        "bool": "dtype.bool",
        "int8": "dtype.integer", "int16": "dtype.integer", "int32": "dtype.integer",
        "uint8": "dtype.integer", "uint16": "dtype.integer", "uint32": "dtype.integer",
        "int64": "dtype.int64", "uint64": "dtype.int64",
        "float64": "dtype.float64", "bfloat16": "dtype.bfloat16",
        "complex64": "dtype.complex", "complex128": "dtype.complex",
        "float8_e4m3fn": "dtype.float8", "float8_e5m2": "dtype.float8", "float8_e4m3fnuz": "dtype.float8",
        "float8_e5m2fnuz": "dtype.float8", "float8_e8m0fnu": "dtype.float8",
    }
)  # fmt: skip


#: Stands for the default of the kind until a `Leaf` is made; `Leaf.trainable` is always a `bool`.
_DEFAULT: Any = object()


class CannotBuild(Exception):  # noqa: N818  # it is an answer of the harness, not an error
    """The framework cannot hold what was asked for. The message says what and why, in one sentence."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """One place that a model is to have.

    Attributes:
        key: its registry key. A segment of digits is an integer step where the framework has such (lists of modules).
        kind: how it is to be declared.
        value: its value; for `concrete=False` only shape and dtype count; for `rng=True` the raw key data, `uint32[2]`.
        trainable: by default what a fresh parameter is: true for a parameter of floating or complex dtype. A parameter
            that could be trainable and is declared false needs the capability `native_trainable`.
        persistent: it is saved.
        rng: it is the state of a random number generator.
        concrete: it has a value.
    """

    key: str
    kind: Kind
    value: np.ndarray
    trainable: bool = field(default_factory=lambda: _DEFAULT)
    persistent: bool = True
    rng: bool = False
    concrete: bool = True
    _entry: Entry = field(init=False, repr=False)

    def __post_init__(self) -> None:
        keys.split(self.key)
        if dtype_name(self.value.dtype) is None:
            message = f"{self.key!r}: no registry holds dtype {self.value.dtype}"
            raise ValueError(message)
        if self.trainable is _DEFAULT:
            object.__setattr__(self, "trainable", self.can_train)
        owned = np.array(self.value, order="C", copy=True)  # a declaration never changes, whoever scribbles
        owned.flags.writeable = False
        object.__setattr__(self, "value", owned)
        object.__setattr__(self, "_entry", self._made())

    @property
    def can_train(self) -> bool:
        """Whether `trainable` may be true."""
        return self.kind is Kind.PARAMETER and self.value.dtype.kind not in "biu"

    @property
    def path(self) -> tuple[str, ...]:
        """The native segments of the key, unescaped."""
        return keys.split(self.key)

    @property
    def entry(self) -> Entry:
        """What the registry must list for it."""
        return self._entry

    def _made(self) -> Entry:
        return Entry(
            self.kind,
            self.value.shape,
            str(dtype_name(self.value.dtype)),
            trainable=self.trainable,
            persistent=self.persistent,
            concrete=self.concrete,
            rng=self.rng,
        )


@final
@dataclass(frozen=True, slots=True)
class Declaration:
    """A model to build: leaves in order of declaration, and ties.

    Attributes:
        leaves: every place once.
        ties: further key of a place -> the key of its leaf. The canonical key of a group is its least key, whichever of
            them is the leaf's.

    Raises:
        ValueError: keys that repeat, a tie to or from nowhere, or a key that is a prefix of another: models that break
            the law of keys are specimens (`stateregistry_conformance.harness.Specimen`).
    """

    leaves: tuple[Leaf, ...] = ()
    ties: Mapping[str, str] = field(default_factory=dict)
    _entries: Mapping[str, Entry] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [leaf.key for leaf in self.leaves]
        everything = [*names, *self.ties]
        if len(set(everything)) != len(everything):
            message = f"a key is declared twice: {sorted(everything)}"
            raise ValueError(message)
        lost = sorted(target for target in self.ties.values() if target not in names)
        if lost:
            message = f"ties to keys that no leaf has: {lost}"
            raise ValueError(message)
        keys.check_prefix_free(everything)
        object.__setattr__(self, "leaves", tuple(self.leaves))
        object.__setattr__(self, "ties", MappingProxyType(dict(self.ties)))
        found = {self.canonical(leaf.key): leaf.entry for leaf in self.leaves}
        object.__setattr__(self, "_entries", {key: found[key] for key in sorted(found)})

    def leaf(self, key: str, /) -> Leaf:
        """The leaf that a key or alias means."""
        name = self.ties.get(key, key)
        return next(leaf for leaf in self.leaves if leaf.key == name)

    def canonical(self, key: str, /) -> str:
        """The least key of the group of a key or alias."""
        name = self.ties.get(key, key)
        return min([name, *(alias for alias, target in self.ties.items() if target == name)])

    def entries(self) -> dict[str, Entry]:
        """What `dict(registry)` must equal: entries by canonical key, sorted."""
        return dict(self._entries)

    def aliases(self) -> dict[str, str]:
        """What `dict(registry.aliases)` must equal."""
        names = [*self.ties, *self.ties.values()]
        return {key: self.canonical(key) for key in sorted(names) if self.canonical(key) != key}

    def values(self) -> dict[str, np.ndarray]:
        """The value of every concrete leaf by canonical key, sorted, in arrays of the caller's own."""
        found = {self.canonical(leaf.key): leaf.value for leaf in self.leaves if leaf.concrete}
        return {key: np.array(found[key], order="C", copy=True) for key in sorted(found)}

    def needs(self) -> frozenset[str]:
        """The capabilities without which a harness may answer `CannotBuild`."""
        found = set() if self.leaves else {"empty"}
        if self.ties:
            found.add("ties")
        for leaf in self.leaves:
            found |= _needs(leaf)
        return frozenset(found)


def _needs(leaf: Leaf) -> set[str]:
    found = set()
    if leaf.rng:
        found.add("rng")
    else:
        found.add(_BY_DTYPE.get(leaf.entry.dtype, ""))
    if not leaf.persistent:
        found.add("nonpersistent")
    if not leaf.concrete:
        found.add("abstract")
    if leaf.can_train and not leaf.trainable:
        found.add("native_trainable")
    return found - {""}
