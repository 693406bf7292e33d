"""A bit that flips in anything that was written is found; executors, shards and formats give the same bytes."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

import stateregistry as sr
from stateregistry import errors

NAMES = {"msgpack": "model.msgpack", "npz": "model.npz", "pt": "model.pt", "dcp": "model.dcp"}
KINDS = ("single", "shards", *NAMES)


def written(folder, kind, values):
    shard_bytes = 150 if kind == "shards" else None
    name = NAMES.get(kind, "model.safetensors")
    return sr.save(values(1), folder / name, shard_bytes=shard_bytes, extra={"residual": {"a": "text"}})


def found_in(path):
    """Whether reading with digests says that something is wrong."""
    try:
        with sr.open(path, verify=True) as file:
            return bool(file.damaged())
    except (errors.StateError, OSError):
        return True


def flips(folder, path, count, seed):
    """Flip single bits anywhere in what was written, one at a time; those that were not found."""
    rng = np.random.default_rng(seed)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    assert all(file.stat().st_size for file in files)
    missed = []
    for _ in range(count):
        # Every file as often as any other: a header or an index is small.
        file = files[rng.integers(len(files))]
        raw = bytearray(file.read_bytes())
        place, bit = int(rng.integers(len(raw))), int(rng.integers(8))
        raw[place] ^= 1 << bit
        good = file.read_bytes()
        file.write_bytes(raw)
        if not found_in(path):
            missed.append((file.name, place, bit))
        file.write_bytes(good)
    assert not found_in(path)
    return missed


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_is_found(room, values, kind):
    assert flips(room, written(room, kind, values), 100, 0) == []


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_flipped_bits_are_found(room, values, record_property, kind):
    assert flips(room, written(room, kind, values), 1000, 1) == []
    record_property("told", "1,000 bits flipped one at a time, 1,000 found")


def test_a_damaged_value_is_refused_when_it_is_read_with_verify(room, values):
    path = written(room, "single", values)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with sr.open(path) as file:
        (key,) = file.damaged()
    with sr.open(path, verify=True) as file:
        for other in set(file) - {key}:
            file.read(other)
        for look in (file.read, file.view):
            with pytest.raises(errors.FileFormatError, match="digest") as caught:
                look(key)
            assert caught.value.keys == (key,)


def test_a_file_without_digests_says_so(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "foreign.safetensors"
    save_file({"w": np.ones(3, np.float32)}, path)
    with pytest.raises(errors.FileFormatError, match="carries no digests"):
        sr.open(path, verify=True)


@pytest.mark.parametrize("kind", ["thread", "process"])
@pytest.mark.parametrize("shard_bytes", [None, 150])
def test_any_executor_writes_the_same_bytes(source, room, tmp_path, kind, shard_bytes):
    plan = sr.plan(source, source)
    plan.execute(source, out=room / "model.safetensors", shard_bytes=shard_bytes, workers=1)
    other = tmp_path / "other"
    other.mkdir()
    told = []
    pool = ThreadPoolExecutor(3) if kind == "thread" else ProcessPoolExecutor(2, mp_context=get_context("forkserver"))
    with pool:
        plan.execute(
            source, out=other / "model.safetensors", shard_bytes=shard_bytes, executor=pool, workers=2,
            progress=lambda done, total: told.append((done, total)),
        )  # fmt: skip
    assert {path.name: path.read_bytes() for path in other.iterdir()} == {
        path.name: path.read_bytes() for path in room.iterdir()
    }
    assert told[-1][0] == told[-1][1] > 0


def test_a_task_that_fails_in_another_process_is_one_error_and_leaves_nothing(source, room):
    plan = sr.plan(source, source)
    with sr.open(source) as here, ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as pool:
        raw = source.read_bytes()
        source.write_bytes(raw)  # the same bytes, another time of change
        with pytest.raises(errors.FileFormatError, match="has changed since it was opened"):
            plan.execute(here, out=room / "model.safetensors", executor=pool)
    assert list(room.iterdir()) == []


@pytest.mark.parametrize("workers", [0, -1, 1.5, True])
def test_workers_are_a_positive_number(source, room, workers):
    with pytest.raises(errors.UnsupportedError, match="workers is a positive number"):
        sr.plan(source, source).execute(source, out=room / "o.safetensors", workers=workers)


# ---------------------------------------------------------------------- shards


def test_shards_are_what_hugging_face_reads(room, values):
    from safetensors.numpy import load_file

    path = written(room, "shards", values)
    assert path.name == "model.safetensors.index.json"
    index = json.loads(path.read_text())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    assert len(files) > 1
    loaded = {name: array for file in files for name, array in load_file(room / file).items()}
    assert {name.replace(".", "/"): array.tobytes() for name, array in loaded.items()} == {
        key: array.tobytes() for key, array in values(1).items()
    }
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in values(1).values())
    for name, file in index["weight_map"].items():
        assert name in load_file(room / file)


def test_shards_without_our_metadata_are_read_by_index_and_by_directory(room):
    from safetensors.numpy import save_file

    arrays = {f"layer.{n}.weight": np.full((2, 2), n, np.float32) for n in range(3)}
    weights = {}
    for n, (name, array) in enumerate(arrays.items()):
        save_file({name: array}, room / f"part{n}.safetensors", metadata={"format": "pt"})
        weights[name] = f"part{n}.safetensors"
    index = room / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    for path in (index, room):
        with sr.open(path) as found:
            assert {key: float(found.read(key)[0, 0]) for key in found} == {f"layer/{n}/weight": n for n in range(3)}
            assert found.dialect == "torch"
            assert len(found.files) == 4


def test_a_link_out_of_the_directory_is_refused_and_the_cache_of_hugging_face_works(tmp_path, values):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    sr.save(values(1), tmp_path / "model.safetensors", shard_bytes=150)
    for number, path in enumerate(sorted(tmp_path.glob("model*"))):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    with sr.open(snapshot / "model.safetensors.index.json") as found:
        assert found.read("steps").tobytes() == values(1)["steps"].tobytes()
    shard = next(snapshot.glob("*-00001-of-*"))
    (tmp_path / "secret.safetensors").write_bytes((blobs / "0").read_bytes())
    shard.unlink()
    shard.symlink_to("../../secret.safetensors")
    with pytest.raises(errors.UnsafeFileError, match="leads out"):
        sr.open(snapshot / "model.safetensors.index.json")


def test_a_directory_in_which_two_could_be_meant_is_not_guessed(room, values):
    written(room, "shards", values)
    with sr.open(room) as found:
        assert len(found) == len(values(1))
    (room / "model.safetensors").write_bytes(next(room.glob("*-00001-of-*")).read_bytes())
    with pytest.raises(errors.FileAccessError, match="no store knows"):
        sr.open(room)


def test_a_missing_shard_is_said_by_its_name(room, values):
    path = written(room, "shards", values)
    next(room.glob("*-00002-of-*")).unlink()
    with pytest.raises(errors.FileMissingError, match="00002-of"):
        sr.open(path)


def test_ties_and_residuals_of_shards_come_back(tmp_path):
    import stateregistry_numpy as sn

    model = sn.Module()
    model.register_parameter("weight", np.arange(6, dtype=np.float32).reshape(2, 3))
    model.register_parameter("other", np.arange(4, dtype=np.float32))
    model.tied = sn.Module()
    model.tied.weight = model.weight
    path = sr.save(model, tmp_path / "m.safetensors", shard_bytes=20, extra={"residual": {"x": 1}})
    assert sr.of(model).aliases == {"weight": "tied/weight"}
    with sr.open(path, verify=True) as found:
        assert found.aliases == sr.of(model).aliases
        assert found.native_order == sr.of(model).native_order
        assert found.document.extra == {"residual": {"x": 1}}
        assert found.damaged() == {}
