"""Tied weights: merged where they are equal, kept where both sides tie, split only by leave."""

from __future__ import annotations

import flax.linen as nn
import jax
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
    assert {problem.problem for problem in plan.problems} == {"choice"}
    assert all("not tied" in problem.text for problem in plan.problems)
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


def test_a_tie_comes_back_from_a_tree_that_cannot_hold_it() -> None:
    """An embedding tied to its output head: Flax holds two arrays, one transposed, and both must be one again."""

    class Lm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte, self.lm = torch.nn.Embedding(4, 4), torch.nn.Linear(4, 4, bias=False)
            self.lm.weight = self.wte.weight

    class LinenLm(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4, use_bias=False, name="lm")(nn.Embed(4, 4, name="wte")(x))

    source = Lm()
    index = np.array([0, 3])
    target = sr.of(LinenLm().init(jax.random.key(0), index), module=LinenLm(), args=(index,))
    there = sr.convert(source, target, allow=("choice",))
    made = sr.of(there.target, module=LinenLm(), args=(index,))
    back = sr.convert(made, Lm())
    assert torch.equal(back.target.lm.weight, source.lm.weight)
    broken = made.replace({"lm/kernel": made.read("lm/kernel") + 1})
    broken = sr.of(broken.unwrap(), module=LinenLm(), args=(index,))
    with pytest.raises(PlanError, match="different bits"):
        sr.convert(broken, Lm())


def test_a_derived_linen_tree_has_every_path_of_a_tie() -> None:
    done = sr.convert(Tied(), to="flax-linen", allow=("choice",))
    assert set(done.target["params"]) == {"a", "b"}
    assert {problem.problem for problem in sr.plan(Tied(), to="flax-linen").problems} == {"choice"}


def test_a_derived_nnx_state_has_every_path_of_a_tie() -> None:
    done = sr.convert(Tied(), to="flax-nnx")
    model = NnxTied(tie=False)
    nnx.update(model, done.target)
    assert np.array_equal(np.asarray(model.a.kernel.get_value()), np.asarray(model.b.kernel.get_value()))


def test_the_residual_of_a_tied_layer_is_fresh_under_every_name() -> None:
    class Shared(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.z = torch.nn.BatchNorm1d(3)
            self.b = self.z

    source = Shared()
    source.z.num_batches_tracked.fill_(5)
    there = sr.convert(source, to="flax-nnx", allow=("choice",))
    assert sum(move.op == "drop" for move in there.plan.moves) == 1
    back = sr.convert(_as_nnx(there.target), Shared(), residual=there.residual)
    assert back.receipt.stale == ()
    assert back.target.b.num_batches_tracked.item() == 5


def _as_nnx(state):
    class Shared(nnx.Module):
        def __init__(self) -> None:
            self.b = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
            self.z = self.b

    model = Shared()
    nnx.update(model, state)
    return model


def test_a_residual_is_carried_over_a_conversion_that_has_no_use_for_it(tmp_path) -> None:
    source = torch.nn.Sequential(torch.nn.BatchNorm1d(3))
    source[0].num_batches_tracked.fill_(77)
    sr.convert(source, to="flax-linen", out=tmp_path / "b.msgpack", allow=("choice",))
    sr.convert(tmp_path / "b.msgpack", to="flax-linen", out=tmp_path / "c.safetensors")
    sr.convert(tmp_path / "c.safetensors", to="torch", out=tmp_path / "d.pt")
    with sr.open(tmp_path / "d.pt") as file:
        assert file.read("0/num_batches_tracked") == 77
