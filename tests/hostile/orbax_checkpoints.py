"""Orbax checkpoints that lie: metadata of the tree, specs of arrays, files that are gone, and links that lead out."""

from __future__ import annotations

import atexit
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hostile.corpus import Fault, Table, rows

READER = "Orbax"


@lru_cache
def _good(ocdbt: bool, zarr3: bool) -> Path:
    """A checkpoint of three arrays, as Orbax writes it; made once."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    rng = np.random.default_rng(0)
    tree = {
        "params": {"dense": {"kernel": rng.random((4, 4), np.float32), "bias": rng.random(4, np.float32)}},
        "batch_stats": {"norm": {"mean": rng.random(4, np.float32)}},
    }
    path = Path(tempfile.mkdtemp(prefix="orbax-")) / "ckpt"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt, use_zarr3=zarr3)) as checkpointer:
        checkpointer.save(path, tree)
    atexit.register(shutil.rmtree, path.parent, ignore_errors=True)
    return path


def written(folder: Path, change: Callable[[Path], Any], *, ocdbt: bool = False, zarr3: bool = False) -> Path:
    """A good checkpoint to which something was done."""
    path = folder / "ckpt"
    shutil.copytree(_good(ocdbt, zarr3), path)
    change(path)
    return path


def _metadata(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def done(path: Path) -> None:
        body = json.loads((path / "_METADATA").read_text())
        (path / "_METADATA").write_text(json.dumps(change(body)))

    return done


def renamed(key: Any) -> Callable[[Path], None]:
    """One array is said to be stored under another name."""

    def change(body: Any) -> Any:
        row = body["tree_metadata"].pop("('params', 'dense', 'bias')")
        row["key_metadata"] = [{"key": key, "key_type": 2}]
        body["tree_metadata"][f"('{key}',)"] = row
        return body

    return _metadata(change)


def said(**parts: Any) -> Callable[[Path], None]:
    """Parts of the metadata are replaced."""
    return _metadata(lambda body: {**body, **parts})


def text(content: str) -> Callable[[Path], Any]:
    """Other text for the metadata."""
    return lambda path: (path / "_METADATA").write_text(content)


def spec(**parts: Any) -> Callable[[Path], Any]:
    """Parts of what is said of one array are replaced."""

    def done(path: Path) -> None:
        file = path / "params.dense.kernel" / ".zarray"
        file.write_text(json.dumps({**json.loads(file.read_text()), **parts}))

    return done


def _linked_folder(path: Path) -> None:
    (path / "params.dense.kernel").rename(path.parent / "elsewhere")
    (path / "params.dense.kernel").symlink_to(path.parent / "elsewhere")


def _linked_block(path: Path) -> None:
    (path / "params.dense.kernel" / "0.0").rename(path.parent / "block")
    (path / "params.dense.kernel" / "0.0").symlink_to(path.parent / "block")


def _cut(name: str, size: int) -> Callable[[Path], Any]:
    def done(path: Path) -> None:
        (file,) = path.glob(name)
        file.write_bytes(file.read_bytes()[:size])

    return done


UNSAFE: Table = {
    "a path to a parent": {"two up": renamed("../../outside"), "within": renamed("a/../b")},
    "an absolute path": {"a folder": renamed("/etc")},
    "a NUL in a path": {"inside": renamed("a\0b")},
    "a link that leads out": {"the folder of an array": _linked_folder, "a block": _linked_block},
}

LIES: Table = {
    "a file that is missing": {
        "of a name that is not there": renamed("not.there"),
        "the metadata": lambda path: (path / "_METADATA").unlink(),
        "a block": lambda path: (path / "params.dense.kernel" / "0.0").unlink(),
        "what is said of an array": lambda path: (path / "params.dense.kernel" / ".zarray").unlink(),
    },
    "one place under two names": {"the kernel": renamed("params.dense.kernel")},
    "a name with an empty segment": {"an empty name": renamed("")},
    "a name of another type": {"a number": renamed(7)},
    "a list of another type": {"the tree": said(tree_metadata=[1])},
    "a row of another type": {"none": said(tree_metadata={"a": None})},
    "a field that is missing": {"names": said(tree_metadata={"a": {"key_metadata": [], "value_metadata": {}}})},
    "a flag that cannot be": {"a text": said(use_ocdbt="yes")},
    "another layout than said": {"OCDBT": said(use_ocdbt=True), "zarr 3": said(use_zarr3=True)},
    "a top level of another type": {"a list": _metadata(lambda body: [1, 2])},
    "text that is no JSON": {"nothing": text(""), "a brace": text("{")},
    "nesting without end": {"brackets": text("[" * 200_000)},
    "NaN or infinity for a number": {"the tree": text('{"tree_metadata": NaN}')},
    "a field twice": {"any": text('{"a": 1, "a": 2}')},
    "gigabytes declared in a small file": {
        "the shape": spec(shape=[1 << 20, 1 << 20]),
        "a block": spec(chunks=[1 << 16, 1 << 16]),
    },
    "a size that is negative": {"of the shape": spec(shape=[-1, 4])},
    "a dtype that is none": {"objects": spec(dtype="|O")},
    "values cut short": {f"a block at {n}": _cut("params.dense.kernel/0.0", n) for n in (0, 5, -1)},
    "text that is cut": {f"the metadata at {n}": _cut("_METADATA", n) for n in (1, 100, -2)},
}

FAULTS = (
    *(Fault(READER, k, n, lambda f, m=m: written(f, m), unsafe=True) for k, n, m in rows(UNSAFE)),
    *(Fault(READER, k, n, lambda f, m=m: written(f, m)) for k, n, m in rows(LIES)),
    *(
        Fault(
            READER, "more than a limit", f"{limit}={value}", lambda f: written(f, lambda path: None), "limit",
            options=(("limits", {limit: value}),),
        )
        for limit, value in {
            "entries": 2, "name_chars": 5, "rank": 1, "header_bytes": 10, "archive_members": 2,
        }.items()
    ),
)  # fmt: skip
