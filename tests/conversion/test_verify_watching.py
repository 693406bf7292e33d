"""What `verify` does not see and says so, what it sees of models in training or compiled, and what it leaves behind."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
import torch
from flax import nnx
from verifying import SIDE, Forward, check, converted, data, of, pair_of_linears, place, runs

import stateregistry as sr
import stateregistry_numpy
from stateregistry_numpy.layers import LayerNorm, Linear, ReLU
from stateregistry_numpy.module import Sequential


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


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


# -------------------------------------------------------------------- layers with a call of the author's


class Offset(torch.nn.Embedding):
    """A table of positions that is called with a mask, as OPT has it."""

    def forward(self, mask: torch.Tensor) -> torch.Tensor:
        return super().forward(mask.cumsum(-1))


class LinenOffset(nn.Embed):
    def __call__(self, mask):
        return super().__call__(mask.cumsum(-1))


class Positions(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.dense = Offset(9, SIDE), torch.nn.Linear(SIDE, SIDE)

    def forward(self, mask: torch.Tensor) -> torch.Tensor:
        return self.dense(self.table(mask))


class LinenPositions(nn.Module):
    scale: float = 1.0

    @nn.compact
    def __call__(self, mask):
        return self.scale * nn.Dense(SIDE, name="dense")(self.scale * LinenOffset(9, SIDE, name="table")(mask))


def test_a_layer_whose_call_has_other_arguments_is_not_compared_and_the_others_are() -> None:
    mask = np.ones((2, 5), np.int32)
    net, right, wrong = Positions().eval(), LinenPositions(), LinenPositions(1.5)
    done = sr.convert(net, sr.of(right.init(jax.random.key(0), mask), module=right, args=(mask,)))

    def run(values: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(values)).numpy()

    target = sr.of(done.target, module=wrong, args=(mask,))
    found = sr.verify(net, target, plan=done.plan, forward=(run, lambda x: wrong.apply(done.target, x), mask))
    assert not found.outputs_equal()
    assert found.first_departure is not None
    assert "dense" in str(found.first_departure)
