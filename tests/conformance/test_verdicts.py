"""What cannot pass: a check that says nothing, returns on the way, or is skipped; and blame goes to the right side."""

from __future__ import annotations

import unittest
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stateregistry import errors
from stateregistry_conformance.capabilities import CAPABILITIES
from stateregistry_conformance.check import Check
from stateregistry_conformance.declaration import CannotBuild, Declaration
from stateregistry_conformance.runner import conforms, find_harness, run, summary
from stateregistry_conformance.samples import core, square, tied
from stateregistry_conformance.subject import Subject, smoke
from stateregistry_conformance.verdict import HarnessError, Row, Status, Verdict, combined
from stateregistry_numpy.harness import frozen, mutable

if TYPE_CHECKING:
    from stateregistry.registry import StateRegistry


def _rows(body: Any, *ids: str, harness: Any = mutable) -> list[Row]:
    return list(run(harness, [Check("test.body", ids or ("SR-KEY-001",), body)]))


def test_a_check_that_says_nothing_is_untested() -> None:
    assert [row.status for row in _rows(lambda h, v: None)] == [Status.UNTESTED]


def test_a_check_that_returns_after_an_assertion_is_untested() -> None:
    def body(h: Subject, v: Verdict) -> None:
        v.holds(True, "this holds")

    assert [row.status for row in _rows(body)] == [Status.UNTESTED]


def test_a_check_that_passes_without_an_assertion_is_an_error_of_the_suite() -> None:
    rows = _rows(lambda h, v: v.passed())
    assert [row.status for row in rows] in ([Status.ERROR], [Status.FAIL])


@pytest.mark.parametrize("skip", [unittest.SkipTest("no"), pytest.skip.Exception("no"), SystemExit(0)])
def test_a_skip_in_a_check_does_not_pass(skip: BaseException) -> None:
    def body(h: Subject, v: Verdict) -> None:
        v.holds(True, "this holds")
        raise skip

    rows = _rows(body, "SR-KEY-001", "SR-KEY-002")
    assert [row.status for row in rows] == [Status.FAIL, Status.UNTESTED]


@pytest.mark.parametrize("skip", [unittest.SkipTest("no"), pytest.skip.Exception("no"), SystemExit(0), ValueError("x")])
def test_a_skip_in_a_harness_is_an_error_of_the_harness(skip: BaseException, disguised: Any) -> None:
    def body(h: Subject, v: Verdict) -> None:
        h.build(core())
        v.holds(True, "not reached")
        v.passed()

    def build(declaration: Declaration) -> Any:
        raise skip

    broken = disguised(mutable, mutable.registry)
    broken.build = build
    (row,) = _rows(body, harness=broken)
    assert row.status is Status.ERROR
    assert "of the harness raised" in row.detail


def test_a_failure_ends_the_check_and_the_rest_is_untested() -> None:
    def body(h: Subject, v: Verdict) -> None:
        v.equal(1, 2, "one")
        v.passed()

    rows = _rows(body, "SR-KEY-001", "SR-KEY-002")
    assert [row.status for row in rows] == [Status.FAIL, Status.UNTESTED]
    assert rows[0].detail == "one: expected 2, found 1"
    assert "test.body" in rows[0].repro


def test_an_exception_of_the_adapter_is_a_failure_and_one_of_the_suite_an_error(disguised: Any) -> None:
    def registry(model: Any) -> StateRegistry:
        raise RuntimeError("a framework broke")

    def body(h: Subject, v: Verdict) -> None:
        h.registry(h.build(core()))

    (row,) = _rows(body, harness=disguised(mutable, registry))
    assert row.status is Status.FAIL
    assert "a framework broke" in row.detail


def test_a_capability_that_is_claimed_and_not_kept_is_a_failure(disguised: Any) -> None:
    def build(declaration: Declaration) -> Any:
        if declaration.ties:
            raise CannotBuild("no ties here")
        return mutable.build(declaration)

    def body(h: Subject, v: Verdict) -> None:
        h.registry(h.build(tied()))
        v.holds(True, "not reached")
        v.passed()

    liar = disguised(mutable, mutable.registry)
    liar.build = build
    (row,) = _rows(body, harness=liar)
    assert row.status is Status.FAIL
    assert "claims" in row.detail


def test_a_capability_whose_probe_is_missing_is_a_failure() -> None:
    class NoFault:
        name, adapter_version, capabilities = "x", "0", frozenset(CAPABILITIES)
        build, registry, peek, poke, cell = mutable.build, mutable.registry, mutable.peek, mutable.poke, mutable.cell

    red = {row.requirement for row in run(NoFault()) if row.status is Status.FAIL}
    assert {"SR-ATOM-005", "SR-KIND-006"} <= red
    assert len(red) <= 6, red


def test_a_core_requirement_whose_probe_is_missing_is_untested_and_not_conformant() -> None:
    class Bare:
        name, adapter_version = "x", "0"
        capabilities = frozenset(CAPABILITIES) - {"fault", "native_trainable"}
        build, registry, peek, poke, cell = mutable.build, mutable.registry, mutable.peek, mutable.poke, mutable.cell

    rows = run(Bare())
    statuses = summary(rows)
    assert statuses["SR-LIST-012"] is Status.UNTESTED
    assert statuses["SR-KEY-006"] is Status.UNTESTED
    assert not conforms(rows)
    assert not [row for row in rows if row.status is Status.ERROR]


