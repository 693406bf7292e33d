"""Flax msgpack files: what Flax writes is read, what is written Flax reads, byte for byte."""

from __future__ import annotations

import json
import resource
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx, serialization
from flax.training import train_state

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import DTYPES, Entry, Kind
from stateregistry_flax import msgpack, msgpack_store, msgpack_write
from stateregistry_flax.msgpack_scan import looks_like_it

SIDECAR = ".stateregistry.json"


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x))
        self.sow("intermediates", "seen", x)
        return nn.Dense(3, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)(x)


@pytest.fixture(scope="module")
def variables():
    return Net().init(jax.random.key(0), jnp.ones((1, 4, 4, 2)))


def flax_file(path, tree):
    path.write_bytes(serialization.to_bytes(tree))
    return path


def write(path, source):
    msgpack.write(path, source, extra={}, progress=lambda key, nbytes: None)
    return path


def test_what_flax_writes_is_listed_like_the_variables(tmp_path, variables, same):
    reg = sr.of(variables)
    with sr.open(flax_file(tmp_path / "net.msgpack", variables)) as file:
        assert dict(file) == dict(reg)
        assert [entry.tag for entry in file.values()] == [entry.tag for entry in reg.values()]
        assert file.native_order == reg.native_order
        assert (file.dialect, file.adapter, file.in_place) == ("flax-linen", "flax-msgpack", False)
        assert not any(entry.inferred for entry in file.values())
        assert file.stored_names["BatchNorm_0/mean"] == "batch_stats/BatchNorm_0/mean"
        for key in reg:
            same(file.read(key), reg.read(key))
            same(file.view(key), reg.read(key))
            assert file.read(key).flags.owndata
        assert {(layer.path, layer.kind) for layer in file.layers} == {(layer.path, layer.kind) for layer in reg.layers}
        same(sr.load(reg, file).read("Conv_0/kernel"), reg.read("Conv_0/kernel"))
        with pytest.raises(errors.UnsupportedError):
            file.replace({"Conv_0/bias": np.zeros(4, np.float32)})


def test_what_is_written_is_what_flax_writes(tmp_path, variables):
    path = write(tmp_path / "net.msgpack", sr.of(variables))
    assert path.read_bytes() == serialization.to_bytes(variables)
    restored = serialization.from_bytes(variables, path.read_bytes())
    assert jax.tree.structure(restored) == jax.tree.structure(variables)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), restored, variables)
    )


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 4), (2, 0, 3), (300,), (1,) * 20])
def test_every_dtype_and_shape_is_stored_as_flax_stores_it(tmp_path, dtype, shape, bits, same):
    value = bits(dtype, shape)
    tree = {"params": {"w": np.array(value)}}
    path = write(tmp_path / "x.msgpack", sr.of(tree))
    assert path.read_bytes() == serialization.to_bytes(tree)
    with sr.open(path) as file:
        assert file["w"] == sr.of(tree)["w"]
        same(file.read("w"), value)
        same(file.view("w"), value)


@pytest.mark.parametrize("size", [*range(1, 20), 200, 250, 255, 256, 65500, 65536, 70000])
def test_every_length_of_record_has_its_header(tmp_path, size):
    tree = (
        {"params": {"n" * size: np.arange(size, dtype=np.uint8)}}
        if size < 3000
        else {"params": {"w": np.zeros(size, np.uint8)}}
    )
    path = write(tmp_path / "x.msgpack", sr.of(tree))
    assert path.read_bytes() == serialization.to_bytes(tree)


def test_maps_of_every_length_have_their_header(tmp_path):
    for count in (0, 1, 15, 16, 300, 70000 if sys.flags.optimize else 1000):
        tree = {"params": {f"w{index}": np.zeros(0, np.uint8) for index in range(count)}}
        assert write(tmp_path / "x.msgpack", sr.of(tree)).read_bytes() == serialization.to_bytes(tree)


