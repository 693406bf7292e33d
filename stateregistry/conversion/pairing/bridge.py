"""Bridge: from the pairs of units that alignment finds to pairs of layers and entries, with layouts and grades.

A layer that was only inferred takes the kind and the layout that the other side knows; what rests on nothing but a habit is an
`assumption` that the caller must accept, and what nothing decides is a problem that names the candidates and a rule.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, final

from stateregistry.alignment import bare, copies, stacked
from stateregistry.alignment.colours import is_vector
from stateregistry.alignment.images import images
from stateregistry.alignment.lexicon import words_of
from stateregistry.alignment.model import Pair, Result, Unit, View, worse
from stateregistry.alignment.orientation import Orientation
from stateregistry.alignment.settle import as_kind
from stateregistry.alignment.view import Given, view
from stateregistry.conversion.pairing import doubts, flatten
from stateregistry.conversion.pairing.pairs import Alignment, EntryPair, LayerPair
from stateregistry.conversion.pairing.readings import alike, dialect_of, is_decided, out_first, readings, ways_of
from stateregistry.conversion.pairing.unpaired import Unpaired
from stateregistry.conversion.planning.plan import Grade, PlanProblem
from stateregistry.conversion.rules.patterns import covers, filled, prefix
from stateregistry.layers.vocabulary import a_kind

if TYPE_CHECKING:
    from stateregistry.alignment.colours import Colour
    from stateregistry.conversion.rules.rules import Rules
    from stateregistry.conversion.side import Side
    from stateregistry.layers.vocabulary import Layer

_BY_NAME: Final = "same path"
#: The axis of a pattern that counts blocks.
_COUNTED: Final = re.compile(r"\([^)]*:\) ?")


@final
class Bridge:
    """From pairs of units to pairs of layers and entries."""

    def __init__(
        self,
        source: Side,
        target: Side,
        rules: Rules,
        names: Mapping[str, str],
        settled: tuple[set[str], set[str]],
        found: Alignment,
    ) -> None:
        self.source, self.target, self.rules, self.names, self.found = source, target, rules, names, found
        self.same = bool(source.dialect) and source.dialect == target.dialect
        self.settled = settled
        self.rest = Unpaired(source, target, rules, found)
        self.done = self.rest.done
        self.sides = source, target
        #: Containers of either side that are read as the blocks of the other side, stacked.
        self.stacks: list[Mapping[str, stacked.Stack]] = [{}, {}]
        #: Kernels of either side that lie as those of the convolutions that they transpose.
        self.turned: list[frozenset[str]] = [frozenset(), frozenset()]
        #: Linears of a side that does not know its layers, of which the other side's shape says how they lie.
        self.learned: set[tuple[int, str]] = set()
        self.dialects = dialect_of(source), dialect_of(target)
        self.orientations = tuple(
            Orientation(side.entries, side.layers, out_first=out_first(dialect))
            for side, dialect in zip(self.sides, self.dialects, strict=True)
        )

    def run(self) -> None:
        """Pair, and say what is not paired."""
        result, views = self._paired()
        self.found.paths = tuple(unit.path for unit in (*views[0].units, *(copy for copy, _ in result.copies[0])))
        self._check_images(result, views)
        self._learn(result)
        for pair in result.pairs:
            self._emit(pair)
        for question in result.questions:
            if question.crossed:  # of these no key is the same thing on both sides
                self.rest.explain(question.sources, question.targets)
        self._alone()
        self.rest.report(result, views)

    def _paired(self) -> tuple[Result, copies.Views]:
        """The pairing of both sides. What it leaves over of a side without types may be read otherwise."""
        found = self._once()
        for number, side in enumerate(self.sides):
            untyped = self.dialects[number] is not None and all(layer.inferred for layer in side.layers)
            if not self.target.derived and untyped and any(not unit.spare for unit in found[0].left[1 - number]):
                found = self._restacked(number, self._transposed(number, found))
        return found

    def _once(self) -> tuple[Result, copies.Views]:
        return copies.paired(self._views, self.rules.rename, by_structure=not self.target.derived)

    def _transposed(self, number: int, first: tuple[Result, copies.Views]) -> tuple[Result, copies.Views]:
        """The pairing with kernels read as those of the convolutions that they transpose, if that leaves less over.

        Of those without a bias no size tells it; only what corresponds to nothing as it is, and to something when it is
        turned, is one.
        """
        left = [[unit for unit in units if not unit.spare] for units in first[0].left]
        wanted = {unit.colour for unit in left[1 - number] if unit.colour[0] == "conv_transpose"}
        paths = frozenset(
            unit.path for unit in left[number] if unit.colour[0] == "conv" and _turned_colour(unit.colour) in wanted
        )
        if not paths:
            return first
        self.turned[number] = paths
        again = self._once()
        if _fits(again[0], first[0], number, paths):
            return again
        self.turned[number] = frozenset()
        return first

    def _restacked(self, number: int, first: tuple[Result, copies.Views]) -> tuple[Result, copies.Views]:
        """The pairing with containers read as the blocks of the other side, stacked, if that leaves less over."""
        better = []
        counts = stacked.counts_of(first[1][1 - number].units)
        for stacks in stacked.beside(self.sides[number].entries, counts):
            self.stacks[number] = stacks
            again = self._once()
            if _fits(again[0], first[0], number, stacks):
                better.append((stacks, again))
        self.stacks[number] = better[0][0] if len(better) == 1 else {}
        if len(better) > 1:
            self._open_axis([stacks for stacks, _ in better])
        return better[0][1] if len(better) == 1 else first

    def _open_axis(self, several: Sequence[Mapping[str, stacked.Stack]]) -> None:
        """Ask for the axis of blocks that lie in one of several ways."""
        paths = tuple(dict.fromkeys(path for stacks in several for path in stacks))
        axes = " or ".join(dict.fromkeys(str(stack.axis) for stacks in several for stack in stacks.values()))
        text = f"its arrays may hold the blocks of the other side along axis {axes}, and no shape tells which"
        self.found.problems.append(
            PlanProblem("ambiguous", paths, text, "give the model (module=, like=), which says it")
        )

    def _learn(self, result: Result) -> None:
        """What is called alike and is no square says how matrices without a bias lie on a side that does not know."""
        for pair in result.pairs:
            units = pair.source, pair.target
            if pair.grade != "certain" or _BY_NAME not in pair.evidence or units[0].colour != units[1].colour:
                continue
            for number, unit in enumerate(units):
                layer = unit.layer
                if layer is None or unit.typed or not units[1 - number].typed or layer.kind != "linear":
                    continue
                kernel = next(piece for piece in layer.pieces if piece.role == "kernel")
                if len(set(self._shape(number, layer.key(kernel)))) > 1:
                    self.orientations[number].vote(layer.path, kernel.axes, kernel.name)
                    self.learned.add((number, layer.path))

    def _shape(self, number: int, key: str) -> tuple[int, ...]:
        side = self.sides[number]
        return side.entries[side.canonical(key) or key].shape

    def _views(self) -> tuple[View, View]:
        """Both sides, without what the rules leave out as a whole. What holds its values and has a namesake displaces it."""
        views = self._view(0), self._view(1)
        names = [{tuple(token.same for token in unit.tokens) for unit in one.units} for one in views]
        for number, one in enumerate(views):
            one.units = [
                unit
                for unit in one.units
                if not self.rest.is_held(number, unit)
                or (number == 1 and tuple(token.same for token in unit.tokens) in names[0])
            ]
        return views

    def _view(self, number: int) -> View:
        side, dialect = self.sides[number], self.dialects[number]
        skip = {side.canonical(name) or name for name in self.settled[number]}
        for key, entry in side.entries.items():
            if not entry.persistent or entry.rng:
                skip.add(key)
        own = bare.Read(list(side.layers))
        if dialect is not None and not self.target.derived:
            own = bare.read(side.entries, side.layers, dialect, self.stacks[number], self.turned[number])

        def ways(layer: Layer) -> Mapping[str, Layer]:
            return own.readings.get(layer.path) or readings(layer, side, self.rules)

        made = view(
            Given(
                side.entries, side.aliases, own.layers, ways,
                path=self._renamed if number == 0 else str, skip=skip,
                called=dialect is not None and dialect.called, channels=dialect.channels if dialect is not None else "",
                out_first=out_first(dialect),
            )
        )  # fmt: skip
        for unit in made.units:
            unit.ruled = number == 0 and self._renamed(unit.path) != unit.path
            if unit.path in own.doubts:
                unit.note, unit.grade = own.doubts[unit.path], "assumption"
        return made

    def _renamed(self, path: str) -> str:
        new = self.rules.rename(path)
        return path if new is None else new

    def _check_images(self, result: Result, views: tuple[View, View]) -> None:
        """Ask of axes that may be a flattened image, unless a rule says how it is flattened."""
        self.found.problems += [
            flatten.asked(image, first=views[0].channels == "first")
            for image in images(result.pairs, *views)
            if not flatten.is_told(image, self.rules)
        ]

    # ---------------------------------------------------------------- pairs

    def _emit(self, pair: Pair) -> None:
        ways = [ways_of(unit) for unit in (pair.source, pair.target)]
        arrays = [_may_be_array(unit) for unit in (pair.source, pair.target)]
        if all(arrays):
            self._entry(pair, pair.source.keys[0], pair.target.keys[0])
        elif ways[0] and ways[1]:
            self._layers(pair, *ways)
        else:
            layers, unit = (ways[0], pair.target) if ways[0] else (ways[1], pair.source)
            layer = next(iter(layers.values()))
            key = self.sides[0 if ways[0] else 1].canonical(layer.key(layer.pieces[0])) or ""
            if len(layer.pieces) != 1:
                self._mismatch(pair, f"{_named(layer)} and an array {unit.path!r}")
            else:
                self._entry(pair, *((key, unit.keys[0]) if ways[0] else (unit.keys[0], key)))

    def _layers(self, pair: Pair, left: Mapping[str, Layer], right: Mapping[str, Layer]) -> None:
        kinds = [kind for kind in left if kind in right]
        if len(kinds) > 1:
            options = [{way.kind: c for c, way in unit.readings.items()} for unit in (pair.source, pair.target)]
            kinds = [kind for kind in kinds if options[0].get(kind) == options[1].get(kind)] or kinds
        if not kinds and is_vector(pair.source.colour) and is_vector(pair.target.colour):
            left, right, kinds = self._as_one(pair, left, right)
        if not kinds:
            one, two = next(iter(left.values())), next(iter(right.values()))
            if "conv" in (one.kind, two.kind) and pair.source.colour == pair.target.colour:
                kinds = [one.kind]
            else:
                self._mismatch(pair, f"{_named(one)} in the source and {_named(two)} in the target")
                return
        kind = kinds[0]
        one, two = left[kind], right[kind]
        if len(kinds) > 1 and not self._all_one(kinds, left, right):
            if set(kinds) != {"conv", "conv_transpose"} or _hinted(pair):
                self._open_kind(pair, kinds)
                return
            pair.doubt("assumption", f"{one.path}: read as a conv, and its shapes fit a conv_transpose too")
        grade, reason = self._layout(one, two)
        whole = pair.grade != "certain"
        if whole:
            reason = "; ".join(filter(None, (pair.evidence[-1] if pair.evidence else "", reason)))
        evidence = "; ".join(dict.fromkeys(pair.evidence))
        made = LayerPair(one, two, evidence, worse(grade, pair.grade), reason, whole)
        self.found.layers.append(made)
        _check_leaf_renames(one, two, self.rules, self.found)
        self._mark(one, two)

    def _as_one(
        self, pair: Pair, left: Mapping[str, Layer], right: Mapping[str, Layer]
    ) -> tuple[Mapping[str, Layer], Mapping[str, Layer], list[str]]:
        """A norm of nobody's type is what the other side says it is."""
        if not pair.target.typed:
            kind = next(iter(left))
            return left, {kind: as_kind(next(iter(right.values())), kind)}, [kind]
        if not pair.source.typed:
            kind = next(iter(right))
            return {kind: as_kind(next(iter(left.values())), kind)}, right, [kind]
        return left, right, []

    def _all_one(self, kinds: Sequence[str], left: Mapping[str, Layer], right: Mapping[str, Layer]) -> bool:
        """Whether every kind gives the same move."""
        if self.same:
            return True
        return alike([left[kind] for kind in kinds], self.source) and alike(
            [right[kind] for kind in kinds], self.target
        )

    def _layout(self, one: Layer, two: Layer) -> tuple[Grade, str]:
        """How sure the layout is. A kernel of a layer that was only inferred may be stored the other way round."""
        turned = [layer for number, layer in ((0, one), (1, two)) if self._may_be_turned(number, layer)]
        if turned and not self.same:
            text = "a kernel of as many inputs as outputs is stored in one of two ways, and only a model says which"
            return "assumption", f"{turned[0].path}: {text}"
        if self.same or any(covers(rule.path, one.path) or covers(rule.path, two.path) for rule in self.rules.layers):
            return "certain", ""
        for number, layer, other in ((0, one, two), (1, two, one)):
            if layer.inferred and not self._layout_is_certain(number, layer, settled=not other.inferred):
                text = f"{layer.path}: the {layer.kind} was inferred from names, and its shapes fit other layouts too"
                return "assumption", text
        return "certain", ""

    def _may_be_turned(self, number: int, layer: Layer) -> bool:
        """Whether the kernel of a transposed convolution may as well be that of the convolution that it transposes.

        A framework whose table turns it has both, and shapes tell them apart by the numbers of inputs and outputs alone.
        """
        dialect = self.dialects[number]
        row = dialect.declaration(layer.kind) if dialect is not None and layer.kind == "conv_transpose" else None
        usual = row.piece("kernel") if row is not None else None
        held = next((piece for piece in layer.pieces if piece.role == "kernel"), None)
        if not layer.inferred or usual is None or held is None or not usual.axes.startswith("-*"):
            return False
        shape = self._shape(number, layer.key(held))
        return len(shape) > 2 and shape[-1] == shape[-2]

    def _layout_is_certain(self, number: int, layer: Layer, *, settled: bool) -> bool:
        """Whether shapes, a side that knows, or the decided layers of the same file exclude every other layout."""
        side = self.sides[number]
        if "kernel" not in layer.roles or is_decided(layer, side) or (number, layer.path) in self.learned:
            return True
        if layer.kind != "linear":
            return settled  # once the kind is known, a framework has one layout for it
        # Only matrices are stored either way by some classes: their neighbours tell.
        kernel = next(piece for piece in layer.pieces if piece.role == "kernel")
        pattern, decided = self.orientations[number].of(layer.path, kernel.name)
        lies = _COUNTED.sub("", kernel.axes).strip()
        # Heads have axes of their own, and thirds a name: these lie as they were read.
        return lies not in ("out in", "in out") or (decided and lies == pattern)

    def _entry(self, pair: Pair, key: str, other: str) -> None:
        """A pair of arrays; axes of one element may be elsewhere."""
        mine, theirs = self.source.entries[key].shape, self.target.entries[other].shape
        evidence = "; ".join(dict.fromkeys(pair.evidence))
        made = EntryPair(key, other, evidence, pair.grade, pair.evidence[-1] if pair.grade != "certain" else "")
        sizes = [size for size in mine if size != 1]
        if mine != theirs and sizes == [size for size in theirs if size != 1]:
            made = replace(made, source_axes=_unit_axes(mine), target_axes=_unit_axes(theirs))
        if len(sizes) > 1 and (len(set(sizes)) != len(sizes) or self.target.derived) and not self.same:
            text = f"an array of shape {mine} outside any known layer: its axes may be in another order"
            text = "; ".join(filter(None, (text, doubts.computed_from(key, self.source))))
            made = replace(made, grade=worse("assumption", made.grade), reason=text)
        self.found.entries.append(made)
        self.done[0].add(key)
        self.done[1].add(other)

    def _mark(self, one: Layer, two: Layer) -> None:
        self.done[0].update(one.roles.values())
        self.done[1].update(two.roles.values())

    # ---------------------------------------------------------------- what is not paired

    def _mismatch(self, pair: Pair, text: str) -> None:
        self.found.problems.append(PlanProblem("kind", _paths(pair), text, "the models do not correspond here"))
        self.rest.explain([pair.source], [pair.target])

    def _open_kind(self, pair: Pair, kinds: Sequence[str]) -> None:
        text = f"by its names it could be {' or '.join(kinds)}, and neither side says which"
        hint = f'add a rule [[layer]] path = "{pair.source.path}" kind = "{kinds[0]}", or give the model (like=)'
        self.found.problems.append(PlanProblem("ambiguous", _paths(pair), text, hint))
        self.rest.explain([pair.source], [pair.target])

    def _alone(self) -> None:
        """Pair by key what is in no pair yet: second names, and entries of layers that have no partner."""
        for name, new in self.names.items():
            key, other = self.source.canonical(name), self.target.canonical(new)
            if key is None or other is None or name in self.done[0] or new in self.done[1]:
                continue
            if key in self.done[0] or other in self.done[1]:
                continue
            if name in self.settled[0] or new in self.settled[1]:
                continue
            if self.rules.rename(name) is None and name != new:
                continue
            evidence = ["same key"] if name == new else ["a rename rule"]
            unit = Unit(name, (), (("array",),), {}, (key,), typed=False, place=0)
            self._entry(Pair(unit, unit, evidence), key, other)


