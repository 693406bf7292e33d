"""The terminal: where answers go, in colour or not, as text or as one JSON document.

On a terminal a report is drawn with rich; piped, it is plain text in which no name is cut. Colour follows `--color`,
then NO_COLOR, FORCE_COLOR and TERM=dumb, then whether stdout is a terminal. Where stdout is not UTF-8 all is ASCII.
rich is imported only when it draws.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TextIO, final

from stateregistry.report.blocks import Bar, Block, Cell, Notes, Table, Verdict

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_BAR = 24
#: Columns that what may wrap wants at least.
_LEAST = 14
#: Characters: four bytes each at most, and POSIX has pipes take 4096 bytes at once.
_PIECE = 1024


@final
class Terminal:
    """What one run of a command writes to.

    Attributes:
        command: the name of the command, for the schema of its document.
        json: the answer is one JSON document.
        color: `auto`, `always` or `never`.
        debug: errors are shown with their traceback.
        arguments: what was typed after the name of the program.
    """

    def __init__(self) -> None:
        self.command = ""
        self.json = False
        self.color = "auto"
        self.debug = False
        self.arguments: tuple[str, ...] = ()

    @property
    def out(self) -> TextIO:
        """Standard output as it is now."""
        return sys.stdout

    @property
    def unicode(self) -> bool:
        """Whether stdout takes any character."""
        return (self.out.encoding or "ascii").lower().replace("-", "").startswith("utf")

    def colored(self, stream: TextIO) -> bool:
        """Whether to use colour on a stream."""
        if self.color != "auto":
            return self.color == "always"
        if os.environ.get("NO_COLOR"):
            return False
        if os.environ.get("FORCE_COLOR", "0") != "0":
            return True
        return interactive(stream)

    def answer(self, blocks: Iterable[Block], document: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Write the answer to stdout: the blocks, or with `--json` the document under the schema of the command.

        A document that takes long to make is given as what makes it.
        """
        if self.json:
            made = document() if callable(document) else document
            self.write(dump({"schema": f"stateregistry.{self.command}/1", **made}))
        elif self.colored(self.out) or interactive(self.out):
            self._draw(tuple(blocks))
        else:
            self.write(plain(tuple(blocks), unicode=self.unicode))

    def write(self, text: str) -> None:
        """Write to stdout; a character that its encoding does not have becomes an escape."""
        encoding = self.out.encoding or "ascii"
        shown = text.encode(encoding, "backslashreplace").decode(encoding)
        # In pieces that a pipe takes whole: an unbuffered stdout would lose the rest of a larger one without an error.
        for start in range(0, len(shown), _PIECE):
            self.out.write(shown[start : start + _PIECE])

    def say(self, text: str) -> None:
        """Write a line to stderr, for people: hints, warnings, what was done."""
        encoding = sys.stderr.encoding or "ascii"
        sys.stderr.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")

    def console(self, stream: TextIO, width: int | None = None) -> Console:
        """A rich console on a stream, with our rules for colour; `width` where the stream is no terminal."""
        from rich.console import Console

        color = self.colored(stream)
        terminal = interactive(stream)
        return Console(
            file=stream,
            force_terminal=terminal or color,
            no_color=not color,
            color_system=None if not color else "auto" if terminal else "standard",
            width=None if terminal else width,
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=False,
        )

    def _draw(self, blocks: Sequence[Block]) -> None:
        # Piped: as wide as the widest line, so that nothing wraps and nothing is cut.
        widest = max(map(_width, plain(blocks, unicode=True).splitlines()), default=0)
        console = self.console(self.out, width=widest + 8)
        for number, block in enumerate(blocks):
            if number:
                console.print()
            for part in _rendered(block, console.width, unicode=self.unicode):
                console.print(part)


