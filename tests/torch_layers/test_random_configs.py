"""Random configurations: every tensor is in exactly one piece, axes fit, and torch computes what the formulas compute."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations
from torch_cases import exported, known, native, old, randomised

import stateregistry as sr
from stateregistry_conformance.formulas import forward

few = settings(max_examples=40, deadline=None)
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def declared(module):
    """The layers of a module, with the check that they are all of it."""
    reg = sr.of(module)
    held = sorted(layer.key(piece) for layer in reg.layers for piece in layer.pieces)
    assert held == sorted(name.replace(".", "/") for name in native(module))
    return [(layer, exported(reg, layer), known(layer)) for layer in reg.layers]


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def agree(found, expected):
    expected = expected.detach().numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-11 * max(np.abs(expected).max(), 1.0)


@st.composite
def convolutions(data, types):
    """A convolution with any groups, sizes, strides, padding and dilation, wrapped or not."""
    rank = data(st.integers(1, 2))
    groups = data(st.integers(1, 3))
    numbers = {
        name: tuple(data(st.integers(low, high)) for _ in range(rank))
        for name, low, high in (("kernel_size", 1, 3), ("stride", 1, 3), ("padding", 0, 2), ("dilation", 1, 3))
    }
    if types is TRANSPOSED:
        pairs = zip(numbers["stride"], numbers["dilation"], strict=True)
        numbers["output_padding"] = tuple(data(st.integers(0, max(pair) - 1)) for pair in pairs)
        numbers["padding"] = tuple(
            min(p, k - 1) for p, k in zip(numbers["padding"], numbers["kernel_size"], strict=True)
        )
    each = data(st.integers(1, 3)), data(st.integers(1, 3))
    module = types[rank - 1](each[0] * groups, each[1] * groups, groups=groups, bias=data(st.booleans()), **numbers)
    return data(wrappings(module, rank + 2))


@st.composite
def wrappings(data, module, rank, names=("weight",)):
    """The module, or the module under one of the four wrappers, over any axis."""
    name = data(st.sampled_from(names))
    dim = data(st.integers(0, rank - 1))
    way = data(st.sampled_from(["none", "weight", "old weight", "spectral", "old spectral"]))
    if way in ("weight", "old weight"):
        dim = data(st.sampled_from([None, dim, dim - rank]))
    if way == "weight":
        return parametrizations.weight_norm(module, name, dim)
    if way == "old weight":
        return old(nn.utils.weight_norm, module, name=name, dim=dim)
    if way == "spectral":
        return parametrizations.spectral_norm(module, name, dim=dim)
    if way == "old spectral":
        return old(nn.utils.spectral_norm, module, name=name, dim=dim)
    return module


def check_convolution(module):
    ((layer, roles, config),) = declared(randomised(module))
    channels = module.in_channels
    x = draw(1, 2, *(9,) * len(config["kernel_size"]), channels)
    expected = module(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).moveaxis(1, -1)
    agree(forward(layer.kind, roles, config, [x])[0], expected)


@few
@given(convolutions(CONVS))
def test_a_convolution_of_any_configuration(module):
    check_convolution(module)


@few
@given(convolutions(TRANSPOSED))
def test_a_transposed_convolution_of_any_configuration(module):
    check_convolution(module)


@few
@given(
    st.integers(1, 3), st.integers(1, 3), st.booleans(), st.booleans(), st.booleans(),
    st.none() | st.integers(1, 5), st.none() | st.integers(1, 5),
)  # fmt: skip
def test_attention_of_any_configuration(heads, head_dim, bias, extra, zero, kdim, vdim):
    module = nn.MultiheadAttention(
        heads * head_dim,
        heads,
        bias=bias,
        add_bias_kv=extra,
        add_zero_attn=zero,
        kdim=kdim,
        vdim=vdim,
        batch_first=True,
    )
    ((_, roles, config),) = declared(randomised(module))
    inputs = [draw(1, 2, 3, heads * head_dim), draw(2, 2, 4, module.kdim), draw(3, 2, 4, module.vdim)]
    expected = module(*(torch.from_numpy(x) for x in inputs), need_weights=False)[0]
    agree(forward("attention", roles, config, inputs)[0], expected)


@st.composite
def stacks(data):
    """A recurrent module of any number of layers and directions, projected or not, its recurrent weights normed or not."""
    cls = data(st.sampled_from([nn.LSTM, nn.GRU, nn.RNN]))
    hidden = data(st.integers(2, 4))
    options = {
        "num_layers": data(st.integers(1, 3)), "bias": data(st.booleans()), "bidirectional": data(st.booleans()),
        "batch_first": True,
    }  # fmt: skip
    if cls is nn.LSTM:
        options["proj_size"] = data(st.integers(0, hidden - 1))
    if cls is nn.RNN:
        options["nonlinearity"] = data(st.sampled_from(["tanh", "relu"]))
    module = cls(data(st.integers(1, 3)), hidden, **options)
    if data(st.booleans()):
        name = data(st.sampled_from([f"weight_{which}_l0" for which in ("ih", "hh")]))
        module = old(nn.utils.weight_norm, module, name=name)
    return module


@few
@given(stacks())
def test_a_recurrent_module_of_any_configuration(module):
    layers = declared(randomised(module))
    x = draw(1, 2, 3, module.input_size)
    expected = module(torch.from_numpy(x))[0]
    ways = 2 if module.bidirectional else 1
    assert len(layers) == ways * module.num_layers
    y = x
    for number in range(module.num_layers):
        both = layers[ways * number : ways * number + ways]
        y = np.concatenate([forward(layer.kind, roles, config, [y])[0] for layer, roles, config in both], axis=-1)
    agree(y, expected)


@few
@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.booleans(), st.sampled_from([nn.LayerNorm, nn.RMSNorm]))
def test_a_norm_over_any_number_of_axes(shape, bias, cls):
    module = cls(shape, **({"bias": bias} if cls is nn.LayerNorm else {"eps": 1e-3}))
    ((layer, roles, config),) = declared(randomised(module))
    x = draw(1, 2, *shape)
    agree(forward(layer.kind, roles, config, [x])[0], module(torch.from_numpy(x)))
