"""Alignment: which layer, and which lone entry, of one side is which of the other. From metadata and rules, never a guess.

Here: the same path, after the rules. What belongs to one dialect on both sides pairs by key and needs no layer. Across
dialects layers pair with layers, a side that knows its layers settles what the other only inferred, and an array whose
layout rests on nothing but a name is an `assumption` that the caller must accept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import final

from stateregistry import plugins
from stateregistry.conversion.patterns import covers
from stateregistry.conversion.plan import Grade, PlanProblem
from stateregistry.conversion.rules import Rules
from stateregistry.conversion.side import Side
from stateregistry.layers.infer import candidates
from stateregistry.layers.vocabulary import Layer


@final
@dataclass(frozen=True, slots=True)
class LayerPair:
    """Two layers that are one."""

    source: Layer
    target: Layer
    evidence: str
    grade: Grade = "certain"
    reason: str = ""


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
    if source.dialect and source.dialect == target.dialect:
        for rule in rules.layouts:
            _laid_out(target, rule.source, names, rule.source_axes, rule.target_axes, found)
        settled = {pair.source for pair in found.entries}
        loose = {name: new for name, new in names.items() if name not in settled}
        _by_key(source, target, loose, found, evidence="same key, same framework")
        return found
    done_source, done_target = _pair_layers(_Known(source), _Known(target), rules, found)
    for rule in rules.layouts:
        _laid_out(target, rule.source, names, rule.source_axes, rule.target_axes, found)
    settled = {pair.source for pair in found.entries}
    loose = {name: new for name, new in names.items() if name not in done_source and name not in settled}
    known = done_target | {pair.target for pair in found.entries}
    _alone(source, target, loose, known, found)
    return found


def _by_key(source: Side, target: Side, names: Mapping[str, str], found: Alignment, evidence: str) -> None:
    for name, new in names.items():
        if target.canonical(new) is not None and source.canonical(name) is not None:
            found.entries.append(EntryPair(name, new, evidence))


def _laid_out(target: Side, key: str, names: Mapping[str, str], left: str, right: str, found: Alignment) -> None:
    for name in names:
        if covers(key, name) and name.count("/") == key.replace(".", "/").count("/"):
            new = names[name]
            if target.canonical(new) is None:
                hint = "add a rename that says what it is called there"
                found.problems.append(PlanProblem("rule", (name,), f"the target has no entry {new!r}", hint))
            else:
                found.entries.append(EntryPair(name, new, "a layout rule", source_axes=left, target_axes=right))


# -------------------------------------------------------------------- layers


@final
class _Known:
    """One side, with what is worked out about it once."""

    def __init__(self, side: Side) -> None:
        self.side = side

    @cached_property
    def linears_agree(self) -> bool:
        """At least one matrix is decided by its bias, and none fits only the other way round."""
        linears = [layer for layer in self.side.layers if layer.inferred and layer.kind == "linear"]
        return any(_decided(layer, self.side) for layer in linears) and not _transposed_linears(self.side)


def _pair_layers(source: _Known, target: _Known, rules: Rules, found: Alignment) -> tuple[set[str], set[str]]:
    """Pair layers by path. Returns the names on each side that are accounted for by a pair."""
    there = {layer.path: layer for layer in target.side.layers}
    done: tuple[set[str], set[str]] = (set(), set())
    for layer in source.side.layers:
        renamed = rules.rename(layer.path)
        other = there.get(layer.path if renamed is None else renamed)
        if other is None:
            continue
        pair = _settle(layer, other, source, target, rules, found)
        left, right = (layer, other) if pair is None else (pair.source, pair.target)
        if pair is None:
            found.explained[0].update(left.roles.values())
            found.explained[1].update(right.roles.values())
        else:
            found.layers.append(pair)
            _check_leaf_renames(left, right, rules, found)
        done[0].update(left.roles.values())
        done[1].update(right.roles.values())
    return done


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


def _settle(
    layer: Layer, other: Layer, source: _Known, target: _Known, rules: Rules, found: Alignment
) -> LayerPair | None:
    """One pair, of a kind that both layers can be; a problem where there is none, or more than one."""
    left, right = readings(layer, source.side, rules), readings(other, target.side, rules)
    kinds = [kind for kind in left if kind in right]
    if len(kinds) > 1 and alike([left[kind] for kind in kinds], source.side):
        kinds = kinds[:1]
    where = (layer.path or "(the model)", other.path or "(the model)")
    if len(kinds) == 1:
        one, two = left[kinds[0]], right[kinds[0]]
        grade, reason = _grade(one, two, source, target, rules)
        evidence = "same path" if layer.path == other.path else "a rename rule"
        return LayerPair(one, two, evidence, grade, reason)
    if kinds:
        text = f"by its names it could be {' or '.join(kinds)}, and neither side says which"
        hint = f'add a rule [[layer]] path = "{layer.path}" kind = "{kinds[0]}", or give the model (like=)'
        found.problems.append(PlanProblem("ambiguous", where, text, hint))
        return None
    text = f"a {_named(layer)} in the source and a {_named(other)} in the target"
    found.problems.append(PlanProblem("kind", where, text, "the models do not correspond here"))
    return None


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
        found = candidates(layer, adapter.dialect, side.entries) or {layer.kind: layer}
    wanted = {rule.kind for rule in rules.layers if covers(rule.path, layer.path)}
    return {kind: one for kind, one in found.items() if not wanted or kind in wanted}


def alike(ways: Sequence[Layer], side: Side) -> bool:
    """Whether it is all one which of several readings is right: they give the same roles to the same vectors.

    A vector has one layout whatever the layer is: a norm of any kind has its scale and bias.
    """
    entries = [side.entries.get(side.canonical(key) or "") for key in ways[0].roles.values()]
    vectors = all(entry is not None and len(entry.shape) <= 1 for entry in entries)
    return vectors and all(dict(way.roles) == dict(ways[0].roles) for way in ways)


def _grade(one: Layer, two: Layer, source: _Known, target: _Known, rules: Rules) -> tuple[Grade, str]:
    """How sure the layout is. A kernel of a layer that was only inferred may be stored the other way round."""
    if any(covers(rule.path, one.path) or covers(rule.path, two.path) for rule in rules.layers):
        return "certain", ""
    for layer, known, other in ((one, source, two), (two, target, one)):
        if layer.inferred and not _layout_is_certain(layer, known, settled=not other.inferred):
            text = f"{layer.path}: the {layer.kind} was inferred from names, and its shapes fit other layouts too"
            return "assumption", text
    return "certain", ""


def _layout_is_certain(layer: Layer, known: _Known, *, settled: bool) -> bool:
    """Whether shapes, a side that knows, or the decided layers of the same file exclude every other layout."""
    if "kernel" not in layer.roles or _decided(layer, known.side):
        return True
    if not settled:
        return False
    # Once the kind is known, a framework has one layout for it; only matrices are stored either way by some classes.
    return layer.kind != "linear" or known.linears_agree


def _decided(layer: Layer, side: Side) -> bool:
    """The bias names the kernel's `out` axis: it has that size and no other axis of the kernel has it."""
    entries = {role: side.entries.get(side.canonical(key) or "") for role, key in layer.roles.items()}
    kernel, bias = entries.get("kernel"), entries.get("bias")
    if kernel is None or bias is None or len(bias.shape) != 1:
        return False
    return kernel.shape.count(bias.shape[0]) == 1


