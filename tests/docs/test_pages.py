"""Every block of code in README and in the documentation does what the page says: it is run, in order, as a reader would.

A page is one test. Two pages are replayed by the tests of what they are about, and blocks that cannot be run are listed here.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
from page_rooms import ROOMS
from page_session import Block, Session, blocks, commands, lines_of, printed

ROOT = Path(__file__).resolve().parents[2]

#: Pages that are replayed elsewhere, because they build a distribution or run the suite.
ELSEWHERE = {
    "docs/guides/write-an-adapter.md": "tests/outside/test_guide.py",
    "docs/guides/conformance.md": "tests/suite/test_guide.py",
}

#: Blocks that are not run, by page and first line, and why. Nothing else is left out.
NOT_RUN = {
    (
        "README.md",
        "  kind       in    elements  out    elements",
    ): "what `make demo` prints; tests/examples runs the demo",
    ("docs/alignment.md", "ambiguous: layers/0/w1 and 47 more: 2 and 2 of"): (
        "a message, shortened; tests/alignment has the whole"
    ),
}


def pages() -> list[str]:
    """Every page with a block of code, by its path."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page.relative_to(ROOT).as_posix() for page in found if blocks(page.read_text(encoding="utf-8"))]


def of_site(block: Block) -> bool:
    """Whether a block is a directive: the site is made of it, and nothing is run."""
    return block.kind.startswith("{")


def left_out(page: str, block: Block) -> bool:
    """Whether a block is listed as not run."""
    return any(page == one and block.first.startswith(first) for one, first in NOT_RUN)


def installs(words: list[str]) -> None:
    """Look at `pip install`: the extras that it names exist."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert words[:2] == ["pip", "install"]
    if words[2:] == ["-e", "."]:
        installs_what_the_page_wrote()
        return
    for word in words[2:]:
        name, _, extras = word.rstrip("]").partition("[")
        assert name == config["name"], f"{word}: not our distribution"
        assert set(filter(None, extras.split(","))) <= set(config["optional-dependencies"]), f"{word}: no such extra"


def installs_what_the_page_wrote() -> None:
    """What pip leaves of a distribution in the folder: its name and its entry points."""
    config = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = Path(f"{config['name']}-{config['version']}.dist-info")
    folder.mkdir()
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items())
        for group, points in config["entry-points"].items()
    ]
    (folder / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    head = f"Metadata-Version: 2.1\nName: {config['name']}\nVersion: {config['version']}\n"
    (folder / "METADATA").write_text(head, encoding="utf-8")


def makes(words: list[str]) -> None:
    """Look at `make target`: there is such a target."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(words[1:]) <= set(targets), words


LOOKED_AT = {"pip": installs, "make": makes}


@pytest.fixture
def forgotten(monkeypatch, tmp_path):
    """Layers that a page registers are gone after it, and so are the modules that it writes."""
    from stateregistry_flax import declared as flax_declared
    from stateregistry_torch import declared as torch_declared

    for module in (torch_declared, flax_declared):
        monkeypatch.setattr(module.DECLARED, "rows", dict(module.DECLARED.rows))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", [page for page in pages() if page not in ELSEWHERE])
def test_the_page_does_what_it_says(page, tmp_path, monkeypatch, forgotten):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ROOMS[page](tmp_path) if page in ROOMS else {}
    session = Session("guide", tmp_path, names, LOOKED_AT)
    monkeypatch.setitem(sys.modules, "guide", session.module)
    found = [b for b in blocks((ROOT / page).read_text(encoding="utf-8")) if not of_site(b) and not left_out(page, b)]
    for block in found:
        if block.file.endswith(".py"):  # another room of the tests may have loaded a module of this name
            monkeypatch.delitem(sys.modules, Path(block.file).parts[0].removesuffix(".py"), raising=False)
    for block in found:
        session.run(block, ROOT / page)


def test_there_are_pages_and_rooms_for_none_that_is_gone():
    assert len(pages()) > 12
    assert {*ROOMS, *ELSEWHERE} <= set(pages())


