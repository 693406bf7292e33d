"""Axes are matched by name and by nothing else, and what no formula reads is refused."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from stateregistry.errors import AxesError, UnsupportedError
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import ROLES
from stateregistry_conformance.formulas import FORMULAS, Named, forward, wrappers


def test_an_array_comes_in_whatever_order_is_asked_for() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    names = ("a", "b", "c")
    for order in itertools.permutations(names):
        assert (
            Named(array, names).to(*order).tolist()
            == np.einsum(array, [0, 1, 2], list(map(names.index, order))).tolist()
        )


def test_a_family_comes_in_the_order_of_its_numbers() -> None:
    """Sorted names put `spatial.10` before `spatial.2`."""
    sizes = {f"spatial.{n}": {2: 3, 10: 2}.get(n, 1) for n in range(12)}
    for names in (list(sizes), list(sizes)[::-1], sorted(sizes)):
        named = Named(np.zeros([sizes[name] for name in names]), tuple(names))
        assert named.to("*spatial").shape == tuple(sizes.values())
    assert Named(np.zeros(3), ("spatial",)).to("*spatial").shape == (3,)
    assert Named(np.zeros(3), ("out",)).to("out", "*spatial").shape == (3,)


def test_what_the_algebra_of_axes_expands_is_named_by_its_neutral_order() -> None:
    kernel = np.arange(81.0).reshape(3, 3, 3, 3)
    bound = axes.bind("*spatial in/groups out", kernel.shape)
    named = Named(bound.expand(kernel)[""], bound.neutral)
    assert named.to("*spatial", "in/groups", "out").tolist() == kernel.tolist()


@pytest.mark.parametrize("names", [("a",), ("a", "b", "c"), ("a", "a")], ids=str)
def test_one_name_for_each_axis(names) -> None:
    with pytest.raises(AxesError, match="cannot have the axes"):
        Named(np.zeros((2, 2)), names)


@pytest.mark.parametrize("order", [("a",), ("a", "b", "c"), ("a", "c"), ("a", "a"), ("*a",)], ids=str)
def test_names_too_many_too_few_or_other_are_refused(order) -> None:
    with pytest.raises(AxesError, match="is wanted"):
        Named(np.zeros((2, 2)), ("a", "b")).to(*order)


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "int8", "bool", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn], ids=str
)
def test_every_real_dtype_becomes_float64_exactly(dtype) -> None:
    values = np.array([0, 1, 1], dtype)
    found = Named(values, ("a",)).to("a")
    assert found.dtype == np.float64
    assert found.tolist() == [0.0, 1.0, 1.0]


def test_complex_arrays_are_refused_and_not_cut() -> None:
    with pytest.raises(UnsupportedError, match="real"):
        Named(np.zeros(2, np.complex64), ("a",))
    with pytest.raises(UnsupportedError, match="real"):
        forward("linear", {"kernel": Named(np.ones((2, 2)), ("out", "in"))}, {}, [np.ones(2, np.complex128)])


def test_the_formulas_do_not_write_to_what_they_are_given() -> None:
    kernel, bias, x = np.ones((2, 2)), np.ones(2), np.ones((3, 2))
    for array in (kernel, bias, x):
        array.flags.writeable = False
    roles = {"kernel": Named(kernel, ("out", "in")), "bias": Named(bias, ("out",))}
    (y,) = forward("linear", roles, {}, [x])
    assert y.tolist() == [[3.0, 3.0]] * 3


# ----------------------------------------------------------------------------------------------------- the vocabulary


def test_there_is_a_formula_for_every_layer_kind_and_for_nothing_else() -> None:
    assert set(FORMULAS) == set(ROLES) - {"bare"}


#: Sizes of neutral axes, all of them different from one another.
SIZES = {
    "out": 6,
    "in": 4,
    "in/groups": 4,
    "out/groups": 6,
    "vocab": 9,
    "features": 5,
    "heads": 2,
    "head_dim": 3,
    "hidden": 7,
    "state": 5,
    "in1": 3,
    "in2": 8,
}
CONFIG = {
    "batch_norm": {"eps": 0.1},
    "instance_norm": {"eps": 0.1},
    "layer_norm": {"eps": 0.1},
    "rms_norm": {"eps": 0.1},
    "group_norm": {"eps": 0.1, "groups": 5},
}
INPUTS = {
    "linear": [(2, 4)],
    "conv": [(2, 5, 4)],
    "conv_transpose": [(2, 5, 4)],
    "attention": [(2, 5, 4)],
    "lstm": [(2, 5, 4)],
    "gru": [(2, 5, 4)],
    "rnn": [(2, 5, 4)],
    "bilinear": [(2, 3), (2, 8)],
}


def _sizes(kind):
    """Without a projection the state is what is hidden."""
    return SIZES | ({"state": 7} if kind in ("gru", "rnn") else {})


def _named(kind, pattern):
    names = [name.replace("*spatial", "spatial.0").removeprefix("*") for name in pattern.split() if name != "1"]
    sizes = _sizes(kind) | {"spatial.0": 3}
    return Named(np.full([sizes[name] for name in names], 0.5), tuple(names))


def _every(kind):
    """Every role of a kind, of two that exclude one another the second."""
    patterns = {role: pattern for role, pattern in ROLES[kind].items() if role != "slope"}
    return {role: _named(kind, pattern) for role, pattern in patterns.items()}


def _inputs(kind):
    if kind == "embedding":
        return [np.array([[0, 8]])]
    return [np.ones(shape) for shape in INPUTS.get(kind, [(2, 5, 5)])]


@pytest.mark.parametrize("kind", FORMULAS)
def test_a_formula_takes_every_role_of_its_kind_with_the_axes_of_the_vocabulary(kind) -> None:
    roles = _every(kind)
    outputs = forward(kind, roles, CONFIG.get(kind, {}), _inputs(kind))
    assert all(np.isfinite(output).all() and output.dtype == np.float64 for output in outputs)


@pytest.mark.parametrize("kind", FORMULAS)
def test_a_formula_refuses_an_axis_of_another_name(kind) -> None:
    every = _every(kind)
    for role, named in every.items():
        if named.axes:
            roles = every | {role: Named(named.array, ("elsewhere", *named.axes[1:]))}
            with pytest.raises(AxesError):
                forward(kind, roles, CONFIG.get(kind, {}), _inputs(kind))


@pytest.mark.parametrize("kind", FORMULAS)
def test_a_formula_refuses_roles_and_config_that_its_kind_does_not_have(kind) -> None:
    roles = _every(kind)
    config = CONFIG.get(kind, {})
    with pytest.raises(UnsupportedError, match="no role gamma"):
        forward(kind, roles | {"gamma": Named(np.ones(5), ("features",))}, config, _inputs(kind))
    with pytest.raises(UnsupportedError, match="no config epsilon"):
        forward(kind, roles, config | {"epsilon": 0.1}, _inputs(kind))


@pytest.mark.parametrize("kind", FORMULAS)
def test_config_of_state_and_of_training_changes_nothing(kind) -> None:
    roles = _every(kind)
    agreeing = {"kernel_size": (3,), "heads": 2, "head_dim": 3, "groups": 1, "transpose_kernel": True}
    config = {name: agreeing[name] for name in FORMULAS[kind].state}
    config |= dict.fromkeys(FORMULAS[kind].training, 0)
    expected = forward(kind, roles, CONFIG.get(kind, {}), _inputs(kind))
    found = forward(kind, roles, CONFIG.get(kind, {}) | config, _inputs(kind))
    assert [one.tobytes() for one in found] == [one.tobytes() for one in expected]


def test_an_unknown_kind_and_a_wrong_number_of_inputs_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="no layer kind 'dense'"):
        forward("dense", {}, {}, [np.ones(3)])
    with pytest.raises(UnsupportedError, match="called with 0 inputs"):
        forward("linear", {}, {}, [])


def test_no_name_of_config_is_said_twice() -> None:
    for kind, formula in FORMULAS.items():
        names = [*formula.state, *formula.function, *formula.training, *wrappers.STATE, *wrappers.FUNCTION]
        assert len(set(names)) == len(names), kind
