"""Decidable: whether anything in two perturbed headers tells their layers apart; found without the code that pairs them.

A pair is undecidable if two layers, or two groups of layers, could change places and no name, number, size or container would
show it. Orders in which layers without numbers are declared are no evidence. What is found here is proved; pairs may be
undecidable for other reasons, so that the share of decidable ones is an upper bound.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from zoo_header import Header

from stateregistry.alignment.colours import NORMS, colour_of
from stateregistry.alignment.spelling import stems, tokens

_NUMBERED = re.compile(r"^(.*?)_?(\d*)$")
#: Config that a typed layer shows.
_SHOWN = ("stride", "dilation", "groups", "reverse", "heads", "kernel_size")

#: What is done to names: all are other words, everywhere or in each container; only those of containers; none are left.
CONSISTENT, ALONE, FLAT, SHUFFLED, AUTOMATIC, BACKWARDS = (
    "consistent", "alone", "flat", "shuffled", "automatic", "backwards",
)  # fmt: skip

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Member:
    """A layer or an array of both sides, as the headers call it.

    Attributes:
        torch, flax: its paths. homes: the modules that hold it. colour: what can be seen of it beside names.
        norm: it is a norm. called: its place among the calls of the Flax side, `None` where these are not known.
    """

    torch: str
    flax: str
    homes: tuple[str, str]
    colour: object
    norm: bool = False
    called: int | None = None


def undecidable(how: tuple[str, str], torch: Header, flax: Header, pairs: Pairs, *, typed: bool) -> str:
    """Why two headers cannot be paired by what they show; empty where nothing is found.

    Args:
        how: what was done to the names of either side, empty for nothing.
        torch, flax: the headers, with the layers of the models. pairs: the paths of layers in the models that are one.
        typed: whether layers are known to who has to pair them.
    """
    members = _members(torch, flax, pairs, typed=typed)
    for side, (what, header) in enumerate(zip(how, (torch, flax), strict=True)):
        units = _units(header, _mates(side, torch, flax, members), typed=typed)
        found = _exchanged_stems(units) if what == CONSISTENT else _exchanged_siblings(units) if what == ALONE else []
        for one, two in found:
            if not _told_by_call(side, one, two, members):
                return f"{one} and {two} could change places"
    if how[0] in (CONSISTENT, ALONE) and (why := _numbered_alone(members) or _inverted(members)):
        return why
    if {FLAT, SHUFFLED} & set(how):
        return _unordered(how, members)
    if how[1] in (AUTOMATIC, BACKWARDS):
        return _counted(members, backwards=how[1] == BACKWARDS)
    return ""


def _members(torch: Header, flax: Header, pairs: Pairs, *, typed: bool) -> list[Member]:
    """What is one on both sides. The parts of a fused layer are members with a path below that of the layer."""
    names = [_names(header) for header in (torch, flax)]
    bare = [_bare(header, {pair[side] for pair in pairs}) for side, header in enumerate((torch, flax))]
    owners = [{**header.owners, **_homes(header)} for header in (torch, flax)]
    layers = [{layer.path: layer for layer in header.layers} for header in (torch, flax)]
    calls = {path: number for number, path in enumerate(layers[1])} if typed and flax.dialect == "flax-linen" else {}
    found = []
    for pair in pairs:
        paths = [_now(path, known) or lone.get(path) for path, known, lone in zip(pair, names, bare, strict=True)]
        if None in paths:
            continue
        (one, base), (two, its) = (path for path in paths if path is not None)
        seen = [side.get(path) for side, path in zip(layers, (one, two), strict=True)]
        number = 1 if seen[1] is not None else 0
        layer, header = seen[number], (torch, flax)[number]
        if layer is not None:
            colour: object = colour_of(layer, header.entries, header.aliases)
            if typed:
                colour = colour, tuple(str(layer.config.get(name)) for name in _SHOWN)
            norm = layer.kind in NORMS
        elif one in torch.entries:
            colour, norm = ("array", *(size for size in torch.entries[one].shape if size != 1)), False
        else:
            continue
        homes = owners[0].get(base, base), owners[1].get(its, its)
        found.append(Member(one, two, homes, colour, norm, calls.get(two, calls.get(homes[1]))))
    return found


def _bare(header: Header, paired: Collection[str]) -> dict[str, tuple[str, str]]:
    """Modules of which one array is a layer, with that array: the only one that is not paired as an array."""
    found: dict[str, list[str]] = defaultdict(list)
    for new, old in header.native.items():
        if old not in paired and header.owners[new] == new:
            found[old.rpartition("/")[0]].append(new)
    return {path: (arrays[0], arrays[0]) for path, arrays in found.items() if len(arrays) == 1}


def _homes(header: Header) -> dict[str, str]:
    return {layer.path: layer.path if layer.base is None else layer.base for layer in header.layers}


def _names(header: Header) -> dict[str, str]:
    """What the layers, the modules that hold arrays, and the arrays of a model are called in a header."""
    found = dict(header.places)
    for new, old in header.native.items():
        owner = header.owners[new]
        found.setdefault(old[: len(old) - len(new) + len(owner)], owner)
        found.setdefault(old, new)
    return found


def _now(path: str, names: Mapping[str, str]) -> tuple[str, str] | None:
    """What a path of a model is called in a header, with what holds it: for a part of a layer, that layer."""
    head, tail = path, ""
    while head not in names:
        head, _, last = head.rpartition("/")
        tail = f"{last}/{tail}" if tail else last
        if not head:
            return None
    return (f"{names[head]}/{tail}" if tail else names[head]), names[head]


# -------------------------------------------------------------------- names that say nothing


def _mates(side: int, torch: Header, flax: Header, members: Sequence[Member]) -> dict[str, tuple[int, ...]]:
    """For every array of no layer of one side the shape that it has on the other."""
    return {
        (m.torch, m.flax)[side]: (flax.entries[m.flax] if side == 0 else torch.entries[m.torch]).shape
        for m in members
        if m.torch in torch.entries and m.flax in flax.entries
    }


def _units(header: Header, mates: Mapping[str, tuple[int, ...]], *, typed: bool) -> dict[str, tuple[object, ...]]:
    """Every owner with what can be seen of it beside its name.

    Which axes of size 1 an array of no layer has (`mates`) tells only what the other side has so too.
    """
    shown: dict[str, list[object]] = defaultdict(list)
    for layer in header.layers if typed else ():
        base = layer.path if layer.base is None else layer.base
        shown[base].append((layer.kind, *(str(layer.config.get(name)) for name in _SHOWN)))
    found = {}
    for owner, keys in header.groups().items():
        pieces = sorted(
            (key[len(owner) :], mates.get(key, header.entries[key].shape), header.entries[key].dtype) for key in keys
        )
        found[owner] = (*pieces, *sorted(map(str, shown[owner])))
    return found


def _split(path: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (found[1], found[2]) for part in path.split("/") if (found := _NUMBERED.match(part)) is not None
    )  # fmt: skip


def _exchanged_stems(units: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Two words of which each could stand for the other wherever they stand."""
    paths = {_split(path): what for path, what in units.items()}
    words = sorted({stem for path in paths for stem, _ in path if stem})
    for one, two in itertools.combinations(words, 2):
        turn = {one: two, two: one}
        if all(
            paths.get(tuple((turn.get(stem, stem), number) for stem, number in path)) == what
            for path, what in paths.items()
        ):
            yield one, two


