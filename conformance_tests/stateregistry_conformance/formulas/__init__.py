"""The numeric oracle: the formula of every layer kind in float64, written from its definition and from no adapter.

`forward(kind, roles, config, inputs)` computes what a layer computes in evaluation, from neutral arrays whose axes are
named (`Named`). Data is channels last: `(batch, *spatial, channels)`, `(batch, time, features)`. Slow and plain on purpose.
Refuses a role, an axis or a config name that the definition does not have, and whatever frameworks compute differently.
Imports NumPy and the errors of the core, no framework and no adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, final

from stateregistry.errors import UnsupportedError
from stateregistry_conformance.formulas import (
    attention,
    convolution,
    linear,
    normalisation,
    other,
    recurrent,
    wrappers,
)
from stateregistry_conformance.formulas.given import Given
from stateregistry_conformance.formulas.named import Named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

__all__ = ["FORMULAS", "Formula", "Given", "Named", "forward"]


@final
@dataclass(frozen=True, slots=True)
class Formula:
    """What one layer kind computes, and the names of its config.

    Attributes:
        call: from what is given to the outputs.
        inputs: the least and the greatest number of inputs.
        state: config that the layout of native state depends on, and the neutral roles do not.
        function: config that only the function depends on, in evaluation.
        training: config that matters in training alone.
    """

    call: Callable[[Given], tuple[np.ndarray, ...]]
    inputs: tuple[int, int] = (1, 1)
    state: frozenset[str] = frozenset()
    function: frozenset[str] = frozenset()
    training: frozenset[str] = frozenset()


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MOMENTUM: Final = _names("momentum unbiased_var")
_GATES: Final = _names("activation gate_activation reverse")

#: Every layer kind (spec chapter "Layers").
FORMULAS: Final[Mapping[str, Formula]] = MappingProxyType(
    {
        "linear": Formula(linear.linear),
        "conv": Formula(
            convolution.conv,
            state=_names("groups kernel_size"),
            function=_names("stride dilation padding padding_mode"),
        ),
        "conv_transpose": Formula(
            convolution.conv_transpose,
            state=_names("groups kernel_size transpose_kernel"),
            function=_names("stride dilation padding output_padding"),
        ),
        "embedding": Formula(
            other.embedding, function=_names("mode max_norm norm_type"), training=_names("padding_idx")
        ),
        "batch_norm": Formula(normalisation.batch_norm, function=_names("eps"), training=_MOMENTUM),
        "layer_norm": Formula(normalisation.layer_norm, function=_names("eps normalized_axes")),
        "rms_norm": Formula(normalisation.rms_norm, function=_names("eps normalized_axes")),
        "group_norm": Formula(normalisation.group_norm, function=_names("eps groups")),
        "instance_norm": Formula(normalisation.instance_norm, function=_names("eps"), training=_MOMENTUM),
        "attention": Formula(
            attention.attention,
            (1, 4),
            state=_names("heads head_dim"),
            function=_names("causal add_zero_attn"),
            training=_names("dropout"),
        ),
        "lstm": Formula(recurrent.lstm, (1, 3), function=_GATES, training=_names("dropout")),
        "gru": Formula(recurrent.gru, (1, 2), function=_GATES, training=_names("dropout")),
        "rnn": Formula(
            recurrent.rnn, (1, 2), function=_names("activation residual reverse"), training=_names("dropout")
        ),
        "prelu": Formula(other.prelu),
        "bilinear": Formula(linear.bilinear, (2, 2)),
    }
)


def forward(
    kind: str, roles: Mapping[str, Named], config: Mapping[str, object], inputs: Sequence[np.ndarray]
) -> tuple[np.ndarray, ...]:
    """What a layer computes in evaluation.

    Args:
        kind: a key of `FORMULAS`.
        roles: its neutral arrays by role, of any real dtype; a role `a+b` is the sum of two where the formula has it. A
            wrapped role is given by its parts (`kernel_direction`, `kernel_magnitude`).
        config: values by the names of `FORMULAS[kind]`, and of `wrappers` where a role is wrapped.
        inputs: arrays, channels last, in the order that the formula states.

    Returns:
        The outputs in float64: one, or for recurrent layers the sequence and the last states.

    Raises:
        AxesError: names of axes or sizes disagree.
        UnsupportedError: a role is missing or not of this kind, a config name is unknown or a value no formula has, the
            number of inputs is wrong, or the kind is none.
    """
    formula = FORMULAS.get(kind)
    if formula is None:
        raise UnsupportedError(f"no layer kind {kind!r}", expected=tuple(FORMULAS), found=kind)
    least, most = formula.inputs
    if not least <= len(inputs) <= most:
        message = f"{kind}: called with {len(inputs)} inputs, expected {least} to {most}"
        raise UnsupportedError(message, expected=formula.inputs, found=len(inputs))
    outer = {name: value for name, value in config.items() if name in wrappers.STATE | wrappers.FUNCTION}
    wrapper = Given(kind, {}, outer, ())
    plain = wrappers.unwrapped(wrapper, roles)
    wrapper.settle(())
    given = Given(kind, plain, {name: config[name] for name in config if name not in outer}, inputs)
    outputs = formula.call(given)
    given.settle(formula.state | formula.training)
    return outputs
