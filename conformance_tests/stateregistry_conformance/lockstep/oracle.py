"""The oracle: the state that a model should have, as flat dicts, and the verdict that a set of values should get.

Written from the specification alone: it asks no registry, and none of `check`, `load`, `snapshot` or `cast`. Imports NumPy
and the names of errors and entries.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from stateregistry import errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stateregistry.entry import Entry
    from stateregistry_conformance.declaration import Declaration, Leaf

#: The classes of problems, as the fields of a report are called.
FIELDS = ("missing", "unexpected", "shape", "dtype", "conflict", "invalid")

#: What `replace` raises when all problems are of one class.
_CLASSES: dict[str, type[Exception]] = {
    "unexpected": errors.UnexpectedKeyError,
    "shape": errors.ShapeError,
    "dtype": errors.DtypeError,
    "conflict": errors.ConflictError,
    "invalid": errors.SourceError,
}


@final
@dataclass(frozen=True, slots=True)
class Given:
    """One value as a caller gives it.

    Attributes:
        item: the object itself.
        value: the array that it stands for, C-ordered and native-endian; `None` for what is none.
        fault: the class of what is wrong with it, `""` for nothing.
    """

    item: object
    value: np.ndarray | None
    fault: str = ""


@final
@dataclass(slots=True)
class Flat:
    """The state of one model.

    Attributes:
        names: every key and alias -> the name of its leaf.
        leaves: name of a leaf -> its entry, with the flag as it is now.
        values: name of a leaf -> its value.
    """

    names: dict[str, str]
    leaves: dict[str, Entry]
    values: dict[str, np.ndarray]

    @classmethod
    def of(cls, declaration: Declaration) -> Flat:
        """What a fresh model of a declaration holds."""
        names = {leaf.key: leaf.key for leaf in declaration.leaves} | dict(declaration.ties)
        entries = {leaf.key: leaf.entry for leaf in declaration.leaves}
        return cls(names, entries, {leaf.key: np.array(leaf.value) for leaf in declaration.leaves})

    def copy(self) -> Flat:
        """Another one that holds the same."""
        return Flat(dict(self.names), dict(self.leaves), {name: np.array(x) for name, x in self.values.items()})

    # ---------------------------------------------------------------- what is listed

    def members(self, leaf: str) -> list[str]:
        """Every name of a leaf, sorted: the first is the canonical key."""
        return sorted(name for name, other in self.names.items() if other == leaf)

    def entries(self) -> dict[str, Entry]:
        """Entries by canonical key, sorted."""
        found = {self.members(leaf)[0]: entry for leaf, entry in self.leaves.items()}
        return {key: found[key] for key in sorted(found)}

    def aliases(self) -> dict[str, str]:
        """Alias -> canonical key, sorted."""
        first = {name: self.members(leaf)[0] for name, leaf in self.names.items()}
        return {name: first[name] for name in sorted(first) if first[name] != name}

    def by_key(self) -> dict[str, np.ndarray]:
        """Values by canonical key, sorted."""
        return {key: self.values[self.names[key]] for key in self.entries()}

    def saved(self) -> dict[str, np.ndarray]:
        """What a snapshot has to contain."""
        return {key: np.array(x) for key, x in self.by_key().items() if self.leaves[self.names[key]].persistent}

    # ---------------------------------------------------------------- what changes

    def write(self, values: Mapping[str, np.ndarray]) -> None:
        """Set values by any name."""
        for name, value in values.items():
            self.values[self.names[name]] = np.array(value)

    def flag(self, mask: Mapping[str, bool]) -> None:
        """Set flags by any name."""
        for name, flag in mask.items():
            leaf = self.names[name]
            self.leaves[leaf] = dataclasses.replace(self.leaves[leaf], trainable=flag)

    def thaw(self) -> None:
        """Every flag as on a fresh model: what a new handle says where the framework has no flag of its own."""
        self.leaves = {n: dataclasses.replace(e, trainable=e.can_train) for n, e in self.leaves.items()}

    def add(self, leaf: Leaf) -> None:
        """A further place."""
        self.names[leaf.key] = leaf.key
        self.leaves[leaf.key], self.values[leaf.key] = leaf.entry, np.array(leaf.value)

    def drop(self, name: str) -> None:
        """Take a name away, and the place when it was its last one."""
        leaf = self.names.pop(name)
        if leaf not in self.names.values():
            del self.leaves[leaf], self.values[leaf]

    # ---------------------------------------------------------------- verdicts

    def report(self, given: Mapping[str, Given], *, whole: bool) -> dict[str, tuple[str, ...]]:
        """What a report has to say of values: for `check` and `load` (`whole`), or for `replace`."""
        found: dict[str, set[str]] = {field: set() for field in FIELDS}
        for name, one in given.items():
            if name not in self.names or (whole and not self.leaves[self.names[name]].persistent):
                found["unexpected"].add(name)
            elif one.fault:
                found[one.fault].add(name)
        for leaf, entry in self.leaves.items():
            fine = [n for n in given if self.names.get(n) == leaf and not given[n].fault]
            if len({bits(given[name].value) for name in fine}) > 1:
                found["conflict"] |= set(fine)
            if whole and entry.persistent and not any(self.names.get(name) == leaf for name in given):
                found["missing"].add(self.members(leaf)[0])
        return {field: tuple(sorted(names)) for field, names in found.items()}

    def mask_error(self, mask: Mapping[str, object]) -> type[Exception] | None:
        """The least that `with_trainable` has to raise for a mask, `None` where it is fine."""
        lost = [name for name, flag in mask.items() if name not in self.names or not isinstance(flag, bool)]
        known = [name for name in mask if name not in lost]
        parted = [n for n in known if any(mask[n] is not mask[m] for m in known if self.names[m] == self.names[n])]
        wrong = [name for name in known if mask[name] and not self.leaves[self.names[name]].can_train]
        problems = [bool(lost), bool(parted), bool(wrong)]
        if not any(problems):
            return None
        if sum(problems) > 1 or lost:
            return errors.StateError
        return errors.ConflictError if parted else errors.KindError


def error_of(report: Mapping[str, tuple[str, ...]]) -> type[Exception] | None:
    """What `replace` has to raise for a report: the class of its problems if they are of one, else `MismatchError`."""
    classes = [field for field in FIELDS if report[field]]
    if not classes:
        return None
    return _CLASSES[classes[0]] if len(classes) == 1 else errors.MismatchError


def none_of_one_class(error: Exception) -> bool:
    """Whether an error is of no class that `replace` raises for problems of one sort."""
    return not isinstance(error, tuple(_CLASSES.values()))


def bits(array: np.ndarray | None) -> tuple[object, ...]:
    """Shape, dtype and bytes: what "the same bits" compares."""
    if array is None:
        return ()
    dtype = array.dtype if array.dtype.isnative else array.dtype.newbyteorder("=")
    return array.shape, array.dtype.name, np.array(array, dtype=dtype, order="C", copy=True).tobytes()


def differing(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], names: Iterable[str]) -> list[str]:
    """The names under which two states differ."""
    return [name for name in names if bits(found.get(name)) != bits(expected[name])]
