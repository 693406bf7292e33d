"""What the broken declarations of layers share: `LayerMutant`, how one is registered, and small changes to a layer.

A mutant is the harness of an adapter with other layers than the adapter declares; `MUTANTS` has them in the order in which they
are written down.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from stateregistry.layers.vocabulary import Layer, Piece

Layers = tuple[Layer, ...]
#: From the registry, the native model, and the layers as the adapter tells them, to the layers of the mutant.
Change = Callable[[Any, Any, Callable[[], Layers]], Layers]


@dataclass(frozen=True, slots=True)
class LayerMutant:
    """A broken declaration.

    Attributes:
        id: its name, `m-layers-...`.
        base: the adapter that it is made from.
        violates: the requirement that it breaks.
        kinds: the layer kinds that it is about: the others are not tried.
        story: what is wrong.
        change: from the layers of the adapter to those of the mutant.
        eager: it is asked as soon as there is a registry.
    """

    id: str
    base: str
    violates: str
    kinds: tuple[str, ...]
    story: str
    change: Change
    eager: bool = False

    def harness(self) -> Any:
        """The harness of the adapter, over registries with other layers."""
        return altered(self.base, self.kinds, self.change, eager=self.eager)


def altered(base: str, kinds: Collection[str], change: Change | None, *, eager: bool = False) -> Any:
    """A harness whose registries tell other layers, or the same for `None`."""
    inner = type(_harness(base))

    class Altered(inner):
        def layer_kinds(self) -> Collection[str]:
            return tuple(kinds)

        def registry(self, model: Any, /) -> Any:
            registry = super().registry(model)
            if change is not None:
                told = registry._layers
                registry._layers = lambda: change(registry, model, told)
            if eager:
                registry._layers()
            return registry

    return Altered()


def _harness(base: str) -> Any:
    if base == "numpy":
        from stateregistry_numpy.harness import mutable

        return mutable
    if base == "torch":
        from stateregistry_torch.harness import harness as torch

        return torch
    if base == "flax-linen":
        from stateregistry_flax.linen_harness import harness as linen

        return linen
    from stateregistry_flax.nnx_harness import harness as nnx

    return nnx


#: Every mutant, in the order of the requirements that they violate.
MUTANTS: list[LayerMutant] = []


def whole(base: str, violates: str, *kinds: str, eager: bool = False) -> Callable[[Change], Change]:
    """Register a mutant that looks at the model; the name of the function is its name, the docstring its story."""

    def add(change: Change) -> Change:
        name = f"m-layers-{change.__name__.strip('_').replace('_', '-')}"
        story = inspect.getdoc(change) or ""
        MUTANTS.append(LayerMutant(name, base, f"SR-LAYER-{violates}", kinds, story, change, eager))
        return change

    return add


def each(base: str, violates: str, *kinds: str) -> Callable[[Callable[[Layer], Layer]], Callable[[Layer], Layer]]:
    """Register a mutant that changes each layer by itself, of the first of its kinds."""

    def add(alter: Callable[[Layer], Layer]) -> Callable[[Layer], Layer]:
        def change(_registry: Any, _model: Any, told: Callable[[], Layers]) -> Layers:
            return tuple(alter(layer) if layer.kind == kinds[0] else layer for layer in told())

        change.__name__, change.__doc__ = alter.__name__, alter.__doc__
        whole(base, violates, *kinds)(change)
        return alter

    return add


def pieces(layer: Layer, alter: Callable[[Piece], Piece | None]) -> Layer:
    """A layer with other pieces."""
    found = (alter(piece) for piece in layer.pieces)
    return replace(layer, pieces=tuple(piece for piece in found if piece is not None))


def laid_out(layer: Layer, role: str, axes: str) -> Layer:
    """A layer with another pattern for one role."""
    return pieces(layer, lambda piece: replace(piece, axes=axes) if piece.role == role else piece)


def respelled(layer: Layer, old: str, new: str) -> Layer:
    """A layer with something else in every pattern."""
    return pieces(layer, lambda piece: replace(piece, axes=piece.axes.replace(old, new)))


def exchanged(layer: Layer, one: str, two: str) -> Layer:
    """A layer with the roles that begin with one of two names exchanged."""

    def alter(piece: Piece) -> Piece:
        parts = [_swapped(part, one, two) for part in piece.role.split("+")]
        return replace(piece, role="+".join(parts))

    return pieces(layer, alter)


def _swapped(role: str, one: str, two: str) -> str:
    if role.startswith(one):
        return two + role.removeprefix(one)
    return one + role.removeprefix(two) if role.startswith(two) else role


def config(layer: Layer, **changes: Any) -> Layer:
    """A layer with other config."""
    return replace(layer, config={**layer.config, **changes})
