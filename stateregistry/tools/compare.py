"""Comparing two states: which keys, metadata and bits differ, one value in memory at a time.

Values are compared by their bits: equal NaNs are equal, `-0.0` is not `0.0`. What cannot be compared (abstract, opaque, not
addressable) is named, and then the verdict is not "equal". Changes neither side. Imports NumPy and the core, no framework.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from stateregistry import errors
from stateregistry.display import Displayed, counted
from stateregistry.entry import Kind
from stateregistry.sources import is_path, resolved
from stateregistry.tools.measures import Measures, measure
from stateregistry.tools.select import Where, selector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from stateregistry.entry import Entry
    from stateregistry.registry import StateRegistry

SCHEMA: Final = "stateregistry.diff/1"
#: Elements that are compared at a time.
_BLOCK: Final = 1 << 18
#: Lines of each class that the text shows.
_SHOWN: Final = 20


@final
@dataclass(frozen=True, slots=True)
class MetadataDifference:
    """One key whose entries differ. A side that only inferred its kind and flags is held to shape and dtype."""

    key: str
    entry_a: Entry
    entry_b: Entry

    def __str__(self) -> str:
        names = ("kind", "shape", "dtype", "trainable", "persistent", "concrete", "rng")
        pairs = ((name, getattr(self.entry_a, name), getattr(self.entry_b, name)) for name in names)
        return f"{self.key}: " + ", ".join(f"{n} {_word(x)} / {_word(y)}" for n, x, y in pairs if x != y)


@final
@dataclass(frozen=True, slots=True)
class ValueDifference:
    """One key whose bits differ.

    Attributes:
        max_abs: the largest absolute difference of two elements; infinite where one of them is not finite and the other
            is another value; 0 where only the sign of a zero or the payload of a NaN differs.
        elements: how many elements differ in their bits.
        size: how many there are.
        measures: how far the two are from one another as a whole. Not compared: sums depend on their order.
    """

    key: str
    max_abs: float
    elements: int
    size: int
    measures: Measures | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.key}: {self.elements:,} of {self.size:,} elements, by at most {self.max_abs:.6g}"

    def to_json(self) -> dict[str, Any]:
        """As JSON types; numbers that JSON does not have as text, which the standard library's reader would not ask for."""
        largest = self.max_abs if np.isfinite(self.max_abs) else "inf"
        row: dict[str, Any] = {"key": self.key, "max_abs": largest, "elements": self.elements, "size": self.size}
        return row | (self.measures.to_json() if self.measures is not None else {})


@final
@dataclass(frozen=True, slots=True)
class Diff(Displayed):
    """What differs between two states. Every tuple is sorted by key.

    Attributes:
        a, b: what the sides are, for people.
        only_a, only_b: persistent entries that only one side has.
        metadata: entries that differ.
        values: values whose bits differ; only those of equal shape and dtype are compared.
        ties: alias keys that are not the same alias on both sides, and no entry of the other side: key, canonical key
            in `a`, canonical key in `b` (`None`: no alias there).
        identical: how many entries have the same bits.
        elements: how many elements those have.
        not_compared: key and reason of what has no bits to compare: abstract, opaque, or not addressable.
        left_out: entries that are not persistent and that only one side has; they do not count as a difference.
        close: values whose bits differ by no more than `atol + rtol * |b|` anywhere; they do not count as a difference.
        kinds: of every key of either side, `trainable`, `frozen` or `buffer`, by the side that knows. Not compared.
        rtol, atol: what was asked for; both 0 by default, where nothing is.
    """

    a: str
    b: str
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    metadata: tuple[MetadataDifference, ...] = ()
    values: tuple[ValueDifference, ...] = ()
    ties: tuple[tuple[str, str | None, str | None], ...] = ()
    identical: int = 0
    elements: int = 0
    not_compared: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()
    close: tuple[ValueDifference, ...] = ()
    rtol: float = 0.0
    atol: float = 0.0
    kinds: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def equal(self) -> bool:
        """Whether nothing differs by more than was asked for, and everything was compared."""
        return not (self.only_a or self.only_b or self.metadata or self.values or self.ties or self.not_compared)

    def __str__(self) -> str:
        lines = [self._verdict(), f"  a: {self.a}", f"  b: {self.b}"]
        lines += _listed("only in a", self.only_a)
        lines += _listed("only in b", self.only_b)
        lines += _listed("metadata (a / b)", self.metadata)
        lines += _listed("values", self.values)
        lines += _listed(f"close (rtol {self.rtol:g}, atol {self.atol:g})", self.close)
        lines += _listed("ties (a / b)", [f"{key}: {x or 'none'} / {y or 'none'}" for key, x, y in self.ties])
        lines += _listed("not compared", [f"{key}: {reason}" for key, reason in self.not_compared])
        lines += _listed("not persistent, on one side only", self.left_out)
        return "\n".join(lines)

    def _verdict(self) -> str:
        same = f"{counted(self.identical, 'entry')} of {counted(self.elements, 'element')} identical"
        if self.equal:
            near = f"; {len(self.close):,} within rtol {self.rtol:g} and atol {self.atol:g}" if self.close else ""
            return f"{'close' if self.close else 'equal'}: {same}{near}"
        parts = [
            (len(self.only_a), "only in a"),
            (len(self.only_b), "only in b"),
            (len(self.metadata), "with other metadata"),
            (len(self.values), "with other values"),
            (len(self.ties), "tied differently"),
            (len(self.not_compared), "not compared"),
        ]
        told = ", ".join(f"{number} {text}" for number, text in parts if number)
        verdict = "undecided" if not any(number for number, _ in parts[:-1]) else "different"
        return f"{verdict}: {told}; {same}"

    def to_json(self) -> dict[str, Any]:
        """The same as a dict of JSON types, with `schema` and `equal`."""
        return {
            "schema": SCHEMA,
            "equal": self.equal,
            "a": self.a,
            "b": self.b,
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
            "metadata": [{"key": m.key, "a": _row(m.entry_a), "b": _row(m.entry_b)} for m in self.metadata],
            "values": [v.to_json() for v in self.values],
            "close": [v.to_json() for v in self.close],
            "rtol": self.rtol,
            "atol": self.atol,
            "ties": [{"key": key, "a": x, "b": y} for key, x, y in self.ties],
            "identical": self.identical,
            "elements": self.elements,
            "not_compared": [{"key": key, "reason": reason} for key, reason in self.not_compared],
            "left_out": list(self.left_out),
        }  # fmt: skip


