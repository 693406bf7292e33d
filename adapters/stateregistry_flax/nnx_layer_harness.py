"""Layers of NNX for the conformance suite: modules made and called as Flax does, without a line of the adapter.

What a case asks for and NNX does not have is refused, never left out. Imports JAX, Flax and the suite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stateregistry_conformance.harness import Specimen
from stateregistry_conformance.trials.case import LayerCase
from stateregistry_flax import layer_options as options
from stateregistry_flax.native import cannot_build

Make = Callable[[nnx.Rngs], nnx.Module]


class Scanned(nnx.Module):
    """Layers that share their arrays, applied one after the other."""

    def __init__(self, make: Make, depth: int) -> None:
        keys = jax.random.split(jax.random.key(0), depth)
        self.stack = nnx.vmap(lambda key: make(nnx.Rngs(key)), in_axes=0, out_axes=0)(keys)

    def __call__(self, x: Any) -> Any:
        """The last of them."""

        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def run(layer: Any, x: Any) -> Any:
            return layer(x)

        return run(self.stack, x)


class Deep(nnx.Module):
    """Recurrent layers one after the other, in one direction or both."""

    def __init__(self, cell: Callable[[int, nnx.Rngs], Any], case: LayerCase, rngs: nnx.Rngs) -> None:
        width, runs = case.sizes["in"], []
        for _ in range(case.depth):
            each = [nnx.RNN(cell(width, rngs)) for _ in range(case.directions)]
            runs.append(nnx.Bidirectional(*each) if case.directions == 2 else each[0])
            width = case.sizes["hidden"] * case.directions
        self.runs = nnx.List(runs)

    def __call__(self, x: Any) -> Any:
        """The outputs of the last."""
        for run in self.runs:
            x = run(x)
        return x


def _made(case: LayerCase, asked: dict[str, Any]) -> Make:
    """A function that makes the module of a single layer."""
    size, given, sizes = case.spatial, {}, case.sizes
    if case.kind == "linear":
        features = case.family("out")
        cls: Any = nnx.Linear if len(features) == 1 else nnx.LinearGeneral
        out = features[0] if len(features) == 1 else features
        return lambda rngs: cls(sizes["in"], out, use_bias=case.has("bias"), rngs=rngs)
    if case.kind == "conv":
        given = options.conv(case, asked)
        return lambda rngs: nnx.Conv(sizes["in"], sizes["out"], size, **given, rngs=rngs)
    if case.kind == "conv_transpose":
        given = options.conv_transpose(case, asked)
        return lambda rngs: nnx.ConvTranspose(sizes["in"], sizes["out"], size, **given, rngs=rngs)
    if case.kind == "embedding":
        return lambda rngs: nnx.Embed(sizes["vocab"], sizes["features"], rngs=rngs)
    if case.kind == "prelu":
        if "slopes" in case.roles:
            cannot_build("PReLU of Flax has one slope")
        return lambda _: nnx.PReLU()
    if case.kind == "attention":
        return _attention(case, asked)
    norms = {"batch_norm": nnx.BatchNorm, "instance_norm": nnx.InstanceNorm, "layer_norm": nnx.LayerNorm,
             "rms_norm": nnx.RMSNorm, "group_norm": nnx.GroupNorm}  # fmt: skip
    norm: Any = norms.get(case.kind)
    if norm is not None:
        given = options.norm(case, asked)
        width = int(np.prod(case.family("features")))
        return lambda rngs: norm(width, **given, rngs=rngs)
    return _cell(case, asked)


def _attention(case: LayerCase, asked: dict[str, Any]) -> Make:
    if case.sizes["key_in"] != case.sizes["value_in"]:
        cannot_build("attention of NNX has one number of features for key and value")
    given = options.attention(case, asked)
    return lambda rngs: nnx.MultiHeadAttention(
        in_features=case.sizes["in"], in_kv_features=case.sizes["key_in"], **given, decode=False, rngs=rngs
    )


def _cell(case: LayerCase, asked: dict[str, Any]) -> Make:
    reverse = bool(asked.pop("reverse", False))
    # Both LSTM cells are tried: the plain one where something is asked for that both have.
    lstm = nnx.LSTMCell if asked or reverse else nnx.OptimizedLSTMCell
    cls: Any = {"lstm": lstm, "gru": nnx.GRUCell, "rnn": nnx.SimpleCell}.get(case.kind)
    if cls is None:
        cannot_build(f"Flax has no {case.kind}")
    given = options.cell(case, asked)

    def cell(width: int, rngs: nnx.Rngs) -> Any:
        return cls(width, case.sizes["hidden"], **given, rngs=rngs)

    if case.depth * case.directions > 1:
        return lambda rngs: Deep(cell, case, rngs)
    return lambda rngs: nnx.RNN(cell(case.sizes["in"], rngs), reverse=reverse, keep_order=True)


#: What was made for a case, as structure and state: nothing is made or compiled twice.
_MADE: Final[dict[str, tuple[Any, Any]]] = {}


def build(case: LayerCase, /) -> Any:
    """The module of a case, with variables of zeros.

    Raises:
        CannotBuild: NNX has no such layer, or not with such config.
    """
    if repr(case) not in _MADE:
        # Abstractly, but for a wrapper, whose bare arrays an abstract module does not have.
        wrapped = "weight_norm_dim" in case.config
        _MADE[repr(case)] = nnx.split(_module(case) if wrapped else nnx.eval_shape(lambda: _module(case)))
    structure, state = _MADE[repr(case)]
    return nnx.merge(structure, jax.tree.map(_zeros, state))


def _zeros(leaf: Any) -> Any:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    return jnp.zeros(leaf.shape, leaf.dtype)


def _module(case: LayerCase) -> Any:
    asked, rngs = dict(case.config), nnx.Rngs(0)
    wrapper = {name: asked.pop(name) for name in ("weight_norm_dim", "spectral_norm") if name in asked}
    laid_out = bool(asked.get("transpose_kernel", False))
    make = _made(case, asked)
    options.finished(asked, case.kind)
    if case.stacked:
        if case.depth in case.sizes.values():
            cannot_build("nothing in NNX says which axis of a stack counts, where sizes are equal")
        return Scanned(make, case.depth)
    if "weight_norm_dim" in wrapper:
        kept = options.kept(case, str(wrapper["weight_norm_dim"]), laid_out=laid_out)
        return nnx.WeightNorm(make(rngs), feature_axes=kept, rngs=rngs)
    return nnx.SpectralNorm(make(rngs), rngs=rngs) if wrapper else make(rngs)


@partial(jax.jit, static_argnums=0)
def _called(structure: Any, state: Any, *inputs: Any) -> Any:
    model: Any = nnx.merge(structure, state)
    given = {"update_stats": False} if isinstance(model, nnx.SpectralNorm) else {}
    return model(*inputs, **given)


def forward(model: Any, inputs: Sequence[np.ndarray], /) -> np.ndarray:
    """What the module computes."""
    structure, state = nnx.split(model)
    return np.array(_called(structure, state, *options.native_inputs(inputs)))


class Doubled(nnx.Linear):
    """Computes twice what its base does."""

    def __call__(self, inputs: Any, out_sharding: Any = None) -> Any:
        """Twice the product."""
        return 2 * super().__call__(inputs, out_sharding)


class Lookalike(nnx.Module):
    """Has what a linear layer has, and is none."""

    def __init__(self) -> None:
        self.kernel = nnx.Param(jnp.ones((4, 4)))
        self.bias = nnx.Param(jnp.ones(4))


class Beside(nnx.Module):
    """A linear layer, and a table of its shape."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layer = nnx.Linear(4, 4, rngs=rngs)
        self.kernel = nnx.Param(jnp.ones((4, 4)))


def odd(name: str, /) -> Specimen:
    """One of the modules that look like a layer."""
    rngs = nnx.Rngs(0)
    if name == "undeclared":
        return Specimen(Lookalike(), ("bias", "kernel"))
    if name == "overridden":
        return Specimen(Doubled(4, 4, rngs=rngs), ("bias", "kernel"))
    if name == "bare":
        return Specimen(Beside(rngs), ("kernel",))
    if name == "contradiction":
        wrong = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)
        wrong.num_heads = wrong.num_kv_heads = 3
        return Specimen(wrong, ("out/kernel", "query/kernel"))
    normed = nnx.WeightNorm(nnx.OptimizedLSTMCell(4, 4, rngs=rngs), feature_axes=0, rngs=rngs)
    return Specimen(normed, ("layer_instance/dense_h/kernel", "layer_instance/dense_i/kernel"))


#: The layer kinds of NNX, and its wrappers.
KINDS: Final = options.KINDS
