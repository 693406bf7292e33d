"""Findings: config in which two paired layers differ, and activations that do, in the neutral meaning of the spec.

State that arrived bit for bit still computes something else with another eps, another padding or another activation.
Every difference that is known on both sides is found, with both values, whether it matters in evaluation or in training
alone, and what to set in the words of the target's framework. Two spellings of one function are no difference. Never
guesses what a side does not say; changes nothing and reads no values. Imports the vocabulary, no framework.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from stateregistry import plugins
from stateregistry.conversion.planning.padding import rank_of, resolved
from stateregistry.conversion.planning.plan import Finding
from stateregistry.layers.config import NOTES, UNSAID, Matter, known
from stateregistry.layers.vocabulary import a_kind

if TYPE_CHECKING:
    from stateregistry.conversion.side import Side
    from stateregistry.layers.vocabulary import Dialect, Layer

#: Config of the layout that nothing is computed with: axes and shapes say whether it agrees.
_LAYOUT: Final = frozenset({"kernel_size", "transpose_kernel", "weight_norm_dim", "spectral_norm"})
#: What a value is where a side does not say it and the spec does not either.
_SILENT: Final = object()


def compare(source: Layer, target: Layer, to: str, /) -> tuple[Finding, ...]:
    """Every value of the config in which two paired layers differ; none where one of them was only inferred.

    Within one framework entries pair by key, whatever their layers are: two of different kinds are found to be that.

    Args:
        to: the name of the target's dialect, whose words say what to set.
    """
    if source.inferred or target.inferred:
        return ()
    if source.kind != target.kind:
        return _another_layer(source, target)
    advise = _adviser(to)
    found = []
    for name, matters in _names(source, target).items():
        left, right = _meant(source, name, target), _meant(target, name, source)
        if left is _SILENT or right is _SILENT or _same(left, right) or not _asked(name, source, target):
            continue
        if name == "padding_idx" and {_said(source, "mode"), _said(target, "mode")} != {"none"}:
            matters = "evaluation"  # noqa: PLW2901  # a bag leaves such rows out
        hint = advise(target, name, left)
        found.append(
            Finding(target.path, name, left, right, "training" if matters == "training" else "evaluation", hint)
        )
    return tuple(found)


def untold(source: Side, target: Side, renamed: Callable[[str], str | None], /) -> tuple[Finding, ...]:
    """Layers of one framework whose axes neither side could tell, as of a stack counted along an axis of the layer's own size.

    Their arrays go as they lie, by key. Whether they lie alike, shapes do not say where sizes are equal.
    """
    found: dict[str, Finding] = {}
    for key, holder in source.holders.items():
        new = renamed(key)
        other = target.holders.get(key if new is None else new)
        entry = source.entries.get(source.canonical(key) or "")
        if other is None or entry is None or not (holder.declared and other.declared):
            continue
        sizes = [size for size in entry.shape if size > 1]
        if len(sizes) > len(set(sizes)):
            hint = "the arrays are copied as they lie; compare outputs: sr.verify(a, b, forward=...)"
            found.setdefault(other.path, Finding(other.path, "order of axes", "unknown", "unknown", hint=hint))
    return tuple(found.values())


def _another_layer(source: Layer, target: Layer) -> tuple[Finding, ...]:
    """What there is to say where the arrays of one layer are, under the same names, those of another."""
    if {piece.name for piece in source.pieces}.isdisjoint(piece.name for piece in target.pieces):
        return ()
    hint = f"the arrays arrive as they lie, and something else is computed with them; make it {a_kind(source.kind)}"
    return (Finding(target.path, "layer", source.kind, target.kind, "evaluation", hint),)


def _names(source: Layer, target: Layer) -> dict[str, Matter]:
    """Every name to look at: those of the spec, then those that a side has beyond it, on which the function depends."""
    names = {name: matter for name, matter in known(source).items() if name not in _LAYOUT}
    names |= {name: matter for name, matter in known(target).items() if name not in _LAYOUT}
    if source.kind == "conv_transpose":
        del names["output_padding"]  # of one meaning with the high padding, which it is taken from
    beyond = [name for layer in (source, target) for name in layer.config if name not in {*names, *_LAYOUT, *NOTES}]
    return {**names, **dict.fromkeys((name for name in beyond if name != "output_padding"), "evaluation")}


def _said(layer: Layer, name: str) -> Any:
    """The value that a layer says, or has by the spec; `_SILENT` for neither."""
    return layer.config.get(name, UNSAID.get(name, _SILENT))


def _meant(layer: Layer, name: str, other: Layer) -> Any:
    """The value in the form in which two of one meaning are equal."""
    value = _said(layer, name)
    if name == "padding" and value is not _SILENT:
        return resolved(layer, rank_of(layer, other))
    if name in ("stride", "dilation") and isinstance(value, int):
        return (value,) * rank_of(layer, other)
    if value is _SILENT and name not in known(layer):
        return None  # beyond the spec: an adapter says it only where it departs from the formula
    return value


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, float) or isinstance(right, float):
        numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in (left, right))
        return numbers and math.isclose(left, right, rel_tol=1e-6, abs_tol=0.0)  # what float32 makes of one number
    return type(left) is type(right) and bool(left == right)


def _asked(name: str, source: Layer, target: Layer) -> bool:
    """Whether anything hangs on a value in these two layers."""
    if name in ("momentum", "unbiased_var"):  # of running statistics that neither keeps
        return all("var" in layer.roles for layer in (source, target))
    if name == "norm_type":
        return all(_said(layer, "max_norm") is not None for layer in (source, target))
    if name == "spectral_norm_eps":  # added in an iteration, where there is one
        return all(_said(layer, "power_iterations") != 0 for layer in (source, target))
    return True


def activations(
    source: Mapping[str, str], target: Mapping[str, str], rename: Callable[[str], str | None], to: str, /
) -> Iterator[Finding]:
    """Activations, and norms that hold nothing, that hang under one path on both sides and are not one function.

    Args:
        source, target: neutral words by path.
        rename: what a rule calls a path on the other side, `None` for no rule.
        to: as `compare`.
    """
    dialect = _dialect(to)
    for path, left in source.items():
        new = rename(path)
        there = path if new is None else new
        right = target.get(there)
        if right is None or right == left:
            continue
        spelled = dialect.activations.get(left) if dialect is not None else None
        hint = f"use {spelled}" if spelled else f"make it {left}"
        name = "function" if left.partition("(")[0].endswith("_norm") else "activation"
        yield Finding(there, name, left, right, "evaluation", hint)


def _adviser(to: str) -> Callable[[Layer, str, Any], str]:
    dialect = _dialect(to)
    settings = dialect.settings if dialect is not None else None

    def advise(layer: Layer, name: str, value: Any) -> str:
        words = settings(layer, name, value) if settings is not None else ""
        return words or f"make {name} {value!r} in the target"

    return advise


def _dialect(name: str) -> Dialect | None:
    adapter = plugins.adapters().get(name) if name else None
    return adapter.dialect if adapter is not None else None
