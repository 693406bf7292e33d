"""Averages of states: soups of checkpoints, weighted, and the straight line between two. Lazy, block by block.

Floating and complex values are summed in double precision and rounded once. Integers, booleans and the state of random
generators are never averaged: half a step counted is no count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from stateregistry import errors, plugins
from stateregistry.casting import rounded
from stateregistry.display import counted
from stateregistry.entry import Entry, Kind
from stateregistry.tools.derived import Derived, blocks, comparable, readable

if TYPE_CHECKING:
    from stateregistry.registry import StateRegistry

#: What becomes of buffers: they are averaged like parameters, or are those of one of the states.
Buffers: TypeAlias = Literal["average", "first", "last"]
BUFFERS: tuple[Buffers, ...] = ("average", "first", "last")


def average(
    sources: Iterable[StateRegistry | Any], weights: Sequence[float] | None = None, *, buffers: Buffers = "average"
) -> Derived:
    """The weighted mean of the states of one architecture.

    Laws: the average of equal states has their bits; a state of weight 0 is not looked at.

    Args:
        sources: registries or live objects with the same keys, kinds, shapes and dtypes. Open files stay open while the
            result is used.
        weights: one finite number for each; they are divided by their sum. By default all count alike.
        buffers: `average`: floating buffers too (the mean of BatchNorm variances is not the variance of what the models
            saw: run the averaged model over data where that matters); `first`, `last`: those of the first or last state
            with a weight. Whatever is no floating or complex number, and the state of random generators, is that of the
            last state (the first with `first`).

    Returns:
        A lazy, read-only registry with the entries of the first state: `sr.save(...)`, or `sr.load(model, ...)`.

    Raises:
        MismatchError: the states do not have the same entries. AbstractError: one has no values.
        UnsupportedError: no states, weights that are not one for each or whose sum is 0, an unknown `buffers`.
    """
    registries = [plugins.of(source) for source in sources]
    if not registries:
        raise errors.UnsupportedError("there is nothing to average", hint="give at least one state")
    if buffers not in BUFFERS:
        raise errors.UnsupportedError(f"buffers={buffers!r}", expected=BUFFERS, found=buffers)
    shares = _shares(weights, len(registries))
    comparable(registries, "cannot average")
    chosen = [(share, one) for share, one in zip(shares, registries, strict=True) if share]
    for _, one in chosen:
        readable(one, "average")
    one_of = chosen[0][1] if buffers == "first" else chosen[-1][1]

    def compute(key: str) -> np.ndarray:
        entry = registries[0][key]
        if not mixes(entry) or (entry.kind is Kind.BUFFER and buffers != "average"):
            return one_of.view(key)
        return _mean([one.view(key) for _, one in chosen], [share for share, _ in chosen])

    return Derived.like(registries[0], compute)


def interpolate(a: StateRegistry | Any, b: StateRegistry | Any, t: float, *, buffers: Buffers = "average") -> Derived:
    """The state at `t` of the straight line from `a` to `b`: `(1 - t) * a + t * b`.

    Laws: at 0 it has the bits of `a`, at 1 those of `b`. Beyond, the line goes on. Errors as `average`.
    """
    if not math.isfinite(t):
        raise errors.UnsupportedError(f"t={t!r} is no place on a line", hint="0 is a, 1 is b")
    return average([a, b], [1 - t, t], buffers=buffers)


def mixes(entry: Entry) -> bool:
    """Whether values of an entry may be added up: floating and complex numbers that are no generator's state."""
    return not entry.rng and ("float" in entry.dtype or "complex" in entry.dtype)


def _shares(weights: Sequence[float] | None, number: int) -> list[float]:
    given = [1.0] * number if weights is None else [float(weight) for weight in weights]
    if len(given) != number:
        message = f"{counted(len(given), 'weight')} for {counted(number, 'state')}"
        raise errors.UnsupportedError(message, expected=number, found=len(given), hint="give one weight for each")
    total = math.fsum(given)
    if not math.isfinite(total) or total == 0:
        message = f"the weights {given} have the sum {total}"
        raise errors.UnsupportedError(message, hint="finite weights whose sum is not 0")
    return [weight / total for weight in given]


def _mean(arrays: list[np.ndarray], shares: list[float]) -> np.ndarray:
    first = arrays[0]
    if len(arrays) == 1:
        return first
    wide = np.complex128 if first.dtype.kind == "c" else np.float64
    made = np.empty(first.size, first.dtype.newbyteorder("="))
    for place, parts in blocks(*arrays):
        start = parts[0].astype(wide)
        with np.errstate(all="ignore"):  # NaN and infinity are values; what comes of them is what arithmetic says
            # From the first on, so that equal values give themselves; infinities would cancel: they are summed plainly.
            mixed = start.copy()
            plain = start * shares[0]
            for part, share in zip(parts[1:], shares[1:], strict=True):
                other = part.astype(wide)
                mixed = mixed + share * (other - start)
                plain = plain + share * other
            mixed = np.where(np.isfinite(mixed), mixed, plain)
            made[place] = rounded(mixed, made.dtype)
    return made.reshape(first.shape)
