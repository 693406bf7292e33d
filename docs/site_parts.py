"""What the site needs beside its pages: targets for requirements, links to single files, tables and help texts.

`<a id="SR-KEY-001"></a>` in a page is a target that other pages link to as `0.1.md#SR-KEY-001`. A link to a committed page of
HTML leads to a copy of it. `{requirements-by-adapter}` is made from the committed reports and `{help} convert` from the command
line itself, while the site is built, so that neither can be stale. Imports Sphinx, and the suite for its reports.
"""

from __future__ import annotations

import inspect
import json
import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

from stateregistry_conformance.report import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "conformance_tests" / "stateregistry_conformance" / "requirements"
REPORTS = ROOT / "docs" / "conformance"

#: Pages that list others, which stand beneath them in the navigation.
NESTED = {"decisions/README": "0*"}

_ANCHOR = re.compile(r'<a id="([^"]+)"')
#: How a verdict is written in a cell: a word, never a colour alone.
_CELL = {"pass": "pass", "not-applicable": "–"}


def rows(version: str) -> Iterator[str]:
    """The table of requirements by adapter, a line at a time, in markdown, a heading for each chapter."""
    listed = json.loads((REQUIREMENTS / f"{version}.json").read_text(encoding="utf-8"))["requirements"]
    files = [path for path in REPORTS.glob("*.json") if not path.name.endswith(".badge.json")]
    reports = {path.stem: parse(path.read_bytes()).statuses for path in sorted(files, key=lambda path: path.stem)}
    chapter = ""
    for one in listed:
        if one["chapter"] != chapter:
            chapter = one["chapter"]
            yield f"\n## {chapter.capitalize()}\n"
            yield f"| requirement | level | capability | {' | '.join(reports)} |"
            yield f"| --- | --- | --- |{' --- |' * len(reports)}"
        name, capability = one["id"], f"`{one['capability']}`" if one["capability"] else ""
        found = [statuses[name].value if name in statuses else "untested" for statuses in reports.values()]
        cells = " | ".join(_CELL.get(status, f"**{status}**") for status in found)
        yield f"| [{name}](../spec/{version}.md#{name}) | {one['level'].replace(' ', '&nbsp;')} | {capability} | {cells} |"


class RequirementsByAdapter(SphinxDirective):
    """`{requirements-by-adapter} 0.1`: what the committed reports say of every requirement."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The chapters with their tables."""
        for path in REPORTS.glob("*.json"):
            self.env.note_dependency(str(path))
        return self.parse_text_to_nodes("\n".join(rows(self.arguments[0])), allow_section_headings=True)


class Help(SphinxDirective):
    """`{help} convert`: what `stateregistry convert --help` prints."""

    required_arguments = 0
    optional_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """A block of text."""
        command = [sys.executable, "-m", "stateregistry", *self.arguments, "--help"]
        width = {"COLUMNS": "100", "NO_COLOR": "1"}
        done = subprocess.run(command, env={**os.environ, **width}, capture_output=True, text=True, check=True)
        block = nodes.literal_block(done.stdout, done.stdout, language="text")
        return [block]


def targets(app: Sphinx, document: nodes.document) -> None:
    """Make every explicit anchor of a page something that pages can link to."""
    slugs = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    for node in document.findall(nodes.raw):
        for name in _ANCHOR.findall(node.astext()):
            slugs[name] = (node.line or 0, name, name)


def single_files(app: Sphinx, document: nodes.document, page: str) -> None:
    """Let a link to a committed page of HTML open it, instead of downloading it."""
    for node in list(document.findall(addnodes.download_reference)):
        if str(node["reftarget"]).endswith(".html"):
            target = node["reftarget"]
            here = posixpath.dirname(page)
            address = posixpath.relpath(posixpath.join(here, target), here or ".")
            link = nodes.reference("", "", *node.children, refuri=address, internal=True)
            node.replace_self(link)
            _copy(app, posixpath.normpath(posixpath.join(here, target)))


def _copy(app: Sphinx, name: str) -> None:
    source, goal = Path(app.srcdir) / name, Path(app.outdir) / name
    goal.parent.mkdir(parents=True, exist_ok=True)
    goal.write_bytes(source.read_bytes())


def nested(app: Sphinx, page: str, text: list[str]) -> None:
    """Put the pages that a page lists beneath it in the navigation."""
    if page in NESTED:
        text[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n\n{NESTED[page]}\n```\n"


def examples(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Mark what is set in by four spaces in a docstring as code, as a reader takes it."""
    marked: list[str] = []
    for number, line in enumerate(lines):
        before = lines[number - 1] if number else ""
        above = next((one for one in reversed(lines[:number]) if one.strip()), "")
        if line.startswith("    ") and not before.strip() and above and not above.startswith((" ", ".. ", ":")):
            marked += ["::", ""]
        marked.append(line)
    lines[:] = marked


def sentences(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Give a property its docstring back: napoleon takes what stands before a colon for its type."""
    if what == "property" and obj.__doc__:
        lines[:] = [*inspect.cleandoc(obj.__doc__).splitlines(), ""]


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx."""
    app.add_directive("requirements-by-adapter", RequirementsByAdapter)
    app.add_directive("help", Help)
    app.connect("source-read", nested)
    app.connect("autodoc-process-docstring", examples, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", sentences, priority=600)  # after it
    app.connect("doctree-read", targets)
    app.connect("doctree-resolved", single_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
