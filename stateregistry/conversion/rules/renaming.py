"""Renaming: the same state under other names, by the renames and drops of a set of rules. Lazy and read-only.

Within one framework: arrays stay as they are. What other rules say needs a target, and is refused here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from stateregistry import errors, keys
from stateregistry.conversion.rules.prepare import prepared
from stateregistry.conversion.side import Side
from stateregistry.tools.derived import Derived

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stateregistry.conversion.rules.rules import Rules
    from stateregistry.registry import StateRegistry


@final
@dataclass(frozen=True, slots=True)
class Renamed:
    """A state under other names, the canonical key that every entry had by its new one, and the new names by old ones."""

    registry: Derived
    homes: Mapping[str, str]
    moved: Mapping[str, str]


def renamed(source: StateRegistry, rules: Rules) -> Renamed:
    """The entries of a registry under the names that the rules give; the others keep theirs.

    Raises:
        RuleError: a rule that is neither rename nor drop, matches nothing, or gives two entries one name.
        KeyPathError, DuplicateKeyError: a name that is no key, or a key that is a prefix of another.
    """
    other = [name for name, rows in rules.to_dict().items() if rows and name not in ("rename", "drop")]
    if other:
        message = f"renaming takes [[rename]] and [[drop]], and the rules have [[{other[0]}]]"
        raise errors.RuleError(message, keys=tuple(other), hint="stateregistry convert takes every rule, with a target")
    ready = prepared(Side.of(source), None, rules)
    for problem in ready.problems:
        raise errors.RuleError(problem.text, hint=problem.hint)
    paths = [layer.path for layer in source.layers]
    dead = ready.rules.unused((*source.native_order, *source.aliases, *source.opaque, *paths), ())
    if dead:
        raise errors.RuleError(f"{'; '.join(dead)}: matches nothing", keys=dead, hint="mend or delete the rule")
    names, aliases, moved = _named(source, ready.rules)
    keys.check_prefix_free([*names.values(), *aliases])
    homes = {name: key for key, name in names.items()}
    made = Derived(
        {name: source[key] for key, name in names.items()},
        lambda name: source.view(homes[name]),
        aliases=aliases,
        opaque={
            _name(ready.rules, key): why for key, why in source.opaque.items() if not ready.rules.drops_source(key)
        },
        dialect=source.dialect,
        origin=source.unwrap(),
    )
    return Renamed(made, homes, moved)


def _named(source: StateRegistry, rules: Rules) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """The new canonical name of every place that keeps one, the aliases, and every name that changed with its old one.

    A place has all its names left: it is listed under the least of the new ones, and gone only when all are dropped.

    Raises:
        RuleError: two names become one. KeyPathError: a name that is no key.
    """
    groups: dict[str, list[str]] = {key: [key] for key in source.native_order}
    for alias, key in source.aliases.items():
        groups[key].append(alias)
    names: dict[str, str] = {}
    aliases: dict[str, str] = {}
    taken: dict[str, str] = {}
    moved: dict[str, str] = {}
    for key, members in groups.items():
        left = {old: _name(rules, old) for old in members if not rules.drops_source(old)}
        for old, new in left.items():
            keys.split(new)
            if taken.setdefault(new, old) != old:
                message = f"the rules give {taken[new]!r} and another entry the name {new!r}"
                raise errors.RuleError(message, keys=(taken[new], old), hint="make one of them narrower")
            if new != old:
                moved[old] = new
        if left:
            names[key] = min(left.values())
            aliases |= {new: names[key] for new in left.values() if new != names[key]}
    return names, aliases, moved


def _name(rules: Rules, key: str) -> str:
    new = rules.rename(key)
    return key if new is None else new
