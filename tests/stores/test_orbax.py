"""Orbax directories: read bit for bit and lazily, written so that Orbax reads them; damage and hostility are told."""

from __future__ import annotations

import logging
import os
import struct
import subprocess
import sys

import numpy as np
import orbax.checkpoint as ocp
import pytest

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import DTYPES, Entry, Kind


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("absl").setLevel(logging.ERROR)


def by_orbax(path, tree, **options):
    """What Orbax writes of a tree of arrays."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
        checkpointer.save(path.absolute(), tree)
    return path


def variables(bits):
    return {
        "params": {"dense": {"kernel": bits("float32", (4, 4)), "bias": bits("bfloat16", (4,))}},
        "batch_stats": {"norm": {"mean": bits("float32", (4,), 1)}},
    }


LAYOUTS = [(True, True), (True, False), (False, True), (False, False)]


# ------------------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize(("ocdbt", "zarr3"), LAYOUTS)
def test_every_layout_of_orbax_is_read_bit_for_bit(tmp_path, bits, ocdbt, zarr3):
    tree = variables(bits)
    path = by_orbax(tmp_path / "ckpt", tree, use_ocdbt=ocdbt, use_zarr3=zarr3)
    with sr.open(path) as ckpt:
        assert dict(ckpt.items()) == {
            "dense/bias": Entry(Kind.PARAMETER, (4,), "bfloat16", trainable=True, tag="params"),
            "dense/kernel": Entry(Kind.PARAMETER, (4, 4), "float32", trainable=True, tag="params"),
            "norm/mean": Entry(Kind.BUFFER, (4,), "float32", tag="batch_stats"),
        }
        assert ckpt.dialect == "flax-linen"
        assert ckpt.read("dense/kernel").tobytes() == tree["params"]["dense"]["kernel"].tobytes()
        assert ckpt.read("dense/bias").tobytes() == tree["params"]["dense"]["bias"].tobytes()
        assert ckpt.view("norm/mean").tobytes() == tree["batch_stats"]["norm"]["mean"].tobytes()
        assert ckpt.stored_names["norm/mean"] == "batch_stats/norm/mean"
        owned = ckpt.read("dense/kernel")
        owned[...] = 0
        assert ckpt.read("dense/kernel").tobytes() != owned.tobytes()


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(), (3, 5)])
def test_every_dtype_goes_there_and_back(tmp_path, bits, specimen, dtype, shape):
    value = bits(dtype, shape)
    sr.save(specimen({"a/b": value}), tmp_path / "x.orbax")
    with sr.open(tmp_path / "x.orbax", verify=True) as ckpt:
        assert ckpt["a/b"].dtype == dtype
        assert ckpt.read("a/b").tobytes() == value.tobytes()
        assert ckpt.read("a/b").shape == shape


def test_zeros_of_either_sign_and_whole_blocks_of_them_come_back(tmp_path, specimen):
    values = {"a": np.zeros((4, 4), np.float32), "b": np.full((4, 4), -0.0, np.float32), "c": np.array(-0.0)}
    sr.save(specimen(values), tmp_path / "x.orbax")
    with sr.open(tmp_path / "x.orbax") as ckpt:
        assert {key: ckpt.read(key).tobytes() for key in ckpt} == {key: v.tobytes() for key, v in values.items()}


def test_opening_and_listing_reads_no_value(tmp_path, bits):
    path = by_orbax(tmp_path / "ckpt", variables(bits), use_ocdbt=False)
    chunk = path / "params.dense.kernel" / "0.0"
    chunk.write_bytes(b"not a block")
    with sr.open(path) as ckpt:
        assert ckpt["dense/kernel"].shape == (4, 4)
        assert ckpt.read("dense/bias").shape == (4,)
        with pytest.raises(errors.FileFormatError, match="dense/kernel"):
            ckpt.read("dense/kernel")


def test_reading_needs_neither_jax_nor_orbax(tmp_path, bits):
    path = by_orbax(tmp_path / "ckpt", variables(bits))
    code = (
        "import sys, stateregistry as sr\n"
        f"with sr.open({str(path)!r}) as ckpt: assert ckpt.read('dense/kernel').shape == (4, 4)\n"
        "assert not {'jax', 'orbax', 'flax', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_tensorstore_the_extra_is_named(tmp_path, bits, monkeypatch):
    path = by_orbax(tmp_path / "ckpt", variables(bits))
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(errors.MissingDependencyError, match=r"stateregistry\[orbax\]"):
        sr.open(path)


def test_what_is_no_array_is_opaque_and_an_optimizer_is_not_looked_into(tmp_path, bits):
    tree = {
        **variables(bits),
        "step": 7,
        "note": "hello",
        "opt_state": [{"mu": bits("float32", (4, 4))}, {}],
        "none": None,
    }
    with sr.open(by_orbax(tmp_path / "ckpt", tree)) as ckpt:
        assert set(ckpt) == {"dense/bias", "dense/kernel", "norm/mean"}
        assert set(ckpt.opaque) == {"step", "note", "opt_state"}
        assert "optimizer" in ckpt.opaque["opt_state"]


def test_bare_names_have_inferred_kinds(tmp_path, bits):
    with sr.open(
        by_orbax(tmp_path / "ckpt", {"bn": {"mean": bits("float32", (3,)), "var": bits("float32", (3,))}})
    ) as ckpt:
        assert ckpt["bn/mean"].kind is Kind.BUFFER
        assert ckpt["bn/mean"].inferred


def test_a_state_of_nnx_has_the_keys_of_its_module(tmp_path):
    from flax import nnx

    module = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((tmp_path / "ckpt").absolute(), nnx.state(module))
    live = sr.of(module)
    with sr.open(tmp_path / "ckpt", like=live) as ckpt:
        assert set(ckpt) == set(live)
        assert {key: ckpt[key].kind for key in ckpt} == {key: live[key].kind for key in live}
        assert all(ckpt.read(key).tobytes() == live.read(key).tobytes() for key in live)


SHARDED = """
import sys, numpy as np, jax, orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
assert len(jax.devices()) == 8
mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
value = np.random.default_rng(5).standard_normal((16, 16)).astype(np.float32)
tree = {"params": {
    "both": jax.device_put(value, NamedSharding(mesh, P("x", "y"))),
    "rows": jax.device_put(value, NamedSharding(mesh, P("x"))),
    "copies": jax.device_put(value, NamedSharding(mesh, P())),
}}
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(sys.argv[1], tree)
"""


def test_how_arrays_were_sharded_does_not_matter(tmp_path):
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    code = [sys.executable, "-W", "ignore", "-c", SHARDED, str(tmp_path / "ckpt")]
    subprocess.run(code, check=True, env=env, timeout=120, stderr=subprocess.DEVNULL)
    value = np.random.default_rng(5).standard_normal((16, 16)).astype(np.float32)
    with sr.open(tmp_path / "ckpt") as ckpt:
        assert set(ckpt) == {"both", "rows", "copies"}
        assert all(ckpt.read(key).tobytes() == value.tobytes() for key in ckpt)


# ------------------------------------------------------------------------------------------------- items, steps, parts


def test_items_of_a_manager_are_opened_by_name(tmp_path, bits):
    tree = variables(bits)
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        args = ocp.args.Composite(
            state=ocp.args.StandardSave({"model": tree, "ema": tree}),
            other=ocp.args.StandardSave({"x": bits("float32", (2, 2))}),
            meta=ocp.args.JsonSave({"a": 1}),
        )
        manager.save(3, args=args)
    step = tmp_path / "run" / "3"
    with pytest.raises(errors.FileFormatError, match="'other', 'state'"):
        sr.open(step)
    with pytest.raises(errors.FileFormatError, match="no item 'nothing'"):
        sr.open(f"{step}::nothing")
    with pytest.raises(errors.FileFormatError, match="the checkpoints '3'"):
        sr.open(tmp_path / "run")
    with sr.open(f"{step}::other") as ckpt:
        assert set(ckpt) == {"x"}
    with sr.open(f"{step}::state.model") as ckpt:
        assert set(ckpt) == {"dense/bias", "dense/kernel", "norm/mean"}
        assert ckpt.read("dense/kernel").tobytes() == tree["params"]["dense"]["kernel"].tobytes()
    with pytest.raises(errors.FileFormatError, match="no part 'none'"):
        sr.open(f"{step}::state.none")


def test_the_only_tree_among_the_items_is_opened(tmp_path, bits):
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        manager.save(0, args=ocp.args.StandardSave(variables(bits)))
    with sr.open(tmp_path / "run" / "0") as ckpt:
        assert "dense/kernel" in ckpt


def test_a_directory_that_has_a_checkpoint_among_other_things_is_none(tmp_path, bits):
    """Which of all that is in it would be meant, nobody said."""
    by_orbax(tmp_path / "work" / "ckpt", variables(bits))
    (tmp_path / "work" / "train.py").write_text("print()")
    with pytest.raises(errors.FileAccessError, match="no store knows"):
        sr.open(tmp_path / "work")
    (tmp_path / "work" / "train.py").unlink()
    (tmp_path / "work" / "data").mkdir()
    with pytest.raises(errors.FileFormatError, match="holds the items 'ckpt'"):
        sr.open(tmp_path / "work")
    with sr.open(f"{tmp_path / 'work'}::ckpt") as ckpt:
        assert "dense/kernel" in ckpt


def test_a_checkpoint_that_was_never_completed_is_refused(tmp_path, bits):
    path = by_orbax(tmp_path / "ckpt", variables(bits))
    path.rename(tmp_path / "ckpt.orbax-checkpoint-tmp")
    with pytest.raises(errors.FileFormatError, match="never completed"):
        sr.open(tmp_path / "ckpt.orbax-checkpoint-tmp")


# ------------------------------------------------------------------------------------------------------------ writing


def test_orbax_restores_what_we_write(tmp_path, bits):
    import jax

    tree = variables(bits)
    sr.save(sr.of(jax.tree.map(jax.numpy.asarray, tree)), tmp_path / "x.orbax")
    with ocp.StandardCheckpointer() as checkpointer:
        bare = checkpointer.restore(tmp_path / "x.orbax")
        told = checkpointer.restore(tmp_path / "x.orbax", jax.tree.map(jax.numpy.zeros_like, tree))
    flat = dict(jax.tree_util.tree_leaves_with_path(tree))
    assert {k: np.asarray(v).tobytes() for k, v in jax.tree_util.tree_leaves_with_path(bare)} == {
        k: v.tobytes() for k, v in flat.items()
    }
    assert {k: np.asarray(v).tobytes() for k, v in jax.tree_util.tree_leaves_with_path(told)} == {
        k: v.tobytes() for k, v in flat.items()
    }


def test_kinds_flags_aliases_order_and_documents_come_back(tmp_path, bits, specimen):
    arrays = {"z/w": bits("float32", (4, 4)), "a/m": bits("float32", (4,)), "b/k": bits("uint32", (2,))}
    entries = {
        "a/m": Entry(Kind.BUFFER, (4,), "float32", tag="mine"),
        "z/w": Entry(Kind.PARAMETER, (4, 4), "float32", trainable=False),
        "b/k": Entry(Kind.BUFFER, (2,), "uint32", rng=True),
    }
    source = specimen(arrays, entries, aliases={"z/x": "z/w"})
    sr.save(source, tmp_path / "x.orbax", extra={"note": {"a": 1}})
    with sr.open(tmp_path / "x.orbax", verify=True) as ckpt:
        assert dict(ckpt.items()) == dict(source.items())
        assert ckpt.aliases == {"z/x": "z/w"}
        assert ckpt.native_order == source.native_order
        assert ckpt.document.extra == {"note": {"a": 1}}
        assert ckpt.dialect == "specimen"
        assert ckpt.read("z/x").tobytes() == arrays["z/w"].tobytes()
        assert ckpt.damaged() == {}


def test_a_copy_of_an_alias_that_differs_is_refused(tmp_path, bits, specimen):
    source = specimen({"a": bits("float32", (4, 4))}, aliases={"b": "a"})
    sr.save(source, tmp_path / "x.orbax")
    document = (tmp_path / "x.orbax" / "stateregistry.json").read_bytes()
    by_orbax(tmp_path / "y", {"params": {"a": bits("float32", (4, 4)), "b": bits("float32", (4, 4), 1)}})
    (tmp_path / "y" / "stateregistry.json").write_bytes(document)
    with pytest.raises(errors.FileFormatError, match="contradicts"):
        sr.open(tmp_path / "y")


def test_what_orbax_cannot_hold_is_refused_before_anything_is_written(tmp_path, specimen, bits):
    cases = {
        "without elements": {"a": np.zeros((0, 3), np.float32)},
        "under one name": {"a/b": bits("float32", (2,)), "a.b": bits("float32", (2,))},
        "a path": {"a/x~1y": bits("float32", (2,))},
    }
    for message, arrays in cases.items():
        with pytest.raises(errors.UnsupportedError, match=message):
            sr.save(specimen(arrays), tmp_path / "x.orbax")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing(tmp_path, specimen, bits, monkeypatch):
    monkeypatch.setattr("stateregistry.stores.folder.frame_of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sr.save(specimen({"a": bits("float32", (4,))}), tmp_path / "x.orbax")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_exists_is_not_replaced_unasked(tmp_path, specimen, bits):
    sr.save(specimen({"a": bits("float32", (4,))}), tmp_path / "x.orbax")
    with pytest.raises((errors.TargetExistsError, errors.FileAccessError)):
        sr.save(specimen({"a": bits("float32", (4,), 1)}), tmp_path / "x.orbax")


def test_a_plan_to_orbax_and_back_is_exact(tmp_path, bits):
    import jax

    tree = jax.tree.map(jax.numpy.asarray, variables(bits))
    done = sr.convert(sr.of(tree), out=tmp_path / "x.orbax", to="flax-linen")
    written = {path for path in (tmp_path / "x.orbax").rglob("*") if path.is_file()}
    assert {tmp_path / "x.orbax" / name for name in done.receipt.files} == written
    sr.convert(tmp_path / "x.orbax", out=tmp_path / "y.safetensors", to="flax-linen")
    with sr.open(tmp_path / "y.safetensors") as ckpt:
        assert ckpt.read("dense/kernel").tobytes() == np.asarray(tree["params"]["dense"]["kernel"]).tobytes()


# ------------------------------------------------------------------------------------------------- damage and hostility


def test_each_flipped_bit_of_what_we_wrote_is_found(tmp_path, specimen, bits):
    sr.save(specimen({"a": bits("float32", (64, 64)), "b": bits("int8", (5,))}), tmp_path / "x.orbax")
    files = sorted(path for path in (tmp_path / "x.orbax").rglob("*") if path.is_file())
    rng = np.random.default_rng(7)
    for number in range(120):
        file = files[number % len(files)]
        good = file.read_bytes()
        if not good:
            continue
        at, bit = int(rng.integers(len(good))), 1 << int(rng.integers(8))
        file.write_bytes(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
        try:
            with sr.open(tmp_path / "x.orbax") as ckpt:
                assert "" in ckpt.damaged(), (file, at)
            with pytest.raises(errors.StateError):
                sr.open(tmp_path / "x.orbax", verify=True)
        except errors.StateError:
            pass  # it did not open: found
        finally:
            file.write_bytes(good)
    with sr.open(tmp_path / "x.orbax", verify=True) as ckpt:
        assert ckpt.damaged() == {}


@pytest.mark.parametrize("ocdbt", [True, False])
def test_a_file_that_is_gone_is_an_error_and_no_zeros(tmp_path, bits, ocdbt):
    path = by_orbax(tmp_path / "ckpt", variables(bits), use_ocdbt=ocdbt)
    with sr.open(path) as ckpt:
        whole = {key: ckpt.read(key).tobytes() for key in ckpt}
    refused = []
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        good = file.read_bytes()
        file.unlink()
        try:
            with sr.open(path) as ckpt:
                found = {key: ckpt.read(key).tobytes() for key in ckpt}
        except errors.StateError:
            refused.append(file.name)
        else:
            assert found == whole, file  # Orbax keeps files that no value needs
        file.write_bytes(good)
    assert len(refused) >= 3
    assert "_METADATA" in refused


def test_a_checkpoint_that_changes_while_it_is_open_is_an_error(tmp_path, bits):
    path = by_orbax(tmp_path / "ckpt", variables(bits), use_ocdbt=False)
    with sr.open(path) as ckpt:
        file = path / "params.dense.kernel" / "0.0"
        os.utime(file, ns=(1, 1))
        with pytest.raises(errors.FileFormatError, match="has changed"):
            ckpt.read("dense/kernel")
    with pytest.raises(errors.UnsupportedError, match="closed"):
        ckpt.read("dense/bias")


def zeros_in_zstd(mebibytes):
    """A frame of zstd of a thirty-thousandth of what it holds: runs of one byte."""
    runs = mebibytes * 8
    head = struct.pack("<I", 0xFD2FB528) + bytes([0x00, 0x58])
    return head + b"".join(struct.pack("<I", 131_072 << 3 | 2 | (n == runs - 1))[:3] + b"\0" for n in range(runs))


def crc32c(raw):
    """The checksum of an index of shards."""
    state = 0xFFFFFFFF
    for byte in raw:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


@pytest.mark.parametrize("zarr3", [False, True])
def test_a_block_that_inflates_without_end_is_refused_at_the_size_that_it_should_have(tmp_path, bits, zarr3):
    path = by_orbax(tmp_path / "ckpt", {"w": bits("float32", (64, 64))}, use_ocdbt=False, use_zarr3=zarr3)
    (block,) = [file for file in (path / "w").rglob("0*") if file.is_file()] if zarr3 else [path / "w" / "0.0"]
    bomb = zeros_in_zstd(2000)
    if zarr3:
        index = struct.pack("<QQ", 0, len(bomb))
        bomb += index + struct.pack("<I", crc32c(index))
    block.write_bytes(bomb)
    code = (
        "import resource, sys, tensorstore, stateregistry as sr\nfrom stateregistry import errors\n"
        "ckpt = sr.open(sys.argv[1])\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    ckpt.read(next(iter(ckpt)))\nexcept errors.FileFormatError as error:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 64 * 1024, "KiB"
