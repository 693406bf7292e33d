"""The formulas of the normalising layers against torch, Linen and NNX, in evaluation."""

from __future__ import annotations

import flax.linen as nn
import jax
import numpy as np
import pytest
import torch
from flax import nnx

from stateregistry.errors import AxesError, UnsupportedError
from stateregistry_conformance.formulas import Named, forward

BATCH_NORMS = {1: torch.nn.BatchNorm1d, 2: torch.nn.BatchNorm2d, 3: torch.nn.BatchNorm3d}
INSTANCE_NORMS = {1: torch.nn.InstanceNorm1d, 2: torch.nn.InstanceNorm2d, 3: torch.nn.InstanceNorm3d}
#: Torch's names of the roles.
TORCH = {
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "count": "num_batches_tracked",
}


def torch_native(module, x):
    """What torch computes from data whose channels are last."""
    return np.moveaxis(module(torch.tensor(np.moveaxis(x, -1, 1)).double()).detach().numpy(), 1, -1)


def torch_roles(module):
    found = {role: getattr(module, name, None) for role, name in TORCH.items()}
    return {
        role: Named(value.detach().numpy(), ("features",) * value.ndim)
        for role, value in found.items()
        if value is not None
    }


def vectors(values, **names):
    return {role: Named(values[name], ("features",)) for role, name in names.items()}


def several(values):
    """Roles over as many axes as each array has."""
    return {role: Named(value, tuple(f"features.{n}" for n in range(value.ndim))) for role, value in values.items()}


def exchanged(roles, one, two):
    return roles | {one: roles[two], two: roles[one]}


# ----------------------------------------------------------------------------------------------------------- batch norm


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_batch_norm_is_what_torch_computes(bench, rank) -> None:
    module = bench.torch(BATCH_NORMS[rank](4, eps=1e-2))
    x = bench.draw(4, *(4,) * rank, 4)
    roles, native = torch_roles(module), torch_native(module, x)
    assert set(roles) == set(TORCH)
    bench.agrees(forward("batch_norm", roles, {"eps": 1e-2, "momentum": 0.1}, [x])[0], native)
    for one, two in (("scale", "bias"), ("mean", "bias"), ("mean", "var"), ("scale", "var")):
        swapped = exchanged(roles, one, two)
        if "var" in (one, two):
            swapped["var"] = Named(np.abs(swapped["var"].array) + 0.5, ("features",))
        bench.departs(forward("batch_norm", swapped, {"eps": 1e-2}, [x])[0], native)
    bench.departs(forward("batch_norm", roles, {"eps": 1.0}, [x])[0], native)


def test_batch_norm_is_what_linen_computes(bench) -> None:
    module, x = nn.BatchNorm(use_running_average=True), bench.draw(4, 4, 4)
    values = bench.linen(module, x)
    native = module.apply(values, x)
    roles = vectors(values["params"], scale="scale", bias="bias")
    roles |= vectors(values["batch_stats"], mean="mean", var="var")
    bench.agrees(forward("batch_norm", roles, {"eps": 1e-5}, [x])[0], native)


def test_batch_norm_is_what_nnx_computes(bench) -> None:
    module, x = nnx.BatchNorm(4, use_running_average=True, use_bias=False, rngs=nnx.Rngs(0)), bench.draw(4, 4)
    values = bench.nnx(module, "scale", "mean", "var")
    roles = vectors(values, scale="scale", mean="mean", var="var")
    bench.agrees(forward("batch_norm", roles, {"eps": 1e-5}, [x])[0], module(x))


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_without_statistics_takes_those_of_the_input(bench, affine) -> None:
    module = bench.torch(torch.nn.BatchNorm2d(4, affine=affine, track_running_stats=False))
    x = bench.draw(2, 3, 3, 4)
    bench.agrees(forward("batch_norm", torch_roles(module), {"eps": 1e-5}, [x])[0], torch_native(module, x))


