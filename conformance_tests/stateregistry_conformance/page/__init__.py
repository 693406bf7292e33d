"""Page: reports as one HTML file, requirement by adapter, that needs nothing but itself.

No network, no inline handler, a content security policy that names the one script and the one style by their digests; every
text is escaped, since harnesses choose their names and reasons. Readable without the script: the cells are links to the
reproductions below the matrix. The same reports give the same bytes. Imports the standard library and the suite.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from html import escape as _escape
from importlib import resources
from typing import TYPE_CHECKING, Final, final

from stateregistry.errors import StateError
from stateregistry.report.spelling import printable
from stateregistry_conformance.identity import requirements_digest
from stateregistry_conformance.levels import problems
from stateregistry_conformance.specification import VERSION, Requirement, excluded, requirements
from stateregistry_conformance.verdict import Row, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from stateregistry_conformance.levels import Level
    from stateregistry_conformance.report import Report

#: By this a file is recognised as one that may be replaced.
GENERATOR: Final = "stateregistry conformance page"

#: A sign and a word for every status: colour is never alone.
_SIGNS: Final[Mapping[Status, tuple[str, str]]] = {
    Status.PASS: ("✓", "pass"),
    Status.FAIL: ("✗", "fail"),
    Status.ERROR: ("!", "error"),
    Status.STALE: ("↻", "stale"),
    Status.UNTESTED: ("?", "untested"),
    Status.EXPECTED_FAIL: ("≈", "expected-fail"),
    Status.NOT_APPLICABLE: ("–", "not-applicable"),
}
_LEAD: Final = (
    "Every requirement of the specification, as the conformance suite decided it for each adapter. "
    "Open a cell that is not a pass to see why, and how to run that check again."
)
#: Where a cell has no room for the word.
_SHORT: Final[Mapping[str, str]] = {"not-applicable": "n/a", "expected-fail": "expected"}
_OPENS: Final = frozenset(Status) - {Status.PASS}


class CombineError(StateError, ValueError):
    """The reports do not belong on one page."""


@final
@dataclass(frozen=True, slots=True)
class Column:
    """One report on the page.

    Attributes:
        name: the heading.
        report: the report.
        level: what it is worth.
    """

    name: str
    report: Report
    level: Level


def columns(reports: Sequence[tuple[str, Report, Level]]) -> tuple[Column, ...]:
    """Reports as columns; where two are of one adapter, the name that is given with each is added.

    Raises:
        CombineError: requirements differ, among them or from those of this suite.
    """
    digests = {report.header.requirements for _, report, _ in reports}
    if len(digests) > 1:
        told = ", ".join(f"{name} {report.header.requirements[:12]}" for name, report, _ in reports)
        raise CombineError(f"the reports were made with different requirements: {told}")
    if digests and digests != {requirements_digest()}:
        raise CombineError(f"the reports were made with other requirements than those of specification {VERSION} here")
    names = Counter(report.header.adapter for _, report, _ in reports)
    return tuple(
        Column(
            report.header.adapter if names[report.header.adapter] == 1 else f"{report.header.adapter} ({name})",
            report,
            level,
        )
        for name, report, level in reports
    )


def render(made: Sequence[Column]) -> str:
    """The page."""
    style, script = _asset("page.css"), _asset("page.js")
    sources = f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    policy = f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'"
    title = f"Conformance to stateregistry {VERSION}"
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta name="generator" content="{GENERATOR}">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{title}: {escape(', '.join(column.name for column in made))}</title>",
        f"<style>{style}</style>",
        "</head>",
        "<body>",
        "<header>",
        f"<h1>{title}</h1>",
        f'<p class="lead">{_LEAD}</p>',
        "</header>",
        "<main>",
        *_cards(made),
        *_controls(made),
        *_matrix(made),
        *_details(made),
        *_colophon(made),
        "</main>",
        '<dialog id="box" aria-labelledby="box-title"><div id="box-body"></div>',
        '<form method="dialog"><button id="box-close">Close</button></form></dialog>',
        f'<script type="application/json" id="reports">{_embedded(made)}</script>',
        f"<script>{script}</script>",
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text as HTML: nothing in it is markup, and what would not be seen, or would turn the line around, is spelled out."""
    return _escape(printable(text, keep="\n"))


