"""The page: one file that needs nothing but itself, the same for the same reports, in which no text is markup."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from stateregistry_conformance import page
from stateregistry_conformance.check import PROFILES
from stateregistry_conformance.levels import level
from stateregistry_conformance.page import CombineError, columns, render
from stateregistry_conformance.report import Report, from_json
from stateregistry_conformance.specification import excluded, requirements
from stateregistry_conformance.verdict import Row, Status

EVIL = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\u202e\x00"


def drawn(*reports: Report) -> str:
    return render(columns([(f"file{number}", report, level(report)) for number, report in enumerate(reports)]))


class Reader(HTMLParser):
    """Every element with its attributes, and whether what is opened is closed."""

    VOID = frozenset({"meta", "input", "br", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} closes what it did not open"

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def ids(self) -> list[str]:
        return [found for _, attributes in self.elements if (found := attributes.get("id"))]


@pytest.fixture(scope="module")
def reports(made) -> tuple[Report, ...]:
    red = made({"SR-KEY-001": Status.FAIL, "SR-WRITE-009": Status.UNTESTED}, adapter="red")
    return made(adapter="green"), red, made(checks={"smoke.it_says_who_it_is": Status.ERROR}, adapter="wrong")


def test_the_same_reports_give_the_same_bytes(reports):
    assert drawn(*reports) == drawn(*reports)


def test_a_report_that_was_written_down_gives_the_same_page(reports):
    again = [from_json(json.loads(json.dumps(report.to_json()))) for report in reports]
    assert drawn(*again) == drawn(*reports)


def test_every_requirement_has_a_cell_for_every_adapter(reports):
    text = drawn(*reports)
    listed = [one.id for one in requirements().values() if one.binding and excluded(one) is None]
    assert re.findall(r'<tr class="row" id="(SR-[A-Z]+-\d+)">', text) == listed
    assert text.count('<td class="cell ') == (len(listed) + 1) * len(reports)


def test_every_cell_that_is_not_a_pass_leads_to_its_reason(reports):
    text = drawn(*reports)
    reader = Reader(text)
    anchors = re.findall(r'<a class="open" href="#([^"]+)"', text)
    assert set(anchors) <= set(reader.ids())
    assert "why-1-SR-KEY-001" in anchors
    assert "why-1-SR-WRITE-009" in anchors
    assert "why-2-harness" in anchors
    assert not any(anchor.startswith("why-0-") and "WRITE-003" not in anchor for anchor in anchors)
    why = text.split('id="why-1-SR-KEY-001"')[1].split("</article>")[0]
    assert "made fail" in why
    assert "blamed on the adapter" in why
    assert "# python -m stateregistry_conformance made.up:harness --check keys." in why


def test_it_is_well_formed_and_its_ids_are_unique(reports):
    reader = Reader(drawn(*reports))
    assert reader.open == []
    assert len(set(reader.ids())) == len(reader.ids())
    assert [tag for tag, _ in reader.elements].count("h1") == 1


def test_nothing_is_fetched_and_nothing_runs_but_the_one_script(reports):
    text = drawn(*reports)
    reader = Reader(text)
    (policy,) = [one["content"] for tag, one in reader.elements if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    for tag, attributes in reader.elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "video", "audio"}
        assert not [
            name for name in attributes if name.startswith("on") or name in {"style", "src", "srcset", "action"}
        ]
        assert (attributes.get("href") or "#").startswith("#")


def test_no_text_of_a_harness_is_markup(made):
    evil = made({"SR-KEY-001": Status.FAIL}, adapter=EVIL, named=EVIL, adapter_version=EVIL, distributions={EVIL: EVIL})
    rows = [replace(row, detail=EVIL, repro=EVIL) if row.status is Status.FAIL else row for row in evil.rows]
    text = drawn(Report(evil.header, tuple(rows)))
    tags = {tag for tag, _ in Reader(text).elements}
    assert "img" not in tags
    assert text.count("<script") == 2
    assert "alert(1)" in html.unescape(text)
    assert "\u202e" not in text
    assert "\x00" not in text


def test_the_reports_are_inside(reports):
    (found,) = re.findall(r'<script type="application/json" id="reports">(.*?)</script>', drawn(*reports))
    for entry, report in zip(json.loads(found), reports, strict=True):
        assert from_json(entry["report"]) == report


def test_columns_are_named_by_adapter_and_by_file_where_two_are_of_one(made):
    one, two, other = made(adapter="a"), made(adapter="a"), made(adapter="b")
    made_of = columns([("x", one, level(one)), ("y", two, level(two)), ("z", other, level(other))])
    assert [column.name for column in made_of] == ["a (x)", "a (y)", "b"]


def test_reports_of_different_requirements_are_refused(made):
    one, other = made(), made(requirements="0" * 64)
    with pytest.raises(CombineError, match="different requirements"):
        columns([("x", one, level(one)), ("y", other, level(other))])
    with pytest.raises(CombineError, match="other requirements than those"):
        columns([("y", other, level(other))])


def test_a_report_of_another_suite_is_shown_without_a_level(made):
    old = made(suite_digest="0" * 64)
    text = drawn(old)
    assert "it was made by another suite" in text
    assert '<article class="card bad">' in text


def test_a_sound_report_of_the_quick_profile_has_no_level_and_is_no_failure(made):
    assert '<article class="card plain">' in drawn(made(profile=PROFILES["quick"]))
    failed = made({"SR-KEY-001": Status.FAIL}, profile=PROFILES["quick"])
    assert '<article class="card bad">' in drawn(failed)


def test_a_row_without_a_reproduction_still_has_a_reason(made):
    whole = made({"SR-KEY-001": Status.UNTESTED})
    text = drawn(Report(whole.header, (*whole.rows, Row("SR-KEY-001", "known failures: SR-KEY-001", Status.STALE))))
    assert "stale by" in text


def test_combine_writes_what_render_gives(made, command, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps(made(adapter=name).to_json()), encoding="utf-8")
    out = tmp_path / "out.html"
    done = command("combine", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--html", str(out))
    assert done.code == 0, done.err
    assert done.out == f"{out}: a (Full 0.1), b (Full 0.1)\n"
    assert out.read_text(encoding="utf-8") == drawn(made(adapter="a"), made(adapter="b"))


def test_combine_refuses_what_verify_report_refuses(made, command, tmp_path):
    document = made().to_json()
    (tmp_path / "good.json").write_text(json.dumps(document), encoding="utf-8")
    document["footer"]["counts"]["pass"] += 1
    (tmp_path / "bad.json").write_text(json.dumps(document), encoding="utf-8")
    done = command(
        "combine", str(tmp_path / "good.json"), str(tmp_path / "bad.json"), "--html", str(tmp_path / "out.html")
    )
    assert done.code == 2
    assert "bad.json: the footer counts" in done.err
    assert not (tmp_path / "out.html").exists()


def test_every_status_has_a_sign_and_a_word():
    assert set(page._SIGNS) == set(Status)
    assert len({sign for sign, _ in page._SIGNS.values()}) == len(Status)
