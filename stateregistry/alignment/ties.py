"""Ties: which of several items of one colour or signature is which.

Every piece of evidence gives some pairs; where two of them contradict, nothing is decided.

The evidence, in this order: config that the function depends on; the same name; words of one meaning; what the items stand
beside; numbers, where no order contradicts them; a habit; the one that is left. Vectors, and whatever is named before or after
something, are told by equal words alone. Never the order of declaration by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, final

from stateregistry.alignment.containers import Item, Tied, in_order, name_of
from stateregistry.alignment.evidence.analogy import as_counted
from stateregistry.alignment.evidence.beside import BESIDE, beside
from stateregistry.alignment.evidence.blocks import Part, by_block
from stateregistry.alignment.evidence.counting import by_call, by_numbers, chained, counted
from stateregistry.alignment.evidence.derived import by_stem, lettered
from stateregistry.alignment.evidence.habits import by_habit
from stateregistry.alignment.evidence.homes import by_home
from stateregistry.alignment.evidence.levels import crossed
from stateregistry.alignment.evidence.owners import by_owner, torn_away
from stateregistry.alignment.evidence.parallel import in_parallel
from stateregistry.alignment.evidence.population import Around, Population
from stateregistry.alignment.evidence.sequence import in_sequence
from stateregistry.alignment.lexicon import BEGINNING, END, SIDES, similarity, telling, words_of
from stateregistry.alignment.model import GRADES, Grade, View, worse
from stateregistry.alignment.soundness import LEFT

#: Above this many candidates names are compared for equality alone: the work would grow with the square.
NAMES: Final = 64
_LEAST: Final = 0.3
_MARGIN: Final = 0.25

#: What an attention is made of beside what follows it.
_ATTENTION: Final = frozenset({"query", "key", "value"})
#: How evidence begins that is of names.
_NAMED: Final = ("the same name", "the words")

#: Config that the function depends on and that every framework means alike.
_CONFIG: Final = ("stride", "dilation", "groups", "reverse", "heads", "kernel_size")


@final
@dataclass(slots=True)
class Tie:
    """What is decided of a class, and why the rest is not.

    Attributes:
        parts: where a class is divided into blocks, what is open in each.
    """

    pairs: list[Tied] = field(default_factory=list)
    why: str = ""
    parts: list[tuple[list[Item], list[Item]]] = field(default_factory=list)


def tie(xs: Sequence[Item], ys: Sequence[Item], around: Around) -> Tie:
    """Pair as many items as the evidence decides.

    Args:
        xs, ys: as many on both sides, all of one colour or signature.
        around: what the evidence is held against.
    """
    if len(xs) == len(ys) == 1:
        return _alone(xs[0], ys[0])
    parted = _by_config(xs, ys)
    if parted is not None:
        return _of_each(parted, around)
    votes = _Votes(xs, ys)
    votes.add(_equal_names(xs, ys, around.source, around.target))
    votes.add(_by_words(xs, ys, around.source, around.target))
    votes.conflict = votes.conflict or _away_from_home(votes.pairs.values(), xs, ys, around.anchors, around.population)
    if not votes.conflict:
        votes.add(_by_own_name(*votes.left()))
    if not votes.conflict and len(xs) <= NAMES:
        votes.add(_by_similarity(*votes.left()))
    if not votes.conflict and len(xs) <= BESIDE:
        votes.add(beside(xs, ys, around.anchors, around.source, around.target))
    numbered, doubt = _by_numbers(xs, ys, around)
    if not votes.conflict and numbered:
        votes.add(numbered)
    parts: list[tuple[list[Item], list[Item]]] = []
    if not votes.conflict and not numbered:
        found, doubt, parts = _of_the_rest(votes, around)
        votes.add(found)
    if votes.conflict:
        return Tie([], votes.conflict)
    made = Tie(list(votes.pairs.values()))
    left = votes.left()
    if len(left[0]) == 1 and made.pairs:
        both = bool(left[0][0].numbers and left[1][0].numbers)
        grade = _grade_of_left(left[0][0], left[1][0], made.pairs)
        for pair in made.pairs:  # it is no surer than those that it is left by
            grade = worse(grade, pair.grade)
        made.pairs.append(Tied(left[0][0], left[1][0], LEFT, grade, counted=both))
    elif left[0]:
        made.pairs = [pair for pair in made.pairs if not _may_lie(pair, xs, ys)]
        made.why = doubt or "no name, number or neighbour tells them apart"
        made.parts = parts
    return made


def _of_each(parted: Sequence[tuple[str, list[Item], list[Item]]], around: Around) -> Tie:
    """What is decided in each part of a class by itself."""
    made = Tie()
    for evidence, some, others in parted:
        inner = tie(some, others, around)
        made.pairs += [
            Tied(one.source, one.target, f"{evidence}; {one.evidence}", one.grade, one.counted, one.leaf)
            for one in inner.pairs
        ]
        made.why = made.why or inner.why
    return made


def _by_numbers(xs: Sequence[Item], ys: Sequence[Item], around: Around) -> tuple[list[Tied], str]:
    """What numbers say, but for norms that they tear away from what these belong to."""
    found, doubt = by_numbers(xs, ys, around)
    return torn_away(found, around) or found, doubt


def _by_letters(xs: Sequence[Item], ys: Sequence[Item], around: Around) -> list[Tied]:
    """Pairs by number, where the letters that one side alone ends its names in count like one."""
    first, second = lettered(xs), lettered(ys)
    if (first is None) is (second is None):
        return []
    own = {
        id(new): old for items, made in ((xs, first), (ys, second)) for new, old in zip(made or (), items, strict=False)
    }
    found, _ = by_numbers(first or xs, second or ys, replace(around, anchors=()))
    return [
        Tied(
            own.get(id(each.source), each.source), own.get(id(each.target), each.target), "by letter and number",
            "assumption", counted=True, leaf=True,
        )
        for each in found
    ]  # fmt: skip


def _of_the_rest(votes: _Votes, around: Around) -> tuple[list[Tied], str, list[tuple[list[Item], list[Item]]]]:
    """What numbers, blocks, calls and habits say of what nothing else tells; why not, and what is open in each block."""
    left = votes.left()
    if len(left[0]) == 1:
        return [], "", []  # the one that is left: no number sets it apart from another
    found, doubt = _by_numbers(*left, around)
    found = found or as_counted(*left, around.anchors, around.population) or in_parallel(*left, around.anchors)
    if found or not left[0]:
        return found, doubt, []
    divided = by_block(votes.xs, votes.ys, around)
    found, parts, doubt = _in_blocks(divided, votes, doubt, around)
    if divided:
        return found, doubt, parts
    known = replace(around, anchors=[*around.anchors, *votes.pairs.values()])
    ways = [
        by_owner(*left, known),
        in_sequence(*left, known),
        by_call(*left, known),
    ]
    for found in sorted(filter(None, ways), key=_surest):
        votes.add(found)  # each tells all of them: if two differ, nothing is decided
    if not any(ways):
        divided = by_home(*left, around.anchors, around.population)
        found, parts, doubt = _in_blocks(divided, votes, doubt, around)
        if divided and found:
            return found, doubt, parts
    left = votes.left()
    found = by_habit(*left, around)
    if around.last:
        found = found or by_stem(*left) or _by_letters(*left, around)
    return found, doubt, []


def _surest(pairs: Sequence[Tied]) -> int:
    return max(GRADES.index(pair.grade) for pair in pairs)


def _in_blocks(
    divided: Sequence[Part], votes: _Votes, doubt: str, around: Around
) -> tuple[list[Tied], list[tuple[list[Item], list[Item]]], str]:
    """The pairs inside of blocks, what is open in each, and why. What is decided across blocks is contradicted."""
    pairs: list[Tied] = []
    open_: list[tuple[list[Item], list[Item]]] = []
    for part in divided:
        mine, its = {id(x) for x in part.xs}, {id(y) for y in part.ys}
        if any((id(pair.source) in mine) is not (id(pair.target) in its) for pair in votes.pairs.values()):
            votes.conflict = votes.conflict or "what decides some of them contradicts the numbers of their blocks"
            return [], [], doubt
        one, two = (
            [item for item in side if id(item) not in done]
            for side, done in ((part.xs, votes.pairs), (part.ys, votes.taken))
        )
        if not one:
            continue
        known = [*part.anchors, *(pair for key, pair in votes.pairs.items() if key in mine)]
        inner = tie(one, two, replace(around, anchors=known, population=part.population))
        pairs += [
            Tied(
                each.source, each.target, f"{part.text}; {each.evidence}", worse(part.grade, each.grade),
                part.counted or each.counted, part.leaf or each.leaf,
            )
            for each in inner.pairs
        ]  # fmt: skip
        done = {id(item) for pair in inner.pairs for item in (pair.source, pair.target)}
        left = ([x for x in one if id(x) not in done], [y for y in two if id(y) not in done])
        if left[0]:
            doubt = doubt or inner.why
            open_.append(left)
    return pairs, open_, doubt


def _alone(x: Item, y: Item) -> Tie:
    """Two that are the only ones of their kind and size: one, unless names put one at the other end of the model."""
    if x.vector and _opposed(x, y):
        return Tie([], "one is called after the beginning of a model and the other after its end")
    return Tie([Tied(x, y, "the only one of its kind and size here")])


def _opposed(x: Item, y: Item) -> bool:
    """Whether one of two items is called after the beginning of a model and the other after its end."""
    return any(
        one.words & BEGINNING and two.words & END and not one.words & END and not two.words & BEGINNING
        for one, two in ((x, y), (y, x))
    )


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
                        f"{known.evidence} says {name_of(known.source)} = {name_of(known.target)}, "
                        f"{pair.evidence} says {name_of(pair.source)} = {name_of(pair.target)}"
                    )
                    return
            self.pairs.setdefault(id(pair.source), pair)
            self.taken.setdefault(id(pair.target), pair)

    def left(self) -> tuple[list[Item], list[Item]]:
        return [x for x in self.xs if id(x) not in self.pairs], [y for y in self.ys if id(y) not in self.taken]


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
    """The same path below the scope; with numbers, where both sides count the name alike and in order, or a rule says so."""
    left, right = _once(xs, lambda item: item.same), _once(ys, lambda item: item.same)
    counts = [_counts(items, view) for items, view in ((xs, source), (ys, target))]
    return [
        Tied(item, right[name], "the same name")
        for name, item in left.items()
        if name in right
        and any(item.stems)
        and (not item.numbers or _is_ruled(item) or counts[0][item.stems] == counts[1][item.stems] != frozenset())
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


def _strict(items: Sequence[Item], words: Sequence[frozenset[str]]) -> bool:
    return any(item.vector for item in items) or any(SIDES & one for one in words)


def _by_words(xs: Sequence[Item], ys: Sequence[Item], source: View, target: View) -> list[Tied]:
    """Words that some of both sides have split the class; what is alone in its part is paired."""
    left, right = telling([x.words for x in xs]), telling([y.words for y in ys])
    if not (_strict(xs, left) or _strict(ys, right)):
        meet = frozenset().union(*left) & frozenset().union(*right)
        left, right = ([words & meet for words in left], [words & meet for words in right])
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
            weak = _counted_beside(some[0], others[0], xs) or _counted_beside(others[0], some[0], ys)
            pairs.append(Tied(some[0], others[0], evidence, "assumption" if weak else "certain"))
        elif turned := crossed(some, others):
            pairs += counted(turned, f"{evidence}, by the numbers of their words")
        elif turned is None and (chain := chained(some, others)) is not None:
            one, two = ([pair[side] for pair in chain] for side in (0, 1))
            if in_order(one, source) and in_order(two, target):
                pairs += counted(chain, f"{evidence}, by number")
    return pairs


def _counted_beside(one: Item, two: Item, items: Sequence[Item]) -> bool:
    """Whether a name has a number that another name beside it has too, and its partner none: `up1` beside `low1`, and `up`."""
    if not one.path or not two.path or one.path[-1].number is None or one.path[-1].apart or two.numbers:
        return False  # a place in a list (`downsample/1`) is no number beside others
    home, own = one.same[:-1], one.path[-1]
    return any(
        item.same[:-1] == home and item.path[-1].number == own.number and item.path[-1].stem != own.stem
        for item in items
        if item.path
    )


def _away_from_home(
    pairs: Iterable[Tied], xs: Sequence[Item], ys: Sequence[Item], anchors: Sequence[Tied], population: Population
) -> str:
    """Why words decide nothing: a word is in one name of a family whose others are decided to be of another part.

    `flow_head/conv1` is no `flow_conv2` if `flow_conv1` is in `encoder`, and what `flow_head` has beside it is `delta_out`.
    """
    told = [pair for pair in pairs if pair.source.single and pair.evidence.startswith("the words")]
    if not told:
        return ""
    for part in by_home(xs, ys, anchors, population):
        mine, its = {id(x) for x in part.xs}, {id(y) for y in part.ys}
        for pair in told:
            if id(pair.source) in mine and id(pair.target) not in its:
                names = f"{name_of(pair.source)} = {name_of(pair.target)}"
                return f"{pair.evidence} says {names}, which are not of one part with what is decided beside them"
    return ""


def _by_similarity(xs: Sequence[Item], ys: Sequence[Item]) -> list[Tied]:
    """Words in common, where each is the other's best by a margin."""
    if not xs or not ys:
        return []
    left, right = telling([x.words for x in xs]), telling([y.words for y in ys])
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


