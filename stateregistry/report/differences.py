"""Differences: how two states differ, as blocks, grouped by kind first: did the weights move, or the statistics?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from stateregistry.report import folding, spelling
from stateregistry.report.blocks import Block, Column, Notes, Table, Verdict

if TYPE_CHECKING:
    from stateregistry.tools.compare import Diff, ValueDifference
    from stateregistry.tools.recognition import Pair

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
    recognised: int = 0


def tally(found: Diff, pairs: Sequence[Pair] = (), /) -> dict[str, Tally]:
    """The entries of each group by what became of them. Values come first: an entry counts once, a pair as one entry."""
    paired = {pair.b for pair in pairs if not plain(pair)}
    gone = {pair.a for pair in pairs if pair.renamed}
    values = {difference.key for difference in changes(found, pairs)}
    metadata = {difference.key for difference in found.metadata} - values - paired
    only_a, only_b = set(found.only_a) - gone, set(found.only_b) - {pair.b for pair in pairs}
    skipped = {key for key, _ in found.not_compared} - values - metadata - paired
    left_out = set(found.left_out)
    rows = {}
    for group in GROUPS:
        those = {key for key, name in found.kinds.items() if name == group} - left_out - gone
        parts = [those & part for part in (values, metadata, only_a, only_b, skipped, paired)]
        rest = len(those) - sum(map(len, parts))
        rows[group] = Tally(rest, *map(len, parts))
    return rows


def outline(found: Diff, pairs: Sequence[Pair] = (), /, *, everything: bool = False) -> tuple[Block, ...]:
    """The verdict, the counts by kind, what is recognised, then each class of difference, the largest first.

    Args:
        found: the comparison by names. pairs: what is the same place on both sides.
        everything: leave nothing out.
    """
    limit = None if everything else ROWS
    counts = tally(found, pairs)
    blocks: list[Block] = [verdict(found, pairs), _counts(counts, recognised=bool(pairs))]
    blocks += _recognised(pairs, limit)
    changed = ranked(changes(found, pairs), found.kinds)
    if changed:
        blocks.append(_changes("other bits", changed, found.kinds, limit))
    if found.close:
        title = f"close: within rtol {found.rtol:g} and atol {found.atol:g}"
        blocks.append(_changes(title, ranked(found.close, found.kinds), found.kinds, limit))
    for title, lines in sections(found, pairs).items():
        blocks.append(Notes(title, tuple(_cut(lines, limit))))
    return tuple(blocks)


def changes(found: Diff, pairs: Sequence[Pair], /) -> list[ValueDifference]:
    """Differences of values at places that have one name, but for a prefix that all names have."""
    paired = {pair.b for pair in pairs} | {pair.a for pair in pairs}
    return [v for v in found.values if v.key not in paired] + [
        pair.difference for pair in pairs if pair.difference is not None and plain(pair)
    ]


def plain(pair: Pair, /) -> bool:
    """Whether a pair differs in nothing but values and a prefix that all names have."""
    return bool(pair.prefix) and not (pair.order or pair.cast or pair.reshaped)


def sections(found: Diff, pairs: Sequence[Pair], /) -> dict[str, list[str]]:
    """Everything else that differs or was not compared, by its heading, as sentences."""
    paired_a, paired_b = {pair.a for pair in pairs}, {pair.b for pair in pairs}
    told = {
        "other metadata (a / b)": [str(one) for one in found.metadata if one.key not in paired_b],
        "only in a": [f"{key} ({found.kinds[key]})" for key in found.only_a if key not in paired_a],
        "only in b": [f"{key} ({found.kinds[key]})" for key in found.only_b if key not in paired_b],
        "tied differently (a / b)": [f"{key}: {a or 'not tied'} / {b or 'not tied'}" for key, a, b in found.ties],
        "not compared": [f"{key}: {reason}" for key, reason in found.not_compared],
        "not saved and on one side only, no difference": list(found.left_out),
    }
    return {title: lines for title, lines in told.items() if lines}


def ranked(values: Iterable[ValueDifference], group_of: Mapping[str, str], /) -> list[ValueDifference]:
    """Differences in the order of what matters: by kind, single numbers last, then the largest relative change first."""

    def rank(one: ValueDifference) -> tuple[int, bool, float, float, str]:
        relative = one.measures.rel_l2 if one.measures is not None else math.inf
        return GROUPS.index(group_of[one.key]), one.size == 1, -relative, -one.max_abs, one.key

    return sorted(values, key=rank)


def counted(found: Diff, pairs: Sequence[Pair], /) -> list[tuple[int, str]]:
    """How many there are of every class of difference, those that are none left out."""
    paired_a, paired_b = {pair.a for pair in pairs if pair.renamed}, {pair.b for pair in pairs}
    kinds = Counter(kind for pair in pairs for kind in pair.kinds)
    counts = (
        *((kinds[kind], kind) for kind in ("renamed", "transposed", "reshaped", "cast")),
        (sum(v.key not in paired_b for v in found.values) + kinds["changed"], "with other bits"),
        (sum(m.key not in paired_b for m in found.metadata), "with other metadata"),
        (len(set(found.only_a) - paired_a), "only in a"),
        (len(set(found.only_b) - paired_b), "only in b"),
        (len(found.ties), "tied differently"),
        (len(found.not_compared), "not compared"),
    )
    return [(number, what) for number, what in counts if number]


def verdict(found: Diff, pairs: Sequence[Pair], /) -> Verdict:
    """The sentence that answers whether the two are the same."""
    text = f"{spelling.printable(found.a)} and {spelling.printable(found.b)}: "
    alike = [pair for pair in pairs if plain(pair) and pair.difference is None]
    identical, elements = found.identical + len(alike), found.elements + sum(pair.size for pair in alike)
    same = f"{spelling.plural(identical, 'entry')} of {spelling.plural(elements, 'element')} identical"
    same += " but for the prefix of all names" if alike else ""
    if found.equal and not found.kinds:
        return Verdict("undecided", f"{text}nothing was compared, as no entry was chosen", "bad")
    if found.equal:
        if not found.close:
            return Verdict("equal", text + same, "good")
        near = f"{spelling.plural(len(found.close), 'entry')} within rtol {found.rtol:g} and atol {found.atol:g}"
        return Verdict("close", f"{text}{near}, {same}", "good")
    counts = counted(found, pairs)
    told = ", ".join(f"{spelling.number(number)} {what}" for number, what in counts)
    decided = any(what != "not compared" for _, what in counts)
    near = f", {len(found.close)} close" if found.close else ""
    gist = story(found, pairs)
    return Verdict(
        "different" if decided else "undecided", f"{text}{told}{near}, {same}{f'; {gist}' if gist else ''}", "bad"
    )


def story(found: Diff, pairs: Sequence[Pair], /) -> str:
    """What a person wants to know of many differences, if it can be said in a few words; else empty."""
    paired = {pair.b for pair in pairs}
    moved = [v.key for v in found.values if v.key not in paired] + [p.b for p in pairs if p.difference is not None]
    others = [what for _, what in counted(found, pairs) if what not in {"with other bits", "not compared"}]
    if not moved:
        names = {"renamed", "transposed", "reshaped"}
        return "the same values under other names or axes" if pairs and set(others) <= names else ""
    if others or len(moved) < 2:
        return ""
    groups = {found.kinds[key] for key in moved}
    if groups == {"buffer"} and set(found.kinds.values()) != {"buffer"}:
        return "only buffers moved, no parameter did"
    if groups == {"trainable"} and any(group == "frozen" for group in found.kinds.values()):
        return "nothing frozen moved"
    common = _common(moved)
    if common and any(not key.startswith(f"{common}/") for key in found.kinds):
        return f"all of it under {spelling.printable(common)}"
    return "only parameters moved, no buffer did" if "buffer" not in groups and "buffer" in found.kinds.values() else ""


def _common(keys: Sequence[str]) -> str:
    first, *rest = [key.split("/")[:-1] for key in keys]
    length = 0
    while length < len(first) and all(other[: length + 1] == first[: length + 1] for other in rest):
        length += 1
    return "/".join(first[:length])


def _counts(counts: Mapping[str, Tally], *, recognised: bool) -> Table:
    names = ["identical", "other bits", "other metadata", "only in a", "only in b", "not compared"]
    if recognised:
        names.append("recognised")
    columns = (Column("kind"), *(Column(name, right=True) for name in names))
    rows = []
    for group, row in counts.items():
        numbers = (row.identical, row.values, row.metadata, row.only_a, row.only_b, row.not_compared, row.recognised)
        rows.append((group, *map(spelling.number, numbers[: len(names)])))
    return Table("", columns, tuple(rows))


def _recognised(pairs: Sequence[Pair], limit: int | None) -> list[Block]:
    """Pairs by what became of them, alike ones folded."""
    if not pairs:
        return []
    rows = []
    lines = []
    wrapped = next((pair for pair in pairs if pair.prefix), None)
    if wrapped is not None:
        side = "b" if wrapped.b.startswith(f"{wrapped.prefix}/{wrapped.a}") else "a"
        fit = spelling.plural(sum(bool(pair.prefix) for pair in pairs), "name")
        lines.append(f"all names of {side} lie under {spelling.printable(wrapped.prefix)}/; without it {fit} fit")
    for pair in pairs:
        if plain(pair):
            continue
        names = (spelling.printable(pair.a), spelling.printable(pair.b) if pair.renamed else "")
        rows.append((", ".join(pair.kinds), *names, how(pair)))
    shown = rows if limit is None else folding.rows(rows)
    columns = (Column("recognised"), Column("in a", wraps=True), Column("in b", wraps=True), Column("how", wraps=True))
    blocks: list[Block] = [Notes("", tuple(lines))] if lines else []
    return [*blocks, *([Table("", columns, tuple(shown[:limit]), _more(len(shown), limit))] if shown else [])]


def how(pair: Pair, /) -> str:
    """What became of a place besides its name, and why it is taken for the same."""
    parts = []
    if pair.order:
        parts.append(f"axes {','.join(map(str, pair.order))}")
    if pair.cast:
        parts.append(f"{pair.cast}, {'rounded, nothing else' if pair.exact else 'and other values'}")
    if pair.difference is not None:
        relative = pair.difference.measures.rel_l2 if pair.difference.measures is not None else math.nan
        parts.append(f"rel L2 {relative:.2g}, max abs {pair.difference.max_abs:.3g}")
    return "; ".join((*parts, pair.evidence))


def _changes(title: str, values: Sequence[ValueDifference], group_of: Mapping[str, str], limit: int | None) -> Table:
    rows = [(spelling.printable(v.key), group_of[v.key], *numbers(v)) for v in values[:limit]]
    numbers_ = (Column(name, right=True, spare=name in _SPARE) for name in NUMBERS)
    columns = (Column("key"), Column("kind"), *numbers_)
    return Table(title, columns, tuple(rows), _more(len(values), limit))


#: The headings of `numbers`.
NUMBERS = ("elements", "rel L2", "max abs", "mean abs", "max rel", "mean rel", "cosine", "scaled by")
_SPARE = frozenset(("mean abs", "max rel", "mean rel", "scaled by"))


def numbers(one: ValueDifference, /) -> tuple[str, ...]:
    """What is told of a difference of values, in the order of `NUMBERS`."""
    whole = spelling.number(one.size)
    part = f"all {whole}" if one.elements == one.size else f"{spelling.number(one.elements)} of {whole}"
    largest = f"{one.max_abs:.3g}"
    m = one.measures
    if m is None:
        return part, "", largest, "", "", "", "", ""
    scale = f"{m.scale:.6g}" if math.isfinite(m.scale) else ""
    cosine = f"{m.cosine:.6f}" if math.isfinite(m.cosine) else ""
    rest = (f"{x:.3g}" if not math.isnan(x) else "" for x in (m.mean_abs, m.max_rel, m.mean_rel))
    return (part, f"{m.rel_l2:.2g}", largest, *rest, cosine, scale)


def _cut(lines: list[str], limit: int | None) -> Iterable[str]:
    shown = [spelling.printable(line) for line in lines[:limit]]
    more = _more(len(lines), limit)
    return [*shown, more] if more else shown


def _more(count: int, limit: int | None) -> str:
    return f"{count - limit} more; all of them with --all" if limit is not None and count > limit else ""
