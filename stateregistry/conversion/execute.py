"""Execution: the bytes of a plan, moved into a live model, a file, or a new native object.

The result of a plan is itself a registry, `Converted`: read-only and lazy, one value computed when it is asked for. So a
file is written one value at a time through any store, and a live model is filled by its own all-or-nothing `replace`
(which stages every value: peak memory there is the source values, their staged copies and a backup of the old ones).
Conditions are evaluated, and stale residuals found, before the first byte is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import numpy as np

from stateregistry import plugins, sources
from stateregistry._version import __version__
from stateregistry.casting import cast
from stateregistry.conversion.plan import Condition, Move, Plan, PlanProblem
from stateregistry.conversion.residual import Record, Residual, digest
from stateregistry.conversion.side import Side
from stateregistry.entry import Entry, numpy_dtype
from stateregistry.errors import AbstractError, CastError, PlanError, UnsupportedError
from stateregistry.layers import axes
from stateregistry.registry import ReadOnlyRegistry, StateRegistry

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from stateregistry.layers.vocabulary import Layer


@final
@dataclass(frozen=True, slots=True)
class Receipt:
    """The record of a finished conversion.

    Attributes:
        version: of stateregistry. plan: sha256 of the plan's JSON.
        source, target: dialects. moves: how many of each op.
        digests: xxh3_128 of every value that was written, by target key.
        stale: residual records that were not used, because the values they belong to have changed since.
    """

    version: str
    plan: str
    source: str
    target: str
    moves: Mapping[str, int]
    digests: Mapping[str, str] = field(default_factory=dict)
    stale: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "schema": "stateregistry.receipt/1", "stale": list(self.stale)}


@final
@dataclass(frozen=True, slots=True)
class Done:
    """What a conversion gave.

    Attributes:
        target: the native object with the new state (torch: the same module), or the path that was written.
        plan: the plan that was executed. receipt: the record of it.
        residual: what the target has no place for; pass it as `residual=` on the way back. A file carries its own.
    """

    target: Any
    plan: Plan
    receipt: Receipt
    residual: Residual


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
        return self._source.view(key) if key in self._source or key in self._source.aliases else None

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
        if move.op == "fill":
            return np.full(entry.shape, move.value, numpy_dtype(entry.dtype))
        if self._target is None:
            raise AbstractError(f"{key!r} keeps the target's value, and no target was given", keys=(key,))
        return self._target.view(key)

    def _moved(self, key: str, move: Move, entry: Entry) -> np.ndarray:
        arrays = [self._source.view(feed.key) for feed in move.sources]
        array, assembly = arrays[0], move.assembly(self._plan.source, self._plan.target)
        plain = assembly.transform if assembly is not None else None
        if assembly is not None and not (plain is not None and plain.is_identity and array.shape == entry.shape):
            array = np.array(assembly.apply(arrays), order="C", copy=True)
        if move.cast:
            array = cast({key: array}, {key: entry}, _rule(self._plan, move))[key]
        return array

    def unwrap(self) -> Plan:
        """The plan."""
        return self._plan


def _rule(plan: Plan, move: Move) -> Literal["lossless", "same_kind"]:
    keys = {(feed.key,) for feed in move.sources}
    lossless = all(c.lossless for c in plan.conditions if c.test == "fits" and c.keys in keys)
    return "lossless" if lossless else "same_kind"


def run(
    plan: Plan,
    source: Any,
    target: Any,
    *,
    out: str | Path | None,
    format: str | None,  # noqa: A002
    shard_bytes: int | None,
    overwrite: bool,
    workers: int | None,
    executor: Executor | None,
    progress: Callable[[int, int], None] | None,
    resume: bool,
) -> Done:
    """Execute a plan. See `Plan.execute`."""
    asked = {"workers": workers, "executor": executor, "resume": resume or None}
    wrong = [name for name, value in asked.items() if value is not None]
    if wrong:
        raise UnsupportedError(f"{', '.join(wrong)}: this version executes a plan in one thread, in one go")
    plan.require()
    with sources.resolved(source) as here:
        _same(plan.source, here, "source")
        if sources.is_path(target):
            message = f"the target of execute is a live model, not the path {str(target)!r}"
            raise UnsupportedError(message, hint="write a file with out=")
        there = None if target is None else plugins.of(target)
        if there is not None:
            _same(plan.target, there, "target")
        _conditions(plan, here)
        result = Converted(plan, here, there)
        residual = _residual(plan, here, result)
        meter = _Meter(plan, progress)
        if out is not None:
            extra = {"residual": residual.to_dict()} if residual else {}
            product: Any = sources.write(
                result, Path(out), format=format, shard_bytes=shard_bytes, overwrite=overwrite, extra=extra,
                progress=meter.wrote,
            )  # fmt: skip
        elif there is not None:
            product = _fill(result, there, meter)
        else:
            product = _assemble(plan, result)
        return Done(product, plan, _receipt(plan, result), residual)


def _same(side: Side, reg: StateRegistry, what: str) -> None:
    if Side.of(reg).digest() != side.digest():
        ours, theirs = set(side.entries), set(reg)
        keys = tuple(sorted(ours ^ theirs)) or tuple(sorted(k for k in ours if side.entries[k] != reg[k]))
        message = f"the plan was made for another {what}: {len(keys)} entries differ, first {keys[:3]}"
        raise PlanError(message, plan=None, keys=keys, hint="make the plan again")


def _conditions(plan: Plan, source: StateRegistry) -> None:
    """Evaluate every condition; report all that do not hold."""
    failed = [text for condition in plan.conditions if (text := _broken(condition, source, plan.target))]
    if failed:
        problems = tuple(PlanProblem("condition", keys, text) for keys, text in failed)
        lines = "\n".join(f"  {problem}" for problem in problems)
        keys = tuple(dict.fromkeys(key for problem in problems for key in problem.keys))
        message = f"{len(problems)} conditions of the plan do not hold, nothing was written\n{lines}"
        raise PlanError(message, plan=replace(plan, problems=problems), keys=keys)


def _compared(condition: Condition, source: StateRegistry, target: Side) -> list[np.ndarray]:
    """The values that have to be equal, as they reach their place."""
    arrays = [source.view(key) for key in condition.keys]
    if not condition.patterns:
        return arrays
    shape = target.entries[condition.target].shape
    return [
        axes.derive(left, array.shape, right, shape).apply(array) if left else array
        for array, (left, right) in zip(arrays, condition.patterns, strict=True)
    ]


def _broken(condition: Condition, source: StateRegistry, target: Side) -> tuple[tuple[str, ...], str] | None:
    if condition.test == "equal":
        first, *others = _compared(condition, source, target)
        same = all((o.dtype, o.shape, o.tobytes()) == (first.dtype, first.shape, first.tobytes()) for o in others)
        return None if same else (condition.keys, "they hold different bits and become one place")
    key = condition.keys[0]
    if condition.test == "zero":
        bound = axes.bind(condition.axes, source[key].shape)
        if np.any(bound.expand(source.view(key))[condition.part]):
            return condition.keys, f"{condition.part or 'it'} is not zero, so this is impossible: {condition.reason}"
        return None
    wanted = replace(source[key], dtype=condition.dtype, trainable=False)
    try:
        cast({key: source.view(key)}, {key: wanted}, "lossless" if condition.lossless else "same_kind")
    except CastError as error:
        return condition.keys, error.message
    return None


def _residual(plan: Plan, source: StateRegistry, result: Converted) -> Residual:
    """What the moves cannot carry: values without a place, and the summands of every sum."""
    anchors: dict[str, list[str]] = {}
    for move in plan.moves:
        if move.op == "drop" and move.residual:
            anchors.setdefault(move.residual, []).extend(move.anchors)
        elif move.op == "sum":
            for feed in move.sources:
                anchors.setdefault(feed.key, []).append(move.target)
    made = {
        key: Record(key, source.read(key), {name: digest(result.view(name)) for name in dict.fromkeys(names)})
        for key, names in anchors.items()
    }
    return Residual({**_carried_over(plan, result), **made})


def _carried_over(plan: Plan, result: Converted) -> dict[str, Record]:
    """Records of an earlier conversion that this one has no use for: kept, anchored to where their values go now.

    A record one of whose values has changed, or does not arrive whole, belongs to nothing any more.
    """
    if plan.residual is None:
        return {}
    used = {move.residual for move in plan.moves if move.target}
    goes = {
        move.sources[0].key: move.target
        for move in plan.moves
        if move.op == "copy" and len(move.sources) == 1 and not move.sources[0].part and not move.cast
    }
    kept = {}
    for key, record in plan.residual.records.items():
        names = [plan.source.canonical(name) or name for name in record.anchors]
        if key not in used and all(name in goes for name in names) and record.fresh(result.source_value):
            kept[key] = Record(key, record.value, {goes[n]: digest(result.view(goes[n])) for n in names})
    return kept


def _fill(result: Converted, target: StateRegistry, meter: _Meter) -> Any:
    values = {}
    for move in result.unwrap().moves:
        if move.target and (move.op != "keep" or (move.residual and move.residual not in result.stale)):
            values[move.target] = result.read(move.target)
            meter.wrote(move.target, values[move.target].nbytes)
    return target.replace(values).unwrap()


def _assemble(plan: Plan, result: Converted) -> Any:
    if not plan.target.derived:
        message = "the plan was made for a target: pass it to execute, or out= to write a file"
        raise PlanError(message, plan=plan)
    adapter = plugins.adapter(plan.target.dialect)
    if not isinstance(adapter, plugins.SupportsDerivation):
        message = f"the adapter {adapter.name!r} cannot build an object from a derived state: it has no `assemble`"
        raise UnsupportedError(message, hint="pass a target to convert into, or out= to write a file")
    return adapter.assemble(result)


def _receipt(plan: Plan, result: Converted) -> Receipt:
    counts: dict[str, int] = {}
    for move in plan.moves:
        counts[move.op] = counts.get(move.op, 0) + 1
    return Receipt(
        __version__, plan.digest(), plan.source.dialect, plan.target.dialect, counts,
        dict(sorted(result.digests.items())), result.stale,
    )  # fmt: skip


@final
class _Meter:
    """Bytes written so far, told to the caller."""

    def __init__(self, plan: Plan, progress: Callable[[int, int], None] | None) -> None:
        moved = [move for move in plan.moves if move.op in ("copy", "sum", "fill")]
        self.total = sum(plan.target.entries[move.target].nbytes for move in moved)
        self.done = 0
        self.progress = progress

    def wrote(self, key: str, nbytes: int, /) -> None:
        """Take note of one value."""
        self.done += nbytes
        if self.progress is not None:
            self.progress(self.done, max(self.total, self.done))
