"""Rules: what the user knows that no name, type or shape says. From TOML, from a mapping, or made in Python.

A pattern is a path of segments joined by `/` (a torch-style dotted path is understood): `{name}` captures inside one
segment, `{i+1}` captures a number and calls `i` the number less one, `{rest...}` captures one or more segments. A rename
matches a whole key or a prefix of it, as whole segments, and reads in both directions.

    [[rename]]
    source = "encoder.layer.{i}"
    target = "blocks/{i+1}"

    [[drop]]
    source = "pooler"                 # source entries under it are left out

    [[keep]]
    target = "head"                   # target entries under it keep their values

    [[fill]]
    target = "head/bias"
    value = 0.0

    [[layer]]                         # what an entry group is, where names leave it open
    path = "wte"
    kind = "embedding"

    [[layout]]                        # the axes of an array that belongs to no known layer
    source = "proj"
    source_axes = "out in"
    target_axes = "in out"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self, final

from stateregistry.errors import AxesError, FileMissingError, RuleError
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import ROLES

_FIELD = re.compile(r"\{([A-Za-z_]\w*)([+-]\d+)?(\.\.\.)?\}")


@final
@dataclass(frozen=True, slots=True)
class Rename:
    """Paths under `source` are called `target` on the other side."""

    source: str
    target: str


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """The axes of an array outside any layer, on both sides, as axis patterns. `source` is its key on the source side."""

    source: str
    source_axes: str
    target_axes: str


@final
@dataclass(frozen=True, slots=True)
class Settle:
    """What kind of layer the entries under `path` are, where an inferred layer could be several."""

    path: str
    kind: str


@final
@dataclass(frozen=True, slots=True)
class Fill:
    """A target entry that gets one value in every element."""

    target: str
    value: float


@final
@dataclass(frozen=True, slots=True)
class Rules:
    """All rules of one conversion. Laws: `rules.inverse().inverse() == rules`; no rule means the same paths."""

    renames: tuple[Rename, ...] = ()
    drops: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    fills: tuple[Fill, ...] = ()
    layers: tuple[Settle, ...] = ()
    layouts: tuple[Layout, ...] = ()
    where: str = field(default="", compare=False)

    @classmethod
    def of(cls, given: Rules | Mapping[str, Any] | str | Path | Iterable[tuple[str, str]] | None) -> Rules:
        """Rules from what `rules=` takes: rules, a path of a TOML file, parsed TOML, `{source: target}` or pairs.

        Raises:
            RuleError: it does not parse. FileMissingError: there is no such file.
        """
        if given is None:
            return cls()
        if isinstance(given, Rules):
            return given
        if isinstance(given, (str, Path)):
            return cls._file(Path(given))
        if isinstance(given, Mapping):
            if given and all(isinstance(value, str) for value in given.values()):
                return cls._checked(renames=tuple(Rename(*pair) for pair in given.items()))
            return cls._tables(given, "rules")
        try:
            pairs = tuple(Rename(source, target) for source, target in given)
            if not all(isinstance(text, str) for pair in pairs for text in (pair.source, pair.target)):
                raise TypeError("a rename is two texts")  # noqa: TRY301
            return cls._checked(renames=pairs)
        except (TypeError, ValueError) as error:
            message = f"rules= takes a TOML path, a mapping or (source, target) pairs, not {type(given).__name__}"
            raise RuleError(message) from error

    @classmethod
    def _file(cls, path: Path) -> Self:
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise FileMissingError(f"there is no rule file {str(path)!r}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise RuleError(f"{path}: cannot read the rules: {error}") from error
        return cls._tables(data, str(path))

    @classmethod
    def _tables(cls, data: Mapping[str, Any], where: str) -> Self:
        unknown = sorted(set(data) - set(_TABLES))
        if unknown:
            hint = f"the tables are {', '.join(f'[[{name}]]' for name in _TABLES)}"
            raise RuleError(f"{where}: no rule is called {unknown[0]!r}", keys=tuple(unknown), hint=hint)
        made: dict[str, tuple[Any, ...]] = {}
        for name, rows in data.items():
            target, wanted, make = _TABLES[name]
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise RuleError(f"{where}: write [[{name}]], once per rule", keys=(name,))
            for number, row in enumerate(rows, 1):
                wrong = [field for field in wanted if field in row and not _is_right(field, row[field])]
                if wrong:
                    message = f"{where}: [[{name}]] number {number}: {wrong[0]} is {row[wrong[0]]!r}"
                    hint = "a number" if wrong[0] == "value" else "a text in quotes"
                    raise RuleError(message, keys=(name,), hint=f"write {hint}")
                if set(row) != set(wanted):
                    message = f"{where}: [[{name}]] number {number} has {sorted(row)}, expected {sorted(wanted)}"
                    raise RuleError(message, keys=(name,), expected=wanted, found=tuple(row))
            made[target] = tuple(make(**row) for row in rows)
        return cls._checked(**made, where=where)

    @classmethod
    def _checked(cls, *, where: str = "rules", **parts: Any) -> Self:
        rules = cls(**parts, where=where)
        for settle in rules.layers:
            if settle.kind not in ROLES:
                message = f"{where}: there is no layer kind {settle.kind!r}"
                raise RuleError(message, keys=(settle.path,), hint=f"the kinds are {', '.join(ROLES)}")
        for layout in rules.layouts:
            for pattern in (layout.source_axes, layout.target_axes):
                try:
                    axes.parse(pattern)
                except AxesError as error:
                    raise RuleError(f"{where}: [[layout]] {layout.source!r}: {error.message}") from error
        for rename in rules.renames:
            captured, used = names_in(rename.source), names_in(rename.target)
            if captured != used:
                message = (
                    f"{where}: the rename {rename.source!r} -> {rename.target!r} does not read backwards: "
                    f"one side captures {sorted(captured ^ used)} and the other does not"
                )
                raise RuleError(message, keys=(rename.source,), hint="use every capture on both sides")
        return rules

    def inverse(self) -> Rules:
        """The rules of the way back."""
        return Rules(
            tuple(Rename(rule.target, rule.source) for rule in self.renames),
            drops=self.keeps,
            keeps=self.drops,
            layers=self.layers,
            layouts=tuple(
                Layout(self.rename(rule.source) or rule.source, rule.target_axes, rule.source_axes)
                for rule in self.layouts
            ),
            where=self.where,
        )

    def rename(self, path: str) -> str | None:
        """The other side's name of a path; `None` where no rename matches it.

        Raises:
            RuleError: two renames claim it.
        """
        found = [(rule, new) for rule in self.renames if (new := apply(rule, path)) is not None]
        if len({new for _, new in found}) > 1:
            names = " and ".join(repr(rule.source) for rule, _ in found)
            message = f"{self.where or 'rules'}: {names} both claim {path!r}"
            raise RuleError(message, keys=(path,), hint="make one of them narrower")
        return found[0][1] if found else None

    def drops_source(self, key: str) -> bool:
        """Whether a drop rule leaves a source entry out."""
        return any(covers(text, key) for text in self.drops)

    def holds_target(self, key: str) -> bool:
        """Whether a keep or fill rule says what a target entry holds."""
        return any(covers(text, key) for text in (*self.keeps, *(rule.target for rule in self.fills)))

    def unused(self, source: Iterable[str], target: Iterable[str]) -> tuple[str, ...]:
        """Rules that match nothing, spelled for people."""
        here, there = tuple(source), tuple(target)
        dead = [f"rename {r.source!r}" for r in self.renames if all(apply(r, key) is None for key in here)]
        dead += [f"drop {text!r}" for text in self.drops if not any(covers(text, key) for key in here)]
        dead += [f"keep {text!r}" for text in self.keeps if not any(covers(text, key) for key in there)]
        dead += [f"fill {r.target!r}" for r in self.fills if not any(covers(r.target, key) for key in there)]
        dead += [f"layout {r.source!r}" for r in self.layouts if not any(covers(r.source, key) for key in here)]
        both = (*here, *there)
        return (*dead, *(f"layer {r.path!r}" for r in self.layers if not any(covers(r.path, key) for key in both)))

    def to_dict(self) -> dict[str, Any]:
        """The same as parsed TOML."""
        return {
            "rename": [asdict(rule) for rule in self.renames],
            "drop": [{"source": text} for text in self.drops],
            "keep": [{"target": text} for text in self.keeps],
            "fill": [asdict(rule) for rule in self.fills],
            "layer": [asdict(rule) for rule in self.layers],
            "layout": [asdict(rule) for rule in self.layouts],
        }


#: TOML table -> field of `Rules`, its keys, what makes one rule of a row.
_TABLES: dict[str, tuple[str, tuple[str, ...], Any]] = {
    "rename": ("renames", ("source", "target"), Rename),
    "drop": ("drops", ("source",), lambda source: source),
    "keep": ("keeps", ("target",), lambda target: target),
    "fill": ("fills", ("target", "value"), Fill),
    "layer": ("layers", ("path", "kind"), Settle),
    "layout": ("layouts", ("source", "source_axes", "target_axes"), Layout),
}


def _is_right(field: str, value: object) -> bool:
    if field == "value":
        return isinstance(value, (int, float, bool))
    return isinstance(value, str)


def names_in(pattern: str) -> set[str]:
    """The captures of a pattern."""
    return {match.group(1) for match in _FIELD.finditer(pattern)}


def _slashed(pattern: str) -> str:
    """A torch-style dotted pattern in the spelling of keys."""
    plain = _FIELD.sub("", pattern)
    if "/" in plain or "." not in plain:
        return pattern
    pieces = _FIELD.split(pattern)
    fields = [match.group(0) for match in _FIELD.finditer(pattern)]
    texts = pieces[:: _FIELD.groups + 1]
    return "".join(text.replace(".", "/") + (fields[n] if n < len(fields) else "") for n, text in enumerate(texts))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    text = _slashed(pattern)
    out, last, seen = "", 0, set()
    for match in _FIELD.finditer(text):
        name, shift, rest = match.groups()
        out += re.escape(text[last : match.start()])
        if name in seen:
            out += f"(?P={name})"
        else:
            out += f"(?P<{name}>.+)" if rest else f"(?P<{name}>\\d+)" if shift else f"(?P<{name}>[^/]+)"
            seen.add(name)
        last = match.end()
    out += re.escape(text[last:])
    if "{" in _FIELD.sub("", text) or "}" in _FIELD.sub("", text):
        raise RuleError(
            f"{pattern!r}: a '{{' or '}}' that is no capture", keys=(pattern,), hint="write {name} or {i+1}"
        )
    return re.compile(f"{out}(?=/|\\Z)" if out else "")


def covers(pattern: str, key: str) -> bool:
    """Whether a pattern matches a key or a prefix of it."""
    return _compiled(pattern).match(key) is not None


def apply(rule: Rename, path: str) -> str | None:
    """What a rename makes of a path, `None` where it does not match.

    Raises:
        RuleError: the pattern does not parse, or a shifted number would be negative.
    """
    match = _compiled(rule.source).match(path)
    if match is None:
        return None
    values = match.groupdict()
    for name, shift, _ in _FIELD.findall(_slashed(rule.source)):
        if shift:
            values[name] = str(int(values[name]) - int(shift))
    made = _FIELD.sub(lambda m: _value(rule, values[m.group(1)], m.group(2)), _slashed(rule.target))
    rest = path[match.end() :].lstrip("/") if path[match.end() :] else ""
    return "/".join(part for part in (made, rest) if part)


def _value(rule: Rename, text: str, shift: str | None) -> str:
    if not shift and not text.startswith("-"):
        return text
    try:
        number = int(text) + int(shift or 0)
    except ValueError as error:
        raise RuleError(f"{rule.target!r}: {text!r} is not a number to count with", keys=(rule.source,)) from error
    if number < 0:
        raise RuleError(f"{rule.source!r} -> {rule.target!r} counts below zero", keys=(rule.source,))
    return str(number)