@pytest.mark.parametrize("shape", [(7, 5), (35,), (4, 4)])
def test_large_arrays_are_cut_as_flax_cuts_them(tmp_path, monkeypatch, shape, bits, same):
    monkeypatch.setattr(msgpack_write, "MAX_CHUNK_BYTES", 40)
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 40)
    value = bits("float32", shape)
    tree = {"params": {"w": np.array(value), "small": np.zeros(10, np.float32)}}
    path = write(tmp_path / "x.msgpack", sr.of(tree))
    assert b"__msgpack_chunked_array__" in path.read_bytes()
    assert path.read_bytes() == serialization.to_bytes(tree)
    with sr.open(path) as file:
        assert list(file) == ["small", "w"]
        same(file.read("w"), value)
        same(file.view("w"), value)


def test_sources_of_any_layout_are_stored_in_order(tmp_path, same):
    for value in (np.arange(12, dtype=">f4").reshape(3, 4), np.arange(12, dtype=np.float32).reshape(4, 3).T):
        tree = {"params": {"w": value}}
        with sr.open(write(tmp_path / "x.msgpack", sr.of(tree))) as file:
            same(file.read("w"), np.array(value, np.float32))


def test_a_saved_model_has_its_document_beside_it(tmp_path, same):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.a = nnx.Linear(4, 4, rngs=rngs)
            self.b = self.a
            self.cache = nnx.Cache(jnp.ones(2))
            self.seen = nnx.Intermediate(jnp.ones(2))
            self.drop = nnx.Dropout(0.5, rngs=rngs)

    reg = sr.of(Model(nnx.Rngs(0))).with_trainable({"a/bias": False})
    path = sr.save(reg, tmp_path / "model.msgpack", extra={"note": {"x": 1}})
    assert (tmp_path / f"model.msgpack{SIDECAR}").exists()
    with sr.open(path) as file:
        assert dict(file) == {key: entry for key, entry in reg.items() if entry.persistent}
        assert file.aliases == {"b/bias": "a/bias", "b/kernel": "a/kernel"}
        assert (file.dialect, file.document.extra) == ("flax-nnx", {"note": {"x": 1}})
        assert file["drop/rngs/key"].rng
        for key in file:
            same(file.read(key), reg.read(key))
        same(file.read("b/kernel"), reg.read("a/kernel"))
        sr.load(sr.of(Model(nnx.Rngs(1))), file)


def test_the_order_of_a_document_is_the_native_order(tmp_path, variables):
    reg = sr.of(variables)
    path = write(tmp_path / "net.msgpack", reg)
    order = sorted(reg)
    document = {"schema": "stateregistry.file/1", "dialect": "flax-linen", "order": list(range(len(order)))[::-1]}
    document["entries"] = {key: {"kind": entry.kind.value, "tag": entry.tag} for key, entry in reg.items()}
    (tmp_path / f"net.msgpack{SIDECAR}").write_text(json.dumps(document))
    with sr.open(path) as file:
        assert file.native_order == tuple(order[::-1])


def corrupt(document, change):
    change(document)
    return document


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["entries"].pop("w"),
        lambda d: d["entries"].update(other={"kind": "parameter"}),
        lambda d: d["entries"]["w"].update(kind="buffer"),
        lambda d: d["entries"]["w"].update(kind="both"),
        lambda d: d["entries"]["w"].update(persistent=3),
        lambda d: d["aliases"].update({"a": "w"}),
        lambda d: d["aliases"].update({"z": "nowhere"}),
        lambda d: d["aliases"].update({"m": "m"}),
        lambda d: d["aliases"].update({"w/x": "w"}),
        lambda d: d.update(order=[0]),
        lambda d: d.update(order=[0, 0]),
        lambda d: d.update(schema="other"),
        lambda d: d.update(entries=[]),
    ],
    ids=[
        "lost",
        "more",
        "kind",
        "no-kind",
        "flag",
        "least",
        "nowhere",
        "itself",
        "prefix",
        "short",
        "twice",
        "schema",
        "type",
    ],
)
def test_a_document_that_contradicts_the_file_is_refused(tmp_path, change):
    tree = {"params": {"w": jnp.ones(2)}, "batch_stats": {"m": jnp.ones(2)}}
    path = flax_file(tmp_path / "x.msgpack", tree)
    document = {
        "schema": "stateregistry.file/1", "dialect": "flax-linen", "aliases": {"z": "w"},
        "entries": {"w": {"kind": "parameter", "trainable": True}, "m": {"kind": "buffer"}},
    }  # fmt: skip
    beside = tmp_path / f"x.msgpack{SIDECAR}"
    beside.write_text(json.dumps(document))
    with sr.open(path) as file:
        assert file.aliases == {"z": "w"}
    change(document)
    beside.write_text(json.dumps(document))
    with pytest.raises((errors.FileFormatError, errors.DuplicateKeyError)):
        sr.open(path)


