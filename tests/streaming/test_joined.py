"""A value whose parts several processes have written is read in windows, never put together whole, and gives the same bytes."""

from __future__ import annotations

import itertools
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorStorageMetadata

import stateregistry as sr
from stateregistry.streaming import buffers
from stateregistry.streaming.origins import Joined, Stored
from stateregistry.streaming.pieces import pieces


def split(rng, shape, cuts):
    """Boxes that are all of an array: each cut divides one box along one axis."""
    boxes = [((0,) * len(shape), tuple(shape))]
    for _ in range(cuts):
        number = int(rng.integers(len(boxes)))
        offsets, sizes = boxes.pop(number)
        axis = int(rng.integers(len(shape)))
        if sizes[axis] < 2:
            boxes.append((offsets, sizes))
            continue
        at = int(rng.integers(1, sizes[axis]))
        for begin, size in ((0, at), (at, sizes[axis] - at)):
            boxes.append(
                (
                    (*offsets[:axis], offsets[axis] + begin, *offsets[axis + 1 :]),
                    (*sizes[:axis], size, *sizes[axis + 1 :]),
                )
            )
    return boxes


def joined(folder, array, boxes):
    """The array as parts, each in a file of its own behind some other bytes."""
    parts = []
    for number, (offsets, sizes) in enumerate(boxes):
        window = tuple(slice(at, at + size) for at, size in zip(offsets, sizes, strict=True))
        raw = np.ascontiguousarray(array[window]).tobytes()
        path = folder / f"part{number}"
        path.write_bytes(b"x" * number + raw)
        status = path.stat()
        parts.append(Stored(str(path), status.st_size, status.st_mtime_ns, ((number, len(raw)),), array.dtype.name))
    offsets, sizes = zip(*boxes, strict=True)
    return Joined(array.shape, array.dtype.name, tuple(parts), offsets, sizes)


@given(st.data())
def test_any_stretch_of_any_boxes_is_found(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("joined")
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    array = rng.integers(0, 2**31, shape, np.int32)
    origin = joined(folder, array, split(rng, shape, data.draw(st.integers(0, 8))))
    raw = array.tobytes()
    start = data.draw(st.integers(0, len(raw) - 1))
    count = data.draw(st.integers(1, len(raw) - start))
    found = bytearray(count)
    reached = 0
    for path, offset, first, size in origin.stretches(start, count):
        assert first == reached
        found[first : first + size] = Path(path).read_bytes()[offset : offset + size]
        reached += size
    assert reached == count
    assert bytes(found) == raw[start : start + count]


def test_pieces_of_a_joined_value_are_those_of_the_whole(tmp_path, monkeypatch):
    from stateregistry.streaming import pieces as module

    monkeypatch.setattr(module, "COUNT", 7)
    array = np.arange(60, dtype=np.int64).reshape(6, 10)
    origin = joined(tmp_path, array, [((0, 0), (6, 4)), ((0, 4), (2, 6)), ((2, 4), (4, 6))])
    assert b"".join(piece.tobytes() for piece in pieces(origin)) == array.tobytes()


def forged(path, whole, cuts):
    """A checkpoint of one tensor in parts, as processes on a mesh would have written it."""
    parts = {}
    for number, (offsets, sizes) in enumerate(cuts):
        window = tuple(slice(at, at + size) for at, size in zip(offsets, sizes, strict=True))
        parts[f"p{number}"] = whole[window].clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(parts, checkpoint_id=path, no_dist=True)
    metadata = pickle.loads((path / ".metadata").read_bytes())
    first = metadata.state_dict_metadata["p0"]
    chunks = [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in cuts]
    places = {index.fqn: info for index, info in metadata.storage_data.items()}
    metadata.storage_data = {
        MetadataIndex("layer.weight", chunk.offsets): places[f"p{n}"] for n, chunk in enumerate(chunks)
    }
    metadata.state_dict_metadata = {"layer.weight": TensorStorageMetadata(first.properties, whole.shape, chunks)}
    metadata.planner_data = {"layer.weight": ("layer.weight",)}
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    return path


GRIDS = {
    "rows": [((r, 0), (16, 40)) for r in range(0, 64, 16)],
    "columns": [((0, c), (64, 10)) for c in range(0, 40, 10)],
    "mesh": [((r, c), (32, 20)) for r, c in itertools.product((0, 32), (0, 20))],
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sharded_checkpoint_goes_through_the_engine_in_windows(tmp_path, monkeypatch, grid, dtype):
    whole = torch.randn(64, 40).to(dtype)
    path = forged(tmp_path / "ckpt", whole, GRIDS[grid])
    monkeypatch.setattr(buffers, "room_for", lambda workers: 1 << 10)
    with sr.open(path) as found:
        assert isinstance(found.origin("layer/weight"), Joined)
        assert found.place("layer/weight") is None

        def refused(item):
            pytest.fail("the whole value was put together")

        monkeypatch.setattr(found, "_value", refused)
        sr.save(found, tmp_path / "plain.safetensors")
        rules = {"layer": [{"path": "layer", "kind": "linear"}]}
        plan = sr.plan(found, to="flax-linen", rules=rules, allow=("assumption", "choice"))
        done = plan.execute(found, out=tmp_path / "turned.safetensors", workers=2)
    expected = whole.view(torch.int32 if dtype == torch.float32 else torch.int16).numpy()
    with sr.open(tmp_path / "plain.safetensors", verify=True) as found:
        assert found.read("layer/weight").tobytes() == expected.tobytes()
    with sr.open(done.target, verify=True) as found:
        (key,) = found
        assert found.read(key).tobytes() == np.ascontiguousarray(expected.T).tobytes()


def test_a_part_that_changed_meanwhile_is_refused(tmp_path):
    path = forged(tmp_path / "ckpt", torch.randn(64, 40), GRIDS["rows"])
    with sr.open(path) as found:
        origin = found.origin("layer/weight")
        (file,) = {part.path for part in origin.parts}
        os.truncate(file, 2000)
        with pytest.raises(sr.errors.FileFormatError):
            list(pieces(origin))
