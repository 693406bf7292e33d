"""Variables without their module: what names and ranks alone say, and what they leave open."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import numpy as np
import pytest
import torch
from cases import S, assert_close, data, opened

import stateregistry as sr


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.MultiHeadDotProductAttention(2, name="attention")(x)
        x = nn.RNN(nn.LSTMCell(S, name="lstm"))(x)
        x = nn.RNN(nn.GRUCell(S, name="gru"))(x)
        x = nn.GroupNorm(2, name="group", epsilon=1e-5)(nn.LayerNorm(name="layer", epsilon=1e-5)(x))
        return nn.PReLU(name="prelu")(nn.RMSNorm(name="rms", epsilon=1e-5)(x))


def test_names_tell_what_has_names_of_its_own_and_leave_the_rest_open() -> None:
    source = opened(Net(), data(2, 3, S))
    inferred = {layer.path: layer for layer in sr.of(source.unwrap()).layers}
    assert all(layer.inferred for layer in inferred.values())
    told = {path: layer.candidates for path, layer in inferred.items() if "/" not in path}
    assert told == {
        "attention": ("attention",), "lstm": ("lstm",), "gru": ("gru",), "prelu": ("prelu",),
        "layer": ("layer_norm", "group_norm", "instance_norm"), "group": ("layer_norm", "group_norm", "instance_norm"),
        "rms": ("layer_norm", "rms_norm", "group_norm", "instance_norm"),
    }  # fmt: skip


class Twin(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(S, 2, batch_first=True)
        self.lstm, self.gru = torch.nn.LSTM(S, S, batch_first=True), torch.nn.GRU(S, S, batch_first=True)
        self.layer, self.group = torch.nn.LayerNorm(S), torch.nn.GroupNorm(2, S)
        self.rms, self.prelu = torch.nn.RMSNorm(S, eps=1e-5), torch.nn.PReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.gru(self.lstm(self.attention(x, x, x)[0])[0])[0]
        return self.prelu(self.rms(self.group(self.layer(x).movedim(-1, 1)).movedim(1, -1)))


def run(twin: Twin, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return twin.eval()(torch.from_numpy(x)).numpy()


def test_a_model_that_knows_settles_what_names_leave_open() -> None:
    x = data(2, 3, S)
    source = opened(Net(), x)
    done = sr.convert(sr.of(source.unwrap()), Twin(), allow=("choice",))
    assert_close(run(done.target, x), np.asarray(Net().apply(source.unwrap(), x)))


def test_where_only_the_framework_is_named_a_norm_is_a_norm_and_a_cell_is_one_layer() -> None:
    x = data(2, 3, S)
    source = opened(Net(), x)
    plan = sr.plan(sr.of(source.unwrap()), to="torch", allow=("choice",))
    assert plan.ok, str(plan)
    twin = Twin()
    twin.load_state_dict(plan.execute(source).target)
    assert_close(run(twin, x), np.asarray(Net().apply(source.unwrap(), x)))


@pytest.mark.parametrize("native", [nn.Conv, nn.ConvTranspose])
def test_a_convolution_is_told_by_no_name(native: Any) -> None:
    module, x = native(S, (3, 3)), data(1, 5, 5, S)
    reg = sr.of(opened(module, x).unwrap())
    assert reg.layers[0].candidates == ("conv", "conv_transpose")
    (problem,) = sr.plan(reg, to="torch").problems
    assert problem.problem == "ambiguous"
    assert 'kind = "conv"' in problem.hint
    settled = sr.plan(reg, to="torch", rules={"layer": [{"path": "", "kind": "conv_transpose"}]})
    assert {move.target: move.axes for move in settled.moves}["weight"] == "in out/groups *spatial"
