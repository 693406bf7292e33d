"""Ties: which of several items of one colour or signature is which.

Every piece of evidence gives some pairs; where two of them contradict, nothing is decided.

The evidence, in this order: config that the function depends on; the same name; words of one meaning; what the items stand
beside; numbers, where no order contradicts them; a habit; the one that is left. Vectors, and whatever is named before or after
something, are told by equal words alone. Never the order of declaration by itself.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, final

from stateregistry.alignment.analogy import as_counted
from stateregistry.alignment.colours import Colour
from stateregistry.alignment.containers import Item, Tied, in_order
from stateregistry.alignment.habits import Counts, Population, by_habit
from stateregistry.alignment.lexicon import SIDES, similarity
from stateregistry.alignment.model import Grade, View, is_automatic, worse
from stateregistry.alignment.parallel import in_parallel

#: Above this many candidates names are compared for equality alone: the work would grow with the square.
NAMES: Final = 64
#: Above this many candidates nothing is told by what stands beside it.
BESIDE: Final = 12
#: More norms than this are more than those of one block.
_NORMS: Final = 4
_LEAST: Final = 0.3
_MARGIN: Final = 0.25

#: Config that the function depends on and that every framework means alike.
_CONFIG: Final = ("stride", "dilation", "groups", "reverse", "heads", "kernel_size")


@final
@dataclass(slots=True)
class Tie:
    """What is decided of a class, and why the rest is not."""

    pairs: list[Tied] = field(default_factory=list)
    why: str = ""


_NOBODY: Final = Population()


def tie(
    xs: Sequence[Item],
    ys: Sequence[Item],
    anchors: Sequence[Tied],
    source: View,
    target: View,
    population: Population = _NOBODY,
) -> Tie:
    """Pair as many items as the evidence decides.

    Args:
        xs, ys: as many on both sides, all of one colour or signature.
        anchors: what is decided in the same scope.
        source, target: the sides.
        population: what else the scope holds.
    """
    if len(xs) == len(ys) == 1:
        return Tie([Tied(xs[0], ys[0], "the only one of its kind and size here")])
    parted = _by_config(xs, ys)
    if parted is not None:
        made = Tie()
        for evidence, some, others in parted:
            inner = tie(some, others, anchors, source, target, population)
            made.pairs += [
                Tied(one.source, one.target, f"{evidence}; {one.evidence}", one.grade, one.counted, one.leaf)
                for one in inner.pairs
            ]
            made.why = made.why or inner.why
        return made
    votes = _Votes(xs, ys)
    votes.add(_equal_names(xs, ys, source, target))
    votes.add(_by_words(xs, ys, source, target))
    if not votes.conflict and len(xs) <= NAMES:
        votes.add(_by_similarity(*votes.left()))
    if not votes.conflict and len(xs) <= BESIDE:
        votes.add(_beside(xs, ys, anchors, source, target))
    numbered, doubt = _by_numbers(xs, ys, source, target, population)
    if not votes.conflict and numbered:
        votes.add(numbered)
    if not votes.conflict and not numbered:
        numbered, doubt = _by_numbers(*votes.left(), source, target, population)
        left = votes.left()
        numbered = numbered or as_counted(*left, anchors) or in_parallel(*left, anchors)
        votes.add(
            numbered or _by_call(*left, source, target, population) or by_habit(*left, source, target, population)
        )
    if votes.conflict:
        return Tie([], votes.conflict)
    made = Tie(list(votes.pairs.values()))
    left = votes.left()
    if len(left[0]) == 1 and made.pairs:
        grade: Grade = "certain" if _may_be_left(left[0][0], left[1][0], made.pairs) else "assumption"
        for pair in made.pairs:  # it is no surer than those that it is left by
            grade = worse(grade, pair.grade)
        made.pairs.append(Tied(left[0][0], left[1][0], "the one that is left", grade))
    elif left[0]:
        made.why = doubt or "no name, number or neighbour tells them apart"
    return made


class _Votes:
    """Pairs by evidence, until two contradict."""

    def __init__(self, xs: Sequence[Item], ys: Sequence[Item]) -> None:
        self.xs, self.ys = xs, ys
        self.pairs: dict[int, Tied] = {}
        self.taken: dict[int, Tied] = {}
        self.conflict = ""

    def add(self, pairs: Iterable[Tied]) -> None:
        for pair in pairs:
            for known in (self.pairs.get(id(pair.source)), self.taken.get(id(pair.target))):
                if known is not None and (known.source is not pair.source or known.target is not pair.target):
                    self.conflict = self.conflict or (
                        f"{known.evidence} says {_name(known.source)} = {_name(known.target)}, "
                        f"{pair.evidence} says {_name(pair.source)} = {_name(pair.target)}"
                    )
                    return
            self.pairs.setdefault(id(pair.source), pair)
            self.taken.setdefault(id(pair.target), pair)

    def left(self) -> tuple[list[Item], list[Item]]:
        return [x for x in self.xs if id(x) not in self.pairs], [y for y in self.ys if id(y) not in self.taken]


def _name(item: Item) -> str:
    return (
        "/".join(f"{token.text}{'' if token.number is None else token.number}" for token in item.path) or "(the scope)"
    )


# -------------------------------------------------------------------- config


def _config(item: Item) -> tuple[Hashable, ...] | None:
    if not item.single:
        return None
    unit = item.units[0]
    layer = unit.layer
    if layer is None or not unit.typed:
        return None
    return tuple(layer.config.get(name) for name in _CONFIG)


def _by_config(xs: Sequence[Item], ys: Sequence[Item]) -> list[tuple[str, list[Item], list[Item]]] | None:
    """The class in parts of one config each, where both sides have the same parts."""
    left, right = [_config(x) for x in xs], [_config(y) for y in ys]
    if None in left or None in right:
        return None
    shared = [n for n in range(len(_CONFIG)) if all(c is not None and c[n] is not None for c in (*left, *right))]
    found: dict[tuple[Hashable, ...], tuple[list[Item], list[Item]]] = {}
    for side, items, configs in ((0, xs, left), (1, ys, right)):
        for item, config in zip(items, configs, strict=True):
            assert config is not None
            found.setdefault(tuple(config[n] for n in shared), ([], []))[side].append(item)
    if len(found) < 2 or any(len(a) != len(b) for a, b in found.values()):
        return None
    names = [_CONFIG[n] for n in shared]
    return [
        (", ".join(f"{name} {value}" for name, value in zip(names, config, strict=True)), a, b)
        for config, (a, b) in found.items()
    ]


# -------------------------------------------------------------------- names


def _once(items: Sequence[Item], key: Callable[[Item], Hashable]) -> dict[Hashable, Item]:
    counts = Counter(key(item) for item in items)
    return {key(item): item for item in items if counts[key(item)] == 1}


def _equal_names(xs: Sequence[Item], ys: Sequence[Item], source: View, target: View) -> list[Tied]:
    """The same path below the scope; with numbers, where both sides count the name from the same to the same, in order."""
    left, right = _once(xs, lambda item: item.same), _once(ys, lambda item: item.same)
    counts = [_counts(items, view) for items, view in ((xs, source), (ys, target))]
    return [
        Tied(item, right[name], "the same name")
        for name, item in left.items()
        if name in right
        and any(item.stems)
        and (not item.numbers or counts[0][item.stems] == counts[1][item.stems] != frozenset())
    ]


def _counts(items: Sequence[Item], view: View) -> dict[tuple[str, ...], frozenset[tuple[int, ...]]]:
    """The numbers that each name has; none where an order contradicts them."""
    found: dict[tuple[str, ...], list[Item]] = {}
    for item in items:
        found.setdefault(item.stems, []).append(item)
    return {
        stems: frozenset(item.numbers for item in several)
        if in_order(sorted(several, key=lambda item: item.numbers), view)
        else frozenset()
        for stems, several in found.items()
    }


def _telling(items: Sequence[Item]) -> list[frozenset[str]]:
    """The words of each that not all of them have."""
    common = frozenset.intersection(*(item.words for item in items))
    return [item.words - common for item in items]


def _strict(items: Sequence[Item], words: Sequence[frozenset[str]]) -> bool:
    return any(item.vector for item in items) or any(SIDES & one for one in words)


def _by_words(xs: Sequence[Item], ys: Sequence[Item], source: View, target: View) -> list[Tied]:
    """Words that some of both sides have split the class; what is alone in its part is paired."""
    left, right = _telling(xs), _telling(ys)
    if not (_strict(xs, left) or _strict(ys, right)):
        meet = frozenset().union(*left) & frozenset().union(*right)
        left, right = [words & meet for words in left], [words & meet for words in right]
    found: dict[frozenset[str], tuple[list[Item], list[Item]]] = {}
    for side, items, words in ((0, xs, left), (1, ys, right)):
        for item, each in zip(items, words, strict=True):
            found.setdefault(each, ([], []))[side].append(item)
    pairs: list[Tied] = []
    for shared, (some, others) in found.items():
        if not shared or len(some) != len(others) or len(some) == len(xs):
            continue
        evidence = f"the words {' '.join(sorted(shared))}"
        if len(some) == 1:
            pairs.append(Tied(some[0], others[0], evidence))
        elif (chain := _chain(some, others)) is not None:
            one, two = ([pair[side] for pair in chain] for side in (0, 1))
            if in_order(one, source) and in_order(two, target):
                pairs += _counted(chain, f"{evidence}, by number")
    return pairs


def _by_similarity(xs: Sequence[Item], ys: Sequence[Item]) -> list[Tied]:
    """Words in common, where each is the other's best by a margin."""
    if not xs or not ys:
        return []
    left, right = _telling(xs), _telling(ys)
    if _strict(xs, left) or _strict(ys, right):
        return []
    score = [[similarity(a, b) for b in right] for a in left]
    columns = list(zip(*score, strict=True))
    pairs = []
    for n, row in enumerate(score):
        best = max(range(len(row)), key=row.__getitem__)
        others = [*(v for m, v in enumerate(row) if m != best), *(v for m, v in enumerate(columns[best]) if m != n)]
        if row[best] >= _LEAST and row[best] - max(others, default=0.0) >= _MARGIN:
            shared = " ".join(sorted(left[n] & right[best]))
            pairs.append(Tied(xs[n], ys[best], f"the words {shared} in common"))
    return pairs


