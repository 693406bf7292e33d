"""Keys: how a path inside a model is spelled as one `str`.

A key is one or more non-empty segments joined by `/`; inside a segment `~` is written `~0` and `/` is written `~1`
(the escapes of RFC 6901). So every segment that a framework accepts has a key, and `split(join(*s)) == s`.
Refuses empty segments and malformed escapes with `KeyPathError`. Imports nothing but the errors.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

from stateregistry.errors import DuplicateKeyError, KeyPathError

#: ASCII, and of a length that `int` takes at once: names come from files.
_DIGITS = re.compile(r"([0-9]{1,18})")


def escape(segment: str, /) -> str:
    """One native path segment, spelled so that it can stand inside a key.

    Raises:
        KeyPathError: the segment is empty or not a `str`.
    """
    if not isinstance(segment, str) or not segment:
        message = f"{segment!r} is not a legal path segment: a segment is a non-empty str"
        raise KeyPathError(message, keys=(str(segment),), hint="rename the member in the model")
    if "~" in segment or "/" in segment:
        return segment.replace("~", "~0").replace("/", "~1")
    return segment


def unescape(segment: str, /) -> str:
    """The native segment that `escape` was given (RFC 6901: `~1` first, then `~0`).

    Raises:
        KeyPathError: a `~` is not followed by `0` or `1`.
    """
    if "~" not in segment:
        return segment
    if re.search(r"~(?![01])", segment):
        message = f"{segment!r} has a '~' that is neither '~0' (for '~') nor '~1' (for '/')"
        raise KeyPathError(message, keys=(segment,))
    return segment.replace("~1", "/").replace("~0", "~")


def join(*segments: str) -> str:
    """The key of a native path, of which the segments are given. Law: `split(join(*s)) == s`.

    Raises:
        KeyPathError: no segment, or an empty one.
    """
    if not segments:
        raise KeyPathError("a key has at least one segment", hint="give the array a name inside a model")
    return "/".join(escape(segment) for segment in segments)


def split(key: str, /) -> tuple[str, ...]:
    """The native path of a key. Law: `join(*split(k)) == k`.

    Raises:
        KeyPathError: not a `str`, an empty segment or a malformed escape.
    """
    if not isinstance(key, str) or not key or key[0] == "/" or key[-1] == "/" or "//" in key:
        message = f"{key!r} is not a key: a key is a str of non-empty segments joined by '/'"
        raise KeyPathError(message, keys=(str(key),))
    return tuple(unescape(segment) for segment in key.split("/"))


@lru_cache(maxsize=65536)
def natural(key: str, /) -> tuple[tuple[bool, int, str], ...]:
    """Sort key for views that people read: `layer/2` before `layer/10`. Iteration itself is sorted plainly."""
    parts = ((part[0] in "0123456789", part) for part in _DIGITS.split(key) if part)
    return tuple((not numeric, int(part) if numeric else 0, part) for numeric, part in parts)


def check_prefix_free(keys: Iterable[str], /) -> None:
    """Refuse keys of which one is a segment-wise proper prefix of another, so that keys always nest into a tree.

    Raises:
        DuplicateKeyError: a name is at once an array and a container.
    """
    known = keys if isinstance(keys, (set, frozenset, dict)) else set(keys)
    clashes = []
    parents: set[str] = set()
    for key in known:
        cut = key.rfind("/")
        while cut > 0:
            parent = key[:cut]
            if parent in parents:
                break
            parents.add(parent)
            cut = key.rfind("/", 0, cut)
    clashes = sorted(parents.intersection(known))
    if clashes:
        names = ", ".join(repr(key) for key in clashes)
        message = f"{names}: at once an array and a container of arrays, so the keys do not form a tree"
        raise DuplicateKeyError(message, keys=tuple(clashes), hint="rename the member in the model")


def nest(flat: Mapping[str, Any], /) -> dict[str, Any]:
    """A tree of dicts keyed by native segments. Law: `flatten(nest(f)) == f`.

    Raises:
        KeyPathError: a key is not legal. DuplicateKeyError: a key is a prefix of another.
    """
    check_prefix_free(flat.keys())
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = split(key)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def flatten(tree: Mapping[str, Any], /) -> dict[str, Any]:
    """The inverse of `nest`: every value that is not a mapping, under its key, in the order of the tree.

    Empty mappings hold nothing and have no key.
    """
    flat: dict[str, Any] = {}
    stack: list[tuple[str, Any]] = [("", tree)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, Mapping):
            prefix = f"{path}/" if path else ""
            stack.extend((prefix + escape(name), child) for name, child in reversed(list(node.items())))
        else:
            flat[path] = node
    return flat


def shared_prefix(ours: Collection[str], theirs: Collection[str], /) -> tuple[str, int]:
    """The path that all of `ours` lie under and without which they are in `theirs`, and how many then fit.

    Empty where there is none, or where fewer than half of them would fit.
    """
    parts = [key.split("/") for key in ours]
    best = ("", 0)
    if not parts:
        return best
    for length in range(1, min(map(len, parts))):
        if any(other[:length] != parts[0][:length] for other in parts):
            break
        fit = sum("/".join(other[length:]) in theirs for other in parts)
        if fit > best[1]:
            best = ("/".join(parts[0][:length]), fit)
    return best if 2 * best[1] >= len(parts) else ("", 0)
