"""What is no layer: other functions of the same arrays, and modules whose variables are not those that are stored."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import S, assert_close, data, opened
from flax import nnx

import stateregistry as sr
from stateregistry_flax.contraction import contracted


def kinds(reg: sr.StateRegistry) -> list[tuple[str, str]]:
    return [(layer.path, layer.kind) for layer in reg.layers]


class Holder(nn.Module):
    """One module under a name."""

    make: Any

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return self.make()(x)


MASK = jnp.tril(jnp.ones((3, S, S)))

LINEN = {
    "a local convolution": lambda: nn.ConvLocal(S, (3,), name="m"),
    "a masked convolution": lambda: nn.Conv(S, (3,), mask=MASK, name="m"),
    "a masked transposed convolution": lambda: nn.ConvTranspose(S, (3,), mask=MASK, name="m"),
    "a matrix for each place": lambda: nn.DenseGeneral(S, batch_dims=0, name="m"),
    "an equation with a batch": lambda: nn.Einsum((5, S, S), "btc,tcd->btd", name="m"),
    "an equation of the call": lambda: lambda x: nn.Einsum((S, S), name="m")(x, "btc,cd->btd"),
}


@pytest.mark.parametrize("what", LINEN)
def test_another_function_of_the_same_arrays_is_no_layer(what: str) -> None:
    reg = opened(Holder(LINEN[what]), data(2, 5, S))
    assert list(reg) == ["m/bias", "m/kernel"]
    assert reg.layers == ()


NNX = {
    "a masked convolution": lambda rngs: nnx.Conv(S, S, (3,), mask=MASK, rngs=rngs),
    "a masked transposed convolution": lambda rngs: nnx.ConvTranspose(S, S, (3,), mask=MASK, rngs=rngs),
    "a matrix for each place": lambda rngs: nnx.LinearGeneral(S, S, batch_axis={0: 2}, rngs=rngs),
    "an equation with a batch": lambda rngs: nnx.Einsum("btc,tcd->btd", (5, S, S), (5, S), rngs=rngs),
    "a bias of another shape": lambda rngs: nnx.Einsum("bt,tcd->bcd", (S, S, S), (S * S,), rngs=rngs),
}


@pytest.mark.parametrize("what", NNX)
def test_another_function_of_the_same_arrays_is_no_layer_in_nnx(what: str) -> None:
    assert sr.of(nnx.Dict({"m": NNX[what](nnx.Rngs(0))})).layers == ()


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("...i,io->...o", ("in out", "out", True)),
        ("...i,oi->...o", ("out in", "out", True)),
        ("b i j, k j i -> b k", ("out in.1 in.0", "out", True)),
        ("bij,ijk->bk", ("in.0 in.1 out", "out", True)),
        ("bi,kli->blk", ("out.1 out.0 in", "out.0 out.1", True)),
        ("ib,io->bo", ("in out", "out", False)),
        ("bi,io->ob", ("in out", "out", False)),
        ("bi,bio->bo", None),
        ("bi,iko->bo", None),
        ("bic,io->bo", None),
        ("abi,io->bao", None),
        ("bii,io->bo", None),
        ("bi,i->b", None),
        ("b,o->bo", None),
        ("bi,...io->bo", None),
    ],
)
def test_which_equations_are_plain_contractions(equation: str, expected: Any) -> None:
    assert contracted(equation) == expected


def test_changed_variables_are_not_those_that_are_stored() -> None:
    """A square kernel transposed on the way in looks like one that is not."""

    def turned(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.T, tree)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            changed = nn.map_variables(nn.Dense, "params", turned, turned, init=self.is_initializing())
            x = changed(S, name="by_class")(x)
            inner = nn.Dense(S, name="by_function")
            x = nn.map_variables(lambda m, x: m(x), "params", turned, turned, init=self.is_initializing())(inner, x)
            return nn.Dense(S, name="plain")(nn.jit(nn.Dense)(S, name="jitted")(x))

    assert kinds(opened(Net(), data(2, S))) == [("jitted", "linear"), ("plain", "linear")]


def test_a_cell_without_a_declaration_is_none_and_its_dense_layers_are_layers() -> None:
    x, h = data(2, S), data(2, S, seed=1)
    reg = opened(nn.MGUCell(S), h, x)
    assert {kind for _, kind in kinds(reg)} == {"linear"}


def test_grouped_queries_are_four_linear_layers() -> None:
    model = nnx.MultiHeadAttention(4, 8, 8, 8, num_kv_heads=2, decode=False, rngs=nnx.Rngs(0))
    layers = {layer.path: layer for layer in sr.of(model).layers}
    assert {path: (layer.kind, layer.pieces[0].axes) for path, layer in layers.items()} == {
        "query": ("linear", "in out.0 out.1"), "key": ("linear", "in out.0 out.1"), "value": ("linear", "in out.0 out.1"),
        "out": ("linear", "in.0 in.1 out"),
    }  # fmt: skip


def test_norms_of_queries_and_keys_are_layers_besides() -> None:
    x = data(2, 3, S)
    module = nn.MultiHeadDotProductAttention(2, normalize_qk=True)
    reg = opened(module, x)
    assert kinds(reg) == [("", "attention"), ("query_ln", "layer_norm"), ("key_ln", "layer_norm")]
    model = nnx.MultiHeadAttention(2, S, normalize_qk=True, decode=False, rngs=nnx.Rngs(0))
    done = sr.convert(reg, model)
    assert_close(np.asarray(done.target(x)), np.asarray(module.apply(reg.unwrap(), x)))


def test_self_attention_and_its_renamed_twins_are_attention() -> None:
    x = data(2, 3, S)
    assert kinds(opened(nn.MultiHeadAttention(2), x)) == [("", "attention")]
    with pytest.warns(DeprecationWarning, match="SelfAttention"):
        (layer,) = opened(nn.SelfAttention(2, use_bias=False), x).layers
    assert (layer.kind, layer.config["head_dim"]) == ("attention", 2)
    assert {piece.role for piece in layer.pieces} == {f"{name}_kernel" for name in ("query", "key", "value", "out")}


def test_what_a_module_does_not_use_is_no_piece_of_it() -> None:
    module, x = nn.Dense(S, use_bias=False), data(2, S)
    variables = module.init(jax.random.key(0), x)
    variables = {"params": {**variables["params"], "bias": jnp.zeros(S)}}
    (layer,) = sr.of(variables, module=module, args=(x,)).layers
    assert dict(layer.roles) == {"kernel": "kernel"}


def test_norms_without_a_scale_or_a_bias_have_what_they_have() -> None:
    x = data(2, S, S)
    for options, roles in (({"use_scale": False}, {"bias"}), ({"use_bias": False}, {"scale"})):
        for native in (nn.LayerNorm, nn.InstanceNorm):
            assert set(opened(native(**options), x).layers[0].roles) == roles
        norm = opened(nn.BatchNorm(use_running_average=True, **options), x)
        assert set(norm.layers[0].roles) == {*roles, "mean", "var"}
        live = nnx.Dict({"n": nnx.LayerNorm(S, **options, rngs=nnx.Rngs(0))})
        assert set(sr.of(live).layers[0].roles) == roles


def test_axes_that_are_not_the_last_are_told() -> None:
    x = data(2, S, S)
    (norm,) = opened(nn.LayerNorm(reduction_axes=(1, 2), feature_axes=-1), x).layers
    assert norm.config == {"eps": 1e-6, "reduction_axes": (1, 2), "feature_axes": (-1,)}
    (linear,) = opened(nn.DenseGeneral(S, axis=1), x).layers
    assert linear.config == {"axis": (1,)}
    (einsum,) = opened(nn.Einsum((S, S), "abc,bd->acd"), x).layers
    assert einsum.config == {"einsum": "abc,bd->acd"}


def test_cells_say_in_which_direction_they_run() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            forward, backward = nn.GRUCell(S, name="there"), nn.GRUCell(S, name="back")
            x = nn.Bidirectional(nn.RNN(forward), nn.RNN(backward))(x)
            return nn.RNN(nn.SimpleCell(S, name="reversed"), reverse=True)(x)

    x = data(2, 3, S)
    reverse = {layer.path: layer.config["reverse"] for layer in opened(Net(), x).layers}
    assert reverse == {"there": False, "back": True, "reversed": True}

    def rnn(**options: Any) -> Any:
        return nnx.RNN(nnx.GRUCell(S, S, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0), **options)

    model = nnx.Dict({"both": nnx.Bidirectional(rnn(), rnn(), rngs=nnx.Rngs(0)), "one": rnn(reverse=True)})
    reverse = {layer.path: layer.config["reverse"] for layer in sr.of(model).layers}
    assert reverse == {"both/forward_rnn/cell": False, "both/backward_rnn/cell": True, "one/cell": True}


def test_a_layer_norm_over_several_axes_is_flat_in_nnx_and_not_in_linen() -> None:
    options = {"reduction_axes": (-2, -1), "feature_axes": (-2, -1)}
    x = data(2, 3, S)
    module, model = nn.LayerNorm(**options), nnx.LayerNorm(3 * S, **options, rngs=nnx.Rngs(0))
    source = opened(module, x)
    assert source["scale"].shape == (3, S)
    done = sr.convert(source, model)
    assert_close(np.asarray(done.target(x)), np.asarray(module.apply(source.unwrap(), x)))
    back = sr.convert(done.target, opened(module, x))
    assert sr.of(back.target).read("scale").tobytes() == source.read("scale").tobytes()
