"""The formulas of convolutions against torch, Linen and NNX.

Channels in, channels out and every kernel size are equal wherever groups allow it: each permutation of a kernel's axes has a
legal shape, and only the values tell.
"""

from __future__ import annotations

import itertools

import flax.linen as nn
import numpy as np
import pytest
import torch
from flax import nnx

from stateregistry.errors import AxesError, UnsupportedError
from stateregistry_conformance.formulas import Named, forward

SPATIAL = ("spatial.0", "spatial.1", "spatial.2")
CONVS = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
TRANSPOSES = {1: torch.nn.ConvTranspose1d, 2: torch.nn.ConvTranspose2d, 3: torch.nn.ConvTranspose3d}


def last(x):
    """Channels first to channels last."""
    return np.moveaxis(x, 1, -1)


def torch_native(module, x):
    """What torch computes from data whose channels are last."""
    return last(module(torch.tensor(np.moveaxis(x, -1, 1)).double()).detach().numpy())


def torch_roles(module, kernel):
    weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
    return {"kernel": Named(weight, kernel), "bias": Named(bias, ("out",))}


# ---------------------------------------------------------------------------------------------------------- convolution


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"stride": 2, "padding": 1},
        {"dilation": 2, "padding": 2},
        {"groups": 3},
        {"stride": 2, "padding": 1, "dilation": 2, "groups": 3},
    ],
    ids=str,
)
def test_conv_is_what_torch_computes(bench, rank, config) -> None:
    module = bench.torch(CONVS[rank](3, 3, 3, **config))
    x = bench.draw(2, *(7,) * rank, 3)
    axes = ("out", "in/groups", *SPATIAL[:rank])
    roles, native = torch_roles(module, axes), torch_native(module, x)
    bench.agrees(forward("conv", roles, config, [x])[0], native)
    if config.get("groups", 1) > 1:
        return
    weight = roles["kernel"].array
    for order in itertools.permutations(axes):  # every other naming of the same array has a legal shape
        if order != axes:
            bench.departs(forward("conv", roles | {"kernel": Named(weight, order)}, config, [x])[0], native)


@pytest.mark.parametrize(("channels", "out", "groups"), [(4, 4, 2), (2, 4, 2), (4, 8, 4)], ids=str)
def test_grouped_and_depthwise_conv_is_what_torch_computes(bench, channels, out, groups) -> None:
    module = bench.torch(torch.nn.Conv2d(channels, out, 2, groups=groups))
    x = bench.draw(2, 5, 5, channels)
    roles = torch_roles(module, ("out", "in/groups", "spatial.0", "spatial.1"))
    native = torch_native(module, x)
    bench.agrees(forward("conv", roles, {"groups": groups}, [x])[0], native)
    weight = roles["kernel"].array
    interleaved = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(0, 1).reshape(weight.shape)
    wrong = roles | {"kernel": Named(interleaved, roles["kernel"].axes)}
    bench.departs(forward("conv", wrong, {"groups": groups}, [x])[0], native)


