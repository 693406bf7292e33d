"""The capability `layers`: who claims it is tried, who does not is told so, and whose fault it is when it cannot be tried."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stateregistry_conformance.capabilities import CAPABILITIES
from stateregistry_conformance.checks import CHECKS
from stateregistry_conformance.claims import CLAIMS, UNDECLARED, UNTRIED
from stateregistry_conformance.levels import CAPABLE, FULL, level
from stateregistry_conformance.runner import conforms, run
from stateregistry_conformance.verdict import Row, Status
from stateregistry_numpy.harness import FrozenHarness, MutableHarness

CHAPTER = [CLAIMS["claims.layers"], *(one for one in CHECKS.values() if one.ids[0].startswith("SR-LAYER"))]


def rows(harness: Any) -> list[Row]:
    return list(run(harness, CHAPTER))


def about(harness: Any) -> Row:
    return next(row for row in rows(harness) if row.check == "claims.layers" and not row.requirement)


class Without:
    """The reference without a probe for layers: the five members and nothing else."""

    name, adapter_version = "numpy", "0"
    capabilities = frozenset(CAPABILITIES) - {"layers", "fault", "native_trainable"}
    build, registry, peek = MutableHarness().build, MutableHarness().registry, MutableHarness().peek
    poke, cell = MutableHarness().poke, MutableHarness().cell


@pytest.mark.parametrize("harness", [Without(), FrozenHarness()], ids=["mutable", "frozen"])
def test_layers_that_nobody_can_try_are_told_and_bind_nobody(harness: Any) -> None:
    found = about(harness)
    assert (found.status, found.note) == (Status.NOT_APPLICABLE, UNTRIED)
    assert "declares layers: untested" in found.detail
    assert {row.status for row in rows(harness)} == {Status.NOT_APPLICABLE}


def test_a_level_needs_layers_only_where_they_are_claimed(made: Any) -> None:
    less = tuple(name for name in CAPABILITIES if name != "layers")
    found = level(made(capabilities=less, notes={"claims.layers": UNTRIED}))
    assert (found.name, found.capabilities) == (FULL, less)
    assert level(made({"SR-LAYER-012": Status.FAIL})).name == "none"
    assert "layers" in level(made()).capabilities
    assert level(made(capabilities=less, notes={"claims.layers": "refused"})).name == CAPABLE


def test_a_claim_without_a_probe_is_one_failure_of_the_harness() -> None:
    class Boasts(Without):
        capabilities = Without.capabilities | {"layers"}

    found = rows(Boasts())
    assert (about(Boasts()).status, about(Boasts()).blame) == (Status.FAIL, "harness")
    assert [(row.requirement, row.blame) for row in found if row.status is Status.FAIL and row.requirement] == [
        ("SR-LAYER-002", "harness")
    ]
    assert {row.status for row in found if row.requirement != "SR-LAYER-002"} == {Status.FAIL, Status.UNTESTED}


def test_a_probe_without_a_claim_is_a_support_that_nobody_tested() -> None:
    class Modest(MutableHarness):
        capabilities = frozenset(CAPABILITIES) - {"layers"}

    found = about(Modest())
    assert (found.status, found.note, found.blame) == (Status.UNTESTED, UNDECLARED, "harness")
    assert not conforms(rows(Modest()))


def test_a_kind_of_the_table_that_the_harness_leaves_out_is_untested() -> None:
    class Lazy(MutableHarness):
        def layer_kinds(self) -> Any:
            return ("linear", "batch_norm")

    (row,) = [row for row in rows(Lazy()) if row.requirement == "SR-LAYER-002"]
    assert row.status is Status.UNTESTED
    assert "conv, embedding, layer_norm" in row.detail


def test_a_kind_that_is_named_and_not_built_is_a_false_claim() -> None:
    class Names(MutableHarness):
        def layer_kinds(self) -> Any:
            return (*super().layer_kinds(), "lstm")

    (row,) = [row for row in rows(Names()) if row.requirement == "SR-LAYER-002"]
    assert (row.status, row.blame) == (Status.FAIL, "harness")
    assert "lstm" in row.detail


def test_a_kind_of_no_vocabulary_is_an_error_of_the_harness() -> None:
    class Invents(MutableHarness):
        def layer_kinds(self) -> Any:
            return ("dense",)

    found = [row for row in rows(Invents()) if row.requirement]
    assert {(row.status, row.blame) for row in found if row.status is not Status.NOT_APPLICABLE} == {
        (Status.ERROR, "harness")
    }


@pytest.mark.parametrize(
    "given",
    [lambda y: y * np.nan, lambda y: y.astype(np.float16), lambda y: y.tolist(), lambda y: 1 / 0],
    ids=["no number", "too narrow", "a list", "raises"],
)
def test_a_forward_that_gives_nothing_to_compare_is_an_error_of_the_harness(given: Any) -> None:
    class Breaks(MutableHarness):
        def layer_kinds(self) -> Any:
            return ("linear",)

        def layer_forward(self, model: Any, inputs: Any, /) -> Any:
            return given(super().layer_forward(model, inputs))

    (row,) = [row for row in rows(Breaks()) if row.requirement == "SR-LAYER-012"]
    assert (row.status, row.blame) == (Status.ERROR, "harness")
    assert "forward" in row.detail


def test_a_forward_that_is_not_the_layers_is_a_failure() -> None:
    class Lies(MutableHarness):
        def layer_forward(self, model: Any, inputs: Any, /) -> Any:
            return super().layer_forward(model, inputs) * np.float32(1.01)

    (row,) = [row for row in rows(Lies()) if row.requirement == "SR-LAYER-002"]
    assert row.status is Status.FAIL
    assert "departs from the formula" in row.detail


class Notes(MutableHarness):
    """The reference, whose linear layers have a further name in their config."""

    def __init__(self, name: str) -> None:
        self.further = name

    def registry(self, model: Any, /) -> Any:
        registry = super().registry(model)
        further = self.further

        class Noted(type(registry)):
            def _layers(self) -> Any:
                told = super()._layers()
                return tuple(replace(layer, config={**layer.config, further: True}) for layer in told)

        return Noted(model)


@pytest.mark.parametrize(("name", "failed"), [("numpy.blocked", set()), ("blocked", {"SR-LAYER-008"})])
def test_a_config_name_beyond_the_table_is_told_by_its_dot(name: str, failed: set[str]) -> None:
    found = {row.requirement for row in rows(Notes(name)) if row.status is Status.FAIL}
    assert found == failed
