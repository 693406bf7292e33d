"""Live headers: a model under the names of a header, so that a forward pass can be asked about a perturbed pair.

A header keeps what its keys and layers are called in the model. The adapter here fills a model with what a header holds, runs
it without compiling, and tells what its layers were given under the names of the header.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from flax import nnx
from zoo_header import Header, HeaderRegistry
from zoo_pairs import FlaxSide, Pair, leaves

import stateregistry as sr
from stateregistry import plugins
from stateregistry.layers.calls import Observation


@dataclass(frozen=True, eq=False)
class Live:
    """A model that is run under other names.

    Attributes:
        registry: of the model; one that is written in place is a copy of nobody else's. call: runs its native object.
    """

    registry: sr.StateRegistry
    call: Callable[[Any], Any]

    def filled(self, header: Header) -> sr.StateRegistry:
        """The registry with what a header holds; a layer that was taken out of the header keeps what the model has."""
        held = {name: header.values[key] for key, name in header.native.items() if key in header.values}
        return self.registry.replace(held)


def run(header: Header) -> list[Any]:
    """The outputs of the model of a header, with what it holds."""
    assert isinstance(header.live, Live)
    return leaves(header.live.call(header.live.filled(header).unwrap()))


def torch_side(pair: Pair, side: FlaxSide) -> Live:
    """The torch model of a pair, and how it is run."""
    return Live(sr.of(pair.fresh_torch(5)), lambda module: pair.run_torch(module, side))


def flax_side(side: Any) -> Live:
    """The Flax model of a pair, and how it is run where its layers are seen."""
    native = side.fresh(6)
    if isinstance(native, nnx.Module):
        return Live(side.registry(native), lambda module: module(*side.args))
    return Live(side.registry(native), lambda native: side.module.apply(native, *side.args, **side.kwargs))


class HeaderAdapter:
    """What watches the model of a header."""

    name = "zoo"

    def recognises(self, obj: object, /) -> bool:
        return isinstance(obj, Header) and isinstance(obj.live, Live)

    @contextlib.contextmanager
    def observe(self, registry: HeaderRegistry, /, *, compiled: bool) -> Iterator[Observation]:
        header = registry.unwrap()
        assert isinstance(header.live, Live)
        native = header.live.filled(header)
        adapter = plugins.adapter(native.adapter)
        found = Observation()
        with adapter.observe(native, compiled=compiled) as seen:  # type: ignore[attr-defined]  # those of both frameworks can
            yield found
        for call in seen.calls:
            stages = tuple(tuple(header.places.get(path, path) for path in stage) for stage in call.layers)
            found.end(found.begin(), replace(call, layers=stages))


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """A context in which models are watched under the names of their headers."""
    known = plugins.adapters

    def adapters() -> dict[str, Any]:
        return {**known(), "zoo": HeaderAdapter()}

    plugins.adapters = adapters  # type: ignore[assignment]  # for as long as the context lasts
    try:
        yield
    finally:
        plugins.adapters = known
