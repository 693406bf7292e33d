"""Which test holds which correspondence: every row of what corresponds to what, in all six directions, with its class.

A cell is the id of a test, or a reason why there is nothing to test. `docs/layers.md` is made of it, and a test holds that
every id is one that pytest collects. Pure data; imports nothing but the standard library.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

FRAMEWORKS = ("torch", "linen", "nnx")
WAYS = tuple(itertools.permutations(FRAMEWORKS, 2))
Way = tuple[str, str]

_HERE = "tests/flax_layers"
_OUT = f"{_HERE}/test_torch.py::test_from_torch_computes_the_same_and_comes_back_bit_for_bit"
_IN = f"{_HERE}/test_torch.py::test_into_torch_computes_the_same"
_BETWEEN = f"{_HERE}/test_linen_and_nnx.py"
_LINEN = f"{_BETWEEN}::test_linen_to_nnx_computes_the_same_and_comes_back_bit_for_bit"
_NNX = f"{_BETWEEN}::test_nnx_to_linen_computes_the_same_and_comes_back_bit_for_bit"
_WRAPPED = f"{_HERE}/test_wrapped_conversions.py"
_UNCONVERGED = f"{_WRAPPED}::test_what_has_not_converged_is_refused_before_anything_is_written"
_ROWS = f"{_HERE}/test_rows.py"
_TORCH = f"{_HERE}/test_torch.py"
_FINDINGS = "tests/conversion/test_findings.py"

#: What a test id begins with; anything else in a cell is a reason.
TEST = "tests/"


@dataclass(frozen=True)
class Row:
    """One correspondence.

    Attributes:
        name: what it is. classes: the class of the way from a framework to another, `exact` where none is named.
        cells: for each way, ids of tests, or one reason.
    """

    name: str
    cells: Mapping[Way, tuple[str, ...]]
    classes: Mapping[Way, str]

    def of(self, way: Way) -> str:
        """The class of a way."""
        return self.classes.get(way, "exact")


def _pairs(*names: str) -> dict[Way, tuple[str, ...]]:
    """torch and either of the two, there and back."""
    found: dict[Way, tuple[str, ...]] = {}
    for flax in ("linen", "nnx"):
        found["torch", flax] = tuple(f"{_OUT}[{flax}-{name}]" for name in names)
        found[flax, "torch"] = tuple(f"{_IN}[{flax}-{name}]" for name in names)
    return found


def _cases(*names: str) -> dict[Way, tuple[str, ...]]:
    """Linen and NNX, there and back."""
    return {
        ("linen", "nnx"): tuple(f"{_LINEN}[{name}]" for name in names),
        ("nnx", "linen"): tuple(f"{_NNX}[{name}]" for name in names),
    }


def _each(test: str, name: str = "") -> dict[Way, tuple[str, ...]]:
    """A test of every way."""
    head = f"{name}-" if name else ""
    return {way: (f"{test}[{head}{' to '.join(way)}]",) for way in WAYS}


def _wrapped(*names: str) -> dict[Way, tuple[str, ...]]:
    """weight_norm or spectral_norm: both ways of torch, and the two of Flax among one another."""
    found: dict[Way, tuple[str, ...]] = {}
    for way in WAYS:
        styles = ("new", "old") if "torch" in way else ("new",)
        test = (
            f"{_WRAPPED}::test_a_wrapped_layer_computes_the_same_and_comes_back_bit_for_bit"
            if "torch" in way
            else f"{_WRAPPED}::test_between_linen_and_nnx_too"
        )
        found[way] = tuple(f"{test}[{' to '.join(way)}-{style} {name}]" for style in styles for name in names)
    return found


def _refused(test: str, ending: str = "", *, back: str = "Flax has no such layer") -> dict[Way, tuple[str, ...]]:
    """Impossible from torch; the other frameworks have nothing that could come from them."""
    found = dict.fromkeys(WAYS, (back,))
    for flax in ("linen", "nnx"):
        found["torch", flax] = (f"{test}[{ending}{flax}]",)
    return found


_FROM_TORCH = {("torch", "linen"): "impossible", ("torch", "nnx"): "impossible"}
_NOTHING = dict.fromkeys([way for way in WAYS if way[0] != "torch"], "–")
_REFUSED = {**_FROM_TORCH, **_NOTHING}
_SPLIT = {way: "choice" for way in WAYS if "torch" in way}
_COUNTER = _SPLIT
_RULE = {way: "by a rule" for way in WAYS if "torch" in way}


def _transposed(flip: bool) -> Row:
    plain = str(not flip)
    names = [f"conv_transpose{rank}d {plain} {{}}" for rank in (1, 2, 3)]
    names += [
        f"conv_transpose{rank}d {plain} {options}"
        for rank, options in (
            (1, {"stride": 2, "padding": 1, "output_padding": 1}), (2, {"stride": 2, "padding": 1}),
            (2, {"stride": 3, "dilation": 2, "output_padding": 2}), (3, {"stride": 2, "padding": 1}),
        )
    ]  # fmt: skip
    cases = [f"conv_transpose{rank}d transpose_kernel={plain}" for rank in (1, 2, 3)]
    flipped = " (flipped)" if flip else ""
    name = f"ConvTranspose1d, 2d, 3d, transpose_kernel={plain}{flipped}, strides, dilations, output_padding"
    return Row(name, {**_pairs(*names), **_cases(*cases)}, {})


_AXES = f"{_WRAPPED}::test_other_axes_are_impossible_with_the_axes_of_both_sides"


def _crossed(*names: str) -> dict[Way, tuple[str, ...]]:
    """Refused both ways by one test."""
    found: dict[Way, tuple[str, ...]] = dict.fromkeys(WAYS, ("both keep what the wrapper is told to keep",))
    for flax in ("linen", "nnx"):
        for way in (("torch", flax), (flax, "torch")):
            found[way] = tuple(f"{_AXES}[{flax}-{name}]" for name in names)
    return found


_GRU = f"{_TORCH}::test_gru"
_DEEP = f"{_ROWS}::test_two_layers_in_both_directions"
_SEQUENCES = ("lstm", "lstm apart", "gru", "rnn")
_KINDS = {
    ("nnx", "linen"): "choice",
    ("linen", "nnx"): "choice",
    ("torch", "nnx"): "choice",
    ("nnx", "torch"): "choice",
}
_BITS = "tests/conversion/test_bits.py::test_every_bit_is_there_and_comes_back"

ROWS: tuple[Row, ...] = (
    Row("Linear", {**_pairs("linear"), **_cases("linear")}, {}),
    Row("Linear that feeds heads", {**_pairs("linear into heads"), **_cases("several features out")}, {}),
    Row("Linear that heads feed", {**_pairs("linear out of heads"), **_cases("several features in and out")}, {}),
    Row("Linear as an einsum", {**_pairs("linear as einsum"), **_cases("einsum")}, {}),
    Row(
        "Linear after a flatten",
        _each(f"{_ROWS}::test_a_linear_after_a_flatten_takes_its_columns_in_the_order_that_a_rule_says"), _RULE,
    ),
    Row(
        "Conv1d, Conv2d, Conv3d",
        {**_pairs("conv1d {}", "conv2d {}", "conv3d {}"), **_cases("conv1d", "conv2d", "conv3d")}, {},
    ),
    Row(
        "Conv with groups, depthwise, strides, dilations, padding",
        {
            **_pairs(
                "conv2d {'stride': 2, 'padding': 2}", "conv2d {'dilation': 2}", "conv2d {'groups': 2}",
                "conv1d {'groups': 4}", "conv3d {'groups': 2}",
            ),
            **_cases(
                "conv2d padding=VALID strides=2", "conv2d padding=((1, 2), (0, 1)) kernel_dilation=(1, 2)",
                "conv2d feature_group_count=4", "conv2d feature_group_count=2 strides=2",
            ),
        },
        {},
    ),
    Row(
        "Conv padded SAME with a stride",
        {
            **{
                way: (f"{_FINDINGS}::test_same_with_a_stride_is_not_the_symmetric_padding[{flax}]",)
                for flax in ("linen", "nnx")
                for way in (("torch", flax), (flax, "torch"))
            },
            **dict.fromkeys([("linen", "nnx"), ("nnx", "linen")], ("both pad alike",)),
        },
        {way: "finding" if "torch" in way else "–" for way in WAYS},
    ),
    _transposed(flip=False),
    _transposed(flip=True),
    Row(
        "ConvTranspose with groups",
        {
            **dict.fromkeys(WAYS, ("Flax has no such layer",)),
            **{
                ("torch", flax): tuple(
                    f"{_TORCH}::test_a_grouped_conv_transpose_is_impossible_by_name[{plain}-{flax}]" for plain in (True, False)
                )
                for flax in ("linen", "nnx")
            },
        },
        _REFUSED,
    ),
    Row("BatchNorm in evaluation, and its counter", {**_pairs("batch_norm"), **_cases("batch_norm")}, _COUNTER),
    Row("BatchNorm, affine=False", _each(f"{_ROWS}::test_a_batch_norm_without_some_of_its_arrays", "affine=False"), _COUNTER),
    Row(
        "BatchNorm, track_running_stats=False",
        _each(f"{_ROWS}::test_a_batch_norm_without_some_of_its_arrays", "track_running_stats=False"),
        {
            ("torch", "linen"): "missing", ("torch", "nnx"): "missing",
            ("linen", "torch"): "unexpected", ("nnx", "torch"): "unexpected",
        },
    ),
    Row("LayerNorm", {**_pairs("layer_norm"), **_cases("layer_norm", "layer_norm eps")}, {}),
    Row("LayerNorm over several axes", {**_pairs("layer_norm over two axes"), **_cases("layer_norm over all")}, {}),
    Row("GroupNorm", {**_pairs("group_norm"), **_cases("group_norm", "group_norm by size")}, {}),
    Row("RMSNorm", {**_pairs("rms_norm"), **_cases("rms_norm")}, {}),
    Row("InstanceNorm", {**_pairs("instance_norm"), **_cases("instance_norm")}, {}),
    Row(
        "InstanceNorm with running statistics",
        _refused(f"{_TORCH}::test_running_statistics_of_an_instance_norm_are_impossible"), _REFUSED,
    ),
    Row("Embedding", {**_pairs("embedding"), **_cases("embedding")}, {}),
    Row(
        "LSTM, fused and gate by gate",
        {**_pairs("lstm", "lstm apart"), **_cases("lstm", "optimized lstm")}, _SPLIT,
    ),
    Row(
        "LSTM, GRU, RNN of two layers in both directions",
        {
            way: tuple(f"{_DEEP}[{name}-{' to '.join(way)}]" for name in _SEQUENCES) for way in WAYS
        },
        _SPLIT,
    ),
    Row(
        "LSTM with proj_size",
        _refused(f"{_TORCH}::test_an_appended_step_and_a_projection_are_impossible", "proj_size-"), _REFUSED,
    ),
    Row(
        "GRU; the second bias of gate n is zero where NNX is concerned",
        {
            ("torch", "linen"): (f"{_GRU}[linen]",), ("linen", "torch"): (f"{_GRU}[linen]",),
            ("torch", "nnx"): (f"{_GRU}[nnx]",), ("nnx", "torch"): (f"{_GRU}[nnx]",), **_cases("gru"),
        },
        _SPLIT,
    ),
    Row(
        "GRU with a second bias of gate n",
        {
            ("torch", "linen"): (f"{_GRU}[linen]",), ("linen", "torch"): (f"{_GRU}[linen]",),
            ("torch", "nnx"): (f"{_GRU}[nnx]",), ("nnx", "torch"): ("NNX has none: it arrives as zero",),
            ("linen", "nnx"): (f"{_BETWEEN}::test_the_second_bias_of_gate_n_is_impossible_in_nnx_unless_it_is_zero",),
            ("nnx", "linen"): (f"{_BETWEEN}::test_nnx_fills_the_bias_that_it_does_not_have_with_zero",),
        },
        {**_SPLIT, ("torch", "nnx"): "impossible", ("linen", "nnx"): "impossible", ("nnx", "torch"): "–"},
    ),
    Row("RNN", {**_pairs("rnn"), **_cases("rnn", "rnn with residual")}, _SPLIT),
    Row("MultiheadAttention", {**_pairs("attention"), **_cases("attention")}, {}),
    Row("MultiheadAttention with kdim and vdim", {**_pairs("attention kdim vdim"), **_cases("cross attention")}, {}),
    Row(
        "MultiheadAttention with add_bias_kv",
        _refused(f"{_TORCH}::test_an_appended_step_and_a_projection_are_impossible", "add_bias_kv-"), _REFUSED,
    ),
    Row(
        "weight_norm, by parametrization and by hook",
        _wrapped("weight_norm of a linear", "weight_norm of a conv", "weight_norm dim=None of a linear"), _KINDS,
    ),
    Row(
        "weight_norm with dim other than 0",
        _wrapped(
            "weight_norm dim=1 of a linear", "weight_norm dim=1 of a conv", "weight_norm dim=3 of a conv",
            "weight_norm dim=1 of a conv_transpose, transpose_kernel=False",
        ),
        _KINDS,
    ),
    Row(
        "weight_norm of a ConvTranspose",
        _wrapped(
            "weight_norm of a conv_transpose, transpose_kernel=True", "weight_norm of a conv_transpose, transpose_kernel=False"
        ),
        _KINDS,
    ),
    Row(
        "weight_norm that keeps other axes",
        _crossed(
            "weight_norm of a linear over in", "weight_norm of the whole", "the defaults of a conv_transpose",
            "one spatial axis for another",
        ),
        {way: "impossible" if "torch" in way else "–" for way in WAYS},
    ),
    Row(
        "spectral_norm that has converged; into torch, also before",
        _wrapped(
            "spectral_norm of a linear", "spectral_norm of a conv", "spectral_norm n_steps=3 of a conv",
            "spectral_norm of a conv_transpose, transpose_kernel=False",
            "spectral_norm dim=0 of a conv_transpose, transpose_kernel=True",
        ),
        _SPLIT,
    ),
    Row(
        "spectral_norm that has not converged",
        {
            **_wrapped("spectral_norm of a linear"),
            **{
                ("torch", flax): (f"{_UNCONVERGED}[{flax}-new spectral_norm of a linear]",)
                for flax in ("linen", "nnx")
            },
        },
        {**_SPLIT, **_FROM_TORCH},
    ),
    Row(
        "spectral_norm that keeps other axes",
        _crossed("spectral_norm of a linear over in", "spectral_norm of a conv_transpose"),
        {way: "impossible" if "torch" in way else "–" for way in WAYS},
    ),
    Row("PReLU with one slope", {**_pairs("prelu"), **_cases("prelu")}, {}),
    Row(
        "PReLU with a slope for each feature, into Flax's own",
        _refused(f"{_TORCH}::test_a_prelu_with_many_slopes_is_impossible"), _REFUSED,
    ),
    Row(
        "PReLU with a slope for each feature, registered",
        _each(f"{_ROWS}::test_a_registered_prelu_with_a_slope_for_each_feature"), {},
    ),
    Row("Bilinear, registered", _each(f"{_ROWS}::test_a_registered_bilinear"), {}),
    Row("Dropout: random number state", _each(f"{_ROWS}::test_random_number_state_is_left_alone_and_accounted_for"), {}),
    Row("Rotary heads", _each(f"{_ROWS}::test_rotary_heads_are_reordered_by_a_rule"), _RULE),
    Row(
        "bfloat16 and 8 bit floats, int64 counters, masks",
        {
            way: tuple(f"{_BITS}[{name}-{' to '.join(way)}]" for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"))
            for way in WAYS
        },
        {},
    ),
)  # fmt: skip
