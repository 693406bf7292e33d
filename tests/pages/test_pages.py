"""A page: one file that needs nothing but itself, the same for the same input, in which no name is markup."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import stateregistry as sr
from stateregistry.cli import main
from stateregistry.pages import markup
from stateregistry.report.spelling import printable

PAGES = ("inspect", "diff", "plan", "refused", "hostile", "hostile_diff", "hostile_plan", "many")


class Reader(HTMLParser):
    """Every element with its attributes, and whether what is opened is closed."""

    VOID = frozenset({"meta", "input", "br", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} closes what it did not open"

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def ids(self) -> list[str]:
        return [found for _, attributes in self.elements if (found := attributes.get("id"))]


@pytest.fixture(scope="module", params=PAGES)
def text(request, room) -> str:
    return (room / f"{request.param}.html").read_text(encoding="utf-8")


def test_every_element_is_closed_and_every_id_is_one(text):
    found = Reader(text)
    assert len(found.ids) == len(set(found.ids))
    assert [tag for tag, _ in found.elements].count("h1") == 1


def test_every_link_leads_somewhere_on_the_page(text):
    found = Reader(text)
    links = {attributes["href"] for _, attributes in found.elements if "href" in attributes}
    assert links
    assert {link.removeprefix("#") for link in links} <= set(found.ids)
    labels = [a[name] for _, a in found.elements for name in ("aria-labelledby",) if name in a]
    assert set(labels) <= set(found.ids)


def test_nothing_is_fetched_and_nothing_is_inline(text):
    found = Reader(text)
    for tag, attributes in found.elements:
        assert not {"src", "srcset", "style", "action", "data", "xlink:href"} & attributes.keys(), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert tag not in {"img", "link", "iframe", "object", "embed", "base", "form_"}
    assert "url(" not in text.replace("url(#hatch)", "")
    assert "@import" not in text


def test_the_policy_allows_the_one_style_and_the_one_script(text):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_no_name_is_markup_and_every_name_is_whole(room):
    """The names as a person reads them are in the text of the page; none of them made an element or an attribute."""
    from page_files import HOSTILE

    with sr.open(room / "hostile.safetensors") as file:
        names = list(file)
    assert len(names) == len(HOSTILE)
    for page in ("hostile", "hostile_diff", "hostile_plan"):
        text = (room / f"{page}.html").read_text(encoding="utf-8")
        found = Reader(text)
        assert not {tag for tag, _ in found.elements} & {"b>", "img", "onload"}
        assert not [a for _, a in found.elements if any(name.startswith("on") or name == "autofocus" for name in a)]
        body = "".join(found.texts)
        for name in names:
            assert printable(name).split("/")[-1] in body, (page, name)


@pytest.mark.parametrize("page", ["hostile", "hostile_diff", "hostile_plan"])
def test_no_character_steers_the_reader(room, page):
    text = (room / f"{page}.html").read_text(encoding="utf-8")
    assert [c for c in text if not c.isprintable() and c != "\n"] == []
    assert "\\u202e" in text


def test_what_the_script_searches_cannot_end_its_element(room):
    text = (room / "hostile.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    assert not set("<>&") & set(data)
    document = json.loads(data)
    with sr.open(room / "hostile.safetensors") as file:
        assert [row[0] for row in document["entries"]] == [printable(key) for key in file]


def test_the_same_input_gives_the_same_bytes(room, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(room)
    for name, line in (
        ("inspect", "inspect before.safetensors"),
        ("diff", "diff before.safetensors after.safetensors"),
        ("plan", "convert before.safetensors out.npz --to numpy --allow assumption --overwrite"),
    ):
        made = []
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir(exist_ok=True)
            assert main([*line.split(), "--html", str(tmp_path / folder / f"{name}.html")]) in (0, 1)
            made.append((tmp_path / folder / f"{name}.html").read_bytes())
        assert made[0] == made[1]
        assert str(tmp_path).encode() not in made[0]
        assert str(room).encode() not in made[0]


def test_the_page_says_verdict_totals_biggest_odd_and_tree_in_this_order(room):
    text = (room / "inspect.html").read_text(encoding="utf-8")
    places = [
        text.index(mark)
        for mark in ('<p class="verdict">', '<dl class="totals">', 'id="biggest"', 'id="odd"', 'id="tree"')
    ]
    assert places == sorted(places)
    plain = html.unescape(re.sub(r"<[^>]*>", "", text))
    for words in (
        "1 entry has NaN, 1 in all: head/odd",
        "1 entry has infinite values, 1 in all: head/odd",
        "1 of the parameters is float16, most are float32: head/half",
        "1 has no elements: head/empty",
        "block{0..5}",
    ):
        assert words in plain


def test_the_numbers_of_the_page_are_those_of_the_registry(room):
    text = (room / "inspect.html").read_text(encoding="utf-8")
    with sr.open(room / "before.safetensors") as file:
        trainable = sum(entry.size for entry in file.values() if entry.trainable)
        buffers = sum(entry.size for entry in file.values() if entry.kind is sr.Kind.BUFFER)
    numbers = re.findall(r'<span class="number">([^<]*)</span>', text)
    assert numbers == [f"{trainable:,}", f"{buffers:,}", "1"]  # the tie, counted once


def test_a_page_replaces_a_page_and_nothing_else(room, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(room)
    target = tmp_path / "page.html"
    assert main(["inspect", "before.safetensors", "--html", str(target)]) == 0
    assert main(["inspect", "after.safetensors", "--html", str(target)]) == 0
    target.write_text("<p>my own notes</p>", encoding="utf-8")
    assert main(["inspect", "before.safetensors", "--html", str(target)]) == 3
    assert target.read_text(encoding="utf-8") == "<p>my own notes</p>"
    before = (room / "before.safetensors").read_bytes()
    assert main(["inspect", "before.safetensors", "--html", "before.safetensors"]) == 2
    assert main(["diff", "after.safetensors", "before.safetensors", "--html", "before.safetensors"]) == 2
    assert (room / "before.safetensors").read_bytes() == before
    assert main(["inspect", "before.safetensors", "--html", str(tmp_path / "no" / "page.html")]) == 2


def test_a_page_of_nothing_is_a_page(room, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(room)
    from page_files import foreign

    foreign(tmp_path / "empty.safetensors", {})
    target = tmp_path / "empty.html"
    assert main(["inspect", str(tmp_path / "empty.safetensors"), "--html", str(target)]) == 0
    Reader(target.read_text(encoding="utf-8"))
    assert main(["diff", str(tmp_path / "empty.safetensors"), "before.safetensors", "--html", str(target)]) == 1
    Reader(target.read_text(encoding="utf-8"))


def test_values_are_not_read_where_that_is_asked(room, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(room)
    target = tmp_path / "page.html"
    assert main(["inspect", "before.safetensors", "--no-stats", "--html", str(target)]) == 0
    text = target.read_text(encoding="utf-8")
    assert "Values were not read." in text
    assert "spark" not in Reader(text).texts
    assert '<svg class="spark hist"' not in text


def test_escaping_leaves_no_way_out():
    assert markup.escape("<a b=\"c\" d='e'>&\x00\u202e") == "&lt;a b=&quot;c&quot; d=&#x27;e&#x27;&gt;&amp;\\x00\\u202e"
    assert markup.name("a/<b>") == "<bdi>a/<wbr>&lt;b&gt;</bdi>"
    assert markup.embedded({"k": "</script>&"}) == '{"k":"\\u003c/script\\u003e\\u0026"}'


def test_a_plan_that_is_not_ok_says_its_problems_first(room):
    text = (room / "refused.html").read_text(encoding="utf-8")
    assert "plan not ok" in text
    assert text.index('id="problems"') < text.index('id="picture-title"')
    assert "Not executed." in text
    assert not (room / "norm.msgpack").exists()


def test_a_receipt_names_what_was_written(room):
    text = html.unescape((room / "plan.html").read_text(encoding="utf-8"))
    digest = hashlib.sha256((room / "out.npz").read_bytes()).hexdigest()
    assert digest in text
    assert "converted" in text
    assert np.__version__ in text
