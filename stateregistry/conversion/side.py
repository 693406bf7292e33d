"""Side: all that a plan knows of one registry: metadata, aliases, layers. No values, no framework, JSON both ways.

A side is taken from a registry, or derived from the other side where only the name of a framework is given: then the
dialect's table says the native names and layouts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Self, final

from stateregistry.conversion.rows import row
from stateregistry.entry import Entry, Kind
from stateregistry.layers.infer import guess_dialect
from stateregistry.layers.vocabulary import Holder, Lack, Layer, Piece
from stateregistry.optimizers import OptimizerRegistry, Place
from stateregistry.registry import StateRegistry


@final
@dataclass(frozen=True, slots=True)
class Training:
    """What a plan knows of an optimizer beside its entries.

    Attributes:
        model: the side of the model that it trains.
        places: what each entry is of which parameter of the model.
        settings: hyper-parameters that can be seen.
    """

    model: Side
    places: Mapping[str, Place]
    settings: Mapping[str, object] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Side:
    """One side of a plan.

    Attributes:
        dialect: name of the dialect its keys and layouts are in, `""` if unknown.
        entries: by canonical key, in native order.
        aliases: alias key -> canonical key.
        layers: the layers the entries form.
        opaque: registered state that is no entry, with the reason.
        derived: made from the other side by a dialect's table, not from a model.
        holders: the module that holds an entry of no layer, by key or alias, where there are modules.
        activations: functions without state that hang at modules, by path.
        training: for the state of an optimizer, what it is the state of.
    """

    dialect: str
    entries: Mapping[str, Entry]
    aliases: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[Layer, ...] = ()
    opaque: Mapping[str, str] = field(default_factory=dict)
    derived: bool = False
    holders: Mapping[str, Holder] = field(default_factory=dict)
    activations: Mapping[str, str] = field(default_factory=dict)
    training: Training | None = None

    @classmethod
    def of(cls, reg: StateRegistry) -> Self:
        """The side that a registry is. A dialect that a file does not state is guessed from its names."""
        entries = {key: reg[key] for key in reg.native_order}
        if isinstance(reg, OptimizerRegistry):
            training = Training(cls.of(reg.model), dict(reg.places), dict(reg.settings))
            return cls(reg.dialect, entries, dict(reg.aliases), (), dict(reg.opaque), training=training)
        dialect = reg.dialect
        if not dialect:
            guessed = guess_dialect(entries)
            dialect = guessed.name if guessed is not None else ""
        layers = reg.layers
        inside = {key for layer in layers for key in layer.roles.values()}
        alone = {key: holder for key, holder in reg.holders.items() if key not in inside}
        return cls(
            dialect, entries, dict(reg.aliases), layers, dict(reg.opaque), holders=alone,
            activations=dict(reg.activations),
        )  # fmt: skip

    def canonical(self, key: str) -> str | None:
        """The canonical key of a key or alias, `None` if there is neither."""
        return key if key in self.entries else self.aliases.get(key)

    @property
    def names(self) -> tuple[str, ...]:
        """Every key and alias."""
        return (*self.entries, *self.aliases)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "dialect": self.dialect,
            "entries": {key: _row(entry) for key, entry in self.entries.items()},
            "aliases": dict(self.aliases),
            "layers": [_layer_row(layer) for layer in self.layers],
            "opaque": dict(self.opaque),
            "derived": self.derived,
            "holders": {key: row(holder) for key, holder in self.holders.items()},
            "activations": dict(self.activations),
            "training": _training_row(self.training) if self.training is not None else None,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The side that `to_dict` wrote."""
        entries = {key: entry_from_row(row) for key, row in data["entries"].items()}
        layers = tuple(_layer(row) for row in data["layers"])
        holders = {key: Holder(**row) for key, row in data["holders"].items()}
        return cls(
            data["dialect"], entries, data["aliases"], layers, data["opaque"], data["derived"], holders,
            data["activations"], _training(data["training"]) if data["training"] is not None else None,
        )  # fmt: skip

    def digest(self) -> str:
        """sha256 of what the registry must look like for a plan to be valid: entries and aliases."""
        return digest(self.entries, self.aliases)


def digest(entries: Mapping[str, Entry], aliases: Mapping[str, str], /) -> str:
    """sha256 of the shape and dtype of every entry, and of the aliases."""
    rows = {key: [str(entry.shape), entry.dtype] for key, entry in entries.items()}
    text = json.dumps([rows, dict(aliases)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _training_row(training: Training) -> dict[str, Any]:
    places = {key: row(place) for key, place in training.places.items()}
    return {"model": training.model.to_dict(), "places": places, "settings": dict(training.settings)}


def _training(row: Mapping[str, Any]) -> Training:
    places = {key: Place(place["slot"], tuple(place["parameters"])) for key, place in row["places"].items()}
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in row["settings"].items()}
    return Training(Side.from_dict(row["model"]), places, settings)


def _row(entry: Entry) -> dict[str, Any]:
    return {**row(entry), "kind": entry.kind.value, "shape": list(entry.shape)}


def entry_from_row(row: Mapping[str, Any]) -> Entry:
    """The entry of a JSON row."""
    return Entry(**{**row, "kind": Kind(row["kind"]), "shape": tuple(row["shape"])})


_BESIDE = tuple(one.name for one in fields(Layer) if one.name not in ("pieces", "config"))


def _layer_row(layer: Layer) -> dict[str, Any]:
    pieces = [_piece_row(piece) for piece in layer.pieces]
    config = {name: list(value) if isinstance(value, tuple) else value for name, value in layer.config.items()}
    rest = {name: row(getattr(layer, name)) for name in _BESIDE if name != "reads" or layer.reads is not None}
    return rest | {"pieces": pieces, "config": config}


@lru_cache(maxsize=4096)
def _piece_row(piece: Piece) -> dict[str, Any]:
    return {**row(piece), "kind": piece.kind.value}


def _layer(row: Mapping[str, Any]) -> Layer:
    pieces = tuple(Piece(**{**piece, "kind": Kind(piece["kind"])}) for piece in row["pieces"])
    config = {name: tuple(value) if isinstance(value, list) else value for name, value in row["config"].items()}
    lacks = tuple(Lack(**{**lack, "roles": tuple(lack["roles"])}) for lack in row["lacks"])
    fixed = {"pieces": pieces, "config": config, "candidates": tuple(row["candidates"]), "lacks": lacks}
    return Layer(**{**row, **fixed})