def test_conv_has_stride_padding_and_dilation_of_its_own_on_each_axis(bench) -> None:
    config = {"stride": (1, 2), "padding": (2, 1), "dilation": (2, 1)}
    module = bench.torch(torch.nn.Conv2d(2, 2, 2, **config))
    x = bench.draw(2, 6, 6, 2)
    roles, native = torch_roles(module, ("out", "in/groups", *SPATIAL[:2])), torch_native(module, x)
    for padding in ((2, 1), (2, 2, 1, 1), ((2, 2), (1, 1))):
        bench.agrees(forward("conv", roles, config | {"padding": padding}, [x])[0], native)


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # once in a process: a copy may be made
@pytest.mark.parametrize(("size", "dilation"), [(2, 1), (2, 3), (3, 2)])
def test_conv_is_what_torch_computes_with_same_padding(bench, size, dilation) -> None:
    module = bench.torch(torch.nn.Conv2d(3, 3, size, padding="same", dilation=dilation))
    x = bench.draw(2, 5, 5, 3)
    roles, native = torch_roles(module, ("out", "in/groups", *SPATIAL[:2])), torch_native(module, x)
    bench.agrees(forward("conv", roles, {"padding": "SAME", "dilation": dilation}, [x])[0], native)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_conv_pads_as_torch_does(bench, mode) -> None:
    module = bench.torch(torch.nn.Conv2d(3, 3, 3, padding=2, padding_mode=mode))
    x = bench.draw(2, 5, 5, 3)
    roles, native = torch_roles(module, ("out", "in/groups", *SPATIAL[:2])), torch_native(module, x)
    bench.agrees(forward("conv", roles, {"padding": 2, "padding_mode": mode}, [x])[0], native)
    bench.departs(forward("conv", roles, {"padding": 2}, [x])[0], native)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    ("native", "config"),
    [
        ({"padding": "VALID"}, {"padding": "VALID"}),
        ({"padding": "SAME", "strides": 2}, {"padding": "SAME", "stride": 2}),
        ({"padding": [(1, 2)], "kernel_dilation": 2}, {"padding": (1, 2), "dilation": 2}),
        ({"padding": "SAME", "feature_group_count": 3}, {"padding": "SAME", "groups": 3}),
        ({"padding": "CIRCULAR"}, {"padding": 1, "padding_mode": "circular"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("flavour", ["linen", "nnx"])
def test_conv_is_what_flax_computes(bench, rank, native, config, flavour) -> None:
    native, config = dict(native), dict(config)
    if isinstance(native["padding"], list):
        native["padding"], config["padding"] = native["padding"] * rank, config["padding"] * rank
    x = bench.draw(2, *(6,) * rank, 3)
    if flavour == "linen":
        module = nn.Conv(3, (3,) * rank, **native)
        values = bench.linen(module, x)["params"]
        expected = module.apply({"params": values}, x)
    else:
        module = nnx.Conv(3, 3, (3,) * rank, **native, rngs=nnx.Rngs(0))
        values = bench.nnx(module, "kernel", "bias")
        expected = module(x)
    axes = (*SPATIAL[:rank], "in/groups", "out")
    roles = {"kernel": Named(values["kernel"], axes), "bias": Named(values["bias"], ("out",))}
    bench.agrees(forward("conv", roles, config, [x])[0], expected)


def test_the_permutation_from_torch_to_flax_is_not_its_own_inverse(bench) -> None:
    module, x = nn.Conv(3, (3, 3), padding="VALID"), bench.draw(2, 5, 5, 3)
    params = bench.linen(module, x)["params"]
    native = module.apply({"params": params}, x)
    bias = Named(params["bias"], ("out",))
    axes = ("out", "in/groups", "spatial.0", "spatial.1")
    right = params["kernel"].transpose(3, 2, 0, 1)
    twice = params["kernel"].transpose(2, 3, 1, 0)
    bench.agrees(forward("conv", {"kernel": Named(right, axes), "bias": bias}, {}, [x])[0], native)
    bench.departs(forward("conv", {"kernel": Named(twice, axes), "bias": bias}, {}, [x])[0], native)


def test_same_padding_with_stride_two_is_not_symmetric_padding(bench) -> None:
    module, x = nn.Conv(3, (3, 3), strides=2, padding="SAME"), bench.draw(2, 6, 6, 3)
    params = bench.linen(module, x)["params"]
    roles = {
        "kernel": Named(params["kernel"], ("spatial.0", "spatial.1", "in/groups", "out")),
        "bias": Named(params["bias"], ("out",)),
    }
    native = module.apply({"params": params}, x)
    bench.agrees(forward("conv", roles, {"stride": 2, "padding": (0, 1, 0, 1)}, [x])[0], native)
    bench.departs(forward("conv", roles, {"stride": 2, "padding": 1}, [x])[0], native)


# ----------------------------------------------------------------------------------------------- transposed convolution


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"stride": 2},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"stride": 2, "padding": 1, "dilation": 2},
        {"groups": 3},
        {"stride": 3, "padding": 1, "output_padding": 2, "dilation": 2, "groups": 3},
    ],
    ids=str,
)
def test_conv_transpose_is_what_torch_computes(bench, rank, config) -> None:
    module = bench.torch(TRANSPOSES[rank](3, 3, 3, **config))
    x = bench.draw(2, *(4,) * rank, 3)
    axes = ("in", "out/groups", *SPATIAL[:rank])
    roles, native = torch_roles(module, axes), torch_native(module, x)
    bench.agrees(forward("conv_transpose", roles, config, [x])[0], native)
    weight = roles["kernel"].array
    flipped = np.flip(weight, range(2, 2 + rank))
    bench.departs(forward("conv_transpose", roles | {"kernel": Named(flipped, axes)}, config, [x])[0], native)
    if config.get("groups", 1) == 1:
        as_conv = roles | {"kernel": Named(weight, ("out/groups", "in", *SPATIAL[:rank]))}
        bench.departs(forward("conv_transpose", as_conv, config, [x])[0], native)