def test_the_frameworks_update_the_running_variance_differently(bench) -> None:
    """Why `unbiased_var` is a config of training: torch takes n/(n-1), Flax does not."""
    x = bench.draw(8, 4)
    module = torch.nn.BatchNorm1d(4, momentum=0.25).double().train()
    module(torch.tensor(x).double())
    flax = nn.BatchNorm(use_running_average=False, momentum=0.75)
    variables = flax.init(jax.random.key(0), x)
    _, updated = flax.apply(variables, x, mutable=["batch_stats"])
    biased = np.var(x.astype(np.float64), axis=0)
    np.testing.assert_allclose(module.running_var.numpy(), 0.75 + 0.25 * biased * 8 / 7, rtol=1e-12)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.75 + 0.25 * biased, rtol=1e-5)


# -------------------------------------------------------------------------------------------------------- instance norm


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("tracked", [True, False])
def test_instance_norm_is_what_torch_computes(bench, rank, tracked) -> None:
    module = bench.torch(INSTANCE_NORMS[rank](4, affine=True, track_running_stats=tracked))
    x = bench.draw(4, *(4,) * rank, 4)
    roles, native = torch_roles(module), torch_native(module, x)
    assert ("mean" in roles) is tracked
    bench.agrees(forward("instance_norm", roles, {"eps": 1e-5}, [x])[0], native)
    if tracked:  # what Flax, which has no place for the statistics, would compute
        bare = {role: roles[role] for role in ("scale", "bias")}
        bench.departs(forward("instance_norm", bare, {"eps": 1e-5}, [x])[0], native)
    else:
        bench.departs(forward("batch_norm", roles, {"eps": 1e-5}, [x])[0], native)


@pytest.mark.parametrize("flavour", ["linen", "nnx"])
def test_instance_norm_is_what_flax_computes(bench, flavour) -> None:
    x = bench.draw(4, 4, 4, 4)
    if flavour == "linen":
        module = nn.InstanceNorm(epsilon=1e-2)
        values = bench.linen(module, x)["params"]
        native = module.apply({"params": values}, x)
    else:
        module = nnx.InstanceNorm(4, epsilon=1e-2, rngs=nnx.Rngs(0))
        values = bench.nnx(module, "scale", "bias")
        native = module(x)
    roles = vectors(values, scale="scale", bias="bias")
    bench.agrees(forward("instance_norm", roles, {"eps": 1e-2}, [x])[0], native)


# ----------------------------------------------------------------------------------------------------------- group norm


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm_is_what_torch_computes(bench, groups) -> None:
    module = bench.torch(torch.nn.GroupNorm(groups, 4))
    x = bench.draw(4, 4, 4, 4)
    roles, native = torch_roles(module), torch_native(module, x)
    bench.agrees(forward("group_norm", roles, {"eps": 1e-5, "groups": groups}, [x])[0], native)
    bench.departs(
        forward("group_norm", exchanged(roles, "scale", "bias"), {"eps": 1e-5, "groups": groups}, [x])[0], native
    )


def test_the_features_of_a_group_lie_together(bench) -> None:
    module = bench.torch(torch.nn.GroupNorm(2, 4))
    x = bench.draw(4, 3, 4)
    x[..., 2:] *= 5  # groups of different scale: the statistics of interleaved groups would be others
    roles, native = torch_roles(module), torch_native(module, x)
    bench.agrees(forward("group_norm", roles, {"eps": 1e-5, "groups": 2}, [x])[0], native)
    order = [0, 2, 1, 3]
    interleaved = {role: Named(named.array[order], ("features",)) for role, named in roles.items()}
    (wrong,) = forward("group_norm", interleaved, {"eps": 1e-5, "groups": 2}, [x[..., order]])
    bench.departs(wrong[..., order], native)