def diff(
    a: StateRegistry | Any,
    b: StateRegistry | Any,
    /,
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
    where: Where = None,
    progress: Callable[[int, int], None] | None = None,
) -> Diff:
    """Compare two states: registries, live objects or paths of files.

    Args:
        a, b: the two.
        rtol, atol: values that differ by no more than `atol + rtol * |b|` anywhere are close, and no difference. 0 for both,
            the default: bits decide.
        where: only these: a pattern of keys, a `Kind`, a predicate of `(key, entry)`. An alias goes with its entry.
        progress: called with bytes compared and bytes in all.

    Returns:
        The differences: `diff.equal` says whether there is none, `str(diff)` shows them.

    Raises:
        AdapterError: an object that no adapter knows. FileFormatError and its kin: a file that cannot be read.
        ValueError: a tolerance is negative or no number.
    """
    if not (rtol >= 0 and atol >= 0):
        message = f"tolerances are not negative: rtol {rtol}, atol {atol}"
        raise ValueError(message)
    chosen = selector(where, lambda _key, _entry: True)
    with resolved(a) as first, resolved(b) as second:
        comparison = _Comparison(first, second, _name(a, first), _name(b, second), chosen, (rtol, atol), progress)
        return comparison.result()


def _name(side: Any, registry: StateRegistry) -> str:
    return os.fspath(side) if is_path(side) else repr(registry)


