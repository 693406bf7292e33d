"""Indexes of sharded safetensors that lie: names that lead elsewhere, and shards that are not what the index says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hostile.corpus import Fault, Table, rows
from hostile.safetensors_files import written

READER = "safetensors index"
NAME = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def shard(path: Path, *names: str) -> None:
    """A good shard of arrays of two elements."""
    header = {name: {"dtype": "F32", "shape": [2], "data_offsets": [8 * n, 8 * n + 8]} for n, name in enumerate(names)}
    made = written(path.parent, header, np.arange(2 * len(names), dtype="<f4").tobytes())
    made.rename(path)


def checkpoint(folder: Path, index: Any = None) -> Path:
    """Two shards and their index; `index` stands instead of the weight_map, or as text of the whole."""
    shard(folder / ONE, "a.w", "a.b")
    shard(folder / TWO, "b.w")
    weights = {"a.w": ONE, "a.b": ONE, "b.w": TWO} if index is None else index
    text = weights if isinstance(weights, str) else json.dumps({"metadata": {}, "weight_map": weights})
    (folder / NAME).write_text(text)
    return folder / NAME


#: The file that the index names for an array. A good one of that name lies outside.
OUTSIDE: Table = {
    "a path to a parent": {"one up": "../out.safetensors", "within": f"x/../{ONE}", "far": "../" * 20 + "etc/passwd"},
    "an absolute path": {"a file": "/etc/x.safetensors", "the root": "/"},
    "a path with a folder": {"below": "sub/x.safetensors", "a backslash": "a\\b.safetensors", "a dot": f"./{ONE}"},
    "a path that is reserved": {"two dots": "..", "one dot": ".", "nothing": ""},
    "a NUL in a path": {"inside": "x\0.safetensors"},
    "a file of another kind": {"a pickle": "x.pkl", "a text": "x.txt"},
    "a URL for a path": {"a file": "file:///x.safetensors", "https": "https://example.com/x.safetensors"},
    "a control character in a path": {"a newline": "x\n.safetensors", "an escape": "\x1b[2Jx.safetensors"},
}

#: The weight_map, or the whole text; what the refusal says.
LIES: Table = {
    "an index that lacks an array": {"one": ({"a.w": ONE, "b.w": TWO}, "beyond what the index says")},
    "an index with an array too many": {"one": ({"a.w": ONE, "a.b": ONE, "b.w": TWO, "c": TWO}, "lacks")},
    "an array in another shard than said": {"exchanged": ({"a.w": TWO, "a.b": ONE, "b.w": ONE}, "lacks|beyond")},
    "a file that is missing": {"a shard": ({"a.w": ONE, "a.b": ONE, "b.w": "gone.safetensors"}, "")},
    "a row of another type": {"a number": ({"a.w": 3}, "weight_map"), "a list": ({"a.w": [ONE]}, "weight_map")},
    "a list of another type": {"a list": ([], "weight_map"), "a text": ("[1]", "")},
    "a name twice": {"in the map": (f'{{"weight_map": {{"a.w": "{ONE}", "a.w": "{TWO}"}}}}', "twice")},
    "NaN or infinity for a number": {"beside the map": ('{"weight_map": {"a.w": "x.safetensors"}, "n": NaN}', "JSON")},
    "text that is no JSON": {"cut": ('{"weight_map": {"a.w": "x.safetensors"}', "JSON|no known")},
    "nesting without end": {"brackets": ('{"metadata": {}, "weight_map": ' + "[" * 100_000, "")},
    "a field that is missing": {"the map": ('{"metadata": {}}', "")},
    "an empty index": {"no arrays": ({}, "")},
    "a name with an empty segment": {"two dots": ({"a..b": ONE}, "")},
    "an array inside another by name": {"a.w and a.w.x": ({"a.w": ONE, "a.w.x": ONE}, "")},
}


def _outside(file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "m").mkdir()
        shard(folder / "out.safetensors", "w")
        return checkpoint(folder / "m", {"w": file})

    return make


def _linked(target: Callable[[Path], str]) -> Callable[[Path], Path]:
    """A shard that is a link; a good one of its content lies in the folder above."""

    def make(folder: Path) -> Path:
        (folder / "m").mkdir()
        path = checkpoint(folder / "m")
        (folder / "m" / TWO).rename(folder / "out.safetensors")
        (folder / "m" / TWO).symlink_to(target(folder))
        return path

    return make


def _cut(file: str, size: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = checkpoint(folder)
        (folder / file).write_bytes((folder / file).read_bytes()[:size])
        return path

    return make


def _in_two(folder: Path) -> Path:
    path = checkpoint(folder)
    shard(folder / TWO, "b.w", "a.w")
    return path


def _fifo(folder: Path) -> Path:
    """A shard that nobody ever writes: opening it to read would wait without end."""
    path = checkpoint(folder)
    (folder / TWO).unlink()
    os.mkfifo(folder / TWO)
    return path


def _folder(folder: Path) -> Path:
    path = checkpoint(folder)
    (folder / TWO).unlink()
    (folder / TWO).mkdir()
    return path


def _hugging_face(folder: Path) -> Path:
    """The cache of Hugging Face in which one link leads past the blobs."""
    snapshot, blobs = folder / "models--a--b" / "snapshots" / "0f", folder / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    checkpoint(snapshot)
    (snapshot / ONE).rename(blobs / "1")
    (snapshot / ONE).symlink_to("../../blobs/1")
    (snapshot / TWO).rename(folder / "models--a--b" / "secret")
    (snapshot / TWO).symlink_to("../../blobs/../secret")
    return snapshot / NAME


LINKS: Table = {
    "a link that leads out": {
        "up": lambda folder: "../out.safetensors",
        "absolute": lambda folder: str(folder / "out.safetensors"),
        "to a file of the system": lambda folder: "/etc/hostname",
        "through the folder itself": lambda folder: "../m/../out.safetensors",
    }
}

FAULTS = (
    *(Fault(READER, k, n, _outside(m), unsafe=True) for k, n, m in rows(OUTSIDE)),
    *(Fault(READER, k, n, lambda f, m=m: checkpoint(f, m[0]), m[1]) for k, n, m in rows(LIES)),
    *(Fault(READER, k, n, _linked(m), "leads out", unsafe=True) for k, n, m in rows(LINKS)),
    Fault(READER, "a link that leads out", "past the blobs of a cache", _hugging_face, "leads out", unsafe=True),
    Fault(READER, "a link that leads to itself", "a shard", _linked(lambda folder: TWO)),
    Fault(READER, "a file that is missing", "behind a link", _linked(lambda folder: "gone.safetensors")),
    *(Fault(READER, "values cut short", f"a shard at {size}", _cut(TWO, size)) for size in (0, 7, 30, -1)),
    *(Fault(READER, "an index cut short", f"at byte {size}", _cut(NAME, size)) for size in (0, 1, 30, -2)),
    Fault(READER, "one array in two shards", "a.w", _in_two, "beyond what the index says"),
    Fault(READER, "a pipe for a file", "a shard", _fifo),
    Fault(READER, "a folder for a file", "a shard", _folder),
)
