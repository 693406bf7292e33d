"""Words: what can be said of a declared layer without computing anything, as faults with the requirement that each breaks.

Whether kind, roles and axes are those of the vocabulary, whether patterns fit their arrays, whether every array is held, and
whether config has the names of the specification. Looks at no values. Imports the core and the names of the formulas.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from stateregistry.errors import AxesError, StateError
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import ROLES, WRAPPERS
from stateregistry_conformance.formulas import FORMULAS, wrappers
from stateregistry_conformance.trials.case import RECURRENT
from stateregistry_conformance.trials.reading import read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np

    from stateregistry.layers.vocabulary import Layer
    from stateregistry_conformance.trials.case import LayerCase

_ENDINGS: Final = tuple(ending for endings in WRAPPERS.values() for ending in endings if ending)
#: What the config of a layer in a stack has beside that of its kind.
STACKED: Final = "stacked"
#: What `padding` and the like may be for each spatial axis, or once for all.
_PER_AXIS: Final = frozenset({"stride", "dilation", "output_padding", "kernel_size"})

Fault = tuple[str, str]


def words(case: LayerCase, layers: Sequence[Layer], state: Mapping[str, np.ndarray]) -> Iterator[Fault]:
    """Everything that is wrong with the words of what is declared for a case: a requirement, and what was found.

    Args:
        layers: what the adapter declares of the model.
        state: the arrays of the model by key.
    """
    expected = case.depth * case.directions
    alone = "SR-LAYER-021" if case.stacked else "SR-LAYER-016" if expected > 1 else "SR-LAYER-002"
    unknown = [layer for layer in layers if layer.kind not in ROLES]
    if unknown:
        yield "SR-LAYER-001", f"no layer kind {unknown[0].kind!r}; there are {', '.join(ROLES)}"
        return
    if [layer.kind for layer in layers] != [case.kind] * expected:
        told = ", ".join(f"{layer.kind} {layer.path!r}" for layer in layers) or "none"
        yield alone, f"expected {expected} of kind {case.kind}, declared: {told}"
        return
    found = [fault for layer in layers for fault in _of_layer(case, layer, state)]
    found += _of_several(case, layers)
    yield from found
    if found:
        return  # what is declared wrongly is not missing, too
    held = {layer.key(piece) for layer in layers for piece in layer.pieces}
    lost = sorted(set(state) - held)
    if lost:
        yield alone, f"the module holds {', '.join(lost)}, of which no piece is declared"


def _of_layer(case: LayerCase, layer: Layer, state: Mapping[str, np.ndarray]) -> Iterator[Fault]:
    if layer.inferred:
        yield "SR-LAYER-007", f"the kind {layer.kind} is marked as inferred, and the model is live"
    fits = True
    for piece in layer.pieces:
        told = f"{piece.name}, {piece.axes!r} as {piece.role!r}"
        try:
            groups, parts = axes.parse(piece.axes), dict(piece.parts)
        except (StateError, ValueError) as error:
            yield "SR-LAYER-014", f"{told}: {error}"
            return  # its roles cannot be told
        for role in parts:
            yield from ((owner, f"{told}: {text}") for owner, text in _of_role(layer, role, groups))
        if layer.key(piece) not in state:
            yield "SR-LAYER-005", f"{told}: the model has no {layer.key(piece)!r}"
            fits = False
        elif not axes.rank_fits(piece.axes, state[layer.key(piece)].ndim):
            yield "SR-LAYER-014", f"{told}: the array has the shape {state[layer.key(piece)].shape}"
            fits = False
    names = {one for role in layer.roles for one in role.split("+")}
    surplus = sorted(name for name in names - case.roles if not name.endswith(_ENDINGS))
    if surplus and not any(name not in ROLES[layer.kind] for name in surplus):
        yield "SR-LAYER-005", f"declared with {', '.join(surplus)}, which the native layer does not have"
    yield from _of_sums(layer)
    yield from _of_wrapper(case, names)
    known_names = _config_names(layer.kind) | ({STACKED} if case.stacked else set())
    strange = sorted(
        name for name in set(layer.config) - known_names if "." not in name
    )  # a dotted one is of its framework
    if strange:
        known = ", ".join(sorted(_config_names(layer.kind)))
        yield "SR-LAYER-008", f"the config has {', '.join(strange)}; the specification has {known}"
    if fits:
        try:
            read(layer, {key: value.shape for key, value in state.items()}, case)
        except (AxesError, ValueError) as error:
            yield "SR-LAYER-014", f"a pattern does not fit its array: {error}"


def _of_role(layer: Layer, role: str, groups: Sequence[axes.Group]) -> Iterator[Fault]:
    """Whether a role is one of the kind, and has its axes."""
    known, mine = ROLES[layer.kind], _names(groups)
    for one in role.split("+"):
        if one in known:
            if mine != _names(axes.parse(known[one])):
                yield "SR-LAYER-001", f"the role {one!r} of a {layer.kind} has the axes {known[one]!r}"
            continue
        inner = next((one.removesuffix(ending) for ending in _ENDINGS if one.endswith(ending)), one)
        if inner not in known:
            yield "SR-LAYER-001", f"a {layer.kind} has no role {one!r}; it has {', '.join(known)}"
        elif not mine <= _names(axes.parse(known[inner])):
            yield "SR-LAYER-001", f"{one!r} belongs to {inner!r}, whose axes are {known[inner]!r}"


def _names(groups: Sequence[axes.Group]) -> set[str]:
    return {_family(atom.name) for group in groups for atom in group.atoms}


def _family(name: str) -> str:
    base, dot, number = name.rpartition(".")
    return base if dot and number.isdigit() else name


def _of_sums(layer: Layer) -> Iterator[Fault]:
    """A sum stands where the formula depends on the sum alone, and there it has to: what is alone there is the sum."""
    for role in layer.roles:
        if "+" in role and role not in _sums(layer.kind):
            yield "SR-LAYER-006", f"{role!r}: the formula of a {layer.kind} does not depend on the sum of these alone"
    if layer.kind not in RECURRENT:
        return
    for role in _sums(layer.kind):
        one, two = role.split("+")
        given = [name for name in (one, two) if name in layer.roles]
        if len(given) == 1 and role not in layer.roles:
            yield "SR-LAYER-006", f"{given[0]!r} is the only bias there, and so the sum: {role!r}"


def _sums(kind: str) -> tuple[str, ...]:
    prefixes = {"lstm": ("i_", "f_", "g_", "o_"), "gru": ("r_", "z_"), "rnn": ("",)}.get(kind, ())
    return tuple(f"{prefix}input_bias+{prefix}recurrent_bias" for prefix in prefixes)


def _of_wrapper(case: LayerCase, names: set[str]) -> Iterator[Fault]:
    """Whether a wrapped kernel is declared by what it is computed from, and one that is not wrapped by itself."""
    wanted: set[str] = set()
    if "weight_norm_dim" in case.config:
        wanted = {"kernel_direction", "kernel_magnitude"}
    elif "spectral_norm" in case.config:
        wanted = {"kernel_original", "kernel_u"}
    if not wanted <= names or (wanted and "kernel" in names):
        yield (
            "SR-LAYER-017",
            f"the kernel is computed from {', '.join(sorted(wanted))}; declared: {', '.join(sorted(names))}",
        )
    elif not wanted and any(name.endswith(_ENDINGS) for name in names):
        yield "SR-LAYER-017", f"nothing is wrapped here; declared: {', '.join(sorted(names))}"


def _of_several(case: LayerCase, layers: Sequence[Layer]) -> Iterator[Fault]:
    """Whether layers of one module are told apart, and know their direction."""
    paths = [layer.path for layer in layers]
    if len(set(paths)) != len(paths):
        yield "SR-LAYER-021" if case.stacked else "SR-LAYER-016", f"several layers have the path {paths[0]!r}: {paths}"
    if case.stacked:
        last = [layer.path.rpartition("/")[2] for layer in layers]
        if last != [str(number) for number in range(case.depth)]:
            yield "SR-LAYER-021", f"layers of a stack are told by their index: {paths}"
    elif case.depth * case.directions > 1:
        found = [bool(layer.config.get("reverse", False)) for layer in ordered(case, layers)]
        expected = [number % case.directions == 1 for number in range(len(layers))]
        if found != expected:
            told = {layer.path: layer.config.get("reverse", False) for layer in layers}
            yield "SR-LAYER-016", f"expected one layer for each direction, declared reverse: {told}"


def ordered(case: LayerCase, layers: Sequence[Layer]) -> list[Layer]:
    """The layers as they follow one another, of each depth the one that reads from the end last."""
    found: list[Layer] = []
    for start in range(0, len(layers), case.directions):
        found += sorted(
            layers[start : start + case.directions], key=lambda layer: bool(layer.config.get("reverse", False))
        )
    return found


# ---------------------------------------------------------------------------------------------------------------- config


def _config_names(kind: str) -> frozenset[str]:
    formula = FORMULAS[kind]
    return formula.state | formula.function | formula.training | wrappers.STATE | wrappers.FUNCTION


def known_config(layer: Layer) -> dict[str, Any]:
    """The config of a layer as far as the specification has it."""
    names = _config_names(layer.kind)
    return {name: value for name, value in layer.config.items() if name in names}


def of_config(pairs: Sequence[tuple[LayerCase, Layer]]) -> Iterator[Fault]:
    """What is wrong with the values of the config of several layers of one kind, of which each was asked for.

    A value that does not change with what is asked for is not the one that the layer uses (SR-LAYER-010); one that changes
    into something else has another meaning (SR-LAYER-008).
    """
    asked: dict[str, list[tuple[LayerCase, object, object]]] = {}
    for case, layer in pairs:
        ranked = len(case.spatial)
        wanted, declared = _said(case.config, ranked), _said(layer.config, ranked)
        for name, value in wanted.items():
            asked.setdefault(name, []).append((case, value, declared.get(name)))
    for name, rows in asked.items():
        wrong = [(case, value, found) for case, value, found in rows if not _same(value, found)]
        if not wrong:
            continue
        case, value, found = wrong[0]
        constant = len({repr(one) for _, one, _ in rows}) > 1 and len({repr(one) for _, _, one in rows}) == 1
        told = f"{case}: {name} is {value!r}, declared " + ("not at all" if found is None else repr(found))
        yield "SR-LAYER-010" if constant or found is None else "SR-LAYER-008", told


def _said(config: Mapping[str, Any], rank: int) -> dict[str, object]:
    """Config in one form: one number for each axis, low and high for each, what `output_padding` leaves of the high side."""
    found: dict[str, object] = {}
    for name, value in config.items():
        if name in _PER_AXIS and isinstance(value, int) and not isinstance(value, bool):
            found[name] = (value,) * rank
        elif name == "padding":
            found[name] = value if isinstance(value, str) else _sides(value, rank)
        else:
            found[name] = tuple(value) if isinstance(value, list) else value
    more, sides = found.pop("output_padding", None), found.get("padding")
    if isinstance(more, tuple) and isinstance(sides, tuple):
        found["padding"] = tuple((low, high - extra) for (low, high), extra in zip(sides, more, strict=True))
    return found


def _sides(value: Any, rank: int) -> object:
    flat = [value] * rank if isinstance(value, int) else list(value)
    if len(flat) == 2 * rank and all(isinstance(side, int) for side in flat) and rank != 2 * rank:
        flat = list(zip(flat[::2], flat[1::2], strict=True))
    return tuple((side, side) if isinstance(side, int) else tuple(side) for side in flat)


def _same(value: object, found: object) -> bool:
    if isinstance(value, float) and isinstance(found, (int, float)) and not isinstance(found, bool):
        return math.isclose(value, found, rel_tol=1e-6)
    return value == found


def lacking(layer: Layer) -> list[str]:
    """What a framework has a default for and the config does not say, though the function depends on it."""
    return [name for name in ("eps",) if name in FORMULAS[layer.kind].function and not _number(layer.config.get(name))]


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
