"""Distributed checkpoints of torch that lie: the real objects of their metadata, changed and pickled again."""

from __future__ import annotations

import atexit
import io
import os
import pickle
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, ChunkStorageMetadata, MetadataIndex

from hostile.corpus import Fault, Table, rows

READER = "torch DCP"


class Runs:
    """What a pickle of this would run."""

    def __reduce__(self):
        return os.system, ("touch owned",)


@lru_cache
def _good() -> Path:
    """A checkpoint of two tensors, as torch writes it; made once."""
    path = Path(tempfile.mkdtemp(prefix="dcp-")) / "ckpt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = {"w": torch.arange(4.0).reshape(2, 2), "v": torch.ones(3)}
        dcp.save(state, checkpoint_id=path, no_dist=True)
    atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    return path


def written(folder: Path, change: Callable[[Any], Any]) -> Path:
    """A checkpoint of two tensors whose metadata was changed."""
    path = folder / "ckpt"
    shutil.copytree(_good(), path)
    metadata = pickle.loads((path / ".metadata").read_bytes())
    changed = change(metadata)
    instead = type(changed) in (dict, list, Runs)
    (path / ".metadata").write_bytes(pickle.dumps(changed if instead else metadata))
    return path


def places(metadata: Any, name: str) -> Any:
    """Where the values of a tensor are said to be."""
    return next(info for index, info in metadata.storage_data.items() if index.fqn == name)


def _place(**more: Any) -> Callable[[Any], Any]:
    return lambda metadata: places(metadata, "w").__dict__.update(more)


def _chunk(**more: Any) -> Callable[[Any], Any]:
    return lambda metadata: metadata.state_dict_metadata["w"].chunks[0].__dict__.update(more)


def _tensor(**more: Any) -> Callable[[Any], Any]:
    return lambda metadata: metadata.state_dict_metadata["w"].__dict__.update(more)


def _two(first: Any, second: Any) -> Callable[[Any], Any]:
    """`w` in two chunks, stored in the places of `w` and of `v`."""

    def change(metadata: Any) -> None:
        chunks = [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in (first, second)]
        one, two = places(metadata, "w"), places(metadata, "v")
        metadata.state_dict_metadata["w"].chunks = chunks
        del metadata.state_dict_metadata["v"]
        metadata.planner_data.pop("v")
        keys = [MetadataIndex("w", chunk.offsets) for chunk in chunks]
        metadata.storage_data = dict(zip(keys, (one, two), strict=True))

    return change


#: What is done to the metadata.
UNSAFE: Table = {
    "a call of a function": {
        "code for the whole": lambda metadata: Runs(),
        "code in the planner's data": lambda metadata: metadata.__dict__.update(planner_data=Runs()),
        "code in a name": lambda metadata: metadata.state_dict_metadata.update(x=Runs()),
        "code in a place": _place(offset=Runs()),
        "code in a shape": _tensor(size=Runs()),
        "code in what is ignored": lambda metadata: metadata.__dict__.update(storage_meta=Runs()),
    },
    "a function that is named and not called": {
        "another class": lambda metadata: metadata.__dict__.update(planner_data=subprocess.Popen),
    },
    "a path to a parent": {
        "a parent": _place(relative_path="../other/__0_0.distcp"),
    },
    "an absolute path": {
        "an absolute path": _place(relative_path="/etc/passwd"),
    },
    "a path with a folder": {
        "a folder": _place(relative_path="sub/x.distcp"),
        "a backslash": _place(relative_path="..\\x.distcp"),
    },
    "a path that is reserved": {
        "the metadata itself": _place(relative_path=".metadata"),
        "no name": _place(relative_path=""),
    },
    "a NUL in a path": {
        "a NUL": _place(relative_path="__0_0.distcp\0"),
    },
}

