"""Statistics, identity, selection by layer, freezing, merging and splitting: over every adapter."""

from __future__ import annotations

import math

import numpy as np
import optax
import pytest
import torch
from tool_states import MAKERS, TorchNet, bits, filled

import stateregistry as sr
from stateregistry.errors import DuplicateKeyError, UnknownKeyError, UnsupportedError
from stateregistry.tools import derived
from stateregistry.tools.statistics import describe


def test_statistics_are_those_of_numpy(make) -> None:
    reg = make(1)
    found = sr.tools.stats(reg, "conv/*")
    assert set(found) == {key for key in reg if key.startswith("conv/")}
    for key, one in found.items():
        value = reg.read(key).astype(np.float64)
        assert one.elements == one.finite == value.size
        expected = (value.min(), value.max(), value.mean(), value.std(), np.linalg.norm(value))
        np.testing.assert_allclose((one.least, one.largest, one.mean, one.std, one.norm), expected, rtol=1e-12)


def test_blocks_are_put_together_without_cancellation(monkeypatch) -> None:
    monkeypatch.setattr(derived, "BLOCK", 7)
    value = 1e8 + np.random.default_rng(0).standard_normal(1000)
    one = describe(value)
    assert one.std == pytest.approx(value.std(), rel=1e-9)
    assert one.mean == pytest.approx(value.mean(), rel=1e-15)
    assert one.norm == pytest.approx(np.linalg.norm(value), rel=1e-12)


@pytest.mark.parametrize("value", [1e300, 1e-300])
def test_a_norm_neither_overflows_nor_vanishes(value) -> None:
    assert describe(np.full(100, value)).norm == pytest.approx(10 * value)


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    one = describe(np.float32([np.nan, np.inf, -np.inf, 0, 3, -4]))
    assert (one.nan, one.infinite, one.zero, one.finite) == (1, 2, 1, 3)
    assert (one.least, one.largest, one.norm) == (-4, 3, 5)
    assert math.isnan(describe(np.float32([np.nan])).mean)
    assert describe(np.zeros((0, 3))).elements == 0
    assert describe(np.complex64([3 + 4j, complex("nan")])).norm == 5


# -------------------------------------------------------------------- identity


def test_one_state_has_one_hash_in_every_framework() -> None:
    source = filled(sr.of(TorchNet()), 5)
    hashes = {"torch": sr.tools.hash(source)}
    for name in ("flax-linen", "flax-nnx", "numpy"):
        target = MAKERS[name]()
        made = sr.convert(source, target, allow=("choice",)).target
        again = target.replace(sr.snapshot(sr.of(made))) if name == "flax-linen" else sr.of(made)
        hashes[name] = sr.tools.hash(again)
    assert len(set(hashes.values())) == 1, hashes


def test_a_hash_changes_with_any_value_but_not_with_a_counter(make) -> None:
    reg = make(1)
    before = sr.tools.hash(reg)
    assert sr.tools.hash(make(1)) == before
    for key, entry in reg.items():
        value = reg.read(key)
        changed = value.copy()
        changed.reshape(-1)[0] += 1
        other = reg.replace({key: changed})
        assert (sr.tools.hash(other) == before) == ("int" in entry.dtype), key
        reg = other.replace({key: value})


def test_a_transposed_square_matrix_has_another_hash(make) -> None:
    reg = make(1)
    key = next(key for key in reg if key.startswith("fc/") and len(reg[key].shape) == 2)
    before = sr.tools.hash(reg)
    assert sr.tools.hash(reg.replace({key: reg.read(key).T})) != before


def test_two_biases_and_their_sum_are_one_state() -> None:
    lstm = filled(sr.of(torch.nn.LSTM(3, 3)), 1)
    both, neither = lstm.read("bias_ih_l0") + lstm.read("bias_hh_l0"), np.zeros(12, "float32")
    summed = sr.of(torch.nn.LSTM(3, 3)).replace({**sr.snapshot(lstm), "bias_ih_l0": neither, "bias_hh_l0": both})
    assert sr.tools.hash(summed) == sr.tools.hash(lstm)


# -------------------------------------------------------------------- selecting and freezing


