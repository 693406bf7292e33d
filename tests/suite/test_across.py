"""Moves between adapters: a bug of the adapter under test fails for it, a broken or missing partner is nobody's fault."""

from __future__ import annotations

import importlib.metadata

import pytest
from mutants import corpus

from stateregistry_conformance import across
from stateregistry_conformance.checks import CHECKS
from stateregistry_conformance.runner import run
from stateregistry_conformance.verdict import Status
from stateregistry_numpy.harness import FrozenHarness, MutableHarness
from stateregistry_numpy.registry import MutableRegistry

MOVES = CHECKS["across.state_moves_to_every_installed_adapter_and_back"]


class Point:
    """An entry point of the group of harnesses."""

    def __init__(self, name, load):
        self.name, self.load = name, load


@pytest.fixture
def installed(monkeypatch):
    """Lets these be the installed harnesses."""

    def set_(**harnesses):
        points = [Point(name, load) for name, load in harnesses.items()]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: points)

    return set_


def statuses(harness):
    return {row.requirement: (row.status, row.detail) for row in run(harness, [MOVES])}


def test_state_moves_between_the_references(installed):
    installed(frozen=FrozenHarness)
    assert {status for status, _ in statuses(MutableHarness()).values()} == {Status.PASS}


@pytest.mark.parametrize(
    "name", ["m-dtype-int64-via-float64", "m-snap-counters-not-persistent", "m-alias-first-declared"]
)
def test_a_bug_is_found_by_a_partner(name, installed):
    installed(frozen=FrozenHarness)
    (mutant,) = (one for one in corpus.all_mutants() if one.id == name)
    status, detail = statuses(mutant.harness())["SR-SNAP-007"]
    assert status is Status.FAIL
    assert "numpy" in detail


class Wrong(MutableRegistry):
    """Lists nothing."""

    def _entries(self):
        return {}


class WrongPartner(MutableHarness):
    name = "wrong"

    def registry(self, model):
        return Wrong(model)


def missing():
    raise ImportError("no such framework")


class NeedsAFramework(MutableHarness):
    name = "needy"

    def build(self, declaration):
        raise ModuleNotFoundError("No module named 'framework'")


def test_a_partner_that_is_broken_or_missing_is_left_out_and_the_others_decide(installed):
    installed(frozen=FrozenHarness, missing=missing, needy=NeedsAFramework, wrong=WrongPartner)
    assert {status for status, _ in statuses(MutableHarness()).values()} == {Status.PASS}


def test_without_a_partner_nothing_is_decided_and_the_reasons_are_told(installed):
    installed(missing=missing, needy=NeedsAFramework, wrong=WrongPartner, itself=MutableHarness)
    for status, detail in statuses(MutableHarness()).values():
        assert status is Status.NOT_APPLICABLE
        assert "missing: cannot be used: ImportError: no such framework" in detail
        assert "needy: cannot be used: HarnessError" in detail
        assert "wrong with 'core': NotHeld" in detail


def test_every_dtype_and_every_shape_is_moved():
    from stateregistry.entry import DTYPES

    assert set(across.declarations()) == {"core", "square", "shapes", "large", "tied", "transient", *DTYPES}
