"""Staged values: what a write will do to the tensors of a cell, prepared so that committing it is short.

`Write` copies bits into memory that is there. `Fill` gives memory to tensors on the meta device and keeps the objects:
optimizers, ties and modules that hold them see the values. `Hollow` takes it away again, for a rollback. Imports torch.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np
import torch

from stateregistry import errors
from stateregistry_torch import bits, sharded
from stateregistry_torch.cells import Cell


class Staged(Protocol):
    """A value that is ready to be committed."""

    def commit(self) -> None:
        """Change the tensors. What was changed before a failure is brought back by the backup of the cell."""


@final
@dataclass(frozen=True, slots=True)
class Write:
    """New bits for memory that is there.

    Attributes:
        tensors: the objects over that memory. The first is written, the others are told that they have changed.
        value: the full value, on the CPU.
        part: what goes into memory: the local shard, or the value less the repetitions of an expanded tensor.
        index: where it goes.
    """

    tensors: tuple[torch.Tensor, ...]
    value: torch.Tensor
    part: torch.Tensor
    index: tuple[slice, ...]

    def commit(self) -> None:
        """Copy the bits."""
        first, *others = self.tensors
        bits.overwrite(first, self.part, self.index)
        for other in others:
            torch.autograd.graph.increment_version(other)


def stage_write(cell: Cell, array: np.ndarray, /) -> Write:
    """Prepare new bits for a cell that has memory. Where it is expanded, the value must repeat as the memory does.

    Raises:
        UnsupportedError: memory that cannot be written element by element, or a placement that cannot be written.
    """
    tensors = cell.tensors
    first = tensors[0]
    value = bits.adopt(array)
    if sharded.is_sharded(first):
        return Write(tensors, value, sharded.spread(value, first), ())
    index = bits.each_once(first)
    part = value[index] if index else value
    if index and np.broadcast_to(array[index], array.shape).tobytes() != array.tobytes():
        message = f"the tensor is expanded (strides {first.stride()}): its memory repeats, the value does not"
        raise errors.UnsupportedError(message, hint="register a tensor of its own memory: tensor.clone()")
    return Write(tensors, value, part, index)


@final
@dataclass(frozen=True, slots=True)
class Shard:
    """New bits for the shard that this process holds.

    Attributes:
        tensors: the objects over that memory. The first is written, the others are told that they have changed.
        part: of the shape of the shard, on the CPU or where the shard is.
    """

    tensors: tuple[torch.Tensor, ...]
    part: torch.Tensor

    def commit(self) -> None:
        """Copy the bits."""
        first, *others = self.tensors
        bits.overwrite(first, self.part)
        for other in others:
            torch.autograd.graph.increment_version(other)


def stage_part(cell: Cell, array: np.ndarray, /) -> Shard:
    """Prepare new bits for the shard of this process."""
    return Shard(cell.tensors, bits.adopt(array))


def stage_shard(cell: Cell, /) -> Shard:
    """Prepare the way back of a sharded tensor: a copy of the shard of this process. Talks to no other one."""
    with torch.no_grad():
        return Shard(cell.tensors, sharded.local(cell.tensors[0]).clone())


@final
@dataclass(frozen=True, slots=True)
class Fill:
    """Memory and values for tensors on the meta device.

    Attributes:
        tensors: the objects, all over one meta storage.
        twins: for each a tensor of the same type and flags over one real memory; committing swaps their contents.
    """

    tensors: tuple[torch.Tensor, ...]
    twins: tuple[torch.Tensor, ...]

    def commit(self) -> None:
        """Swap the contents: the object keeps its identity and gets the twin's memory."""
        _swap_all(self.tensors, self.twins)


@final
@dataclass(frozen=True, slots=True)
class Hollow:
    """The way back to the meta device, for tensors that may have been filled meanwhile.

    Attributes:
        tensors: the objects.
        twins: for each a tensor of the same type and flags on the meta device.
    """

    tensors: tuple[torch.Tensor, ...]
    twins: tuple[torch.Tensor, ...]

    def commit(self) -> None:
        """Swap those back that have memory."""
        pairs = [pair for pair in zip(self.tensors, self.twins, strict=True) if not pair[0].is_meta]
        _swap_all([tensor for tensor, _ in pairs], [twin for _, twin in pairs])

    @property
    def done(self) -> bool:
        """Whether none of them has memory."""
        return all(tensor.is_meta for tensor in self.tensors)


def stage_fill(cell: Cell, array: np.ndarray, /) -> Fill:
    """Prepare values for a cell on the meta device. They come to lie on the CPU: `module.to(device)` moves them on.

    Raises:
        AbstractError: a tensor whose contents cannot be swapped without losing something: sharded, weakly referenced,
            part of a graph, or with a gradient or gradient hooks.
    """
    tensors = cell.tensors
    for tensor in tensors:
        _check_swappable(tensor)
    first = tensors[0]
    with torch.inference_mode(first.is_inference()), torch.no_grad():
        memory = torch.empty_like(first.detach(), device="cpu")
    bits.overwrite(memory, bits.adopt(array))
    return Fill(tensors, tuple(_twin(tensor, memory) for tensor in tensors))


def stage_hollow(cell: Cell, /) -> Hollow:
    """Prepare the way back of a cell that is on the meta device now."""
    first = cell.tensors[0]
    with torch.inference_mode(first.is_inference()), torch.no_grad():
        memory = torch.empty_like(first.detach(), device="meta")
    return Hollow(cell.tensors, tuple(_twin(tensor, memory) for tensor in cell.tensors))


def _twin(tensor: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """A tensor of the same type, flags and attributes over other memory."""
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        twin = memory.detach().as_subclass(type(tensor))
    twin.__dict__.update(tensor.__dict__)
    if tensor.requires_grad:
        with torch.inference_mode(tensor.is_inference()):
            twin.requires_grad_()
    return twin


def _check_swappable(tensor: torch.Tensor) -> None:
    hint = "give it real memory first: module.to_empty(device=...)"
    if sharded.is_sharded(tensor):
        raise errors.AbstractError("a sharded tensor on the meta device has no memory to write to", hint=hint)
    hooks = tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None)  # noqa: SLF001  # no other way
    lost = {
        "weak references to it": bool(weakref.getweakrefs(tensor)),
        "gradient hooks": bool(hooks),
        "a gradient": tensor.is_leaf and tensor.grad is not None,
        "a graph that it is a result of": tensor.grad_fn is not None,
    }
    if any(lost.values()):
        names = ", ".join(name for name, is_lost in lost.items() if is_lost)
        message = f"a tensor on the meta device cannot be given memory in place, it would lose: {names}"
        raise errors.AbstractError(message, hint=hint)


def _swap_all(tensors: Sequence[torch.Tensor], twins: Sequence[torch.Tensor]) -> None:
    for tensor, twin in zip(tensors, twins, strict=True):
        torch.utils.swap_tensors(tensor, twin)
