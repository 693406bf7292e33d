"""Parts: a layer seen as what another framework makes of it, said in axes alone.

An attention as its four linears, a fused linear as two or three, a convolution of size one as a linear, a linear over
patches as a convolution. The arrays stay what they are: only their patterns are rewritten, so every move is still derived.
Imports the layers.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from stateregistry.layers.vocabulary import Layer, Piece

_HEADS: Final = re.compile(r"\bheads\b|\bhead_dim\b")
#: One axis or group of a pattern, with its sign.
WORD: Final = re.compile(r"-?\([^)]*\)|\S+")


def heads(layer: Layer) -> tuple[tuple[str, Layer], ...]:
    """The linears that an attention is made of, by name; empty where it holds more than they do."""
    if any(role.startswith("extra") or not role.endswith(("kernel", "bias")) for role in layer.roles):
        return ()
    made = []
    for name, inner in (("query", "out"), ("key", "out"), ("value", "out"), ("out", "in")):
        pieces = tuple(
            Piece(
                role.removeprefix(f"{name}_"), piece.name, _headless(piece.axes, inner), piece.kind, piece.tag,
                piece.dtype, part,
            )
            for piece in layer.pieces
            for role, part in piece.parts.items()
            if role in (f"{name}_kernel", f"{name}_bias")
        )  # fmt: skip
        path = f"{layer.path}/{name}" if layer.path else name
        base = layer.path if layer.base is None else layer.base
        config = {"stacked": True} if layer.config.get("stacked") else {}
        made.append(
            (name, replace(layer, kind="linear", path=path, base=base, pieces=pieces, config=config, candidates=()))
        )
    return tuple(made)


def _headless(pattern: str, inner: str) -> str:
    """`heads head_dim` as one axis where it is one in memory, as two members of it where it is two."""
    text = pattern.replace("(heads head_dim)", inner).replace("heads head_dim)", f"{inner})")
    return _HEADS.sub(
        lambda word: f"{inner}.{int(word[0] == 'head_dim')}", text
    )  # blocks may be counted between the two


def fused(layer: Layer, names: tuple[str, ...], shapes: dict[str, tuple[int, ...]]) -> tuple[tuple[str, Layer], ...]:
    """The linears that lie one after another along the outputs of one; empty where its outputs are not one axis.

    Args:
        layer: a linear.
        names: of the parts, in order.
        shapes: of its arrays, by the name of the piece.
    """
    patterns = {piece.name: _divided(piece.axes, names, shapes[piece.name]) for piece in layer.pieces}
    if not all(patterns.values()):
        return ()
    base = layer.path if layer.base is None else layer.base
    made = []
    for name in names:
        pieces = tuple(
            replace(piece, axes=str(patterns[piece.name]), part=".".join(part for part in (piece.part, name) if part))
            for piece in layer.pieces
        )
        path = f"{layer.path}/{name}" if layer.path else name
        made.append((name, replace(layer, path=path, base=base, pieces=pieces, candidates=())))
    return tuple(made)


def _divided(pattern: str, names: tuple[str, ...], shape: tuple[int, ...]) -> str | None:
    """A pattern whose outputs are divided into parts; `None` where they cannot be."""
    found = WORD.findall(pattern)
    if len(found) != len(shape):
        return None
    parts = "|".join(names)
    if "out" in found:
        found[found.index("out")] = f"({parts}: out)"
        return " ".join(found)
    if "out.0" not in found or shape[found.index("out.0")] != len(names):
        return None
    found[found.index("out.0")] = f"({parts}:)"
    rest = [word for word in found if word.startswith("out.")]
    for number, word in enumerate(rest):
        found[found.index(word)] = "out" if len(rest) == 1 else f"out.{number}"
    return " ".join(found)


def pointwise(layer: Layer, ranks: dict[str, int]) -> Layer | None:
    """A convolution with kernels of one place as a linear; `None` where it has groups."""
    if layer.config.get("groups", 1) != 1:
        return None
    pieces = []
    for piece in layer.pieces:
        found = WORD.findall(piece.axes)
        words = []
        for word in found:
            if word.lstrip("-") == "*spatial":
                words += ["1"] * (ranks[piece.name] - len(found) + 1)
            else:
                words.append({"in/groups": "in", "spatial.0": "1", "spatial.1": "1", "spatial.2": "1"}.get(word, word))
        pieces.append(replace(piece, axes=" ".join(words)))
    return replace(layer, kind="linear", pieces=tuple(pieces), config={}, candidates=())


def patches(layer: Layer, rank: int) -> Layer | None:
    """A linear over flattened patches as a convolution; `None` where its inputs are not one axis.

    Args:
        layer: a linear. rank: the number of axes of a patch. Its channels are taken for the innermost of the inputs.
    """
    spatial = " ".join(f"spatial.{number}" for number in range(rank))
    merged = f"({spatial} in/groups)"
    pieces = []
    for piece in layer.pieces:
        found = WORD.findall(piece.axes)
        if piece.role == "kernel" and "in" not in found:
            return None
        words = [merged if word == "in" and piece.role == "kernel" else word for word in found]
        pieces.append(replace(piece, axes=" ".join(words)))
    return replace(layer, kind="conv", pieces=tuple(pieces), config={}, candidates=())
