"""Layers in a few letters, as the fresh pairs of several tables write them: epsilons, heads and paddings of torch in Flax."""

from __future__ import annotations

from typing import Any

import jax
import torch
from flax import linen as nn

#: The width of small transformers, and how many heads they have.
C, H = (16, 4)


def D(f: Any, name: Any = None, b: Any = True) -> Any:
    return nn.Dense(f, use_bias=b, name=name)


def BN(name: Any = None) -> Any:
    return nn.BatchNorm(use_running_average=True, epsilon=1e-05, name=name)


def LN(name: Any = None, **k: Any) -> Any:
    return nn.LayerNorm(epsilon=1e-05, name=name, **k)


def same(k: Any = 3, d: Any = 1) -> Any:
    p = k // 2 * d
    return ((p, p), (p, p))


def heads(x: Any, h: Any = H) -> Any:
    return (
        x.reshape(*x.shape[:-1], h, x.shape[-1] // h).transpose(1, 2)
        if isinstance(x, torch.Tensor)
        else x.reshape(*x.shape[:-1], h, x.shape[-1] // h).swapaxes(1, 2)
    )


def merge(x: Any) -> Any:
    return (
        x.transpose(1, 2).flatten(2)
        if isinstance(x, torch.Tensor)
        else x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)
    )


def tatt(q: Any, k: Any, v: Any) -> Any:
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** (-0.5), -1) @ v


def jatt(q: Any, k: Any, v: Any) -> Any:
    return jax.nn.softmax(q @ k.swapaxes(-1, -2) * q.shape[-1] ** (-0.5)) @ v
