"""Padding: how far a convolution reaches beyond its input, as numbers wherever they do not hang on the input's size.

Frameworks say it as one number, one for each axis, low and high for each, or a word; torch adds `output_padding` to the
high side of a transposed convolution. `SAME` is a pair of numbers unless a stride makes it hang on the size of the input.
Imports the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from stateregistry.layers import axes

if TYPE_CHECKING:
    from stateregistry.layers.vocabulary import Layer

#: Low and high for each spatial axis; or a word, for all axes.
Padding: TypeAlias = "tuple[tuple[int, int], ...] | str"


def rank_of(*layers: Layer) -> int:
    """The number of spatial axes of paired convolutions, from whatever of them says it; 1 where nothing does."""
    found = [1]
    for layer in layers:
        found += [
            len(value)
            for name in ("kernel_size", "stride", "dilation")
            if isinstance(value := layer.config.get(name), tuple)
        ]
        for piece in layer.pieces:
            atoms = [atom.name for group in axes.parse(piece.axes) for atom in group.atoms]
            found.append(sum(name.startswith("spatial.") for name in atoms))
    return max(found)


def resolved(layer: Layer, rank: int, /) -> Any:
    """The padding of a convolution or transposed convolution.

    Args:
        layer: its config says `padding`. rank: the number of spatial axes.

    Returns:
        `Padding`; of a transposed convolution, what is taken away of the full output, where more than is there is negative.
        What is none of the forms of the spec is given back as it is.
    """
    value = layer.config["padding"]
    if layer.kind == "conv_transpose":
        return _of_transpose(layer, value, rank)
    if isinstance(value, str):
        return _word(layer, value, rank)
    sides = _sides(value, rank)
    return value if sides is None else sides


def _sides(value: Any, rank: int) -> tuple[tuple[int, int], ...] | None:
    flat: tuple[Any, ...] = (
        (value,) * rank if isinstance(value, int) else tuple(value) if isinstance(value, tuple) else ()
    )
    if len(flat) == rank and all(isinstance(one, tuple) and len(one) == 2 for one in flat):  # low, high
        return flat
    if not all(isinstance(one, int) for one in flat):
        return None
    if len(flat) == rank:
        return tuple((one, one) for one in flat)
    return tuple(zip(flat[::2], flat[1::2], strict=True)) if len(flat) == 2 * rank else None


def _per_axis(layer: Layer, name: str, rank: int, default: int) -> tuple[int, ...] | None:
    value = layer.config.get(name, default)
    numbers = (value,) * rank if isinstance(value, int) else value
    return numbers if isinstance(numbers, tuple) and len(numbers) == rank else None


def _reach(layer: Layer, rank: int) -> tuple[tuple[int, int], ...] | None:
    """For each axis how many places the kernel spans, and the stride; `None` where the config does not say it."""
    size, dilation = layer.config.get("kernel_size"), _per_axis(layer, "dilation", rank, 1)
    stride = _per_axis(layer, "stride", rank, 1)
    if not isinstance(size, tuple) or len(size) != rank or dilation is None or stride is None:
        return None
    spans = (spread * (width - 1) + 1 for width, spread in zip(size, dilation, strict=True))
    return tuple(zip(spans, stride, strict=True))


def _word(layer: Layer, word: str, rank: int) -> Padding:
    if word == "VALID":
        return ((0, 0),) * rank
    spans = _reach(layer, rank)
    if word != "SAME" or spans is None or any(stride > 1 and span > 1 for span, stride in spans):
        return word
    return tuple(((span - 1) // 2, span - 1 - (span - 1) // 2) for span, _ in spans)


def _of_transpose(layer: Layer, value: Any, rank: int) -> Any:
    more = _per_axis(layer, "output_padding", rank, 0)
    if value in ("SAME", "VALID"):
        spans = _reach(layer, rank)
        if spans is None:
            return value
        if value == "VALID":
            return tuple((0, span - max(span, stride)) for span, stride in spans)
        low = [max(span - stride, 0) // 2 for span, stride in spans]
        return tuple((first, span - stride - first) for first, (span, stride) in zip(low, spans, strict=True))
    sides = None if isinstance(value, str) else _sides(value, rank)
    if sides is None or more is None:
        return value
    return tuple((low, high - extra) for (low, high), extra in zip(sides, more, strict=True))
