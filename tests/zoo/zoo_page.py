"""The page docs/zoo.md: what became of every pair, and the table of perturbations."""

from __future__ import annotations

import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from zoo_judge import Sample
from zoo_pairs import Pair
from zoo_samples import OUTCOMES, table
from zoo_survey import LIVE, WAYS, Survey

PACKAGES = ("stateregistry", "torch", "jax", "flax", "transformers")

INTRO = """# The zoo: pairs that are converted in the tests

Each pair is one network as two frameworks write it, small, with random state that no initialiser gives. It is converted from
torch to Flax and back, without rules where the column says none, and both models are run: a conversion is right if outputs
agree to 1e-5 of their scale. Three ways: **models** (both at hand), **variables** (the torch module against a bare tree of
Flax variables), **files** (safetensors against msgpack, neither module at hand). BatchNorm counters are a choice in every pair
and are allowed; without modules the layout of a matrix may be an assumption, which is allowed there too.

Written by `python benchmarks/perturbations.py --page`; not edited by hand."""

PERTURBED = """## Perturbations

Every pair that converts without rules, with names, order or layers changed at random, in both directions. `headers`: nothing
but names, shapes and order, as in files, of the pairs that need no rule so; `types`: the layers of the models are known;
`forward`: types, and both models are run (`sr.convert(..., forward=...)`), on some of the smaller pairs, into a target that
holds other values. Right answers are listed by the grade of the weakest move. An `assumption` is right, but refused unless it
is allowed; `flagged` is a wrong answer that only leave for assumptions lets through; `wrong` is one that nothing holds back.
Where a layer is missing or a block is there twice, to refuse is right. A tree of JAX is sorted by its names, and so it is after
a renaming. A layer that is there twice is called `_copy`, `_ema` or `_old` of the first.

`families` are those of `transformers`, `others` the pairs with foreign names. `before` is the share of right answers of an
earlier experiment with headers alone, on 152 families and 51 other pairs. How it chose what to rename is not known but for its
text. Query, key and value of a family have one shape and stand side by side: where they too have words that mean nothing, or
numbers, they can change places and no header shows it, so that hardly any family can be decided. A `before` far above a quarter
was thus measured where layers kept their words, and it stands in the rows that keep them. The rows that take all words away
are held against `decidable`, the share that can be decided at most, found without the code that pairs
(`tests/zoo/zoo_decidable.py`): a pair counts as undecidable if two layers or two names could change places with nothing in
either header, and no number or call, to tell. Orders in which layers without numbers are declared are no evidence, and neither
are numbers that count layers of other sizes in another order on either side. `right of these` is the share of right answers
among the decidable ones; an assumption may be right beyond them. A `before` above `decidable` comes of other pairs, of which
more have no two layers of one shape.

Numbers are changed wherever they are quoted: `conv1_norm` beside `conv1`, which is `conv4` now, is `conv4_norm`. Pairs that
need a rule without their models are in the rows of `types` alone.

Exchanging the labels of two layers of one shape is left out: the headers are those of the true pair."""


def page(pairs: Sequence[Pair], surveys: Mapping[str, Mapping[str, Survey]], found: Sequence[Sample], seed: int) -> str:
    """The page as Markdown."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    count = Counter(one.outcome for ways in surveys.values() for one in ways.values())
    told = ", ".join(f"{count[name]} {name}" for name in ("right", "refused", "wrong"))
    lines = [INTRO, "", f"Python {platform.python_version()}; {versions}.", ""]
    lines += [
        f"{len(surveys)} pairs, {count.total()} conversions there and back: {told}.",
        "",
        "| pair | entries | rules | leave, beside choice | models | variables | files | evidence, with models |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | --- |",
        *(row(pair, surveys[pair.name]) for pair in pairs),
        "",
        "Numbers are the largest difference of outputs, of their scale, over both directions.",
    ]
    notes = [f"- `{pair.name}`: {pair.why}." for pair in pairs if pair.why]
    lines += ["", "What the pairs show:", "", *notes] if notes else []
    outcomes = Counter(one.outcome for one in found)
    told = ", ".join(f"{outcomes[name]} {name}" for name in OUTCOMES)
    lines += ["", PERTURBED, "", f"{len(found)} perturbed pairs, seed {seed}: {told}.", "", *table(found)]
    return "\n".join(lines) + "\n"


def row(pair: Pair, ways: Mapping[str, Survey]) -> str:
    """The row of a pair."""
    any_way = next(iter(ways.values()))
    rules = rules_of(pair.rules) if pair.rules else "none"
    asked = (*pair.allow.get("always", ()), *(f"{name} (models)" for name in pair.allow.get(LIVE, ())))
    leave = ", ".join(asked) or "none"
    cells = " | ".join(cell(ways.get(way)) for way in WAYS)
    evidence = summary(ways[LIVE].evidence) if LIVE in ways else ""
    return f"| {pair.name} | {any_way.entries[0]}, {any_way.entries[1]} | {rules} | {leave} | {cells} | {evidence} |"


def rules_of(rules: Mapping[str, Any]) -> str:
    """How many rules there are."""
    tables = [rows for rows in rules.values() if isinstance(rows, list)]
    return str(sum(map(len, tables)) or len(rules))


def cell(one: Survey | None) -> str:
    """What came of one way."""
    if one is None:
        return "–"
    return f"{max(one.differences):.0e}" if one.outcome == "right" else f"**{one.outcome}**"


def summary(evidence: Mapping[str, int]) -> str:
    """The evidence in short: what moves rest on, without what they are."""
    short: Counter[str] = Counter()
    for text, count in evidence.items():
        grade, _, why = text.partition(": ")
        why = re.split(r", role |; ", why)[0]
        why = re.sub(r"^beside .*", "beside what is paired", why)
        short[f"{why} ({grade})" if grade != "certain" else why] += count
    return ", ".join(f"{count} {why}" for why, count in short.most_common(4))
