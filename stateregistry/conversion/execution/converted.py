"""The target of a plan as a lazy registry: every value is computed from the source when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, final

import numpy as np

from stateregistry import sources
from stateregistry.casting import cast
from stateregistry.conversion.planning import spectral, training
from stateregistry.conversion.planning.plan import Move, Plan
from stateregistry.conversion.residual import digest
from stateregistry.entry import Entry, numpy_dtype
from stateregistry.errors import AbstractError
from stateregistry.registry import ReadOnlyRegistry, StateRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateregistry.layers.vocabulary import Layer
    from stateregistry.streaming.task import Recipe


@final
class Converted(ReadOnlyRegistry):
    """The target of a plan as a lazy registry: every value is computed from the source when it is read."""

    adapter: ClassVar[str] = "plan"
    _instead = "execute the plan into a model or a file, and write there"

    def __init__(self, plan: Plan, source: StateRegistry, target: StateRegistry | None = None) -> None:
        self._plan, self._source, self._target = plan, source, target
        self._moves = {move.target: move for move in plan.moves if move.target}
        self.stale = self._stale()
        self.digests: dict[str, str] = {}

    @property
    def dialect(self) -> str:
        """That of the plan's target."""
        return self._plan.target.dialect

    def _entries(self) -> Mapping[str, Entry]:
        return {key: replace(entry, concrete=self._has(key)) for key, entry in self._plan.target.entries.items()}

    def _has(self, key: str) -> bool:
        move = self._moves[key]
        if move.op != "keep" or (move.residual and move.residual not in self.stale):
            return True
        return self._target is not None and self._target[key].concrete

    def _aliases(self) -> Mapping[str, str]:
        return self._plan.target.aliases

    def _layers(self) -> tuple[Layer, ...]:
        return self._plan.target.layers

    def _stale(self) -> tuple[str, ...]:
        residual = self._plan.residual
        used = [move.residual for move in self._plan.moves if move.target and move.residual]
        if residual is None:
            return tuple(used)
        return tuple(key for key in used if not residual.records[key].fresh(self.source_value))

    def source_value(self, key: str) -> np.ndarray | None:
        """The source's value of a key or alias, `None` where there is none."""
        return sources.value(self._source, key) if key in self._source or key in self._source.aliases else None

    def move(self, key: str) -> Move:
        """The move that makes a canonical key."""
        return self._moves[key]

    @property
    def source(self) -> StateRegistry:
        """The registry that values come from."""
        return self._source

    def restores(self, move: Move) -> bool:
        """Whether a residual knows better than the move: it has a record that is fresh."""
        return bool(move.residual) and self._plan.residual is not None and move.residual not in self.stale

    def _read(self, key: str, /) -> np.ndarray:
        move = self._moves[key]
        value = self._value(key, move)
        self.digests[key] = digest(value)
        return value

    def _value(self, key: str, move: Move) -> np.ndarray:
        entry, residual = self._plan.target.entries[key], self._plan.residual
        if move.residual and residual is not None and move.residual not in self.stale:
            return residual.records[move.residual].value
        if move.op in ("copy", "sum"):
            return self._moved(key, move, entry)
        if move.op == "compute":
            arrays = [sources.value(self._source, feed.key) for feed in move.sources]
            if move.formula == "count":
                return training.counted(arrays, entry)
            form, steps = move.formula, move.iteration
            return spectral.computed(form, steps, move.sources, arrays, move.axes, entry.shape, entry.dtype)
        if move.op == "fill":
            return np.full(entry.shape, move.value, numpy_dtype(entry.dtype))
        if self._target is None:
            raise AbstractError(f"{key!r} keeps the target's value, and no target was given", keys=(key,))
        return self._target.view(key)

    def _moved(self, key: str, move: Move, entry: Entry) -> np.ndarray:
        arrays = [sources.value(self._source, feed.key) for feed in move.sources]
        array, assembly = arrays[0], move.assembly(self._plan.source, self._plan.target)
        plain = assembly.transform if assembly is not None else None
        if assembly is not None and not (plain is not None and plain.is_identity and array.shape == entry.shape):
            array = np.array(assembly.apply(arrays), order="C", copy=True)
        if move.cast:
            array = cast({key: array}, {key: entry}, rule_of(self._plan, move))[key]
        return array

    @cached_property
    def _recipes(self) -> Callable[[str], Recipe]:
        from stateregistry.conversion.execution.recipes import recipes  # lazy: it knows this class

        return recipes(self._plan, self)

    def recipe(self, key: str, /) -> Recipe:
        """How the value of a key is made piece by piece."""
        return self._recipes(key)

    def made(self, key: str, digest: str, /) -> None:
        """Take note of the digest of a value that was made by its recipe."""
        self.digests[key] = digest

    def unwrap(self) -> Plan:
        """The plan."""
        return self._plan


def rule_of(plan: Plan, move: Move) -> Literal["lossless", "same_kind"]:
    """The rule of the cast of a move, as the plan's condition on it says."""
    keys = {(feed.key,) for feed in move.sources}
    lossless = all(c.lossless for c in plan.conditions if c.test == "fits" and c.keys in keys)
    return "lossless" if lossless else "same_kind"
