"""Sharded tensors: a `DTensor` is read as its full value and written so that it keeps its placement.

Reading gathers, which is a collective operation: all ranks of the mesh read the same keys in the same order. Writing
communicates nothing: each rank takes its shard from the full value it was given. Imports torch, `torch.distributed` only
when a program has loaded it.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from stateregistry import errors


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


def same_layout(one: Any, other: Any, /) -> bool:
    """Whether two `DTensor`s are laid out alike over the same mesh."""
    return bool(one.device_mesh == other.device_mesh and one.placements == other.placements)


def _check_rank(tensor: Any) -> None:
    if tensor.device_mesh.get_coordinate() is None:
        message = f"this process is not on the mesh of the tensor ({tensor.device_mesh}): it sees no part of it"
        raise errors.UnsupportedError(message, hint="read and write it on the ranks of its mesh")
