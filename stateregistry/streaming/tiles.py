"""Copies between memory layouts, in blocks that fit the cache: a transpose at the speed of memory.

NumPy copies a transposed array element by element across the whole of it, so that each line of the cache is fetched many
times. Blocks fetch it once. Where the rows of the source lie a large power of two apart, all rows of a block would share
a few lines of the cache: such a block goes through a small padded buffer. Values are moved, not interpreted.
"""

from __future__ import annotations

import itertools

import numpy as np

#: Elements along each side of a block.
SIDE = 256
#: Below this, a copy is in the cache anyway.
_SMALL = 1 << 15
#: Rows this many bytes apart, or a multiple of it, fall on the same lines of the cache.
_CLASH = 1024
_LINE = 64


def clashes(pitch: int) -> bool:
    """Whether rows `pitch` bytes apart push one another out of the cache."""
    return pitch % _CLASH == 0 and pitch > 0


def as_words(array: np.ndarray) -> np.ndarray:
    """The same elements as integers of their width, so that no NaN is quieted; 16-byte ones as two numbers that are moved.

    The last axis need not be contiguous: only the dtype changes.
    """
    width = array.dtype.itemsize
    return array.view(np.dtype(f"u{width}")) if width in (1, 2, 4, 8) else array


def copy(target: np.ndarray, source: np.ndarray) -> None:
    """`target[...] = source`, for two arrays of one shape and dtype with any strides; the last axis of `target` is dense."""
    target, source = as_words(target), as_words(source)
    rank, width = target.ndim, target.dtype.itemsize
    if rank < 2 or target.nbytes <= _SMALL or abs(source.strides[-1]) == width:
        np.copyto(target, source)
        return
    near = min(range(rank), key=lambda axis: (abs(source.strides[axis]), -source.shape[axis]))
    if source.shape[near] < 8:  # a few taps of a convolution: the largest axis then, whatever its stride
        near = max(range(rank - 1), key=lambda axis: source.shape[axis])
    rest = [axis for axis in range(rank - 1) if axis != near]
    planes = int(np.prod([target.shape[axis] for axis in rest], dtype=np.int64))
    if target.nbytes // max(planes, 1) < _SMALL:
        np.copyto(target, source)
        return
    order = [*rest, near, rank - 1]
    out, inp = target.transpose(order), source.transpose(order)
    for place in itertools.product(*(range(out.shape[axis]) for axis in range(len(rest)))):
        _plane(out[place], inp[place])


def _plane(target: np.ndarray, source: np.ndarray) -> None:
    """A transpose: the source is dense along the first axis, the target along the second."""
    rows, columns = target.shape
    width = target.dtype.itemsize
    if not clashes(abs(source.strides[1])):
        for top in range(0, rows, SIDE):
            for left in range(0, columns, SIDE):
                target[top : top + SIDE, left : left + SIDE] = source[top : top + SIDE, left : left + SIDE]
        return
    scratch = np.empty((SIDE, SIDE + _LINE // width), target.dtype)
    for top in range(0, rows, SIDE):
        for left in range(0, columns, SIDE):
            block = source[top : top + SIDE, left : left + SIDE]
            near = scratch[: block.shape[1], : block.shape[0]]
            near[...] = block.T
            target[top : top + SIDE, left : left + SIDE] = near.T
