"""Reading a box of a value in a file: the bytes of the box and no others, but for the gaps between very short stretches.

Works for whatever lies as it is in files, in one piece or in the parts that several processes have written. Values that are
compressed or in another byte order are read whole by their store. Imports NumPy, no framework.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from stateregistry.entry import DTYPES, numpy_dtype
from stateregistry.stores.bits import settle
from stateregistry.streaming.disk import File
from stateregistry.streaming.origins import Joined, Stored, spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stateregistry.parts import Box

#: Stretches shorter than this are read with what lies between them: a system call costs more than these bytes.
_SHORT: Final = 512
#: Bytes that are read at once then.
_WINDOW: Final = 1 << 22


def read_box(origin: Stored | Joined, shape: tuple[int, ...], box: Box, /) -> np.ndarray:
    """The elements of a box, in C order and native byte order.

    Args:
        origin: where the whole lies. shape: of the whole.

    Raises:
        FileFormatError: a file has changed, ends early, or holds a bool that is none. FileAccessError.
    """
    array = np.empty(box.sizes, numpy_dtype(origin.dtype))
    raw = array.reshape(-1).view(np.uint8)
    files: dict[str, File] = {}
    try:
        for part in origin.parts if isinstance(origin, Joined) else (origin,):
            if part.path not in files:
                files[part.path] = File.reading(part.path, part.size, part.modified)
        done = 0
        for taken in _pieces(origin, shape, box):
            begin = taken[0][0]
            span = taken[-1][0] + taken[-1][1] - begin
            if len(taken) == 1:
                _fill(origin, files, raw[done : done + span], begin)
                done += span
                continue
            window = np.empty(span, np.uint8)
            _fill(origin, files, window, begin)
            for at, size in taken:
                raw[done : done + size] = window[at - begin : at - begin + size]
                done += size
    finally:
        for file in files.values():
            file.close()
    return settle(array, "little", origin.where)


def _pieces(origin: Stored | Joined, shape: tuple[int, ...], box: Box) -> Iterator[list[tuple[int, int]]]:
    """What to read at once: the stretches, in bytes of the whole; several of them where they are short."""
    width = DTYPES[origin.dtype]
    length, starts = box.runs(shape)
    size = length * width
    if size >= _SHORT or size == math.prod(shape) * width:
        for start in starts:
            yield [(start * width, size)]
        return
    waiting: list[tuple[int, int]] = []
    for start in starts:
        at = start * width
        if waiting and (at + size - waiting[0][0] > _WINDOW or at < waiting[-1][0]):
            yield waiting
            waiting = []
        waiting.append((at, size))
    if waiting:
        yield waiting


def _fill(origin: Stored | Joined, files: dict[str, File], raw: np.ndarray, start: int) -> None:
    """Bytes of the whole from `start` on."""
    if isinstance(origin, Joined):
        for path, offset, first, size in origin.stretches(start, raw.size):
            files[path].read_into(raw[first : first + size], offset)
        return
    for offset, first, size in spread(origin.extents, start, raw.size):
        files[origin.path].read_into(raw[first : first + size], offset)
