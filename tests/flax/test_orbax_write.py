"""Orbax directories whose large values are written by TensorStore in blocks: Orbax restores them, and little is in memory."""

from __future__ import annotations

import logging
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore

import stateregistry as sr
from stateregistry.entry import DTYPES, Entry, Kind, numpy_dtype
from stateregistry.streaming import buffers
from stateregistry.streaming.digests import of_array
from stateregistry_flax import orbax_write


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("absl").setLevel(logging.ERROR)


@pytest.fixture
def blocks(monkeypatch):
    """Every value is large, and is written in blocks of a few bytes, a few at a time."""
    monkeypatch.setattr(orbax_write, "_SMALL", 0)
    monkeypatch.setattr(orbax_write, "_BLOCK", 64)
    monkeypatch.setattr(orbax_write, "_UNDER_WAY", 200)


def bits(dtype, shape, seed=0):
    raw = np.random.default_rng(seed).integers(0, 256, (*shape, DTYPES[dtype]), dtype=np.uint8)
    raw &= 1 if dtype == "bool" else 255
    return raw.view(numpy_dtype(dtype)).reshape(shape)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(), (5,), (7, 11), (2, 3, 50)])
@pytest.mark.usefixtures("blocks")
def test_every_dtype_in_blocks_comes_back_bit_for_bit(tmp_path, dtype, shape):
    value = bits(dtype, shape)
    sr.save({"params/a": value, "params/b": bits(dtype, shape, 1)}, tmp_path / "x.orbax")
    with sr.open(tmp_path / "x.orbax", verify=True) as ckpt:
        assert ckpt.damaged() == {}
        assert {entry.dtype for entry in ckpt.values()} == {dtype}
        found = [ckpt.read(key) for key in ckpt]
        assert [one.tobytes() for one in found] == [value.tobytes(), bits(dtype, shape, 1).tobytes()]
        assert found[0].shape == shape


@pytest.mark.usefixtures("blocks")
def test_orbax_restores_what_was_written_in_blocks(tmp_path):
    tree = {
        "params": {"dense": {"kernel": bits("uint32", (40, 30)), "bias": bits("int16", (30,))}},
        "batch_stats": {"norm": {"mean": np.zeros(9, np.float32)}},
    }
    sr.save(sr.of(jax.tree.map(jax.numpy.asarray, tree)), tmp_path / "x.orbax")
    with ocp.StandardCheckpointer() as checkpointer:
        bare = checkpointer.restore(tmp_path / "x.orbax")
        told = checkpointer.restore(tmp_path / "x.orbax", jax.tree.map(jax.numpy.zeros_like, tree))
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        plain = checkpointer.restore(tmp_path / "x.orbax")
        described = checkpointer.metadata(tmp_path / "x.orbax")
    assert described.item_metadata["params"]["dense"]["kernel"].shape == (40, 30)
    for found in (bare, told, plain):
        assert jax.tree.structure(found) == jax.tree.structure(tree)
        for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
            assert np.asarray(one).dtype == two.dtype
            assert np.asarray(one).tobytes() == two.tobytes()


def test_small_values_are_left_to_orbax_and_all_of_them_together_are_bounded(monkeypatch):
    monkeypatch.setattr(orbax_write, "_SMALL", 100)
    monkeypatch.setattr(orbax_write, "_SMALL_IN_ALL", 250)
    sizes = {"a": 100, "b": 101, "c": 100, "d": 60, "e": 50}
    source = {key: Entry(Kind.BUFFER, (n,), "uint8") for key, n in sizes.items()}
    assert orbax_write._large(source) == {"b", "d"}


@pytest.mark.parametrize("shape", [(10_000, 300), (300, 10_000), (3_000_000,), (10, 300, 1000)])
def test_a_block_is_bounded_whatever_the_shape(shape):
    made = orbax_write._block(shape, 8)
    assert orbax_write._BLOCK // 4 < np.prod(made) * 8 <= orbax_write._BLOCK
    assert all(1 <= n <= whole for n, whole in zip(made, shape, strict=True))
    assert orbax_write._block((3, 4), 8) == (3, 4)


