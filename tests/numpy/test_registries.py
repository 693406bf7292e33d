"""What the reference adapter does beyond the suite: live memory, layers, both variants, assembly, templates."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import stateregistry as sr
import stateregistry_numpy
from stateregistry import errors
from stateregistry.layers.vocabulary import ROLES
from stateregistry_numpy import (
    Abstract,
    BatchNorm,
    Buffer,
    Conv,
    Embedding,
    FrozenModel,
    LayerNorm,
    Linear,
    Module,
    Parameter,
    Sequential,
)


def _model() -> Sequential:
    model = Sequential(
        Conv(2, 4, (3, 3), groups=2), BatchNorm(4), LayerNorm(3, 3), Linear(4, 4, bias=False), Embedding(5, 4)
    )
    model.register_parameter("temperature", np.ones((), np.float32))
    return model


def test_layers_are_found_with_their_roles_and_config() -> None:
    layers = sr.of(_model()).layers
    assert [(layer.kind, layer.path, layer.type) for layer in layers] == [
        ("conv", "0", "Conv"), ("batch_norm", "1", "BatchNorm"), ("layer_norm", "2", "LayerNorm"), ("linear", "3", "Linear"),
        ("embedding", "4", "Embedding"),
    ]  # fmt: skip
    assert dict(layers[0].roles) == {"kernel": "0/filters", "bias": "0/bias"}
    assert layers[0].config["groups"] == 2
    assert dict(layers[3].roles) == {"kernel": "3/matrix"}
    for layer in layers:
        assert set(layer.roles) <= set(ROLES[layer.kind])
        assert not layer.inferred


def test_a_shared_layer_is_a_layer_under_each_of_its_paths() -> None:
    model = Module()
    model.z = Linear(3, 3)
    model.a = model.z
    registry = sr.of(model)
    assert [layer.path for layer in registry.layers] == ["z", "a"]
    assert dict(registry.aliases) == {"z/bias": "a/bias", "z/matrix": "a/matrix"}


def test_a_layer_that_is_the_whole_model_has_the_empty_path() -> None:
    (layer,) = sr.of(Linear(3, 3)).layers
    assert layer.path == ""
    assert dict(layer.roles) == {"kernel": "matrix", "bias": "bias"}


def test_freezing_and_thawing_give_the_same_state_and_layers() -> None:
    model = _model()
    model.head = model.members["3"].matrix  # type: ignore[union-attr]
    frozen = model.freeze()
    assert sr.diff(model, frozen).equal
    thawed = frozen.thaw()
    assert sr.diff(model, thawed).equal
    assert sr.of(thawed).layers == sr.of(model).layers == sr.of(frozen).layers
    assert isinstance(thawed.members["1"], BatchNorm)
    assert thawed.head is thawed.members["3"].matrix  # type: ignore[union-attr]
    x = np.random.default_rng(0).standard_normal((2, 2, 5, 5)).astype(np.float32)
    assert thawed.members["0"](x).tobytes() == model.members["0"](x).tobytes()  # type: ignore[operator]


def test_freezing_what_is_no_array_is_refused() -> None:
    model = Module()
    model.names = Buffer(np.array(["a"]))
    with pytest.raises(errors.OpaqueError):
        model.freeze()


def test_a_frozen_model_shares_what_was_not_touched_and_nothing_is_writable() -> None:
    old = _model().freeze()
    registry = sr.of(old)
    new = registry.replace({"3/matrix": np.ones((4, 4), np.float32)}).unwrap()
    assert new.parameters["0"]["filters"] is old.parameters["0"]["filters"]
    assert new.parameters["3"]["matrix"] is not old.parameters["3"]["matrix"]
    for model in (old, new):
        for _, _, leaf in model.leaves():
            assert not leaf.flags.writeable
        with pytest.raises(TypeError):
            model.parameters["new"] = 1
    assert registry.view("0/filters").base is old.parameters["0"]["filters"]


def test_a_frozen_model_copies_what_others_can_change() -> None:
    array = np.ones(3)
    view = np.ones(6)[:3]
    view.flags.writeable = False
    model = FrozenModel(parameters={"a": array, "b": view})
    array[...] = 7
    view.base[...] = 7  # type: ignore[index]
    assert model.parameters["a"].tolist() == [1, 1, 1]
    assert model.parameters["b"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("model", "error"),
    [
        (FrozenModel(parameters={"": np.ones(3)}), errors.KeyPathError),
        (FrozenModel(parameters={3.5: np.ones(3)}), errors.KeyPathError),  # type: ignore[dict-item]
        (FrozenModel(parameters={True: np.ones(3)}), errors.KeyPathError),
        (FrozenModel(parameters={-1: np.ones(3)}), errors.KeyPathError),
        (FrozenModel(parameters={0: np.ones(3), "0": np.ones(3)}), errors.DuplicateKeyError),
        (FrozenModel(parameters={"a": np.ones(3)}, rngs={"a": np.zeros(2, np.uint32)}), errors.DuplicateKeyError),
        (FrozenModel(parameters={"a": np.ones(3)}, transient={"a": {"b": np.ones(3)}}), errors.DuplicateKeyError),
        (FrozenModel(parameters={"a": np.ones(3)}, ties={("a", "b"): ("a",)}), errors.DuplicateKeyError),
        (FrozenModel(parameters={"a": np.ones(3)}, ties={("b",): ("c",)}), errors.UnsupportedError),
        (FrozenModel(parameters={"a": np.ones(3), "b": np.ones(3)}, ties={("a",): ("b",)}), errors.UnsupportedError),
    ],
)
def test_a_frozen_model_that_breaks_a_law_is_refused(model: FrozenModel, error: type[Exception]) -> None:
    with pytest.raises(error):
        sr.of(model)


def test_lists_of_a_frozen_model_have_numbers_for_steps() -> None:
    model = FrozenModel(parameters={"layers": [{"w": np.ones(3)}, {"w": np.zeros(3)}]})
    registry = sr.of(model)
    assert list(registry) == ["layers/0/w", "layers/1/w"]
    new = registry.replace({"layers/1/w": np.full(3, 5.0)}).unwrap()
    assert isinstance(new.parameters["layers"], tuple)
    assert new.parameters["layers"][1]["w"].tolist() == [5, 5, 5]


def test_memory_that_cells_share_is_found_without_being_told() -> None:
    model = Module()
    model.a, model.b, model.c = (Parameter(np.arange(6.0).reshape(2, 3)) for _ in range(3))
    model.b.array = model.a.array
    registry = sr.of(model)
    assert dict(registry.aliases) == {"b": "a"}
    model.b.array = model.a.array[:]  # another array object over the same memory
    assert dict(registry.aliases) == {"b": "a"}
    model.b.array = np.zeros((2, 3))
    assert dict(registry.aliases) == {}
    assert "b" in registry


PARTS: dict[str, Any] = {
    "a row": lambda x: x[0],
    "the transpose": lambda x: x.T,
    "reversed": lambda x: x[:, ::-1],
    "another dtype": lambda x: x.view(np.int64),
    "another shape": lambda x: x.reshape(3, 2),
}


@pytest.mark.parametrize("name", PARTS)
def test_memory_that_overlaps_otherwise_is_refused(name: str) -> None:
    part = PARTS[name]
    model = Module()
    model.a, model.b = Parameter(np.arange(6.0).reshape(2, 3)), Buffer(np.zeros(1))
    model.b.array = part(model.a.array)
    with pytest.raises(errors.UnsupportedError) as caught:
        sr.of(model)
    assert caught.value.keys == ("a", "b")


def test_slices_that_interleave_without_touching_are_two_places() -> None:
    base = np.arange(8.0)
    model = Module()
    model.a, model.b, model.e = Parameter(np.zeros(4)), Parameter(np.zeros(4)), Buffer(np.zeros(0))
    model.a.array, model.b.array, model.e.array = base[::2], base[1::2], base[2:2]
    registry = sr.of(model)
    assert dict(registry.aliases) == {}
    registry.replace({"a": np.full(4, 7.0)})
    assert base.tolist() == [7, 1, 7, 3, 7, 5, 7, 7]


def test_a_tie_that_comes_or_goes_natively_is_seen() -> None:
    model = Module()
    model.a, model.b = Parameter(np.zeros(3)), Parameter(np.ones(3))
    registry = sr.of(model)
    model.b = model.a
    assert dict(registry.aliases) == {"b": "a"}
    assert "b" not in registry
    model.a = Parameter(np.full(3, 5.0))
    assert registry.read("b").tolist() == [0, 0, 0]
    assert registry.read("a").tolist() == [5, 5, 5]
    assert (list(registry), dict(registry.aliases)) == (["a", "b"], {})


def test_a_write_that_fails_natively_restores_an_abstract_cell_too() -> None:
    model = Module()
    model.a, model.b = Parameter(Abstract((3,), "float64")), Parameter(np.zeros(3))
    model.b.array.flags.writeable = False
    registry = sr.of(model)
    with pytest.raises(errors.CommitError) as caught:
        registry.replace({"a": np.ones(3), "b": np.ones(3)})
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.keys == ()
    assert not registry["a"].concrete


def test_a_loop_over_a_large_model_with_ties_is_linear() -> None:
    """Each lookup walks its own path: four times the model takes about four times the calls, not sixteen."""

    def calls(width: int) -> int:
        model = Module()
        for number in range(width):
            model.add_module(f"m{number}", Linear(1, 1))
        model.tied = model.m0.matrix
        registry = sr.of(model)
        made = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal made
            made += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            found = dict(registry)
        finally:
            sys.setprofile(None)
        assert len(found) == 2 * width
        return made

    assert calls(2000) < 5 * calls(500)


def test_an_option_is_refused() -> None:
    for name, model in (("numpy", Module()), ("numpy-frozen", FrozenModel())):
        with pytest.raises(errors.AdapterError, match="transient"):
            sr.of(model, adapter=name, transient=())


def test_each_adapter_takes_its_own_model_only() -> None:
    with pytest.raises(errors.AdapterError, match="freeze"):
        sr.of(Module(), adapter="numpy-frozen")
    with pytest.raises(errors.AdapterError, match="Module"):
        sr.of(FrozenModel(), adapter="numpy")


@pytest.mark.parametrize("near", [np.ones(3), {"w": np.ones(3)}, Linear])
def test_what_is_nearly_a_model_is_explained(near: object) -> None:
    assert stateregistry_numpy.mutable.explain(near)
    with pytest.raises(errors.AdapterError):
        sr.of(near)


def test_a_template_takes_no_memory() -> None:
    for adapter in (stateregistry_numpy.mutable, stateregistry_numpy.frozen):
        model = adapter.abstractly(lambda: Sequential(Linear(3, 4), BatchNorm(4)))
        product: Any = model if adapter.name == "numpy" else model.freeze()
        template = adapter.template(product)
        assert template is not None
        assert not any(entry.concrete for entry in template.values())
        assert {k: e.shape for k, e in template.items()} == {
            k: e.shape for k, e in sr.of(Sequential(Linear(3, 4), BatchNorm(4))).items()
        }
        assert adapter.template(object()) is None
    assert sr.of(Linear(3, 4))["matrix"].concrete


def test_assembly_gives_layers_values_flags_and_ties_back() -> None:
    model = _model()
    model.tail = model.members["3"]
    model.temperature.trainable = False
    model.register_buffer("cache", np.ones(3), persistent=False)
    model.register_buffer("noise", stateregistry_numpy.Rng(3))
    again = stateregistry_numpy.mutable.assemble(sr.of(model))
    assert sr.diff(model, again).equal
    assert dict(sr.of(again)) == dict(sr.of(model))
    assert [type(layer) for layer in again.members.values() if isinstance(layer, Module)] == [
        Conv, BatchNorm, LayerNorm, Linear, Embedding, Linear,
    ]  # fmt: skip
    assert isinstance(stateregistry_numpy.frozen.assemble(sr.of(model)), FrozenModel)
    single = stateregistry_numpy.mutable.assemble(sr.of(Linear(3, 3)))
    assert isinstance(single, Linear)
    assert single(np.ones((1, 3), np.float32)).shape == (1, 3)


def test_importing_the_adapters_imports_no_numpy() -> None:
    code = "import sys, stateregistry_numpy as s; s.mutable.recognises(3); s.frozen.explain(3); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_public_name_is_there() -> None:
    for name in stateregistry_numpy.__all__:
        assert getattr(stateregistry_numpy, name) is not None
    assert dir(stateregistry_numpy) == sorted(stateregistry_numpy.__all__)
    with pytest.raises(AttributeError):
        _ = stateregistry_numpy.nothing
