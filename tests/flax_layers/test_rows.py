"""The rows of what corresponds to what that take more than one layer: stacks, orders, absent arrays, layers of one's own.

Each in all six directions between torch, Linen and NNX: outputs within 1e-5 of scale, and every bit on the way back.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cases import S, data
from flax import nnx
from trios import WAYS, Trio, first, last

import stateregistry as sr
import stateregistry_flax
from stateregistry.layers.vocabulary import Piece
from stateregistry_flax import declared

WITH_TORCH = [way for way in WAYS if "torch" in way]
EACH_WAY = pytest.mark.parametrize(("source", "target"), WAYS, ids=[" to ".join(way) for way in WAYS])


# -------------------------------------------------------------------- recurrent stacks in both directions


class Run(torch.nn.Module):
    """A torch sequence model under the name `run`."""

    def __init__(self, run: torch.nn.Module) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x)[0]


class Deep(nn.Module):
    """Two layers in both directions, with the names that torch's layers have."""

    cell: Any

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for number in range(2):
            cells = [self.cell(S, name=f"l{number}{way}") for way in ("", "_reverse")]
            x = nn.Bidirectional(*(nn.RNN(cell) for cell in cells))(x)
        return x


class Named(nn.Module):
    cell: Any

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return Deep(self.cell, name="run")(x)


class LiveDeep(nnx.Module):
    def __init__(self, cell: Any, rngs: nnx.Rngs) -> None:
        sizes = {"l0": S, "l0_reverse": S, "l1": 2 * S, "l1_reverse": 2 * S}
        self.run = nnx.Dict({name: cell(size, S, rngs=rngs) for name, size in sizes.items()})

    def __call__(self, x: Any) -> Any:
        for number in range(2):
            cells = [self.run[f"l{number}{way}"] for way in ("", "_reverse")]
            x = nnx.Bidirectional(*(nnx.RNN(cell, rngs=nnx.Rngs(0)) for cell in cells), rngs=nnx.Rngs(0))(x)
        return x


def _deep(name: str, native: Any, linen: Any, live: Any, zero: tuple[str, ...] = ()) -> Trio:
    return Trio(
        name, lambda: Run(native(S, S, num_layers=2, bidirectional=True, batch_first=True)), lambda: Named(linen),
        lambda rngs: LiveDeep(live, rngs), (data(2, 5, S),), zero=zero, choices=True,
    )  # fmt: skip


_LAYERS = ("l0", "l0_reverse", "l1", "l1_reverse")
DEEP = [
    _deep("lstm", torch.nn.LSTM, nn.OptimizedLSTMCell, nnx.OptimizedLSTMCell),
    _deep("lstm apart", torch.nn.LSTM, nn.LSTMCell, nnx.LSTMCell),
    # NNX has no place for the bias of the recurrent product in gate n: it is zero everywhere.
    _deep("gru", torch.nn.GRU, nn.GRUCell, nnx.GRUCell, tuple(f"run/{layer}/hn/bias" for layer in _LAYERS)),
    _deep("rnn", torch.nn.RNN, nn.SimpleCell, nnx.SimpleCell),
]


