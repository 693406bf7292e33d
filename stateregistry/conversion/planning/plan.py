"""Plan: the complete, checked list of moves that turns the state of one registry into that of another.

Made from metadata alone; JSON both ways. Every entry of both sides is in exactly one place: a move, or a problem. What
depends on values is a condition, listed here and evaluated before the first byte is written. `ok` says that nothing is
wrong and nothing that is not exact was left unaccepted.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, final, get_args

from stateregistry._version import __version__
from stateregistry.conversion.planning.spectral import AT_ONCE, Formula, Iteration
from stateregistry.conversion.rows import lines, row
from stateregistry.conversion.rules.rules import Rules
from stateregistry.conversion.side import Side
from stateregistry.display import Displayed, counted
from stateregistry.entry import Kind
from stateregistry.errors import AmbiguousAlignment, PlanError
from stateregistry.layers import axes as algebra  # `axes` is a field of a move

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from pathlib import Path

    from stateregistry.conversion.execution.execute import Done
    from stateregistry.conversion.residual import Residual

SCHEMA = "stateregistry.plan/1"

Op = Literal["copy", "sum", "compute", "fill", "keep", "drop"]
Class = Literal["exact", "choice", "lossy", "impossible"]
Grade = Literal["certain", "numbers", "assumption", "question"]
_TESTS = ("equal", "zero", "fits", "converged", "counts")

#: What `allow=` of `plan` and `convert` takes, and what each permits.
ALLOW: Mapping[str, str] = {
    "missing": "target entries without a source keep the values they have",
    "unexpected": "source entries without a place are left out",
    "choice": "moves that could have been made otherwise with the same function",
    "lossy": "moves that lose values",
    "assumption": "pairings and layouts that rest on names alone",
}


@final
@dataclass(frozen=True, slots=True)
class Feed:
    """One source entry of a move.

    Attributes:
        key: its canonical key.
        axes: its axis pattern; empty where the array is taken as it is.
        part, into: which part of it is taken, and which part of the target it becomes; empty for the whole.
    """

    key: str
    axes: str = ""
    part: str = ""
    into: str = ""


@final
@dataclass(frozen=True, slots=True)
class Move:
    """One step of a plan.

    Attributes:
        op: `copy` (through derived axes; several sources where a fused array is joined), `sum` (sources that are added
            up), `compute` (what a formula gives), `fill` (one value, or what a residual kept), `keep` (the target's own
            value stays), `drop` (the source has no place).
        target: the canonical target key; empty for a drop.
        sources: where the value comes from; the entry that is left out for a drop; empty for a fill or keep.
        cls: `exact`, `choice`, `lossy` or `impossible`.
        reason: why it is so, one sentence.
        evidence, grade: why these two belong together, and how sure that is.
        axes: the target's axis pattern, that the move is derived from with those of the sources; empty for the same axes.
        cast: the dtype the values are cast to, empty for none.
        value: what a fill writes where no residual says better.
        zeros: parts of the target that are filled with zero.
        residual: the key of the record that a drop makes, or that is taken instead of what the move says while it is
            fresh.
        anchors: keys of the target that what the residual keeps belongs to: the value of a drop, the sources of a copy, the
            last source of a `compute`.
        formula, iteration: what a `compute` computes of a layer under spectral_norm, and how its source iterates.
    """

    op: Op
    target: str = ""
    sources: tuple[Feed, ...] = ()
    cls: Class = "exact"
    reason: str = ""
    evidence: str = ""
    grade: Grade = "certain"
    axes: str = ""
    cast: str = ""
    value: float = 0.0
    zeros: tuple[str, ...] = ()
    residual: str = ""
    anchors: tuple[str, ...] = ()
    formula: Formula = ""
    iteration: Iteration = AT_ONCE

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys it is about: the sources', then the target's."""
        return (*(feed.key for feed in self.sources), *((self.target,) if self.target else ()))

    @property
    def laid_out(self) -> bool:
        """Whether axes are named on either side; a single number has none, also where the other side has one of size 1."""
        return bool(self.axes) or any(feed.axes for feed in self.sources)

    def assembly(self, source: Side, target: Side) -> algebra.Assembly | None:
        """The derived move of axes between both sides, source and target; `None` where one array is copied as it is."""
        if self.op not in ("copy", "sum") or not self.laid_out:
            return None
        feeds = [algebra.Feed(feed.axes, source.entries[feed.key].shape, feed.part, feed.into) for feed in self.sources]
        return algebra.assemble(feeds, self.axes, target.entries[self.target].shape, zeros=self.zeros)

    def __str__(self) -> str:
        names = ", ".join(feed.key + (f"[{feed.part}]" if feed.part else "") for feed in self.sources)
        texts = {
            "copy": f"{self.target} <- {names}", "sum": f"{self.target} <- sum of {names}",
            "fill": f"{self.target} <- {self.value:g}", "drop": f"drop {names}",
            "compute": f"{self.target} <- {self.formula} of {names}",
        }  # fmt: skip
        moved = () if self.op == "compute" else self.sources
        patterns = dict.fromkeys(feed.axes for feed in moved if feed.axes != self.axes)
        parts = [
            f"{' | '.join(patterns)} -> {self.axes}" if patterns else "",
            f"as {self.cast}" if self.cast else "",
            self.cls if self.cls != "exact" else "",
            self.grade if self.grade != "certain" else "",
            self.reason,
        ]
        return "  ".join([texts.get(self.op, f"{self.op} {self.target}"), *(part for part in parts if part)])


