"""What names and ranks alone say of a torch checkpoint and what they leave open; and the names of a model that is derived."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn
from torch_cases import CASES, native

import stateregistry as sr
from stateregistry.conversion.planning.derive import derive
from stateregistry.conversion.rules.rules import Rules
from stateregistry.conversion.side import Side
from stateregistry.entry import Entry, Kind
from stateregistry.layers.infer import candidates, guess_dialect, infer_layers
from stateregistry_torch.dialect import DIALECT


def listed(**shapes):
    """The entries that a bare file lists: no kinds, `__` for `/`."""
    kinds = {"running_mean": Kind.BUFFER, "running_var": Kind.BUFFER, "num_batches_tracked": Kind.BUFFER}
    return {
        name.replace("__", "/"): Entry(
            kinds.get(name, Kind.PARAMETER),
            shape,
            "int64" if name == "num_batches_tracked" else "float32",
            inferred=True,
        )
        for name, shape in shapes.items()
    }


def of_file(module):
    return listed(**{name.replace(".", "__"): array.shape for name, array in native(module).items()})


OPEN = {
    "a matrix with a bias": (listed(weight=(4, 4), bias=(4,)), ("linear",)),
    "a matrix": (listed(weight=(4, 4)), ("linear", "layer_norm", "embedding", "rms_norm")),
    "a kernel": (listed(weight=(4, 4, 4, 4), bias=(4,)), ("conv", "conv_transpose")),
    "a kernel of three axes": (listed(weight=(4, 4, 4), bias=(4,)), ("conv", "conv_transpose", "bilinear")),
    "a kernel whose bias has another size": (listed(weight=(4, 6, 3, 3), bias=(6,)), ("conv_transpose",)),
    "two vectors": (listed(weight=(4,), bias=(4,)), ("layer_norm", "group_norm", "instance_norm")),
    "a vector": (listed(weight=(4,)), ("layer_norm", "rms_norm", "group_norm", "instance_norm", "prelu")),
    "running statistics": (
        listed(weight=(4,), bias=(4,), running_mean=(4,), running_var=(4,), num_batches_tracked=()), ("batch_norm",),
    ),
    "an lstm": (of_file(nn.LSTM(4, 6)), ("lstm",)),
    "an lstm of a multiple of three": (of_file(nn.LSTM(3, 3)), ("lstm",)),
    "an lstm with a projection": (of_file(nn.LSTM(4, 6, proj_size=3)), ("lstm",)),
    "a gru": (of_file(nn.GRU(4, 4)), ("gru",)),
    "a rnn": (of_file(nn.RNN(4, 4, bias=False)), ("rnn",)),
    "an lstm cell": (of_file(nn.LSTMCell(4, 6)), ("lstm",)),
    "a gru cell": (of_file(nn.GRUCell(4, 12)), ("gru",)),
    "a rnn cell": (of_file(nn.RNNCell(4, 4)), ("rnn",)),
}  # fmt: skip


@pytest.mark.parametrize(("entries", "kinds"), OPEN.values(), ids=OPEN)
def test_every_kind_that_the_names_allow_is_a_candidate(entries, kinds):
    (layer,) = infer_layers(entries, "torch")
    assert (layer.candidates, layer.kind, layer.inferred) == (kinds, kinds[0], True)
    assert {layer.key(piece) for piece in layer.pieces} == set(entries)
    readings = candidates(layer, DIALECT, entries)
    assert tuple(readings) == kinds
    assert all({one.key(piece) for piece in one.pieces} == set(entries) for one in readings.values())


def test_one_number_is_one_slope_and_several_are_a_slope_for_each():
    for size, role in ((1, "slope"), (4, "slopes")):
        entries = listed(weight=(size,))
        (layer,) = infer_layers(entries, "torch")
        assert set(candidates(layer, DIALECT, entries)["prelu"].roles) == {role}


NOTHING = {
    "heads of a fused attention": listed(in_proj_weight=(12, 4), in_proj_bias=(12,)),
    "a stack of recurrent layers": of_file(nn.LSTM(4, 4, 3)),
    "both directions of a recurrent layer": of_file(nn.GRU(4, 4, bidirectional=True)),
    "gates that are neither four nor three nor one": listed(weight_ih_l0=(8, 4), weight_hh_l0=(8, 4)),
    "a projection that is not there": listed(weight_ih_l0=(16, 4), weight_hh_l0=(16, 2)),
}


@pytest.mark.parametrize("entries", NOTHING.values(), ids=NOTHING)
def test_what_names_do_not_decide_is_no_layer(entries):
    assert infer_layers(entries, "torch") == ()


def test_the_linear_inside_an_attention_is_a_layer_where_the_attention_is_not_known():
    entries = of_file(nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2), "norm": nn.LayerNorm(4)}))
    found = [(layer.path, layer.kind) for layer in infer_layers(entries, "torch")]
    assert sorted(found) == [("attn/out_proj", "linear"), ("norm", "layer_norm")]


def test_a_layer_beside_a_module_that_an_attention_also_has_is_still_a_layer():
    entries = listed(weight=(4, 4), bias=(4,), out_proj__weight=(4, 4), out_proj__bias=(4,))
    found = {layer.path: layer.kind for layer in infer_layers(entries, "torch")}
    assert found == {"": "linear", "out_proj": "linear"}


def test_names_of_recurrent_layers_are_names_of_torch():
    assert guess_dialect(of_file(nn.Sequential(nn.GRU(4, 4), nn.Linear(4, 4)))) is DIALECT


DERIVED = (
    "linear", "linear without bias", "bilinear", "embedding", "one slope", "conv 2d, 2 groups", "conv transpose 3d, 1 groups",
    "batch norm", "layer norm, two axes", "layer norm without bias", "rms norm, two axes", "group norm", "instance norm 1d",
    "lstm", "lstm without bias, projected", "gru", "rnn",
)  # fmt: skip


@pytest.mark.parametrize("name", DERIVED)
def test_a_model_derived_from_roles_has_the_names_and_shapes_that_torch_gives(name):
    reg = sr.of(nn.ModuleDict({"inner": CASES[name].make()}))
    layers = tuple(replace(layer, lacks=()) for layer in reg.layers)  # that a bias is zero is said by a layer of torch
    side = Side("elsewhere", dict(reg), {}, layers)
    made, problems = derive(side, DIALECT, Rules(), dtype=None, residual=None)
    assert not problems
    assert dict(made.entries) == dict(reg)
    assert [(layer.kind, layer.path, layer.pieces) for layer in made.layers] == [
        (layer.kind, layer.path, tuple(piece for piece in layer.pieces if layer.key(piece) in made.entries))
        for layer in reg.layers
    ]