def _transposed_linears(side: Side) -> bool:
    """Whether some matrix with a bias beside it fits no linear of the dialect, as if stored the other way round."""
    inside = {key for layer in side.layers for key in layer.roles.values()}
    for key, entry in side.entries.items():
        parent, _, name = key.rpartition("/")
        if key not in inside and len(entry.shape) == 2 and name in ("weight", "kernel"):
            bias = side.entries.get(f"{parent}/bias")
            if bias is not None and bias.shape in ((entry.shape[0],), (entry.shape[1],)):
                return True
    return False


# -------------------------------------------------------------------- entries that stand alone


def _alone(source: Side, target: Side, names: Mapping[str, str], taken: set[str], found: Alignment) -> None:
    """Pair the entries of no layer by key. An array whose axes could be permuted unseen is an assumption."""
    for name, new in names.items():
        key, other = source.canonical(name), target.canonical(new)
        if key is None or other is None or new in taken:
            continue
        pair = EntryPair(name, new, "same key" if name == new else "a rename rule")
        shape = [size for size in source.entries[key].shape if size != 1]
        if len(shape) <= 1 or (len(set(shape)) == len(shape) and not target.derived):
            found.entries.append(pair)  # any other order of the axes would show in the shape that the target has
        else:
            text = f"an array of shape {source.entries[key].shape} outside any known layer: its axes may be in another order"
            found.entries.append(replace(pair, grade="assumption", reason=text))
