"""The guide says what is so: its commands run, its list is read, its tables have every status, level and layer."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import get_args

import pytest

from stateregistry_conformance import __main__ as module
from stateregistry_conformance import known, levels
from stateregistry_conformance.check import PROFILES, Layer
from stateregistry_conformance.session import LOST
from stateregistry_conformance.verdict import _WORST_FIRST

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "guides" / "conformance.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def table(head: str) -> list[list[str]]:
    """The rows of the table whose head begins so."""
    lines = PAGE.split(f"| {head} |", 1)[1].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_verdicts_stand_in_the_order_in_which_they_count():
    assert [row[0] for row in table("verdict")] == [f"`{status.value}`" for status in _WORST_FIRST]


def test_the_layers_and_the_profiles_that_run_them():
    for (name, _, profiles), layer in zip(table("layer"), get_args(Layer), strict=True):
        assert name == f"`{layer}`"
        assert {word.split()[0] for word in profiles.split(", ")} == {
            profile.name for profile in PROFILES.values() if layer in profile.layers
        }


def test_the_levels():
    names = [row[0].replace("`", "") for row in table("level")]
    assert names == [levels.NONE, levels.CORE, levels.CAPABLE, levels.FULL]


def test_the_number_of_losses():
    assert LOST == 5
    assert "after five such losses" in PAGE


def test_the_list_of_known_failures_is_read(tmp_path):
    (text,) = blocks("toml")
    path = tmp_path / "conformance.toml"
    path.write_text(text, encoding="utf-8")
    (entry,) = known.read(path)
    assert entry.requirement == "SR-ALIAS-005"


def commands() -> list[list[str]]:
    lines = "".join(blocks("sh") + blocks("yaml")).splitlines()
    words = [shlex.split(line.removeprefix("- run: "), comments=True) for line in lines]
    return [line for line in words if line[0] in {"stateregistry", "python"}]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_is_one(words, monkeypatch, tmp_path, command):
    """The suite itself is replaced: what is tried is that the words are understood."""
    asked = []
    for name in ("run", "verify", "badge", "combine"):
        monkeypatch.setattr(f"stateregistry_conformance.command.{name}", lambda *_, **__: asked.append(1) or 0)
    if words[0] == "stateregistry":
        from stateregistry.cli import main

        assert main(words[1:]) == 0
    else:
        assert words[1:3] == ["-m", "stateregistry_conformance"]
        assert module.main(words[3:]) == 0
    assert asked == [1]


def test_there_are_commands_to_try():
    assert len(commands()) > 8