def _asset(name: str) -> str:
    return resources.files("stateregistry_conformance.page").joinpath(name).read_text("utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embedded(made: Sequence[Column]) -> str:
    document = [{"name": column.name, "level": str(column.level), "report": column.report.to_json()} for column in made]
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# ----------------------------------------------------------------------------------------------------------------- parts


def _cards(made: Sequence[Column]) -> Iterator[str]:
    yield '<section class="cards" aria-label="Adapters">'
    for column in made:
        header = column.report.header
        counts = Counter(column.report.statuses.values())
        kind = "good" if column.level.name != "none" else "plain" if _falls_short(column.report) else "bad"
        yield f'<article class="card {kind}">'
        yield f"<h2>{escape(column.name)} <small>{escape(header.adapter_version)}</small></h2>"
        yield f'<p class="level">{escape(_standing(column))}</p>'
        yield _bar(counts)
        told = " · ".join(f"{counts[status]} {status.value}" for status in Status if counts[status])
        yield f'<p class="counts">{told}</p>'
        if header.capabilities:
            chips = "".join(f"<li>{escape(name)}</li>" for name in header.capabilities)
            yield f'<ul class="chips" aria-label="Capabilities that it claims">{chips}</ul>'
        if column.level.reasons:
            yield f"<details><summary>{'What is left open' if kind == 'good' else 'Why no level'}</summary><ul>"
            yield from (f"<li>{escape(reason)}</li>" for reason in column.level.reasons)
            yield "</ul></details>"
        yield "</article>"
    yield "</section>"


def _falls_short(report: Report) -> bool:
    """Whether a report is sound and all of it is kept, and only too little was tried for a level."""
    return report.conformant and report.header.profile.name != "full" and not problems(report)


def _standing(column: Column) -> str:
    level = column.level
    if level.name != "none":
        return str(level)
    if column.report.header.profile.name != "full" and column.report.conformant:
        return f"conforms ({column.report.header.profile.name} profile: no level)"
    return "no level" if column.report.conformant else "not conformant"


def _bar(counts: Mapping[Status, int]) -> str:
    total, at, parts = max(sum(counts.values()), 1), 0, []
    for status in Status:
        if counts[status]:
            parts.append(f'<rect class="{status.value}" x="{at}" y="0" width="{counts[status]}" height="6"/>')
            at += counts[status]
    return (
        f'<svg class="bar" viewBox="0 0 {total} 6" preserveAspectRatio="none" aria-hidden="true">{"".join(parts)}</svg>'
    )


def _controls(made: Sequence[Column]) -> Iterator[str]:
    present = {status for column in made for status in _cells(column).values()}
    yield '<form class="controls" id="controls" hidden>'
    yield '<label>Find <input type="search" id="find" placeholder="SR-WRITE, rolled back …" autocomplete="off"></label>'
    yield '<label>Chapter <select id="chapter"><option value="">all</option>'
    for chapter in dict.fromkeys(requirement.chapter for requirement in _listed(made)):
        yield f'<option value="{escape(chapter)}">{escape(chapter)}</option>'
    yield "</select></label>"
    yield '<fieldset id="statuses"><legend>Status</legend>'
    for status in Status:
        if status in present:
            sign, word = _SIGNS[status]
            yield (
                f'<label class="{word}"><input type="checkbox" value="{word}" checked>'
                f'<span aria-hidden="true">{sign}</span> {word}</label>'
            )
    yield "</fieldset>"
    yield '<p role="status" id="count"></p>'
    yield "</form>"


def _listed(made: Sequence[Column]) -> list[Requirement]:
    """The requirements that the suite decides, or that some report decides."""
    decided = {name for column in made for name in column.report.statuses}
    return [one for one in requirements().values() if one.id in decided or (one.binding and excluded(one) is None)]


def _cells(column: Column) -> dict[str, Status]:
    """The status of every requirement, and under the empty id that of the harness."""
    found: dict[str, Status] = dict(column.report.statuses)
    worst = [row.status for row in column.report.rows if not row.requirement]
    order = (Status.FAIL, Status.ERROR, Status.STALE, Status.UNTESTED)
    if worst:
        found[""] = next((status for status in order if status in worst), Status.PASS)
    return found


def _matrix(made: Sequence[Column]) -> Iterator[str]:
    cells = [_cells(column) for column in made]
    heads = "".join(f'<th scope="col">{escape(column.name)}</th>' for column in made)
    wide = " scroll" if len(made) > 6 else ""
    yield f'<div class="matrix{wide}" tabindex="0" role="region" aria-label="Requirement by adapter">'
    yield '<table id="matrix">'
    yield '<caption class="hidden">Requirements of the specification by adapter</caption>'
    yield f'<thead><tr><th scope="col">requirement</th><th scope="col">level</th>{heads}</tr></thead>'
    span = len(made) + 2
    if any("" in found for found in cells):
        yield f'<tbody data-chapter="harness"><tr class="chapter"><th scope="rowgroup" colspan="{span}">Harness</th></tr>'
        row = "".join(
            _cell("", column, found, number) for number, (column, found) in enumerate(zip(made, cells, strict=True))
        )
        yield (
            '<tr class="row" id="harness"><th scope="row"><span class="name">harness</span>'
            '<span class="text">is what it says, and its side doors agree with one another</span></th>'
            f"<td></td>{row}</tr></tbody>"
        )
    chapter = ""
    for requirement in _listed(made):
        if requirement.chapter != chapter:
            yield "</tbody>" if chapter else ""
            chapter = requirement.chapter
            yield f'<tbody data-chapter="{escape(chapter)}">'
            yield f'<tr class="chapter"><th scope="rowgroup" colspan="{span}">{escape(chapter.capitalize())}</th></tr>'
        capability = (
            f' <code class="capability">{escape(requirement.capability)}</code>' if requirement.capability else ""
        )
        row = "".join(
            _cell(requirement.id, column, found, number)
            for number, (column, found) in enumerate(zip(made, cells, strict=True))
        )
        yield (
            f'<tr class="row" id="{requirement.id}"><th scope="row">'
            f'<a class="name" href="#{requirement.id}">{requirement.id}</a>'
            f'<span class="text">{_prose(requirement.text)}</span></th>'
            f'<td class="of">{escape(requirement.level)}{capability}</td>{row}</tr>'
        )
    yield "</tbody>" if chapter else ""
    yield "</table></div>"


def _prose(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _cell(name: str, column: Column, cells: Mapping[str, Status], number: int) -> str:
    status = cells.get(name)
    if status is None:
        return '<td class="cell none" data-status=""><span class="hidden">not decided</span></td>'
    sign, word = _SIGNS[status]
    face = f'<span aria-hidden="true">{sign}</span><span class="word">{_SHORT.get(word, word)}</span>'
    if status in _OPENS:
        label = f"{name or 'harness'}, {column.name}: {word}"
        face = f'<a class="open" href="#{_anchor(name, number)}" aria-label="{escape(label)}">{face}</a>'
    return f'<td class="cell {word}" data-status="{word}">{face}</td>'


def _anchor(name: str, number: int) -> str:
    return f"why-{number}-{name or 'harness'}"


def _details(made: Sequence[Column]) -> Iterator[str]:
    yield '<section class="whys"><h2>What is not a pass, and why</h2>'
    some = False
    for number, column in enumerate(made):
        for name, status in _cells(column).items():
            if status not in _OPENS:
                continue
            some = True
            rows = [row for row in column.report.rows if row.requirement == name and row.status is not Status.PASS]
            sign, word = _SIGNS[status]
            yield f'<article class="why {word}" id="{_anchor(name, number)}">'
            yield (
                f'<h3><span class="mark {word}"><span aria-hidden="true">{sign}</span> {word}</span> '
                f'{escape(name or "The harness")} <span class="by">{escape(column.name)}</span></h3>'
            )
            if name:
                yield f"<blockquote>{_prose(requirements()[name].text)}</blockquote>"
            if not rows:
                yield "<p>No check came to a verdict.</p>"
            for row in rows:
                yield from _reason(row)
            yield "</article>"
    if not some:
        yield "<p>Nothing: every requirement is met by every adapter.</p>"
    yield "</section>"


def _reason(row: Row) -> Iterator[str]:
    blame = f", blamed on the {row.blame}" if row.blame else ""
    yield f'<div class="reason"><p class="check">{row.status.value} by <code>{escape(row.check)}</code>{blame}</p>'
    yield f'<pre class="detail">{escape(row.detail)}</pre>' if row.detail else ""
    if row.repro:
        yield f'<p class="again">Run it again:</p><pre class="repro"><code>{escape(row.repro)}</code></pre>'
    yield "</div>"


def _colophon(made: Sequence[Column]) -> Iterator[str]:
    yield '<section class="made"><h2>How this was made</h2>'
    yield '<div class="scroll" tabindex="0" role="region" aria-label="Runs"><table>'
    names = ("adapter", "named", "profile", "suite", "python", "platform", "distributions")
    heads = "".join(f'<th scope="col">{name}</th>' for name in names)
    yield f"<thead><tr>{heads}</tr></thead><tbody>"
    for column in made:
        header = column.report.header
        profile = header.profile
        budget = f"{profile.name}: {profile.examples} examples of {profile.steps} steps, seed {profile.seed}"
        loaded = ", ".join(f"{name} {version}" for name, version in header.distributions.items())
        cells = (
            header.named, budget, f"{header.suite} ({header.suite_digest[:12]})", header.python, header.platform, loaded,
        )  # fmt: skip
        row = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        yield f'<tr><th scope="row">{escape(column.name)}</th>{row}</tr>'
    yield "</tbody></table></div>"
    yield f"<p>Specification {VERSION}, requirements <code>{requirements_digest()[:12]}</code>.</p></section>"
