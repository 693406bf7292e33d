"""Decidable: whether anything in two perturbed headers tells their layers apart; found without the code that pairs them.

A pair is undecidable if two layers, or two groups of layers, could change places and no name, number, size or container would
show it. Orders in which layers without numbers are declared are no evidence. What is found here is proved; pairs may be
undecidable for other reasons, so that the share of decidable ones is an upper bound.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from zoo_header import Header

from stateregistry.alignment.colours import NORMS, colour_of
from stateregistry.alignment.spelling import same, stems, tokens

_NUMBERED = re.compile(r"^(.*?)_?(\d*)$")
#: Config that a typed layer shows.
_SHOWN = ("stride", "dilation", "groups", "reverse", "heads", "kernel_size")

#: What is done to names: all are other words, everywhere or in each container; only those of containers; none are left.
CONSISTENT, ALONE, FLAT, SHUFFLED, AUTOMATIC, BACKWARDS, COPY = (
    "consistent", "alone", "flat", "shuffled", "automatic", "backwards", "copy",
)  # fmt: skip

Pairs = Sequence[tuple[str, str]]


def undecidable(how: tuple[str, str], torch: Header, flax: Header, pairs: Pairs, *, typed: bool) -> str:
    """Why two headers cannot be paired by what they show; empty where nothing is found.

    Args:
        how: what was done to the names of either side, empty for nothing.
        torch, flax: the headers, with the layers of the models. pairs: the paths of layers in the models that are one.
        typed: whether layers are known to who has to pair them.
    """
    for what, header in zip(how, (torch, flax), strict=True):
        units = _units(header, typed=typed)
        if what == CONSISTENT and (found := _exchanged_stems(units)):
            return f"{found[0]} and {found[1]} could change places"
        if what == ALONE and (found := _exchanged_siblings(units)):
            return f"{found[0]} and {found[1]} could change places"
        if what == COPY and (copy := _copied(torch, flax, pairs)):
            return f"{copy} is there twice, and neither is called as its counterpart is"
    if {FLAT, SHUFFLED} & set(how):
        return _unordered(how, torch, flax, pairs, typed=typed)
    if how[1] in (AUTOMATIC, BACKWARDS):
        return _counted(how[1], torch, flax, pairs, typed=typed)
    return ""


# -------------------------------------------------------------------- names that say nothing


def _units(header: Header, *, typed: bool) -> dict[str, tuple[object, ...]]:
    """Every owner with what can be seen of it beside its name."""
    shown: dict[str, list[object]] = defaultdict(list)
    for layer in header.layers if typed else ():
        base = layer.path if layer.base is None else layer.base
        shown[base].append((layer.kind, *(str(layer.config.get(name)) for name in _SHOWN)))
    found = {}
    for owner, keys in header.groups().items():
        pieces = sorted((key[len(owner) :], header.entries[key].shape, header.entries[key].dtype) for key in keys)
        found[owner] = (*pieces, *sorted(map(str, shown[owner])))
    return found


def _split(path: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (found[1], found[2]) for part in path.split("/") if (found := _NUMBERED.match(part)) is not None
    )  # fmt: skip


def _exchanged_stems(units: Mapping[str, object]) -> tuple[str, str] | None:
    """Two words of which each could stand for the other wherever they stand."""
    paths = {_split(path): what for path, what in units.items()}
    words = sorted({stem for path in paths for stem, _ in path if stem})
    for one, two in itertools.combinations(words, 2):
        turn = {one: two, two: one}
        if all(
            paths.get(tuple((turn.get(stem, stem), number) for stem, number in path)) == what
            for path, what in paths.items()
        ):
            return one, two
    return None


def _exchanged_siblings(units: Mapping[str, object]) -> tuple[str, str] | None:
    """Two words of one container that hold the same."""
    tree: dict[object, object] = {}
    for path, what in units.items():
        node: dict[object, object] = tree
        for step in _split(path):
            node = node.setdefault(step, {})  # type: ignore[assignment]  # inner nodes are dicts
        node["what"] = what
    return _alike(tree)


def _alike(node: Mapping[object, object]) -> tuple[str, str] | None:
    families: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for step, child in node.items():
        if isinstance(step, tuple):
            families[step[0]].append((step[1], _form(child)))
    forms: dict[str, str] = {}
    for stem, members in families.items():
        form = str(sorted(members))
        if stem and form in forms:
            return forms[form], stem
        forms[form] = stem
    for step, child in node.items():
        if isinstance(step, tuple) and isinstance(child, dict) and (found := _alike(child)):
            return found
    return None


def _form(node: object) -> str:
    """What a container holds, whatever it is called in it."""
    if not isinstance(node, dict):
        return str(node)
    families: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for step, child in node.items():
        if isinstance(step, tuple):
            families[step[0]].append((step[1], _form(child)))
    return str((node.get("what"), sorted(str(sorted(members)) for members in families.values())))


# -------------------------------------------------------------------- numbers in the place of names


def _classes(
    torch: Header, flax: Header, pairs: Pairs, *, typed: bool
) -> Iterable[tuple[object, list[tuple[str, str]]]]:
    """Layers that are one, as both headers call them, by what can be seen of them beside names."""
    layers = {layer.path: layer for layer in torch.layers}
    back = {there: name for name, there in torch.places.items()}
    wanted: dict[str, list[str]] = defaultdict(list)
    for one, two in pairs:
        wanted[one].append(two)
    found: dict[object, list[tuple[str, str]]] = defaultdict(list)
    for path, layer in layers.items():
        for two in wanted.get(back.get(path, ""), ()):
            if two in flax.places:
                colour: object = colour_of(layer, torch.entries, torch.aliases)
                if typed:
                    colour = colour, tuple(str(layer.config.get(name)) for name in _SHOWN)
                found[colour].append((path, flax.places[two]))
    homes = {layer.path: layer.path if layer.base is None else layer.base for layer in torch.layers}
    # What one module holds of one colour keeps the names that the framework gives it.
    return [(colour, rows) for colour, rows in found.items() if len({homes[one] for one, _ in rows}) > 1]


def _unordered(how: tuple[str, str], torch: Header, flax: Header, pairs: Pairs, *, typed: bool) -> str:
    for colour, members in _classes(torch, flax, pairs, typed=typed):
        if len(members) < 2:
            continue
        if SHUFFLED in how:
            return f"{len(members)} of {colour}"
        if not how[1] and len({stems(tokens(two)) for _, two in members}) > 1:
            return f"{len(members)} of {colour}, numbered on one side and named on the other"
        if not _monotone(members):
            return f"{len(members)} of {colour}, in another order"
    return ""


def _counted(how: str, torch: Header, flax: Header, pairs: Pairs, *, typed: bool) -> str:
    """Layers of one container that the automatic names count: told by numbers on the other side that run alike."""
    for colour, members in _classes(torch, flax, pairs, typed=typed):
        siblings: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for one, two in members:
            siblings[two.rpartition("/")[0]].append((one, two))
        kind = colour[0][0] if typed else colour[0]  # type: ignore[index]  # a colour begins with its kind
        for several in siblings.values():
            if len(several) < 2 or (
                kind in NORMS and how == AUTOMATIC
            ):  # told by the order in which blocks are written
                continue
            if len({stems(tokens(one)) for one, _ in several}) > 1:
                return f"{len(several)} of {colour}, named on one side and counted on the other"
            if not _monotone(several) and not (typed and how == BACKWARDS):
                return f"{len(several)} of {colour}, counted in another order"
    return ""


def _monotone(members: Iterable[tuple[str, str]]) -> bool:
    def numbers(path: str) -> tuple[int, ...]:
        return tuple(token.number for token in tokens(path) if token.number is not None)

    found = sorted((numbers(one), numbers(two)) for one, two in members)
    return all(a <= b for (_, a), (_, b) in itertools.pairwise(found))


# -------------------------------------------------------------------- a layer that is there twice


def _copied(torch: Header, flax: Header, pairs: Pairs) -> str:
    """The layer that is there twice, if its counterpart is called otherwise."""
    owners = {torch.owners[key] for key in torch.copies}
    names = Counter(two for _, two in pairs)
    back = {there: name for name, there in torch.places.items()}
    mates = dict(pairs)
    for owner in owners:
        first = owner.rpartition("_")[0]
        mate = mates.get(back.get(first, first), "")
        if mate and names[mate] and same(first)[-1:] != same(mate)[-1:]:
            return first
    return ""
