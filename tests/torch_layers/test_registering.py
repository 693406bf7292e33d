"""Layer types that users declare: by type or by name, inner modules included; and every way to declare one wrongly."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch_cases import exported

import stateregistry as sr
import stateregistry_torch
from stateregistry.errors import AdapterError, AxesError
from stateregistry.layers.vocabulary import Piece
from stateregistry_torch import declared, register_layer
from stateregistry_torch.layers import row_of


@pytest.fixture(autouse=True)
def _rows_of_before(monkeypatch):
    monkeypatch.setattr(declared.DECLARED, "rows", dict(declared.DECLARED.rows))


def linear_in_out(_):
    return sr.Layer("linear", "", (Piece("kernel", "w", "in out"), Piece("bias", "b", "out")))


def make(name="Scaled", module="my_models", base=nn.Module, **members):
    """A class as a package would define it, which nobody can import."""

    def init(self, *, bias=True):
        nn.Module.__init__(self)
        self.w = nn.Parameter(torch.arange(12.0).reshape(3, 4))
        self.b = nn.Parameter(torch.ones(4)) if bias else None

    return type(
        name, (base,), {"__init__": init, "forward": lambda self, x: x @ self.w, "__module__": module, **members}
    )


def test_an_unknown_type_is_no_layer_and_its_entries_stand_alone():
    reg = sr.of(make()())
    assert reg.layers == ()
    assert list(reg) == ["b", "w"]


@pytest.mark.parametrize("by", ["type", "name"])
def test_a_type_is_declared_by_itself_or_by_its_name(by):
    cls = make()
    register_layer(cls if by == "type" else "my_models.Scaled", linear_in_out)
    reg = sr.of(nn.ModuleDict({"a": cls(), "b": cls(bias=False)}))
    assert [(layer.kind, layer.path, layer.type) for layer in reg.layers] == [
        ("linear", "a", "Scaled"), ("linear", "b", "Scaled"),
    ]  # fmt: skip
    assert [dict(layer.roles) for layer in reg.layers] == [{"kernel": "a/w", "bias": "a/b"}, {"kernel": "b/w"}]
    kernel = exported(reg, reg.layers[0])["kernel"]
    assert kernel.axes == ("in", "out")
    assert np.array_equal(kernel.array, np.arange(12).reshape(3, 4))


def test_a_name_is_registered_without_importing_anything():
    code = (
        "import sys, stateregistry_torch as t\n"
        "t.register_layer('nowhere.at_all.Layer', t.bare)\n"
        "assert 'torch' not in sys.modules and 'nowhere' not in sys.modules\n"
        "import torch, stateregistry as sr\n"
        "cls = type('Layer', (torch.nn.Linear,), {'__module__': 'nowhere.at_all'})\n"
        "print(len(sr.of(torch.nn.Linear(2, 2)).layers), len(sr.of(cls(2, 2)).layers))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("1 0\n", 0), done.stderr


def test_a_subclass_counts_as_the_declared_type_while_it_leaves_its_methods_alone():
    cls = make()
    with pytest.raises(AdapterError, match=r"my_models\.Scaled has no method inner"):
        register_layer(cls, linear_in_out, methods=("forward", "inner"))
    cls = make(inner=lambda self: None)
    register_layer(cls, linear_in_out, methods=("forward", "inner"))
    assert row_of(type("Same", (cls,), {})) is not None
    for name in ("forward", "inner"):
        assert row_of(type("Other", (cls,), {name: lambda self: None})) is None


def test_a_method_that_a_named_type_does_not_have_is_told_when_the_type_is_met():
    register_layer("my_models.Scaled", linear_in_out, methods=("call",))
    with pytest.raises(AdapterError, match=r"my_models\.Scaled has no method call"):
        _ = sr.of(make()()).layers


def test_the_last_word_is_valid_whether_by_type_or_by_name():
    cls = make()
    other = make()  # of the same name
    register_layer(cls, linear_in_out)
    register_layer("my_models.Scaled", stateregistry_torch.bare)
    assert sr.of(cls()).layers == sr.of(other()).layers == ()
    register_layer(cls, linear_in_out)
    assert [len(sr.of(each()).layers) for each in (cls, other)] == [1, 0]


def test_a_type_of_torch_itself_can_be_declared_anew():
    register_layer(nn.Bilinear, lambda _: None)
    assert sr.of(nn.Bilinear(2, 2, 2)).layers == ()
    register_layer("torch.nn.modules.linear.Linear", stateregistry_torch.bare)
    assert sr.of(nn.Linear(2, 2)).layers == ()


def test_inner_modules_that_are_pieces_are_no_layers_besides():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(4, 4, bias=False) for _ in range(4))
            self.norm = nn.LayerNorm(4)

        def forward(self, x):
            return x

    def attention(module):
        names = {"q": "query", "k": "key", "v": "value"}
        pieces = [Piece(f"{names[n]}_kernel", f"{n}_proj/weight", "(heads head_dim) in") for n in "qkv"]
        pieces.append(Piece("out_kernel", "o_proj/weight", "out (heads head_dim)"))
        return sr.Layer("attention", "", tuple(pieces), config={"heads": 2, "head_dim": 2})

    model = nn.Sequential(Attention(), nn.Linear(4, 4))
    assert len(sr.of(model).layers) == 6
    register_layer(Attention, attention)
    reg = sr.of(model)
    assert [(layer.kind, layer.path) for layer in reg.layers] == [
        ("attention", "0"), ("layer_norm", "0/norm"), ("linear", "1"),
    ]  # fmt: skip
    query = exported(reg, reg.layers[0])["query_kernel"]
    assert np.array_equal(query.to("heads", "head_dim", "in"), reg.read("0/q_proj/weight").reshape(2, 2, 4))
    # One that lacks what attention cannot do without is none, and the rest of it is what it was.
    model[0].q_proj = nn.Identity()
    assert [layer.path for layer in sr.of(model).layers] == ["0/k_proj", "0/v_proj", "0/o_proj", "0/norm", "1"]


def test_a_declared_module_may_be_several_layers():
    def two(module):
        yield sr.Layer("linear", "up", (Piece("kernel", "w", "in out"),), type="Up")
        yield sr.Layer("layer_norm", "shift", (Piece("scale", "b", "*features"),), config={"eps": 0.5})

    register_layer("my_models.Scaled", two)
    layers = sr.of(nn.Sequential(make()())).layers
    assert [(layer.kind, layer.path, layer.base, layer.type, dict(layer.roles)) for layer in layers] == [
        ("linear", "0/up", "0", "Up", {"kernel": "0/w"}),
        ("layer_norm", "0/shift", "0", "Scaled", {"scale": "0/b"}),
    ]
    assert layers[1].config == {"eps": 0.5}


def test_a_wrapper_around_a_declared_type_is_seen_through():
    cls = make()
    register_layer(cls, linear_in_out)
    module = nn.utils.parametrizations.weight_norm(cls(), "w", dim=1)
    (layer,) = sr.of(module).layers
    assert (layer.kind, layer.type) == ("linear", "Scaled")
    assert {piece.role: piece.axes for piece in layer.pieces} == {
        "kernel_direction": "in out", "kernel_magnitude": "1 out", "bias": "out",
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------ out of the box


def test_conv1d_of_transformers_is_a_linear_layer_the_other_way_round():
    def init(self):
        nn.Module.__init__(self)
        self.weight, self.bias = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(4))

    cls = make("Conv1D", "transformers.pytorch_utils", __init__=init)
    (layer,) = sr.of(cls()).layers
    assert (layer.kind, layer.type) == ("linear", "Conv1D")
    assert {piece.role: piece.axes for piece in layer.pieces} == {"kernel": "in out", "bias": "out"}
    module = cls()
    module.weight = nn.Parameter(torch.ones(12))  # flattened, as sharded training leaves it
    assert sr.of(module).layers == ()


@pytest.mark.parametrize(
    "name",
    [
        "timm.layers.layer_scale.LayerScale", "timm.layers.layer_scale.LayerScale2d",
        "transformers.models.dinov2.modeling_dinov2.Dinov2LayerScale",
    ],
)  # fmt: skip
def test_a_layer_scale_is_a_parameter_of_its_own(name):
    module, _, cls = name.rpartition(".")
    made = make(cls, module)
    assert row_of(made).build is stateregistry_torch.bare
    assert sr.of(made()).layers == ()


# -------------------------------------------------------------------------------------------------- declared wrongly


@pytest.mark.parametrize("name", ["Scaled", "", "my models.Scaled", "my_models.", "my-models.Scaled"])
def test_a_name_without_a_module_is_refused(name):
    with pytest.raises(AdapterError, match="no qualified name of a class"):
        register_layer(name, linear_in_out)


@pytest.mark.parametrize("target", [int, nn.Linear(2, 2), None, 3])
def test_what_is_no_type_of_module_is_refused(target):
    with pytest.raises(AdapterError, match="neither a type of torch modules nor the name of one"):
        register_layer(target, linear_in_out)


def test_a_declaration_that_is_no_function_is_refused():
    with pytest.raises(AdapterError, match=r"the declaration of my_models\.Scaled is 'linear', not a function"):
        register_layer("my_models.Scaled", "linear")


def layer(*pieces, kind="linear", path=""):
    return lambda _: sr.Layer(kind, path, pieces)


WRONG = {
    "an unknown kind": (layer(Piece("kernel", "w", "in out"), kind="dense"), AxesError, "no layer kind 'dense'"),
    "an unknown role": (layer(Piece("weight", "w", "in out")), AxesError, "a linear has no role 'weight'; it has kernel, bias"),
    "an unknown role of a sum": (layer(Piece("bias+shift", "b", "out")), AxesError, "no role 'shift'"),
    "an unknown wrapped role": (layer(Piece("gain_magnitude", "b", "out")), AxesError, "no role 'gain_magnitude'"),
    "other axes": (layer(Piece("kernel", "w", "in features")), AxesError, "'kernel' of a linear has the axes 'out in'"),
    "axes too few": (layer(Piece("kernel", "w", "out")), AxesError, "has the axes 'out in', declared 'out'"),
    "axes that do not parse": (layer(Piece("kernel", "w", "(in out")), AxesError, r"w: axis pattern '\(in out'"),
    "parts without roles": (
        layer(Piece("query_kernel|key_kernel", "w", "(a|b|c: heads head_dim) in"), kind="attention"), AxesError, "w: ",
    ),
    "a name that is no key": (layer(Piece("kernel", "/w", "in out")), AxesError, "is not a key"),
    "another rank": (layer(Piece("kernel", "b", "in out")), AxesError, r"b has 1 axes, and 'in out' was declared"),
    "no layer": (lambda _: ["linear"], AdapterError, "expected Layers with different paths"),
    "two layers of one path": (
        lambda _: [sr.Layer("linear", "x", (Piece("kernel", "w", "in out"),))] * 2, AdapterError, "different paths",
    ),
    "a function that fails": (lambda module: module.width, AdapterError, r"fails on 'at': AttributeError: .*width"),
    "a generator that fails": (lambda module: (module.width for _ in "x"), AdapterError, "AttributeError"),
    "neither a layer nor several": (lambda _: 3, AdapterError, "TypeError"),
}  # fmt: skip


@pytest.mark.parametrize(("build", "error", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_declaration_is_refused_with_the_path_and_the_type(build, error, words):
    register_layer("my_models.Scaled", build)
    reg = sr.of(nn.ModuleDict({"at": make()()}))
    with pytest.raises(error, match=words) as caught:
        _ = reg.layers
    assert "my_models.Scaled" in str(caught.value)
    assert "at" in caught.value.keys
    assert "register_layer" in str(caught.value)
    assert list(reg) == ["at/b", "at/w"]