def test_kernels_are_selected_by_what_they_are(make) -> None:
    reg = make(1)
    chosen = sr.tools.by_layer(reg, "*kernel")
    assert {key.split("/")[0] for key, entry in reg.items() if chosen(key, entry)} == {"fc", "conv"}
    only = sr.tools.by_layer(reg, kinds="batch_norm")
    assert {key.split("/")[0] for key, entry in reg.items() if only(key, entry)} == {"bn"}
    with pytest.raises(UnsupportedError, match="no layer kind 'norm'"):
        sr.tools.by_layer(reg, kinds="norm")


def test_weight_decay_by_layer_is_a_mask_that_optax_takes() -> None:
    reg = MAKERS["flax-linen"]()
    mask = sr.mask(reg, sr.tools.by_layer(reg, "*kernel"))
    params = reg.unwrap()["params"]
    state = optax.masked(optax.add_decayed_weights(0.5), mask)
    zero = {name: {key: value * 0 for key, value in layer.items()} for name, layer in params.items()}
    update, _ = state.update(zero, state.init(params), params)
    assert float(abs(update["fc"]["kernel"] - 0.5 * params["fc"]["kernel"]).max()) == 0
    assert float(abs(update["fc"]["bias"]).max()) == float(abs(update["emb"]["embedding"]).max()) == 0


def test_variables_without_a_module_have_no_layers_to_select_by() -> None:
    from stateregistry.stores.memory import ArraysRegistry

    with pytest.raises(UnsupportedError, match="knows no layers"):
        sr.tools.by_layer(ArraysRegistry({"w": np.zeros(3)}))


def test_freezing_changes_flags_and_nothing_else(make) -> None:
    reg = make(1)
    before = bits(reg)
    frozen = sr.tools.freeze(reg, "conv/*")
    for key, entry in frozen.items():
        assert entry.trainable == (entry.kind is sr.Kind.PARAMETER and not key.startswith("conv/"))
    assert bits(frozen) == before
    assert all(entry.trainable for entry in sr.tools.unfreeze(frozen).values() if entry.kind is sr.Kind.PARAMETER)
    with pytest.raises(UnknownKeyError, match="selects no parameter"):
        sr.tools.freeze(reg, "nothing*")


# -------------------------------------------------------------------- merging and splitting


def test_a_part_of_what_was_merged_is_what_it_was(make) -> None:
    a, b = make(1), make(2)
    both = sr.tools.merge({"model/first": a, "second": b})
    assert len(both) == 2 * len(a)
    for name, one in (("model/first", a), ("second", b)):
        part = sr.tools.split(both, name)
        assert dict(part) == dict(one)
        assert bits(part) == bits(one)
        assert [(layer.kind, layer.path) for layer in part.layers] == [(layer.kind, layer.path) for layer in one.layers]
        assert sr.tools.hash(part) == sr.tools.hash(one)


def test_parts_that_overlap_are_refused(make) -> None:
    with pytest.raises(DuplicateKeyError):
        sr.tools.merge({"a": make(1), "a/b": make(2)})
    with pytest.raises(UnsupportedError):
        sr.tools.merge({})
    with pytest.raises(UnknownKeyError):
        sr.tools.split(make(1), "con")


def test_a_tie_with_the_outside_becomes_a_place_of_its_own() -> None:
    model = torch.nn.Module()
    model.a, model.b = torch.nn.Module(), torch.nn.Module()
    model.a.w = torch.nn.Parameter(torch.arange(3.0))
    model.b.x = model.b.y = model.a.w
    reg = sr.of(model)
    part = sr.tools.split(reg, "b")
    assert set(part) == {"x"}
    assert dict(part.aliases) == {"y": "x"}
    assert part.read("y").tolist() == [0, 1, 2]


def test_a_merged_state_is_loaded_and_saved(make, tmp_path) -> None:
    both = sr.tools.merge({"a": make(1), "b": make(2)})
    sr.save(both, tmp_path / "both.safetensors")
    with sr.open(tmp_path / "both.safetensors") as file:
        assert bits(file).items() <= bits(both).items()
        assert (
            sr.load(make(3), sr.tools.split(file, "b")).read("fc/bias").tobytes() == make(2).read("fc/bias").tobytes()
        )


def test_derived_registries_are_read_only(make) -> None:
    made = sr.tools.average([make(1)])
    with pytest.raises(UnsupportedError, match="read-only"):
        made.replace({"fc/bias": made.read("fc/bias")})
