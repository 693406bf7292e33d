"""The formulas of layers that are one sum over features: linear and bilinear.

Inputs are `(*batch, features)`, outputs likewise; where a linear layer has several axes in or out (`in.0 in.1`), they are
the last axes of the data, in order. Pure float64. Imports NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from stateregistry_conformance.formulas.given import Given


def linear(given: Given) -> tuple[np.ndarray, ...]:
    """`y[..., o] = sum_i kernel[o, i] * x[..., i] + bias[o]`.

    `o` and `i` run over all axes of `out` and `in`: a layer may have several (`out.0 out.1`), and then the bias has them too.

    Args:
        given: roles `kernel` (`*out *in`), `bias` (`*out`, optional); input `(*batch, *in)`. No config.

    Returns:
        One array `(*batch, *out)`.

    Raises:
        AxesError: sizes or axes disagree.
        UnsupportedError: a role is missing.
    """
    rank = len(given.named("kernel").family("in"))
    kernel = given.need("kernel", "*out", "*in")
    x = given.input(0, least=rank)
    outer = kernel.ndim - rank
    given.same("the last axes of the input", x.shape[x.ndim - rank :], kernel.shape[outer:])
    over = (list(range(x.ndim - rank, x.ndim)), list(range(outer, kernel.ndim)))
    y: np.ndarray = np.tensordot(x, kernel, axes=over)
    bias = given.may("bias", "*out")
    if bias is None:
        return (y,)
    given.same("the shape of the bias", bias.shape, kernel.shape[:outer])
    return (y + bias,)


def bilinear(given: Given) -> tuple[np.ndarray, ...]:
    """`y[..., o] = sum_ij kernel[o, i, j] * a[..., i] * b[..., j] + bias[o]`.

    Args:
        given: roles `kernel` (`out in1 in2`), `bias` (`out`, optional); inputs `a` `(*batch, in1)` and `b` `(*batch, in2)`.
            No config.

    Returns:
        One array `(*batch, out)`.

    Raises:
        AxesError: sizes or axes disagree.
        UnsupportedError: a role or an input is missing.
    """
    kernel = given.need("kernel", "out", "in1", "in2")
    a, b = given.input(0, least=1), given.input(1, least=1)
    given.same("the batch of the second input", b.shape[:-1], a.shape[:-1])
    given.same("the features of the inputs", (a.shape[-1], b.shape[-1]), kernel.shape[1:])
    y: np.ndarray = np.einsum("oij,...i,...j->...o", kernel, a, b)
    bias = given.may("bias", "out")
    if bias is None:
        return (y,)
    given.same("the shape of the bias", bias.shape, kernel.shape[:1])
    return (y + bias,)
