"""The digest of all that is not values in a zip archive of ours: it is the comment of the archive, the last bytes of the file.

Readers of zip archives skip the comment. It is made over every byte that is not of a value, in which the digest itself reads as
zeros, so that it can be written when the rest is there. Imports NumPy, no framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import xxhash

from stateregistry.streaming.digests import NONE_YET, STEP
from stateregistry.streaming.disk import File

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from stateregistry.stores.mapped import MappedFile

#: What the comment of the archive begins with; a digest follows.
FRAME: Final = b"stateregistry.frame="

Span = tuple[int, int]


def leave_room(archive: zipfile.ZipFile, /) -> None:
    """Give an archive that is being written the comment that `seal` fills in."""
    archive.comment = FRAME + NONE_YET.encode()


def seal(path: Path, values: Iterable[Span], /) -> None:
    """Write the digest of all that is not values, of which begin and end are given, over the zeros at the end."""
    state = xxhash.xxh3_128()
    with File.writing(path) as file:
        end = file.size
        buffer = np.empty(STEP, np.uint8)
        for first, last in _between(values, end):
            for at in range(first, last, STEP):
                piece = buffer[: min(STEP, last - at)]
                file.read_into(piece, at)
                state.update(piece.data)
        file.write(state.hexdigest().encode(), end - len(NONE_YET))


def problem(file: MappedFile, values: Iterable[Span], /) -> str | None:
    """What is wrong with all that is not values, held against its digest; `None` where nothing is."""
    begin = file.size - len(FRAME) - len(NONE_YET)
    comment = file.read(max(begin, 0), file.size - max(begin, 0))
    if not comment.startswith(FRAME):
        return "what is not values carries no digest: another program has changed the archive"
    state = xxhash.xxh3_128()
    for first, last in _between(values, begin + len(FRAME)):
        for at in range(first, last, STEP):
            state.update(file.read(at, min(STEP, last - at)))
    state.update(NONE_YET.encode())
    if state.hexdigest().encode() != comment[len(FRAME) :]:
        return "what lies between its values is not what was written"
    return None


def _between(values: Iterable[Span], end: int) -> Iterator[Span]:
    """The stretches of a file that are not values."""
    position = 0
    for first, last in sorted(values):
        yield position, first
        position = last
    yield position, end
