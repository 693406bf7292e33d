"""What `verify` sees of layers that are called in other ways: shared, over time, stacked."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from verifying import SIDE, Forward, check, converted, of, pair_of_linears, place, runs

import stateregistry as sr


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


# -------------------------------------------------------------------- shared layers and other orders


class TorchShared(torch.nn.Module):
    """Time before batch inside, as torch has it; one linear layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(SIDE, SIDE)
        self.attn = torch.nn.MultiheadAttention(SIDE, 2)
        self.ln = torch.nn.LayerNorm(SIDE)

    def forward(self, x):
        x = self.fc(self.fc(x.transpose(0, 1)))
        return self.ln(self.attn(x, x, x)[0]).transpose(0, 1)


class LinenShared(nn.Module):
    scale: float = 1.0

    @nn.compact
    def __call__(self, x):
        fc = nn.Dense(SIDE, name="fc")
        x = nn.MultiHeadDotProductAttention(2, name="attn")(fc(fc(x) * self.scale))
        return nn.LayerNorm(epsilon=1e-5, name="ln")(x)


def test_of_a_shared_layer_the_call_is_named_whatever_comes_first_time_or_batch() -> None:
    net = TorchShared()
    variables = converted(net, LinenShared())
    wrong = LinenShared(1.5)
    found = check(net, of(wrong, variables), runs(net), jax.jit(lambda x: wrong.apply(variables, x)))
    assert place(found) == ("between", "fc", "fc")
    assert (found.first_departure.call, found.first_departure.calls) == (2, 2)
    assert found.first_departure.after == ("fc", "fc")


def test_heads_and_head_dim_in_each_others_place_are_named() -> None:
    net = TorchShared()
    variables = converted(net, LinenShared())
    variables["params"]["attn"]["value"]["kernel"] = jnp.swapaxes(variables["params"]["attn"]["value"]["kernel"], 1, 2)
    module = LinenShared()
    found = check(net, of(module, variables), runs(net), lambda x: module.apply(variables, x))
    assert place(found) == ("layer", "attn", "attn")
    assert found.first_departure.state == ("attn/value/kernel",)


