"""Settling: which rows of a walk are one place, what they are, and what cannot be an entry.

Names of one object are one place, and so are names of several objects over identical memory. An object that shares only a
part of its memory with one declared before it is opaque: no order of two writes could give both their values.
Reads no values. Imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import repeat
from operator import attrgetter
from typing import Final, final

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from stateregistry.entry import Entry
from stateregistry_torch import bits, overlap
from stateregistry_torch.cells import entry_of
from stateregistry_torch.walk import Walk

_PLAIN: Final = frozenset({nn.Parameter, torch.Tensor})
_SHAPE, _DTYPE, _LAYOUT = attrgetter("shape"), attrgetter("dtype"), attrgetter("layout")
_REQUIRES_GRAD, _IS_META = attrgetter("requires_grad"), attrgetter("is_meta")


@final
class Settled:
    """The outcome, by rows of the walk.

    Attributes:
        entries: the entry of a place at its first row; `None` for every further row and for what is opaque. The entry of a
            group is that of its first row alone.
        addresses: where memory starts, 0 where that says nothing (meta, empty, sharded, a further row).
        groups: all rows of a place, ascending, by its first row, where they are several.
        opaque: by key, the reason.
        lazy: keys of tensors that have no shape yet.
    """

    __slots__ = ("addresses", "entries", "groups", "lazy", "opaque")

    def __init__(self) -> None:
        self.entries: list[Entry | None] = []
        self.addresses: list[int] = []
        self.groups: dict[int, list[int]] = {}
        self.opaque: dict[str, str] = {}
        self.lazy: list[str] = []


def settle(found: Walk, /, *, at_once: bool = True) -> Settled:
    """Settle a walk.

    Args:
        found: the walk.
        at_once: try all rows at once first; the outcome is the same.
    """
    settled = Settled()
    ends = _all_at_once(found, settled) if at_once else None
    unusual: dict[int, overlap.Extent] = {}
    if ends is None:
        ends = _one_by_one(found, settled, unusual)
    _by_memory(found, settled, ends, unusual)
    return settled


def _all_at_once(found: Walk, settled: Settled) -> list[int] | None:
    """Describe all rows in a few sweeps, if every one is a plain contiguous tensor with memory: so are most models.

    Returns:
        Where the memory of each row ends; `None`, with `settled` unchanged, where rows need a look each.
    """
    tensors = found.tensors
    if not _PLAIN.issuperset(map(type, tensors)) or not {torch.strided}.issuperset(map(_LAYOUT, tensors)):
        return None
    try:
        starts = list(map(torch.Tensor.data_ptr, tensors))
        # A part of a meta tensor has an address that is none: its offset.
        if not all(starts) or any(map(_IS_META, tensors)) or not all(map(torch.Tensor.is_contiguous, tensors)):
            return None
        shapes, dtypes, flags = map(_SHAPE, tensors), map(_DTYPE, tensors), map(_REQUIRES_GRAD, tensors)
        entries: list[Entry | None] = list(
            map(entry_of, found.parameter, shapes, dtypes, flags, found.persistent, repeat(True))
        )
    except (KeyError, RuntimeError):  # a dtype that no registry holds; a nested tensor, which has no shape
        return None
    settled.addresses, settled.entries = starts, entries
    return [start + tensor.nbytes for start, tensor in zip(starts, tensors, strict=True)]


def _one_by_one(found: Walk, settled: Settled, unusual: dict[int, overlap.Extent]) -> list[int]:
    """Describe row by row, and join the rows of one object.

    Returns:
        Where the memory of each row ends; the rows in `unusual` lie where their extent says instead.
    """
    ends: list[int] = []
    firsts: dict[int, int] = {}
    strided, names = torch.strided, bits.NAMES
    for row, tensor in enumerate(found.tensors):
        entry, address, end = None, 0, 0
        first = firsts.setdefault(id(tensor), row)
        if first != row:
            _join(found, settled, first, row)
        elif type(tensor) in _PLAIN and tensor.layout is strided and tensor.dtype in names and not tensor.is_nested:
            address = 0 if tensor.is_meta else tensor.data_ptr()
            if address and tensor.is_contiguous():
                end = address + tensor.nbytes
                entry = _describe(found, row, tensor)
            else:
                entry = _look_closer(found, settled, row, tensor, unusual)
        else:
            entry = _look_closer(found, settled, row, tensor, unusual)
        settled.entries.append(entry)
        settled.addresses.append(address)
        ends.append(end)
    return ends


def _describe(found: Walk, row: int, tensor: torch.Tensor) -> Entry:
    concrete = not tensor.is_meta
    return entry_of(
        found.parameter[row], tensor.shape, tensor.dtype, tensor.requires_grad, found.persistent[row], concrete
    )


def _join(found: Walk, settled: Settled, first: int, row: int) -> None:
    reason = settled.opaque.get(found.keys[first])
    if reason is not None:
        settled.opaque[found.keys[row]] = reason
    else:
        settled.groups.setdefault(first, [first]).append(row)


def _look_closer(
    found: Walk, settled: Settled, row: int, tensor: torch.Tensor, unusual: dict[int, overlap.Extent]
) -> Entry | None:
    """The entry of a tensor that is not simply memory from its address on; `None` and a reason if it has none."""
    if is_lazy(tensor):
        settled.lazy.append(found.keys[row])
        return None
    reason = bits.obstacle(tensor)
    if not reason:
        where = overlap.extent(tensor)
        if where is not None:
            unusual[row] = where
        elif not bits.has_memory(tensor):
            reason = "its storage has been freed"
    if reason:
        settled.opaque[found.keys[row]] = reason
        return None
    return _describe(found, row, tensor)


def _by_memory(found: Walk, settled: Settled, ends: list[int], unusual: Mapping[int, overlap.Extent]) -> None:
    """Join the places that are one memory; move to `opaque` what shares a part of it with an earlier one."""
    starts = settled.addresses
    meta: dict[object, list[int]] = {}
    if unusual:
        starts = list(starts)
        for row, where in unusual.items():
            starts[row], ends[row] = (0, 0) if where.is_meta else (where.start, where.end)
            if where.is_meta:
                meta.setdefault(where.space, []).append(row)
    for rows in overlap.meeting(starts, ends):
        _compare(found, settled, rows)
    for members in meta.values():
        spans = [unusual[row] for row in members]
        for group in overlap.meeting([span.start for span in spans], [span.end for span in spans]):
            _compare(found, settled, [members[number] for number in group])


def _compare(found: Walk, settled: Settled, rows: list[int]) -> None:
    """Compare places whose intervals meet, the one declared first first."""
    tensors, keys, kept = found.tensors, found.keys, list[int]()
    for row in rows:
        for other in kept:
            if overlap.same_place(tensors[other], tensors[row]):
                joined = settled.groups.pop(row, [row])
                settled.groups[other] = sorted([*settled.groups.get(other, [other]), *joined])
                break
            if overlap.share_elements(tensors[other], tensors[row]):
                reason = f"it shares a part of its memory with {keys[other]!r}"
                settled.opaque.update((keys[member], reason) for member in settled.groups.pop(row, [row]))
                break
        else:
            kept.append(row)
            continue
        settled.entries[row], settled.addresses[row] = None, 0
