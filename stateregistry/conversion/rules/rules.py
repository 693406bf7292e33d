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

    [[order]]                         # an axis whose members are numbered in another order: after a flatten, in rotary heads
    source = "classifier"             # the layer, by its path on either side
    axis = "in"
    source_axes = "c=64 h=7 w=7"
    target_axes = "h w c"

    [[split]]                         # one layer of the source is several of the target; [[join]] the other way round
    source = "blocks.{i}.attn.qkv"
    axis = "out"
    axes = "q|k|v: out"               # "heads=12 q|k|v: head_dim" where they are interleaved head by head
    targets = ["blocks/{i}/q", "blocks/{i}/k", "blocks/{i}/v"]

A rename whose one side has `{count}` counts what the other matches, in the order of its numbers:

    [[rename]]
    source = "layer{s}.{b}"           # layer1/0, layer1/1, layer2/0, ...
    target = "ResNetBlock_{count}"    # 0, 1, 2, ...
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, final

from stateregistry.conversion.rules.patterns import apply, covers, left_open, names_in, prefixes, slashed
from stateregistry.errors import AxesError, FileMissingError, RuleError
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import ROLES

if TYPE_CHECKING:
    from stateregistry.conversion.planning.plan import Plan

#: The capture that counts.
COUNT = "count"


@final
@dataclass(frozen=True, slots=True)
class Rename:
    """Paths under `source` are called `target` on the other side."""

    source: str
    target: str

    @property
    def counts(self) -> bool:
        """Whether one side counts what the other matches: both have to be known before it says anything."""
        return COUNT in names_in(self.source) | names_in(self.target)

    def apply(self, path: str) -> str | None:
        """What it makes of a path, `None` where it does not match or counts, or where a number would be below zero.

        Raises:
            RuleError: a pattern does not parse.
        """
        return None if self.counts else apply(self.source, self.target, path)


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
class Order:
    """An axis of a layer whose members the two sides number in another order.

    Attributes:
        axis: the neutral axis. source_axes, target_axes: what it is made of on each side, outermost first; empty to leave it.
        source, target: the layer's path on either side; the other may be left empty.
    """

    axis: str
    source_axes: str
    target_axes: str
    source: str = ""
    target: str = ""