def test_a_tree_without_params_is_inferred(tmp_path):
    tree = {"Dense_0": {"kernel": jnp.ones(2)}, "BatchNorm_0": {"mean": jnp.ones(2), "var": jnp.ones(2)}}
    with sr.open(flax_file(tmp_path / "x.msgpack", tree)) as file:
        assert all(entry.inferred for entry in file.values())
        assert file["Dense_0/kernel"].kind is Kind.PARAMETER
        assert file["BatchNorm_0/mean"].kind is Kind.BUFFER
        assert file.stored_names["Dense_0/kernel"] == "Dense_0/kernel"


def test_what_has_no_parameters_says_so_when_it_is_written(tmp_path):
    with sr.open(write(tmp_path / "x.msgpack", sr.of({"params": {}, "batch_stats": {"m": jnp.ones(2)}}))) as file:
        assert file["m"] == Entry(Kind.BUFFER, (2,), "float32")
    with sr.open(write(tmp_path / "x.msgpack", sr.of({"params": {}}))) as file:
        assert len(file) == 0


def test_transient_collections_are_read_as_such(tmp_path, variables):
    _, seen = Net().apply(variables, jnp.ones((1, 4, 4, 2)), mutable=["intermediates"])
    with sr.open(flax_file(tmp_path / "x.msgpack", {**variables, **seen})) as file:
        assert not file["seen/0"].persistent
        assert "seen/0" not in sr.snapshot(file)


@pytest.mark.parametrize("nested", [False, True])
def test_a_train_state_lists_its_variables_and_names_the_rest(tmp_path, variables, nested):
    class State(train_state.TrainState):
        batch_stats: dict

    params = variables if nested else variables["params"]
    state = State.create(
        apply_fn=Net().apply, params=params, tx=optax.adam(1e-3), batch_stats={} if nested else variables["batch_stats"]
    )
    with sr.open(flax_file(tmp_path / "x.msgpack", state)) as file:
        assert dict(file) == dict(sr.of(variables))
        assert set(file.opaque) == {"opt_state", "step"}
        assert "optimizer" in file.opaque["opt_state"]


def test_leaves_that_are_no_arrays_are_opaque(tmp_path, same):
    tree = {
        "params": {"w": np.ones(2, np.float32), "tiny": jnp.ones(2, jnp.int4)},
        "state": {"i": 3, "n": -7, "big": 2**40, "f": 0.5, "b": True, "s": "x", "c": 1 + 2j, "y": b"raw", "none": None},
        "scalars": {"f32": np.float32(1.5)},
    }
    with sr.open(flax_file(tmp_path / "x.msgpack", tree)) as file:
        assert list(file) == ["f32", "w"]
        assert file["f32"].shape == ()
        same(file.read("f32"), np.array(1.5, np.float32))
        assert set(file.opaque) == {"tiny", "i", "n", "big", "f", "b", "s", "c", "y"}
        assert "int4" in file.opaque["tiny"]


def test_names_are_names_and_not_paths(tmp_path, same):
    tree = {"params": {"a.b": {"c/d": jnp.ones(1), "~": jnp.ones(2), "é": jnp.ones(3)}, "0": jnp.ones(4)}}
    reg = sr.of(tree)
    path = write(tmp_path / "x.msgpack", reg)
    assert path.read_bytes() == serialization.to_bytes(tree)
    with sr.open(path) as file:
        assert dict(file) == dict(reg)


