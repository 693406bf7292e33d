"""What torch computes is what the formula of the kind computes from the exported roles: the declared layouts are right.

Torch computes in float64 and must agree to 1e-11 of the scale. The formulas are written from definitions, not from torch.
Errors that no shape shows (swapped gates, thirds, heads, a missing transpose) are seeded and must be far off.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch_cases import CASES, EVERY, exported, known, randomised

import stateregistry as sr
from stateregistry_conformance.formulas import Named, forward


def draw(*shape):
    return np.random.default_rng(11).standard_normal(shape)


def distance(found, expected):
    """As a part of the scale."""
    expected = expected.detach().numpy()
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def channels_first(module, x):
    return module(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).detach().moveaxis(1, -1)


def layers_of(module):
    """Kind, roles and config of every layer of a module, by path."""
    reg = sr.of(module)
    return {layer.path: (layer.kind, exported(reg, layer), known(layer)) for layer in reg.layers}


def stacked(layers, x):
    """What a stack of recurrent layers computes: each on the outputs of both directions of the one before."""
    below: dict[int, list] = {}
    for path, layer in layers.items():
        below.setdefault(int(path.removeprefix("l").partition("_")[0]) if path else 0, []).append(layer)
    for number in sorted(below):
        x = np.concatenate([forward(kind, roles, config, [x])[0] for kind, roles, config in below[number]], axis=-1)
    return x


def inputs_of(module):
    """Inputs, channels last, that a module of a case takes."""
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return [np.array([[0, 3, 1], [2, 2, 3]])]
    if isinstance(module, nn.Bilinear):
        return [draw(3, 4), draw(2, 3, 4)[1]]
    if isinstance(module, nn.MultiheadAttention):
        return [draw(2, 3, 4), draw(2, 5, module.kdim), draw(2, 5, module.vdim)]
    if isinstance(module, nn.RNNBase):
        return [draw(2, 5, 4)]
    if isinstance(module, nn.RNNCellBase):
        return [draw(2, 1, 4), *[draw(2 + n, 4)[n:] for n in range(2 if isinstance(module, nn.LSTMCell) else 1)]]
    spatial = {"1d": 1, "2d": 2, "3d": 3}
    rank = next((rank for name, rank in spatial.items() if name in type(module).__name__), 0)
    if isinstance(module, (nn.GroupNorm, nn.SyncBatchNorm)):
        rank = 2
    return (
        [draw(2, *(9,) * rank, 4)]
        if rank
        else [draw(3, 4, 4) if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) else draw(3, 4)]
    )


def computed(module, layers, inputs):
    """What torch computes, and what the formulas make of the roles."""
    tensors = [torch.from_numpy(x.copy()) for x in inputs]
    ((kind, roles, config), *_) = layers.values()
    if isinstance(module, nn.RNNBase):
        return module(*tensors)[0], stacked(layers, inputs[0])
    if isinstance(module, nn.RNNCellBase):
        state = tuple(tensors[1:]) if len(tensors) > 2 else tensors[1]
        made = module(tensors[0][:, 0], state)
        native = torch.cat(made if isinstance(made, tuple) else (made,), -1)
        return native, np.concatenate(forward(kind, roles, config, inputs)[1:], -1)
    found = forward(kind, roles, config, inputs)[0]
    if isinstance(module, nn.MultiheadAttention):
        return module(*tensors, need_weights=False)[0], found
    if inputs[0].ndim > 3 or kind in ("conv", "conv_transpose", "instance_norm", "batch_norm"):
        return channels_first(module, inputs[0]), found
    return module(*tensors), found


@pytest.mark.parametrize("case", EVERY)
def test_torch_computes_what_the_formula_makes_of_the_roles(case):
    module = randomised(case.make())
    native, found = computed(module, layers_of(module), inputs_of(module))
    assert distance(found, native) < 1e-11


# ------------------------------------------------------------------------------------------------------------ composed


def attended(layers, path, query, other=None):
    kind, roles, config = layers[path]
    return forward(kind, roles, config, [query] if other is None else [query, other])[0]


def applied(layers, path, x):
    kind, roles, config = layers[path]
    return forward(kind, roles, config, [x])[0]


def fed_forward(layers, x):
    return applied(layers, "linear2", np.maximum(applied(layers, "linear1", x), 0))


@pytest.mark.parametrize("first", [False, True])
def test_an_encoder_layer_is_its_parts(first):
    module = randomised(nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0, batch_first=True, norm_first=first))
    x = draw(2, 5, 4)
    layers = layers_of(module)
    assert list(layers) == ["self_attn", "linear1", "linear2", "norm1", "norm2"]
    if first:
        normed = applied(layers, "norm1", x)
        y = x + attended(layers, "self_attn", normed)
        y = y + fed_forward(layers, applied(layers, "norm2", y))
    else:
        y = applied(layers, "norm1", x + attended(layers, "self_attn", x))
        y = applied(layers, "norm2", y + fed_forward(layers, y))
    assert distance(y, module(torch.from_numpy(x))) < 1e-11


def test_a_decoder_layer_is_its_parts():
    module = randomised(nn.TransformerDecoderLayer(4, 2, 4, dropout=0.0, batch_first=True))
    x, memory = draw(2, 5, 4), draw(2, 3, 4)
    layers = layers_of(module)
    assert list(layers) == ["self_attn", "multihead_attn", "linear1", "linear2", "norm1", "norm2", "norm3"]
    y = applied(layers, "norm1", x + attended(layers, "self_attn", x))
    y = applied(layers, "norm2", y + attended(layers, "multihead_attn", y, memory))
    y = applied(layers, "norm3", y + fed_forward(layers, y))
    assert distance(y, module(torch.from_numpy(x), torch.from_numpy(memory))) < 1e-11


# -------------------------------------------------------------------------------------------------------- seeded errors


def transposed(named):
    """The same names over the axes in another order: what a forgotten transpose of a square array gives."""
    return Named(named.array, named.axes[::-1])


def flipped(named):
    over = [axis for axis, name in enumerate(named.axes) if name.startswith("spatial")]
    return Named(np.flip(named.array, over), named.axes)


def heads_swapped(named):
    one, two = named.axes.index("heads"), named.axes.index("head_dim")
    return Named(named.array.swapaxes(one, two), named.axes)


def swapped(one, two):
    return lambda roles: roles | {one: roles[two], two: roles[one]}


def changed(change, *names):
    return lambda roles: roles | {name: change(roles[name]) for name in names}


SEEDED = {
    "a forgotten transpose": ("linear", changed(transposed, "kernel")),
    "a forgotten transpose of a kernel": ("conv 2d, 1 groups", changed(transposed, "kernel")),
    "a missing flip": ("conv transpose 2d, 1 groups", changed(flipped, "kernel")),
    "a transposed convolution as a convolution": (
        "conv transpose 1d, 1 groups",
        changed(lambda k: Named(k.array, tuple({"in": "out/groups", "out/groups": "in"}.get(a, a) for a in k.axes)), "kernel"),
    ),
    "thirds of in_proj swapped": ("attention", swapped("query_kernel", "value_kernel")),
    "thirds of the bias swapped": ("attention", swapped("query_bias", "value_bias")),
    "heads and head_dim swapped": ("attention", changed(heads_swapped, "query_kernel", "key_kernel", "value_kernel")),
    "gates of an LSTM swapped": ("lstm", swapped("f_input_kernel", "g_input_kernel")),
    "gates of a GRU swapped": ("gru", swapped("r_recurrent_kernel", "z_recurrent_kernel")),
    "biases of the new gate swapped": ("gru", swapped("n_input_bias", "n_recurrent_bias")),
    "a magnitude over the other axis": (
        "weight norm",
        changed(lambda g: Named(g.array, ("in",)), "kernel_magnitude"),
    ),
    "u and v swapped": (
        "spectral norm",
        lambda roles: roles | {
            "kernel_u": Named(roles["kernel_v"].array, ("out",)), "kernel_v": Named(roles["kernel_u"].array, ("in",)),
        },
    ),
    "v of a convolution in another order": (
        "spectral norm of a conv",
        changed(lambda v: Named(v.array.transpose(), v.axes), "kernel_v"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "error"), SEEDED.values(), ids=SEEDED)
def test_an_error_that_no_shape_shows_is_far_off(name, error):
    module = randomised(CASES[name].make())
    layers = {
        path: (kind, error(roles), {n: v for n, v in config.items() if n != "weight_norm_dim"})
        for path, (kind, roles, config) in layers_of(module).items()
    }
    native, found = computed(module, layers, inputs_of(module))
    assert distance(found, native) > 1e-2