def _may_be_left(x: Item, y: Item, pairs: Sequence[Tied]) -> bool:
    """Whether the last two may be one although no evidence names them: their words do not point elsewhere."""
    others = [pair.target.words for pair in pairs], [pair.source.words for pair in pairs]
    common = frozenset.intersection(x.words, *others[1]), frozenset.intersection(y.words, *others[0])
    one, two = x.words - common[0], y.words - common[1]
    if not one or not two or one == two:
        return not any(one & other for other in others[0]) and not any(two & other for other in others[1])
    if not one & two:
        return False
    elsewhere = frozenset[str]().union(*others[0], *others[1])
    if one & two - elsewhere and all(pair.grade == "certain" for pair in pairs):
        return True  # only these two are said to be that
    if SIDES & (one ^ two):
        return False
    apart = one ^ two  # what only one of them says must be said of no other
    return not x.vector or not any(apart & other for side in others for other in side)


# -------------------------------------------------------------------- neighbours and numbers


Nearness = tuple[int, float, bool]


def _nearness(item: Item, anchor: Item, *, words: bool) -> Nearness:
    """How much of their path is the same, how many words, and whether their number is."""
    depth = 0
    for one, two in zip(item.same[:-1], anchor.same[:-1], strict=False):
        if one != two:
            break
        depth += 1
    shared = similarity(item.raw, anchor.raw) if words else 0.0
    # A number says something beside the same number only: further away, or in a list, it counts something else.
    siblings = item.same[:-1] == anchor.same[:-1] and bool(item.path) and bool(anchor.path)
    if siblings and item.path[-1].apart and anchor.path[-1].apart and item.path[-1].stem == anchor.path[-1].stem:
        return depth + 1, shared, False
    siblings = siblings and item.path[-1].apart is anchor.path[-1].apart
    return depth, shared, siblings and bool(item.numbers) and item.numbers == anchor.numbers


