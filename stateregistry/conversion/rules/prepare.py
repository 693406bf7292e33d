"""Rules made concrete: what counts is counted, what is split is split, before anything is paired.

A rename that counts becomes one rename per thing counted; a layer that a rule splits becomes one layer per part, called
`<path>#<part>`, and a rename to where the part goes. `reordered` rewrites the axes of a pair that a rule numbers in another
order. What is left are layers and renames as if the models had been written that way. Reads names and layers only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from stateregistry.conversion.planning.plan import PlanProblem
from stateregistry.conversion.rules.patterns import apply, filled, matches, names_in, prefix
from stateregistry.conversion.rules.rules import COUNT, Order, Rename, Rules, Split
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import Layer, Piece

if TYPE_CHECKING:
    from stateregistry.conversion.pairing.pairs import LayerPair
    from stateregistry.conversion.side import Side


@final
@dataclass(frozen=True, slots=True)
class Prepared:
    """Both sides and the rules, with nothing left to count or to split, and what was wrong with the rules."""

    source: Side
    target: Side | None
    rules: Rules
    problems: tuple[PlanProblem, ...] = ()


def prepared(source: Side, target: Side | None, rules: Rules) -> Prepared:
    """Make the rules concrete for two sides; `target` is `None` where it is still to be derived from the source."""
    if not (rules.splits or rules.joins or any(rename.counts for rename in rules.renames)):
        return Prepared(source, target, rules)
    renames: list[Rename] = []
    problems: list[PlanProblem] = []
    for rename in rules.renames:
        found = (
            _counted(rename, source.names, target.names if target is not None else ()) if rename.counts else [rename]
        )
        renames += found
        if not found:
            hint = "mend or delete the rule" if target is not None else "it needs a target to count"
            problems.append(PlanProblem("rule", (), f"rename {rename.source!r} matches nothing to count", hint))
    orders = list(rules.orders)
    here, there = list(source.layers), list(target.layers) if target is not None else []
    for split in rules.splits:
        cut = _Cut(split, here)
        here = cut.layers
        renames += [Rename(part, whole) for part, whole in cut.names]
        orders += [Order(split.axis, "", cut.whole, source=part) for part, _ in cut.names if cut.whole]
        problems += cut.problems
    for join in rules.joins:
        if target is None:
            text = f"the join into {join.target!r} needs a target: its layer is not there"
            problems.append(PlanProblem("rule", (), text, "pass a model, variables or a template as the target"))
            continue
        cut = _Cut(Split(join.target, join.axis, join.axes, join.sources), there)
        there = cut.layers
        renames += [Rename(whole, part) for part, whole in cut.names]
        orders += [Order(join.axis, cut.whole, "", target=part) for part, _ in cut.names if cut.whole]
        problems += cut.problems
    made = replace(rules, renames=tuple(renames), orders=tuple(orders), splits=(), joins=())
    return Prepared(
        replace(source, layers=tuple(here)),
        None if target is None else replace(target, layers=tuple(there)),
        made,
        tuple(problems),
    )


# -------------------------------------------------------------------- counting


def _counted(rename: Rename, source: Iterable[str], target: Iterable[str]) -> list[Rename]:
    """One rename for each thing that the other side of a counting rename matches, in the order of its numbers."""
    back = COUNT in names_in(rename.source)
    counting, pattern = (rename.source, rename.target) if back else (rename.target, rename.source)
    shared = names_in(counting) & names_in(pattern)
    over = frozenset(names_in(pattern) - shared)
    groups: dict[tuple[str, ...], dict[tuple[int, ...], tuple[str, dict[str, str]]]] = {}
    for key in target if back else source:
        hit = prefix(pattern, key, over)
        if hit is not None:
            values = hit[1]
            numbers = tuple(int(text) for name, text in values.items() if name in over)
            groups.setdefault(tuple(values[name] for name in sorted(shared)), {})[numbers] = hit
    found: list[Rename] = []
    for group in groups.values():
        for number, (_, (matched, values)) in enumerate(sorted(group.items())):
            name = filled(counting, {**values, COUNT: str(number)})
            if name is not None:
                found.append(Rename(name, matched) if back else Rename(matched, name))
    return found


# -------------------------------------------------------------------- splitting


class _Cut:
    """What a split makes of the layers of one side.

    Attributes:
        layers: all of them, the split ones in parts. names: path of every part, and the path it goes to.
        whole: what the axis of a part is on the other side, where that is more than the axis itself.
    """

    def __init__(self, split: Split, layers: Iterable[Layer]) -> None:
        (self.group,) = axes.parse(f"({split.axes})")
        self.layers: list[Layer] = []
        self.names: list[tuple[str, str]] = []
        self.problems: list[PlanProblem] = []
        atoms = [f"{atom.name}={atom.size}" if atom.size else atom.name for atom in self.group.atoms]
        self.whole = "" if atoms == [split.axis] else " ".join(atoms)
        met = False
        for layer in layers:
            if not matches(split.source, layer.path):
                self.layers.append(layer)
                continue
            met = True
            self._cut(split, layer)
        if not met:
            text = f"split {split.source!r}: there is no such layer"
            self.problems.append(
                PlanProblem("rule", (), text, "a layer is named by its path, without weight or kernel")
            )

    def _cut(self, split: Split, layer: Layer) -> None:
        whole = [piece for piece in layer.pieces if split.axis not in _undivided(piece)]
        if whole:
            text = f"split {split.source!r}: {whole[0].name} of the {layer.kind} has no axis {split.axis!r}"
            hint = f"its axes are {whole[0].axes!r}"
            self.problems.append(PlanProblem("rule", tuple(layer.roles.values()), text, hint))
            self.layers.append(layer)
            return
        base = layer.path if layer.base is None else layer.base
        for part, name in zip(self.group.parts, split.targets, strict=True):
            path = f"{layer.path}#{part}"
            pieces = tuple(
                replace(piece, axes=refined(piece.axes, split.axis, split.axes), part=part) for piece in layer.pieces
            )
            self.layers.append(replace(layer, path=path, pieces=pieces, base=base))
            self.names.append((path, str(apply(split.source, name, layer.path))))


def _undivided(piece: Piece) -> set[str]:
    """The axes of a piece that a rule may take apart: none where it holds several roles, or a part, already."""
    if axes.parts_of(piece.axes):
        return set()
    return {atom.name for group in axes.parse(piece.axes) for atom in group.atoms if not (atom.many or atom.reverse)}


def _whole_axes(piece: Piece) -> set[str]:
    """The axes of a piece whose members a rule may number in another order: also beside one that holds several roles."""
    groups = [group for group in axes.parse(piece.axes) if not group.parts]
    return {atom.name for group in groups for atom in group.atoms if not (atom.many or atom.reverse)}


def refined(pattern: str, axis: str, atoms: str) -> str:
    """A pattern with one of its axes taken apart."""
    words: list[str] = []
    inside = False
    for word in re.findall(r"[()]|[^\s()]+", pattern):
        inside = word == "(" or (inside and word != ")")
        words.append(word if word != axis else atoms if inside else f"({atoms})")
    return " ".join(words)


# -------------------------------------------------------------------- ordering


def reordered(pair: LayerPair, rules: Rules, wrong: Callable[[PlanProblem], None]) -> LayerPair:
    """A pair whose layers number an axis in the orders that the rules say. `wrong` is told what does not fit."""
    for order in rules.orders:
        sides = ((order.source, pair.source.path), (order.target, pair.target.path))
        if not all(matches(pattern, path) for pattern, path in sides if pattern):
            continue
        left, right = (
            _taken_apart(pair.source, order, order.source_axes),
            _taken_apart(pair.target, order, order.target_axes),
        )
        if left is None or right is None:
            layer = pair.source if left is None else pair.target
            text = f"order: the {layer.kind} {layer.path!r} has no axis {order.axis!r} to take apart"
            patterns = ", ".join(f"{piece.name}: {piece.axes}" for piece in layer.pieces)
            wrong(PlanProblem("rule", tuple(layer.roles.values()), text, f"its axes are {patterns}"))
            continue
        pair = replace(pair, source=left, target=right)
    return pair


def _taken_apart(layer: Layer, order: Order, atoms: str) -> Layer | None:
    """A layer whose pieces have the axis in parts, `None` where none of them has it."""
    if not atoms:
        return layer
    if not any(order.axis in _whole_axes(piece) for piece in layer.pieces):
        return None
    pieces = tuple(
        replace(piece, axes=refined(piece.axes, order.axis, atoms)) if order.axis in _whole_axes(piece) else piece
        for piece in layer.pieces
    )
    return replace(layer, pieces=pieces)


def unused_orders(rules: Rules, source: Iterable[Layer], target: Iterable[Layer]) -> list[str]:
    """Order rules that name no layer, spelled for people."""
    here, there = [layer.path for layer in source], [layer.path for layer in target]
    return [
        f"order {order.source or order.target!r}"
        for order in rules.orders
        if (order.source and not any(matches(order.source, path) for path in here))
        or (order.target and not any(matches(order.target, path) for path in there))
    ]
