"""Differences: how two states differ, as blocks, grouped by kind first: did the weights move, or the statistics?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from stateregistry.report import spelling
from stateregistry.report.blocks import Block, Column, Notes, Table, Verdict

if TYPE_CHECKING:
    from stateregistry.entry import Entry
    from stateregistry.registry import StateRegistry
    from stateregistry.tools.compare import Diff

#: Rows of each table that are shown unless all are asked for.
ROWS = 40
GROUPS = ("trainable", "frozen", "buffer")


@final
@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the entries of one group."""

    identical: int = 0
    values: int = 0
    metadata: int = 0
    only_a: int = 0
    only_b: int = 0
    not_compared: int = 0


def groups(a: StateRegistry, b: StateRegistry, /) -> dict[str, str]:
    """The group of every key of either side. A side that only inferred its kinds gives way to one that knows."""
    first, second = dict(a.items()), dict(b.items())
    return {key: spelling.standing(_known(first.get(key), second.get(key))) for key in sorted({*first, *second})}


def _known(first: Entry | None, second: Entry | None) -> Entry:
    found = [entry for entry in (first, second) if entry is not None]
    return next((entry for entry in found if not entry.inferred), found[0])


def tally(found: Diff, group_of: Mapping[str, str], /) -> dict[str, Tally]:
    """The entries of each group by what became of them. Values come first: an entry counts once."""
    values = {difference.key for difference in found.values}
    metadata = {difference.key for difference in found.metadata} - values
    only_a, only_b, skipped = set(found.only_a), set(found.only_b), {key for key, _ in found.not_compared}
    skipped -= values | metadata
    left_out = set(found.left_out)
    rows = {}
    for group in GROUPS:
        those = {key for key, name in group_of.items() if name == group} - left_out
        parts = [those & part for part in (values, metadata, only_a, only_b, skipped)]
        rest = len(those) - sum(map(len, parts))
        rows[group] = Tally(rest, *map(len, parts))
    return rows


def outline(found: Diff, group_of: Mapping[str, str], /, *, everything: bool = False) -> tuple[Block, ...]:
    """The verdict, the counts by kind, then each class of difference."""
    limit = None if everything else ROWS
    counts = tally(found, group_of)
    blocks: list[Block] = [_verdict(found), _counts(counts)]
    if found.values:
        changed = sorted(found.values, key=lambda v: (GROUPS.index(group_of[v.key]), -v.max_abs, v.key))
        rows = [
            (
                spelling.printable(v.key), group_of[v.key],
                f"{spelling.number(v.elements)} of {spelling.number(v.size)}", f"{v.max_abs:.3g}",
            )
            for v in changed
        ]  # fmt: skip
        columns = (Column("key"), Column("kind"), Column("elements", right=True), Column("max abs", right=True))
        blocks.append(Table("other bits", columns, tuple(rows[:limit]), _more(len(rows), limit)))
    for title, lines in (
        ("other metadata (a / b)", [str(difference) for difference in found.metadata]),
        ("only in a", [f"{key} ({group_of[key]})" for key in found.only_a]),
        ("only in b", [f"{key} ({group_of[key]})" for key in found.only_b]),
        ("tied differently (a / b)", [f"{key}: {a or 'not tied'} / {b or 'not tied'}" for key, a, b in found.ties]),
        ("not compared", [f"{key}: {reason}" for key, reason in found.not_compared]),
        ("not saved and on one side only, no difference", list(found.left_out)),
    ):
        if lines:
            blocks.append(Notes(title, tuple(_cut(lines, limit))))
    return tuple(blocks)


def _verdict(found: Diff) -> Verdict:
    text = f"{spelling.printable(found.a)} and {spelling.printable(found.b)}: "
    same = f"{spelling.plural(found.identical, 'entry')} of {spelling.plural(found.elements, 'element')} identical"
    if found.equal:
        return Verdict("equal", text + same, "good")
    counts = (
        (len(found.values), "with other bits"),
        (len(found.metadata), "with other metadata"),
        (len(found.only_a), "only in a"),
        (len(found.only_b), "only in b"),
        (len(found.ties), "tied differently"),
        (len(found.not_compared), "not compared"),
    )
    told = ", ".join(f"{number} {what}" for number, what in counts if number)
    decided = any(number for number, _ in counts[:-1])
    return Verdict("different" if decided else "undecided", f"{text}{told}, {same}", "bad")


def _counts(counts: Mapping[str, Tally]) -> Table:
    names = ("identical", "other bits", "other metadata", "only in a", "only in b", "not compared")
    columns = (Column("kind"), *(Column(name, right=True) for name in names))
    rows = []
    for group, row in counts.items():
        numbers = (row.identical, row.values, row.metadata, row.only_a, row.only_b, row.not_compared)
        rows.append((group, *map(spelling.number, numbers)))
    return Table("", columns, tuple(rows))


def _cut(lines: list[str], limit: int | None) -> Iterable[str]:
    shown = [spelling.printable(line) for line in lines[:limit]]
    more = _more(len(lines), limit)
    return [*shown, more] if more else shown


def _more(count: int, limit: int | None) -> str:
    return f"{count - limit} more; all of them with --all" if limit is not None and count > limit else ""
