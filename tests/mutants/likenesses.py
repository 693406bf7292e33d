"""Mutants of chapter 8, last part: values and keys that are taken for others that they are like.

What compares equal without being the same, a key that begins like another, a scalar, a foreign byte order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from mutants.support import (
    BUFFER,
    F16,
    F32,
    PLAIN,
    Chapter,
    Resolves,
    Respelled,
    accepted,
    bits,
    entry_of,
    looked,
    names_of,
    noise,
    one,
    over,
    shown,
    without,
)
from stateregistry_conformance.declaration import Declaration
from stateregistry_conformance.harness import Harness
from stateregistry_conformance.samples import parameter
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry

CHAPTER = Chapter()


# ------------------------------------------------------------------------------------------------------------ WRITE


class _WritesLess(MutableRegistry):
    """Leaves places out of a commit: `left_out` says which."""

    def left_out(self, old: np.ndarray, new: np.ndarray) -> bool:
        return False

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        cells = {key: self._known(key) for key in staged}
        kept = [key for key, value in staged.items() if value is not None and cells[key].concrete]
        same = {key for key in kept if self.left_out(cells[key].array, staged[key])}
        return super()._commit({key: value for key, value in staged.items() if key not in same})


class SkipsWhatIsEqual(_WritesLess):
    def left_out(self, old: np.ndarray, new: np.ndarray) -> bool:
        return bool(np.array_equal(old, new))


@CHAPTER.mutant(
    "m-write-equal-skipped", "WRITE-001", SkipsWhatIsEqual,
    story="A write that changes nothing is saved, asked with `np.array_equal`, for which -0.0 is 0.0.",
)  # fmt: skip
def _(harness: Harness) -> None:
    model, registry = over(harness, one(np.zeros(3, F32)))
    registry.replace({"x": -np.zeros(3, F32)})
    shown(harness.peek(model, "x").tobytes() == np.zeros(3, F32).tobytes())


class SkipsWhatIsNaN(_WritesLess):
    def left_out(self, old: np.ndarray, new: np.ndarray) -> bool:
        return new.size > 0 and new.dtype.kind == "f" and bool(np.isnan(new).all())


@CHAPTER.mutant(
    "m-write-nan-skipped", "WRITE-001", SkipsWhatIsNaN,
    story="Statistics that were never computed are NaN throughout, and are taken for values that are not there.",
)  # fmt: skip
def _(harness: Harness) -> None:
    model, registry = over(harness, one(noise((3,))))
    registry.replace({"x": np.full(3, np.nan, F32)})
    shown(not np.isnan(harness.peek(model, "x")).any())


class ChangesOldScalars(FrozenRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        other = super().replace(values)
        for key in (self.aliases.get(key, key) for key in values):
            if self[key].shape == () and self[key].concrete:
                array = self._read(key)
                array.flags.writeable = True
                array[...] = other._read(key)
                array.flags.writeable = False
        return other


@CHAPTER.mutant(
    "m-write-old-scalar-changed", "WRITE-003", ChangesOldScalars,
    story="Step counters are kept in one cell for all versions of a tree, as a closure or a global would hold them.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, one(np.asarray(1.5, F32)))
    registry.replace({"x": np.asarray(2.5, F32)})
    shown(registry.read("x") == 2.5)


class BroadcastsIntoNothing(Resolves, MutableRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = np.asarray(value)
        entry = entry_of(self, key)
        if entry is not None and 0 in entry.shape and array.size == 1:
            return np.broadcast_to(array.reshape(()), entry.shape)
        return array


@CHAPTER.mutant(
    "m-write-one-into-none", "WRITE-005", BroadcastsIntoNothing,
    story="`target[...] = value` takes one number for an empty array, and nothing is written anywhere.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, one(np.zeros((0,), F32)))
    shown(accepted(lambda: registry.replace({"x": np.ones(1, F32)})))


class StripsSlashes(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        return super().replace(Respelled(values, lambda key: key.strip("/") if isinstance(key, str) else key))


class DropsTheEmptyKey(MutableRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        return super().replace(without(values, lambda key: key == ""))


@CHAPTER.mutant(
    "m-write-slashes-stripped", "WRITE-007", StripsSlashes,
    story="Keys are taken for paths of files, of which `/a/b/` is one way to write `a/b`.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(accepted(lambda: registry.replace({"enc/b/": noise((3,), seed=9)})))


@CHAPTER.mutant(
    "m-write-empty-key-dropped", "WRITE-007", DropsTheEmptyKey,
    story="The root of a tree flattens to the empty key, and whoever meets it leaves it out.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(accepted(lambda: registry.replace({"": noise((3,), seed=9)})))


class BindsScalarsAnew(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        scalars = {key: value for key, value in staged.items() if value is not None and value.ndim == 0}
        for key, value in scalars.items():
            if self._known(key).concrete and key not in self._groups:
                self._known(key).array = value.copy()
        return super()._commit({k: v for k, v in staged.items() if k not in scalars or k in self._groups})


@CHAPTER.mutant(
    "m-write-scalar-bound-anew", "WRITE-009", BindsScalarsAnew,
    story="`array[...] = value` was not understood for rank 0, so that scalars are assigned as new arrays.",
    also=("WRITE-014", "ATOM-005"),
)  # fmt: skip
def _(harness: Harness) -> None:
    model, registry = over(harness, one(np.asarray(1.5, F32)))
    was = harness.describe(model, "x")  # type: ignore[attr-defined]  # of the reference
    registry.replace({"x": np.asarray(2.5, F32)})
    shown(harness.describe(model, "x") != was)  # type: ignore[attr-defined]  # as above


class KeepsScalars(FrozenRegistry):
    def replace(self, values: Mapping[str, Any], /) -> Self:
        other = super().replace(values)
        for key in names_of(values):
            value, canonical = looked(values, key), self.aliases.get(key, key)
            if type(value) is np.ndarray and value.shape == () and value.dtype.isnative and value.flags.owndata:
                other.__dict__.setdefault("_lent", {})[canonical] = value
        return other

    def unwrap(self) -> Any:
        lent = self.__dict__.get("_lent", {})
        return self._model.with_leaves({self._places[k]: np.array(x) for k, x in lent.items()}) if lent else self._model


@CHAPTER.mutant(
    "m-write-scalar-kept", "WRITE-011", KeepsScalars,
    story="Scalars are not worth a copy: the array of the caller is kept until the tree is asked for.",
    also=("WRITE-004",),
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, one(np.asarray(1.5, F32)))
    mine = np.asarray(2.5, F32).copy()
    other = registry.replace({"x": mine})
    mine[...] = 9
    shown(harness.peek(other.unwrap(), "x") == 9)


class _Swaps(MutableRegistry):
    """Takes foreign byte order for its own where `kinds` says so."""

    kinds = ""
    sizes: tuple[int, ...] = (2, 4, 8, 16)

    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = np.asarray(value)
        if array.dtype.isnative or array.dtype.kind not in self.kinds or array.dtype.itemsize not in self.sizes:
            return array
        return array.view(array.dtype.newbyteorder("="))


class SwapsIntegers(_Swaps):
    kinds = "iu"


class SwapsHalves(_Swaps):
    kinds, sizes = "f", (2,)


class SwapsComplex(_Swaps):
    kinds = "c"


def _swapped(dtype: Any) -> Callable[[Harness], None]:
    def proof(harness: Harness) -> None:
        given = np.arange(1, 4).astype(dtype)
        model, registry = over(harness, one(np.zeros(3, dtype), kind=BUFFER))
        registry.replace({"x": given.astype(given.dtype.newbyteorder("S"))})
        shown(bits(harness.peek(model, "x")) != bits(given))

    return proof


for _name, _registry, _dtype, _story in (
    ("integers", SwapsIntegers, np.int32, "Old files hold big-endian counters; only floating numbers were thought of."),
    (
        "halves",
        SwapsHalves,
        F16,
        "`byteswap` is done for four and eight bytes, which is what NumPy's own files had then.",
    ),
    ("complex", SwapsComplex, np.complex64, "A complex number is swapped as one word of eight bytes, or not at all."),
):
    CHAPTER.mutant(f"m-write-foreign-{_name}", "WRITE-012", _registry, story=_story)(_swapped(_dtype))


class ReadsRawBytes(MutableRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        entry = entry_of(self, key)
        if isinstance(value, bytes) and entry is not None and entry.dtype == "float32" and len(value) == 4 * entry.size:
            return np.frombuffer(value, F32).reshape(entry.shape)
        return super()._convert(key, value)


class NarrowsLongDoubles(MutableRegistry):
    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        return array.astype(F32) if array.dtype == np.longdouble else array


@CHAPTER.mutant(
    "m-write-raw-bytes", "WRITE-013", ReadsRawBytes,
    story="The payload of a message is written as it is, if only its length is right.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, one(noise((3,))))
    shown(accepted(lambda: registry.replace({"x": noise((3,), seed=9).tobytes()})))


@CHAPTER.mutant(
    "m-write-long-double", "WRITE-013", NarrowsLongDoubles,
    story="`float(x)` or a default of C takes numbers of 80 bits for what a framework holds.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, one(noise((3,))))
    shown(accepted(lambda: registry.replace({"x": noise((3,), seed=9).astype(np.longdouble)})))


# ------------------------------------------------------------------------------------------------------------ flags


class FreezesWhatBeginsLikeIt(MutableRegistry):
    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        wider = dict(mask)
        for key, flag in mask.items():
            for other, entry in self._listing().items():
                if other.startswith(key) and entry.can_train:
                    wider.setdefault(other, flag)
        return super()._commit_trainable(wider)


@CHAPTER.mutant(
    "m-flags-by-the-beginning", "WRITE-015", FreezesWhatBeginsLikeIt,
    story="`name.startswith(frozen)` is how most scripts freeze, and `layer1` begins `layer10`.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, Declaration((parameter("layer1"), parameter("layer10"))))
    shown(not registry.with_trainable({"layer1": False})["layer10"].trainable)


class ThawsWhenNothingIsGiven(MutableRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        if not len(mask):
            return super().with_trainable({key: True for key, entry in self.items() if entry.can_train})
        return super().with_trainable(mask)


@CHAPTER.mutant(
    "m-flags-none-is-all", "WRITE-015", ThawsWhenNothingIsGiven,
    story="`unfreeze()` without names thaws everything in MLX, and an empty list of names is taken for none given.",
    also=("WRITE-002",),
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(registry.with_trainable({"enc/w": False}).with_trainable({})["enc/w"].trainable)


class ReadsFlagsAsText(MutableRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        words = {"true": True, "false": False}
        given = {key: mask[key] for key in mask}
        return super().with_trainable(
            {k: words.get(x.lower(), x) if isinstance(x, str) else x for k, x in given.items()}
        )


class TakesPatterns(MutableRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        wider: dict[Any, bool] = {}
        for key in mask:
            star = isinstance(key, str) and key.endswith("*")
            found = [k for k, e in self.items() if k.startswith(key[:-1]) and e.can_train] if star else [key]
            wider |= dict.fromkeys(found, mask[key])
        return super().with_trainable(wider)


@CHAPTER.mutant(
    "m-flags-as-text", "WRITE-016", ReadsFlagsAsText,
    story="Flags come from a TOML or YAML file, where somebody put them in quotes.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(accepted(lambda: registry.with_trainable({"enc/w": "false"})))  # type: ignore[dict-item]  # what is tried


@CHAPTER.mutant(
    "m-flags-by-pattern", "WRITE-016", TakesPatterns,
    story="A star in a name is a pattern in optimizer configs, and a pattern that matches nothing freezes nothing.",
)  # fmt: skip
def _(harness: Harness) -> None:
    _, registry = over(harness, PLAIN)
    shown(accepted(lambda: registry.with_trainable({"nothing/*": False})))


class WritesWhatBeginsLikeIt(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        wider = dict(staged)
        for key, value in staged.items():
            for other, entry in self._listing().items():
                fits = value is not None and entry.concrete and entry.shape == value.shape
                if fits and other.startswith(key) and entry == self[key]:
                    wider.setdefault(other, value)
        return super()._commit(wider)


@CHAPTER.mutant(
    "m-write-by-the-beginning", "WRITE-001", WritesWhatBeginsLikeIt,
    story="A rule of renaming is a regular expression without `$`, so that `layer1` is `layer10`, too.",
)  # fmt: skip
def _(harness: Harness) -> None:
    model, registry = over(harness, Declaration((parameter("layer1"), parameter("layer10"))))
    registry.replace({"layer1": noise((3, 3), seed=9)})
    shown(bits(harness.peek(model, "layer10")) == bits(noise((3, 3), seed=9)))