@pytest.mark.parametrize(("page", "test"), ELSEWHERE.items())
def test_a_page_that_is_replayed_elsewhere_is(page, test):
    assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


def test_every_block_that_is_not_run_is_there():
    """An entry of the list whose block is gone would excuse the next one."""
    for page, first in NOT_RUN:
        found = blocks((ROOT / page).read_text(encoding="utf-8"))
        assert sum(block.first.startswith(first) for block in found) == 1, (page, first)


def test_every_tool_is_on_the_page_of_tools():
    from stateregistry import tools

    text = (ROOT / "docs" / "tools.md").read_text(encoding="utf-8")
    assert [name for name in tools.__all__ if name[0].islower() and f"{name}(" not in text] == []


# ------------------------------------------------------------------------------------------- that the mechanism can fail


def run(text: str, folder: Path) -> Session:
    session = Session("guide", folder, {}, LOOKED_AT)
    for block in blocks(text):
        session.run(block, Path("page.md"))
    return session


@pytest.mark.parametrize(
    ("wanted", "found", "same"),
    [
        ("a", "a\n", True),
        ("a ... c", "a b c", True),
        ("a\n...\nc", "a\nb\nb\nc", True),
        ("a\n...", "a", True),
        ("a ... c", "a b d", False),
        ("a", "a\nb", False),
        ("b\n...", "a\nb", False),
        ("...", "", True),
        ("a.c", "abc", False),
    ],
)
def test_the_comparison_of_output_can_fail(wanted, found, same):
    assert printed(wanted, found) is same


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```python\nprint(1)\n```\n```text\n2\n```\n", "printed instead"),
        ("```python\nprint(1)\n```\nWords.\n```text\n1\n```\n", "nothing above it prints"),
        ("```text\n1\n```\n", "nothing above it prints"),
        ("```rust\n1\n```\n", "not understood"),
        ("```python\nassert 1 == 2, 'so'\n```\n", "so"),
        ("```console\n$ stateregistry inspect gone.pt\n```\n", "exit 2"),
        ("```console\n$ stateregistry inspect gone.pt\n$ echo $?\n0\n```\n", "exit code was 2"),
        ("```console\n$ stateregistry --version\nstateregistry 99\n```\n", "printed instead"),
        ("```sh\nstateregistry inspect gone.pt\n```\n", "exit 2"),
        ("```sh\nrm -r /\n```\n", "no command that a page may show"),
        ("```sh\npip install 'stateregistry[nothing]'\n```\n", "no such extra"),
        ("```sh\nmake tea\n```\n", "tea"),
    ],
)
def test_a_page_that_is_wrong_fails(text, problem, tmp_path):
    with pytest.raises(AssertionError, match=re.escape(problem)):
        run(text, tmp_path)


@pytest.mark.parametrize(
    "text", ["```py\nfor\n```\n", "```toml\n=\n```\n", "```toml\n[[rename]]\nsauce = 1\n```\n", "```json\n{\n```\n"]
)
def test_a_block_that_cannot_be_read_fails(text, tmp_path):
    with pytest.raises((SyntaxError, ValueError)):
        run(text, tmp_path)


def test_a_page_is_one_session_with_files_and_exit_codes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (
        "**`part/one.toml`**\n\n```toml\na = 1\n```\n\n"
        "```python\nimport pathlib\nx = pathlib.Path('part/one.toml').read_text()\n```\n"
        "```python\nprint(x)\n```\n```text\na = ...\n```\n"
        "```console\n$ stateregistry inspect gone.pt\nerror: there is no file 'gone.pt'\n...\n$ echo $?\n2\n"
        "$ stateregistry --version\nstateregistry ...\n```\n"
    )
    assert run(text, tmp_path).module.x == "a = 1\n"


def test_commands_and_lines_are_cut_where_a_shell_would():
    assert list(commands("$ a b\nc\nd\n$ e\n")) == [("a b", "c\nd\n"), ("e", "")]
    assert lines_of("# no\na \\\n  b\n\nc\n") == ["a    b", "c"]
