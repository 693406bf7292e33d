"""What `verify` sees of layers that are called in other ways: shared, over time, stacked, compiled, in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import stateregistry as sr
import stateregistry_numpy
from stateregistry_numpy.layers import LayerNorm, Linear, ReLU
from stateregistry_numpy.module import Sequential

SIDE = 4
Forward = Callable[[np.ndarray], Any]


def data() -> np.ndarray:
    """A batch of sequences: three of five steps."""
    return np.random.default_rng(0).normal(size=(3, 5, SIDE)).astype(np.float32)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def runs(net: torch.nn.Module) -> Forward:
    def forward(x: np.ndarray) -> Any:
        with torch.no_grad():
            return net(torch.from_numpy(np.array(x)))

    return forward


def check(a: Any, b: Any, fa: Forward, fb: Forward, **options: Any) -> sr.Verification:
    return sr.verify(a, b, forward=(fa, fb, data()), **options)


def place(found: sr.Verification) -> tuple[str, str, str]:
    first = found.first_departure
    assert first is not None, str(found)
    return first.where, first.source, first.target


def converted(source: Any, module: nn.Module, **options: Any) -> Any:
    """Linen variables of a module with the state of a torch module."""
    fresh = module.init(jax.random.key(0), data())
    return sr.convert(source, of(module, fresh), allow=("choice",), **options).target


def of(module: nn.Module, variables: Any) -> sr.StateRegistry:
    return sr.of(variables, module=module, args=(data(),))


def pair_of_linears() -> tuple[torch.nn.Module, torch.nn.Module]:
    """Two torch models with the same state."""
    one, two = (torch.nn.Sequential(torch.nn.Linear(SIDE, SIDE), torch.nn.Linear(SIDE, SIDE)) for _ in range(2))
    two.load_state_dict(one.state_dict())
    return one, two


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


# -------------------------------------------------------------------- what is not seen is not named


class Small(nn.Module):
    scale: float = 1.0
    wrap: Any = nn.Dense

    @nn.compact
    def __call__(self, x):
        x = self.wrap(SIDE, name="0")(x)
        return nn.Dense(SIDE, name="1")(x * self.scale)


def test_a_layer_that_is_only_traced_is_not_compared_and_not_named() -> None:
    net, _ = pair_of_linears()
    variables = converted(net, Small())
    hidden = Small(1.5, nn.remat(nn.Dense))
    found = check(net, of(hidden, variables), runs(net), lambda x: hidden.apply(variables, x))
    assert place(found) == ("between", "1", "1")
    assert found.first_departure.after is None  # the layer before it was not seen
    assert any("0: it was only traced" in note for note in found.notes)


def test_a_model_that_was_compiled_beforehand_says_so_and_names_nothing() -> None:
    net, _ = pair_of_linears()
    variables = converted(net, Small())
    wrong = Small(1.5)
    compiled = jax.jit(lambda x: wrong.apply(variables, x)).lower(data()).compile()
    found = check(net, of(wrong, variables), runs(net), compiled)
    assert not found.outputs_equal()
    assert found.first_departure is None
    assert "un-jitted" in found.notes[0]


def test_functions_that_run_other_models_say_so_and_name_nothing() -> None:
    net, other = pair_of_linears()
    stranger, _ = pair_of_linears()
    found = check(net, other, runs(net), runs(stranger))
    assert (found.first_departure, found.compared_layers) == (None, ())
    assert found.notes[0].startswith("no layer of b was seen while fb ran")


def test_another_linen_model_with_the_same_names_is_not_taken_for_the_one_that_is_verified() -> None:
    net, _ = pair_of_linears()
    module = Small()
    variables = converted(net, module)
    others = module.init(jax.random.key(7), data())
    found = check(net, of(module, variables), runs(net), lambda x: module.apply(others, x))
    assert found.first_departure is None
    assert "other parameters" in found.notes[0]
    both = check(net, of(module, variables), runs(net), lambda x: module.apply(variables, x) + module.apply(others, x))
    assert place(both)[0] == "after"
    assert len(both.compared_layers) == 2


def test_an_nnx_model_that_is_split_and_merged_is_known_again() -> None:
    class Net(nnx.Module):
        def __init__(self, scale: float = 1.0) -> None:
            setattr(self, "0", nnx.Linear(SIDE, SIDE, rngs=nnx.Rngs(0)))
            setattr(self, "1", nnx.Linear(SIDE, SIDE, rngs=nnx.Rngs(0)))
            self.scale = scale

        def __call__(self, x):
            return getattr(self, "1")(getattr(self, "0")(x) * self.scale)

    net, _ = pair_of_linears()
    two = sr.convert(net, Net(1.5)).target
    graph, state = nnx.split(two)
    found = check(net, two, runs(net), jax.jit(lambda x: nnx.merge(graph, state)(x)))
    assert place(found) == ("between", "1", "1")


def test_what_is_random_is_not_blamed_on_a_layer() -> None:
    net, other = pair_of_linears()
    noisy = torch.nn.Sequential(other, torch.nn.Dropout(0.5)).train()
    found = check(net, other, runs(net), runs(noisy))
    assert found.first_departure is None
    assert "something else the second time" in found.notes[0]


def test_a_file_cannot_be_watched(tmp_path) -> None:
    net, other = pair_of_linears()
    with torch.no_grad():
        other[0].weight.add_(1)
    sr.save(other, tmp_path / "model.safetensors")
    found = check(net, tmp_path / "model.safetensors", runs(net), runs(other))
    assert found.first_departure is None
    assert "b cannot be watched" in found.notes[0]


def test_outputs_of_other_shapes_are_an_error_that_says_where_it_begins() -> None:
    one, two = (torch.nn.Sequential(torch.nn.Conv1d(5, 5, 2, padding=n), torch.nn.ReLU()) for n in (0, 1))
    two.load_state_dict(one.state_dict())
    with pytest.raises(sr.StateError) as caught:
        check(one, two, runs(one), runs(two))
    assert "has shape (3, 5, 3) against (3, 5, 5)" in str(caught.value)
    assert any("the layer 0 (conv)" in note for note in caught.value.__notes__)


# -------------------------------------------------------------------- training, tracing, the reference


def test_a_norm_in_training_is_named_with_its_mode() -> None:
    one, two = (torch.nn.Sequential(torch.nn.Linear(SIDE, SIDE), torch.nn.BatchNorm1d(5)) for _ in range(2))
    two.load_state_dict(one.state_dict())
    found = check(one, two, runs(one.eval()), runs(two.train()))
    assert place(found) == ("layer", "1", "1")
    assert "running statistics in a and with statistics of the batch in b" in str(found)


def test_a_compiled_torch_model_is_watched_eagerly() -> None:
    net, other = pair_of_linears()
    with torch.no_grad():
        other[1].weight.copy_(other[1].weight.T.clone())
    found = check(net, other, runs(net), runs(torch.compile(other, backend="eager")))
    assert place(found) == ("layer", "1", "1")


def test_the_fast_path_of_a_transformer_layer_hides_nothing() -> None:
    one, two = (
        torch.nn.TransformerEncoderLayer(SIDE, 2, 8, batch_first=True, activation=name).eval()
        for name in ("gelu", "relu")
    )
    two.load_state_dict(one.state_dict())
    fast = torch.backends.mha.get_fastpath_enabled()
    found = check(one, two, runs(one), runs(two))
    assert place(found) == ("between", "linear2", "linear2")
    assert [finding.name for finding in found.first_departure.findings] == ["activation"]
    assert torch.backends.mha.get_fastpath_enabled() is fast


def test_the_reference_model_is_watched_too() -> None:
    one = Sequential(Linear(SIDE, SIDE), ReLU(), LayerNorm(SIDE, eps=1e-1))
    two = torch.nn.Sequential(torch.nn.Linear(SIDE, SIDE), torch.nn.ReLU(), torch.nn.LayerNorm(SIDE))
    sr.convert(one, two)
    assert place(check(one, two, one, runs(two))) == ("layer", "2", "2")
    assert "forward" not in vars(one.members["0"])


def test_in_low_precision_rounding_is_not_blamed_on_a_layer() -> None:
    """With the tolerance of float32 every layer of bfloat16 is beyond it, from the first one on."""
    net, other = pair_of_linears()

    def low(model: torch.nn.Module) -> Forward:
        model.bfloat16()
        return lambda x: model(torch.from_numpy(x).bfloat16()).detach()

    slightly = low(other)
    found = check(net, other, low(net), lambda x: slightly(x * (1 + 2**-8)))
    assert found.first_departure.where == "gradual"
    assert "no layer alone" in str(found)
    with torch.no_grad():
        other[1].weight.copy_(other[1].weight.T.clone())
    assert place(check(net, other, low(net), slightly, tolerance=1e-2)) == ("layer", "1", "1")


# -------------------------------------------------------------------- nothing stays behind


def hooks(net: torch.nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in net.modules())


def test_hooks_and_wrapped_classes_are_gone_however_the_run_ends() -> None:
    net, other = pair_of_linears()
    before = {cls: cls.__dict__["__call__"] for cls in (nnx.Linear, nnx.RNN, nnx.Bidirectional)}
    times = []

    def fails(_: np.ndarray) -> Any:
        times.append(hooks(other))
        if len(times) > 1:
            raise RuntimeError("out of memory")
        return np.zeros((3, 5, SIDE))

    found = check(net, other, runs(net), fails)
    assert times == [0, 4, 4]
    assert (hooks(net), hooks(other)) == (0, 0)
    assert "RuntimeError: out of memory" in found.notes[0]

    class Net(nnx.Module):
        def __init__(self) -> None:
            self.fc = nnx.Linear(SIDE, SIDE, rngs=nnx.Rngs(0))

        def __call__(self, x):
            if nnx.Linear.__call__ is not before[nnx.Linear]:
                raise RuntimeError("watched")
            return self.fc(x)

    one, two = Net(), Net()
    found = check(one, two, one, lambda x: two(x) * 2)
    assert "RuntimeError: watched" in found.notes[0]
    assert {cls: cls.__dict__["__call__"] for cls in before} == before
    assert "__call__" in Net.__dict__


def test_a_torch_layer_that_works_in_place_is_seen_as_it_was() -> None:
    def made(slope: float) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Linear(SIDE, SIDE), torch.nn.LeakyReLU(slope, inplace=True), torch.nn.Linear(SIDE, SIDE)
        )

    one, two = made(0.1), made(0.2)
    two.load_state_dict(one.state_dict())
    assert place(check(one, two, runs(one), runs(two))) == ("between", "2", "2")


def test_equal_outputs_cost_one_call_each() -> None:
    net, other = pair_of_linears()
    calls = []
    found = check(
        net, other, lambda x: calls.append("a") or runs(net)(x), lambda x: calls.append("b") or runs(other)(x)
    )
    assert calls == ["a", "b"]
    assert found.compared_layers == ()


def test_a_frozen_reference_model_computes_nothing_and_says_so() -> None:
    one = Sequential(Linear(SIDE, SIDE))
    other = stateregistry_numpy.Module()
    other.add_module("0", Linear(SIDE, SIDE, rng=1))
    found = check(one.freeze(), one, one, lambda x: one(x) + 1)
    assert "a cannot be watched" in found.notes[0]
