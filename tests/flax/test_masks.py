"""Masks in the tree type of the framework: optax takes them as they are."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.core import FrozenDict, freeze

import stateregistry as sr


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        kernel = nn.with_partitioning(nn.initializers.normal(), (None, "m"))
        x = nn.BatchNorm(use_running_average=True)(nn.Dense(4, kernel_init=kernel)(x))
        return nn.Dense(2)(x)


def only_kernels(key, entry):
    return key.endswith("kernel")


@pytest.mark.parametrize("frozen", [False, True])
def test_a_linen_mask_freezes_with_optax(frozen, same):
    variables = Net().init(jax.random.key(0), jnp.ones((1, 4)))
    variables = freeze(variables) if frozen else variables
    reg = sr.of(variables)
    mask = sr.mask(reg, only_kernels)
    assert type(mask) is (FrozenDict if frozen else dict)
    assert jax.tree.structure(mask) == jax.tree.structure(variables["params"])
    assert sum(jax.tree.leaves(mask)) == 2
    tx = optax.chain(optax.masked(optax.set_to_zero(), mask), optax.sgd(1.0))
    params = variables["params"]
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    after = sr.of({"params": optax.apply_updates(params, updates)})
    for key in after:
        expected = reg.read(key) if key.endswith("kernel") else reg.read(key) - np.float32(1)
        same(after.read(key), expected)


def test_a_linen_mask_covers_what_is_no_entry_and_follows_the_flags():
    tree = {"params": {"w": jnp.ones(2), "b": jnp.ones(2), "tiny": jnp.ones(2, jnp.int4), "none": None}}
    reg = sr.of(tree).with_trainable({"b": False})
    mask = sr.mask(reg, lambda _, entry: entry.trainable)
    assert mask == {"w": True, "b": False, "tiny": False, "none": None}
    assert sr.mask(sr.of(tree, prefix_collections=True), lambda *_: True)["w"] is True
    assert sr.mask(sr.of({"params": {}}), lambda *_: True) == {}


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.z = nnx.Linear(4, 4, rngs=rngs)
        self.layers = nnx.List([nnx.BatchNorm(4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)])
        self.also = self.z
        self.drop = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](self.layers[0](self.z(x)))


def test_an_nnx_mask_freezes_with_nnx_optimizer(same):
    model = NnxNet(nnx.Rngs(0))
    reg = sr.of(model)
    mask = sr.mask(reg, only_kernels)
    assert type(mask) is nnx.State
    assert all(type(leaf) is bool for leaf in jax.tree.leaves(mask))
    before = {key: reg.read(key) for key in reg}
    optimizer = nnx.Optimizer(
        model, optax.chain(optax.masked(optax.set_to_zero(), mask), optax.sgd(1.0)), wrt=nnx.Param
    )
    x = jnp.arange(8.0).reshape(2, 4)
    grads = nnx.grad(lambda m: jnp.sum(m(x) ** 2))(model)
    optimizer.update(model, grads)
    for key in ("also/kernel", "layers/1/kernel"):
        same(reg.read(key), before[key])
    for key in ("also/bias", "layers/1/bias"):
        assert reg.read(key).tobytes() != before[key].tobytes()


def test_an_nnx_mask_labels_for_multi_transform(same):
    model = NnxNet(nnx.Rngs(0))
    reg = sr.of(model)
    labels = jax.tree.map(lambda flag: "frozen" if flag else "trained", sr.mask(reg, only_kernels))
    tx = optax.multi_transform({"frozen": optax.set_to_zero(), "trained": optax.adam(1e-1)}, labels)
    before = {key: reg.read(key) for key in reg}
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    grads = nnx.grad(lambda m: jnp.sum(m(jnp.arange(8.0).reshape(2, 4)) ** 2))(model)
    optimizer.update(model, grads)
    same(reg.read("layers/1/kernel"), before["layers/1/kernel"])
    assert reg.read("layers/1/bias").tobytes() != before["layers/1/bias"].tobytes()


def test_a_linen_mask_labels_for_multi_transform():
    variables = Net().init(jax.random.key(0), jnp.ones((1, 4)))
    labels = jax.tree.map(lambda flag: "frozen" if flag else "trained", sr.mask(sr.of(variables), only_kernels))
    tx = optax.multi_transform({"frozen": optax.set_to_zero(), "trained": optax.adam(1e-1)}, labels)
    params = variables["params"]
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    moved = jax.tree.map(lambda update: bool(jnp.any(update != 0)), nn.meta.unbox(updates))
    assert moved["Dense_1"] == {"kernel": False, "bias": True}
    assert moved["Dense_0"] == {"kernel": False, "bias": True}
