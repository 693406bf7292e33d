"""Samples of perturbed pairs: which pair, which perturbation, which seed; and the table of what came of them.

A pair takes part if its unperturbed conversion is right by its outputs. All pairs are taken in both directions and with both
kinds of evidence: `headers` (names, shapes and order alone, as in files), `types` (the layers of live models).
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from zoo_decidable import undecidable
from zoo_families import FAMILIES
from zoo_header import Header
from zoo_judge import Sample, judge
from zoo_live import flax_side, torch_side
from zoo_pairs import TOLERANCE, Pair, difference
from zoo_perturb import PERTURBATIONS, Perturbation
from zoo_survey import FILES, LIVE, VARIABLES, to_flax, to_torch

import stateregistry as sr
from stateregistry.conversion.verification.matching import paired

WAYS = ("headers", "types", "forward")
TURNS = tuple((way, direction) for direction in ("to Flax", "to torch") for way in WAYS[:2])
#: Forward samples of each perturbation, of pairs of at most so many entries: each runs both models many times.
FORWARD = 16
SMALL = 32
OUTCOMES = ("certain", "numbers", "assumption", "refused", "flagged", "wrong")


@dataclass(frozen=True)
class Truth:
    """The unperturbed sides of a pair by way and direction: source and target, with the values that are right.

    A pair that needs a rule without its models has no sides by `headers`.

    `pairs` are the paths of its layers, and of arrays of no layer, in torch and in Flax, that are one.
    """

    pair: str
    sides: dict[tuple[str, str], tuple[Header, Header]]
    pairs: tuple[tuple[str, str], ...] = ()


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
            there, plan = to_flax(LIVE, source, side, template, Path(room), options)
            back, _ = to_torch(LIVE, there, side, pair.fresh_torch(3), Path(room), options)
        except sr.errors.PlanError:
            return None
    expected = pair.run_torch(source, side)
    assert difference(side.run(there), expected) <= TOLERANCE, pair.name
    assert difference(pair.run_torch(back, side), expected) <= TOLERANCE, pair.name
    flax = side.registry(there)
    sides = {}
    live = torch_side(pair, side), flax_side(side)
    alone = {VARIABLES, FILES}.isdisjoint(pair.open)
    for way in WAYS if alone else WAYS[1:]:  # without its models it needs a rule
        typed = way != "headers"
        right = Header.of(flax, typed=typed, live=live[1])
        sides[way, "to Flax"] = Header.of(sr.of(source), typed=typed, live=live[0]), right
        sides[way, "to torch"] = right, Header.of(sr.of(back), typed=typed, live=live[0])
    return Truth(pair.name, sides, tuple(dict.fromkeys(_one(plan))))


def _one(plan: sr.Plan) -> Iterator[tuple[str, str]]:
    """What is one: layers of two models; else, array by array, what holds them, with the name of a part."""
    layers = [(torch.path, flax.path) for torch, flax in paired(plan)]
    yield from layers
    done = {flax for _, flax in layers}
    homes = {key: layer.path for layer in plan.target.layers for key in layer.roles.values()}
    for move in plan.moves:
        if move.op == "copy" and homes.get(move.target) not in done:
            for feed in move.sources:
                if move.target in homes:
                    yield feed.key.rpartition("/")[0] + (f"/{feed.part}" if feed.part else ""), homes[move.target]
                else:
                    yield feed.key, move.target


def sample(one: Truth, perturbation: Perturbation, way: str, direction: str, seed: int) -> Sample | None:
    """One perturbed alignment, `None` where the pair has nothing to perturb so."""
    new_torch, new_flax = changed(one, perturbation, way, direction, way, seed)
    if new_torch is None or new_flax is None:
        return None
    here, there = (new_torch, new_flax) if direction == "to Flax" else (new_flax, new_torch)
    allow = tuple(
        "missing" if name == "unexpected" and direction == "to torch" else name for name in perturbation.allow
    )
    outcome, detail = judge(here, there, allow, forward=way == "forward")
    open_ = ""
    if any(perturbation.how):
        torch, flax = changed(one, perturbation, way, direction, "types", seed)
        assert torch is not None
        assert flax is not None
        open_ = undecidable(perturbation.how, torch, flax, one.pairs, typed=way != "headers")
    return Sample(one.pair, perturbation.name, seed, f"{way}, {direction}", outcome, detail, open_)


def changed(
    one: Truth, perturbation: Perturbation, way: str, direction: str, shown: str, seed: int
) -> tuple[Header | None, Header | None]:
    """Both headers after a perturbation, torch first; `shown`: with the evidence of which way."""
    source, target = one.sides[shown, direction]
    torch, flax = (source, target) if direction == "to Flax" else (target, source)
    random = Random(f"{one.pair} {perturbation.name} {way} {direction} {seed}")
    return (
        perturbation.torch(torch, random) if perturbation.torch else torch,
        perturbation.flax(flax, random) if perturbation.flax else flax,
    )


def samples(truths: Sequence[Truth], seed: int, rounds: int = 1) -> Iterator[Sample]:
    """Every pair under every perturbation, in both directions, with headers and with types, `rounds` times."""
    for perturbation in PERTURBATIONS:
        for number, one in enumerate(truths):
            for turn, (way, direction) in enumerate(TURNS):
                if (way, direction) not in one.sides:
                    continue
                for again in range(rounds):
                    made = sample(
                        one, perturbation, way, direction, seed + (number * len(TURNS) + turn) * rounds + again
                    )
                    if made is not None:
                        yield made


def forward_samples(truths: Sequence[Truth], seed: int, each: int = FORWARD) -> Iterator[Sample]:
    """Samples with a forward pass, of the smaller pairs."""
    random = Random(seed)
    small = [one for one in truths if len(one.sides[TURNS[1]][0].entries) <= SMALL]
    for perturbation in PERTURBATIONS:
        done = number = 0
        order = random.sample(small, len(small))
        while done < each and number < 4 * each + len(order):
            direction = ("to Flax", "to torch")[number % 2]
            made = sample(order[number % len(order)], perturbation, "forward", direction, seed + number)
            number += 1
            if made is not None:
                done += 1
                yield made


def table(found: Iterable[Sample]) -> list[str]:
    """The rows of the table, as Markdown."""
    rows: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    found = list(found)
    for one in found:
        rows[one.perturbation][one.way.split(",")[0]][one.outcome] += 1
    names = (
        "runs",
        "right: certain",
        *OUTCOMES[1:],
        "right",
        "families",
        "others",
        "before",
        "decidable",
        "right of these",
    )
    lines = [f"| perturbation | evidence | {' | '.join(names)} |", "| --- | --- | " + "---: | " * len(names)]
    for perturbation in PERTURBATIONS:
        for way in WAYS:
            count = rows[perturbation.name][way]
            runs = count.total()
            if runs:
                right = sum(count[name] for name in OUTCOMES[:3]) / runs
                cells = " | ".join(str(count[name]) for name in OUTCOMES)
                before = "–" if perturbation.base is None else f"{perturbation.base:.0%}"
                sorts = " | ".join(_sorts(found, perturbation, way))
                share = " | ".join(shares(found, perturbation, way))
                lines.append(
                    f"| {perturbation.name} | {way} | {runs} | {cells} | {right:.0%} | {sorts} | {before} | {share} |"
                )
    return [line.rstrip() for line in lines]


def _sorts(found: Iterable[Sample], perturbation: Perturbation, way: str) -> Iterator[str]:
    """The share of right answers among families of `transformers`, and among the other pairs."""
    families = {family.name for family in FAMILIES}
    chosen = [one for one in found if one.perturbation == perturbation.name and one.way.startswith(way)]
    for wanted in (True, False):
        some = [one.outcome in OUTCOMES[:3] for one in chosen if (one.pair in families) is wanted]
        yield f"{sum(some) / len(some):.0%}" if some else "–"


def shares(found: Iterable[Sample], perturbation: Perturbation, way: str) -> tuple[str, str]:
    """At most which share is decidable, and the share of right answers among these."""
    chosen = [one for one in found if one.perturbation == perturbation.name and one.way.startswith(way)]
    if perturbation.refusal:
        refused = sum(one.outcome == "refused" for one in chosen) / len(chosen)
        return "none", f"{refused:.0%} refused"
    if not any(perturbation.how) or way == "forward":
        return "–", "–"
    able = [one for one in chosen if not one.open]
    right = sum(one.outcome in OUTCOMES[:3] for one in able)
    return f"{len(able) / len(chosen):.0%}", f"{right / len(able):.0%}" if able else "–"


def rate(found: Iterable[Sample], name: str, way: tuple[str, ...] = WAYS) -> tuple[int, int]:
    """Right answers and runs of a perturbation."""
    chosen = [one for one in found if one.perturbation == name and one.way.startswith(way)]
    return sum(one.outcome in OUTCOMES[:3] for one in chosen), len(chosen)
