"""What tests of doubtful input have in common: models of one layer `fc` in every framework, and what a refused plan says."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
import torch
from flax import nnx

import stateregistry as sr
from stateregistry.errors import PlanError

S = 4
X = np.ones((2, S), np.float32)


class LinenNet(nn.Module):
    inner: Any

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return self.inner(name="fc")(x)


def linen(inner: Any, x: np.ndarray = X) -> sr.StateRegistry:
    module = LinenNet(inner)
    return sr.of(module.init(jax.random.key(0), x), module=module, args=(x,))


def torch_net(inner: Any) -> torch.nn.Module:
    return torch.nn.ModuleDict({"fc": inner})


def nnx_net(inner: Any) -> Any:
    return nnx.Dict({"fc": inner})


def told(plan: sr.Plan) -> str:
    """The problems of a plan that must not be executed."""
    assert not plan.ok
    with pytest.raises(PlanError):
        plan.require()
    return "\n".join(map(str, plan.problems))
