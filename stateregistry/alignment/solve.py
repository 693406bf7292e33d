"""Solve: pair the units of two scopes by what they hold, from the largest containers down to single units.

Containers of one signature that both sides have equally often are tied and solved on their own; what is left is paired by
colour, each pair an anchor for the next. Linear in practice: work is counted, and past `BOUND` what is not decided yet
is a question. Never exponential: nothing is tried and taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from stateregistry.alignment.colours import NORMS, Colour
from stateregistry.alignment.containers import Item, Palette, Signature, Tied, containers, item_of, listed_alike
from stateregistry.alignment.evidence.population import Around, Population
from stateregistry.alignment.lexicon import similarity
from stateregistry.alignment.model import Grade, Pair, Question, Result, Unit, View, worse
from stateregistry.alignment.spelling import Tokens, tokens
from stateregistry.alignment.ties import tie

#: Steps for each unit of both sides; a step is one unit looked at in one scope, or one pair compared.
BOUND: Final = 4000
_SMALL: Final = 4
#: More rules than this in one scope are no neighbours of anything in it.
_ANCHORS: Final = 64
_ELSEWHERE: Final = 0.5


Stems = tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]


Classes = dict[Colour, tuple[list[Item], list[Item]]]

#: Containers of one signature, as many on both sides, and how sure it is that what they hold belongs together.
_Group = tuple[list[Item], list[Item], Grade]


def _anchors(pairs: Sequence[Pair]) -> dict[Tokens, list[tuple[Tokens, Unit, Unit]]]:
    """What is paired already, by every container of the source around it, in the source's own spelling."""
    found: dict[Tokens, list[tuple[Tokens, Unit, Unit]]] = {}
    for pair in pairs:
        path = tokens(pair.source.path)
        for depth in range(len(path)):
            found.setdefault(path[:depth], []).append((path, pair.source, pair.target))
    return found


