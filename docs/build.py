"""Checks the documentation: every relative link of every page leads to a file, and every anchor to a place in it.

Pages that are generated are regenerated first, by the modules named in `GENERATORS`. Run by `make docs`; with `--check`
a page that would change is an error instead. Needs nothing but the standard library and what the generators need.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Commands that write a page, by the page.
GENERATORS: dict[str, list[str]] = {
    "docs/layers.md": ["docs/layers.py"],
    "docs/spec/conformance.md": ["-m", "stateregistry_conformance", "--table", "docs/spec/conformance.md"],
}

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


def generate() -> tuple[list[str], list[str]]:
    """Regenerate the generated pages; say which were stale, and which could not be made."""
    stale, failures = [], []
    for name, command in GENERATORS.items():
        page = ROOT / name
        before = page.read_text(encoding="utf-8") if page.exists() else ""
        failed = subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode
        if failed:
            failures.append(f"{name}: its generator failed with {failed}")
        elif page.read_text(encoding="utf-8") != before:
            stale.append(f"{name}: was stale and is regenerated")
    return stale, failures


def main(arguments: list[str]) -> int:
    """Regenerate, check links, print what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="a generated page that changes is an error")
    options = parser.parse_args(arguments)
    stale, failures = generate()
    wrong = broken(ROOT)
    for line in [*stale, *failures, *wrong]:
        print(line)
    print(f"docs: {len(pages(ROOT))} pages, {len(wrong)} broken links")
    return 1 if wrong or failures or (stale and options.check) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
