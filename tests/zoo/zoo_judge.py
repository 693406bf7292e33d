"""Judges a perturbed pair: is what the plan says right, refused, or wrong, and would anything have held it back.

The truth is the unperturbed pair, whose outputs agree: each entry keeps the value that is right for it, so that `sr.verify`
finds every array that a plan would fill from elsewhere. With a forward pass the target holds other values until it is filled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from zoo_header import Header
from zoo_live import run, watching
from zoo_pairs import TOLERANCE
from zoo_perturb import other_values

import stateregistry as sr
from stateregistry.conversion.rules.rules import Rules
from stateregistry.conversion.verification.trials import decided


@dataclass(frozen=True, slots=True)
class Sample:
    """One perturbed pair: what the plan says, and whether it is right.

    Attributes:
        outcome: `certain`, `numbers`, `assumption` (right, of that grade), `refused`, `wrong` (no more than numbers were
            needed: a silent one), `flagged` (wrong, but only by leave for an assumption).
        detail: for a wrong one, an array that it fills from elsewhere.
        open: why nothing in the headers decides it, empty where nothing of that sort was found.
    """

    pair: str
    perturbation: str
    seed: int
    way: str
    outcome: str
    detail: str = ""
    open: str = ""


def unfilled(header: Header) -> Header:
    """A target as it is before it is filled: what is trained has other values."""
    generator = np.random.default_rng(0)
    trained = [key for key, entry in header.entries.items() if entry.kind is sr.Kind.PARAMETER or _is_statistic(key)]
    return replace(
        header, values={**header.values, **{key: other_values(header.values[key], generator) for key in trained}}
    )


def _is_statistic(key: str) -> bool:
    return key.rpartition("/")[2] in ("mean", "var", "running_mean", "running_var")


def tried(source: Header, target: Header, allow: tuple[str, ...]) -> sr.Plan:
    """The plan that a forward pass of both models bears out, of a target that holds nothing of it yet."""
    here, there = source.registry, unfilled(target).registry

    def planned(rules: Rules) -> sr.Plan:
        return sr.plan(here, there, rules=rules, allow=allow)

    with watching():
        return decided(planned, Rules.of(None), here, there, (lambda: run(source), run, ()), TOLERANCE)


GRADES = ("certain", "numbers", "assumption", "question")


def judge(source: Header, target: Header, allow: tuple[str, ...], *, forward: bool = False) -> tuple[str, str]:
    """What the plan from one header to another is: its grade if it is right, or `refused`, `wrong`, `flagged`.

    With `forward` both models are run: outputs decide what nothing else does, and hold back what they contradict.
    """
    here, there = source.registry, target.registry
    leave = ("choice", "assumption", *allow)
    if forward:
        try:
            plan = tried(source, target, leave)
        except (sr.errors.PlanError, sr.errors.AmbiguousAlignment) as error:
            return "refused", str(error)
    else:
        plan = sr.plan(here, there, allow=leave)
    if not plan.ok:
        return "refused", str(plan.problems[0])
    grade = max((move.grade for move in plan.moves), key=GRADES.index, default="certain")
    found = sr.verify(here, there, plan=plan)
    kept = [move.target for move in plan.moves if move.op == "keep" and target.entries[move.target].persistent]
    kept = [key for key in kept if key not in target.copies]
    if found.differences or kept:
        shown = str(found.differences[0]) if found.differences else f"{kept[0]} is not filled"
        return ("flagged" if grade == "assumption" else "wrong"), shown
    return grade, ""
