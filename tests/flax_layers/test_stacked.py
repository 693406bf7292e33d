"""Stacked layers: arrays of which each holds many layers are a layer for each index, whatever axis counts them."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cases import S, assert_close, data, opened, random
from flax import nnx

import stateregistry as sr
from stateregistry.layers import axes


def roles_of(reg: sr.StateRegistry, layer: sr.Layer) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    found = {}
    for piece in layer.pieces:
        key = layer.key(piece)
        bound = axes.bind(piece.axes, reg[key].shape)
        parts = bound.expand(reg.view(key))
        found |= {role: (bound.neutral, parts[part]) for role, part in piece.parts.items()}
    return found


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x: Any, _: Any) -> Any:
        return nn.SpectralNorm(nn.Dense(S, name="fc"), name="sn")(x, update_stats=False), None


class ScannedNorm(nn.Module):
    parameters: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        over = {"params": self.parameters, "batch_stats": 0}
        return nn.scan(Normed, variable_axes=over, split_rngs={"params": True}, length=3)(name="blocks")(x, None)[0]


def normed(seed: int) -> torch.nn.Module:
    """Three linears under spectral_norm, each of which has converged."""
    generator = torch.Generator().manual_seed(seed)

    def one() -> torch.nn.Module:
        return torch.nn.ModuleDict({"fc": torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(S, S))})

    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList(one() for _ in range(3))})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        for _ in range(500):
            run_normed(model.train(), torch.ones(1, S))
    return model.eval()


def run_normed(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    for block in model["blocks"]:
        x = block["fc"](x)
    return x


@pytest.mark.parametrize("parameters", [0, 1])
def test_what_is_computed_for_stacked_layers_is_computed_for_each(parameters: int) -> None:
    """torch stores no sigma: of a stack it is an array, of which each layer computes its own."""
    x = data(2, S)
    source, target = normed(0), opened(ScannedNorm(parameters), x)
    done = sr.convert(source, target, allow=("choice",))
    variables = done.target
    with torch.no_grad():
        expected = run_normed(source, torch.from_numpy(x)).numpy()
    assert_close(ScannedNorm(parameters).apply(variables, x), expected)
    sigma = variables["batch_stats"]["blocks"]["sn"]["fc/kernel/sigma"]
    weights = [block["fc"].weight.detach().numpy() for block in source["blocks"]]
    originals = [block["fc"].parametrizations.weight.original.detach().numpy() for block in source["blocks"]]
    wanted = [np.linalg.norm(one) / np.linalg.norm(two) for one, two in zip(originals, weights, strict=True)]
    assert_close(np.asarray(sigma), np.array(wanted))
    there = target.replace(sr.snapshot(sr.of(variables)))
    again = sr.convert(there, normed(1), allow=("choice",), residual=done.residual).target
    assert [key for key, value in source.state_dict().items() if not torch.equal(value, again.state_dict()[key])] == []


class Body(nn.Module):
    @nn.compact
    def __call__(self, x: Any, _: Any) -> Any:
        x = nn.Dense(S)(x)
        x = nn.BatchNorm(use_running_average=True)(x)
        return nn.Conv(S, (3,), name="conv")(x[:, None])[:, 0], None


class Scanned(nn.Module):
    """`length` equal to every other size: no shape can tell which axis counts."""

    parameters: int
    statistics: int
    length: int = S

    @nn.compact
    def __call__(self, x: Any) -> Any:
        over = {"params": self.parameters, "batch_stats": self.statistics}
        scan = nn.scan(Body, variable_axes=over, split_rngs={"params": True}, length=self.length)
        return scan(name="blocks")(x, None)[0]


@pytest.mark.parametrize("statistics", [0, 1])
@pytest.mark.parametrize("parameters", [0, 1, -1])
@pytest.mark.parametrize("length", [3, S])
def test_a_scanned_module_is_a_layer_for_each_step(parameters: int, statistics: int, length: int) -> None:
    reg = opened(Scanned(parameters, statistics, length), data(2, S))
    assert [layer.path for layer in reg.layers] == [
        f"blocks/{name}/{step}" for name in ("Dense_0", "BatchNorm_0", "conv") for step in range(length)
    ]
    kernels, means = reg.read("blocks/Dense_0/kernel"), reg.read("blocks/BatchNorm_0/mean")
    for step, layer in enumerate(reg.layers[:length]):
        assert (layer.kind, layer.base, layer.config) == ("linear", "blocks/Dense_0", {"stacked": True})
        names, kernel = roles_of(reg, layer)["kernel"]
        assert names == ("in", "out")
        assert kernel.tobytes() == np.take(kernels, step, parameters).tobytes()
    for step, layer in enumerate(reg.layers[length : 2 * length]):
        assert roles_of(reg, layer)["mean"][1].tobytes() == np.take(means, step, statistics).tobytes()
    convs = reg.read("blocks/conv/kernel")
    names, kernel = roles_of(reg, reg.layers[2 * length + 1])["kernel"]
    assert names == ("in/groups", "out", "spatial.0")
    assert kernel.tobytes() == np.take(convs, 1, parameters).transpose(1, 2, 0).tobytes()


def test_each_step_computes_what_its_layers_say() -> None:
    """The scan, step by step, with the roles of every index."""
    x = data(2, S)

    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            scan = nn.scan(
                lambda dense, x, _: (jnp.tanh(dense(x)), None), variable_axes={"params": 1}, split_rngs={"params": True},
                length=S,
            )  # fmt: skip
            return scan(nn.Dense(S, name="dense"), x, None)[0]

    reg = opened(Deep(), x)
    expected = x.astype(np.float64)
    for layer in reg.layers:
        roles = roles_of(reg, layer)
        expected = np.tanh(expected @ roles["kernel"][1] + roles["bias"][1])
    assert_close(np.asarray(Deep().apply(reg.unwrap(), x)), expected)


def test_layers_stacked_twice_have_two_indices_in_the_order_of_the_transforms() -> None:
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            inner = nn.vmap(nn.Dense, variable_axes={"params": 1}, split_rngs={"params": True})
            scan = nn.scan(
                lambda dense, x, _: (dense(x), None), variable_axes={"params": 2}, split_rngs={"params": True}, length=S
            )
            x = scan(inner(S, name="dense"), x, None)[0]
            return nn.remat_scan(partial(nn.Dense, S, name="deep"), lengths=(2, 3))(name="remat")(x)

    reg = opened(Twice(), data(S, 2, S))
    layers = {layer.path: layer for layer in reg.layers}
    assert list(layers) == [
        *(f"dense/{i}/{j}" for i in range(S) for j in range(S)), *(f"remat/{i}/{j}" for i in range(2) for j in range(3))
    ]  # fmt: skip
    kernels = reg.read("dense/kernel")  # the inner axis counts at 1 of what the outer, at 2, leaves
    for i, j in ((0, 1), (3, 2)):
        kernel = roles_of(reg, layers[f"dense/{i}/{j}"])["kernel"][1]
        assert kernel.tobytes() == np.ascontiguousarray(kernels[:, j, i, :]).tobytes()
    deep = reg.read("remat/kernel")
    assert roles_of(reg, layers["remat/1/2"])["kernel"][1].tobytes() == deep[1, 2].tobytes()


def test_what_is_shared_by_all_steps_is_one_layer_and_what_is_half_shared_is_none() -> None:
    x = data(2, S)

    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            scan = nn.scan(
                Body,
                variable_broadcast="params",
                variable_axes={"batch_stats": 0},
                split_rngs={"params": False},
                length=3,
            )
            return scan(name="blocks")(x, None)[0]

    reg = opened(Shared(), x)
    assert [layer.path for layer in reg.layers] == ["blocks/Dense_0", "blocks/conv"]


def test_a_module_that_looks_into_its_variables_stands_alone_where_shapes_do_not_tell() -> None:
    class Inside(nn.Module):
        @nn.compact
        def __call__(self, x: Any, _: Any) -> Any:
            return nn.WeightNorm(nn.Dense(S, name="dense"))(x), None

    class Net(nn.Module):
        length: int

        @nn.compact
        def __call__(self, x: Any) -> Any:
            scan = nn.scan(Inside, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.length)
            return scan(name="blocks")(x, None)[0]

    assert opened(Net(S), data(2, S)).layers == ()
    told = opened(Net(3), data(2, S))
    assert [layer.path for layer in told.layers] == [f"blocks/dense/{n}" for n in range(3)]
    assert [piece.role for piece in told.layers[0].pieces] == ["kernel_direction", "kernel_magnitude", "bias"]


class Blocks(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(S, S) for _ in range(S))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Stack(nn.Module):
    axis: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        scan = nn.scan(
            lambda dense, x, _: (dense(x), None),
            variable_axes={"params": self.axis},
            split_rngs={"params": True},
            length=S,
        )
        return scan(nn.Dense(S, name="blocks"), x, None)[0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_stack_and_a_list_of_torch_layers_convert_both_ways(axis: int) -> None:
    x = data(3, S)
    torch.manual_seed(0)
    source = Blocks()
    axis = min(axis, 1) if axis < 2 else -1
    target = opened(Stack(axis), x)
    done = sr.convert(source, target)
    with torch.no_grad():
        expected = source(torch.from_numpy(x)).numpy()
    assert_close(np.asarray(Stack(axis).apply(done.target, x)), expected)
    again = sr.convert(target.replace(sr.snapshot(sr.of(done.target))), Blocks())
    for name, tensor in again.target.state_dict().items():
        assert tensor.numpy().tobytes() == source.state_dict()[name].numpy().tobytes()


@pytest.mark.parametrize(("here", "there"), [(0, 1), (1, 0), (-1, 0), (0, -1)])
def test_within_linen_a_stack_may_be_counted_by_another_axis(here: int, there: int) -> None:
    x = data(3, S)
    source, target = opened(Stack(here), x, seed=1), opened(Stack(there), x, seed=2)
    done = sr.convert(source, target)
    assert_close(np.asarray(Stack(there).apply(done.target, x)), np.asarray(Stack(here).apply(source.unwrap(), x)))
    moved = target.replace(sr.snapshot(sr.of(done.target)))
    assert sr.verify(source, moved).equal
    again = done.plan.invert().execute(moved, target=opened(Stack(here), x, seed=3)).target
    assert {key: value.tobytes() for key, value in sr.snapshot(sr.of(again)).items()} == {
        key: value.tobytes() for key, value in sr.snapshot(source).items()
    }


def test_a_stack_becomes_single_layers_where_only_the_framework_is_named() -> None:
    x = data(3, S)
    source = opened(Stack(0), x)
    state = sr.convert(source, to="torch").target
    twin = Blocks()
    twin.load_state_dict(state)
    with torch.no_grad():
        assert_close(twin(torch.from_numpy(x)).numpy(), np.asarray(Stack(0).apply(source.unwrap(), x)))


# -------------------------------------------------------------------- NNX


def stacked_nnx(make: Any, count: int, axis: int = 0) -> Any:
    @nnx.vmap(in_axes=0, out_axes=axis)
    def made(key: Any) -> Any:
        return make(nnx.Rngs(key))

    return made(jax.random.split(jax.random.key(0), count))


@pytest.mark.parametrize("axis", [0, 1])
def test_an_nnx_stack_is_layers_where_only_one_axis_can_count(axis: int) -> None:
    model = nnx.Dict({"stack": stacked_nnx(lambda rngs: nnx.Linear(2, 4, rngs=rngs), 3, axis)})
    reg = sr.of(model)
    reg.replace(random(reg, 0))
    assert [layer.path for layer in reg.layers] == ["stack/0", "stack/1", "stack/2"]
    for step, layer in enumerate(reg.layers):
        names, kernel = roles_of(reg, layer)["kernel"]
        assert names == ("in", "out")
        assert kernel.tobytes() == np.take(reg.read("stack/kernel"), step, axis).tobytes()


SQUARE = {
    "linear": lambda rngs: nnx.Linear(3, 3, rngs=rngs), "layer_norm": lambda rngs: nnx.LayerNorm(3, rngs=rngs),
    "conv": lambda rngs: nnx.Conv(3, 3, (3, 3), rngs=rngs), "embedding": lambda rngs: nnx.Embed(3, 3, rngs=rngs),
}  # fmt: skip


@pytest.mark.parametrize("kind", SQUARE)
def test_an_nnx_stack_that_several_axes_could_count_stands_alone(kind: str) -> None:
    assert sr.of(nnx.Dict({"stack": stacked_nnx(SQUARE[kind], 3)})).layers == ()


def test_fused_arrays_of_nnx_are_stacked_in_front_only() -> None:
    cell = stacked_nnx(lambda rngs: nnx.OptimizedLSTMCell(2, 4, rngs=rngs), 3)
    reg = sr.of(nnx.Dict({"cell": cell}))
    reg.replace(random(reg, 0))
    assert [layer.path for layer in reg.layers] == ["cell/0", "cell/1", "cell/2"]
    kernel = reg.read("cell/dense_i/kernel")
    for step, layer in enumerate(reg.layers):
        for number, gate in enumerate("ifgo"):
            names, found = roles_of(reg, layer)[f"{gate}_input_kernel"]
            assert names == ("hidden", "in")
            assert found.tobytes() == np.ascontiguousarray(kernel[step][:, 4 * number : 4 * number + 4].T).tobytes()
    behind = stacked_nnx(lambda rngs: nnx.OptimizedLSTMCell(2, 4, rngs=rngs), 3, 1)
    assert "lstm" not in {layer.kind for layer in sr.of(nnx.Dict({"cell": behind})).layers}
