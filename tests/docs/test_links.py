"""Links in the documentation lead somewhere, and the check of that can fail."""

from __future__ import annotations

from pathlib import Path

import page_links
import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_every_link_leads_somewhere():
    assert len(page_links.pages(ROOT)) > 30
    assert page_links.broken(ROOT) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a](missing.md)", "no such file"),
        ("[a](other.md#nowhere)", "no such anchor"),
        ("[a](#nowhere)", "no such anchor"),
    ],
)
def test_the_check_can_fail(tmp_path, text, problem):
    (tmp_path / "other.md").write_text("# Other\n", encoding="utf-8")
    (tmp_path / "page.md").write_text(f"# Page\n\n{text}\n", encoding="utf-8")
    (found,) = page_links.broken(tmp_path)
    assert found.startswith("page.md:3: ")
    assert found.endswith(problem)


def test_links_that_lead_somewhere_are_followed(tmp_path):
    (tmp_path / "other.md").write_text(
        '# One, two `three`\n\n<a id="SR-1"></a>\n\n## Twice\n\n## Twice\n', encoding="utf-8"
    )
    links = [
        "other.md",
        "other.md#one-two-three",
        "other.md#SR-1",
        "other.md#twice-1",
        "https://example.org/x#y",
        "#page",
    ]
    text = (
        "# Page\n\n"
        + " ".join(f"[a]({link})" for link in links)
        + "\n\n```\n[a](in-code.md)\n```\n\n`[a](in-code.md)`\n"
    )
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    assert page_links.broken(tmp_path) == []