def _closest(items: Sequence[Item], anchor: Item, *, words: bool) -> tuple[Item, bool] | None:
    """The one strictly closest to an anchor, and whether by its container or by words: else it is by a number alone."""
    near = [_nearness(item, anchor, words=words) for item in items]
    scores = [depth + 0.5 * shared + 0.4 * number for depth, shared, number in near]
    best = max(scores)
    at = scores.index(best)
    if scores.count(best) > 1 or best <= 0:
        return None
    others = [one for n, one in enumerate(near) if n != at]
    depth, shared = max((one[0] for one in others), default=0), max((one[1] for one in others), default=0.0)
    return items[at], near[at][0] > depth or near[at][1] > shared  # what all of them share says nothing of one


def _beside(xs: Sequence[Item], ys: Sequence[Item], anchors: Sequence[Tied], source: View, target: View) -> list[Tied]:
    """What stands closest to a decided one on both sides, if all that are decided agree.

    Both have to be close in the same: a word that one shares with its neighbour says nothing of a number on the other side.
    A number that runs against the order of its side says nothing of a neighbour's.
    """
    found: dict[int, Tied] = {}
    taken: dict[int, Tied] = {}
    words = not any(item.words & SIDES for item in (*xs, *ys))
    for anchor in anchors:
        one, two = _closest(xs, anchor.source, words=words), _closest(ys, anchor.target, words=words)
        if one is None or two is None or one[1] is not two[1]:
            continue
        if not one[1] and _rank(one[0], xs) != _rank(two[0], ys):
            continue  # counted from elsewhere on one side: the same number is another one
        if not one[1] and not (_runs(one[0], xs, source) and _runs(two[0], ys, target)):
            continue
        x, y = one[0], two[0]
        made = Tied(x, y, f"beside {_name(anchor.source)} = {_name(anchor.target)}", anchor.grade)
        for known in (found.get(id(x)), taken.get(id(y))):
            if known is not None and (known.source is not x or known.target is not y):
                return []
        if id(x) not in found or anchor.grade == "certain":
            found[id(x)] = taken[id(y)] = made
    return list(found.values())


