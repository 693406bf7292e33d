"""The treemap: areas in proportion, nothing outside, nothing lost, bounded whatever the input is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateregistry.pages import treemap
from stateregistry.pages.treemap import HEIGHT, WIDTH, Leaf, maps, squarified, tree

WEIGHTS = st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=60)


@given(WEIGHTS, st.floats(1, 2000), st.floats(1, 2000))
def test_areas_are_in_proportion_and_fill_the_box(weights, width, height):
    weights = sorted(weights, reverse=True)
    boxes = list(squarified(weights, (0.0, 0.0, width, height)))
    assert len(boxes) == len(weights)
    total = sum(weights)
    for weight, (x, y, w, h) in zip(weights, boxes, strict=True):
        assert w * h == pytest.approx(width * height * weight / total, rel=1e-6, abs=1e-6 * (1 + width * height))
        assert x >= -1e-6
        assert y >= -1e-6
        assert x + w <= width * (1 + 1e-6) + 1e-6
        assert y + h <= height * (1 + 1e-6) + 1e-6


@given(st.lists(st.integers(1, 100), min_size=2, max_size=25))
def test_boxes_do_not_lie_over_one_another(weights):
    boxes = list(squarified(sorted(weights, reverse=True), (0.0, 0.0, 300.0, 200.0)))
    for number, (x, y, w, h) in enumerate(boxes):
        for a, b, c, d in boxes[:number]:
            across = min(x + w, a + c) - max(x, a)
            down = min(y + h, b + d) - max(y, b)
            assert across <= 1e-6 or down <= 1e-6


def test_equal_weights_make_squares():
    for x, y, w, h in squarified([1.0] * 9, (0.0, 0.0, 90.0, 90.0)):
        assert (w, h) == pytest.approx((30, 30)), (x, y)


def leaves(names, weight=lambda number: 1.0):
    return [Leaf(name, weight(number), f"#e{number}", "trainable d0", name) for number, name in enumerate(names)]


def test_the_tree_adds_up_and_a_chain_of_containers_is_one():
    root = tree(leaves(["a/b/c/x", "a/b/c/y", "a/b/c/z/w", "q"], lambda n: n + 1.0))
    assert (root.count, root.weight) == (4, 10)
    assert [child.name for child in root.children] == ["a/b/c", "q"]
    assert [child.name for child in root.children[0].children] == ["z", "y", "x"]
    assert root.children[0].children[0].path == "a/b/c/z"


def counted(lines) -> tuple[int, int]:
    text = "".join(lines)
    return text.count("<figure"), text.count("<rect")


def test_a_page_is_bounded_whatever_the_input_is():
    flat = leaves([f"w{n}" for n in range(20_000)])
    assert counted(maps(flat, ""))[1] < 4 * treemap.CELLS
    deep = leaves(["/".join(f"d{n % (k + 2)}" for k in range(40)) + f"/w{n}" for n in range(5_000)])
    figures, rects = counted(maps(deep, ""))
    assert figures <= treemap.MAPS
    assert rects < 6 * treemap.CELLS * treemap.MAPS


def test_nothing_is_drawn_outside_and_every_entry_is_in_a_cell_or_counted():
    names = [f"part{n % 5}/layer{n % 12}/w{n}" for n in range(600)]
    text = "".join(maps(leaves(names, lambda n: 1.0 + n % 50), ""))
    first = text.partition("</figure>")[0]
    for x, y, w, h in re.findall(r'x="([\d.]+)%" y="([\d.]+)" width="([\d.]+)%" height="([\d.]+)"', first):
        assert float(x) + float(w) <= 100.2
        assert float(y) + float(h) <= HEIGHT + 1.2
    told = sum(int(n.replace(",", "")) for n in re.findall(r"<title>(?:[^<]*, )?([\d,]+) entr\w+ too small", first))
    cells = first.count('<a class="cell')
    alone = sum(int(n) for n in re.findall(r'class="rest[^>]*><title>[^<]*, (\d+) entr', first))
    assert cells + told + alone == 600


def test_a_container_without_bytes_draws_nothing():
    text = "".join(maps(leaves(["a/x", "a/y"], lambda _: 0.0), ""))
    assert "<rect" not in text


def test_labels_fit_their_cells():
    text = "".join(maps(leaves(["a_rather_long_name_" + "x" * 300, "b" * 300, "c"]), "")).partition("</figure>")[0]
    widths = [float(w) * WIDTH / 100 for w in re.findall(r'class="f" x="[\d.]+%" y="[\d.]+" width="([\d.]+)%"', text)]
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert labels
    assert max(len(label) for label in labels) * 7.3 <= max(widths)
