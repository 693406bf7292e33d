"""Trial: one case built natively, its declaration looked at, and its function held against the formula, in both directions.

What is wrong is a `LayerFault` with the requirement that it breaks, so that one slip of a declaration is one red requirement.
Faults of the words of a declaration come first; numbers are tried only where there are none. `explain` says which other
declaration the numbers would bear out. Imports NumPy and the core.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from stateregistry.entry import numpy_dtype
from stateregistry.errors import AxesError, UnsupportedError
from stateregistry_conformance.declaration import CannotBuild
from stateregistry_conformance.formulas import forward
from stateregistry_conformance.grounds import Blocked, Fault
from stateregistry_conformance.trials.explain import explain
from stateregistry_conformance.trials.reading import drawn, read, written
from stateregistry_conformance.trials.words import known_config, ordered, words
from stateregistry_conformance.verdict import HarnessError, Stop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stateregistry.layers.vocabulary import Layer
    from stateregistry.registry import StateRegistry
    from stateregistry_conformance.subject import Subject
    from stateregistry_conformance.trials.case import LayerCase
    from stateregistry_conformance.trials.reading import Reading

#: How far a result may be from the formula, as a part of its scale, by the dtype in which the framework computes.
TOLERANCE: Final[Mapping[str, float]] = {"float64": 1e-10, "float32": 2e-5}
_POSITIVE: Final = frozenset({"batch_norm", "instance_norm"})
#: What an adapter breaks that lists what is no place.
_LISTED: Final = ("SR-LIST-003", "SR-LIST-005")


@final
@dataclass(frozen=True, slots=True)
class LayerFault:
    """One thing that is wrong with a declared layer.

    Attributes:
        owner: the requirement that it breaks.
        text: what was expected and found.
    """

    owner: str
    text: str


@final
@dataclass(frozen=True, slots=True)
class Trial:
    """What became of a case.

    Attributes:
        missing: why the framework has no such layer; everything else is empty then.
        layers: what the adapter declares.
        faults: what is wrong.
        readings: the layers with their patterns fitted; none where a pattern does not fit.
        state: the native values that were tried, by key.
        computed: the function was compared with the formula.
    """

    case: LayerCase
    missing: str = ""
    layers: tuple[Layer, ...] = ()
    faults: tuple[LayerFault, ...] = ()
    readings: tuple[Reading, ...] = ()
    state: Mapping[str, np.ndarray] = field(default_factory=dict)
    computed: bool = False

    @property
    def built(self) -> bool:
        """Whether there is such a layer."""
        return not self.missing


@final
class Trials:
    """The trials of one subject; each case is tried once."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._done: dict[str, Trial] = {}

    def of(self, case: LayerCase) -> Trial:
        """The trial of a case."""
        if case.name not in self._done:
            self._done[case.name] = self._tried(case)
        return self._done[case.name]

    def _tried(self, case: LayerCase) -> Trial:
        h = self._subject
        try:
            model = h.build_layer(case)
        except CannotBuild as reason:
            return Trial(case, missing=str(reason) or "the harness does not say why")
        try:
            model, state = _filled(h, model, case, "state")
            layers = tuple(ordered(case, h.registry(model).layers))
        except Stop:
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the layer is not told
            owner = "SR-LAYER-014" if isinstance(error, AxesError) else "SR-LAYER-002"
            return Trial(case, faults=(LayerFault(owner, f"{case}: layers raised {type(error).__name__}: {error}"),))
        faults = [LayerFault(owner, f"{case}: {text}") for owner, text in words(case, layers, state)]
        if faults:
            return Trial(case, layers=layers, faults=tuple(faults), state=state)
        readings = tuple(read(layer, {key: value.shape for key, value in state.items()}, case) for layer in layers)
        conflict = next((text for reading in readings if (text := reading.conflict())), "")
        fault = (
            LayerFault("SR-LAYER-004", f"{case}: {conflict}")
            if conflict
            else self._numbers(case, model, state, readings)
        )
        return Trial(case, "", layers, () if fault is None else (fault,), readings, state, computed=not conflict)

    # ---------------------------------------------------------------- numbers

    def _numbers(
        self, case: LayerCase, model: Any, state: Mapping[str, np.ndarray], readings: tuple[Reading, ...]
    ) -> LayerFault | None:
        """Whether the native function is the formula, of native state and of state that is made from roles."""
        h = self._subject
        native = _computed(h, model, case)
        wrong = self._departs(case, readings, [reading.roles(state) for reading in readings], native)
        if wrong:
            return self._blamed(case, readings, state, native, wrong)
        rng = np.random.default_rng(zlib.crc32(f"roles of {case}".encode()))
        given = [drawn(reading, rng, positive=case.kind in _POSITIVE) for reading in readings]
        dtypes = {key: value.dtype for key, value in state.items()}
        back = {key: value.astype(dtypes[key]) for key, value in written(readings, given).items()}
        fresh = _placed(h, h.build_layer(case), {**state, **back})
        roles = [reading.roles(back) for reading in readings]
        wrong = self._departs(case, readings, roles, _computed(h, fresh, case))
        text = f"{case}: from random roles, put together by the declared patterns and written natively: {wrong}"
        return LayerFault("SR-LAYER-012", text) if wrong else None

    def _departs(
        self, case: LayerCase, readings: tuple[Reading, ...], roles: Sequence[Mapping[str, Any]], native: np.ndarray
    ) -> str:
        """How the native outputs depart from the formula; empty where they do not."""
        tolerance = TOLERANCE.get(native.dtype.name)
        if tolerance is None or not np.isfinite(native).all():
            found = "what is no finite number" if tolerance is not None else str(native.dtype)
            raise HarnessError(f"forward of the harness gave {found} for {case}, expected finite float32 or float64")
        try:
            expected = _formula(case, [reading.layer for reading in readings], roles)
        except (AxesError, UnsupportedError) as error:
            return f"the formula refuses what is declared: {error}"
        far = distance(native, expected)
        if far <= tolerance:
            return ""
        if native.shape != expected.shape:
            return f"the layer gives the shape {native.shape}, the formula {expected.shape}"
        return f"what the layer computes departs from the formula by {far:.1e} of its scale (at most {tolerance:g})"

    def _blamed(
        self,
        case: LayerCase,
        readings: tuple[Reading, ...],
        state: Mapping[str, np.ndarray],
        native: np.ndarray,
        wrong: str,
    ) -> LayerFault:
        """The requirement that a wrong function breaks."""
        patterns = ", ".join(
            f"{reading.layer.key(piece) or piece.name}: {piece.axes!r} as {piece.role}"
            for reading in readings[:1]
            for piece, _ in reading.bounds
        )
        said = f"{case}: {wrong}; declared: {patterns}"
        if case.stacked:
            return LayerFault("SR-LAYER-021", said)
        if case.depth * case.directions > 1:
            return LayerFault("SR-LAYER-016", said)
        if {"weight_norm_dim", "spectral_norm"} & case.config.keys():
            return LayerFault("SR-LAYER-017", said)
        if case.small:
            return LayerFault("SR-LAYER-010", f"{said}, with the config {dict(readings[0].layer.config)}")
        if case.apart is not None and not self.of(case.apart).faults and self.of(case.apart).built:
            return LayerFault("SR-LAYER-003", f"{said}; with sizes that differ, the same layer is right")

        def holds(layer: Layer, changed: Mapping[str, str]) -> bool:
            """Whether the formula bears out a layer with other patterns, its roles under other names."""
            try:
                one = read(layer, {key: value.shape for key, value in state.items()}, case)
                roles = {changed.get(role, role): value for role, value in one.roles(state).items()}
                found = _formula(case, [layer], [roles])
            except (AxesError, UnsupportedError):
                return False
            return distance(native, found) <= TOLERANCE[native.dtype.name]

        owner, text = explain(readings[0].layer, {key: value.ndim for key, value in state.items()}, holds)
        return LayerFault(owner, f"{said}{text}")


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """The greatest difference as a part of the scale; infinite for other shapes."""
    if found.shape != expected.shape:
        return float("inf")
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    return float(np.abs(found.astype(np.float64) - expected).max(initial=0.0)) / scale


