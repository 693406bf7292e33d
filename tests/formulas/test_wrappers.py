"""The formulas of weight_norm and spectral_norm against torch, Linen and NNX, whichever axis is kept."""

from __future__ import annotations

import flax.linen as nn
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn.utils import parametrizations

from stateregistry.errors import AxesError, UnsupportedError
from stateregistry_conformance.formulas import Named, forward

CONV = ("out", "in/groups", "spatial.0", "spatial.1")
TRANSPOSE = ("in", "out/groups", "spatial.0", "spatial.1")


def images(module, x):
    """What torch computes from images whose channels are last."""
    return np.moveaxis(module(torch.tensor(np.moveaxis(x, -1, 1)).double()).detach().numpy(), 1, -1)


def bias(module):
    return {"bias": Named(module.bias.detach().numpy(), ("out",))}


# ---------------------------------------------------------------------------------------------------------- weight norm


@pytest.mark.parametrize("dim", [0, 1])
def test_weight_norm_of_a_linear_is_what_torch_computes(bench, dim) -> None:
    module = bench.torch(parametrizations.weight_norm(torch.nn.Linear(4, 4), dim=dim))
    parts, x = module.parametrizations.weight, bench.draw(3, 4)
    g, v = parts.original0.detach().numpy(), parts.original1.detach().numpy()
    kept, other = (("out",), ("in",)) if dim == 0 else (("in",), ("out",))
    direction, native = Named(v, ("out", "in")), module(torch.tensor(x).double())
    roles = {"kernel_direction": direction, "kernel_magnitude": Named(g.reshape(-1), kept), **bias(module)}
    bench.agrees(forward("linear", roles, {"weight_norm_dim": kept[0]}, [x])[0], native)
    wrong = roles | {"kernel_magnitude": Named(g.reshape(-1), other)}
    bench.departs(forward("linear", wrong, {}, [x])[0], native)
    with pytest.raises(AxesError, match="weight_norm_dim"):
        forward("linear", roles, {"weight_norm_dim": other[0]}, [x])


@pytest.mark.parametrize("dim", [-1, None])
def test_a_negative_dim_of_torch_is_the_norm_of_the_whole_array(bench, dim) -> None:
    module = bench.torch(parametrizations.weight_norm(torch.nn.Linear(4, 4), dim=dim))
    parts, x = module.parametrizations.weight, bench.draw(3, 4)
    assert parts.original0.shape == ()
    roles = {
        "kernel_direction": Named(parts.original1.detach().numpy(), ("out", "in")),
        "kernel_magnitude": Named(parts.original0.detach().numpy(), ()),
        **bias(module),
    }
    bench.agrees(forward("linear", roles, {}, [x])[0], module(torch.tensor(x).double()))


def test_the_old_weight_norm_of_torch_is_the_same_formula(bench) -> None:
    with pytest.warns(FutureWarning):
        module = torch.nn.utils.weight_norm(torch.nn.Linear(4, 4))
    bench.torch(module)
    x = bench.draw(3, 4)
    native = module(torch.tensor(x).double())
    roles = {
        "kernel_direction": Named(module.weight_v.detach().numpy(), ("out", "in")),
        "kernel_magnitude": Named(module.weight_g.detach().numpy().reshape(-1), ("out",)),
        **bias(module),
    }
    bench.agrees(forward("linear", roles, {}, [x])[0], native)


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["conv", "conv_transpose"])
def test_weight_norm_of_convolutions_keeps_any_axis(bench, kind, dim) -> None:
    cls, axes = (torch.nn.Conv2d, CONV) if kind == "conv" else (torch.nn.ConvTranspose2d, TRANSPOSE)
    module = bench.torch(parametrizations.weight_norm(cls(3, 3, 3), dim=dim))
    parts, x = module.parametrizations.weight, bench.draw(2, 5, 5, 3)
    g, v = parts.original0.detach().numpy().reshape(-1), parts.original1.detach().numpy()
    native = images(module, x)
    for number, axis in enumerate(axes):
        roles = {"kernel_direction": Named(v, axes), "kernel_magnitude": Named(g, (axis,)), **bias(module)}
        compare = bench.agrees if number == dim else bench.departs
        compare(forward(kind, roles, {}, [x])[0], native)


