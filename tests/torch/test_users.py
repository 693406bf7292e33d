"""What PyTorch users know about parameters and buffers is what the registry shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import stateregistry as sr
from stateregistry import Kind, errors


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))
        self.register_parameter("scale", nn.Parameter(torch.randn(3)))
        self.register_buffer("mean", torch.randn(3))
        self.register_buffer("cache", torch.randn(3), persistent=False)
        self.register_buffer("unused", None)
        self.register_parameter("absent", None)
        self.plain = torch.randn(3)
        self.hidden = [nn.Linear(2, 2)]
        self.linear = nn.Linear(3, 2)


def test_a_parameter_by_attribute_and_one_by_register_parameter_are_parameters():
    reg = sr.of(Net())
    assert reg["weight"].kind is reg["scale"].kind is Kind.PARAMETER
    assert reg["weight"].trainable
    assert reg["weight"].tag == "Parameter"


def test_a_registered_buffer_is_a_buffer_and_never_trainable():
    reg = sr.of(Net())
    assert reg["mean"].kind is Kind.BUFFER
    assert not reg["mean"].trainable
    assert reg["mean"].tag == "buffer"


def test_a_plain_tensor_a_list_of_modules_and_a_none_are_not_state():
    reg = sr.of(Net())
    assert list(reg) == ["cache", "linear/bias", "linear/weight", "mean", "scale", "weight"]
    assert not reg.opaque
    for key in ("plain", "unused", "absent", "hidden/0/weight"):
        assert key not in reg
        with pytest.raises(errors.UnknownKeyError):
            reg.read(key)
        with pytest.raises(errors.UnexpectedKeyError):
            reg.replace({key: np.zeros(3, np.float32)})


def test_both_kinds_are_saved_and_what_is_not_persistent_is_not():
    model = Net()
    saved = {key.replace("/", ".") for key in sr.snapshot(sr.of(model))}
    assert saved == set(model.state_dict())
    assert "mean" in saved
    assert "cache" not in saved


def test_only_parameters_go_to_the_optimizer():
    model = Net()
    given = {
        id(parameter) for group in torch.optim.SGD(model.parameters()).param_groups for parameter in group["params"]
    }
    registered = {key for key, entry in sr.of(model).items() if entry.kind is Kind.PARAMETER}
    tensors = {key: model.get_parameter(key.replace("/", ".")) for key in registered}
    assert {id(tensor) for tensor in tensors.values()} == given


def test_assigning_a_parameter_over_a_buffer_changes_its_kind():
    model = Net()
    reg = sr.of(model)
    model.mean = nn.Parameter(torch.zeros(3))
    assert reg["mean"].kind is Kind.PARAMETER


def test_batch_norm_has_two_parameters_and_three_buffers_and_training_changes_them():
    model = nn.BatchNorm1d(4)
    reg = sr.of(model)
    kinds = {key: (entry.kind, entry.dtype, entry.shape) for key, entry in reg.items()}
    assert kinds == {
        "weight": (Kind.PARAMETER, "float32", (4,)),
        "bias": (Kind.PARAMETER, "float32", (4,)),
        "running_mean": (Kind.BUFFER, "float32", (4,)),
        "running_var": (Kind.BUFFER, "float32", (4,)),
        "num_batches_tracked": (Kind.BUFFER, "int64", ()),
    }
    before = reg.read("running_mean")
    model(torch.randn(8, 4))
    assert reg.read("running_mean").tobytes() != before.tobytes()
    assert reg.read("num_batches_tracked") == 1


def test_a_frozen_parameter_stays_a_parameter_and_is_saved():
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    entry = sr.of(model)["weight"]
    assert (entry.kind, entry.trainable, entry.persistent) == (Kind.PARAMETER, False, True)


def test_the_native_order_is_that_of_declaration_and_iteration_is_sorted():
    reg = sr.of(Net())
    assert reg.native_order == ("weight", "scale", "mean", "cache", "linear/weight", "linear/bias")
    assert list(reg) == sorted(reg)


def test_the_native_order_of_parameters_is_the_index_of_an_optimizer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    reg = sr.of(model)
    ordered = [key for key in reg.native_order if reg[key].kind is Kind.PARAMETER]
    for key, parameter in zip(ordered, model.parameters(), strict=True):
        assert reg.read(key).tobytes() == parameter.detach().numpy().tobytes()


def test_a_mask_is_a_dict_by_the_names_of_named_parameters():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model.add_module("tied", model[0])
    mask = sr.mask(model, lambda key, entry: key.endswith("weight"))
    assert list(mask) == [name for name, _ in model.named_parameters()]
    assert mask == {"0.weight": True, "0.bias": False, "1.weight": True, "1.bias": False}


def test_a_mask_names_every_object_of_a_tie_that_named_parameters_names():
    model = nn.Module()
    model.register_parameter("z", nn.Parameter(torch.randn(2, 2)))
    model.register_parameter("a", nn.Parameter(model.z.detach()))
    model.register_parameter("free", nn.Parameter(torch.randn(2, 2)))
    assert sr.mask(model, "a") == {"z": True, "a": True, "free": False}


def test_a_mask_over_parameters_selects_what_weight_decay_needs():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    mask = sr.mask(model, lambda key, entry: len(entry.shape) > 1)
    chosen = [parameter for name, parameter in model.named_parameters() if mask[name]]
    assert [tuple(parameter.shape) for parameter in chosen] == [(3, 3)]
