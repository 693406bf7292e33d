"""Markup: escaping, and the frame that every page has: policy, style, script, title.

What is text stays text: `escape` is the only way in, and what would not be seen, or would turn the line around, is spelled
out. Imports the standard library and `report.spelling`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from html import escape as _escape
from importlib import resources
from typing import Any, Final

from stateregistry._version import __version__
from stateregistry.report.spelling import printable

#: By this a file is recognised as one that may be replaced.
GENERATOR: Final = "stateregistry page"


def escape(text: object, /, *, lines: bool = False) -> str:
    """Text as HTML: nothing in it is markup, and no character in it is invisible; with `lines` but for ends of lines."""
    return _escape(printable(str(text), keep="\n" if lines else ""))


def name(text: str, /) -> str:
    """A name as HTML, apart from the direction of the text around it, with places where a long one may be broken."""
    return f"<bdi>{escape(text).replace('/', '/<wbr>')}</bdi>"


def document(title: str, body: Iterable[str], /, *, data: Any = None) -> str:
    """The page: a frame around `body`; `data` is what its script may search, as JSON."""
    style, script = asset("page.css"), asset("page.js")
    sources = f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    policy = f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'"
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta name="generator" content="{GENERATOR} {__version__}">',
        '<meta name="color-scheme" content="light dark">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{escape(title)}</title>",
        f"<style>{style}</style>",
        "</head>",
        "<body>",
        *body,
        f'<script type="application/json" id="data">{embedded(data)}</script>' if data is not None else "",
        f"<script>{script}</script>",
        "</body>",
        "</html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


@cache
def asset(file: str, /) -> str:
    """A file of this room."""
    return resources.files("stateregistry.pages").joinpath(file).read_text("utf-8").strip() + "\n"


def embedded(value: Any, /) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
