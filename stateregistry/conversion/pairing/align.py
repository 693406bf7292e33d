"""Align: from rules and two sides to pairs of layers and entries, each with its evidence and its grade. Never a guess.

What belongs to one dialect on both sides pairs by key as long as the keys meet; all else goes over the bridge to
`stateregistry.alignment`, which pairs by rules, names and structure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from stateregistry.conversion.pairing.bridge import Bridge
from stateregistry.conversion.pairing.pairs import Alignment, EntryPair, LayerPair
from stateregistry.conversion.planning.plan import PlanProblem
from stateregistry.conversion.rules.patterns import matches

if TYPE_CHECKING:
    from stateregistry.conversion.rules.rules import Rules
    from stateregistry.conversion.side import Side

#: The share of the keys of the smaller side that must meet for one dialect to pair by key.
_MEET: Final = 0.8


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
        _parted(source, target, rules, found)
        return found
    Bridge(source, target, rules, names, settled, found).run()
    return found


def _meet(source: Side, target: Side, names: Mapping[str, str]) -> bool:
    """Whether most keys of two sides of one dialect are the same."""
    met = {target.canonical(new) for name, new in names.items() if target.canonical(new) is not None}
    least = min(len(source.entries), len(target.entries))
    return target.derived or len(met) >= _MEET * least or not (source.layers and target.layers)


def _parted(source: Side, target: Side, rules: Rules, found: Alignment) -> None:
    """Pair, within one framework, what a rule splits or joins: by layer, as no key of theirs is the same."""
    there = {layer.path: layer for layer in target.layers}
    for layer in source.layers:
        new = rules.rename(layer.path)
        other = there.get(new) if new is not None else None
        if other is not None and any(piece.part for one in (layer, other) for piece in one.pieces):
            found.layers.append(LayerPair(layer, other, "a rule that splits or joins"))


def _laid_out(target: Side, key: str, names: Mapping[str, str], left: str, right: str, found: Alignment) -> None:
    for name in names:
        if matches(key, name):
            new = names[name]
            if target.canonical(new) is None:
                hint = "add a rename that says what it is called there"
                found.problems.append(PlanProblem("rule", (name,), f"the target has no entry {new!r}", hint))
            else:
                found.entries.append(EntryPair(name, new, "a layout rule", source_axes=left, target_axes=right))
