"""Mutants of chapter 7, part two: views, reading by alias, and what has no value yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as with_fields
from typing import Any

import numpy as np

from mutants.oddities import Lazy, LazyRegistry, LazySubject
from mutants.support import (
    BF16,
    F32,
    PLAIN,
    TIED,
    Alters,
    Chapter,
    accepted,
    bits,
    error_of,
    noise,
    one,
    over,
    shown,
    unknown,
)
from stateregistry import errors
from stateregistry.entry import Entry, numpy_dtype
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.module import Module
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry

CHAPTER = Chapter()


# ----------------------------------------------------------------------------------------------------------- READ-006


class ViewIsWritable(MutableRegistry):
    def view(self, key: str, /) -> np.ndarray:
        super().view(key)
        return self._known(self.aliases.get(key, key)).array.view()


class ViewIsAWritableCopy(FrozenRegistry):
    def view(self, key: str, /) -> np.ndarray:
        return np.array(super().view(key), copy=True)


def _view_can_be_written(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1]
    shown(accepted(lambda: registry.view("enc/w").__setitem__(..., 0)))


CHAPTER.mutant(
    "m-read-view-writable",
    "READ-006",
    ViewIsWritable,
    story="`tensor.numpy()` is writable and changes the model behind autograd.",
    also=("READ-011",),
)(_view_can_be_written)
CHAPTER.mutant(
    "m-read-view-writable-copy",
    "READ-006",
    ViewIsAWritableCopy,
    story="A framework that cannot lend memory gives a copy, which nobody locks: edits of a view vanish without a word.",
    also=("READ-007",),
)(_view_can_be_written)


class ViewIsRawBits(MutableRegistry):
    def view(self, key: str, /) -> np.ndarray:
        array = super().view(key)
        return array.view(np.uint16) if array.dtype == BF16 else array

    def read(self, key: str, /) -> np.ndarray:
        return np.array(super().view(key), order="C", copy=True)


@CHAPTER.mutant(
    "m-read-view-raw-bits",
    "READ-006",
    ViewIsRawBits,
    story="torch gives bfloat16 to NumPy through `view(torch.uint16)`; the view back is forgotten in one of two places.",
)
def _(harness: Harness) -> None:
    shown(over(harness, one(noise((3,), BF16)))[1].view("x").dtype != BF16)


# ----------------------------------------------------------------------------------------------------------- READ-009


class ReadsCanonicalKeysOnly(FrozenRegistry):
    def read(self, key: str, /) -> np.ndarray:
        if key in self.aliases:
            raise unknown(key)
        return super().read(key)


class ViewsCanonicalKeysOnly(MutableRegistry):
    def view(self, key: str, /) -> np.ndarray:
        if key in self.aliases:
            raise unknown(key)
        return super().view(key)

    def read(self, key: str, /) -> np.ndarray:
        return np.array(super().view(key), order="C", copy=True)


class ReadsAliasesTransposed(MutableRegistry):
    def read(self, key: str, /) -> np.ndarray:
        array = super().read(key)
        return np.array(array.T, order="C", copy=True).reshape(array.shape) if key in self.aliases else array


def _alias_differs(look: str) -> Callable[[Harness], None]:
    def proof(harness: Harness) -> None:
        registry = over(harness, TIED)[1]
        found = error_of(
            lambda: shown(bits(getattr(registry, look)("tail")) != bits(getattr(registry, look)("emb/table/w")))
        )
        shown(found is None or isinstance(found, errors.UnknownKeyError))

    return proof


CHAPTER.mutant(
    "m-read-aliases-unknown",
    "READ-009",
    ReadsCanonicalKeysOnly,
    story="NNX lists the first path of a shared variable only; the second one is no key at all.",
)(_alias_differs("read"))
CHAPTER.mutant(
    "m-read-views-of-aliases-unknown",
    "READ-009",
    ViewsCanonicalKeysOnly,
    story="`read` was taught ties and `view`, which the conversion uses, was not.",
)(_alias_differs("view"))
CHAPTER.mutant(
    "m-read-aliases-transposed",
    "READ-009",
    ReadsAliasesTransposed,
    story="The output layer is tied to the transposed embedding, as in TensorFlow's GPT-2, and an adapter helps.",
)(_alias_differs("read"))


# ----------------------------------------------------------------------------------------------------------- READ-010


class AbstractCountsAsConcrete(Alters, MutableRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return with_fields(entry, concrete=True)


class HidesAbstract(Alters, FrozenRegistry):
    def alter(self, key: str, entry: Entry) -> Entry | None:
        return entry if entry.concrete else None


class EmptyCountsAsAbstract(Alters, FrozenRegistry):
    def alter(self, key: str, entry: Entry) -> Entry:
        return entry if entry.size else with_fields(entry, concrete=False)


@CHAPTER.mutant(
    "m-read-abstract-as-concrete",
    "READ-010",
    AbstractCountsAsConcrete,
    story="torch's meta tensors look like others in every listing.",
    also=("SNAP-004",),
)
def _(harness: Harness) -> None:
    shown(over(harness, one(noise((3,)), concrete=False))[1]["x"].concrete)


@CHAPTER.mutant(
    "m-read-abstract-hidden",
    "READ-010",
    HidesAbstract,
    story="`isinstance(leaf, jax.Array)` is false for a ShapeDtypeStruct: a model from `jax.eval_shape` looks empty.",
    also=("LIST-002", "READ-011", "SNAP-004"),
)
def _(harness: Harness) -> None:
    shown(len(over(harness, one(noise((3,)), concrete=False))[1]) == 0)


@CHAPTER.mutant(
    "m-read-empty-as-abstract",
    "READ-010",
    EmptyCountsAsAbstract,
    story="Concrete is read off `data_ptr() != 0`, which is 0 for every empty torch tensor.",
    also=("READ-002",),
)
def _(harness: Harness) -> None:
    shown(not over(harness, one(np.zeros((0, 3), F32)))[1]["x"].concrete)


class _WithoutLazy:
    """A module as it looks to somebody who passes over lazy parameters."""

    def __init__(self, module: Module) -> None:
        self.whole = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def cells(self) -> Any:
        return ((key, cell) for key, cell in self.whole.cells() if not isinstance(cell, Lazy))

    def find(self, key: str) -> Any:
        member = self.whole.find(key)
        return None if isinstance(member, Lazy) else member


class UnknownShapeSkipped(LazyRegistry):
    def __init__(self, module: Module) -> None:
        super().__init__(_WithoutLazy(module))  # type: ignore[arg-type]  # walks like a module

    def unwrap(self) -> Module:
        whole: Module = self._module.whole
        return whole


class UnknownShapeNameless(LazyRegistry):
    def refuse(self, lazy: tuple[str, ...]) -> None:
        if lazy:
            raise errors.AbstractError("call the model once before its state is asked for")


@CHAPTER.mutant(
    "m-read-unknown-shape-skipped",
    "READ-010",
    UnknownShapeSkipped,
    story="A lazy torch layer is left out because `.shape` of its UninitializedParameter raises.",
    also=("LIST-002",),
    subject=LazySubject,
    correct=LazyRegistry,
)
def _(harness: Any) -> None:
    model = harness.specimen("unknown_shape").model
    shown(accepted(lambda: harness.registry(model)))


@CHAPTER.mutant(
    "m-read-unknown-shape-nameless",
    "READ-010",
    UnknownShapeNameless,
    story="Keras' 'this model has not yet been built' does not say which of its layers.",
    also=("ERR-003",),
    subject=LazySubject,
    correct=LazyRegistry,
)
def _(harness: Any) -> None:
    specimen = harness.specimen("unknown_shape")
    error = error_of(lambda: harness.registry(specimen.model))
    shown(isinstance(error, errors.AbstractError) and error.keys != specimen.keys)


# ----------------------------------------------------------------------------------------------------------- READ-011


class AbstractReadsZeros(MutableRegistry):
    def view(self, key: str, /) -> np.ndarray:
        try:
            return super().view(key)
        except errors.AbstractError:
            entry = self[self.aliases.get(key, key)]
            array = np.zeros(entry.shape, numpy_dtype(entry.dtype))
            array.flags.writeable = False
            return array


class AbstractViewsAreEmpty(FrozenRegistry):
    def view(self, key: str, /) -> np.ndarray:
        if key in self and not self[key].concrete:
            return np.empty(0, numpy_dtype(self[key].dtype))
        return super().view(key)

    def read(self, key: str, /) -> np.ndarray:
        return np.array(super().view(key), order="C", copy=True)


class AbstractIsUnknown(FrozenRegistry):
    def view(self, key: str, /) -> np.ndarray:
        try:
            return super().view(key)
        except errors.AbstractError:
            raise unknown(key) from None


CHAPTER.mutant(
    "m-read-abstract-zeros",
    "READ-011",
    AbstractReadsZeros,
    story="maxtext's restore filled missing NNX weights with zeros: a model that trains from an invention.",
)(lambda harness: shown(accepted(lambda: over(harness, one(noise((3,)), concrete=False))[1].read("x"))))
CHAPTER.mutant(
    "m-read-abstract-view-empty",
    "READ-011",
    AbstractViewsAreEmpty,
    story="`np.asarray` of something that is no array does not raise; only one of the two ways to read checks first.",
)(lambda harness: shown(accepted(lambda: over(harness, one(noise((3,)), concrete=False))[1].view("x"))))


@CHAPTER.mutant(
    "m-read-abstract-unknown",
    "READ-011",
    AbstractIsUnknown,
    story="What has no value is not found: the caller is told that a key does not exist which was listed a line before.",
)
def _(harness: Harness) -> None:
    error = error_of(lambda: over(harness, one(noise((3,)), concrete=False))[1].read("x"))
    shown(isinstance(error, errors.UnknownKeyError))
