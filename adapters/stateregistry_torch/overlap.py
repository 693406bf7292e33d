"""Overlap: which tensors lie over the same memory, as one place or in part.

Candidates come from one sort of the address intervals; only those that meet are compared element by element, exactly, by
the addresses alone: no value is read, so it works for the memory of any device. Imports torch and NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from stateregistry_torch import bits, sharded

#: Meta storages have no memory: their elements are numbered from here, so that no address is 0.
_BASE = 1 << 20
#: How hard to look for a common element before calling it an overlap: strided views in practice need very little.
_MAX_WORK = 1_000_000


@final
@dataclass(frozen=True, slots=True)
class Extent:
    """Where a tensor lies: an interval of addresses in a space of its own (a device, or one meta storage)."""

    space: object
    start: int
    end: int
    is_meta: bool = False


def extent(tensor: torch.Tensor, /) -> Extent | None:
    """Where a tensor lies, `None` where nothing can share memory with it: it is empty or has no memory at all."""
    plain = sharded.local(tensor) if sharded.is_sharded(tensor) else tensor
    span = bits.reach(plain)
    if not span:
        return None
    if plain.is_meta:
        storage: object = plain.untyped_storage()._cdata  # noqa: SLF001  # the identity of a storage has no public name
        start = _BASE + int(plain.storage_offset()) * plain.element_size()
        return Extent(storage, start, start + span, is_meta=True)
    start = plain.data_ptr()
    return Extent(plain.device, start, start + span) if start else None


def meeting(starts: Sequence[int], ends: Sequence[int], /) -> Iterator[list[int]]:
    """The groups of intervals that overlap one another in a chain, as positions, ascending; none of single ones."""
    if len(starts) < 2:
        return
    first, last = np.array(starts, np.uint64), np.array(ends, np.uint64)  # an interval of length 0 meets nothing
    order = np.argsort(first, kind="stable")
    furthest = np.maximum.accumulate(last[order])
    joined = first[order][1:] < furthest[:-1]
    if not joined.any():
        return
    cuts = np.flatnonzero(~joined) + 1
    for group in np.split(order, cuts):
        if len(group) > 1:
            yield sorted(int(position) for position in group)


def same_place(one: torch.Tensor, other: torch.Tensor, /) -> bool:
    """Whether two tensors are the same elements in the same order, so that writing one writes just the other."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if sharded.is_sharded(one) or sharded.is_sharded(other):
        if not (sharded.is_sharded(one) and sharded.is_sharded(other) and sharded.same_layout(one, other)):
            return False
        one, other = sharded.local(one), sharded.local(other)
    where = extent(one)
    if where is None or where != extent(other):
        return False
    if one.is_conj() != other.is_conj() or one.is_neg() != other.is_neg():
        return False
    pairs = zip(one.shape, one.stride(), other.stride(), strict=True)
    return all(mine == theirs for size, mine, theirs in pairs if size > 1)


def share_elements(one: torch.Tensor, other: torch.Tensor, /) -> bool:
    """Whether two tensors have a byte of memory in common; true as well where that would take too long to rule out."""
    here, there = extent(one), extent(other)
    if here is None or there is None or here.space != there.space:
        return False
    try:
        work: Any = _MAX_WORK  # typed as if only its two special values were allowed
        return np.shares_memory(_addresses(one, here), _addresses(other, there), max_work=work)
    except np.exceptions.TooHardError:
        return True


@final
class _Addresses:
    """Lends NumPy the addresses of a tensor. They are compared, never looked at."""

    def __init__(self, tensor: torch.Tensor, start: int) -> None:
        width = tensor.element_size()
        self.__array_interface__ = {
            "version": 3,
            "typestr": f"|V{width}",
            "shape": tuple(tensor.shape),
            "strides": tuple(stride * width for stride in tensor.stride()),
            "data": (start, True),
        }


def _addresses(tensor: torch.Tensor, where: Extent) -> np.ndarray:
    plain = sharded.local(tensor) if sharded.is_sharded(tensor) else tensor
    return np.asarray(_Addresses(plain, where.start))
