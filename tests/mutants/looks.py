"""Mutants of chapters 4 to 7, last part: what is treated apart in a listing or a lookup because it looks odd.

Names that a class has already, numbers that are names, arrays of many axes, the five hundredth place, the other names of a tie.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from mutants.support import PLAIN, TIED, Alters, Chapter, Orders, noise, over, shown
from stateregistry import keys
from stateregistry.entry import Entry
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.harness import Harness
from stateregistry_conformance.samples import parameter
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry

CHAPTER = Chapter()


def _of(*names: str) -> Declaration:
    return Declaration(tuple(parameter(name) for name in names))


# ------------------------------------------------------------------------------------------------------------- KEY


class _Renames(MutableRegistry):
    """Lists places under other keys: `renamed` says which."""

    def renamed(self, key: str) -> str:
        return key

    def _entries(self) -> Mapping[str, Entry]:
        return {self.renamed(key): entry for key, entry in super()._entries().items()}

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)

    def _cell(self, key: str) -> Any:
        native = {self.renamed(name): name for name, _ in self._module.cells()}
        return super()._cell(native.get(key, key))


class ReadsNumbers(_Renames):
    def renamed(self, key: str) -> str:
        return keys.join(*(str(int(part)) if part.isdecimal() else part for part in keys.split(key)))


@CHAPTER.mutant(
    "m-key-number-read", "KEY-004", ReadsNumbers,
    story="A path is flattened with `int(step)` wherever a name consists of digits, so that a block called 007 becomes 7.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, _of("x/007"))
    shown(list(registry) == ["x/7"])


class CutsNames(_Renames):
    def renamed(self, key: str) -> str:
        return keys.join(*(part[:255] for part in keys.split(key)))


@CHAPTER.mutant(
    "m-key-name-cut", "KEY-004", CutsNames,
    story="Names go through a store that holds at most 255 characters, as HDF5 attributes and file systems do.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, _of("x/" + "n" * 300))
    shown(len(next(iter(registry))) < 300)


class FoldsWhiteSpace(_Renames):
    def renamed(self, key: str) -> str:
        return key.replace("\n", " ").replace("\t", " ")


@CHAPTER.mutant(
    "m-key-white-space-folded", "KEY-004", FoldsWhiteSpace,
    story="Keys are made printable for a summary table, and the table's keys are what is listed.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, _of("x/a\nb"))
    shown(list(registry) == ["x/a b"])


class HidesWhatTheClassHas(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry | None:
        return None if any(hasattr(dict, part) for part in keys.split(key)) else entry


@CHAPTER.mutant(
    "m-key-attribute-shadowed", "KEY-004", HidesWhatTheClassHas,
    story="Children are found with `getattr` on a dict subclass: a layer called `keys` or `values` is a method there.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, _of("x/keys", "x/w"))
    shown("x/keys" not in registry)


class HidesDunders(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry | None:
        return None if any(part.startswith("__") for part in keys.split(key)) else entry


@CHAPTER.mutant(
    "m-key-dunder-hidden", "KEY-004", HidesDunders,
    story="`vars(module)` is walked and names with two underscores are taken for Python's own.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, _of("x/__a__", "x/w"))
    shown("x/__a__" not in registry)


# ------------------------------------------------------------------------------------------------------------ LIST


class OrdersByUtf16(Orders, MutableRegistry):
    def order(self, entries: Mapping[str, Entry]) -> list[str]:
        return sorted(entries, key=lambda key: key.encode("utf-16-be", "surrogatepass"))


@CHAPTER.mutant(
    "m-list-order-of-utf-16", "LIST-001", OrdersByUtf16,
    story="Keys are sorted where strings are UTF-16, in JavaScript, Java or C#, and come back in that order.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, _of("x/\uffee", "x/\U0001f600"))
    shown(list(registry) == ["x/\U0001f600", "x/\uffee"])


class HidesManyAxes(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry | None:
        return entry if len(entry.shape) < 5 else None


@CHAPTER.mutant(
    "m-list-many-axes-hidden", "LIST-002", HidesManyAxes,
    story="A converter for mobile runtimes knows tensors of up to four axes, and leaves the others out.",
    also=("LIST-003", "LAYER-005"),
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, Declaration((parameter("p", (1, 2, 1, 2, 3)), parameter("q"))))
    shown(list(registry) == ["q"])


class HidesListsOfArrays(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry | None:
        return None if keys.split(key)[-1].isdecimal() else entry


@CHAPTER.mutant(
    "m-list-parameter-list-hidden", "LIST-002", HidesListsOfArrays,
    story="Lists are walked for modules in them; a ParameterList holds arrays and is walked for nothing.",
    also=("KEY-004",),
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, _of("list/0", "list/1", "w"))
    shown(list(registry) == ["w"])


class ListsTheFirstPage(MutableRegistry):
    def _entries(self) -> Mapping[str, Entry]:
        return dict(list(super()._entries().items())[:200])


@CHAPTER.mutant(
    "m-list-first-page", "LIST-002", ListsTheFirstPage,
    story="A listing comes in pages, from a server or an object store, and only the first page is asked for.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, _of(*(f"n{number}" for number in range(250))))
    shown(len(registry) == 200)


class HidesTheDeep(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry | None:
        return entry if key.count("/") < 16 else None


@CHAPTER.mutant(
    "m-list-depth-bounded", "LIST-002", HidesTheDeep,
    story="A recursion over containers has a bound against cycles, and stops without a word where it is reached.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, _of("/".join("m" * 20), "w"))
    shown(list(registry) == ["w"])


class GetsAliases(MutableRegistry):
    def get(self, key: str, default: Any = None) -> Any:
        return super().get(self.aliases.get(key, key), default)


@CHAPTER.mutant(
    "m-list-get-knows-aliases", "LIST-004", GetsAliases,
    story="`get` was written for the convenience of callers with tied weights, and disagrees with `[]` and `in`.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, TIED)
    shown(registry.get("tail") is not None)


class OrdersWhatWasWrittenLast(FrozenRegistry):
    _written: tuple[str, ...] = ()

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        other = super()._commit(staged)
        other._written = tuple(staged)
        return other

    @property
    def native_order(self) -> tuple[str, ...]:
        order = super().native_order
        return (*(k for k in order if k not in self._written), *(k for k in order if k in self._written))


@CHAPTER.mutant(
    "m-list-native-order-of-writes", "LIST-007", OrdersWhatWasWrittenLast,
    story="A tree is rebuilt with `{**rest, **written}`, so that whatever was written moves to its end.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    first = registry.native_order[0]
    shown(registry.replace({first: noise(registry[first].shape, seed=9)}).native_order[0] != first)


class OrdersTheFrozenLast(MutableRegistry):
    @property
    def native_order(self) -> tuple[str, ...]:
        return tuple(sorted(super().native_order, key=lambda key: not self[key].trainable))


@CHAPTER.mutant(
    "m-list-native-order-of-flags", "LIST-007", OrdersTheFrozenLast,
    story="Keras lists trainable weights first, so that freezing a layer moves its weights in `weights`.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    before = registry.native_order
    first = next(key for key in before if registry[key].trainable)
    shown(registry.with_trainable({first: False}).native_order != before)


class RemembersViewsOfAliases(MutableRegistry):
    def view(self, key: str, /) -> np.ndarray:
        if key not in self.aliases:
            return super().view(key)
        kept = self.__dict__.setdefault("_views", {})
        if key not in kept:
            kept[key] = super().view(key).copy()
            kept[key].flags.writeable = False
        return kept[key]


@CHAPTER.mutant(
    "m-list-alias-remembered", "LIST-011", RemembersViewsOfAliases,
    story="What a tie resolves to is looked up once, with its array, and an optimizer step passes it by.",
    also=("READ-009",),
)  # fmt: skip
def _(harness: Harness) -> None:
    model, registry = over(harness, TIED)
    registry.view("tail")
    harness.poke(model, "head/w", noise((2, 3), seed=31))
    shown(registry.view("tail").tobytes() != noise((2, 3), seed=31).tobytes())


class HasNoLayersOfNothing(MutableRegistry):
    @property
    def layers(self) -> Any:
        next(iter(self))
        return super().layers


@CHAPTER.mutant(
    "m-list-empty-has-no-layers", "LIST-014", HasNoLayersOfNothing,
    story="Layers are grouped by the prefix of the first key, and an activation has no key.",
    also=("ERR-004",),
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, Declaration(()))
    try:
        registry.layers  # noqa: B018  # it is what is tried
    except StopIteration:
        return
    shown(False)


# ------------------------------------------------------------------------------------------------------ KIND, READ


class SaysNumPyFlags(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry | None:
        return dataclasses.replace(entry, trainable=np.bool_(entry.trainable))


@CHAPTER.mutant(
    "m-kind-flag-of-numpy", "KIND-003", SaysNumPyFlags,
    story="Flags are kept in an array, and its elements are no `bool`: `is True` fails, and JSON does not know them.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(type(registry["enc/w"].trainable) is not bool)


class InfersAfterWrites(FrozenRegistry):
    _guessed = False

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        other = super()._commit(staged)
        other._guessed = True
        return other

    def _entries(self) -> Mapping[str, Entry]:
        found = super()._entries()
        return {k: dataclasses.replace(e, inferred=True) for k, e in found.items()} if self._guessed else found


@CHAPTER.mutant(
    "m-kind-inferred-after-a-write", "KIND-008", InfersAfterWrites,
    story="A new tree is opened by the code for bare trees, which has to guess what the old one said.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    was = registry["enc/b"].inferred
    shown(not was and registry.replace({"enc/b": noise((3,), seed=9)})["enc/b"].inferred)


class LosesFlagsWhenAllIsWritten(FrozenRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        if len(staged) == len(self):
            object.__setattr__(self, "_lost", True)
        return super()._commit(staged)

    def replace(self, values: Mapping[str, Any], /) -> Self:
        other = super().replace(values)
        if other is not self and self.__dict__.pop("_lost", False):
            other._flags, other._listed = {}, None
        return other


@CHAPTER.mutant(
    "m-kind-flags-lost-with-the-tree", "KIND-005", LosesFlagsWhenAllIsWritten,
    story="A write of every leaf takes the fast way, a new handle over the new tree, without the mask of the old one.",
    also=("WRITE-003", "WRITE-008"),
)  # fmt: skip
def _(harness: Harness) -> None:
    declaration = Declaration((Leaf("x", PLAIN.leaves[1].kind, noise((3,))),))
    _, registry = over(harness, declaration)
    frozen = registry.with_trainable({"x": False})
    shown(not frozen["x"].trainable and frozen.replace({"x": noise((3,), seed=9)})["x"].trainable)


class LendsAliases(MutableRegistry):
    def view(self, key: str, /) -> np.ndarray:
        canonical = self.aliases.get(key)
        return super().view(key) if canonical is None else self._known(canonical).array


@CHAPTER.mutant(
    "m-read-alias-lent", "READ-006", LendsAliases,
    story="The second name of a tied weight is resolved to the tensor itself, past the code that makes views read-only.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, TIED)
    shown(registry.view("tail").flags.writeable)
