"""LinenRegistry: the variables of a Flax Linen module, collections merged into one namespace.

`params` holds parameters, every other collection buffers whose tag is its name. Functional: `replace` gives a
registry over a new tree of the same container types that shares everything untouched. Refuses one path in two
collections unless the keys are prefixed with their collection. Imports JAX and Flax.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import numpy as np

from stateregistry import errors, keys
from stateregistry.entry import Entry, Kind
from stateregistry.registry import StateRegistry
from stateregistry_flax import arrays
from stateregistry_flax.dialect import LINEN, PARAMS, TRANSIENT
from stateregistry_flax.tree import Leaf, Tree

if TYPE_CHECKING:
    from stateregistry.layers.vocabulary import Holder, Layer
    from stateregistry_flax.linen_layers import Trace


@final
class LinenRegistry(StateRegistry):
    """The state of a Linen module, as `module.init` returns it.

    Args:
        variables: dict or `FrozenDict` of collections.
        trace: how to run the module abstractly, for its layers; without one, layers are inferred.
        transient: the collections that are not meant to be saved.
        prefix_collections: begin every key with its collection. Layers are not told then: they span collections.

    Raises:
        KeyPathError: an empty name. DuplicateKeyError: a path occurs in two collections, or is a prefix of another.
    """

    adapter: ClassVar[str] = "flax-linen"
    in_place: ClassVar[bool] = False
    materialises: ClassVar[bool] = True

    def __init__(
        self,
        variables: Any,
        *,
        trace: Trace | None = None,
        transient: Collection[str] = TRANSIENT,
        prefix_collections: bool = False,
    ) -> None:
        self._variables = Tree(variables)
        self._trace = trace
        self._transient = frozenset(transient)
        self._prefixed = prefix_collections
        self._leaves: dict[str, tuple[str, Leaf]] = {}
        self._without_entry: dict[str, str] = {}
        self._made: dict[str, Entry] = {}
        self._list()

    @property
    def collections_prefixed(self) -> bool:
        """Whether every key begins with its collection."""
        return self._prefixed

    def _list(self) -> None:
        clashes: dict[str, list[str]] = {}
        for leaf in self._variables.leaves:
            collection, _, inner = leaf.key.partition("/")
            key = leaf.key if self._prefixed else inner
            collection = keys.unescape(collection)
            if key in self._leaves:
                clashes.setdefault(key, [self._leaves[key][0]]).append(collection)
                continue
            self._leaves[key] = (collection, leaf)
            held = arrays.describe(leaf.value)
            if isinstance(held, str):
                self._without_entry[key] = held
                continue
            kind = Kind.PARAMETER if collection == PARAMS else Kind.BUFFER
            persistent = collection not in self._transient
            self._made[key] = arrays.entry(held, kind, tag=collection, persistent=persistent)
        if clashes:
            raise _clash(clashes)
        try:
            keys.check_prefix_free(self._leaves)
        except errors.DuplicateKeyError as error:
            raise errors.DuplicateKeyError(error.message, keys=error.keys, hint=_PREFIX) from error

    def _entries(self) -> Mapping[str, Entry]:
        return self._made

    def _opaque(self) -> Mapping[str, str]:
        return self._without_entry

    def _read(self, key: str, /) -> np.ndarray:
        return arrays.read(self._leaves[key][1].value, key)

    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        place = self._leaves.get(key)
        return arrays.convert(None if place is None else place[1].value, value, key)

    def _stage(self, key: str, value: np.ndarray, /) -> Any:
        return arrays.stage(self._leaves[key][1].value, value, key)

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        tree = self._variables.exchange((self._leaves[key][1], value) for key, value in staged.items())
        return type(self)(tree, trace=self._trace, transient=self._transient, prefix_collections=self._prefixed)

    def _layers(self) -> tuple[Layer, ...]:
        if self._prefixed:
            return ()
        if self._trace is not None:
            return self._trace.layers(self)
        from stateregistry.layers.infer import infer_layers  # lazy: only a conversion asks

        return infer_layers(self._listing(), LINEN.name)

    def _holders(self) -> Mapping[str, Holder]:
        return {} if self._prefixed or self._trace is None else self._trace.holders(self)

    def _activations(self) -> Mapping[str, str]:
        return {} if self._prefixed or self._trace is None else self._trace.activations(self)

    def _tree(self, flat: Mapping[str, Any], /) -> Any:
        """The tree of `variables["params"]` with the values given; `False` for what is no parameter there."""
        root = self._variables.root
        filled = self._variables.map(
            lambda leaf: flat.get(leaf.key if self._prefixed else leaf.key.partition("/")[2], False)
        )
        return filled[PARAMS] if PARAMS in root else {}

    def unwrap(self) -> Any:
        """The variables: the tree that the registry was made from, or the new one that `replace` made."""
        return self._variables.root


_PREFIX = "pass prefix_collections=True to begin every key with its collection"


def _clash(clashes: Mapping[str, list[str]]) -> errors.DuplicateKeyError:
    shown = "; ".join(f"{key!r} in {', '.join(map(repr, where))}" for key, where in list(clashes.items())[:5])
    message = f"{len(clashes)} keys stand for more than one place: {shown}"
    across = all(len(set(where)) > 1 for where in clashes.values())
    hint = _PREFIX if across else "two names of one container are spelled alike: rename one"
    return errors.DuplicateKeyError(message, keys=tuple(sorted(clashes)), hint=hint)
