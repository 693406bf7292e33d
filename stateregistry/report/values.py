"""Values: what their statistics say that a person should look at, and the statistics as a table. Reads no values itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from stateregistry.report import spelling
from stateregistry.report.blocks import Column, Table

if TYPE_CHECKING:
    from stateregistry.entry import Entry
    from stateregistry.tools.statistics import Statistics

#: Rows of the table that are shown unless all are asked for.
ROWS = 60


def odd(found: Mapping[str, Statistics], entries: Mapping[str, Entry], /) -> Iterator[str]:
    """What is odd about values, a sentence each: not finite, all zero, one value everywhere."""
    for word, counts in (
        ("NaN", {key: one.nan for key, one in found.items()}),
        ("infinite values", {key: one.infinite for key, one in found.items()}),
    ):
        chosen = {key: count for key, count in counts.items() if count}
        if chosen:
            total = spelling.number(sum(chosen.values()))
            has = "1 entry has" if len(chosen) == 1 else f"{spelling.plural(len(chosen), 'entry')} have"
            yield f"{has} {word}, {total} in all: {names(list(chosen))}"
    inexact = {key: one for key, one in found.items() if "float" in entries[key].dtype and one.elements > 1}
    for word, chosen_keys in (
        ("all zero", [key for key, one in inexact.items() if one.zero == one.elements]),
        (
            "the same value everywhere, and not 0 or 1",
            [
                key
                for key, one in inexact.items()
                if one.finite == one.elements and one.least == one.largest and one.least not in (0.0, 1.0)
            ],
        ),
    ):
        if chosen_keys:
            verb = "entry is" if len(chosen_keys) == 1 else "entries are"
            yield f"{spelling.number(len(chosen_keys))} {verb} {word}: {names(chosen_keys)}"


def names(found: list[str], /) -> str:
    """The first few names, and how many more."""
    shown = ", ".join(spelling.printable(key) for key in found[:3])
    return shown if len(found) <= 3 else f"{shown} and {spelling.number(len(found) - 3)} more"


def table(found: Mapping[str, Statistics], /, *, limit: int | None = ROWS) -> Table:
    """The statistics of every entry, in the order given."""
    rows = [(spelling.printable(key), *cells(one)) for key, one in found.items()]
    shown = tuple(rows[:limit])
    note = (
        f"{len(rows) - len(shown)} more; all of them with --all, fewer with --match" if len(shown) < len(rows) else ""
    )
    heads = ("min", "max", "mean", "std", "norm", "zero", "NaN", "inf")
    return Table("values", (Column("key"), *(Column(head, right=True) for head in heads)), shown, note)


def cells(one: Statistics, /) -> tuple[str, ...]:
    """The numbers of one row."""
    counts = (one.zero, one.nan, one.infinite)
    values = (one.least, one.largest, one.mean, one.std, one.norm)
    return (*(number(value) for value in values), *(spelling.number(count) if count else "" for count in counts))


def number(value: float, /) -> str:
    """Four digits that matter, and a dash for what there is none of."""
    return "–" if value != value else f"{value:.4g}"  # noqa: PLR0124  # NaN


def document(one: Statistics, /) -> dict[str, Any]:
    """As JSON types."""
    names_ = ("elements", "nan", "infinite", "zero", "least", "largest", "mean", "std", "norm")
    return {name: getattr(one, name) for name in names_}
