"""Mistakes that converters make are planted in one side; `verify` has to name the layer, or the place between two layers."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import seeded
from seeded import PAIRS, SIDES, Knobs, Side

import stateregistry as sr

#: The recurrent kernels of two gates that are exchanged, in every framework: key, and where the gates lie along which axis.
GATES = {
    "torch": ("gru/weight_hh_l0", 0, 4),
    "nnx": ("gru/dense_h/kernel", 1, 4),
}


@cache
def good(name: str) -> Side:
    return seeded.source(name)


def verified(one: Side, two: Side) -> sr.Verification:
    return sr.verify(one.reg, two.reg, forward=(one, two, seeded.image()))


def names(found: sr.Verification) -> tuple[str, str, str, str]:
    first = found.first_departure
    assert first is not None, found
    return first.where, first.source, first.target, first.kind


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> tuple[Side, str]:
    """A model, and the framework that it is converted to."""
    one, two = request.param
    return good(one), two


def test_what_is_right_departs_nowhere(pair: tuple[Side, str]) -> None:
    one, two = pair
    found = verified(one, SIDES[two].built(Knobs()).filled(one))
    assert found.equal
    assert found.outputs_equal()
    assert found.first_departure is None
    assert found.notes == ()


def test_another_eps_is_named_with_both_values(pair: tuple[Side, str]) -> None:
    one, two = pair
    found = verified(one, SIDES[two].built(Knobs(eps=1e-6)).filled(one))
    assert found.equal
    assert names(found) == ("layer", "ln", "ln", "layer_norm")
    assert [(f.name, f.source, f.target) for f in found.first_departure.findings] == [("eps", 1e-5, 1e-6)]
    assert found.first_departure.state == ()


def test_another_padding_is_named(pair: tuple[Side, str]) -> None:
    """`SAME` with a stride of two pads the end only; torch has no such padding and here has none at all."""
    one, two = pair
    found = verified(one, SIDES[two].built(Knobs(padded=False)).filled(one))
    assert found.equal
    assert names(found) == ("layer", "conv", "conv", "conv")
    assert "padding" in [finding.name for finding in found.first_departure.findings]


def test_another_gelu_is_found_between_its_neighbours(pair: tuple[Side, str]) -> None:
    one, two = pair
    found = verified(one, SIDES[two].built(Knobs(tanh=True)).filled(one))
    assert found.equal
    assert names(found) == ("between", "fc2", "fc2", "linear")
    assert found.first_departure.after == ("fc1", "fc1")
    assert found.first_departure.output is None


def test_a_forgotten_transpose_of_a_square_matrix_is_named(pair: tuple[Side, str]) -> None:
    one, two = pair
    made = SIDES[two].built(Knobs()).filled(one)
    key = "fc2/weight" if two == "torch" else "fc2/kernel"
    found = verified(one, made.changed({key: made.reg.read(key).T.copy()}))
    assert [difference.target for difference in found.differences] == [key]
    assert names(found) == ("layer", "fc2", "fc2", "linear")
    assert found.first_departure.state == (key,)


def test_exchanged_gates_of_a_gru_are_named(pair: tuple[Side, str]) -> None:
    one, two = pair
    made = SIDES[two].built(Knobs()).filled(one)
    values = {"gru/hr/kernel": made.reg.read("gru/hz/kernel"), "gru/hz/kernel": made.reg.read("gru/hr/kernel")} if (
        two == "linen"
    ) else exchanged(made, *GATES[two])  # fmt: skip
    found = verified(one, made.changed(values))
    assert sorted(difference.target for difference in found.differences) == sorted(values)
    assert names(found) == ("layer", "gru", "gru", "gru")
    assert set(found.first_departure.state) == set(values)


def exchanged(side: Side, key: str, axis: int, size: int) -> dict[str, np.ndarray]:
    """The first two gates of a fused array in each other's place."""
    value = side.reg.read(key)
    first, second, rest = np.split(value, [size, 2 * size], axis)
    return {key: np.concatenate([second, first, rest], axis)}
