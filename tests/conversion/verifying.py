"""What tests of `verify` with layers have in common: a batch, how a torch net is run, and where a departure is said to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import torch

import stateregistry as sr

SIDE = 4
Forward = Callable[[np.ndarray], Any]


def data() -> np.ndarray:
    """A batch of sequences: three of five steps."""
    return np.random.default_rng(0).normal(size=(3, 5, SIDE)).astype(np.float32)


def runs(net: torch.nn.Module) -> Forward:
    def forward(x: np.ndarray) -> Any:
        with torch.no_grad():
            return net(torch.from_numpy(np.array(x)))

    return forward


def check(a: Any, b: Any, fa: Forward, fb: Forward, **options: Any) -> sr.Verification:
    return sr.verify(a, b, forward=(fa, fb, data()), **options)


def place(found: sr.Verification) -> tuple[str, str, str]:
    first = found.first_departure
    assert first is not None, str(found)
    return first.where, first.source, first.target


def converted(source: Any, module: nn.Module, **options: Any) -> Any:
    """Linen variables of a module with the state of a torch module."""
    fresh = module.init(jax.random.key(0), data())
    return sr.convert(source, of(module, fresh), allow=("choice",), **options).target


def of(module: nn.Module, variables: Any) -> sr.StateRegistry:
    return sr.of(variables, module=module, args=(data(),))


def pair_of_linears() -> tuple[torch.nn.Module, torch.nn.Module]:
    """Two torch models with the same state."""
    one, two = (torch.nn.Sequential(torch.nn.Linear(SIDE, SIDE), torch.nn.Linear(SIDE, SIDE)) for _ in range(2))
    two.load_state_dict(one.state_dict())
    return one, two
