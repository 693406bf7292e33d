"""The random machine: the references agree with the oracle, what only a sequence shows is found, and can be pasted."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import corpus

from stateregistry_conformance.check import PROFILES, Profile
from stateregistry_conformance.lockstep import IDS, Lockstep, search
from stateregistry_conformance.specification import requirements
from stateregistry_conformance.verdict import HarnessError
from stateregistry_numpy.harness import FrozenHarness, MutableHarness
from stateregistry_numpy.registry import MutableRegistry

TESTS = Path(__file__).resolve().parents[1]
FOLDER = TESTS.parent / "conformance_tests" / "stateregistry_conformance" / "lockstep"
QUICK = PROFILES["quick"]

#: Bugs that show after something else was done -> the requirement on which the quick profile finds them.
SEQUENCES = {
    "m-list-values-cached": "SR-LIST-011",
    "m-list-lookups-cached": "SR-LIST-004",
    "m-list-live-iteration": "SR-LIST-010",
    "m-read-memory-of-the-model": "SR-SNAP-002",
    "m-write-new-parameters": "SR-WRITE-002",
    "m-write-statistics-reset": "SR-LOAD-003",
    "m-atom-one-key-after-the-other": "SR-ATOM-002",
    "m-load-parameters-only": "SR-SNAP-006",
    "m-alias-untied-by-write": "SR-LIST-001",
    "m-snap-load-freezes": "SR-WRITE-008",
}


def mutant(name):
    (found,) = (one for one in corpus.all_mutants() if one.id == name)
    return found


def test_the_oracle_is_independent():
    """It may name errors and entries; it asks no registry, no adapter and no function that it judges."""
    tree = ast.parse((FOLDER / "oracle.py").read_text(encoding="utf-8"))
    named = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert named <= {"__future__", "dataclasses", "typing", "collections.abc", "stateregistry", "stateregistry.entry",
                     "stateregistry_conformance.declaration"}  # fmt: skip
    (core,) = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "stateregistry")
    assert [alias.name for alias in core.names] == ["errors"]


def test_what_a_step_can_find_are_requirements():
    assert set(IDS) <= set(requirements())
    assert len(set(IDS)) == len(IDS)


def test_it_starts_populated():
    run = Lockstep(MutableHarness())
    run.start()
    names = run.names()
    assert len(names) >= 8
    assert run.snapshots == 1
    assert {"w", "ws", "net/W", "tail", "n", "cache"} <= set(names), "prefixes, a tie, a scalar, what is not saved"


@pytest.mark.parametrize("harness", [MutableHarness, FrozenHarness])
def test_the_references_agree_with_the_oracle_for_another_seed_too(harness):
    assert search(harness, Profile("quick", 8, 20, 1)) is None


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_bug_is_found_and_named(name):
    finding = search(mutant(name).harness, QUICK)
    assert finding is not None, f"{name} agrees with the oracle"
    assert finding.requirement == SEQUENCES[name]
    assert len(finding.program) <= 3, finding.text(name)


def test_an_error_that_nobody_expects_is_found_with_its_program():
    class Raising(MutableRegistry):
        @property
        def native_order(self):
            raise ZeroDivisionError("order of nothing")

    class Harness(MutableHarness):
        def registry(self, model):
            return Raising(model)

    finding = search(Harness, QUICK)
    assert finding.requirement == "SR-ERR-004"
    assert finding.claim == "the registry raised ZeroDivisionError: order of nothing"


def test_an_error_of_the_harness_is_not_the_adapters():
    class Harness(MutableHarness):
        def peek(self, model, key):
            raise OSError("no peeking")

    with pytest.raises(HarnessError, match="peek of the harness raised OSError"):
        search(Harness, QUICK)


def test_the_same_profile_finds_the_same_program():
    first, again = (search(mutant("m-alias-untied-by-write").harness, QUICK) for _ in range(2))
    assert first == again


def test_what_is_found_can_be_pasted():
    name = "m-list-values-cached"
    finding = search(mutant(name).harness, QUICK)
    text = finding.text(f"mutants.corpus:{name.replace('-', '_')}")
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(TESTS)!r})\n{text}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"Found: {finding.requirement}: {finding.claim.splitlines()[0]}" in done.stderr
    command[-1] = command[-1].replace(f"mutants.corpus:{name.replace('-', '_')}", "numpy")
    assert subprocess.run(command, check=False).returncode == 0, "the reference agrees on the same program"
