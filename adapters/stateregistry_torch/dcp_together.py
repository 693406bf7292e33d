"""Distributed checkpoints by all processes that hold a state: torch writes the shards of each, and ours is added.

No value is gathered: torch is given the `DTensor`s as they are. What every process has in full has to be the same everywhere.
The digests of our document are made from what lies in the files then, by all processes together, in pieces of some megabytes.
Imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stateregistry import errors
from stateregistry.stores.folder import FolderDocument, make_durable
from stateregistry.stores.memory import PersistentPart
from stateregistry.stores.together import everywhere, pieces, refuse_unequal, share, whole_or_box
from stateregistry.stores.torch_dcp import METADATA, frame_order, open_dcp
from stateregistry.streaming import digests
from stateregistry.streaming.disk import File
from stateregistry.streaming.origins import Joined, Stored
from stateregistry_torch.assembly import refuse_unfit
from stateregistry_torch.bits import adopt
from stateregistry_torch.dcp import save_tensors
from stateregistry_torch.registry import TorchRegistry

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stateregistry.parts import Together
    from stateregistry.registry import StateRegistry
    from stateregistry.stores.base import Progress


def write_together(
    path: Path, source: StateRegistry, group: Together, /, *, extra: Mapping[str, Any], progress: Progress
) -> None:
    """See `DcpStore.write_together`."""
    refuse_unfit(source, "a distributed checkpoint")
    assert isinstance(source, PersistentPart)
    assert isinstance(source.whole, TorchRegistry)  # it said that it holds parts
    document = FolderDocument(source, extra)
    whole, tensors = source.whole, dict[str, Any]()

    def prepare() -> dict[tuple[str, tuple[int, ...]], str]:
        found, shared = _tensors(source, whole, group.rank)
        tensors.update(found)
        return shared

    refuse_unequal(everywhere(group, prepare))
    everywhere(group, lambda: path.mkdir() if group.rank == 0 else None)
    everywhere(group, lambda: _saved(path, source, tensors))
    rows = everywhere(group, lambda: _hashed(path, source, group))
    found = {key: text for row in rows for key, text in row.items()}

    def end() -> None:
        if group.rank == 0:
            document.write(path, frame_order(one.name for one in path.iterdir() if one.name != METADATA), found)
            make_durable(path)

    everywhere(group, end)
    for key, entry in source.items():
        progress(key, entry.nbytes)


def _tensors(
    source: PersistentPart, whole: TorchRegistry, rank: int
) -> tuple[dict[str, Any], dict[tuple[str, tuple[int, ...]], str]]:
    """What torch is to save, and the digests of what other processes have too."""
    boxes = whole.boxes()
    tensors, shared = {}, {}
    for key in source.native_order:
        box, array, _ = whole_or_box(source, key, boxes, rank)
        if box.copies > 1:
            shared[key, box.offsets] = digests.of_array(array)
        tensors[key] = whole.tensor(key).detach() if key in boxes else adopt(np.array(array))
    return tensors, shared


def _saved(path: Path, source: StateRegistry, tensors: Mapping[str, Any]) -> None:
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        save_tensors(path, source, tensors, alone=False)
    except CheckpointException as error:
        message = f"{path}: torch could not write the checkpoint: {str(error)[:300]}"
        raise errors.FileAccessError(message, hint="see that there is room and permission") from error


def _hashed(path: Path, source: StateRegistry, group: Together) -> dict[str, str]:
    """The digests of the values of this process's share, as they lie there."""
    found = {}
    with open_dcp(path) as ckpt:
        for key in share({key: entry.nbytes for key, entry in source.items()}, group):
            origin = ckpt.origin(key)
            found[key] = digests.of_array(ckpt.read(key)) if origin is None else _digest(origin, source[key].shape)
    return found


def _digest(origin: Stored | Joined, shape: tuple[int, ...]) -> str:
    if isinstance(origin, Stored):
        with File.reading(origin.path, origin.size, origin.modified) as file:
            return digests.of_stored(file, origin.dtype, shape, origin.extents)
    files: dict[str, File] = {}
    state = digests.start(origin.dtype, shape)
    nbytes = sum(size for part in origin.parts for _, size in part.extents)
    try:
        for part in origin.parts:
            if part.path not in files:
                files[part.path] = File.reading(part.path, part.size, part.modified)
        for begin, count in pieces(nbytes):
            raw = np.empty(count, np.uint8)
            for name, offset, first, size in origin.stretches(begin, count):
                files[name].read_into(raw[first : first + size], offset)
            state.update(raw.data)
    finally:
        for file in files.values():
            file.close()
    return state.hexdigest()
