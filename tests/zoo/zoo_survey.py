"""Surveys a pair: converts it both ways by one of three routes, runs both models, and says what came of it.

`right`: both directions were planned and the outputs agree. `refused`: a direction was refused, with the problems.
`wrong`: a conversion went through and the outputs differ. Tests assert on it, docs/zoo.md is made of it.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flax import nnx, serialization
from zoo_pairs import TOLERANCE, FlaxSide, Nnx, Pair, difference, flax_file, torch_file

import stateregistry as sr
from stateregistry.conversion.rules.rules import Rules

LIVE, VARIABLES, FILES = WAYS = ("live", "variables", "files")


class UnloadableError(Exception):
    """A file was written whose names are not those of the file it was to be like."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What came of one pair by one way.

    Attributes:
        pair, way: which. entries: of the torch side and of the Flax side.
        outcome: `right`, `refused` or `wrong`.
        differences: of the outputs, there and back, of their scale.
        evidence: how many moves rest on what, by grade. problems: of the refused direction.
    """

    pair: str
    way: str
    entries: tuple[int, int]
    outcome: str
    differences: tuple[float, ...] = ()
    evidence: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        gaps = ", ".join(f"{gap:.1e}" for gap in self.differences)
        text = "; ".join(self.problems[:4])
        return f"{self.pair:28} {self.way:9} {self.outcome:8} {gaps} {dict(self.evidence)} {text}"


def ways(pair: Pair, side: FlaxSide) -> tuple[str, ...]:
    """The ways that a pair has: an NNX module is never without its types, its pure dict in a file is."""
    found = (LIVE, FILES) if isinstance(side, Nnx) else WAYS
    return tuple(way for way in found if way not in pair.open)


def survey(pair: Pair, way: str, side: FlaxSide | None = None, **options: Any) -> Survey:
    """Convert by one way, there and back. `options` go to `sr.convert` in place of the pair's own rules and leave."""
    side = side or pair.flax()
    chosen = {"allow": pair.allowed(way), "rules": pair.rules, **options}
    source, template = pair.fresh_torch(1), side.fresh(2)
    counts = len(sr.of(source)), len(sr.of(template))
    with tempfile.TemporaryDirectory() as room:
        try:
            there, plan = to_flax(way, source, side, template, Path(room), chosen)
            back, _ = to_torch(way, template, side, pair.fresh_torch(3), Path(room), inverse(chosen))
        except sr.errors.PlanError as error:
            plan = error.plan
            problems = tuple(map(str, plan.problems)) if plan is not None and plan.problems else (str(error),)
            return Survey(pair.name, way, counts, "refused", (), {}, problems)
        except UnloadableError as error:
            return Survey(pair.name, way, counts, "wrong", (), {}, (str(error),))
    gaps = (
        difference(side.run(there), pair.run_torch(source, side)),
        difference(pair.run_torch(back, side), side.run(template)),
    )
    outcome = "right" if max(gaps) <= TOLERANCE else "wrong"
    return Survey(pair.name, way, counts, outcome, gaps, evidence(plan))


def evidence(plan: sr.Plan) -> dict[str, int]:
    """How many moves of values rest on what."""
    found = Counter(f"{move.grade}: {move.evidence}" for move in plan.moves if move.op in ("copy", "sum"))
    return dict(found.most_common())


def inverse(options: Mapping[str, Any]) -> dict[str, Any]:
    """The same options for the way back: renames are read from right to left."""
    return {**options, "rules": Rules.of(options["rules"]).inverse() if options["rules"] else None}


def to_flax(
    way: str, source: torch.nn.Module, side: FlaxSide, template: Any, room: Path, options: Mapping[str, Any]
) -> tuple[Any, sr.Plan]:
    """The state of a torch module in the Flax side, and the plan that did it. The template stays as it is."""
    if way == FILES:
        given, like = torch_file(source, room / "torch.safetensors"), flax_file(template, room / "like.msgpack")
        done = sr.convert(given, like, out=room / "flax.msgpack", **options)
        return loaded(template, serialization.msgpack_restore(done.target.read_bytes())), done.plan
    copy = nnx.clone(template) if isinstance(template, nnx.Module) else template
    done = sr.convert(source, side.registry(copy) if way == LIVE else side.tree(copy), **options)
    return done.target, done.plan


def to_torch(
    way: str, source: Any, side: FlaxSide, target: torch.nn.Module, room: Path, options: Mapping[str, Any]
) -> tuple[torch.nn.Module, sr.Plan]:
    """The state of the Flax side in a torch module, which is filled, and the plan that did it."""
    if way == FILES:
        from safetensors.torch import load_file

        given, like = flax_file(source, room / "given.msgpack"), torch_file(target, room / "like.safetensors")
        done = sr.convert(given, like, out=room / "back.safetensors", **options)
        found = load_file(done.target)
        missing, unexpected = target.load_state_dict(found, strict=False)
        assert not unexpected, unexpected
        assert set(missing) <= set(target.state_dict()) - set(load_file(like)), missing
        return target, done.plan
    done = sr.convert(side.registry(source) if way == LIVE else side.tree(source), target, **options)
    return done.target, done.plan


def loaded(template: Any, restored: Any) -> Any:
    """What a file held, as the template's users load it."""
    if not isinstance(template, nnx.Module):
        return restored
    copy = nnx.clone(template)
    state = nnx.state(copy)
    values = {tuple(map(str, path)): value for path, value in _flat(restored).items()}
    lost = [path for path, _ in nnx.to_flat_state(state) if tuple(map(str, path)) not in values]
    if lost:
        text = f"the file has no {'/'.join(map(str, lost[0]))}, as the one that it was made like has"
        raise UnloadableError(text)
    flat = [(path, leaf.replace(values[tuple(map(str, path))])) for path, leaf in nnx.to_flat_state(state)]
    nnx.update(copy, nnx.from_flat_state(flat))
    return copy


def _flat(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], np.ndarray]:
    if not isinstance(tree, Mapping):
        return {path: tree}
    return {where: leaf for name, value in tree.items() for where, leaf in _flat(value, (*path, name)).items()}
