"""The guide on registering layers is what is so: its blocks run from top to bottom and print what stands beneath them."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from stateregistry_flax import declared as flax_declared
from stateregistry_torch import declared as torch_declared

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "register-a-layer.md"
#: Where something is left out of a line, or is between lines.
LEFT_OUT = "..."


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (torch_declared, flax_declared):
        monkeypatch.setattr(module, "_ROWS", dict(module._ROWS))


def blocks(text: str) -> list[tuple[str, str]]:
    """Every block of Python with what it must print; empty where nothing stands beneath it."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    code: list[tuple[str, str]] = []
    for kind, body in found:
        if kind == "python":
            code.append((body, ""))
        elif kind == "text":
            code[-1] = (code[-1][0], body)
    return code


def is_printed(wanted: str, printed: str) -> bool:
    """Whether the text was printed, whatever stands where it leaves something out."""
    pieces = (re.escape(piece) for piece in wanted.rstrip("\n").split(LEFT_OUT))
    return re.fullmatch(".*?".join(pieces) + r"\s*", printed, re.DOTALL) is not None


def test_every_block_runs_and_prints_what_stands_beneath_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = types.ModuleType("guide")
    monkeypatch.setitem(sys.modules, "guide", page)
    found = blocks(PAGE.read_text(encoding="utf-8"))
    assert len(found) > 5
    for code, wanted in found:
        exec(compile(code, str(PAGE), "exec"), page.__dict__)  # the page is ours
        printed = capsys.readouterr().out
        assert is_printed(wanted, printed), f"{code}\nprinted:\n{printed}"


def test_the_comparison_can_fail() -> None:
    assert is_printed("a ... c\n", "a b c\n")
    assert not is_printed("a ... c\n", "a b d\n")
    assert not is_printed("a\n", "a\nb\n")
    assert blocks("```python\n1\n```\n```text\n2\n```\n") == [("1\n", "2\n")]
