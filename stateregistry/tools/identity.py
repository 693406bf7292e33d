"""The identity of a state: one short text that is equal for equal states, whatever framework or file holds them.

It stands on what state means, not on how it is stored: the path of a layer, the roles in it, and the bits of each role with
its axes in one order. Entries of no layer count with their key and bits. What a framework keeps beside the state of the
function does not count: counters (`num_batches_tracked`), random generators, entries that are not persistent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from stateregistry import plugins
from stateregistry.entry import dtype_name
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import ROLES, Layer
from stateregistry.tools.derived import readable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stateregistry.registry import StateRegistry

#: Roles that a function depends on by their sum alone, so that a framework may hold them as one.
_SUMS = {"lstm": "ifgo", "gru": "rz"}


def hash(reg: StateRegistry | Any) -> str:  # noqa: A001  # a public name of the design
    """`xxh3-128:` and 32 hexadecimal digits, equal for two states exactly if they mean the same.

    A torch model and the Flax model that it was converted to have one hash, if layers have the same paths and their types are
    known: live modules, `sr.of(variables, module=..., args=...)`. A cast changes it.

    Args:
        reg: a registry or a live object.

    Raises:
        AbstractError: an entry has no values.
    """
    registry = plugins.of(reg)
    readable(registry, "hash")
    lines: list[str] = []
    inside: set[str] = set()
    aliases = registry.aliases
    for layer in registry.layers:
        inside.update(aliases.get(key, key) for key in layer.roles.values())
        lines += [f"{layer.path}\0{layer.kind}\0{role}\0{digest(array)}" for role, array in _roles(layer, registry)]
    for key, entry in registry.items():
        if key not in inside and entry.persistent and not entry.rng:
            lines.append(f"{key}\0\0\0{digest(registry.view(key))}")
    lines += [f"{alias}\0=\0{key}" for alias, key in aliases.items() if key not in inside]
    return "xxh3-128:" + xxhash.xxh3_128_hexdigest("\n".join(sorted(lines)).encode())


def _roles(layer: Layer, registry: StateRegistry) -> Iterator[tuple[str, np.ndarray]]:
    """The neutral array of every role that the function depends on; what it depends on by a sum, as the sum."""
    found: dict[str, np.ndarray] = {}
    known = {name: value for name, value in layer.config.items() if isinstance(value, int)}
    for piece in layer.pieces:
        array = registry.view(layer.key(piece))
        bound = axes.bind(piece.axes, array.shape, known)
        parts = bound.expand(array)
        # `out.0 out.1` of one framework is `out` of another: the members of an axis are one, as they are numbered.
        sizes: dict[str, int] = {}
        for name in bound.neutral:
            base = name.partition(".")[0] if name.rpartition(".")[2].isdigit() else name
            sizes[base] = sizes.get(base, 1) * bound.sizes[name]
        for role, part in piece.parts.items():
            if ROLES[layer.kind].get(role) != "":
                found[role] = parts[part].reshape(tuple(sizes.values()))
    for gate in _SUMS.get(layer.kind, ""):
        left, right = f"{gate}_input_bias", f"{gate}_recurrent_bias"
        if left in found and right in found:
            found[f"{left}+{right}"] = found.pop(left) + found.pop(right)
    if layer.kind == "rnn" and {"input_bias", "recurrent_bias"} <= set(found):
        found["input_bias+recurrent_bias"] = found.pop("input_bias") + found.pop("recurrent_bias")
    yield from found.items()


def digest(array: np.ndarray) -> str:
    """Dtype, shape and xxh3-128 of the bits in C order."""
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return f"{dtype_name(plain.dtype)}{list(array.shape)}:{xxhash.xxh3_128_hexdigest(plain.reshape(-1).view(np.uint8).data)}"
