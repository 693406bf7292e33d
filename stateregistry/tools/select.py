"""Selecting entries: by kind, by a pattern of keys, or by a predicate; counting them, and masks over the parameters.

Reads no values. Never looks at a tag. Imports the core, no framework.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from stateregistry import errors, plugins
from stateregistry.entry import Entry, Kind

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


def _every(key: str, entry: Entry) -> bool:
    return True
