"""Golden files: models, listings and bits that are the same for every implementation, in whatever language.

`0.1.json` says what to build, what must be listed and what to write; values are `[offset, length]` in `0.1.bin`, raw bytes,
little-endian, C order. `README.md` beside them describes every field. This reader checks the files themselves (schema, digest,
lengths) and makes `Case`s of them. Imports NumPy, ml_dtypes through the core, and nothing that it judges.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from stateregistry.entry import DTYPES, Entry, Kind, numpy_dtype
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.specification import VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA: Final = "stateregistry.golden/1"


@final
@dataclass(frozen=True, slots=True)
class Case:
    """One model.

    Attributes:
        name, about: what it is called, and what it is about.
        declaration: what to build; its own `entries()` and `aliases()` are not what is compared with.
        listing: every entry by canonical key, in the order in which it must be listed.
        aliases: alias -> canonical key.
        snapshot: the keys of a snapshot, in order.
        built: the bits that a fresh model must give, by canonical key.
        written: the bits to write, by canonical key.
    """

    name: str
    about: str
    declaration: Declaration
    listing: Mapping[str, Entry]
    aliases: Mapping[str, str]
    snapshot: tuple[str, ...]
    built: Mapping[str, np.ndarray]
    written: Mapping[str, np.ndarray]


@cache
def cases() -> tuple[Case, ...]:
    """Every case of the version that this suite decides.

    Raises:
        ValueError: the files contradict themselves.
    """
    folder = resources.files("stateregistry_conformance").joinpath("golden")
    document = json.loads(folder.joinpath(f"{VERSION}.json").read_text("utf-8"))
    raw = folder.joinpath(document["bytes"]).read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if (document["schema"], document["spec"], document["sha256"]) != (SCHEMA, VERSION, found):
        message = f"the golden files of {VERSION} are not what they say: {document['schema']}, sha256 {found}"
        raise ValueError(message)
    return tuple(_case(row, raw) for row in document["cases"])


def _case(row: Mapping[str, Any], raw: bytes) -> Case:
    leaves = tuple(_leaf(one, raw) for one in row["build"])
    declaration = Declaration(leaves, row["ties"])
    canonical = {
        leaf.key: next(one["key"] for one in row["listing"] if _same(row, one["key"], leaf)) for leaf in leaves
    }
    entries = {one["key"]: _entry(one) for one in row["listing"]}
    return Case(
        row["name"],
        row["about"],
        declaration,
        entries,
        dict(row["aliases"]),
        tuple(row["snapshot"]),
        {canonical[leaf.key]: leaf.value for leaf in leaves if leaf.concrete},
        {key: _array(place, entries[key].shape, entries[key].dtype, raw) for key, place in row["write"].items()},
    )


def _same(row: Mapping[str, Any], key: str, leaf: Leaf) -> bool:
    return bool(key == leaf.key or row["ties"].get(key) == leaf.key)


def _leaf(one: Mapping[str, Any], raw: bytes) -> Leaf:
    shape = tuple(one["shape"])
    value = (
        np.zeros(shape, numpy_dtype(one["dtype"]))
        if one["value"] is None
        else _array(one["value"], shape, one["dtype"], raw)
    )
    flags = {"persistent": one["persistent"], "rng": one["rng"], "concrete": one["concrete"]}
    return Leaf(one["key"], Kind(one["kind"]), value, **flags)


def _entry(one: Mapping[str, Any]) -> Entry:
    flags = {name: one[name] for name in ("trainable", "persistent", "concrete", "rng")}
    return Entry(Kind(one["kind"]), tuple(one["shape"]), one["dtype"], **flags)


def _array(place: tuple[int, int], shape: tuple[int, ...], dtype: str, raw: bytes) -> np.ndarray:
    offset, length = place
    if length != math.prod(shape) * DTYPES[dtype] or offset + length > len(raw):
        message = f"{length} bytes at {offset} are not {dtype}{list(shape)} of a file of {len(raw)} bytes"
        raise ValueError(message)
    stored = numpy_dtype(dtype)
    words = np.frombuffer(raw, np.uint8, length, offset).view(
        stored if stored.kind == "V" else stored.newbyteorder("<")
    )
    return np.array(words.reshape(shape), dtype=stored, order="C", copy=True)