@final
@dataclass(frozen=True, slots=True)
class Split:
    """The layer `source` is the layers `targets`: `axes` says how its `axis` is divided, and names the parts in order."""

    source: str
    axis: str
    axes: str
    targets: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Join:
    """The layers `sources` are the layer `target`: the way back of a split."""

    sources: tuple[str, ...]
    axis: str
    axes: str
    target: str


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
    orders: tuple[Order, ...] = ()
    splits: tuple[Split, ...] = ()
    joins: tuple[Join, ...] = ()
    where: str = field(default="", compare=False)
    #: Renames without captures by the path that they rename, and the others.
    _plain: Mapping[str, tuple[Rename, ...]] = field(init=False, repr=False, compare=False)
    _general: tuple[Rename, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        plain: dict[str, tuple[Rename, ...]] = {}
        general: list[Rename] = []
        for rule in self.renames:
            if not rule.source or set("{}") & set(rule.source + rule.target):
                general.append(rule)
            else:
                path = slashed(rule.source)
                plain[path] = (*plain.get(path, ()), rule)
        object.__setattr__(self, "_plain", plain)
        object.__setattr__(self, "_general", tuple(general))

    @classmethod
    def of(cls, given: Rules | Mapping[str, Any] | str | Path | Iterable[tuple[str, str]] | None) -> Rules:
        """The rules that are `given` as `rules=` takes them: rules, a TOML file, parsed TOML, `{source: target}` or pairs.

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
        except (TypeError, ValueError) as error:
            message = f"rules= takes a TOML path, a mapping or (source, target) pairs, not {type(given).__name__}"
            raise RuleError(message) from error
        return cls._checked(renames=pairs)

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
            target, make, wanted, optional = _TABLES[name]
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise RuleError(f"{where}: write [[{name}]], once per rule", keys=(name,))
            for number, row in enumerate(rows, 1):
                wrong = [key for key in (*wanted, *optional) if key in row and not _is_right(key, row[key])]
                if wrong:
                    message = f"{where}: [[{name}]] number {number}: {wrong[0]} is {row[wrong[0]]!r}"
                    right = _RIGHT.get(wrong[0], "a text in quotes")
                    raise RuleError(message, keys=(name,), hint=f"write {right}")
                if not set(wanted) <= set(row) <= {*wanted, *optional}:
                    message = f"{where}: [[{name}]] number {number} has {sorted(row)}, expected {sorted(wanted)}"
                    also = f"it may have {' and '.join(optional)} too" if optional else ""
                    raise RuleError(message, keys=(name,), expected=wanted, found=tuple(row), hint=also)
            lists = [
                {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()} for row in rows
            ]
            made[target] = tuple(make(**row) for row in lists)
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
            rules._check_complete(rename)
            rules._check_captures(rename)
        for order in rules.orders:
            rules._check_order(order)
        for split in (*rules.splits, *(Split(join.target, join.axis, join.axes, join.sources) for join in rules.joins)):
            rules._check_split(split)
        return rules

    def _check_complete(self, rename: Rename) -> None:
        for mine, other in ((rename.source, rename.target), (rename.target, rename.source)):
            if paths := left_open(mine):
                message = f"{self.where}: the rename of {other!r} is not complete: it names no path but {mine!r}"
                raise RuleError(
                    message, keys=(other,), expected=paths, found=mine, hint=f"write the right one: {paths}"
                )

    def _check_captures(self, rename: Rename) -> None:
        captured, used = names_in(rename.source), names_in(rename.target)
        if COUNT in captured & used:
            message = f"{self.where}: {rename.source!r} -> {rename.target!r} counts on both sides"
            raise RuleError(message, keys=(rename.source,), hint="{count} counts what the other side matches")
        extra = captured ^ used
        if rename.counts:  # what is counted over stands on the other side alone
            extra = (used if COUNT in used else captured) - (captured if COUNT in used else used) - {COUNT}
        if extra:
            message = (
                f"{self.where}: the rename {rename.source!r} -> {rename.target!r} does not read backwards: "
                f"one side captures {sorted(extra)} and the other does not"
            )
            raise RuleError(message, keys=(rename.source,), hint="use every capture on both sides")

    def _check_order(self, order: Order) -> None:
        where = f"{self.where}: [[order]] {order.source or order.target!r}"
        if not (order.source or order.target):
            raise RuleError(f"{self.where}: an [[order]] names no layer", hint="give its path as source or target")
        for text in (order.source_axes, order.target_axes):
            if "=.." in text:
                hint = "write the sizes of the image in place of the dots, as in 'c=64 h=7 w=7'"
                raise RuleError(f"{where} is not complete: {text!r} has no sizes", keys=(order.source,), hint=hint)
        source, target = (self._divided(where, text) for text in (order.source_axes, order.target_axes))
        if source.parts or target.parts:
            raise RuleError(
                f"{where}: an order has no parts", keys=(order.source,), hint="write a [[split]] or [[join]]"
            )
        left, right = ({atom.name for atom in group.atoms} for group in (source, target))
        if left != right:
            message = f"{where}: {sorted(left)} on one side and {sorted(right)} on the other"
            raise RuleError(message, keys=(order.source or order.target,), hint="the same names, in another order")

    def _check_split(self, split: Split) -> None:
        where = f"{self.where}: the split of {split.source!r}"
        parts = self._divided(where, split.axes).parts
        if len(parts) != len(split.targets) or len(set(split.targets)) != len(split.targets):
            message = f"{where}: {len(parts)} parts in {split.axes!r}, for {len(split.targets)} layers"
            raise RuleError(message, keys=(split.source,), hint='name every part once: "q|k|v: out"')
        captured = names_in(split.source)
        for name in split.targets:
            if names_in(name) != captured or COUNT in captured:
                message = f"{where}: {name!r} does not have its captures, {sorted(captured)}"
                raise RuleError(message, keys=(split.source,), hint="use every capture in every path")

    @staticmethod
    def _divided(where: str, text: str) -> axes.Group:
        try:
            (group,) = axes.parse(f"({text})")
        except AxesError as error:
            raise RuleError(f"{where}: {error.message}") from error
        except ValueError as error:
            raise RuleError(f"{where}: {text!r} is more than one axis", hint="without parentheses") from error
        return group

    def joined(self, other: Rules, *, drops: Iterable[str] = ()) -> Rules:
        """These rules, and the renames of other ones, and more drops."""
        return replace(self, renames=(*self.renames, *other.renames), drops=(*self.drops, *drops))

    def inverse(self) -> Rules:
        """The rules of the way back.

        Raises:
            RuleError: a [[layout]] has no pattern there. `Plan.invert` knows both sides and makes one for each array.
        """
        from stateregistry.conversion.rules.inverting import layouts  # lazy: it reads rules

        return Rules(
            tuple(Rename(rule.target, rule.source) for rule in self.renames),
            drops=self.keeps,
            keeps=self.drops,
            layers=self.layers,
            layouts=layouts(self),
            orders=tuple(
                Order(rule.axis, rule.target_axes, rule.source_axes, rule.target, rule.source) for rule in self.orders
            ),
            splits=tuple(Split(rule.target, rule.axis, rule.axes, rule.sources) for rule in self.joins),
            joins=tuple(Join(rule.targets, rule.axis, rule.axes, rule.source) for rule in self.splits),
            where=self.where,
        )

    def rename(self, path: str) -> str | None:
        """The other side's name of a path; `None` where no rename matches it.

        Raises:
            RuleError: two renames claim it.
        """
        near = [rule for prefix in prefixes(path) for rule in self._plain.get(prefix, ())] if self._plain else []
        found = [(rule, new) for rule in (*near, *self._general) if (new := rule.apply(path)) is not None]
        if len({new for _, new in found}) > 1:
            names = " and ".join(repr(rule.source) for rule, _ in found)
            message = f"{self.where or 'rules'}: {names} both claim {path!r}"
            raise RuleError(message, keys=(path,), hint="make one of them narrower")
        return found[0][1] if found else None

    def drops_source(self, key: str) -> bool:
        """Whether a drop rule leaves the source entry of a key out."""
        return any(covers(text, key) for text in self.drops)

    def holds_target(self, key: str) -> bool:
        """Whether a keep or fill rule says what the target entry of a key holds."""
        return any(covers(text, key) for text in (*self.keeps, *(rule.target for rule in self.fills)))

    def unused(self, source: Iterable[str], target: Iterable[str]) -> tuple[str, ...]:
        """The rules that match none of the keys of source and target, spelled for people."""
        here, there = tuple(source), tuple(target)
        dead = [f"rename {r.source!r}" for r in self.renames if all(r.apply(key) is None for key in here)]
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
            "order": [asdict(rule) for rule in self.orders],
            "split": [{**asdict(rule), "targets": list(rule.targets)} for rule in self.splits],
            "join": [{**asdict(rule), "sources": list(rule.sources)} for rule in self.joins],
        }


def suggest(plan: Plan) -> str:
    """The rules that would pin down the pairing that a plan found, as the text of a TOML file.

    Rules that were tried: they give every layer of the source the path that the plan paired it with. Empty where names agree
    already. Of a plan with problems, only what was paired is in it.
    """
    from stateregistry.conversion.rules.suggest import suggest as suggested

    return suggested(plan)


#: TOML table -> field of `Rules`, what makes one rule of a row, the keys that a row has, and those that it may have.
_TABLES: dict[str, tuple[str, Any, tuple[str, ...], tuple[str, ...]]] = {
    "rename": ("renames", Rename, ("source", "target"), ()),
    "drop": ("drops", lambda source: source, ("source",), ()),
    "keep": ("keeps", lambda target: target, ("target",), ()),
    "fill": ("fills", Fill, ("target", "value"), ()),
    "layer": ("layers", Settle, ("path", "kind"), ()),
    "layout": ("layouts", Layout, ("source", "source_axes", "target_axes"), ()),
    "order": ("orders", Order, ("axis", "source_axes", "target_axes"), ("source", "target")),
    "split": ("splits", Split, ("source", "axis", "axes", "targets"), ()),
    "join": ("joins", Join, ("sources", "axis", "axes", "target"), ()),
}

#: What a value has to be, where it is not a text.
_RIGHT = {"value": "a number", "targets": "a list of texts", "sources": "a list of texts"}


def _is_right(key: str, value: object) -> bool:
    if key == "value":
        return isinstance(value, (int, float, bool))
    if key in _RIGHT:
        return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
    return isinstance(value, str)
