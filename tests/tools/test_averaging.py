"""Averages and moving averages keep their laws over every adapter, live and file."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from tool_states import bits

import stateregistry as sr
from stateregistry.errors import MismatchError, UnsupportedError


def arrays(**values) -> sr.StateRegistry:
    from stateregistry.stores.memory import ArraysRegistry

    return ArraysRegistry({name: np.asarray(value) for name, value in values.items()})


def test_the_average_of_equal_states_has_their_bits(make) -> None:
    assert bits(sr.tools.average([make(1)] * 3)) == bits(make(1))
    assert bits(sr.tools.average([make(1), make(1)], [0.3, 0.9])) == bits(make(1))


def test_an_average_is_the_mean_of_floats_and_the_last_of_counters(make) -> None:
    a, b, c = make(1), make(2), make(3)
    made = sr.tools.average([a, b, c], [1, 2, 5])
    assert list(made) == list(a)
    for key, entry in a.items():
        x, y, z = (one.read(key).astype(np.float64) for one in (a, b, c))
        wanted = c.read(key) if "float" not in entry.dtype else ((x + 2 * y + 5 * z) / 8)
        assert made.read(key).dtype == a.read(key).dtype
        np.testing.assert_allclose(made.read(key), wanted, rtol=1e-7)
    loaded = sr.load(make(9), made)
    assert bits(loaded) == bits(made)


@pytest.mark.parametrize(("buffers", "which"), [("first", 0), ("last", 1)])
def test_buffers_can_be_those_of_one_state(make, buffers, which) -> None:
    both = [make(1), make(2)]
    made = sr.tools.average(both, buffers=buffers)
    buffered = [key for key, entry in made.items() if entry.kind is sr.Kind.BUFFER]
    assert buffered
    assert {key: made.read(key).tobytes() for key in buffered} == {
        key: both[which].read(key).tobytes() for key in buffered
    }
    assert bits(made) != bits(both[which])


def test_the_ends_of_the_line_are_the_states(make) -> None:
    a, b = make(1), make(2)
    assert bits(sr.tools.interpolate(a, b, 0)) == bits(a)
    assert bits(sr.tools.interpolate(a, b, 1)) == bits(b)
    middle = sr.tools.interpolate(a, b, 0.25).read("fc/bias")
    np.testing.assert_allclose(middle, 0.75 * a.read("fc/bias") + 0.25 * b.read("fc/bias"), rtol=1e-6)


def test_an_average_is_written_without_being_held(make, tmp_path) -> None:
    made = sr.tools.average([make(1), make(2)])
    sr.save(made, tmp_path / "soup.safetensors")
    with sr.open(tmp_path / "soup.safetensors") as file:
        assert {key: file.read(key).tobytes() for key in file} == {
            key: value.tobytes() for key, value in sr.snapshot(made).items()
        }


def test_small_floats_are_summed_wide_and_rounded_once() -> None:
    values = [np.array([1.0, 1 + 2**-7]).astype(ml_dtypes.bfloat16) for _ in range(3)]
    values[0] = np.array([1.0, 1.0]).astype(ml_dtypes.bfloat16)
    made = sr.tools.average([arrays(w=value) for value in values]).read("w")
    assert made[1] == np.asarray((1 + 2 * (1 + 2**-7)) / 3).astype(np.float32).astype(ml_dtypes.bfloat16)


def test_what_is_not_finite_stays_what_arithmetic_says() -> None:
    a, b = arrays(w=np.float32([np.inf, np.nan, -np.inf, 1])), arrays(w=np.float32([np.inf, 1, np.inf, 3]))
    found = sr.tools.average([a, b]).read("w")
    assert found[0] == np.inf
    assert np.isnan(found[1:3]).all()
    assert found[3] == 2


def test_complex_values_keep_their_imaginary_part() -> None:
    made = sr.tools.average([arrays(w=np.complex64([1 + 2j])), arrays(w=np.complex64([3 - 4j]))])
    assert made.read("w")[0] == 2 - 1j


@pytest.mark.parametrize("weights", [[1], [1, -1], [np.nan, 1], [np.inf, 1], [0, 0]])
def test_weights_that_are_no_weights_are_refused(weights) -> None:
    with pytest.raises(UnsupportedError):
        sr.tools.average([arrays(w=1.0), arrays(w=2.0)], weights)


def test_states_of_two_architectures_are_refused_by_name() -> None:
    with pytest.raises(MismatchError, match="w: shape") as caught:
        sr.tools.average([arrays(w=[1.0], v=1.0), arrays(w=[1.0, 2.0], u=1.0)])
    assert set(caught.value.keys) == {"w", "v", "u"}


def test_nothing_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="nothing to average"):
        sr.tools.average([])


# -------------------------------------------------------------------- moving


def test_the_moving_average_of_a_constant_is_the_constant(make) -> None:
    ema = sr.tools.ema(make(1), 0.9)
    for _ in range(5):
        ema.update(make(1))
    state = make(1)
    for key in state:
        np.testing.assert_allclose(ema.registry.read(key), state.read(key), rtol=3e-7)


@pytest.mark.parametrize("correct", [True, False])
def test_a_moving_average_is_what_its_formula_says(make, correct) -> None:
    ema = sr.tools.ema(make(0), 0.8, bias_correction=correct, buffers="average")
    mean, weight = 0.0, 0.0
    for seed in range(4):
        state = make(seed)
        ema.update(state)
        x = state.read("bn/mean" if "bn/mean" in state else "bn/running_mean").astype(np.float64)
        mean = 0.8 * mean + 0.2 * x if correct or seed else x
        weight = 0.8 * weight + 0.2
    found = ema.registry.read("bn/mean" if "bn/mean" in ema.registry else "bn/running_mean")
    np.testing.assert_allclose(found, mean / weight if correct else mean, rtol=1e-6)


def test_buffers_are_those_of_the_last_state_by_default(make) -> None:
    ema = sr.tools.ema(make(0), 0.5)
    ema.update(make(1))
    ema.update(make(2))
    made, last = ema.registry, make(2)
    for key, entry in made.items():
        if entry.kind is sr.Kind.BUFFER:
            assert made.read(key).tobytes() == last.read(key).tobytes()
        else:
            assert made.read(key).tobytes() != last.read(key).tobytes()


def test_what_was_shown_does_not_move(make) -> None:
    ema = sr.tools.ema(make(0), 0.5)
    ema.update(make(1))
    shown = ema.registry
    before = bits(shown)
    ema.update(make(2))
    assert bits(shown) == before
    assert bits(ema.registry) != before


def test_an_average_goes_on_where_it_was(make) -> None:
    one, two = (sr.tools.ema(make(0), lambda step: min(0.9, step / 10)) for _ in range(2))
    one.update(make(1))
    two.restore(one.state())
    one.update(make(2))
    two.update(make(2))
    assert bits(one.registry) == bits(two.registry)
    assert two.steps == 2


def test_a_state_of_another_average_is_refused(make) -> None:
    ema = sr.tools.ema(arrays(w=1.0), 0.5)
    ema.update(arrays(w=1.0))
    with pytest.raises(UnsupportedError, match="another average"):
        sr.tools.ema(make(0), 0.5).restore(ema.state())
    with pytest.raises(MismatchError):
        ema.update(make(1))
    assert ema.steps == 1


@pytest.mark.parametrize("decay", [1, -0.1, float("nan"), lambda step: 2.0])
def test_a_decay_that_is_none_is_refused(decay) -> None:
    with pytest.raises(UnsupportedError, match="a decay of"):
        sr.tools.ema(arrays(w=1.0), decay).update(arrays(w=1.0))


def test_the_average_of_nothing_is_refused(make) -> None:
    with pytest.raises(UnsupportedError, match="no state"):
        sr.tools.ema(make(0), 0.5).registry  # noqa: B018  # asking is what is tested
