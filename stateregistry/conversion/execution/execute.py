"""Execution: the bytes of a plan, moved into a live model, a file, or a new native object.

To a file whose format knows a layout, values go through the engine (`stateregistry.streaming`) in bounded memory; to any
other format one whole value after another, through the plan's result as a lazy registry. A live model is filled by its own
all-or-nothing `replace` (which stages every value: peak memory there is the source values, their staged copies and a
backup of the old ones). Conditions are evaluated, and stale residuals found, before the first byte is written.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from stateregistry import plugins, sources
from stateregistry.conversion.execution import conditions, residuals
from stateregistry.conversion.execution.converted import Converted
from stateregistry.conversion.execution.recipes import positions, recipes
from stateregistry.conversion.execution.results import Done, Receipt
from stateregistry.conversion.planning.plan import Plan
from stateregistry.conversion.residual import Residual
from stateregistry.conversion.side import Side, digest
from stateregistry.errors import PlanError, UnsupportedError
from stateregistry.registry import StateRegistry
from stateregistry.streaming import digests
from stateregistry.streaming.engine import How

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["Converted", "Done", "Receipt", "run"]

_conditions = conditions.check  # what `verify` asks too


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
    how = How(workers, executor, progress, resume)
    if out is None:
        _only_files(how)
    how.count  # noqa: B018  # a number that is none is refused before the work starts
    plan.require()
    with sources.resolved(source) as here:
        _same(plan.source, here, "source")
        if sources.is_path(target):
            message = f"the target of execute is a live model, not the path {str(target)!r}"
            raise UnsupportedError(message, hint="write a file with out=")
        there = None if target is None else plugins.of(target)
        if there is not None:
            _same(plan.target, there, "target")
        conditions.check(plan, here)
        result = Converted(plan, here, there)
        residual = residuals.make(plan, here, result)
        if out is not None:
            return _written(plan, result, residual, sources.path_of(out), format, shard_bytes, how, overwrite=overwrite)
        meter = _Meter(plan, progress)
        if there is not None:
            product: Any = _fill(result, there, meter)
        else:
            product = _assemble(plan, result)
        return Done(product, plan, Receipt.of(plan, plan.digest(), result.digests, result.stale, {}, {}), residual)


def _only_files(how: How) -> None:
    asked = {"workers": how.workers, "executor": how.executor, "resume": how.resume or None}
    wrong = [name for name, value in asked.items() if value is not None]
    if wrong:
        message = f"{', '.join(wrong)}: a live model is filled in one thread, in one go"
        raise UnsupportedError(message, hint="write a file with out=, or leave them out")


def _written(
    plan: Plan,
    result: Converted,
    residual: Residual,
    out: Path,
    format: str | None,  # noqa: A002  # the word of the public functions
    shard_bytes: int | None,
    how: How,
    *,
    overwrite: bool,
) -> Done:
    """Write the file: through the engine where its format knows a layout, else one whole value after another."""
    extra = {"residual": residual.to_dict()} if residual else {}
    files, name = sources.files(result.source), plan.digest()
    found = sources.stream(
        result, out, recipe=recipes(plan, result), position=positions(plan, result), origins=files, format=format,
        shard_bytes=shard_bytes, overwrite=overwrite, extra=extra, how=how, token=_token(plan, result, name),
    )  # fmt: skip
    if found is not None:
        receipt = Receipt.of(plan, name, found.digests, result.stale, found.origins, found.files)
        return Done(found.path, plan, receipt, residual)
    if how.executor is not None or how.resume or (how.workers or 1) > 1:
        message = f"{out}: this format is written by one thread, in one go"
        raise UnsupportedError(message, hint="leave workers, executor and resume out, or write .safetensors")
    meter = _Meter(plan, how.told)
    path = sources.write(
        result, out, format=format, shard_bytes=shard_bytes, overwrite=overwrite, extra=extra, progress=meter.wrote
    )
    read = {file.name: digests.of_file(file) for file in files}
    hashes = {name: digests.sha256(file) for name, file in sources.made_at(path).items()}
    receipt = Receipt.of(plan, name, result.digests, result.stale, read, hashes)
    return Done(path, plan, receipt, residual)


def _token(plan: Plan, result: Converted, name: str) -> str:
    """What the values depend on: of two runs with one token, the second may take what the first has written.

    A live model may have changed meanwhile, so a run that reads one is never the same as another.
    """
    files = sources.files(result.source)
    if not files or any(move.op == "keep" for move in plan.moves):
        return secrets.token_hex(16)
    rows = []
    for file in files:
        status = file.stat()
        rows.append([os.path.realpath(file), status.st_size, status.st_mtime_ns])
    return json.dumps([name, rows, list(result.stale)])


def _same(side: Side, reg: StateRegistry, what: str) -> None:
    if digest(dict(reg), reg.aliases) != side.digest():
        ours, theirs = set(side.entries), set(reg)
        keys = tuple(sorted(ours ^ theirs)) or tuple(sorted(k for k in ours if side.entries[k] != reg[k]))
        message = f"the plan was made for another {what}: {len(keys)} entries differ, first {keys[:3]}"
        raise PlanError(message, plan=None, keys=keys, hint="make the plan again")


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


@final
class _Meter:
    """Bytes written so far, told to the caller."""

    def __init__(self, plan: Plan, progress: Callable[[int, int], None] | None) -> None:
        moved = [move for move in plan.moves if move.op in ("copy", "sum", "compute", "fill")]
        self.total = sum(plan.target.entries[move.target].nbytes for move in moved)
        self.done = 0
        self.progress = progress

    def wrote(self, key: str, nbytes: int, /) -> None:
        """Take note of one value."""
        self.done += nbytes
        if self.progress is not None:
            self.progress(self.done, max(self.total, self.done))
