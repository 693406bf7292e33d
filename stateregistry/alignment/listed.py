"""Listed: what the paths of a side count, and how such a name is written in a sentence.

What sets two models apart is told of lists: by `longer`, `odd` and `repeated`, which all read them here. Decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from stateregistry.alignment.colours import Colour
from stateregistry.alignment.containers import counted_name
from stateregistry.alignment.model import Unit, View
from stateregistry.alignment.spelling import tokens

#: A path up to a number, as its tokens compare.
Path = tuple[tuple[str, int | None], ...]
#: What one number of a name holds: units, with how many of their tokens lead up to that number.
Member = Sequence[tuple[Unit, int]]


def counted_lists(units: Iterable[Unit]) -> Mapping[str, Mapping[Path, Member]]:
    """By every name that is counted, in whatever containers, what each of its numbers holds."""
    found: dict[str, dict[Path, list[tuple[Unit, int]]]] = {}
    for unit in units:
        for end, token in enumerate(unit.tokens, 1):
            if token.number is not None:
                path = unit.tokens[:end]
                members = found.setdefault(counted_name(path), {})
                members.setdefault(tuple(each.same for each in path), []).append((unit, end))
    return found


def apart(source: View, target: View) -> dict[Colour, int]:
    """How many more of each colour the source has than the target, tied arrays once; nothing of what both have alike."""
    one, two = (Counter(unit.colour for unit in view.main) for view in (source, target))
    return {colour: one[colour] - two[colour] for colour in one | two if one[colour] != two[colour]}


def called_as(unit: Unit, end: int, name: str) -> str:
    """A counted name as a path writes it up to a token, without numbers; the name itself where it cannot be said."""
    return _uncounted(written(unit, end)) or name


def written(unit: Unit, end: int) -> str:
    """The shortest beginning of a path that has so many of its tokens."""
    steps = unit.path.split("/")
    for length in range(1, len(steps) + 1):
        path = "/".join(steps[:length])
        if tuple(token.same for token in tokens(path)[:end]) == tuple(token.same for token in unit.tokens[:end]):
            return path
    return unit.path


def _uncounted(path: str) -> str:
    """A path without its numbers, `#` for those of a list in a list; empty where a number stands inside of a step."""
    found: list[str] = []
    counted = True
    for step in path.split("/"):
        name = step.rstrip("0123456789").rstrip("_-")
        if name or counted:
            found.append(name or "#")
        counted = not name or name != step
    return "" if any(letter.isdigit() for name in found for letter in name) else "/".join(found)
