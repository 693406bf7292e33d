"""What a verification compares and how: bits of state, conditions, numbers of outputs, activations whatever their layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from flax import nnx

import stateregistry as sr
import stateregistry_numpy
from stateregistry import sources
from stateregistry.conversion.verification.gaps import between, gap, outputs
from stateregistry.layers.calls import Activation, tabled
from stateregistry_numpy.layers import Linear
from stateregistry_numpy.module import Sequential

RANDOM = np.random.default_rng(0)
NAN, INF = float("nan"), float("inf")


def linears(count: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(count)))


def changed(net: torch.nn.Module, key: str, change: Callable[[np.ndarray], np.ndarray]) -> torch.nn.Module:
    reg = sr.of(net)
    reg.replace({key: change(reg.read(key))})
    return net


# -------------------------------------------------------------------- state


def test_the_sign_of_a_zero_is_a_difference_and_a_nan_equals_itself() -> None:
    one, two = (changed(linears(), "0/bias", lambda value: np.array([0.0, NAN, 1, 2], value.dtype)) for _ in range(2))
    assert sr.verify(one, two).equal
    changed(two, "0/bias", lambda value: np.array([-0.0, NAN, 1, 2], value.dtype))
    found = sr.verify(one, two)
    assert [(d.target, d.elements) for d in found.differences] == [("0/bias", 1)]
    assert not found.equal


def test_the_byte_order_of_an_array_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores lend what lies in the file, in whichever order."""
    model = stateregistry_numpy.Module()
    model.register_parameter("w", RANDOM.normal(size=(3, 3)))
    one, two = sr.of(model), sr.of(model)

    def lends(change: Callable[[np.ndarray], np.ndarray]) -> None:
        monkeypatch.setattr(sources, "value", lambda reg, key: change(reg.view(key)) if reg is two else reg.view(key))

    lends(lambda value: value.astype(">f8"))
    assert sr.verify(one, two).equal
    lends(lambda value: value.view(">f8"))
    assert [difference.elements for difference in sr.verify(one, two).differences] == [9]


def test_a_condition_that_does_not_hold_makes_two_models_different() -> None:
    """`nnx.GRUCell` has no second bias for its new gate: a source that has one is not what the target computes."""
    net = torch.nn.Module()
    net.gru = torch.nn.GRU(4, 4)
    changed(net, "gru/bias_hh_l0", lambda value: np.concatenate([value[:8], np.zeros(4, value.dtype)]))
    model = nnx.Dict(gru=nnx.GRUCell(4, 4, rngs=nnx.Rngs(0)))
    done = sr.convert(net, model, allow=("choice",)).target
    assert sr.verify(net, done).equal
    changed(net, "gru/bias_hh_l0", lambda value: np.concatenate([value[:8], np.ones(4, value.dtype)]))
    found = sr.verify(net, done)
    assert found.differences == ()
    assert len(found.unmet) == 1
    assert not found.equal
    assert "a condition does not hold" in str(found)


def test_what_has_no_counterpart_is_an_error_or_left_out_by_name() -> None:
    one, two = linears(2), linears(3)
    with pytest.raises(sr.errors.PlanError):
        sr.verify(one, two)
    found = sr.verify(one, two, allow=("missing",))
    assert found.equal
    assert sorted(found.not_compared) == ["2/bias", "2/weight"]
    with pytest.raises(sr.errors.PlanError, match="collection of names"):
        sr.verify(one, two, allow="missing")


