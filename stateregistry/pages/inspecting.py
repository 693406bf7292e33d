"""The page of `inspect`: what is in one checkpoint or model.

Verdict, totals, where the bytes are, what is odd, and the folded tree, in which every array opens to its histogram and the
sizes of its slices. Bounded: see `LINES` and `DETAILS`; the search has every entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, final

from stateregistry.pages import markup, parts, sparks, treemap
from stateregistry.pages.markup import escape, name
from stateregistry.report import spelling, values
from stateregistry.report.folding import Branch

if TYPE_CHECKING:
    from stateregistry.entry import Entry
    from stateregistry.report.summary import Summary
    from stateregistry.tools.profiles import Profile
    from stateregistry.tools.statistics import Statistics

#: Lines of the folded tree, and arrays that have their pictures in it, the largest first.
LINES = 2000
DETAILS = 1200
#: Lines that are open when the page opens.
_OPEN = 60
_BIGGEST = 8
KINDS = (("trainable", "trainable"), ("frozen", "frozen"), ("buffer", "buffer (hatched)"))


def page(
    title: str,
    text: str,
    facts: Summary,
    *,
    profiles: Mapping[str, Profile] | None = None,
    statistics: Mapping[str, Statistics] | None = None,
    how: str = "",
    layers: Iterable[str] = (),
) -> str:
    """The page.

    Args:
        title: what was looked at. text: the rest of the verdict. facts: of it.
        profiles: of the values, by key, at least of the `DETAILS` largest; `None` where they were not read.
        statistics: of all values; by default those of the profiles.
        how: the command that made it. layers: the layer kind of every layer, if any is known.
    """
    found = profiles or {}
    listing = _Tree(facts, found)
    tree = list(listing.lines())  # before the map: its cells lead to these lines
    skip = {"map": "Map", "tree": "Tree"}
    body = list(parts.opening("inspect", title, "", text, "plain", skip))
    body += parts.totals(parts.count_rows(facts))
    dtypes = _dtypes(facts)
    legends = {
        "kind": [
            (cls, word) for cls, word in KINDS if any(spelling.standing(e) == cls for e in facts.entries.values())
        ],
        "dtype": [(cls, word) for word, cls in parts.dtype_classes(dtypes[: parts.DTYPES]).items()]
        + ([(f"d{parts.DTYPES}", "other")] if len(dtypes) > parts.DTYPES else []),
    }
    leaves = _leaves(facts, listing.rows, parts.dtype_classes(dtypes))
    empty = sum(1 for entry in facts.entries.values() if not entry.nbytes)
    note = "A heading zooms in, a cell leads to its line in the tree."
    note += f" {spelling.plural(empty, 'entry')} without bytes are not drawn." if empty else ""
    if any(leaf.weight for leaf in leaves):
        body += parts.map_of(leaves, "area is bytes", legends, "Where the bytes are", note)
    body += _biggest(facts, listing.rows)
    stats = statistics if statistics is not None else {key: one.statistics for key, one in found.items()}
    odd = [*facts.odd, *values.odd(stats, facts.entries)]
    body += parts.notes("Look at", odd, "odd", "odd")
    body += _layers(layers)
    body += _search(facts, dtypes)
    body += tree
    body += _about(facts, len(stats) if profiles is not None else None, listing)
    body += parts.closing(how)
    return markup.document(f"{title}: inspected", body, data=_data(facts, listing.rows))


def largest(facts: Summary, /) -> list[str]:
    """The keys of the arrays that have their pictures on the page."""
    return sorted(facts.entries, key=lambda key: (-facts.entries[key].nbytes, key))[:DETAILS]


def _dtypes(facts: Summary) -> list[str]:
    counts = Counter(entry.dtype for entry in facts.entries.values())
    return [dtype for dtype, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def _leaves(facts: Summary, rows: Mapping[str, int], dtypes: Mapping[str, str]) -> list[treemap.Leaf]:
    total = sum(entry.nbytes for entry in facts.entries.values()) or 1
    found = []
    for key, entry in facts.entries.items():
        part = spelling.share(entry.nbytes / total)
        title = f"{key}, {described(entry)}, {spelling.size(entry.nbytes)}, {part}"
        classes = f"{spelling.standing(entry)} {dtypes[entry.dtype]}"
        found.append(treemap.Leaf(key, float(entry.nbytes), f"#e{rows.get(key, 0)}", classes, title))
    return found


def described(entry: Entry) -> str:
    """`float32 16x3x3, trainable`."""
    rest = spelling.remarks(entry)
    return f"{entry.dtype} {spelling.shape(entry.shape)}, {spelling.standing(entry)}{f', {rest}' if rest else ''}"


def _biggest(facts: Summary, rows: Mapping[str, int]) -> Iterator[str]:
    total = sum(entry.nbytes for entry in facts.entries.values())
    if len(facts.entries) <= _BIGGEST or not total:
        return
    first = sorted(facts.entries.items(), key=lambda item: (-item[1].nbytes, item[0]))[:_BIGGEST]
    yield '<section aria-labelledby="biggest"><h2 id="biggest">The biggest</h2><ol class="biggest">'
    for key, entry in first:
        yield (
            f'<li><a href="#e{rows.get(key, 0)}">{name(key)}</a><span class="shape">{spelling.shape(entry.shape)}</span>'
            f"{parts.share(entry.nbytes / total)}"
            f'<span class="percent">{escape(spelling.share(entry.nbytes / total))}</span></li>'
        )
    yield "</ol></section>"


def _layers(kinds: Iterable[str]) -> Iterator[str]:
    counts = Counter(kinds)
    if counts:
        yield '<section aria-labelledby="layers"><h2 id="layers">Layers</h2><ul class="chips">'
        for kind, number in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            yield f"<li><b>{spelling.number(number)}</b> {escape(kind)}</li>"
        yield "</ul></section>"


def _search(facts: Summary, dtypes: list[str]) -> Iterator[str]:
    yield '<section id="tree" aria-labelledby="tree-title"><div class="bar"><h2 id="tree-title">What is in it</h2></div>'
    present = {spelling.standing(entry) for entry in facts.entries.values()}
    kinds = [(kind, kind) for kind, _ in KINDS if kind in present]
    yield from parts.search({"kind": kinds, "dtype": [(dtype, dtype) for dtype in dtypes]})


def _about(facts: Summary, read: int | None, listing: _Tree) -> Iterator[str]:
    lines = []
    if facts.inferred:
        which = "Kinds are" if facts.inferred == len(facts.entries) else f"{spelling.number(facts.inferred)} kinds are"
        lines.append(f"{which} inferred from names: the file does not say what is a parameter.")
    if read is None:
        lines.append("Values were not read.")
    elif listing.drawn < read:
        lines.append(f"The {spelling.number(listing.drawn)} largest arrays are shown with their values.")
    if listing.left:
        lines.append(f"{spelling.plural(listing.left, 'line')} of the tree are left out: the search has every entry.")
    yield from (f'<p class="note">{escape(line)}</p>' for line in lines)
    if facts.aliases:
        yield f"<details><summary>{spelling.plural(len(facts.aliases), 'second name')} of tied places</summary><ul>"
        for alias, key in list(facts.aliases.items())[:LINES]:
            yield f"<li>{name(alias)} is {name(key)}</li>"
        yield "</ul></details>"
    yield "</section>"


def _data(facts: Summary, rows: Mapping[str, int]) -> dict[str, Any]:
    columns = ("key", "shape", "dtype", "kind", "elements", "bytes", "line")
    entries = [
        [
            spelling.printable(key), spelling.shape(entry.shape), entry.dtype, spelling.standing(entry), entry.size,
            entry.nbytes, f"e{rows[key]}" if key in rows else "",
        ]
        for key, entry in facts.entries.items()
    ]  # fmt: skip
    return {"columns": columns, "entries": entries}


@final
class _Tree:
    """The folded tree as nested lists; `rows` says on which line every entry is."""

    def __init__(self, facts: Summary, profiles: Mapping[str, Profile]) -> None:
        self.rows: dict[str, int] = {}
        self.drawn = 0
        self.left = 0
        self._profiles = profiles
        self._total = sum(entry.nbytes for entry in facts.entries.values()) or 1
        self._entries = facts.entries
        self._branches = facts.branches
        self._pictured = frozenset(largest(facts)) & profiles.keys()
        self._line = 0
        self._open = _opened(self._branches)

    def lines(self) -> Iterator[str]:
        """All of it."""
        heads = ("name", "shape", "dtype", "kind", "elements", "bytes")
        yield '<div class="tree" id="lines"><div class="row heads" aria-hidden="true">'
        yield "".join(f'<span class="{head}">{head}</span>' for head in heads)
        yield "</div>"
        yield from self._list(self._branches, 0)
        yield "</div>"

    def _list(self, branches: Iterable[Branch], level: int) -> Iterator[str]:
        yield '<ul role="list">'
        for branch in branches:
            if self._line >= LINES:
                self._leave(branch)
                continue
            number, self._line = self._line, self._line + 1
            if branch.entry is None:
                opened = " open" if level < self._open else ""
                yield f'<li><details id="e{number}"{opened}><summary>{self._row(branch, level)}</summary>'
                yield from self._list(branch.children, level + 1)
                yield "</details></li>"
            else:
                self.rows.update(dict.fromkeys(branch.keys, number))
                yield from self._leaf(branch, level, number)
        yield "</ul>"

    def _leave(self, branch: Branch) -> None:
        self.left += 1
        for child in branch.children:
            self._leave(child)

    def _leaf(self, branch: Branch, level: int, number: int) -> Iterator[str]:
        pictured = [key for key in branch.keys if key in self._pictured]
        if not pictured and len(branch.keys) == 1:
            yield f'<li class="leaf" id="e{number}">{self._row(branch, level)}</li>'
            return
        yield f'<li class="leaf"><details id="e{number}"><summary>{self._row(branch, level)}</summary>'
        yield from self._members(branch, pictured)
        yield "</details></li>"

    def _row(self, branch: Branch, level: int) -> str:
        entry = branch.entry
        times = f' <span class="times">&times;{branch.times}</span>' if branch.times > 1 else ""
        slash = "" if entry is not None else '<span class="slash">/</span>'
        cells = [f'<span class="name l{min(level, 12)}">{name(branch.name)}{slash}{times}</span>']
        if entry is None:
            cells.append(
                f'<span class="shape"></span><span class="dtype"></span><span class="kind">'
                f"{spelling.plural(branch.tensors, 'entry')}</span>"
            )
        else:
            standing = spelling.standing(entry)
            rest = spelling.remarks(entry)
            cells.append(
                f'<span class="shape">{spelling.shape(branch.sizes)}</span><span class="dtype">{escape(entry.dtype)}</span>'
                f'<span class="kind {standing}">{standing}{f", {rest}" if rest else ""}</span>'
            )
        part = parts.share(branch.nbytes / self._total)
        cells.append(
            f'<span class="elements">{spelling.number(branch.elements)}<span class="hidden"> elements</span></span>'
            f'<span class="bytes">{part}{spelling.size(branch.nbytes)}</span>'
        )
        return f'<span class="row">{"".join(cells)}</span>'

    def _members(self, branch: Branch, pictured: list[str]) -> Iterator[str]:
        if not pictured:
            shown = branch.keys[:LINES]
            more = len(branch.keys) - len(shown)
            yield f'<ul class="members">{"".join(f"<li>{name(key)}</li>" for key in shown)}</ul>'
            yield f'<p class="note">and {spelling.number(more)} more</p>' if more else ""
            return
        self.drawn += len(pictured)
        axes = max((len(self._profiles[key].axes) for key in pictured), default=0)
        label = f"Values of {spelling.printable(branch.name)}"
        yield f'<div class="wide" tabindex="0" role="group" aria-label="{escape(label)}"><table class="values">'
        yield f'<caption class="hidden">{escape(label)}</caption><thead><tr><th scope="col">key</th><th scope="col">values</th>'
        for head in ("min", "max", "mean", "std", "zero", "NaN", "inf"):
            yield f'<th scope="col" class="n">{head}</th>'
        yield "".join(f'<th scope="col">size along axis {number}</th>' for number in range(axes))
        yield "</tr></thead><tbody>"
        for key in pictured:
            yield self._member(key, axes)
        yield "</tbody></table></div>"
        if len(pictured) < len(branch.keys):
            yield f'<p class="note">and {spelling.number(len(branch.keys) - len(pictured))} more, smaller</p>'

    def _member(self, key: str, axes: int) -> str:
        profile = self._profiles[key]
        found = profile.statistics
        cells = [
            f'<th scope="row">{name(key)}<span class="shape">{spelling.shape(self._entries[key].shape)}</span></th>'
        ]
        cells.append(f"<td>{sparks.histogram(profile)}</td>")
        told = [values.number(value) for value in (found.least, found.largest, found.mean, found.std)]
        told += [spelling.number(count) if count else "" for count in (found.zero, found.nan, found.infinite)]
        cells += [f'<td class="n">{text}</td>' for text in told]
        for number in range(axes):
            axis = profile.axes[number] if number < len(profile.axes) else None
            if axis is None:
                cells.append("<td></td>")
                continue
            words = f"{spelling.number(axis.length)}: {values.number(min(axis.low))} to {values.number(max(axis.high))}"
            words += f", {spelling.number(axis.zero)} zero" if axis.zero else ""
            cells.append(f'<td class="along">{sparks.slices(axis)}<span>{escape(words)}</span></td>')
        return f"<tr>{''.join(cells)}</tr>"


def _opened(branches: Iterable[Branch]) -> int:
    """How many levels are open at first: as many as make a page that can be taken in."""
    level, depth, lines = list(branches), 0, 0
    while level and lines + len(level) <= _OPEN:
        lines += len(level)
        level = [child for branch in level for child in branch.children]
        depth += 1
    return max(depth - 1, 0) if level else depth
