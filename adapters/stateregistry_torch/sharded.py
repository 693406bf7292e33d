"""Sharded tensors: a `DTensor` is read as its full value, or as the box that this process holds, and keeps its placement.

Reading the full value gathers, which is a collective operation: all ranks of the mesh read the same keys in the same order.
The box of this process is there without a word to the others (`box_of`): files are read and written by it. Writing a full
value communicates nothing: each rank takes its shard from the value it was given. Imports torch, `torch.distributed` only when
a program has loaded it.
"""

from __future__ import annotations

import sys
from typing import Any, final

import torch

from stateregistry import errors
from stateregistry.parts import Box


def is_sharded(tensor: torch.Tensor, /) -> bool:
    """Whether it is a `DTensor`."""
    cls = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return cls is not None and isinstance(tensor, cls)


def whole(tensor: Any, /) -> torch.Tensor:
    """The full value of a `DTensor`, as a plain tensor.

    Raises:
        UnsupportedError: this process is not on the mesh, so that it can see nothing of the value.
    """
    _check_rank(tensor)
    with torch.no_grad():
        full: torch.Tensor = tensor.detach().full_tensor()
    return full


def local(tensor: Any, /) -> torch.Tensor:
    """The shard that this process holds: its very memory."""
    with torch.no_grad():
        shard: torch.Tensor = tensor.to_local()
    return shard.detach()


def spread(value: torch.Tensor, like: Any, /) -> torch.Tensor:
    """The shard of this process of a full value, placed like a `DTensor`.

    Raises:
        UnsupportedError: a placement that is neither sharded nor replicated, or a process that is not on the mesh.
    """
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor  # loaded already: there is a DTensor

    _check_rank(like)
    # Exact types: subclasses of Shard lay shards out in an order of their own.
    odd = [placement for placement in like.placements if type(placement) not in {Shard, Replicate}]
    if odd:
        message = f"a tensor placed as {odd[0]} cannot be written from a full value"
        raise errors.UnsupportedError(message, hint="redistribute it to Shard or Replicate first")
    with torch.no_grad():
        # src_data_rank=None: every rank was given the same value and takes its part without communication.
        moved = distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
        shard = local(moved)
    if shard.shape != local(like).shape:
        message = f"the shard would have shape {tuple(shard.shape)}, the tensor has {tuple(local(like).shape)}"
        raise errors.UnsupportedError(message, hint="redistribute it evenly first")
    return shard


def box_of(tensor: Any, /) -> Box | None:
    """The box of the full value that this process holds; `None` where it is none that can be said from the placement."""
    from torch.distributed.tensor import Replicate, Shard  # loaded already: there is a DTensor

    place = tensor.device_mesh.get_coordinate()
    if place is None or any(type(placement) not in {Shard, Replicate} for placement in tensor.placements):
        return None
    offsets, sizes = [0] * tensor.ndim, list(tensor.shape)
    first, copies = True, 1
    for index, count, placement in zip(place, tensor.device_mesh.shape, tensor.placements, strict=True):
        if isinstance(placement, Shard):
            axis = placement.dim % max(1, tensor.ndim)
            step = -(-sizes[axis] // count)  # as `torch.chunk` cuts: the last ones may be shorter, or empty
            begin = min(step * index, sizes[axis])
            offsets[axis] += begin
            sizes[axis] = min(step, sizes[axis] - begin)
        else:
            first, copies = first and index == 0, copies * count
    box = Box(tuple(offsets), tuple(sizes), first, copies)
    return box if tuple(local(tensor).shape) == box.sizes else None


@final
class World:
    """All processes of the default group of `torch.distributed`.

    Attributes:
        rank: the number of this one. count: how many there are.
    """

    def __init__(self) -> None:
        """Ask for the numbers."""
        self.rank, self.count = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def tell(self, value: Any, /) -> list[Any]:
        """What every process told, by number; a collective operation.

        Raises:
            FileAccessError: another process is gone.
        """
        told: list[Any] = [None] * self.count
        try:
            torch.distributed.all_gather_object(told, value)
        except RuntimeError as error:
            message = f"process {self.rank} of {self.count}: another one does not answer: {str(error)[:300]}"
            hint = "every process has to make the same calls; see what the others say"
            raise errors.FileAccessError(message, hint=hint) from error
        return told


def has_group() -> bool:
    """Whether this process talks to others."""
    module = sys.modules.get("torch.distributed")
    return (
        module is not None and bool(module.is_available() and module.is_initialized()) and module.get_world_size() > 1
    )


def world_of(tensors: list[Any], /) -> World | None:
    """The processes that hold `DTensor`s together, `None` where these are not on a mesh of all processes."""
    if not tensors or not has_group():
        return None
    everybody = list(range(torch.distributed.get_world_size()))
    if any(sorted(tensor.device_mesh.mesh.flatten().tolist()) != everybody for tensor in tensors):
        return None
    return World()


def same_layout(one: Any, other: Any, /) -> bool:
    """Whether two `DTensor`s are laid out alike over the same mesh."""
    return bool(one.device_mesh == other.device_mesh and one.placements == other.placements)


def _check_rank(tensor: Any) -> None:
    if tensor.device_mesh.get_coordinate() is None:
        message = f"this process is not on the mesh of the tensor ({tensor.device_mesh}): it sees no part of it"
        raise errors.UnsupportedError(message, hint="read and write it on the ranks of its mesh")
