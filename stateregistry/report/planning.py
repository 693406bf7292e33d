"""Planning: a plan, and what executing it wrote, as blocks. Says of every entry where it goes, and counts by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from stateregistry.report import folding, spelling
from stateregistry.report.blocks import Block, Column, Notes, Table, Verdict
from stateregistry.report.summary import Count, amount

if TYPE_CHECKING:
    from stateregistry.conversion.planning.plan import Move, Plan

#: Rows of a table of moves or problems that are shown unless all are asked for.
ROWS = 60

#: What the findings of a plan stand under.
_FINDINGS = {
    "evaluation": "findings: what differs and no state carries",
    "training": "findings that matter in training only",
}


def outline(
    plan: Plan, /, *, moves: bool = True, everything: bool = False, spell: Callable[[str], str] = str
) -> tuple[Block, ...]:
    """The plan: the verdict, both sides by kind, problems, moves, conditions and findings.

    Args:
        plan: any plan, whether `ok` or not.
        moves: show every move; else, of a plan that is `ok`, those that are not exact or not certain.
        everything: fold nothing and leave nothing out.
        spell: how hints are spelled where they are shown.
    """
    limit = None if everything else ROWS
    blocks: list[Block] = [_verdict(plan), _numbers(plan)]
    if plan.problems:
        lines = [str(problem) for problem in problems(plan, spell, everything=everything)]
        counts = Counter(problem.problem for problem in plan.problems)
        title = "problems: " + ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
        blocks.append(Notes(title, _cut(lines, limit)))
    noted = [move for move in plan.moves if move.cls != "exact" or move.grade != "certain"]
    chosen = plan.moves if moves else noted if plan.ok else ()  # the problems say it already
    rows = [row(plan, move) for move in chosen if move.op != "drop"]
    rows += [row(plan, move) for move in chosen if move.op == "drop"]
    if rows:
        rows = rows if everything else folding.rows(rows)
        columns = (
            Column("target"), Column("from", wraps=True), Column("how", wraps=True), Column("kind"),
            Column("remarks", wraps=True),
        )  # fmt: skip
        shown = tuple(rows[:limit])
        note = f"{len(rows) - len(shown)} more lines; all of them with --all" if len(shown) < len(rows) else ""
        blocks.append(Table("moves" if moves else "moves that are not exact or not certain", columns, shown, note))
    if plan.conditions:
        lines = [spelling.printable(str(condition)) for condition in plan.conditions]
        blocks.append(Notes("checked before anything is written", _cut(lines, limit)))
    for matters, title in _FINDINGS.items():
        lines = [spelling.printable(str(one)) for one in plan.findings if one.matters == matters]
        if lines:
            blocks.append(Notes(title, _cut(lines, limit)))
    return tuple(blocks)


@final
@dataclass(frozen=True, slots=True)
class Told:
    """A problem as text: its class, what it is about, what is wrong, and what would settle it."""

    problem: str
    keys: str
    text: str
    hint: str

    def __str__(self) -> str:
        said = f"{self.problem}: {self.keys}: {self.text}" if self.keys else f"{self.problem}: {self.text}"
        return f"{said}; {self.hint}" if self.hint else said


def problems(
    plan: Plan, spell: Callable[[str], str], /, *, everything: bool = False, arrow: str = " -> "
) -> tuple[Told, ...]:
    """The problems of a plan. Those that differ in one number are one, `conv{1..6}`, which is no name to be typed."""
    told = [
        (
            problem.problem,
            spelling.printable(problem.where(arrow)),
            spelling.printable(problem.text),
            spelling.printable(spell(problem.hint)),
        )
        for problem in plan.problems
    ]
    alone = set(told)
    found = []
    for row in told if everything else folding.rows(told):
        problem, keys, text, hint = row
        each = "for each: " if row not in alone and "{" in hint else ""
        found.append(Told(problem, keys, text, each + hint))
    return tuple(found)


def _cut(lines: list[str], limit: int | None) -> tuple[str, ...]:
    if limit is None or len(lines) <= limit:
        return tuple(lines)
    return (*lines[:limit], f"and {len(lines) - limit} more; all of them with --all")


def _verdict(plan: Plan) -> Verdict:
    way = f"{plan.source.dialect or 'unknown'} to {plan.target.dialect or 'unknown'}"
    counts = Counter(move.cls for move in plan.moves if move.op != "keep")
    classes = ", ".join(f"{number} {name}" for name, number in sorted(counts.items())) or "no moves"
    if plan.ok:
        return Verdict("plan ok", f"{way}, {classes}", "good")
    return Verdict("plan not ok", f"{way}, {spelling.plural(len(plan.problems), 'problem')}; nothing is written", "bad")


def _numbers(plan: Plan) -> Table:
    """Both sides by kind."""
    columns = (
        Column("kind"), Column("in", right=True), Column("elements", right=True),
        Column("out", right=True), Column("elements", right=True),
    )  # fmt: skip
    rows = []
    for word in ("trainable", "frozen", "buffer"):
        here, there = (
            Count.of(entry for entry in side.entries.values() if spelling.standing(entry) == word)
            for side in (plan.source, plan.target)
        )
        numbers = (here.tensors, here.elements, there.tensors, there.elements)
        rows.append((word, *map(spelling.number, numbers)))
    return Table("", columns, tuple(rows))


def row(plan: Plan, move: Move, /) -> tuple[str, ...]:
    """A move as text: target, from, how, kind, remarks."""
    keys = [feed.key for feed in move.sources]
    entry = plan.target.entries[move.target] if move.target else plan.source.entries[keys[0]]
    named = ", ".join(feed.key + (f"[{feed.part}]" if feed.part else "") for feed in move.sources)
    remarks = [
        move.cls if move.cls != "exact" else "",
        move.grade if move.grade != "certain" else "",
        "kept in the residual" if move.op == "drop" and move.residual else "",
        spelling.printable(move.reason),
    ]
    return (
        spelling.printable(move.target) or "-",
        spelling.printable(named) or "-",
        _how(move),
        spelling.standing(entry),
        ", ".join(part for part in remarks if part),
    )


def _how(move: Move) -> str:
    if move.op == "fill":
        return "from the residual" if move.residual else f"fill {move.value:g}"
    parts: list[str] = [move.op]
    patterns = dict.fromkeys(feed.axes for feed in move.sources if feed.axes != move.axes)
    if patterns:
        parts.append(f"{' | '.join(patterns)} -> {move.axes}")
    if move.cast:
        parts.append(f"as {move.cast}")
    return ", ".join(parts)


def written(plan: Plan, path: str, nbytes: int, residual: int) -> tuple[Block, ...]:
    """What was written: parameters and buffers counted apart, and what is kept for the way back."""
    parameters, buffers = by_kind(plan)
    text = f"{path}: {amount(parameters, 'parameter')}, {amount(buffers, 'buffer')}; {spelling.size(nbytes)} on disk"
    blocks: list[Block] = [Verdict("written", text, "good")]
    if residual:
        line = f"{spelling.plural(residual, 'entry')} without a place kept in its metadata, for the way back"
        blocks.append(Notes("", (line,)))
    return tuple(blocks)


def sentence(blocks: Sequence[Block], /) -> str:
    """What `written` says, as one text."""
    told = [
        block.text if isinstance(block, Verdict) else "; ".join(block.lines)
        for block in blocks
        if not isinstance(block, Table)
    ]
    return ". ".join(f"{text[0].upper()}{text[1:]}" if number else text for number, text in enumerate(told))


def by_kind(plan: Plan, /) -> tuple[Count, Count]:
    """How many parameters and how many buffers the target has."""
    parameters, buffers = (
        Count.of(entry for entry in plan.target.entries.values() if entry.kind.value == kind)
        for kind in ("parameter", "buffer")
    )
    return parameters, buffers


def document(plan: Plan, /) -> dict[str, Any]:
    """What a program asks first of a plan, beside the plan itself."""
    parameters, buffers = by_kind(plan)
    return {
        "ok": plan.ok,
        "parameters": parameters.to_json(),
        "buffers": buffers.to_json(),
        "moves": dict(sorted(Counter(move.op for move in plan.moves).items())),
        "classes": dict(sorted(Counter(move.cls for move in plan.moves).items())),
        "findings": dict(sorted(Counter(one.matters for one in plan.findings).items())),
        "plan": plan.to_dict(),
    }
