"""Mutants of chapter 8, part six: writes that change more than the value of a cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from mutants.oddities import (
    Boxed,
    BoxedSubject,
    Differentiated,
    DifferentiatedSubject,
)
from mutants.support import (
    BUFFER,
    PLAIN,
    Chapter,
    accepted,
    noise,
    one,
    over,
    shown,
)
from stateregistry_conformance.harness import Harness
from stateregistry_numpy.cells import Buffer, Parameter
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry
from stateregistry_numpy.tree import FrozenModel

CHAPTER = Chapter()


# ---------------------------------------------------------------------------------------------------------- WRITE-008


class ResetsPersistence(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        for key in staged:
            cell = self._known(key)
            if isinstance(cell, Buffer):
                cell.persistent = True
        return super()._commit(staged)


class MovesToBuffers(FrozenRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        other = super()._commit(staged)
        moved = {k: p for k in staged if (p := other._places[k])[0] == "transient" and len(p[1]) == 1}
        if not moved:
            return other
        model = other.unwrap()
        names = {path[0] for _, path in moved.values()}
        transient = {name: leaf for name, leaf in model.transient.items() if name not in names}
        buffers = {**model.buffers, **{name: model.transient[name] for name in names}}
        rest = {"parameters": model.parameters, "rngs": model.rngs, "ties": model.ties}
        return type(self)(FrozenModel(buffers=buffers, transient=transient, **rest))


def _becomes_persistent(harness: Harness) -> None:
    _, registry = over(harness, one(noise((3,)), kind=BUFFER, persistent=False))
    was = registry["x"].persistent
    shown(not was and registry.replace({"x": noise((3,), seed=9)})["x"].persistent)


CHAPTER.mutant(
    "m-write-persistent-again",
    "WRITE-008",
    ResetsPersistence,
    story="Calling `register_buffer` again to set a value resets `persistent` in torch.",
    also=("SNAP-001",),
)(_becomes_persistent)
CHAPTER.mutant(
    "m-write-moved-to-buffers",
    "WRITE-008",
    MovesToBuffers,
    story="What is restored goes into `batch_stats`, wherever it came from in the Linen variables.",
    also=("SNAP-001",),
)(_becomes_persistent)


class WritingThaws(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        for key in staged:
            cell = self._known(key)
            if isinstance(cell, Parameter):
                cell.trainable = cell.can_train
        return super()._commit(staged)


@CHAPTER.mutant(
    "m-write-thaws",
    "WRITE-008",
    WritingThaws,
    story="torch's `assign=True` changes `requires_grad`: a fresh Parameter is trainable.",
    also=("KIND-003", "WRITE-001", "WRITE-009", "SNAP-006"),
)
def _(harness: Harness) -> None:
    _, registry = over(harness, one(noise((3,)), trainable=False))
    was = registry["x"].trainable
    shown(not was and registry.replace({"x": noise((3,), seed=9)})["x"].trainable)


# ---------------------------------------------------------------------------------------------------------- WRITE-009


class LeavesTheBox(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        for key in staged:
            cell = self._known(key)
            if isinstance(cell, Boxed):
                cell.axes = None
        return super()._commit(staged)


class MovesToTheDefaultDevice(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        for key in staged:
            cell = self._known(key)
            if isinstance(cell, Boxed):
                cell.device = "accelerator:0"
        return super()._commit(staged)


class InstallsLockedArrays(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        for key, value in staged.items():
            if value is not None:
                cell = self._known(key)
                for other in {
                    id(c): c for _, c in self._module.cells() if c.concrete and c.array is cell.array
                }.values():
                    other.array = value
                cell.array = value
                value.flags.writeable = False
        return super()._commit({key: value for key, value in staged.items() if value is None})


def _describes_otherwise(harness: Any) -> None:
    model, registry = over(harness, PLAIN)
    before = harness.describe(model, "enc/w")
    registry.replace({"enc/w": noise((2, 3), seed=9)})
    shown(harness.describe(model, "enc/w") != before)


CHAPTER.mutant(
    "m-write-box-lost",
    "WRITE-009",
    LeavesTheBox,
    story="Flax' `Partitioned` boxes carry the names of axes; a fresh array in the box's place has none.",
    subject=BoxedSubject,
)(_describes_otherwise)
CHAPTER.mutant(
    "m-write-moved-to-default-device",
    "WRITE-009",
    MovesToTheDefaultDevice,
    story="`jnp.asarray(value)` lands on the default device, whatever device and sharding the old array had.",
    subject=BoxedSubject,
)(_describes_otherwise)
CHAPTER.mutant(
    "m-write-locked-arrays",
    "WRITE-009",
    InstallsLockedArrays,
    story="Read-only arrays of another library are installed as they are: the next training step cannot write them.",
    also=("ATOM-001", "ATOM-005"),
)(_describes_otherwise)


# ---------------------------------------------------------------------------------------------------------- WRITE-010


class DropsGradients(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        for key in staged:
            cell = self._known(key)
            if isinstance(cell, Differentiated):
                cell.grad = None
        return super()._commit(staged)


class IsRecorded(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        for key in staged:
            cell = self._known(key)
            if isinstance(cell, Differentiated):
                cell.tape.append("copy_")
        return super()._commit(staged)


class RefusesDifferentiated(MutableRegistry):
    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        if any(isinstance(self._known(key), Differentiated) for key in staged):
            raise RuntimeError("a leaf that requires grad is being used in an in-place operation")
        return super()._commit(staged)


def _touches_the_gradient(harness: Any) -> None:
    specimen = harness.specimen("gradients")
    before = harness.describe(specimen.model, "w")
    wrote = accepted(lambda: harness.registry(specimen.model).replace({"w": noise((2, 3), seed=9)}))
    shown(not wrote or harness.describe(specimen.model, "w") != before)


CHAPTER.mutant(
    "m-write-gradient-dropped",
    "WRITE-010",
    DropsGradients,
    story="Binding a new torch Parameter instead of writing into the old one loses its `grad`.",
    subject=DifferentiatedSubject,
)(_touches_the_gradient)
CHAPTER.mutant(
    "m-write-recorded",
    "WRITE-010",
    IsRecorded,
    story="`p.data` is forgotten around a `copy_`: the write becomes part of the graph and of the next backward pass.",
    subject=DifferentiatedSubject,
)(_touches_the_gradient)
CHAPTER.mutant(
    "m-write-trainable-refused",
    "WRITE-010",
    RefusesDifferentiated,
    story="In torch an in-place write to a leaf that requires a gradient raises outside of `no_grad`.",
    also=("WRITE-001",),
    subject=DifferentiatedSubject,
)(_touches_the_gradient)
