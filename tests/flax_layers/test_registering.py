"""Layers of one's own: by type or by name, for Linen and NNX, with errors that say what is wrong with a declaration."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cases import S, assert_close, data, random
from flax import nnx

import stateregistry as sr
import stateregistry_flax
from stateregistry import errors
from stateregistry.layers.vocabulary import Piece
from stateregistry_flax import declared

PIECES = (Piece("kernel", "w", "out in"), Piece("bias", "b", "out"))


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test registers, no other knows."""
    monkeypatch.setattr(declared.DECLARED, "rows", dict(declared.DECLARED.rows))


class Turned(nn.Module):
    """A dense layer that stores its kernel as torch does."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        kernel = self.param("w", nn.initializers.lecun_normal(), (S, S))
        return x @ kernel.T + self.param("b", nn.initializers.zeros, (S,))


class Net(nn.Module):
    inner: Any = Turned

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return self.inner(name="fc")(x)


class TurnedNnx(nnx.Module):
    def __init__(self) -> None:
        self.w, self.b = nnx.Param(jnp.ones((S, S))), nnx.Param(jnp.ones(S))

    def __call__(self, x: Any) -> Any:
        return x @ self.w[...].T + self.b[...]


class Torch(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(S, S)


def declared_linear(module: Any) -> sr.Layer:
    return sr.Layer("linear", "", PIECES, config={"of": type(module).__name__})


def name_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def linen(module: nn.Module | None = None) -> sr.StateRegistry:
    module = module or Net()
    x = data(2, S)
    reg = sr.of(module.init(jax.random.key(0), x), module=module, args=(x,))
    return reg.replace(random(reg, 0))


@pytest.mark.parametrize("by", ["type", "name"])
def test_a_registered_linen_type_converts_as_it_is_declared(by: str) -> None:
    assert linen().layers == ()
    stateregistry_flax.register_layer(Turned if by == "type" else name_of(Turned), declared_linear)
    source = linen()
    (layer,) = source.layers
    assert (layer.kind, layer.path, layer.type, layer.config) == ("linear", "fc", "Turned", {"of": "Turned"})
    x = data(2, S)
    done = sr.convert(source, Torch())
    with torch.no_grad():
        assert_close(done.target.fc(torch.from_numpy(x)).numpy(), np.asarray(Net().apply(source.unwrap(), x)))
    assert done.target.fc.weight.detach().numpy().tobytes() == source.read("fc/w").tobytes()
    plain = nnx.Dict({"fc": nnx.Linear(S, S, rngs=nnx.Rngs(0))})
    sr.convert(source, plain)
    assert np.asarray(plain["fc"].kernel[...]).tobytes() == np.ascontiguousarray(source.read("fc/w").T).tobytes()


@pytest.mark.parametrize("by", ["type", "name"])
def test_a_registered_nnx_type_converts_as_it_is_declared(by: str) -> None:
    stateregistry_flax.register_layer(TurnedNnx if by == "type" else name_of(TurnedNnx), declared_linear)
    model = nnx.Dict({"fc": TurnedNnx()})
    torch.manual_seed(0)
    source = Torch()
    sr.convert(source, model)
    assert np.asarray(model["fc"].w[...]).tobytes() == source.fc.weight.detach().numpy().tobytes()


def test_a_stacked_linen_type_needs_nothing_more() -> None:
    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            scan = nn.scan(
                lambda one, x, _: (one(x), None), variable_axes={"params": 1}, split_rngs={"params": True}, length=S
            )
            return scan(Turned(name="fc"), x, None)[0]

    stateregistry_flax.register_layer(Turned, declared_linear)
    reg = linen(Stack())
    assert [layer.path for layer in reg.layers] == [f"fc/{n}" for n in range(S)]
    assert reg.layers[0].pieces[0].axes == "out (0|1|2|3:) in"


def test_a_registered_type_of_nnx_writes_its_axes_out() -> None:
    piece = Piece("kernel", "w", "*spatial in/groups out")
    stateregistry_flax.register_layer(TurnedNnx, lambda _: sr.Layer("conv", "", (piece,)))
    with pytest.raises(errors.AxesError, match="write every axis out"):
        _ = sr.of(nnx.Dict({"fc": TurnedNnx()})).layers


def test_the_inner_modules_of_a_registered_type_are_no_layers_besides() -> None:
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return nn.Dense(S, name="proj")(x)

    pieces = (Piece("kernel", "proj/kernel", "in out"), Piece("bias", "proj/bias", "out"))
    stateregistry_flax.register_layer(Outer, lambda _: sr.Layer("linear", "", pieces))
    assert [layer.path for layer in linen(Net(Outer)).layers] == ["fc"]


def test_one_module_may_be_several_layers() -> None:
    class Two(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            for name in ("one", "two"):
                x = x @ self.param(name, nn.initializers.lecun_normal(), (S, S))
            return x

    stateregistry_flax.register_layer(
        Two, lambda _: [sr.Layer("linear", name, (Piece("kernel", name, "in out"),)) for name in ("one", "two")]
    )
    layers = linen(Net(Two)).layers
    assert [(layer.path, layer.base, layer.roles) for layer in layers] == [
        ("fc/one", "fc", {"kernel": "fc/one"}), ("fc/two", "fc", {"kernel": "fc/two"})
    ]  # fmt: skip


def test_bare_parameters_and_the_last_word() -> None:
    stateregistry_flax.register_layer(Turned, declared_linear)
    stateregistry_flax.register_layer(name_of(Turned), stateregistry_flax.bare)
    assert linen().layers == ()
    stateregistry_flax.register_layer(nn.Dense, stateregistry_flax.bare)
    assert linen(nn.Dense(S)).layers == ()


def test_a_module_that_is_not_called_is_what_it_is_declared_to_be() -> None:
    class Silent(nnx.Module):
        def __init__(self) -> None:
            self.w, self.b = nnx.Param(jnp.ones((S, S))), nnx.Param(jnp.ones(S))

    class Same(Silent):
        pass

    class Called(Silent):
        def __call__(self, x: Any) -> Any:
            return x

    stateregistry_flax.register_layer(Silent, declared_linear)
    models = [nnx.Dict({"fc": each()}) for each in (Silent, Same, Called)]
    assert [len(sr.of(model).layers) for model in models] == [1, 1, 0]


def test_a_subclass_counts_until_it_computes_otherwise() -> None:
    class Same(Turned):
        pass

    class Other(Turned):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return x @ self.param("w", nn.initializers.lecun_normal(), (S, S))

    stateregistry_flax.register_layer(Turned, declared_linear)
    assert [layer.type for layer in linen(Net(Same)).layers] == ["Same"]
    assert linen(Net(Other)).layers == ()


WRONG = {
    "no layer kind": (sr.Layer("linera", "", PIECES), errors.AxesError, "no layer kind 'linera'"),
    "no role": (sr.Layer("linear", "", (Piece("weight", "w", "out in"),)), errors.AxesError, "no role 'weight'"),
    "other axes": (sr.Layer("linear", "", (Piece("kernel", "w", "out into"),)), errors.AxesError, "has the axes"),
    "no axes": (sr.Layer("linear", "", (Piece("kernel", "w", "out ((in"),)), errors.AxesError, "axis pattern"),
    "another rank": (sr.Layer("linear", "", (Piece("bias", "w", "out"),)), errors.AxesError, "does not fit"),
    "no layer": ("kernel", errors.AdapterError, "expected Layers"),
    "two of one name": ([sr.Layer("linear", "", PIECES)] * 2, errors.AdapterError, "different paths"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_a_wrong_declaration_is_an_error_that_names_path_and_type(what: str, framework: str) -> None:
    made, error, text = WRONG[what]
    native = Turned if framework == "linen" else TurnedNnx
    stateregistry_flax.register_layer(native, lambda _: made)
    with pytest.raises(error, match=re.escape(text)) as caught:
        _ = linen().layers if framework == "linen" else sr.of(nnx.Dict({"fc": TurnedNnx()})).layers
    assert native.__qualname__ in str(caught.value)


def test_a_declaration_that_raises_is_told() -> None:
    stateregistry_flax.register_layer(Turned, lambda module: module.no_such_thing)
    with pytest.raises(errors.AdapterError, match=r"fails on 'fc': AttributeError"):
        _ = linen().layers


@pytest.mark.parametrize("target", ["Turned", "a..b", "", 3, int, torch.nn.Linear])
def test_what_is_no_type_of_module_is_refused(target: Any) -> None:
    with pytest.raises(errors.AdapterError):
        stateregistry_flax.register_layer(target, declared_linear)


def test_what_is_no_function_or_no_method_is_refused() -> None:
    with pytest.raises(errors.AdapterError, match="not a function"):
        stateregistry_flax.register_layer(Turned, "linear")
    with pytest.raises(errors.AdapterError, match="no method forward"):
        stateregistry_flax.register_layer(Turned, declared_linear, methods=("forward",))
    stateregistry_flax.register_layer(name_of(Turned), declared_linear, methods=("forward",))
    with pytest.raises(errors.AdapterError, match="no method forward"):
        _ = linen().layers


def test_registering_by_name_imports_no_framework() -> None:
    code = (
        "import sys, stateregistry_flax; stateregistry_flax.register_layer('a.B', stateregistry_flax.bare);"
        "print(sorted({'jax', 'jaxlib', 'flax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -------------------------------------------------------------------- out of the box


def made_in(module: str, name: str, **body: Any) -> Any:
    """A class as a package defines it, without the package."""
    return type(name, (nn.Module,), {"__module__": module, "__qualname__": name, **body})


def conv1d() -> Any:
    @nn.compact
    def call(self: Any, x: Any) -> Any:
        kernel = self.param("kernel", nn.initializers.normal(), (S, S))
        return x @ kernel.transpose() + self.param("bias", nn.initializers.zeros, (S,))

    return made_in("transformers.models.gpt2.modeling_flax_gpt2", "FlaxConv1D", __call__=call)


def test_the_conv1d_of_transformers_stores_its_kernel_as_torch_does() -> None:
    source = linen(Net(conv1d()))
    (layer,) = source.layers
    assert [(piece.role, piece.axes) for piece in layer.pieces] == [("kernel", "out in"), ("bias", "out")]
    done = sr.convert(source, Torch())
    assert done.target.fc.weight.detach().numpy().tobytes() == source.read("fc/kernel").tobytes()


def test_the_rms_norms_of_transformers() -> None:
    class Config:
        rms_norm_eps = 1e-3

        def __hash__(self) -> int:
            return 0

    def call(self: Any, x: Any) -> Any:
        return self.weight * x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-3)

    def setup(self: Any) -> None:
        self.weight = self.param("weight", nn.initializers.ones, (S,))

    body = {"setup": setup, "__call__": call, "config": Config(), "__annotations__": {"config": Any}}
    llama = made_in("transformers.models.llama.modeling_flax_llama", "FlaxLlamaRMSNorm", **body)
    source = linen(Net(llama))
    (layer,) = source.layers
    assert (layer.kind, layer.config) == ("rms_norm", {"eps": 1e-3, "normalized_axes": 1})
    target = nnx.Dict({"fc": nnx.RMSNorm(S, epsilon=1e-3, rngs=nnx.Rngs(0))})
    sr.convert(source, target)
    assert_close(np.asarray(target["fc"](data(2, S))), np.asarray(Net(llama).apply(source.unwrap(), data(2, S))))


def test_the_weight_normed_convolution_of_wav2vec2_calls_a_module_with_variables_of_its_own() -> None:
    """The inner convolution is applied to another tree: what it sees there is nothing of this model."""

    def setup(self: Any) -> None:
        self.conv = nn.Conv(S, (S,), padding="VALID", feature_group_count=2)
        self.weight_v = self.param("weight_v", nn.initializers.normal(), (S, S // 2, S))
        self.weight_g = self.param("weight_g", nn.initializers.ones, (1, 1, S))
        self.bias = self.param("bias", nn.initializers.zeros, (S,))

    def call(self: Any, x: Any) -> Any:
        kernel = self.weight_g * self.weight_v / jnp.linalg.norm(self.weight_v, axis=(0, 1))[None, None]
        return self.conv.apply(
            {"params": {"kernel": kernel.T, "bias": self.bias}}, jnp.pad(x, ((0, 0), (2, 2), (0, 0)))
        )

    normed = made_in(
        "transformers.models.wav2vec2.modeling_flax_wav2vec2", "FlaxConvWithWeightNorm", setup=setup, __call__=call
    )
    module, x = Net(normed), data(2, 6, S)
    source = sr.of(module.init(jax.random.key(0), x), module=module, args=(x,))
    source = source.replace(random(source, 0))
    (layer,) = source.layers
    assert {role: layer.roles[role] for role in sorted(layer.roles)} == {
        "bias": "fc/bias", "kernel_direction": "fc/weight_v", "kernel_magnitude": "fc/weight_g"
    }  # fmt: skip

    class Twin(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            conv = torch.nn.Conv1d(S, S, S, groups=2, padding=2)
            self.fc = torch.nn.utils.parametrizations.weight_norm(conv, dim=2)

    twin = sr.convert(source, Twin()).target
    with torch.no_grad():
        expected = twin.fc(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).numpy()
    assert_close(np.moveaxis(np.asarray(module.apply(source.unwrap(), x)), -1, 1), expected)
