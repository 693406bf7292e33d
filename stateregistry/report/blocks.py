"""Blocks: a report as data, in the order of reading, so that a terminal and a page show the same facts.

A report is a tuple of blocks: a verdict first, then tables and notes. Text in blocks is plain: no markup, no colour.
Names in it have been made printable. Imports nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

Tone = Literal["good", "bad", "plain"]


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """The sentence that answers the question.

    Attributes:
        word: the answer in one or two words, which a surface may stress: `different`.
        text: the rest of the sentence.
        tone: whether the answer is what was hoped for.
    """

    word: str
    text: str
    tone: Tone = "plain"


@final
@dataclass(frozen=True, slots=True)
class Bar:
    """A cell that is drawn: a share between 0 and 1."""

    share: float


Cell = str | Bar


@final
@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: its heading.
        right: its cells are numbers, which align right.
        wraps: its cells may go over several lines where there is no room. Those of the first column always may.
        spare: it may be left out on a terminal that has no room for it, the last one first.
    """

    name: str
    right: bool = False
    wraps: bool = False
    spare: bool = False


@final
@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings. Every row has as many cells as there are columns."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            message = f"a row of the table {self.title!r} has not {len(self.columns)} cells"
            raise ValueError(message)


@final
@dataclass(frozen=True, slots=True)
class Notes:
    """Lines under a title."""

    title: str
    lines: tuple[str, ...]


Block = Verdict | Table | Notes
