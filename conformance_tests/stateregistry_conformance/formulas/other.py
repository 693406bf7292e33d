"""The formulas of embedding and PReLU.

An embedding takes integers of any shape and adds the features as the last axis; PReLU takes `(*batch, features)`. Pure
float64. Imports NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from stateregistry.errors import UnsupportedError

if TYPE_CHECKING:
    from stateregistry_conformance.formulas.given import Given

_BAGS: Final = {"none": None, "sum": np.sum, "mean": np.mean, "max": np.max}


def embedding(given: Given) -> tuple[np.ndarray, ...]:
    """`y[..., f] = embedding[x[...], f]`; with `mode`, the sum, mean or maximum of these over the last axis of `x`.

    With `max_norm`, a row whose norm `n` (of order `norm_type`) is greater is first multiplied by `max_norm / (n + 1e-7)`. A
    framework does that to the state itself, when it looks a row up.

    Args:
        given: role `embedding` (`vocab features`); input: integers of any shape, from 0 up to, not including, `vocab`.
            Only the function depends on `mode` (`none`, `sum`, `mean`, `max`), `max_norm` and `norm_type` (2 where nothing
            is said); only training on `padding_idx`, which goes with the mode `none` alone, because a bag leaves such rows out.

    Returns:
        One array `(*input, features)`, or `(*input without its last axis, features)` with a mode.

    Raises:
        AxesError: the axes have other names, or `padding_idx` comes with a mode.
        UnsupportedError: an index is no integer or out of range, where frameworks clip, wrap, fill or fail.
    """
    table = given.need("embedding", "vocab", "features")
    indices = np.asarray(given.inputs[0])
    if not np.issubdtype(indices.dtype, np.integer):
        raise UnsupportedError(f"embedding: indices of {indices.dtype}, expected integers")
    if indices.size and (indices.min() < 0 or indices.max() >= len(table)):
        message = f"embedding: indices from {indices.min()} to {indices.max()} for {len(table)} rows"
        raise UnsupportedError(message, expected=len(table), found=int(indices.max()))
    bag = _BAGS[given.word("mode", "none", _BAGS)]
    y: np.ndarray = _shortened(given, table)[indices]
    if bag is None:
        return (y,)
    given.agrees("padding_idx", None)  # a bag leaves these rows out: not this formula
    return (bag(y, axis=-2),)


def _shortened(given: Given, table: np.ndarray) -> np.ndarray:
    """The rows as they are after each was looked up once."""
    order = given.real("norm_type", 2.0)
    most = given.real("max_norm", np.inf)
    norms = np.linalg.norm(table, ord=order, axis=-1, keepdims=True)
    shortened: np.ndarray = np.where(norms > most, table * (most / (norms + 1e-7)), table)
    return shortened


def prelu(given: Given) -> tuple[np.ndarray, ...]:
    """`y[..., f] = x[..., f] if x[..., f] >= 0 else slopes[f] * x[..., f]`; with `slope`, one number instead of `slopes[f]`.

    Args:
        given: either of the roles `slope` (no axes: one number for all features) and `slopes` (`features`); input
            `(*batch, features)`. No config.

    Returns:
        One array of the shape of the input.

    Raises:
        AxesError: there are not as many slopes as features.
        UnsupportedError: both roles are given, or none.
    """
    x = given.input(0, least=1)
    slope, slopes = given.may("slope"), given.may("slopes", "features")
    if (slope is None) is (slopes is None):
        raise UnsupportedError("prelu: one of slope and slopes is needed, and not both", keys=("slope", "slopes"))
    if slopes is not None:
        given.same("the number of slopes", slopes.shape, x.shape[-1:])
    return (np.where(x >= 0, x, (slope if slopes is None else slopes) * x),)
