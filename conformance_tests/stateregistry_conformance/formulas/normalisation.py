"""The formulas of the normalising layers, as they compute in evaluation.

All of them are `y = (x - m) / sqrt(v + eps) * scale + bias`; they differ in what `m` and `v` are. A variance is the biased one:
the mean of the squared distances. Inputs and outputs are `(batch, *spatial, features)`. `eps` has no default here, because
frameworks have different ones. Pure float64. Imports NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stateregistry.errors import AxesError, UnsupportedError

if TYPE_CHECKING:
    from stateregistry_conformance.formulas.given import Given


def batch_norm(given: Given) -> tuple[np.ndarray, ...]:
    """`y[..., f] = (x[..., f] - mean[f]) / sqrt(var[f] + eps) * scale[f] + bias[f]`.

    Without the roles `mean` and `var`, they are those of the input itself, over every axis but the last.

    Args:
        given: roles `scale`, `bias`, `mean`, `var` (each `features`, each optional; `mean` and `var` together), `count` (a
            scalar that the function does not depend on); input `(*batch, features)`.
            Only the function depends on `eps`; only training on `momentum` and `unbiased_var`.

    Returns:
        One array of the shape of the input.

    Raises:
        AxesError: sizes or axes disagree.
        UnsupportedError: one statistic without the other, or no `eps`.
    """
    x = given.input(0, least=2)
    given.may("count")
    kept = _statistics(given, x.shape[-1])
    mean, var = kept if kept is not None else _moments(x, tuple(range(x.ndim - 1)))
    return (_affine(given, _normalised(given, x, mean, var), 1),)


def instance_norm(given: Given) -> tuple[np.ndarray, ...]:
    """`y[n, p, f] = (x[n, p, f] - m) / sqrt(v + eps) * scale[f] + bias[f]`.

    `m` and `v` are mean and variance of `x[n, :, f]`, over all spatial places `p` of one sample and feature. With the roles
    `mean` and `var`, they are these, and the layer is `batch_norm` in evaluation.

    Args:
        given: roles and config as `batch_norm`; input `(batch, *spatial, features)`.

    Returns:
        One array of the shape of the input.

    Raises:
        AxesError: sizes or axes disagree.
        UnsupportedError: one statistic without the other, or no `eps`.
    """
    x = given.input(0, least=3)
    given.may("count")
    kept = _statistics(given, x.shape[-1])
    mean, var = kept if kept is not None else _moments(x, tuple(range(1, x.ndim - 1)))
    return (_affine(given, _normalised(given, x, mean, var), 1),)


def group_norm(given: Given) -> tuple[np.ndarray, ...]:
    """`y[n, p, f] = (x[n, p, f] - m) / sqrt(v + eps) * scale[f] + bias[f]`.

    `m` and `v` are mean and variance over all spatial places of one sample and all features of the group of `f`. The
    features of a group lie together, as in a grouped convolution.

    Args:
        given: roles `scale`, `bias` (each `features`, each optional); input `(batch, *spatial, features)`.
            Only the function depends on `groups` and `eps`.

    Returns:
        One array of the shape of the input.

    Raises:
        AxesError: sizes or axes disagree, or the features do not divide into the groups.
        UnsupportedError: no `eps` or no `groups`.
    """
    x = given.input(0, least=2)
    groups = given.whole("groups", 0)
    if groups < 1 or x.shape[-1] % groups:
        message = f"group_norm: {x.shape[-1]} features do not divide into {groups} groups"
        raise AxesError(message, expected=groups, found=x.shape[-1])
    grouped = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    mean, var = _moments(grouped, (*range(1, x.ndim - 1), x.ndim))
    return (_affine(given, _normalised(given, grouped, mean, var).reshape(x.shape), 1),)


def layer_norm(given: Given) -> tuple[np.ndarray, ...]:
    """`y[..., f] = (x[..., f] - m) / sqrt(v + eps) * scale[f] + bias[f]`.

    `f` runs over all axes of `features`, which are the last axes of the data, in order. `m` and `v` are mean and variance over
    the last `normalized_axes` axes, which are the axes of `features` unless the config says otherwise.

    Args:
        given: roles `scale`, `bias` (each `*features`, each optional); input `(*batch, *features)`.
            Only the function depends on `eps` and `normalized_axes`, which a layer without roles has to give.

    Returns:
        One array of the shape of the input.

    Raises:
        AxesError: sizes or axes disagree.
        UnsupportedError: no `eps`, or nothing says how many axes are normalised.
    """
    x = given.input(0, least=1)
    rank, over = _ranks(given, x)
    mean, var = _moments(x, over)
    return (_affine(given, _normalised(given, x, mean, var), rank),)


def rms_norm(given: Given) -> tuple[np.ndarray, ...]:
    """`y[..., f] = x[..., f] / sqrt(s + eps) * scale[f]`, where `s` is the mean of the squares of `x`.

    Axes as in `layer_norm`. A layer that multiplies by `1 + scale` is another function: its role holds the sum.

    Args:
        given: role `scale` (`*features`, optional); input `(*batch, *features)`.
            Only the function depends on `eps` and `normalized_axes`.

    Returns:
        One array of the shape of the input.

    Raises:
        AxesError: sizes or axes disagree.
        UnsupportedError: no `eps`, or nothing says how many axes are normalised.
    """
    x = given.input(0, least=1)
    rank, over = _ranks(given, x, bias=False)
    squares = np.mean(x * x, axis=over, keepdims=True)
    return (_affine(given, _normalised(given, x, np.zeros(()), squares), rank, bias=False),)


def _statistics(given: Given, features: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The stored mean and variance; `None` where there are none."""
    mean, var = given.may("mean", "features"), given.may("var", "features")
    if mean is None and var is None:
        return None
    if mean is None or var is None:
        raise UnsupportedError(f"{given.kind}: one of mean and var without the other", keys=("mean", "var"))
    given.same("the shapes of mean and var", (mean.shape, var.shape), ((features,), (features,)))
    return mean, var


