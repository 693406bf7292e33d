"""What the two processes tell one another: frames of a tag, a length and bytes, over two pipes.

The child asks for bytes of the file, as it has no file; it answers with datasets, values, or one error. Neither side trusts
a frame: one that is cut off, too long or of another tag than was waited for ends the conversation. Imports nothing else.
"""

from __future__ import annotations

import struct
from typing import IO, Final

#: From the parent: what to do. From the child: what it wants and what it found.
BEGIN, LIST, VALUE, BYTES = b"B", b"L", b"V", b"R"
DATASET, ERROR, DONE = b"D", b"E", b"."
_HEAD: Final = struct.Struct("<cQ")


class Broken(Exception):  # noqa: N818  # the other side went away or speaks otherwise; said to no user as it is
    """The conversation ended in the middle."""


def send(stream: IO[bytes], tag: bytes, data: bytes | bytearray | memoryview = b"") -> None:
    """Say one frame.

    Raises:
        Broken: nobody listens.
    """
    try:
        for piece in (_HEAD.pack(tag, len(data)), data):
            rest = memoryview(piece)
            while rest:
                rest = rest[stream.write(rest) :]  # a pipe takes what it has room for
        stream.flush()
    except (OSError, ValueError) as error:  # ValueError: closed on this side
        raise Broken from error


def receive(stream: IO[bytes], longest: int) -> tuple[bytes, bytearray]:
    """Hear one frame: its tag and its bytes.

    Args:
        stream: where from.
        longest: bytes that are believed.

    Raises:
        Broken: the other side ended, or sends more than that.
    """
    tag, size = _HEAD.unpack(_exactly(stream, _HEAD.size))
    if size > longest:
        raise Broken
    return tag, _exactly(stream, size)


def _exactly(stream: IO[bytes], size: int) -> bytearray:
    data = bytearray(size)
    into = memoryview(data)
    done = 0
    while done < size:
        try:
            count = stream.readinto(into[done:])  # type: ignore[attr-defined]  # of every binary stream of `io`
        except (OSError, ValueError) as error:
            raise Broken from error
        if not count:
            raise Broken
        done += count
    return data
