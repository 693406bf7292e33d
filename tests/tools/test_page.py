"""The page on tools does what it says: its blocks are run, in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tools.md"


def test_every_block_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    blocks = [
        (text[: m.start()].count("\n") + 2, m[1])
        for m in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]
    assert len(blocks) > 8
    names: dict[str, object] = {}
    for line, block in blocks:
        exec(compile("\n" * (line - 1) + block, str(PAGE), "exec"), names)  # a page of ours
    assert (tmp_path / "soup.safetensors").exists()


def test_every_tool_is_on_the_page() -> None:
    from stateregistry import tools

    text = PAGE.read_text(encoding="utf-8")
    missing = [name for name in tools.__all__ if name not in ("Statistics", "Ema") and f"{name}(" not in text]
    assert missing == []