def test_weight_norm_of_a_recurrent_array_keeps_the_rows_of_every_gate(bench) -> None:
    module = bench.torch(parametrizations.weight_norm(torch.nn.RNN(3, 3, batch_first=True), "weight_hh_l0"))
    parts, x = module.parametrizations.weight_hh_l0, bench.draw(2, 4, 3)
    roles = {
        "input_kernel": Named(module.weight_ih_l0.detach().numpy(), ("hidden", "in")),
        "recurrent_kernel_direction": Named(parts.original1.detach().numpy(), ("hidden", "state")),
        "recurrent_kernel_magnitude": Named(parts.original0.detach().numpy().reshape(-1), ("hidden",)),
        "input_bias": Named(module.bias_ih_l0.detach().numpy(), ("hidden",)),
        "recurrent_bias": Named(module.bias_hh_l0.detach().numpy(), ("hidden",)),
    }
    bench.agrees(forward("rnn", roles, {}, [x])[0], module(torch.tensor(x).double())[0])


@pytest.mark.parametrize(("feature_axes", "kept"), [(-1, ("out",)), (0, ("in",)), (None, ())], ids=str)
def test_weight_norm_is_what_linen_computes(bench, feature_axes, kept) -> None:
    module, x = nn.WeightNorm(nn.Dense(4), feature_axes=feature_axes), bench.draw(3, 4)
    values = bench.linen(module, x)["params"]
    dense, native = values["layer_instance"], module.apply({"params": values}, x)
    direction = Named(dense["kernel"], ("in", "out"))
    magnitude = np.asarray(values["layer_instance/kernel/scale"])
    roles = {
        "kernel_direction": direction,
        "kernel_magnitude": Named(magnitude, kept),
        "bias": Named(dense["bias"], ("out",)),
    }
    bench.agrees(forward("linear", roles, {"weight_norm_eps": 1e-12}, [x])[0], native)
    if kept:
        wrong = roles | {"kernel_magnitude": Named(magnitude, {"in": ("out",), "out": ("in",)}[kept[0]])}
        bench.departs(forward("linear", wrong, {}, [x])[0], native)


@pytest.mark.parametrize(
    ("transpose_kernel", "axis"),
    [(True, "in"), (False, "out/groups")],
)
def test_the_last_axis_of_a_transposed_convolution_of_linen_depends_on_its_layout(
    bench, transpose_kernel, axis
) -> None:
    """The default of torch keeps `in`: only with `transpose_kernel=True` is that what Linen keeps."""
    inner = nn.ConvTranspose(3, (3, 3), padding="VALID", transpose_kernel=transpose_kernel)
    module, x = nn.WeightNorm(inner), bench.draw(2, 4, 4, 3)
    values = bench.linen(module, x)["params"]
    layer, native = values["layer_instance"], module.apply({"params": values}, x)
    kernel = layer["kernel"] if transpose_kernel else np.flip(layer["kernel"], (0, 1))
    order = ("out/groups", "in") if transpose_kernel else ("in", "out/groups")
    config = {"padding": "VALID", "weight_norm_eps": 1e-12}
    for kept in ("in", "out/groups"):
        roles = {
            "kernel_direction": Named(kernel, ("spatial.0", "spatial.1", *order)),
            "kernel_magnitude": Named(np.asarray(values["layer_instance/kernel/scale"]), (kept,)),
            "bias": Named(layer["bias"], ("out",)),
        }
        compare = bench.agrees if kept == axis else bench.departs
        compare(forward("conv_transpose", roles, config, [x])[0], native)


def test_weight_norm_of_nnx_keeps_the_scale_outside_of_its_parameters(bench) -> None:
    module, x = nnx.WeightNorm(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0)), bench.draw(3, 4)
    values = bench.nnx(module, "layer_instance.kernel", "layer_instance.bias")
    scale = bench.draw(4)
    module.scales[("kernel",)] = scale
    assert all("scales" not in path for path, _ in nnx.to_flat_state(nnx.state(module, nnx.Param)))
    roles = {
        "kernel_direction": Named(values["layer_instance.kernel"], ("in", "out")),
        "kernel_magnitude": Named(scale, ("out",)),
        "bias": Named(values["layer_instance.bias"], ("out",)),
    }
    bench.agrees(forward("linear", roles, {"weight_norm_eps": 1e-12}, [x])[0], module(x))
    overwritten = np.asarray(module.layer_instance.kernel[...])
    bench.departs(values["layer_instance.kernel"].astype(np.float64), overwritten)


# -------------------------------------------------------------------------------------------------------- spectral norm


