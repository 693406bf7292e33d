"""Config that contradicts the shapes of a layer, or the config of the other side: refused, with what says what."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import numpy as np
import pytest
import torch
from flax import nnx
from one_layer import LinenNet, S, linen, nnx_net, told, torch_net

import stateregistry as sr
import stateregistry_torch
from stateregistry.conversion.planning.planner import make
from stateregistry.conversion.side import Side
from stateregistry.entry import Entry, Kind
from stateregistry.errors import AdapterError, AxesError
from stateregistry.layers.vocabulary import Layer, Piece

pytestmark = pytest.mark.usefixtures("forgotten")


def regrouped() -> torch.nn.Module:
    module = torch.nn.Conv2d(S, S, 3)
    module.groups = 3
    return module


def other_heads() -> torch.nn.Module:
    module = torch.nn.MultiheadAttention(S, 2)
    module.num_heads = 3
    return module


def other_norm(**changed: Any) -> torch.nn.Module:
    module = torch.nn.GroupNorm(2, S)
    for name, value in changed.items():
        setattr(module, name, value)
    return module


def resized(cls: Any, name: str, value: Any) -> torch.nn.Module:
    module = cls(S, S, 3)
    setattr(module, name, value)
    return module


TORCH_WRONG = {
    "groups": (regrouped, "groups=3 does not divide 4 (out): weight has the shape (4, 4, 3, 3)"),
    "groups of a transposed one": (
        lambda: resized(torch.nn.ConvTranspose1d, "groups", 3),
        "groups=3 does not divide 4 (in): weight has the shape (4, 4, 3)",
    ),
    "heads": (other_heads, "heads=3, head_dim=2: in_proj_weight has the shape (12, 4)"),
    "groups of a norm": (
        lambda: other_norm(num_groups=3),
        "groups=3 does not divide 4 (features): weight has the shape",
    ),
    "no groups": (lambda: other_norm(num_groups=0), "groups=0 does not divide 4"),
    "kernel size": (lambda: resized(torch.nn.Conv1d, "kernel_size", (5,)), "kernel_size=(5,), and the kernel has (3,)"),
    "stride": (lambda: resized(torch.nn.Conv1d, "stride", (1, 2)), "stride=(1, 2), and the kernel has 1 spatial axes"),
    "padding": (lambda: resized(torch.nn.Conv2d, "padding", (1, 2, 3)), "padding=(1, 2, 3), and the kernel has 2"),
}


@pytest.mark.parametrize("what", TORCH_WRONG)
def test_config_that_contradicts_a_shape_is_refused_in_torch(what: str) -> None:
    make, text = TORCH_WRONG[what]
    reg = sr.of(torch_net(make()))
    with pytest.raises(AxesError) as caught:
        _ = reg.layers
    assert text in str(caught.value)
    assert "fc (torch.nn.modules." in str(caught.value)
    assert all(key.startswith("fc/") for key in caught.value.keys)
    assert len(reg) > 0, "the entries are there all the same"
    with pytest.raises(AxesError):
        sr.plan(torch_net(make()), to="flax-nnx")


def nnx_changed(module: Any, **changed: Any) -> Any:
    for name, value in changed.items():
        setattr(module, name, value)
    return nnx_net(module)


RNGS = nnx.Rngs(0)
NNX_WRONG = {
    "groups": (
        lambda: nnx_changed(nnx.Conv(S, S, (3, 3), rngs=RNGS), feature_group_count=3),
        "groups=3 does not divide 4 (out): kernel has the shape (3, 3, 4, 4)",
    ),
    "heads": (
        lambda: nnx_changed(nnx.MultiHeadAttention(2, S, decode=False, rngs=RNGS), num_heads=4, num_kv_heads=4),
        "query/kernel has the shape (4, 2, 2), and the module says (4, 4, 2) with heads=4",
    ),
    "features": (
        lambda: nnx_changed(nnx.LayerNorm(S, rngs=RNGS), num_features=5),
        "scale has the shape (4,), and the module says (5,)",
    ),
    "normalised axes": (
        lambda: nnx_changed(nnx.Conv(S, S, (3, 3), rngs=RNGS), kernel_size=(5, 5)),
        "kernel_size=(5, 5), and the kernel has (3, 3)",
    ),
}


@pytest.mark.parametrize("what", NNX_WRONG)
def test_config_that_contradicts_a_shape_is_refused_in_nnx(what: str) -> None:
    make, text = NNX_WRONG[what]
    with pytest.raises(AxesError) as caught:
        _ = sr.of(make()).layers
    assert text in str(caught.value)
    assert "fc (flax.nnx." in str(caught.value)


LINEN_WRONG = {
    "groups of a norm": (
        lambda name: nn.GroupNorm(2, name=name), lambda name: nn.GroupNorm(3, name=name), "fc (GroupNorm)", "3",
    ),
    "heads": (
        lambda name: nn.MultiHeadDotProductAttention(2, name=name),
        lambda name: nn.MultiHeadDotProductAttention(4, name=name), "fc/query (DenseGeneral)", "(4, 2, 2)",
    ),
    "groups": (
        lambda name: nn.Conv(S, (3,), name=name), lambda name: nn.Conv(S, (3,), feature_group_count=2, name=name),
        "fc (Conv)", "(3, 4, 4)",
    ),
    "kernel size": (
        lambda name: nn.Conv(S, (3,), name=name), lambda name: nn.Conv(S, (5,), name=name), "fc (Conv)", "(3, 4, 4)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LINEN_WRONG)
def test_config_that_contradicts_a_shape_is_refused_in_linen(what: str) -> None:
    made, other, where, text = LINEN_WRONG[what]
    x = np.ones((2, 5, S), np.float32)
    variables = linen(made, x).unwrap()
    reg = sr.of(variables, module=LinenNet(other), args=(x,))
    with pytest.raises(AdapterError) as caught:
        _ = reg.layers
    assert f"cannot be run on these variables at {where}" in str(caught.value)
    assert text in str(caught.value)


def test_the_config_of_a_registered_layer_is_held_against_its_shapes_too() -> None:
    def build(_: Any) -> Layer:
        return Layer("conv", "", (Piece("kernel", "w", "out in/groups spatial.0"),), config={"groups": 3})

    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.rand(S, S, S))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    stateregistry_torch.register_layer(Own, build)
    with pytest.raises(AxesError, match=r"fc \(.*Own\): the config contradicts the state: groups=3"):
        _ = sr.of(torch_net(Own())).layers


def test_other_heads_are_a_problem_although_every_array_has_its_size() -> None:
    source = torch_net(torch.nn.MultiheadAttention(S, 4, batch_first=True))
    target = nnx_net(nnx.MultiHeadAttention(2, S, decode=False, rngs=RNGS))
    text = told(sr.plan(source, target, allow=("choice",)))
    assert "axes: fc -> fc: the two cut their arrays in other ways: heads 4 and 2, head_dim 1 and 2" in text
    same = sr.plan(source, torch_net(torch.nn.MultiheadAttention(S, 2, batch_first=True)))
    assert same.ok
    assert {(one.name, one.source, one.target) for one in same.findings} == {("heads", 4, 2), ("head_dim", 1, 2)}


def test_the_config_of_an_adapter_that_does_not_check_is_held_against_its_shapes_by_the_plan() -> None:
    def side(dialect: str, groups: int) -> Side:
        piece = Piece("kernel", "k", "out in/groups *spatial")
        layer = Layer("conv", "at", (piece,), type="Conv", config={"groups": groups})
        return Side(dialect, {"at/k": Entry(Kind.PARAMETER, (S, S, 3), "float32")}, layers=(layer,))

    assert make(side("here", 2), side("there", 2)).ok
    for source, target in ((side("here", 3), side("there", 2)), (side("here", 2), side("there", 3))):
        (problem,) = make(source, target).problems
        assert problem.problem == "axes"
        assert "the config of the Conv contradicts its arrays: groups=3 does not divide 4 (out): k has" in problem.text
