"""Recognise: whether an object is Linen's or NNX's, and what to pass instead of one that nearly is.

Asks `sys.modules`: nobody can hold an object of a framework that was never loaded. Imports no framework.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from stateregistry_flax.dialect import PARAMS


def _type(module: str, name: str) -> Any:
    """A type of a framework, or the empty tuple, of which nothing is an instance."""
    loaded = sys.modules.get(module)
    return getattr(loaded, name, ()) if loaded is not None else ()


def is_mapping(obj: object) -> bool:
    """A dict or a `FrozenDict`: what JAX sees as a container."""
    return isinstance(obj, (dict, _type("flax.core.frozen_dict", "FrozenDict")))


def is_linen_module(obj: object) -> bool:
    """A Linen module."""
    return isinstance(obj, _type("flax.linen", "Module"))


def is_nnx_module(obj: object) -> bool:
    """An NNX module."""
    return isinstance(obj, _type("flax.nnx", "Module"))


def is_nnx_state(obj: object) -> bool:
    """An `nnx.State`: the variables of a module without the module, as `nnx.split` gives them."""
    return isinstance(obj, _type("flax.nnx", "State"))


def is_nnx_node(obj: object) -> bool:
    """Anything that NNX can walk by attributes: modules, and on request `Rngs`, metrics and optimizers."""
    return isinstance(obj, _type("flax.nnx", "Pytree"))


def is_nnx_optimizer(obj: object) -> bool:
    """An `nnx.Optimizer`."""
    return isinstance(obj, _type("flax.nnx", "Optimizer"))


def is_nnx_variable(obj: object) -> bool:
    """An NNX variable: a box around one array."""
    return isinstance(obj, _type("flax.nnx", "Variable"))


def is_metadata(obj: object) -> bool:
    """A box of Linen around one array, such as `nn.Partitioned`."""
    return isinstance(obj, _type("flax.core.meta", "AxisMetadata"))


def is_variables(obj: object) -> bool:
    """Linen variables: a mapping of collections, `params` among them, that holds no tensors of another framework."""
    return isinstance(obj, Mapping) and PARAMS in obj and are_collections(obj)


def are_collections(obj: object) -> bool:
    """A mapping of mappings that hold no tensors of another framework: variables, if a module says that they are its."""
    if not is_mapping(obj) or not isinstance(obj, Mapping):
        return False
    collections = obj.values()
    return all(map(is_mapping, collections)) and not any(map(_has_tensor, collections))


def _has_tensor(tree: object) -> bool:
    """Whether the first leaf of a tree is a torch tensor: `{"params": state_dict}` is a torch checkpoint."""
    while isinstance(tree, Mapping) and tree:
        tree = next(iter(tree.values()))
    return isinstance(tree, _type("torch", "Tensor"))


def _is_array(obj: object) -> bool:
    arrays = (_type("jax", "Array"), _type("numpy", "ndarray"), _type("jax", "ShapeDtypeStruct"))
    return any(isinstance(obj, array) for array in arrays)


def explain_linen(obj: Any) -> str:
    """What to pass instead of an object that is nearly Linen variables; empty where it is not near."""
    if is_linen_module(obj):
        return (
            "a Linen module holds no state: pass its variables, "
            "sr.of(variables, module=module, args=(x,)) with variables = module.init(key, x)"
        )
    if not isinstance(obj, Mapping) and hasattr(obj, "params") and (hasattr(obj, "apply_fn") or hasattr(obj, "tx")):
        if is_variables(obj.params):
            return "a TrainState holds an optimizer too: pass state.params, which has all collections"
        return 'a TrainState holds an optimizer too: pass {"params": state.params, "batch_stats": state.batch_stats}'
    if not is_mapping(obj) or not isinstance(obj, Mapping) or not obj or _has_tensor(obj):
        return ""
    if PARAMS in obj:
        wrong = [str(name) for name, value in obj.items() if not is_mapping(value)]
        if wrong:
            return f"Linen variables are a mapping of collections, {', '.join(wrong[:3])} is none: leave it out"
        return ""
    if all(_is_array(value) for value in obj.values()):
        if any("." in str(name) for name in obj):
            return "dotted names are those of a torch state_dict: sr.load(model, mapping), or sr.open its file"
        return 'bare arrays: Linen variables have collections, pass {"params": tree}'
    if all(is_mapping(value) or _is_array(value) for value in obj.values()):
        return (
            'a tree without "params": Linen variables have collections, pass {"params": tree} for bare parameters '
            '(or {"params": {}, **tree} for other collections)'
        )
    return ""


def explain_nnx(obj: object) -> str:
    """What to pass instead of an object that is nearly an NNX module; empty where it is not near."""
    if isinstance(obj, _type("flax.nnx", "GraphDef")):
        return "an nnx.GraphDef is half of a model: pass the module, nnx.merge(graphdef, state)"
    if isinstance(obj, tuple) and any(isinstance(part, _type("flax.nnx", "GraphDef")) for part in obj):
        return "what nnx.split returns is a model in parts: pass the module, nnx.merge(*parts)"
    if is_nnx_node(obj) and not is_nnx_module(obj):
        return "an NNX object that is no module: pass the module, or name the adapter, sr.of(obj, adapter='flax-nnx')"
    if (
        isinstance(obj, type)
        and isinstance(_type("flax.nnx", "Module"), type)
        and issubclass(obj, _type("flax.nnx", "Module"))
    ):
        return "a class of modules: pass an instance, made with nnx.Rngs"
    return ""
