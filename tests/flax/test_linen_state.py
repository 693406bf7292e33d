"""What a registry over Linen variables lists: keys, kinds, flags, opaque leaves, and what it refuses."""

from __future__ import annotations

from collections import OrderedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict, freeze

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import Entry, Kind


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3))(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        self.sow("intermediates", "features", x)
        self.sow("intermediates", "features", x + 1)
        return nn.Dense(4)(x)


@pytest.fixture
def variables():
    return Net().init(jax.random.key(0), jnp.ones((1, 4, 4, 2)))


def test_collections_say_the_kinds_and_are_not_in_the_keys(variables):
    reg = sr.of(variables)
    assert list(reg) == sorted(reg)
    assert set(reg) == {
        "Conv_0/kernel", "Conv_0/bias", "BatchNorm_0/scale", "BatchNorm_0/bias", "BatchNorm_0/mean", "BatchNorm_0/var",
        "Dense_0/kernel", "Dense_0/bias",
    }  # fmt: skip
    assert reg["Conv_0/kernel"] == Entry(Kind.PARAMETER, (3, 3, 2, 4), "float32", trainable=True)
    assert reg["BatchNorm_0/mean"] == Entry(Kind.BUFFER, (4,), "float32")
    assert (reg["Conv_0/kernel"].tag, reg["BatchNorm_0/mean"].tag) == ("params", "batch_stats")
    assert (reg.adapter, reg.dialect, reg.in_place) == ("flax-linen", "flax-linen", False)
    assert reg.unwrap() is variables


def test_native_order_is_that_of_the_tree_and_survives_a_write(variables):
    order = sr.of(variables).native_order
    assert order.index("Conv_0/kernel") < order.index("BatchNorm_0/scale") < order.index("Dense_0/kernel")
    tree = {"params": {"z": jnp.ones(1), "a": {"y": jnp.ones(1), "b": jnp.ones(1)}}, "batch_stats": {"c": jnp.ones(1)}}
    reg = sr.of(tree)
    assert reg.native_order == ("z", "a/y", "a/b", "c")
    reg = reg.replace({"a/b": np.zeros(1, np.float32)})
    assert reg.native_order == ("z", "a/y", "a/b", "c")
    assert list(reg.unwrap()["params"]) == ["z", "a"]
    assert list(reg.unwrap()["params"]["a"]) == ["y", "b"]


def test_sown_tuples_have_decimal_steps_and_are_not_persistent(same):
    _, state = Net().apply(
        Net().init(jax.random.key(0), jnp.ones((1, 4, 4, 2))), jnp.ones((1, 4, 4, 2)), mutable=["intermediates"]
    )
    tree = {"params": {}, **state}
    reg = sr.of(tree)
    assert list(reg) == ["features/0", "features/1"]
    assert reg["features/1"] == Entry(Kind.BUFFER, (1, 4, 4, 4), "float32", persistent=False)
    new = np.random.default_rng(1).normal(size=(1, 4, 4, 4)).astype(np.float32)
    written = reg.replace({"features/1": new}).unwrap()
    assert type(written["intermediates"]["features"]) is tuple
    same(written["intermediates"]["features"][1], new)
    assert written["intermediates"]["features"][0] is state["intermediates"]["features"][0]
    assert sr.snapshot(reg) == {}


def test_the_caller_says_which_collections_are_transient(variables):
    tree = {**variables, "cache": {"index": jnp.zeros((), jnp.int32)}}
    assert sr.of(tree)["index"].persistent
    assert not sr.of(tree, transient=("cache",))["index"].persistent
    with pytest.raises(errors.AdapterError, match="names of collections"):
        sr.of(tree, transient="cache")


@pytest.mark.parametrize("name", ["a.b", "a/b", "~", "~1", "a b", "é", "0", "..", "%s"])
def test_odd_names_round_trip(name, same):
    reg = sr.of({"params": {name: {name: jnp.arange(3.0)}}})
    (key,) = reg
    assert sr.keys.split(key) == (name, name)
    new = np.arange(5, 8, dtype=np.float32)
    same(reg.replace({key: new}).unwrap()["params"][name][name], new)


def test_dotted_and_nested_names_are_different_keys():
    reg = sr.of({"params": {"a": {"b": jnp.ones(1)}, "a.b": jnp.ones(1), "a/b": jnp.ones(1)}})
    assert list(reg) == ["a.b", "a/b", "a~1b"]


@pytest.mark.parametrize("tree", [{"": {"w": 1.0}}, {"a": {"": 1.0}}, {None: 1.0}, {("a", "b"): 1.0}, {True: 1.0}])
def test_names_that_make_no_segment_are_refused(tree):
    with pytest.raises(errors.KeyPathError):
        sr.of({"params": jax.tree.map(jnp.asarray, tree)})


def test_one_path_in_two_collections_is_refused_or_prefixed(same):
    tree = {"params": {"a": {"b": jnp.ones(2)}}, "batch_stats": {"a": {"b": jnp.zeros(2)}}}
    with pytest.raises(errors.DuplicateKeyError, match="'params', 'batch_stats'") as caught:
        sr.of(tree)
    assert caught.value.keys == ("a/b",)
    assert "prefix_collections=True" in caught.value.hint
    reg = sr.of(tree, prefix_collections=True)
    assert {key: entry.kind for key, entry in reg.items()} == {
        "batch_stats/a/b": Kind.BUFFER,
        "params/a/b": Kind.PARAMETER,
    }
    new = np.array([5, 6], np.float32)
    written = reg.replace({"batch_stats/a/b": new})
    assert list(written) == list(reg)
    same(written.unwrap()["batch_stats"]["a"]["b"], new)
    same(written.unwrap()["params"]["a"]["b"], np.ones(2, np.float32))


def test_an_array_and_a_container_of_one_path_are_refused_or_prefixed():
    tree = {"params": {"a": jnp.ones(2)}, "batch_stats": {"a": {"u": jnp.zeros(2)}}}
    with pytest.raises(errors.DuplicateKeyError) as caught:
        sr.of(tree)
    assert caught.value.keys == ("a",)
    assert len(sr.of(tree, prefix_collections=True)) == 2


def test_an_index_and_its_spelling_are_refused():
    with pytest.raises(errors.DuplicateKeyError, match="spelled alike"):
        sr.of({"params": {"a": OrderedDict({0: jnp.ones(1), "0": jnp.ones(1)})}})


def test_a_container_that_jax_cannot_take_apart_is_refused():
    with pytest.raises(errors.UnsupportedError, match="FrozenDict"):
        sr.of({"params": {"a": FrozenDict({0: jnp.ones(1), "0": jnp.ones(1)})}})


def test_an_opaque_leaf_under_the_key_of_an_array_is_refused():
    with pytest.raises(errors.DuplicateKeyError):
        sr.of({"params": {"a": jnp.ones(1)}, "state": {"a": 3}})


def test_frozen_dicts_stay_frozen_and_keep_their_order(variables, same):
    frozen = freeze({"params": {"z": {"w": jnp.ones(2)}, "a": {"w": jnp.ones(2)}}, "batch_stats": {"m": jnp.ones(2)}})
    reg = sr.of(frozen)
    assert reg.native_order == ("z/w", "a/w", "m")
    written = reg.replace({"a/w": np.zeros(2, np.float32)})
    assert type(written.unwrap()) is FrozenDict
    assert written.native_order == ("z/w", "a/w", "m")
    assert jax.tree.structure(written.unwrap()) == jax.tree.structure(frozen)
    same(written.unwrap()["params"]["a"]["w"], np.zeros(2, np.float32))
    same(frozen["params"]["a"]["w"], np.ones(2, np.float32))
    half = {"params": frozen["params"], "batch_stats": {"m": jnp.ones(2)}}
    assert type(sr.of(half).replace({"a/w": np.zeros(2, np.float32)}).unwrap()["params"]) is FrozenDict
    assert Net().apply(sr.of(freeze(variables)).unwrap(), jnp.ones((1, 4, 4, 2))).shape == (1, 4, 4, 4)


@pytest.mark.parametrize("box", [nn.Partitioned, nn.LogicallyPartitioned])
def test_boxes_add_no_step_and_are_kept_on_a_write(box, same):
    class Boxed(nn.Module):
        @nn.compact
        def __call__(self, x):
            wrap = nn.with_partitioning if box is nn.Partitioned else nn.with_logical_partitioning
            return nn.Dense(4, kernel_init=wrap(nn.initializers.normal(), ("in", "out")))(x)

    variables = Boxed().init(jax.random.key(0), jnp.ones((1, 4)))
    assert type(variables["params"]["Dense_0"]["kernel"]) is box
    reg = sr.of(variables)
    assert list(reg) == ["Dense_0/bias", "Dense_0/kernel"]
    new = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    written = reg.replace({"Dense_0/kernel": new}).unwrap()["params"]["Dense_0"]["kernel"]
    assert type(written) is box
    assert written.names == ("in", "out")
    same(written.value, new)
    assert Boxed().apply(reg.unwrap(), jnp.ones((1, 4))).shape == (1, 4)


def test_boxes_of_boxes_and_dicts_in_boxes_are_walked(same):
    inner = nn.Partitioned(jnp.ones(2), names=("a",))
    tree = {"params": {"w": nn.Partitioned(inner, names=("b",)), "d": nn.Partitioned({"x": jnp.ones(1)}, names=("c",))}}
    reg = sr.of(tree)
    assert list(reg) == ["d/x", "w"]
    written = reg.replace({"w": np.zeros(2, np.float32)}).unwrap()["params"]["w"]
    assert (written.names, written.value.names) == (("b",), ("a",))
    same(written.value.value, np.zeros(2, np.float32))


def test_none_is_absence_and_stays_where_it_is():
    tree = {"params": {"dense": {"kernel": jnp.ones(2), "bias": None}}}
    reg = sr.of(tree)
    assert list(reg) == ["dense/kernel"]
    assert "dense/bias" not in reg
    with pytest.raises(errors.UnexpectedKeyError):
        reg.replace({"dense/bias": np.ones(2, np.float32)})
    assert reg.replace({"dense/kernel": np.zeros(2, np.float32)}).unwrap()["params"]["dense"]["bias"] is None


def test_leaves_that_are_no_arrays_are_opaque_and_stay():
    marker = object()
    tree = {
        "params": {"w": jnp.ones(2)},
        "state": {"step": 3, "rate": 0.5, "name": "x", "thing": marker, "tiny": jnp.ones(2, jnp.int4)},
        "masked": {"m": np.ma.masked_array([1.0, 2.0], [True, False]), "o": np.array([None])},
    }
    reg = sr.of(tree)
    assert set(reg.opaque) == {"step", "rate", "name", "thing", "tiny", "m", "o"}
    assert "int4" in reg.opaque["tiny"]
    assert "int" in reg.opaque["step"]
    with pytest.raises(errors.OpaqueError):
        reg.read("step")
    with pytest.raises(errors.OpaqueError):
        sr.snapshot(reg)
    with pytest.raises(errors.SourceError):
        reg.replace({"step": np.array(4)})
    assert reg.replace({"w": np.zeros(2, np.float32)}).unwrap()["state"]["thing"] is marker


def test_integer_parameters_are_parameters_that_cannot_be_trained():
    reg = sr.of({"params": {"codes": jnp.arange(3), "w": jnp.ones(2)}})
    assert reg["codes"] == Entry(Kind.PARAMETER, (3,), "int32")
    with pytest.raises(errors.KindError):
        reg.with_trainable({"codes": True})


def test_flags_live_on_the_handle_and_survive_writes(variables):
    reg = sr.of(variables)
    frozen = reg.with_trainable({"Conv_0/kernel": False})
    assert not frozen["Conv_0/kernel"].trainable
    assert reg["Conv_0/kernel"].trainable
    written = frozen.replace({"Conv_0/kernel": np.zeros((3, 3, 2, 4), np.float32)})
    assert not written["Conv_0/kernel"].trainable
    assert written["Dense_0/kernel"].trainable


def test_empty_variables_are_a_registry_of_nothing():
    reg = sr.of({"params": {}})
    assert len(reg) == 0
    assert reg.replace({}) is reg
    assert (sr.snapshot(reg), reg.layers, reg.native_order) == ({}, (), ())


def test_registered_pytrees_of_any_type_are_walked(same):
    class Pair(tuple):
        __slots__ = ()

    from flax import struct

    class Stats(struct.PyTreeNode):
        mean: jax.Array
        note: str = struct.field(pytree_node=False)

    tree = {"params": {}, "stats": {"s": Stats(jnp.ones(2), "kept"), "l": [jnp.ones(1), {"x": jnp.ones(1)}]}}
    reg = sr.of(tree)
    assert list(reg) == ["l/0", "l/1/x", "s/mean"]
    written = reg.replace({"s/mean": np.zeros(2, np.float32), "l/1/x": np.zeros(1, np.float32)}).unwrap()["stats"]
    assert (type(written["s"]), written["s"].note, type(written["l"])) == (Stats, "kept", list)
    same(written["s"].mean, np.zeros(2, np.float32))
    # JAX does not look into a tuple of a class of its own: neither does the registry, and says so.
    assert list(sr.of({"params": {"p": Pair((jnp.ones(1),))}}).opaque) == ["p"]
