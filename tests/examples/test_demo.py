"""What README tells a newcomer to type runs as it stands there, on the real checkpoint. `--help`: see test_help."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from examples import crepe, demo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory such as the reader has: the checkpoint, and the examples beside it."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copy(crepe.weights("tiny"), folder / "tiny.pth")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def lines_of(text: str, subject: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if re.match(rf"\s*stateregistry {subject}", line)]


def run(line: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "stateregistry", *shlex.split(line)[1:], *more]
    return subprocess.run(words, check=False, cwd=folder, capture_output=True, text=True)


def test_the_demo_of_the_small_size_says_that_all_is_equal(tmp_path, capfd):
    demo.run("tiny", tmp_path)
    assert "44 of 44 entries have the same bytes, 6 counters among them" in capfd.readouterr().out


def test_the_commands_of_readme_do_what_it_says(folder):
    block = (ROOT / "README.md").read_text(encoding="utf-8").split("## From PyTorch to Flax")[1].split("```")[1]
    lines = lines_of(block, "")
    assert [shlex.split(line)[1] for line in lines] == ["inspect", "convert", "convert", "diff"]
    for line in lines:
        done = run(line, folder)
        assert done.returncode == 0, line + done.stdout + done.stderr
