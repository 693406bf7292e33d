"""Headers: what a registry shows of one side of a pair, and what of it may be renamed, reordered or taken away.

A header keeps what the framework fixes (the names of the pieces of a layer) apart from what authors choose (the paths of
layers), and every entry with the value that is right for it. Typed, its layers are those of a model; else they are read from
names again after every change, as a file's are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

import stateregistry as sr
from stateregistry.layers.infer import infer_layers
from stateregistry.registry import ReadOnlyRegistry

#: What leaves are called by the frameworks; other leaves are the author's names.
_FIXED = frozenset(
    (
        "weight", "bias", "kernel", "scale", "embedding", "mean", "var", "running_mean", "running_var", "num_batches_tracked",
        "weight_g", "weight_v",
    )
)  # fmt: skip


class HeaderRegistry(ReadOnlyRegistry):
    """The registry over a header."""

    adapter: ClassVar[str] = "zoo"

    def __init__(self, header: Header) -> None:
        self._header = header

    @property
    def dialect(self) -> str:
        return self._header.dialect

    def _entries(self) -> Mapping[str, sr.Entry]:
        return self._header.entries

    def _aliases(self) -> Mapping[str, str]:
        return self._header.aliases

    def _layers(self) -> tuple[sr.Layer, ...]:
        return self._header.layers

    def _read(self, key: str, /) -> np.ndarray:
        return self._header.values[key]

    def replace(self, values: Mapping[str, object], /) -> HeaderRegistry:
        """Another header with other values: only where candidates are tried is anything written."""
        found = {key: np.asarray(value) for key, value in values.items()}
        return HeaderRegistry(replace(self._header, values={**self._header.values, **found}))

    def unwrap(self) -> Header:
        return self._header


@dataclass(frozen=True)
class Header:
    """One side of a pair.

    Attributes:
        dialect: of names and layouts. entries: in native order. aliases: alias to canonical key. layers: that form them.
        values: the right value of each entry. typed: layers come from modules; else they are read from names again.
        owners: by key, the path of the layer that has it, which is where the author's names end.
        copies: keys of what is there twice, and has no counterpart.
        sequence: the owners in the order in which modules are called, where that is known, else declared.
        native: what keys are called in the model, and places: what its layers are called here. live: the model.
    """

    dialect: str
    entries: Mapping[str, sr.Entry]
    aliases: Mapping[str, str]
    layers: tuple[sr.Layer, ...]
    values: Mapping[str, np.ndarray]
    typed: bool
    owners: Mapping[str, str] = field(default_factory=dict)
    copies: frozenset[str] = frozenset()
    sequence: tuple[str, ...] = ()
    native: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    live: object = None

    @classmethod
    def of(cls, reg: sr.StateRegistry, *, typed: bool, live: object = None) -> Header:
        """The header of a registry whose layers are known."""
        aliases = reg.aliases
        owners: dict[str, str] = {}
        for layer in reg.layers:
            base = layer.path if layer.base is None else layer.base
            for piece in layer.pieces:
                owners.setdefault(layer.key(piece), base)
        for key in (*reg, *aliases):
            if key not in owners:
                parent, _, leaf = key.rpartition("/")
                owners[key] = parent if leaf in _FIXED else key
        values = {key: reg.read(key) for key in reg}
        entries = {key: reg[key] for key in reg.native_order}
        bases = (layer.path if layer.base is None else layer.base for layer in reg.layers)
        sequence = tuple(dict.fromkeys((*bases, *(owners[key] for key in entries))))
        made = cls(reg.dialect, entries, dict(aliases), reg.layers, values, typed, owners, sequence=sequence)
        made = replace(
            made,
            native={key: key for key in entries},
            places={layer.path: layer.path for layer in reg.layers},
            live=live,
        )
        return made if typed else made.reread()

    def reread(self) -> Header:
        """Without types: layers as a file's names show them, kinds inferred."""
        if self.typed:
            return self
        entries = {key: replace(entry, inferred=True) for key, entry in self.entries.items()}
        return replace(self, entries=entries, layers=infer_layers(entries, self.dialect))

    @property
    def registry(self) -> sr.StateRegistry:
        """The registry over it."""
        return HeaderRegistry(self)

    def moved(self, new: Callable[[str], str]) -> Header:
        """With other owner paths; what is below an owner stays."""
        names = {key: below(new(owner), key[len(owner) :].strip("/")) for key, owner in self.owners.items()}
        # Which of several keys of one place is canonical is decided by their names.
        groups: dict[str, list[str]] = {}
        for key in self.entries:
            groups[key] = [key]
        for alias, key in self.aliases.items():
            groups[key].append(alias)
        head = {key: min(names[one] for one in keys) for key, keys in groups.items()}
        layers = []
        paths = {}
        for layer in self.layers if self.typed else ():
            base = layer.path if layer.base is None else layer.base
            rest = layer.path[len(base) :].strip("/")
            moved_base = new(base)
            paths[layer.path] = below(moved_base, rest)
            layers.append(replace(layer, path=below(moved_base, rest), base=None if layer.base is None else moved_base))
        return replace(
            self,
            entries={head[key]: entry for key, entry in self.entries.items()},
            aliases={names[one]: head[key] for key, keys in groups.items() for one in keys if names[one] != head[key]},
            layers=tuple(layers),
            values={head[key]: value for key, value in self.values.items()},
            owners={names[key]: new(owner) for key, owner in self.owners.items()},
            sequence=tuple(map(new, self.sequence)),
            native={head[key]: name for key, name in self.native.items() if key in head},
            places={name: paths[path] for name, path in self.places.items() if path in paths},
        )._sorted_as(self)

    def _sorted_as(self, before: Header) -> Header:
        """Where the order was the alphabet's (trees of JAX are sorted), it is that of the new names."""
        if not all(names == sorted(names) for names in before._by_kind().values()):
            return self.reread()
        keys = (key for names in self._by_kind().values() for key in sorted(names))
        return replace(self, entries={key: self.entries[key] for key in keys}).reread()

    def _by_kind(self) -> dict[sr.Kind, list[str]]:
        """Keys by kind: Linen keeps each kind in a collection of its own."""
        found: dict[sr.Kind, list[str]] = {}
        for key, entry in self.entries.items():
            found.setdefault(entry.kind, []).append(key)
        return found

    def ordered(self, keys: Iterable[str]) -> Header:
        """With the entries, and the layers by their first entry, in another order."""
        entries = {key: self.entries[key] for key in keys}
        if not self.typed:
            return replace(self, entries=entries).reread()
        places = {key: number for number, key in enumerate(entries)}

        def place(layer: sr.Layer) -> int:
            found = [self.aliases.get(layer.key(piece), layer.key(piece)) for piece in layer.pieces]
            return min(places[key] for key in found)

        return replace(self, entries=entries, layers=tuple(sorted(self.layers, key=place)))

    def groups(self) -> dict[str, list[str]]:
        """The canonical keys of every owner, in native order."""
        found: dict[str, list[str]] = {}
        for key in self.entries:
            found.setdefault(self.owners[key], []).append(key)
        return found


def below(base: str, rest: str) -> str:
    return f"{base}/{rest}" if base and rest else base or rest