#: Problems whose keys are no move: of one side, or of both without saying which is which.
_OF_A_SIDE = ("missing", "unexpected", "structure", "opaque")


@final
@dataclass(frozen=True, slots=True)
class PlanProblem:
    """One thing that keeps a plan from being executed.

    Attributes:
        problem: `missing`, `unexpected`, `shape`, `dtype`, `kind`, `ambiguous`, `axes`, `rule`, `opaque`, `abstract`,
            `conflict`, `structure`, `choice`, `lossy`, `assumption` or `impossible`.
        keys: the keys it is about: the source's, then the target's.
        text: what is wrong. hint: what would settle it, spelled as the caller can type it.
        candidates: of an alignment that is `ambiguous`: every pair of paths that may be one layer.
        answers: for each of them the rename that says it, for all blocks at once where these are numbered alike.
    """

    problem: str
    keys: tuple[str, ...]
    text: str
    hint: str = ""
    candidates: tuple[tuple[str, str], ...] = ()
    answers: tuple[tuple[str, str], ...] = ()

    def where(self, arrow: str = " -> ") -> str:
        """What it is about, in short: an arrow stands between source and target alone, and never between several of a side."""
        if len(self.keys) == 2 and self.problem not in _OF_A_SIDE:
            return arrow.join(self.keys)
        if len(self.keys) > 2 and "..." not in self.keys:
            return f"{self.keys[0]} and {len(self.keys) - 1} more"
        return " ".join(self.keys) if "..." in self.keys else " and ".join(self.keys)

    def __str__(self) -> str:
        names = self.where()
        head = f"{self.problem}: {names}: {self.text}" if names else f"{self.problem}: {self.text}"
        return f"{head}; {self.hint}" if self.hint else head


