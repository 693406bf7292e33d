"""Patterns of rules: paths with captures, matched as whole segments, read in both directions.

`{name}` captures inside one segment, `{i+1}` captures a number and calls `i` the number less one, `{rest...}` captures one
or more segments. A dotted pattern is understood. Numbers begin at zero: of a path that would count below, a pattern says
nothing. Knows no rule tables and no model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import cache

from stateregistry.errors import RuleError

_FIELD = re.compile(r"\{([A-Za-z_]\w*)([+-]\d+)?(\.\.\.)?\}")
#: Between a capture and its place, in the name of a group that captures it once more.
_AGAIN = "__again_"

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
    """The expression of a pattern; the captures in `numbers` match numbers alone.

    A capture that stands there again is the same text, or with another shift a number of its own, to be held against it.
    """
    text = slashed(pattern)
    counted = numbers | {name for name, shift, _ in _FIELD.findall(text) if shift}
    out, last = "", 0
    shifts: dict[str, str] = {}
    for number, match in enumerate(_FIELD.finditer(text)):
        name, shift, rest = match.groups()
        out += re.escape(text[last : match.start()])
        if shifts.get(name) == (shift or ""):
            out += f"(?P={name})"
        elif name in shifts:
            out += f"(?P<{name}{_AGAIN}{number}>\\d+)"
        else:
            inside = ".+" if rest else r"\d+" if name in counted else "[^/]+"
            out += f"(?P<{name}>{inside})"
            shifts[name] = shift or ""
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
    return prefix(pattern, key) is not None


def matches(pattern: str, key: str) -> bool:
    """Whether a pattern matches a whole key."""
    found = _compiled(pattern).fullmatch(key)
    return found is not None and _captures(pattern, found) is not None


def prefix(pattern: str, key: str, numbers: frozenset[str] = frozenset()) -> tuple[str, dict[str, str]] | None:
    """What a pattern matches at the beginning of a key, and its captures; `None` where it does not match.

    Args:
        numbers: captures that are numbers.
    """
    found = _compiled(pattern, numbers).match(key)
    values = _captures(pattern, found) if found is not None else None
    return (found.group(), values) if found is not None and values is not None else None


def _captures(pattern: str, found: re.Match[str]) -> dict[str, str] | None:
    """What a pattern captured, `None` where one number would be two, or be below the first."""
    values = found.groupdict()
    shifts = _shifts(pattern)
    if not shifts:
        return values
    numbers = {name: int(values[place]) - shift for place, (name, shift) in shifts.items()}
    if min(numbers.values()) < 0:
        return None
    if any(int(values[place]) - shift != numbers[name] for place, (name, shift) in shifts.items()):
        return None
    return {
        name: str(numbers[name]) if name in numbers else text for name, text in values.items() if _AGAIN not in name
    }


@cache
def _shifts(pattern: str) -> dict[str, tuple[str, int]]:
    """The groups of a pattern that capture a number, each with the name of the capture and what is to be taken from it."""
    fields = _FIELD.findall(slashed(pattern))
    counted = {name for name, shift, _ in fields if shift}
    found: dict[str, tuple[str, int]] = {}
    first: dict[str, str] = {}
    for number, (name, shift, _) in enumerate(fields):
        if name in counted and first.setdefault(name, shift) == shift:
            found[name] = name, int(shift or 0)
        elif name in counted:
            found[f"{name}{_AGAIN}{number}"] = name, int(shift or 0)
    return found


def apply(source: str, target: str, path: str) -> str | None:
    """What the rename `source` -> `target` makes of a path, `None` where it does not match or would not read backwards.

    Raises:
        RuleError: a pattern does not parse.
    """
    found = prefix(source, path)
    if found is None:
        return None
    matched, values = found
    made = filled(target, values)
    if made is None:
        return None
    rest = path[len(matched) :].lstrip("/")
    return "/".join(part for part in (made, rest) if part)


def filled(pattern: str, values: dict[str, str]) -> str | None:
    """A pattern with its captures filled in, each shifted as the pattern says.

    `None` where it counts with what is no number, or below zero: read backwards, the pattern matches no such path.
    """
    counts = True

    def value(match: re.Match[str]) -> str:
        nonlocal counts
        name, shift, _ = match.groups()
        text = values[name]
        if not shift:
            return text
        number = int(text) + int(shift) if text.isdecimal() else -1
        counts &= number >= 0
        return str(number)

    made = _FIELD.sub(value, slashed(pattern))
    return made if counts else None


# -------------------------------------------------------------------- patterns of patterns

#: Stand for the captures of a pattern that is read as a path: no name has such a letter.
_FIRST, _LAST = 0xE000, 0xF8FF


def composed(pattern: str, source: str, target: str) -> str | None:
    """What the rename `source` -> `target` makes of all that a pattern matches, as a pattern.

    `None` where the rename does not match all of it, or gives it names that are no one pattern.
    """
    fields: list[tuple[str, str, str]] = _FIELD.findall(slashed(pattern))
    marks = iter(range(_FIRST, _LAST))
    path = _FIELD.sub(lambda _: chr(next(marks)), slashed(pattern))
    counted = {name for text in (source, target) for name, shift, _ in _FIELD.findall(slashed(text)) if shift}
    out, last, seen = "", 0, set()
    text = slashed(source)
    for match in _FIELD.finditer(text):
        name, _, rest = match.groups()
        if name in seen:
            return None
        seen.add(name)
        several = "".join(chr(_FIRST + number) for number, field in enumerate(fields) if field[2])
        inside = f"\\d+|[{chr(_FIRST)}-{chr(_LAST)}]" if name in counted else ".+" if rest else f"[^/{several}]+"
        out += f"{re.escape(text[last : match.start()])}(?P<{name}>{inside})"
        last = match.end()
    found = re.match(f"{out}{re.escape(text[last:])}(?=/|\\Z)" if text else "", path)
    if found is None:
        return None
    shifts = {name: int(shift or 0) for name, shift, _ in _FIELD.findall(text)}
    values = found.groupdict()
    counts = True

    def value(match: re.Match[str]) -> str:
        nonlocal counts
        name, shift, _ = match.groups()
        if name not in counted:
            return values[name]
        more = int(shift or 0) - shifts[name]
        if values[name].isdecimal():
            counts &= int(values[name]) + more >= 0
            return str(int(values[name]) + more)
        captured, own, rest = fields[ord(values[name]) - _FIRST]
        counts &= not rest  # several segments are no number
        total = int(own or 0) + more
        return f"{{{captured}{total:+d}}}" if total else f"{{{captured}}}"

    made = _FIELD.sub(value, slashed(target))
    whole = "/".join(part for part in (made, path[found.end() :].lstrip("/")) if part)
    for number, (name, shift, rest) in enumerate(fields):
        whole = whole.replace(chr(_FIRST + number), f"{{{name}{shift or ''}{rest or ''}}}")
    return whole if counts else None


def may_meet(pattern: str, other: str) -> bool:
    """Whether `other` may match something that `pattern` matches, or a path above it."""
    if not other:
        return True
    for one, two in zip(slashed(pattern).split("/"), slashed(other).split("/"), strict=False):
        if "...}" in one or "...}" in two:
            return True
        if not _same_segment(one, two):
            return False
    return len(slashed(other).split("/")) <= len(slashed(pattern).split("/"))


def _same_segment(one: str, two: str) -> bool:
    """Whether two segments with captures may be one text: their ends agree, as far as both say them."""
    if "{" not in one and "{" not in two:
        return one == two
    heads = one.partition("{")[0], two.partition("{")[0]
    tails = one.rpartition("}")[2], two.rpartition("}")[2]
    if "{" not in one or "{" not in two:
        plain, field = (two, one) if "{" in one else (one, two)
        return _compiled(field).fullmatch(plain) is not None
    return (heads[0].startswith(heads[1]) or heads[1].startswith(heads[0])) and (
        tails[0].endswith(tails[1]) or tails[1].endswith(tails[0])
    )
