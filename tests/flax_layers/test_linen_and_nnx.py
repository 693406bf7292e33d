"""Linen to NNX and back: the same function on both sides, and the same bytes after the way back."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CASES, assert_close
from flax import nnx

import stateregistry as sr
from stateregistry import errors

EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
GRU = next(case for case in CASES if case.kind == "gru")


def linen(case, seed=0):
    """Without the bias that NNX has no place for."""
    reg = case.linen_registry(seed)
    return reg.replace({"hn/bias": np.zeros_like(reg.read("hn/bias"))}) if case is GRU else reg


def bits(reg):
    return {key: value.tobytes() for key, value in sr.snapshot(reg).items() if not reg[key].rng}


@EACH
def test_linen_to_nnx_computes_the_same_and_comes_back_bit_for_bit(case):
    source = linen(case)
    done = sr.convert(source, case.nnx_registry(1))
    assert_close(case.run_nnx(done.target), case.run_linen(source.unwrap()))
    back = sr.convert(done.target, case.linen_registry(2), residual=done.residual)
    assert bits(sr.of(back.target)) == bits(source)


@EACH
def test_nnx_to_linen_computes_the_same_and_comes_back_bit_for_bit(case):
    source = case.nnx_registry()
    done = sr.convert(source, case.linen_registry(1))
    assert_close(case.run_linen(done.target), case.run_nnx(source.unwrap()))
    target = case.linen_registry(2)
    there = target.replace(sr.snapshot(sr.of(done.target)))
    back = sr.convert(there, case.nnx_registry(3), residual=done.residual)
    assert bits(sr.of(back.target)) == bits(source)


#: What `to=` gives a plain module of, as the dialect alone gives names and layouts: other types hold the same otherwise.
DERIVED = [
    case
    for case in CASES
    if case.name not in ("lstm", "several features out", "several features in and out", "einsum")
    and "transpose_kernel=True" not in case.name
]


@pytest.mark.parametrize("case", DERIVED, ids=lambda case: case.name)
def test_a_derived_tree_is_what_the_other_framework_computes_with(case):
    source = linen(case)
    made = sr.convert(source, to="flax-nnx").target
    values = {"/".join(map(str, path)): np.asarray(leaf.get_value()) for path, leaf in nnx.to_flat_state(made)}
    model = case.nnx_registry(1).replace(values).unwrap()
    assert_close(case.run_nnx(model), case.run_linen(source.unwrap()))
    back = sr.convert(model, to="flax-linen").target
    assert_close(case.run_linen(back), case.run_linen(source.unwrap()))


def test_the_second_bias_of_gate_n_is_impossible_in_nnx_unless_it_is_zero():
    source, target = GRU.linen_registry(), GRU.nnx_registry(1)
    plan = sr.plan(source, target)
    assert [condition.test for condition in plan.conditions] == ["zero"]
    assert "5594" in plan.conditions[0].reason
    before = bits(target)
    with pytest.raises(errors.PlanError, match="not zero"):
        plan.execute(source, target)
    assert bits(target) == before


def test_nnx_fills_the_bias_that_it_does_not_have_with_zero():
    done = sr.convert(GRU.nnx_registry(), GRU.linen_registry(1))
    assert not np.asarray(done.target["params"]["hn"]["bias"]).any()