def spectral(parts, axes, dim):
    """Roles of a torch array by its native axes: `u` lies on one of them, `v` on the others, the last varying fastest."""
    original = parts.original.detach().numpy()
    rest = [axis for number, axis in enumerate(axes) if number != dim]
    sizes = [size for number, size in enumerate(original.shape) if number != dim]
    u, v = (getattr(parts[0], name).detach().numpy() for name in ("_u", "_v"))
    return {
        "kernel_original": Named(original, axes),
        "kernel_u": Named(u, (axes[dim],)),
        "kernel_v": Named(v.reshape(sizes), tuple(rest)),
    }


def test_spectral_norm_of_a_linear_is_what_torch_computes(bench) -> None:
    module = bench.torch(parametrizations.spectral_norm(torch.nn.Linear(4, 4)))
    x = bench.draw(3, 4)
    roles = spectral(module.parametrizations.weight, ("out", "in"), 0) | bias(module)
    native = module(torch.tensor(x).double())
    bench.agrees(forward("linear", roles, {"spectral_norm": True}, [x])[0], native)
    with pytest.raises(AxesError, match="spectral_norm"):
        forward("linear", roles, {"spectral_norm": False}, [x])
    u, v = roles["kernel_u"].array, roles["kernel_v"].array
    swapped = roles | {"kernel_u": Named(v, ("out",)), "kernel_v": Named(u, ("in",))}
    bench.departs(forward("linear", swapped, {}, [x])[0], native)
    bench.departs(forward("linear", roles, {"power_iterations": 1}, [x])[0], native)


@pytest.mark.parametrize(
    ("cls", "axes", "dim", "kind"),
    [
        (torch.nn.Conv2d, CONV, 0, "conv"),
        (torch.nn.ConvTranspose2d, TRANSPOSE, 1, "conv_transpose"),  # the default of torch: not axis 0
    ],
)
def test_spectral_norm_of_convolutions_is_what_torch_computes(bench, cls, axes, dim, kind) -> None:
    module = bench.torch(parametrizations.spectral_norm(cls(3, 3, 3)))
    x = bench.draw(2, 5, 5, 3)
    roles = spectral(module.parametrizations.weight, axes, dim) | bias(module)
    native = images(module, x)
    bench.agrees(forward(kind, roles, {}, [x])[0], native)
    wrong = roles | spectral(module.parametrizations.weight, axes, 1 - dim)
    bench.departs(forward(kind, wrong, {}, [x])[0], native)
    v = roles["kernel_v"]
    turned = roles | {"kernel_v": Named(v.array, (v.axes[0], v.axes[2], v.axes[1]))}
    bench.departs(forward(kind, turned, {}, [x])[0], native)


def test_training_of_torch_iterates_once_from_v(bench) -> None:
    module = bench.torch(parametrizations.spectral_norm(torch.nn.Linear(4, 4))).train()
    x = bench.draw(3, 4)
    roles = spectral(module.parametrizations.weight, ("out", "in"), 0) | bias(module)
    roles = {
        role: Named(named.array.copy(), named.axes) for role, named in roles.items()
    }  # the forward rewrites u and v
    native = module(torch.tensor(x).double())
    bench.agrees(forward("linear", roles, {"power_iterations": 1, "spectral_norm_eps": 1e-24}, [x])[0], native)


@pytest.mark.parametrize("steps", [1, 3])
def test_spectral_norm_is_what_linen_computes_in_evaluation(bench, steps) -> None:
    """Linen iterates in evaluation too and never reads sigma: with other values of u it is another function than torch."""
    module, x = nn.SpectralNorm(nn.Conv(3, (3, 3)), n_steps=steps), bench.draw(2, 4, 4, 3)
    values = bench.linen(module, x, update_stats=False)
    layer, stored = values["params"]["layer_instance"], values["batch_stats"]
    native = module.apply(values, x, update_stats=False)
    roles = {
        "kernel_original": Named(layer["kernel"], ("spatial.0", "spatial.1", "in/groups", "out")),
        "kernel_u": Named(stored["layer_instance/kernel/u"].reshape(3), ("out",)),
        "kernel_sigma": Named(np.asarray(stored["layer_instance/kernel/sigma"]), ()),
        "bias": Named(layer["bias"], ("out",)),
    }
    config = {"padding": "SAME", "power_iterations": steps, "spectral_norm_eps": 1e-12}
    bench.agrees(forward("conv", roles, config, [x])[0], native)
    if steps == 1:  # more steps come near the largest singular value, from whichever axis
        turned = roles | {"kernel_u": Named(roles["kernel_u"].array, ("in/groups",))}
        bench.departs(forward("conv", turned, config, [x])[0], native)