@final
@dataclass(frozen=True, slots=True)
class Condition:
    """Something about values that must hold, evaluated before the first byte is written.

    Attributes:
        test: `equal` (all `keys` hold the same bits), `zero` (every element of the part `part` of `keys[0]` is zero),
            `fits` (no value of `keys[0]` is lost or overflows as `dtype`), `converged` (layers that iterate as `iterations`
            says divide `keys[0]` by the same sigma) or `counts` (all `keys` hold one whole number that `dtype` has).
        keys: source keys. dtype: of the cast. lossless: every value must come back; else only finite must stay finite.
        axes, part: the pattern of `keys[0]`, and its part. reason: what is impossible where it does not hold.
        patterns, target: for keys that reach one target through different axes, the patterns of each on both sides.
        feeds, iterations: the original, u and v of a layer under spectral_norm, and how source and target iterate.
        unless: residual records; where all of them are fresh, nothing is asked.
    """

    test: Literal["equal", "zero", "fits", "converged", "counts"]
    keys: tuple[str, ...]
    dtype: str = ""
    lossless: bool = True
    axes: str = ""
    part: str = ""
    reason: str = ""
    patterns: tuple[tuple[str, str], ...] = ()
    target: str = ""
    feeds: tuple[Feed, ...] = ()
    iterations: tuple[Iteration, Iteration] = (AT_ONCE, AT_ONCE)
    unless: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.test == "equal":
            return f"{' and '.join(self.keys)} hold the same bits"
        if self.test == "converged":
            one, two = (iteration.divides for iteration in self.iterations)
            return f"{self.keys[0]} has converged: sigma is the same with {one} and with {two}"
        if self.test == "counts":
            return f"{', '.join(self.keys)} count the same number of updates"
        if self.test == "zero":
            return f"{self.keys[0]}{f'[{self.part}]' if self.part else ''} is zero: {self.reason}"
        what = "every value comes back" if self.lossless else "no finite value overflows"
        return f"{self.keys[0]} as {self.dtype}: {what}"


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """Something that no state carries and in which both sides differ: config, or an activation.

    Attributes:
        path, name: of the layer in the target, and of the value, as the spec calls it (`eps`).
        source, target: both values, in the meaning of the spec.
        matters: in `evaluation`, or in `training` alone.
        hint: what to set in the target, in the words of its framework.
    """

    path: str
    name: str
    source: object
    target: object
    matters: Literal["evaluation", "training"] = "evaluation"
    hint: str = ""

    @property
    def key(self) -> str:
        """The path of the layer, and the name."""
        return f"{self.path}/{self.name}" if self.path else self.name

    def __str__(self) -> str:
        when = "" if self.matters == "evaluation" else " (in training only)"
        text = f"{self.path or '(the model)'}: {self.name} is {self.source!r} in the source and {self.target!r} in the target"
        return f"{text}{when}; {self.hint}" if self.hint else f"{text}{when}"