def test_progress_counts_the_bytes_that_are_compared() -> None:
    told: list[tuple[int, int]] = []
    sr.verify(linears(), linears(), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (160, 160)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_nothing_compared_is_not_equal() -> None:
    one, two = stateregistry_numpy.Module(), stateregistry_numpy.Module()
    found = sr.verify(one, two)
    assert found.equal_entries == 0
    assert not found.equal


def test_a_verification_is_json() -> None:
    one, two = linears(), changed(linears(), "1/weight", np.transpose)
    x = RANDOM.normal(size=(3, 4)).astype(np.float32)
    run = lambda net: lambda value: net(torch.from_numpy(value)).detach()  # noqa: E731
    found = sr.verify(one, two, forward=(run(one), run(two), x))
    row = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert row["schema"] == "stateregistry.verify/1"
    assert row["equal"] is False
    assert [each["b"] for each in row["differences"]] == ["1/weight"]
    first = row["first_departure"]
    assert (first["where"], first["source"], first["kind"], first["state"]) == ("layer", "1", "linear", ["1/weight"])
    assert first["output"]["difference"] > 0
    assert row["compared_layers"] == [["0", "0"], ["1", "1"]]
    assert "first departure, of 2 layers" in str(found)


# -------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("one", "two", "difference"),
    [
        ([1.0, NAN], [1.0, NAN], 0.0),
        ([1.0, INF], [1.0, INF], 0.0),
        ([1.0, -INF], [1.0, INF], INF),
        ([1.0, NAN], [1.0, 2.0], INF),
        ([1.0, 2.0], [1.0, NAN], INF),
        ([1.0, 2.0], [1.5, 2.0], 0.5),
        ([], [], 0.0),
        ([1j], [2j], 1.0),
    ],
)
def test_equal_nans_and_infinities_are_equal_and_one_alone_is_an_infinite_gap(one, two, difference) -> None:
    assert gap(np.array(one), np.array(two)).difference == difference


def test_the_scale_is_the_largest_finite_magnitude() -> None:
    found = gap(np.array([NAN, INF, -4.0]), np.array([NAN, INF, -5.0]))
    assert (found.difference, found.scale, found.share) == (1.0, 4.0, 0.25)
    assert gap(np.zeros(2), np.zeros(2)).share == 0.0
    assert gap(np.zeros(2), np.ones(2)).share == INF


@dataclass
class Output:
    value: Any
    rest: Any = None


def test_outputs_may_be_nested_in_any_container_and_their_dicts_in_any_order() -> None:
    x, y = RANDOM.normal(size=(2, 3)), RANDOM.normal(size=4)
    left = {"a": Output([x, (y,)]), "b": y}
    right = {"b": torch.from_numpy(y), "a": {"value": (np.asfortranarray(x), [y.astype(np.float32)])}}
    assert outputs(left, right).share < 1e-6
    assert outputs(left, {"b": y, "a": Output([x, (y + 1,)])}).difference == pytest.approx(1.0)


def test_of_several_outputs_the_worst_share_counts_and_not_the_largest_number() -> None:
    """A large output that agrees must not hide a small one that is all wrong."""
    large, small = np.array([1e6]), np.array([1e-3])
    found = outputs({"large": large, "small": small}, {"large": large + 1e-3, "small": 2 * small})
    assert found.share == pytest.approx(1.0)


def test_outputs_of_another_structure_or_shape_are_refused_with_both() -> None:
    with pytest.raises(sr.StateError, match=r"different structure: /0, /1 against one array"):
        outputs((1.0, 2.0), np.ones(2))
    with pytest.raises(sr.StateError, match=r"shape \(2, 3\) against \(3, 2\)"):
        outputs(np.ones((2, 3)), np.ones((3, 2)))
    with pytest.raises(sr.StateError, match="not an array"):
        outputs("text", "text")


@pytest.mark.parametrize("value", [NAN, INF])
def test_outputs_without_one_finite_number_are_no_evidence(value: float) -> None:
    """Whatever is computed from a NaN is one: two models that have nothing in common would agree."""
    one, two = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    x = torch.full((2, 3), value)
    found = sr.verify(one, two, forward=(lambda x: one(x) * NAN, lambda x: two(x) * NAN, x))
    assert found.output_difference is None
    assert found.outputs_skipped == "every output is a NaN or infinite on both sides"
    assert "outputs were not compared: every output is a NaN" in str(found)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["outputs_skipped"] == found.outputs_skipped
    with pytest.raises(sr.StateError, match="every output is a NaN or infinite"):
        found.outputs_equal()


