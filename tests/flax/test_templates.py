"""Templates from factories, and native trees assembled from a registry of any origin."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import DTYPES, Kind
from stateregistry_flax import linen as linen_adapter
from stateregistry_flax import nnx as nnx_adapter


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=not train)(x))


class NnxNet(nnx.Module):
    def __init__(self, rngs, width=3):
        self.a = nnx.Linear(4, width, rngs=rngs)
        self.b = self.a
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.table = jnp.arange(5)


def both(thunk):
    """As the command line does: every adapter makes the factory abstract, then each is asked for the product."""
    product = linen_adapter.abstractly(lambda: nnx_adapter.abstractly(thunk))
    found = [reg for adapter in (linen_adapter, nnx_adapter) if (reg := adapter.template(product)) is not None]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    "factory",
    [
        lambda: (Net(), (jnp.ones((1, 4)),)),
        lambda: (Net(), (jax.ShapeDtypeStruct((1, 4), jnp.float32),), {"train": True}),
        lambda: (Net(), [np.ones((1, 4), np.float32)], {}),
    ],
    ids=["arrays", "shapes", "numpy"],
)
def test_a_linen_factory_gives_an_abstract_registry_with_layers(factory):
    reg = both(factory)
    real = sr.of(Net().init(jax.random.key(0), jnp.ones((1, 4))))
    assert [(key, str(entry)) for key, entry in reg.items()] == [(key, str(entry)) for key, entry in real.items()]
    assert not any(entry.concrete for entry in reg.values())
    assert [(layer.path, layer.kind) for layer in reg.layers] == [
        ("BatchNorm_0", "batch_norm"),
        ("Dense_0", "linear"),
    ]


def test_variables_made_in_a_factory_are_shapes():
    reg = both(lambda: Net().init(jax.random.key(0), jnp.ones((1, 4))))
    assert set(reg) == set(sr.of(Net().init(jax.random.key(0), jnp.ones((1, 4)))))
    assert not any(entry.concrete for entry in reg.values())


def test_an_nnx_factory_gives_an_abstract_registry_that_can_be_filled(same):
    reg = both(lambda: NnxNet(nnx.Rngs(0)))
    real = sr.of(NnxNet(nnx.Rngs(1)))
    assert reg.aliases == real.aliases == {"b/bias": "a/bias", "b/kernel": "a/kernel"}
    assert [str(reg[key]) for key in real] == [str(entry) for entry in real.values()]
    assert [(layer.path, layer.kind) for layer in reg.layers] == [
        ("a", "linear"),
        ("b", "linear"),
        ("norm", "batch_norm"),
    ]
    assert not any(entry.concrete for entry in reg.values())
    sr.load(reg, real)
    for key in real:
        same(reg.read(key), real.read(key))
    assert dict(reg) == dict(real)


def test_a_factory_takes_no_memory():
    product = nnx_adapter.abstractly(lambda: nnx.Linear(200_000, 200_000, rngs=nnx.Rngs(0)))
    assert nnx_adapter.template(product)["kernel"].nbytes == 160_000_000_000


def test_tracers_that_have_leaked_are_turned_into_shapes():
    leaked = []

    def trace():
        leaked.append(NnxNet(nnx.Rngs(0)))
        leaked.append({"params": {"w": jnp.ones(2) + 1}})
        leaked.append((nn.Dense(2), (jnp.ones((1, 2)) + 1,)))

    jax.eval_shape(trace)
    reg = nnx_adapter.template(leaked[0])
    sr.load(reg, sr.of(NnxNet(nnx.Rngs(1))))
    assert all(entry.concrete for entry in reg.values())
    assert not linen_adapter.template(leaked[1])["w"].concrete
    assert linen_adapter.template(leaked[2])["kernel"].shape == (2, 2)


def test_a_factory_that_needs_numbers_is_told_so():
    with pytest.raises(errors.AdapterError, match="numpy") as caught:
        nnx_adapter.abstractly(lambda: NnxNet(nnx.Rngs(0), width=int(jnp.sum(jnp.ones(3)))))
    assert caught.value.__cause__ is not None
    with pytest.raises(ZeroDivisionError):
        nnx_adapter.abstractly(lambda: 1 / 0)
    assert nnx_adapter.abstractly(lambda: 3) == 3  # and it is abstract again afterwards
    assert isinstance(nnx_adapter.abstractly(lambda: jnp.ones(2)), jax.ShapeDtypeStruct)


@pytest.mark.parametrize("product", [3, None, (1, 2), object(), {"a": 1}, (nn.Dense(1),)])
def test_what_is_not_flax_is_left_to_others(product):
    assert linen_adapter.template(product) is None
    assert nnx_adapter.template(product) is None


def test_a_linen_factory_that_returns_too_little_is_told_so():
    for product in (nn.Dense(2), (nn.Dense(2), jnp.ones((1, 2))), (nn.Dense(2), (), [])):
        with pytest.raises(errors.AdapterError, match="args"):
            linen_adapter.template(product)
    with pytest.raises(errors.AdapterError, match="cannot be initialised"):
        linen_adapter.template((nn.Dense(2), ()))


# ------------------------------------------------------------------------------------------------------------ assemble


def test_assembled_variables_run(same):
    net, x = Net(), jnp.arange(8.0).reshape(2, 4)
    variables = net.init(jax.random.key(0), x)
    reg = sr.of(variables)
    made = linen_adapter.assemble(reg)
    assert jax.tree.structure(made) == jax.tree.structure(variables)
    same(net.apply(made, x), net.apply(variables, x))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(made))
    live = linen_adapter.assemble(sr.of(NnxNet(nnx.Rngs(0))))
    assert set(live) == {"params", "batch_stats"}
    assert set(live["batch_stats"]) == {"norm", "drop", "table"}


def test_collections_are_kept_between_linen_and_linen():
    tree = {"params": {"w": jnp.ones(1)}, "cache": {"i": jnp.zeros((), jnp.int32)}, "batch_stats": {"m": jnp.ones(1)}}
    made = linen_adapter.assemble(sr.of(tree))
    assert jax.tree.structure(made) == jax.tree.structure(tree)
    assert linen_adapter.assemble(sr.of({"params": {}})) == {"params": {}}


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_dtype_is_assembled_bit_for_bit(dtype, bits, same):
    value = bits(dtype, (3, 2))
    reg = sr.of({"params": {"w": np.array(value)}})
    same(linen_adapter.assemble(reg)["params"]["w"], value)
    same(nnx_adapter.assemble(reg)["w"].get_raw_value(), value)
    wide = dtype in {"int64", "uint64", "float64", "complex128"}
    assert isinstance(linen_adapter.assemble(reg)["params"]["w"], np.ndarray if wide else jax.Array)


def test_an_assembled_state_updates_a_module(same):
    source = sr.of(NnxNet(nnx.Rngs(3)))
    state = nnx_adapter.assemble(source)
    model = NnxNet(nnx.Rngs(0))
    nnx.update(model, nnx.State({key: value for key, value in state.items() if key != "table"}))
    reg = sr.of(model)
    for key in source:
        same(reg.read(key), source.read(key))
    assert isinstance(model.drop.rngs.key, nnx.RngKey)
    assert model.drop(jnp.ones(4)).shape == (4,)


def test_an_assembled_state_has_indices_where_lists_are():
    model = nnx.Dict(
        {"layers": nnx.List([nnx.Linear(1, 1, rngs=nnx.Rngs(0)) for _ in range(11)]), "0": nnx.Param(jnp.ones(1))}
    )
    state = nnx_adapter.assemble(sr.of(model))
    assert list(state["layers"]) == list(range(11))
    assert "0" in state
    nnx.update(model, state)
    kinds = nnx_adapter.assemble(sr.of({"params": {"w": jnp.ones(1)}, "batch_stats": {"m": jnp.ones(1)}}))
    assert (type(kinds["w"]), type(kinds["m"])) == (nnx.Param, nnx.BatchStat)


def test_abstract_entries_are_assembled_as_shapes():
    reg = sr.of(jax.eval_shape(lambda: {"params": {"w": jnp.ones((2, 3), jnp.bfloat16)}}))
    assert linen_adapter.assemble(reg)["params"]["w"] == jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)
    assert nnx_adapter.assemble(reg)["w"].get_raw_value() == jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)


def test_what_cannot_be_assembled_is_refused():
    with pytest.raises(errors.OpaqueError):
        linen_adapter.assemble(sr.of({"params": {}, "state": {"step": 3}}))
    odd = sr.of(nnx.Dict({"k": nnx.RngKey(jax.random.key(0, impl="rbg"), tag="x")}))
    assert odd["k"].shape == (4,)
    with pytest.raises(errors.UnsupportedError, match="PRNG"):
        nnx_adapter.assemble(odd)


def test_both_frameworks_list_equal_models_alike(same):
    linen = sr.of(Net().init(jax.random.key(0), jnp.ones((1, 4))))
    rngs = nnx.Rngs(0)
    live = sr.of(nnx.Dict({"BatchNorm_0": nnx.BatchNorm(4, rngs=rngs), "Dense_0": nnx.Linear(4, 3, rngs=rngs)}))
    assert dict(linen) == dict(live)
    live = sr.load(live, linen)
    one, two = sr.snapshot(linen), sr.snapshot(live)
    assert list(one) == list(two)
    for key in one:
        same(one[key], two[key])
    assert {entry.kind for entry in live.values()} == {Kind.PARAMETER, Kind.BUFFER}
