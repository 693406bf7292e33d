"""The layers of Linen and NNX models: which types, at which paths, in which order, and what is left alone."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import stateregistry as sr
from stateregistry import errors
from stateregistry.layers import axes
from stateregistry_flax.dialect import LINEN, NNX


def rows(reg):
    return [(layer.path, layer.kind, layer.type, tuple(layer.roles)) for layer in reg.layers]


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), strides=2, padding=[(1, 1), (0, 2)], kernel_dilation=(1, 2), feature_group_count=2)(x)
        x = nn.BatchNorm(use_running_average=not train, epsilon=1e-3, momentum=0.9)(x)
        return nn.Dropout(0.5, deterministic=not train)(nn.LayerNorm(epsilon=1e-6)(x))


class Net(nn.Module):
    def setup(self):
        self.z_first = Block()
        self.embed = nn.Embed(5, 4)
        self.twice = nn.Dense(4)

    def __call__(self, x, train=False):
        x = self.z_first(x, train).reshape(x.shape[0], -1)[:, :4]
        return self.embed.attend(self.twice(self.twice(x)))


X = jnp.ones((2, 8, 8, 2))


@pytest.fixture(scope="module")
def variables():
    return Net().init(jax.random.key(0), X)


def test_linen_layers_come_from_the_module_in_the_order_of_calls(variables):
    reg = sr.of(variables, module=Net(), args=(X,), kwargs={"train": True})
    assert rows(reg) == [
        ("z_first/Conv_0", "conv", "Conv", ("kernel", "bias")),
        ("z_first/BatchNorm_0", "batch_norm", "BatchNorm", ("scale", "bias", "mean", "var")),
        ("z_first/LayerNorm_0", "layer_norm", "LayerNorm", ("scale", "bias")),
        ("twice", "linear", "Dense", ("kernel", "bias")),
        ("embed", "embedding", "Embed", ("embedding",)),
    ]
    conv, norm, layer_norm, *_ = reg.layers
    assert conv.config == {
        "groups": 2, "kernel_size": (3, 3), "stride": (2, 2), "dilation": (1, 2), "padding": (1, 1, 0, 2),
        "padding_mode": "zeros",
    }  # fmt: skip
    assert norm.config == {"eps": 1e-3, "momentum": 0.1, "unbiased_var": False}
    assert layer_norm.config == {"eps": 1e-6, "normalized_axes": 1}
    assert not any(layer.inferred for layer in reg.layers)
    assert {key for layer in reg.layers for key in layer.roles.values()} == set(reg)


def test_shapes_are_enough_and_layers_survive_a_write(variables):
    abstract = jax.eval_shape(Net().init, jax.random.key(0), X)
    reg = sr.of(abstract, module=Net(), args=(jax.ShapeDtypeStruct(X.shape, X.dtype),))
    expected = rows(sr.of(variables, module=Net(), args=(X,)))
    assert rows(reg) == expected
    assert rows(reg.replace({"twice/bias": np.zeros(4, np.float32)})) == expected
    assert rows(reg.with_trainable({"twice/bias": False})) == expected


def test_methods_and_generators_are_passed_on():
    class Two(nn.Module):
        def setup(self):
            self.a, self.b = nn.Dense(2), nn.Dense(3)

        def __call__(self, x):
            return self.a(x), self.b(x)

        def only_b(self, x):
            jax.random.normal(self.make_rng("noise"))
            return self.b(x)

    x = jnp.ones((1, 2))
    variables = Two().init(jax.random.key(0), x)
    assert [row[0] for row in rows(sr.of(variables, module=Two(), args=(x,)))] == ["a", "b"]
    for rngs in (None, {"noise": jax.random.key(0)}):
        reg = sr.of(variables, module=Two(), args=(x,), method="only_b", rngs=rngs)
        assert [row[0] for row in rows(reg)] == ["b"]


def test_a_module_that_is_one_layer_has_the_empty_path():
    x = jnp.ones((1, 2))
    reg = sr.of(nn.Dense(3).init(jax.random.key(0), x), module=nn.Dense(3), args=(x,))
    assert rows(reg) == [("", "linear", "Dense", ("kernel", "bias"))]
    assert reg.layers[0].roles == {"kernel": "kernel", "bias": "bias"}


def test_a_module_that_does_not_fit_is_refused(variables):
    reg = sr.of(variables, module=nn.Dense(3), args=(X,))
    with pytest.raises(errors.AdapterError, match="cannot be run"):
        _ = reg.layers
    with pytest.raises(errors.AdapterError, match="Linen module"):
        sr.of(variables, module=object(), args=(X,))
    with pytest.raises(errors.AdapterError, match="args="):
        sr.of(variables, args=(X,))
    with pytest.raises(errors.AdapterError, match="tuple"):
        sr.of(variables, module=Net(), args=X)


def test_a_layer_without_what_makes_it_one_stands_alone(variables):
    reg = sr.of({"params": variables["params"]}, module=Net(), args=(X,))
    assert "batch_norm" not in {layer.kind for layer in reg.layers}


def test_the_trace_has_no_effect_and_sees_cached_functions():
    class Jitted(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.jit(nn.Dense)(4)(nn.remat(nn.Dense)(4)(x))

    x = jnp.ones((2, 4))
    variables = Jitted().init(jax.random.key(0), x)
    Jitted().apply(variables, x)
    before = jax.tree.map(np.asarray, variables)
    for _ in range(2):
        reg = sr.of(variables, module=Jitted(), args=(x,))
        assert [row[0] for row in rows(reg)] == ["CheckpointDense_0", "JitDense_0"]
    assert jax.tree.all(jax.tree.map(np.array_equal, before, variables))


def test_a_subclass_counts_only_while_it_leaves_the_call_alone():
    class Renamed(nn.Dense):
        pass

    class Other(nn.Dense):
        @nn.compact
        def __call__(self, x):
            return x @ self.param("kernel", nn.initializers.ones, (x.shape[-1], self.features))

    class Both(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Other(2)(Renamed(2)(x))

    x = jnp.ones((1, 2))
    reg = sr.of(Both().init(jax.random.key(0), x), module=Both(), args=(x,))
    assert rows(reg) == [("Renamed_0", "linear", "Renamed", ("kernel", "bias"))]

    class NnxRenamed(nnx.Linear):
        pass

    class NnxOther(nnx.Linear):
        def __call__(self, x):
            return x @ self.kernel.T

    model = nnx.Dict({"a": NnxRenamed(2, 2, rngs=nnx.Rngs(0)), "b": NnxOther(2, 2, rngs=nnx.Rngs(0))})
    assert rows(sr.of(model)) == [("a", "linear", "NnxRenamed", ("kernel", "bias"))]


def test_prefixed_keys_have_no_layers(variables):
    assert sr.of(variables, module=Net(), args=(X,), prefix_collections=True).layers == ()


def test_layers_are_inferred_without_a_module(variables):
    reg = sr.of(variables)
    assert all(layer.inferred for layer in reg.layers)
    assert ("z_first/Conv_0", "conv") in [(layer.path, layer.kind) for layer in reg.layers]


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.z = nnx.Conv(2, 4, (3, 3), strides=2, padding=1, kernel_dilation=2, feature_group_count=2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, epsilon=1e-3, momentum=0.9, rngs=rngs)
        self.blocks = nnx.List([nnx.LayerNorm(4, rngs=rngs), nnx.Linear(4, 4, use_bias=False, rngs=rngs)])
        self.embed = nnx.Embed(5, 4, rngs=rngs)
        self.again = self.blocks[1]


def test_nnx_layers_come_from_the_types_in_the_order_of_declaration():
    reg = sr.of(NnxNet(nnx.Rngs(0)))
    assert rows(reg) == [
        ("z", "conv", "Conv", ("kernel", "bias")),
        ("norm", "batch_norm", "BatchNorm", ("scale", "bias", "mean", "var")),
        ("blocks/0", "layer_norm", "LayerNorm", ("scale", "bias")),
        ("again", "linear", "Linear", ("kernel",)),
        ("blocks/1", "linear", "Linear", ("kernel",)),
        ("embed", "embedding", "Embed", ("embedding",)),
    ]
    conv, norm, *_ = reg.layers
    assert conv.config == {
        "groups": 2, "kernel_size": (3, 3), "stride": (2, 2), "dilation": (2, 2), "padding": (1, 1, 1, 1),
        "padding_mode": "zeros",
    }  # fmt: skip
    assert norm.config == {"eps": 1e-3, "momentum": 0.1, "unbiased_var": False}


def test_a_kernel_of_another_kind_makes_no_layer():
    model = nnx.Dict({"odd": nnx.Linear(2, 2, rngs=nnx.Rngs(0))})
    model["odd"].kernel = nnx.BatchStat(jnp.ones((2, 2)))
    assert sr.of(model).layers == ()


def test_a_tied_variable_is_a_piece_of_both_layers():
    a, b = nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.Linear(2, 2, rngs=nnx.Rngs(1))
    b.kernel = a.kernel
    reg = sr.of(nnx.Dict({"a": a, "b": b}))
    assert [layer.roles["kernel"] for layer in reg.layers] == ["a/kernel", "b/kernel"]
    assert reg.aliases == {"b/kernel": "a/kernel"}


@pytest.mark.parametrize(("groups", "shape"), [(1, (3, 5, 4, 6)), (2, (3, 5, 2, 6))])
def test_the_declared_axes_are_those_of_the_frameworks(groups, shape):
    net = nn.Conv(6, (3, 5), feature_group_count=groups)
    x = jnp.ones((1, 8, 8, 4))
    linen = sr.of(net.init(jax.random.key(0), x), module=net, args=(x,))
    live = sr.of(nnx.Conv(4, 6, (3, 5), feature_group_count=groups, rngs=nnx.Rngs(0)))
    for reg, dialect in ((linen, LINEN), (live, NNX)):
        assert reg["kernel"].shape == shape
        piece = dialect.declaration("conv").piece("kernel")
        assert axes.bind(piece.axes, shape).sizes == {
            "spatial.0": 3, "spatial.1": 5, "in/groups": 4 // groups, "out": 6,
        }  # fmt: skip


@pytest.mark.parametrize("dialect", [LINEN, NNX])
def test_dialects_cover_every_kind_with_parts_of_known_roles(dialect):
    from stateregistry.layers.vocabulary import ROLES

    kinds = {row.kind for row in dialect.declarations}
    assert set(ROLES) - kinds == {"bilinear"}  # neither framework has it
    for row in dialect.declarations:
        roles = {role for piece in row.pieces for part in piece.parts for role in part.split("+")}
        assert roles <= set(ROLES[row.kind])
        assert len(roles) == sum(len(part.split("+")) for piece in row.pieces for part in piece.parts)
    assert (LINEN.parameter_tag, LINEN.buffer_tag) == ("params", "batch_stats")
    assert (NNX.parameter_tag, NNX.buffer_tag) == ("Param", "BatchStat")
