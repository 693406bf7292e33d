"""Load and snapshot: everything or nothing, from every kind of source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import Entry, Kind
from stateregistry.registry import ReadOnlyRegistry
from stateregistry_numpy import Abstract, BatchNorm, Buffer, Linear, Module, Parameter, Sequential

if TYPE_CHECKING:
    from pathlib import Path


def _model(seed: int = 0) -> Sequential:
    model = Sequential(Linear(4, 4, rng=seed), BatchNorm(4), Linear(4, 4, rng=seed + 1))
    rng = np.random.default_rng(seed)
    registry = sr.of(model)
    registry.replace({k: rng.standard_normal(e.shape).astype(e.dtype) for k, e in registry.items()})
    return model


def _bits(model: Any) -> dict[str, bytes]:
    return {key: array.tobytes() for key, array in sr.snapshot(model).items()}


class _Listed(ReadOnlyRegistry):
    """A registry made of entries and arrays, for sources that say odd things."""

    adapter = "listed"

    def __init__(
        self, entries: Mapping[str, Entry], arrays: Mapping[str, np.ndarray], opaque: Mapping[str, str]
    ) -> None:
        self._all, self._arrays, self._said = entries, arrays, opaque

    def _entries(self) -> Mapping[str, Entry]:
        return self._all

    def _opaque(self) -> Mapping[str, str]:
        return self._said

    def _read(self, key: str, /) -> np.ndarray:
        return self._arrays[key]

    def unwrap(self) -> Any:
        return None


def test_one_argument_explains_open_and_load() -> None:
    with pytest.raises(errors.UnsupportedError, match=r"sr\.open\(path\)") as caught:
        sr.load("model.pt")
    assert isinstance(caught.value, TypeError)


def test_a_path_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(errors.UnsupportedError, match="live model"):
        sr.load(tmp_path / "model.safetensors", _model())


@pytest.mark.parametrize("kind", ["mapping", "registry", "model", "frozen model", "frozen registry"])
def test_every_source_loads_the_same(kind: str) -> None:
    source, target = _model(1), _model(2)
    given: Any = {
        "mapping": lambda: sr.snapshot(source),
        "registry": lambda: sr.of(source),
        "model": lambda: source,
        "frozen model": source.freeze,
        "frozen registry": lambda: sr.of(source.freeze()),
    }[kind]()
    registry = sr.load(target, given)
    assert registry.unwrap() is target
    assert _bits(target) == _bits(source)
    assert not np.shares_memory(target.members["0"].matrix.array, source.members["0"].matrix.array)


def test_a_functional_target_is_left_and_the_result_is_new() -> None:
    source, target = _model(1), _model(2).freeze()
    before = _bits(target)
    registry = sr.load(target, source)
    assert _bits(target) == before
    assert _bits(registry) == _bits(source)


def test_a_file_loads_like_its_state(tmp_path: Path) -> None:
    source, target = _model(1), _model(2)
    sr.save(source, tmp_path / "state.safetensors")
    for path in (tmp_path / "state.safetensors", str(tmp_path / "state.safetensors")):
        sr.load(target, path)
        assert _bits(target) == _bits(source)


def test_a_missing_file_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    target = _model()
    before = _bits(target)
    with pytest.raises(errors.FileMissingError):
        sr.load(target, tmp_path / "nothing.safetensors")
    assert _bits(target) == before


def test_an_object_that_nobody_knows_is_refused() -> None:
    with pytest.raises(errors.AdapterError):
        sr.load(_model(), object())
    with pytest.raises(errors.AdapterError):
        sr.load(object(), {})


@pytest.mark.parametrize("allow", ["missing", {"shape"}, ["everything"], ("missing", "dtype"), {3}, [["missing"]]])
def test_only_two_names_can_be_allowed(allow: Any) -> None:
    target = _model()
    before = _bits(target)
    with pytest.raises(errors.UnsupportedError):
        sr.load(target, {}, allow)
    assert _bits(target) == before


def test_what_is_allowed_keeps_its_value_or_is_left_out() -> None:
    target, before = _model(), _bits(_model())
    sr.load(target, {"0/bias": np.full(4, 7, np.float32), "nobody": np.zeros(3)}, {"missing", "unexpected"})
    after = _bits(target)
    assert after.pop("0/bias") == np.full(4, 7, np.float32).tobytes()
    assert after == {key: bits for key, bits in before.items() if key != "0/bias"}


def test_names_may_come_from_a_generator() -> None:
    target = _model()
    sr.load(target, {}, (name for name in ("missing", "unexpected")))  # type: ignore[arg-type]
    with pytest.raises(errors.UnsupportedError):
        sr.load(target, {}, (name for name in ("missing", "shape")))  # type: ignore[arg-type]


def test_a_report_tells_everything_and_the_hint_how_to_go_on() -> None:
    target = _model()
    with pytest.raises(errors.LoadError) as caught:
        sr.load(target, {"0/bias": np.zeros(4, np.float32), "nobody": np.zeros(3)})
    assert caught.value.report.unexpected == ("nobody",)
    assert len(caught.value.report.missing) == 8
    assert "allow={'missing', 'unexpected'}" in str(caught.value)
    with pytest.raises(errors.LoadError) as caught:
        sr.load(target, {**sr.snapshot(target), "0/bias": np.zeros(5, np.float32)})
    assert caught.value.report.shape == ("0/bias",)
    assert caught.value.hint is None


def test_kinds_that_disagree_are_invalid_unless_they_were_inferred() -> None:
    target = Module()
    target.w, target.b = Parameter(np.zeros(3, np.float32)), Buffer(np.zeros(3, np.float32))
    arrays = {"w": np.ones(3, np.float32), "b": np.full(3, 2, np.float32)}
    told = {key: Entry(Kind.BUFFER, (3,), "float32") for key in arrays}
    with pytest.raises(errors.LoadError) as caught:
        sr.load(target, _Listed(told, arrays, {}))
    assert caught.value.report.invalid == ("w",)
    assert target.w.array.tolist() == [0, 0, 0]
    guessed = {key: Entry(Kind.BUFFER, (3,), "float32", inferred=True) for key in arrays}
    sr.load(target, _Listed(guessed, arrays, {}))
    assert target.w.array.tolist() == [1, 1, 1]


def test_what_is_not_persistent_is_not_taken_from_a_registry() -> None:
    target = Module()
    target.w, target.cache = Parameter(np.zeros(3, np.float32)), Buffer(np.zeros(3, np.float32), persistent=False)
    source = Module()
    source.w, source.cache = Parameter(np.ones(3, np.float32)), Buffer(np.ones(3, np.float32), persistent=False)
    sr.load(target, source)
    assert target.w.array.tolist() == [1, 1, 1]
    assert target.cache.array.tolist() == [0, 0, 0]


def test_opaque_state_of_a_source_is_not_left_out_silently() -> None:
    target = Module()
    target.w = Parameter(np.zeros(3, np.float32))
    entries = {"w": Entry(Kind.PARAMETER, (3,), "float32")}
    source = _Listed(entries, {"w": np.ones(3, np.float32)}, {"extra": "a pickle"})
    with pytest.raises(errors.LoadError) as caught:
        sr.load(target, source)
    assert caught.value.report.unexpected == ("extra",)
    sr.load(target, source, {"unexpected"})
    assert target.w.array.tolist() == [1, 1, 1]


def test_an_abstract_source_is_invalid() -> None:
    target, source = Module(), Module()
    target.w, source.w = Parameter(np.zeros(3, np.float32)), Parameter(Abstract((3,), "float32"))
    with pytest.raises(errors.LoadError) as caught:
        sr.load(target, source)
    assert caught.value.report.invalid == ("w",)
    assert caught.value.report.missing == ()


def test_an_abstract_target_is_filled() -> None:
    target = Module()
    target.w = Parameter(Abstract((3,), "float32"))
    registry = sr.load(target, {"w": np.ones(3, np.float32)})
    assert registry["w"].concrete
    assert target.w.array.tolist() == [1, 1, 1]


def test_a_read_only_target_is_refused_before_anything_is_read() -> None:
    class Untouched(Mapping[str, Any]):
        def __getitem__(self, key: str) -> Any:
            raise AssertionError("was read")

        __iter__ = __len__ = __getitem__  # type: ignore[assignment]

    target = _Listed({}, {}, {})
    with pytest.raises(errors.UnsupportedError, match="read-only"):
        sr.load(target, Untouched())


def test_an_invalid_value_is_not_reported_as_missing_too() -> None:
    model = Module()
    model.z, model.a = Parameter(np.zeros(3, np.float32)), Module()
    model.a.z = model.z
    registry = sr.of(model)
    for key in ("a/z", "z"):
        for report in (sr.check(registry, {key: "text"}), _refused(registry, {key: "text"})):
            assert (report.invalid, report.missing) == ((key,), ())


def _refused(registry: sr.StateRegistry, values: Mapping[str, Any]) -> Any:
    with pytest.raises(errors.LoadError) as caught:
        sr.load(registry, values)
    return caught.value.report


def test_a_snapshot_selects_by_kind_pattern_and_predicate() -> None:
    model = _model()
    assert list(sr.snapshot(model, Kind.BUFFER)) == ["1/count", "1/mean", "1/variance"]
    assert list(sr.snapshot(model, "0/*")) == ["0/bias", "0/matrix"]
    assert list(sr.snapshot(model, lambda key, entry: entry.shape == ())) == ["1/count"]


def test_a_snapshot_names_everything_that_it_cannot_have() -> None:
    model = Module()
    model.w, model.v = Parameter(Abstract((3,), "float32")), Buffer(Abstract((3,), "float32"))
    with pytest.raises(errors.AbstractError) as caught:
        sr.snapshot(model)
    assert caught.value.keys == ("v", "w")
    model = Module()
    model.w, model.names = Parameter(np.zeros(3, np.float32)), Buffer(np.array(["a"]))
    with pytest.raises(errors.OpaqueError) as opaque:
        sr.snapshot(model)
    assert opaque.value.keys == ("names",)
    assert list(sr.snapshot(model, "*")) == ["w"]
