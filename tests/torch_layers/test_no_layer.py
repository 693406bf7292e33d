"""What is no layer: subclasses that compute otherwise, tensors that come from elsewhere; and that looking changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch_cases import CASES, EVERY, native, old

import stateregistry as sr
from stateregistry_torch.declared import DECLARED
from stateregistry_torch.layers import row_of
from stateregistry_torch.standard import TYPES


@pytest.mark.parametrize("cls", TYPES, ids=lambda cls: cls.__name__)
def test_a_subclass_counts_as_its_base_until_it_computes_otherwise(cls):
    same = type("Same", (cls,), {"extra_repr": lambda self: "", "reset_parameters": lambda self: None})
    assert row_of(same) is row_of(cls) is TYPES[cls]
    for name in TYPES[cls].methods or DECLARED.methods:
        other = type("Other", (cls,), {name: lambda self, *args, **kwargs: None})
        assert row_of(other) is None
        assert row_of(type("Below", (other,), {})) is None


def test_a_subclass_tells_its_own_type():
    class Named(nn.LSTM):
        def __init__(self):
            super().__init__(3, 4, 2)

    class Scaled(nn.ConvTranspose1d):
        def forward(self, x, output_size=None):
            return 2 * super().forward(x, output_size)

    assert [layer.type for layer in sr.of(Named()).layers] == ["Named", "Named"]
    assert sr.of(Scaled(2, 2, 3)).layers == ()


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def chained():
    module = parametrizations.weight_norm(nn.Linear(4, 4))
    parametrize.register_parametrization(module, "weight", Doubled())
    return module


def parametrized(module, name="weight"):
    parametrize.register_parametrization(module, name, Doubled())
    return module


class Computed(nn.Linear):
    """Its weight is made from two smaller ones, by a property."""

    def __init__(self):
        nn.Module.__init__(self)
        self.bias = nn.Parameter(torch.ones(4))
        self.left, self.right = nn.Parameter(torch.ones(4, 2)), nn.Parameter(torch.ones(2, 4))

    @property
    def weight(self):
        raise AssertionError("looking at a layer computes nothing")


class Frozen(nn.Linear):
    """Its weight is a buffer: nobody trains it."""

    def __init__(self):
        super().__init__(4, 4)
        weight = self.weight.detach()
        del self.weight
        self.register_buffer("weight", weight)


class Without(nn.Linear):
    """A linear layer that lost its weight."""

    def __init__(self):
        super().__init__(4, 4)
        del self.weight


def two_norms():
    return old(
        nn.utils.weight_norm, old(nn.utils.weight_norm, nn.LSTM(4, 4), name="weight_ih_l0"), name="weight_hh_l0", dim=1
    )


NONE = {
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
    "a parametrization of one's own": lambda: parametrized(nn.Conv2d(4, 4, 3)),
    "two parametrizations": chained,
    "a parametrized bias": lambda: parametrized(nn.Linear(4, 4), "bias"),
    "pruned": lambda: prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5),
    "pruned bias": lambda: prune.random_unstructured(nn.ConvTranspose1d(4, 4, 3), "bias", 0.5),
    "a property": Computed,
    "a buffer in the place of a parameter": Frozen,
    "no weight": Without,
    "without state": lambda: nn.LayerNorm(4, elementwise_affine=False),
    "instance norm without state": lambda: nn.InstanceNorm2d(4),
    "rms norm without state": lambda: nn.RMSNorm(4, elementwise_affine=False),
    "a magnitude over all gates": lambda: old(nn.utils.weight_norm, nn.GRU(4, 4), name="weight_hh_l0", dim=1),
    "one magnitude for query, key and value": lambda: parametrizations.weight_norm(
        nn.MultiheadAttention(4, 2), "in_proj_weight", dim=None
    ),
    "the spectral norm of all gates": lambda: old(nn.utils.spectral_norm, nn.LSTM(4, 4), name="weight_hh_l0"),
    "the spectral norm of a vector": lambda: old(nn.utils.spectral_norm, nn.LayerNorm(4)),
    "one norm of two understood": two_norms,
    "of the user": lambda: nn.ParameterDict({"weight": torch.ones(4, 4), "bias": torch.ones(4)}),
}  # fmt: skip


@pytest.mark.parametrize("make", NONE.values(), ids=NONE)
def test_its_entries_stand_alone(make):
    module = make()
    reg = sr.of(module)
    assert [layer for layer in reg.layers if layer.path == ""] == []
    assert sorted(reg) == sorted(name.replace(".", "/") for name in native(module))


def test_attention_that_is_no_layer_leaves_its_inner_linear_a_layer():
    module = parametrized(nn.MultiheadAttention(4, 2), "in_proj_weight")
    assert [(layer.path, layer.kind) for layer in sr.of(module).layers] == [("out_proj", "linear")]


def test_one_piece_that_is_no_entry_makes_the_whole_no_layer():
    cells = nn.ModuleDict({"a": nn.LSTMCell(4, 4), "b": nn.LSTMCell(4, 4)})
    cells["b"].weight_hh = nn.Parameter(cells["a"].weight_ih.detach().t())  # the same memory in another order
    reg = sr.of(cells)
    assert "b/weight_hh" in reg.opaque
    assert [layer.path for layer in reg.layers] == ["a"]


def test_tensors_of_another_rank_make_no_layer_of_a_standard_type():
    module = nn.Linear(4, 4)
    module.weight = nn.Parameter(torch.ones(16))  # flattened, as sharded training leaves it
    assert sr.of(module).layers == ()


@pytest.mark.parametrize("case", EVERY)
def test_looking_at_layers_changes_no_bit_and_no_tensor(case):
    module = case.make().train()  # spectral_norm iterates whenever its weight is read in training
    before = {name: (array.ctypes.data, array.tobytes()) for name, array in native(module).items()}
    random = torch.get_rng_state()
    reg = sr.of(module)
    first, second = reg.layers, reg.layers
    assert first == second != ()
    after = {name: (array.ctypes.data, array.tobytes()) for name, array in native(module).items()}
    assert before == after
    assert torch.equal(torch.get_rng_state(), random)


def test_the_test_of_no_effect_can_fail():
    module = CASES["spectral norm"].make().train()
    before = native(module)["parametrizations.weight.0._u"].tobytes()
    for _ in range(3):
        _ = module.weight
    assert native(module)["parametrizations.weight.0._u"].tobytes() != before


@pytest.mark.parametrize("case", EVERY)
def test_layers_need_no_values(case):
    made = case.make()
    hollow = case.make().to("meta")
    assert sr.of(hollow).layers == sr.of(made).layers


def test_a_shared_layer_stands_under_both_names_and_a_tie_belongs_to_both_layers():
    attention = nn.MultiheadAttention(4, 2)
    reg = sr.of(nn.ModuleDict({"a": attention, "b": attention}))
    assert [(layer.kind, layer.path) for layer in reg.layers] == [("attention", "a"), ("attention", "b")]
    model = nn.ModuleDict({"embed": nn.Embedding(7, 3), "head": nn.Linear(3, 7, bias=False)})
    model["head"].weight = model["embed"].weight
    roles = {layer.path: dict(layer.roles) for layer in sr.of(model).layers}
    assert roles == {"embed": {"embedding": "embed/weight"}, "head": {"kernel": "head/weight"}}
    one, two = nn.LSTM(4, 4), nn.LSTM(4, 4)
    two.weight_hh_l0 = one.weight_hh_l0
    reg = sr.of(nn.ModuleDict({"a": one, "b": two}))
    assert dict(reg.aliases) == {"b/weight_hh_l0": "a/weight_hh_l0"}
    assert [layer.roles["i_recurrent_kernel"] for layer in reg.layers] == ["a/weight_hh_l0", "b/weight_hh_l0"]


def test_layers_come_in_native_order():
    model = nn.Sequential(nn.LSTM(4, 4, 2), nn.TransformerEncoderLayer(4, 2, 4), nn.PReLU())
    assert [layer.path for layer in sr.of(model).layers] == [
        "0/l0", "0/l1", "1/self_attn", "1/linear1", "1/linear2", "1/norm1", "1/norm2", "2",
    ]  # fmt: skip


def test_a_lazy_layer_is_a_layer_once_it_has_run():
    model = nn.Sequential(nn.LazyConvTranspose2d(4, 3), nn.LazyInstanceNorm2d(affine=True))
    model(torch.from_numpy(np.ones((2, 3, 5, 5), np.float32)))
    assert [layer.kind for layer in sr.of(model).layers] == ["conv_transpose", "instance_norm"]
