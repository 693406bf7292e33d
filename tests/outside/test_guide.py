"""The guide for authors is the code that is tested: the page is replayed from top to bottom.

Its files, put together block by block, are those of the distribution; every command that it shows is run at the point
where it stands, and must print the lines that stand below it.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "write-an-adapter.md"
#: What a line ends with where something is left out, or is alone on it.
LEFT_OUT = "..."

_FILE = r"^\*\*`(?P<path>[^`]+)`\*\*(?:, (?P<where>[a-z ]+))?\n\n"
_BLOCK = re.compile(rf"(?:{_FILE})?^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One block of the page: a piece of a file, a diff, or commands with what they print."""

    kind: str
    body: str
    path: str = ""
    where: str = ""


def blocks(text: str) -> list[Block]:
    return [
        Block(found["kind"], found["body"], found["path"] or "", found["where"] or "")
        for found in _BLOCK.finditer(text)
    ]


def put_together(block: Block, files: dict[str, str]) -> None:
    """Add a block to its file, with the blank lines that belong between two pieces of Python."""
    if not block.where:
        assert block.path not in files, f"{block.path} begins twice"
        files[block.path] = block.body
        return
    before = files[block.path].rstrip("\n")
    gap = "\n\n" if block.body.startswith(" ") else "\n\n\n"
    if block.where == "further down":
        files[block.path] = f"{before}{gap}{block.body}"
    else:
        assert block.where == "before the last line", block.where
        rest, last = before.rsplit("\n", 1)
        files[block.path] = f"{rest.rstrip()}{gap}{block.body.rstrip()}\n\n\n{last}\n"


def edited(diff: str, files: dict[str, str]) -> dict[str, str]:
    """The files after a diff of which every old line stands in exactly one of them."""
    old = [line[1:] for line in diff.splitlines() if line.startswith("-")]
    new = [line[1:] for line in diff.splitlines() if line.startswith("+")]
    assert len(old) == len(new) > 0
    changed = dict(files)
    for before, after in zip(old, new, strict=True):
        (path,) = [path for path, text in files.items() if text.splitlines().count(before) == 1]
        changed[path] = changed[path].replace(f"{before}\n", f"{after}\n")
    return changed


def commands(console: str) -> Iterator[tuple[list[str], list[str]]]:
    """Each command of a block, with the lines that it must print."""
    for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, *lines = part.splitlines()
        yield shlex.split(command), lines


def missing(wanted: list[str], printed: str) -> str | None:
    """The first line that was not printed after the lines before it, `None` where all were."""
    rest = iter(line.rstrip() for line in printed.splitlines())
    for line in wanted:
        if line == LEFT_OUT:
            continue
        start = line.removesuffix(LEFT_OUT)
        if not any(found.startswith(start) if start != line else found == line for found in rest):
            return line
    return None


@pytest.fixture(scope="module")
def page() -> list[Block]:
    return blocks(PAGE.read_text(encoding="utf-8"))


def test_the_files_of_the_page_are_those_of_the_distribution(page, toybox):
    files: dict[str, str] = {}
    for block in page:
        if block.path:
            put_together(block, files)
    sources = {
        path.relative_to(toybox).as_posix(): path.read_text(encoding="utf-8")
        for path in toybox.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sorted(files) == sorted(sources)
    for path, text in sources.items():
        assert files[path] == text, f"{path} and the page differ"


def test_every_command_of_the_page_prints_what_stands_below_it(page, site, python, tmp_path):
    files: dict[str, str] = {}
    run, change = 0, ""
    for number, block in enumerate(page):
        if block.path:
            put_together(block, files)
        elif block.kind == "diff":
            change = block.body
        elif block.kind == "console":
            tree = tmp_path / str(number)
            shutil.copytree(site, tree)  # for what pip knows of the distribution; the packages are the page's
            for path, text in (edited(change, files) if change else files).items():
                (tree / path).parent.mkdir(exist_ok=True)
                (tree / path).write_text(text, encoding="utf-8")
            change = ""
            for words, lines in commands(block.body):
                if words[0] != "python":
                    assert (words, lines) == (["pip", "install", "-e", ".[test]"], [])
                    continue
                outcome = python(tree, *words[1:], cwd=tree)
                gone = missing(lines, outcome.text)
                assert gone is None, f"{' '.join(words)} did not print {gone!r}:\n{outcome.text}"
                run += 1
    assert run == 5


def test_every_block_is_understood(page):
    kinds = [block.kind for block in page]
    assert set(kinds) == {"python", "toml", "console", "diff"}
    assert all(block.path for block in page if block.kind in {"python", "toml"}), "a piece of code without its file"
    assert PAGE.read_text(encoding="utf-8").count("```") == 2 * len(page)


@pytest.mark.parametrize(
    ("wanted", "printed", "gone"),
    [
        (["a", "..."], "a\nb\n", None),
        (["a", "c"], "a\nb\nc\n", None),
        (["c", "a"], "a\nb\nc\n", "a"),
        (["  long ..."], "  long line\n", None),
        (["long"], "long line\n", "long"),
        (["x"], "", "x"),
    ],
)
def test_the_comparison_of_output_can_fail(wanted, printed, gone):
    assert missing(wanted, printed) == gone
