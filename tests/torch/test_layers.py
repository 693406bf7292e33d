"""The layers that torch modules are: kinds, pieces, axes that fit the shapes, config; and what is no layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import stateregistry as sr
from stateregistry.layers import axes

MODULES = {
    "linear": (lambda: nn.Linear(3, 5), "linear", {"kernel": "weight", "bias": "bias"}),
    "linear without bias": (lambda: nn.Linear(3, 5, bias=False), "linear", {"kernel": "weight"}),
    "attention's linear": (
        lambda: nn.MultiheadAttention(4, 2).out_proj,
        "linear",
        {"kernel": "weight", "bias": "bias"},
    ),
    "conv 1d": (lambda: nn.Conv1d(4, 6, 3, groups=2), "conv", {"kernel": "weight", "bias": "bias"}),
    "conv 2d": (lambda: nn.Conv2d(4, 6, (3, 5), padding="same"), "conv", {"kernel": "weight", "bias": "bias"}),
    "conv 3d": (lambda: nn.Conv3d(4, 6, 3, bias=False), "conv", {"kernel": "weight"}),
    "batch norm": (
        lambda: nn.BatchNorm2d(4),
        "batch_norm",
        {
            "scale": "weight",
            "bias": "bias",
            "mean": "running_mean",
            "var": "running_var",
            "count": "num_batches_tracked",
        },
    ),
    "batch norm, not affine": (
        lambda: nn.BatchNorm1d(4, affine=False, momentum=None),
        "batch_norm",
        {"mean": "running_mean", "var": "running_var", "count": "num_batches_tracked"},
    ),
    "sync batch norm": (
        lambda: nn.SyncBatchNorm(4),
        "batch_norm",
        {
            "scale": "weight",
            "bias": "bias",
            "mean": "running_mean",
            "var": "running_var",
            "count": "num_batches_tracked",
        },
    ),
    "layer norm": (lambda: nn.LayerNorm((3, 4)), "layer_norm", {"scale": "weight", "bias": "bias"}),
    "layer norm without bias": (lambda: nn.LayerNorm(4, bias=False), "layer_norm", {"scale": "weight"}),
    "embedding": (lambda: nn.Embedding(7, 3, padding_idx=2), "embedding", {"embedding": "weight"}),
    "embedding bag": (lambda: nn.EmbeddingBag(7, 3, mode="max"), "embedding", {"embedding": "weight"}),
}


@pytest.mark.parametrize(("make", "kind", "roles"), MODULES.values(), ids=MODULES)
def test_a_module_is_the_layer_that_it_is(make, kind, roles):
    module = make()
    reg = sr.of(nn.ModuleDict({"a/b": module}))
    (layer,) = reg.layers
    assert (layer.kind, layer.path, layer.type, layer.inferred) == (kind, "a~1b", type(module).__name__, False)
    assert dict(layer.roles) == {role: f"a~1b/{name}" for role, name in roles.items()}
    assert {layer.key(piece) for piece in layer.pieces} == set(reg)
    for piece in layer.pieces:
        entry = reg[layer.key(piece)]
        assert entry.kind is piece.kind
        assert piece.dtype in {None, entry.dtype}
        axes.bind(piece.axes, entry.shape, {"groups": layer.config.get("groups", 1)})
    (root,) = sr.of(module).layers
    assert (root.path, dict(root.roles)) == ("", roles)


def test_config_is_plain_data_of_the_module():
    (layer,) = sr.of(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, dilation=(1, 2), padding_mode="reflect")).layers
    found = {name: layer.config[name] for name in ("groups", "stride", "padding", "dilation", "padding_mode")}
    assert found == {"groups": 2, "stride": (2, 2), "padding": (1, 1), "dilation": (1, 2), "padding_mode": "reflect"}
    (layer,) = sr.of(nn.BatchNorm1d(4, eps=1e-3, momentum=None)).layers
    assert (layer.config["eps"], layer.config["momentum"]) == (1e-3, None)
    (layer,) = sr.of(nn.LayerNorm([3, 4])).layers
    assert layer.config["eps"] == 1e-5


class Named(nn.Linear):
    """A linear layer with another constructor."""

    def __init__(self):
        super().__init__(3, 3)


class Scaled(nn.Linear):
    """A layer that computes something else."""

    def forward(self, x):
        return super().forward(x) * 2


class Standardised(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean(), bias)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Scaled(3, 3), id="own forward"),
        pytest.param(lambda: Standardised(2, 2, 3), id="own convolution"),
        pytest.param(lambda: prune.random_unstructured(nn.Linear(3, 3), "weight", 0.5), id="pruned weight"),
        pytest.param(lambda: prune.random_unstructured(nn.Linear(3, 3), "bias", 0.5), id="pruned bias"),
        pytest.param(lambda: parametrizations.orthogonal(nn.Linear(3, 3)), id="orthogonal"),
        pytest.param(lambda: nn.LayerNorm(3, elementwise_affine=False), id="layer norm without state"),
    ],
)
def test_what_computes_otherwise_is_no_layer_and_keeps_its_entries(make):
    module = make()
    reg = sr.of(module)
    assert reg.layers == ()
    assert len(reg) == len(list(module.parameters())) + len(list(module.buffers()))


def test_a_subclass_that_computes_as_its_base_is_its_base():
    (layer,) = sr.of(Named()).layers
    assert (layer.kind, layer.type) == ("linear", "Named")


def test_a_lazy_layer_is_a_layer_once_it_has_run():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())
    model(torch.randn(2, 3, 5, 5))
    assert [layer.kind for layer in sr.of(model).layers] == ["conv", "batch_norm"]


def test_layers_come_in_native_order_and_under_every_name():
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 3)))
    model.add_module("again", model[0])
    assert [(layer.path, layer.kind) for layer in sr.of(model).layers] == [
        ("0", "linear"), ("1/0", "layer_norm"), ("1/1", "linear"), ("again", "linear"),
    ]  # fmt: skip


def test_a_layer_with_an_opaque_piece_is_none():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = nn.Parameter(model["a"].weight.detach().t())
    assert [layer.path for layer in sr.of(model).layers] == ["a"]


def test_tied_weights_belong_to_both_layers():
    model = nn.ModuleDict({"embed": nn.Embedding(7, 3), "head": nn.Linear(3, 7, bias=False)})
    model["head"].weight = model["embed"].weight
    reg = sr.of(model)
    assert {layer.path: dict(layer.roles) for layer in reg.layers} == {
        "embed": {"embedding": "embed/weight"},
        "head": {"kernel": "head/weight"},
    }
    assert dict(reg.aliases) == {"head/weight": "embed/weight"}
