"""Adapters for Flax: Linen variables, NNX modules, and the msgpack files of `flax.serialization`.

Importing the package imports neither JAX nor Flax: the objects below do when they are used. It knows no other
adapter.
"""

from __future__ import annotations

from stateregistry_flax.declared import bare, register_layer
from stateregistry_flax.msgpack_store import MsgpackStore
from stateregistry_flax.plugin import LinenAdapter, NnxAdapter

linen = LinenAdapter()
nnx = NnxAdapter()
msgpack = MsgpackStore()

__all__ = ["bare", "linen", "msgpack", "nnx", "register_layer"]