def _fits(again: Result, first: Result, number: int, read: Collection[str]) -> bool:
    """Whether what is read otherwise leaves less of the other side over, and nothing of itself."""
    rest = [[unit for unit in result.left[1 - number] if not unit.spare] for result in (again, first)]
    inside = any(unit.path == path or stacked.below(unit.path, path) for unit in again.left[number] for path in read)
    return len(rest[0]) < len(rest[1]) and not inside


def _turned_colour(colour: Colour) -> Colour:
    """What a kernel of a convolution is if it is that of the convolution that it transposes."""
    return ("conv_transpose", colour[2], colour[1], *colour[3:])


def _paths(pair: Pair) -> tuple[str, str]:
    return pair.source.path or "(the model)", pair.target.path or "(the model)"


def _may_be_array(unit: Unit) -> bool:
    """Whether a unit may be an array of no layer."""
    return any(option[0] == "array" for option in unit.options)


def _unit_axes(shape: Sequence[int]) -> str:
    """A pattern in which axes of one element are nothing."""
    words, number = [], 0
    for size in shape:
        words.append("1" if size == 1 else f"a{number}")
        number += size != 1
    return " ".join(words)


def _hinted(pair: Pair) -> bool:
    words = frozenset[str]().union(
        *(words_of(unit.tokens[-1].text) for unit in (pair.source, pair.target) if unit.tokens)
    )
    return bool(words & {"transpose", "deconv", "up", "deconvolution", "convtranspose", "upconv", "tconv"})