@pytest.mark.parametrize("flavour", ["linen", "nnx"])
def test_group_norm_is_what_flax_computes(bench, flavour) -> None:
    x = bench.draw(3, 4, 4)
    if flavour == "linen":
        module = nn.GroupNorm(num_groups=None, group_size=2)
        values = bench.linen(module, x)["params"]
        native = module.apply({"params": values}, x)
    else:
        module = nnx.GroupNorm(4, num_groups=2, rngs=nnx.Rngs(0))
        values = bench.nnx(module, "scale", "bias")
        native = module(x)
    roles = vectors(values, scale="scale", bias="bias")
    bench.agrees(forward("group_norm", roles, {"eps": 1e-6, "groups": 2}, [x])[0], native)


# ----------------------------------------------------------------------------------------------------------- layer norm


@pytest.mark.parametrize("shape", [(4,), (4, 4), (4, 4, 4)], ids=str)
def test_layer_norm_is_what_torch_computes(bench, shape) -> None:
    module = bench.torch(torch.nn.LayerNorm(shape))
    x = bench.draw(4, 4, 4, 4)
    native = module(torch.tensor(x).double())
    roles = several({"scale": module.weight.detach().numpy(), "bias": module.bias.detach().numpy()})
    bench.agrees(forward("layer_norm", roles, {"eps": 1e-5}, [x])[0], native)
    if len(shape) > 1:
        turned = Named(roles["scale"].array, roles["scale"].axes[::-1])
        bench.departs(forward("layer_norm", roles | {"scale": turned}, {"eps": 1e-5}, [x])[0], native)


def test_layer_norm_without_scale_and_bias_is_told_how_many_axes_to_normalise(bench) -> None:
    module = torch.nn.LayerNorm((4, 4), elementwise_affine=False)
    x = bench.draw(3, 4, 4)
    native = module(torch.tensor(x).double())
    bench.agrees(forward("layer_norm", {}, {"eps": 1e-5, "normalized_axes": 2}, [x])[0], native)
    with pytest.raises(AxesError, match="normalized_axes"):
        forward("layer_norm", {}, {"eps": 1e-5}, [x])


@pytest.mark.parametrize(
    ("flavour", "reduction", "features"),
    [
        ("linen", (-1,), (-1,)),
        ("linen", (-2, -1), (-2, -1)),
        ("linen", (-2, -1), (-1,)),
        ("nnx", (-1,), (-1,)),  # NNX makes one number of features, whatever the axes are
        ("nnx", (-2, -1), (-1,)),
    ],
)
def test_layer_norm_is_what_flax_computes(bench, flavour, reduction, features) -> None:
    x = bench.draw(4, 4, 4)
    if flavour == "linen":
        module = nn.LayerNorm(reduction_axes=reduction, feature_axes=features)
        values = bench.linen(module, x)["params"]
        native = module.apply({"params": values}, x)
    else:
        module = nnx.LayerNorm(4, reduction_axes=reduction, feature_axes=features, rngs=nnx.Rngs(0))
        values = bench.nnx(module, "scale", "bias")
        native = module(x)
    config = {"eps": 1e-6, "normalized_axes": len(reduction)}
    bench.agrees(forward("layer_norm", several(values), config, [x])[0], native)


def test_the_default_eps_of_flax_is_not_that_of_torch(bench) -> None:
    x = bench.draw(3, 4) * np.float32(1e-3)
    module, native = torch.nn.LayerNorm(4).double(), nn.LayerNorm()
    variables = native.init(jax.random.key(0), x)
    ones = several({"scale": np.ones(4), "bias": np.zeros(4)})
    bench.agrees(forward("layer_norm", ones, {"eps": 1e-5}, [x])[0], module(torch.tensor(x).double()))
    bench.agrees(forward("layer_norm", ones, {"eps": 1e-6}, [x])[0], native.apply(variables, x))
    bench.departs(forward("layer_norm", ones, {"eps": 1e-5}, [x])[0], native.apply(variables, x))


# ------------------------------------------------------------------------------------------------------------- rms norm


