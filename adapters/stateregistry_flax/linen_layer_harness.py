"""Layers of Linen for the conformance suite: modules with their variables, made and applied as Flax does.

A `LinenLayer` is what `sr.of` is given: variables, the module and its arguments. Nothing but `registry` of the harness goes
through the adapter. Imports JAX, Flax and the suite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, final

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from stateregistry_conformance.harness import Specimen
from stateregistry_conformance.trials.case import LayerCase
from stateregistry_flax import layer_options as options
from stateregistry_flax.native import cannot_build


@final
@dataclass(frozen=True, slots=True)
class LinenLayer:
    """A module, what it is called with, its variables, and `module.apply`, compiled."""

    module: nn.Module
    args: tuple[Any, ...]
    variables: Mapping[str, Any]
    apply: Callable[..., Any]


class Normed(nn.Module):
    """A layer in a wrapper."""

    wrapper: Any
    inner: Callable[[], nn.Module]
    given: tuple[tuple[str, Any], ...] = ()
    call: tuple[tuple[str, Any], ...] = ()

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """The wrapped layer."""
        return self.wrapper(self.inner(), **dict(self.given))(x, **dict(self.call))


class Scanned(nn.Module):
    """Layers that share their arrays, applied one after the other."""

    inner: Callable[[], nn.Module]
    length: int
    axis: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """The last of them."""
        scan: Any = nn.scan(
            lambda layer, x, _: (layer(x), None), variable_axes={"params": self.axis}, split_rngs={"params": True},
            length=self.length,
        )  # fmt: skip
        return scan(self.inner(), x, None)[0]


class Deep(nn.Module):
    """Recurrent layers one after the other, in one direction or both."""

    cell: Callable[[], Any]
    depth: int
    directions: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """The outputs of the last."""
        for _ in range(self.depth):
            runs: list[Any] = [nn.RNN(self.cell()) for _ in range(self.directions)]
            x = nn.Bidirectional(runs[0], runs[1])(x) if self.directions == 2 else runs[0](x)
        return x


def _made(case: LayerCase, asked: dict[str, Any]) -> Callable[..., nn.Module]:
    """A function that makes the module of a single layer."""
    size, out = case.spatial, case.sizes.get("out", 0)
    if case.kind == "linear":
        features = case.family("out")
        cls: Any = nn.Dense if len(features) == 1 else nn.DenseGeneral
        return lambda **n: cls(features[0] if len(features) == 1 else features, use_bias=case.has("bias"), **n)
    if case.kind == "conv":
        given = options.conv(case, asked)
        return lambda **n: nn.Conv(out, size, **given, **n)
    if case.kind == "conv_transpose":
        given = options.conv_transpose(case, asked)
        return lambda **n: nn.ConvTranspose(out, size, **given, **n)
    if case.kind == "embedding":
        return lambda **n: nn.Embed(case.sizes["vocab"], case.sizes["features"], **n)
    if case.kind == "prelu":
        if "slopes" in case.roles:
            cannot_build("PReLU of Flax has one slope")
        return nn.PReLU
    if case.kind == "attention":
        given = options.attention(case, asked)
        return lambda **n: nn.MultiHeadDotProductAttention(**given, **n)
    norms = {"batch_norm": nn.BatchNorm, "instance_norm": nn.InstanceNorm, "layer_norm": nn.LayerNorm,
             "rms_norm": nn.RMSNorm, "group_norm": nn.GroupNorm}  # fmt: skip
    norm: Any = norms.get(case.kind)
    if norm is not None:
        given = options.norm(case, asked)
        return lambda **n: norm(**given, **n)
    return _cell(case, asked)


def _cell(case: LayerCase, asked: dict[str, Any]) -> Callable[..., Any]:
    reverse = bool(asked.pop("reverse", False))
    # Both LSTM cells are tried: the plain one where something is asked for that both have.
    lstm = nn.LSTMCell if asked or reverse else nn.OptimizedLSTMCell
    cls: Any = {"lstm": lstm, "gru": nn.GRUCell, "rnn": nn.SimpleCell}.get(case.kind)
    if cls is None:
        cannot_build(f"Flax has no {case.kind}")
    given = options.cell(case, asked)

    def make(**n: Any) -> Any:
        return cls(case.sizes["hidden"], **given, **n)

    if case.depth * case.directions > 1:
        return lambda **n: Deep(make, case.depth, case.directions, **n)
    return lambda **n: nn.RNN(make(), reverse=reverse, keep_order=True, **n)


def build(case: LayerCase, /) -> LinenLayer:
    """The module of a case, with variables of zeros.

    Raises:
        CannotBuild: Linen has no such layer, or not with such config.
    """
    if repr(case) not in _MADE:
        module = _module(case)
        _MADE[repr(case)] = _of_zeros(module, options.native_inputs(case.inputs))
    return _MADE[repr(case)]


#: What was made for a case: values, which nobody changes, so that nothing is compiled twice.
_MADE: Final[dict[str, LinenLayer]] = {}


def _module(case: LayerCase) -> nn.Module:
    asked = dict(case.config)
    wrapper = {name: asked.pop(name) for name in ("weight_norm_dim", "spectral_norm") if name in asked}
    laid_out = bool(asked.get("transpose_kernel", False))
    make = _made(case, asked)
    options.finished(asked, case.kind)
    module = make()
    if case.stacked:
        module = Scanned(make, case.depth, 1 if case.depth == 4 else 0)
    elif "weight_norm_dim" in wrapper:
        kept = options.kept(case, str(wrapper["weight_norm_dim"]), laid_out=laid_out)
        module = Normed(nn.WeightNorm, lambda: make(name="inner"), (("feature_axes", kept),))
    elif wrapper:
        module = Normed(nn.SpectralNorm, lambda: make(name="inner"), call=(("update_stats", False),))
    return module


def _of_zeros(module: nn.Module, args: Sequence[Any]) -> LinenLayer:
    shapes = jax.eval_shape(lambda: module.init({"params": jax.random.key(0)}, *args))
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    # Variables have a collection of parameters, also where a module has none.
    return LinenLayer(module, tuple(args), {"params": {}, **variables}, jax.jit(module.apply))


def forward(model: LinenLayer, inputs: Sequence[np.ndarray], /) -> np.ndarray:
    """What the module computes."""
    return np.array(model.apply(model.variables, *options.native_inputs(inputs)))


class Doubled(nn.Dense):
    """Computes twice what its base does."""

    @nn.compact
    def __call__(self, inputs: Any) -> Any:
        """Twice the product."""
        return 2 * super().__call__(inputs)


class Lookalike(nn.Module):
    """Has what a linear layer has, and is none."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Something else."""
        kernel = self.param("kernel", nn.initializers.ones, (4, 4))
        return (x + self.param("bias", nn.initializers.ones, (4,))) @ kernel


class Beside(nn.Module):
    """A linear layer, and a table of its shape."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Both."""
        return nn.Dense(4, name="layer")(x) + self.param("kernel", nn.initializers.ones, (4, 4))


def odd(name: str, /) -> Specimen:
    """One of the modules that look like a layer.

    Raises:
        CannotBuild: Linen cannot be made to hold such a thing.
    """
    x = jnp.ones((4, 4))
    if name == "undeclared":
        return Specimen(_of_zeros(Lookalike(), [x]), ("bias", "kernel"))
    if name == "overridden":
        return Specimen(_of_zeros(Doubled(4), [x]), ("bias", "kernel"))
    if name == "bare":
        return Specimen(_of_zeros(Beside(), [x]), ("kernel",))
    if name == "contradiction":
        made = _of_zeros(nn.MultiHeadDotProductAttention(2, qkv_features=4), [x, x])
        wrong = nn.MultiHeadDotProductAttention(4, qkv_features=4)
        return Specimen(replace(made, module=wrong), ("query/kernel", "out/kernel"))
    return cannot_build("an array of Linen holds one role")


#: The layer kinds of Linen, and its wrappers.
KINDS: Final = options.KINDS
