"""Mutants of chapter 4: keys that are spelled otherwise than the names of the model say."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from mutants.support import BUFFER, GENERATOR, PARAMETER, Chapter, accepted, bits, error_of, noise, one, over, shown
from stateregistry import errors, keys
from stateregistry.entry import Entry
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.cells import Cell
from stateregistry_numpy.module import Module
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry
from stateregistry_numpy.tree import COLLECTIONS, FrozenModel

CHAPTER = Chapter()


class SpellsMutable(MutableRegistry):
    """Spells the keys of a `Module` in its own way."""

    def spell(self, key: str) -> str:
        return key

    def _walk(self) -> Any:
        walk = super()._walk()
        self._native = {self.spell(key): key for key in (*walk.entries, *walk.aliases, *walk.opaque)}
        self._groups = {self.spell(key): group for key, group in self._groups.items()}
        return dataclasses.replace(
            walk,
            entries={self.spell(key): entry for key, entry in walk.entries.items()},
            aliases={self.spell(key): self.spell(target) for key, target in walk.aliases.items()},
            opaque={self.spell(key): why for key, why in walk.opaque.items()},
        )

    def _cell(self, key: str) -> Cell | None:
        return super()._cell(self._native.get(key, key))

    def _find(self, key: str, /) -> Entry | None:
        return self._walk().entries.get(key)


class SpellsFrozen(FrozenRegistry):
    """Spells the keys of a `FrozenModel` in its own way."""

    def spell(self, key: str) -> str:
        return key

    def _index(self) -> dict[str, Entry]:
        entries = super()._index()
        self._places = {self.spell(key): place for key, place in self._places.items()}
        self._known_aliases = {self.spell(key): self.spell(to) for key, to in self._known_aliases.items()}
        self._known_opaque = {self.spell(key): why for key, why in self._known_opaque.items()}
        return {self.spell(key): entry for key, entry in entries.items()}


def _misspells(key: str) -> Callable[[Harness], None]:
    """The proof that the only place of a model does not stand under the key of its native path."""
    declaration = one(noise((3,)), key=key)

    def proof(harness: Harness) -> None:
        _, registry = over(harness, declaration)
        shown(list(registry) != [key])

    return proof


# ------------------------------------------------------------------------------------------------------------ KEY-001


class RawTilde(SpellsMutable):
    def spell(self, key: str) -> str:
        return key.replace("~0", "~")


CHAPTER.mutant(
    "m-key-raw-tilde",
    "KEY-001",
    RawTilde,
    story="Most hand-written path joins escape the separator and forget to escape the escape character itself.",
)(_misspells("a~0b"))


class RawSlash(SpellsFrozen):
    def spell(self, key: str) -> str:
        return key.replace("~1", "/")


CHAPTER.mutant(
    "m-key-raw-slash",
    "KEY-001",
    RawSlash,
    story="flax.traverse_util.flatten_dict(sep='/') joins names with '/' and escapes nothing, so 'a/b' is one name or two.",
)(_misspells("a~1b"))


class EscapesTwice(SpellsFrozen):
    def spell(self, key: str) -> str:
        return key.replace("~1", "~01")


CHAPTER.mutant(
    "m-key-escape-order",
    "KEY-001",
    EscapesTwice,
    story="The classical mistake with RFC 6901: '/' is replaced first and its '~1' is then escaped once more to '~01'.",
)(_misspells("a~1b"))


class UnescapesInTheWrongOrder(MutableRegistry):
    def _cell(self, key: str) -> Cell | None:
        member: Any = self._module
        for part in key.split("/"):
            if not isinstance(member, Module):
                return None
            member = member.members.get(part.replace("~0", "~").replace("~1", "/"))
        return member if isinstance(member, Cell) else None


@CHAPTER.mutant(
    "m-key-unescape-order",
    "KEY-001",
    UnescapesInTheWrongOrder,
    story="JSON-pointer libraries that undo '~0' before '~1' turn the name '~1' into '/': listed, and never found again.",
    also=("LIST-004",),
)
def _(harness: Harness) -> None:
    _, registry = over(harness, one(noise((3,)), key="~01"))
    shown(list(registry) == ["~01"] and "~01" not in registry)


# ------------------------------------------------------------------------------------------------------------ KEY-002


class _ReTreed(FrozenRegistry):
    """Indexes another tree than the model's."""

    def retree(self, node: Any) -> Any:
        return node

    def _index(self) -> dict[str, Entry]:
        whole = self._model
        self._model = FrozenModel(**{name: self.retree(getattr(whole, name)) for name in COLLECTIONS}, ties=whole.ties)
        return super()._index()


