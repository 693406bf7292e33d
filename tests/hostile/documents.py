"""Our own metadata, forged: a document that contradicts itself or the arrays, in a file or beside one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hostile.corpus import Fault, Table, rows
from hostile.safetensors_files import row, written

READER = "our metadata"


def document(**parts: Any) -> dict[str, Any]:
    """A document with just these parts."""
    return {"schema": "stateregistry.file/1", **parts}


def forged(folder: Path, body: Any) -> Path:
    """A file of one array with that document."""
    told = body if isinstance(body, str) else json.dumps(body)
    return written(folder, {"__metadata__": {"stateregistry": told}, "w": row()}, bytes(16))


#: The document, what the refusal says.
DOCUMENTS: Table = {
    "metadata of ours that is no JSON": {
        "not json": ("{", "not JSON"),
        "not an object": ("[1]", "expected an object"),
        "nan": ('{"schema":NaN}', "not JSON"),
    },
    "metadata of ours that nests without end": {
        "nests deep": ('{"a":' + "[" * 100_000, "not JSON"),
    },
    "metadata of ours of another schema": {
        "another schema": ({"schema": "stateregistry.file/9"}, "update stateregistry"),
        "no schema": ({}, "update stateregistry"),
    },
    "metadata of ours with a name twice": {
        "a name twice": ('{"schema":"stateregistry.file/1","schema":"stateregistry.file/1"}', "twice"),
    },
    "metadata of ours of another type": {
        "entries that are a list": (document(entries=[]), "wrong type: entries"),
        "an entry that is a text": (document(entries={"w": "parameter"}), "wrong type: entries"),
        "names that are numbers": (document(names={"w": 1}), "wrong type: names"),
        "aliases that are lists": (document(aliases={"x": ["w"]}), "wrong type: aliases"),
        "a dialect that is a list": (document(dialect=["torch"]), "wrong type: dialect"),
        "an order of texts": (document(order=["w"]), "wrong type: order"),
        "an order of true": (document(order=[True]), "wrong type: order"),
    },
    "an order that is none": {
        "an order that is none": (document(order=[1]), "native order"),
        "an order that is too long": (document(order=[0, 0]), "native order"),
    },
    "a kind that is none": {
        "a kind that is none": (document(entries={"w": {"kind": "weight"}}), "metadata of 'w'"),
        "a kind that is missing": (document(entries={"w": {}}), "metadata of 'w'"),
        "a kind that is a list": (document(entries={"w": {"kind": ["parameter"]}}), "metadata of 'w'"),
    },
    "a flag that cannot be": {
        "a buffer that is trainable": (
            document(entries={"w": {"kind": "buffer", "trainable": True}}),
            "metadata of 'w'",
        ),
        "a flag that is a number": (document(entries={"w": {"kind": "buffer", "rng": 1}}), "metadata of 'w'"),
        "a tag that is a number": (document(entries={"w": {"kind": "buffer", "tag": 1}}), "metadata of 'w'"),
    },
    "metadata of ours for what is not stored": {
        "an entry that is not stored": (
            document(entries={"w": {"kind": "buffer"}, "x": {"kind": "buffer"}}),
            "not stored: x",
        ),
        "a name that is not stored": (document(names={"w": "nowhere"}), "not there: w"),
    },
    "one stored name for two keys": {
        "one name for two keys": (document(names={"a": "w", "b": "w"}), "two keys"),
    },
    "a key that is none": {
        "an illegal key": (document(names={"a//b": "w"}), "illegal key"),
    },
    "an alias that cannot be": {
        "an alias of nothing": (document(aliases={"x": "nowhere"}), "cannot be"),
        "an alias that is an entry": (document(aliases={"w": "w"}), "cannot be"),
        "an alias less than its key": (document(aliases={"a": "w"}), "cannot be"),
        "an alias of an alias": (document(aliases={"x": "w", "y": "x"}), "cannot be"),
        "an alias with an illegal key": (document(aliases={"x~2": "w"}), "illegal key"),
        "an alias inside an entry": (document(aliases={"w/x": "w"}), "tree"),
    },
}


def _beside(folder: Path, change: Any) -> Path:
    """A msgpack file and a sidecar in which something was changed."""
    import numpy as np

    import stateregistry as sr

    path = sr.save({"w": np.arange(3, dtype=np.float32), "v": np.ones(2)}, folder / "m.msgpack")
    side = folder / "m.msgpack.stateregistry.json"
    body = json.loads(side.read_text())
    made = change(body)
    side.write_text(made if isinstance(made, str) else json.dumps(body))
    return path


def _of_another_file(folder: Path) -> Path:
    path = _beside(folder, lambda body: None)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    return path


#: What is done to the sidecar.
SIDECARS: Table = {
    "a sidecar that is no JSON": {
        "cut": lambda body: json.dumps(body)[:-5],
        "empty": lambda body: "",
        "nests deep": lambda body: "[" * 100_000,
    },
    "a sidecar of another schema": {"a later one": lambda body: body.update(schema="stateregistry.file/9")},
    "a sidecar of another type": {"entries are a list": lambda body: body.update(entries=["w"])},
    "a sidecar for what is not stored": {
        "an entry": lambda body: body["entries"].update({"zz": {"kind": "parameter", "trainable": True}}),
        "an alias": lambda body: body.update(aliases={"z": "nowhere"}),
    },
}

TRAINED = {"kind": "parameter", "trainable": True}

FAULTS = (
    *(Fault(READER, k, n, lambda f, m=m: forged(f, m[0]), m[1]) for k, n, m in rows(DOCUMENTS)),
    Fault(
        READER, "a flag that cannot be", "integers that are trained",
        lambda f: written(
            f,
            {
                "__metadata__": {"stateregistry": json.dumps(document(entries={"w": TRAINED}))},
                "w": row("I32"),
            },
            bytes(16),
        ),
        "cannot be trainable",
    ),
    Fault(
        READER, "metadata above the limit", "1,000 characters",
        lambda f: forged(f, document(dialect="x" * 1000)), "document_bytes=500",
        options=(("limits", {"document_bytes": 500}),),
    ),
    *(Fault(READER, k, n, lambda f, m=m: _beside(f, m)) for k, n, m in rows(SIDECARS)),
    Fault(READER, "a sidecar of another file", "a flipped bit in the file", _of_another_file),
)  # fmt: skip
