"""Homes: which part of the model a layer is of, where one side has containers and the other has names that say as much.

`edge_mlp/0`, `edge_mlp/2` are `phi_e_0`, `phi_e_1` if the first of them is decided and nothing decided says otherwise: what is
in a home on one side is in its mate on the other. A home is a container, a list, a name that counts, or words that names begin
with. A class is divided only where both sides have as many in every home; which is which inside of one is for `ties` to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from stateregistry.alignment.containers import Item, Tied, name_of
from stateregistry.alignment.evidence.blocks import Part
from stateregistry.alignment.evidence.population import Population
from stateregistry.alignment.lexicon import words_of
from stateregistry.alignment.model import Grade, worse
from stateregistry.alignment.spelling import split_words

#: Above so many decided pairs, or candidates, nothing is told by them.
_MOST: Final = 512
_CANDIDATES: Final = 64
#: So many decided pairs say that a home is a part of another.
_LEAST: Final = 2

#: The names around a home, and what it is called there: a name and its number, a name that counts, or several words.
_Home = tuple[tuple[tuple[str, int | None], ...], tuple[object, ...]]
#: Around a name that several containers have.
_ANYWHERE: Final = (("*", None),)
#: Blocks, and what has their numbers in flat names.
_COUNTED: Final = frozenset({"anywhere", "container"})
_COUNTED_BESIDE_WORDS: Final = frozenset({"anywhere", ""})
#: The homes of a source item and of a target item that are one, how sure that is, and the pair that says so.
_Mates = Mapping[tuple[_Home, _Home], tuple[Grade, Tied]]
_Told = tuple[tuple[_Home, _Home], Grade, Tied]


def by_home(xs: Sequence[Item], ys: Sequence[Item], anchors: Sequence[Tied], population: Population) -> list[Part]:
    """A class in parts of one home each; empty where it cannot be divided, or two divisions contradict."""
    if not 1 < len(xs) == len(ys) <= _CANDIDATES or len(anchors) > _MOST:
        return []
    telling: list[_Told] = []
    held_by = [Counter(home for item in items for home in dict(_homes(item))) for items in (xs, ys)]
    for both, (sure, anchor) in _mates(anchors).items():
        mine, its = (held_by[side][home] for side, home in enumerate(both))
        if mine != its and {_number(home) for home in both} == _COUNTED:
            return []  # a number that is in the names of one side alone counts something else there
        if 0 < mine == its < len(xs):
            telling.append((both, sure, anchor))
    for held in (telling, [each for each in telling if each[1] != "assumption"]):
        divided = _divided(xs, ys, held)
        if divided:
            return [_part(mark, one, two, held, anchors, population) for mark, (one, two) in divided.items()]
    return []


def _divided(
    xs: Sequence[Item], ys: Sequence[Item], telling: Sequence[_Told]
) -> dict[tuple[bool, ...], tuple[list[Item], list[Item]]]:
    """The items by the homes that they are in; empty if both sides have not as many in every one."""
    found: dict[tuple[bool, ...], tuple[list[Item], list[Item]]] = {}
    for side, items in enumerate((xs, ys)):
        for item in items:
            homes = dict(_homes(item))
            found.setdefault(tuple(both[side] in homes for both, _, _ in telling), ([], []))[side].append(item)
    alike = len(found) > 1 and all(len(one) == len(two) for one, two in found.values())
    return found if alike else {}


def _part(
    mark: tuple[bool, ...],
    xs: Sequence[Item],
    ys: Sequence[Item],
    telling: Sequence[_Told],
    anchors: Sequence[Tied],
    population: Population,
) -> Part:
    inside = [each for each, is_in in zip(telling, mark, strict=True) if is_in]
    grade: Grade = "certain"
    for _, sure, _ in inside or telling:
        grade = worse(grade, sure)
    if not inside:
        return Part("in none of the parts of which something is paired", grade, xs, ys, (), population)
    anchor = inside[0][2]
    homes = {both[0] for both, _, _ in inside}
    known = [each for each in anchors if homes <= dict(_homes(each.source)).keys()]
    return Part(
        f"of one part with {name_of(anchor.source)} = {name_of(anchor.target)}", grade, xs, ys, known, population
    )


def _mates(anchors: Sequence[Tied]) -> _Mates:
    """The homes that are one: what is decided of either is of the other too, or several of one that is but a part of it."""
    shared: dict[tuple[_Home, _Home], tuple[int, Grade, Tied]] = {}
    alone: tuple[Counter[_Home], Counter[_Home]] = (Counter(), Counter())
    for anchor in anchors:
        one, two = dict(_homes(anchor.source)), dict(_homes(anchor.target))
        alone[0].update(one.keys())
        alone[1].update(two.keys())
        for home, sure in one.items():
            for other, its in two.items():
                if {_number(home), _number(other)} == _COUNTED_BESIDE_WORDS:
                    continue  # `net/2` and `norm2` have a number in common, which says nothing of what is called `mlp`
                count, grade, first = shared.get((home, other), (0, "certain", anchor))
                grade = worse(worse(grade, anchor.grade), worse(sure, its))
                shared[home, other] = (count + 1, grade, first)
    found: dict[tuple[_Home, _Home], tuple[Grade, Tied]] = {}
    for both, (count, grade, anchor) in shared.items():
        if count < _LEAST and {_number(home) for home in both} == {"anywhere"}:
            continue  # two numbers of two families: one pair says nothing of all the others
        whole = [count == alone[side][home] for side, home in enumerate(both)]
        if all(whole):
            found[both] = grade if count >= _LEAST else worse(grade, _of_one(anchor)), anchor
        elif any(whole) and count >= _LEAST:
            found[both] = "assumption", anchor
    return found


def _of_one(anchor: Tied) -> Grade:
    """How sure one pair alone is that two homes are one: a list may hold one layer of each container of the other side."""
    return "assumption" if anchor.source.single else "certain"


def _number(home: _Home) -> str:
    """Whether a home is what a number names wherever it stands, or a container that has one."""
    if home[0] == _ANYWHERE:
        return "anywhere" if isinstance(home[1][0], int) else ""
    return "container" if len(home[1]) == 2 and isinstance(home[1][1], int) else ""


def _homes(item: Item) -> Iterator[tuple[_Home, Grade]]:
    """Every part of the model that an item is of by its name, with how much such a name says."""
    for depth, token in enumerate(item.path):
        around = item.same[:depth]
        last = depth + 1 == len(item.path)
        if last and depth and item.single:
            yield (_ANYWHERE, token.same), "assumption"
        if not last or not item.single:
            yield (around, token.same), "certain"
        elif token.apart:
            yield (around, (token.stem, None)), "certain"
        elif token.number is not None and words_of(token.text):
            yield (around, (token.stem, None, "counted")), "numbers"
        # What cuts across containers and families tells little, but where it contradicts them nothing is told.
        if last and token.number is not None and item.single:
            yield (_ANYWHERE, (token.number,)), "assumption"
        words = split_words(token.text)
        if last and len(words) > 1:
            yield (_ANYWHERE, words[-1:]), "assumption"
        for end in range(1, len(words) + 1):
            if words_of("_".join(words[:end])):
                yield (around, words[:end]), "assumption"
