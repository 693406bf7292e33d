"""What a torch file says of its tensors, as the rules of `listing` take it: the same for every kind of torch file.

A parameter or a buffer that the file declares is one; names that share a place are aliases; a tensor of the meta device has
no values. What is no array is opaque, with the reason. Imports no framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateregistry.entry import Entry, Kind
from stateregistry.stores.kinds import TRAINABLE
from stateregistry.stores.listing import Stored
from stateregistry.stores.torch_objects import Absent, Tensor
from stateregistry.stores.torch_tree import describe_opaque

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stateregistry.stores.document import Document


def stored_of(values: Mapping[str, object], document: Document | None) -> Stored:
    """What a mapping from names to tensors stores, in its order."""
    shapes: list[tuple[int, ...]] = []
    dtypes: list[str | None] = []
    opaque: dict[str, str] = {}
    declared: dict[str, Entry] = {}
    abstract: set[str] = set()
    aliases: dict[str, str] = {}
    places: dict[object, str] = {}
    for name, value in values.items():
        if not isinstance(value, (Tensor, Absent)):
            opaque[name] = describe_opaque(name, value)
            shapes.append(())
            dtypes.append(None)
            continue
        shapes.append(value.shape)
        dtypes.append(value.dtype)
        if value.parameter or value.buffer:
            declared[name] = _declared(value)
        if isinstance(value, Absent):
            abstract.add(name)
        elif 0 not in value.shape:
            first = places.setdefault(_place(value), name)
            if first != name:
                aliases[name] = first
    return Stored(
        tuple(values), shapes, dtypes, opaque=opaque, declared=declared, aliases=aliases, abstract=frozenset(abstract),
        dialect="torch", document=document,
    )  # fmt: skip


def _declared(value: Tensor | Absent) -> Entry:
    if value.buffer:
        return Entry(Kind.BUFFER, value.shape, value.dtype, tag="buffer")
    trainable = value.requires_grad and value.dtype in TRAINABLE
    return Entry(Kind.PARAMETER, value.shape, value.dtype, trainable=trainable)


def _place(value: Tensor) -> object:
    """What two names share when a write to one of them, in torch, is seen at the other."""
    # The stride of an axis of one element is never taken.
    stride = tuple(step if size > 1 else 0 for size, step in zip(value.shape, value.stride, strict=True))
    bent = value.conjugate, value.negative
    return value.storage.key, value.dtype, value.offset, value.shape, stride, bent
