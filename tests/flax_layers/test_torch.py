"""torch to Linen and NNX and back: the same function for every row, refused by name where there is none.

Layers are square where a type allows it. Data is channels last; `first` and `last` move the channels for torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import numpy as np
import pytest
import torch
from cases import Cell, LiveCell, S, assert_close, data, live, opened
from flax import nnx

import stateregistry as sr
from stateregistry import errors


def first(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


def last(y: torch.Tensor) -> np.ndarray:
    return np.moveaxis(y.detach().numpy(), 1, -1)


def plain(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(x))


def back(y: torch.Tensor) -> np.ndarray:
    return y.detach().numpy()


@dataclass(frozen=True)
class Pair:
    """A torch module, and the Linen and NNX modules that compute the same. `allow`: what the way back chooses."""

    name: str
    torch: Callable[[], Any]
    linen: Callable[[], Any]
    nnx: Callable[[nnx.Rngs], Any]
    inputs: tuple[Any, ...]
    to: Callable[[np.ndarray], torch.Tensor] = plain
    of: Callable[[torch.Tensor], np.ndarray] = back
    allow: tuple[str, ...] = ()

    def torch_module(self, seed: int = 0) -> Any:
        generator = torch.Generator().manual_seed(seed)
        module = self.torch().eval()
        with torch.no_grad():
            for name, tensor in module.state_dict().items():
                if tensor.is_floating_point():
                    value = torch.randn(tensor.shape, generator=generator)
                    tensor.copy_(value.abs() + 0.5 if name.endswith("var") else value)
        return module

    def run_torch(self, module: Any) -> np.ndarray:
        with torch.no_grad():
            result = module(*(self.to(x) for x in self.inputs))
        return self.of(result[0] if isinstance(result, tuple) else result)

    def of_linen(self, seed: int = 1) -> sr.StateRegistry:
        return opened(self.linen(), *self.inputs, seed=seed)

    def of_nnx(self, seed: int = 1) -> sr.StateRegistry:
        return live(self.nnx, seed)

    def run(self, framework: str, native: Any) -> np.ndarray:
        result = self.linen().apply(native, *self.inputs) if framework == "linen" else native(*self.inputs)
        return np.asarray(result[0] if isinstance(result, tuple) else result)


def _conv(rank: int, **options: Any) -> Pair:
    kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    flax = {"padding": options.get("padding", 0), "strides": options.get("stride", 1)}
    flax |= {"kernel_dilation": options.get("dilation", 1), "feature_group_count": options.get("groups", 1)}
    return Pair(
        f"conv{rank}d {options}", lambda: kinds[rank - 1](S, S, S, **options), lambda: nn.Conv(S, (S,) * rank, **flax),
        lambda rngs: nnx.Conv(S, S, (S,) * rank, **flax, rngs=rngs), (data(2, *(9,) * rank, S),), first, last,
    )  # fmt: skip


def _conv_transpose(rank: int, transpose: bool, **options: Any) -> Pair:
    kinds = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
    dilation, stride = options.get("dilation", 1), options.get("stride", 1)
    left = dilation * (S - 1) - options.get("padding", 0)
    flax = {
        "strides": (stride,) * rank, "kernel_dilation": (dilation,) * rank, "transpose_kernel": transpose,
        "padding": ((left, left + options.get("output_padding", 0)),) * rank,
    }  # fmt: skip
    return Pair(
        f"conv_transpose{rank}d {transpose} {options}", lambda: kinds[rank - 1](S, S, S, **options),
        lambda: nn.ConvTranspose(S, (S,) * rank, **flax),
        lambda rngs: nnx.ConvTranspose(S, S, (S,) * rank, **flax, rngs=rngs), (data(2, *(5,) * rank, S),), first, last,
    )  # fmt: skip


def _recurrent(name: str, native: Callable[[], Any], linen: Any, live: Any) -> Pair:
    return Pair(
        name, native, lambda: Cell(linen), lambda rngs: LiveCell(live(S, S, rngs=rngs)), (data(2, 5, S),),
        allow=("choice",),
    )  # fmt: skip


class Run(torch.nn.Module):
    """A torch sequence model under the name `run`."""

    def __init__(self, run: torch.nn.Module) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x)[0]


def _attention(name: str, keys: int, **options: Any) -> Pair:
    return Pair(
        name, lambda: torch.nn.MultiheadAttention(S, 2, batch_first=True, **options),
        lambda: nn.MultiHeadDotProductAttention(2, qkv_features=S, out_features=S),
        lambda rngs: nnx.MultiHeadAttention(2, S, S, S, in_kv_features=keys, decode=False, rngs=rngs),
        (data(2, 5, S), data(2, 3, keys, seed=1), data(2, 3, keys, seed=2)),
    )  # fmt: skip


def _norm(name: str, native: Any, linen: Any, live: Any, inputs: Any = None, to: Any = first, of: Any = last) -> Pair:
    return Pair(name, native, linen, live, (data(2, S, S, S) if inputs is None else inputs,), to, of)


EPS = {"epsilon": 1e-5}
LAST2 = {"reduction_axes": (-2, -1), "feature_axes": (-2, -1), **EPS}
PAIRS = [
    Pair("linear", lambda: torch.nn.Linear(S, S), lambda: nn.Dense(S), lambda rngs: nnx.Linear(S, S, rngs=rngs), (data(3, S),)),
    Pair(
        "linear into heads", lambda: torch.nn.Linear(4, 4), lambda: nn.DenseGeneral((2, 2)),
        lambda rngs: nnx.LinearGeneral(4, (2, 2), rngs=rngs), (data(3, 4),), of=lambda y: y.numpy().reshape(3, 2, 2),
    ),
    Pair(
        "linear out of heads", lambda: torch.nn.Linear(4, 4), lambda: nn.DenseGeneral(4, axis=(-2, -1)),
        lambda rngs: nnx.LinearGeneral((2, 2), 4, axis=(-2, -1), rngs=rngs), (data(3, 2, 2),),
        to=lambda x: torch.from_numpy(x.reshape(3, 4)),
    ),
    Pair(
        "linear as einsum", lambda: torch.nn.Linear(4, 4), lambda: nn.Einsum((4, 2, 2), "...i,iba->...ab"),
        lambda rngs: nnx.Einsum("...i,iba->...ab", (4, 2, 2), (2, 2), rngs=rngs), (data(3, 4),),
        of=lambda y: y.numpy().reshape(3, 2, 2),
    ),
    *[_conv(rank) for rank in (1, 2, 3)],
    _conv(2, stride=2, padding=2), _conv(2, dilation=2), _conv(2, groups=2), _conv(1, groups=4), _conv(3, groups=2),
    *[_conv_transpose(rank, transpose) for rank in (1, 2, 3) for transpose in (False, True)],
    *[
        _conv_transpose(rank, transpose, **options)
        for transpose in (False, True)
        for rank, options in (
            (1, {"stride": 2, "padding": 1, "output_padding": 1}), (2, {"stride": 2, "padding": 1}),
            (2, {"stride": 3, "dilation": 2, "output_padding": 2}), (3, {"stride": 2, "padding": 1}),
        )
    ],
    replace(
        _norm(
            "batch_norm", lambda: torch.nn.BatchNorm2d(S), lambda: nn.BatchNorm(use_running_average=True),
            lambda rngs: nnx.BatchNorm(S, use_running_average=True, rngs=rngs),
        ),
        allow=("choice",),
    ),
    _norm(
        "layer_norm", lambda: torch.nn.LayerNorm(S), lambda: nn.LayerNorm(**EPS),
        lambda rngs: nnx.LayerNorm(S, **EPS, rngs=rngs), to=plain, of=back,
    ),
    _norm(
        "layer_norm over two axes", lambda: torch.nn.LayerNorm((S, S)), lambda: nn.LayerNorm(**LAST2),
        lambda rngs: nnx.LayerNorm(S * S, **LAST2, rngs=rngs), to=plain, of=back,
    ),
    _norm(
        "rms_norm", lambda: torch.nn.RMSNorm(S, eps=1e-5), lambda: nn.RMSNorm(**EPS),
        lambda rngs: nnx.RMSNorm(S, **EPS, rngs=rngs), to=plain, of=back,
    ),
    _norm(
        "group_norm", lambda: torch.nn.GroupNorm(2, S), lambda: nn.GroupNorm(2, **EPS),
        lambda rngs: nnx.GroupNorm(S, 2, **EPS, rngs=rngs),
    ),
    _norm(
        "instance_norm", lambda: torch.nn.InstanceNorm2d(S, affine=True), lambda: nn.InstanceNorm(**EPS),
        lambda rngs: nnx.InstanceNorm(S, **EPS, rngs=rngs),
    ),
    Pair(
        "embedding", lambda: torch.nn.Embedding(S, S), lambda: nn.Embed(S, S), lambda rngs: nnx.Embed(S, S, rngs=rngs),
        (np.array([[3, 1], [0, 2]]),),
    ),
    Pair("prelu", torch.nn.PReLU, nn.PReLU, lambda rngs: nnx.PReLU(), (data(3, S),)),
    _attention("attention", S), _attention("attention kdim vdim", 6, kdim=6, vdim=6),
    _recurrent(
        "lstm", lambda: Run(torch.nn.LSTM(S, S, batch_first=True)), nn.OptimizedLSTMCell, nnx.OptimizedLSTMCell
    ),
    _recurrent("lstm apart", lambda: Run(torch.nn.LSTM(S, S, batch_first=True)), nn.LSTMCell, nnx.LSTMCell),
    _recurrent("rnn", lambda: Run(torch.nn.RNN(S, S, batch_first=True)), nn.SimpleCell, nnx.SimpleCell),
]  # fmt: skip

EACH = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
BOTH = pytest.mark.parametrize("framework", ["linen", "nnx"])


def registry(pair: Pair, framework: str, seed: int = 1) -> sr.StateRegistry:
    return pair.of_linen(seed) if framework == "linen" else pair.of_nnx(seed)


def bits(module: torch.nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in module.state_dict().items()}


@EACH
@BOTH
def test_from_torch_computes_the_same_and_comes_back_bit_for_bit(pair: Pair, framework: str) -> None:
    source = pair.torch_module()
    target = registry(pair, framework)
    done = sr.convert(source, target, allow=pair.allow)
    assert_close(pair.run(framework, done.target), pair.run_torch(source))
    there = target.replace(sr.snapshot(sr.of(done.target))) if framework == "linen" else sr.of(done.target)
    again = sr.convert(there, pair.torch_module(9), residual=done.residual, allow=pair.allow)
    assert bits(again.target) == bits(source)


@EACH
@BOTH
def test_into_torch_computes_the_same(pair: Pair, framework: str) -> None:
    source = registry(pair, framework)
    done = sr.convert(source, pair.torch_module(), allow=pair.allow)
    assert_close(pair.run_torch(done.target), pair.run(framework, source.unwrap()))


@BOTH
@pytest.mark.parametrize("transpose", [False, True])
def test_a_grouped_conv_transpose_is_impossible_by_name(framework: str, transpose: bool) -> None:
    source = torch.nn.ConvTranspose2d(S, S, S, groups=2)
    plan = sr.plan(source, registry(_conv_transpose(2, transpose), framework))
    assert {problem.problem for problem in plan.problems} == {"impossible"}
    assert "feature_group_count" in str(plan)
    derived = sr.plan(source, to="flax-linen" if framework == "linen" else "flax-nnx")
    assert {problem.problem for problem in derived.problems} == {"impossible"}


@BOTH
def test_running_statistics_of_an_instance_norm_are_impossible(framework: str) -> None:
    pair = next(pair for pair in PAIRS if pair.name == "instance_norm")
    source = torch.nn.InstanceNorm2d(S, affine=True, track_running_stats=True)
    plan = sr.plan(source, registry(pair, framework), allow=("choice",))
    assert {problem.problem for problem in plan.problems} == {"impossible"}
    assert {key for problem in plan.problems for key in problem.keys} == {"running_mean", "running_var"}


@BOTH
def test_a_prelu_with_many_slopes_is_impossible(framework: str) -> None:
    pair = next(pair for pair in PAIRS if pair.name == "prelu")
    plan = sr.plan(torch.nn.PReLU(S), registry(pair, framework), allow=("missing",))
    assert [(p.problem, p.keys) for p in plan.problems] == [("impossible", ("weight",))]
    assert "refuses a vector" in plan.problems[0].text


@BOTH
@pytest.mark.parametrize("extra", ["add_bias_kv", "proj_size"])
def test_an_appended_step_and_a_projection_are_impossible(framework: str, extra: str) -> None:
    if extra == "proj_size":
        pair, source = next(p for p in PAIRS if p.name == "lstm"), Run(torch.nn.LSTM(S, S, proj_size=2))
    else:
        pair = next(p for p in PAIRS if p.name == "attention")
        source = torch.nn.MultiheadAttention(S, 2, add_bias_kv=True)
    plan = sr.plan(source, registry(pair, framework), allow=("choice",))
    impossible = {key for p in plan.problems if p.problem == "impossible" for key in p.keys}
    assert impossible == ({"run/weight_hr_l0"} if extra == "proj_size" else {"bias_k", "bias_v"})


@BOTH
def test_gru(framework: str) -> None:
    """Linen keeps both biases of gate n; NNX has one, so there the other has to be zero."""
    pair = _recurrent("gru", lambda: Run(torch.nn.GRU(S, S, batch_first=True)), nn.GRUCell, nnx.GRUCell)
    source, target = pair.torch_module(), registry(pair, framework)
    if framework == "nnx":
        with pytest.raises(errors.PlanError, match="not zero"):
            sr.convert(source, target, allow=("choice",))
        with torch.no_grad():
            source.run.bias_hh_l0[2 * S :] = 0
    done = sr.convert(source, target, allow=("choice",))
    assert_close(pair.run(framework, done.target), pair.run_torch(source))
    there = target.replace(sr.snapshot(sr.of(done.target))) if framework == "linen" else sr.of(done.target)
    again = sr.convert(there, pair.torch_module(9), residual=done.residual, allow=("choice",))
    assert bits(again.target) == bits(source)
    other = sr.convert(registry(pair, framework, 3), pair.torch_module(9), allow=("choice",))
    assert_close(pair.run_torch(other.target), pair.run(framework, registry(pair, framework, 3).unwrap()))


WITHOUT_BIAS = {
    "lstm": (torch.nn.LSTM, nn.OptimizedLSTMCell, nnx.OptimizedLSTMCell),
    "lstm gate by gate": (torch.nn.LSTM, nn.LSTMCell, nnx.LSTMCell),
    "gru": (torch.nn.GRU, nn.GRUCell, nnx.GRUCell),
    "rnn": (torch.nn.RNN, nn.SimpleCell, nnx.SimpleCell),
}


@pytest.mark.parametrize("framework", ["linen", "nnx"])
@pytest.mark.parametrize("cell", WITHOUT_BIAS)
def test_a_recurrent_layer_without_bias_is_one_whose_biases_are_zero(cell: str, framework: str) -> None:
    """A cell of Flax always has them: what it held is not kept, and on the way back they have to be zero."""
    native, linen, live_cell = WITHOUT_BIAS[cell]
    pair = _recurrent(cell, lambda: Run(native(S, S, bias=False, batch_first=True)), linen, live_cell)
    source = pair.torch_module()
    target = pair.of_linen() if framework == "linen" else pair.of_nnx()
    plan = sr.plan(source, target)
    with pytest.raises(errors.PlanError, match="made with bias=False"):
        sr.convert(target, pair.torch_module(2), allow=("choice",))
    done = plan.execute(source, target)
    assert_close(pair.run(framework, done.target), pair.run_torch(source))
    state = target.replace(sr.snapshot(sr.of(done.target))) if framework == "linen" else done.target
    again = sr.convert(state, pair.torch_module(3)).target
    assert {key: value.numpy().tobytes() for key, value in again.state_dict().items()} == {
        key: value.numpy().tobytes() for key, value in source.state_dict().items()
    }


@BOTH
@pytest.mark.parametrize("cell", WITHOUT_BIAS)
def test_a_recurrent_layer_without_bias_finds_the_one_with_biases_under_another_name(cell: str, framework: str) -> None:
    """There is one on either side: that one of them has no biases does not make them two."""
    native, linen, live_cell = WITHOUT_BIAS[cell]
    pair = _recurrent(cell, lambda: torch.nn.Sequential(native(S, S, bias=False, batch_first=True)), linen, live_cell)
    source, target = pair.torch_module(), registry(pair, framework)
    done = sr.convert(source, target)
    assert_close(pair.run(framework, done.target), pair.run_torch(source))


class Tied(torch.nn.Module):
    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.a = torch.nn.Linear(S, S)
        self.b = self.a if shared else torch.nn.Linear(S, S)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.a(x)))


class LiveTied(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, shared: bool) -> None:
        self.a = nnx.Linear(S, S, rngs=rngs)
        self.b = self.a if shared else nnx.Linear(S, S, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.b(np.tanh(self.a(x)))


def test_a_shared_module_of_nnx_is_a_layer_at_each_of_its_paths() -> None:
    assert [layer.path for layer in live(lambda rngs: LiveTied(rngs, shared=True)).layers] == ["a", "b"]


@pytest.mark.parametrize("into", ["torch", "nnx"])
def test_two_layers_that_are_equal_become_one_that_is_shared_and_others_do_not(into: str) -> None:
    x = data(3, S)
    separate = Tied(shared=False), live(lambda rngs: LiveTied(rngs, shared=False)).unwrap()
    shared = Tied(shared=True), live(lambda rngs: LiveTied(rngs, shared=True)).unwrap()
    source, target = (separate[1], shared[0]) if into == "torch" else (separate[0], shared[1])
    with pytest.raises(errors.PlanError, match="they hold different bits and become one place"):
        sr.convert(source, target)
    equal = sr.of(source)
    names = ("kernel", "bias") if into == "torch" else ("weight", "bias")
    equal.replace({f"b/{name}": equal.read(f"a/{name}") for name in names})
    done = sr.convert(source, target)
    with torch.no_grad():
        pair = (
            [source(torch.from_numpy(x)), done.target(x)]
            if into == "nnx"
            else [source(x), done.target(torch.from_numpy(x))]
        )
    assert_close(np.asarray(pair[1]), np.asarray(pair[0]))
