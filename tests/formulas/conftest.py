"""What the tests of the formulas share: random state, the native forward of each framework, and what counts as equal.

State is random, nowhere symmetric and of equal sizes, so that no shape tells a wrong layout from a right one. Torch computes in
float64 and must agree to 1e-11 of the scale; Flax computes in float32 and must agree to 1e-5 of the scale. `departs` is the
opposite: a trap must be seen, far above either tolerance. No adapter is involved: every role is cut by hand.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
import torch

FLOAT64, FLOAT32, SEEN = 1e-11, 1e-5, 1e-2


class Bench:
    """Draws values and compares results."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(20)

    def draw(self, *shape: int) -> np.ndarray:
        """Values in float32, so that both precisions see the same numbers."""
        return self.rng.standard_normal(shape).astype(np.float32)

    def torch(self, module: Any) -> Any:
        """The module in float64 and in evaluation, every parameter and buffer random; variances are positive."""
        module.double().eval()
        with torch.no_grad():
            for name, value in [*module.named_parameters(), *module.named_buffers()]:
                if value.is_floating_point():
                    values = self.draw(*value.shape)
                    value.copy_(torch.tensor(np.abs(values) + 0.5 if name.endswith("var") else values))
        return module

    def filled(self, tree: Any) -> Any:
        """A tree of Linen variables with random values; variances are positive."""

        def fill(path: Any, leaf: Any) -> np.ndarray:
            values = np.asarray(self.draw(*leaf.shape))
            return np.abs(values) + np.float32(0.5) if path[-1].key == "var" else values

        return jax.tree_util.tree_map_with_path(fill, tree)

    def linen(self, module: Any, *inputs: Any, **keywords: Any) -> Any:
        """Random variables of a Linen module."""
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **keywords))
        return self.filled(shapes)

    def nnx(self, module: Any, *names: str) -> dict[str, np.ndarray]:
        """Set variables of an NNX module to random values, in place; they are told by dotted names."""
        values = {}
        for name in names:
            owner = module
            for step in name.split("."):
                owner = owner[step] if isinstance(owner, dict) else getattr(owner, step)
            value = self.draw(*owner.shape)
            values[name] = np.abs(value) + np.float32(0.5) if name.endswith("var") else value
            owner[...] = values[name]
        return values

    def agrees(self, found: np.ndarray, native: Any) -> None:
        """Equal to what the framework computes, to the precision in which it does."""
        expected = _array(native)
        assert found.dtype == np.float64
        assert found.shape == expected.shape
        tolerance = FLOAT64 if expected.dtype == np.float64 else FLOAT32
        assert _distance(found, expected) <= tolerance

    def departs(self, found: np.ndarray, native: Any) -> None:
        """Not what the framework computes, so far away that no rounding explains it, and of the same shape."""
        expected = _array(native)
        assert found.shape == expected.shape
        assert _distance(found, expected) >= SEEN


def _array(native: Any) -> np.ndarray:
    return native.detach().numpy() if isinstance(native, torch.Tensor) else np.asarray(native)


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    assert np.isfinite(expected).all()
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


@pytest.fixture
def bench() -> Bench:
    """Deterministic: every test draws the same numbers on every run."""
    return Bench()
