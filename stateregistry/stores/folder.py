"""Checkpoints that are directories: our document among their files, digests of all of them, and no link that leads out.

The document is the file `stateregistry.json` of the directory, which other readers do not look at. Its frame is the digest of
every byte of every file, its own included, in which the frame itself reads as zeros. Imports no framework.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, final

import xxhash

from stateregistry import errors
from stateregistry.stores.base import KnowsItsFolder
from stateregistry.stores.document import Document
from stateregistry.stores.links import refuse_leading_out
from stateregistry.stores.mapped import MappedFile
from stateregistry.streaming.digests import NONE_YET, of_array
from stateregistry.streaming.disk import File, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from stateregistry.plugins import Store
    from stateregistry.registry import StateRegistry
    from stateregistry.stores.limits import Limits

#: Our document, beside the files of others.
DOCUMENT: Final = "stateregistry.json"
_PIECE: Final = 1 << 22


def files_below(folder: Path, limits: Limits, /) -> list[str]:
    """Every file in a directory and in those below it, by its path from there, sorted.

    Raises:
        UnsafeFileError: a link leads out of the directory. FileFormatError: more files than the limit allows.
        FileAccessError: the directory cannot be read.
    """
    found: list[str] = []
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        try:
            listed = sorted(path.name for path in (folder / inner).iterdir())
        except OSError as error:
            raise errors.FileAccessError(f"{folder / inner}: cannot be read: {error.strerror or error}") from error
        for name in listed:
            here = f"{inner}/{name}" if inner else name
            refuse_leading_out(folder, here)
            if (folder / here).is_dir():
                if (folder / here).is_symlink():
                    message = f"{folder}: the directory {here!r} is a link"
                    raise errors.UnsafeFileError(
                        message, hint="copy the directory into the checkpoint if it is trusted"
                    )
                waiting.append(here)
            else:
                found.append(here)
        limits.check("archive_members", len(found) + len(waiting), f"{folder}: number of files")
    return sorted(found)


def strangers_for(store: Store, /) -> Callable[[Path], Sequence[str]]:
    """What says which names in a directory are no part of a checkpoint of a store: all, where the store knows none."""
    if isinstance(store, KnowsItsFolder):
        return store.strangers
    return lambda folder: [path.name for path in folder.iterdir()] or [folder.name]


def read_document(folder: Path, limits: Limits, /) -> Document | None:
    """Our document, `None` where the directory has none.

    Raises:
        FileFormatError: it is damaged. UnsafeFileError: a link that leads out.
    """
    path = folder / DOCUMENT
    if not path.exists():
        return None
    refuse_leading_out(folder, DOCUMENT)
    with MappedFile(path) as file:
        limits.check("document_bytes", file.size, f"{path}: length")
        try:
            text = file.read(0, file.size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise errors.FileFormatError(f"{path}: is not text: {error}", hint="write it again") from error
    return Document.from_json(text, str(path))


def frame_of(folder: Path, names: Sequence[str], text: bytes, /) -> str:
    """The digest of every byte of a checkpoint, its document included, in which the digest itself reads as zeros."""
    state = xxhash.xxh3_128()
    for name in names:
        with MappedFile(folder / name) as file:
            state.update(f"{name}\0{file.size}\0".encode())
            for at in range(0, file.size, _PIECE):
                state.update(file.read(at, min(_PIECE, file.size - at)))
    state.update(text)
    return state.hexdigest()


def frame_problem(folder: Path, names: Sequence[str], document: Document, /) -> str | None:
    """What is wrong with the files of a checkpoint, held against their digest; `None` where nothing is."""
    frame = document.frame
    if not frame:
        return f"{DOCUMENT} carries no digest of the files"
    with MappedFile(folder / DOCUMENT) as file:
        text = file.read(0, file.size).replace(frame.encode(), NONE_YET.encode(), 1)
    if frame_of(folder, names, text) != frame:
        return "its files are not what was written"
    return None


@final
class FolderDocument:
    """Our document of a directory that is about to be written.

    Raises:
        UnsupportedError: `extra` that is not JSON; before anything is written.
    """

    def __init__(self, source: StateRegistry, extra: Mapping[str, Any]) -> None:
        self._source = source
        self._document = Document.describe(source, extra=extra, ordered=False)
        self._document.to_json()

    def write(self, folder: Path, names: Sequence[str], found: Mapping[str, str] | None = None, /) -> None:
        """Add it to a directory, with the digests of the values and of the files `names`; durable.

        Args:
            found: the digests of all values, where they are known.
        """
        digests = found if found is not None else {key: of_array(self._source.view(key)) for key in self._source}
        blank = self._document.with_digests(digests, NONE_YET).to_json().encode("ascii")
        frame = frame_of(folder, names, blank)
        with File.creating(folder / DOCUMENT) as file:
            file.write(self._document.with_digests(digests, frame).to_json().encode("ascii"), 0)
            file.sync()


def make_durable(folder: Path, /) -> None:
    """Sync every file and every directory of a tree that was just written.

    Raises:
        FileAccessError.
    """
    for place, _, names in os.walk(folder, topdown=False):
        inner = type(folder)(place)
        for name in names:
            with File.writing(inner / name) as file:
                file.sync()
        sync_folder(inner)
