"""Config that differs is found, in one meaning, with what to set; what is spelled differently and means the same is not."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import stateregistry as sr
from stateregistry.conversion.planning import findings
from stateregistry.conversion.planning.plan import Finding
from stateregistry.errors import PlanError
from stateregistry.layers.vocabulary import Layer, Piece
from stateregistry.report import planning
from stateregistry.report.blocks import Notes

S = 4
RNGS = nnx.Rngs(0)


class One(nn.Module):
    """A module under the name `m`."""

    make: Any

    @nn.compact
    def __call__(self, *inputs: Any) -> Any:
        return self.make()(*inputs)


def of_linen(make: Any, *inputs: Any) -> sr.StateRegistry:
    module = One(lambda: make(name="m"))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))
    reg = sr.of(shapes, module=module, args=inputs)
    return reg.replace({key: np.ones(entry.shape, entry.dtype) for key, entry in reg.items()})


def of_nnx(model: Any) -> Any:
    return nnx.Dict({"m": model})


def of_torch(module: torch.nn.Module) -> torch.nn.Module:
    return torch.nn.ModuleDict({"m": module})


def found(source: Any, target: Any, **options: Any) -> dict[str, tuple[Any, Any, str]]:
    """The findings of a plan by name."""
    plan = sr.plan(source, target, allow=("choice", "missing", "unexpected"), **options)
    assert {finding.path for finding in plan.findings} <= {"m"}
    return {one.name: (one.source, one.target, one.matters) for one in plan.findings}


BARE_NORMS = {
    "layer_norm(eps={}, normalized_axes=1)": (
        lambda: torch.nn.LayerNorm(S, elementwise_affine=False),
        lambda name: nn.LayerNorm(use_scale=False, use_bias=False, name=name),
        lambda: nnx.LayerNorm(S, use_scale=False, use_bias=False, rngs=RNGS),
    ),
    "group_norm(eps={}, groups=2)": (
        lambda: torch.nn.GroupNorm(2, S, affine=False),
        lambda name: nn.GroupNorm(2, use_scale=False, use_bias=False, name=name),
        lambda: nnx.GroupNorm(S, 2, use_scale=False, use_bias=False, rngs=RNGS),
    ),
    "instance_norm(eps={})": (
        lambda: torch.nn.InstanceNorm1d(S),
        lambda name: nn.InstanceNorm(use_scale=False, use_bias=False, name=name),
        lambda: nnx.InstanceNorm(S, use_scale=False, use_bias=False, rngs=RNGS),
    ),
}


@pytest.mark.parametrize("word", BARE_NORMS)
def test_a_norm_without_scale_and_bias_has_an_eps_all_the_same(word: str) -> None:
    """It holds nothing, so it is no layer of the registry; what it computes differs."""
    native, linen, live = BARE_NORMS[word]
    one, two = word.format(1e-05), word.format(1e-06)
    sides = of_linen(linen, np.ones((2, 3, S), np.float32)), of_nnx(live())
    for flax in sides:
        assert found(of_torch(native()), flax) == {"function": (one, two, "evaluation")}
        assert found(flax, of_torch(native())) == {"function": (two, one, "evaluation")}
        assert hints(of_torch(native()), flax) == {"function": f"make it {one}"}
    assert found(*sides) == {}


def hints(source: Any, target: Any) -> dict[str, str]:
    plan = sr.plan(source, target, allow=("choice", "missing", "unexpected"))
    return {one.name: one.hint for one in plan.findings}


IMAGE = np.zeros((1, 9, 9, S), np.float32)


def conv(**options: Any) -> Any:
    return of_torch(torch.nn.Conv2d(S, S, 3, **options))


def flax_conv(framework: str, **options: Any) -> Any:
    if framework == "linen":
        return of_linen(functools.partial(nn.Conv, S, (3, 3), **options), IMAGE)
    return of_nnx(nnx.Conv(S, S, (3, 3), **options, rngs=RNGS))


BOTH = pytest.mark.parametrize("framework", ["linen", "nnx"])

#: torch, Flax: two ways to say the same.
ALIKE = {
    "SAME with a stride of one": ({"padding": 1}, {}),
    "same of torch": ({"padding": "same"}, {"padding": "SAME"}),
    "VALID": ({}, {"padding": "VALID"}),
    "an integer": ({"padding": 2}, {"padding": 2}),
    "pairs": ({"padding": (2, 1)}, {"padding": ((2, 2), (1, 1))}),
    "stride and padding": ({"padding": 1, "stride": 2}, {"padding": (1, 1), "strides": 2}),
    "dilation": ({"padding": 2, "dilation": 2}, {"kernel_dilation": 2}),
    "circular": ({"padding": 1, "padding_mode": "circular"}, {"padding": "CIRCULAR"}),
    "reflect": ({"padding": 1, "padding_mode": "reflect"}, {"padding": "REFLECT"}),
}


@BOTH
@pytest.mark.parametrize("case", ALIKE)
def test_two_spellings_of_one_convolution_are_no_finding(case: str, framework: str) -> None:
    of, flax = ALIKE[case]
    assert found(conv(**of), flax_conv(framework, **flax)) == {}
    assert found(flax_conv(framework, **flax), conv(**of)) == {}


@BOTH
def test_same_with_a_stride_is_not_the_symmetric_padding(framework: str) -> None:
    source, target = conv(stride=2, padding=1), flax_conv(framework, strides=(2, 2), padding="SAME")
    assert found(source, target) == {"padding": (((1, 1), (1, 1)), "SAME", "evaluation")}
    assert hints(source, target) == {"padding": "set Conv(padding=((1, 1), (1, 1)))"}
    assert found(target, source) == {"padding": ("SAME", ((1, 1), (1, 1)), "evaluation")}
    assert "torch has no SAME padding with a stride" in hints(target, source)["padding"]


def test_what_is_to_be_set_makes_the_outputs_equal() -> None:
    """The hint for SAME with a stride is tried: before it the outputs differ, after it they do not."""
    rng = np.random.default_rng(0)
    source = torch.nn.ModuleDict({"m": torch.nn.Conv2d(S, S, 3, stride=2, padding=1)})
    image = rng.normal(size=(2, 9, 8, S)).astype(np.float32)

    def run(padding: Any) -> np.ndarray:
        model = of_nnx(nnx.Conv(S, S, (3, 3), strides=2, padding=padding, rngs=RNGS))
        return np.asarray(sr.convert(source, model).target["m"](image))

    with torch.no_grad():
        expected = np.moveaxis(source["m"](torch.from_numpy(np.moveaxis(image, -1, 1).copy())).numpy(), 1, -1)
    assert run("SAME").shape == expected.shape
    assert np.abs(run("SAME") - expected).max() > 0.1
    assert np.abs(run(((1, 1), (1, 1))) - expected).max() < 1e-5


@BOTH
def test_every_value_of_a_convolution_is_compared(framework: str) -> None:
    source = conv(stride=(2, 1), padding=(1, 2), dilation=(1, 2), padding_mode="replicate", groups=2)
    target = flax_conv(framework, padding=((1, 2), (2, 2)), feature_group_count=2)
    assert found(source, target) == {
        "stride": ((2, 1), (1, 1), "evaluation"),
        "padding": (((1, 1), (2, 2)), ((1, 2), (2, 2)), "evaluation"),
        "dilation": ((1, 2), (1, 1), "evaluation"),
        "padding_mode": ("replicate", "zeros", "evaluation"),
    }
    assert hints(source, target)["stride"] == "set Conv(strides=(2, 1))"
    assert "mode='edge'" in hints(source, target)["padding_mode"]
    assert (
        "torch pads both sides alike: pad the input with torch.nn.functional.pad(x, (2, 2, 1, 2))"
        in (hints(target, source)["padding"])
    )


def transposed(framework: str, **options: Any) -> Any:
    if framework == "linen":
        return of_linen(functools.partial(nn.ConvTranspose, S, (3, 3), **options), IMAGE)
    return of_nnx(nnx.ConvTranspose(S, S, (3, 3), **options, rngs=RNGS))


@BOTH
@pytest.mark.parametrize(
    ("of", "flax"),
    [
        ({"padding": 1}, {}),
        ({"stride": 2, "padding": 1, "output_padding": 1}, {"strides": (2, 2), "padding": ((1, 2), (1, 2))}),
        ({"stride": 2}, {"strides": (2, 2), "padding": "VALID"}),
        ({"stride": 2, "padding": 0, "output_padding": (0, 0)}, {"strides": (2, 2), "padding": 2}),
    ],
)
def test_two_spellings_of_one_transposed_convolution_are_no_finding(framework: str, of: Any, flax: Any) -> None:
    source = of_torch(torch.nn.ConvTranspose2d(S, S, 3, **of))
    assert found(source, transposed(framework, **flax)) == {}
    assert found(transposed(framework, **flax, transpose_kernel=True), source) == {}


@BOTH
def test_the_padding_of_a_transposed_convolution_is_said_in_the_words_of_each_framework(framework: str) -> None:
    """Torch takes away of the output, and adds to it; Flax pads the dilated input. The hints are tried."""
    source = of_torch(torch.nn.ConvTranspose2d(S, S, 3, stride=2, padding=1, output_padding=1))
    target = transposed(framework, strides=(2, 2))  # SAME: one place less is taken at the low side
    assert found(source, target) == {"padding": (((1, 0), (1, 0)), ((0, 1), (0, 1)), "evaluation")}
    assert hints(source, target) == {"padding": "set ConvTranspose(padding=((1, 2), (1, 2)))"}
    assert found(source, transposed(framework, strides=(2, 2), padding=((1, 2), (1, 2)))) == {}
    other = transposed(framework, strides=(2, 2), padding=((1, 2), (1, 2)))
    bare = of_torch(torch.nn.ConvTranspose2d(S, S, 3, stride=2))
    assert hints(other, bare) == {"padding": "set ConvTranspose2d(padding=(1, 1), output_padding=(1, 1))"}


@BOTH
def test_momentum_is_compared_as_torch_means_it(framework: str) -> None:
    def norm(**options: Any) -> Any:
        if framework == "linen":
            return of_linen(functools.partial(nn.BatchNorm, use_running_average=True, **options), IMAGE)
        return of_nnx(nnx.BatchNorm(S, use_running_average=True, **options, rngs=RNGS))

    unbiased = {"unbiased_var": (True, False, "training")}
    assert found(of_torch(torch.nn.BatchNorm2d(S, momentum=0.01)), norm(momentum=0.99)) == unbiased
    source = of_torch(torch.nn.BatchNorm2d(S, eps=1e-3))
    assert found(source, norm(momentum=0.99)) == {
        **unbiased, "eps": (1e-3, 1e-5, "evaluation"), "momentum": (0.1, 0.01, "training"),
    }  # fmt: skip
    assert hints(source, norm())["momentum"] == "set BatchNorm(momentum=0.9)"
    assert hints(source, norm())["eps"] == "set BatchNorm(epsilon=0.001)"
    assert hints(norm(), source)["momentum"] == "set BatchNorm2d(momentum=0.01)"
    assert "n / (n - 1)" in hints(source, norm())["unbiased_var"]
    cumulative = of_torch(torch.nn.BatchNorm2d(S, momentum=None))
    assert found(cumulative, norm())["momentum"] == (None, 0.01, "training")
    assert "no mean of all batches" in hints(cumulative, norm())["momentum"]


def test_nothing_is_found_of_statistics_that_nobody_keeps() -> None:
    left, right = (of_torch(torch.nn.BatchNorm2d(S, momentum=m, track_running_stats=False)) for m in (0.1, 0.2))
    assert found(left, right) == {}
    assert found(of_torch(torch.nn.BatchNorm2d(S)), of_torch(torch.nn.BatchNorm2d(S, momentum=0.2))) == {
        "momentum": (0.1, 0.2, "training")
    }


def test_an_eps_that_float32_has_rounded_is_the_same() -> None:
    source = of_torch(torch.nn.LayerNorm(S, eps=float(np.float32(1e-6))))
    assert found(source, of_nnx(nnx.LayerNorm(S, rngs=RNGS))) == {}
    assert found(of_torch(torch.nn.LayerNorm(S)), of_nnx(nnx.LayerNorm(S, rngs=RNGS))) == {
        "eps": (1e-5, 1e-6, "evaluation")
    }


def test_groups_and_normalised_axes() -> None:
    source = of_torch(torch.nn.GroupNorm(2, S, eps=1e-6))
    assert found(source, of_nnx(nnx.GroupNorm(S, num_groups=4, rngs=RNGS))) == {"groups": (2, 4, "evaluation")}
    assert hints(source, of_nnx(nnx.GroupNorm(S, num_groups=4, rngs=RNGS))) == {"groups": "set GroupNorm(num_groups=2)"}
    plain = of_torch(torch.nn.LayerNorm(S, eps=1e-6))
    wide = of_nnx(nnx.LayerNorm(S, reduction_axes=(-2, -1), rngs=RNGS))
    assert found(plain, wide) == {"normalized_axes": (1, 2, "evaluation")}
    assert hints(plain, wide) == {"normalized_axes": "set LayerNorm(reduction_axes=(-1,))"}


def test_statistics_of_groups_that_are_repeated_along_other_axes() -> None:
    x = jnp.zeros((2, 4, S))
    make = functools.partial(nn.GroupNorm, 2, reduction_axes=(1, 2))
    source = of_linen(make, x)
    target = of_nnx(nnx.GroupNorm(S, num_groups=2, reduction_axes=(1, 2), rngs=RNGS))
    assert found(source, target) == {"repeated_along": (-1, 1, "evaluation")}
    assert found(source, of_linen(make, x)) == {}


def test_an_embedding_that_reduces_shortens_or_leaves_a_row_out() -> None:
    target = of_nnx(nnx.Embed(S, S, rngs=RNGS))
    assert found(of_torch(torch.nn.Embedding(S, S)), target) == {}
    assert found(of_torch(torch.nn.Embedding(S, S, padding_idx=1)), target) == {"padding_idx": (1, None, "training")}
    bag = of_torch(torch.nn.EmbeddingBag(S, S, mode="sum", padding_idx=1, max_norm=2.0, norm_type=1.0))
    assert found(bag, target) == {
        "mode": ("sum", "none", "evaluation"), "max_norm": (2.0, None, "evaluation"),
        "padding_idx": (1, None, "evaluation"),
    }  # fmt: skip
    other = of_torch(torch.nn.EmbeddingBag(S, S, mode="sum", padding_idx=1, max_norm=2.0))
    assert found(bag, other) == {"norm_type": (1.0, 2.0, "evaluation")}


def test_activations_and_directions_of_recurrent_layers() -> None:
    cell = nnx.SimpleCell(S, S, activation_fn=jax.nn.relu, residual=True, rngs=RNGS)
    assert found(of_torch(torch.nn.RNN(S, S)), of_nnx(cell)) == {
        "activation": ("tanh", "relu", "evaluation"), "residual": (False, True, "evaluation"),
    }  # fmt: skip
    assert hints(of_nnx(cell), of_torch(torch.nn.RNN(S, S)))["activation"] == "set RNN(nonlinearity='relu')"
    odd = nnx.OptimizedLSTMCell(S, S, gate_fn=jax.nn.relu, activation_fn=jax.nn.sigmoid, rngs=RNGS)
    assert found(of_torch(torch.nn.LSTM(S, S)), of_nnx(odd)) == {
        "activation": ("tanh", "sigmoid", "evaluation"), "gate_activation": ("sigmoid", "relu", "evaluation"),
    }  # fmt: skip


def test_a_direction_is_compared_with_how_the_cell_is_run() -> None:
    def runs(**options: Any) -> Any:
        return nnx.Dict({"m": nnx.RNN(nnx.SimpleCell(S, S, rngs=RNGS), **options, rngs=RNGS)})

    rules = {"m": "m/cell"}
    source = of_torch(torch.nn.RNN(S, S))
    found_ = {one.name: (one.source, one.target) for one in sr.plan(source, runs(reverse=True), rules=rules).findings}
    assert found_ == {"reverse": (False, True), "keep_order": (None, False)}
    kept = sr.plan(source, runs(reverse=True, keep_order=True), rules=rules).findings
    assert [(one.name, one.hint) for one in kept] == [("reverse", "set reverse=False of the RNN that runs the cell")]
    assert sr.plan(source, runs(), rules=rules).findings == ()


def test_attention_and_its_dropout() -> None:
    source = of_torch(torch.nn.MultiheadAttention(S, 2, dropout=0.25, add_zero_attn=True, batch_first=True))
    target = of_nnx(nnx.MultiHeadAttention(2, S, decode=False, rngs=RNGS))
    assert found(source, target) == {
        "add_zero_attn": (True, False, "evaluation"), "dropout": (0.25, 0.0, "training"),
    }  # fmt: skip
    assert hints(source, target)["dropout"] == "set MultiHeadAttention(dropout_rate=0.25)"
    normed = of_nnx(nnx.MultiHeadAttention(2, S, decode=False, normalize_qk=True, rngs=RNGS))
    assert found(of_torch(torch.nn.MultiheadAttention(S, 2)), normed)["normalize_qk"] == (None, True, "evaluation")


def test_dropout_between_the_layers_of_a_stack() -> None:
    stack = of_torch(torch.nn.LSTM(S, S, 2, dropout=0.5))
    other = of_torch(torch.nn.LSTM(S, S, 2))
    (one,) = sr.plan(stack, other).findings
    assert (one.path, one.name, one.source, one.target, one.matters) == ("m/l0", "dropout", 0.5, 0.0, "training")


def test_wrappers_say_their_eps_and_their_iterations() -> None:
    normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(S, S))
    target = of_linen(lambda name: nn.WeightNorm(nn.Dense(S, name="inner"), name=name), np.zeros((2, S), np.float32))
    plan = sr.plan(torch.nn.ModuleDict({"inner": normed}), target, allow=("choice",))
    assert [(one.name, one.source, one.target) for one in plan.findings] == [("weight_norm_eps", 0.0, 1e-12)]


def test_config_beyond_the_spec_is_found_where_one_side_has_it() -> None:
    target = of_nnx(nnx.Conv(S, S, (3, 3), input_dilation=2, padding="VALID", rngs=RNGS))
    assert found(conv(), target) == {"input_dilation": (None, (2, 2), "evaluation")}


# ------------------------------------------------------------------------------------------------ by themselves


def layer(kind: str, inferred: bool = False, **config: Any) -> Layer:
    return Layer(kind, "at", (Piece("kernel", "k", "out in"),), config=config, inferred=inferred)


def test_what_a_side_does_not_say_is_no_finding() -> None:
    assert findings.compare(layer("conv", stride=2), layer("conv"), "torch") == ()
    assert findings.compare(layer("layer_norm", eps=1.0), layer("layer_norm"), "torch") == ()
    (one,) = findings.compare(layer("conv", stride=2, kernel_size=(3, 3)), layer("conv", stride=(2, 1)), "torch")
    assert (one.source, one.target) == ((2, 2), (2, 1))


@pytest.mark.parametrize(
    ("one", "two", "kinds"),
    [
        (lambda: torch.nn.Conv2d(S, S, 3), lambda: torch.nn.ConvTranspose2d(S, S, 3), ("conv", "conv_transpose")),
        (lambda: torch.nn.LayerNorm(S), lambda: torch.nn.GroupNorm(2, S), ("layer_norm", "group_norm")),
        (lambda: torch.nn.Linear(S, S, bias=False), lambda: torch.nn.Embedding(S, S), ("linear", "embedding")),
    ],
)
def test_within_one_framework_another_layer_under_the_same_names_is_found(one: Any, two: Any, kinds: Any) -> None:
    plan = sr.plan(torch.nn.ModuleDict({"m": one()}), torch.nn.ModuleDict({"m": two()}))
    (finding,) = plan.findings
    assert (finding.key, finding.source, finding.target, finding.matters) == ("m/layer", *kinds, "evaluation")
    assert f"make it a {kinds[0]}" in finding.hint
    assert sr.Plan.from_json(plan.to_json()).findings == plan.findings


def test_what_was_only_inferred_is_no_finding() -> None:
    assert findings.compare(layer("conv", True, stride=2), layer("conv", stride=1), "torch") == ()
    assert findings.compare(layer("conv", stride=2), layer("conv", True, stride=1), "torch") == ()


def test_a_framework_without_words_is_told_in_those_of_the_spec() -> None:
    (one,) = findings.compare(layer("layer_norm", eps=1.0), layer("layer_norm", eps=2.0), "nobody")
    assert one.hint == "make eps 1.0 in the target"


@pytest.mark.parametrize("value", [((1, 2, 3),), "CAUSAL", (1, 2, 3), ("a", "b"), (1.5, 2), None])
def test_padding_in_a_form_that_the_spec_does_not_have_is_compared_as_it_is(value: Any) -> None:
    for kind in ("conv", "conv_transpose"):
        one = layer(kind, padding=value, kernel_size=(3, 3))
        assert findings.compare(one, one, "torch") == ()
        assert len(findings.compare(one, layer(kind, padding=1, kernel_size=(3, 3)), "flax-nnx")) == 1


def test_true_is_not_one() -> None:
    assert len(findings.compare(layer("attention", add_zero_attn=1), layer("attention", add_zero_attn=True), "")) == 1


# ------------------------------------------------------------------------------------------------ where they are told


def plan_with_findings() -> sr.Plan:
    return sr.plan(conv(stride=2, padding=1), flax_conv("nnx", strides=2, padding="SAME"))


def test_findings_are_in_the_text_of_a_plan_with_both_values_and_what_to_set() -> None:
    text = str(plan_with_findings())
    assert "m: padding is ((1, 1), (1, 1)) in the source and 'SAME' in the target; set Conv(padding=" in text
    norm = sr.plan(of_torch(torch.nn.BatchNorm2d(S)), of_nnx(nnx.BatchNorm(S, rngs=RNGS)), allow=("choice",))
    assert "unbiased_var is True in the source and False in the target (in training only); nothing to set" in str(norm)


def test_findings_read_back_from_json_as_they_were() -> None:
    plan = plan_with_findings()
    assert plan.findings != ()
    again = sr.Plan.from_json(plan.to_json())
    assert again == plan
    assert again.findings == plan.findings
    assert again.findings[0].key == "m/padding"


def test_a_finding_of_a_damaged_plan_is_refused() -> None:
    text = plan_with_findings().to_json().replace('"matters": "evaluation"', '"matters": "never"')
    with pytest.raises(PlanError, match="a finding that matters in 'never'"):
        sr.Plan.from_json(text)


def test_findings_do_not_keep_a_plan_from_being_executed() -> None:
    plan = plan_with_findings()
    assert plan.ok
    assert plan.invert().findings[0].source == "SAME"


def test_a_finding_of_a_model_that_is_one_layer_has_a_name() -> None:
    one = Finding("", "eps", 1.0, 2.0)
    assert str(one).startswith("(the model): eps is 1.0")
    assert one.key == "eps"


# ------------------------------------------------------------------------------------------------ functions


class TorchNet(torch.nn.Module):
    def __init__(self, act: Any) -> None:
        super().__init__()
        self.fc, self.act = torch.nn.Linear(S, S), act


class NnxNet(nnx.Module):
    def __init__(self, act: Any) -> None:
        self.fc, self.act = nnx.Linear(S, S, rngs=RNGS), act


class LinenNet(nn.Module):
    act: Any

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return self.act(nn.Dense(S, name="fc")(x))


def linen_net(act: Any) -> sr.StateRegistry:
    x = np.zeros((2, S), np.float32)
    module = LinenNet(act)
    return sr.of(module.init(jax.random.key(0), x), module=module, args=(x,))


EXACT = functools.partial(jax.nn.gelu, approximate=False)


@pytest.mark.parametrize("make", [NnxNet, linen_net])
def test_the_gelu_of_torch_is_not_the_one_of_flax_unless_both_say_so(make: Any) -> None:
    (one,) = sr.plan(TorchNet(torch.nn.GELU()), make(jax.nn.gelu)).findings
    assert (one.path, one.name, one.source, one.target) == ("act", "activation", "gelu", "gelu_tanh")
    assert one.hint == "use functools.partial(jax.nn.gelu, approximate=False)"
    assert sr.plan(TorchNet(torch.nn.GELU()), make(EXACT)).findings == ()
    assert sr.plan(TorchNet(torch.nn.GELU(approximate="tanh")), make(nn.gelu)).findings == ()
    (back,) = sr.plan(make(nn.gelu), TorchNet(torch.nn.functional.gelu)).findings
    assert (back.source, back.target, back.hint) == ("gelu_tanh", "gelu", "use torch.nn.GELU(approximate='tanh')")


def test_functions_in_sequences_have_the_number_that_they_have_there() -> None:
    torch_net = torch.nn.Sequential(torch.nn.Linear(S, S), torch.nn.ReLU())
    assert dict(sr.of(torch_net).activations) == {"1": "relu"}
    assert dict(sr.of(nnx.Sequential(nnx.Linear(S, S, rngs=RNGS), jax.nn.relu)).activations) == {"layers/1": "relu"}
    x, module = np.zeros((2, S), np.float32), nn.Sequential([nn.Dense(S), nn.silu])
    reg = sr.of(module.init(jax.random.key(0), x), module=module, args=(x,))
    assert dict(reg.activations) == {"layers_1": "silu"}
    plan = sr.plan(torch_net, reg, rules={"0": "layers_0", "1": "layers_1"})
    assert [(one.path, one.source, one.target) for one in plan.findings] == [("layers_1", "relu", "silu")]


def test_what_no_module_shows_is_not_seen() -> None:
    class Inside(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.gelu(x)

    class Own(torch.nn.GELU):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    assert dict(sr.of(torch.nn.Sequential(Inside(), Own())).activations) == {}
    odd = NnxNet(functools.partial(jax.nn.gelu, np.zeros(3)))
    assert dict(sr.of(odd).activations) == {}
    assert dict(sr.of(NnxNet(lambda x: x)).activations) == {}


# ------------------------------------------------------------------------------------------------ on the command line


def test_the_report_of_a_plan_lists_what_matters_in_evaluation_apart_from_training() -> None:
    source = torch.nn.ModuleDict({"m": torch.nn.BatchNorm2d(S, eps=1e-3)})
    plan = sr.plan(source, of_nnx(nnx.BatchNorm(S, rngs=RNGS)), allow=("choice",))
    notes = {block.title: block.lines for block in planning.outline(plan) if isinstance(block, Notes)}
    (line,) = notes["findings: what differs and no state carries"]
    assert line == "m: eps is 0.001 in the source and 1e-05 in the target; set BatchNorm(epsilon=0.001)"
    training = notes["findings that matter in training only"]
    assert [line.split()[1] for line in training] == ["momentum", "unbiased_var"]
    document = planning.document(plan)
    assert document["findings"] == {"evaluation": 1, "training": 2}
    assert document["plan"]["findings"][0]["hint"] == "set BatchNorm(epsilon=0.001)"


@pytest.mark.parametrize(("size", "found"), [(4, ["order of axes"]), (5, [])])
def test_a_stack_whose_axes_nobody_could_tell_is_not_silent(size, found):
    def stack(axis):
        @nnx.vmap(in_axes=(0,), out_axes=nnx.StateAxes({nnx.Param: axis}))
        def blocks(key):
            return nnx.Linear(4, 4, rngs=nnx.Rngs(key))

        model = nnx.Dict()
        model.blocks = blocks(jax.random.split(jax.random.key(0), size))
        return model

    plan = sr.plan(stack(0), stack(0 if size == 5 else 1))
    assert [finding.name for finding in plan.findings] == found
