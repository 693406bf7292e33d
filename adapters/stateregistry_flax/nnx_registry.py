"""NnxRegistry: the state of a live Flax NNX module, written in place.

Every `Variable` of whatever type is a place, and so is a bare array attribute. Variables keep their identity and
metadata: a write exchanges the array inside, raw, past any hook, so that the bits given are the bits held. Nothing
about the module is remembered but how a place was reached, and that is verified before it is used. Imports JAX and
Flax.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import jax
import numpy as np
from flax import nnx

from stateregistry import errors, keys
from stateregistry.entry import Entry, Kind
from stateregistry.layers.infer import infer_layers
from stateregistry.registry import StateRegistry
from stateregistry_flax import arrays, graph

if TYPE_CHECKING:
    from stateregistry.layers.vocabulary import Holder, Layer


@final
@dataclass(frozen=True, slots=True)
class _Label:
    """What the type of a variable says."""

    kind: Kind
    tag: str
    persistent: bool
    rng: bool


_BARE = _Label(Kind.BUFFER, "array", persistent=True, rng=False)


@cache
def _label(variable: type[Any]) -> _Label:
    """By subclass, as the types are an open set: a `LoRAParam` is a `Param`, a `Perturbation` is an `Intermediate`."""
    kind = Kind.PARAMETER if issubclass(variable, nnx.Param) else Kind.BUFFER
    persistent = not issubclass(variable, nnx.Intermediate)
    return _Label(kind, variable.__name__, persistent, rng=issubclass(variable, nnx.RngState))


@final
class _Listing:
    """A walk, sorted into entries, aliases and opaque state."""

    def __init__(self, root: Any) -> None:
        self.walk = graph.walk(root)
        self.entries: dict[str, Entry] = {}
        self.aliases: dict[str, str] = {}
        self.opaque: dict[str, str] = {}
        self.places: dict[str, graph.Place] = {}
        taken: dict[str, int] = {}
        for place in self.walk.places:
            key, names = place.key, place.sites
            entry = _entry(place.sites[key])
            if entry is None:
                continue  # Param(None): a name without an array
            for name in names:
                taken[name] = taken.get(name, 0) + 1
            if isinstance(entry, str):
                # Every name of it is opaque: there is no entry that a further one could be an alias of.
                self.opaque.update(dict.fromkeys(names, entry))
                continue
            self.entries[key] = entry
            self.places[key] = place
            if len(names) > 1:
                self.aliases.update({name: key for name in names if name != key})
        twice = tuple(sorted(name for name, times in taken.items() if times > 1))
        if twice:
            message = f"{', '.join(map(repr, twice[:5]))}: more than one place of the module has this key"
            raise errors.DuplicateKeyError(
                message, keys=twice, hint="an index and a name are spelled alike: rename one"
            )
        keys.check_prefix_free(taken)


def _entry(site: graph.Site) -> Entry | str | None:
    """The entry of a place, the reason why it has none, or `None` where there is nothing."""
    content = site.content()
    if content is None:
        return None
    held = arrays.describe(content)
    if isinstance(held, str):
        return held
    label = _label(site.value.var_type) if isinstance(site.value, nnx.Variable) else _BARE
    return arrays.entry(held, label.kind, tag=label.tag, persistent=label.persistent, rng=label.rng)


@final
class NnxRegistry(StateRegistry):
    """The state of an NNX module. `Param` and its subclasses are parameters; everything else it registers is a buffer.

    Args:
        module: the live module; abstract ones (`nnx.eval_shape`) are listed, and get values by `replace`. Or an `nnx.State`:
            it has no types of modules, so that its layers are inferred from names and shapes.

    Raises:
        KeyPathError, DuplicateKeyError: names that make no keys. UnsupportedError: too many paths to list.
    """

    adapter: ClassVar[str] = "flax-nnx"
    in_place: ClassVar[bool] = True
    materialises: ClassVar[bool] = True

    def __init__(self, module: Any) -> None:
        self._module = module
        self._last = _Listing(module)

    def _walked(self) -> _Listing:
        self._last = _Listing(self._module)
        return self._last

    def _entries(self) -> Mapping[str, Entry]:
        return self._walked().entries

    def _aliases(self) -> Mapping[str, str]:
        return self._walked().aliases

    def _opaque(self) -> Mapping[str, str]:
        return self._walked().opaque

    def _found(self, key: str) -> graph.Site | None:
        """Where a canonical key was last seen, if it is still there."""
        place = self._last.places.get(key)
        site = None if place is None else place.sites[key]
        return site if site is not None and site.holds() else None

    def _find(self, key: str, /) -> Entry | None:
        site = self._found(key)
        entry = None if site is None else _entry(site)
        if isinstance(entry, Entry):
            return entry
        if not self._has(key):
            return None
        return self._walked().entries.get(key)

    def _has(self, key: str) -> bool:
        """Whether something is natively under a key that is not known to be an alias: then a walk is worth its cost."""
        try:
            below = graph.resolve(self._module, key)
        except errors.KeyPathError:
            return False
        canonical = self._last.aliases.get(key)
        known = None if canonical is None else self._found(canonical)
        return below is not None and (known is None or known.value is not below)

    def _site(self, key: str) -> graph.Site:
        site = self._found(key)
        if site is None:
            self._walked()
            site = self._found(key)
        if site is None:
            message = f"{key!r} is not in the module any more"
            raise errors.UnknownKeyError(message, keys=(key,), hint="the module was changed meanwhile")
        return site

    def _read(self, key: str, /) -> np.ndarray:
        return arrays.read(self._site(key).content(), key)

    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        if isinstance(value, nnx.Variable):
            value = value.get_raw_value()
        if graph.is_ref(value):
            value = value[...]
        place = self._last.places.get(self._last.aliases.get(key, key))
        return arrays.convert(None if place is None else place.site.content(), value, key)

    def _stage(self, key: str, value: np.ndarray, /) -> Any:
        return arrays.stage(self._site(key).content(), value, key)

    def _backup(self, key: str, /) -> Any:
        # Arrays in a module are never edited, only exchanged: the old one itself is the way back, and costs no memory.
        return self._site(key).content()

    def _same(self, key: str, backup: Any) -> bool:
        content = self._site(key).content()
        held = arrays.describe(content), arrays.describe(backup)
        if content is backup or held[0] != held[1] or isinstance(held[0], str) or not held[0].concrete:
            return content is backup
        return arrays.read(content, key).tobytes() == arrays.read(backup, key).tobytes()  # a Ref gives another array

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        for key, value in staged.items():
            self._site(key).put(value)
        return self

    def _layers(self) -> tuple[Layer, ...]:
        from stateregistry_flax.nnx_layers import layers_of  # lazy: only a conversion asks

        listing = self._walked()
        if isinstance(self._module, nnx.State):
            return infer_layers({key: listing.entries[key] for key in listing.places}, self.adapter)
        named = {alias: listing.entries[key] for alias, key in listing.aliases.items()}
        return layers_of(listing.walk, {**listing.entries, **named})

    def _holders(self) -> Mapping[str, Holder]:
        from stateregistry_flax.nnx_layers import holders_of  # lazy: as above

        return holders_of(self._walked().walk)

    def _activations(self) -> Mapping[str, str]:
        from stateregistry_flax.nnx_layers import functions_at  # lazy: as above

        return functions_at(self._walked().walk)

    def _tree(self, flat: Mapping[str, Any], /) -> Any:
        """`nnx.state(module, nnx.Param)` with the values given; `False` for what is no entry there."""
        values = {id(place.site.value): flat.get(key, False) for key, place in self._walked().places.items()}
        state = nnx.state(self._module, nnx.Param)
        return jax.tree.map(
            lambda leaf: values.get(id(leaf), False), state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
        )

    def unwrap(self) -> Any:
        """The module itself."""
        return self._module
