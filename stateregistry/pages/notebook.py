"""Notebooks: a registry, a plan, a diff or a verification as a fragment of HTML: no scripts, and never 50 KB.

The blocks of the same report that the command line shows, with a style of their own that takes the colours of the notebook.
Imports no framework.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import singledispatch
from typing import Final

from stateregistry.conversion.planning.plan import Plan
from stateregistry.conversion.verification.verify import Verification
from stateregistry.pages.markup import escape
from stateregistry.registry import StateRegistry
from stateregistry.report import differences, planning, summary, verification
from stateregistry.report.blocks import Bar, Block, Cell, Notes, Table, Verdict
from stateregistry.tools.compare import Diff

#: Bytes of a fragment at most.
MOST: Final = 48_000
#: Rows of a table, lines of a list, characters of a cell.
_ROWS: Final = 40
_LINES: Final = 12
_LETTERS: Final = 160
_STYLE: Final = """<style>
.sr-view{font:13px/1.5 system-ui,sans-serif;max-width:70rem;color:inherit}
.sr-view .sr-verdict{font-size:15px;margin:.2em 0 .6em;overflow-wrap:anywhere}
.sr-view table{border-collapse:collapse;margin:.3em 0 .8em;color:inherit;background:none}
.sr-view caption,.sr-view summary{font-weight:600;text-align:left;padding:.2em 0;color:inherit;cursor:default}
.sr-view summary{cursor:pointer}
.sr-view th,.sr-view td{text-align:left;padding:.18em .9em .18em 0;border:0;border-bottom:1px solid rgba(128,128,128,.3);
background:none;color:inherit;vertical-align:top;white-space:pre-wrap;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.sr-view thead th{opacity:.75;font-weight:500}
.sr-view tbody td:first-child{font-family:ui-monospace,monospace;font-size:12px}
.sr-view .sr-n{text-align:right}
.sr-view ul{margin:.2em 0 .8em;padding-left:1.2em}
.sr-view meter{width:9em}
</style>"""


def html(value: object, /) -> str:
    """The fragment for a value."""
    title, found = blocks(value)
    parts = [_STYLE, f'<section class="sr-view" aria-label="{escape(title)}">']
    size = sum(map(len, parts))
    end = "</section>"
    for number, block in enumerate(found):
        text = "".join(_block(block, folded=number > 2))
        if size + len(text.encode()) > MOST - 200:
            parts.append("<p>more than a notebook should hold: stateregistry writes pages with --html</p>")
            break
        parts.append(text)
        size += len(text.encode())
    return "".join((*parts, end))


def text(value: object, /) -> str:
    """What stands beside the fragment where no HTML is shown."""
    return str(value) if isinstance(value, (Plan, Diff, Verification)) else repr(value)


@singledispatch
def blocks(value: object, /) -> tuple[str, Sequence[Block]]:
    """A title, and the report of a value."""
    message = f"a {type(value).__name__} has no report"
    raise TypeError(message)


@blocks.register
def _(value: StateRegistry) -> tuple[str, Sequence[Block]]:
    facts = summary.summarize(value)
    what = value.adapter or type(value).__name__
    found = [
        summary.verdict(what, "registry", facts), summary.counts(facts), summary.biggest(facts), *summary.notes(facts),
        summary.tree(facts, limit=_ROWS),
    ]  # fmt: skip
    return "registry", [block for block in found if block is not None]


@blocks.register
def _(value: Plan) -> tuple[str, Sequence[Block]]:
    return "plan", planning.outline(value)


@blocks.register
def _(value: Diff) -> tuple[str, Sequence[Block]]:
    return "difference", differences.outline(value)


@blocks.register
def _(value: Verification) -> tuple[str, Sequence[Block]]:
    return "verification", verification.outline(value, "a", "b")


def _block(block: Block, *, folded: bool) -> Iterator[str]:
    if isinstance(block, Verdict):
        yield f'<div class="sr-verdict"><b>{escape(block.word)}</b>: {escape(_short(block.text))}</div>'
        return
    title = block.title
    if folded and title:
        yield f"<details open><summary>{escape(_short(title))}</summary>"
    elif title:
        yield f"<div><b>{escape(_short(title))}</b></div>"
    yield from _notes(block) if isinstance(block, Notes) else _table(block)
    if folded and title:
        yield "</details>"


def _notes(block: Notes) -> Iterator[str]:
    yield "<ul>"
    yield from (f"<li>{escape(_short(line))}</li>" for line in block.lines[:_LINES])
    if len(block.lines) > _LINES:
        yield f"<li>and {len(block.lines) - _LINES} more</li>"
    yield "</ul>"


def _table(block: Table) -> Iterator[str]:
    yield "<table>"
    if any(column.name for column in block.columns):
        heads = (f'<th scope="col"{_right(column.right)}>{escape(column.name)}</th>' for column in block.columns)
        yield f"<thead><tr>{''.join(heads)}</tr></thead>"
    yield "<tbody>"
    for row in block.rows[:_ROWS]:
        cells = zip(row, block.columns, strict=True)
        yield f"<tr>{''.join(f'<td{_right(column.right)}>{_cell(cell)}</td>' for cell, column in cells)}</tr>"
    yield "</tbody></table>"
    more = f"{len(block.rows) - _ROWS} more rows" if len(block.rows) > _ROWS else ""
    note = more or block.note.partition(";")[0]
    yield f"<div>{escape(note)}</div>" if note else ""


def _right(right: bool) -> str:  # an attribute of the column
    return ' class="sr-n"' if right else ""


def _cell(cell: Cell) -> str:
    if isinstance(cell, Bar):
        return f'<meter min="0" max="1" value="{cell.share:.4f}">{100 * cell.share:.1f} %</meter>'
    return escape(_short(cell))


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS // 2]} … {text[-_LETTERS // 2 :]}"
