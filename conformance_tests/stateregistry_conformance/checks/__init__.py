"""All checks, chapter by chapter."""

from __future__ import annotations

from stateregistry_conformance.check import Check
from stateregistry_conformance.checks import (
    across,
    aliases,
    atomicity,
    breadth,
    breadth_of_writes,
    casts,
    corners,
    corners_of_writes,
    dtypes,
    enumeration,
    errors,
    golden,
    intake,
    keys,
    kinds,
    layers,
    layers_together,
    loading,
    lockstep,
    reading,
    snapshots,
    writing,
)

_CHAPTERS = (
    keys,
    kinds,
    enumeration,
    reading,
    writing,
    intake,
    atomicity,
    loading,
    dtypes,
    casts,
    aliases,
    snapshots,
    errors,
    layers,
    layers_together,
    breadth,
    breadth_of_writes,
    corners,
    corners_of_writes,
    lockstep,
    across,
)

#: Every check by name, in the order of the specification.
CHECKS: dict[str, Check] = {
    found.name: found
    for found in (
        *(one for chapter in _CHAPTERS for one in vars(chapter).values() if isinstance(one, Check)),
        *golden.GOLDEN,
    )
}