def test_one_finite_number_beside_nans_is_compared() -> None:
    model = torch.nn.Linear(3, 3)
    found = sr.verify(model, model, forward=(lambda x: x, lambda x: x, torch.tensor([NAN, 2.0])))
    assert (found.output_difference, found.output_scale, found.outputs_skipped) == (0.0, 2.0, "")


def test_models_without_outputs_are_not_compared() -> None:
    model = torch.nn.Linear(3, 3)
    found = sr.verify(model, model, forward=(lambda x: None, lambda x: None, torch.ones(1)))
    assert found.outputs_skipped == "there is no output"


def test_a_conversion_that_outputs_decide_refuses_outputs_that_say_nothing() -> None:
    source, target = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    before = target.weight.detach().clone()
    with pytest.raises(sr.StateError, match="cannot decide: every output is a NaN"):
        sr.convert(source, target, forward=(lambda x: source(x) * NAN, lambda m, x: m(x) * NAN, torch.ones(1, 3)))
    assert torch.equal(target.weight, before)


def test_outputs_without_a_forward_pass_are_not_called_equal() -> None:
    with pytest.raises(sr.StateError, match="were not compared"):
        sr.verify(linears(), linears()).outputs_equal()


# -------------------------------------------------------------------- layouts


def image(*names: str) -> Activation:
    """An activation of fixed values whose axes are in some order: two images of three by five pixels and four channels."""
    axes = ("batch.0", "features.0", "spatial.0", "spatial.1")
    values = np.random.default_rng(3).normal(size=(2, 4, 3, 5))
    return Activation(values.transpose([axes.index(name) for name in names]), names)


def test_channels_first_and_last_are_one_activation() -> None:
    one = image("batch.0", "features.0", "spatial.0", "spatial.1")
    two = image("batch.0", "spatial.0", "spatial.1", "features.0")
    assert between(one, two, 0.0).difference == 0.0
    assert next(tabled(one)).shape == (30, 4)


def test_exchanged_spatial_axes_are_not_one_activation() -> None:
    one = Activation(RANDOM.normal(size=(2, 4, 3, 3)), ("batch.0", "features.0", "spatial.0", "spatial.1"))
    two = Activation(one.array.swapaxes(2, 3), one.axes)
    assert between(one, two, 1e-5).share > 0.1


def test_a_batch_of_one_and_none_are_one_activation() -> None:
    one = Activation(RANDOM.normal(size=(4, 3)), ("features.0", "spatial.0"))
    two = Activation(one.array.T[None], ("batch.0", "spatial.0", "features.0"))
    assert between(one, two, 0.0).difference == 0.0


def test_batch_axes_may_come_in_another_order_and_that_is_said() -> None:
    one = Activation(RANDOM.normal(size=(3, 3, 4)), ("batch.0", "batch.1", "features.0"))
    two = Activation(one.array.swapaxes(0, 1), one.axes)
    found = between(one, two, 1e-5)
    assert (found.difference, found.remark) == (0.0, "with batch axes in another order")


def test_features_in_another_order_are_a_difference() -> None:
    """What a flatten of channels first instead of last gives: the same values, at other places."""
    one = Activation(RANDOM.normal(size=(2, 12)), ("batch.0", "features.0"))
    two = Activation(one.array.reshape(2, 3, 4).swapaxes(1, 2).reshape(2, 12), one.axes)
    assert between(one, two, 1e-5).share > 0.1


def test_several_axes_of_features_are_one_whose_last_varies_fastest() -> None:
    one = Activation(RANDOM.normal(size=(2, 12)), ("batch.0", "features.0"))
    two = Activation(one.array.reshape(2, 3, 4), ("batch.0", "features.0", "features.1"))
    assert between(one, two, 0.0).difference == 0.0