@pytest.mark.parametrize("shape", [(4,), (4, 4)], ids=str)
def test_rms_norm_is_what_torch_computes(bench, shape) -> None:
    module = bench.torch(torch.nn.RMSNorm(shape, eps=1e-3))
    x = bench.draw(4, 4, 4) + 1
    native = module(torch.tensor(x).double())
    roles = several({"scale": module.weight.detach().numpy()})
    bench.agrees(forward("rms_norm", roles, {"eps": 1e-3}, [x])[0], native)
    bench.departs(forward("layer_norm", roles, {"eps": 1e-3}, [x])[0], native)


def test_rms_norm_of_torch_without_eps_has_that_of_the_dtype_of_its_input(bench) -> None:
    module = bench.torch(torch.nn.RMSNorm(4))
    assert module.eps is None
    x = bench.draw(4, 4) * np.float32(1e-8)
    roles = several({"scale": module.weight.detach().numpy()})
    native = module(torch.tensor(x).double())
    bench.agrees(forward("rms_norm", roles, {"eps": float(np.finfo(np.float64).eps)}, [x])[0], native)
    bench.departs(forward("rms_norm", roles, {"eps": 1e-6}, [x])[0], native)
    with pytest.raises(UnsupportedError, match="eps"):
        forward("rms_norm", roles, {"eps": None}, [x])


@pytest.mark.parametrize("flavour", ["linen", "nnx"])
def test_rms_norm_is_what_flax_computes(bench, flavour) -> None:
    x = bench.draw(4, 4) + 1
    if flavour == "linen":
        module = nn.RMSNorm()
        values = bench.linen(module, x)["params"]
        native = module.apply({"params": values}, x)
    else:
        module = nnx.RMSNorm(4, rngs=nnx.Rngs(0))
        values = bench.nnx(module, "scale")
        native = module(x)
    bench.agrees(forward("rms_norm", several(values), {"eps": 1e-6}, [x])[0], native)


# --------------------------------------------------------------------------------------------------------------- refusal


def _vector(size=4, axis="features"):
    return Named(np.ones(size), (axis,))


@pytest.mark.parametrize(
    ("kind", "roles", "config", "error", "says"),
    [
        ("batch_norm", {"scale": _vector()}, {}, UnsupportedError, "eps"),
        ("batch_norm", {"mean": _vector()}, {"eps": 0.1}, UnsupportedError, "one of mean and var"),
        ("batch_norm", {"mean": _vector(1), "var": _vector(1)}, {"eps": 0.1}, AxesError, "mean and var"),
        ("batch_norm", {"scale": _vector(1)}, {"eps": 0.1}, AxesError, "the shape of the scale"),
        ("batch_norm", {"scale": _vector(4, "out")}, {"eps": 0.1}, AxesError, "axes"),
        ("instance_norm", {"bias": _vector(3)}, {"eps": 0.1}, AxesError, "the shape of the bias"),
        ("group_norm", {}, {"eps": 0.1}, AxesError, "groups"),
        ("group_norm", {}, {"eps": 0.1, "groups": 3}, AxesError, "do not divide"),
        ("group_norm", {"mean": _vector(), "var": _vector()}, {"eps": 0.1, "groups": 2}, UnsupportedError, "mean, var"),
        ("layer_norm", {"scale": _vector(3)}, {"eps": 0.1}, AxesError, "the shape of the scale"),
        ("layer_norm", {"scale": _vector()}, {"eps": 0.1, "normalized_axes": 5}, AxesError, "5 are normalised"),
        ("rms_norm", {"scale": _vector(), "bias": _vector()}, {"eps": 0.1}, UnsupportedError, "no role bias"),
    ],
)
def test_what_a_normalising_layer_cannot_be_is_refused(kind, roles, config, error, says) -> None:
    with pytest.raises(error, match=says):
        forward(kind, roles, config, [np.ones((2, 3, 4))])
