"""The spelling rule between the names that a file stores and keys. Both directions, exact.

Reading: a name is cut at one separator. Files of the torch dialect and files that we wrote are cut at `.`; any other
file at `/` if no name has a `.`, else at `.`. Writing: a key whose segments have no `.` is stored dotted, as torch and
the usual safetensors files spell it; any other key is stored as it is and listed in our document, so that reading gives
it back. Refuses names that would give no key, the same key, or a key inside another. Imports no framework.
"""

from __future__ import annotations

import itertools
from types import MappingProxyType
from typing import TYPE_CHECKING

from stateregistry import errors, keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

DOT = "."
SLASH = "/"
_NONE: Mapping[str, str] = MappingProxyType({})


def first_repeated(names: Iterable[str], /) -> str | None:
    """The first name that stood before, `None` where each stands once."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def separator_of(names: Iterable[str], dialect: str, /) -> str:
    """Where the names of a file without our document are cut."""
    if dialect == "torch" or any(DOT in name for name in names):
        return DOT
    return SLASH


def keys_of(names: Sequence[str], separator: str, where: str, /, *, given: Mapping[str, str] = _NONE) -> list[str]:
    """The key of each stored name, in the order of the names.

    Args:
        names: the names, each once.
        separator: where they are cut.
        where: the file, for messages.
        given: key -> stored name, for the names that the rule does not spell (from our document).

    Raises:
        KeyPathError: a name has an empty segment. DuplicateKeyError: two names give one key, or one key is a prefix
            of another. The stored names are in the message.
    """
    fast = None if given else _all_at_once(names, separator)
    if fast is not None:
        return fast
    exact = {name: key for key, name in given.items()}
    found: dict[str, str] = {}
    empty, twice = [], []
    for name in names:
        key = exact.get(name)
        if key is None:
            segments = name.split(separator)
            if not all(segments):
                empty.append(name)
                continue
            key = keys.join(*segments)
        if key in found:
            twice.append(f"{found[key]!r} and {name!r} are both {key!r}")
        found[key] = name
    if empty:
        listed = ", ".join(repr(name) for name in empty[:5])
        message = f"{where}: {len(empty)} stored names have an empty segment between {separator!r}: {listed}"
        raise errors.KeyPathError(message, keys=tuple(empty), hint="rename them in the program that wrote the file")
    if twice:
        message = f"{where}: {len(twice)} stored names do not give keys of their own: {'; '.join(twice[:5])}"
        hint = "rename them in the program that wrote the file"
        raise errors.DuplicateKeyError(message, keys=tuple(found), hint=hint)
    _refuse_prefixes(found, where)
    return list(found)


def _all_at_once(names: Sequence[str], separator: str) -> list[str] | None:
    """The keys where no name needs a closer look: string operations over all names at once, 20 times as quick."""
    text = "\n".join(names)
    if text.count("\n") != max(len(names) - 1, 0) or "~" in text or "\0" in text:
        return None
    if separator != SLASH:
        if SLASH in text:
            return None
        text = text.replace(separator, SLASH)
    framed = f"\n{text}\n"
    if "//" in framed or "\n/" in framed or "/\n" in framed or "\n\n" in framed:
        return None
    found = text.split("\n")
    # With the separator as the least character, a key stands right before the keys that it is a prefix of.
    ordered = sorted(text.replace(SLASH, "\0").split("\n"))
    for one, next_one in itertools.pairwise(ordered):
        if next_one.startswith(one) and (next_one == one or next_one[len(one)] == "\0"):
            return None
    return found


def _refuse_prefixes(found: Mapping[str, str], where: str) -> None:
    try:
        keys.check_prefix_free(found)
    except errors.DuplicateKeyError as error:
        clashes = []
        for key in error.keys[:5]:
            inner = next(name for other, name in found.items() if other.startswith(f"{key}/"))
            clashes.append(f"{found[key]!r} is an array and holds {inner!r}")
        message = f"{where}: the stored names do not form a tree: {'; '.join(clashes)}"
        hint = "rename them in the program that wrote the file"
        raise errors.DuplicateKeyError(message, keys=error.keys, hint=hint) from error


def names_of(wanted: Iterable[str], /) -> tuple[dict[str, str], dict[str, str]]:
    """How keys are stored by a format with flat names.

    Returns:
        The stored name of every key, and those of them that `keys_of` cannot derive, for our document.
        Law: `keys_of(list(stored.values()), DOT, "", given=exact) == list(stored)`.

    Raises:
        KeyPathError: a key is not legal.
    """
    stored: dict[str, str] = {}
    exact: dict[str, str] = {}
    for key in wanted:
        segments = keys.split(key)
        if any(DOT in segment for segment in segments):
            stored[key] = exact[key] = key
        else:
            stored[key] = DOT.join(segments)
    if len(set(stored.values())) != len(stored):
        # A key with a '.' was spelled as another one's dotted name: keys themselves are never equal.
        stored = {key: key for key in stored}
        exact = dict(stored)
    return stored, exact
