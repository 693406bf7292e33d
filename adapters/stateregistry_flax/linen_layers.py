"""Layers of a Linen model, from running its module abstractly: which submodule at which path has which type.

Nothing is computed: `module.apply` is traced by `jax.eval_shape` over shapes, with every method call intercepted,
so layers come in the order in which they are called. A layer type is a row of `ROWS`. Refuses a module that does
not fit the variables. Imports JAX and Flax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, final

import flax.linen as nn
import jax
import numpy as np
from flax.core import DenyList

from stateregistry import errors, keys
from stateregistry_flax.arrays import is_array
from stateregistry_flax.dialect import LINEN, PARAMS
from stateregistry_flax.rows import Sight, layer, sight, table

if TYPE_CHECKING:
    from stateregistry.layers.vocabulary import Layer
    from stateregistry.registry import StateRegistry

ROWS = table(nn.Dense, nn.Conv, nn.BatchNorm, nn.LayerNorm, nn.Embed)


@final
class Trace:
    """How to run a module abstractly; what was seen is remembered, as it depends on shapes alone.

    Args:
        module: an unbound Linen module.
        args, kwargs: of the call: arrays, `jax.ShapeDtypeStruct`s, or plain values, which stay as they are.
        rngs, method: as `module.apply` takes them. By default every stream of random numbers is there.
    """

    def __init__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], rngs: Any = None, method: Any = None
    ) -> None:
        self._module = module
        self._args, self._kwargs = args, dict(kwargs)
        self._rngs, self._method = rngs, method
        self._seen: dict[tuple[str, ...], Sight] | None = None

    def layers(self, registry: StateRegistry) -> tuple[Layer, ...]:
        """The layers that the calls and the entries of the registry form.

        Raises:
            AdapterError: the module cannot be run on these variables and arguments.
        """
        if self._seen is None:
            self._seen = self._run(registry.unwrap())
        entries = dict(registry)
        made = (layer(LINEN, seen, keys.join(*path) if path else "", entries) for path, seen in self._seen.items())
        return tuple(found for found in made if found is not None)

    def _run(self, variables: Any) -> dict[tuple[str, ...], Sight]:
        found: dict[tuple[str, ...], Sight] = {}

        def note(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            if context.method_name != "setup" and context.module.path not in found:
                seen = sight(context.module, ROWS)
                if seen is not None:
                    found[context.module.path] = seen
            return call(*args, **kwargs)

        def apply(variables: Any, args: Any, kwargs: Any) -> None:
            rngs = {"params": jax.random.key(0)} if self._rngs is None else self._rngs
            # A collection that may change is also made where it is missing, but parameters have to be there.
            buffers = DenyList(PARAMS)
            with nn.intercept_methods(note):
                self._module.apply(variables, *args, **kwargs, rngs=rngs, method=self._method, mutable=buffers)

        try:
            abstract(apply, variables, self._args, self._kwargs)
        except Exception as error:  # the module is the user's: whatever it raises is told
            message = f"{type(self._module).__name__} cannot be run on these variables: {type(error).__name__}: {error}"
            hint = (
                "pass the module that made the variables, with args= and kwargs= as it is called (and rngs=, method=)"
            )
            raise errors.AdapterError(message, hint=hint) from error
        return found


def abstract(function: Callable[..., Any], /, *operands: Any) -> Any:
    """`jax.eval_shape` of a call in which only arrays are abstract: flags, names and the like stay what they are.

    Returns:
        The arrays of the result as `jax.ShapeDtypeStruct`s; what is no array must not be in it.
    """
    leaves, treedef = jax.tree_util.tree_flatten(operands)
    arrays = {index: leaf for index, leaf in enumerate(leaves) if is_array(leaf) and _traceable(leaf)}

    def call(arrays: Mapping[int, Any]) -> Any:
        filled = [arrays.get(index, leaf) for index, leaf in enumerate(leaves)]
        return function(*jax.tree_util.tree_unflatten(treedef, filled))

    return jax.eval_shape(call, arrays)


def _traceable(leaf: Any) -> bool:
    return not isinstance(leaf.dtype, np.dtype) or leaf.dtype.kind not in "OSTUVMm"
