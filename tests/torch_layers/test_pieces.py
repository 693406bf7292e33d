"""Every declared layer: its pieces fit the shapes, hold the roles that were cut out by hand, and leave nothing out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch_cases import CASES, EVERY, exported, native, randomised

import stateregistry as sr
from stateregistry.entry import Kind
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import ESSENTIAL, ROLES, WRAPPERS
from stateregistry_torch.dialect import DIALECT
from stateregistry_torch.standard import TYPES


@pytest.mark.parametrize("case", EVERY)
def test_the_roles_are_what_was_cut_out_by_hand(case):
    module = randomised(case.make())
    reg = sr.of(module)
    expected = case.layers(native(module))
    assert [(layer.kind, layer.path) for layer in reg.layers] == [(case.kind, path) for path in expected]
    for layer in reg.layers:
        found = exported(reg, layer)
        assert set(found) == set(expected[layer.path])
        for role, (order, array) in expected[layer.path].items():
            names = order.split()
            assert sorted(names) == list(found[role].axes), role
            ours = found[role].array
            theirs = np.asarray(array).transpose([names.index(name) for name in found[role].axes])
            assert (ours.shape, ours.dtype, ours.tobytes()) == (theirs.shape, theirs.dtype, theirs.tobytes()), role


@pytest.mark.parametrize("case", EVERY)
def test_every_tensor_is_a_piece_of_exactly_one_layer(case):
    module = case.make()
    reg = sr.of(module)
    held = Counter(layer.key(piece) for layer in reg.layers for piece in layer.pieces)
    assert held == Counter(list(reg)) == Counter(name.replace(".", "/") for name in native(module))
    for layer in reg.layers:
        for piece in layer.pieces:
            assert reg[layer.key(piece)].kind is piece.kind
            assert piece.dtype in {None, reg[layer.key(piece)].dtype}


@pytest.mark.parametrize("case", EVERY)
def test_a_layer_is_the_same_below_another_module_and_says_its_type(case):
    module = case.make()
    alone, below = sr.of(module).layers, sr.of(nn.ModuleDict({"a/b": module})).layers
    assert len(alone) == len(below) > 0
    for one, two in zip(alone, below, strict=True):
        assert two.path == ("a~1b" if not one.path else f"a~1b/{one.path}")
        assert (one.base, two.base) == ((None, None) if not one.path else ("", "a~1b"))
        assert dict(two.roles) == {role: f"a~1b/{key}" for role, key in one.roles.items()}
        assert (one.kind, one.pieces, one.config, one.lacks) == (two.kind, two.pieces, two.config, two.lacks)
        assert one.type == two.type == type(module).__name__.removeprefix("Parametrized")
        assert not one.inferred


@pytest.mark.parametrize("case", EVERY)
def test_taking_a_layer_apart_and_putting_it_together_gives_every_bit_back(case):
    module = randomised(case.make())
    reg = sr.of(module)
    for layer in reg.layers:
        roles = exported(reg, layer)
        sizes = {
            name: size for named in roles.values() for name, size in zip(named.axes, named.array.shape, strict=True)
        }
        for piece in layer.pieces:
            array = reg.read(layer.key(piece))
            own = {name: sizes[name] for name in next(roles[role] for role in piece.parts).axes}
            if case is CASES["attention, kdim and vdim"]:
                own.pop("in", None)
            bound = axes.bind(piece.axes, array.shape, own)
            back = bound.collapse({part: roles[role].array for role, part in piece.parts.items()})
            assert (back.shape, back.tobytes()) == (array.shape, array.tobytes())


def test_every_type_of_torch_that_is_declared_has_a_case():
    made = {type(case.make()) for case in CASES.values()}
    made.add(type(nn.MultiheadAttention(4, 2).out_proj))
    assert set(TYPES) <= made


def test_config_is_that_of_the_spec():
    (conv,) = sr.of(nn.Conv2d(4, 6, 3, 2, 1, (1, 2), 2, padding_mode="reflect")).layers
    assert conv.config == {
        "groups": 2, "kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1), "dilation": (1, 2), "padding_mode": "reflect",
    }  # fmt: skip
    (same,) = sr.of(nn.Conv1d(4, 4, 3, padding="same")).layers
    assert same.config["padding"] == "SAME"
    (transposed,) = sr.of(nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, 2, dilation=2)).layers
    assert transposed.config == {
        "groups": 2, "kernel_size": (3,), "stride": (2,), "padding": (1,), "output_padding": (1,), "dilation": (2,),
    }  # fmt: skip
    (norm,) = sr.of(nn.BatchNorm1d(4, eps=1e-3, momentum=None)).layers
    assert norm.config == {"eps": 1e-3, "momentum": None, "unbiased_var": True}
    (norm,) = sr.of(nn.LayerNorm([3, 4])).layers
    assert norm.config == {"eps": 1e-5, "normalized_axes": 2}
    (norm,) = sr.of(nn.GroupNorm(2, 4)).layers
    assert norm.config == {"groups": 2, "eps": 1e-5}
    (attention,) = sr.of(nn.MultiheadAttention(6, 3, dropout=0.25, add_zero_attn=True)).layers
    assert attention.config == {"heads": 3, "head_dim": 2, "add_zero_attn": True, "dropout": 0.25}
    (bag,) = sr.of(nn.EmbeddingBag(3, 4, max_norm=1, mode="sum")).layers
    assert bag.config == {"padding_idx": None, "max_norm": 1.0, "norm_type": 2.0, "mode": "sum"}
    (rnn,) = sr.of(nn.RNN(3, 4, nonlinearity="relu")).layers
    assert rnn.config == {"reverse": False, "dropout": 0.0, "activation": "relu", "residual": False}
    (linear,) = sr.of(nn.Linear(3, 4)).layers
    assert linear.config == {}


def test_the_epsilon_that_torch_takes_by_itself_is_told_where_it_is_one_number():
    for dtype, eps in ((torch.float32, 2.0**-23), (torch.float64, 2.0**-52), (torch.bfloat16, None)):
        (norm,) = sr.of(nn.RMSNorm(4, dtype=dtype)).layers
        assert norm.config["eps"] == eps
    (norm,) = sr.of(nn.RMSNorm(4, eps=0.5, dtype=torch.bfloat16)).layers
    assert norm.config["eps"] == 0.5


def test_dropout_is_that_of_the_output_of_each_layer_so_the_last_has_none():
    layers = sr.of(nn.GRU(3, 4, 2, dropout=0.5, bidirectional=True)).layers
    gates = {"activation": "tanh", "gate_activation": "sigmoid"}
    assert [(layer.path, layer.config) for layer in layers] == [
        ("l0", {"reverse": False, "dropout": 0.5, **gates}), ("l0_reverse", {"reverse": True, "dropout": 0.5, **gates}),
        ("l1", {"reverse": False, "dropout": 0.0, **gates}), ("l1_reverse", {"reverse": True, "dropout": 0.0, **gates}),
    ]  # fmt: skip


def test_what_a_wrapper_keeps_is_in_the_config_by_the_name_of_the_axis():
    kept = {
        "weight norm": "out", "weight norm, dim 1": "in", "weight norm of the whole": "", "weight norm, dim -2": "in/groups",
        "weight norm over space": "spatial.1", "weight norm, transposed": "in", "old weight norm": "in/groups",
    }  # fmt: skip
    for name, axis in kept.items():
        (layer,) = sr.of(CASES[name].make()).layers
        assert layer.config["weight_norm_dim"] == axis
        assert "spectral_norm" not in layer.config
    (layer,) = sr.of(CASES["spectral norm"].make()).layers
    assert layer.config == {"spectral_norm": True}


def test_the_vectors_of_spectral_norm_are_buffers_and_sigma_has_no_place():
    for name in ("spectral norm", "old spectral norm"):
        (layer,) = sr.of(CASES[name].make()).layers
        kinds = {piece.role: piece.kind for piece in layer.pieces}
        assert kinds["kernel_original"] is Kind.PARAMETER
        assert kinds["kernel_u"] is kinds["kernel_v"] is Kind.BUFFER
        (lack,) = layer.lacks
        assert (lack.roles, lack.kept) == (("kernel_sigma",), True)


def test_one_slope_and_a_slope_for_each_feature_have_no_place_for_one_another():
    (one,), (each,) = sr.of(nn.PReLU()).layers, sr.of(nn.PReLU(1 + 2)).layers
    assert [lack.roles for lack in one.lacks] == [("slopes",)]
    assert [lack.roles for lack in each.lacks] == [("slope",)]
    assert not any(lack.zero or lack.kept for lack in (*one.lacks, *each.lacks))
    assert "num_parameters=1" in one.lacks[0].reason
    assert "num_parameters=3" in each.lacks[0].reason


@pytest.mark.parametrize(
    "row", DIALECT.declarations, ids=lambda row: f"{row.kind} {row.pieces[0].name} {row.pieces[0].axes}"
)
def test_the_dialect_has_known_roles_with_the_axes_of_the_vocabulary(row):
    roles = {role: piece for piece in row.pieces for role in piece.parts}
    assert set(roles) <= set(ROLES[row.kind])
    assert set(ESSENTIAL[row.kind]) <= set(roles)
    for role, piece in roles.items():
        mine, theirs = (
            {atom.name for group in axes.parse(pattern) for atom in group.atoms}
            for pattern in (piece.axes, ROLES[row.kind][role])
        )
        assert mine == theirs


@pytest.mark.parametrize(
    "row", DIALECT.declarations, ids=lambda row: f"{row.kind} {row.pieces[0].name} {row.pieces[0].axes}"
)
def test_an_unwrapped_layer_says_that_it_has_no_place_for_what_a_wrapper_holds(row):
    for endings in WRAPPERS.values():
        for ending in endings:
            lack = row.lack(f"kernel{ending}")
            assert lack is not None
            assert (lack.kept, lack.zero) == (False, False)
    assert not any(row.lack(role) for role in ROLES[row.kind])