def interactive(stream: TextIO) -> bool:
    """Whether a person looks at the stream, at a terminal that can do more than print."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def dump(document: Mapping[str, Any]) -> str:
    """One JSON document: sorted, ASCII, numbers that JSON does not have as strings."""
    return json.dumps(_jsonable(document), sort_keys=True, indent=2, allow_nan=False) + "\n"


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_jsonable(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):  # noqa: PLR0124  # NaN
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


# ---------------------------------------------------------------- plain text


def plain(blocks: Sequence[Block], *, unicode: bool) -> str:
    """The blocks as text without colour, aligned, every name whole."""
    return "\n".join("".join(f"{line}\n" for line in _lines(block, unicode=unicode)) for block in blocks)


def _lines(block: Block, *, unicode: bool) -> list[str]:
    if isinstance(block, Verdict):
        return [f"{block.word}: {block.text}" if block.text else block.word]
    if isinstance(block, Notes):
        head = [f"  {block.title}"] if block.title else []
        return head + [f"  {'! ' if block.title else ''}{line}" for line in block.lines]
    rows = [tuple(column.name for column in block.columns)] if any(column.name for column in block.columns) else []
    rows += [tuple(_text(cell, unicode=unicode) for cell in row) for row in block.rows]
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)] if rows else []
    lines = [f"  {block.title}"] if block.title else []
    for row in rows:
        cells = []
        for text, width, column in zip(row, widths, block.columns, strict=True):
            pad = " " * (width - _width(text))
            cells.append(pad + text if column.right else text + pad)
        lines.append("  " + "  ".join(cell for cell, width in zip(cells, widths, strict=True) if width).rstrip())
    return [*lines, f"  {block.note}"] if block.note else lines


def _text(cell: Cell, *, unicode: bool) -> str:
    if isinstance(cell, str):
        return cell
    full = round(cell.share * _BAR)
    return ("█" if unicode else "#") * full + ("·" if unicode else "-") * (_BAR - full)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


# ---------------------------------------------------------------- rich

_TONES = {"good": "bold green", "bad": "bold red", "plain": "bold"}


def _rendered(block: Block, width: int, *, unicode: bool) -> list[RenderableType]:
    from rich.table import Table as RichTable
    from rich.text import Text

    if isinstance(block, Verdict):
        return [Text.assemble((block.word, _TONES[block.tone]), f": {block.text}" if block.text else "")]
    if isinstance(block, Notes):
        head: list[RenderableType] = [Text(f"  {block.title}", style="bold")] if block.title else []
        mark = ("  ! ", "yellow") if block.title else "  "
        return [*head, *(Text.assemble(mark, line) for line in block.lines)]
    whole = block
    while not _fits(block, width, unicode=unicode) and any(column.spare for column in block.columns):
        block = _without_spare(block)
    if not _fits(block, width, unicode=unicode):
        block = whole
        return _stacked(block, unicode=unicode)
    table = RichTable(
        box=None, padding=(0, 2, 0, 0), header_style="dim", show_header=any(c.name for c in block.columns)
    )
    for number, column in enumerate(block.columns):
        justify: Literal["right", "left"] = "right" if column.right else "left"
        fixed = number > 0 and not column.wraps
        table.add_column(Text(column.name), justify=justify, overflow="fold", no_wrap=fixed)
    for row in block.rows:
        table.add_row(*(_cell(cell, unicode=unicode) for cell in row))
    parts: list[RenderableType] = [Text(f"  {block.title}", style="bold")] if block.title else []
    parts.append(_indented(table))
    if block.note:
        parts.append(Text(f"  {block.note}", style="dim"))
    return parts


def _fits(block: Table, width: int, *, unicode: bool) -> bool:
    """Whether a table has room for what may not wrap, and some for what may."""
    need = 2
    for number, column in enumerate(block.columns):
        cells = [_width(_text(row[number], unicode=unicode)) for row in block.rows]
        widest = max(cells, default=0)
        wraps = number == 0 or column.wraps
        need += max(min(widest, _LEAST) if wraps else widest, 0 if wraps else _width(column.name)) + 2
    return need <= width


def _without_spare(block: Table) -> Table:
    """The table without the last of its columns that may be left out."""
    last = max(number for number, column in enumerate(block.columns) if column.spare)

    def cut(cells: tuple[Any, ...]) -> tuple[Any, ...]:
        return cells[:last] + cells[last + 1 :]

    return Table(block.title, cut(block.columns), tuple(cut(row) for row in block.rows), block.note)


def _stacked(block: Table, *, unicode: bool) -> list[RenderableType]:
    """The rows of a table one under the other, each cell with its heading: for a narrow terminal."""
    from rich.text import Text

    parts: list[RenderableType] = [Text(f"  {block.title}", style="bold")] if block.title else []
    for row in block.rows:
        name, *cells = (_text(cell, unicode=unicode) for cell in row)
        # What stands in a bar stands beside it as a number.
        told = [
            f"{column.name} {cell}".strip()
            for column, cell, drawn in zip(block.columns[1:], cells, row[1:], strict=True)
            if cell and not isinstance(drawn, Bar)
        ]
        parts.append(Text(f"  {name}", style="bold", overflow="fold"))
        if told:
            parts.append(_indented(Text(", ".join(told), overflow="fold"), 6))
    if block.note:
        parts.append(_indented(Text(block.note, style="dim")))
    return parts


def _indented(table: RenderableType, columns: int = 2) -> RenderableType:
    from rich.padding import Padding

    return Padding(table, (0, 0, 0, columns))


_STYLES = {"trainable": "green", "frozen": "cyan", "buffer": "yellow", "buffers": "yellow"}


def _cell(cell: Cell, *, unicode: bool) -> RenderableType:
    from rich.text import Text

    if isinstance(cell, Bar):
        return Text(_text(cell, unicode=unicode), style="blue")
    return Text(cell, style=_STYLES.get(cell.split(",")[0], ""))
