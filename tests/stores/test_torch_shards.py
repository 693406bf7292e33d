"""Sharded torch checkpoints: one state over several files, and an index that may not lead anywhere else."""

from __future__ import annotations

import json
import os

import pytest
import torch

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import Kind
from stateregistry.stores.limits import Limits
from stateregistry_torch import store

INDEX = "pytorch_model.bin.index.json"
ONE, TWO = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"


def shards(folder, states, *, index=None, name=INDEX, legacy=()):
    """Shards by name of file, and their index; `index` stands instead of the weight_map."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, state in states.items():
        torch.save(state, folder / file, _use_new_zipfile_serialization=file not in legacy)
    weights = {key: file for file, state in states.items() for key in state} if index is None else index
    text = weights if isinstance(weights, str) else json.dumps({"metadata": {"total_size": 1}, "weight_map": weights})
    (folder / name).write_text(text)
    return folder / name


def states():
    torch.manual_seed(2)
    tied = torch.randn(4, 4)
    one = {"a.weight": torch.randn(5, 5), "a.bias": torch.randn(5).bfloat16(), "emb.weight": tied, "head.weight": tied}
    return {ONE: one, TWO: {"b.weight": torch.randn(5, 5).t(), "b.steps": torch.tensor(7)}}


@pytest.mark.parametrize("legacy", [(), (ONE, TWO), (TWO,)], ids=["zip", "legacy", "mixed"])
@pytest.mark.parametrize("how", ["index", "directory"])
def test_every_value_comes_back_bit_for_bit(tmp_path, how, legacy):
    made = states()
    index = shards(tmp_path / "m", made, legacy=legacy)
    with sr.open(index if how == "index" else index.parent) as found:
        whole = {key: value for state in made.values() for key, value in state.items()}
        assert {*found, *found.aliases} == {key.replace(".", "/") for key in whole}
        assert found.aliases == {"head/weight": "emb/weight"}
        assert found.dialect == "torch"
        for name, value in whole.items():
            key = name.replace(".", "/")
            expected = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            assert found.read(key).tobytes() == expected
            assert found.view(key).tobytes() == expected
        assert {path.name for path in found.files} == {ONE, TWO, INDEX}


def test_a_conversion_from_shards_is_bit_for_bit(tmp_path):
    made = states()
    with sr.open(shards(tmp_path / "m", made)) as found:
        sr.save(found, tmp_path / "one.safetensors")
        with sr.open(tmp_path / "one.safetensors", verify=True) as again:
            assert dict(again) == dict(found)
            assert all(again.read(key).tobytes() == found.read(key).tobytes() for key in found)


def test_kinds_are_inferred_over_all_shards(tmp_path):
    made = {
        ONE: {"bn.mean": torch.ones(3), "sn.weight_u": torch.ones(3)},
        TWO: {"bn.var": torch.ones(3), "sn.weight_orig": torch.ones(3)},
    }
    with sr.open(shards(tmp_path / "m", made)) as found:
        kinds = {key: entry.kind for key, entry in found.items()}
    assert {key for key, kind in kinds.items() if kind is Kind.BUFFER} == {"bn/mean", "sn/weight_u", "bn/var"}
    assert all(entry.inferred for entry in found.values())


def test_a_parameter_that_a_shard_declares_stays_one(tmp_path):
    made = {ONE: {"p": torch.nn.Parameter(torch.ones(2), requires_grad=False)}, TWO: {"running_mean": torch.ones(2)}}
    with sr.open(shards(tmp_path / "m", made)) as found:
        assert not found["p"].inferred
        assert not found["p"].trainable
        assert found["running_mean"].kind is Kind.BUFFER


def test_a_directory_with_one_file_is_that_file_and_safetensors_come_first(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "training_args.bin").write_bytes(b"anything")
    with sr.open(tmp_path) as found:
        assert found.read("w").tolist() == [1, 1]
    sr.save({"w": torch.zeros(2).numpy(), "v": torch.zeros(2).numpy()}, tmp_path / "m.safetensors", shard_bytes=8)
    with sr.open(tmp_path) as found:
        assert found.read("w").tolist() == [0, 0]


def test_two_indexes_in_a_directory_are_no_checkpoint(tmp_path):
    shards(tmp_path, states())
    shards(tmp_path, states(), name="other.bin.index.json")
    with pytest.raises(errors.FileAccessError, match="no store knows"):
        sr.open(tmp_path)


def test_a_link_that_leads_out_is_refused_and_those_of_the_cache_are_not(tmp_path):
    made = states()
    outside = shards(tmp_path / "outside", made)
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / INDEX).write_text(outside.read_text())
    for file in made:
        (inside / file).symlink_to(tmp_path / "outside" / file)
    with pytest.raises(errors.UnsafeFileError, match="leads out"):
        sr.open(inside / INDEX)
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0f", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate((*made, INDEX)):
        (tmp_path / "outside" / file).rename(blobs / str(number))
        (snapshot / file).symlink_to(f"../../blobs/{number}")
    with sr.open(snapshot / INDEX) as found:
        assert found.read("b/weight").tobytes() == made[TWO]["b.weight"].contiguous().numpy().tobytes()
    with sr.open(snapshot) as found:
        assert len(found) == 5
    (snapshot / ONE).unlink()
    (snapshot / ONE).symlink_to("/etc/hostname")
    with pytest.raises(errors.UnsafeFileError, match="leads out"):
        sr.open(snapshot)


def test_a_shard_that_fails_leaves_no_handle_behind(tmp_path):
    path = shards(tmp_path / "m", states())
    (tmp_path / "m" / TWO).write_bytes((tmp_path / "m" / TWO).read_bytes()[:-100])
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(errors.FileFormatError):
        sr.open(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_asked_of_shards_and_cannot_be_is_refused(tmp_path):
    path = shards(tmp_path / "m", states())
    with pytest.raises(errors.UnsupportedError, match="holds one state"):
        sr.open(f"{path}::model")
    with pytest.raises(errors.FileFormatError, match="entries"):
        sr.open(path, limits=Limits(entries=3))
    with pytest.raises(errors.UnsupportedError, match="index of shards"):
        sr.save({"w": torch.ones(2).numpy()}, tmp_path / INDEX)
    assert not (tmp_path / INDEX).exists()
    with pytest.raises(errors.FileFormatError, match="digests"):
        sr.open(path, verify=True)


def test_an_index_is_known_by_its_content(tmp_path):
    path = shards(tmp_path / "m", states(), name="renamed.json")
    assert store.sniff(path, path.read_bytes()[:4096])
    with sr.open(path, format="torch") as found:
        assert len(found) == 5
    other = shards(tmp_path / "n", {}, index={"w": "model.safetensors"}, name="other.json")
    assert not store.sniff(other, other.read_bytes()[:4096])
    assert not store.sniff(other, b"[1, 2]")
