"""Memory for windows, lent and taken back: whoever asks the system anew for each window waits for fresh pages every time.

Pages come from anonymous maps, not from the heap, which would keep them scattered after they are freed. What is spare is
given back to the system when a run ends (`release`).
"""

from __future__ import annotations

import mmap
import threading
from typing import final

import numpy as np

_lock = threading.Lock()
_spare: list[mmap.mmap] = []


@final
class Buffers:
    """The buffers of one worker, by name; each is valid until the same name is asked for again."""

    def __init__(self) -> None:
        self._held: dict[str, mmap.mmap] = {}

    def take(self, name: str, count: int, dtype: np.dtype) -> np.ndarray:
        """A flat array of `count` elements, with any content."""
        nbytes = max(1, count * dtype.itemsize)
        pages = self._held.get(name)
        if pages is None or len(pages) < nbytes:
            if pages is not None:
                self._held.pop(name)
            pages = self._held[name] = _borrow(nbytes)
        return np.frombuffer(pages, np.uint8, count * dtype.itemsize).view(dtype)

    def give_back(self) -> None:
        """Lend them to the next worker."""
        with _lock:
            _spare.extend(self._held.values())
        self._held.clear()


def _borrow(nbytes: int) -> mmap.mmap:
    with _lock:
        fitting = [pages for pages in _spare if len(pages) >= nbytes]
        if fitting:
            pages = min(fitting, key=len)
            _spare.remove(pages)
            return pages
    return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def release() -> None:
    """Give what is spare back to the system, as soon as nobody looks at it."""
    with _lock:
        _spare.clear()
