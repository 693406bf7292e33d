"""Recognition: entries of two states that are one under other names, axes or dtypes: renames, prefixes, transposes, casts.

Claimed only on evidence, which is told: the same bits, the same bits in another order of axes, a prefix that all names of one
side share, or one place of its shape left on each side. Where two would do, none is claimed. Reads one value at a time.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import xxhash

from stateregistry import errors, keys
from stateregistry.entry import Kind, numpy_dtype
from stateregistry.tools.compare import ValueDifference, difference_of
from stateregistry.tools.derived import blocks
from stateregistry.tools.measures import measure

if TYPE_CHECKING:
    from stateregistry.entry import Entry
    from stateregistry.registry import StateRegistry
    from stateregistry.tools.compare import Diff

#: Axes whose orders are tried.
_RANK = 5


@final
@dataclass(frozen=True, slots=True)
class Pair:
    """One entry of each side that is the same place.

    Attributes:
        a, b: its keys; equal where it is not renamed.
        evidence: why the two belong together, a few words.
        order: the axes of `a` in the order in which `b` has them, empty where they have the same order.
        reshaped: the same elements in another shape.
        cast: whether dtypes differ; then `exact` says that `b` is `a` rounded to the dtype of `b`, or `a` is `b` rounded.
        difference: of the values, in the order and dtype of `b`; `None` where nothing differs but what is said above.
        prefix: all names of one side lie under a path, and that is all that the two names differ in. size: its elements.
    """

    a: str
    b: str
    evidence: str
    order: tuple[int, ...] = ()
    reshaped: bool = False
    cast: str = ""
    exact: bool = True
    difference: ValueDifference | None = None
    prefix: str = ""
    size: int = 0

    @property
    def renamed(self) -> bool:
        """Whether it has another name."""
        return self.a != self.b

    @property
    def kinds(self) -> tuple[str, ...]:
        """In which ways the two differ: `renamed`, `transposed`, `reshaped`, `cast`, `changed`."""
        told = (
            ("renamed", self.renamed), ("transposed", bool(self.order)), ("reshaped", self.reshaped),
            ("cast", bool(self.cast)), ("changed", self.difference is not None),
        )  # fmt: skip
        return tuple(name for name, holds in told if holds)

    def __str__(self) -> str:
        names = f"{self.a} -> {self.b}" if self.renamed else self.b
        parts = [self.evidence]
        if self.order:
            parts.append(f"axes {list(self.order)}")
        if self.reshaped:
            parts.append("reshaped")
        if self.cast:
            parts.append(f"{self.cast}{', rounded' if self.exact else ''}")
        if self.difference is not None:
            parts.append(f"{self.difference.elements:,} of {self.difference.size:,} elements differ")
        return f"{names}: {', '.join(parts)}"

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        found = None if self.difference is None else self.difference.to_json()
        return {
            "a": self.a, "b": self.b, "kinds": list(self.kinds), "evidence": self.evidence, "order": list(self.order),
            "cast": self.cast, "exact": self.exact, "prefix": self.prefix, "difference": found,
        }  # fmt: skip


def recognise(
    a: StateRegistry, b: StateRegistry, found: Diff, /, *, progress: Callable[[int, int], None] | None = None
) -> tuple[Pair, ...]:
    """What a comparison by names found to differ, as far as it is the same place on both sides, sorted by the key in `b`.

    Args:
        a, b: the sides, still open. found: what `diff` gave for them.
        progress: called with bytes looked at and bytes in all, where bits have to tell what names do not.
    """
    return _Recognition(a, b, found, progress).pairs()


@final
class _Recognition:
    """The work of one `recognise`: what is left of each side grows less with every step."""

    def __init__(
        self, a: StateRegistry, b: StateRegistry, found: Diff, progress: Callable[[int, int], None] | None
    ) -> None:
        self._a, self._b, self._found, self._progress = a, b, found, progress
        self._entries_a = {key: a[key] for key in found.only_a}
        self._entries_b = {key: b[key] for key in found.only_b}
        self._left_a = {key for key, entry in self._entries_a.items() if entry.concrete}
        self._left_b = {key for key, entry in self._entries_b.items() if entry.concrete}
        self._pairs: list[Pair] = []

    def pairs(self) -> tuple[Pair, ...]:
        """Every pair; the surest evidence first takes what it explains."""
        self._same_names()
        self._by_prefix()
        self._by_bits()
        self._alone()
        return tuple(sorted(self._pairs, key=lambda pair: (keys.natural(pair.b), pair.a)))

    def _add(
        self, first: str, second: str, evidence: str, seen: tuple[tuple[int, ...], bool] | None = None, prefix: str = ""
    ) -> None:
        self._left_a.discard(first)
        self._left_b.discard(second)
        if seen is not None:
            self._pairs.append(Pair(first, second, evidence, *seen, size=self._b[second].size))
            return
        pair = self._compared(first, second, evidence)
        if pair is not None:
            self._pairs.append(replace(pair, prefix=prefix, size=self._b[second].size))

    # ---------------------------------------------------------------- the steps

    def _same_names(self) -> None:
        """One name, another shape or dtype; or a square array that may be transposed."""
        other = [m.key for m in self._found.metadata if _form(m.entry_a) != _form(m.entry_b)]
        square = [v.key for v in self._found.values if _has_orders(self._a[v.key].shape)]
        for key in (*other, *square):
            pair = self._compared(key, key, "the same name")
            if pair is not None and pair.kinds and pair.kinds != ("changed",):
                self._pairs.append(pair)

    def _by_prefix(self) -> None:
        for mine, theirs, swapped in ((self._a, self._b, False), (self._b, self._a, True)):
            prefix, _ = keys.shared_prefix(tuple(mine), set(theirs))
            if not prefix:
                continue
            evidence = f"all names of {'b' if swapped else 'a'} lie under {prefix}"
            left = self._left_b if swapped else self._left_a
            for key in sorted(left):
                bare = key.removeprefix(f"{prefix}/")
                one, two = (bare, key) if swapped else (key, bare)
                if one in self._left_a and two in self._left_b:
                    self._add(one, two, evidence, prefix=prefix)

    def _by_bits(self) -> None:
        if not self._left_a or not self._left_b:
            return
        forms = {_weight(self._b[key]) for key in self._left_b} & {_weight(self._a[key]) for key in self._left_a}
        candidates = [
            (registry, key)
            for registry, left in ((self._a, self._left_a), (self._b, self._left_b))
            for key in sorted(left)
            if _weight(registry[key]) in forms
        ]
        total, done = sum(registry[key].nbytes for registry, key in candidates), 0
        first: dict[str, tuple[Any, ...]] = {}
        second: dict[str, tuple[Any, ...]] = {}
        for registry, key in candidates:
            if self._progress is not None:
                self._progress(done, total)
            (first if registry is self._a else second)[key] = _print(registry, key)
            done += registry[key].nbytes
        for evidence, part, seen in (
            ("the same bits", lambda p: (*p[:3], p[4]), lambda x, y: ((), False)),
            ("the same bits in another order of axes", lambda p: (p[0], p[1], p[3]), self._reordered),
            ("the same bits in another shape", lambda p: p[:3], lambda x, y: ((), True)),
        ):
            for ones, others in _groups(first, second, part, self._left_a, self._left_b):
                for one, two in self._matched(ones, others):
                    how = seen(one, two)
                    if how is not None:
                        more = f", as {len(ones) - 1} more have" if len(ones) > 1 else ""
                        self._add(one, two, evidence + more, how)

    def _matched(self, ones: Sequence[str], others: Sequence[str]) -> Iterable[tuple[str, str]]:
        """Pairs of entries with the same bits: one of each, or by kind and last name; then as many in their order.

        A fresh BatchNorm has equal bits in its scale and its variance: which is which only kinds and names tell.
        """
        if len(ones) == len(others) == 1:
            return [(ones[0], others[0])]
        found: list[tuple[str, str]] = []
        for kind in Kind:
            mine = [key for key in ones if self._a[key].kind is kind]
            theirs = [key for key in others if self._b[key].kind is kind]
            if len(mine) == len(theirs) and len(_lasts(mine)) == len(_lasts(theirs)) == 1:
                found += zip(mine, theirs, strict=True)
                continue
            for last in sorted(_lasts(mine) & _lasts(theirs)):
                left, right = ([key for key in names if _last(key) == last] for names in (mine, theirs))
                if len(left) == len(right):
                    found += zip(left, right, strict=True)
        return found

    def _reordered(self, one: str, two: str) -> tuple[tuple[int, ...], bool] | None:
        order = _order(self._a.view(one), self._b.view(two))
        return None if order is None else (order, False)

    def _alone(self) -> None:
        """What is the only one left of its shape, dtype, kind and last name on either side."""

        def form(registry: StateRegistry, key: str) -> tuple[object, ...]:
            entry = registry[key]
            return (entry.shape, entry.dtype, key.rpartition("/")[2])

        groups = _groups(
            {key: form(self._a, key) for key in self._left_a}, {key: form(self._b, key) for key in self._left_b},
            lambda whole: whole, self._left_a, self._left_b,
        )  # fmt: skip
        for ones, others in groups:
            if len(ones) == len(others) == 1:
                self._add(ones[0], others[0], "the only one left of this shape and name")

    # ---------------------------------------------------------------- values

    def _compared(self, first: str, second: str, evidence: str) -> Pair | None:
        """The pair of two entries that belong together; `None` where their values cannot be related."""
        one, two = self._a[first], self._b[second]
        if not (one.concrete and two.concrete) or one.size != two.size:
            return None
        try:
            left, right = self._a.view(first), self._b.view(second)
        except errors.UnsupportedError:
            return None
        cast = "" if one.dtype == two.dtype else f"{one.dtype} -> {two.dtype}"
        order: tuple[int, ...] = ()
        reshaped = False
        if one.dtype == two.dtype and (one.shape != two.shape or _has_orders(one.shape)):
            # What is the same with its axes as they are is not transposed, and where names say no more bits decide.
            found = () if one.shape == two.shape and _same(left, right) else _order(left, right)
            order = found or ()
            if found is None and one.shape != two.shape:
                if not _same(left.reshape(-1), right.reshape(-1)):
                    return None
                reshaped = True
        elif one.shape != two.shape:
            order = _order(left.astype(right.dtype), right) or ()
            if not order:
                return None
        laid = left.transpose(order) if order else left.reshape(right.shape)
        if cast:
            exact = _rounds(laid, right) or _rounds(right, laid)
            found_difference = None if exact else _far(second, laid, right)
            return Pair(first, second, evidence, order, reshaped, cast, exact, found_difference)
        return Pair(first, second, evidence, order, reshaped, difference=difference_of(second, laid, right))


def _form(entry: Entry) -> tuple[object, ...]:
    return entry.shape, entry.dtype


def _weight(entry: Entry) -> tuple[str, int]:
    return entry.dtype, entry.size


def _has_orders(shape: Sequence[int]) -> bool:
    """Whether an array has another order of axes with the same shape."""
    long = [size for size in shape if size > 1]
    return len(shape) <= _RANK and len(long) > len(set(long))


def _print(registry: StateRegistry, key: str) -> tuple[Any, ...]:
    """Dtype, size, hash of the elements in order, a number that no order changes, shape."""
    array = registry.view(key)
    hasher, total = xxhash.xxh3_128(), 0
    for _, (part,) in blocks(array):
        raw = np.ascontiguousarray(part).reshape(-1)
        hasher.update(raw.view(np.uint8).data)
        width = raw.dtype.itemsize
        if width in (1, 2, 4, 8):
            words = raw.view(f"u{width}").astype(np.uint64)
            total = (total + int((words * words + words).sum(dtype=np.uint64))) & ((1 << 64) - 1)
    entry = registry[key]
    return entry.dtype, entry.size, hasher.hexdigest(), total, entry.shape


def _groups(
    first: Mapping[str, Any], second: Mapping[str, Any], part: Callable[[Any], Any], left_a: set[str], left_b: set[str]
) -> list[tuple[list[str], list[str]]]:
    """What is left of each side, by what its prints have in common."""
    found: dict[Any, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for number, (prints, left) in enumerate(((first, left_a), (second, left_b))):
        for key in sorted(prints.keys() & left, key=keys.natural):
            found[part(prints[key])][number].append(key)
    return [group for group in found.values() if all(group)]


def _last(key: str) -> str:
    """The last name without the number that it may end in."""
    return key.rpartition("/")[2].rstrip("0123456789")


def _lasts(names: Sequence[str]) -> set[str]:
    return {_last(key) for key in names}


def _order(left: np.ndarray, right: np.ndarray) -> tuple[int, ...] | None:
    """The order of axes in which `left` is `right`, bit for bit."""
    if left.ndim != right.ndim or left.ndim > _RANK or left.ndim < 2:
        return None
    for order in itertools.permutations(range(left.ndim)):
        if order != tuple(range(left.ndim)) and tuple(left.shape[axis] for axis in order) == right.shape:
            turned = left.transpose(order)
            if _same(turned[:1], right[:1]) and _same(turned, right):
                return order
    return None


def _same(left: np.ndarray, right: np.ndarray) -> bool:
    return all(first.tobytes() == second.tobytes() for _, (first, second) in blocks(left, right))


def _rounds(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether `right` is `left`, rounded to its dtype."""
    dtype = numpy_dtype(right.dtype.name)
    with np.errstate(all="ignore"):
        return all(_alike(first.astype(dtype), second) for _, (first, second) in blocks(left, right))


def _alike(first: np.ndarray, second: np.ndarray) -> bool:
    if first.tobytes() == second.tobytes():
        return True
    if first.dtype.kind in "iub":
        return False
    nan = np.isnan(first) & np.isnan(second)
    return bool(
        np.all(
            nan
            | (first.view(np.uint8).reshape(first.size, -1) == second.view(np.uint8).reshape(second.size, -1)).all(
                axis=1
            )
        )
    )


def _far(key: str, left: np.ndarray, right: np.ndarray) -> ValueDifference:
    """The difference of values of two dtypes."""
    largest, elements = 0.0, 0
    for _, (first, second) in blocks(left, right):
        with np.errstate(all="ignore"):
            wide = np.complex128 if "c" in (first.dtype.kind, second.dtype.kind) else np.float64
            away = np.abs(first.astype(wide) - second.astype(wide))
        elements += int(np.count_nonzero(away != 0))
        largest = max(largest, float(np.where(np.isnan(away), np.inf, away).max(initial=0.0)))
    return ValueDifference(key, largest, elements, left.size, measure(left, right))