@pytest.mark.parametrize("how", ["a plan", "a file"])
def test_no_value_is_in_memory_whole(tmp_path, monkeypatch, how):
    """A matrix of 48 MB and three of 4 MB, transposed or as they are in a file."""
    monkeypatch.setattr(orbax_write, "_BLOCK", 1 << 18)
    monkeypatch.setattr(orbax_write, "_UNDER_WAY", 1 << 20)
    shapes = {"l0": (12_000, 1000), **{f"l{n}": (1000, 1000) for n in range(1, 4)}}
    path = sr.save({f"{n}/weight": bits("float32", shape) for n, shape in shapes.items()}, tmp_path / "in.safetensors")
    rules = {"layer": [{"path": name, "kind": "linear"} for name in shapes]}
    plan = sr.plan(path, to="flax-linen", rules=rules, allow=("assumption", "choice"))
    monkeypatch.setattr(buffers, "memory", buffers.Memory())
    tracemalloc.start()
    try:
        if how == "a plan":
            done = plan.execute(path, out=tmp_path / "x.orbax")
        else:
            with sr.open(path) as source:
                sr.save(source, tmp_path / "x.orbax")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12_000_000
    assert buffers.memory.most <= buffers.LARGEST
    with sr.open(path) as before, sr.open(tmp_path / "x.orbax", verify=True) as after:
        assert after.damaged() == {}
        for name in shapes:
            one = before.view(f"{name}/weight").view(np.uint32)
            if how == "a plan":
                (key,) = (key for key in after if name in key)
                assert after.read(key).view(np.uint32).tobytes() == np.ascontiguousarray(one.T).tobytes()
                assert done.receipt.digests[key] == of_array(after.view(key))
            else:
                assert after.read(f"{name}/weight").tobytes() == one.tobytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.safetensors", "x.orbax"]


@pytest.mark.usefixtures("blocks")
def test_a_value_that_is_computed_is_written_as_the_plan_says(tmp_path):
    """A cast, a fill and a flipped vector do not lie in memory as they belong into the file."""
    rng = np.random.default_rng(3)
    state = {
        "conv.weight": rng.standard_normal((5, 6, 7)).astype(np.float32),
        "conv.bias": rng.standard_normal(6).astype(np.float32),
    }
    rules = {"layer": [{"path": "conv", "kind": "conv_transpose"}]}
    source = {name.replace(".", "/"): array for name, array in state.items()}
    kinds = {"to": "flax-linen", "rules": rules, "allow": ("assumption", "choice", "lossy"), "dtype": "bfloat16"}
    path = sr.save(source, tmp_path / "in.safetensors")
    one = sr.convert(path, out=tmp_path / "x.orbax", **kinds)
    two = sr.convert(path, out=tmp_path / "x.safetensors", **kinds)
    assert one.receipt.digests == two.receipt.digests
    with sr.open(one.target, verify=True) as first, sr.open(two.target, verify=True) as second:
        assert {key: first.read(key).tobytes() for key in first} == {key: second.read(key).tobytes() for key in second}
        assert {entry.dtype for entry in first.values()} == {"bfloat16"}


@pytest.mark.usefixtures("blocks")
def test_what_tensorstore_says_becomes_our_error(tmp_path, monkeypatch):
    def full(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: no space left on device")

    monkeypatch.setattr(tensorstore, "open", full)
    with pytest.raises(sr.errors.FileAccessError, match="no space left"):
        sr.save({"params/a": bits("int8", (100,))}, tmp_path / "x.orbax")
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_was_made_and_is_not_written_is_closed(tmp_path, monkeypatch):
    """Writing the first large value fails while the second is made: no file stays open, and nothing lies about."""
    path = sr.save({f"a{n}": bits("float32", (200, 200), n) for n in range(3)}, tmp_path / "in.safetensors")

    def full(*_):
        raise ValueError("RESOURCE_EXHAUSTED: no space left on device")

    monkeypatch.setattr(orbax_write, "_write_blocks", full)
    with sr.open(path) as source:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(3):
            with pytest.raises(sr.errors.FileAccessError, match="no space left"):
                sr.save(source, tmp_path / "x.orbax")
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
    assert [file.name for file in tmp_path.iterdir()] == ["in.safetensors"]
