"""One declaration, built in every framework, gives equal entries and equal snapshots (SR-SNAP-007)."""

from __future__ import annotations

from typing import Any

import pytest

import stateregistry as sr
from stateregistry.entry import DTYPES
from stateregistry_conformance.declaration import Declaration
from stateregistry_conformance.runner import find_harness
from stateregistry_conformance.samples import core, large, shapes, square, tied, transient, typed

FIRST_PARTY = ("numpy", "numpy-frozen", "torch", "flax-linen", "flax-nnx")

DECLARATIONS: dict[str, Declaration] = {
    "core": core(),
    "shapes": shapes(),
    "square": square(),
    "large": large(),
    "tied": tied(),
    "transient": transient(),
    **{dtype: typed(dtype) for dtype in DTYPES},
}

#: Declarations that every framework can hold: for the others, at least two have to.
EVERYWHERE = {"core", "shapes", "square", "large", "transient"}


@pytest.fixture(scope="session")
def harnesses() -> dict[str, Any]:
    return {name: find_harness(name) for name in FIRST_PARTY}


def _able(harnesses: dict[str, Any], declaration: Declaration) -> dict[str, Any]:
    return {n: h for n, h in harnesses.items() if declaration.needs() <= h.capabilities and _builds(h, declaration)}


def _builds(harness: Any, declaration: Declaration) -> bool:
    from stateregistry_conformance.subject import Subject

    return Subject(harness).can_build(declaration) is not None


@pytest.mark.parametrize("name", DECLARATIONS)
def test_registries_and_snapshots_are_equal_across_adapters(name: str, harnesses: dict[str, Any]) -> None:
    declaration = DECLARATIONS[name]
    able = _able(harnesses, declaration)
    assert len(able) >= (len(harnesses) if name in EVERYWHERE else 2), f"{name} is held by {sorted(able)} only"
    registries = {one: harness.registry(harness.build(declaration)) for one, harness in able.items()}
    for one, registry in registries.items():
        assert dict(registry) == declaration.entries(), one
        assert dict(registry.aliases) == declaration.aliases(), one
        taken = sr.snapshot(registry)
        expected = {k: x for k, x in declaration.values().items() if declaration.entries()[k].persistent}
        assert list(taken) == list(expected), one
        for key, value in expected.items():
            assert (taken[key].dtype, taken[key].shape) == (value.dtype, value.shape), f"{one}: {key}"
            assert taken[key].tobytes() == value.tobytes(), f"{one}: {key}"


@pytest.mark.parametrize("name", ["core", "shapes", "square", "transient", "tied"])
def test_a_snapshot_of_one_loads_into_every_other(name: str, harnesses: dict[str, Any]) -> None:
    declaration = DECLARATIONS[name]
    able = _able(harnesses, declaration)
    zeros = Declaration(
        tuple(
            type(leaf)(leaf.key, leaf.kind, leaf.value * 0, persistent=leaf.persistent) for leaf in declaration.leaves
        ),
        declaration.ties,
    )
    for one, source in able.items():
        registry = source.registry(source.build(declaration))
        for other, target in able.items():
            for given in (sr.snapshot(registry), registry):
                loaded = sr.load(target.registry(target.build(zeros)), given)
                for key, entry in declaration.entries().items():
                    expected = (declaration if entry.persistent else zeros).values()[key]
                    found = target.peek(loaded.unwrap(), key)
                    assert found.tobytes() == expected.tobytes(), f"{one} to {other}: {key}"
            assert sr.diff(loaded, registry).equal or any(not e.persistent for e in registry.values())