def _exchanged_siblings(units: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Two words of one container that hold the same."""
    tree: dict[object, object] = {}
    for path, what in units.items():
        node: dict[object, object] = tree
        for step in _split(path):
            node = node.setdefault(step, {})  # type: ignore[assignment]  # inner nodes are dicts
        node["what"] = what
    return _alike(tree)


def _alike(node: Mapping[object, object]) -> Iterator[tuple[str, str]]:
    families: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for step, child in node.items():
        if isinstance(step, tuple):
            families[step[0]].append((step[1], _form(child)))
    forms: dict[str, str] = {}
    for stem, members in families.items():
        form = str(sorted(members))
        if stem and form in forms:
            yield forms[form], stem
        forms[form] = stem
    for step, child in node.items():
        if isinstance(step, tuple) and isinstance(child, dict):
            yield from _alike(child)


def _form(node: object) -> str:
    """What a container holds, whatever it is called in it."""
    if not isinstance(node, dict):
        return str(node)
    families: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for step, child in node.items():
        if isinstance(step, tuple):
            families[step[0]].append((step[1], _form(child)))
    return str((node.get("what"), sorted(str(sorted(members)) for members in families.values())))


def _told_by_call(side: int, one: str, two: str, members: Sequence[Member]) -> bool:
    """Whether two words stand for norms alone that are told by their numbers in torch and their calls in Flax."""
    found = [m for m in members if {one, two} & {stem for stem, _ in _split((m.torch, m.flax)[side])}]
    groups: dict[tuple[str, ...], list[Member]] = defaultdict(list)
    for member in found:
        groups[_without_last(member.torch)].append(member)
    told = all(member.norm and member.called is not None and side == 1 for member in found)
    orders = [sorted(several, key=lambda m: m.called or 0) for several in groups.values()]
    return bool(found) and told and all(_runs([m.torch for m in order]) for order in orders)


def _without_last(path: str) -> tuple[str, ...]:
    """A path up to its last number, which is left out."""
    steps = _split(path)
    ends = [n for n, (_, number) in enumerate(steps) if number]
    return (*("".join(step) for step in steps[: ends[-1]]), steps[ends[-1]][0]) if ends else (path,)


def _numbered_alone(members: Sequence[Member]) -> str:
    """Layers of one module that torch counts by a word that means nothing, and Flax calls by words that it has nowhere else.

    Only the same number beside another layer would tell which is which, or calls, or the habit of norms.
    """
    groups: dict[object, list[Member]] = defaultdict(list)
    around: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for member in members:
        steps = _split(member.torch)
        if steps and steps[-1][1] and steps[-1][0]:
            groups[member.torch.rpartition("/")[0], steps[-1][0], member.colour].append(member)
        around[member.torch.rpartition("/")[0]].add(steps[-1] if steps else ("", ""))
    for (home, stem, colour), several in groups.items():  # type: ignore[misc]  # the keys made above
        if len(several) < 2 or len({stems(tokens(m.flax)) for m in several}) < len(several):
            continue
        numbers = {_split(m.torch)[-1][1] for m in several}
        beside = {number for other, number in around[home] if other != stem} & numbers
        order = sorted(several, key=lambda m: _numbers(m.torch))
        if beside or (several[0].norm and several[0].called is not None) or _usual([m.flax for m in order]):
            continue
        return f"{len(several)} of {colour}, counted by a word that says nothing, and named on the other side"
    return ""


def _inverted(members: Sequence[Member]) -> str:
    """Layers that are told by the numbers of one Flax name alone, where these run against those of torch somewhere.

    Numbers that count what one module holds in another order than the other side does say nothing of any of it.
    """
    families: dict[object, list[tuple[int, tuple[int, ...], Member]]] = defaultdict(list)
    for member in members:
        steps = _split(member.flax)
        for depth, (stem, number) in enumerate(steps if member.called is None else ()):
            if number:
                key = steps[:depth], stem, stems(tokens(member.torch))  # numbers of two lists of torch do not compare
                families[key].append((int(number), _numbers(member.torch), member))
    within = {colour for colour, rows in _classes(members) if len({m.homes[0] for m in rows}) > 1}
    for rows in families.values():
        ends: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        for number, theirs, _ in rows:
            low, high = ends.get(number, (theirs, theirs))
            ends[number] = min(low, theirs), max(high, theirs)
        spans = [ends[number] for number in sorted(ends)]
        # Those of one number are told by something else, or not at all.
        seen = {(number, member.colour) for number, _, member in rows if member.colour in within}
        classes = Counter(colour for _, colour in seen)
        colour, count = classes.most_common(1)[0] if classes else ("", 0)
        if count > 1 and any(one[1] > two[0] for one, two in itertools.pairwise(spans) if one[1] != two[1]):
            return f"{count} of {colour}, counted in another order"
    return ""


def _usual(names: Sequence[str]) -> bool:
    """Whether two layers, in the order in which they are counted, are called so that one comes first by habit."""
    words = [set(re.findall(r"[a-z]+", name.rpartition("/")[2].lower())) for name in names]
    first = {"attn", "attention", "att", "input"}
    return len(names) == 2 and (bool(first & words[0] - words[1]) or "reverse" in words[1] - words[0])


# -------------------------------------------------------------------- numbers in the place of names


def _classes(members: Iterable[Member]) -> list[tuple[object, list[Member]]]:
    """Members by what can be seen of them beside names."""
    found: dict[object, list[Member]] = defaultdict(list)
    for member in members:
        found[member.colour].append(member)
    # What one module holds of one colour on both sides keeps the names that the frameworks give it.
    return [(c, rows) for c, rows in found.items() if any(len({m.homes[side] for m in rows}) > 1 for side in (0, 1))]


def _unordered(how: tuple[str, str], members: Sequence[Member]) -> str:
    classes = [(colour, rows) for colour, rows in _classes(members) if len(rows) > 1]
    if not how[1]:  # the words of one side tell what the other holds in one module
        classes = [(colour, rows) for colour, rows in classes if len({m.homes[0] for m in rows}) > 1]
    for colour, rows in classes:
        if SHUFFLED in how:
            return f"{len(rows)} of {colour}"
        if any(len({stems(tokens((m.torch, m.flax)[side])) for m in rows}) > 1 for side in (0, 1)):
            return f"{len(rows)} of {colour}, numbered on one side and named on the other"
        if not _monotone((m.torch, m.flax) for m in rows):
            return f"{len(rows)} of {colour}, in another order"
    orders = [[m.colour for m in sorted(members, key=lambda m: _numbers((m.torch, m.flax)[side]))] for side in (0, 1)]
    if classes and all(how) and orders[0] != orders[1]:
        return f"{len(classes[0][1])} of {classes[0][0]}, where the numbers of the sides count layers of other sizes unlike"
    return ""


def _counted(members: Sequence[Member], *, backwards: bool) -> str:
    """Layers of one container that the automatic names count: told by numbers on the other side that run alike.

    Calls stand above numbers; norms that torch names are told by habit alone.
    """
    for colour, rows in _classes(members):
        siblings: dict[str, list[Member]] = defaultdict(list)
        for member in rows:
            siblings[member.flax.rpartition("/")[0]].append(member)
        for home, several in siblings.items():
            inside = {m.colour for m in members if m.flax.startswith(f"{home}/")} if home else set()
            if inside == {colour} and len(several) < len(rows) and len(siblings) == 2 and several[0].norm:
                return f"{len(rows)} of {colour}, some in a container of their own that nothing else tells"
            if len({m.flax for m in several}) < 2:
                continue
            if colour[0] == "array" and len({stems(tokens(m.flax)) for m in several}) == len(several):  # type: ignore[index]
                continue  # what a module calls its arrays stays
            if len({stems(tokens(m.torch)) for m in several}) > 1:
                known = (not backwards or several[0].called is not None) and any(
                    _split(m.torch)[-1][1] for m in several
                )
                order = sorted(several, key=lambda m: _numbers(m.flax))
                if known or _usual([m.torch for m in order]):
                    continue
                return f"{len(several)} of {colour}, named on one side and counted on the other"
            called = all(m.called is not None for m in several)
            order = sorted(several, key=lambda m: (m.called or 0) if called else 0)
            if not (_runs([m.torch for m in order]) if called else _monotone((m.torch, m.flax) for m in several)):
                return f"{len(several)} of {colour}, counted in another order"
    return ""


def _numbers(path: str) -> tuple[int, ...]:
    return tuple(token.number for token in tokens(path) if token.number is not None)


def _runs(paths: Sequence[str]) -> bool:
    """Whether numbers grow along paths, and are there."""
    return all(_numbers(one) < _numbers(two) for one, two in itertools.pairwise(paths))


def _monotone(rows: Iterable[tuple[str, str]]) -> bool:
    found = sorted((_numbers(one), _numbers(two)) for one, two in rows)
    return all(a <= b for (_, a), (_, b) in itertools.pairwise(found))
