"""The formula of multi-head scaled dot-product attention (Vaswani et al. 2017, section 3.2), self or cross.

Sequences are `(*batch, time, features)`. Heads and head dimension are axes of their own: how a framework merges them is a
matter of its declaration. Pure float64. Imports NumPy.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from stateregistry.errors import AxesError, UnsupportedError

if TYPE_CHECKING:
    from stateregistry_conformance.formulas.given import Given


def attention(given: Given) -> tuple[np.ndarray, ...]:
    """`y[t, o] = sum_hd out_kernel[o, h, d] * a[t, h, d] + out_bias[o]`, with `a[t, h] = sum_s w[h, t, s] * v[s, h]`.

    `q[t, h, d] = sum_i query_kernel[h, d, i] * query[t, i] + query_bias[h, d]`, and `k[s]`, `v[s]` likewise from key and value;
    `w[h, t, s] = softmax over s of (sum_d q[t, h, d] * k[s, h, d] / sqrt(head_dim))`.

    `extra_key` and `extra_value` are appended to `k` and `v` after the projection, as one more step `s`; after them, with
    `add_zero_attn`, one step of zeros. Both are always attended to. Keys and values may have fewer heads than queries: `n`
    heads of the query that follow one another share one (grouped-query attention).

    Args:
        given: roles `query_kernel`, `key_kernel`, `value_kernel` (each `heads head_dim in`, whose `in` may differ),
            `out_kernel` (`out heads head_dim`); optional `query_bias`, `key_bias`, `value_bias`, `extra_key`, `extra_value`
            (each `heads head_dim`), `out_bias` (`out`). Inputs: query `(*batch, t, in)`; key and value `(*batch, s, in)`, key
            is query and value is key where they are not given; a fourth input is a mask of truth values that is broadcast
            to `(*batch, heads, t, s)`, true where `t` attends to `s`.
            State depends on `heads` and `head_dim`; only the function on `causal` (no `s` after `t`) and `add_zero_attn`.

    Returns:
        One array `(*batch, t, out)`.

    Raises:
        AxesError: sizes or axes disagree.
        UnsupportedError: a role is missing, only one of the extra pair is there, or a query attends to nothing.
    """
    query = given.input(0, least=2)
    key = given.input(1, least=2) if len(given.inputs) > 1 else query
    value = given.input(2, least=2) if len(given.inputs) > 2 else key
    given.same("the batch and length of the value", value.shape[:-1], key.shape[:-1])
    given.same("the batch of the key", key.shape[:-2], query.shape[:-2])
    q, k, v = (_projected(given, name, x) for name, x in (("query", query), ("key", key), ("value", value)))
    heads, head_dim = q.shape[-2:]
    given.agrees("heads", heads)
    given.agrees("head_dim", head_dim)
    given.same("the heads and head_dim of the key", k.shape[-1], head_dim)
    given.same("the heads of the value", v.shape[-2], k.shape[-2])
    if heads % k.shape[-2]:
        message = f"attention: {heads} heads of the query do not divide into {k.shape[-2]} of the key"
        raise AxesError(message, expected=heads, found=k.shape[-2])
    allowed = _allowed(given, (*query.shape[:-2], heads, query.shape[-2], key.shape[-2]))
    k, v, allowed = _extended(given, k, v, allowed)
    k, v = (np.repeat(one, heads // one.shape[-2], axis=-2) for one in (k, v))
    scores = np.einsum("...thd,...shd->...hts", q, k) / math.sqrt(head_dim)
    attended = np.einsum("...hts,...shd->...thd", _softmax(given, scores, allowed), v)
    kernel = given.need("out_kernel", "out", "heads", "head_dim")
    given.same("heads and head_dim of out_kernel", kernel.shape[1:], attended.shape[-2:])
    y: np.ndarray = np.einsum("...thd,ohd->...to", attended, kernel)
    bias = given.may("out_bias", "out")
    if bias is None:
        return (y,)
    given.same("the shape of out_bias", bias.shape, kernel.shape[:1])
    return (y + bias,)


def _projected(given: Given, name: str, x: np.ndarray) -> np.ndarray:
    """`(*batch, time, heads, head_dim)` of one of the three inputs."""
    kernel = given.need(f"{name}_kernel", "heads", "head_dim", "in")
    given.same(f"the features of the {name}", x.shape[-1], kernel.shape[-1])
    projected: np.ndarray = np.einsum("hdi,...ti->...thd", kernel, x)
    bias = given.may(f"{name}_bias", "heads", "head_dim")
    if bias is None:
        return projected
    given.same(f"the shape of {name}_bias", bias.shape, kernel.shape[:2])
    projected += bias
    return projected


def _allowed(given: Given, shape: tuple[int, ...]) -> np.ndarray:
    """Who attends to whom, before anything is appended: `(*batch, heads, t, s)`."""
    allowed = np.ones(shape, bool)
    if len(given.inputs) > 3:
        mask = np.asarray(given.inputs[3])
        if mask.dtype != bool:
            raise UnsupportedError(f"attention: a mask of {mask.dtype}, expected truth values")
        allowed &= np.broadcast_to(mask, shape)
    if given.flag("causal", default=False):
        allowed &= np.tril(np.ones(shape[-2:], bool))
    return allowed


def _extended(
    given: Given, k: np.ndarray, v: np.ndarray, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys and values with the steps that no input has, which every query may attend to."""
    extra_key, extra_value = (given.may(f"extra_{name}", "heads", "head_dim") for name in ("key", "value"))
    if (extra_key is None) is not (extra_value is None):
        raise UnsupportedError("attention: one of extra_key and extra_value without the other")
    more: list[tuple[np.ndarray, np.ndarray]] = []
    if extra_key is not None and extra_value is not None:
        given.same("the shapes of the extra pair", (extra_key.shape, extra_value.shape), (k.shape[-2:], v.shape[-2:]))
        more.append((extra_key, extra_value))
    if given.flag("add_zero_attn", default=False):
        more.append((np.zeros(k.shape[-2:]), np.zeros(v.shape[-2:])))
    for one_key, one_value in more:
        k, v = (
            np.concatenate([old, np.broadcast_to(one, (*old.shape[:-3], 1, *one.shape))], axis=-3)
            for old, one in ((k, one_key), (v, one_value))
        )
        allowed = np.concatenate([allowed, np.ones((*allowed.shape[:-1], 1), bool)], axis=-1)
    return k, v, allowed


def _softmax(given: Given, scores: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    if not allowed.any(axis=-1).all():
        raise UnsupportedError(f"{given.kind}: a query attends to nothing, where frameworks give different results")
    masked = np.where(allowed, scores, -np.inf)
    powers = np.exp(masked - masked.max(axis=-1, keepdims=True))
    weights: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return weights
