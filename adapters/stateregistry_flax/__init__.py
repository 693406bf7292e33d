"""Adapters for Flax: Linen variables, NNX modules, the msgpack files of `flax.serialization`, the directories of Orbax.

Importing the package imports neither JAX nor Flax: the objects below do when they are used. It knows no other
adapter.
"""

from __future__ import annotations

from stateregistry_flax.declared import bare, register_layer
from stateregistry_flax.msgpack_store import MsgpackStore
from stateregistry_flax.orbax_store import OrbaxStore
from stateregistry_flax.plugin import LinenAdapter, NnxAdapter

linen = LinenAdapter()
nnx = NnxAdapter()
msgpack = MsgpackStore()
orbax = OrbaxStore()

__all__ = ["bare", "linen", "msgpack", "nnx", "orbax", "register_layer"]
