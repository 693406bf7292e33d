"""Inverting: what the `[[layout]]` rules of one conversion are on the way back, under the names that its renames give.

A pattern goes through a rename as a pattern where the rename speaks of all that it matches; else the way back has no pattern
for it, and only with both sides at hand is there a rule for each array. Nothing is guessed: what does not invert is an error.
Reads patterns, no model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stateregistry.conversion.rules.patterns import composed, matches, may_meet
from stateregistry.conversion.rules.prepare import prepared
from stateregistry.errors import RuleError

if TYPE_CHECKING:
    from stateregistry.conversion.rules.rules import Layout, Rules
    from stateregistry.conversion.side import Side


def layouts(rules: Rules) -> tuple[Layout, ...]:
    """The layouts of the way back, as patterns.

    Raises:
        RuleError: renames speak of a part of what a layout matches, count it, or give it several names.
    """
    return tuple(
        replace(rule, source=_there(rule.source, rules), source_axes=rule.target_axes, target_axes=rule.source_axes)
        for rule in rules.layouts
    )


def _there(pattern: str, rules: Rules) -> str:
    """What the other side calls all that a pattern matches."""
    near = [rule for rule in rules.renames if may_meet(pattern, rule.source)]
    if not near:
        return pattern
    made = {None if rule.counts else composed(pattern, rule.source, rule.target) for rule in near}
    if len(made) == 1 and (name := made.pop()) is not None:
        return name
    message = f"{rules.where or 'rules'}: the [[layout]] of {pattern!r} does not read backwards: "
    if any(rule.counts for rule in near):
        why = f"the rename {near[0].source!r} counts, which both sides have to be known for"
    else:
        why = f"the rename {near[0].source!r} gives no one pattern to all that it speaks of"
    hint = "write a [[layout]] for each rename that it meets, with the path as that spells it"
    raise RuleError(message + why, keys=(pattern,), hint=hint)


def of_sides(rules: Rules, source: Side, target: Side) -> Rules:
    """The rules of the way back between two sides: where a layout is no pattern there, one for each array."""
    try:
        return rules.inverse()
    except RuleError:
        known = prepared(source, target, rules).rules
    made = []
    for rule in rules.layouts:
        for name in source.names:
            if matches(rule.source, name):
                new = known.rename(name)
                axes = {"source_axes": rule.target_axes, "target_axes": rule.source_axes}
                made.append(replace(rule, source=name if new is None else new, **axes))
    return replace(replace(rules, layouts=()).inverse(), layouts=tuple(made))
