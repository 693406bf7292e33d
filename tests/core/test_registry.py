"""What the base class derives from four hooks, over the smallest adapters that there can be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import Entry, Kind
from stateregistry.registry import ReadOnlyRegistry, StateRegistry

if TYPE_CHECKING:
    from collections.abc import Mapping


class Cells(StateRegistry):
    """An in-place registry over a dict; writing `fails` raises there."""

    adapter: ClassVar[str] = "cells"
    in_place: ClassVar[bool] = True

    def __init__(
        self, cells: dict[str, np.ndarray], fails: set[str] = frozenset(), error: Any = ZeroDivisionError
    ) -> None:  # type: ignore[assignment]
        self.cells, self.fails, self.error = cells, set(fails), error
        self.log: list[str] = []

    def _entries(self) -> Mapping[str, Entry]:
        return {key: Entry(Kind.PARAMETER, x.shape, x.dtype.name, trainable=True) for key, x in self.cells.items()}

    def _read(self, key: str, /) -> np.ndarray:
        return self.cells[key]

    def _stage(self, key: str, value: np.ndarray, /) -> Any:
        self.log.append(f"stage {key}")
        return value

    def _commit(self, staged: Mapping[str, Any], /) -> Any:
        for key, value in staged.items():
            self.log.append(f"write {key}")
            if key in self.fails:
                if self.error is KeyboardInterrupt:
                    self.fails.clear()  # one press of a key
                raise self.error(key)
            self.cells[key][...] = value
        return self

    def unwrap(self) -> Any:
        return self.cells


class Values(StateRegistry):
    """A functional registry over a dict, without a flag of its own."""

    adapter: ClassVar[str] = "values"
    in_place: ClassVar[bool] = False

    def __init__(self, cells: Mapping[str, np.ndarray]) -> None:
        self.cells = dict(cells)

    def _entries(self) -> Mapping[str, Entry]:
        return {key: Entry(Kind.PARAMETER, x.shape, x.dtype.name, trainable=True) for key, x in self.cells.items()}

    def _read(self, key: str, /) -> np.ndarray:
        return self.cells[key]

    def _stage(self, key: str, value: np.ndarray, /) -> Any:
        if key == "narrow":
            raise errors.UnsupportedError(f"{key!r} would be narrowed")
        return value

    def _commit(self, staged: Mapping[str, Any], /) -> Any:
        if "broken" in staged:
            raise ZeroDivisionError("broken")
        return type(self)({**self.cells, **staged})

    def unwrap(self) -> Any:
        return self.cells


def _cells() -> dict[str, np.ndarray]:
    return {key: np.full(3, number, np.float32) for number, key in enumerate(("c", "a", "b"))}


def _given() -> dict[str, np.ndarray]:
    return {key: np.full(3, 9, np.float32) for key in ("c", "a", "b")}


@pytest.mark.parametrize("fails", [{"a"}, {"b"}, {"c"}, {"a", "c"}])
def test_a_failing_write_is_rolled_back_place_by_place(fails: set[str]) -> None:
    registry = Cells(_cells(), fails)
    kept = dict(registry.cells)
    with pytest.raises(errors.CommitError) as caught:
        registry.replace(_given())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert caught.value.keys == ()
    assert {key: x.tolist() for key, x in registry.cells.items()} == {key: x.tolist() for key, x in _cells().items()}
    assert all(registry.cells[key] is kept[key] for key in kept)


def test_an_interrupt_is_rolled_back_and_goes_on_as_itself() -> None:
    registry = Cells(_cells(), {"b"}, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        registry.replace(_given())
    assert registry.cells["c"].tolist() == [0, 0, 0]


def test_a_second_interrupt_does_not_stop_the_rolling_back() -> None:
    class Pressed(Cells):
        presses = 2

        def _commit(self, staged: Mapping[str, Any], /) -> Any:
            for key, value in staged.items():
                self.cells[key][...] = value
                if key == "b" and self.presses:
                    type(self).presses -= 1
                    raise KeyboardInterrupt
            return self

    registry = Pressed(_cells())
    with pytest.raises(KeyboardInterrupt):
        registry.replace(_given())
    assert Pressed.presses == 0
    assert {key: x.tolist() for key, x in registry.cells.items()} == {key: x.tolist() for key, x in _cells().items()}


def test_everything_is_staged_before_the_first_write() -> None:
    registry = Cells(_cells())
    registry.replace(_given())
    order = [line.split()[0] for line in registry.log if line.startswith(("stage", "write"))]
    assert order.index("write") >= 3


def test_what_cannot_be_rolled_back_is_said() -> None:
    class Torn(Cells):
        def _commit(self, staged: Mapping[str, Any], /) -> Any:
            for key in staged:
                self.cells[key][...] = -1  # half a write, and never the old value again
            raise ZeroDivisionError

    registry = Torn(_cells())
    with pytest.raises(errors.CommitError, match="NOT restored") as caught:
        registry.replace({"a": np.full(3, 9, np.float32)})
    assert caught.value.keys == ("a",)


def test_a_functional_write_that_fails_leaves_the_receiver() -> None:
    registry = Values({"broken": np.zeros(3), "ok": np.zeros(3)})
    with pytest.raises(errors.CommitError) as caught:
        registry.replace({"broken": np.ones(3), "ok": np.ones(3)})
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert registry.cells["ok"].tolist() == [0, 0, 0]


def test_what_the_framework_would_narrow_is_refused_with_all_other_problems_of_staging() -> None:
    registry = Values({"narrow": np.zeros(3), "ok": np.zeros(3)})
    with pytest.raises(errors.SourceError) as caught:
        registry.replace({"narrow": np.ones(3), "ok": np.ones(3)})
    assert caught.value.report.invalid == ("narrow",)
    with pytest.raises(errors.LoadError) as loaded:
        sr.load(registry, {"narrow": np.ones(3), "ok": np.ones(3)})
    assert loaded.value.report.invalid == ("narrow",)


def test_flags_are_carried_by_the_handle_through_writes_and_do_not_touch_the_receiver() -> None:
    first = Values({"a": np.zeros(3), "b": np.zeros(3)})
    second = first.with_trainable({"a": False})
    third = second.replace({"b": np.ones(3)})
    fourth = third.with_trainable({"a": True, "b": False})
    flags = [[entry.trainable for entry in registry.values()] for registry in (first, second, third, fourth)]
    assert flags == [[True, True], [False, True], [False, True], [True, False]]


def test_an_adapter_that_lists_what_it_does_not_read_is_told_so() -> None:
    class Lying(Values):
        def _read(self, key: str, /) -> np.ndarray:
            return self.cells[key][:1]

    with pytest.raises(errors.StateError, match="bug of the adapter"):
        Lying({"a": np.zeros(3)}).read("a")


def test_views_of_items_are_of_the_moment() -> None:
    registry = Cells(_cells())
    items, keys, values = registry.items(), registry.keys(), registry.values()
    registry.cells["d"] = np.zeros(3, np.float32)
    assert [key for key, _ in items] == ["a", "b", "c"] == list(keys)
    assert len(values) == 3
    assert len(registry) == 4


def test_a_read_only_registry_refuses_every_write() -> None:
    class Stored(ReadOnlyRegistry):
        def _entries(self) -> Mapping[str, Entry]:
            return {"a": Entry(Kind.BUFFER, (3,), "float32")}

        def _read(self, key: str, /) -> np.ndarray:
            return np.zeros(3, np.float32)

        def unwrap(self) -> Any:
            return None

    registry = Stored()
    for write in (
        lambda: registry.replace({}),
        lambda: registry.replace({"a": np.ones(3, np.float32)}),
        lambda: registry.with_trainable({"a": False}),
        lambda: sr.load(registry, {"a": np.ones(3, np.float32)}),
    ):
        with pytest.raises(errors.UnsupportedError, match="read-only"):
            write()


def test_an_unknown_key_gets_a_suggestion() -> None:
    registry = Cells({"encoder/weight": np.zeros(3, np.float32)})
    for asked, hint in (("encoder.weight", "keys are spelled with '/'"), ("encoder/wieght", "did you mean")):
        with pytest.raises(errors.UnknownKeyError) as caught:
            registry[asked]
        assert hint in str(caught.value)


def test_the_repr_counts_kinds_and_elements() -> None:
    assert repr(Cells(_cells())) == "<Cells cells: 3 parameters of 9 elements, 0 buffers of 0 elements>"
