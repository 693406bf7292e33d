"""A value looked at piece by piece, so that what is asked of its elements needs no memory for the whole. Imports NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np

from stateregistry.entry import numpy_dtype
from stateregistry.streaming.disk import File
from stateregistry.streaming.origins import Asked, Held, Joined, Origin, spread

#: Elements of one piece.
COUNT = 1 << 18


def pieces(origin: Origin) -> Iterator[np.ndarray]:
    """The elements in C order, flat; each piece is valid until the next one is asked for.

    Raises:
        FileFormatError: the file has changed, or ends early. FileAccessError.
    """
    if isinstance(origin, Held):
        flat = origin.array.reshape(-1)
        for start in range(0, flat.size, COUNT):
            yield flat[start : start + COUNT]
        return
    if isinstance(origin, Joined):
        yield from _joined(origin)
        return
    if isinstance(origin, Asked):
        yield from _asked(origin)
        return
    dtype = numpy_dtype(origin.dtype)
    nbytes = sum(size for _, size in origin.extents)
    buffer = np.empty(COUNT, dtype)
    raw = buffer.view(np.uint8)
    with File.reading(origin.path, origin.size, origin.modified) as file:
        for start in range(0, nbytes, raw.size):
            count = min(raw.size, nbytes - start)
            for offset, first, size in spread(origin.extents, start, count):
                file.read_into(raw[first : first + size], offset)
            yield buffer[: count // dtype.itemsize]


def _asked(origin: Asked) -> Iterator[np.ndarray]:
    dtype = numpy_dtype(origin.dtype)
    nbytes = math.prod(origin.shape) * dtype.itemsize
    buffer = np.empty(max(COUNT, origin.block // dtype.itemsize), dtype)  # a block is read as a whole, and best once
    raw = buffer.view(np.uint8)
    answers = origin.asks.open()
    for start in range(0, nbytes, raw.size):
        count = min(raw.size, nbytes - start)
        answers.read_rows(raw, count, count, [start])
        yield buffer[: count // dtype.itemsize]


def _joined(origin: Joined) -> Iterator[np.ndarray]:
    dtype = numpy_dtype(origin.dtype)
    nbytes = math.prod(origin.shape) * dtype.itemsize
    buffer = np.empty(COUNT, dtype)
    raw = buffer.view(np.uint8)
    with ExitStack() as stack:
        files = {}
        for part in origin.parts:
            if part.path not in files:
                files[part.path] = stack.enter_context(File.reading(part.path, part.size, part.modified))
        for start in range(0, nbytes, raw.size):
            count = min(raw.size, nbytes - start)
            for path, offset, first, size in origin.stretches(start, count):
                files[path].read_into(raw[first : first + size], offset)
            yield buffer[: count // dtype.itemsize]


def equal(one: Origin, two: Origin) -> bool:
    """Whether two values of one dtype and shape hold the same bits."""
    return all(a.tobytes() == b.tobytes() for a, b in zip(pieces(one), pieces(two), strict=True))
