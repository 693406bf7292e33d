"""Explain: which other declaration of a layer its numbers would bear out, and so which requirement the given one breaks.

A function that departs from its formula says little. If it holds with an axis reversed, with axes exchanged, or with two
roles exchanged, that is what is wrong, and it is said. Tries what one slip of the hand does, no more. Imports the core.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from stateregistry.errors import AxesError
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import ROLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from stateregistry.layers.vocabulary import Layer, Piece

    #: Whether the formula holds for a layer whose roles go by other names.
    Holds = Callable[[Layer, Mapping[str, str]], bool]

_TOKEN: Final = re.compile(r"[()]|[^\s()]+")
#: What roles of a kind begin with that go by several names.
_PREFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "lstm": ("i", "f", "g", "o"), "gru": ("r", "z", "n"), "attention": ("query", "key", "value"),
}  # fmt: skip
_MOST: Final = 130


def explain(layer: Layer, ranks: Mapping[str, int], holds: Holds) -> tuple[str, str]:
    """The requirement that a layer with a wrong function breaks, and what would be right, as far as one can tell.

    Args:
        layer: as it is declared.
        ranks: the number of axes of every native array, by key.
        holds: tries another declaration.
    """
    unfolded = {piece.name: _unfolded(piece.axes, ranks[layer.key(piece)]) for piece in layer.pieces}
    plain = {name: tokens for name, tokens in unfolded.items() if tokens is not None}
    for owner, changes in itertools.chain(
        (("SR-LAYER-015", change) for change in _reversals(plain)),
        (("SR-LAYER-012", change) for change in _orders(plain)),
    ):
        changed = tuple(_with(piece, changes) for piece in layer.pieces)
        if changed != layer.pieces and holds(replace(layer, pieces=changed), {}):
            told = ", ".join(f"{name}: {' '.join(tokens)!r}" for name, tokens in changes.items())
            return owner, f"; it would be right with {_tidy(told)}"
    for names in _exchanges(layer):
        if holds(layer, names):
            told = ", ".join(f"{one} is {other}" for one, other in sorted(names.items()) if one != other)
            return "SR-LAYER-002", f"; it would be right if what is declared as {told}"
    return "SR-LAYER-002", ""


def _with(piece: Piece, changes: Mapping[str, list[str]]) -> Piece:
    return replace(piece, axes=_tidy(" ".join(changes[piece.name]))) if piece.name in changes else piece


def _tidy(text: str) -> str:
    return text.replace("( ", "(").replace(" )", ")")


def _unfolded(pattern: str, rank: int) -> list[str] | None:
    """The tokens of a pattern with every family written out; `None` where that cannot be done."""
    try:
        groups = axes.parse(pattern)
    except AxesError:
        return None
    found: list[str] = []
    for token in _TOKEN.findall(pattern):
        name = token.removeprefix("-")
        if not name.startswith("*"):
            found.append(token)
            continue
        if sum(atom.many for group in groups for atom in group.atoms) > 1 or any(group.merged for group in groups):
            return None
        sign = "-" if name != token else ""
        found += [f"{sign}{name[1:]}.{number}" for number in range(rank - len(groups) + 1)]
    return found


def _slots(tokens: list[str]) -> list[int]:
    """Where the axes stand among the tokens."""
    return [at for at, token in enumerate(tokens) if token not in {"(", ")", "1"} and not token.endswith(":")]


def _reversals(plain: Mapping[str, list[str]]) -> Iterator[dict[str, list[str]]]:
    """One array with all its spatial axes, or with any one axis, the other way round."""
    for name, tokens in plain.items():
        slots = _slots(tokens)
        spatial = [at for at in slots if "spatial" in tokens[at]]
        for chosen in ([spatial] if spatial else []) + [[at] for at in slots]:
            flipped = list(tokens)
            for at in chosen:
                flipped[at] = tokens[at][1:] if tokens[at].startswith("-") else f"-{tokens[at]}"
            yield {name: flipped}


def _orders(plain: Mapping[str, list[str]]) -> Iterator[dict[str, list[str]]]:
    """The axes of one array, or of all that are declared alike, in another order; two names exchanged everywhere."""
    alike: dict[str, list[str]] = {}
    for name, tokens in plain.items():
        alike.setdefault(" ".join(tokens), []).append(name)
    groups = [[name] for name in plain] + [names for names in alike.values() if len(names) > 1]
    for names in groups:
        tokens = plain[names[0]]
        slots = _slots(tokens)
        for order in itertools.islice(itertools.permutations(slots), 1, _MOST):
            moved = list(tokens)
            for at, source in zip(slots, order, strict=True):
                moved[at] = tokens[source]
            yield dict.fromkeys(names, moved)
    every = sorted({tokens[at].removeprefix("-") for tokens in plain.values() for at in _slots(tokens)})
    for one, two in itertools.combinations(every, 2):
        swap = {one: two, two: one, f"-{one}": f"-{two}", f"-{two}": f"-{one}"}
        yield {name: [swap.get(token, token) for token in tokens] for name, tokens in plain.items()}


def _exchanges(layer: Layer) -> Iterator[dict[str, str]]:
    """Two roles with the same axes exchanged; gates, or operands, in another order."""
    known, held = ROLES[layer.kind], list(layer.roles)
    for one, two in itertools.combinations(held, 2):
        if known.get(one.split("+")[0]) == known.get(two.split("+")[0]) is not None:
            yield {one: two, two: one}
    prefixes = _PREFIXES.get(layer.kind, ())
    endings = ("", "input_kernel", "recurrent_kernel", "kernel", "bias")
    for ending, order in itertools.product(endings, itertools.permutations(prefixes)):
        names = {f"{one}_": f"{two}_" for one, two in zip(prefixes, order, strict=True)}
        found = {role: _renamed(role, names) for role in held if role.endswith(ending)}
        if any(one != other for one, other in found.items()):
            yield found


def _renamed(role: str, names: Mapping[str, str]) -> str:
    parts = []
    for part in role.split("+"):
        head = next((prefix for prefix in names if part.startswith(prefix)), "")
        parts.append(names.get(head, "") + part.removeprefix(head))
    return "+".join(parts)
