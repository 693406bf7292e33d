"""Odd: the repetition of a list that holds something else than the others of its list, where just that sets the models apart.

What is said is true of its side alone: how many more of something the other side has, and where fewer of it are than beside it.
Lists whose repetitions differ otherwise, or of which no most hold the same, say nothing. Reads views.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from stateregistry.alignment.colours import Colour
from stateregistry.alignment.listed import Member, called_as, counted_lists, written
from stateregistry.alignment.model import Unit, View

#: So many repetitions are odd at most.
_ODD: Final = 2


def odd(source: View, target: View, spelled: Callable[[Colour], str]) -> str:
    """The repetition that is not as the others of its list, if that accounts for all that sets the models apart."""
    main = source.main, target.main
    counts = [Counter(unit.colour for unit in units) for units in main]
    for side, here, there in ((0, "source", "target"), (1, "target", "source")):
        less, more = +(counts[1 - side] - counts[side]), +(counts[side] - counts[1 - side])
        if len(less) + len(more) > _ODD:
            return ""
        for name, members in sorted(_lists(main[side]), key=lambda each: max(map(len, each[1]))):
            held = [Counter(unit.colour for unit, _ in member) for member in members]
            (most, times), *others = Counter(frozenset(each.items()) for each in held).most_common()
            common = Counter(dict(most))
            apart = [number for number, each in enumerate(held) if each != common]
            if not apart or len(apart) > _ODD or times <= len(apart) or others[0][1] > _ODD:
                continue
            lacking = sum((common - held[number] for number in apart), Counter())
            having = sum((held[number] - common for number in apart), Counter())
            if lacking != less or having != more:
                continue
            paths = " and ".join(f"`{written(*members[number][0])}`" for number in apart)
            has = "has" if len(apart) == 1 else "have"
            if less and more:
                one, two = (spelled(next(iter(each))) for each in (more, less))
                if one == two:  # they differ in what is not spelled
                    return ""
                return f"in the {here} {paths} {has} {one} where the others of `{name}` have {two}"
            ((colour, count),) = (less or more).items()
            word, side_with = ("fewer", there) if less else ("more", here)
            side_without = here if less else there
            return (
                f"the {side_with} has {count} more of {spelled(colour)} than the {side_without}: in the {here} {paths} "
                f"{has} {word} of them than the others of `{name}`"
            )
    return ""


def _lists(units: Sequence[Unit]) -> Iterator[tuple[str, list[Member]]]:
    """What is counted under one name, with the units of each repetition and how many of their tokens lead to it."""
    for name, found in counted_lists(units).items():
        if len(found) > 2:  # of two none is the odd one
            some = list(found.values())
            yield called_as(*some[0][0], name), some
