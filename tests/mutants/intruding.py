"""Mutants of chapter 8, part three: keys that are none, and values that are no arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from mutants.refusing import takes
from mutants.support import (
    DROPPED,
    PLAIN,
    Chapter,
    Respelled,
    accepted,
    entry_of,
    error_of,
    looked,
    names_of,
    noise,
    one,
    over,
    shown,
    without,
)
from stateregistry import errors
from stateregistry.entry import Entry, numpy_dtype
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.cells import Buffer
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry

CHAPTER = Chapter()


# ---------------------------------------------------------------------------------------------------------- WRITE-007


class Respells:
    """Looks for an unknown key under another spelling: `respell` says which, or `DROPPED`."""

    def respell(self, key: str) -> str:
        return key

    def _known_key(self, key: Any) -> bool:
        return not isinstance(key, str) or key in self or key in self.aliases or key in self.opaque

    def replace(self, values: Mapping[str, Any], /) -> Self:
        return super().replace(Respelled(values, lambda key: key if self._known_key(key) else self.respell(key)))


class DropsUnexpected(Respells, MutableRegistry):
    def respell(self, key: str) -> Any:
        return DROPPED


class TakesDots(Respells, FrozenRegistry):
    def respell(self, key: str) -> str:
        return key.replace(".", "/")


class TakesWrappedKeys(Respells, MutableRegistry):
    def respell(self, key: str) -> str:
        return key.removeprefix("module/")


class TakesAnyCase(Respells, FrozenRegistry):
    def respell(self, key: str) -> str:
        return next((known for known in self if known.lower() == key.lower()), key)


class TakesUniqueSuffixes(Respells, MutableRegistry):
    def respell(self, key: str) -> str:
        ends = [known for known in self if known.endswith(f"/{key}")]
        return ends[0] if len(ends) == 1 else key


for name, cls, key, why in (
    (
        "m-write-unexpected-dropped",
        DropsUnexpected,
        "enc/bias",
        "Linen's `from_state_dict` and Keras drop what they do not know: a misspelt name keeps the old weights.",
    ),
    (
        "m-write-dots-taken",
        TakesDots,
        "enc.b",
        "A torch-style name is understood instead of explained: two spellings for one place.",
    ),
    (
        "m-write-wrapper-prefix-taken",
        TakesWrappedKeys,
        "module/enc/b",
        "A checkpoint of DataParallel is loaded into the bare model by stripping 'module.' where that helps.",
    ),
    ("m-write-any-case-taken", TakesAnyCase, "ENC/B", "Fuzzy matching of names in a converter."),
    (
        "m-write-suffix-taken",
        TakesUniqueSuffixes,
        "b",
        "A bare name that occurs once is found wherever it stands (Keras' `load_weights(by_name=True)`).",
    ),
):

    def _unknown_key_taken(harness: Harness, key: str = key) -> None:
        _, registry = over(harness, PLAIN)
        shown(accepted(lambda: registry.replace({key: noise((3,))})))

    CHAPTER.mutant(name, "WRITE-007", cls, story=why)(_unknown_key_taken)


class Creates(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        for key in names_of(values):
            value = looked(values, key)
            fresh = isinstance(key, str) and key.isidentifier() and self._module.find(key) is None
            if fresh and key not in self.opaque and value is not None and value.dtype.kind == "f":
                self._module.register_buffer(key, Buffer(value))
        return super().replace(values)


@CHAPTER.mutant(
    "m-write-creates",
    "WRITE-007",
    Creates,
    story="NNX's `update` creates a new attribute for a key that the module does not have.",
    also=("WRITE-008", "ATOM-001"),
)
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(accepted(lambda: registry.replace({"extra": noise((3,))})) and "extra" in registry)


# ---------------------------------------------------------------------------------------------------------- WRITE-013


class ParsesText(MutableRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        entry = entry_of(self, key)
        array = super()._convert(key, value)
        return array.astype(numpy_dtype(entry.dtype)) if entry is not None and array.dtype.kind == "U" else array


class UnpacksObjects(FrozenRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        entry = entry_of(self, key)
        return array.astype(numpy_dtype(entry.dtype)) if entry is not None and array.dtype.kind == "O" else array


class PadsRagged(FrozenRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        entry = entry_of(self, key)
        if entry is not None and isinstance(value, list) and value and all(isinstance(row, list) for row in value):
            padded = np.zeros((len(value), max(map(len, value))), numpy_dtype(entry.dtype))
            for number, row in enumerate(value):
                padded[number, : len(row)] = row
            return padded
        return super()._convert(key, value)


class SkipsNone(MutableRegistry):
    def _gives_none(self, values: Mapping[str, Any], key: str) -> bool:
        try:
            return values[key] is None
        except Exception:  # noqa: BLE001  # the core reads it again and reports what it raises
            return False

    def replace(self, values: Mapping[str, Any], /) -> Self:
        return super().replace(without(values, lambda key: self._gives_none(values, key)))


class TakesNumbersAsKeys(FrozenRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        return super().replace(Respelled(values, lambda key: str(key) if type(key) is int else key))


class TakesPathsAsKeys(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        return super().replace(Respelled(values, lambda key: "/".join(key) if isinstance(key, tuple) else key))


class SkipsOpaque(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        return super().replace(without(values, self.opaque.__contains__))


class OpaqueIsUnexpected(FrozenRegistry):
    def _listing(self) -> Mapping[str, Entry]:
        return super()._listing()

    def replace(self, values: Mapping[str, Any], /) -> Self:
        hidden, self._known_opaque = self._known_opaque, {}
        try:
            return super().replace(values)
        finally:
            self._known_opaque = hidden


for name, cls, value, given, why in (
    (
        "m-write-text-parsed",
        ParsesText,
        noise(()),
        "1.5",
        "`float(value)`: a text from a JSON file is taken for a number.",
    ),
    (
        "m-write-objects-unpacked",
        UnpacksObjects,
        noise((2,)),
        np.array([1.5, 2.5], object),
        "An object array from a pickle is unpacked with `astype`, whatever the objects are.",
    ),
    (
        "m-write-ragged-padded",
        PadsRagged,
        noise((2, 3)),
        [[1.0, 2.0, 3.0], [4.0]],
        "A ragged list is padded with zeros, as Keras' `pad_sequences` does it for data.",
    ),
    ("m-write-none-skipped", SkipsNone, noise((3,)), None, "None stands for 'leave it' in `optax` and in Flax' masks."),
):
    CHAPTER.mutant(name, "WRITE-013", cls, story=why)(takes(value, given))


@CHAPTER.mutant(
    "m-write-numbers-as-keys",
    "WRITE-013",
    TakesNumbersAsKeys,
    story="`model[0]` of a torch Sequential: the number stands for its text.",
)
def _(harness: Harness) -> None:
    _, registry = over(harness, one(noise((3,)), key="0"))
    shown(accepted(lambda: registry.replace({0: noise((3,))})))


@CHAPTER.mutant(
    "m-write-paths-as-keys",
    "WRITE-013",
    TakesPathsAsKeys,
    story="`flatten_dict` without `sep` gives tuples, which are joined as they are: names with '/' mean other places.",
)
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(accepted(lambda: registry.replace({("enc", "b"): noise((3,))})))


@CHAPTER.mutant(
    "m-write-opaque-skipped",
    "WRITE-013",
    SkipsOpaque,
    story="A value for `_extra_state` is left out silently when the module has no `set_extra_state`.",
)
def _(harness: Harness) -> None:
    specimen = harness.specimen("opaque")
    registry = harness.registry(specimen.model)
    shown(accepted(lambda: registry.replace({specimen.keys[0]: noise((3,))})))


@CHAPTER.mutant(
    "m-write-opaque-unexpected",
    "WRITE-013",
    OpaqueIsUnexpected,
    story="Whoever reports only what it can write calls a key unknown which the model has.",
    also=("ERR-002",),
)
def _(harness: Harness) -> None:
    specimen = harness.specimen("opaque")
    registry = harness.registry(specimen.model)
    error = error_of(lambda: registry.replace({specimen.keys[0]: noise((3,))}))
    shown(isinstance(error, errors.UnexpectedKeyError) and error.report.unexpected == specimen.keys[:1])
