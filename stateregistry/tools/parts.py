"""Putting the states of several models together under names, and taking a part of one out. Lazy and read-only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stateregistry import errors, keys, plugins
from stateregistry.tools.derived import Derived

if TYPE_CHECKING:
    from stateregistry.layers.vocabulary import Layer
    from stateregistry.registry import StateRegistry


def merge(parts: Mapping[str, StateRegistry | Any]) -> Derived:
    """One state of several, each under its name: `merge({"encoder": a, "decoder": b})`.

    Laws: `split(merge(parts), name)` has the entries and bits of `parts[name]`.

    Args:
        parts: registries or live objects by path; a path may have several segments (`"model/encoder"`).

    Raises:
        KeyPathError: a path is not legal. DuplicateKeyError: two parts overlap, one's path being above the other's.
        UnsupportedError: there are no parts.
    """
    if not parts:
        raise errors.UnsupportedError("there is nothing to merge", hint="give parts by name")
    for name in parts:
        keys.split(name)
    keys.check_prefix_free(parts)
    registries = {name: plugins.of(part) for name, part in parts.items()}
    entries, aliases, opaque, homes = {}, {}, {}, {}
    layers: list[Layer] = []
    for name, one in registries.items():
        for key in one.native_order:
            entries[f"{name}/{key}"], homes[f"{name}/{key}"] = one[key], (one, key)
        aliases.update({f"{name}/{alias}": f"{name}/{key}" for alias, key in one.aliases.items()})
        opaque.update({f"{name}/{key}": reason for key, reason in one.opaque.items()})
        layers += [_moved(layer, lambda path, above=name: f"{above}/{path}" if path else above) for layer in one.layers]
    dialects = {one.dialect for one in registries.values()}

    def compute(key: str) -> Any:
        one, own = homes[key]
        return one.view(own)

    return Derived(
        entries, compute, aliases=aliases, layers=layers, opaque=opaque,
        dialect=dialects.pop() if len(dialects) == 1 else "",
        origin={name: one.unwrap() for name, one in registries.items()},
    )  # fmt: skip


def split(reg: StateRegistry | Any, path: str) -> Derived:
    """The part of a state under a path, with that path left away: `split(model, "encoder")`.

    What is tied to a place outside of the part has that value, as a place of its own.

    Args:
        reg: a registry or a live object.
        path: whole segments, `"model/encoder"`.

    Raises:
        UnknownKeyError: nothing lies under the path.
    """
    registry = plugins.of(reg)
    above = f"{path}/"
    listed = {key: registry[key] for key in registry.native_order}
    homes = {key[len(above) :]: key for key in listed if key.startswith(above)}
    outside: dict[str, str] = {}
    aliases: dict[str, str] = {}
    for alias, key in registry.aliases.items():
        if not alias.startswith(above):
            continue
        if key.startswith(above):
            aliases[alias[len(above) :]] = key[len(above) :]
        elif key in outside:  # the least of the names inside stands for the place
            aliases[alias[len(above) :]] = outside[key]
        else:
            outside[key] = alias[len(above) :]
            homes[alias[len(above) :]] = key
    if not homes:
        raise errors.UnknownKeyError(f"nothing lies under {path!r}", keys=(path,), hint="a path of whole segments")
    layers = [
        _moved(layer, lambda at: at[len(above) :])
        for layer in registry.layers
        if all(key.startswith(above) for key in layer.roles.values()) and f"{layer.path}/".startswith(above)
    ]
    return Derived(
        {name: listed[key] for name, key in homes.items()},
        lambda name: registry.view(homes[name]),
        aliases=aliases,
        layers=layers,
        opaque={key[len(above) :]: why for key, why in registry.opaque.items() if key.startswith(above)},
        dialect=registry.dialect,
        origin=registry.unwrap(),
    )


def _moved(layer: Layer, path: Any) -> Layer:
    """A layer under another path."""
    return replace(layer, path=path(layer.path), base=None if layer.base is None else path(layer.base))