def _runs(item: Item, items: Sequence[Item], view: View) -> bool:
    """Whether those of the name of an item are declared or called in the order of their numbers."""
    return in_order(sorted((one for one in items if one.stems == item.stems), key=lambda one: one.numbers), view)


def _rank(item: Item, items: Sequence[Item]) -> int:
    """Which of those of its name an item is."""
    return sum(other.numbers < item.numbers for other in items if other.stems == item.stems)


def _chain(xs: Sequence[Item], ys: Sequence[Item]) -> list[tuple[Item, Item]] | None:
    """Both sides in the order of their numbers, where nothing but a number of one name sets any two of a side apart.

    What comes after that number says no more: blocks may call what they hold as they like.
    """
    both = _sorted(xs), _sorted(ys)
    return list(zip(*both, strict=True)) if _are_counted(both[0]) and _are_counted(both[1]) else None


def _counted_apart(one: Item, two: Item) -> bool:
    """Whether the first step in which two paths differ is one name with two numbers."""
    for a, b in zip(one.path, two.path, strict=False):
        if a.same != b.same:
            return a.stem == b.stem and a.number is not None and b.number is not None
    return False


def _by_numbers(
    xs: Sequence[Item], ys: Sequence[Item], source: View, target: View, population: Population
) -> tuple[list[Tied], str]:
    if not xs or len(xs) != len(ys):
        return [], ""
    chain = _chain(xs, ys)
    if chain is None:
        return [], ""
    if not in_order([x for x, _ in chain], source) or not in_order([y for _, y in chain], target):
        return [], "their numbers contradict the order in which they are declared or called"
    if not _count_alike(_counted_by(xs, population.counts[0]), _counted_by(ys, population.counts[1])):
        return [], "their names count other layers in another order on either side"
    return _counted(chain, "by number"), ""