def _by_own_name(xs: Sequence[Item], ys: Sequence[Item]) -> list[Tied]:
    """What is called the same, in full, among others that stand in one container with it on either side."""
    found: list[dict[frozenset[str], Item]] = []
    for items in (xs, ys):
        if len({_home(item) for item in items}) != 1 or not all(item.single and item.path for item in items):
            return []
        named = _once(items, lambda item: words_of(item.path[-1].text) if item.path[-1].number is None else None)
        found.append({words: item for words, item in named.items() if isinstance(words, frozenset) and words})
    text = "the same own name, which is part of another's"
    return [Tied(item, found[1][words], text, "assumption") for words, item in found[0].items() if words in found[1]]


def _home(item: Item) -> tuple[tuple[str, int | None], ...]:
    """The container of an item; of a part of a fused layer that of the whole."""
    layer = item.units[0].layer
    fused = layer is not None and layer.base not in (None, "") and layer.kind == "linear"
    return item.same[: -2 if fused else -1]


def _may_lie(pair: Tied, xs: Sequence[Item], ys: Sequence[Item]) -> bool:
    """Whether a pair rests on a word that says too little to take its two from the candidates of others."""
    one, two = pair.source, pair.target
    by_word = pair.grade == "assumption" and pair.evidence.startswith("the words")
    return by_word and (_counted_beside(one, two, xs) or _counted_beside(two, one, ys))


