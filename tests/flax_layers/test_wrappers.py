"""WeightNorm and SpectralNorm: the kernel under its other role, and what the wrapper holds, as one layer."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import numpy as np
import pytest
from cases import S, assert_close, data, opened, random
from flax import nnx

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import Kind
from stateregistry_conformance.formulas import Named, wrappers


class Normed(nn.Module):
    """A layer called `inner` in a wrapper, made in one go."""

    wrapper: Any
    inner: Any
    options: Any = ()
    call: Any = ()

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return self.wrapper(self.inner(name="inner"), **dict(self.options))(x, **dict(self.call))


def pieces(layer: sr.Layer) -> dict[str, tuple[str, str, Kind]]:
    return {piece.role: (layer.key(piece), piece.axes, piece.kind) for piece in layer.pieces}


def test_weight_norm_is_a_direction_and_a_magnitude() -> None:
    module = Normed(nn.WeightNorm, lambda name: nn.Dense(S, name=name))
    (layer,) = opened(module, data(2, S)).layers
    assert (layer.kind, layer.path, layer.base) == ("linear", "inner", "")
    assert pieces(layer) == {
        "kernel_direction": ("inner/kernel", "in out", Kind.PARAMETER),
        "kernel_magnitude": ("WeightNorm_0/inner~1kernel~1scale", "out", Kind.PARAMETER),
        "bias": ("inner/bias", "out", Kind.PARAMETER),
    }
    assert layer.config == {"weight_norm_dim": "out", "weight_norm_eps": 1e-12}


CONVS: dict[str, tuple[dict[str, Any], str]] = {
    "the last axis": ({}, "out"),
    "no axis": ({"feature_axes": None}, ""),
    "two axes": ({"feature_axes": (-1, 0)}, "spatial.0 out"),
    "one spatial axis": ({"feature_axes": 1}, "spatial.1"),
}


@pytest.mark.parametrize("options", CONVS)
@pytest.mark.parametrize("transposed", [False, True])
def test_the_magnitude_has_the_axes_that_are_kept_and_the_formula_agrees(options: str, transposed: bool) -> None:
    given, kept = CONVS[options]
    make = nn.ConvTranspose if transposed else nn.Conv
    module = Normed(nn.WeightNorm, lambda name: make(S, (S, S), padding="VALID", name=name), tuple(given.items()))
    x = data(2, 7, 7, S)
    reg = opened(module, x)
    (layer,) = reg.layers
    found = pieces(layer)
    spelled = {"out": "out/groups", "spatial.0": "-spatial.0", "spatial.1": "-spatial.1"} if transposed else {}
    assert found["kernel_magnitude"][1] == " ".join(spelled.get(name, name) for name in kept.split())
    native = ("spatial.0", "spatial.1", "in", "out")
    direction = Named(reg.read("inner/kernel"), native)
    magnitude = Named(reg.read("WeightNorm_0/inner~1kernel~1scale"), tuple(kept.split()))
    kernel = wrappers.weight_norm(direction, magnitude, 1e-12).to(*native).astype(np.float32)
    plain = make(S, (S, S), padding="VALID").apply({"params": {"kernel": kernel, "bias": reg.read("inner/bias")}}, x)
    assert_close(np.asarray(module.apply(reg.unwrap(), x)), np.asarray(plain))


def test_every_layer_inside_of_a_wrapped_module_is_wrapped_by_itself() -> None:
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return nn.LayerNorm(name="norm")(nn.Dense(S, name="b")(nn.Dense(S, name="a")(x)))

    module = Normed(nn.WeightNorm, lambda name: Inner(name=name), (("variable_filter", ("b/kernel",)),))
    layers = {layer.path: layer for layer in opened(module, data(2, S)).layers}
    assert set(pieces(layers["inner/a"])) == {"kernel", "bias"}
    assert pieces(layers["inner/b"])["kernel_magnitude"][0] == "WeightNorm_0/inner~1b~1kernel~1scale"
    assert set(pieces(layers["inner/norm"])) == {"scale", "bias"}


def test_in_setup_the_wrapped_module_hangs_under_its_wrapper() -> None:
    class Net(nn.Module):
        def setup(self) -> None:
            self.normed = nn.WeightNorm(nn.Dense(S))

        def __call__(self, x: Any) -> Any:
            return self.normed(x)

    (layer,) = opened(Net(), data(2, S)).layers
    assert (layer.path, layer.base) == ("normed/layer_instance", "normed")
    assert pieces(layer)["kernel_magnitude"][0] == "normed/layer_instance~1kernel~1scale"
    assert pieces(layer)["kernel_direction"][0] == "normed/layer_instance/kernel"


UNKNOWN: dict[str, Any] = {
    "without magnitudes": lambda: Normed(nn.WeightNorm, lambda name: nn.Dense(S, name=name), (("use_scale", False),)),
    "of a sum of biases": lambda: Normed(
        nn.WeightNorm, lambda name: nn.RNN(nn.LSTMCell(S), name=name), (("variable_filter", None),)
    ),
    "in a wrapper in a wrapper": lambda: Normed(nn.WeightNorm, lambda name: Twice(name=name)),
}


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.WeightNorm(nn.Dense(S))(x)


@pytest.mark.parametrize("what", UNKNOWN)
def test_a_norm_that_the_vocabulary_has_no_word_for_makes_no_layer(what: str) -> None:
    x = data(2, 3, S)
    reg = opened(UNKNOWN[what](), x)
    assert "lstm" not in {layer.kind for layer in reg.layers}
    assert not any(piece.role == "kernel" for layer in reg.layers for piece in layer.pieces if "kernel" in piece.name)


def test_an_unwrapped_target_refuses_what_the_wrapper_holds() -> None:
    wrapped = opened(Normed(nn.WeightNorm, lambda name: nn.Dense(S, name=name)), data(2, S))
    plain = nnx.Dict({"inner": nnx.Linear(S, S, rngs=nnx.Rngs(0))})
    plan = sr.plan(wrapped, plain, allow=("missing",))
    assert {problem.problem for problem in plan.problems} == {"impossible"}
    spectral = opened(
        Normed(nn.SpectralNorm, lambda name: nn.Dense(S, name=name), call=(("update_stats", False),)), data(2, S)
    )
    plan = sr.plan(spectral, plain)
    assert {key for problem in plan.problems if problem.problem == "impossible" for key in problem.keys} == {
        "inner/kernel", "SpectralNorm_0/inner~1kernel~1u", "SpectralNorm_0/inner~1kernel~1sigma"
    }  # fmt: skip


def test_spectral_norm_keeps_the_last_axis() -> None:
    make = {"name": "inner"}
    module = Normed(
        nn.SpectralNorm, lambda name: nn.Conv(S, (S, S), padding="VALID", **make), call=(("update_stats", False),)
    )
    x = data(2, 7, 7, S)
    reg = opened(module, x)
    (layer,) = reg.layers
    assert pieces(layer) == {
        "kernel_original": ("inner/kernel", "*spatial in/groups out", Kind.PARAMETER),
        "kernel_u": ("SpectralNorm_0/inner~1kernel~1u", "1 out", Kind.BUFFER),
        "kernel_sigma": ("SpectralNorm_0/inner~1kernel~1sigma", "", Kind.BUFFER),
        "bias": ("inner/bias", "out", Kind.PARAMETER),
    }
    assert layer.config["power_iterations"] == 1
    native = ("spatial.0", "spatial.1", "in", "out")
    original, u = (
        Named(reg.read("inner/kernel"), native),
        Named(reg.read("SpectralNorm_0/inner~1kernel~1u")[0], ("out",)),
    )
    kernel = wrappers.spectral_norm(original, u, iterations=1, eps=1e-12).to(*native).astype(np.float32)
    plain = nn.Conv(S, (S, S), padding="VALID").apply({"params": {"kernel": kernel, "bias": reg.read("inner/bias")}}, x)
    assert_close(np.asarray(module.apply(reg.unwrap(), x)), np.asarray(plain))


# -------------------------------------------------------------------- NNX


def test_nnx_weight_norm_holds_its_magnitudes_as_buffers_and_says_why() -> None:
    model = nnx.Dict({"outer": nnx.WeightNorm(nnx.Linear(S, S, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1))})
    reg = sr.of(model)
    reg.replace(random(reg, 0))
    (layer,) = reg.layers
    assert (layer.path, layer.base) == ("outer/layer_instance", "outer")
    assert pieces(layer) == {
        "kernel_direction": ("outer/layer_instance/kernel", "in out", Kind.PARAMETER),
        "kernel_magnitude": ("outer/scales/kernel", "out", Kind.BUFFER),
        "bias": ("outer/layer_instance/bias", "out", Kind.PARAMETER),
    }
    x = data(3, S)
    direction, magnitude = (
        Named(reg.read("outer/layer_instance/kernel"), ("in", "out")),
        reg.read("outer/scales/kernel"),
    )
    kernel = wrappers.weight_norm(direction, Named(magnitude, ("out",)), 1e-12).to("in", "out")
    assert_close(np.asarray(model["outer"](x)), x @ kernel + reg.read("outer/layer_instance/bias"))

    (piece,) = (piece for piece in layer.pieces if piece.role == "kernel_magnitude")
    assert "5577" in piece.kind_reason


def test_magnitudes_that_are_parameters_are_taken_as_such() -> None:
    """Flax has been asked to make them so, and a user can."""
    model = nnx.WeightNorm(nnx.Linear(S, S, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1))
    model.scales = nnx.data({name: nnx.Param(value) for name, value in model.scales.items()})
    (layer,) = sr.of(model).layers
    (piece,) = (piece for piece in layer.pieces if piece.role == "kernel_magnitude")
    assert (piece.kind, piece.tag, piece.kind_reason) == (Kind.PARAMETER, "Param", "")


def test_nnx_spectral_norm_and_linen_compute_the_same() -> None:
    model = nnx.Dict({"outer": nnx.SpectralNorm(nnx.Linear(S, S, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1))})
    reg = sr.of(model)
    reg.replace(random(reg, 3))
    (layer,) = reg.layers
    assert pieces(layer)["kernel_u"] == ("outer/batch_stats/kernel~1u", "1 out", Kind.BUFFER)
    assert pieces(layer)["kernel_sigma"] == ("outer/batch_stats/kernel~1sigma", "", Kind.BUFFER)
    x = data(3, S)
    module = Normed(nn.SpectralNorm, lambda name: nn.Dense(S, name=name), call=(("update_stats", False),))
    source = opened(module, x)
    expected = np.asarray(module.apply(source.unwrap(), x))
    done = sr.convert(source, model, rules={"inner": "outer/layer_instance"})
    assert done.receipt.moves == {"copy": 4}
    assert_close(np.asarray(done.target["outer"](x, update_stats=False)), expected)


def test_names_that_are_paths_are_read_written_and_found() -> None:
    inner = nnx.Sequential(nnx.Linear(S, S, rngs=nnx.Rngs(0)), nnx.Linear(S, S, rngs=nnx.Rngs(0)))
    model = nnx.WeightNorm(inner, rngs=nnx.Rngs(1))
    reg = sr.of(model)
    key = "scales/layers~11~1kernel"
    assert [name for name in reg if name.startswith("scales")] == ["scales/layers~10~1kernel", key]
    value = data(S, seed=4)
    assert reg.replace({key: value}).read(key).tobytes() == value.tobytes()
    assert np.asarray(model.scales["layers", 1, "kernel"]).tobytes() == value.tobytes()
    assert key in reg
    with pytest.raises(errors.ShapeError):
        reg.replace({key: data(S + 1)})