class ManglesEmptyNames(_ReTreed):
    def retree(self, node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        return {"_" if name == "" else name: self.retree(child) for name, child in node.items()}


class SkipsEmptyNames(_ReTreed):
    def retree(self, node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        return {name: self.retree(child) for name, child in node.items() if name != ""}


def _takes_an_empty_name(harness: Harness) -> None:
    model = harness.specimen("empty_name").model
    shown(accepted(lambda: harness.registry(model)))


CHAPTER.mutant(
    "m-key-empty-mangled",
    "KEY-002",
    ManglesEmptyNames,
    story="MLX flattens the name '' to 'd.', other converters write '_': a name that the model does not have.",
)(_takes_an_empty_name)
CHAPTER.mutant(
    "m-key-empty-skipped",
    "KEY-002",
    SkipsEmptyNames,
    story="`if name:` in a flattening loop, meant for the root of the tree, leaves out everything below an empty name.",
)(_takes_an_empty_name)


class EmptyNameIsAValueError(FrozenRegistry):
    def __init__(self, model: FrozenModel) -> None:
        try:
            super().__init__(model)
        except errors.KeyPathError as error:
            raise ValueError(str(error)) from error


@CHAPTER.mutant(
    "m-key-empty-builtin",
    "KEY-002",
    EmptyNameIsAValueError,
    story="The adapter refuses with the built-in that its framework would raise (torch: KeyError, Linen: ValueError).",
    also=("ERR-001", "ERR-004"),
)
def _(harness: Harness) -> None:
    model = harness.specimen("empty_name").model
    error = error_of(lambda: harness.registry(model))
    shown(isinstance(error, ValueError) and not isinstance(error, errors.KeyPathError))


# ------------------------------------------------------------------------------------------------------------ KEY-003


class PaddedNumbers(SpellsFrozen):
    def spell(self, key: str) -> str:
        return "/".join(f"{int(s):02d}" if s.isdecimal() else s for s in key.split("/"))


class BracketedNumbers(SpellsFrozen):
    def spell(self, key: str) -> str:
        return "/".join(f"[{s}]" if s.isdecimal() else s for s in key.split("/"))


_LIST = Declaration(tuple(Leaf(f"layers/{n}/w", PARAMETER, noise((2,), seed=n)) for n in (0, 1, 10)))


def _other_than_decimal(harness: Harness) -> None:
    _, registry = over(harness, _LIST)
    shown("layers/0/w" not in set(registry))


CHAPTER.mutant(
    "m-key-padded-numbers",
    "KEY-003",
    PaddedNumbers,
    story="Layers named layer_00, layer_01, ... so that sorting by name is sorting by number, as TensorFlow models do.",
    also=("KEY-004",),
)(_other_than_decimal)
CHAPTER.mutant(
    "m-key-bracketed-numbers",
    "KEY-003",
    BracketedNumbers,
    story="jax.tree_util.keystr spells the step of a list '[0]'.",
)(_other_than_decimal)


# ------------------------------------------------------------------------------------------------------------ KEY-004


class Casefolds(SpellsMutable):
    def spell(self, key: str) -> str:
        return key.lower()


CHAPTER.mutant(
    "m-key-casefolded",
    "KEY-004",
    Casefolds,
    story="Names lowered on the way, as converters of TensorFlow checkpoints do; 'W' and 'w' of an LSTM become one.",
    also=("KEY-006",),
)(_misspells("Dense_0"))


class Normalises(SpellsFrozen):
    def spell(self, key: str) -> str:
        return unicodedata.normalize("NFC", key)


CHAPTER.mutant(
    "m-key-unicode-normalised",
    "KEY-004",
    Normalises,
    story="Keys that were once file names (Orbax and Zarr directories on macOS) come back in another Unicode form.",
)(_misspells("cafe\u0301"))


class StripsModule(SpellsMutable):
    def spell(self, key: str) -> str:
        return key.removeprefix("module/")


CHAPTER.mutant(
    "m-key-wrapper-stripped",
    "KEY-004",
    StripsModule,
    story="Loaders strip the 'module.' of torch's DataParallel silently, also from models whose layer is really called so.",
)(_misspells("module/w"))


class StripsOrigMod(SpellsFrozen):
    def spell(self, key: str) -> str:
        return key.replace("_orig_mod/", "")


CHAPTER.mutant(
    "m-key-compile-prefix-stripped",
    "KEY-004",
    StripsOrigMod,
    story="torch.compile adds '_orig_mod.'; scripts remove it wherever it stands.",
)(_misspells("enc/_orig_mod/w"))


class SplitsDots(SpellsMutable):
    def spell(self, key: str) -> str:
        return key.replace(".", "/")


CHAPTER.mutant(
    "m-key-dots-split",
    "KEY-004",
    SplitsDots,
    story="A name with '.' in Linen, NNX or Keras is taken for a torch path: ('a.b',) becomes ('a', 'b').",
    also=("KEY-001",),
)(_misspells("a.b"))


class ReplacesSpaces(SpellsFrozen):
    def spell(self, key: str) -> str:
        return key.replace(" ", "_").replace("-", "_")


CHAPTER.mutant(
    "m-key-made-identifier",
    "KEY-004",
    ReplacesSpaces,
    story="Keras and TensorFlow make names legal for a variable scope: blanks and dashes become underscores.",
)(_misspells("my layer"))


# ------------------------------------------------------------------------------------------------------------ KEY-005


class PrefixesGenerators(SpellsMutable):
    def spell(self, key: str) -> str:
        cell = MutableRegistry._cell(self, key)
        return f"rngs/{key}" if type(cell).__name__ == "Rng" else key


@CHAPTER.mutant(
    "m-key-generators-prefixed",
    "KEY-005",
    PrefixesGenerators,
    story="Generators live in a collection of their own, as `rngs` in Flax, and the collection gets into the key.",
    also=("KEY-004",),
)
def _(harness: Harness) -> None:
    _, registry = over(harness, one(GENERATOR, key="drop/rng", kind=BUFFER, rng=True))
    shown(list(registry) == ["rngs/drop/rng"])


class PrefixesTransient(FrozenRegistry):
    def _index(self) -> dict[str, Entry]:
        entries = super()._index()
        moved = {k: f"transient/{k}" for k in entries if self._places[k][0] == "transient"}
        self._places = {moved.get(key, key): place for key, place in self._places.items()}
        return {moved.get(key, key): entry for key, entry in entries.items()}


@CHAPTER.mutant(
    "m-key-collection-prefixed",
    "KEY-005",
    PrefixesTransient,
    story="Linen variables are a dict of collections; flattened as they are, every key begins with its collection.",
    also=("KEY-004",),
)
def _(harness: Harness) -> None:
    _, registry = over(harness, one(noise((3,)), key="attn/cache", kind=BUFFER, persistent=False))
    shown(list(registry) == ["transient/attn/cache"])


# ------------------------------------------------------------------------------------------------------------ KEY-006


class ByCollection(FrozenRegistry):
    """Flattens one collection after the other; `merge` decides what happens to a key that is already there."""

    def merge(self, key: str, taken: Mapping[str, Entry]) -> str | None:
        return key

    def _index(self) -> dict[str, Entry]:
        whole, merged, places = self._model, {}, {}
        for name in COLLECTIONS:
            paths = {path for collection, path, _ in whole.leaves() if collection == name}
            ties = {alias: target for alias, target in whole.ties.items() if target in paths}
            self._model, self._places = FrozenModel(**{name: getattr(whole, name)}, ties=ties), {}
            for key, entry in super()._index().items():
                new = self.merge(key, merged)
                if new is not None:
                    merged[new], places[new] = entry, self._places[key]
        self._model, self._places = whole, places
        return merged


class FirstWins(ByCollection):
    def merge(self, key: str, taken: Mapping[str, Entry]) -> str | None:
        return None if key in taken else _no_prefix(key, taken)


class LastWins(ByCollection):
    def merge(self, key: str, taken: Mapping[str, Entry]) -> str | None:
        return _no_prefix(key, taken)


class Renames(ByCollection):
    def merge(self, key: str, taken: Mapping[str, Entry]) -> str | None:
        return f"{key}_1" if key in taken else _no_prefix(key, taken)


def _no_prefix(key: str, taken: Mapping[str, Entry]) -> str:
    keys.check_prefix_free({*taken, key})
    return key


def _takes_two_places_for_one_key(harness: Harness) -> None:
    model = harness.specimen("duplicate_key").model
    shown(accepted(lambda: harness.registry(model)))


CHAPTER.mutant(
    "m-key-duplicate-first-wins",
    "KEY-006",
    FirstWins,
    story="`setdefault` while flattening: a Linen path in `params` hides the same path in `batch_stats`.",
)(_takes_two_places_for_one_key)
CHAPTER.mutant(
    "m-key-duplicate-last-wins",
    "KEY-006",
    LastWins,
    story="`dict.update` while flattening: flatten_dict(sep='/') merges {'a': {'b': x}} with {'a/b': y} silently.",
)(_takes_two_places_for_one_key)
CHAPTER.mutant(
    "m-key-duplicate-renamed",
    "KEY-006",
    Renames,
    story="Haiku and Keras make the second of two equal names unique with a number: the key depends on the order.",
    also=("KEY-004",),
)(_takes_two_places_for_one_key)


# ------------------------------------------------------------------------------------------------------------ KEY-007


class TakesPrefixes(ByCollection):
    def merge(self, key: str, taken: Mapping[str, Entry]) -> str | None:
        if key in taken:
            raise errors.DuplicateKeyError(f"{key!r} is there twice", keys=(key,))
        return key


class DropsWhatIsBelow(ByCollection):
    def merge(self, key: str, taken: Mapping[str, Entry]) -> str | None:
        if key in taken:
            raise errors.DuplicateKeyError(f"{key!r} is there twice", keys=(key,))
        return None if any(key.startswith(f"{other}/") for other in taken) else key


def _takes_a_prefix(harness: Harness) -> None:
    model = harness.specimen("prefix").model
    shown(accepted(lambda: harness.registry(model)))


CHAPTER.mutant(
    "m-key-prefix-taken",
    "KEY-007",
    TakesPrefixes,
    story="In Linen `params` may hold an array at 'a' while `batch_stats` holds a tree at 'a'; both are listed.",
)(_takes_a_prefix)
CHAPTER.mutant(
    "m-key-prefix-dropped",
    "KEY-007",
    DropsWhatIsBelow,
    story="An unflatten that stops at the first array loses what hangs below a name that is an array elsewhere.",
)(_takes_a_prefix)


class PrefixOfAString(MutableRegistry):
    def __init__(self, module: Module) -> None:
        super().__init__(module)
        names = sorted({*self._entries(), *self._aliases()})
        clash = [a for a, b in zip(names, names[1:], strict=False) if b.startswith(a)]
        if clash:
            raise errors.DuplicateKeyError(f"{clash} are prefixes of other keys", keys=tuple(clash))


@CHAPTER.mutant(
    "m-key-prefix-of-a-string",
    "KEY-007",
    PrefixOfAString,
    story="`startswith` without the separator: 'w' is taken for a container of 'w_scale', as in filters by name.",
)
def _(harness: Harness) -> None:
    names = ("w", "w_scale")
    model = harness.build(Declaration(tuple(Leaf(name, PARAMETER, noise((3,))) for name in names)))
    error = error_of(lambda: harness.registry(model))
    shown(isinstance(error, errors.DuplicateKeyError))


# What is above shows that a key is wrong; this one, that a wrong key also hides a place.
@CHAPTER.mutant(
    "m-key-casefolded-collision",
    "KEY-006",
    Casefolds,
    story="h5py on a case-insensitive file system, or `name.lower()`: the weights 'W' and 'w' of one cell are one entry.",
    also=("KEY-004", "LIST-002"),
)
def _(harness: Harness) -> None:
    declaration = Declaration(tuple(Leaf(name, PARAMETER, noise((3,), seed=n)) for n, name in enumerate("Ww")))
    model = harness.build(declaration)
    registry = harness.registry(model)
    shown(len(registry) == 1)
    shown(bits(harness.peek(model, "W")) != bits(harness.peek(model, "w")))