def test_spectral_norm_is_what_nnx_computes_and_overwrites_the_kernel(bench) -> None:
    rngs = nnx.Rngs(0)
    module, x = nnx.SpectralNorm(nnx.Linear(4, 4, rngs=rngs), rngs=rngs), bench.draw(3, 4)
    values = bench.nnx(module, "layer_instance.kernel", "layer_instance.bias")
    u = bench.draw(1, 4)
    module.batch_stats[("kernel", "u")][...] = u
    roles = {
        "kernel_original": Named(values["layer_instance.kernel"], ("in", "out")),
        "kernel_u": Named(u.reshape(4), ("out",)),
        "bias": Named(values["layer_instance.bias"], ("out",)),
    }
    config = {"power_iterations": 1, "spectral_norm_eps": 1e-12}
    native = module(x, update_stats=False)
    bench.agrees(forward("linear", roles, config, [x])[0], native)
    overwritten = np.asarray(module.layer_instance.kernel[...])
    bench.departs(values["layer_instance.kernel"].astype(np.float64), overwritten)


def test_where_u_has_converged_the_frameworks_agree(bench) -> None:
    kernel, x = bench.draw(4, 4), bench.draw(3, 4)
    left, _, right = np.linalg.svd(kernel.astype(np.float64))
    roles = {"kernel_original": Named(kernel, ("out", "in")), "kernel_u": Named(left[:, 0], ("out",))}
    stored = forward("linear", roles | {"kernel_v": Named(right[0], ("in",))}, {}, [x])[0]
    bench.agrees(forward("linear", roles, {"power_iterations": 1}, [x])[0], stored)


# -------------------------------------------------------------------------------------------------------------- refusal


def _matrix(*axes):
    return Named(np.arange(1.0, 1 + 4 ** len(axes)).reshape((4,) * len(axes)), axes)


X = [np.ones((2, 4))]


@pytest.mark.parametrize(
    ("roles", "config", "error", "says"),
    [
        ({"kernel_direction": _matrix("out", "in")}, {}, UnsupportedError, "without kernel_magnitude"),
        ({"kernel_original": _matrix("out", "in")}, {}, UnsupportedError, "without kernel_u"),
        ({"kernel_u": _matrix("out")}, {}, UnsupportedError, "no kernel"),
        (
            {"kernel": _matrix("out", "in"), "kernel_original": _matrix("out", "in"), "kernel_u": _matrix("out")},
            {},
            UnsupportedError,
            "beside kernel",
        ),
        (
            {"kernel": _matrix("out", "in"), "kernel_u": _matrix("out")},
            {},
            UnsupportedError,
            "no role kernel_u",
        ),
        ({"kernel": _matrix("out", "in"), "kernel_v": _matrix("in")}, {}, UnsupportedError, "no role kernel_v"),
        ({"kernel_magnitude": _matrix("out")}, {}, UnsupportedError, "no kernel"),
        (
            {"kernel_direction": _matrix("out", "in"), "kernel_magnitude": _matrix("features")},
            {},
            AxesError,
            "the magnitude has the axes",
        ),
        (
            {"kernel_direction": _matrix("out", "in"), "kernel_magnitude": Named(np.ones(1), ("out",))},
            {},
            AxesError,
            "a magnitude of shape",
        ),
        (
            {
                "kernel": _matrix("out", "in"),
                "kernel_direction": _matrix("out", "in"),
                "kernel_magnitude": _matrix("out"),
            },
            {},
            UnsupportedError,
            "beside kernel",
        ),
        (
            {"kernel_original": _matrix("out", "in"), "kernel_u": _matrix("out")},
            {},
            UnsupportedError,
            "sigma is unknown",
        ),
        (
            {"kernel_original": _matrix("out", "in"), "kernel_u": _matrix("out"), "kernel_v": _matrix("out")},
            {},
            AxesError,
            "'out' where 'in' is wanted",
        ),
        (
            {
                "kernel_original": _matrix("out", "in"),
                "kernel_u": _matrix("out"),
                "kernel_v": Named(np.ones(3), ("in",)),
            },
            {},
            AxesError,
            "a vector over in",
        ),
        (
            {"kernel": _matrix("out", "in")},
            {"weight_norm_eps": 1e-12},
            UnsupportedError,
            "no config weight_norm_eps",
        ),
        ({"kernel": _matrix("out", "in")}, {"spectral_norm": True}, UnsupportedError, "no config spectral_norm"),
    ],
)
def test_what_a_wrapped_layer_cannot_be_is_refused(roles, config, error, says) -> None:
    with pytest.raises(error, match=says):
        forward("linear", roles, config, X)