def test_one_path_in_two_collections_is_refused(tmp_path):
    tree = {"params": {"a": jnp.ones(1)}, "batch_stats": {"a": jnp.ones(1)}}
    with pytest.raises(errors.DuplicateKeyError) as caught:
        sr.open(flax_file(tmp_path / "x.msgpack", tree))
    assert caught.value.keys == ("a",)
    tree = {"params": {"a": jnp.ones(1)}, "batch_stats": {"a": {"b": jnp.ones(1)}}}
    with pytest.raises(errors.DuplicateKeyError):
        sr.open(flax_file(tmp_path / "x.msgpack", tree))
    prefixed = sr.of(tree, prefix_collections=True)
    with sr.open(sr.save(prefixed, tmp_path / "y.msgpack")) as file:
        assert dict(file) == dict(prefixed)


def test_variables_with_prefixed_keys_are_stored_as_flax_stores_them_and_read_back_prefixed(tmp_path, bits, same):
    tree = {
        "params": {"w": bits("float32", (3, 3), 1), "params": {"w": bits("float32", (3, 3), 2)}},
        "stats": {"w": bits("float32", (3, 3), 3)},
    }
    reg = sr.of(tree, prefix_collections=True)
    path = sr.save(reg, tmp_path / "x.msgpack")
    assert path.read_bytes() == serialization.to_bytes(tree)
    again = tmp_path / "again.msgpack"
    with sr.open(path) as file:
        assert dict(file) == dict(reg)
        assert file.native_order == reg.native_order
        assert list(file) == ["params/params/w", "params/w", "stats/w"]
        assert dict(file.stored_names) == {key: key for key in reg}
        for key in reg:
            same(file.read(key), reg.read(key))
        sr.save(file, again)
    assert again.read_bytes() == path.read_bytes()
    with sr.open(again) as file:
        assert dict(file) == dict(reg)


def test_a_module_called_params_is_no_prefix(tmp_path, bits):
    tree = {"params": {"params": {"w": bits("float32", (2, 2))}}}
    path = sr.save(sr.of(tree), tmp_path / "x.msgpack")
    assert path.read_bytes() == serialization.to_bytes(tree)
    with sr.open(path) as file:
        assert list(file) == ["params/w"]
        sr.save(file, tmp_path / "y.msgpack")
    assert (tmp_path / "y.msgpack").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("prefixed", [False, True])
def test_keys_that_may_or_may_not_be_prefixed_are_refused(tmp_path, bits, prefixed):
    tree = {"params": {"w": bits("float32", (2, 2))}}
    reg = sr.of(tree if prefixed else {"params": tree}, prefix_collections=prefixed)
    with (
        sr.open(sr.save(reg, tmp_path / "x.safetensors")) as file,
        pytest.raises(errors.UnsupportedError, match="a module of that name"),
    ):
        sr.save(file, tmp_path / "x.msgpack")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = torch.nn.Linear(4, 4)
        self.outside = torch.nn.Linear(4, 4)
        self.outside.weight = self.inside.weight
        self.register_buffer("count", torch.tensor([7, 8]))
        self.register_buffer("same_count", self.count)


def test_an_array_of_two_names_is_there_for_flax_under_both_and_listed_once(tmp_path, same):
    torch.manual_seed(3)
    reg = sr.of(Tied())
    assert reg.aliases == {"outside/weight": "inside/weight", "same_count": "count"}
    told = []
    path = sr.save(reg, tmp_path / "x.msgpack", progress=lambda key, nbytes: told.append(key))
    assert sorted(told) == sorted(reg)
    tree = serialization.msgpack_restore(path.read_bytes())
    assert {name: sorted(node) for name, node in tree["params"].items()} == {
        "inside": ["bias", "weight"],
        "outside": ["bias", "weight"],
    }
    assert sorted(tree["batch_stats"]) == ["count", "same_count"]
    same(tree["params"]["outside"]["weight"], reg.read("inside/weight"))
    same(tree["batch_stats"]["same_count"], reg.read("count"))
    with sr.open(path) as file:
        assert dict(file) == dict(reg)
        assert file.aliases == reg.aliases
        assert file.native_order == reg.native_order
        assert set(file.stored_names) == set(reg)
        same(file.read("outside/weight"), reg.read("inside/weight"))
        sr.save(file, tmp_path / "y.msgpack")
        model = Tied()
        sr.load(model, file)
        assert model.outside.weight is model.inside.weight
        same(sr.of(model).read("outside/weight"), reg.read("inside/weight"))
    assert serialization.msgpack_restore((tmp_path / "y.msgpack").read_bytes()).keys() == tree.keys()
    (tmp_path / f"x.msgpack{SIDECAR}").unlink()
    with sr.open(path) as file:  # nothing says that they are one
        assert file.aliases == {}
        same(file.read("outside/weight"), file.read("inside/weight"))


