"""What the site is made of is complete: every page is in its navigation, every command on its page, every tool pinned.

The site itself is built by `make docs`, in which a warning is an error.
"""

from __future__ import annotations

import re
from pathlib import Path

from stateregistry.cli.app import group

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: Pages that the list of their folder shows beneath it (docs/site_parts.py).
NESTED = re.compile(r"decisions/\d{4}-.*")


def navigation(page: Path) -> list[str]:
    """The pages that the toctrees of a page list, by their path without suffix."""
    found = []
    for body in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in body.splitlines():
            if line and not line.startswith(":"):
                name = re.sub(r".*<(.*)>", r"\1", line)
                found.append((page.parent / name).relative_to(DOCS).as_posix())
    return found


def test_every_page_is_in_the_navigation_once():
    listed = [*navigation(DOCS / "index.md"), *navigation(DOCS / "reference" / "index.md")]
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    assert sorted(listed) == sorted(page for page in pages if page != "index" and not NESTED.fullmatch(page))


def test_every_command_is_on_the_page_of_the_command_line():
    text = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^```\{help\} (\w+)$", text, re.MULTILINE)) == sorted(group.commands)


def test_what_builds_the_site_is_pinned():
    wanted = (ROOT / "requirements-docs.txt").read_text(encoding="utf-8").splitlines()
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    assert [name for name in wanted if not name.startswith("#") and f"\n{name}==" not in pins] == []


def test_the_extension_nests_what_this_test_lets_out():
    text = (DOCS / "site_parts.py").read_text(encoding="utf-8")
    assert 'NESTED = {"decisions/README": "0*"}' in text
