"""Patterns of rules: paths with captures, matched as whole segments, read in both directions.

`{name}` captures inside one segment, `{i+1}` captures a number and calls `i` the number less one, `{rest...}` captures one
or more segments. A dotted pattern is understood. Knows no rule tables and no model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import cache

from stateregistry.errors import RuleError

_FIELD = re.compile(r"\{([A-Za-z_]\w*)([+-]\d+)?(\.\.\.)?\}")


#: How a path begins that a proposed rule leaves to be written.
_OPEN = ("<one of: ", "<if so: ")


def open_text(paths: Collection[str]) -> str:
    """What stands in a proposed rule where nothing speaks for one of these paths: no path, so that it has to be completed."""
    return f"{_OPEN[len(paths) == 1]}{', '.join(paths)}>"


def left_open(text: str) -> str:
    """The paths among which a proposed rule has to be completed, empty for a text that is a path."""
    return text.partition(": ")[2].removesuffix(">") if text.startswith(_OPEN) and text.endswith(">") else ""


def names_in(pattern: str) -> set[str]:
    """The captures of a pattern."""
    return {match.group(1) for match in _FIELD.finditer(pattern)}


def slashed(pattern: str) -> str:
    """A torch-style dotted pattern in the spelling of keys."""
    plain = _FIELD.sub("", pattern)
    if "/" in plain or "." not in plain:
        return pattern
    pieces = _FIELD.split(pattern)
    fields = [match.group(0) for match in _FIELD.finditer(pattern)]
    texts = pieces[:: _FIELD.groups + 1]
    return "".join(text.replace(".", "/") + (fields[n] if n < len(fields) else "") for n, text in enumerate(texts))


@cache
def _compiled(pattern: str, numbers: frozenset[str] = frozenset()) -> re.Pattern[str]:
    """The expression of a pattern; the captures in `numbers` match numbers alone."""
    text = slashed(pattern)
    out, last, seen = "", 0, set()
    for match in _FIELD.finditer(text):
        name, shift, rest = match.groups()
        out += re.escape(text[last : match.start()])
        if name in seen:
            out += f"(?P={name})"
        else:
            inside = ".+" if rest else r"\d+" if shift or name in numbers else "[^/]+"
            out += f"(?P<{name}>{inside})"
            seen.add(name)
        last = match.end()
    out += re.escape(text[last:])
    if "{" in _FIELD.sub("", text) or "}" in _FIELD.sub("", text):
        raise RuleError(
            f"{pattern!r}: a '{{' or '}}' that is no capture", keys=(pattern,), hint="write {name} or {i+1}"
        )
    return re.compile(f"{out}(?=/|\\Z)" if out else "")


def prefixes(path: str) -> Iterator[str]:
    """A path and every path above it."""
    while path:
        yield path
        path = path.rpartition("/")[0]


def covers(pattern: str, key: str) -> bool:
    """Whether a pattern matches a key or a prefix of it."""
    return _compiled(pattern).match(key) is not None


def matches(pattern: str, key: str) -> bool:
    """Whether a pattern matches a whole key."""
    return _compiled(pattern).fullmatch(key) is not None


def prefix(pattern: str, key: str, numbers: frozenset[str] = frozenset()) -> tuple[str, dict[str, str]] | None:
    """What a pattern matches at the beginning of a key, and its captures; `None` where it does not match.

    Args:
        numbers: captures that are numbers.
    """
    found = _compiled(pattern, numbers).match(key)
    if found is None:
        return None
    values = found.groupdict()
    for name, shift, _ in _FIELD.findall(slashed(pattern)):
        if shift:
            values[name] = str(int(values[name]) - int(shift))
    return found.group(), values


def apply(source: str, target: str, path: str) -> str | None:
    """What the rename `source` -> `target` makes of a path, `None` where it does not match.

    Raises:
        RuleError: the pattern does not parse, or a shifted number would be negative.
    """
    found = prefix(source, path)
    if found is None:
        return None
    matched, values = found
    made = filled(target, values)
    rest = path[len(matched) :].lstrip("/")
    return "/".join(part for part in (made, rest) if part)


def filled(pattern: str, values: dict[str, str]) -> str:
    """A pattern with its captures filled in, each shifted as the pattern says.

    Raises:
        RuleError: a shift of what is no number, or below zero.
    """
    return _FIELD.sub(lambda match: _value(pattern, values[match.group(1)], match.group(2)), slashed(pattern))


def _value(pattern: str, text: str, shift: str | None) -> str:
    if not shift and not text.startswith("-"):
        return text
    try:
        number = int(text) + int(shift or 0)
    except ValueError as error:
        raise RuleError(f"{pattern!r}: {text!r} is not a number to count with", keys=(pattern,)) from error
    if number < 0:
        raise RuleError(f"{pattern!r} counts below zero", keys=(pattern,))
    return str(number)
