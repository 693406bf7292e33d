"""Samples of perturbed pairs: which pair, which perturbation, which seed; and the table of what came of them.

A pair takes part if its unperturbed conversion is right by its outputs. Both directions and both kinds of evidence are
sampled alike: `headers` (names, shapes and order alone, as in files), `types` (the layers of live models).
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from zoo_families import FAMILIES
from zoo_header import Header
from zoo_pairs import TOLERANCE, Pair, difference
from zoo_perturb import PERTURBATIONS, Perturbation, Sample, judge
from zoo_survey import LIVE, to_flax, to_torch

import stateregistry as sr

WAYS = ("headers", "types")
TURNS = tuple((way, direction) for direction in ("to Flax", "to torch") for way in WAYS)
OUTCOMES = ("certain", "numbers", "assumption", "refused", "flagged", "wrong")


@dataclass(frozen=True)
class Truth:
    """The unperturbed sides of a pair by way and direction: source and target, with the values that are right."""

    pair: str
    sides: dict[tuple[str, str], tuple[Header, Header]]


def truth(pair: Pair) -> Truth | None:
    """The truth of a pair, `None` where its conversion is refused.

    Raises:
        AssertionError: it converts, and the outputs differ.
    """
    side = pair.flax()
    source, template = pair.fresh_torch(1), side.fresh(2)
    options = {"allow": pair.allowed(LIVE), "rules": None}
    with tempfile.TemporaryDirectory() as room:
        try:
            there, _ = to_flax(LIVE, source, side, template, Path(room), options)
            back, _ = to_torch(LIVE, there, side, pair.fresh_torch(3), Path(room), options)
        except sr.errors.PlanError:
            return None
    expected = pair.run_torch(source, side)
    assert difference(side.run(there), expected) <= TOLERANCE, pair.name
    assert difference(pair.run_torch(back, side), expected) <= TOLERANCE, pair.name
    flax = side.registry(there)
    sides = {}
    for way in WAYS:
        typed = way == "types"
        right = Header.of(flax, typed=typed)
        sides[way, "to Flax"] = Header.of(sr.of(source), typed=typed), right
        sides[way, "to torch"] = right, Header.of(sr.of(back), typed=typed)
    return Truth(pair.name, sides)


def sample(one: Truth, perturbation: Perturbation, way: str, direction: str, seed: int) -> Sample | None:
    """One perturbed alignment, `None` where the pair has nothing to perturb so."""
    source, target = one.sides[way, direction]
    torch, flax = (source, target) if direction == "to Flax" else (target, source)
    random = Random(f"{one.pair} {perturbation.name} {way} {direction} {seed}")
    new_torch = perturbation.torch(torch, random) if perturbation.torch else torch
    new_flax = perturbation.flax(flax, random) if perturbation.flax else flax
    if new_torch is None or new_flax is None:
        return None
    here, there = (new_torch, new_flax) if direction == "to Flax" else (new_flax, new_torch)
    allow = tuple(
        "missing" if name == "unexpected" and direction == "to torch" else name for name in perturbation.allow
    )
    outcome, detail = judge(here, there, allow)
    return Sample(one.pair, perturbation.name, seed, f"{way}, {direction}", outcome, detail)


def samples(truths: Sequence[Truth], count: int, seed: int) -> Iterator[Sample]:
    """About `count` samples, as many of each perturbation, over all pairs in turn."""
    random = Random(seed)
    each = -(-count // len(PERTURBATIONS))
    for perturbation in PERTURBATIONS:
        done = number = 0
        order = mixed(truths, random)
        while done < each and number < 4 * each + len(order):
            one = order[number % len(order)]
            # All four in turn for each visit to a pair, shifted so that no sort of pair meets one of them more often.
            way, direction = TURNS[(number // 4 + number // len(order)) % 4]
            made = sample(one, perturbation, way, direction, seed + number)
            number += 1
            if made is not None:
                done += 1
                yield made


def mixed(truths: Sequence[Truth], random: Random) -> list[Truth]:
    """Truths in random order, three of a family of `transformers` to one other: the mixture of the earlier experiment."""
    families = {family.name for family in FAMILIES}
    sorts = [[one for one in truths if (one.pair in families) == wanted] for wanted in (True, False)]
    for sort in sorts:
        random.shuffle(sort)
    if not all(sorts):
        return sorts[0] or sorts[1]
    some, others = sorts
    return [
        (others if number % 4 == 3 else some)[number // 4 % len(others) if number % 4 == 3 else number % len(some)]
        for number in range(4 * max(len(some), len(others)))
    ]


def table(found: Iterable[Sample]) -> list[str]:
    """The rows of the table, as Markdown."""
    rows: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for one in found:
        rows[one.perturbation][one.way.split(",")[0]][one.outcome] += 1
    names = ("runs", "right: certain", *OUTCOMES[1:], "right", "before")
    lines = [f"| perturbation | evidence | {' | '.join(names)} |", "| --- | --- | " + "---: | " * len(names)]
    for perturbation in PERTURBATIONS:
        for way in WAYS:
            count = rows[perturbation.name][way]
            runs = count.total()
            if runs:
                right = sum(count[name] for name in OUTCOMES[:3]) / runs
                cells = " | ".join(str(count[name]) for name in OUTCOMES)
                before = "–" if perturbation.base is None else f"{perturbation.base:.0%}"
                lines.append(f"| {perturbation.name} | {way} | {runs} | {cells} | {right:.0%} | {before} |")
    return [line.rstrip() for line in lines]


def rate(found: Iterable[Sample], name: str, way: str | None = None) -> tuple[int, int]:
    """Right answers and runs of a perturbation."""
    chosen = [one for one in found if one.perturbation == name and (way is None or one.way.startswith(way))]
    return sum(one.outcome in OUTCOMES[:3] for one in chosen), len(chosen)
