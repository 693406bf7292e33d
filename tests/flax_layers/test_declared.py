"""What every declared layer of Flax is: its pieces fit, cover every leaf once, and hold the roles that they say."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from cases import CASES, S, assert_close, neutral

import stateregistry as sr
from stateregistry.layers import axes
from stateregistry_conformance import formulas
from stateregistry_flax.dialect import LINEN, NNX

EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
BOTH = pytest.mark.parametrize("framework", ["linen", "nnx"])


def registry(case, framework, seed=0):
    return case.linen_registry(seed) if framework == "linen" else case.nnx_registry(seed)


def the_layer(reg):
    (layer,) = reg.layers
    return layer


def recovered(reg, layer):
    """Every role as the pieces give it: names of axes, and the array."""
    sizes = {name: layer.config[name] for name in ("heads", "head_dim") if name in layer.config}
    found = {}
    for piece in layer.pieces:
        key = layer.key(piece)
        bound = axes.bind(piece.axes, reg[key].shape, sizes)
        parts = bound.expand(reg.view(key))
        found |= {role: (bound.neutral, parts[part]) for role, part in piece.parts.items()}
    return found


@EACH
@BOTH
def test_a_module_is_one_layer_whose_pieces_cover_every_entry_once(case, framework):
    reg = registry(case, framework)
    layer = the_layer(reg)
    assert (layer.kind, layer.path, layer.inferred) == (case.kind, "", False)
    keys = collections.Counter(layer.key(piece) for piece in layer.pieces)
    assert keys == collections.Counter({key: 1 for key, entry in reg.items() if not entry.rng})


@EACH
@BOTH
def test_the_roles_are_those_that_numpy_takes_out_by_hand(case, framework):
    reg = registry(case, framework)
    by_hand = case.of_linen if framework == "linen" else case.of_nnx
    expected = {role: neutral(*one) for role, one in by_hand(sr.snapshot(reg)).items()}
    found = recovered(reg, the_layer(reg))
    assert found.keys() == expected.keys()
    for role, (names, array) in expected.items():
        assert found[role][0] == names
        assert np.ascontiguousarray(found[role][1]).tobytes() == np.ascontiguousarray(array).tobytes()


@EACH
@BOTH
def test_every_array_is_what_its_roles_are_put_together_to(case, framework):
    reg = registry(case, framework)
    layer = the_layer(reg)
    for piece in layer.pieces:
        array = reg.view(layer.key(piece))
        bound = axes.bind(piece.axes, array.shape, {name: 2 for name in ("heads", "head_dim") if name in layer.config})
        assert np.ascontiguousarray(bound.collapse(bound.expand(array))).tobytes() == array.tobytes()


@EACH
@BOTH
def test_the_formula_of_the_kind_computes_what_the_module_computes(case, framework):
    reg = registry(case, framework)
    layer = the_layer(reg)
    roles = {role: formulas.Named(array, names) for role, (names, array) in recovered(reg, layer).items()}
    (expected, *_) = formulas.forward(layer.kind, roles, layer.config, case.call(case.inputs))
    native = case.run_linen(reg.unwrap()) if framework == "linen" else case.run_nnx(reg.unwrap())
    assert_close(native, expected.reshape(native.shape))


def test_every_kind_of_the_dialects_is_among_the_cases():
    assert (
        {case.kind for case in CASES}
        == {row.kind for row in LINEN.declarations}
        == {row.kind for row in NNX.declarations}
    )
    assert S == 4


@EACH
def test_linen_and_nnx_have_the_same_roles(case):
    ours, theirs = (the_layer(registry(case, framework)) for framework in ("linen", "nnx"))
    missing = {"n_recurrent_bias"} if case.kind == "gru" else set()  # a lack of NNX, see the conversions
    assert set(ours.roles) == set(theirs.roles) | missing
    assert ours.config == theirs.config