def _grade_of_left(x: Item, y: Item, pairs: Sequence[Tied]) -> Grade:
    """How sure the last two are. Where names lie by one place, what they leave is a pair that no name knows."""
    if all(_is_ruled(pair.source) for pair in pairs):
        return "assumption" if _opposed(x, y) else "numbers"  # rules say the others
    if not x.words & y.words and any(pair.evidence.startswith(_NAMED) for pair in pairs):
        parts = [
            frozenset[str]().union(*words)
            for words in zip(*((p.source.words, p.target.words) for p in pairs), strict=True)
        ]
        if not all(words >= _ATTENTION for words in parts):  # which has one part more than its words say
            return "assumption"
    if x.numbers and y.numbers:
        return "numbers"
    return "certain" if _may_be_left(x, y, pairs) else "assumption"


def _is_ruled(item: Item) -> bool:
    """Whether rules gave all of an item their names: they are no names that an author chose."""
    return all(unit.ruled for unit in item.units)


def _may_be_left(x: Item, y: Item, pairs: Sequence[Tied]) -> bool:
    """Whether the last two may be one although no evidence names them: their words do not point elsewhere."""
    others = ([pair.target.words for pair in pairs], [pair.source.words for pair in pairs])
    common = (frozenset.intersection(x.words, *others[1]), frozenset.intersection(y.words, *others[0]))
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
