"""The corpus: every broken adapter, by chapter of the specification.

Each must fail on the requirement that it violates. `getattr(corpus, "m_write_broadcast")` is the harness of the mutant
`m-write-broadcast`, so that one can be named as `mutants.corpus:m_write_broadcast` where a harness is asked for.
"""

from __future__ import annotations

from mutants import (
    absences,
    aliases,
    atomicity,
    codes,
    commits,
    copying,
    dtypes,
    erring,
    flags,
    intruding,
    keys,
    kinds,
    lending,
    likenesses,
    listing,
    liveness,
    loading,
    looks,
    masks,
    preserving,
    problems,
    reading,
    refusing,
    snapshots,
    tying,
    writing,
)
from mutants.support import Mutant
from stateregistry_conformance.harness import Harness

_CHAPTERS = (
    keys, kinds, flags, listing, absences, liveness, reading, lending, writing, refusing, intruding, masks, copying, preserving,
    atomicity, commits, loading, dtypes, codes, aliases, tying, snapshots, erring, looks, likenesses, problems,
)  # fmt: skip


def all_mutants() -> tuple[Mutant, ...]:
    """Every mutant, in the order of the chapters."""
    return tuple(mutant for chapter in _CHAPTERS for mutant in chapter.CHAPTER)


def __getattr__(name: str) -> Harness:
    for mutant in all_mutants():
        if mutant.id.replace("-", "_") == name:
            return mutant.harness()
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
