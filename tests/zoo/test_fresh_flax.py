"""Between Linen and NNX: the fresh pairs with another NNX module of the same network, both ways, without rules.

The Linen modules are those of the zoo; the NNX modules here are written as if nobody had seen them. One is mismatched, and the
smallest difference is named.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import zoo_fresh_generative
import zoo_fresh_sequences
import zoo_fresh_tables
from flax import nnx
from zoo_fresh_tables import SIZES, digits
from zoo_pairs import TOLERANCE, Linen, Nnx, difference
from zoo_recurrent import features

import stateregistry as sr

# -------------------------------------------------------------------- wide and deep


class NnxRecommender(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, depth: int = 3) -> None:
        self.out = nnx.Linear(18, 1, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(18, use_running_average=True, rngs=rngs) for _ in range(depth)])
        self.hidden = nnx.List([nnx.Linear(18, 18, rngs=rngs) for _ in range(depth)])
        self.crosses = nnx.Linear(20, 1, rngs=rngs)
        self.categories = nnx.List([nnx.Embed(size, 6, rngs=rngs) for size in SIZES])

    def __call__(self, crossed: Any, index: Any) -> Any:
        x = jnp.concatenate([table(index[:, n]) for n, table in enumerate(self.categories)], 1)
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = nnx.relu(norm(layer(x)))
        return self.crosses(crossed) + self.out(x)


# -------------------------------------------------------------------- gated PixelCNN


class NnxGate(nnx.Module):
    def __init__(self, dim: int, size: int, *, residual: bool, rngs: nnx.Rngs) -> None:
        half, self.residual = size // 2, residual
        pads = ((half, half), (half, half)), ((0, 0), (half, half))
        self.mix = nnx.Conv(2 * dim, 2 * dim, (1, 1), rngs=rngs)
        self.rows = nnx.Conv(dim, 2 * dim, (1, half + 1), padding=pads[1], rngs=rngs)
        self.stack = nnx.Conv(dim, 2 * dim, (half + 1, size), padding=pads[0], rngs=rngs)
        self.skip = nnx.Conv(dim, dim, (1, 1), rngs=rngs)
        self.label = nnx.Embed(10, 2 * dim, rngs=rngs)

    @staticmethod
    def gate(x: Any) -> Any:
        one, two = jnp.split(x, 2, -1)
        return jnp.tanh(one) * nnx.sigmoid(two)

    def __call__(self, tall: Any, wide: Any, label: Any) -> Any:
        cond = self.label(label)[:, None, None]
        down = self.stack(tall)[:, : tall.shape[1]]
        across = self.rows(wide)[:, :, : wide.shape[2]]
        out = self.skip(self.gate(self.mix(down) + across + cond))
        return self.gate(down + cond), out + wide if self.residual else out


class NnxPixelCnn(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, depth: int = 3) -> None:
        self.final = nnx.Sequential(nnx.Linear(8, 16, rngs=rngs), nnx.relu, nnx.Linear(16, 7, rngs=rngs))
        self.embed = nnx.Embed(7, 8, rngs=rngs)
        self.gates = nnx.List([NnxGate(8, 3 if n else 7, residual=n > 0, rngs=rngs) for n in range(depth)])

    def __call__(self, x: Any, label: Any) -> Any:
        tall = wide = self.embed(x)
        for gate in self.gates:
            tall, wide = gate(tall, wide, label)
        return self.final(wide)


# -------------------------------------------------------------------- Hyena


class NnxFilter(nnx.Module):
    def __init__(self, dim: int, *, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(5, 16, rngs=rngs), nnx.Linear(16, 16, rngs=rngs)])
        self.last = nnx.Linear(16, dim, use_bias=False, rngs=rngs)
        self.sine = nnx.Param(jnp.ones((1, 16)))
        self.direct = nnx.Param(jnp.zeros((dim,)))

    def __call__(self, x: Any, z: Any) -> Any:
        for layer in self.layers:
            z = jnp.sin(self.sine[...] * layer(z))
        n = x.shape[1]
        lag = np.arange(n)[:, None] - np.arange(n)[None, :]
        kernel = jnp.where((lag >= 0)[..., None], self.last(z)[np.clip(lag, 0, None)], 0.0)
        return jnp.einsum("ijd,bjd->bid", kernel, x) + self.direct[...] * x


class NnxHyenaBlock(nnx.Module):
    def __init__(self, dim: int, *, rngs: nnx.Rngs) -> None:
        self.before = nnx.LayerNorm(dim, epsilon=1e-5, rngs=rngs)
        self.filter = NnxFilter(dim, rngs=rngs)
        self.inner = nnx.Linear(dim, 3 * dim, rngs=rngs)
        self.outer = nnx.Linear(dim, dim, rngs=rngs)
        self.short = nnx.Conv(3 * dim, 3 * dim, (3,), padding=((2, 0),), feature_group_count=3 * dim, rngs=rngs)

    def __call__(self, x: Any, z: Any) -> Any:
        x0, x1, v = jnp.split(self.short(self.inner(self.before(x))), 3, -1)
        return x + self.outer(self.filter(v * x1, z) * x0)


class NnxHyena(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, depth: int = 2) -> None:
        self.stack = nnx.List([NnxHyenaBlock(12, rngs=rngs) for _ in range(depth)])
        self.words = nnx.Embed(26, 12, rngs=rngs)

    def __call__(self, index: Any, z: Any) -> Any:
        x = self.words(index)
        for block in self.stack:
            x = block(x, z)
        return x


# -------------------------------------------------------------------- both ways

PAIRS = {
    "widedeep": (zoo_fresh_tables.LinenWideDeep, NnxRecommender, (features(3, 20), digits(3, 3, below=11))),
    "pixelcnn": (zoo_fresh_generative.LinenPixelCNN, NnxPixelCnn, (digits(2, 6, 6, below=7), digits(2, below=10))),
    "hyena": (zoo_fresh_sequences.LinenHyena, NnxHyena, (digits(2, 6, below=26), features(6, 5))),
}


@pytest.mark.parametrize("name", PAIRS)
def test_linen_and_nnx_with_foreign_names_convert_both_ways_and_compute_the_same(name: str) -> None:
    module, make, args = PAIRS[name]
    linen, nnx_side = Linen(module(), args), Nnx(lambda: make(nnx.Rngs(0)), args)
    variables, net = linen.fresh(1), nnx_side.fresh(2)
    before, there = nnx_side.run(net), linen.fresh(3)
    back = sr.convert(net, linen.registry(there)).target
    assert difference(linen.run(back), before) <= TOLERANCE
    assert difference(linen.run(there), before) > 10 * TOLERANCE
    done = sr.convert(linen.registry(variables), net)
    assert difference(nnx_side.run(done.target), linen.run(variables)) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "depth", "text"),
    [
        ("pixelcnn", 2, "the source has 3 repetitions of `gated`, the target has 2 of `gates`"),
        ("pixelcnn", 4, "the source has 3 repetitions of `gated`, the target has 4 of `gates`"),
        ("hyena", 1, "the source has 2 repetitions of `hyena` and `pre_norm`, the target has 1 of `stack`"),
        ("hyena", 5, "the source has 2 repetitions of `hyena` and `pre_norm`, the target has 5 of `stack`"),
    ],
)
def test_another_depth_is_named_once(name: str, depth: int, text: str) -> None:
    module, make, args = PAIRS[name]
    linen = Linen(module(), args)
    plan = sr.plan(linen.registry(linen.fresh(1)), make(nnx.Rngs(0), depth), allow=("assumption", "choice"))
    assert len(plan.problems) == 1, str(plan)
    assert text in str(plan)
