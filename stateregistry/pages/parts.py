"""Parts: what several pages have in common: the heading, totals, the map with its legend, notes, the end.

Every function yields lines of HTML. Text goes through `markup`; nothing else is put in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from stateregistry._version import __version__
from stateregistry.pages import treemap
from stateregistry.pages.markup import escape, name
from stateregistry.report import spelling

if TYPE_CHECKING:
    from stateregistry.report.summary import Count, Summary

#: Dtypes that have a colour of their own; the others share one.
DTYPES = 7
_HATCH = (
    '<svg class="defs" aria-hidden="true" width="0" height="0"><defs><pattern id="hatch" width="7" height="7" '
    'patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect class="hatching" width="1.6" height="7"/>'
    "</pattern></defs></svg>"
)


def opening(command: str, title: str, word: str, text: str, tone: str, skip: Mapping[str, str]) -> Iterator[str]:
    """The heading of a page: what was asked, the title, the verdict."""
    links = "".join(f'<a href="#{anchor}">{escape(label)}</a>' for anchor, label in skip.items())
    yield f'<nav class="skip" aria-label="On this page">{links}</nav>'
    yield _HATCH
    yield "<header>"
    yield f'<p class="eyebrow"><b>stateregistry</b> {escape(command)}</p>'
    yield f"<h1>{name(title)}</h1>"
    verdict = f'<b class="{tone}">{escape(word)}</b>:' if word else ""
    yield f'<p class="verdict">{verdict} {escape(text)}</p>' if word or text else ""
    yield "</header>"
    yield "<main>"


def closing(how: str) -> Iterator[str]:
    """The end of a page: how it was made."""
    yield '<section class="made" aria-labelledby="made"><h2 id="made">How this was made</h2>'
    yield (
        f"<p><code>{escape(how)}</code>, stateregistry {escape(__version__)}. Nothing in this file was fetched, and nothing "
        "in it asks for anything: it can be mailed, attached and kept.</p></section>"
    )
    yield "</main>"


def totals(rows: Iterable[tuple[str, str, str, str]]) -> Iterator[str]:
    """Large numbers: class, label, number, and what else is to be said of it."""
    yield '<dl class="totals">'
    for cls, label, value, rest in rows:
        yield (
            f'<div class="{cls}"><dt>{escape(label)}</dt><dd><span class="number">{escape(value)}</span>'
            f"<span>{escape(rest)}</span></dd></div>"
        )
    yield "</dl>"


def count_rows(facts: Summary) -> Iterator[tuple[str, str, str, str]]:
    """The totals of a registry: a tied place once."""
    yield "trainable", "trainable elements", spelling.number(facts.trainable.elements), told(facts.trainable)
    if facts.frozen.tensors:
        yield "frozen", "frozen elements", spelling.number(facts.frozen.elements), told(facts.frozen)
    saved = "" if not facts.unsaved.tensors else f", {facts.unsaved.tensors} not saved"
    yield "buffer", "elements in buffers", spelling.number(facts.buffers.elements), told(facts.buffers) + saved
    tied = spelling.plural(len(facts.aliases), "second name") if facts.aliases else "no place has two names"
    yield "tied", "tied, counted once", spelling.number(len(facts.aliases)), tied


def told(count: Count) -> str:
    """`26 tensors, 1.95 MB, float32`."""
    if not count.tensors:
        return "none"
    kinds = list(count.dtypes)
    dtypes = ", ".join(kinds[:2]) + (f" and {len(kinds) - 2} more" if len(kinds) > 2 else "")
    return f"{spelling.plural(count.tensors, 'tensor')}, {spelling.size(count.nbytes)}, {dtypes}"


def dtype_classes(dtypes: Sequence[str]) -> dict[str, str]:
    """The class by which each dtype is coloured, the most frequent first."""
    return {dtype: f"d{min(number, DTYPES)}" for number, dtype in enumerate(dtypes)}


def map_of(
    leaves: Sequence[treemap.Leaf],
    what: str,
    legends: Mapping[str, Sequence[tuple[str, str]]],
    title: str,
    note: str = "",
) -> Iterator[str]:
    """The treemap with its legends; the first way to colour is the one it opens with.

    Args:
        leaves: what is drawn. what: the meaning of an area, a few words.
        legends: way to colour -> class and word of each colour. title: the heading. note: a line below.
    """
    only = f" only-{next(iter(legends))}" if len(legends) == 1 else ""
    yield f'<section class="maps{only}" id="map" aria-labelledby="map-title">'
    yield f'<div class="bar"><h2 id="map-title">{escape(title)}</h2>'
    if len(legends) > 1:
        yield '<fieldset class="ways"><legend>Colour by</legend>'
        for number, way in enumerate(legends):
            checked = " checked" if not number else ""
            yield f'<label><input type="radio" name="way" id="by-{way}" value="{way}"{checked}><span>{way}</span></label>'
        yield "</fieldset>"
    yield "</div>"
    for way, colours in legends.items():
        yield f'<ul class="legend of-{way}">'
        yield from (
            f'<li class="{cls}"><svg aria-hidden="true" width="14" height="14"><rect class="f" width="14" height="14"/>'
            f"{_hatched(cls)}</svg>{escape(word)}</li>"
            for cls, word in colours
        )
        yield "</ul>"
    yield '<div class="frame">'
    yield from treemap.maps(leaves, what)
    yield "</div>"
    yield f'<p class="note">{escape(note)}</p>' if note else ""
    yield "</section>"


def _hatched(cls: str) -> str:
    return '<rect class="hatch" width="14" height="14"/>' if cls == "buffer" else ""


def share(value: float) -> str:
    """A bar for a share between 0 and 1."""
    return (
        '<svg class="share" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="of" width="100" height="8"/><rect class="is" width="{100 * value:.2f}" height="8"/></svg>'
    )


def notes(title: str, lines: Sequence[str], anchor: str, cls: str = "") -> Iterator[str]:
    """A list of sentences under a heading."""
    if lines:
        yield f'<section class="notes {cls}" aria-labelledby="{anchor}"><h2 id="{anchor}">{escape(title)}</h2><ul>'
        yield from (f"<li>{escape(line)}</li>" for line in lines)
        yield "</ul></section>"


def search(picks: Mapping[str, Sequence[tuple[str, str]]]) -> Iterator[str]:
    """The controls of the search, which the script shows; for each column to pick from, its values and their words."""
    yield '<form class="controls" id="controls" hidden role="search">'
    yield '<label class="find">Find <input type="search" id="find" autocomplete="off" placeholder="parts of a name"></label>'
    for column, values in picks.items():
        yield f'<label>{column.capitalize()} <select id="{column}" autocomplete="off"><option value="">any</option>'
        yield from (f'<option value="{escape(value)}">{escape(word)}</option>' for value, word in values)
        yield "</select></label>"
    yield '<p role="status" id="count"></p></form><div id="found" hidden></div>'
