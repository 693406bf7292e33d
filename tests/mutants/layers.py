"""Broken declarations of layers: adapters whose state is right and whose layers are not, each with what it violates.

A mutant is the harness of an adapter with other layers than the adapter declares. Sizes are equal in what the suite
builds, so that no shape can tell any of them. What is written here was done by some converter, or nearly by us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from mutants.layer_support import (
    MUTANTS,
    LayerMutant,
    Layers,
    config,
    each,
    exchanged,
    laid_out,
    pieces,
    respelled,
    whole,
)
from stateregistry.entry import Kind
from stateregistry.errors import AxesError
from stateregistry.layers.vocabulary import Layer, Piece

# ------------------------------------------------------------------------------------------------------------ vocabulary


@each("numpy", "001", "linear")
def native_names_as_roles(layer: Layer) -> Layer:
    """The role is what the framework calls the array."""
    return pieces(layer, lambda piece: replace(piece, role="weight") if piece.role == "kernel" else piece)


@each("torch", "001", "conv")
def axes_of_another_vocabulary(layer: Layer) -> Layer:
    """Axes are called as in a paper."""
    return laid_out(layer, "kernel", "o i *spatial")


@each("flax-linen", "001", "linear")
def a_kind_of_its_own(layer: Layer) -> Layer:
    """The kind is the name of the type."""
    return replace(layer, kind="dense")


# -------------------------------------------------------------------------------------------------------------- function


@each("torch", "002", "lstm")
def gates_as_the_paper_has_them(layer: Layer) -> Layer:
    """i, f, o, g: the order of the paper and of TensorFlow's kernels, and not that of torch."""
    return respelled(layer, "i|f|g|o", "i|f|o|g")


@each("flax-nnx", "002", "lstm")
def fused_gates_in_another_order(layer: Layer) -> Layer:
    """The fused kernels begin with the new gate, as Haiku's do."""
    return respelled(layer, "i|f|g|o", "i|g|f|o")


@each("torch", "002", "gru")
def fused_gates_of_a_gru_swapped(layer: Layer) -> Layer:
    """z, r, n, as in Keras."""
    return respelled(layer, "r|z|n", "z|r|n")


@each("flax-linen", "002", "gru")
def gates_of_a_gru_swapped(layer: Layer) -> Layer:
    """Reset and update are exchanged: all arrays have one shape."""
    return exchanged(layer, "r_", "z_")


@each("torch", "002", "attention")
def thirds_swapped(layer: Layer) -> Layer:
    """value, key, query."""
    return respelled(layer, "query|key|value", "value|key|query")


@each("torch", "002", "batch_norm")
def statistics_swapped(layer: Layer) -> Layer:
    """Mean and variance are exchanged."""
    return exchanged(layer, "mean", "var")


@each("torch", "002", "linear")
def a_bias_forgotten(layer: Layer) -> Layer:
    """The bias stands alone beside the layer."""
    return pieces(layer, lambda piece: None if piece.role == "bias" else piece)


@whole("torch", "002", "linear")
def a_subclass_is_its_base(registry: Any, model: Any, told: Callable[[], Layers]) -> Layers:
    """Whatever its forward does."""
    import torch

    found = told()
    if found or not isinstance(model, torch.nn.Linear):
        return found
    return (Layer("linear", "", (Piece("kernel", "weight", "out in"), Piece("bias", "bias", "out"))),)


@each("flax-linen", "002", "embedding")
def a_table_is_a_matrix(layer: Layer) -> Layer:
    """An embedding is a linear layer: a matrix is a matrix."""
    return replace(layer, kind="linear", pieces=(replace(layer.pieces[0], role="kernel", axes="in out"),))


@whole("numpy", "002", "batch_norm")
def a_deviation_for_a_variance(registry: Any, model: Any, told: Callable[[], Layers]) -> Layers:
    """What the framework keeps is the root of the variance; here by squaring what the model has before it is looked at."""
    if "variance" in getattr(model, "members", {}) and not getattr(model, "squared", False):
        object.__setattr__(model, "squared", True)
        forward = model.forward

        def of_deviation(*inputs: Any) -> Any:
            kept = model.variance.array.copy()
            model.variance.array[...] = kept * kept
            try:
                return forward(*inputs)
            finally:
                model.variance.array[...] = kept

        object.__setattr__(model, "forward", of_deviation)
    return told()


