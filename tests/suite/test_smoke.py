"""The smoke checks and the claims: honest harnesses pass, each lie is met by the check that is about it, mutants pass."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mutants import corpus, liars

from stateregistry.errors import UnsupportedError
from stateregistry_conformance.capabilities import CAPABILITIES
from stateregistry_conformance.claims import ABSENT, CLAIMS, REFUSED, UNDECLARED, UNPROBED
from stateregistry_conformance.declaration import CannotBuild, Declaration
from stateregistry_conformance.runner import GROUP, run
from stateregistry_conformance.smoke import LENIENT, SMOKE
from stateregistry_conformance.verdict import Row, Status
from stateregistry_numpy.harness import FrozenHarness, MutableHarness
from stateregistry_numpy.registry import MutableRegistry

OURS = [point for point in importlib.metadata.entry_points(group=GROUP) if point.dist.name == "stateregistry"]
GOOD = {Status.PASS, Status.NOT_APPLICABLE}

#: The check that a lie is met by. What is not here ends the process or is no harness, and is tried elsewhere.
MET_BY = {
    "l-claims-a-capability": "claims.dtype.bfloat16",
    "l-claims-ties": "smoke.claimed_ties_are_ties",
    "l-disclaims-ties": "claims.ties",
    "l-disclaims-everything": "claims.dtype.bfloat16",
    "l-invents-a-capability": "smoke.it_says_who_it_is",
    "l-changes-its-capabilities": "smoke.it_says_who_it_is",
    "l-fault-that-does-not-fail": "smoke.a_fault_makes_the_native_write_fail",
    "l-one-model-for-all": "smoke.it_builds_fresh_models_of_what_is_declared",
    "l-new-models-with-old-arrays": "smoke.it_builds_fresh_models_of_what_is_declared",
    "l-builds-zeros": "smoke.it_builds_fresh_models_of_what_is_declared",
    "l-builds-something-easier": "smoke.it_builds_fresh_models_of_what_is_declared",
    "l-cannot-build-anything": "smoke.it_builds_fresh_models_of_what_is_declared",
    "l-build-raises": "smoke.it_builds_fresh_models_of_what_is_declared",
    "l-peeks-through-the-adapter": "smoke.side_doors_do_not_go_through_the_adapter",
    "l-pokes-through-the-adapter": "smoke.side_doors_do_not_go_through_the_adapter",
    "l-pokes-nothing": "smoke.peek_sees_what_poke_wrote",
    "l-peeks-into-the-past": "smoke.peek_sees_what_poke_wrote",
    "l-peeks-at-the-memory": "smoke.peek_sees_what_poke_wrote",
    "l-agrees-with-everything": "smoke.it_builds_fresh_models_of_what_is_declared",
    "l-one-cell-for-all": "smoke.a_cell_is_one_object",
    "l-a-new-cell-each-time": "smoke.a_cell_is_one_object",
    "l-describes-nothing": "smoke.a_description_tells_places_apart",
    "l-fingerprints-nothing": "smoke.a_fingerprint_sees_a_native_write",
    "l-trains-nothing": "smoke.a_training_step_changes_what_is_trained",
    "l-trains-everything": "smoke.a_training_step_changes_what_is_trained",
    "l-adds-nothing": "smoke.what_is_added_is_there_and_what_is_dropped_is_gone",
    "l-harmless-specimens": "smoke.a_specimen_holds_what_it_declares",
    "l-registry-of-another-model": "smoke.the_registry_is_over_the_model",
    "l-registry-of-a-copy": "smoke.the_registry_is_over_the_model",
    "l-registry-is-a-dict": "smoke.the_registry_is_of_the_adapter_that_is_named",
    "l-registry-of-the-reference": "smoke.the_registry_is_of_the_adapter_that_is_named",
    "l-without-a-name": "smoke.it_says_who_it_is",
    "l-under-a-false-name": "smoke.the_registry_is_of_the_adapter_that_is_named",
    "l-name-is-no-text": "smoke.it_says_who_it_is",
}


def rows(harness: Any) -> dict[str, Row]:
    return {row.check: row for row in run(harness, [*SMOKE.values(), *CLAIMS.values()]) if not row.requirement}


@pytest.mark.parametrize("point", OURS, ids=lambda point: point.name)
def test_an_honest_harness_passes(point):
    bad = {name: row.detail for name, row in rows(point.load()).items() if row.status not in GOOD}
    assert bad == {}


def test_every_smoke_check_passes_on_the_reference_and_none_says_nothing():
    passed = {name for harness in (MutableHarness(), FrozenHarness()) for name, row in rows(harness).items()
              if row.status is Status.PASS}  # fmt: skip
    assert passed >= set(SMOKE)


@pytest.mark.parametrize("liar", [liar for liar in liars.all_liars() if liar.id in MET_BY], ids=lambda liar: liar.id)
def test_a_lie_is_met_by_the_check_that_is_about_it_and_blamed_on_the_harness(liar):
    row = rows(liar.harness())[MET_BY[liar.id]]
    assert row.status not in GOOD
    assert row.blame == "harness"
    assert row.detail


def test_every_harmless_liar_is_met():
    """What is no harness at all is refused before any check."""
    assert {liar.id for liar in liars.all_liars() if not liar.hazard} - set(MET_BY) == {"l-half-a-harness"}


def test_every_smoke_check_meets_some_lie():
    assert set(SMOKE) - set(MET_BY.values()) == {
        "smoke.a_claimed_dtype_is_built_bit_for_bit",
        "smoke.a_native_flag_is_kept",
    }


@pytest.mark.parametrize("mutant", corpus.all_mutants(), ids=lambda mutant: mutant.id)
def test_a_broken_adapter_is_not_blamed_on_its_harness(mutant):
    """Else a run would end before the directed checks could name the requirement."""
    bad = {name: row.detail for name, row in rows(mutant.harness()).items() if name in SMOKE and row.status not in GOOD}
    assert bad == {}


class Rounding(MutableHarness):
    """Builds what it claims with fewer bits."""

    def build(self, declaration: Declaration, /) -> Any:
        model = super().build(declaration)
        for _, cell in model.cells():
            if cell.concrete and cell.dtype.name == "float64":
                cell.array[...] = cell.array.astype("float32")
        return model


class Forgetful(MutableHarness):
    def poke_trainable(self, model: Any, key: str, flag: bool, /) -> Any:
        return model


class Generous(MutableHarness):
    """Sets every flag."""

    def poke_trainable(self, model: Any, key: str, flag: bool, /) -> Any:
        for _, cell in model.cells():
            if hasattr(cell, "trainable"):
                cell.trainable = flag
        return model


class Lending(MutableHarness):
    """`poke` keeps the array that it was given."""

    def poke(self, model: Any, key: str, value: Any, /) -> Any:
        self._reach(model, key).array = value
        return model


class SkippingSpecimens(MutableHarness):
    asked = 0

    def specimen(self, name: str, /) -> Any:
        self.asked += 1
        if self.asked % 2:
            return super().specimen(name)
        raise CannotBuild("once is enough")


@pytest.mark.parametrize(
    ("harness", "check"),
    [
        (Rounding, "smoke.a_claimed_dtype_is_built_bit_for_bit"),
        (Forgetful, "smoke.a_native_flag_is_kept"),
        (Generous, "smoke.a_native_flag_is_kept"),
        (Lending, "smoke.peek_sees_what_poke_wrote"),
        (SkippingSpecimens, "smoke.a_specimen_holds_what_it_declares"),
    ],
)
def test_further_lies_are_met(harness, check):
    row = rows(harness())[check]
    assert (row.status, row.blame) == (Status.ERROR, "harness")


def test_the_reproduction_of_a_smoke_check_runs():
    named = "mutants.liars:l_pokes_nothing"
    (row,) = run(liars.l_pokes_nothing, [SMOKE["smoke.peek_sees_what_poke_wrote"]], named=named)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run([sys.executable, "-c", row.repro], capture_output=True, text=True, check=True, env=env)
    assert done.stdout == f" error {row.detail}\n"


class TestClaims:
    def test_every_capability_has_a_check(self):
        assert list(CLAIMS) == [f"claims.{capability}" for capability in CAPABILITIES]

    def test_what_is_claimed_and_built_passes(self):
        assert {row.status for name, row in rows(MutableHarness()).items() if name in CLAIMS} == {Status.PASS}

    @pytest.mark.parametrize("capability", sorted(CAPABILITIES))
    def test_what_is_claimed_and_cannot_be_built_fails(self, capability):
        found = rows(without(capability, claimed=True))[f"claims.{capability}"]
        assert (found.status, found.blame) == (Status.FAIL, "harness")
        assert capability in found.detail

    @pytest.mark.parametrize("capability", sorted(CAPABILITIES))
    def test_what_is_not_claimed_and_cannot_be_built_is_absent(self, capability):
        found = rows(without(capability, claimed=False))[f"claims.{capability}"]
        assert (found.status, found.note) == (Status.NOT_APPLICABLE, ABSENT)

    @pytest.mark.parametrize("capability", sorted(CAPABILITIES))
    def test_what_is_built_and_served_and_not_claimed_is_untested(self, capability):
        class Modest(MutableHarness):
            capabilities = frozenset(CAPABILITIES) - {capability}

        found = rows(Modest())[f"claims.{capability}"]
        assert (found.status, found.note, found.blame) == (Status.UNTESTED, UNDECLARED, "harness")

    def test_what_is_built_and_refused_by_the_adapter_is_not_applicable(self):
        found = rows(serving(Refusing))
        assert (found["claims.dtype.complex"].status, found["claims.dtype.complex"].note) == (
            Status.NOT_APPLICABLE,
            REFUSED,
        )
        assert "UnsupportedError" in found["claims.dtype.complex"].detail

    def test_what_is_built_and_opaque_is_not_applicable(self):
        found = rows(serving(Hiding))["claims.dtype.complex"]
        assert (found.status, found.note) == (Status.NOT_APPLICABLE, REFUSED)
        assert "opaque" in found.detail

    @pytest.mark.parametrize("wrong", ["Dropping", "Narrowing", "Raising"])
    def test_what_is_built_and_neither_refused_nor_served_fails_for_the_adapter(self, wrong):
        harness = serving(globals()[wrong])
        (about, *named) = run(harness, [CLAIMS["claims.dtype.complex"]])
        assert (about.requirement, about.status, about.blame) == ("", Status.FAIL, "adapter")
        assert [(row.requirement, row.status) for row in named] == [("SR-DTYPE-006", Status.FAIL)]

    def test_a_registry_in_place_without_a_fault_is_unprobed(self):
        class Bare:
            name, adapter_version = "numpy", "0"
            capabilities = frozenset(CAPABILITIES) - {"fault", "native_trainable"}
            build, registry, peek = MutableHarness().build, MutableHarness().registry, MutableHarness().peek
            poke, cell = MutableHarness().poke, MutableHarness().cell

        found = rows(Bare())["claims.fault"]
        assert (found.status, found.note) == (Status.NOT_APPLICABLE, UNPROBED)
        assert rows(FrozenHarness())["claims.fault"].note == ABSENT


def without(capability: str, *, claimed: bool) -> Any:
    """The reference over a framework that cannot hold something."""

    class Unable(MutableHarness):
        capabilities = frozenset(CAPABILITIES) - (set() if claimed else {capability})

        def build(self, declaration: Declaration, /) -> Any:
            if capability in declaration.needs():
                raise CannotBuild(f"there is no {capability}")
            return super().build(declaration)

        def fault(self, model: Any, key: str, /) -> Any:
            if capability == "fault":
                raise CannotBuild("nothing can fail")
            return super().fault(model, key)

        def build_layer(self, case: Any, /) -> Any:
            if capability == "layers":
                raise CannotBuild("there are no layers")
            return super().build_layer(case)

    return Unable()


def serving(registry: type[MutableRegistry]) -> Any:
    class Serves(MutableHarness):
        capabilities = frozenset(CAPABILITIES) - {"dtype.complex"}

        def registry(self, model: Any, /) -> Any:
            return registry(model)

    return Serves()


def _complex(key_entry: tuple[str, Any]) -> bool:
    return "complex" in key_entry[1].dtype


class Refusing(MutableRegistry):
    def _entries(self):
        if any(map(_complex, super()._entries().items())):
            raise UnsupportedError("this adapter has no complex numbers")
        return super()._entries()


class Hiding(MutableRegistry):
    def _entries(self):
        return {key: entry for key, entry in super()._entries().items() if "complex" not in entry.dtype}

    def _opaque(self):
        return {key: "a complex number" for key, entry in super()._entries().items() if "complex" in entry.dtype}

    def _find(self, key):
        return self._entries().get(key)


class Dropping(Hiding):
    def _opaque(self):
        return {}


class Narrowing(MutableRegistry):
    def _entries(self):
        return {
            key: dataclasses.replace(entry, dtype=entry.dtype.replace("complex64", "float32"))
            for key, entry in super()._entries().items()
        }


class Raising(MutableRegistry):
    def _entries(self):
        if any(map(_complex, super()._entries().items())):
            raise TypeError("complex is not JSON serializable")
        return super()._entries()


def test_the_lenient_checks_exist():
    assert set(SMOKE) > LENIENT


UNINSTALLED = '''
from stateregistry_numpy.registry import MutableRegistry


class Alien:
    """A model that no installed adapter knows."""

    def __init__(self, model):
        self.model = model


class Theirs(MutableRegistry):
    adapter = "theirs"

    def __init__(self, alien):
        self.alien = alien
        super().__init__(alien.model)

    def unwrap(self):
        return self.alien


class Harness:
    name, adapter_version, capabilities = "theirs", "1", frozenset()

    def __init__(self):
        self.inner = MutableHarness()

    def build(self, declaration):
        return Alien(self.inner.build(declaration))

    def registry(self, model):
        return Theirs(model)

    def peek(self, model, key):
        return self.inner.peek(model.model, key)

    def poke(self, model, key, value):
        self.inner.poke(model.model, key, value)
        return model

    def cell(self, model, key):
        return self.inner.cell(model.model, key)


harness = Harness()
'''


def test_an_adapter_that_is_not_installed_is_tried_like_any_other(brief, harness_file):
    report = brief(harness_file(UNINSTALLED, "theirs_alone"))
    wrong = [(row.requirement, row.check, row.detail) for row in report.rows if row.status.value in ("fail", "error")]
    assert wrong == []
