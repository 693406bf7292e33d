"""Recognition: renames, prefixes, transposes and casts are claimed on evidence, and not where two would do."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from torch import nn

import stateregistry as sr
import stateregistry_numpy
from stateregistry import keys
from stateregistry.tools.measures import measure
from stateregistry.tools.recognition import recognise

RNG = np.random.default_rng(7)


def state(**arrays):
    """A registry with these arrays; `__` in a name is a container."""
    top = stateregistry_numpy.Module()
    for name, array in arrays.items():
        *path, last = name.split("__")
        node = top
        for part in path:
            if not hasattr(node, part):
                setattr(node, part, stateregistry_numpy.Module())
            node = getattr(node, part)
        node.register_parameter(last, np.asarray(array))
    return sr.of(top)


def found(a, b):
    return recognise(a, b, sr.diff(a, b))


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def test_nothing_is_recognised_where_nothing_differs():
    a = state(x=f32(3, 4), y=f32(5))
    assert found(a, a) == ()


def test_a_rename_is_told_by_its_bits():
    x, y = f32(3, 4), f32(3, 4)
    (pair,) = found(state(old__w=x, same=y), state(new__kernel=x, same=y))
    assert (pair.a, pair.b, pair.kinds) == ("old/w", "new/kernel", ("renamed",))
    assert pair.difference is None


def test_the_order_of_names_decides_nothing():
    """As many arrays of one shape under other names: each is found by its own bits."""
    arrays = [f32(3, 4) for _ in range(6)]
    a = state(**{f"a{n}": array for n, array in enumerate(arrays)})
    b = state(**{f"b{5 - n}": array for n, array in enumerate(arrays)})
    assert {pair.a: pair.b for pair in found(a, b)} == {f"a{n}": f"b{5 - n}" for n in range(6)}


@pytest.mark.parametrize("wrapped", ["a", "b"])
def test_a_prefix_of_all_names_is_recognised_on_either_side(wrapped):
    arrays = {"x__w": f32(3, 4), "x__b": f32(4), "y__w": f32(3, 4)}
    inside = {f"module__{name}": array for name, array in arrays.items()}
    inside["module__x__w"] = inside["module__x__w"] * np.float32(1.5)
    first, second = (inside, arrays) if wrapped == "a" else (arrays, inside)
    pairs = found(state(**first), state(**second))
    assert len(pairs) == 3
    assert {pair.prefix for pair in pairs} == {"module"}
    (changed,) = [pair for pair in pairs if pair.difference is not None]
    assert changed.b.endswith("x/w")
    assert changed.difference.elements == 12


def test_a_transpose_is_told_with_its_order_of_axes():
    x = f32(2, 3, 4, 5)
    (pair,) = found(state(w=x), state(kernel=np.ascontiguousarray(x.transpose(2, 3, 1, 0))))
    assert pair.kinds == ("renamed", "transposed")
    assert pair.order == (2, 3, 1, 0)


def test_a_square_transpose_under_one_name_is_recognised_and_a_change_is_not():
    x = f32(6, 6)
    (pair,) = found(state(w=x), state(w=np.ascontiguousarray(x.T)))
    assert (pair.kinds, pair.order, pair.difference) == (("transposed",), (1, 0), None)
    y = np.ascontiguousarray(x.T)
    y[0, 1] += 1
    assert found(state(w=x), state(w=y)) == ()


def test_one_name_with_another_shape_is_recognised_by_bits_alone():
    x = f32(3, 4)
    (pair,) = found(state(w=x), state(w=np.ascontiguousarray(x.T)))
    assert pair.kinds == ("transposed",)
    (pair,) = found(state(w=x), state(w=x.reshape(12)))
    assert pair.kinds == ("reshaped",)
    assert found(state(w=x), state(w=f32(4, 3))) == ()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, ml_dtypes.float8_e4m3fn])
def test_a_cast_is_told_from_other_values_in_another_dtype(dtype):
    x = f32(8, 3)
    x[0, 0] = np.nan
    (pair,) = found(state(w=x), state(w=x.astype(dtype)))
    assert pair.kinds == ("cast",)
    assert pair.exact
    y = (x * 2).astype(dtype)
    (pair,) = found(state(w=x), state(w=y))
    assert pair.kinds == ("cast", "changed")
    assert not pair.exact
    assert pair.difference.measures.rel_l2 == pytest.approx(1, rel=0.2)


def test_what_is_left_alone_of_its_shape_and_last_name_is_paired_and_said_to_be_that():
    (pair,) = found(state(classifier__bias=f32(9), a=f32(2)), state(head__bias=f32(9), b=f32(3)))
    assert (pair.a, pair.b) == ("classifier/bias", "head/bias")
    assert pair.evidence == "the only one left of this shape and name"
    assert pair.difference is not None


def test_where_two_would_do_none_is_claimed():
    a = state(x__bias=f32(9), y__bias=f32(9))
    b = state(p__bias=f32(9), q__bias=f32(9))
    assert found(a, b) == ()
    zeros = np.zeros(5, np.float32)
    assert found(state(a1=zeros, a2=zeros, a3=zeros), state(b1=zeros, b2=zeros)) == ()


def test_a_scale_and_a_variance_of_equal_bits_are_told_apart_by_their_kinds():
    norm = sr.of(nn.BatchNorm1d(5))
    ones, zeros = np.ones(5, np.float32), np.zeros(5, np.float32)
    linen = sr.of({"params": {"scale": ones, "bias": zeros}, "batch_stats": {"var": ones, "mean": zeros}})
    pairs = {pair.a: pair.b for pair in found(norm, linen)}
    assert pairs == {"weight": "scale", "running_var": "var", "running_mean": "mean"}


def test_as_many_with_the_same_bits_pair_and_say_so():
    zeros = np.zeros(5, np.float32)
    pairs = found(state(a1=zeros, a2=zeros), state(b1=zeros, b2=zeros))
    assert [(pair.a, pair.b) for pair in pairs] == [("a1", "b1"), ("a2", "b2")]
    assert "as 1 more have" in pairs[0].evidence


def test_the_same_number_of_bits_in_another_dtype_is_no_rename():
    x = f32(4)
    assert found(state(a=x), state(b=x.view(np.int32).view(np.float32).astype(np.float64)[:2])) == ()


def test_a_shared_prefix_needs_all_names_and_half_of_them_to_fit():
    assert keys.shared_prefix(["m/a", "m/b"], {"a", "b"}) == ("m", 2)
    assert keys.shared_prefix(["x/m/a", "x/m/b"], {"a", "b"}) == ("x/m", 2)
    assert keys.shared_prefix(["m/a", "n/b"], {"a", "b"}) == ("", 0)
    assert keys.shared_prefix(["m/a", "m/b", "m/c"], {"a"}) == ("", 0)
    assert keys.shared_prefix([], {"a"}) == ("", 0)


def test_measures_are_those_of_numpy():
    a, b = RNG.standard_normal(10_000), RNG.standard_normal(10_000)
    m = measure(a, b)
    away = np.abs(b - a)
    assert m.mean_abs == pytest.approx(away.mean())
    assert m.max_rel == pytest.approx((away / np.abs(a)).max())
    assert m.mean_rel == pytest.approx((away / np.abs(a)).mean())
    assert m.rel_l2 == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a))
    assert m.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert np.isnan(m.scale)
    assert measure(a, 1.01 * a).scale == pytest.approx(1.01)


@pytest.mark.parametrize("factor", [1e-200, 1.0, 1e200])
def test_measures_neither_overflow_nor_vanish(factor):
    a = np.array([1.0, 2.0, 3.0]) * factor
    m = measure(a, a * 1.5)
    assert m.rel_l2 == pytest.approx(0.5)
    assert m.cosine == pytest.approx(1)
    assert m.scale == pytest.approx(1.5)


def test_values_that_are_not_finite_are_said_and_not_hidden():
    m = measure(np.array([1.0, np.nan]), np.array([1.0, 2.0]), rtol=10, atol=10)
    assert not m.close
    assert m.max_rel == np.inf
    same = measure(np.array([np.nan, np.inf, 1.0]), np.array([np.nan, np.inf, 1.0]))
    assert same.close
    assert same.mean_abs == 0


@pytest.mark.parametrize(
    ("rtol", "atol", "close"), [(0, 0.1, True), (0, 0.01, False), (0.1, 0, True), (0.001, 0, False)]
)
def test_tolerances_are_as_asked(rtol, atol, close):
    a, b = state(w=np.array([1.0, 2.0]), v=np.ones(2)), state(w=np.array([1.05, 2.05]), v=np.ones(2))
    d = sr.diff(a, b, rtol=rtol, atol=atol)
    assert d.equal is close
    assert (len(d.close), len(d.values)) == ((1, 0) if close else (0, 1))
    assert str(d).startswith("close: 1 entry of" if close else "different: 1 with other values")
    assert d.to_json()["equal"] is close


def test_a_negative_tolerance_is_refused():
    a = state(w=np.ones(2))
    for options in ({"rtol": -1.0}, {"atol": float("nan")}):
        with pytest.raises(ValueError, match="tolerances are not negative"):
            sr.diff(a, a, **options)


def test_a_part_can_be_compared():
    a, b = state(x__w=np.ones(2), y__w=np.ones(2)), state(x__w=np.ones(2), y__w=np.zeros(2))
    assert not sr.diff(a, b).equal
    assert sr.diff(a, b, where="x/*").equal
    assert [v.key for v in sr.diff(a, b, where=sr.Kind.PARAMETER).values] == ["y/w"]
    assert sr.diff(a, b, where=lambda key, _: key == "y/w").values[0].elements == 2
    done: list[tuple[int, int]] = []
    sr.diff(a, b, progress=lambda now, all_: done.append((now, all_)))
    assert done == [(0, 32), (16, 32)]