def _formula(case: LayerCase, layers: Sequence[Layer], roles: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """What the layers compute one after the other, those of two directions side by side."""
    asked = {name: value for name, value in case.config.items() if name != "reverse"}
    configs = [{**known_config(layer), **asked} for layer in layers]
    if case.depth * case.directions == 1:
        return forward(case.kind, roles[0], {**configs[0], **case.config}, case.inputs)[0]
    (x,) = case.inputs
    for number in range(case.depth):
        level = slice(number * case.directions, (number + 1) * case.directions)
        each = zip(roles[level], configs[level], strict=True)
        x = np.concatenate([forward(case.kind, given, config, [x])[0] for given, config in each], axis=-1)
    return x


def _computed(h: Subject, model: Any, case: LayerCase) -> np.ndarray:
    return h.layer_forward(model, case.inputs)


def _filled(h: Subject, model: Any, case: LayerCase, seed: str) -> tuple[Any, dict[str, np.ndarray]]:
    """The model with random values in every place, natively written, and those values by key."""
    entries = dict(h.registry(model))
    state: dict[str, np.ndarray] = {}
    for key, entry in entries.items():
        if entry.rng or not entry.concrete:
            continue
        rng = np.random.default_rng(zlib.crc32(f"{seed} {case} {key}".encode()))
        dtype = numpy_dtype(entry.dtype)
        if dtype.kind != "f":
            state[key] = np.full(entry.shape, 41, dtype)
            continue
        values = rng.standard_normal(entry.shape)
        values = np.abs(values) + 0.5 if case.kind in _POSITIVE else values
        state[key] = np.asarray(values * (1e-6 if case.small else 1.0)).astype(dtype)
    return _placed(h, model, state), state


def _placed(h: Subject, model: Any, state: Mapping[str, np.ndarray]) -> Any:
    """The model with other values.

    Raises:
        Blocked: what the registry lists is no place of the model.
    """
    for key, value in state.items():
        try:
            model = h.poke(model, key, value)
        except HarnessError as error:
            raise Blocked(Fault(key, _LISTED, f"{key!r} is listed, and cannot be written natively: {error}")) from error
    return model


def registry_of(h: Subject, trial: Trial) -> tuple[Any, StateRegistry]:
    """A fresh model of a trial that holds its state, and the registry over it."""
    model = _placed(h, h.build_layer(trial.case), trial.state)
    return model, h.registry(model)


__all__ = ["LayerFault", "Trial", "Trials", "distance", "registry_of"]