@final
class _Comparison:
    """The work of one `diff`."""

    def __init__(
        self,
        a: StateRegistry,
        b: StateRegistry,
        name_a: str,
        name_b: str,
        chosen: Callable[[str, Entry], bool],
        tolerance: tuple[float, float],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._a, self._b, self._names = a, b, (name_a, name_b)
        self._tolerance, self._progress = tolerance, progress
        # Once: over a live model every lookup asks the model.
        self._entries_a = {key: entry for key, entry in a.items() if chosen(key, entry)}
        self._entries_b = {key: entry for key, entry in b.items() if chosen(key, entry)}
        self._all = len(self._entries_a) == len(a) and len(self._entries_b) == len(b)
        self._not_compared: dict[str, str] = {}

    def result(self) -> Diff:
        only_a, only_b = self._only(self._entries_a, self._entries_b), self._only(self._entries_b, self._entries_a)
        left_out = {key for key in only_a if not self._entries_a[key].persistent}
        left_out |= {key for key in only_b if not self._entries_b[key].persistent}
        metadata: list[MetadataDifference] = []
        values: list[ValueDifference] = []
        close: list[ValueDifference] = []
        identical = elements = 0
        shared = sorted(self._entries_a.keys() & self._entries_b.keys())
        done, total = 0, sum(self._entries_a[key].nbytes for key in shared)
        for key in shared:
            first, second = self._entries_a[key], self._entries_b[key]
            if self._progress is not None:
                self._progress(done, total)
            done += first.nbytes
            if not _alike(first, second):
                metadata.append(MetadataDifference(key, first, second))
            found = self._values(key, first, second)
            if found is None:
                identical, elements = identical + 1, elements + first.size
            elif isinstance(found, ValueDifference):
                near = any(self._tolerance) and found.measures is not None and found.measures.close
                (close if near else values).append(found)
        for side, registry in (("a", self._a), ("b", self._b)):
            for key, reason in registry.opaque.items() if self._all else ():
                self._not_compared.setdefault(key, f"opaque in {side}: {reason}")
        return Diff(
            *self._names,
            tuple(key for key in only_a if key not in left_out),
            tuple(key for key in only_b if key not in left_out),
            tuple(metadata),
            tuple(values),
            self._ties(),
            identical,
            elements,
            tuple(sorted(self._not_compared.items())),
            tuple(sorted(left_out)),
            tuple(close),
            *self._tolerance,
            {key: self._standing(key) for key in sorted(self._entries_a.keys() | self._entries_b.keys())},
        )

    def _standing(self, key: str) -> str:
        """What an entry is to a person who trains; a side that inferred it gives way to one that knows."""
        sides = [side[key] for side in (self._entries_a, self._entries_b) if key in side]
        entry = next((entry for entry in sides if not entry.inferred), sides[0])
        return "buffer" if entry.kind is Kind.BUFFER else "trainable" if entry.trainable else "frozen"

    @staticmethod
    def _only(mine: Mapping[str, Entry], other: Mapping[str, Entry]) -> list[str]:
        return sorted(key for key in mine if key not in other)

    def _ties(self) -> tuple[tuple[str, str | None, str | None], ...]:
        first, second = self._a.aliases, self._b.aliases
        return tuple(
            (key, first.get(key), second.get(key))
            for key in sorted(first.keys() | second.keys())
            if first.get(key) != second.get(key)
            and key not in self._entries_a
            and key not in self._entries_b
            and (self._all or {first.get(key), second.get(key)} & (self._entries_a.keys() | self._entries_b.keys()))
        )

    def _values(self, key: str, first: Entry, second: Entry) -> ValueDifference | bool | None:
        """The difference of two values; `None` where the bits are the same, `False` where they were not compared."""
        if (first.shape, first.dtype) != (second.shape, second.dtype):
            return False
        for side, entry in (("a", first), ("b", second)):
            if not entry.concrete:
                self._not_compared[key] = f"abstract in {side}"
                return False
        try:
            left, right = self._a.view(key), self._b.view(key)
        except errors.UnsupportedError as error:
            self._not_compared[key] = error.message
            return False
        return difference_of(key, left, right, *self._tolerance)


def _alike(first: Entry, second: Entry) -> bool:
    if first.inferred or second.inferred:
        # A bare file says nothing of kinds and flags: what was inferred is no evidence of a difference.
        first = replace(
            first, kind=second.kind, trainable=second.trainable, persistent=second.persistent, rng=second.rng
        )
    return first == second


def difference_of(
    key: str, left: np.ndarray, right: np.ndarray, rtol: float = 0.0, atol: float = 0.0
) -> ValueDifference | None:
    """The difference of two values of one shape and dtype; `None` where the bits are the same."""
    elements, largest = 0, 0.0
    for first, second in zip(_blocks(left), _blocks(right), strict=True):
        differs = first.view(np.uint8) != second.view(np.uint8)
        if differs.any():
            lanes = differs.reshape(first.size, -1).any(axis=1)
            elements += int(np.count_nonzero(lanes))
            largest = max(largest, _largest(first[lanes], second[lanes]))
    if not elements:
        return None
    return ValueDifference(key, largest, elements, left.size, measure(left, right, rtol=rtol, atol=atol))


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """The elements in C order, in contiguous native-endian blocks."""
    dtype = array.dtype if array.dtype.isnative else array.dtype.newbyteorder("=")
    flat = np.ascontiguousarray(array).reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        yield np.ascontiguousarray(flat[start : start + _BLOCK], dtype=dtype)


def _largest(first: np.ndarray, second: np.ndarray) -> float:
    """The largest absolute difference of elements that differ in their bits."""
    kind = first.dtype.kind
    if kind == "b":
        return 1.0
    if kind in "iu":
        # In two's complement of 64 bits the difference of the larger and the smaller is exact, whatever their signs.
        high, low = np.maximum(first, second), np.minimum(first, second)
        return float((high.astype(np.uint64) - low.astype(np.uint64)).max())
    wide: type[np.generic] = np.complex128 if kind == "c" else np.float64
    with np.errstate(all="ignore"):
        x, y = first.astype(wide), second.astype(wide)
        far = np.abs(x - y)
    far = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, far)
    return float(np.where(np.isnan(far), np.inf, far).max())


def _word(value: object) -> str:
    name = getattr(value, "value", value)  # a kind by its name
    return str(list(name)) if isinstance(name, tuple) else str(name)


def _row(entry: Entry) -> dict[str, Any]:
    names = ("dtype", "trainable", "persistent", "concrete", "rng", "tag", "inferred")
    return {"kind": entry.kind.value, "shape": list(entry.shape)} | {name: getattr(entry, name) for name in names}


def _listed(title: str, items: Any) -> list[str]:
    items = list(items)
    if not items:
        return []
    lines = [f"{title}:", *(f"  {item}" for item in items[:_SHOWN])]
    if len(items) > _SHOWN:
        lines.append(f"  ... and {len(items) - _SHOWN} more")
    return lines