@final
class Solver:
    """One search.

    Args:
        source, target: the sides, settled.
        result: where pairs and questions go.
    """

    def __init__(self, source: View, target: View, result: Result) -> None:
        self.source, self.target, self.result = source, target, result
        self._palette = Palette()
        self._anchored = _anchors(result.pairs)
        self._steps = BOUND * (len(source.units) + len(target.units)) + 100_000

    def _within(self, one: Tokens, two: Tokens) -> list[Tied]:
        """What was paired before, by rules or by names, inside two containers."""
        found = self._anchored.get(one, ())
        if len(found) > _ANCHORS:
            return []  # so many are beside everything
        return [
            Tied(
                Item([mine], path[len(one) :], single=True, depth=len(one)),
                item_of(its, len(two)),
                "a rename rule",
            )
            for path, mine, its in found
            if its.tokens[: len(two)] == two
        ]  # fmt: skip

    def _spend(self, steps: int) -> bool:
        self._steps -= steps
        return self._steps >= 0

    def solve(
        self,
        sources: Sequence[Unit],
        targets: Sequence[Unit],
        depths: tuple[int, int] = (0, 0),
        grade: Grade = "certain",
        evidence: tuple[str, ...] = (),
        stems: Stems = (),
    ) -> None:
        """Pair the units of one scope.

        Args:
            sources, targets: the units. depths: how many tokens of their paths name the scope.
            grade, evidence: of the scope. stems: the names by whose numbers it was paired.
        """
        if not sources or not targets:
            self._leave(sources, targets)
            return
        if not self._spend(len(sources) + len(targets)):
            self._ask(sources, targets, "the search was stopped at its bound")
            return
        decided = self._within(sources[0].tokens[: depths[0]], targets[0].tokens[: depths[1]])
        covered: set[int] = set()
        scope = grade, evidence, stems
        open_ = []
        for group in self._repeated(sources, targets, depths, covered):
            left = self._containers(group, depths, scope, decided)
            open_ += [(left, len(decided))] if left is not None else []
        one, two = ([u for u in side if id(u) not in covered] for side in (sources, targets))
        self._singles(one, two, depths, scope, decided)
        for (xs, ys, sure, why), known in open_:
            left = xs, ys, sure, why
            if len(decided) > known:  # what stands beside them may have been decided since
                left = self._containers((xs, ys, sure), depths, scope, decided)
            if left is not None:
                mine, its = ([unit for item in items for unit in item.units] for items in left[:2])
                self._ask(mine, its, left[3])

    def _containers(
        self, group: _Group, depths: tuple[int, int], scope: tuple[Grade, tuple[str, ...], Stems], decided: list[Tied]
    ) -> tuple[list[Item], list[Item], Grade, str] | None:
        """Tie containers of one signature, and pair what they hold; what is open then, and why. Adds to `decided`."""
        xs, ys, sure = group
        grade, evidence, stems = scope
        if not self._spend(len(xs) * min(len(ys), 64)):
            return xs, ys, sure, "the search was stopped at its bound"
        made = tie(xs, ys, Around(decided, self.source, self.target))
        decided += made.pairs
        for pair in made.pairs:
            below = (depths[0] + len(pair.source.path), depths[1] + len(pair.target.path))
            text = evidence if len(xs) == 1 else (*evidence, f"container {pair.evidence}")
            counted = (*stems, (pair.source.counts, pair.target.counts)) if pair.counted else stems
            doubt = worse(worse(grade, pair.grade), sure)
            self.solve(pair.source.units, pair.target.units, below, doubt, text, counted)
        done = {id(item) for pair in made.pairs for item in (pair.source, pair.target)}
        left = [x for x in xs if id(x) not in done], [y for y in ys if id(y) not in done]
        return (*left, sure, made.why) if left[0] else None

    # ---------------------------------------------------------------- containers

    def _repeated(
        self, sources: Sequence[Unit], targets: Sequence[Unit], depths: tuple[int, int], covered: set[int]
    ) -> list[_Group]:
        """Groups of containers that both sides have equally often, largest first, without overlap. Fills `covered`.

        With how sure it is that what they hold belongs together on both sides.
        """
        sides = []
        for units, depth in ((sources, depths[0]), (targets, depths[1])):
            groups: dict[Signature, list[Item]] = {}
            for item in containers(units, depth):
                groups.setdefault(self._palette.signature(item.units), []).append(item)
            sides.append(groups)
        shared = [signature for signature in sides[0] if signature in sides[1]]
        shared.sort(key=lambda signature: -sum(count for _, count in signature))
        found: list[_Group] = []
        for signature in shared:
            xs, ys = (
                [item for item in groups[signature] if not any(id(unit) in covered for unit in item.units)]
                for groups in sides
            )
            if not xs or len(xs) != len(ys) or self._elsewhere(xs, ys, sides, covered):
                continue
            sure = self._together(signature, (xs, ys), (sources, targets), covered)
            if sure == "question":
                continue
            covered.update(id(unit) for item in (*xs, *ys) for unit in item.units)
            found.append((xs, ys, sure))
        return found

    def _together(
        self,
        signature: Signature,
        items: tuple[list[Item], list[Item]],
        units: tuple[Sequence[Unit], Sequence[Unit]],
        covered: set[int],
    ) -> Grade:
        """How sure it is that containers hold the same: small ones may hold this or that of what is also beside them."""
        if sum(count for _, count in signature) >= _SMALL:
            return "certain"
        outside = {colour for side in (0, 1) for colour in self._outside(signature, items[side], units[side], covered)}
        if not outside:
            return "certain"
        if outside >= {number for number, _ in signature}:
            return "question"
        return listed_alike(*items, self.source, self.target)

    def _outside(
        self, signature: Signature, items: Sequence[Item], units: Sequence[Unit], covered: set[int]
    ) -> set[int]:
        """The colours of small containers that also occur beside them."""
        colours = {number for number, _ in signature}
        inside = {id(unit) for item in items for unit in item.units}
        return colours & {
            self._palette.of(unit.colour) for unit in units if id(unit) not in inside and id(unit) not in covered
        }

    def _elsewhere(
        self, xs: Sequence[Item], ys: Sequence[Item], sides: Sequence[dict[Signature, list[Item]]], covered: set[int]
    ) -> bool:
        """Whether the words of a lone container point to another one than that which holds the same."""
        if len(xs) > 1:
            return False
        x, y = xs[0], ys[0]
        if not x.words or not y.words or x.words & y.words:
            return False
        others = (
            (y, [item for items in sides[0].values() for item in items if item is not x]),
            (x, [item for items in sides[1].values() for item in items if item is not y]),
        )
        return any(
            similarity(mine.words, item.words) >= _ELSEWHERE and len(item.path) == len(mine.path)
            for mine, items in others
            if len(items) <= 200  # in a scope of more, a word is no hint
            for item in items
        )

    # ---------------------------------------------------------------- units

    def _singles(
        self,
        sources: Sequence[Unit],
        targets: Sequence[Unit],
        depths: tuple[int, int],
        scope: tuple[Grade, tuple[str, ...], Stems],
        anchors: list[Tied],
    ) -> None:
        classes: Classes = {}
        for side, units in enumerate((sources, targets)):
            for unit in units:
                classes.setdefault(unit.colour, ([], []))[side].append(item_of(unit, depths[side]))
        population = Population(
            ([x for xs, _ in classes.values() for x in xs], [y for _, ys in classes.values() for y in ys])
        )
        whys: dict[Colour, str] = {}
        parts: dict[Colour, list[tuple[list[Item], list[Item]]]] = {}
        progress, last = True, False
        while progress or not last:
            progress, last = False, not progress  # what is weak is asked when nothing else says anything
            # Norms after what they belong to: their numbers say less than that.
            for colour in sorted(classes, key=lambda colour: (colour[0] in NORMS, len(classes[colour][0]))):
                xs, ys = classes[colour]
                if not xs or len(xs) != len(ys):
                    continue
                if not self._spend(min(len(xs), 64) * len(ys)):
                    whys[colour] = "the search was stopped at its bound"
                    continue
                made = tie(xs, ys, Around(anchors, self.source, self.target, population, last))
                whys[colour], parts[colour] = made.why, made.parts
                progress |= bool(made.pairs)
                anchors += made.pairs
                for pair in made.pairs:
                    self._pair(pair, *scope)
                done = {id(item) for pair in made.pairs for item in (pair.source, pair.target)}
                classes[colour] = ([x for x in xs if id(x) not in done], [y for y in ys if id(y) not in done])
        for colour, (xs, ys) in classes.items():
            one, two = [x.units[0] for x in xs], [y.units[0] for y in ys]
            if one and two and sum(len(part[0]) for part in parts.get(colour, ())) == len(one) == len(two):
                for some, others in parts[colour]:
                    self._ask([x.units[0] for x in some], [y.units[0] for y in others], whys[colour])
            elif one and two:
                counts = f"{len(one)} in the source and {len(two)} in the target"
                self._ask(one, two, whys.get(colour) or counts)
            else:
                self._leave(one, two)

    def _pair(self, pair: Tied, grade: Grade, evidence: tuple[str, ...], stems: Stems) -> None:
        counted = (*stems, (pair.source.counts, pair.target.counts)) if pair.counted else stems
        one, two = pair.source.units[0], pair.target.units[0]
        made = Pair(one, two, [*evidence, pair.evidence], worse(grade, pair.grade), counted, leaf=pair.leaf)
        self.result.pairs.append(made)

    def _ask(self, sources: Sequence[Unit], targets: Sequence[Unit], why: str) -> None:
        self.result.questions.append(Question(list(sources), list(targets), why))

    def _leave(self, sources: Sequence[Unit], targets: Sequence[Unit]) -> None:
        self.result.left[0].extend(sources)
        self.result.left[1].extend(targets)
