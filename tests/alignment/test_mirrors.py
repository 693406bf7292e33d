"""Mirrors: the numbers of a decoder run down as often as up, and are an assumption where nothing shows which."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from stateregistry.alignment import mirrors
from stateregistry.alignment.model import Grade, Pair, Unit, View
from stateregistry.alignment.spelling import tokens

NUMBERS: Grade = "numbers"


def pair(source: str, target: str, grade: Grade = NUMBERS, *, called: bool = True) -> Pair:
    """Two units, the target in the order of calls. Numbers decided where the grade is `numbers`."""
    units = [
        Unit(path, tokens(path), (("linear", 8, 8, True),), {}, (path,), True, place=0, call=call)
        for path, call in ((source, None), (target, 0 if called else None))
    ]
    names = tuple("/".join(token.stem or "#" for token in tokens(path)) for path in (source, target))
    stems = (((names[0],), (names[1],)),) if grade == NUMBERS else ()
    return Pair(units[0], units[1], ["by number"], grade, stems, leaf=True)


def grades(pairs: list[Pair]) -> Mapping[str, Grade]:
    mirrors.doubt(pairs, View([], {}, {}, ordered=True), View([], {}, {}, called=True))
    return {each.source.path: each.grade for each in pairs}


@pytest.mark.parametrize("name", ["dec{}", "up{}", "upconv{}", "Up_conv{}", "decoder_{}", "deconv{}", "upsample_{}"])
@pytest.mark.parametrize("other", ["stage{}", "decoder_{}", "up_{}"])
def test_numbers_behind_the_word_of_a_decoder_that_no_call_and_no_size_shows_are_an_assumption(
    name: str, other: str
) -> None:
    pairs = [pair(name.format(number + 1), other.format(number)) for number in range(3)]
    assert set(grades(pairs).values()) == {"assumption"}


@pytest.mark.parametrize(
    "name", ["enc{}", "layer{}", "block_{}", "decoder/layers/{}", "decoder_layer{}", "ups/{}", "updates_{}"]
)
def test_what_everybody_counts_in_the_order_of_calls_keeps_its_grade(name: str) -> None:
    pairs = [pair(name.format(number + 1), f"stage{number}") for number in range(3)]
    assert set(grades(pairs).values()) == {"numbers"}


def test_a_side_whose_calls_are_known_shows_its_numbers_and_another_does_not() -> None:
    assert set(grades([pair(f"stage{n}", f"up_{n}") for n in range(3)]).values()) == {"numbers"}
    assert set(grades([pair(f"stage{n}", f"up_{n}", called=False) for n in range(3)]).values()) == {"assumption"}


@pytest.mark.parametrize(("first", "shown"), [(0, True), (1, False), (2, True)])
def test_a_size_shows_the_way_but_for_that_of_the_middle_one(first: int, shown: bool) -> None:
    pairs = [pair(f"up{n + 1}", f"stage{n}", "certain" if n == first else NUMBERS) for n in range(3)]
    found = set(grades(pairs).values())
    assert found == {"certain", "numbers" if shown else "assumption"}


def test_a_size_that_shows_that_one_side_runs_down_confirms_nothing() -> None:
    pairs = [pair("up1", "stage2", "certain"), pair("up2", "stage0"), pair("up3", "stage1")]
    assert grades(pairs)["up2"] == grades(pairs)["up3"] == "assumption"


def test_one_author_counts_what_stands_beside_one_another_one_way_but_a_decoder_is_not_counted_as_an_encoder() -> None:
    shown = [pair(f"Up_conv{n + 2}", f"decoder_{n}", "certain") for n in range(2)]
    pairs = [pair(f"Up{n + 2}", f"upsample_{n}") for n in range(2)]
    assert {grades([*shown, *pairs])[f"Up{n + 2}"] for n in range(2)} == {"numbers"}
    shown = [pair(f"enc{n + 2}", f"encoder_{n}", "certain") for n in range(2)]
    pairs = [pair(f"dec{n + 2}", f"decoder_{n}") for n in range(2)]
    assert {grades([*shown, *pairs])[f"dec{n + 2}"] for n in range(2)} == {"assumption"}


def test_equal_numbers_of_one_path_are_no_counting() -> None:
    equal = pair("up1", "up1")
    equal.stems, equal.evidence = (), ["same path"]
    ranked = pair("up4", "up_0")
    ranked.stems, ranked.evidence = (), ["same names, numbers by rank"]
    assert [grades([each])[each.source.path] for each in (equal, ranked)] == ["numbers", "assumption"]