@EACH_WAY
@pytest.mark.parametrize("trio", DEEP, ids=lambda trio: trio.name)
def test_two_layers_in_both_directions(trio: Trio, source: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if trio.name == "gru" and source == "torch":
        monkeypatch.setattr(Trio, "registry", _without_second_bias)
    trio.there_and_back(source, target)


def _without_second_bias(trio: Trio, framework: str, seed: int, make: Any = Trio.registry) -> sr.StateRegistry:
    """The last third of `bias_hh` is the bias that NNX has no place for."""
    reg = make(trio, framework, seed)
    third = [key for key in reg if "bias_hh" in key]
    return reg.replace({key: np.concatenate([reg.read(key)[: 2 * S], np.zeros(S, np.float32)]) for key in third})


def test_a_projection_in_every_layer_is_impossible() -> None:
    source = Run(torch.nn.LSTM(S, S, num_layers=2, bidirectional=True, proj_size=2, batch_first=True))
    for framework in ("linen", "nnx"):
        plan = sr.plan(source, DEEP[0].registry(framework, 1), allow=("choice", "missing", "unexpected", "lossy"))
        refused = {key for problem in plan.problems if problem.problem == "impossible" for key in problem.keys}
        assert refused == {f"run/weight_hr_{layer}" for layer in _LAYERS}


# -------------------------------------------------------------------- batch_norm without its arrays


def _batch_norm(name: str, native: Any, mutable: tuple[str, ...] = (), allow: Any = None, **flax: Any) -> Trio:
    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return nn.BatchNorm(name="bn", **flax)(nn.Dense(S, name="fc")(x))

    class Live(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.fc, self.bn = nnx.Linear(S, S, rngs=rngs), nnx.BatchNorm(S, **flax, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return nnx.clone(self.bn)(
                self.fc(x)
            )  # a call with the statistics of the batch would change those that are kept

    class Torch(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.bn = torch.nn.Linear(S, S), native()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn(self.fc(x))

    counted = allow is None  # a batch_norm without statistics has no counter either
    return Trio(name, Torch, Linen, Live, (data(6, S),), allow=allow or {}, mutable=mutable, choices=counted)


_NO_STATISTICS = {
    way: ("missing",) if way[0] == "torch" else ("unexpected",) if way[1] == "torch" else () for way in WAYS
}
NORMS = [
    _batch_norm(
        "affine=False", lambda: torch.nn.BatchNorm1d(S, affine=False), use_scale=False, use_bias=False,
        use_running_average=True,
    ),
    _batch_norm(
        "track_running_stats=False", lambda: torch.nn.BatchNorm1d(S, track_running_stats=False),
        allow=_NO_STATISTICS, mutable=("batch_stats",), use_running_average=False,
    ),
]  # fmt: skip


@EACH_WAY
@pytest.mark.parametrize("trio", NORMS, ids=lambda trio: trio.name)
def test_a_batch_norm_without_some_of_its_arrays(trio: Trio, source: str, target: str) -> None:
    trio.there_and_back(source, target)


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_arrays_that_only_one_side_has_are_named(framework: str) -> None:
    trio = NORMS[1]
    plan = sr.plan(trio.registry("torch", 1), trio.registry(framework, 2))
    assert {(p.problem, p.keys) for p in plan.problems} == {("missing", ("bn/mean",)), ("missing", ("bn/var",))}
    plan = sr.plan(trio.registry(framework, 1), trio.registry("torch", 2))
    assert {(p.problem, p.keys) for p in plan.problems} == {("unexpected", ("bn/mean",)), ("unexpected", ("bn/var",))}


# -------------------------------------------------------------------- orders that no module type says


class TorchFlat(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(S, S, 1), torch.nn.Linear(S**3, S)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).flatten(1))


class LinenFlat(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(S, (1, 1), name="conv")(x)
        return nn.Dense(S, name="fc")(x.reshape(x.shape[0], -1))


class LiveFlat(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv, self.fc = nnx.Conv(S, S, (1, 1), rngs=rngs), nnx.Linear(S**3, S, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = self.conv(x)
        return self.fc(x.reshape(x.shape[0], -1))


FLATTEN = {"source": "fc", "axis": "in", "source_axes": f"c={S} h={S} w={S}", "target_axes": "h w c"}
FLAT = Trio(
    "a linear after a flatten", TorchFlat, LinenFlat, LiveFlat, (data(2, S, S, S),), first, rules={"order": [FLATTEN]}
)


@EACH_WAY
def test_a_linear_after_a_flatten_takes_its_columns_in_the_order_that_a_rule_says(source: str, target: str) -> None:
    FLAT.there_and_back(source, target)


class TorchRotary(torch.nn.Module):
    """Half of the features of a head turn against the other half, as checkpoints of one origin store them."""

    def __init__(self) -> None:
        super().__init__()
        self.query = torch.nn.Linear(S, 2 * S)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = self.query(x).reshape(-1, 2, 2, S // 2).unbind(2)  # heads, half, pair
        return torch.stack((one - two, one + two), -1)


def _rotate(y: Any) -> Any:
    pairs = y.reshape(-1, 2, S // 2, 2)  # heads, pair, half: neighbours turn against one another
    return jnp.stack((pairs[..., 0] - pairs[..., 1], pairs[..., 0] + pairs[..., 1]), -1)


class LinenRotary(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return _rotate(nn.Dense(2 * S, name="query")(x))


class LiveRotary(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.query = nnx.Linear(S, 2 * S, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return _rotate(self.query(x))


HALVES = {"source": "query", "axis": "out", "source_axes": "heads=2 half=2 pair", "target_axes": "heads pair half"}
ROTARY = Trio(
    "rotary heads", TorchRotary, LinenRotary, LiveRotary, (data(3, S),), rules={"order": [HALVES]}
)  # fmt: skip


@EACH_WAY
def test_rotary_heads_are_reordered_by_a_rule(source: str, target: str) -> None:
    ROTARY.there_and_back(source, target)


# -------------------------------------------------------------------- layers that Flax does not have


@pytest.fixture
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test registers, no other knows."""
    monkeypatch.setattr(declared.DECLARED, "rows", dict(declared.DECLARED.rows))


class Bilinear(nn.Module):
    @nn.compact
    def __call__(self, a: Any, b: Any) -> Any:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (S, S, S))
        return jnp.einsum("bi,ijo,bj->bo", a, kernel, b) + self.param("bias", nn.initializers.zeros, (S,))


class LinenBilinear(nn.Module):
    @nn.compact
    def __call__(self, a: Any, b: Any) -> Any:
        return Bilinear(name="both")(a, b)


class LiveBilinear(nnx.Module):
    """Its own order of axes: nothing but the declaration says it, and all of them have one size."""

    def __init__(self) -> None:
        self.kernel, self.bias = nnx.Param(jnp.zeros((S, S, S))), nnx.Param(jnp.zeros(S))

    def __call__(self, a: Any, b: Any) -> Any:
        return jnp.einsum("bi,joi,bj->bo", a, self.kernel[...], b) + self.bias[...]


class Both(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.both = LiveBilinear()

    def __call__(self, a: Any, b: Any) -> Any:
        return self.both(a, b)


class TorchBoth(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = torch.nn.Bilinear(S, S, S)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.both(a, b)


def _bilinear(axes: str) -> Any:
    pieces = (Piece("kernel", "kernel", axes), Piece("bias", "bias", "out"))
    return lambda _: sr.Layer("bilinear", "", pieces)


BILINEAR = Trio(
    "bilinear", TorchBoth, LinenBilinear, Both, (data(3, S), data(3, S, seed=1)),
)  # fmt: skip


@EACH_WAY
@pytest.mark.usefixtures("_forget")
def test_a_registered_bilinear(source: str, target: str) -> None:
    stateregistry_flax.register_layer(Bilinear, _bilinear("in1 in2 out"))
    stateregistry_flax.register_layer(LiveBilinear, _bilinear("in2 out in1"))
    BILINEAR.there_and_back(source, target)


@pytest.mark.parametrize(("source", "target"), WITH_TORCH, ids=map(" to ".join, WITH_TORCH))
def test_a_bilinear_that_nobody_registered_is_told(source: str, target: str) -> None:
    plan = sr.plan(BILINEAR.registry(source, 1), BILINEAR.registry(target, 2))
    assert not plan.ok
    assert {key.rpartition("/")[0] for problem in plan.problems for key in problem.keys} <= {"both", ""}


class VectorPReLU(nn.Module):
    """A slope for each feature, which Flax's own has no place for."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        slopes = self.param("slopes", nn.initializers.constant(0.25), (x.shape[-1],))
        return jnp.where(x >= 0, x, slopes * x)


class LinenSlopes(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return VectorPReLU(name="act")(x)


class LiveVectorPReLU(nnx.Module):
    def __init__(self) -> None:
        self.slopes = nnx.Param(jnp.zeros(S))

    def __call__(self, x: Any) -> Any:
        return jnp.where(x >= 0, x, self.slopes[...] * x)


class LiveSlopes(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.act = LiveVectorPReLU()

    def __call__(self, x: Any) -> Any:
        return self.act(x)


class TorchSlopes(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = torch.nn.PReLU(S)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(x)


SLOPES = Trio(
    "prelu with a slope for each feature", TorchSlopes, LinenSlopes, LiveSlopes, (data(3, 2, 2, S),), first, last
)


@EACH_WAY
@pytest.mark.usefixtures("_forget")
def test_a_registered_prelu_with_a_slope_for_each_feature(source: str, target: str) -> None:
    slopes = sr.Layer("prelu", "", (Piece("slopes", "slopes", "features"),))
    for native in (VectorPReLU, LiveVectorPReLU):
        stateregistry_flax.register_layer(native, lambda _: slopes)
    SLOPES.there_and_back(source, target)


# -------------------------------------------------------------------- random number state


class TorchDropout(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.drop = torch.nn.Linear(S, S), torch.nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.fc(x))


class LinenDropout(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dropout(0.5, deterministic=True)(nn.Dense(S, name="fc")(x))


class LiveDropout(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.fc, self.drop = nnx.Linear(S, S, rngs=rngs), nnx.Dropout(0.5, deterministic=True, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.drop(self.fc(x))


DROPOUT = Trio("dropout", TorchDropout, LinenDropout, LiveDropout, (data(3, S),))


@EACH_WAY
def test_random_number_state_is_left_alone_and_accounted_for(source: str, target: str) -> None:
    left = {move.keys[0]: move.reason for move in DROPOUT.there_and_back(source, target).moves if not move.evidence}
    held = {"drop/rngs/count", "drop/rngs/key"} if "nnx" in (source, target) else set()
    assert set(left) == held
    assert set(left.values()) <= {"random number state is not converted"}