# ------------------------------------------------------------------------------------------------------- names and sizes


@whole("numpy", "003", "linear")
def axes_by_size(registry: Any, model: Any, told: Callable[[], Layers]) -> Layers:
    """The axis that is as long as the bias is `out`; where both are, the last one is taken."""

    def guessed(layer: Layer) -> Layer:
        shape = registry[layer.key(layer.pieces[0])].shape
        return laid_out(layer, "kernel", "in out") if shape[0] == shape[1] else layer

    return tuple(guessed(layer) if layer.kind == "linear" else layer for layer in told())


@each("torch", "004", "lstm")
def a_projection_the_other_way_round(layer: Layer) -> Layer:
    """Its sizes cannot be equal: they contradict those of the other arrays."""
    return laid_out(layer, "projection_kernel", "hidden state")


@each("torch", "005", "linear")
def a_bias_that_nobody_has(layer: Layer) -> Layer:
    """Every linear layer has a bias; the converter fills it with zeros."""
    if "bias" in layer.roles:
        return layer
    return replace(layer, pieces=(*layer.pieces, Piece("bias", "bias", "out")))


@each("torch", "005", "prelu")
def a_slope_for_each_feature_always(layer: Layer) -> Layer:
    """One number is a vector of one."""
    return pieces(layer, lambda piece: replace(piece, role="slopes", axes="features"))


@each("flax-linen", "006", "lstm")
def one_bias_is_that_of_the_input(layer: Layer) -> Layer:
    """The one bias of a gate goes to torch's first, and the other keeps what it has."""
    return pieces(layer, lambda piece: replace(piece, role=piece.role.partition("+")[0]))


@each("flax-linen", "006", "gru")
def the_biases_of_the_new_gate_add_up(layer: Layer) -> Layer:
    """As for the other gates."""

    def alter(piece: Piece) -> Piece | None:
        if piece.role == "n_recurrent_bias":
            return None
        return replace(piece, role="n_input_bias+n_recurrent_bias") if piece.role == "n_input_bias" else piece

    return pieces(layer, alter)


@whole("torch", "007", "linear")
def told_by_names(registry: Any, model: Any, told: Callable[[], Layers]) -> Layers:
    """Two axes called weight are a linear layer."""
    found = told()
    entry = registry.get("weight")
    if found or entry is None or len(entry.shape) != 2 or type(model).__name__ == "Doubled":
        return found
    return (Layer("linear", "", (Piece("kernel", "weight", "out in"), Piece("bias", "bias", "out"))),)


@each("flax-nnx", "007", "embedding")
def sure_of_nothing(layer: Layer) -> Layer:
    """The layers of a live module are marked as inferred."""
    return replace(layer, inferred=True)


# ---------------------------------------------------------------------------------------------------------------- config


@each("torch", "008", "layer_norm")
def epsilon(layer: Layer) -> Layer:
    """As Flax calls it."""
    return replace(layer, config={"epsilon" if name == "eps" else name: value for name, value in layer.config.items()})


@each("torch", "008", "batch_norm")
def momentum_of_what_is_kept(layer: Layer) -> Layer:
    """As Flax means it."""
    momentum = layer.config["momentum"]
    return layer if momentum is None else config(layer, momentum=1.0 - float(momentum))  # type: ignore[arg-type]


