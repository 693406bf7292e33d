"""Align: from rules and two sides to pairs of layers and entries, each with its evidence and its grade. Never a guess.

The bridge to `stateregistry.alignment`, which pairs by rules, names and structure. What belongs to one dialect on both sides
pairs by key as long as the keys meet. A layer that was only inferred takes the kind and the layout that the other side
knows; what rests on nothing but a habit is an `assumption` that the caller must accept, and what nothing decides is a
problem that names the candidates and a rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, final

from stateregistry import plugins
from stateregistry.alignment import bare, explain, soundness
from stateregistry.alignment.colours import is_vector
from stateregistry.alignment.engine import pair_up
from stateregistry.alignment.lexicon import words_of
from stateregistry.alignment.model import Pair, Question, Result, Unit, View, worse
from stateregistry.alignment.orientation import Orientation
from stateregistry.alignment.settle import as_kind
from stateregistry.alignment.view import Given, view
from stateregistry.conversion.patterns import covers, matches
from stateregistry.conversion.plan import Grade, PlanProblem
from stateregistry.conversion.questions import asked
from stateregistry.conversion.rules import Rules
from stateregistry.conversion.side import Side
from stateregistry.layers.infer import candidates
from stateregistry.layers.vocabulary import Dialect, Layer

#: The share of the keys of the smaller side that must meet for one dialect to pair by key.
_MEET: Final = 0.8
_BY_NAME: Final = "same path"
#: So many entries without a partner are told one by one, and so many paths are named at most.
_FEW: Final = 8
_NAMED: Final = 20


@final
@dataclass(frozen=True, slots=True)
class LayerPair:
    """Two layers that are one.

    Attributes:
        grade, reason: how sure it is, and why not more. whole: that is of the pairing, not of the layout of kernels alone.
    """

    source: Layer
    target: Layer
    evidence: str
    grade: Grade = "certain"
    reason: str = ""
    whole: bool = False


@final
@dataclass(frozen=True, slots=True)
class EntryPair:
    """Two keys (or aliases) that are one place, with the axes where a rule gives them."""

    source: str
    target: str
    evidence: str
    grade: Grade = "certain"
    reason: str = ""
    source_axes: str = ""
    target_axes: str = ""


@final
@dataclass(slots=True)
class Alignment:
    """The pairs found, and what keeps the rest from being paired."""

    layers: list[LayerPair] = field(default_factory=list)
    entries: list[EntryPair] = field(default_factory=list)
    problems: list[PlanProblem] = field(default_factory=list)
    #: Names of the source and of the target that a problem speaks of already.
    explained: tuple[set[str], set[str]] = field(default_factory=lambda: (set(), set()))


def align(source: Side, target: Side, rules: Rules) -> Alignment:
    """Pair the layers and lone entries of two sides."""
    found = Alignment()
    names = {name: name if (new := rules.rename(name)) is None else new for name in source.names}
    taken: dict[str, str] = {}
    for name, new in names.items():
        if taken.setdefault(new, name) != name:
            text = f"the rules give both the name {new!r}"
            found.problems.append(PlanProblem("rule", (taken[new], name), text, "make one of them narrower"))
    for rule in rules.layouts:
        _laid_out(target, rule.source, names, rule.source_axes, rule.target_axes, found)
    settled = {pair.source for pair in found.entries}, {pair.target for pair in found.entries}
    if source.dialect and source.dialect == target.dialect and _meet(source, target, names):
        for name, new in names.items():
            if name not in settled[0] and target.canonical(new) is not None and source.canonical(name) is not None:
                found.entries.append(EntryPair(name, new, "same key, same framework"))
        return found
    bridge = _Bridge(source, target, rules, names, settled, found)
    bridge.run()
    return found


def _meet(source: Side, target: Side, names: Mapping[str, str]) -> bool:
    """Whether most keys of two sides of one dialect are the same."""
    met = {target.canonical(new) for name, new in names.items() if target.canonical(new) is not None}
    least = min(len(source.entries), len(target.entries))
    return target.derived or len(met) >= _MEET * least or not (source.layers and target.layers)


def _laid_out(target: Side, key: str, names: Mapping[str, str], left: str, right: str, found: Alignment) -> None:
    for name in names:
        if covers(key, name) and name.count("/") == key.replace(".", "/").count("/"):
            new = names[name]
            if target.canonical(new) is None:
                hint = "add a rename that says what it is called there"
                found.problems.append(PlanProblem("rule", (name,), f"the target has no entry {new!r}", hint))
            else:
                found.entries.append(EntryPair(name, new, "a layout rule", source_axes=left, target_axes=right))


def _dialect(side: Side) -> Dialect | None:
    adapter = plugins.adapters().get(side.dialect) if side.dialect else None
    return adapter.dialect if adapter is not None else None


def _out_first(dialect: Dialect | None) -> bool | None:
    row = dialect.declaration("linear") if dialect is not None else None
    piece = row.piece("kernel") if row is not None else None
    return piece.axes.split()[0] == "out" if piece is not None else None


# -------------------------------------------------------------------- the bridge


@final
class _Bridge:
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
        self.done: tuple[set[str], set[str]] = (set(), set())
        self.sides = source, target
        #: Linears of a side that does not know its layers, of which the other side's shape says how they lie.
        self.learned: set[tuple[int, str]] = set()
        self.dialects = _dialect(source), _dialect(target)
        self.orientations = tuple(
            Orientation(side.entries, side.layers, out_first=_out_first(dialect))
            for side, dialect in zip(self.sides, self.dialects, strict=True)
        )

    def run(self) -> None:
        views = self._view(0), self._view(1)
        anchors = {
            layer.path: new for layer in self.source.layers if (new := self.rules.rename(layer.path)) is not None
        }
        result = pair_up(*views, anchors, by_structure=not self.target.derived)
        self._check_flattened(result, views)
        self._learn(result)
        for pair in result.pairs:
            self._emit(pair)
        self._alone()
        self._report(result, views)

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
                    self.orientations[number].vote(layer.path, kernel.axes)
                    self.learned.add((number, layer.path))

    def _shape(self, number: int, key: str) -> tuple[int, ...]:
        side = self.sides[number]
        return side.entries[side.canonical(key) or key].shape

    def _view(self, number: int) -> View:
        side, dialect = self.sides[number], self.dialects[number]
        skip = {side.canonical(name) or name for name in self.settled[number]}
        for key, entry in side.entries.items():
            if not entry.persistent or entry.rng:
                skip.add(key)
        own = bare.Read(list(side.layers))
        if dialect is not None and not self.target.derived:
            own = bare.read(side.entries, side.layers, dialect)

        def ways(layer: Layer) -> Mapping[str, Layer]:
            return own.readings.get(layer.path) or readings(layer, side, self.rules)

        return view(
            Given(
                side.entries, side.aliases, own.layers, ways,
                path=self._renamed if number == 0 else str, skip=skip,
                called=dialect is not None and dialect.called, channels=dialect.channels if dialect is not None else "",
                out_first=_out_first(dialect),
            )
        )  # fmt: skip

    def _renamed(self, path: str) -> str:
        new = self.rules.rename(path)
        return path if new is None else new

    def _check_flattened(self, result: Result, views: tuple[View, View]) -> None:
        """Ask of linears that read a flattened image, unless a rule says how it is flattened."""
        pairs = [
            pair
            for pair in soundness.flattened(result.pairs, *views)
            if not any(
                order.axis == "in"
                and all(
                    not pattern or matches(pattern, unit.path)
                    for pattern, unit in ((order.source, pair.source), (order.target, pair.target))
                )
                for order in self.rules.orders
            )
        ]
        for pair in pairs:
            text = (
                "its inputs look like a flattened image, which has its channels in another place there, "
                "so that the same numbers come in another order"
            )
            first, last = ("c=.. h=.. w=..", "h w c") if views[0].channels == "first" else ("h=.. w=.. c=..", "c h w")
            hint = (
                f'say the sizes with [[order]] source = "{pair.source.path}" axis = "in" '
                f'source_axes = "{first}" target_axes = "{last}", or the same axes on both sides if it is not one'
            )
            self.found.problems.append(PlanProblem("ambiguous", _paths(pair), text, hint))

    # ---------------------------------------------------------------- pairs

    def _emit(self, pair: Pair) -> None:
        ways = [_ways(unit) for unit in (pair.source, pair.target)]
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
                self._mismatch(pair, f"a {_named(layer)} and an array {unit.path!r}")
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
                self._mismatch(pair, f"a {_named(one)} in the source and a {_named(two)} in the target")
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
        if self.same or any(covers(rule.path, one.path) or covers(rule.path, two.path) for rule in self.rules.layers):
            return "certain", ""
        for number, layer, other in ((0, one, two), (1, two, one)):
            if layer.inferred and not self._layout_is_certain(number, layer, settled=not other.inferred):
                text = f"{layer.path}: the {layer.kind} was inferred from names, and its shapes fit other layouts too"
                return "assumption", text
        return "certain", ""

    def _layout_is_certain(self, number: int, layer: Layer, *, settled: bool) -> bool:
        """Whether shapes, a side that knows, or the decided layers of the same file exclude every other layout."""
        side = self.sides[number]
        if "kernel" not in layer.roles or _decided(layer, side) or (number, layer.path) in self.learned:
            return True
        if layer.kind != "linear":
            return settled  # once the kind is known, a framework has one layout for it
        # Only matrices are stored either way by some classes: their neighbours tell.
        pattern, decided = self.orientations[number].of(layer.path)
        kernel = next(piece for piece in layer.pieces if piece.role == "kernel")
        lies = kernel.axes.rpartition(":) ")[2]
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
            made = replace(made, grade=worse("assumption", made.grade), reason=text)
        self.found.entries.append(made)
        self.done[0].add(key)
        self.done[1].add(other)

    def _mark(self, one: Layer, two: Layer) -> None:
        self.done[0].update(one.roles.values())
        self.done[1].update(two.roles.values())

    # ---------------------------------------------------------------- what is not paired

    def _explain(self, sources: Sequence[Unit], targets: Sequence[Unit]) -> None:
        for number, units in enumerate((sources, targets)):
            self.found.explained[number].update(key for unit in units for key in unit.keys)
            self.done[number].update(key for unit in units for key in unit.keys)

    def _mismatch(self, pair: Pair, text: str) -> None:
        self.found.problems.append(PlanProblem("kind", _paths(pair), text, "the models do not correspond here"))
        self._explain([pair.source], [pair.target])

    def _open_kind(self, pair: Pair, kinds: Sequence[str]) -> None:
        text = f"by its names it could be {' or '.join(kinds)}, and neither side says which"
        hint = f'add a rule [[layer]] path = "{pair.source.path}" kind = "{kinds[0]}", or give the model (like=)'
        self.found.problems.append(PlanProblem("ambiguous", _paths(pair), text, hint))
        self._explain([pair.source], [pair.target])

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

    def _report(self, result: Result, views: tuple[View, View]) -> None:
        left = self._left(result)
        uneven = [question for question in result.questions if len(question.sources) != len(question.targets)]
        apart = (
            [*left[0], *(unit for question in uneven for unit in question.sources)],
            [*left[1], *(unit for question in uneven for unit in question.targets)],
        )
        whole = explain.at_once(*views, apart) if uneven else ""
        questions = [question for question in result.questions if not whole or question not in uneven]
        self._open_questions(questions)
        if whole:
            left = apart
        if not result.by_name and not whole:
            left = self._entangled(left, views)
        if not (left[0] or left[1]):
            return
        texts = [whole] if whole else explain.differences(*views, left)
        many = len(left[0]) + len(left[1]) > _FEW
        if not result.by_name and (result.pairs or whole):
            hint = "name what corresponds with a [[rename]], leave out with [[drop]], or hold with [[keep]]"
            for text in texts:
                keys = tuple(unit.path for units in left for unit in units)[:_NAMED]
                self.found.problems.append(PlanProblem("structure", keys, text, hint))
            self._explain(*left)
        elif many and texts:
            for number, name in ((0, "unexpected"), (1, "missing")):
                if left[number]:
                    keys = tuple(unit.path for unit in left[number])
                    shown = keys if len(keys) <= _FEW else (keys[0], "...", keys[-1])
                    hint = f"name them with rules, or allow {name!r}"
                    self.found.problems.append(PlanProblem(name, shown, "; ".join(texts), hint))
            self._explain(*left)

    def _entangled(
        self, left: tuple[list[Unit], list[Unit]], views: tuple[View, View]
    ) -> tuple[list[Unit], list[Unit]]:
        """Those without a partner that might have had one: what the other side has nothing like of is missing, no more."""
        colours = [
            {colour for unit in one.units for colour in unit.options} | {unit.colour for unit in one.units}
            for one in views
        ]
        one, two = ([unit for unit in units if unit.colour in colours[1 - number]] for number, units in enumerate(left))
        many = max(len(units) for units in left) > _FEW
        return left if many else (one, two)

    def _left(self, result: Result) -> tuple[list[Unit], list[Unit]]:
        """Units without a partner, of which something is left to move."""
        one, two = (
            [
                unit
                for unit in units
                if not unit.spare
                and not all(key in done for key in unit.keys)
                and not all(self._held(number, key) for key in unit.keys)
            ]
            for number, (units, done) in enumerate(zip(result.left, self._canonical_done(), strict=True))
        )
        return one, two

    def _canonical_done(self) -> tuple[set[str], set[str]]:
        first, second = (
            {side.canonical(name) or name for name in done} for side, done in zip(self.sides, self.done, strict=True)
        )
        return first, second

    def _held(self, number: int, key: str) -> bool:
        return self.rules.drops_source(key) if number == 0 else self.rules.holds_target(key)

    def _open_questions(self, questions: Sequence[Question]) -> None:
        asking = [
            question
            for question in questions
            if not all(self.rules.drops_source(key) for unit in question.sources for key in unit.keys)
        ]
        self.found.problems += asked(asking)
        for question in asking:
            self._explain(question.sources, question.targets)


def _paths(pair: Pair) -> tuple[str, str]:
    return pair.source.path or "(the model)", pair.target.path or "(the model)"


def _ways(unit: Unit) -> dict[str, Layer]:
    """The layers that a unit can be, by kind; the one that its colour says alone, if the unit was seen as another."""
    if unit.colour in unit.readings and unit.colour not in unit.options:
        layer = unit.readings[unit.colour]
        if all(layer is not other for other in [unit.readings.get(option) for option in unit.options]):
            return {layer.kind: layer}
    found: dict[str, Layer] = {}
    chosen = unit.layer
    if chosen is not None:
        found[chosen.kind] = chosen
    for option in unit.options:
        way = unit.readings.get(option)
        if way is not None:
            found.setdefault(way.kind, way)
    return found


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
    for piece in left.pieces:
        key = left.key(piece)
        new = rules.rename(key)
        whole = f"{right.path}/{piece.name}" if right.path else piece.name
        if new is None or new in (*right.roles.values(), whole):
            continue
        text = f"the rule calls it {new!r}, but it is part of a {left.kind}, which goes as a whole to {right.path!r}"
        hint = f"rename the layer {left.path!r} instead"
        found.problems.append(PlanProblem("rule", (key,), text, hint))


def _named(layer: Layer) -> str:
    return (
        f"{layer.kind} ({layer.type})" if layer.type else f"{layer.kind} (inferred)" if layer.inferred else layer.kind
    )


def readings(layer: Layer, side: Side, rules: Rules) -> dict[str, Layer]:
    """Every way to read a layer, by kind: one, unless it was inferred and its names leave more open."""
    if not layer.inferred:
        return {layer.kind: layer}
    adapter = plugins.adapters().get(side.dialect) if side.dialect else None
    if adapter is None or adapter.dialect is None:
        found = {layer.kind: layer}
    else:
        found = _candidates(layer, adapter.dialect, side) or {layer.kind: layer}
    wanted = {rule.kind for rule in rules.layers if covers(rule.path, layer.path)}
    return {kind: one for kind, one in found.items() if not wanted or kind in wanted}


def _candidates(layer: Layer, dialect: Dialect, side: Side) -> dict[str, Layer]:
    """The readings of an inferred layer. Layers with the same names and shapes have the same: a model has few of them."""
    found = [(piece.name, side.entries.get(layer.key(piece))) for piece in layer.pieces]
    if layer.base is not None or any(entry is None for _, entry in found):
        return candidates(layer, dialect, side.entries)
    mark = (dialect.name, *(
        (name, entry.shape, entry.dtype, entry.kind, entry.inferred) for name, entry in found if entry is not None
    ))  # fmt: skip
    known = _READ.get(mark)
    if known is None or known[0] is not dialect:
        if len(_READ) > _MOST:
            _READ.clear()
        known = _READ[mark] = (dialect, candidates(layer, dialect, side.entries))
    return {kind: replace(one, path=layer.path, candidates=layer.candidates) for kind, one in known[1].items()}


_MOST: Final = 4096
_READ: dict[tuple[object, ...], tuple[Dialect, dict[str, Layer]]] = {}


def alike(ways: Sequence[Layer], side: Side) -> bool:
    """Whether it is all one which of several readings is right: they give the same roles to the same vectors.

    A vector has one layout whatever the layer is: a norm of any kind has its scale and bias.
    """
    entries = [side.entries.get(side.canonical(key) or "") for key in ways[0].roles.values()]
    vectors = all(entry is not None and len(entry.shape) <= 1 for entry in entries)
    return vectors and all(dict(way.roles) == dict(ways[0].roles) for way in ways)


def _decided(layer: Layer, side: Side) -> bool:
    """The bias names the kernel's `out` axis: it has that size and no other axis of the kernel has it."""
    entries = {role: side.entries.get(side.canonical(key) or "") for role, key in layer.roles.items()}
    kernel, bias = entries.get("kernel"), entries.get("bias")
    if kernel is None or bias is None or len(bias.shape) != 1:
        return False
    return kernel.shape.count(bias.shape[0]) == 1
