"""What hangs on a question is no problem of its own, whichever side is fused: the answer settles all of it."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import torch
from flax import linen

import stateregistry as sr

SIZE = 6
ALLOW = ("choice", "assumption")
INPUT = np.random.default_rng(5).normal(size=(2, 4, SIZE)).astype(np.float32)


class Relative(torch.nn.Module):
    """Query, key and value are one array; another projection is as large as each of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.qkv_net = torch.nn.Linear(SIZE, 3 * SIZE, bias=False)
        self.net = torch.nn.Linear(SIZE, SIZE, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv_net(x).chunk(3, -1)
        return torch.softmax(query @ (key + torch.tanh(self.net(x))).transpose(-1, -2), -1) @ value


class LinenRelative(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        query, first, second, value = (
            linen.Dense(SIZE, use_bias=False, name=name)(x) for name in ("query", "gamma", "delta", "value")
        )
        return linen.softmax(query @ (first + linen.tanh(second)).swapaxes(-1, -2)) @ value


def sides() -> tuple[torch.nn.Module, Any]:
    net = LinenRelative()
    return Relative(), sr.of(net.init(jax.random.key(0), INPUT), module=net, args=(INPUT,))


def run(model: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(x)).numpy()


def test_the_same_is_asked_there_and_back_and_nothing_beside_it() -> None:
    one, two = sides()
    for source, target in ((one, two), (two, one)):
        plan = sr.plan(source, target, allow=ALLOW)
        assert [problem.problem for problem in plan.problems] == ["ambiguous"], str(plan)


def test_nothing_that_hangs_on_a_question_is_left_out_where_leaving_out_is_allowed() -> None:
    one, two = sides()
    for source, target in ((one, two), (two, one)):
        plan = sr.plan(source, target, allow=(*ALLOW, "missing", "unexpected", "lossy"))
        assert not plan.ok


def test_a_forward_pass_answers_it_both_ways() -> None:
    net = LinenRelative()
    model, target = sides()
    done = sr.convert(model, target, allow=ALLOW, forward=(lambda x: run(model, x), net.apply, INPUT))
    np.testing.assert_allclose(net.apply(done.target, INPUT), run(model, INPUT), atol=1e-5)
    other = Relative()
    source = target.unwrap()
    back = sr.convert(target, other, allow=ALLOW, forward=(lambda x: net.apply(source, x), run, INPUT))
    np.testing.assert_allclose(run(back.target, INPUT), net.apply(source, INPUT), atol=1e-5)
