"""Tied weights: merged where they are equal, kept where both sides tie, split only by leave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flax import nnx

import stateregistry as sr
from stateregistry.errors import PlanError


class Tied(torch.nn.Module):
    def __init__(self, *, tie: bool = True) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False)
        if tie:
            self.b.weight = self.a.weight


class NnxTied(nnx.Module):
    def __init__(self, *, tie: bool = True) -> None:
        self.a = nnx.Linear(3, 3, use_bias=False, rngs=nnx.Rngs(0))
        self.b = nnx.Linear(3, 3, use_bias=False, rngs=nnx.Rngs(1))
        if tie:
            self.b.kernel = self.a.kernel


def test_a_tie_on_both_sides_is_one_move() -> None:
    source = Tied()
    done = sr.convert(source, NnxTied())
    assert [move.target for move in done.plan.moves] == ["a/kernel"]
    assert done.target.a.kernel is done.target.b.kernel
    assert np.array_equal(np.asarray(done.target.b.kernel.get_value()), source.a.weight.detach().numpy().T)


def test_splitting_a_tie_is_a_choice() -> None:
    plan = sr.plan(Tied(), NnxTied(tie=False))
    assert [problem.problem for problem in plan.problems] == ["choice"]
    done = sr.convert(Tied(), NnxTied(tie=False), allow=("choice",))
    assert np.array_equal(np.asarray(done.target.a.kernel.get_value()), np.asarray(done.target.b.kernel.get_value()))


def test_merging_asks_for_equal_bits_before_anything_is_written() -> None:
    source, target = Tied(tie=False), NnxTied()
    before = np.asarray(target.a.kernel.get_value()).tobytes()
    with pytest.raises(PlanError, match="different bits"):
        sr.convert(source, target)
    assert np.asarray(target.a.kernel.get_value()).tobytes() == before
    with torch.no_grad():
        source.b.weight.copy_(source.a.weight)
    done = sr.convert(source, target)
    assert np.array_equal(np.asarray(done.target.b.kernel.get_value()), source.b.weight.detach().numpy().T)


def test_a_tie_that_needs_two_layouts_is_not_kept_in_a_derived_tree() -> None:
    """A square embedding tied to a square linear: Flax stores one as it is and one transposed."""
    source = torch.nn.Module()
    source.emb, source.head = torch.nn.Embedding(4, 4), torch.nn.Linear(4, 4, bias=False)
    source.head.weight = source.emb.weight
    done = sr.convert(source, to="flax-linen", allow=("choice",))
    table, kernel = done.target["params"]["emb"]["embedding"], done.target["params"]["head"]["kernel"]
    assert np.array_equal(np.asarray(table), np.asarray(kernel).T)
    assert np.array_equal(np.asarray(table), source.emb.weight.detach().numpy())