def tied_document(**aliases):
    return json.dumps({
        "schema": "stateregistry.file/1", "dialect": "flax-linen", "aliases": aliases,
        "entries": {"a": {"kind": "parameter", "trainable": True}},
    })  # fmt: skip


@pytest.mark.parametrize("copy", ["value", "shape", "dtype", "last", "collection", "text"])
def test_a_copy_under_an_alias_that_is_no_copy_is_refused(tmp_path, monkeypatch, copy, bits):
    monkeypatch.setattr(msgpack_store, "_PIECE", 16)
    value = bits("float32", (4, 4))
    path, beside = tmp_path / "x.msgpack", tmp_path / f"x.msgpack{SIDECAR}"
    beside.write_text(tied_document(b="a"))
    with sr.open(flax_file(path, {"params": {"a": value, "b": value}})) as file:
        assert (list(file), file.aliases) == (["a"], {"b": "a"})
    other = {
        "value": -value,
        "shape": value.reshape(2, 8),
        "dtype": value.view(np.int32),
        "last": value.copy(),
        "collection": value,
        "text": "a text",
    }[copy]
    if copy == "last":
        other.view(np.uint8)[-1, -1] ^= 1
    tree = {"params": {"a": value, "b": other}}
    if copy == "collection":
        tree = {"params": {"a": value}, "batch_stats": {"b": other}}
    with pytest.raises(errors.FileFormatError, match="'b'"):
        sr.open(flax_file(path, tree))


def test_an_alias_of_an_alias_is_refused(tmp_path, bits):
    value = bits("float32", (4, 4))
    (tmp_path / f"x.msgpack{SIDECAR}").write_text(tied_document(b="a", c="b"))
    with pytest.raises(errors.FileFormatError, match="'c'"):
        sr.open(flax_file(tmp_path / "x.msgpack", {"params": {"a": value, "b": value, "c": value}}))


def test_copies_of_arrays_in_chunks_are_copies(tmp_path, monkeypatch, bits, same):
    monkeypatch.setattr(msgpack_write, "MAX_CHUNK_BYTES", 40)
    value = bits("float32", (7, 5))
    (tmp_path / f"x.msgpack{SIDECAR}").write_text(tied_document(b="a"))
    path = write(tmp_path / "x.msgpack", sr.of({"params": {"a": value, "b": value}}))
    assert path.read_bytes().count(b"__msgpack_chunked_array__") == 2
    with sr.open(path) as file:
        assert file.aliases == {"b": "a"}
        same(file.read("b"), value)
    other = value.copy()
    other.view(np.uint8)[-1, -1] ^= 1
    write(path, sr.of({"params": {"a": value, "b": other}}))
    with pytest.raises(errors.FileFormatError, match="'b'"):
        sr.open(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".msgpack"])
def test_a_residual_survives_saving_an_open_file_again(tmp_path, suffix, same):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    model[1].num_batches_tracked.fill_(12345)
    sr.convert(model, to="flax-linen", out=tmp_path / "b.msgpack", allow=("choice",))
    with sr.open(tmp_path / "b.msgpack") as file:
        residual = file.document.extra["residual"]
        assert set(residual["1/num_batches_tracked"]["anchors"]) <= set(file)
        assert residual["1/num_batches_tracked"]["anchors"]
        again = sr.save(file, tmp_path / f"again{suffix}", extra={"note": 1})
    with sr.open(again) as file:
        assert file.document.extra == {"residual": residual, "note": 1}
        target = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        sr.convert(file, target, allow=("assumption",))
    for key, value in model.state_dict().items():
        same(target.state_dict()[key].numpy(), value.numpy())


