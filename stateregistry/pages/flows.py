"""Flows: two trees side by side with the moves drawn between them, as one SVG.

Both trees are folded, to a depth at which they can be taken in; the target's containers stand in the order of what they are
made from, so that few lines cross. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, final

from stateregistry.pages.markup import escape
from stateregistry.report import spelling
from stateregistry.report.folding import Branch, fold

if TYPE_CHECKING:
    from stateregistry.entry import Entry

#: Lines of one side at most, where no depth makes fewer.
LINES: Final = 320
_ROW: Final = 23
_INDENT: Final = 15
#: Pixels of a side on a wide page, and of a letter.
_SIDE: Final = 400
_LETTER: Final = 7.6


@final
@dataclass(frozen=True, slots=True)
class Flow:
    """One move: source keys, the target key, how it is classed, and what it is, one line."""

    sources: tuple[str, ...]
    target: str
    classes: str
    title: str


@final
@dataclass(frozen=True, slots=True)
class _Line:
    label: str
    shape: str
    level: int
    standing: str
    bad: bool = False


@final
class _Side:
    """The lines of one tree, and the line of every key."""

    def __init__(self, branches: Iterable[Branch], depth: int, bad: frozenset[str]) -> None:
        self.lines: list[_Line] = []
        self.at: dict[str, int] = {}
        self.left = 0
        self._depth, self._bad = depth, bad
        for branch in branches:
            self._add(branch, 0)

    def _add(self, branch: Branch, level: int) -> None:
        if len(self.lines) >= LINES:
            self.left += 1
            return
        number = len(self.lines)
        times = f" x{branch.times}" if branch.times > 1 else ""
        if branch.entry is None:
            cut = level + 1 >= self._depth
            shape = spelling.plural(branch.tensors, "entry") if cut else ""
            keys = list(_keys(branch)) if cut else []
            self.lines.append(_Line(f"{branch.name}/{times}", shape, level, "", bool(self._bad.intersection(keys))))
            self.at.update(dict.fromkeys(keys, number))
            for child in () if cut else branch.children:
                self._add(child, level + 1)
            return
        bad = bool(self._bad.intersection(branch.keys))
        shape, standing = spelling.shape(branch.sizes), spelling.standing(branch.entry)
        self.lines.append(_Line(f"{branch.name}{times}", shape, level, standing, bad))
        self.at.update(dict.fromkeys(branch.keys, number))

    def besides(self, label: str) -> int:
        """The line of a place that is no entry, at the end."""
        for number, line in enumerate(self.lines):
            if line.label == label and line.standing == "none":
                return number
        self.lines.append(_Line(label, "", 0, "none"))
        return len(self.lines) - 1


def drawn(
    source: Mapping[str, Entry], target: Mapping[str, Entry], flows: Sequence[Flow], bad: frozenset[str]
) -> Iterator[str]:
    """The picture.

    Args:
        source, target: the entries of both sides. flows: the moves. bad: keys that a problem is about.
    """
    left_tree, right_tree = fold(source), fold(target)
    left = _side(left_tree, bad)
    means = {flow.target: _mean([left.at.get(key) for key in flow.sources]) for flow in flows if flow.target}
    right = _side(_sorted(right_tree, means), bad)
    lines: Counter[tuple[int, int, str]] = Counter()
    titles: dict[tuple[int, int, str], str] = {}
    for flow in flows:
        ones = [left.at[key] for key in flow.sources if key in left.at] or (
            [left.besides("the target's own value" if "keep" in flow.classes else "a constant")]
            if not flow.sources
            else []
        )
        if flow.target:
            others = [right.at[flow.target]] if flow.target in right.at else []
        else:
            others = [
                right.besides("no place: kept in the residual" if "kept" in flow.classes else "no place: left out")
            ]
        for one in dict.fromkeys(ones):
            for other in others:
                place = (one, other, flow.classes)
                lines[place] += 1
                titles.setdefault(place, flow.title)
    height = max(len(left.lines), len(right.lines), 1) * _ROW + 8
    moves, entries = spelling.plural(len(flows), "move"), spelling.plural(len(source), "entry")
    words = f"{moves} between {entries} and {len(target)}; the table below says the same"
    yield f'<svg class="flows" width="100%" height="{height}" role="img" aria-label="{escape(words)}">'
    yield from _column(left.lines, "0", end="36.5%")
    yield from _column(right.lines, "63.5%", end="100%")
    yield f'<svg x="37%" y="0" width="26%" height="{height}" viewBox="0 0 100 {height}" preserveAspectRatio="none">'
    for (one, other, classes), count in lines.items():
        y, z = _middle(one), _middle(other)
        title = titles[one, other, classes] + (f" and {count - 1} more" if count > 1 else "")
        yield (
            f'<g class="{classes}"><title>{escape(title)}</title>'
            f'<path class="flow {classes}" d="M0 {y:g}C48 {y:g} 52 {z:g} 100 {z:g}"/></g>'
        )
    yield "</svg></svg>"
    if left.left or right.left:
        yield f'<p class="note">{spelling.plural(left.left + right.left, "line")} are not drawn: the table has every move.</p>'


def _side(branches: Sequence[Branch], bad: frozenset[str]) -> _Side:
    """The tree at the greatest depth at which it is short enough."""
    depth, lines, level = 0, 0, list(branches)
    while level and lines + len(level) <= LINES:
        lines += len(level)
        level = [child for branch in level for child in branch.children]
        depth += 1
    return _Side(branches, max(depth, 1), bad)


def _sorted(branches: Iterable[Branch], means: Mapping[str, float]) -> list[Branch]:
    """The branches in the order of what they are made from, those that nothing flows to at the end."""

    def mean(branch: Branch) -> float:
        known = [means[key] for key in _keys(branch) if key in means]
        return sum(known) / len(known) if known else float("inf")

    inner = [replace(branch, children=tuple(_sorted(branch.children, means))) for branch in branches]
    return sorted(inner, key=mean)


def _keys(branch: Branch) -> Iterator[str]:
    yield from branch.keys
    for child in branch.children:
        yield from _keys(child)


def _mean(lines: Iterable[int | None]) -> float:
    known = [line for line in lines if line is not None]
    return sum(known) / len(known) if known else float("inf")


def _middle(line: int) -> float:
    return line * _ROW + _ROW / 2 + 2


def _column(lines: Sequence[_Line], x: str, end: str) -> Iterator[str]:
    yield f'<svg x="{x}" y="0" width="36.5%" height="{len(lines) * _ROW + 8}">'
    for number, line in enumerate(lines):
        y = number * _ROW + _ROW / 2 + 6
        indent = line.level * _INDENT + 14
        room = int((_SIDE - indent) / _LETTER) - len(line.shape) - 2
        label = spelling.printable(line.label)
        label = label if len(label) <= room else f"{label[: max(room - 1, 3)]}…"
        cls = "box" if not line.standing else "bad" if line.bad else ""
        kind = f' class="{cls}"' if cls else ""
        if line.standing and line.standing != "none":
            yield f'<rect class="mark {line.standing}" x="{indent - 13}" y="{y - 9:g}" width="8" height="8" rx="2"/>'
        yield f'<text{kind} x="{indent}" y="{y:g}">{escape(label)}</text>'
        if line.shape:
            yield f'<text class="end" x="98%" y="{y:g}" text-anchor="end">{escape(line.shape)}</text>'
    yield "</svg>"
