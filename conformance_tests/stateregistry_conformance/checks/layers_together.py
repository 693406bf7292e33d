"""Layers together: recurrent modules of several layers, wrappers, stacks, and parameters that are no layer.

As `layers`, of which these stand on what is plain: where a plain layer of the kind is wrong, the wrapped one is blocked.
Imports the core.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateregistry.errors import StateError
from stateregistry_conformance.check import check
from stateregistry_conformance.checks.layers import NOTHING, blocked, decide, kinds_of, plain, tried
from stateregistry_conformance.samples import values
from stateregistry_conformance.trials.cases import DEEP, STACKED, WRAPPED
from stateregistry_conformance.verdict import NotApplicable

if TYPE_CHECKING:
    from stateregistry_conformance.subject import Subject
    from stateregistry_conformance.trials.trial import Trial
    from stateregistry_conformance.verdict import Verdict


def _standing(h: Subject, trials: list[Trial]) -> list[Trial]:
    """The trials, if the plain layers of their kinds are right.

    Raises:
        Blocked: they are not.
    """
    for trial in plain(h, *{trial.case.kind for trial in trials}) if trials else ():
        for fault in trial.faults:
            raise blocked(fault)
    return trials


@check("SR-LAYER-001")
def wrapped_and_stacked_layers_have_the_words_of_the_vocabulary(h: Subject, v: Verdict) -> None:
    trials = tried(h, (*WRAPPED.values(), *STACKED.values()))
    decide(v, "SR-LAYER-001", trials, what="wrapped or stacked layers", blocked_by=NOTHING)
    v.passed()


@check("SR-LAYER-016")
def each_layer_and_each_direction_is_a_layer(h: Subject, v: Verdict) -> None:
    decide(v, "SR-LAYER-016", _standing(h, tried(h, DEEP.values())), what="recurrent modules of several layers")
    v.passed()


@check("SR-LAYER-017")
def what_a_wrapper_computes_from_is_declared_by_its_roles(h: Subject, v: Verdict) -> None:
    decide(v, "SR-LAYER-017", _standing(h, tried(h, WRAPPED.values())), what="wrapped layers")
    v.passed()


@check("SR-LAYER-020")
def a_norm_across_several_roles_is_no_layer(h: Subject, v: Verdict) -> None:
    kinds_of(h)
    specimen = h.odd_layer("norm_of_several")
    try:
        layers = h.registry(specimen.model).layers
    except StateError as error:
        v.holds(error.keys, f"the {type(error).__name__} names the array: {error}")
        v.passed()
        return
    for layer in layers:
        for piece in layer.pieces:
            several = layer.key(piece) in specimen.keys and len(piece.parts) > 1
            told = f"{layer.key(piece)}, {piece.axes!r}, declared as {', '.join(piece.parts)} of a {layer.kind}"
            v.holds(not several, f"{told}, though none of these has a norm by itself")
    v.holds(True, "none of its arrays is declared as several roles")
    v.passed()


@check("SR-LAYER-021")
def each_index_of_a_stack_is_a_layer(h: Subject, v: Verdict) -> None:
    decide(v, "SR-LAYER-021", _standing(h, tried(h, STACKED.values())), what="stacked layers")
    v.passed()


@check("SR-LAYER-022")
def a_parameter_of_its_own_is_in_no_layer_and_stays_as_it_is(h: Subject, v: Verdict) -> None:
    kinds_of(h)
    specimen = h.odd_layer("bare")
    registry = h.registry(specimen.model)
    if not specimen.keys:
        raise NotApplicable("the specimen has no parameter of its own")
    for layer in registry.layers:
        mine = sorted({layer.key(piece) for piece in layer.pieces} & set(specimen.keys))
        v.holds(
            not mine, f"{', '.join(mine)} declared as {layer.kind} {layer.path!r}, and it is a parameter of its own"
        )
    beside = [layer for layer in registry.layers if layer.kind == "linear"]
    v.equal(len(beside), 1, f"number of linear layers beside {', '.join(specimen.keys)}")
    for key in (layer.key(piece) for layer in beside for piece in layer.pieces):
        v.holds(key in registry or key in registry.aliases, f"{key!r}, a piece of the layer beside, is an entry")
    for key in specimen.keys:
        value = values(f"bare {key}", registry[key].shape, registry[key].dtype)
        registry = registry.replace({key: value})
        native = specimen.model if registry.in_place else registry.unwrap()
        v.same(h.peek(native, key), value, f"{key!r} natively, after it was written")
    v.passed()