def _check_leaf_renames(left: Layer, right: Layer, rules: Rules, found: Alignment) -> None:
    """A layer goes as a whole: a rename of one of its arrays that says something else would be ignored."""
    if left.config.get("stacked"):
        return  # its arrays are those of others too: the rule speaks of one of the layers in them
    for piece in left.pieces:
        key = left.key(piece)
        new = rules.rename(key)
        whole = f"{right.path}/{piece.name}" if right.path else piece.name
        if new is None or new in (*right.roles.values(), whole) or _is_inside(left.path, right.path, rules):
            continue
        if rules.rename(left.path) == right.path and key.startswith(f"{left.path}/"):
            continue  # the rule speaks of the layer: a part of one that holds several has its arrays below its own path
        if len(left.pieces) == len(right.pieces) == 1 and new in (
            right.path,
            f"{right.key(right.pieces[0])}/{piece.name}",
        ):
            continue  # an array that is a layer on the other side, called by its own key
        text = (
            f"the rule calls it {new!r}, but it is part of {a_kind(left.kind)}, which goes as a whole to {right.path!r}"
        )
        hint = f"rename the layer {left.path!r} instead"
        found.problems.append(PlanProblem("rule", (key,), text, hint))


def _is_inside(left: str, right: str, rules: Rules) -> bool:
    """Whether a rename speaks of a container of a layer, and what the layer goes to lies in the other container."""
    for rule in rules.renames:
        hit = prefix(rule.source, left)
        made = filled(rule.target, hit[1]) if hit is not None and hit[0] != left and not rule.counts else None
        if made and right.startswith(f"{made}/"):
            return True
    return False


def _named(layer: Layer) -> str:
    note = layer.type or ("inferred" if layer.inferred else "")
    return f"{a_kind(layer.kind)} ({note})" if note else a_kind(layer.kind)
