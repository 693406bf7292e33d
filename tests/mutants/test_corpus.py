"""The corpus is what it says: every mutant shows its bug, the reference does not, and all ids are in order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mutants import corpus, functions, layers
from mutants.support import PLAIN, Mutant, NotShown, bits, noise

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = corpus.all_mutants()
FUNCTIONS = functions.all_function_mutants()
TABLE = ROOT / "conformance_tests" / "stateregistry_conformance" / "requirements" / "0.1.json"
REQUIREMENTS = {row["id"]: row for row in json.loads(TABLE.read_text(encoding="utf-8"))["requirements"]}


def named(mutants):
    return pytest.mark.parametrize("mutant", mutants, ids=lambda mutant: mutant.id)


@named(MUTANTS)
def test_the_bug_shows_on_the_mutant(mutant: Mutant):
    mutant.proof(mutant.harness())


@named(MUTANTS)
def test_the_bug_does_not_show_on_the_reference(mutant: Mutant):
    with pytest.raises(NotShown):
        mutant.proof(mutant.reference())


@named(MUTANTS)
def test_a_mutant_does_the_ordinary_things_right(mutant: Mutant):
    """Whoever tries the adapter by hand is content: it lists a plain model, reads it and writes it."""
    harness = mutant.harness()
    registry = harness.registry(harness.build(PLAIN))
    values = PLAIN.values()
    assert set(registry) == set(values)
    assert all(bits(registry.read(key)) == bits(value) for key, value in values.items())
    new = {key: noise(value.shape, seed=21) for key, value in values.items()}
    assert all(bits(registry.replace({key: value}).read(key)) == bits(value) for key, value in new.items())


@named(FUNCTIONS)
def test_the_bug_of_a_function_shows_while_it_is_installed_and_only_then(mutant: functions.FunctionMutant):
    with mutant.installed():
        mutant.proof(mutant.harness())
    with pytest.raises(NotShown):
        mutant.proof(mutant.harness())


# --------------------------------------------------------------------------------------------------------------- the list


def test_ids_are_unique_and_every_mutant_has_a_story():
    everything = (*MUTANTS, *FUNCTIONS)
    assert len({mutant.id for mutant in everything}) == len(everything)
    assert all(len(mutant.story) > 20 for mutant in everything)
    assert all(mutant.id.startswith("m-") for mutant in MUTANTS)
    assert all(mutant.id.startswith("f-") for mutant in FUNCTIONS)


@named((*MUTANTS, *FUNCTIONS))
def test_what_is_violated_is_a_binding_requirement(mutant):
    assert REQUIREMENTS[mutant.violates]["level"] in {"MUST", "MUST NOT"}
    assert set(mutant.also) <= set(REQUIREMENTS)
    assert mutant.violates not in mutant.also
    assert len(set(mutant.also)) == len(mutant.also)


@named(MUTANTS)
def test_a_mutant_claims_the_capability_that_its_requirement_needs(mutant: Mutant):
    needed = REQUIREMENTS[mutant.violates]["capability"]
    assert needed is None or needed in mutant.harness().capabilities


def test_every_harness_is_new_and_can_be_named():
    assert MUTANTS[0].harness() is not MUTANTS[0].harness()
    for mutant in MUTANTS:
        harness = getattr(corpus, mutant.id.replace("-", "_"))
        assert type(harness) is type(mutant.harness())
    with pytest.raises(AttributeError):
        corpus.__getattr__("m_nobody")


#: What an adapter cannot break, and why there is no mutant of it: files and conversions have corpora of their own.
OUT_OF_REACH = {
    **dict.fromkeys(
        ("SR-SNAP-008", "SR-SNAP-009", "SR-SNAP-010", "SR-SNAP-011", "SR-SNAP-012", "SR-SNAP-013"),
        "a sentence on files, which a store has to keep",
    ),
    **dict.fromkeys((f"SR-CONV-00{number}" for number in range(1, 10)), "a sentence on conversion"),
    **dict.fromkeys(("SR-LAYER-011", "SR-LAYER-018", "SR-LAYER-019"), "a sentence on conversion"),
}


def test_every_binding_requirement_is_violated_by_a_mutant_or_out_of_reach(capsys):
    binding = {name for name, row in REQUIREMENTS.items() if row["level"] in {"MUST", "MUST NOT"}}
    by_adapters = {mutant.violates for mutant in MUTANTS}
    by_functions = {mutant.violates for mutant in FUNCTIONS} | {mutant.violates for mutant in layers.MUTANTS}
    with capsys.disabled():
        print(
            f"\n{len(MUTANTS)} mutants of adapters violate {len(by_adapters)} requirements, "
            f"{len(FUNCTIONS)} of functions {len(by_functions - by_adapters)} more, of {len(binding)} that bind"
        )
        print("by no adapter of the reference:", ", ".join(sorted(binding - by_adapters - set(OUT_OF_REACH))) or "none")
    assert binding - by_adapters - by_functions == set(OUT_OF_REACH)


def test_both_references_have_mutants_of_every_chapter():
    for base in ("numpy", "numpy-frozen"):
        chapters = {mutant.violates.split("-")[1] for mutant in MUTANTS if mutant.base == base}
        assert chapters == {"KEY", "KIND", "LIST", "READ", "WRITE", "ATOM", "LOAD", "DTYPE", "ALIAS", "SNAP", "ERR"}
