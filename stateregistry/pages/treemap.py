"""Treemaps: areas by size, squarified, as SVG with links; containers in containers, and a map of its own for each large one.

Bounded whatever the input is: what would be too small to see stands together as one cell that says how many it is. A map is
chosen by its fragment (`#map-3`), so that zooming needs no script and the way back is the browser's. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, final

from stateregistry.pages.markup import escape
from stateregistry.report import spelling

WIDTH: Final = 1180.0
HEIGHT: Final = 540.0
#: Maps of one page, and cells of one map.
MAPS: Final = 24
CELLS: Final = 420
#: Pixels of the heading of a container, and of the gap between its cells.
_HEAD: Final = 19.0
_GAP: Final = 2.0
_LETTER: Final = 7.3
#: The share from which on one child stands for its container.
_NEARLY: Final = 0.93


@final
@dataclass(frozen=True, slots=True)
class Leaf:
    """One array.

    Attributes:
        key: its key, by which it lies in containers. weight: its area.
        href: where its link leads. classes: how it is coloured. title: what it is, one line.
    """

    key: str
    weight: float
    href: str
    classes: str
    title: str


@final
@dataclass(slots=True)
class Node:
    """A container, or an array. `number` is that of its map, where it has one; `classes` are those that all in it have."""

    name: str
    path: str
    weight: float = 0.0
    count: int = 0
    leaf: Leaf | None = None
    children: list[Node] = field(default_factory=list)
    number: int | None = None
    classes: frozenset[str] = frozenset()

    @property
    def chief(self) -> Node | None:
        """The child that is nearly all of it, if one is."""
        first = self.children[0] if self.children else None
        return first if first is not None and first.weight >= _NEARLY * self.weight else None


Box = tuple[float, float, float, float]


def tree(leaves: Sequence[Leaf], /) -> Node:
    """The containers of some arrays, the largest child first; a chain of containers is one."""
    root = Node("", "")
    homes: dict[str, Node] = {"": root}
    for leaf in leaves:
        parent = _home(homes, leaf.key.rpartition("/")[0])
        parent.children.append(
            Node(leaf.key.rpartition("/")[2], leaf.key, leaf.weight, 1, leaf, classes=frozenset(leaf.classes.split()))
        )
    # Parents are made before their children: backwards, every child is complete when it is added.
    for path in reversed(homes):
        node = homes[path]
        node.weight, node.count = sum(c.weight for c in node.children), sum(c.count for c in node.children)
        drawn = [c.classes for c in node.children if c.weight > 0] or [frozenset()]
        node.classes = frozenset.intersection(*drawn)
        node.children.sort(key=lambda c: (-c.weight, c.path))
        if len(node.children) == 1 and path and node.children[0].leaf is None:
            only = node.children[0]
            node.name, node.path, node.children = f"{node.name}/{only.name}", only.path, only.children
    return root


def _home(homes: dict[str, Node], path: str) -> Node:
    missing = []
    while path not in homes:
        missing.append(path)
        path = path.rpartition("/")[0]
    node = homes[path]
    for one in reversed(missing):
        homes[one] = Node(one.rpartition("/")[2], one)
        node.children.append(homes[one])
        node = homes[one]
    return node


def maps(leaves: Sequence[Leaf], what: str, /) -> Iterator[str]:
    """The map of all arrays, then those of the largest containers, each a figure of which the page shows one."""
    root = tree(leaves)
    root.number = 0
    chosen, at = [root], 0
    parents: dict[int, Node] = {}
    while at < len(chosen) and len(chosen) < MAPS:  # breadth first: the largest containers, then what is in them
        below = [child for child in chosen[at].children if child.leaf is None and len(child.children) > 1]
        for child in below[: MAPS - len(chosen)]:
            child.number = len(chosen)
            parents[child.number] = chosen[at]
            chosen.append(child)
        at += 1
    for node in chosen:
        yield from _figure(node, parents, root, what)


def _figure(node: Node, parents: dict[int, Node], root: Node, what: str) -> Iterator[str]:
    assert node.number is not None
    inside = f"inside {escape(node.path)}" if node.path else "of everything"
    yield f'<figure class="map{"" if node.number else " root"}" id="map-{node.number}">'
    if node.number:
        trail = [node]
        while trail[0].number:
            trail.insert(0, parents[trail[0].number])
        links = " ".join(
            f'<a href="#map-{one.number}">{escape(one.path.rpartition("/")[2]) if one.path else "everything"}</a>'
            for one in trail[:-1]
        )
        share = spelling.share(node.weight / root.weight) if root.weight else ""
        yield (
            f'<nav class="trail" aria-label="Out of the zoom">{links} <b><bdi>{escape(node.path)}</bdi></b> '
            f"<span>{spelling.plural(node.count, 'entry')}, {escape(share)}</span></nav>"
        )
    yield (
        f'<svg class="cells" width="100%" height="{HEIGHT:.0f}" role="group" aria-label="Map {inside}: {escape(what)}">'
    )
    canvas = _Canvas(HEIGHT * WIDTH / CELLS)
    canvas.inside(node, (0.0, 0.0, WIDTH, HEIGHT))
    yield from canvas.parts
    yield "</svg></figure>"


@final
class _Canvas:
    """The cells of one map."""

    def __init__(self, least: float) -> None:
        self.least = least  # of a cell, in square pixels
        self.parts: list[str] = []

    def inside(self, node: Node, box: Box, name: str = "") -> None:
        """Draw what is in a container into a box; `name` is what its chief is called besides its own name."""
        _, _, width, height = box
        visible = [child for child in node.children if child.weight > 0]
        total = sum(child.weight for child in visible)
        if not total:
            return
        scale = width * height / total
        shown = [child for child in visible if child.weight * scale >= self.least]
        rest = visible[len(shown) :]
        if len(rest) == 1 or not shown:
            shown, rest = [*shown, *rest[:1]], rest[1:]
        weights = [child.weight for child in shown] + ([sum(c.weight for c in rest)] if rest else [])
        for place, area in enumerate(squarified(weights, box)):
            if place == len(shown):
                self.rest(rest, area)
                continue
            label = f"{name}/{shown[place].name}" if name and not place else shown[place].name
            if shown[place].leaf is not None:
                self.cell(shown[place], area, label)
            else:
                self.container(shown[place], area, label)

    def container(self, node: Node, box: Box, label: str) -> None:
        x, y, width, height = box
        if node.chief is not None and (node.number is None or node.chief.leaf is not None):
            self.inside(node, box, label)
            return
        if width < 46 or height < 40 or width * height < 6 * self.least:
            if width * height >= 3 * self.least:
                self.inside(node, box)
            else:
                self.rest([node], box)
            return
        x, y, width, height = _inset(box)
        count = spelling.plural(node.count, "entry")
        title = f"{node.path}, {count}, {spelling.size(int(node.weight))}"
        # Its heading is the link: what is inside has links of its own.
        text = self.text(x + 6, y + 13.5, _fitted(label, width - 12), "head", width)
        face = self.rect(x, y, width, _HEAD, "")
        if node.number is not None:
            self.parts.append(
                f'<a class="group zoom" href="#map-{node.number}"><title>Zoom into {escape(title)}</title>{face}{text}</a>'
            )
        else:
            self.parts.append(f'<g class="group"><title>{escape(title)}</title>{face}{text}</g>')
        self.inside(node, (x, y + _HEAD, width, height - _HEAD))

    def cell(self, node: Node, box: Box, label: str) -> None:
        assert node.leaf is not None
        leaf = node.leaf
        x, y, width, height = _inset(box)
        face = self.rect(x, y, width, height, "f")
        if "buffer" in leaf.classes.split():
            face += self.rect(x, y, width, height, "hatch")
        text = ""
        if width >= 34 and height >= 16:
            text = self.text(x + 6, y + 14, _fitted(label, width - 10), "", width)
            if height >= 34 and width >= 60:
                text += self.text(x + 6, y + 29, _fitted(spelling.size(int(leaf.weight)), width - 10), "small", width)
        self.parts.append(
            f'<a class="cell {leaf.classes}" href="{leaf.href}"><title>{escape(leaf.title)}</title>{face}{text}</a>'
        )

    def rest(self, nodes: Sequence[Node], box: Box) -> None:
        x, y, width, height = _inset(box)
        count = sum(node.count for node in nodes)
        title = f"{spelling.plural(count, 'entry')} too small for this map"
        label = f"{spelling.number(count)} more"
        classes = " ".join(sorted(frozenset.intersection(*(node.classes for node in nodes))))
        if len(nodes) == 1 and nodes[0].path:
            title = f"{nodes[0].path}, {spelling.plural(count, 'entry')}"
            label = nodes[0].name
        href = next((f"#map-{node.number}" for node in nodes if len(nodes) == 1 and node.number is not None), "")
        text = ""
        if width >= 44 and height >= 16:
            text = self.text(x + 6, y + 14, _fitted(label, width - 10), "", width)
        face = f"<title>{escape(title)}</title>{self.rect(x, y, width, height, 'f')}{text}"
        self.parts.append(
            f'<a class="rest {classes}" href="{href}">{face}</a>' if href else f'<g class="rest {classes}">{face}</g>'
        )

    @staticmethod
    def rect(x: float, y: float, width: float, height: float, cls: str) -> str:
        kind = f' class="{cls}"' if cls else ""
        return (
            f'<rect{kind} x="{_percent(x)}" y="{y:.1f}" width="{_percent(max(width, 1))}" '
            f'height="{max(height, 1):.1f}"/>'
        )

    @staticmethod
    def text(x: float, y: float, label: str, cls: str, width: float) -> str:
        # On a narrow page cells keep their height and lose width: labels of narrow ones go first.
        size = "n1" if width < 110 else "n2" if width < 260 else ""
        classes = " ".join(part for part in (cls, size) if part)
        kind = f' class="{classes}"' if classes else ""
        return f'<text{kind} x="{_percent(x)}" y="{y:.1f}">{escape(label)}</text>' if label else ""


def _percent(x: float) -> str:
    return f"{100 * x / WIDTH:.2f}%"


def _inset(box: Box) -> Box:
    x, y, width, height = box
    gap = min(_GAP, width / 4, height / 4)
    return x + gap / 2, y + gap / 2, width - gap, height - gap


def _fitted(label: str, room: float) -> str:
    """As much of a label as there is room for: the beginning of a path, the end of a name, where neighbours differ."""
    label = spelling.printable(label)[:400]
    letters = int(room / _LETTER)
    if _wide(label) <= letters:
        return label
    if letters < 3:
        return ""
    front = "/" in label
    while label and _wide(label) > letters - 1:
        label = label[:-1] if front else label[1:]
    return f"{label.rstrip('/')}…" if front else f"…{label}"


def _wide(text: str) -> int:
    import unicodedata

    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def squarified(weights: Sequence[float], box: Box, /) -> Iterator[Box]:
    """Boxes with areas in proportion to the weights, which sink, as square as can be (Bruls, Huizing and van Wijk)."""
    x, y, width, height = box
    rest = sum(weights)
    scale = width * height / rest if rest else 0.0
    at = 0
    while at < len(weights):
        side = min(width, height)
        row, total = [weights[at] * scale], weights[at] * scale
        while at + len(row) < len(weights):
            more = weights[at + len(row)] * scale
            if _worst(row, total, side) < _worst([*row[:1], more], total + more, side):
                break
            row.append(more)
            total += more
        depth = min(total / side, max(width, height)) if side else 0.0
        along = 0.0
        for area in row:
            length = min(area / depth, max(side - along, 0.0)) if depth else 0.0
            yield (x, y + along, depth, length) if width >= height else (x + along, y, length, depth)
            along += length
        if width >= height:
            x, width = x + depth, max(width - depth, 0.0)
        else:
            y, height = y + depth, max(height - depth, 0.0)
        at += len(row)


def _worst(row: Sequence[float], total: float, side: float) -> float:
    """The worst ratio of the sides of a row: that of its largest or of its least."""
    if not total or not side:
        return float("inf")
    largest, least = row[0], row[-1]
    return max(
        side * side * largest / (total * total), total * total / (side * side * least) if least else float("inf")
    )
