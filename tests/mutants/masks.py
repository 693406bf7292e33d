"""Mutants of chapter 8, part four: `with_trainable` that does less, more or something else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from mutants.support import F16, PLAIN, Chapter, accepted, kept, over, shown
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry

CHAPTER = Chapter()


# ---------------------------------------------------------------------------------------------------------- WRITE-015


class ForgetsEarlierMasks(FrozenRegistry):
    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        other = super()._commit_trainable(mask)
        other._flags, other._listed = dict(mask), None
        return other


@CHAPTER.mutant(
    "m-mask-earlier-forgotten",
    "WRITE-015",
    ForgetsEarlierMasks,
    story="The mask is replaced and not merged: unfreezing the head thaws the whole backbone.",
    also=("KIND-005",),
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1].with_trainable({"enc/w": False}).with_trainable({"enc/b": False})
    shown(registry["enc/w"].trainable)


class FreezesSiblings(MutableRegistry):
    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        entries, wider = self._entries(), dict(mask)
        for key, flag in mask.items():
            inside = key.rpartition("/")[0]
            for other, entry in entries.items():
                if inside and other.rpartition("/")[0] == inside and entry.can_train:
                    wider.setdefault(other, flag)
        return super()._commit_trainable(wider)


@CHAPTER.mutant(
    "m-mask-whole-layer",
    "WRITE-015",
    FreezesSiblings,
    story="Keras' `layer.trainable = False` overwrites the flags of everything in the layer.",
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1].with_trainable({"enc/w": False})
    shown(not registry["enc/b"].trainable)


class CannotThaw(MutableRegistry):
    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        return super()._commit_trainable({key: flag for key, flag in mask.items() if not flag})


class CannotThawATree(FrozenRegistry):
    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        return super()._commit_trainable({key: flag and self[key].trainable for key, flag in mask.items()})


def _stays_frozen(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1].with_trainable({"enc/w": False}).with_trainable({"enc/w": True})
    shown(not registry["enc/w"].trainable)


CHAPTER.mutant(
    "m-mask-thaw-ignored",
    "WRITE-015",
    CannotThaw,
    story="A freeze is written and its reverse is not: gradual unfreezing trains the head for ever.",
    also=("KIND-006",),
)(_stays_frozen)
CHAPTER.mutant(
    "m-mask-thaw-ignored-tree",
    "WRITE-015",
    CannotThawATree,
    story="Masks are combined with `and`, as nested optax masks are.",
)(_stays_frozen)


class FreezingRounds(MutableRegistry):
    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        for key, flag in mask.items():
            cell = self._known(key)
            if not flag and cell.concrete and cell.dtype == np.float32:
                with np.errstate(all="ignore"):
                    cell.array[...] = cell.array.astype(F16)
        return super()._commit_trainable(mask)


@CHAPTER.mutant(
    "m-mask-rounds-frozen-weights",
    "WRITE-015",
    FreezingRounds,
    story="Frozen weights are kept in half precision to save memory, as recipes for LoRA do it.",
    also=("LOAD-002",),
)
def _(harness: Harness) -> None:
    model, registry = over(harness, PLAIN)
    registry.with_trainable({"enc/w": False})
    shown(not kept(harness, model, PLAIN))


class Toggles(FrozenRegistry):
    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        same = {key: not flag for key, flag in mask.items() if self[key].trainable is flag and self[key].can_train}
        return super()._commit_trainable({**mask, **same})


@CHAPTER.mutant(
    "m-mask-toggles",
    "WRITE-015",
    Toggles,
    story="The flag is flipped where a mask mentions it; a mask applied twice undoes itself.",
    also=("KIND-005",),
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1].with_trainable({"enc/w": False}).with_trainable({"enc/w": False})
    shown(registry["enc/w"].trainable)


class OnlyTheseTrain(MutableRegistry):
    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Self:
        rest = {k: False for k, e in self._entries().items() if e.can_train and k not in mask}
        return super()._commit_trainable({**mask, **rest} if any(mask.values()) else mask)


@CHAPTER.mutant(
    "m-mask-only-these",
    "WRITE-015",
    OnlyTheseTrain,
    story="A list of what to train is also a list of what not to train: `freeze all, then unfreeze these`.",
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1].with_trainable({"enc/w": True})
    shown(not registry["enc/b"].trainable)


# ---------------------------------------------------------------------------------------------------------- WRITE-016


class IgnoresTypos(MutableRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        return super().with_trainable({k: f for k, f in mask.items() if k in self or k in self.aliases})


class TakesTruth(FrozenRegistry):
    def with_trainable(self, mask: Mapping[str, Any], /) -> Self:
        return super().with_trainable({k: f if isinstance(f, np.ndarray) else bool(f) for k, f in mask.items()})


class TakesNumbers(MutableRegistry):
    def with_trainable(self, mask: Mapping[str, Any], /) -> Self:
        return super().with_trainable({k: bool(f) if type(f) is int and f in {0, 1} else f for k, f in mask.items()})


class TakesContainers(MutableRegistry):
    def with_trainable(self, mask: Mapping[str, bool], /) -> Self:
        wider = {}
        for key, flag in mask.items():
            below = [k for k, e in self.items() if k.startswith(f"{key}/") and e.can_train]
            wider |= dict.fromkeys(below, flag) if key not in self and below else {key: flag}
        return super().with_trainable(wider)


for name, cls, mask, why in (
    (
        "m-mask-typo-ignored",
        IgnoresTypos,
        {"enc/weight": False},
        "A filter by name that matches nothing is no error in any framework: a misspelt name trains what was to be frozen.",
    ),
    ("m-mask-truth-taken", TakesTruth, {"enc/w": "no"}, "`bool(flag)`: the text 'no' is true, and None is false."),
    (
        "m-mask-numbers-taken",
        TakesNumbers,
        {"enc/w": 0},
        "Rates of learning as flags: 0 freezes, as in per-layer settings.",
    ),
    (
        "m-mask-containers-taken",
        TakesContainers,
        {"enc": False},
        "A prefix stands for everything below it, as in filters of Flax: whether a name is a layer or a weight is a guess.",
    ),
):

    def _mask_taken(harness: Harness, mask: Any = mask) -> None:
        shown(accepted(lambda: over(harness, PLAIN)[1].with_trainable(mask)))

    CHAPTER.mutant(name, "WRITE-016", cls, story=why)(_mask_taken)
