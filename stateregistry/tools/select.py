"""Selecting entries: by kind, by a pattern of keys, or by a predicate; counting them, and masks over the parameters.

Reads no values. Never looks at a tag. Imports the core, no framework.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeAlias

from stateregistry import errors, plugins
from stateregistry.entry import Entry, Kind
from stateregistry.layers.vocabulary import ROLES

if TYPE_CHECKING:
    from stateregistry.registry import StateRegistry

Predicate: TypeAlias = Callable[[str, Entry], bool]
#: What selects entries: a predicate of key and entry, a kind, a pattern of keys (`"encoder/*"`, where `*` stands for any
#: characters, `/` included), or `None` for what the function takes by default.
Where: TypeAlias = "Predicate | Kind | str | None"


def selector(where: Where, default: Predicate) -> Predicate:
    """The predicate that `where` means.

    Raises:
        UnsupportedError: it is none of the four.
    """
    if where is None:
        return default
    if isinstance(where, Kind):
        kind = where
        return lambda _, entry: entry.kind is kind
    if isinstance(where, str):
        pattern = re.compile(fnmatch.translate(where))
        return lambda key, _: pattern.match(key) is not None
    if callable(where):
        return where
    message = f"{where!r} selects nothing"
    hint = "give a predicate of (key, entry), a Kind, or a pattern of keys such as 'encoder/*'"
    raise errors.UnsupportedError(message, found=type(where).__name__, hint=hint)


def count(reg: StateRegistry | Any, where: Where = None) -> int:
    """The number of elements of the entries selected (by default all); a tied place counts once.

    Args:
        reg: a registry or a live object.
        where: a predicate of `(key, entry)`, a `Kind`, a pattern of keys.
    """
    chosen = selector(where, _every)
    return sum(entry.size for key, entry in plugins.of(reg).items() if chosen(key, entry))


def mask(reg: StateRegistry | Any, where: Where) -> Any:
    """Whether each parameter is selected, in the tree type that the framework has for its parameters.

    optax takes it as it is (`optax.masked`); torch's is a dict by the names of `named_parameters()`. Its keys are native
    names: `with_trainable` takes keys of the registry instead, `{key: bool}`.

    Args:
        reg: a registry or a live object.
        where: a predicate of `(key, entry)`, a `Kind`, a pattern of keys; `None` for all.
    """
    registry = plugins.of(reg)
    chosen = selector(where, _every)
    flat = {key: bool(chosen(key, entry)) for key, entry in registry.items() if entry.kind is Kind.PARAMETER}
    return registry._tree(flat)  # noqa: SLF001  # the hook of the same package


def by_layer(reg: StateRegistry | Any, roles: str = "*", *, kinds: str | Collection[str] | None = None) -> Predicate:
    """A predicate that selects entries by what they are to their layer, whatever the framework calls them.

        decays = sr.mask(model, sr.tools.by_layer(model, "*kernel"))     # no bias, no norm, no embedding, in any framework

    Args:
        reg: a registry or a live object whose layers are known; those of Linen are with `module=`.
        roles: a pattern of roles: `"*kernel"`, `"scale"`, `"*bias"`. An array of several is selected if all of them match.
        kinds: layer kinds, `"conv"` or several; by default all.

    Raises:
        UnsupportedError: the registry knows no layers, or there is no such kind.
    """
    registry = plugins.of(reg)
    wanted = None if kinds is None else {kinds} if isinstance(kinds, str) else set(kinds)
    unknown = sorted((wanted or set()) - set(ROLES))
    if unknown:
        raise errors.UnsupportedError(
            f"there is no layer kind {unknown[0]!r}", expected=tuple(ROLES), found=tuple(unknown)
        )
    if not registry.layers:
        hint = "for Linen, sr.of(variables, module=net, args=(x,)); else name entries by a pattern of keys"
        raise errors.UnsupportedError(f"{registry!r} knows no layers to select by", hint=hint)
    aliases = registry.aliases
    found: dict[str, bool] = {}
    for layer in registry.layers:
        for role, key in layer.roles.items():
            fits = (wanted is None or layer.kind in wanted) and all(
                fnmatch.fnmatchcase(one, roles) for one in role.split("+")
            )
            canonical = aliases.get(key, key)
            found[canonical] = found.get(canonical, True) and fits
    return lambda key, _: found.get(key, False)


def _every(key: str, entry: Entry) -> bool:
    return True
