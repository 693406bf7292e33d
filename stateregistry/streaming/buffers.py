"""Memory for what is under way: one budget that all workers share, lent in equal rooms and given back at the end.

Who asks the system anew for each window waits for fresh pages every time, so a room is one map of pages that is used again
while a run goes on; maps do not leave the heap scattered. What does not fit in a room is taken beside it, and counted as
the rest is: how values are cut sees to it that this does not happen.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, final

import numpy as np

#: Bytes for all workers of one process together.
BUDGET: Final = 1 << 26
#: A larger room makes nothing faster; a smaller one makes everything slow.
LARGEST: Final = 1 << 25
SMALLEST: Final = 1 << 20
_LINE: Final = 64


@final
class Memory:
    """What is taken from the system.

    Attributes:
        lent: bytes that are taken now. most: the most that were.
    """

    def __init__(self) -> None:
        self.lent = self.most = 0
        self._spare: list[mmap.mmap] = []
        self._runs = 0
        self._lock = threading.Lock()

    def borrow(self, nbytes: int) -> mmap.mmap:
        """Pages with any content."""
        with self._lock:
            for pages in self._spare:
                if len(pages) == nbytes:
                    self._spare.remove(pages)
                    return pages
            self.lent += nbytes
            self.most = max(self.most, self.lent)
        return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def give_back(self, maps: list[mmap.mmap]) -> None:
        """Keep pages for whoever comes next; without a run, the system has them as soon as nobody looks at them."""
        with self._lock:
            if self._runs:
                self._spare.extend(maps)
            else:
                self.lent -= sum(map(len, maps))

    @contextmanager
    def kept(self) -> Iterator[None]:
        """While a run goes on, keep what workers give back for those that follow."""
        with self._lock:
            self._runs += 1
        try:
            yield
        finally:
            with self._lock:
                self._runs -= 1
                if not self._runs:
                    self.lent -= sum(map(len, self._spare))
                    self._spare.clear()


#: That of this process.
memory: Final = Memory()


def room_for(workers: int) -> int:
    """Bytes for each of several workers: together they keep within the budget, except that none gets less than 1 MiB."""
    return max(SMALLEST, min(LARGEST, BUDGET // workers))


@final
class Room:
    """The memory of one worker: taken piece by piece, and all at once again from the first or some later piece on.

    Attributes:
        nbytes: how large it is.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._pages: mmap.mmap | None = None
        self._used = 0
        self._beside: list[mmap.mmap] = []

    def take(self, count: int, dtype: np.dtype) -> np.ndarray:
        """A flat array of `count` elements, with any content; good until the room is used again from before it on."""
        nbytes = count * dtype.itemsize
        begin = -(-self._used // _LINE) * _LINE
        if begin + nbytes > self.nbytes:
            self._beside.append(memory.borrow(nbytes))
            return np.frombuffer(self._beside[-1], np.uint8, nbytes).view(dtype)
        if self._pages is None:
            self._pages = memory.borrow(self.nbytes)
        self._used = begin + nbytes
        return np.frombuffer(self._pages, np.uint8, nbytes, begin).view(dtype)

    @property
    def used(self) -> int:
        """How much is taken."""
        return self._used

    def reuse(self, used: int = 0) -> None:
        """Use again what was taken since so much was `used`."""
        self._used = used
        if not used and self._beside:
            memory.give_back(self._beside)
            self._beside = []

    def give_back(self) -> None:
        """Lend it to the next worker."""
        memory.give_back([*self._beside, *((self._pages,) if self._pages is not None else ())])
        self._beside, self._pages = [], None
