"""Layers: what an adapter declares of one layer is in the words of the specification, and its function is the formula.

Every case is built natively with random state and equal sizes, tried once (`stateregistry_conformance.trials`), and asked
by each check for the faults that it is about. A case that is wrong for another reason blocks what stands on its numbers.
Imports NumPy and the core.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stateregistry import plugins
from stateregistry.entry import DTYPES, Kind, numpy_dtype
from stateregistry.errors import AxesError, StateError
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import ROLES
from stateregistry_conformance.check import check
from stateregistry_conformance.grounds import Blocked, Fault
from stateregistry_conformance.harness import SupportsLayers
from stateregistry_conformance.trials.case import RECURRENT
from stateregistry_conformance.trials.cases import BASES, DEFAULTS, PLAIN, STACKED, WRAPPED
from stateregistry_conformance.trials.trial import registry_of
from stateregistry_conformance.trials.words import lacking, of_config
from stateregistry_conformance.verdict import FalseClaim, HarnessError, NotApplicable, NotTestable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from stateregistry_conformance.subject import Subject
    from stateregistry_conformance.trials.case import LayerCase
    from stateregistry_conformance.trials.trial import LayerFault, Trial
    from stateregistry_conformance.verdict import Verdict

#: What `layer_kinds` may name beside layer kinds.
BESIDE: Final = frozenset({"weight_norm", "spectral_norm", "stacked"})


def kinds_of(h: Subject) -> frozenset[str]:
    """The layer kinds of the harness, and which wrappers it knows."""
    if not isinstance(h.harness, SupportsLayers):
        raise Blocked(Fault("", ("SR-LAYER-002",), "the harness claims layers and has no build_layer"))
    h.sound()
    kinds = h.layer_kinds()
    unknown = sorted(kinds - ROLES.keys() - BESIDE)
    if unknown:
        raise HarnessError(f"layer_kinds names {', '.join(unknown)}; there are {', '.join((*ROLES, *sorted(BESIDE)))}")
    return kinds


def blocked(fault: LayerFault) -> Blocked:
    """What ends a check that stands on a layer that is wrong for another reason."""
    return Blocked(Fault("", (fault.owner,), fault.text))


def tried(h: Subject, cases: Iterable[LayerCase]) -> list[Trial]:
    """The trials of those cases whose kind and wrapper the adapter declares and whose layer the framework has."""
    kinds = kinds_of(h)
    found = []
    for case in cases:
        wrapper = {"weight_norm_dim": "weight_norm", "spectral_norm": "spectral_norm"}
        needs = {
            case.kind,
            *(wrapper[name] for name in case.config if name in wrapper),
            *(["stacked"] if case.stacked else []),
        }
        if needs <= kinds:
            trial = h.trials.of(case)
            found += [trial] if trial.built else []
    return found


def decide(
    v: Verdict, owner: str, trials: Collection[Trial], *, what: str, blocked_by: Collection[str] | None = None
) -> None:
    """Fail on the first fault that the requirement owns; not applicable without a trial; blocked by faults of others.

    Args:
        what: of what there was nothing to try.
        blocked_by: the requirements whose faults block this one; all of them by default.
    """
    if not trials:
        raise NotApplicable(f"the adapter declares no {what}")
    others = []
    for trial in trials:
        for fault in trial.faults:
            v.holds(fault.owner != owner, fault.text)
            others += [fault] if blocked_by is None or fault.owner in blocked_by else []
        v.holds(True, f"{trial.case} was tried")
    if others:
        raise blocked(others[0])


def plain(h: Subject, *kinds: str) -> list[Trial]:
    """The trials of single layers that nothing wraps, of some kinds or of all."""
    return tried(h, (case for case in PLAIN.values() if not kinds or case.kind in kinds))


def every(h: Subject) -> list[Trial]:
    """The trials of single layers and stacks, wrapped or not."""
    return tried(h, (*PLAIN.values(), *WRAPPED.values(), *STACKED.values()))


#: Faults behind which nothing is known of a declaration: there is none of the kind.
NOTHING: Final = frozenset({"SR-LAYER-002", "SR-LAYER-014"})


@check("SR-LAYER-001")
def kinds_roles_and_axes_are_those_of_the_vocabulary(h: Subject, v: Verdict) -> None:
    decide(v, "SR-LAYER-001", plain(h), what="layers", blocked_by=NOTHING)
    v.passed()


@check("SR-LAYER-002")
def a_layer_computes_the_formula_of_its_kind(h: Subject, v: Verdict) -> None:
    if not isinstance(h.harness, SupportsLayers):
        raise FalseClaim("the harness claims layers and has no build_layer")
    kinds = kinds_of(h)
    for kind in sorted(kinds & BASES.keys()):
        trials = [h.trials.of(PLAIN[name]) for name in BASES[kind]]
        if not any(trial.built for trial in trials):
            raise FalseClaim(f"layer_kinds names {kind}, and build_layer does not build one: {trials[0].missing}")
    decide(v, "SR-LAYER-002", plain(h), what="layers")
    _left_alone(h, v, "overridden")
    declared = _declared(h)
    untold = sorted(declared - kinds)
    if untold:
        raise NotTestable(f"the adapter declares {', '.join(untold)}, and layer_kinds of the harness does not name it")
    v.passed()


def _declared(h: Subject) -> frozenset[str]:
    """The kinds in the table of the adapter."""
    from stateregistry_conformance.samples import core

    known: Any = plugins.adapters().get(h.registry(h.build(core())).adapter)
    dialect = getattr(known, "dialect", None)
    return frozenset() if dialect is None else frozenset(row.kind for row in dialect.declarations)


def _left_alone(h: Subject, v: Verdict, name: str) -> None:
    """No layer holds what an odd layer is about; nothing where the framework has no such thing."""
    try:
        specimen = h.odd_layer(name)
    except NotApplicable:
        return
    for layer in h.registry(specimen.model).layers:
        mine = sorted({layer.key(piece) for piece in layer.pieces} & set(specimen.keys))
        v.holds(not mine, f"{name}: {', '.join(mine)} declared as {layer.kind} {layer.path!r}, and it is none")


@check("SR-LAYER-003")
def sizes_do_not_decide_which_axis_is_which(h: Subject, v: Verdict) -> None:
    trials = plain(h)
    decide(v, "SR-LAYER-003", trials, what="layers")
    kinds = kinds_of(h)
    twins = [trial.case.apart for trial in trials if trial.case.apart is not None and trial.case.kind in kinds]
    for twin in (h.trials.of(case) for case in twins):
        for fault in twin.faults:
            v.holds(
                fault.owner in {"SR-LAYER-004", "SR-LAYER-009"},
                f"right among equal sizes, and wrong here: {fault.text}",
            )
    v.passed()


@check("SR-LAYER-004")
def axes_of_one_name_have_one_size(h: Subject, v: Verdict) -> None:
    trials = plain(h)
    trials += tried(h, (trial.case.apart for trial in trials if trial.case.apart is not None))
    decide(v, "SR-LAYER-004", _owned(trials, "SR-LAYER-004"), what="layers")
    v.passed()


def _owned(trials: Iterable[Trial], owner: str) -> list[Trial]:
    """The trials, less those whose fault would follow from another one of their kind."""
    found = list(trials)
    wrong = {trial.case.kind for trial in found for fault in trial.faults if fault.owner != owner}
    return [
        trial for trial in found
        if trial.case.kind not in wrong or not any(fault.owner == owner for fault in trial.faults)
    ]  # fmt: skip


@check("SR-LAYER-005")
def a_role_that_the_layer_lacks_is_not_declared(h: Subject, v: Verdict) -> None:
    decide(v, "SR-LAYER-005", plain(h), what="layers", blocked_by=NOTHING)
    v.passed()


@check("SR-LAYER-006")
def sums_are_declared_where_the_formula_is_of_the_sum(h: Subject, v: Verdict) -> None:
    decide(v, "SR-LAYER-006", plain(h, *RECURRENT), what="recurrent layers", blocked_by=NOTHING)
    v.passed()


@check("SR-LAYER-007")
def kinds_are_told_by_types_and_never_inferred(h: Subject, v: Verdict) -> None:
    decide(v, "SR-LAYER-007", every(h), what="layers", blocked_by=())
    _left_alone(h, v, "undeclared")
    v.passed()


@check("SR-LAYER-008")
def config_has_the_names_and_meanings_of_the_specification(h: Subject, v: Verdict) -> None:
    trials = plain(h)
    decide(v, "SR-LAYER-008", trials, what="layers", blocked_by=NOTHING)
    for owner, text in _config(trials):
        v.holds(owner != "SR-LAYER-008", text)
    v.passed()


def _config(trials: Iterable[Trial]) -> list[tuple[str, str]]:
    """What is wrong with the values of config, kind by kind."""
    by_kind: dict[str, list[Any]] = {}
    for trial in trials:
        by_kind.setdefault(trial.case.kind, []).extend((trial.case, layer) for layer in trial.layers)
    return [fault for pairs in by_kind.values() for fault in of_config(pairs)]


@check("SR-LAYER-009")
def config_that_contradicts_a_shape_is_refused(h: Subject, v: Verdict) -> None:
    kinds_of(h)
    specimen = h.odd_layer("contradiction")

    def told() -> None:
        for layer in h.registry(specimen.model).layers:
            if {layer.key(piece) for piece in layer.pieces} & set(specimen.keys):
                sizes = {
                    name: size for name in ("heads", "head_dim") if isinstance(size := layer.config.get(name), int)
                }
                registry = h.registry(specimen.model)
                for piece in layer.pieces:
                    axes.bind(piece.axes, registry[layer.key(piece)].shape, sizes)

    error = v.refusal(told, StateError, f"a layer whose config contradicts {', '.join(specimen.keys)}")
    v.holds(str(error), f"the {type(error).__name__} has a message")
    v.passed()


@check("SR-LAYER-010")
def config_is_what_the_layer_uses(h: Subject, v: Verdict) -> None:
    trials = plain(h)
    unknown = [fault for trial in trials for fault in trial.faults if fault.owner == "SR-LAYER-008"]
    if unknown:
        raise blocked(unknown[0])
    for owner, text in _config(trials):
        v.holds(owner != "SR-LAYER-010", text)
    defaults = tried(h, DEFAULTS.values())
    for trial in defaults:
        for layer in trial.layers:
            lost = lacking(layer)
            v.holds(
                not lost,
                f"{trial.case}: {', '.join(lost)} is a number that the framework knows, declared {dict(layer.config)}",
            )
    decide(v, "SR-LAYER-010", _owned([*trials, *defaults], "SR-LAYER-010"), what="layers")
    v.passed()


@check("SR-LAYER-012")
def native_arrays_have_the_declared_axes_in_both_directions(h: Subject, v: Verdict) -> None:
    decide(v, "SR-LAYER-012", plain(h), what="layers")
    v.passed()


@check("SR-LAYER-013")
def roles_and_back_are_the_same_bits(h: Subject, v: Verdict) -> None:
    trials = [trial for trial in every(h) if trial.readings]
    if not trials:
        raise NotApplicable("the adapter declares no layers whose patterns fit")
    for trial in trials:
        for reading in trial.readings:
            for piece, bound in reading.bounds:
                told = f"{trial.case}: {piece.name}, {piece.axes!r}"
                for dtype in DTYPES:
                    array = _bits(f"{told} {dtype}", bound.shape, dtype)
                    v.same(bound.collapse(bound.expand(array)), array, f"{told}, apart and together again")
                there = axes.Transform(bound, axes.bind(" ".join(bound.neutral), _sizes(bound), dict(bound.sizes)))
                if bound.parts == ("",):
                    array = _bits(told, bound.shape, "float32")
                    v.same(there.inverse().apply(there.apply(array)), array, f"{told}, moved there and back")
        _written_and_read(h, v, trial)
    v.passed()


def _sizes(bound: axes.Bound) -> list[int]:
    return [bound.sizes[name] for name in bound.neutral]


def _bits(seed: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Any bits at all, those of no number among them; truth values stay true or false."""
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    target = numpy_dtype(dtype)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    raw = rng.integers(0, 256, (*shape, target.itemsize), dtype=np.uint8)
    return raw.view(target).reshape(shape)