LIES: Table = {
    "a top level of another type": {
        "something else": lambda metadata: {"a": 1},
        "a list": lambda metadata: [1, 2],
    },
    "a list of another type": {
        "no table": lambda metadata: metadata.__dict__.update(state_dict_metadata=None),
        "no places": lambda metadata: metadata.__dict__.update(storage_data=None),
        "chunks that are none": _tensor(chunks=[1]),
        "chunks as a table": _tensor(chunks={}),
        "no chunks": _tensor(chunks=[]),
    },
    "a row of another type": {
        "places of something else": lambda metadata: metadata.storage_data.update(x=1),
        "properties that are none": _tensor(properties=3),
    },
    "a name of another type": {
        "a name that is none": lambda metadata: metadata.state_dict_metadata.update({3: BytesStorageMetadata()}),
    },
    "a part without a place": {
        "a part without a place": lambda metadata: metadata.storage_data.pop(next(iter(metadata.storage_data))),
    },
    "a place of nobody": {
        "a place of nobody": lambda metadata: ((metadata.state_dict_metadata.pop("w"), metadata.planner_data.pop("w"))),
    },
    "offsets of another type": {
        "an offset that is none": _place(offset="0"),
        "a truth value for an offset": _place(offset=False),
    },
    "an offset that is negative": {
        "a negative offset": _place(offset=-8),
    },
    "a length beyond the file": {
        "a length beyond the file": _place(length=10**9),
    },
    "an offset that overflows": {
        "an offset of 2^62": _place(offset=2**62),
    },
    "a length of nothing": {
        "a length of nothing": _place(length=0),
    },
    "shape and bytes disagree": {
        "fewer bytes than the values have": _place(length=15),
    },
    "one place under two names": {
        "the bytes of another": lambda metadata: places(metadata, "w").__dict__.update(places(metadata, "v").__dict__),
    },
    "values that overlap": {
        "bytes shared with another": lambda metadata: places(metadata, "w").__dict__.update(
            offset=places(metadata, "v").offset + 8
        ),
    },
    "values that were compressed": {
        "compressed": _place(transform_descriptors=["zstd"]),
    },
    "a size of another type": {
        "a shape that is none": _tensor(size=(2, "2")),
    },
    "a size that is negative": {
        "a negative shape": _tensor(size=(-2, -2)),
        "a chunk that is negative": _chunk(sizes=(-2, -2)),
    },
    "parts that are not the whole": {
        "a larger shape": _tensor(size=torch.Size((2, 3))),
        "a smaller shape": _tensor(size=torch.Size((2, 1))),
        "another rank": _tensor(size=torch.Size((4,))),
        "a chunk that is smaller": _chunk(sizes=torch.Size((2, 1))),
        "a chunk of another rank": _chunk(sizes=torch.Size((4,)), offsets=torch.Size((0,))),
        "a hole": _two(((0, 0), (1, 2)), ((1, 1), (1, 1))),
    },
    "gigabytes declared in a small file": {
        "10 GB": _tensor(size=torch.Size((50_000, 50_000))),
        "10 GB in the chunk too": lambda metadata: [
            _tensor(size=torch.Size((50_000, 50_000)))(metadata),
            _chunk(sizes=torch.Size((50_000, 50_000)))(metadata),
        ].clear(),
    },
    "a shape that overflows": {
        "a shape that overflows": _tensor(size=torch.Size((2**40, 2**40))),
    },
    "more axes than an array has": {
        "65 axes": _tensor(size=(1,) * 65),
    },
    "a part beyond the whole": {
        "a chunk beyond": _chunk(offsets=torch.Size((1, 0))),
    },
    "parts that overlap": {
        "overlapping chunks": _two(((0, 0), (2, 1)), ((0, 0), (1, 2))),
        "overlapping chunks of the right size": _two(((0, 0), (1, 2)), ((0, 1), (2, 1))),
    },
    "a path of names that is none": {
        "paths that are none": lambda metadata: metadata.__dict__.update(planner_data={"w": "w"}),
        "an empty path": lambda metadata: metadata.planner_data.update(w=()),
    },
    "an array inside another by name": {
        "a path inside a value": lambda metadata: metadata.planner_data.update(v=("w", "v")),
    },
    "a name twice": {
        "one path twice": lambda metadata: metadata.planner_data.update(v=("w",)),
    },
}


def _swapped(metadata: Any) -> None:
    one, two = places(metadata, "w"), places(metadata, "v")
    one.__dict__, two.__dict__ = dict(two.__dict__), dict(one.__dict__)


def _code_in_shards(folder: Path) -> Path:
    stream = io.BytesIO()
    torch.save(Runs(), stream)
    raw = stream.getvalue()
    path = written(folder, _place(relative_path="bad.distcp", offset=0, length=len(raw)))
    (path / "bad.distcp").write_bytes(raw)
    return path


def _linked(folder: Path) -> Path:
    path = written(folder, lambda metadata: None)
    (file,) = path.glob("*.distcp")
    file.rename(folder / file.name)
    file.symlink_to(folder / file.name)
    return path


def _cut(name: str, size: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = written(folder, lambda metadata: None)
        (file,) = path.glob(name)
        file.write_bytes(file.read_bytes()[:size])
        return path

    return make


def _without(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = written(folder, lambda metadata: None)
        for file in path.glob(name):
            file.unlink()
        return path

    return make


FAULTS = (
    *(Fault(READER, k, n, lambda f, m=m: written(f, m), unsafe=True) for k, n, m in rows(UNSAFE)),
    Fault(READER, "a call in a file of values", "a part that is a pickle", _code_in_shards, "system", unsafe=True),
    Fault(READER, "a link that leads out", "a file of values", _linked, "leads out", unsafe=True),
    *(Fault(READER, k, n, lambda f, m=m: written(f, m)) for k, n, m in rows(LIES)),
    Fault(
        READER, "values of another shape than said", "two places exchanged",
        lambda f: written(f, _swapped), "the metadata says",
    ),
    *(Fault(READER, "a pickle cut short", f"at byte {n}", _cut(".metadata", n)) for n in (0, 1, 50, 300)),
    *(Fault(READER, "values cut short", f"at byte {n}", _cut("*.distcp", n)) for n in (0, 10, 1000, -1)),
    Fault(READER, "a file that is missing", "the values", _without("*.distcp")),
    Fault(READER, "a file that is missing", "the metadata", _without(".metadata")),
)  # fmt: skip
