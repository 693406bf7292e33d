"""Broken adapters by those who wrote the checks: each is the reference with one fault, and fails on what it violates.

A mutant that survives is a hole in the suite. Each names the requirement it violates and the framework behaviour that it
imitates. The corpus of those who had not seen the checks is `tests/mutants`; the kill matrix counts both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import broken_entries
import broken_trees
import broken_values
import pytest
from broken_trees import SpreadSubject
from mutants.support import FrozenSubject, MutableSubject

from stateregistry.registry import StateRegistry
from stateregistry_numpy.registry import MutableRegistry

MUTANTS: list[type[StateRegistry]] = [
    found
    for part in (broken_values, broken_entries, broken_trees)
    for found in vars(part).values()
    if isinstance(found, type) and issubclass(found, StateRegistry) and "violates" in vars(found)
]


@dataclass(frozen=True)
class Broken:
    """One of them as the kill matrix takes it."""

    registry: type[StateRegistry]
    also: ClassVar[tuple[str, ...]] = ()

    @property
    def id(self) -> str:
        return self.registry.__name__

    @property
    def violates(self) -> str:
        found: str = vars(self.registry)["violates"]
        return found

    def harness(self) -> Any:
        made: Any = getattr(self.registry, "subject", None)
        if made is not None:
            return made()
        subject = MutableSubject if issubclass(self.registry, MutableRegistry) else FrozenSubject
        return subject(self.registry)


def all_mutants() -> tuple[Broken, ...]:
    """Every broken adapter of these files."""
    return tuple(Broken(registry) for registry in MUTANTS)


def test_there_are_enough_mutants() -> None:
    assert len(MUTANTS) >= 50


@pytest.mark.parametrize("mutant", all_mutants(), ids=lambda mutant: mutant.id)
def test_a_broken_adapter_fails_on_the_requirement_it_violates(mutant: Broken, killers: Any) -> None:
    """By the directed checks that decide it; what else fails is a matter of the kill matrix."""
    assert killers(mutant), f"{mutant.id} survived on {mutant.violates}"


@pytest.mark.parametrize("subject", [MutableSubject, FrozenSubject, SpreadSubject])
def test_the_same_disguise_over_the_reference_itself_is_green(subject: Any, reds: Any) -> None:
    """The disguise is not what makes mutants red."""
    assert reds(subject()) == {}
