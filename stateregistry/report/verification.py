"""Verification: whether two models hold the same state through a plan, as blocks; kinds apart, what was not compared named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from stateregistry.report import spelling
from stateregistry.report.blocks import Block, Column, Notes, Table, Verdict

if TYPE_CHECKING:
    from stateregistry.conversion.verification.verify import Difference, Verification

#: Rows of each table that are shown unless all are asked for.
ROWS = 40
KINDS = ("trainable", "frozen", "buffer")


@final
@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the entries of one kind: how many are equal, differ, or have no counterpart in `b`."""

    equal: int = 0
    different: int = 0
    not_compared: int = 0


def kinds(found: Verification, /) -> dict[str, str]:
    """The kind of everything that was compared or left out, by key: of the target, or of the source for what is only there."""
    entries = {**found.plan.source.entries, **found.plan.target.entries}
    moved = {move.target for move in found.plan.moves if move.target}
    keys = dict.fromkeys((*moved, *found.not_compared))
    return {key: spelling.standing(entries[key]) for key in keys if key in entries}


def tally(found: Verification, /) -> dict[str, Tally]:
    """The entries by kind."""
    kind_of = kinds(found)
    differ = {difference.target for difference in found.differences}
    rows = {}
    for kind in KINDS:
        those = {key for key, name in kind_of.items() if name == kind}
        skipped = those & found.not_compared.keys()
        rows[kind] = Tally(len(those - skipped - differ), len(those & differ), len(skipped))
    return rows


def outline(found: Verification, a: str, b: str, /, *, everything: bool = False) -> tuple[Block, ...]:
    """The verdict, the counts by kind, then what differs, what no state carries, and what was not compared."""
    limit = None if everything else ROWS
    blocks: list[Block] = [_verdict(found, a, b), _counts(tally(found))]
    if found.differences:
        blocks.append(_differences(found, limit))
    sections: dict[str, Iterable[str]] = {
        "conditions that do not hold": found.unmet,
        "not compared": [f"{key}: {reason}" for key, reason in found.not_compared.items()],
        "the same state may still compute something else": map(str, found.plan.findings),
    }
    if found.first_departure is not None:
        sections["first departure"] = str(found.first_departure).splitlines()
    sections["layers"] = found.notes
    for title, lines in sections.items():
        shown = [spelling.printable(line) for line in lines]
        if shown:
            blocks.append(Notes(title, _cut(shown, limit)))
    return tuple(blocks)


def _verdict(found: Verification, a: str, b: str) -> Verdict:
    way = f"{found.plan.source.dialect or 'unknown'} to {found.plan.target.dialect or 'unknown'}"
    text = f"{spelling.printable(a)} and {spelling.printable(b)}, {way}: "
    same = f"{spelling.plural(found.equal_entries, 'entry')} equal bit for bit"
    if found.equal:
        return Verdict("equal", text + same, "good")
    counts = ((len(found.differences), "with other bits"), (len(found.unmet), "conditions that do not hold"))
    told = [f"{number} {what}" for number, what in counts if number]
    if not told:
        return Verdict("undecided", f"{text}nothing was compared", "bad")
    return Verdict("different", f"{text}{', '.join(told)}, {same}", "bad")


def _counts(counts: Mapping[str, Tally]) -> Table:
    names = ("equal", "other bits", "not compared")
    columns = (Column("kind"), *(Column(name, right=True) for name in names))
    rows = [(kind, *map(spelling.number, (row.equal, row.different, row.not_compared))) for kind, row in counts.items()]
    return Table("", columns, tuple(rows))


def _differences(found: Verification, limit: int | None) -> Table:
    entries = found.plan.target.entries

    def rank(one: Difference) -> tuple[int, float, str]:
        return KINDS.index(spelling.standing(entries[one.target])), -one.largest, one.target

    rows = [
        (
            spelling.printable(one.target), spelling.printable(one.source), spelling.standing(entries[one.target]),
            f"{spelling.number(one.elements)} of {spelling.number(entries[one.target].size)}", f"{one.largest:.3g}",
        )
        for one in sorted(found.differences, key=rank)
    ]  # fmt: skip
    columns = (
        Column("key in b"), Column("from a", wraps=True), Column("kind"), Column("elements", right=True),
        Column("max abs", right=True),
    )  # fmt: skip
    return Table("other bits", columns, tuple(rows[:limit]), _more(len(rows), limit))


def _cut(lines: list[str], limit: int | None) -> tuple[str, ...]:
    more = _more(len(lines), limit)
    return (*lines[:limit], more) if more else tuple(lines)


def _more(count: int, limit: int | None) -> str:
    return f"{count - limit} more; all of them with --all" if limit is not None and count > limit else ""


def document(found: Verification, /) -> dict[str, Any]:
    """The verification as JSON types, with the counts by kind and the findings of the plan."""
    counts = {
        kind: {"equal": row.equal, "different": row.different, "not_compared": row.not_compared}
        for kind, row in tally(found).items()
    }
    return found.to_json() | {"kinds": counts, "findings": [str(finding) for finding in found.plan.findings]}
