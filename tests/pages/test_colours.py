"""The palette: text has the contrast that WCAG asks for (AA), light and dark; colour-blind eyes tell neighbours apart."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from stateregistry.pages.markup import asset

FILLS = ("blue", "orange", "slate", "mint", "pink", "yellow", "violet", "olive")
#: Machado, Oliveira and Fernandes (2009), at full severity, over linear RGB.
BLIND = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def palette(side: int) -> dict[str, np.ndarray]:
    """Every colour of the style, of the light or the dark side, as linear RGB."""
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", asset("page.css"))
    assert len(found) > 20
    rgb = {name: np.array([int(pair[side][i : i + 2], 16) for i in (1, 3, 5)]) / 255 for name, *pair in found}
    return {name: np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for name, c in rgb.items()}


def contrast(one: np.ndarray, two: np.ndarray) -> float:
    weights = np.array([0.2126, 0.7152, 0.0722])
    low, high = sorted((float(one @ weights), float(two @ weights)))
    return (high + 0.05) / (low + 0.05)


def lab(linear: np.ndarray) -> np.ndarray:
    """CIE Lab, white D65."""
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = matrix @ np.clip(linear, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("side", [0, 1], ids=["light", "dark"])
def test_text_on_every_paper_has_the_contrast_of_aa(side):
    colours = palette(side)
    for ink, paper in itertools.product(("ink", "soft", "link", "good", "bad", "warn"), ("paper", "card", "hover")):
        assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)
    assert contrast(colours["ink"], colours["mark"]) >= 4.5
    assert contrast(colours["soft"], colours["mark"]) >= 4.5


@pytest.mark.parametrize("side", [0, 1], ids=["light", "dark"])
def test_text_on_every_fill_has_the_contrast_of_aa(side):
    colours = palette(side)
    for name in (*FILLS, "none", "warm-1", "warm-2", "warm-3"):
        assert contrast(colours["ink-on-fill"], colours[f"fill-{name}"]) >= 4.5, name


@pytest.mark.parametrize("kind", BLIND)
@pytest.mark.parametrize("side", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    "names", [("blue", "orange", "slate"), ("none", "warm-1", "warm-2", "warm-3"), ("blue", "yellow", "mint", "pink")]
)
def test_what_stands_side_by_side_is_told_apart_by_colour_blind_eyes(kind, side, names):
    """A difference of 5 in Lab is seen at a glance where areas touch. Words and hatching say the same."""
    colours = palette(side)
    seen = {name: lab(np.array(BLIND[kind]) @ colours[f"fill-{name}"]) for name in names}
    for one, two in itertools.combinations(names, 2):
        assert float(np.linalg.norm(seen[one] - seen[two])) > 5, (one, two)


def test_colours_are_told_once():
    style = asset("page.css")
    rules = style.partition("*, ::before")[2]
    assert len(re.findall(r"#[0-9a-f]{6}", rules)) <= 6
