"""`sr.plan` and `sr.convert`: from what a caller has to a plan, and to a result."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stateregistry import plugins
from stateregistry.conversion.planning.casts import check_dtype
from stateregistry.conversion.planning.derive import derive
from stateregistry.conversion.planning.plan import Plan, PlanProblem
from stateregistry.conversion.planning.planner import make
from stateregistry.conversion.residual import Residual
from stateregistry.conversion.rules.prepare import prepared
from stateregistry.conversion.rules.rules import Rules
from stateregistry.conversion.side import Side
from stateregistry.conversion.verification.gaps import TOLERANCE
from stateregistry.errors import PlanError, UnsupportedError
from stateregistry.sources import is_path, path_of, resolved

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from stateregistry.conversion.execution.execute import Done
    from stateregistry.registry import StateRegistry

RulesLike = Rules | Mapping[str, Any] | str | Path | Collection[tuple[str, str]] | None


def plan(
    source: Any,
    target: Any = None,
    *,
    to: str | None = None,
    rules: RulesLike = None,
    allow: Collection[str] = (),
    dtype: str | None = None,
    residual: Residual | None = None,
) -> Plan:
    """Plan how the state of `source` becomes that of `target`, or of a framework. Reads metadata only.

    Args:
        source: registry, native object or path.
        target: registry, native object (or abstract template) or path, whose names and layout are wanted.
        to: name of an adapter (`"torch"`, `"flax-linen"`, `"flax-nnx"`, `"numpy"`) to derive names and layouts for,
            instead of `target`.
        rules: a TOML path, parsed TOML, `{source: target}` renames, or `Rules`.
        allow: names of what may be: `missing`, `unexpected`, `choice`, `lossy`, `assumption`.
        dtype: cast floating entries: a dtype name, `"target"`, or `"lossless"`.
        residual: what an earlier conversion kept; by default the one that the source file carries.

    Returns:
        A plan; `plan.ok` says whether it can be executed, `str(plan)` why not.

    Raises:
        PlanError: neither or both of `target` and `to`, or an unknown name in `allow` or `dtype`.
        RuleError: the rules do not parse. AdapterError, FileFormatError, ...: a side cannot be read.
    """
    _one_target(target, to)
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(resolved(source))
        there = stack.enter_context(resolved(target)) if target is not None else None
        return planned(here, there, to, rules, allow, dtype, residual)


def _one_target(target: Any, to: str | None) -> None:
    if (target is None) == (to is None):
        given = "neither" if to is None else "both"
        message = f"what to convert to: either a target or to=, and {given} was given"
        names = ", ".join(repr(name) for name, one in plugins.adapters().items() if one.dialect is not None)
        raise PlanError(message, plan=None, hint=f"pass a model, variables or a template, or to= one of {names}")


def planned(
    here: StateRegistry,
    there: StateRegistry | None,
    to: str | None,
    rules: RulesLike,
    allow: Collection[str],
    dtype: str | None,
    residual: Residual | None,
) -> Plan:
    """The plan between registries that are open already; arguments as `plan`."""
    made, dtype = Rules.of(rules), check_dtype(dtype)
    residual = residual if residual is not None else carried(here)
    left = Side.of(here)
    problems: list[PlanProblem] = []
    if there is not None:
        right = Side.of(there)
    else:
        right, problems = _derived(left, str(to), made, dtype, residual)
    return make(left, right, rules=made, allow=allow, dtype=dtype, residual=residual, problems=problems)


def _derived(
    left: Side, to: str, rules: Rules, dtype: str | None, residual: Residual | None
) -> tuple[Side, list[PlanProblem]]:
    dialect = plugins.adapter(to).dialect
    if dialect is None:
        raise PlanError(f"the adapter {to!r} has no table of layers to derive names and layouts from", plan=None)
    name = dtype if dtype not in ("target", "lossless") else None
    ready = prepared(left, None, rules)
    right, problems = derive(ready.source, dialect, ready.rules, dtype=name, residual=residual)
    return right, [*ready.problems, *problems]


def carried(reg: StateRegistry) -> Residual | None:
    """The residual that a file carries, `None` where there is none."""
    document = getattr(reg, "document", None)  # only file registries have one
    data = document.extra.get("residual") if document is not None else None
    return Residual.from_dict(data, str(reg.unwrap())) if data else None


def convert(
    source: Any,
    target: Any = None,
    *,
    to: str | None = None,
    rules: RulesLike = None,
    allow: Collection[str] = (),
    dtype: str | None = None,
    residual: Residual | None = None,
    out: str | os.PathLike[str] | None = None,
    format: str | None = None,  # noqa: A002  # the public name
    shard_bytes: int | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
    resume: bool = False,
    forward: tuple[Callable[..., Any], Callable[..., Any], Any] | None = None,
    tolerance: float = TOLERANCE,
) -> Done:
    """Plan and execute in one call. The keywords are those of `plan` and of `Plan.execute`, and two more.

    Args:
        forward: `(fa, fb, inputs)`: outputs decide where nothing else does, and nothing is written unless they agree. `fa` is
            called with `inputs` (a tuple is spread) and runs the source; `fb` is called with the native target that is tried,
            which is not the caller's but a copy, and then the inputs. Both in evaluation. Where adapters can
            watch both models, layers that the plan leaves open are paired by what they are given, place by place; else every
            pairing is tried (`trials.MOST` at most). The one whose outputs agree is taken, and of several that agree the
            first, if the outputs depend on every layer in question.
        tolerance: the share of their scale that outputs may differ by; the default is for float32.

    Returns:
        `done.target`: the native object with the new state (torch: the same module), or the path written when `out` is
        given; `done.plan`, `done.receipt`, `done.residual`.

    Raises:
        PlanError: the plan is not `ok`, a condition does not hold, or outputs differ. Nothing was written.
        AmbiguousAlignment: nothing decides which layers are one; with `forward`, it says what was tried.
        UnsupportedError: `forward` with a target that is a file, or that cannot be copied.
    """
    _one_target(target, to)
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(resolved(source))
        there = stack.enter_context(resolved(target)) if target is not None else None
        if forward is None:
            made = planned(here, there, to, rules, allow, dtype, residual)
        else:
            if is_path(target):
                message = f"forward= runs the target, which is the path {str(target)!r}"
                raise UnsupportedError(
                    message, hint="pass a model or variables as the target, and out= to write a file"
                )
            from stateregistry.conversion.verification.trials import (
                decided,  # lazy: only a forward pass needs the engine here
            )

            def remade(more: Rules) -> Plan:
                return planned(here, there, to, more, allow, dtype, residual)

            made = decided(remade, Rules.of(rules), here, there, forward, tolerance)
        return made.execute(
            here, there, out=path_of(out) if out is not None else None, format=format, shard_bytes=shard_bytes,
            overwrite=overwrite, workers=workers, executor=executor, progress=progress, resume=resume,
        )  # fmt: skip
