"""The two harnesses: they build what is declared, look past the adapter, and conform."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from stateregistry.entry import Kind
from stateregistry_conformance import harness as protocol
from stateregistry_conformance.declaration import CannotBuild, Declaration, Leaf
from stateregistry_conformance.runner import find_harness, run
from stateregistry_conformance.verdict import Status
from stateregistry_flax.linen_harness import harness as linen_harness
from stateregistry_flax.nnx_harness import harness as nnx_harness

VALUES = {"unknown_shape", "one_memory", "overlap", "mixed_tie", "gradients"}
EXPLAINED = {"flax-linen": {*VALUES, "unregistered"}, "flax-nnx": {*VALUES, "duplicate_key", "prefix"}}

BOTH = pytest.mark.parametrize("harness", [linen_harness, nnx_harness], ids=lambda harness: harness.name)
RNG = np.random.default_rng(0)


def leaf(key, kind=Kind.PARAMETER, dtype="float32", shape=(2, 3), **flags):
    return Leaf(key, kind, RNG.normal(size=shape).astype(dtype), **flags)


DECLARATION = Declaration((
    leaf("z/kernel"),
    leaf("layers/0/w"),
    leaf("layers/1/w", dtype="float16"),
    leaf("count", Kind.BUFFER, "int64", ()),
    leaf("wide", dtype="float64"),
    leaf("a.b/c~1d", Kind.BUFFER, persistent=False),
    leaf("shape", concrete=False),
    Leaf("key", Kind.BUFFER, np.array([7, 9], np.uint32), rng=True),
))  # fmt: skip


@BOTH
def test_it_builds_what_is_declared(harness, same):
    model = harness.build(DECLARATION)
    reg = harness.registry(model)
    assert dict(reg) == DECLARATION.entries()
    for key, value in DECLARATION.values().items():
        same(harness.peek(model, key), value)
        same(reg.read(key), value)
    again = harness.build(DECLARATION)
    for key in DECLARATION.values():
        assert harness.cell(again, key) is not harness.cell(model, key)


@BOTH
def test_a_poke_is_native_and_seen(harness, same):
    model = harness.build(DECLARATION)
    before = {key: harness.peek(model, key) for key in DECLARATION.values()}
    for key, value in DECLARATION.values().items():
        new = value[::-1].copy() if value.ndim else value + 1
        other = harness.poke(model, key, new)
        assert (other is model) == harness.registry(model).in_place
        same(harness.peek(other, key), new)
        same(harness.registry(other).read(key), new)
        if other is not model:
            same(harness.peek(model, key), before[key])


@BOTH
def test_a_training_step_changes_every_parameter_and_nothing_else(harness):
    model = harness.build(DECLARATION)
    before = {key: harness.peek(model, key).tobytes() for key in DECLARATION.values()}
    model = harness.train_step(model)
    for key, old in before.items():
        assert (harness.peek(model, key).tobytes() != old) == DECLARATION.leaf(key).can_train


@BOTH
def test_descriptions_and_fingerprints_tell_changes(harness):
    model = harness.build(DECLARATION)
    description, fingerprint = harness.describe(model, "z/kernel"), harness.fingerprint(model)
    assert harness.describe(model, "z/kernel") == description
    assert harness.fingerprint(model) == fingerprint
    model = harness.poke(model, "z/kernel", np.zeros((2, 3), np.float32))
    assert harness.describe(model, "z/kernel") == description
    assert harness.fingerprint(model) != fingerprint
    assert harness.describe(model, "wide") != harness.describe(model, "z/kernel")


@BOTH
@pytest.mark.parametrize(
    "wrong",
    [
        leaf("w", trainable=False),
        leaf("w", persistent=False),
        Leaf("w", Kind.BUFFER, np.zeros(4, np.uint32), rng=True, trainable=False),
        Leaf("w", Kind.BUFFER, np.zeros(2, np.int32), rng=True),
    ],
    ids=["frozen", "transient", "rbg", "signed"],
)
def test_what_flax_does_not_have_cannot_be_built(harness, wrong):
    with pytest.raises(CannotBuild):
        harness.build(Declaration((wrong,)))


@BOTH
@pytest.mark.parametrize("name", sorted(protocol.SPECIMENS))
def test_every_specimen_is_made_or_explained(harness, name):
    refused = name in {"empty_name", "duplicate_key", "prefix"}
    if name in EXPLAINED[harness.name]:
        with pytest.raises(CannotBuild) as caught:
            harness.specimen(name)
        assert "no specimen" not in str(caught.value)
    else:
        assert (harness.specimen(name).declaration is None) == refused


def test_linen_has_no_ties_and_nnx_has():
    tied = Declaration((leaf("b"),), {"a": "b"})
    with pytest.raises(CannotBuild):
        linen_harness.build(tied)
    model = nnx_harness.build(tied)
    assert nnx_harness.cell(model, "a") is nnx_harness.cell(model, "b")
    assert nnx_harness.registry(model).aliases == {"b": "a"}


def test_a_fault_is_a_failure_of_nnx_itself():
    model = nnx_harness.build(DECLARATION)
    assert nnx_harness.fault(model, "z/kernel") is model
    with pytest.raises(Exception, match="trace level"):
        model.z.kernel.set_raw_value(jnp.zeros((2, 3)))
    with pytest.raises(Exception, match="trace level"):
        model.z.kernel[...] = jnp.zeros((2, 3))


def test_structure_changes_natively():
    model = nnx_harness.build(DECLARATION)
    reg = nnx_harness.registry(model)
    nnx_harness.add(model, leaf("z/bias"))
    assert "z/bias" in reg
    nnx_harness.drop(model, "z/bias")
    assert "z/bias" not in reg
    items = nnx_harness.build(Declaration((leaf("l/0"), leaf("l/1"))))
    assert isinstance(items.l, nnx.List)
    nnx_harness.add(items, leaf("l/2"))
    nnx_harness.drop(items, "l/2")
    for change in (lambda: nnx_harness.add(items, leaf("l/7")), lambda: nnx_harness.drop(items, "l/0")):
        with pytest.raises(CannotBuild):
            change()
    for name in ("__class__", "_pytree__nodes"):
        with pytest.raises(CannotBuild):
            nnx_harness.add(items, leaf(name))


def test_the_side_doors_do_not_go_through_the_adapter(monkeypatch):
    """Wreck the adapter: peek, poke and the rest must not notice."""
    from stateregistry_flax import arrays, graph, tree

    for module, name in ((arrays, "read"), (arrays, "stage"), (graph, "walk"), (tree, "Tree")):
        monkeypatch.setattr(module, name, None)
    for harness in (linen_harness, nnx_harness):
        model = harness.build(DECLARATION)
        model = harness.poke(model, "z/kernel", np.ones((2, 3), np.float32))
        model = harness.train_step(model)
        assert harness.peek(model, "z/kernel").shape == (2, 3)
        harness.describe(model, "z/kernel"), harness.fingerprint(model), harness.cell(model, "z/kernel")


@BOTH
def test_it_keeps_the_protocols_of_the_suite(harness):
    assert isinstance(harness, protocol.Harness)
    for probe in ("SupportsTraining", "SupportsDescription", "SupportsFingerprint", "SupportsSpecimens"):
        assert isinstance(harness, getattr(protocol, probe))
    assert isinstance(harness, protocol.SupportsFault) == ("fault" in harness.capabilities)
    assert isinstance(harness, protocol.SupportsRestructure) == harness.registry(harness.build(Declaration())).in_place
    assert find_harness(harness.name) is harness


@BOTH
def test_it_conforms(harness):
    rows = run(harness)
    wrong = [row for row in rows if row.status not in {Status.PASS, Status.NOT_APPLICABLE}]
    assert not wrong, "\n".join(f"{row.requirement}: {row.detail}" for row in wrong)
    assert sum(row.status is Status.PASS for row in rows) > 80