@each("flax-linen", "008", "group_norm")
def groups_by_their_size(layer: Layer) -> Layer:
    """`groups` is how many features a group has: for four features in two groups, that is two."""
    return config(layer, groups=4 // int(layer.config["groups"]))  # type: ignore[arg-type]


@each("flax-nnx", "008", "conv_transpose")
def padding_of_the_dilated_input(layer: Layer) -> Layer:
    """As Flax takes it: the reach of the kernel less the padding."""
    sides = layer.config.get("padding")
    if isinstance(sides, str):
        return layer
    return config(layer, padding=tuple(3 - side for side in sides))  # type: ignore[union-attr, misc]


@whole("torch", "009", "attention")
def heads_that_fit(registry: Any, model: Any, told: Callable[[], Layers]) -> Layers:
    """Heads that do not divide the features are made to."""
    try:
        return told()
    except AxesError:
        pieces = (
            Piece("kernel", "in_proj_weight", "(query|key|value: heads head_dim) in"),
            Piece("out_kernel", "out_proj/weight", "out (heads head_dim)"),
        )
        return (Layer("attention", "", pieces, config={"heads": 2, "head_dim": 2}),)


@each("torch", "010", "layer_norm")
def eps_as_it_always_is(layer: Layer) -> Layer:
    """Nobody changes it."""
    return config(layer, eps=1e-5)


@each("flax-linen", "010", "layer_norm")
def the_default_of_another_framework(layer: Layer) -> Layer:
    """What was not changed is not said, and then it is what torch has."""
    return config(layer, eps=1e-5) if layer.config["eps"] == 1e-6 else layer


@each("flax-nnx", "010", "rms_norm")
def defaults_are_not_said(layer: Layer) -> Layer:
    """What was not changed is left out."""
    kept = {name: value for name, value in layer.config.items() if (name, value) != ("eps", 1e-6)}
    return replace(layer, config=kept)


# ---------------------------------------------------------------------------------------------------------------- layout


@each("torch", "012", "linear")
def a_transpose_forgotten(layer: Layer) -> Layer:
    """The matrix is square, and the shapes pass."""
    return laid_out(layer, "kernel", "in out")


@each("torch", "012", "conv")
def filters_of_caffe(layer: Layer) -> Layer:
    """in before out."""
    return laid_out(layer, "kernel", "in/groups out *spatial")


@each("flax-linen", "012", "conv")
def a_permutation_as_its_own_inverse(layer: Layer) -> Layer:
    """(2, 3, 1, 0) both ways: what comes back is `*spatial out in` and not `*spatial in out`."""
    return laid_out(layer, "kernel", "*spatial out in/groups")


@each("torch", "012", "attention")
def heads_and_head_dim_swapped(layer: Layer) -> Layer:
    """There are as many heads as a head has features."""
    return respelled(layer, "heads head_dim", "head_dim heads")


@each("flax-nnx", "012", "attention")
def heads_of_the_output_swapped(layer: Layer) -> Layer:
    """In the last projection alone."""
    return laid_out(layer, "out_kernel", "head_dim heads out")


@each("torch", "012", "bilinear")
def operands_swapped(layer: Layer) -> Layer:
    """The second input comes first."""
    return laid_out(layer, "kernel", "out in2 in1")


@each("numpy", "012", "embedding")
def a_table_by_columns(layer: Layer) -> Layer:
    """Features before words."""
    return laid_out(layer, "embedding", "features vocab")


@whole("numpy", "013", "conv", eager=True)
def layouts_are_mended_when_written(registry: Any, model: Any, told: Callable[[], Layers]) -> Layers:
    """A write turns four axes as a read of another framework would, so that there and back is not the same."""
    if "replace" not in vars(registry):
        write = registry.replace

        def mended(values: Any) -> Any:
            turned = {k: v.transpose(1, 0, 2, 3).copy() if v.ndim == 4 else v for k, v in dict(values).items()}
            return write(turned)

        registry.replace = mended
    return told()


@each("torch", "014", "conv")
def always_two_spatial_axes(layer: Layer) -> Layer:
    """Every convolution is one over images."""
    return laid_out(layer, "kernel", "out in/groups spatial.0 spatial.1")


@each("flax-linen", "014", "attention")
def a_parenthesis_lost(layer: Layer) -> Layer:
    """The pattern does not parse."""
    return laid_out(layer, "query_kernel", "in (heads head_dim")


@each("flax-linen", "015", "conv_transpose")
def a_flip_forgotten(layer: Layer) -> Layer:
    """The kernel of a `ConvTranspose` is stored as it is used."""
    return respelled(layer, "-*spatial", "*spatial")


@each("flax-nnx", "015", "conv_transpose")
def a_flip_always(layer: Layer) -> Layer:
    """Also with `transpose_kernel=True`."""
    return pieces(layer, lambda piece: replace(piece, axes=piece.axes.replace("-*", "*").replace("*", "-*")))


@each("torch", "015", "conv")
def convolutions_of_mathematics(layer: Layer) -> Layer:
    """A convolution flips its kernel; that of a framework is a correlation."""
    return laid_out(layer, "kernel", "out in/groups -*spatial")


# -------------------------------------------------------------------------------------------------------------- together


@each("torch", "016", "lstm")
def a_direction_forgotten(layer: Layer) -> Layer:
    """Both directions read from the beginning."""
    return config(layer, reverse=False)


@each("torch", "001", "linear", "weight_norm")
def a_magnitude_with_an_axis_of_its_own(layer: Layer) -> Layer:
    """What a wrapper computes from has the axes of the role that it stands for, by the names that these have."""

    def alter(piece: Piece) -> Piece:
        return piece if piece.role != "kernel_magnitude" else replace(piece, axes=piece.axes.replace("out", "units"))

    return pieces(layer, alter)


@whole("torch", "016", "gru")
def a_stack_is_its_first_layer(registry: Any, model: Any, told: Callable[[], Layers]) -> Layers:
    """The module is a layer, and its first arrays are what it is."""
    return told()[:1]


@whole("torch", "017", "linear", "weight_norm")
def a_direction_as_the_kernel(registry: Any, model: Any, told: Callable[[], Layers]) -> Layers:
    """It has the shape and the place of the kernel."""

    def alter(piece: Piece) -> Piece | None:
        if piece.role == "kernel_magnitude":
            return None
        return replace(piece, role="kernel") if piece.role == "kernel_direction" else piece

    return tuple(pieces(layer, alter) for layer in told())


@each("torch", "017", "linear", "weight_norm")
def a_norm_of_the_other_axis(layer: Layer) -> Layer:
    """As many rows as columns."""
    swap = {"out": "in", "in": "out"}

    def alter(piece: Piece) -> Piece:
        if piece.role != "kernel_magnitude":
            return piece
        return replace(piece, axes=" ".join(swap.get(word, word) for word in piece.axes.split()))

    return pieces(layer, alter)


@each("torch", "017", "linear", "spectral_norm")
def u_and_v_swapped(layer: Layer) -> Layer:
    """Left is right."""

    def alter(piece: Piece) -> Piece:
        other = {"kernel_u": ("kernel_v", "in"), "kernel_v": ("kernel_u", "out")}.get(piece.role)
        return piece if other is None else replace(piece, role=other[0], axes=other[1])

    # The names go with the roles: what is declared as `v` over `in` is the array that is `u` over `out`.
    return pieces(layer, alter)


@whole("torch", "020", "lstm")
def a_norm_for_four_gates(registry: Any, model: Any, told: Callable[[], Layers]) -> Layers:
    """Columns of a fused array have one norm, and each gate is said to have it."""
    base = "parametrizations/weight_ih_l0"
    if f"{base}/original0" not in registry:
        return told()
    direction = Piece("input_kernel_direction", f"{base}/original1", "(i|f|g|o: hidden) in")
    return (Layer("lstm", "", (direction, Piece("input_kernel_magnitude", f"{base}/original0", "1 in"))),)


@each("flax-linen", "021", "linear", "stacked")
def another_axis_counts(layer: Layer) -> Layer:
    """The stack has as many layers as every other axis is long."""
    if not layer.config.get("stacked"):
        return layer
    turned = {"in (0|1|2|3:) out": "(0|1|2|3:) in out", "out (0|1|2|3:)": "(0|1|2|3:) out"}
    return pieces(layer, lambda piece: replace(piece, axes=turned.get(piece.axes, piece.axes)))


@each("flax-nnx", "021", "linear", "stacked")
def a_stack_from_its_end(layer: Layer) -> Layer:
    """The last layer is the first."""
    if not layer.config.get("stacked"):
        return layer
    return pieces(layer, lambda piece: replace(piece, part=str(2 - int(piece.part))))


@whole("torch", "022", "linear")
def a_table_beside_a_layer(registry: Any, model: Any, told: Callable[[], Layers]) -> Layers:
    """Where a module holds a layer, its own matrix is one, too."""
    found = told()
    beside = [layer for layer in found if layer.path == "layer"] and "weight" in registry
    return (*found, Layer("linear", "", (Piece("kernel", "weight", "out in"),))) if beside else found


@each("torch", "023", "batch_norm")
def statistics_are_trained(layer: Layer) -> Layer:
    """A running mean is a parameter."""
    return pieces(layer, lambda piece: replace(piece, kind=Kind.PARAMETER))


@each("flax-nnx", "023", "linear", "weight_norm")
def no_reason_given(layer: Layer) -> Layer:
    """Magnitudes are buffers, and nobody says why."""
    return pieces(layer, lambda piece: replace(piece, kind_reason=""))


def all_layer_mutants() -> Iterator[LayerMutant]:
    """Every mutant, in the order of the requirements."""
    return iter(MUTANTS)