@pytest.mark.parametrize("base", [mutable, frozen], ids=lambda base: base.name)
@pytest.mark.parametrize("capability", sorted(CAPABILITIES))
def test_the_reference_is_green_with_each_capability_switched_off(base: Any, capability: str, disguised: Any) -> None:
    if capability not in base.capabilities:
        assert conforms(run(base))
        return
    less = disguised(base, base.registry)
    less.capabilities = base.capabilities - {capability}
    without = {"native_trainable": "SR-KIND-005"}.get(capability)
    bad = {
        row.requirement: row.detail
        for row in run(less)
        if row.status not in {Status.PASS, Status.NOT_APPLICABLE} and row.requirement != without
    }
    assert bad == {}


def test_the_worst_verdict_counts() -> None:
    assert combined([]) is Status.UNTESTED
    assert combined([Status.PASS, Status.NOT_APPLICABLE]) is Status.PASS
    assert combined([Status.NOT_APPLICABLE]) is Status.NOT_APPLICABLE
    assert combined([Status.PASS, Status.UNTESTED]) is Status.UNTESTED
    assert combined([Status.UNTESTED, Status.ERROR]) is Status.ERROR
    assert combined([Status.ERROR, Status.FAIL, Status.PASS]) is Status.FAIL


def test_a_requirement_without_a_row_is_untested_in_the_summary() -> None:
    statuses = summary(())
    assert statuses["SR-KEY-001"] is Status.UNTESTED
    assert "SR-CONV-001" not in statuses
    assert not conforms(())


class TestSmoke:
    """A harness that is wrong by itself says nothing about its adapter."""

    def test_what_is_no_harness_is_refused(self) -> None:
        with pytest.raises(HarnessError, match="has no name"):
            smoke(object())  # type: ignore[arg-type]

    def test_an_unknown_capability_is_refused(self, disguised: Any) -> None:
        liar = disguised(mutable, mutable.registry)
        liar.capabilities = mutable.capabilities | {"dtype.float4"}
        with pytest.raises(HarnessError, match=r"dtype\.float4"):
            smoke(liar)

    def test_the_same_model_twice_is_refused(self, disguised: Any) -> None:
        model = mutable.build(core())
        liar = disguised(mutable, mutable.registry)
        liar.build = lambda declaration: model
        with pytest.raises(HarnessError, match="second model"):
            smoke(liar)

    def test_a_peek_that_lends_memory_is_refused(self, disguised: Any) -> None:
        liar = disguised(mutable, mutable.registry)
        liar.peek = lambda model, key: mutable.cell(model, key).array  # type: ignore[attr-defined]
        with pytest.raises(HarnessError, match="what peek gave"):
            smoke(liar)

    def test_a_poke_that_does_nothing_is_refused(self, disguised: Any) -> None:
        liar = disguised(mutable, mutable.registry)
        liar.poke = lambda model, key, value: model
        with pytest.raises(HarnessError, match="does not see what poke wrote"):
            smoke(liar)

    def test_a_build_that_ignores_values_is_refused(self, disguised: Any) -> None:
        def build(declaration: Declaration) -> Any:
            model = mutable.build(declaration)
            for _, cell in model.cells():
                cell.array[...] = 0
            return model

        liar = disguised(mutable, mutable.registry)
        liar.build = build
        with pytest.raises(HarnessError, match="not what was declared"):
            smoke(liar)

    def test_a_harness_that_cannot_build_the_core_is_refused(self, disguised: Any) -> None:
        def build(declaration: Declaration) -> Any:
            raise CannotBuild("nothing")

        liar = disguised(mutable, mutable.registry)
        liar.build = build
        with pytest.raises(HarnessError, match="core declaration"):
            smoke(liar)


class TestAssertions:
    def test_same_tells_bits_apart(self) -> None:
        v = Verdict(("SR-KEY-001",))
        nan = np.array([np.nan], np.float32)
        v.same(nan, nan.copy(), "nan")
        other = (nan.view(np.uint32) + 1).view(np.float32)
        for found, expected in (
            (other, nan),
            (np.array([0.0]), np.array([-0.0])),
            (np.zeros(1), np.zeros(())),
            (np.zeros(1, np.float32), np.zeros(1)),
            ([0.0], np.zeros(1)),
        ):
            with pytest.raises(Exception, match="expected"):
                v.same(found, expected, "bits")

    def test_refuses_wants_the_class_and_an_exception(self) -> None:
        v = Verdict(("SR-KEY-001",))
        with v.refuses(errors.StateError, "fine"):
            raise errors.KeyPathError("x")
        with pytest.raises(Exception, match="nothing was raised"), v.refuses(errors.StateError, "nothing"):
            pass
        with pytest.raises(Exception, match="found ValueError"), v.refuses(errors.StateError, "other"):
            raise ValueError("x")


def test_every_harness_by_name_passes_the_smoke_test() -> None:
    for name in ("numpy", "numpy-frozen"):
        assert find_harness(name).name == name
    assert square().entries().keys() == {"p", "q", "b", "c"}
