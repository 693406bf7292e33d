"""Doubts: what of a pairing has to be asked again before anything is derived from it.

An inferred layer whose names could be anything's is an assumption; a lone entry that is a buffer here and a parameter there
is a choice; config that contradicts an array, or cuts the arrays of both sides otherwise, is refused; two keys of one
framework whose layers hold their axes in different orders are moved by these axes and not as they lie. Reads shapes and
config, no values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from stateregistry.alignment.spelling import same
from stateregistry.alignment.view import NAMES
from stateregistry.conversion.planning.joint import axis_config
from stateregistry.conversion.rules.patterns import covers
from stateregistry.layers import config, infer

if TYPE_CHECKING:
    from stateregistry.conversion.pairing.pairs import EntryPair, LayerPair
    from stateregistry.conversion.rules.rules import Rules
    from stateregistry.conversion.side import Side
    from stateregistry.layers.vocabulary import Piece

#: Evidence of a pair whose paths are one, by themselves or by a rule.
_ONE_PATH: Final = frozenset({"same path", "same key", "same key, same framework", "a rename rule"})


def doubted(pair: LayerPair, source: Side, target: Side, rules: Rules) -> LayerPair:
    """The pair, as an assumption where names alone say what the layers are and such names could be anything's."""
    settled = any(covers(rule.path, layer.path) for rule in rules.layers for layer in (pair.source, pair.target))
    if pair.grade != "certain" or settled or not (pair.source.inferred and pair.target.inferred):
        return pair
    for layer, side in ((pair.source, source), (pair.target, target)):
        text = "" if side.derived else infer.doubt(layer, side.entries)
        if text:
            return replace(pair, grade="assumption", reason=f"{layer.path or '(the model)'}: {text}", whole=True)
    return pair


#: Names of what torch computes a weight from, by ending: of the array, of one that has to lie beside it, and what it is.
_COMPUTED: Final = (
    ("_v", ("_g",), "weight_norm"),
    ("_g", ("_v",), "weight_norm"),
    ("original1", ("original0",), "weight_norm"),
    ("original0", ("original1",), "weight_norm"),
    ("_orig", ("_u", "_v"), "spectral_norm"),
    ("original", ("0/_u", "0/_v"), "spectral_norm"),
    ("_orig", ("_mask",), "pruning"),
)


def computed_from(key: str, side: Side) -> str:
    """What an array of no layer is by its name and its neighbours', if a weight is computed from it; empty for nothing."""
    for ending, others, what in _COMPUTED:
        stem = key.removesuffix(ending)
        if stem != key and all(side.canonical(stem + other) is not None for other in others):
            beside = " and ".join(repr(stem + other) for other in others)
            return f"with {beside} it is what {what} of torch makes a weight of, and no name says of which layer"
    return ""


def contradiction(pair: LayerPair, source: Side, target: Side) -> str:
    """In what config contradicts the arrays of a pair, or that of the other side; empty for nothing."""
    for layer, side in ((pair.source, source), (pair.target, target)):
        names = ((piece.name, side.canonical(layer.key(piece))) for piece in layer.pieces)
        shapes = {name: side.entries[key].shape for name, key in names if key is not None}
        wrong = config.contradiction(layer, shapes)
        if wrong:
            return f"the config of the {layer.type or layer.kind} contradicts its arrays: {wrong}"
    left, right = axis_config(pair.source), axis_config(pair.target)
    said = [f"{name} {left[name]} and {right[name]}" for name in left if name in right and left[name] != right[name]]
    return f"the two cut their arrays in other ways: {', '.join(said)}" if said else ""


def laid_out(pairs: Iterable[EntryPair], source: Side, target: Side) -> list[EntryPair]:
    """Pairs within one framework, with their axes where both sides know them and hold them in different orders."""
    here, there = _pieces(source), _pieces(target)
    found = []
    for pair in pairs:
        one, two = here.get(pair.source), there.get(pair.target)
        if one is not None and two is not None and not (pair.source_axes or pair.target_axes):
            (kind, mine), (other, its) = one, two
            if (kind, mine.role, mine.part) == (other, its.role, its.part) and mine.axes != its.axes:
                pair = replace(pair, source_axes=mine.axes, target_axes=its.axes)  # noqa: PLW2901
        found.append(pair)
    return found


def _pieces(side: Side) -> dict[str, tuple[str, Piece]]:
    """For every key of a layer that is known and not inferred, the kind of the layer and the piece."""
    known = [layer for layer in side.layers if not layer.inferred]
    return {layer.key(piece): (layer.kind, piece) for layer in known for piece in layer.pieces}


def crossing(pair: EntryPair, source: Side, target: Side) -> str:
    """Why a lone entry may be a buffer on one side and a parameter on the other; empty where it may not, or is one kind.

    Authors hold a constant of a model either way. What belongs to a layer, or is called like a statistic, a scale or a bias
    alone, is of its kind for a reason.
    """
    key, other = source.canonical(pair.source), target.canonical(pair.target)
    one_path = pair.evidence in _ONE_PATH or same(pair.source) == same(pair.target)
    if key is None or other is None or not one_path or pair.grade != "certain":
        return ""
    mine, its = source.entries[key], target.entries[other]
    if mine.kind is its.kind or mine.inferred or its.inferred:
        return ""
    if (mine.shape, mine.dtype) != (its.shape, its.dtype) or key in _of_layers(source) or other in _of_layers(target):
        return ""
    if any(name.rpartition("/")[2].lower() in NAMES for name in (pair.source, pair.target)):
        return ""  # it may belong to a layer of a type that nobody declared
    return f"a {mine.kind.value} in the source, a {its.kind.value} in the target: each side keeps its own kind"


def _of_layers(side: Side) -> set[str]:
    return {side.canonical(name) or name for layer in side.layers for name in layer.roles.values()}