def _counted_by(items: Sequence[Item], counts: Counts) -> list[tuple[tuple[int, ...], Colour]]:
    """Everything that the names of some items count in the scope."""
    return [each for stems in {item.stems for item in items} for each in counts.get(stems, ())]


def _count_alike(one: Sequence[tuple[tuple[int, ...], Colour]], two: Sequence[tuple[tuple[int, ...], Colour]]) -> bool:
    """Whether two names count what both of them count in the same order."""
    return _called_alike(one, [colour for _, colour in sorted(two, key=lambda each: each[0])])


def _called_alike(counted: Sequence[tuple[tuple[int, ...], Colour]], others: Sequence[Colour]) -> bool:
    """Whether names count what is on both sides in the order in which the other side has it."""
    mine = [colour for _, colour in sorted(counted, key=lambda each: each[0])]
    shared = {*mine} & {*others}
    return [colour for colour in mine if colour in shared] == [colour for colour in others if colour in shared]


def _by_call(xs: Sequence[Item], ys: Sequence[Item], source: View, target: View, population: Population) -> list[Tied]:
    """What one side counts, in the order in which the other side calls it.

    Norms, whatever they are called there: a block normalises one after another. Of kernels it is evidence only where they
    are one name that was counted as modules were made: those with names of their own (gate and up) are called in any order.
    Numbers that an author gave and that run against the calls are no mistake: these may be equal numbers on both sides.
    """
    if not xs or not all(item.single for item in (*xs, *ys)):
        return []
    norms = len(xs) <= _NORMS and all(item.vector for item in (*xs, *ys))
    for side, (counted, others, view, other) in enumerate(((xs, ys, source, target), (ys, xs, target, source))):
        if not other.called or any(item.call is None for item in others):
            continue
        first, made = _sorted(counted), _are_counted(_sorted(others))
        if not _are_counted(first) or not in_order(first, view) or not (norms or made):
            continue
        if made and (in_order(_sorted(others), other) or not all(is_automatic(item.units[0]) for item in others)):
            continue
        if not _called_alike(_counted_by(counted, population.counts[side]), population.calls[1 - side]):
            continue
        chain = list(zip(first, sorted(others, key=lambda item: item.call or 0), strict=True))
        pairs = chain if counted is xs else [(y, x) for x, y in chain]
        evidence = f"{'norms, ' if norms else ''}by number on one side and by call on the other"
        grade: Grade = "assumption" if made else "numbers"
        if made:
            evidence = f"{evidence}, where they were counted as they were made"
        return [Tied(x, y, evidence, grade, counted=True, leaf=True) for x, y in pairs]
    return []


def _sorted(items: Sequence[Item]) -> list[Item]:
    return sorted(items, key=lambda item: item.numbers)


def _are_counted(items: Sequence[Item]) -> bool:
    """Whether nothing but a number sets one of them, in their order, apart from the next."""
    return all(_counted_apart(one, two) for one, two in itertools.pairwise(items))


def _counted(chain: Sequence[tuple[Item, Item]], evidence: str) -> list[Tied]:
    """Pairs by number; of single units, if their own numbers differ on either side."""
    own = [{item.path[-1].number for item in side if item.single and item.path} for side in zip(*chain, strict=True)]
    leaf = any(len(numbers) > 1 for numbers in own)
    return [Tied(x, y, evidence, "numbers", counted=True, leaf=leaf) for x, y in chain]
