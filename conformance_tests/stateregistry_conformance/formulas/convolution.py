"""The formulas of convolution (which is cross-correlation, as in every framework) and of its transpose.

Inputs and outputs are `(batch, *spatial, channels)`. Channels of a group lie together: group `g` of `n` has the channels
`g * size / n` to `(g + 1) * size / n`. The kernel is never flipped here: a framework that stores it reversed says so in its
declaration. Pure float64, one kernel offset at a time. Imports NumPy.
"""

from __future__ import annotations

import itertools
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from stateregistry.errors import AxesError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stateregistry_conformance.formulas.given import Given

#: What stands beyond the edge of the input, by `padding_mode`, as NumPy calls it.
_MODES: Final[Mapping[str, Literal["constant", "reflect", "edge", "wrap"]]] = MappingProxyType(
    {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
)


def conv(given: Given) -> tuple[np.ndarray, ...]:
    """`y[n, p, o] = bias[o] + sum_ck kernel[o, c, k] * x~[n, stride * p + dilation * k, g(o) * C + c]`.

    `p` and `k` are vectors of spatial positions, `C = in/groups` is the number of channels of a group, `g(o)` the group of
    `o`, and `x~` is the input with `low` places before and `high` places after it on each spatial axis. The output has
    `(size + low + high - dilation * (K - 1) - 1) // stride + 1` places on an axis whose kernel has `K`.

    `padding="SAME"`: as much that the output has `ceil(size / stride)` places, `low = total // 2`, the rest high.
    `padding="VALID"`: none.

    Args:
        given: roles `kernel` (`out in/groups *spatial`), `bias` (`out`, optional); input `(batch, *spatial, in)`.
            State depends on `groups` and `kernel_size`; only the function on `stride`, `dilation`, `padding` and
            `padding_mode` (`zeros`, `reflect`, `replicate`, `circular`).

    Returns:
        One array `(batch, *spatial, out)`.

    Raises:
        AxesError: sizes or axes disagree, the channels do not divide into the groups, or the input is too small.
        UnsupportedError: a role is missing, or a config value is none.
    """
    kernel = given.need("kernel", "*spatial", "in/groups", "out")
    sizes, (each_in, channels) = _sizes(given, kernel), kernel.shape[-2:]
    rank = len(sizes)
    groups = given.whole("groups", 1)
    stride, dilation = given.per_axis("stride", rank, 1), given.per_axis("dilation", rank, 1)
    x = given.input(0, least=rank + 2)
    given.same("the number of axes of the input", x.ndim, rank + 2)
    given.same("the channels of the input", x.shape[-1], each_in * groups)
    each_out = _each(given, channels, groups)
    reach = [spread * (size - 1) + 1 for size, spread in zip(sizes, dilation, strict=True)]
    sides = given.sides("padding", rank)
    if isinstance(sides, str):
        sides = ((0, 0),) * rank if sides == "VALID" else _same(x.shape[1:-1], reach, stride)
    padded = _padded(given, x, sides, given.word("padding_mode", "zeros", _MODES))
    room = [length - span for length, span in zip(padded.shape[1:-1], reach, strict=True)]
    if min(room) < 0:
        message = f"conv: an input of {padded.shape[1:-1]} places (padding included) for a kernel that reaches {reach}"
        raise AxesError(message, expected=reach, found=padded.shape)
    places = [left // step + 1 for left, step in zip(room, stride, strict=True)]
    y = np.zeros((x.shape[0], *places, channels))
    for offset in itertools.product(*(range(size) for size in sizes)):
        seen = padded[(slice(None), *_taken(offset, places, stride, dilation))]
        for group in range(groups):
            out, come = _block(group, each_out), _block(group, each_in)
            y[..., out] += seen[..., come] @ kernel[offset][:, out]
    return (_biased(given, y),)


def conv_transpose(given: Given) -> tuple[np.ndarray, ...]:
    """`y[n, q, o] = bias[o] + sum kernel[c, o', k] * x[n, p, c]` over all `c, p, k` with `q = stride * p + dilation * k - low`.

    It is the gradient of `conv` with the same kernel (its `out` is `in` here), with respect to the input. `o'` is the place
    of `o` in its group, and `c` runs over the channels of the same group. The output has
    `(size - 1) * stride + dilation * (K - 1) + 1 - low - high + output_padding` places on an axis; where no `p, k` leads to a
    place, it has the bias alone.

    `padding="SAME"`: `size * stride` places, `low = max(reach - stride, 0) // 2` with `reach = dilation * (K - 1) + 1`.
    `padding="VALID"`: `(size - 1) * stride + max(reach, stride)` places, `low = 0`.

    A framework that pads the dilated input instead (`before`, `after`) has `low = reach - 1 - before` and
    `high - output_padding = reach - 1 - after`.

    Args:
        given: roles `kernel` (`in out/groups *spatial`), `bias` (`out`, optional); input `(batch, *spatial, in)`.
            State depends on `groups`, `kernel_size` and `transpose_kernel` (which is a matter of layout and changes nothing
            here); only the function on `stride`, `dilation`, `padding` and `output_padding`.

    Returns:
        One array `(batch, *spatial, out)`.

    Raises:
        AxesError: sizes or axes disagree, the channels do not divide into the groups, or no place would be left.
        UnsupportedError: a role is missing, or a config value is none.
    """
    kernel = given.need("kernel", "*spatial", "in", "out/groups")
    sizes, (channels, each_out) = _sizes(given, kernel), kernel.shape[-2:]
    rank = len(sizes)
    groups = given.whole("groups", 1)
    stride, dilation = given.per_axis("stride", rank, 1), given.per_axis("dilation", rank, 1)
    more = given.per_axis("output_padding", rank, 0)
    x = given.input(0, least=rank + 2)
    given.same("the number of axes of the input", x.ndim, rank + 2)
    given.same("the channels of the input", x.shape[-1], channels)
    if 0 in x.shape[1:-1]:
        raise AxesError(f"conv_transpose: an input without places, of shape {x.shape}", found=x.shape)
    each_in = _each(given, channels, groups)
    full = [
        (length - 1) * step + spread * (size - 1) + 1
        for length, size, step, spread in zip(x.shape[1:-1], sizes, stride, dilation, strict=True)
    ]
    whole = np.zeros((x.shape[0], *full, each_out * groups))
    for offset in itertools.product(*(range(size) for size in sizes)):
        place = _taken(offset, x.shape[1:-1], stride, dilation)
        for group in range(groups):
            out, come = _block(group, each_out), _block(group, each_in)
            whole[(slice(None), *place, out)] += x[..., come] @ kernel[offset][come]
    kept = _kept(given.sides("padding", rank), x.shape[1:-1], full, stride)
    lengths = [length + extra for (_, length), extra in zip(kept, more, strict=True)]
    if min(lengths) < 1:
        message = f"conv_transpose: {lengths} places would be left of {full}"
        raise AxesError(message, expected=full, found=lengths)
    for axis, ((start, _), length) in enumerate(zip(kept, lengths, strict=True), 1):
        whole = _window(whole, axis, start, length)
    return (_biased(given, whole),)


def _kept(
    sides: str | tuple[tuple[int, int], ...], places: Sequence[int], full: Sequence[int], stride: Sequence[int]
) -> list[tuple[int, int]]:
    """Which part of the full transposed convolution is the output: where it starts and how long it is, on each axis."""
    if not isinstance(sides, str):
        return [(low, whole - low - high) for whole, (low, high) in zip(full, sides, strict=True)]
    kept = []
    for size, whole, step in zip(places, full, stride, strict=True):
        reach = whole - (size - 1) * step
        if sides == "SAME":
            kept.append((max(reach - step, 0) // 2, size * step))
        else:
            kept.append((0, (size - 1) * step + max(reach, step)))
    return kept


def _same(places: Sequence[int], reach: Sequence[int], stride: Sequence[int]) -> tuple[tuple[int, int], ...]:
    sides = []
    for size, span, step in zip(places, reach, stride, strict=True):
        total = max((-(-size // step) - 1) * step + span - size, 0)
        sides.append((total // 2, total - total // 2))
    return tuple(sides)


def _padded(given: Given, x: np.ndarray, sides: tuple[tuple[int, int], ...], mode: str) -> np.ndarray:
    """The input with places before and after it; a negative number takes places away."""
    if mode == "zeros":
        for axis, (low, high) in enumerate(sides, 1):
            x = _window(x, axis, -low, x.shape[axis] + low + high)
        return x
    if min(min(pair) for pair in sides) < 0:
        raise AxesError(f"{given.kind}: {mode} padding cannot be negative", found=sides)
    widths = [(0, 0), *sides, (0, 0)]
    padded: np.ndarray = np.pad(x, widths, mode=_MODES[mode])
    return padded


def _window(array: np.ndarray, axis: int, start: int, length: int) -> np.ndarray:
    """`length` places of an axis from `start` on; places that the array does not have are zero."""
    shape = list(array.shape)
    shape[axis] = max(length, 0)
    window = np.zeros(shape)
    first, last = max(start, 0), min(start + length, array.shape[axis])
    if first < last:
        source, target = [slice(None)] * array.ndim, [slice(None)] * array.ndim
        source[axis], target[axis] = slice(first, last), slice(first - start, last - start)
        window[tuple(target)] = array[tuple(source)]
    return window


def _taken(
    offset: Sequence[int], places: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[slice, ...]:
    """The places `stride * p + dilation * offset` for every `p`."""
    return tuple(
        slice(spread * at, spread * at + step * (number - 1) + 1, step)
        for at, number, step, spread in zip(offset, places, stride, dilation, strict=True)
    )


def _block(group: int, size: int) -> slice:
    return slice(group * size, (group + 1) * size)


def _sizes(given: Given, kernel: np.ndarray) -> tuple[int, ...]:
    """The kernel's spatial sizes, which come first."""
    sizes: tuple[int, ...] = kernel.shape[:-2]
    if not sizes:
        raise AxesError(f"{given.kind}: the kernel has no spatial axis", expected="*spatial", found=kernel.shape)
    given.agrees("kernel_size", sizes)
    return sizes


def _each(given: Given, channels: int, groups: int) -> int:
    """How many channels a group has."""
    if groups < 1 or channels % groups:
        message = f"{given.kind}: {channels} channels do not divide into {groups} groups"
        raise AxesError(message, expected=groups, found=channels)
    return channels // groups


def _biased(given: Given, y: np.ndarray) -> np.ndarray:
    bias = given.may("bias", "out")
    if bias is None:
        return y
    given.same("the shape of the bias", bias.shape, y.shape[-1:])
    y += bias
    return y
