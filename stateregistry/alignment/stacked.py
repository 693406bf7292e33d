"""Stacked: containers of a side without types in which every array holds those of several blocks, along one more axis.

Vectors with two axes show it where blocks lie in front, as `nn.scan` puts them if nobody says otherwise. Along any other axis
it shows only beside the other side: every array has the number of its blocks there, at one axis. What no shape tells from
another axis is an assumption. Reads names and shapes, imports the layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, final

from stateregistry.alignment.parts import WORD
from stateregistry.layers.vocabulary import Layer

if TYPE_CHECKING:
    from stateregistry.alignment.model import Unit
    from stateregistry.entry import Entry

#: Leaves that are vectors in every layer.
_VECTORS: Final = frozenset({"scale", "mean", "var"})
#: The axes along which authors stack blocks: in front, behind the inputs of a kernel, behind all others.
AXES: Final = (0, 1, -1)


@final
@dataclass(frozen=True, slots=True)
class Stack:
    """How the blocks of a container lie.

    Attributes:
        length: how many there are. axis: the axis that counts them, in every array. doubt: why it may be another one; empty
            where shapes leave no other.
    """

    length: int
    axis: int = 0
    doubt: str = ""

    def inner(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of one block's part of an array."""
        at = self.axis % len(shape)
        return (*shape[:at], *shape[at + 1 :])

    def one_of(self, layer: Layer, index: int, ranks: Mapping[str, int]) -> Layer:
        """The layer of one index. `ranks`: how many axes one block's part of each array has, by the name of the piece."""
        parts = f"({'|'.join(map(str, range(self.length)))}:)"
        pieces = tuple(
            replace(piece, axes=self._with(parts, piece.axes, ranks[piece.name]), part=str(index))
            for piece in layer.pieces
        )
        path = f"{layer.path}/{index}"
        return replace(layer, path=path, base=layer.path, pieces=pieces, config={**layer.config, "stacked": True})

    def _with(self, parts: str, pattern: str, rank: int) -> str:
        if self.axis == 0:
            return f"{parts} {pattern}"
        words = WORD.findall(pattern)
        for at, word in enumerate(words):
            if word.lstrip("-").startswith("*"):
                name = word.replace("*", "")
                words[at : at + 1] = [f"{name}.{number}" for number in range(rank - len(words) + 1)]
                break
        at = self.axis if self.axis > 0 else rank
        return " ".join((*words[:at], parts, *words[at:]))


def in_front(entries: Mapping[str, Entry]) -> dict[str, Stack]:
    """The outermost containers in which every array has one more axis than it should, all of one length in front.

    Vectors tell that, and linears whose bias has an axis that is not that of heads.
    """
    lengths: dict[str, set[int]] = {}
    ranks: dict[str, set[int]] = {}
    leaves: dict[str, list[Entry]] = {}
    for key, entry in entries.items():
        *steps, leaf = key.split("/")
        for depth in range(1, len(steps) + 1):
            prefix = "/".join(steps[:depth])
            lengths.setdefault(prefix, set()).add(entry.shape[0] if entry.shape else 0)
            leaves.setdefault(prefix, []).append(entry)
            if leaf in _VECTORS or (leaf == "bias" and _stacked_linear(key, entry, entries)):
                ranks.setdefault(prefix, set()).add(len(entry.shape))
            elif leaf == "bias" and len(entry.shape) == 1:
                ranks.setdefault(prefix, set()).add(1)
    found: dict[str, Stack] = {}
    for prefix, sizes in lengths.items():
        if len(sizes) == 1 and ranks.get(prefix) == {2} and not any(below(prefix, outer) for outer in found):
            length = next(iter(sizes))
            if length > 1 and len(leaves[prefix]) > 1:
                found[prefix] = Stack(length, 0, _doubted(prefix, leaves[prefix], length))
    return _outermost(found)


def beside(entries: Mapping[str, Entry], counts: Collection[int]) -> list[dict[str, Stack]]:
    """What may be stacked as the blocks of another side: for every axis the outermost containers that fit it.

    Args:
        entries: of the side without types.
        counts: how many blocks the lists of the other side have.
    """
    leaves: dict[str, list[Entry]] = {}
    for key, entry in entries.items():
        for prefix in itertools.accumulate(key.split("/")[:-1], "{}/{}".format):
            leaves.setdefault(prefix, []).append(entry)
    found = []
    for axis in AXES:
        fits: dict[str, Stack] = {}
        for prefix, held in leaves.items():
            if len(held) < 2 or min(len(entry.shape) for entry in held) < 2:
                continue
            lengths = {entry.shape[axis] for entry in held}
            last = axis == -1 and max(len(entry.shape) for entry in held) == 2  # which is the second one too
            if len(lengths) == 1 and next(iter(lengths)) > 1 and lengths <= {*counts} and not last:
                fits[prefix] = Stack(next(iter(lengths)), axis)
        if fits:
            found.append(_outermost(fits))
    return found


def counts_of(units: Sequence[Unit]) -> frozenset[int]:
    """How many members the lists of a side have."""
    members: dict[tuple[tuple[tuple[str, int | None], ...], str], set[int]] = {}
    for unit in units:
        for end, token in enumerate(unit.tokens):
            if token.number is not None:
                place = tuple(each.same for each in unit.tokens[:end])
                members.setdefault((place, token.stem), set()).add(token.number)
    return frozenset(map(len, members.values()))


def below(key: str, prefix: str) -> bool:
    """Whether a key lies in a container."""
    return key.startswith(f"{prefix}/")


def _outermost(found: Mapping[str, Stack]) -> dict[str, Stack]:
    return {prefix: stack for prefix, stack in found.items() if not any(below(prefix, outer) for outer in found)}


def _doubted(prefix: str, held: Sequence[Entry], length: int) -> str:
    """Why blocks may be counted along another axis: every array has their number there as well."""
    ranks = [len(entry.shape) for entry in held]
    if min(ranks) > 1 and any(all(entry.shape[axis] == length for entry in held) for axis in AXES[1:]):
        return (
            f"{prefix}: taken as {length} blocks along the first axis, as nn.scan and nn.vmap stack them if nobody says "
            f"otherwise, and its arrays have {length} along another axis too"
        )
    return ""


def _stacked_linear(key: str, bias: Entry, entries: Mapping[str, Entry]) -> bool:
    """Whether a kernel and its bias have one more axis each, in front: of heads it would be the last of the kernel."""
    kernel = entries.get(f"{key.removesuffix('bias')}kernel")
    if kernel is None or len(kernel.shape) != 3 or len(bias.shape) != 2 or kernel.shape[1:] == bias.shape:
        return False
    return (kernel.shape[0], kernel.shape[2]) == bias.shape
