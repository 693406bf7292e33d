"""The table of config in code is that of the spec and of the formulas, and every adapter declares what its framework has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
import torch
from flax import nnx

import stateregistry as sr
import stateregistry_numpy
from stateregistry.errors import AxesError, UnsupportedError
from stateregistry.layers import config
from stateregistry.layers.vocabulary import ROLES, WRAPPERS, Layer, Piece
from stateregistry_conformance.formulas import FORMULAS, wrappers

SPEC = Path(__file__).resolve().parents[2] / "docs" / "spec"
S = 4
RNGS = nnx.Rngs(0)


def table() -> dict[str, tuple[set[str], set[str], set[str]]]:
    """The table of the spec: state, function, training, by kind or wrapper."""
    page = (SPEC / "0.1.md").read_text(encoding="utf-8")
    lines = page.split("| kind | state depends on |", 1)[1].split("\n\n", 1)[0]
    found = {}
    for line in lines.splitlines()[2:]:
        if not line.startswith("|"):
            break
        kind, *cells = line.strip().strip("|").split("|")
        state, function, training = (set(re.findall(r"`(\w+)`", cell)) for cell in cells)
        found[kind.replace("under", "").strip(" `")] = (state, function, training)
    return found


def by_matter(names: Any) -> tuple[set[str], set[str], set[str]]:
    return tuple(  # type: ignore[return-value]  # of three
        {name for name, matter in names.items() if matter == wanted} for wanted in ("state", "evaluation", "training")
    )


def test_the_table_is_that_of_the_spec() -> None:
    found = table()
    assert found.pop("in a stack") == (config.NOTES, set(), set())
    assert set(found) == {*ROLES, *WRAPPERS}
    ours = {kind: by_matter(names) for kind, names in {**config.CONFIG, **config.WRAPPER_CONFIG}.items()}
    assert ours == found


def test_the_table_is_that_of_the_formulas() -> None:
    assert config.CONFIG.keys() == FORMULAS.keys() == ROLES.keys()
    for kind, formula in FORMULAS.items():
        assert by_matter(config.CONFIG[kind]) == (formula.state, formula.function, formula.training)
    names = [name for rows in config.WRAPPER_CONFIG.values() for name in rows]
    assert set(names) == set(wrappers.STATE | wrappers.FUNCTION)


# ------------------------------------------------------------------------------------------------ declared by adapters


def linen(module: nn.Module, *inputs: Any) -> sr.StateRegistry:
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))
    return sr.of(shapes, module=module, args=inputs)


X, IMAGE, SEQUENCE = (np.zeros(shape, np.float32) for shape in ((2, S), (1, 9, 9, S), (2, 3, S)))


def run(cell: Any) -> nn.Module:
    return nn.RNN(cell)


class Spectral(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.SpectralNorm(nn.Dense(S))(x, update_stats=False)


def torch_wrapped(wrapper: str) -> torch.nn.Module:
    return getattr(torch.nn.utils.parametrizations, wrapper)(torch.nn.Linear(S, S))


TORCH = {
    "linear": lambda: torch.nn.Linear(S, S),
    "conv": lambda: torch.nn.Conv2d(S, S, 3),
    "conv_transpose": lambda: torch.nn.ConvTranspose2d(S, S, 3),
    "embedding": lambda: torch.nn.EmbeddingBag(S, S, max_norm=1.0),
    "batch_norm": lambda: torch.nn.BatchNorm2d(S),
    "instance_norm": lambda: torch.nn.InstanceNorm2d(S, affine=True, track_running_stats=True),
    "layer_norm": lambda: torch.nn.LayerNorm(S),
    "rms_norm": lambda: torch.nn.RMSNorm(S),
    "group_norm": lambda: torch.nn.GroupNorm(2, S),
    "attention": lambda: torch.nn.MultiheadAttention(S, 2),
    "lstm": lambda: torch.nn.LSTM(S, S),
    "gru": lambda: torch.nn.GRU(S, S),
    "rnn": lambda: torch.nn.RNN(S, S),
    "prelu": lambda: torch.nn.PReLU(),
    "bilinear": lambda: torch.nn.Bilinear(S, S, S),
    "weight_norm": lambda: torch_wrapped("weight_norm"),
    "spectral_norm": lambda: torch_wrapped("spectral_norm"),
}
LINEN = {
    "linear": lambda: linen(nn.Dense(S), X),
    "conv": lambda: linen(nn.Conv(S, (3, 3)), IMAGE),
    "conv_transpose": lambda: linen(nn.ConvTranspose(S, (3, 3)), IMAGE),
    "embedding": lambda: linen(nn.Embed(S, S), np.zeros(2, np.int32)),
    "batch_norm": lambda: linen(nn.BatchNorm(use_running_average=True), X),
    "instance_norm": lambda: linen(nn.InstanceNorm(), IMAGE),
    "layer_norm": lambda: linen(nn.LayerNorm(), X),
    "rms_norm": lambda: linen(nn.RMSNorm(), X),
    "group_norm": lambda: linen(nn.GroupNorm(2), X),
    "attention": lambda: linen(nn.MultiHeadDotProductAttention(2), SEQUENCE),
    "lstm": lambda: linen(run(nn.OptimizedLSTMCell(S)), SEQUENCE),
    "gru": lambda: linen(run(nn.GRUCell(S)), SEQUENCE),
    "rnn": lambda: linen(run(nn.SimpleCell(S)), SEQUENCE),
    "prelu": lambda: linen(nn.PReLU(), X),
    "weight_norm": lambda: linen(nn.WeightNorm(nn.Dense(S)), X),
    "spectral_norm": lambda: linen(
        Spectral(), X
    ),
}  # fmt: skip
NNX = {
    "linear": lambda: nnx.Linear(S, S, rngs=RNGS),
    "conv": lambda: nnx.Conv(S, S, (3, 3), rngs=RNGS),
    "conv_transpose": lambda: nnx.ConvTranspose(S, S, (3, 3), rngs=RNGS),
    "embedding": lambda: nnx.Embed(S, S, rngs=RNGS),
    "batch_norm": lambda: nnx.BatchNorm(S, rngs=RNGS),
    "instance_norm": lambda: nnx.InstanceNorm(S, rngs=RNGS),
    "layer_norm": lambda: nnx.LayerNorm(S, rngs=RNGS),
    "rms_norm": lambda: nnx.RMSNorm(S, rngs=RNGS),
    "group_norm": lambda: nnx.GroupNorm(S, num_groups=2, rngs=RNGS),
    "attention": lambda: nnx.MultiHeadAttention(2, S, decode=False, rngs=RNGS),
    "lstm": lambda: nnx.RNN(nnx.OptimizedLSTMCell(S, S, rngs=RNGS), rngs=RNGS),
    "gru": lambda: nnx.RNN(nnx.GRUCell(S, S, rngs=RNGS), rngs=RNGS),
    "rnn": lambda: nnx.RNN(nnx.SimpleCell(S, S, rngs=RNGS), rngs=RNGS),
    "prelu": lambda: nnx.PReLU(),
    "weight_norm": lambda: nnx.WeightNorm(nnx.Linear(S, S, rngs=RNGS), rngs=RNGS),
    "spectral_norm": lambda: nnx.SpectralNorm(nnx.Linear(S, S, rngs=RNGS), rngs=RNGS),
}
NUMPY = {
    "linear": lambda: stateregistry_numpy.Linear(S, S),
    "conv": lambda: stateregistry_numpy.Conv(S, S, (3, 3)),
    "embedding": lambda: stateregistry_numpy.Embedding(S, S),
    "batch_norm": lambda: stateregistry_numpy.BatchNorm(S),
    "layer_norm": lambda: stateregistry_numpy.LayerNorm(S),
}

_CALL = "causal"  # an argument of the call in every framework, or a mask
_SHORTENS = "max_norm norm_type"  # said where there is one; without it nothing is shortened
_FLAX = {
    "conv_transpose": "output_padding",  # what torch takes away of the output, Flax pads the dilated input with
    "embedding": _SHORTENS,
    "instance_norm": "momentum unbiased_var",  # Flax keeps no statistics of it
    "attention": _CALL,
}
#: What a framework does not have, by kind.
WITHOUT = {
    "torch": {
        "conv_transpose": "transpose_kernel",  # how Flax lays it out
        "attention": _CALL,
        "weight_norm": "weight_norm_eps",  # torch adds none: 0 where nothing is said
        "spectral_norm": "power_iterations spectral_norm_eps",  # torch does not iterate in evaluation
    },
    "linen": _FLAX,
    "nnx": _FLAX,
    "numpy": {"embedding": f"{_SHORTENS} padding_idx", "batch_norm": "momentum unbiased_var"},  # it does not train
}
CASES = [
    (framework, kind)
    for framework, made in (("torch", TORCH), ("linen", LINEN), ("nnx", NNX), ("numpy", NUMPY))
    for kind in made
]


@pytest.mark.parametrize(("framework", "kind"), CASES)
def test_every_value_that_a_framework_has_is_declared_under_its_neutral_name(framework: str, kind: str) -> None:
    made = {"torch": TORCH, "linen": LINEN, "nnx": NNX, "numpy": NUMPY}[framework][kind]()
    (layer,) = sr.of(made).layers
    wanted = set(config.WRAPPER_CONFIG[kind] if kind in WRAPPERS else config.CONFIG[kind])
    without = set(WITHOUT[framework].get(kind, "").split())
    assert without <= wanted, "a name that the spec does not have"
    assert set(layer.config) <= set(config.known(layer)), "a name of nobody's"
    missing = wanted - set(layer.config)
    # What a framework begins to declare leaves the list, but a value of the wrapper may come with its own release.
    assert missing <= without
    assert kind in WRAPPERS or missing == without


def test_every_kind_that_torch_and_flax_have_is_among_the_cases() -> None:
    assert set(TORCH) == {*ROLES, *WRAPPERS}
    assert set(LINEN) == set(NNX) == {*ROLES, *WRAPPERS} - {"bilinear"}


# ------------------------------------------------------------------------------------------------ contradictions


def layer(kind: str, *pieces: tuple[str, str, str], **values: Any) -> Layer:
    return Layer(kind, "", tuple(Piece(role, name, axes) for role, name, axes in pieces), config=values)


KERNEL = ("kernel", "k", "out in/groups *spatial")
CONTRARY = {
    "groups": (layer("conv", KERNEL, groups=3), {"k": (4, 2, 3)}, "groups=3 does not divide 4 (out): k has the shape"),
    "groups below one": (layer("conv", KERNEL, groups=-2), {"k": (4, 2, 3)}, "groups=-2"),
    "groups by the bias": (layer("conv", ("bias", "b", "out"), groups=3), {"b": (4,)}, "groups=3"),
    "kernel size": (layer("conv", KERNEL, kernel_size=(3, 5)), {"k": (4, 2, 5, 3)}, "kernel_size=(3, 5)"),
    "a stride too many": (layer("conv", KERNEL, stride=(1, 1)), {"k": (4, 2, 3)}, "stride=(1, 1)"),
    "heads": (
        layer("attention", ("query_kernel", "q", "(heads head_dim) in"), heads=3, head_dim=2), {"q": (8, 4)},
        "heads=3, head_dim=2: q has the shape (8, 4)",
    ),
    "heads that do not divide": (
        layer("attention", ("query_kernel", "q", "(heads head_dim) in"), heads=3), {"q": (8, 4)}, "heads=3: q",
    ),
    "normalised axes": (
        layer("layer_norm", ("scale", "s", "*features"), normalized_axes=1), {"s": (3, 4)}, "normalized_axes=1, and scale",
    ),
    "a row that is none": (
        layer("embedding", ("embedding", "e", "vocab features"), padding_idx=4), {"e": (4, 3)}, "padding_idx=4 is none of 4",
    ),
    "a wrapped kernel": (
        layer("conv_transpose", ("kernel_direction", "k", "in out/groups *spatial"), groups=3), {"k": (4, 2, 3)}, "groups=3",
    ),
    "a stack": (
        Layer(
            "conv", "", (Piece("kernel", "k", "(0|1:) out in/groups *spatial", part="0"),), config={"kernel_size": (5,)}
        ), {"k": (2, 4, 2, 3)},
        "kernel_size=(5,), and the kernel has (3,)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CONTRARY)
def test_a_contradiction_is_named_with_the_config_the_array_and_its_shape(what: str) -> None:
    one, shapes, text = CONTRARY[what]
    found = config.contradiction(one, shapes)
    assert text in found
    assert str(next(iter(shapes.values()))) in found


AGREEING = {
    "groups": (layer("conv", KERNEL, groups=2, kernel_size=(3,), stride=(1,), padding=(1, 2)), {"k": (4, 2, 3)}),
    "pairs": (layer("conv", KERNEL, padding=((1, 2), (0, 1))), {"k": (4, 2, 3, 3)}),
    "words": (layer("conv", KERNEL, padding="SAME", stride=2), {"k": (4, 2, 3, 3)}),
    "ten axes in order": (
        layer("conv", KERNEL, kernel_size=tuple(range(1, 12))), {"k": (1, 1, *range(1, 12))},
    ),
    "the bias of a transposed one": (layer("conv_transpose", ("bias", "b", "out"), groups=2), {"b": (3,)}),
    "more normalised axes than features": (
        layer("layer_norm", ("scale", "s", "*features"), normalized_axes=2), {"s": (3,)},
    ),
    "flat features": (layer("layer_norm", ("scale", "s", "(*features)"), normalized_axes=2), {"s": (12,)}),
    "another rank": (layer("conv", KERNEL, kernel_size=(3,)), {"k": (4,)}),
    "nothing said": (layer("conv", KERNEL), {"k": (4, 2, 3)}),
    "no row left out": (layer("embedding", ("embedding", "e", "vocab features"), padding_idx=None), {"e": (4, 3)}),
    "an array that is not there": (layer("conv", KERNEL, groups=3), {}),
    "shapes of nothing in the config": (layer("linear", ("kernel", "k", "(out.0 out.1) in")), {"k": (4, 3)}),
    "a flag is no number": (layer("conv", KERNEL, groups=True), {"k": (4, 2, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("what", AGREEING)
def test_what_does_not_contradict_is_left_alone(what: str) -> None:
    assert config.contradiction(*AGREEING[what]) == ""


def test_the_reference_refuses_a_contradiction_and_what_it_does_not_compute() -> None:
    conv = stateregistry_numpy.Conv(S, S, (3,))
    conv.config["groups"] = 3
    with pytest.raises(AxesError, match=r"\(the model\) \(Conv\): the config contradicts the state: groups=3"):
        _ = sr.of(conv).layers
    dilated = sr.convert(torch.nn.Conv1d(S, S, 3, dilation=2), to="numpy").target
    with pytest.raises(UnsupportedError, match="no dilation"):
        dilated(np.zeros((1, S, 9), np.float32))
    bag = sr.convert(torch.nn.EmbeddingBag(S, S, mode="sum"), to="numpy").target
    with pytest.raises(UnsupportedError, match="does not reduce"):
        bag(np.zeros((1, 2), np.int64))
