"""Summary: the facts of one registry, from its metadata alone: counts by kind, where the bytes are, what is odd.

Statistics are never called parameters, and an alias is never counted twice. Reads no values, imports no framework.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

from stateregistry.entry import Entry, Kind
from stateregistry.report import spelling
from stateregistry.report.blocks import Bar, Block, Column, Notes, Table, Verdict
from stateregistry.report.folding import Branch, fold
from stateregistry.report.folding import rows as folding_rows

if TYPE_CHECKING:
    from stateregistry.layers.vocabulary import Layer
    from stateregistry.registry import StateRegistry
    from stateregistry.tools.statistics import Statistics

#: Lines of the folded tree that are shown unless all are asked for.
LINES = 80

#: Dtypes that are told with the names of their entries.
_FEW = 4

#: What torch puts before every name where a model is wrapped.
_WRAPPERS = ("module", "_orig_mod")


@final
@dataclass(frozen=True, slots=True)
class Count:
    """How much there is of some entries."""

    tensors: int
    elements: int
    nbytes: int
    dtypes: Mapping[str, int]

    @classmethod
    def of(cls, entries: Iterable[Entry], /) -> Count:
        """Count; dtypes with the most frequent first."""
        found = list(entries)
        dtypes = Counter(entry.dtype for entry in found)
        common = dict(sorted(dtypes.items(), key=lambda item: (-item[1], item[0])))
        return cls(len(found), sum(e.size for e in found), sum(e.nbytes for e in found), common)

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {"tensors": self.tensors, "elements": self.elements, "bytes": self.nbytes, "dtypes": dict(self.dtypes)}


@final
@dataclass(frozen=True)
class Summary:
    """The facts of some entries of a registry.

    Attributes:
        entries: the entries, sorted.
        listed: how many the registry has in all.
        trainable, frozen, buffers: how much there is of each, buffers both saved and not.
        aliases: alias key -> canonical key, of these entries.
        opaque: registered state that is no array, with the reason.
        odd: what a person should look at, a sentence each.
    """

    entries: Mapping[str, Entry]
    listed: int
    trainable: Count
    frozen: Count
    buffers: Count
    unsaved: Count
    aliases: Mapping[str, str]
    opaque: Mapping[str, str]
    odd: tuple[str, ...]

    @property
    def parameters(self) -> Count:
        """Trainable or frozen."""
        return Count.of(e for e in self.entries.values() if e.kind is Kind.PARAMETER)

    @cached_property
    def branches(self) -> tuple[Branch, ...]:
        """The folded tree, made once for all that show it."""
        return fold(self.entries)

    @property
    def inferred(self) -> int:
        """How many entries have a kind that was inferred from names."""
        return sum(entry.inferred for entry in self.entries.values())


def summarize(reg: StateRegistry, /, keep: Iterable[str] | None = None) -> Summary:
    """The facts of a registry, or of the entries named by `keep`."""
    listing = dict(reg.items())
    entries = listing if keep is None else {key: listing[key] for key in sorted(keep)}
    by_standing: dict[str, list[Entry]] = {"trainable": [], "frozen": [], "buffer": []}
    for entry in entries.values():
        by_standing[spelling.standing(entry)].append(entry)
    aliases = {alias: key for alias, key in reg.aliases.items() if key in entries}
    opaque = dict(reg.opaque) if keep is None else {}
    return Summary(
        entries,
        len(listing),
        Count.of(by_standing["trainable"]),
        Count.of(by_standing["frozen"]),
        Count.of(by_standing["buffer"]),
        Count.of(entry for entry in entries.values() if not entry.persistent),
        aliases,
        opaque,
        tuple(_odd(entries, opaque)),
    )


def _odd(entries: Mapping[str, Entry], opaque: Mapping[str, str]) -> Iterable[str]:
    for word, those in (
        ("parameters", {k: e for k, e in entries.items() if e.kind is Kind.PARAMETER}),
        ("floating buffers", {k: e for k, e in entries.items() if e.kind is Kind.BUFFER and "float" in e.dtype}),
    ):
        dtypes = Counter(entry.dtype for entry in those.values()).most_common()
        if len(dtypes) > _FEW:
            rest = ", ".join(f"{dtype} {count}" for dtype, count in dtypes[1:])
            yield f"the {word} are of {len(dtypes)} dtypes, most {dtypes[0][0]}: {rest}"
            continue
        for dtype, count in dtypes[1:]:
            names = _names([key for key, entry in those.items() if entry.dtype == dtype])
            yield f"{count} of the {word} {'is' if count == 1 else 'are'} {dtype}, most are {dtypes[0][0]}: {names}"
    wrapper = _wrapper(entries)
    if wrapper:
        away = f"stateregistry rename FILE OUT --name {wrapper}= leaves it away"
        yield f"all {len(entries)} names begin with {wrapper}/, as a wrapper of torch writes them: {away}"
    for word, chosen in (
        ("no elements", [key for key, entry in entries.items() if entry.size == 0]),
        ("no values (abstract)", [key for key, entry in entries.items() if not entry.concrete]),
        ("the state of a random number generator", [key for key, entry in entries.items() if entry.rng]),
    ):
        if chosen:
            yield f"{len(chosen)} {'has' if len(chosen) == 1 else 'have'} {word}: {_names(chosen)}"
    for key, reason in opaque.items():
        yield f"opaque, not an array: {spelling.printable(key)}: {spelling.printable(reason)}"


def _wrapper(entries: Mapping[str, Entry]) -> str:
    """The prefix that DataParallel or torch.compile put before every name, both perhaps; empty where there is none."""
    found: list[str] = []
    names = list(entries)
    while len(names) > 1:
        first = names[0].partition("/")[0]
        if first not in _WRAPPERS or not all(name.startswith(f"{first}/") for name in names):
            break
        found.append(first)
        names = [name.removeprefix(f"{first}/") for name in names]
    return "/".join(found)


def _ties(aliases: Mapping[str, str]) -> str:
    shown = [f"{spelling.printable(alias)} is {spelling.printable(key)}" for alias, key in list(aliases.items())[:3]]
    more = f" and {len(aliases) - 3} more" if len(aliases) > 3 else ""
    return ", ".join(shown) + more


def _names(found: list[str]) -> str:
    shown = ", ".join(spelling.printable(key) for key in found[:3])
    return shown if len(found) <= 3 else f"{shown} and {len(found) - 3} more"


def verdict(name: str, what: str, facts: Summary, /) -> Verdict:
    """One sentence: what it is, how many parameters and buffers, how many bytes."""
    if not facts.listed:
        return Verdict(spelling.printable(name), f"{what}, which holds no entry")
    parameters, buffers = facts.parameters, facts.buffers
    text = (
        f"{what}, {amount(parameters, 'parameter')} and {amount(buffers, 'buffer')}, "
        f"{spelling.size(parameters.nbytes + buffers.nbytes)}"
    )
    if len(facts.entries) != facts.listed:
        text += f" (of {spelling.plural(facts.listed, 'entry')}, {len(facts.entries)} match)"
    return Verdict(spelling.printable(name), text)


def amount(count: Count, noun: str, /) -> str:
    """`26 parameters of 486,552 elements`."""
    return f"{spelling.plural(count.tensors, noun)} of {spelling.plural(count.elements, 'element')}"


def counts(facts: Summary, /) -> Table:
    """The table of counts by kind."""
    columns = (
        Column("kind"),
        Column("tensors", right=True),
        Column("elements", right=True),
        Column("bytes", right=True),
        Column("dtypes", wraps=True),
    )
    rows = [_row(name, count) for name, count in _kinds(facts)]
    if facts.unsaved.tensors:
        rows.append(_row("  of these not saved", facts.unsaved))
    note = f"counted once: {_ties(facts.aliases)}" if facts.aliases else ""
    rows.append(("aliases", spelling.number(len(facts.aliases)), "", "", note))
    return Table("", columns, tuple(rows))


def _kinds(facts: Summary) -> tuple[tuple[str, Count], ...]:
    return (("trainable", facts.trainable), ("frozen", facts.frozen), ("buffers", facts.buffers))


def _row(name: str, count: Count) -> tuple[str, ...]:
    dtypes = ", ".join(f"{dtype} {number}" for dtype, number in count.dtypes.items())
    return (name, spelling.number(count.tensors), spelling.number(count.elements), spelling.size(count.nbytes), dtypes)


def biggest(facts: Summary, /, limit: int = 5) -> Table | None:
    """Where the bytes are; `None` where there are too few entries for the question."""
    total = sum(entry.nbytes for entry in facts.entries.values())
    if len(facts.entries) <= limit or not total:
        return None
    first = sorted(facts.entries.items(), key=lambda item: (-item[1].nbytes, item[0]))[:limit]
    rows = tuple(
        (
            spelling.printable(key), spelling.shape(entry.shape), Bar(entry.nbytes / total),
            spelling.share(entry.nbytes / total),
        )
        for key, entry in first
    )  # fmt: skip
    return Table("where the bytes are", (Column("key"), Column("shape"), Column(""), Column("share", right=True)), rows)


def tree(facts: Summary, /, *, depth: int | None = None, limit: int | None = LINES) -> Table:
    """The folded tree, to a depth, at most `limit` lines."""
    rows: list[tuple[str, ...]] = []

    def add(branches: Iterable[Branch], level: int) -> None:
        for branch in branches:
            rows.append(_line(branch, level))
            if depth is None or level + 1 < depth:
                add(branch.children, level + 1)

    add(facts.branches, 0)
    note = ""
    if limit is not None and len(rows) > limit:
        note = f"{len(rows) - limit} more lines; all of them with --all, fewer with --depth N or --match GLOB"
        rows = rows[:limit]
    columns = (
        Column("name"),
        Column(""),
        Column("shape"),
        Column("dtype"),
        Column("kind"),
        Column("elements", right=True),
    )
    return Table("what is in it", columns, tuple(rows), note)


def _line(branch: Branch, level: int) -> tuple[str, ...]:
    name = "  " * level + spelling.printable(branch.name)
    times = f"x{branch.times}" if branch.times > 1 else ""
    entry = branch.entry
    if entry is None:
        return (f"{name}/", times, "", "", spelling.plural(branch.tensors, "entry"), spelling.number(branch.elements))
    return (name, times, spelling.shape(branch.sizes), entry.dtype, _standing(entry), spelling.number(branch.elements))


def _standing(entry: Entry) -> str:
    remarks = spelling.remarks(entry)
    return f"{spelling.standing(entry)}, {remarks}" if remarks else spelling.standing(entry)


def listing(facts: Summary, /, order: Iterable[str]) -> Table:
    """Every entry and every alias, nothing folded, nothing left out."""
    rows = []
    for key in order:
        entry = facts.entries[key]
        name = spelling.printable(key)
        rows.append(
            (name, spelling.shape(entry.shape), entry.dtype, _standing(entry), entry.tag, spelling.number(entry.size))
        )
    for alias, key in facts.aliases.items():
        rows.append((spelling.printable(alias), "", "", f"alias of {spelling.printable(key)}", "", ""))
    columns = (
        Column("key"), Column("shape"), Column("dtype"), Column("kind"), Column("tag"), Column("elements", right=True),
    )  # fmt: skip
    return Table("every entry", columns, tuple(rows))


def notes(facts: Summary, statistics: Mapping[str, Statistics] | None = None, /) -> tuple[Block, ...]:
    """What to look at, in the metadata and, where they were read, in the values; and where kinds come from."""
    found: list[Block] = []
    odd = list(facts.odd)
    if statistics is not None:
        from stateregistry.report import values

        odd += values.odd(statistics, facts.entries)
    if odd:
        found.append(Notes("look at", tuple(odd)))
    if facts.inferred:
        which = "kinds are" if facts.inferred == len(facts.entries) else f"{facts.inferred} kinds are"
        found.append(Notes("", (f"{which} inferred from names: the file does not say what is a parameter",)))
    return tuple(found)


def layers(found: Sequence[Layer], /, *, everything: bool = False) -> tuple[Block, ...]:
    """How many layers there are of each kind, and every layer with the roles of its entries; alike ones folded."""
    if not found:
        return (Notes("layers", ("no layer is known: a file says none, and its names and shapes tell of none",)),)
    counts = Counter(layer.kind for layer in found)
    told = ", ".join(
        f"{number} {kind}" for kind, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
    guessed = sum(layer.inferred for layer in found)
    rows = [
        (
            spelling.printable(layer.path) or "(the model)",
            layer.kind,
            layer.type,
            ", ".join(f"{role}: {spelling.printable(_below(layer, key))}" for role, key in layer.roles.items()),
        )
        for layer in found
    ]
    shown = rows if everything else folding_rows(rows)
    limit = None if everything else LINES
    note = (
        f"{len(shown) - limit} more lines; all of them with --all" if limit is not None and len(shown) > limit else ""
    )
    columns = (Column("layer"), Column("kind"), Column("type"), Column("roles", wraps=True))
    inferred = f"; {guessed} of them inferred from names and shapes" if guessed else ""
    return (Table(f"layers: {told}{inferred}", columns, tuple(shown[:limit]), note),)


def _below(layer: Layer, key: str) -> str:
    base = layer.path if layer.base is None else layer.base
    return key.removeprefix(f"{base}/") if base else key


def layer_rows(found: Sequence[Layer], /) -> list[dict[str, Any]]:
    """Layers as JSON types."""
    return [
        {
            "path": layer.path, "kind": layer.kind, "type": layer.type, "inferred": layer.inferred,
            "roles": dict(layer.roles), "config": dict(layer.config),
        }
        for layer in found
    ]  # fmt: skip
