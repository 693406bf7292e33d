"""What a choice leaves out is kept, through the API and through files, until the values it belongs to have changed.

Every choice of a conversion between the three frameworks is a row: the counter of a batch_norm, the two biases of recurrent
layers, the vectors of spectral_norm, the magnitudes of weight_norm. Each comes back bit for bit with its residual. After
training, what was kept is named as stale, and the fallback that the plan states computes what the trained model computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
import pytest
import torch
from cases import Cell, LiveCell, S, assert_close, data
from flax import nnx
from test_rows import Run
from test_wrapped_conversions import rows as wrapped_rows
from trios import Trio

import stateregistry as sr


@dataclass(frozen=True)
class Case:
    """One choice.

    Attributes:
        name: what the test is called. make: framework and seed to a registry. run: framework and native object to outputs.
        source, target: where it goes.
        kept: how the keys that the residual keeps end.
        anchor: how the key of a target's array ends that what is kept belongs to; empty where nothing is kept.
    """

    name: str
    make: Callable[[str, int], sr.StateRegistry]
    run: Callable[[str, Any], np.ndarray]
    source: str
    target: str
    kept: tuple[str, ...]
    anchor: str


class TorchNorm(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = torch.nn.Linear(S, S), torch.nn.BatchNorm1d(S)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.fc(x))


class LinenNorm(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.BatchNorm(use_running_average=True, name="bn")(nn.Dense(S, name="fc")(x))


class LiveNorm(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.fc, self.bn = nnx.Linear(S, S, rngs=rngs), nnx.BatchNorm(S, use_running_average=True, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.bn(self.fc(x))


def _norm() -> Trio:
    return Trio("the counter of a batch_norm", TorchNorm, LinenNorm, LiveNorm, (data(6, S),), choices=True)


def _recurrent(name: str, native: Any, linen: Any, live: Any) -> Trio:
    return Trio(
        name, lambda: Run(native(S, S, batch_first=True)), lambda: Cell(linen),
        lambda rngs: LiveCell(live(S, S, rngs=rngs)), (data(2, 5, S),), choices=True,
    )  # fmt: skip


def _of(trio: Trio, target: str, kept: tuple[str, ...], anchor: str) -> Case:
    return Case(f"{trio.name}, torch to {target}", _counted(trio), trio.run, "torch", target, kept, anchor)


def _counted(trio: Trio) -> Callable[[str, int], sr.StateRegistry]:
    """Counters beyond 32 bits; the bias of gate n that NNX has no place for is zero."""

    def make(framework: str, seed: int) -> sr.StateRegistry:
        reg = trio.registry(framework, seed)
        values: dict[str, np.ndarray] = {}
        for key in reg:
            if key.endswith("num_batches_tracked"):
                values[key] = np.array(2**40 + seed, np.int64)
            if trio.name == "gru" and key.endswith("bias_hh_l0"):
                values[key] = np.concatenate([reg.read(key)[: 2 * S], np.zeros(S, np.float32)])
        return reg.replace(values)

    return make


def _wrapped(number: int, source: str, target: str, kept: tuple[str, ...], anchor: str) -> Case:
    row = wrapped_rows("new")[number]
    return Case(f"{row.name}, {source} to {target}", row.registry, row.run, source, target, kept, anchor)


_LSTM = ("lstm", torch.nn.LSTM, nn.OptimizedLSTMCell, nnx.OptimizedLSTMCell)
_GRU = ("gru", torch.nn.GRU, nn.GRUCell, nnx.GRUCell)
_RNN = ("rnn", torch.nn.RNN, nn.SimpleCell, nnx.SimpleCell)
_TWO = ("bias_ih_l0", "bias_hh_l0")
CASES = [
    *[_of(_norm(), target, ("num_batches_tracked",), "bn/mean") for target in ("linen", "nnx")],
    _of(_recurrent(*_LSTM), "linen", _TWO, "run/hi/bias"), _of(_recurrent(*_LSTM), "nnx", _TWO, "run/dense_h/bias"),
    _of(_recurrent(*_GRU), "linen", _TWO, "run/ir/bias"), _of(_recurrent(*_GRU), "nnx", _TWO, "run/dense_i/bias"),
    _of(_recurrent(*_RNN), "linen", _TWO, "run/i/bias"), _of(_recurrent(*_RNN), "nnx", _TWO, "run/dense_i/bias"),
    *[_wrapped(9, "torch", target, ("0/_u", "0/_v"), "kernel") for target in ("linen", "nnx")],
    *[_wrapped(9, source, "torch", ("kernel~1u", "kernel~1sigma"), "weight/original") for source in ("linen", "nnx")],
    *[_wrapped(0, *way, (), "") for way in (("torch", "nnx"), ("nnx", "torch"), ("linen", "nnx"), ("nnx", "linen"))],
]  # fmt: skip
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
KEEPING = pytest.mark.parametrize("case", [case for case in CASES if case.kept], ids=lambda case: case.name)
CHOICE = {"allow": ("choice",)}


def bits(reg: sr.StateRegistry) -> dict[str, bytes]:
    return {key: value.tobytes() for key, value in sr.snapshot(reg).items() if not reg[key].rng}


def kept_by(case: Case, names: Any) -> set[str]:
    return {end for end in case.kept for name in names if name.endswith(end)}


@EACH
def test_it_comes_back_bit_for_bit_through_the_api(case: Case) -> None:
    begun = case.make(case.source, 1)
    plan = sr.plan(begun, case.make(case.target, 2))
    assert {problem.problem for problem in plan.problems} == {"choice"}
    done = sr.convert(begun, case.make(case.target, 2), **CHOICE)
    assert kept_by(case, done.residual.records) == set(case.kept)
    assert len(done.residual) == len(case.kept)
    middle = case.make(case.target, 3).replace(sr.snapshot(sr.of(done.target)))
    back = sr.convert(middle, case.make(case.source, 4), residual=done.residual, **CHOICE)
    assert back.receipt.stale == ()
    assert bits(sr.of(back.target)) == bits(begun)


@EACH
@pytest.mark.parametrize("suffix", ["safetensors", "msgpack"])
def test_it_comes_back_bit_for_bit_through_a_file(case: Case, suffix: str, tmp_path: Path) -> None:
    begun = case.make(case.source, 1)
    path = tmp_path / f"there.{suffix}"
    sr.convert(begun, case.make(case.target, 2), out=path, **CHOICE)
    with sr.open(path, like=case.make(case.target, 3)) as there:
        back = sr.convert(there, case.make(case.source, 4), **CHOICE)
    assert back.receipt.stale == ()
    assert bits(sr.of(back.target)) == bits(begun)


@pytest.mark.parametrize("source", ["linen", "nnx"])
@pytest.mark.parametrize("layer", [_LSTM, _GRU, _RNN], ids=lambda layer: layer[0])
def test_a_sum_that_is_split_is_not_added_up_again(layer: Any, source: str) -> None:
    """0.0 and -0.0 add up to 0.0, and a NaN to a NaN of other bits: the residual has what the sum was."""
    trio = _recurrent(*layer)
    begun = trio.registry(source, 1)
    special = np.array([-0.0, 0.0, 1e-42, np.inf], np.float32)
    biases = {key: np.resize(special, begun[key].shape) for key in begun if key.endswith("bias")}
    begun = begun.replace(biases)
    done = sr.convert(begun, trio.registry("torch", 2), **CHOICE)
    again = trio.registry("torch", 3).replace(sr.snapshot(sr.of(done.target)))
    back = sr.convert(again, trio.registry(source, 4), residual=done.residual, **CHOICE)
    assert back.receipt.stale == ()
    assert bits(sr.of(back.target)) == bits(begun)
    plain = sr.convert(again, trio.registry(source, 4), **CHOICE)
    assert bits(sr.of(plain.target)) != bits(begun)


def trained(case: Case, reg: sr.StateRegistry) -> sr.StateRegistry:
    (anchor,) = (key for key in reg if key.endswith(case.anchor))
    return reg.replace({anchor: reg.read(anchor) + np.float32(0.5)})


@KEEPING
def test_after_training_it_is_stale_and_the_fallback_computes_the_same(case: Case) -> None:
    begun = case.make(case.source, 1)
    done = sr.convert(begun, case.make(case.target, 2), **CHOICE)
    middle = case.make(case.target, 3).replace(sr.snapshot(sr.of(done.target)))
    middle = trained(case, middle)
    if "spectral" in case.name and case.source != "torch":
        middle = converged(case, middle)
    back = sr.convert(middle, case.make(case.source, 4), residual=done.residual, **CHOICE)
    assert kept_by(case, back.receipt.stale) == set(case.kept)
    native = back.target
    assert_close(case.run(case.source, native), case.run(case.target, middle.unwrap()))
    after = sr.of(native)
    for key in after:
        if key.endswith("num_batches_tracked"):
            assert after.read(key) == 0


def converged(case: Case, reg: sr.StateRegistry) -> sr.StateRegistry:
    """Training goes on until the iteration has come to rest: before that it is refused."""
    (key,) = (key for key in reg if key.endswith("weight/original"))
    left, _, right = np.linalg.svd(reg.read(key).astype(np.float64))
    u, v = (next(key for key in reg if key.endswith(end)) for end in ("_u", "_v"))
    return reg.replace({u: left[:, 0].astype(np.float32), v: right[0].astype(np.float32)})


@KEEPING
def test_what_an_outsider_changed_in_a_file_is_stale(case: Case, tmp_path: Path) -> None:
    """The usual library rewrites the values and leaves the metadata as they were."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    path = tmp_path / "there.safetensors"
    sr.convert(case.make(case.source, 1), case.make(case.target, 2), out=path, **CHOICE)
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    with sr.open(path) as there:
        middle = there.stored_names
    like = case.make(case.target, 3)
    like = like.replace({key: tensors[middle[key]] for key in like if not like[key].rng})
    like = trained(case, like)
    if "spectral" in case.name and case.source != "torch":
        like = converged(case, like)
    save_file({middle[key]: like.read(key) for key in like if not like[key].rng}, path, metadata)
    with sr.open(path, like=case.make(case.target, 5)) as there:
        back = sr.convert(there, case.make(case.source, 4), **CHOICE)
    assert kept_by(case, back.receipt.stale) == set(case.kept)
    assert_close(case.run(case.source, back.target), case.run(case.target, like.unwrap()))
