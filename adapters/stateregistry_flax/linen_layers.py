"""Layers of a Linen model, from running its module abstractly: which submodule at which path has which type.

Nothing is computed: `module.apply` is traced by `jax.eval_shape` over shapes, with every method call intercepted,
so layers come in the order in which they are called. A layer type is a row of `ROWS` or registered by the user. Refuses
a module that does not fit the variables. Imports JAX and Flax.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, final

import flax.linen as nn
import jax
import jax.numpy as jnp

from stateregistry.layers.declared import Row
from stateregistry_flax import attention, contraction, recurrent, rows, standard
from stateregistry_flax.declared import DECLARED, PART_OF_ANOTHER
from stateregistry_flax.dialect import SPELLED_LINEN as SPELLED
from stateregistry_flax.tracing import Invocation, Seen, abstract, watch

if TYPE_CHECKING:
    from stateregistry.layers.vocabulary import Holder, Layer
    from stateregistry.registry import StateRegistry

__all__ = ["ACTIVATIONS", "ROWS", "Trace", "abstract"]

#: What Linen and NNX call the activations of the spec.
ACTIVATIONS: Final[recurrent.Names] = {
    jax.nn.sigmoid: "sigmoid", nn.sigmoid: "sigmoid", jnp.tanh: "tanh", nn.tanh: "tanh", jax.nn.tanh: "tanh",
    jax.nn.relu: "relu", nn.relu: "relu",
}  # fmt: skip


def _groups(module: Any) -> int:
    """The number of groups of a bound GroupNorm, which may say their size instead."""
    if module.num_groups is not None:
        return int(module.num_groups)
    arrays = jax.tree_util.tree_leaves(module.variables)
    return int(arrays[0].shape[-1]) // int(module.group_size) if arrays else 0


def _head_dim(module: Any) -> int:
    """The size of a head of a bound attention; without `qkv_features`, the features of the input are divided."""
    if module.qkv_features is not None:
        return int(module.qkv_features) // int(module.num_heads)
    return int(jnp.shape(nn.meta.unbox(module.variables["params"]["query"]["kernel"]))[-1])


_LSTM: Final = Row(recurrent.gated("lstm", SPELLED.lstm(), ACTIVATIONS))
_GENERAL: Final = contraction.general(SPELLED, lambda module: module.features, lambda module: module.batch_dims)
_ATTENTION: Final = Row(standard.used(attention.attention(SPELLED, nn.dot_product_attention, _head_dim)))

#: Every type of Linen that is a standard layer.
ROWS: Final[Mapping[type, Row]] = {
    **standard.table(SPELLED, nn, nn.Dense, "*features", _groups, {}),
    nn.DenseGeneral: Row(standard.used(_GENERAL)),
    nn.Einsum: Row(standard.used(contraction.einsum(SPELLED))),
    nn.MultiHeadDotProductAttention: _ATTENTION,
    nn.SelfAttention: _ATTENTION,  # with a `__call__` of its own, which only passes one input on as all three
    nn.LSTMCell: _LSTM,
    nn.OptimizedLSTMCell: _LSTM,
    nn.GRUCell: Row(recurrent.gated("gru", SPELLED.gru, ACTIVATIONS)),
    nn.SimpleCell: Row(recurrent.simple(SPELLED.simple("i", "h"), ACTIVATIONS)),
}

#: Types of Linen that are never a layer, with the reason.
NO_LAYERS: Final[Mapping[type, str]] = {
    nn.ConvLocal: "it has a kernel for every place of its output, and no other framework has such a layer",
    nn.WeightNorm: PART_OF_ANOTHER,
    nn.SpectralNorm: PART_OF_ANOTHER,
}


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
        self._invocation = Invocation(module, args, dict(kwargs), rngs, method)
        self._seen: Seen | None = None

    def layers(self, registry: StateRegistry) -> tuple[Layer, ...]:
        """The layers that the calls and the entries of the registry form.

        Raises:
            AdapterError: the module cannot be run on these variables and arguments, or a registered declaration fails.
            AxesError: an array has other axes than a registered declaration says.
        """
        return rows.placed(self._watched(registry).sights, dict(registry))

    def _watched(self, registry: StateRegistry) -> Seen:
        if self._seen is None:
            self._seen = watch(self._invocation, registry.unwrap(), ROWS)
        return self._seen

    def holders(self, registry: StateRegistry) -> dict[str, Holder]:
        """The module of every entry: the innermost one that was called, on the way to it.

        Raises:
            AdapterError: as `layers`.
        """
        types = self._watched(registry).types
        found: dict[str, Holder] = {}
        for key in registry:
            path = key
            while path and path not in types:
                path = path.rpartition("/")[0]
            if path in types:
                found[key] = DECLARED.holder(types[path], path, ROWS, NO_LAYERS)
        return found

    def activations(self, registry: StateRegistry) -> Mapping[str, str]:
        """The functions among the fields of modules that are no layers, by path.

        Raises:
            AdapterError: as `layers`.
        """
        return self._watched(registry).activations
