"""The dialect of PyTorch: what `torch.nn` calls the pieces of each layer kind, and which native axis is which.

The rows are data. Files without a module are read with them as far as names decide (a kernel may be that of a conv or of
a conv_transpose; nothing names the heads of a fused `in_proj_weight`), and models are derived from them. Modules that are
at hand say more: see `standard`, `recurrent` and `attention`. Imports the core only, no framework.
"""

from __future__ import annotations

from typing import Final

from stateregistry.entry import Kind
from stateregistry.layers.vocabulary import Declaration, Dialect, Lack, Piece
from stateregistry_torch.settings import ACTIVATIONS, setting

PARAMETER_TAG: Final = "Parameter"
BUFFER_TAG: Final = "buffer"

_GATES: Final = {"lstm": "(i|f|g|o: hidden)", "gru": "(r|z|n: hidden)", "rnn": "hidden"}

#: Said by every layer that is not wrapped: without it, what a wrapper holds could be left out unnoticed.
_NOT_WRAPPED: Final = Lack(
    ("*_direction", "*_magnitude", "*_original", "*_u", "*_v", "*_sigma"),
    "torch holds no such array here: the layer has no weight_norm or spectral_norm that would",
)


def recurrent_pieces(kind: str, ending: str = "") -> tuple[Piece, ...]:
    """The pieces of one recurrent layer in one direction; `ending`: of its names (`_l1_reverse`), none for a cell."""
    gates = _GATES[kind]
    pieces = (
        Piece("input_kernel", f"weight_ih{ending}", f"{gates} in"),
        Piece("recurrent_kernel", f"weight_hh{ending}", f"{gates} state"),
        Piece("input_bias", f"bias_ih{ending}", gates),
        Piece("recurrent_bias", f"bias_hh{ending}", gates),
    )
    if kind == "lstm" and ending:
        return (*pieces, Piece("projection_kernel", f"weight_hr{ending}", "state hidden"))
    return pieces


def _affine(axes: str) -> tuple[Piece, Piece]:
    return Piece("scale", "weight", axes), Piece("bias", "bias", axes)


_BIAS: Final = Piece("bias", "bias", "out")
STATISTICS: Final = (
    Piece("mean", "running_mean", "features", Kind.BUFFER, tag=BUFFER_TAG),
    Piece("var", "running_var", "features", Kind.BUFFER, tag=BUFFER_TAG),
    Piece("count", "num_batches_tracked", "", Kind.BUFFER, tag=BUFFER_TAG, dtype="int64"),
)
#: The one piece of a PReLU with one slope for all features, and with one for each.
SLOPE: Final = Piece("slope", "weight", "1")
SLOPES: Final = Piece("slopes", "weight", "features")
#: Query, key and value in one array; with `kdim=` or `vdim=`, an array each.
FUSED: Final = Piece("kernel", "in_proj_weight", "(query|key|value: heads head_dim) in")
SEPARATE: Final = tuple(
    Piece(f"{name}_kernel", f"{name[0]}_proj_weight", "(heads head_dim) in") for name in ("query", "key", "value")
)
AROUND: Final = (
    Piece("bias", "in_proj_bias", "(query|key|value: heads head_dim)"),
    Piece("out_kernel", "out_proj/weight", "out (heads head_dim)"),
    Piece("out_bias", "out_proj/bias", "out"),
    Piece("extra_key", "bias_k", "1 1 (heads head_dim)"),
    Piece("extra_value", "bias_v", "1 1 (heads head_dim)"),
)

#: Layer kind and pieces. A kind may have several rows: names are read by all of them, and given by the first.
_ROWS: Final[tuple[tuple[str, tuple[Piece, ...]], ...]] = (
    ("linear", (Piece("kernel", "weight", "out in"), _BIAS)),
    ("conv", (Piece("kernel", "weight", "out in/groups *spatial"), _BIAS)),
    ("conv_transpose", (Piece("kernel", "weight", "in out/groups *spatial"), _BIAS)),
    ("batch_norm", (*_affine("features"), *STATISTICS)),
    ("layer_norm", _affine("*features")),
    ("embedding", (Piece("embedding", "weight", "vocab features"),)),
    ("rms_norm", (Piece("scale", "weight", "*features"),)),
    ("group_norm", _affine("features")),
    # With running statistics it has the names of a batch_norm and, in evaluation, computes what that does.
    ("instance_norm", _affine("features")),
    ("prelu", (SLOPE,)),
    ("prelu", (SLOPES,)),
    ("bilinear", (Piece("kernel", "weight", "out in1 in2"), _BIAS)),
    ("attention", (FUSED, *AROUND)),
    # Every stack has one of the last two endings besides: its first layer is not taken for all of it.
    *((kind, recurrent_pieces(kind, ending)) for kind in _GATES for ending in ("_l0", "", "_l0_reverse", "_l1")),
)

DIALECT: Final = Dialect(
    "torch",
    tuple(Declaration(kind, pieces, (_NOT_WRAPPED,)) for kind, pieces in _ROWS),
    parameter_tag=PARAMETER_TAG,
    buffer_tag=BUFFER_TAG,
    settings=setting,
    activations=ACTIVATIONS,
    register="stateregistry_torch.register_layer",
    bare="stateregistry_torch.bare",
    channels="first",
)