@final
@dataclass(frozen=True, slots=True)
class Plan(Displayed):
    """The plan of one conversion. See the module for what it promises."""

    source: Side
    target: Side
    moves: tuple[Move, ...]
    problems: tuple[PlanProblem, ...] = ()
    conditions: tuple[Condition, ...] = ()
    findings: tuple[Finding, ...] = ()
    rules: Rules = field(default_factory=Rules)
    allow: tuple[str, ...] = ()
    dtype: str | None = None
    residual: Residual | None = field(default=None, compare=False)

    @property
    def ok(self) -> bool:
        """Nothing is wrong and everything that is not exact was accepted by name."""
        return not self.problems

    def require(self) -> None:
        """Raise `PlanError` with every problem unless the plan is `ok`; `AmbiguousAlignment` if a pairing is open."""
        if self.problems:
            keys = tuple(dict.fromkeys(key for problem in self.problems for key in problem.keys))
            open_ = any(problem.candidates for problem in self.problems)
            error = AmbiguousAlignment if open_ else PlanError
            raise error(f"the plan cannot be executed\n{self._problem_text()}", plan=self, keys=keys)

    def invert(self) -> Plan:
        """The plan of the way back, derived from the same declarations; its own problems say what cannot be undone."""
        from stateregistry.conversion.planning.planner import make  # lazy: the planner makes plans
        from stateregistry.conversion.rules.inverting import of_sides

        rules = of_sides(self.rules, self.source, self.target)
        return make(self.target, self.source, rules=rules, allow=self.allow, residual=self.residual)

    def execute(
        self,
        source: Any,
        target: Any = None,
        *,
        out: str | Path | None = None,
        format: str | None = None,  # noqa: A002  # the public name
        shard_bytes: int | None = None,
        overwrite: bool = False,
        workers: int | None = None,
        executor: Executor | None = None,
        progress: Callable[[int, int], None] | None = None,
        resume: bool = False,
    ) -> Done:
        """Move the bytes: into `target`, into the file `out`, or into a new native object of the target's framework.

        Args:
            source: what the plan was made for: registry, native object or path.
            target: registry or native object to fill; all-or-nothing.
            out: a file to write instead, streamed in bounded memory and committed atomically.
            format: the name of a store, where the suffix of `out` does not say it.
            shard_bytes: cut the output into files of at most so many bytes of values, with an index.
            overwrite: `out` may exist.
            workers: threads that move values, two by default; with `executor`, how many batches are under way, by twos.
            executor: any `concurrent.futures.Executor`, whose workers open the files themselves.
            progress: called with bytes done and bytes in all, from whichever thread did them.
            resume: go on where a run that ended early left off, after checking what lies there.

        Returns:
            `done.target`: the native object with the new state, or the path that was written; `done.receipt`, `done.residual`.

        Raises:
            PlanError: the plan is not `ok`, a condition does not hold, or source or target are not those it was made
                for. TargetExistsError. Nothing was written in any of these cases.
        """
        from stateregistry.conversion.execution.execute import run  # lazy: a plan can be read without the engine

        return run(
            self, source, target, out=out, format=format, shard_bytes=shard_bytes, overwrite=overwrite,
            workers=workers, executor=executor, progress=progress, resume=resume,
        )  # fmt: skip

    # ---------------------------------------------------------------- JSON

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "schema": SCHEMA,
            "version": __version__,
            "source": self.source.to_dict(),
            "target": self.target.to_dict(),
            "moves": [row(move) for move in self.moves],
            "problems": [row(problem) for problem in self.problems],
            "conditions": [row(condition) for condition in self.conditions],
            "findings": [row(finding) for finding in self.findings],
            "rules": self.rules.to_dict(),
            "allow": list(self.allow),
            "dtype": self.dtype,
            "residual": self.residual.to_dict() if self.residual is not None else None,
        }

    def to_json(self) -> str:
        """The plan as JSON; `Plan.from_json(plan.to_json()) == plan`."""
        return lines(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan whose text `to_json` wrote.

        Raises:
            PlanError: it is not JSON, has another schema or is damaged.
        """
        try:
            data = json.loads(text)
            if data["schema"] != SCHEMA:
                message = f"a plan of schema {data['schema']!r}, expected {SCHEMA!r}"
                raise PlanError(message, plan=None, hint="make it again with this version")
            return cls._from_dict(data)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, PlanError):
                raise
            raise PlanError(f"not a plan: {type(error).__name__}: {error}", plan=None) from error

    @classmethod
    def _from_dict(cls, data: Mapping[str, Any]) -> Self:
        from stateregistry.conversion.residual import (
            Residual,  # lazy: only a plan with values in it needs NumPy
        )

        made = cls(
            source=Side.from_dict(data["source"]),
            target=Side.from_dict(data["target"]),
            moves=tuple(_move(row) for row in data["moves"]),
            problems=tuple(_problem(row) for row in data["problems"]),
            conditions=tuple(_condition(row) for row in data["conditions"]),
            findings=tuple(_finding(row) for row in data["findings"]),
            rules=Rules.of({name: rows for name, rows in data["rules"].items() if rows}),
            allow=tuple(data["allow"]),
            dtype=data["dtype"],
            residual=Residual.from_dict(data["residual"]) if data["residual"] is not None else None,
        )
        made._check()
        return made

    def _check(self) -> None:
        """Refuse a plan that names what its sides do not have: it may come from a file that was edited."""
        targets = Counter(move.target for move in self.moves if move.target)
        wrong = [f"{key!r} has {targets[key]} moves" for key in self.target.entries if targets[key] > 1]
        if self.ok:
            wrong += [f"{key!r} has no move" for key in self.target.entries if not targets[key]]
        wrong += [f"no target {key!r}" for key in targets if key not in self.target.entries]
        for move in self.moves:
            wrong += [f"no source {feed.key!r}" for feed in move.sources if feed.key not in self.source.entries]
            wrong += [f"an op {move.op!r}"] if move.op not in get_args(Op) else []
            wrong += [f"a class {move.cls!r}"] if move.cls not in get_args(Class) else []
            wrong += (
                [f"a cast to {move.cast!r}"]
                if move.cast and move.cast != self.target.entries[move.target].dtype
                else []
            )
        wrong += [f"a condition {one.test!r}" for one in self.conditions if one.test not in _TESTS]
        matters = ("evaluation", "training")
        wrong += [f"a finding that matters in {one.matters!r}" for one in self.findings if one.matters not in matters]
        wrong += [f"a formula {move.formula!r}" for move in self.moves if move.formula not in get_args(Formula)]
        if wrong:
            raise PlanError(f"not a plan: {'; '.join(wrong[:5])}", plan=None, hint="make it again")

    def digest(self) -> str:
        """The sha256 of the plan's JSON: what a receipt names it by."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    # ---------------------------------------------------------------- text

    def __str__(self) -> str:
        counts = Counter(move.op for move in self.moves)
        classes = Counter(move.cls for move in self.moves if move.op != "keep")
        kinds = Counter(self.target.entries[m.target].kind for m in self.moves if m.target and m.op != "keep")
        verdict = "ok" if self.ok else f"NOT OK, {counted(len(self.problems), 'problem')}"
        lines = [
            f"plan {self.source.dialect or 'unknown'} -> {self.target.dialect or 'unknown'}: {verdict}",
            f"  {counted(len(self.source.entries), 'entry')} in, {len(self.target.entries)} out",
            f"  written: {counted(kinds[Kind.PARAMETER], 'parameter')} and {counted(kinds[Kind.BUFFER], 'buffer')}",
            "  moves: " + ", ".join(f"{number} {name}" for name, number in sorted(counts.items())),
            "  classes: " + ", ".join(f"{number} {name}" for name, number in sorted(classes.items())),
        ]
        noted = [move for move in self.moves if move.cls != "exact" or move.grade != "certain"]
        lines += _section("not exact or not certain", [str(move) for move in noted])
        lines += _section("conditions, checked before anything is written", [str(c) for c in self.conditions])
        found = sorted(self.findings, key=lambda finding: finding.matters)  # evaluation first
        lines += _section("findings: what differs and no state carries", [str(finding) for finding in found])
        if self.problems:
            lines.append(self._problem_text())
        return "\n".join(lines)

    def _problem_text(self) -> str:
        counts = Counter(problem.problem for problem in self.problems)
        head = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
        return "\n".join(_section(f"problems ({head})", [str(problem) for problem in self.problems], limit=40))


def _problem(row: Mapping[str, Any]) -> PlanProblem:
    pairs = {name: tuple((source, target) for source, target in row[name]) for name in ("candidates", "answers")}
    return PlanProblem(**{**row, "keys": tuple(row["keys"]), **pairs})


def _move(row: Mapping[str, Any]) -> Move:
    fixed = {"sources": _feeds(row["sources"]), "iteration": Iteration(**row["iteration"])}
    return Move(**{**row, **fixed, "anchors": tuple(row["anchors"]), "zeros": tuple(row["zeros"])})


def _feeds(rows: Iterable[Mapping[str, Any]]) -> tuple[Feed, ...]:
    return tuple(Feed(**feed) for feed in rows)


def _condition(row: Mapping[str, Any]) -> Condition:
    patterns = tuple((left, right) for left, right in row["patterns"])
    one, two = (Iteration(**each) for each in row["iterations"])
    fixed = {"feeds": _feeds(row["feeds"]), "iterations": (one, two), "unless": tuple(row["unless"])}
    return Condition(**{**row, **fixed, "keys": tuple(row["keys"]), "patterns": patterns})


def _finding(row: Mapping[str, Any]) -> Finding:
    left, right = _plain(row["source"]), _plain(row["target"])
    return Finding(row["path"], row["name"], left, right, row["matters"], row["hint"])


def _plain(value: Any) -> Any:
    """A value of JSON as config has it: tuples instead of lists."""
    return tuple(map(_plain, value)) if isinstance(value, list) else value


def _section(title: str, rows: list[str], limit: int = 12) -> list[str]:
    if not rows:
        return []
    more = [f"    ... and {len(rows) - limit} more"] if len(rows) > limit else []
    return [f"  {title}:", *(f"    {row}" for row in rows[:limit]), *more]
