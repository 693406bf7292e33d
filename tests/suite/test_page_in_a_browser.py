"""The page in a real browser: no error, no request, filters filter, every failing cell opens its reproduction.

Needs Chromium. Where there is none the tests are skipped on a developer's machine and fail in CI.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from stateregistry_conformance.levels import level
from stateregistry_conformance.page import columns, render
from stateregistry_conformance.verdict import Status


@pytest.fixture(scope="module")
def path(made, tmp_path_factory) -> str:
    red = {"SR-KEY-001": Status.FAIL, "SR-ATOM-005": Status.FAIL, "SR-WRITE-009": Status.UNTESTED}
    reports = [
        ("green", made(adapter="green")),
        ("red", made(red, adapter="red")),
        ("wrong", made(checks={"smoke.it_says_who_it_is": Status.ERROR}, adapter="wrong")),
    ]
    text = render(columns([(name, report, level(report)) for name, report in reports]))
    file = tmp_path_factory.mktemp("page") / "matrix.html"
    file.write_text(text, encoding="utf-8")
    return file.as_uri()


@pytest.fixture
def opened(browser, path) -> Iterator[Page]:
    """The page; what it says on the console, asks for or throws fails the test."""
    wrong: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page = context.new_page()
    page.on("console", lambda message: wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("request", lambda request: wrong.append(f"request: {request.url}") if request.url != path else None)
    page.goto(path)
    yield page
    context.close()
    assert wrong == []


def rows(page: Page) -> list[str]:
    return page.eval_on_selector_all("#matrix .row", "rows => rows.filter(row => row.offsetParent).map(row => row.id)")


def test_it_opens_with_everything_shown_and_says_how_much(opened):
    shown = rows(opened)
    assert len(shown) > 100
    assert shown[0] == "harness"
    assert opened.get_by_role("status").inner_text() == f"{len(shown)} rows"
    assert opened.title().startswith("Conformance to stateregistry 0.1: green, red, wrong")


def test_the_filter_by_chapter_works(opened):
    everything = len(rows(opened))
    opened.get_by_label("Chapter").select_option("atomicity")
    shown = rows(opened)
    assert shown
    assert all(row.startswith("SR-ATOM-") for row in shown)
    assert opened.get_by_role("status").inner_text() == f"{len(shown)} of {everything} rows"
    headings = opened.locator("#matrix .chapter th:visible").all_inner_texts()
    assert headings == ["Atomicity"]
    opened.get_by_label("Chapter").select_option("")
    assert len(rows(opened)) == everything


def test_the_filter_by_status_works(opened):
    boxes = opened.locator("#statuses input")
    for number in range(boxes.count()):
        boxes.nth(number).uncheck()
    assert rows(opened) == []
    opened.get_by_role("checkbox", name="fail", exact=True).check()
    assert rows(opened) == ["SR-KEY-001", "SR-ATOM-005"]
    opened.get_by_role("checkbox", name="error", exact=True).check()
    assert rows(opened) == ["harness", "SR-KEY-001", "SR-ATOM-005"]
    opened.get_by_label("Chapter").select_option("keys")
    assert rows(opened) == ["SR-KEY-001"]


def test_the_filter_by_words_works(opened):
    opened.get_by_label("Find").fill("sr-key escapes")
    assert rows(opened) == []
    opened.get_by_label("Find").fill("native_trainable")
    assert rows(opened) == ["SR-KIND-006"]
    opened.get_by_label("Find").fill("SR-WRITE-009")
    assert rows(opened) == ["SR-WRITE-009"]


def test_every_failing_cell_opens_its_reproduction(opened):
    cells = opened.locator(".cell.fail a.open, .cell.error a.open, .cell.untested a.open")
    assert cells.count() == 4
    box = opened.locator("dialog")
    for number in range(cells.count()):
        label = cells.nth(number).get_attribute("aria-label")
        requirement, adapter, status = re.fullmatch(r"(\S+), (\S+): (\S+)", label).groups()
        cells.nth(number).click()
        assert box.is_visible()
        text = box.inner_text()
        assert adapter in text
        assert requirement in text or requirement == "harness"
        assert f"made {status}" in text
        if status != "untested":
            assert (
                "# python -m stateregistry_conformance made.up:harness --check"
                in box.locator("pre.repro").first.inner_text()
            )
        box.get_by_role("button", name="Close").click()
        assert not box.is_visible()


def test_it_works_by_keyboard(opened):
    opened.locator("#SR-KEY-001 .cell.fail a.open").focus()
    opened.keyboard.press("Enter")
    box = opened.locator("dialog")
    assert box.is_visible()
    copy = box.get_by_role("button", name="Copy").first
    assert copy.evaluate("button => button === document.activeElement")
    opened.keyboard.press("Escape")
    assert not box.is_visible()
    assert opened.evaluate("document.activeElement.getAttribute('aria-label')") == "SR-KEY-001, red: fail"
    opened.get_by_label("Find").focus()
    opened.keyboard.type("SR-KEY-001")
    assert rows(opened) == ["SR-KEY-001"]
    opened.keyboard.press("Enter")
    assert rows(opened) == ["SR-KEY-001"]


def test_the_reproduction_is_copied(opened):
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.locator("#SR-KEY-001 .cell.fail a.open").click()
    opened.get_by_role("button", name="Copy").first.click()
    opened.get_by_role("button", name="Copied").wait_for()
    copied = opened.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("# python -m stateregistry_conformance made.up:harness --check keys.")


def test_a_requirement_is_a_place_to_link_to(opened, path):
    opened.goto(f"{path}#SR-ATOM-005")
    assert opened.locator("#SR-ATOM-005").is_visible()
    assert opened.evaluate("document.querySelector(':target').id") == "SR-ATOM-005"


def test_light_and_dark_follow_the_system_and_the_button(browser, path):
    def paper(page: Page) -> int:
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", color)[:3]))

    for scheme, dark in (("light", False), ("dark", True)):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(path)
        assert (paper(page) < 200) is dark
        page.locator("#theme").click()
        assert page.locator("#theme").inner_text() == "Theme: light"
        assert paper(page) > 600
        page.locator("#theme").click()
        assert paper(page) < 200
        context.close()


def test_without_scripts_it_is_readable_and_the_cells_lead_to_the_reasons(browser, path):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path)
    assert not page.locator("#controls").is_visible()
    page.locator("#SR-KEY-001 .cell.fail a.open").click()
    assert page.url.endswith("#why-1-SR-KEY-001")
    assert page.locator("#why-1-SR-KEY-001 pre.repro").first.is_visible()
    context.close()


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_it_fits_its_window(browser, path, width):
    context = browser.new_context(viewport={"width": width, "height": 800})
    page = context.new_page()
    page.goto(path)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_what_is_wrong_would_be_noticed(browser, path, tmp_path):
    """The guard of `opened` can fail: a page with another script is stopped by its policy, and says so."""
    text = Path(path.removeprefix("file://")).read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace('"use strict";', '"use strict"; fetch("https://example.org/");'), encoding="utf-8")
    said: list[str] = []
    context = browser.new_context()
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.goto(broken.as_uri())
    context.close()
    assert any("Content Security Policy" in text for text in said)