def _moments(x: np.ndarray, over: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and biased variance over some axes, which stay with size one."""
    mean = np.mean(x, axis=over, keepdims=True)
    return mean, np.mean((x - mean) ** 2, axis=over, keepdims=True)


def _normalised(given: Given, x: np.ndarray, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    y: np.ndarray = (x - mean) / np.sqrt(var + given.real("eps"))
    return y


def _ranks(given: Given, x: np.ndarray, *, bias: bool = True) -> tuple[int, tuple[int, ...]]:
    """How many axes the features have, and which axes of the data are normalised."""
    found = [given.perhaps(role) for role in (("scale", "bias") if bias else ("scale",))]
    ranks = {len(named.axes) for named in found if named is not None}
    if len(ranks) > 1:
        raise AxesError(f"{given.kind}: scale and bias have different numbers of axes", found=sorted(ranks))
    rank = max(ranks, default=0)
    over = given.whole("normalized_axes", rank)
    if not 1 <= over <= x.ndim or rank > x.ndim:
        message = f"{given.kind}: an input of {x.ndim} axes, of which {over} are normalised and {rank} are features"
        hint = "config normalized_axes says how many of the last axes are normalised"
        raise AxesError(message, expected=over, found=x.shape, hint=hint)
    return rank, tuple(range(x.ndim - over, x.ndim))


def _affine(given: Given, y: np.ndarray, rank: int, *, bias: bool = True) -> np.ndarray:
    """`y * scale + bias` over the last `rank` axes, each where it is there."""
    name = "*features" if given.kind in ("layer_norm", "rms_norm") else "features"
    scale = given.may("scale", name)
    if scale is not None:
        given.same("the shape of the scale", scale.shape, y.shape[y.ndim - rank :])
        y = y * scale
    shift = given.may("bias", name) if bias else None
    if shift is not None:
        given.same("the shape of the bias", shift.shape, y.shape[y.ndim - rank :])
        y = y + shift
    return y
