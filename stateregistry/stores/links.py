"""Where the files of a checkpoint may lie that is a directory: in it, and where a cache keeps them.

A symbolic link may lead to the directory itself or, in the cache of Hugging Face, from `snapshots` to the `blobs` beside it,
and nowhere else: an index comes from a stranger, and so may a link. Imports no framework.
"""

from __future__ import annotations

import os
from pathlib import Path

from stateregistry import errors


def refuse_leading_out(folder: Path, name: str, /) -> None:
    """Refuse a file of a directory that is a link out of it.

    Raises:
        UnsafeFileError: it leads neither into the directory nor into the blobs of the cache that the directory is in.
    """
    file = folder / name
    if not file.is_symlink():
        return
    root, real = Path(os.path.realpath(folder)), Path(os.path.realpath(file))
    allowed = [root]
    allowed += [place.parent.parent / "blobs" for place in (root, *root.parents) if place.parent.name == "snapshots"]
    if not any(real.is_relative_to(place) for place in allowed):
        message = f"{folder}: the file {name!r} is a link that leads out of the directory, to {real}"
        hint = "copy the file into the directory if it is trusted"
        raise errors.UnsafeFileError(message, found=(str(real),), hint=hint)