def _plain(seed: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Numbers without any trap: what becomes of others is decided by the chapter on dtypes."""
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    return np.asarray(2 + 10 * np.abs(rng.standard_normal(shape))).astype(numpy_dtype(dtype))


def _written_and_read(h: Subject, v: Verdict, trial: Trial) -> None:
    """Bits that went through the roles arrive natively through the adapter, and are read again."""
    model, registry = registry_of(h, trial)
    given: dict[str, np.ndarray] = {}
    for reading in trial.readings:
        for piece, bound in reading.bounds:
            key = reading.layer.key(piece)
            array = _plain(f"{trial.case} {key}", bound.shape, registry[key].dtype)
            given[key] = np.ascontiguousarray(bound.collapse(bound.expand(array))).reshape(bound.shape)
    done = registry.replace(given)
    native = model if done.in_place else done.unwrap()
    for key, value in given.items():
        v.same(done.read(key), value, f"{trial.case}: {key!r} after the roles were written")
        v.same(h.peek(native, key), value, f"{trial.case}: {key!r} natively, after the roles were written")


@check("SR-LAYER-014")
def patterns_fit_their_arrays_and_no_others(h: Subject, v: Verdict) -> None:
    trials = every(h)
    decide(v, "SR-LAYER-014", trials, what="layers", blocked_by=())
    for trial in trials:
        for reading in trial.readings[:1]:
            for piece, bound in reading.bounds:
                _refused(v, f"{trial.case}: {piece.name}, {piece.axes!r}", piece.axes, bound)
    v.passed()


def _refused(v: Verdict, told: str, pattern: str, bound: axes.Bound) -> None:
    """A pattern with an axis more, twice or of another name is not taken for the pattern of the same array."""
    sizes = dict(bound.sizes)
    v.refusal(lambda: axes.bind(f"{pattern} more", bound.shape, sizes), AxesError, f"{told}, with an axis more")
    if bound.neutral:
        name, *rest = bound.neutral
        other, shape = " ".join(("another", *rest)), _sizes(bound)
        v.refusal(lambda: axes.parse(f"{name} {name}"), AxesError, f"{name} named twice")
        v.refusal(lambda: axes.derive(pattern, bound.shape, other, shape, sizes), AxesError, f"{told} as {other!r}")


@check("SR-LAYER-015")
def what_is_stored_reversed_is_declared_reversed(h: Subject, v: Verdict) -> None:
    decide(v, "SR-LAYER-015", plain(h, "conv", "conv_transpose"), what="convolutions")
    v.passed()


#: What the roles of buffers are called, or end in; every other role is of a parameter.
_BUFFERS: Final = ("mean", "var", "count", "_u", "_v", "_sigma")


def _kind_of(role: str) -> Kind:
    return Kind.BUFFER if role.endswith(_BUFFERS) else Kind.PARAMETER


@check("SR-LAYER-023")
def a_piece_is_of_the_kind_that_its_role_is_of_or_says_why_not(h: Subject, v: Verdict) -> None:
    trials = [trial for trial in every(h) if trial.layers]
    if not trials:
        raise NotApplicable("the adapter declares no layers")
    for trial in trials:
        _, registry = registry_of(h, trial)
        entries: Mapping[str, Any] = dict(registry)
        for layer in trial.layers:
            for piece in layer.pieces:
                told = f"{trial.case}: {piece.name}, {piece.role!r}"
                entry = entries.get(layer.key(piece))
                if entry is None:
                    continue  # SR-LAYER-005
                v.equal(piece.kind, entry.kind, f"{told}: kind of the piece, and of the entry that it is")
                expected = _kind_of(piece.role)
                why = piece.kind is expected or piece.kind_reason
                v.holds(
                    why, f"{told}: a {piece.kind.value}, where the role is a {expected.value}, and no reason is given"
                )
    v.passed()
