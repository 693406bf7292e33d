"""The process in which h5py parses: run as a module by `file`, with two pipes and no file.

HDF5 is a large library in C, and files exist that make it write where it must not: what such a file ends is this process, and
the one that asked says so. Bytes of the file are asked for over the pipe and kept in blocks. Ends when its input does.
"""

from __future__ import annotations

import io
import json
import os
import sys
from functools import lru_cache
from typing import IO, Any, Final, final

from stateregistry import errors
from stateregistry.stores.hdf5 import frames
from stateregistry.stores.hdf5.walk import Walk
from stateregistry.stores.limits import Limits

_BLOCK: Final = 1 << 16


@final
class Asked(io.RawIOBase):
    """A file whose bytes the other process has, for reading: what h5py is given instead of a path."""

    def __init__(self, hear: IO[bytes], say: IO[bytes], size: int) -> None:
        super().__init__()
        self._hear, self._say, self.size, self._at = hear, say, size, 0
        self._block = lru_cache(maxsize=64)(self._fetch)

    def _fetch(self, number: int) -> bytearray:
        begin = number * _BLOCK
        return self._ask(begin, min(_BLOCK, self.size - begin))

    def _ask(self, begin: int, count: int) -> bytearray:
        frames.send(self._say, frames.BYTES, begin.to_bytes(8, "little") + count.to_bytes(8, "little"))
        tag, data = frames.receive(self._hear, count)
        if tag != frames.BYTES or len(data) != count:
            raise frames.Broken
        return data

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        """The place."""
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Fill as much of a buffer as there is."""
        target = memoryview(buffer).cast("B")
        count = max(0, min(len(target), self.size - self._at))
        if count > _BLOCK:
            target[:count] = self._ask(self._at, count)
        else:
            done = 0
            while done < count:
                number, skip = divmod(self._at + done, _BLOCK)
                piece = self._block(number)[skip : skip + count - done]
                target[done : done + len(piece)] = piece
                done += len(piece)
        self._at += count
        return count


def main() -> None:
    """Do what is asked until nobody asks."""
    hear, say = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no frame
    try:
        tag, data = frames.receive(hear, 1 << 20)
        if tag != frames.BEGIN:
            return
        about = json.loads(data)
        walk: Walk | None = None
        while True:
            tag, data = frames.receive(hear, 1 << 24)
            try:
                if walk is None:
                    size = about["size"]
                    walk = Walk(Asked(hear, say, size), size, about["where"], Limits(**about["limits"]))
                if tag == frames.LIST:
                    for one in walk.datasets():
                        frames.send(say, frames.DATASET, json.dumps(one.as_row()).encode())
                else:
                    wanted = json.loads(data)
                    array = walk.read(tuple(wanted["path"]), wanted["dtype"])
                    frames.send(say, frames.VALUE, array.reshape(-1).view("u1").data if array.size else b"")
                frames.send(say, frames.DONE)
            except errors.StateError as error:
                told = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
                frames.send(say, frames.ERROR, json.dumps(told).encode())
    except frames.Broken:
        return


if __name__ == "__main__":
    main()