def test_axes_without_names_are_compared_without_regard_to_order_and_that_is_said() -> None:
    one = Activation(RANDOM.normal(size=(2, 3, 4)))
    two = Activation(one.array.transpose(0, 2, 1), ("batch.0", "spatial.0", "features.0"))
    assert between(one, two, 1e-5).remark == "without regard to order"
    assert between(one, two, 1e-5).difference == 0.0
    assert between(one, Activation(two.array + 1), 1e-5).share > 0.1
    assert between(one, Activation(RANDOM.normal(size=5)), 1e-5).difference == INF


def test_another_number_of_values_is_told_by_shape_and_names() -> None:
    one, two = image("batch.0", "features.0", "spatial.0", "spatial.1"), Activation(np.ones(3), ("batch.0",))
    found = between(one, two, 1e-5)
    assert found.difference == INF
    assert found.remark == "shape (2, 4, 3, 5) (batch features spatial spatial) against (3) (batch)"


def test_axes_that_do_not_fit_an_array_are_refused() -> None:
    for names in (("batch.0",), ("batch.0", "batch.0"), ("batch.0", "height")):
        with pytest.raises(ValueError, match=r"axes|axis"):
            Activation(np.ones((2, 2)), names)


# -------------------------------------------------------------------- where a difference begins


def test_a_difference_that_begins_small_is_traced_back_to_where_it_begins() -> None:
    """Between the first two layers a millionth is lost, which is within the tolerance until what follows cancels."""
    one = Sequential(*(Linear(4, 4, rng=number) for number in range(3)))
    x = RANDOM.normal(size=(3, 4))
    middle = one.members["1"](one.members["0"](x))

    def run(factor: float) -> Callable[[np.ndarray], np.ndarray]:
        def forward(value: np.ndarray) -> np.ndarray:
            value = one.members["1"](one.members["0"](value) * factor)
            return one.members["2"](value - 0.9 * middle)

        return forward

    found = sr.verify(one, one, forward=(run(1.0), run(1 + 5e-6), x))
    first = found.first_departure
    assert first is not None
    assert (first.where, first.source, first.passes) == ("between", "1", "2")
    assert first.inputs.share < 1e-5
    assert "grows beyond the tolerance until 2" in str(first)


def test_what_is_behind_the_last_layer_is_said_to_be_there() -> None:
    one, two = linears(), linears()
    x = RANDOM.normal(size=(3, 4)).astype(np.float32)
    run = lambda net: net(torch.from_numpy(x)).detach()  # noqa: E731
    found = sr.verify(one, two, forward=(lambda _: run(one), lambda _: run(two).relu(), x))
    assert found.first_departure.where == "after"
    assert found.first_departure.after == ("1", "1")


def test_a_model_that_works_in_place_does_not_change_what_the_other_is_given() -> None:
    """Else the second would be given what the first has made of its inputs, and the two would agree."""
    one, two = (
        torch.nn.Sequential(torch.nn.ReLU(inplace=True), *linears(1)),
        torch.nn.Sequential(torch.nn.ReLU(), *linears(1)),
    )
    inputs = {"x": RANDOM.normal(size=(3, 4)).astype(np.float32)}
    before = inputs["x"].tobytes()
    run = lambda net: lambda given: net(torch.from_numpy(given["x"])).detach()  # noqa: E731
    found = sr.verify(one, two, forward=(run(one), lambda given: two[1](torch.from_numpy(given["x"])).detach(), inputs))
    assert not found.outputs_equal()
    assert inputs["x"].tobytes() == before
    assert sr.verify(one, two, forward=(run(one), run(two), inputs)).outputs_equal()


@pytest.mark.parametrize("forward", [(print, print), (print,), 3])
def test_a_forward_that_is_no_triple_is_told_what_it_takes(forward: object) -> None:
    with pytest.raises(sr.StateError, match=r"forward= takes \(fa, fb, inputs\)"):
        sr.verify(linears(), linears(), forward=forward)