def test_grouped_conv_transpose_with_more_channels_out_than_in(bench) -> None:
    config = {"stride": 2, "groups": 2}
    module = bench.torch(torch.nn.ConvTranspose2d(4, 8, 2, **config))
    x = bench.draw(2, 3, 3, 4)
    roles = torch_roles(module, ("in", "out/groups", "spatial.0", "spatial.1"))
    bench.agrees(forward("conv_transpose", roles, config, [x])[0], torch_native(module, x))


def test_conv_transpose_is_the_gradient_of_conv(bench) -> None:
    """The definition itself: `<conv(a), x> == <a, conv_transpose(x)>` for all a and x."""
    kernel, config = bench.draw(4, 2, 3, 2), {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2}
    a, x = bench.draw(2, 8, 7, 4), bench.draw(2, 4, 5, 4)
    forth = {"kernel": Named(kernel, ("out", "in/groups", *SPATIAL[:2]))}
    back = {"kernel": Named(kernel, ("in", "out/groups", *SPATIAL[:2]))}
    (y,) = forward("conv", forth, config, [a])
    (b,) = forward("conv_transpose", back, config | {"output_padding": (1, 0)}, [x])
    assert y.shape == x.shape
    assert b.shape == a.shape
    assert np.vdot(y, x.astype(np.float64)) == pytest.approx(np.vdot(a.astype(np.float64), b), rel=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("transpose_kernel", [True, False])
@pytest.mark.parametrize(
    ("native", "config"),
    [
        ({"padding": "SAME", "strides": 2}, {"padding": "SAME", "stride": 2}),
        ({"padding": "VALID", "strides": 3}, {"padding": "VALID", "stride": 3}),
        ({"padding": "SAME", "strides": 4}, {"padding": "SAME", "stride": 4}),
        ({"padding": "VALID", "strides": 4}, {"padding": "VALID", "stride": 4}),
        ({"padding": "SAME", "strides": 2, "kernel_dilation": 2}, {"padding": "SAME", "stride": 2, "dilation": 2}),
        # torch's padding 1 and output_padding 1: before = 2 * (3 - 1) - 1, after one more
        (
            {"padding": [(3, 4)], "strides": 2, "kernel_dilation": 2},
            {"padding": 1, "output_padding": 1, "stride": 2, "dilation": 2},
        ),
        # more before than the kernel reaches: places that have the bias alone
        ({"padding": [(4, 3)], "strides": 2}, {"padding": (-2, -1), "stride": 2}),
    ],
    ids=str,
)
@pytest.mark.parametrize("flavour", ["linen", "nnx"])
def test_conv_transpose_is_what_flax_computes(bench, rank, transpose_kernel, native, config, flavour) -> None:
    native, config = dict(native, transpose_kernel=transpose_kernel), dict(config, transpose_kernel=transpose_kernel)
    if isinstance(native["padding"], list):
        native["padding"] = native["padding"] * rank
    if isinstance(config["padding"], tuple):
        config["padding"] = config["padding"] * rank
    x = bench.draw(2, *(3,) * rank, 3)
    if flavour == "linen":
        module = nn.ConvTranspose(3, (3,) * rank, **{**native, "strides": (native["strides"],) * rank})
        values = bench.linen(module, x)["params"]
        expected = module.apply({"params": values}, x)
    else:
        module = nnx.ConvTranspose(3, 3, (3,) * rank, **native, rngs=nnx.Rngs(0))
        values = bench.nnx(module, "kernel", "bias")
        expected = module(x)
    bias = Named(values["bias"], ("out",))
    plain, flipped = values["kernel"], np.flip(values["kernel"], range(rank))
    turned, straight = (*SPATIAL[:rank], "out/groups", "in"), (*SPATIAL[:rank], "in", "out/groups")
    # `transpose_kernel=True` is the torch kernel as it is; without it every spatial axis is stored reversed.
    right, forgotten = (plain, flipped) if transpose_kernel else (flipped, plain)
    axes, other = (turned, straight) if transpose_kernel else (straight, turned)
    bench.agrees(forward("conv_transpose", {"kernel": Named(right, axes), "bias": bias}, config, [x])[0], expected)
    for kernel in (Named(forgotten, axes), Named(right, other)):
        bench.departs(forward("conv_transpose", {"kernel": kernel, "bias": bias}, config, [x])[0], expected)


# --------------------------------------------------------------------------------------------------------------- refusal


def _kernel(*shape, kind="conv"):
    axes = ("out", "in/groups") if kind == "conv" else ("in", "out/groups")
    return {"kernel": Named(np.ones(shape), (*axes, *SPATIAL[: len(shape) - 2]))}


@pytest.mark.parametrize(
    ("kind", "kernel", "config", "shape", "says"),
    [
        ("conv", (4, 4, 3), {}, (1, 9, 3), "the channels of the input"),
        ("conv", (4, 2, 3), {}, (1, 9, 4), "the channels of the input is 4, expected 2"),
        ("conv", (4, 2, 3), {"groups": 3}, (1, 9, 6), "do not divide"),
        ("conv", (4, 2, 3), {"groups": 0}, (1, 9, 0), "do not divide"),
        ("conv", (4, 4, 3), {}, (1, 2, 4), "reaches"),
        ("conv", (4, 4, 3), {}, (1, 9, 9, 4), "number of axes"),
        ("conv", (4, 4), {}, (1, 4), "no spatial axis"),
        ("conv", (4, 4, 3), {"kernel_size": (5,)}, (1, 9, 4), "kernel_size"),
        ("conv", (4, 4, 3), {"padding": (-1, 0), "padding_mode": "circular"}, (1, 9, 4), "negative"),
        ("conv_transpose", (4, 4, 3), {}, (1, 9, 3), "the channels of the input"),
        ("conv_transpose", (4, 4, 3), {"groups": 3}, (1, 9, 4), "do not divide"),
        ("conv_transpose", (4, 4, 3), {"padding": 9}, (1, 2, 4), "would be left"),
        ("conv_transpose", (4, 4, 3), {}, (1, 0, 4), "without places"),
        ("conv_transpose", (4, 4), {}, (1, 4), "no spatial axis"),
    ],
)
def test_sizes_that_disagree_are_refused_by_convolutions(kind, kernel, config, shape, says) -> None:
    with pytest.raises(AxesError, match=says):
        forward(kind, _kernel(*kernel, kind=kind), config, [np.ones(shape)])


@pytest.mark.parametrize(
    "config",
    [
        {"stride": 0},
        {"stride": (1, 1)},
        {"stride": 1.0},
        {"dilation": True},
        {"padding": "same"},
        {"padding": (1, 2, 3)},
        {"padding": None},
        {"padding_mode": "wrap"},
        {"strides": 1},
        {"output_padding": 1},
        {"groups": "2"},
    ],
    ids=str,
)
def test_config_that_the_formula_does_not_have_is_refused(config) -> None:
    with pytest.raises(UnsupportedError, match=next(iter(config))):
        forward("conv", _kernel(4, 4, 3), config, [np.ones((1, 9, 4))])


def test_a_bias_of_another_size_is_refused_and_not_broadcast() -> None:
    roles = _kernel(4, 4, 3) | {"bias": Named(np.ones(1), ("out",))}
    with pytest.raises(AxesError, match="the shape of the bias"):
        forward("conv", roles, {}, [np.ones((1, 9, 4))])
