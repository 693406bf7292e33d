"""The residual of a conversion: what its moves cannot carry, and what an earlier one kept that has no use here."""

from __future__ import annotations

from stateregistry.conversion.execution.converted import Converted
from stateregistry.conversion.planning.plan import Plan
from stateregistry.conversion.residual import Record, Residual, digest
from stateregistry.registry import StateRegistry


def make(plan: Plan, source: StateRegistry, result: Converted) -> Residual:
    """What the moves cannot carry: values without a place, summands, sums that are split, what a formula was computed from."""
    anchors: dict[str, list[str]] = {}
    for move in plan.moves:
        if move.op == "drop" and move.residual:
            anchors.setdefault(move.residual, []).extend(move.anchors)
        elif move.op == "sum":
            for feed in move.sources:
                anchors.setdefault(feed.key, []).append(move.target)
        elif move.op in ("copy", "compute") and move.anchors:
            for feed in move.sources[-1:] if move.op == "compute" else move.sources:
                anchors.setdefault(feed.key, []).extend(move.anchors)
    made = {
        key: Record(key, source.read(key), {name: digest(result.view(name)) for name in dict.fromkeys(names)})
        for key, names in anchors.items()
    }
    return Residual({**_carried_over(plan, result), **made})


def _carried_over(plan: Plan, result: Converted) -> dict[str, Record]:
    """Records of an earlier conversion that this one has no use for: kept, anchored to where their values go now.

    A record one of whose values has changed, or does not arrive whole, belongs to nothing any more.
    """
    if plan.residual is None:
        return {}
    used = {move.residual for move in plan.moves if move.target}
    goes = {
        move.sources[0].key: move.target
        for move in plan.moves
        if move.op == "copy" and len(move.sources) == 1 and not move.sources[0].part and not move.cast
    }
    kept = {}
    for key, record in plan.residual.records.items():
        names = [plan.source.canonical(name) or name for name in record.anchors]
        if key not in used and all(name in goes for name in names) and record.fresh(result.source_value):
            kept[key] = Record(key, record.value, {goes[n]: digest(result.view(goes[n])) for n in names})
    return kept
