"""Adapters for Flax: Linen variables, NNX modules, the msgpack files of `flax.serialization`, the directories of Orbax.

Importing the package imports neither JAX nor Flax and none of its own modules: every name is loaded when it is first used.
It knows no other adapter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateregistry.lazily import attributes

if TYPE_CHECKING:
    from stateregistry_flax.declared import bare as bare
    from stateregistry_flax.declared import register_layer as register_layer
    from stateregistry_flax.plugin import linen as linen
    from stateregistry_flax.plugin import nnx as nnx
    from stateregistry_flax.stores import msgpack as msgpack
    from stateregistry_flax.stores import orbax as orbax

#: Public name -> the module that has it. None of them is the name of a module, which would take its place.
_HOMES = {
    "bare": ".declared",
    "linen": ".plugin",
    "msgpack": ".stores",
    "nnx": ".plugin",
    "orbax": ".stores",
    "register_layer": ".declared",
}

__all__ = ["bare", "linen", "msgpack", "nnx", "orbax", "register_layer"]


if not TYPE_CHECKING:  # to a type checker, a name that is not above is an error
    __getattr__ = attributes(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
