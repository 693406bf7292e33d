"""Indexes of sharded torch files that lie, and shards among which one would run something."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hostile.corpus import Fault, Table, rows
from hostile.torch_pickles import touch

READER = "torch index"
NAME = "pytorch_model.bin.index.json"
ONE, TWO = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"


def checkpoint(folder: Path, index: Any = None, *, second: Any = None, old: bool = False) -> Path:
    """Two shards and their index; `index` stands instead of the weight_map, or as text of the whole."""
    folder.mkdir(exist_ok=True)
    states = {ONE: {"w": torch.ones(2), "v": torch.ones(3)}, TWO: second or {"u": torch.zeros(2)}}
    for file, state in states.items():
        torch.save(state, folder / file, _use_new_zipfile_serialization=not old)
    weights = {key: file for file, state in states.items() for key in state} if index is None else index
    text = weights if isinstance(weights, str) else json.dumps({"metadata": {}, "weight_map": weights})
    (folder / NAME).write_text(text)
    return folder / NAME


OUTSIDE: Table = {
    "a path to a parent": {"one up": "../out.bin"},
    "an absolute path": {"a file": "/tmp/out.bin"},
    "a path with a folder": {"below": "sub/out.bin", "a backslash": "a\\b.bin"},
    "a path that is reserved": {"two dots": "..", "one dot": ".", "nothing": ""},
    "a NUL in a path": {"inside": "a\0b.bin"},
    "a file of another kind": {"a text": "x.txt"},
    "a URL for a path": {"a file": "file:///x.bin"},
}

LIES: Table = {
    "an index that lacks an array": {"one": ({"w": ONE, "u": TWO}, "beyond what the index says")},
    "an index with an array too many": {"one": ({"w": ONE, "v": ONE, "u": TWO, "gone": ONE}, "lacks")},
    "a file that is missing": {"a shard": ({"w": ONE, "v": "absent.bin"}, "no such file|beyond")},
    "a row of another type": {"a number": ({"w": ONE, "v": 3}, "weight_map")},
    "a list of another type": {"a list": ([], "weight_map")},
    "a name twice": {"in the map": ('{"weight_map": {"w": "x.bin", "w": "y.bin"}}', "twice")},
    "NaN or infinity for a number": {"beside the map": ('{"weight_map": {"w": "x.bin"}, "n": NaN}', "not JSON")},
    "text that is no JSON": {"cut": ('{"weight_map": {"w": "x.bin"}', "not JSON")},
    "nesting without end": {"brackets": ('{"metadata": {}, "weight_map": ' + "[" * 100_000, "not JSON")},
    "a field that is missing": {"the map": ('{"metadata": {}}', "weight_map")},
    "a name with an empty segment": {"two dots": ({"a..b": ONE}, "empty segment")},
    "an array inside another by name": {"a and a.b": ({"a": ONE, "a.b": ONE}, "do not form a tree")},
}


def _outside(file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.save({"w": torch.ones(2)}, folder / "out.bin")
        return checkpoint(folder / "m", {"w": file})

    return make


def _linked(folder: Path) -> Path:
    path = checkpoint(folder / "m")
    (folder / "m" / TWO).rename(folder / "out.bin")
    (folder / "m" / TWO).symlink_to("../out.bin")
    return path


class Runs:
    """What a pickle of this would run."""

    def __reduce__(self) -> Any:
        return os.system, (touch("owned"),)


def _cut(file: str, size: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = checkpoint(folder)
        (folder / file).write_bytes((folder / file).read_bytes()[:size])
        return path

    return make


def _in_two(folder: Path) -> Path:
    return checkpoint(folder, {"w": ONE, "v": ONE, "u": TWO}, second={"u": torch.zeros(2), "w": torch.zeros(2)})


def _two_indexes(folder: Path) -> Path:
    checkpoint(folder)
    (folder / "other.bin.index.json").write_text((folder / NAME).read_text())
    return folder


FAULTS = (
    *(Fault(READER, k, n, _outside(m), "not a torch file of its directory", unsafe=True) for k, n, m in rows(OUTSIDE)),
    *(Fault(READER, k, n, lambda f, m=m: checkpoint(f, m[0]), m[1]) for k, n, m in rows(LIES)),
    Fault(READER, "a link that leads out", "a shard", _linked, "leads out", unsafe=True),
    *(
        Fault(
            READER, "a call of a function", "in a shard" + (" of the format before zip" if old else ""),
            lambda f, old=old: checkpoint(f, second={"u": Runs()}, old=old), "system", unsafe=True,
        )
        for old in (False, True)
    ),
    Fault(READER, "one array in two shards", "w", _in_two, "beyond what the index says"),
    Fault(READER, "two indexes of which either could be meant", "in one folder", _two_indexes, "no store knows"),
    *(Fault(READER, "values cut short", f"a shard at {size}", _cut(TWO, size)) for size in (0, 3, 60, 300, -1)),
    *(Fault(READER, "an index cut short", f"at byte {size}", _cut(NAME, size)) for size in (0, 1, 30, -2)),
)  # fmt: skip