@pytest.mark.parametrize("chain", [1, 2])
def test_a_file_opened_through_a_symbolic_link_has_its_document(tmp_path, chain):
    reg = sr.of(Tied())
    (tmp_path / "data").mkdir()
    real = sr.save(reg, tmp_path / "data" / "t.msgpack", extra={"residual": {}, "note": 1})
    link = tmp_path / "l.msgpack"
    link.symlink_to(real)
    if chain == 2:
        link = tmp_path / "ll.msgpack"
        link.symlink_to("l.msgpack")
    with sr.open(link) as file:
        assert (file.aliases, file.dialect) == (reg.aliases, "torch")
        assert file.document.extra == {"residual": {}, "note": 1}
    sr.save(sr.of(torch.nn.Linear(3, 3)), link, overwrite=True)
    assert link.is_symlink()
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["t.msgpack", f"t.msgpack{SIDECAR}"]
    assert not (tmp_path / f"{link.name}{SIDECAR}").exists()
    for path in (link, real):
        with sr.open(path) as file:
            assert (list(file), file.dialect, file.document.extra) == (["bias", "weight"], "torch", {})


def test_an_empty_name_is_refused(tmp_path):
    with pytest.raises(errors.KeyPathError):
        sr.open(flax_file(tmp_path / "x.msgpack", {"params": {"": jnp.ones(1)}}))


def test_names_that_the_format_reserves_are_refused_before_a_byte_is_written(tmp_path):
    reg = sr.of({"params": {"__msgpack_chunked_array__": jnp.ones(1)}})
    with pytest.raises(errors.UnsupportedError, match="reserves"):
        sr.save(reg, tmp_path / "x.msgpack")
    assert list(tmp_path.iterdir()) == []
    deep = jnp.ones(1)
    for _ in range(130):
        deep = {"a": deep}
    with pytest.raises(errors.UnsupportedError, match="levels"):
        sr.save(sr.of({"params": deep}), tmp_path / "x.msgpack")
    assert list(tmp_path.iterdir()) == []


def test_views_outlive_the_file_and_reads_after_it_are_refused(tmp_path, variables, same):
    reg = sr.of(variables)
    with sr.open(write(tmp_path / "x.msgpack", reg)) as file:
        view, owned = file.view("Conv_0/kernel"), file.read("Conv_0/kernel")
    same(owned, reg.read("Conv_0/kernel"))
    same(view, owned)
    with pytest.raises(errors.UnsupportedError):
        file.read("Conv_0/kernel")
    file.close()


def test_progress_is_told(tmp_path, variables):
    told = []
    reg = sr.of(variables)
    msgpack.write(tmp_path / "x", reg, extra={}, progress=lambda key, nbytes: told.append((key, nbytes)))
    assert told == [(key, reg[key].nbytes) for key in reg.native_order]


def test_the_store_knows_its_files_by_content(tmp_path, variables):
    path = write(tmp_path / "checkpoint_1000", sr.of(variables))
    with sr.open(path) as file:
        assert file.adapter == "flax-msgpack"
    assert msgpack.sniff(path, path.read_bytes()[:4096])
    big = {"params": {f"layer_{index}": np.zeros(5000, np.float32) for index in range(20)}}
    raw = write(path, sr.of(big)).read_bytes()
    assert looks_like_it(raw[:4096], len(raw))
    assert looks_like_it(raw[:4096], 4096)  # cut off, and still this format
    for head in (
        b"",
        b"\x80\x04\x95",
        b"\x80\x02}q\x00",
        b"PK\x03\x04",
        b"\x93NUMPY",
        b"{}",
        b"\x1f\x8b",
        b"\x81\x01\x02",
    ):
        assert not looks_like_it(head, 10_000)
    for length in (0x8F, 0xA185, 0x41A185, 0x8182):  # lengths of safetensors headers whose bytes are msgpack codes
        head = length.to_bytes(8, "little") + b'{"a":{"dtype":"F32"' * 200
        assert not looks_like_it(head, 10**9)
        assert not looks_like_it(head[:30], 30)
    assert looks_like_it(b"\x80", 1)


def test_opening_takes_the_memory_of_the_names(tmp_path):
    big = sr.of({"params": {f"w{index}": np.zeros(2**21, np.float32) for index in range(16)}})
    path = write(tmp_path / "x.msgpack", big)
    assert path.stat().st_size > 2**27
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with sr.open(path) as file:
        assert len(file) == 16
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 2**25
