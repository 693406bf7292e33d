"""Follows the relative links of pages as the repository shows them: each leads to a file, each anchor to a place in it.

Needs no Sphinx and takes a second; the site is held against its own links when it is built, by `make docs`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$")
_ANCHOR = re.compile(r"<a id=\"([^\"]+)\"")
_FENCE = re.compile(r"^\s*(```|~~~)")


def pages(root: Path) -> list[Path]:
    """Every page of the project."""
    return sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / "examples").rglob("*.md")])


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a page that are not code."""
    fenced = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            yield number, line


def anchors(page: Path) -> set[str]:
    """What `#...` can lead to in a page: headings as GitHub spells them, and explicit anchors."""
    found: set[str] = set()
    for _, line in prose(page):
        found.update(_ANCHOR.findall(line))
        heading = _HEADING.match(line)
        if heading:
            text = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            number = next(n for n in range(len(found) + 1) if (f"{slug}-{n}" if n else slug) not in found)
            found.add(f"{slug}-{number}" if number else slug)
    return found


def broken(root: Path) -> list[str]:
    """Every link that leads nowhere, with its place."""
    wrong = []
    for page in pages(root):
        for number, line in prose(page):
            for target in _LINK.findall(re.sub(r"`[^`]*`", "", line)):
                problem = follow(page, target)
                if problem:
                    wrong.append(f"{page.relative_to(root)}:{number}: {target}: {problem}")
    return wrong


def follow(page: Path, target: str) -> str:
    """What is wrong with a link, empty where nothing is. Links to other sites are not followed."""
    if re.match(r"[a-z][a-z0-9+.-]*:", target):
        return ""
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.exists():
        return "no such file"
    if anchor and file.suffix == ".md" and anchor not in anchors(file):
        return "no such anchor"
    return ""
