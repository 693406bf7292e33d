"""The formulas of linear and bilinear layers against torch, Linen and NNX, on square matrices."""

from __future__ import annotations

import flax.linen as nn
import numpy as np
import pytest
import torch
from flax import nnx

from stateregistry.errors import AxesError, UnsupportedError
from stateregistry_conformance.formulas import Named, forward


def test_linear_is_what_torch_computes(bench) -> None:
    module = bench.torch(torch.nn.Linear(4, 4))
    x = bench.draw(3, 4)
    weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
    native = module(torch.tensor(x).double())
    roles = {"kernel": Named(weight, ("out", "in")), "bias": Named(bias, ("out",))}
    bench.agrees(forward("linear", roles, {}, [x])[0], native)
    bench.departs(forward("linear", roles | {"kernel": Named(weight, ("in", "out"))}, {}, [x])[0], native)


def test_linear_is_what_linen_computes(bench) -> None:
    module, x = nn.Dense(4), bench.draw(2, 3, 4)
    params = bench.linen(module, x)["params"]
    native = module.apply({"params": params}, x)
    roles = {"kernel": Named(params["kernel"], ("in", "out")), "bias": Named(params["bias"], ("out",))}
    bench.agrees(forward("linear", roles, {}, [x])[0], native)
    bench.departs(forward("linear", roles | {"kernel": Named(params["kernel"], ("out", "in"))}, {}, [x])[0], native)


def test_linear_is_what_nnx_computes_without_a_bias(bench) -> None:
    module, x = nnx.Linear(4, 4, use_bias=False, rngs=nnx.Rngs(0)), bench.draw(3, 4)
    kernel = bench.nnx(module, "kernel")["kernel"]
    native = module(x)
    bench.agrees(forward("linear", {"kernel": Named(kernel, ("in", "out"))}, {}, [x])[0], native)
    bench.departs(forward("linear", {"kernel": Named(kernel, ("out", "in"))}, {}, [x])[0], native)


def test_a_dense_general_has_several_axes_in_and_out(bench) -> None:
    module, x = nn.DenseGeneral((2, 2), axis=(-2, -1)), bench.draw(3, 2, 2)
    params = bench.linen(module, x)["params"]
    native = module.apply({"params": params}, x)
    axes = ("in.0", "in.1", "out.0", "out.1")
    roles = {"kernel": Named(params["kernel"], axes), "bias": Named(params["bias"], ("out.0", "out.1"))}
    bench.agrees(forward("linear", roles, {}, [x])[0], native)
    for swapped in (("in.1", "in.0", "out.0", "out.1"), ("in.0", "in.1", "out.1", "out.0")):
        bench.departs(forward("linear", roles | {"kernel": Named(params["kernel"], swapped)}, {}, [x])[0], native)


def test_a_linear_general_of_nnx_is_a_torch_linear_whose_rows_are_heads(bench) -> None:
    module, x = nnx.LinearGeneral(4, (2, 2), rngs=nnx.Rngs(0)), bench.draw(3, 4)
    values = bench.nnx(module, "kernel", "bias")
    roles = {
        "kernel": Named(values["kernel"], ("in", "out.0", "out.1")),
        "bias": Named(values["bias"], ("out.0", "out.1")),
    }
    bench.agrees(forward("linear", roles, {}, [x])[0], module(x))
    weight = values["kernel"].reshape(4, 4).T
    flat = forward("linear", {"kernel": Named(weight, ("out", "in"))}, {}, [x])[0] + values["bias"].reshape(-1)
    bench.agrees(flat.reshape(3, 2, 2), module(x))


def test_a_linear_after_a_flatten_has_the_axes_of_what_was_flattened(bench) -> None:
    """Torch flattens channels first and Flax channels last: the same names, another order, and no layer type says so."""
    module = bench.torch(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 8)))
    x = bench.draw(3, 2, 2, 2)
    weight, bias = module[1].weight.detach().numpy(), module[1].bias.detach().numpy()
    native = module(torch.tensor(x).double())
    axes = ("out", "in.2", "in.0", "in.1")
    roles = {"kernel": Named(weight.reshape(8, 2, 2, 2), axes), "bias": Named(bias, ("out",))}
    last = np.moveaxis(x, 1, -1)
    bench.agrees(forward("linear", roles, {}, [last])[0], native)
    unaware = roles | {"kernel": Named(weight.reshape(8, 2, 2, 2), ("out", "in.0", "in.1", "in.2"))}
    bench.departs(forward("linear", unaware, {}, [last])[0], native)


def test_layers_that_are_scanned_are_one_layer_for_each_index_of_the_leading_axis(bench) -> None:
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.Dense(3)(x), None

    module = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()
    x = bench.draw(3, 3)
    params = bench.linen(module, x, None)["params"]["Dense_0"]
    native, _ = module.apply({"params": {"Dense_0": params}}, x, None)

    def composed(order):
        y = x
        for layer in order:
            kernel, bias = params["kernel"][layer], params["bias"][layer]
            roles = {"kernel": Named(kernel, ("in", "out")), "bias": Named(bias, ("out",))}
            (y,) = forward("linear", roles, {}, [y])
        return y

    bench.agrees(composed([0, 1, 2]), native)
    bench.departs(composed([2, 1, 0]), native)


def test_bilinear_is_what_torch_computes(bench) -> None:
    module = bench.torch(torch.nn.Bilinear(3, 3, 3))
    a, b = bench.draw(5, 3), bench.draw(5, 3)
    weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
    native = module(torch.tensor(a).double(), torch.tensor(b).double())
    roles = {"kernel": Named(weight, ("out", "in1", "in2")), "bias": Named(bias, ("out",))}
    bench.agrees(forward("bilinear", roles, {}, [a, b])[0], native)
    for swapped in (("out", "in2", "in1"), ("in1", "out", "in2")):
        bench.departs(forward("bilinear", roles | {"kernel": Named(weight, swapped)}, {}, [a, b])[0], native)


@pytest.mark.parametrize(
    ("shapes", "inputs", "says"),
    [
        ({"kernel": (3, 4)}, [(2, 3)], "the last axes of the input"),
        ({"kernel": (3, 4), "bias": (4,)}, [(2, 4)], "the shape of the bias"),
        ({"kernel": (1, 4), "bias": (3,)}, [(2, 4)], "the shape of the bias"),
        ({"kernel": (3, 4)}, [()], "at least 1 axes"),
    ],
)
def test_sizes_that_disagree_are_refused_by_linear(shapes, inputs, says) -> None:
    axes = {"kernel": ("out", "in"), "bias": ("out",)}
    roles = {role: Named(np.ones(shape), axes[role]) for role, shape in shapes.items()}
    with pytest.raises(AxesError, match=says):
        forward("linear", roles, {}, [np.ones(shape) for shape in inputs])


def test_bilinear_refuses_inputs_that_do_not_fit() -> None:
    roles = {"kernel": Named(np.ones((3, 2, 4)), ("out", "in1", "in2"))}
    with pytest.raises(AxesError, match="the features of the inputs"):
        forward("bilinear", roles, {}, [np.ones((5, 4)), np.ones((5, 2))])
    with pytest.raises(AxesError, match="the batch"):
        forward("bilinear", roles, {}, [np.ones((1, 2)), np.ones((5, 4))])
    with pytest.raises(UnsupportedError, match="called with 1 inputs, expected 2 to 2"):
        forward("bilinear", roles, {}, [np.ones((5, 2))])
