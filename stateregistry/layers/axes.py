"""The algebra of named axes: which native axis is which is declared once, and every move is derived from two declarations.

A pattern names the axes of a native array in order:

    out in                     two axes
    out in/groups *spatial     `*name` stands for one or more axes: name.0, name.1, ...
    in (heads head_dim)        one native axis that is several neutral ones, the last varying fastest
    (i|f|g|o: hidden) in       one native axis that is several parts, one after another
    (heads q|k|v: head_dim) in the same, part by part inside every head: what stands before the parts is outside them
    (0|1|2:) in out            an axis that only counts parts: stacked layers
    (heads=12 pair half) in    an axis whose size the pattern says itself
    -*spatial in out           a leading `-` marks an axis that is stored reversed
    1 out                      an axis of size one that no role has

`expand` takes a native array apart into neutral arrays, one per part, whose axes are in sorted order of names; `collapse`
is its inverse. Both are made of views and one final reshape between equal sizes: no permutation is ever written down, and
none is stored for a pair of frameworks. Laws: `collapse(expand(x)) == x` bit for bit, and a derived move followed by the
move derived the other way round is the identity. Knows no framework and no layer kind; imports NumPy.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, final

from stateregistry.errors import AxesError

if TYPE_CHECKING:
    import numpy as np

_TOKEN = re.compile(r"\s*(?:(\()|(\))|([^\s()]+))")
_SIZED = re.compile(r"(?P<name>[^=]+)=(?P<size>[1-9][0-9]*)\Z")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_./]*\Z")
_PART = re.compile(r"[A-Za-z0-9_]+\Z")


@final
@dataclass(frozen=True, slots=True)
class Atom:
    """One neutral axis inside a native one.

    `many`: a family `*name` of one or more axes; `reverse`: stored reversed; `size`: what the pattern says, 0 for nothing.
    """

    name: str
    many: bool = False
    reverse: bool = False
    size: int = 0


@final
@dataclass(frozen=True, slots=True)
class Group:
    """One native axis (a family: one or more): the atoms it is made of, outermost first; no atom: size one.

    `parts` names the pieces that lie one after another along it; empty for an undivided axis; the first `outer` atoms
    stand outside them. `merged`: written in parentheses, so that it is one native axis whatever its atoms are.
    """

    atoms: tuple[Atom, ...]
    parts: tuple[str, ...] = ()
    merged: bool = False
    outer: int = 0


@final
@dataclass(frozen=True, slots=True)
class Bound:
    """A pattern fitted to a shape: every native axis with the sizes of its atoms."""

    pattern: str
    shape: tuple[int, ...]
    groups: tuple[Group, ...]
    sizes: Mapping[str, int]

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts, joined by `.` where two axes are divided; `("",)` where the array is one piece."""
        return tuple(".".join(names) for names in itertools.product(*(g.parts for g in self.groups if g.parts)))

    def _atoms(self) -> list[Atom]:
        return [atom for group in self.groups for atom in group.atoms]

    @property
    def neutral(self) -> tuple[str, ...]:
        """The names of the neutral axes, sorted: the order that `expand` gives."""
        return tuple(sorted(atom.name for atom in self._atoms()))

    def _split(self) -> tuple[list[tuple[str, bool]], list[int]]:
        """Every axis in native order, outermost first, with whether it is reversed, and its size. `#n` counts parts."""
        axes: list[tuple[str, bool]] = []
        sizes: list[int] = []
        for number, group in enumerate(self.groups):
            here = [(atom.name, atom.reverse) for atom in group.atoms]
            there = [self.sizes[atom.name] for atom in group.atoms]
            if group.parts:
                here.insert(group.outer, (f"#{number}", False))
                there.insert(group.outer, len(group.parts))
            axes += here
            sizes += there
        return axes, sizes

    def expand(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Take a native array apart: one neutral array per part, axes in `neutral` order. Views only."""
        axes, sizes = self._split()
        split = array.reshape(sizes)  # splitting axes never copies
        split = split[_mirror(axes)]
        names = [name for name, _ in axes]
        counting = [name for name in names if name.startswith("#")]
        split = split.transpose([names.index(name) for name in (*counting, *self.neutral)])
        places = itertools.product(*(range(split.shape[n]) for n in range(len(counting))))
        return {part: split[(*place, ...)] for part, place in zip(self.parts, places, strict=True)}

    def collapse(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        """Put neutral arrays together into the native array: the inverse of `expand`.

        A view where the native axes are not merged; otherwise the one copy that merging needs.
        """
        import numpy as np

        axes, sizes = self._split()
        names = [name for name, _ in axes]
        counting = [name for name in names if name.startswith("#")]
        arrays = [parts[part] for part in self.parts]
        joined = arrays[0]
        if counting:
            joined = np.stack(arrays).reshape([sizes[names.index(n)] for n in counting] + list(arrays[0].shape))
        order = (*counting, *self.neutral)
        native: np.ndarray = joined.transpose([order.index(name) for name in names])[_mirror(axes)]
        return native.reshape(self.shape)


def _mirror(axes: Sequence[tuple[str, bool]]) -> tuple[Any, ...]:
    """The index that turns every reversed axis round. With `...`, because an index of no axes gives a scalar and no array."""
    return (*(slice(None, None, -1) if reverse else slice(None) for _, reverse in axes), ...)


@lru_cache(maxsize=4096)
def parse(pattern: str) -> tuple[Group, ...]:
    """The groups of a pattern.

    Raises:
        AxesError: it does not parse, or names an axis twice.
    """
    groups: list[Group] = []
    inside: list[str] | None = None
    position = 0
    text = pattern.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _malformed(pattern, f"cannot read {text[position:]!r}")
        position = match.end()
        opened, closed, word = match.groups()
        if opened:
            if inside is not None:
                raise _malformed(pattern, "a '(' inside parentheses")
            inside = []
        elif closed:
            if inside is None:
                raise _malformed(pattern, "a ')' without '('")
            groups.append(_composite(pattern, inside))
            inside = None
        elif inside is not None:
            inside.append(word)
        else:
            groups.append(Group(()) if word == "1" else Group((_atom(pattern, word),)))
    if inside is not None:
        raise _malformed(pattern, "a '(' without ')'")
    names = [atom.name for group in groups for atom in group.atoms]
    if len(set(names)) != len(names):
        raise _malformed(pattern, "an axis is named twice")
    return tuple(groups)


def _composite(pattern: str, words: list[str]) -> Group:
    parts: tuple[str, ...] = ()
    before: list[str] = []
    head = next((number for number, word in enumerate(words) if word.endswith(":")), None)
    if head is not None:
        *before, named = re.sub(r"\s*\|\s*", "|", " ".join(words[: head + 1])[:-1].strip()).split() or [""]
        parts = tuple(named.split("|"))
        words = words[head + 1 :]
        if len(set(parts)) != len(parts) or not all(_PART.match(part) for part in parts):
            raise _malformed(pattern, "parts are different names: (query|key|value: ...)")
    if not words and not parts:
        raise _malformed(pattern, "empty parentheses")
    return Group(tuple(_atom(pattern, word) for word in (*before, *words)), parts, merged=True, outer=len(before))


def _atom(pattern: str, word: str) -> Atom:
    sized = _SIZED.match(word)
    plain = word if sized is None else sized["name"]
    name = plain.removeprefix("-")
    bare = name.removeprefix("*")
    if not _NAME.match(bare) or (sized is not None and bare != name):
        raise _malformed(pattern, f"{word!r} is not an axis")
    return Atom(bare, many=bare != name, reverse=name != plain, size=0 if sized is None else int(sized["size"]))


def _malformed(pattern: str, why: str) -> AxesError:
    return AxesError(
        f"axis pattern {pattern!r}: {why}", found=pattern, hint="see the spec, chapter Layers: axis patterns"
    )


def parts_of(pattern: str) -> tuple[tuple[str, ...], ...]:
    """The names of the parts of every native axis that a pattern divides; empty for an array of one piece."""
    return tuple(group.parts for group in parse(pattern) if group.parts)


def rank_fits(pattern: str, rank: int) -> bool:
    """Whether an array of that rank can have the pattern."""
    groups = parse(pattern)
    return rank >= len(groups) if any(_is_family(group) for group in groups) else rank == len(groups)


def _is_family(group: Group) -> bool:
    return len(group.atoms) == 1 and group.atoms[0].many and not group.merged


def _unfold(pattern: str, shape: Sequence[int], refine: Mapping[str, int]) -> tuple[Group, ...]:
    """Replace families by their members; `refine` gives the number of members where the rank does not."""
    groups = parse(pattern)
    families = [group for group in groups if _is_family(group)]
    room = len(shape) - (len(groups) - len(families))
    counts: dict[str, int] = {}
    unknown = [group.atoms[0].name for group in families if group.atoms[0].name not in refine]
    for group in families:
        name = group.atoms[0].name
        if name in refine:
            counts[name] = refine[name]
    left = room - sum(counts.values())
    if len(unknown) == 1:
        counts[unknown[0]] = left
    if len(unknown) > 1 or (not unknown and left) or any(count < 1 for count in counts.values()):
        message = f"axis pattern {pattern!r} does not fit an array of shape {tuple(shape)}"
        raise AxesError(message, expected=pattern, found=tuple(shape))
    out: list[Group] = []
    for group in groups:
        if _is_family(group):
            atom = group.atoms[0]
            out += [Group((Atom(f"{atom.name}.{n}", reverse=atom.reverse),)) for n in range(counts[atom.name])]
            continue
        atoms: list[Atom] = []
        outer = group.outer
        for place, atom in enumerate(group.atoms):
            members = refine.get(atom.name)
            if members is None and atom.many:
                if len(group.atoms) > 1:
                    message = f"axis pattern {pattern!r}: nothing says how many axes *{atom.name} is inside parentheses"
                    raise AxesError(message, expected=pattern, found=tuple(shape))
                members = 1  # a family that is one native axis is one axis, unless another array says that it is more
            names = [atom.name] if members is None else [f"{atom.name}.{n}" for n in range(members)]
            atoms += [Atom(name, reverse=atom.reverse) for name in names]
            outer += (len(names) - 1) * (place < group.outer)
        out.append(Group(tuple(atoms), group.parts, group.merged, outer))
    return tuple(out)


def _solve(pattern: str, shape: Sequence[int], groups: tuple[Group, ...], sizes: dict[str, int]) -> bool:
    """Derive sizes of atoms from native sizes, as far as they follow. Returns whether anything new was found."""
    progress = False
    for number, (group, size) in enumerate(zip(groups, shape, strict=True)):
        unknown = [atom.name for atom in group.atoms if atom.name not in sizes]
        known = math.prod(sizes[atom.name] for atom in group.atoms if atom.name in sizes) * max(len(group.parts), 1)
        if len(unknown) == 1 and known and size % known == 0:
            sizes[unknown[0]] = size // known
            progress = True
        elif not unknown and known == size:
            continue
        elif len(unknown) <= 1:
            names = " ".join(atom.name for atom in group.atoms) or "1"
            message = (
                f"axis pattern {pattern!r}: native axis {number} ({names}) has size {size}, "
                f"which does not agree with {known}"
            )
            raise AxesError(message, expected=known, found=size)
    return progress


def bind(pattern: str, shape: Sequence[int], sizes: Mapping[str, int] | None = None) -> Bound:
    """Fit a pattern to a shape. `sizes` gives what the shape alone does not say (heads inside a merged axis).

    Raises:
        AxesError: the rank or a size contradicts the pattern, or a size stays unknown.
    """
    return _bind(pattern, tuple(shape), tuple(sizes.items()) if sizes else ())


# The layers of one model are much alike: 100,000 entries have a few dozen patterns and shapes.
@lru_cache(maxsize=4096)
def _bind(pattern: str, shape: tuple[int, ...], sizes: tuple[tuple[str, int], ...]) -> Bound:
    known = _stated([pattern], dict(sizes))
    groups = _unfold(pattern, shape, _counts(known))
    while _solve(pattern, shape, groups, known):
        pass
    return _bound(pattern, shape, groups, known)


def _stated(patterns: Iterable[str], sizes: Mapping[str, int] | None) -> dict[str, int]:
    """The sizes that are given, and those that patterns say themselves."""
    known = dict(sizes or {})
    for pattern in patterns:
        for atom in (atom for group in parse(pattern) for atom in group.atoms if atom.size):
            if known.setdefault(atom.name, atom.size) != atom.size:
                message = f"axis pattern {pattern!r}: {atom.name} has size {known[atom.name]} elsewhere"
                raise AxesError(message, expected=known[atom.name], found=atom.size)
    return known


def _counts(names: Iterable[str]) -> dict[str, int]:
    """How many members each family has, from names such as `spatial.0`."""
    counts: dict[str, int] = {}
    for name in names:
        base, dot, number = name.rpartition(".")
        if dot and number.isdigit():
            counts[base] = max(counts.get(base, 0), int(number) + 1)
    return counts


def _bound(pattern: str, shape: Sequence[int], groups: tuple[Group, ...], sizes: Mapping[str, int]) -> Bound:
    wanted = [atom.name for group in groups for atom in group.atoms]
    unknown = [name for name in wanted if name not in sizes]
    if unknown:
        message = f"axis pattern {pattern!r} on shape {tuple(shape)}: nothing says the size of {', '.join(unknown)}"
        raise AxesError(message, expected=pattern, found=tuple(shape), hint="the layer's config has to give it")
    return Bound(pattern, tuple(shape), groups, {name: sizes[name] for name in wanted})


@final
@dataclass(frozen=True, slots=True)
class Transform:
    """The move from one native array to another, derived from their patterns. `inverse` is derived the other way round."""

    source: Bound
    target: Bound

    def apply(self, array: np.ndarray) -> np.ndarray:
        """The target's native array: a view of `array` where no axes are merged."""
        return self.target.collapse(self.source.expand(array))

    def inverse(self) -> Transform:
        """The move back. Law: `t.inverse().apply(t.apply(x)) == x` bit for bit."""
        return Transform(self.target, self.source)

    @property
    def is_identity(self) -> bool:
        """The bytes stay in place: same axes in the same order, none reversed differently."""
        return _flat(self.source) == _flat(self.target)

    @property
    def signature(self) -> tuple[tuple[int, bool], ...]:
        """For every axis of the target in memory order, where it stands in the source and whether it is reversed.

        Two moves with one signature do the same to arrays of one shape, whatever the axes are called.
        """
        source, target = _flat(self.source), _flat(self.target)
        at = {name: (number, reverse) for number, (name, reverse) in enumerate(source)}
        return tuple((at[name][0], at[name][1] is not reverse) for name, reverse in target)

    def __str__(self) -> str:
        if self.is_identity:
            return "copy" if self.source.shape == self.target.shape else f"reshape to {self.target.shape}"
        return f"{self.source.pattern} -> {self.target.pattern}"


def _flat(bound: Bound) -> list[tuple[str, bool]]:
    axes: list[tuple[str, bool]] = []
    for group in bound.groups:
        here = [(atom.name, atom.reverse) for atom in group.atoms]
        if group.parts:
            here.insert(group.outer, (f"#{'|'.join(group.parts)}", False))
        axes += here
    return [axis for axis in axes if bound.sizes.get(axis[0]) != 1]  # an axis of size one is nowhere in memory


def derive(
    source: str,
    source_shape: Sequence[int],
    target: str,
    target_shape: Sequence[int],
    sizes: Mapping[str, int] | None = None,
) -> Transform:
    """The move between two native arrays that hold the same roles.

    Each side tells the other what its own shape does not say: the number of spatial axes, the size of merged axes.

    Args:
        sizes: sizes known from a layer's config.

    Raises:
        AxesError: the patterns name different axes, a size contradicts, or one stays unknown.
    """
    left, right = _bind_all([(source, source_shape), (target, target_shape)], sizes)
    if left.neutral != right.neutral or left.parts != right.parts:
        raise _different(left, right)
    return Transform(left, right)


@final
@dataclass(frozen=True, slots=True)
class Feed:
    """One native array that gives a part of another: which part it is taken from, and which it goes into (`""`: all)."""

    pattern: str
    shape: tuple[int, ...]
    part: str = ""
    into: str = ""


@final
@dataclass(frozen=True, slots=True)
class Assembly:
    """The move from several native arrays into one: each gives a part; parts that are given twice are added up."""

    sources: tuple[tuple[Bound, Feed], ...]
    target: Bound
    zeros: tuple[str, ...] = ()

    def apply(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """The target's native array, from the sources' arrays in order; parts in `zeros` are zero."""
        import numpy as np

        shape = [self.target.sizes[name] for name in self.target.neutral]
        parts = {part: np.zeros(shape, arrays[0].dtype) for part in self.zeros}
        for array, (bound, feed) in zip(arrays, self.sources, strict=True):
            piece = bound.expand(array)[feed.part]
            parts[feed.into] = parts[feed.into] + piece if feed.into in parts else piece
        return self.target.collapse(parts)

    @property
    def transform(self) -> Transform | None:
        """The plain move that this is where one whole array becomes another, else `None`."""
        if len(self.sources) != 1 or self.zeros or self.sources[0][1].part or self.sources[0][1].into:
            return None
        return Transform(self.sources[0][0], self.target)


def assemble(
    feeds: Sequence[Feed],
    target: str,
    target_shape: Sequence[int],
    sizes: Mapping[str, int] | None = None,
    zeros: Sequence[str] = (),
) -> Assembly:
    """The move from the parts of several native arrays into one; the parts named in `zeros` are filled with zero.

    Raises:
        AxesError: as `derive`; or a part of the target is not fed, or a feed names a part that is not there.
    """
    given_sizes = tuple(sizes.items()) if sizes else ()
    return _assemble(tuple(feeds), target, tuple(target_shape), given_sizes, tuple(zeros))


@lru_cache(maxsize=4096)
def _assemble(
    feeds: tuple[Feed, ...],
    target: str,
    target_shape: tuple[int, ...],
    sizes: tuple[tuple[str, int], ...],
    zeros: tuple[str, ...],
) -> Assembly:
    bounds = _bind_all([*((feed.pattern, feed.shape) for feed in feeds), (target, target_shape)], dict(sizes))
    *left, right = bounds
    for bound, feed in zip(left, feeds, strict=True):
        if feed.part not in bound.parts or feed.into not in right.parts:
            message = f"{feed.pattern!r} has the parts {bound.parts}, {target!r} the parts {right.parts}"
            raise AxesError(message, expected=feed.into, found=feed.part)
        if bound.neutral != right.neutral:
            raise _different(bound, right)
    given = {feed.into for feed in feeds}
    missing = [part for part in right.parts if part not in given and part not in zeros]
    if missing or not feeds or not given.isdisjoint(zeros):
        raise AxesError(f"nothing gives the parts {missing} of {target!r}", expected=target)
    return Assembly(tuple(zip(left, feeds, strict=True)), right, zeros)


def _bind_all(sides: Sequence[tuple[str, Sequence[int]]], sizes: Mapping[str, int] | None) -> list[Bound]:
    """Fit patterns that share their axes: what one of them cannot know, another tells."""
    known = _stated([pattern for pattern, _ in sides], sizes)
    counts = _shared_counts(sides, known)
    unfolded = [(pattern, shape, _unfold(pattern, shape, counts)) for pattern, shape in sides]
    while any([_solve(pattern, shape, groups, known) for pattern, shape, groups in unfolded]):  # noqa: C419  # all of them
        pass
    return [_bound(pattern, shape, groups, known) for pattern, shape, groups in unfolded]


def _shared_counts(sides: Sequence[tuple[str, Sequence[int]]], sizes: Mapping[str, int]) -> dict[str, int]:
    """The number of members of every family that any side names; a plain axis of the same name is refined to it."""
    written = [atom.name for pattern, _ in sides for group in parse(pattern) for atom in group.atoms]
    counts = _counts([*sizes, *written])
    for _ in range(2):  # the second round lets the first side learn from the others
        for pattern, shape in sides:
            groups = parse(pattern)
            families = [g.atoms[0].name for g in groups if _is_family(g) and g.atoms[0].name not in counts]
            if len(families) == 1:
                fixed = sum(not _is_family(g) for g in groups)
                known = sum(counts[g.atoms[0].name] for g in groups if _is_family(g) and g.atoms[0].name in counts)
                counts[families[0]] = max(len(shape) - fixed - known, 1)
    for pattern, _ in sides:  # a family that is one native axis, of which no side says more, is one axis
        for group in parse(pattern):
            if len(group.atoms) == 1 and group.atoms[0].many:
                counts.setdefault(group.atoms[0].name, 1)
    return counts


def _different(left: Bound, right: Bound) -> AxesError:
    one, two = " ".join((*left.neutral, *left.parts)).strip(), " ".join((*right.neutral, *right.parts)).strip()
    message = f"{left.pattern!r} and {right.pattern!r} do not have the same axes: {one!r} against {two!r}"
    return AxesError(message, expected=right.pattern, found=left.pattern)


def native_shape(pattern: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a native array whose neutral axes have the given sizes.

    Raises:
        AxesError: a size is not given.
    """
    sizes = _stated([pattern], sizes)
    counts = _counts(sizes)
    shape: list[int] = []
    for group in parse(pattern):
        if _is_family(group):
            base = group.atoms[0].name
            shape += [sizes[f"{base}.{n}"] for n in range(counts.get(base, 0))]
            continue
        try:
            size = math.prod(
                math.prod(sizes[f"{a.name}.{n}"] for n in range(counts[a.name])) if a.name in counts else sizes[a.name]
                for a in group.atoms
            )
        except KeyError as error:
            raise AxesError(f"axis pattern {pattern!r}: nothing says the size of {error}", expected=pattern) from error
        shape.append(size * max(len(group.parts), 1))
    return tuple(shape)
