"""The page of `diff`: how two states differ, by place and by size.

Verdict, totals, a map of everything coloured by what became of it, what is recognised, what changed, the largest first, with
the histograms of both sides, what was not compared. Bounded: see `LINES` and `DETAILS`; the search has every entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from stateregistry.pages import markup, parts, sparks, treemap
from stateregistry.pages.inspecting import KINDS, described
from stateregistry.pages.markup import escape, name
from stateregistry.report import differences, spelling

if TYPE_CHECKING:
    from stateregistry.entry import Entry
    from stateregistry.registry import StateRegistry
    from stateregistry.tools.compare import Diff, ValueDifference
    from stateregistry.tools.recognition import Pair

#: Lines of each table, and changes that have their histograms.
LINES = 2000
DETAILS = 150
#: Class -> what it means, in the order of the legend.
CLASSES = (
    ("same", "identical"),
    ("small", "changed, by less than 0.1 %"),
    ("medium", "changed, by less than 10 %"),
    ("large", "changed, by more"),
    ("renamed", "another name or layout"),
    ("cast", "another dtype"),
    ("one-side", "on one side only"),
    ("unknown", "other metadata, or not compared"),
)


@final
@dataclass(frozen=True, slots=True)
class _Place:
    """One place, under its key in `b`, or in `a` if it is only there."""

    key: str
    entry: Entry
    status: str
    words: str
    line: str


def page(
    a: StateRegistry,
    b: StateRegistry,
    found: Diff,
    pairs: Sequence[Pair] = (),
    *,
    how: str = "",
) -> str:
    """The page.

    Args:
        a, b: the sides, still open. found: the comparison.
        pairs: what is the same place on both sides. how: the command that made it.
    """
    group_of = found.kinds
    changed = differences.ranked([*differences.changes(found, pairs), *found.close], group_of)
    lines = {one.key: f"v{number}" for number, one in enumerate(changed[:LINES])}
    moved = [pair for pair in pairs if not differences.plain(pair)]
    lines |= {pair.b: f"p{number}" for number, pair in enumerate(moved[:LINES])}
    places = list(_places(a, b, found, pairs, lines))
    verdict = differences.verdict(found, pairs)
    text = verdict.text.partition(": ")[2]
    title = f"{found.a} and {found.b}"
    body = list(parts.opening("diff", title, verdict.word, text, verdict.tone, {"map": "Map", "changes": "Changes"}))
    body += parts.totals(_totals(found, pairs, group_of))
    body += _map(places, group_of)
    body += _kinds(found, pairs)
    body += _recognised(moved)
    body += _changes(a, b, changed, group_of, pairs)
    for number, (head, sentences) in enumerate(differences.sections(found, pairs).items()):
        body += parts.notes(head[0].upper() + head[1:], sentences[:LINES], f"section-{number}")
    body += _every(places, group_of)
    body += parts.closing(how)
    return markup.document(f"{title}: {verdict.word}", body, data=_data(places, group_of))


def _places(
    a: StateRegistry, b: StateRegistry, found: Diff, pairs: Sequence[Pair], lines: Mapping[str, str]
) -> Iterator[_Place]:
    first, second = dict(a.items()), dict(b.items())
    values = {one.key: one for one in found.values}
    close = {one.key: one for one in found.close}
    other = {one.key for one in found.metadata}
    skipped = dict(found.not_compared)
    paired = {pair.b: pair for pair in pairs}
    gone = {pair.a for pair in pairs if pair.renamed}
    for key in found.kinds:
        if key in gone:
            continue
        entry = second.get(key) or first[key]
        pair = paired.get(key)
        if pair is not None:
            status, words = _of_pair(pair)
        elif key in values:
            status, words = _size(values[key]), _word(values[key])
        elif key in close:
            status, words = "small", f"close, {_word(close[key])}"
        elif key not in second or key not in first:
            status, words = "one-side", f"only in {'a' if key in first else 'b'}"
        elif key in other or key in skipped:
            status, words = "unknown", skipped.get(key, "other metadata")
        else:
            status, words = "same", "identical"
        yield _Place(key, entry, status, words, lines.get(key, "every"))


def _of_pair(pair: Pair) -> tuple[str, str]:
    if pair.difference is not None:
        return _size(pair.difference), _word(pair.difference)
    if pair.cast:
        return "cast", differences.how(pair)
    if differences.plain(pair):
        return "same", f"identical, in a {pair.a}"
    return "renamed", f"in a {pair.a}" if pair.renamed else differences.how(pair)


def _size(one: ValueDifference) -> str:
    relative = one.measures.rel_l2 if one.measures is not None else float("inf")
    return "small" if relative < 1e-3 else "medium" if relative < 0.1 else "large"


def _word(one: ValueDifference) -> str:
    relative = f"rel L2 {one.measures.rel_l2:.2g}, " if one.measures is not None else ""
    return f"changed, {relative}max abs {one.max_abs:.3g}"


def _totals(found: Diff, pairs: Sequence[Pair], group_of: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    changed = differences.changes(found, pairs)
    groups = Counter(group_of[one.key] for one in changed)
    moved = ", ".join(f"{spelling.number(count)} {group}" for group, count in groups.items()) or "no value moved"
    same = [pair for pair in pairs if differences.plain(pair) and pair.difference is None]
    told = (
        spelling.plural(found.elements, "element")
        if not same
        else f"{len(same)} of them but for the prefix of all names"
    )
    yield "same", "identical entries", spelling.number(found.identical + len(same)), told
    yield "changed", "changed in value", spelling.number(len(changed)), moved
    kinds = Counter(kind for pair in pairs for kind in pair.kinds if kind != "changed" and not differences.plain(pair))
    told = ", ".join(f"{spelling.number(count)} {kind}" for kind, count in kinds.items()) or "names and layouts agree"
    recognised = sum(not differences.plain(pair) for pair in pairs)
    yield "renamed", "the same place, said otherwise", spelling.number(recognised), told
    taken = {pair.a for pair in pairs}, {pair.b for pair in pairs}
    ones, others = len(set(found.only_a) - taken[0]), len(set(found.only_b) - taken[1])
    yield "missing", "on one side only", spelling.number(ones + others), f"{ones} only in a, {others} only in b"


def _kinds(found: Diff, pairs: Sequence[Pair]) -> Iterator[str]:
    heads = ("identical", "other bits", "other metadata", "only in a", "only in b", "not compared", "recognised")
    yield '<section aria-labelledby="kinds"><h2 id="kinds">By kind</h2>'
    yield '<div class="wide" tabindex="0" role="group" aria-label="By kind"><table><thead><tr><th scope="col">kind</th>'
    yield "".join(f'<th scope="col" class="n">{head}</th>' for head in heads) + "</tr></thead><tbody>"
    for group, row in differences.tally(found, pairs).items():
        numbers = (row.identical, row.values, row.metadata, row.only_a, row.only_b, row.not_compared, row.recognised)
        cells = "".join(f'<td class="n">{spelling.number(number) if number else "–"}</td>' for number in numbers)
        yield f'<tr><th scope="row"><span class="kind {group}">{group}</span></th>{cells}</tr>'
    yield "</tbody></table></div></section>"


def _map(places: Sequence[_Place], group_of: Mapping[str, str]) -> Iterator[str]:
    present = {place.status for place in places}
    kinds = {group_of[place.key] for place in places}
    legends = {
        "difference": [(cls, word) for cls, word in CLASSES if cls in present],
        "kind": [(cls, word) for cls, word in KINDS if cls in kinds],
    }
    leaves = [
        treemap.Leaf(
            place.key, float(place.entry.nbytes), f"#{place.line}", f"{group_of[place.key]} {place.status}",
            f"{place.key}, {described(place.entry)}: {place.words}",
        )
        for place in places
    ]  # fmt: skip
    if any(leaf.weight for leaf in leaves):
        note = "Area is bytes. A heading zooms in, a cell leads to its line below."
        yield from parts.map_of(
            leaves, "area is bytes, colour is what became of it", legends, "Where the two differ", note
        )


def _recognised(pairs: Sequence[Pair]) -> Iterator[str]:
    if not pairs:
        return
    yield '<section aria-labelledby="same-place"><h2 id="same-place">The same place, said otherwise</h2>'
    yield '<div class="wide" tabindex="0" role="group" aria-label="The same place, said otherwise"><table><thead><tr>'
    yield "".join(f'<th scope="col">{head}</th>' for head in ("in a", "in b", "what", "how")) + "</tr></thead><tbody>"
    for number, pair in enumerate(pairs[:LINES]):
        kinds = " ".join(f'<span class="tag">{kind}</span>' for kind in pair.kinds)
        second = name(pair.b) if pair.renamed else "–"
        yield (
            f'<tr id="p{number}"><th scope="row">{name(pair.a)}</th><td class="from">{second}</td>'
            f'<td>{kinds}</td><td class="how">{escape(differences.how(pair))}</td></tr>'
        )
    yield "</tbody></table></div>"
    yield _left(len(pairs))
    yield "</section>"


def _changes(
    a: StateRegistry,
    b: StateRegistry,
    changed: Sequence[ValueDifference],
    group_of: Mapping[str, str],
    pairs: Sequence[Pair],
) -> Iterator[str]:
    yield '<section id="changes" aria-labelledby="changes-title"><h2 id="changes-title">What changed in value</h2>'
    if not changed:
        yield '<p class="note">Nothing.</p></section>'
        return
    homes = {pair.b: pair.a for pair in pairs}
    yield '<p class="note">By kind, then the largest relative change first. Filled is a, the line is b.</p>'
    yield '<div class="wide" tabindex="0" role="group" aria-label="What changed in value"><table class="values"><thead><tr>'
    yield "".join(f'<th scope="col">{head}</th>' for head in ("key", "kind", "values"))
    shown = changed[:LINES]
    columns = zip(differences.NUMBERS, *map(differences.numbers, shown), strict=True)
    said = [any(cells) for _, *cells in columns]  # "scaled by" is seldom the case, and takes the room of others
    heads = [head for head, some in zip(differences.NUMBERS, said, strict=True) if some]
    yield "".join(f'<th scope="col" class="n">{head}</th>' for head in heads) + "</tr></thead><tbody>"
    for number, one in enumerate(shown):
        picture = _picture(a, b, homes.get(one.key, one.key), one) if number < DETAILS else ""
        texts = [text for text, some in zip(differences.numbers(one), said, strict=True) if some]
        cells = "".join(f'<td class="n">{escape(text)}</td>' for text in texts)
        group = group_of[one.key]
        yield (
            f'<tr id="v{number}"><th scope="row">{name(one.key)}</th><td><span class="kind {group}">{group}</span></td>'
            f"<td>{picture}</td>{cells}</tr>"
        )
    yield "</tbody></table></div>"
    yield _left(len(changed))
    yield "</section>"


def _picture(a: StateRegistry, b: StateRegistry, home: str, one: ValueDifference) -> str:
    from stateregistry.tools.profiles import pair_counts

    return sparks.pair(*pair_counts(a.view(home), b.view(one.key))) if one.size > 1 else ""


def _left(count: int) -> str:
    return (
        f'<p class="note">and {spelling.number(count - LINES)} more: the search has them</p>' if count > LINES else ""
    )


def _every(places: Sequence[_Place], group_of: Mapping[str, str]) -> Iterator[str]:
    yield '<section id="every" aria-labelledby="every-title"><div class="bar"><h2 id="every-title">Every entry</h2></div>'
    kinds = {group_of[place.key] for place in places}
    present = {place.status for place in places}
    picks = {
        "kind": [(kind, kind) for kind, _ in KINDS if kind in kinds],
        "what": [(cls, word) for cls, word in CLASSES if cls in present],
    }
    yield from parts.search(picks)
    yield '<div id="lines">'
    counts = Counter(place.status for place in places)
    for cls, word in CLASSES:
        if not counts[cls]:
            continue
        chosen = [place for place in places if place.status == cls]
        yield f'<details><summary>{spelling.number(len(chosen))} {escape(word)}</summary><ul class="members">'
        yield "".join(f"<li>{name(place.key)}</li>" for place in chosen[:LINES])
        yield f"</ul>{_left(len(chosen))}</details>"
    yield "</div></section>"


def _data(places: Sequence[_Place], group_of: Mapping[str, str]) -> dict[str, Any]:
    columns = ("key", "shape", "dtype", "kind", "bytes", "what", "said", "line")
    entries = [
        [
            spelling.printable(place.key), spelling.shape(place.entry.shape), place.entry.dtype, group_of[place.key],
            place.entry.nbytes, place.status, spelling.printable(place.words), place.line,
        ]
        for place in places
    ]  # fmt: skip
    return {"columns": columns, "entries": entries}
