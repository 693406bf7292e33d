"""Functions: activations without state that hang at Flax modules, in neutral words.

Seen are functions that are attributes or fields of a module, also in a sequence (`nn.Sequential`). What a `__call__` calls
by itself is not seen. Imports JAX.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import jax
import jax.numpy as jnp

from stateregistry.keys import escape

#: `jax.nn.gelu` is the approximation by tanh unless it is told otherwise.
_FUNCTIONS: Final[Mapping[Any, str]] = MappingProxyType(
    {
        jax.nn.gelu: "gelu_tanh", jax.nn.relu: "relu", jax.nn.relu6: "relu6", jax.nn.silu: "silu", jnp.tanh: "tanh",
        jax.nn.tanh: "tanh", jax.nn.sigmoid: "sigmoid", jax.nn.elu: "elu", jax.nn.leaky_relu: "leaky_relu",
    }
)  # fmt: skip


def functions_of(path: str, members: Iterable[tuple[str, Any]], joint: str) -> Iterator[tuple[str, str]]:
    """The activations among the members of a module, with their paths.

    Args:
        path: of the module. members: their names and values.
        joint: between a name and the number of what is in a sequence: `/` in NNX, `_` in Linen.
    """
    prefix = f"{path}/" if path else ""
    for name, value in members:
        if word := _word(value):
            yield f"{prefix}{escape(name)}", word
        elif isinstance(value, Iterable) and type(value).__name__ in ("list", "tuple", "List"):
            for number, one in enumerate(value):
                if word := _word(one):
                    yield f"{prefix}{escape(name)}{joint}{number}", word


def _word(value: Any) -> str:
    """The word of a function; empty for anything else."""
    if isinstance(value, functools.partial) and value.func is jax.nn.gelu and not value.args:
        approximate = value.keywords.get("approximate", True)
        return "gelu_tanh" if approximate is True else "gelu" if approximate is False else ""
    if not callable(value):
        return ""
    try:
        return _FUNCTIONS.get(value, "")
    except TypeError:  # it has no hash, so it is none of the functions
        return ""