class Branches(nnx.Module):
    """One layer on two inputs, in either order."""

    def __init__(self, first: int, scale: float = 1.0) -> None:
        self.fc = nnx.Linear(SIDE, SIDE, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(SIDE, SIDE, rngs=nnx.Rngs(1))
        self.first, self.scale = first, scale

    def __call__(self, x):
        inputs = [x, x * 2]
        found = {number: self.fc(inputs[number]) for number in (self.first, 1 - self.first)}
        return self.out(jnp.tanh(found[0] - found[1] ** 2) * self.scale)


def test_calls_of_a_shared_layer_are_matched_by_what_they_are_given() -> None:
    one, two = Branches(0), Branches(1, scale=1.5)
    found = check(one, two, one, two)
    assert place(found) == ("between", "out", "out")


def test_a_layer_that_is_called_more_often_on_one_side_is_not_compared_and_that_is_said() -> None:
    net, other = pair_of_linears()
    found = check(net, other, runs(net), lambda x: runs(other)(x) + other[0](torch.from_numpy(x)).detach())
    assert place(found)[0] == "after"
    assert found.compared_layers == (("1", "1"),)
    assert [note for note in found.notes if "called once in a and 2 times in b" in note] == [
        "not compared: 0: called once in a and 2 times in b, so that no call is known to be the same"
    ]


# -------------------------------------------------------------------- over time


class TorchStack(torch.nn.Module):
    def __init__(self, both: bool) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(SIDE, SIDE)
        self.lstm = torch.nn.LSTM(SIDE, SIDE, num_layers=2, bidirectional=both)
        self.out = torch.nn.Linear(SIDE * (1 + both), SIDE)

    def forward(self, x):
        return self.out(self.lstm(self.fc(x).transpose(0, 1))[0]).transpose(0, 1)


class LinenStack(nn.Module):
    both: bool
    scale: float = 1.0
    gate: Any = nn.sigmoid

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(SIDE, name="fc")(x) * self.scale
        for number in range(2):
            cell = nn.OptimizedLSTMCell(SIDE, gate_fn=self.gate, name=f"l{number}")
            layer = nn.RNN(cell)
            if self.both:
                layer = nn.Bidirectional(layer, nn.RNN(nn.OptimizedLSTMCell(SIDE, name=f"l{number}_reverse")))
            x = layer(x)
        return nn.Dense(SIDE, name="out")(x)


def rules(both: bool) -> dict[str, str]:
    directions = ("", "_reverse") if both else ("",)
    return {f"lstm/l{number}{way}": f"l{number}{way}" for number in range(2) for way in directions}


@pytest.mark.parametrize("both", [False, True])
def test_a_stack_that_torch_runs_in_one_call_is_compared_as_a_whole(both: bool) -> None:
    net = TorchStack(both)
    variables = converted(net, LinenStack(both), rules=rules(both))
    wrong = LinenStack(both, gate=nn.hard_sigmoid)
    reg = of(wrong, variables)
    found = check(net, reg, runs(net), lambda x: wrong.apply(variables, x), rules=rules(both))
    where, source, target = place(found)
    assert where == "layer"
    assert (source.split(", "), target.split(", ")) == (list(rules(both)), list(rules(both).values()))
    assert "one of the layers that one call runs" in str(found)


@pytest.mark.parametrize("both", [False, True])
def test_what_comes_before_and_behind_a_stack_is_told_from_it(both: bool) -> None:
    net = TorchStack(both)
    variables = converted(net, LinenStack(both), rules=rules(both))
    wrong = LinenStack(both, scale=1.5)
    found = check(net, of(wrong, variables), runs(net), lambda x: wrong.apply(variables, x), rules=rules(both))
    assert found.first_departure.where == "between"
    assert found.first_departure.after == ("fc", "fc")
    kernel = variables["params"]["out"]["kernel"]
    variables["params"]["out"]["kernel"] = kernel[::-1]
    right = LinenStack(both)
    found = check(net, of(right, variables), runs(net), lambda x: right.apply(variables, x), rules=rules(both))
    assert place(found) == ("layer", "out", "out")


class Loop(torch.nn.Module):
    """A cell, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = torch.nn.LSTMCell(SIDE, SIDE)
        self.out = torch.nn.Linear(SIDE, SIDE)

    def forward(self, x):
        state = (torch.zeros(len(x), SIDE), torch.zeros(len(x), SIDE))
        steps = []
        for step in x.unbind(1):
            state = self.cell(step, state)
            steps.append(state[0])
        return self.out(torch.stack(steps, 1))


class Run(nnx.Module):
    """The same, run by NNX."""

    def __init__(self, scale: float = 1.0) -> None:
        self.cell = nnx.OptimizedLSTMCell(SIDE, SIDE, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(SIDE, SIDE, rngs=nnx.Rngs(0))
        self.scale = scale

    def __call__(self, x):
        return self.out(nnx.RNN(self.cell)(x) * self.scale)


def test_a_cell_in_a_loop_is_compared_step_by_step_with_one_that_is_run() -> None:
    net = Loop()
    two = sr.convert(net, Run(1.5), allow=("choice",)).target
    assert place(check(net, two, runs(net), two)) == ("between", "out", "out")
    two.scale = 1.0
    assert check(net, two, runs(net), two).first_departure is None
    bias = two.cell.dense_h.bias[...]
    two.cell.dense_h.bias.set_value(jnp.roll(bias, SIDE))  # every gate has the bias of its neighbour
    found = check(net, two, runs(net), two)
    assert place(found) == ("layer", "cell", "cell")
    assert (found.first_departure.call, found.first_departure.calls) == (1, 5)


def test_an_initial_state_that_one_side_has_is_a_difference_of_the_input() -> None:
    """The cell computes the same: what it starts from does not."""
    one, two = torch.nn.Module(), torch.nn.Module()
    for each in (one, two):
        each.lstm = torch.nn.LSTM(SIDE, SIDE, batch_first=True)
    two.load_state_dict(one.state_dict())
    start = torch.ones(1, 3, SIDE)

    def run(net: torch.nn.Module, *state: Any) -> Forward:
        return lambda x: net.lstm(torch.from_numpy(x), *state)[0].detach()

    found = check(one, two, run(one), run(two, (start, start)))
    assert place(found) == ("between", "lstm", "lstm")
    assert "initial state" in str(found)
    zero = torch.zeros(1, 3, SIDE)
    assert check(one, two, run(one), run(two, (zero, zero))).first_departure is None


# -------------------------------------------------------------------- stacked


class Block(nn.Module):
    wrong: int = -1

    @nn.compact
    def __call__(self, x, number):
        x = nn.tanh(nn.Dense(SIDE, name="fc")(x))
        return jnp.where(number == self.wrong, x * 1.5, x), None


class Scanned(nn.Module):
    wrong: int = -1

    @nn.compact
    def __call__(self, x):
        blocks = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3, in_axes=0)
        x, _ = blocks(self.wrong, name="blocks")(x, jnp.arange(3))
        return nn.Dense(SIDE, name="out")(x)


class Unrolled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleDict({"fc": torch.nn.ModuleList(torch.nn.Linear(SIDE, SIDE) for _ in range(3))})
        self.out = torch.nn.Linear(SIDE, SIDE)

    def forward(self, x):
        for layer in self.blocks["fc"]:
            x = torch.tanh(layer(x))
        return self.out(x)


def test_one_of_several_stacked_layers_is_named_by_its_number() -> None:
    net = Unrolled()
    variables = converted(net, Scanned())
    wrong = Scanned(1)
    found = check(net, of(wrong, variables), runs(net), jax.jit(lambda x: wrong.apply(variables, x)))
    assert place(found) == ("between", "blocks/fc/2", "blocks/fc/2")
    assert found.first_departure.after == ("blocks/fc/1", "blocks/fc/1")
    kernels = np.array(variables["params"]["blocks"]["fc"]["kernel"])
    kernels[1] = kernels[1].T
    variables["params"]["blocks"]["fc"]["kernel"] = kernels
    right = Scanned()
    found = check(net, of(right, variables), runs(net), jax.jit(lambda x: right.apply(variables, x)))
    assert place(found) == ("layer", "blocks/fc/1", "blocks/fc/1")


class NnxScanned(nnx.Module):
    def __init__(self) -> None:
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(key):
            return nnx.Linear(SIDE, SIDE, rngs=nnx.Rngs(key))

        self.fc = make(jax.random.split(jax.random.key(0), 3))
        self.out = nnx.Linear(SIDE, SIDE, rngs=nnx.Rngs(0))

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def over(layer, x):
            return jnp.tanh(layer(x))

        return self.out(over(self.fc, x))


def test_a_stacked_layer_of_nnx_is_known_by_its_parameters() -> None:
    net = Unrolled()
    layout = {"blocks/fc/{i}": "fc/{i}"}
    two = sr.convert(net, NnxScanned(), rules=layout, allow=("choice",)).target
    assert check(net, two, runs(net), two, rules=layout).outputs_equal()
    kernels = np.array(two.fc.kernel[...])
    kernels[2] = kernels[2].T
    two.fc.kernel.set_value(jnp.asarray(kernels))
    found = check(net, two, runs(net), lambda x: nnx.jit(lambda m, y: m(y))(two, jnp.asarray(x)), rules=layout)
    assert place(found) == ("layer", "blocks/fc/2", "fc/2")


def test_what_does_not_run_uncompiled_is_watched_compiled_and_that_is_said() -> None:
    """Without its compiler JAX gives `nnx.scan` NumPy arrays as they are, which NNX takes for references and refuses."""
    net = Unrolled()
    layout = {"blocks/fc/{i}": "fc/{i}"}
    two = sr.convert(net, NnxScanned(), rules=layout, allow=("choice",)).target
    two.out.kernel.set_value(two.out.kernel[...].T)
    found = check(net, two, runs(net), two, rules=layout)
    assert place(found) == ("layer", "out", "out")
    assert found.compared_layers == (("out", "out"),)
    assert any(
        "fails while b is watched and nothing is compiled: ValueError: Carry references" in n for n in found.notes
    )
    assert any(note.startswith("not compared: blocks/fc/0") for note in found.notes)
