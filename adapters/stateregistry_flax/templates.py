"""Templates: models that take no memory, for `--like module:factory`.

`abstractly` runs a factory inside `jax.eval_shape`, so that every array it makes with JAX is a shape, and hands
its product out with `jax.ShapeDtypeStruct`s in their place: a module, `(module, args, kwargs)`, a tree of
variables. NNX modules are taken apart and put together by NNX itself, so that shared variables stay shared.
Imports JAX and Flax.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import jax

from stateregistry import errors
from stateregistry_flax.linen_layers import Trace, abstract
from stateregistry_flax.linen_registry import LinenRegistry

if TYPE_CHECKING:
    from stateregistry_flax.nnx_registry import NnxRegistry

T = TypeVar("T")

#: Both adapters of this package may be asked to make one factory abstract: once is enough.
_INSIDE: ContextVar[bool] = ContextVar("stateregistry_flax.templates", default=False)


def abstractly(thunk: Callable[[], T], /) -> T:
    """What `thunk` returns, its JAX arrays as `jax.ShapeDtypeStruct`s.

    Raises:
        AdapterError: the factory needs a number that JAX only has a shape of. What else it raises goes through.
    """
    if _INSIDE.get():
        return thunk()
    finish: list[Callable[[Mapping[int, Any]], Any]] = []

    def trace() -> dict[int, Any]:
        leaves, rebuild = _apart(thunk())
        finish.append(lambda shapes: rebuild([shapes.get(index, leaf) for index, leaf in enumerate(leaves)]))
        return {index: leaf for index, leaf in enumerate(leaves) if isinstance(leaf, jax.core.Tracer)}

    token = _INSIDE.set(True)
    try:
        shapes = jax.eval_shape(trace)
    except jax.errors.JAXTypeError as error:
        message = (
            f"the factory needs the value of a JAX array, which has only a shape here: {str(error).splitlines()[0]}"
        )
        hint = "compute numbers that the construction depends on with numpy instead of jax.numpy"
        raise errors.AdapterError(message, hint=hint) from error
    finally:
        _INSIDE.reset(token)
    return finish[0](shapes)  # type: ignore[no-any-return]  # the product itself, rebuilt


def _apart(product: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The leaves of a product, and how to put it together again with others."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(product, nnx.Module):
        _mark(nnx, product)
        graphdef, state = nnx.split(product)
        leaves, treedef = jax.tree_util.tree_flatten(state)
        return leaves, lambda filled: nnx.merge(graphdef, jax.tree_util.tree_unflatten(treedef, filled))
    leaves, treedef = jax.tree_util.tree_flatten(product)
    return leaves, lambda filled: jax.tree_util.tree_unflatten(treedef, filled)


def _mark(nnx: Any, module: Any) -> None:
    """Mark bare arrays as data, as they are outside of a trace.

    NNX asks `isinstance(x, Union[...])`, which no tracer fulfils, takes them for static attributes and loses them.
    """
    for _, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Module):
            marks = node._pytree__nodes  # noqa: SLF001  # by assignment it is refused once the trace is over
            bare = {name: True for name, value in vars(node).items() if isinstance(value, jax.core.Tracer)}
            if any(not marks.get(name, False) for name in bare):
                object.__setattr__(node, "_pytree__nodes", marks.update(bare))


def _shapes(product: T) -> T:
    """A product without tracers, which are of no use outside of the trace that made them."""
    leaves, rebuild = _apart(product)
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return product
    return rebuild(  # type: ignore[no-any-return]  # as above
        [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if isinstance(leaf, jax.core.Tracer) else leaf for leaf in leaves]
    )


def nnx_template(module: Any) -> NnxRegistry:
    """The registry of an NNX module that a factory returned."""
    from stateregistry_flax.nnx_registry import NnxRegistry  # lazy: Linen alone needs no NNX

    return NnxRegistry(_shapes(module))


def linen_template(product: tuple[Any, ...]) -> LinenRegistry:
    """The abstract registry of `(module, args)` or `(module, args, kwargs)`.

    Raises:
        AdapterError: the rest of the tuple is something else, or the module cannot be initialised with it.
    """
    module, args, kwargs = product if len(product) == 3 else (*product, {})  # the three of the name
    if not isinstance(args, (tuple, list)) or not isinstance(kwargs, Mapping):
        message = f"expected (module, args, kwargs) with a tuple and a dict, found {_kinds(product)}"
        raise errors.AdapterError(message, hint="a single input x is (module, (x,))")
    args, kwargs = _shapes((tuple(args), dict(kwargs)))

    def init(args: Any, kwargs: Any) -> Any:
        return module.init({"params": jax.random.key(0)}, *args, **kwargs)

    try:
        variables = abstract(init, args, kwargs)
    except Exception as error:  # the module is the user's: whatever it raises is told
        message = f"{type(module).__name__} cannot be initialised: {type(error).__name__}: {error}"
        hint = "return (module, args, kwargs) with args and kwargs as the module is called"
        raise errors.AdapterError(message, hint=hint) from error
    return LinenRegistry(variables, trace=Trace(module, args, kwargs))


def variables_template(variables: Any) -> LinenRegistry:
    """The registry of variables that a factory returned."""
    return LinenRegistry(_shapes(variables))


def _kinds(product: tuple[Any, ...]) -> str:
    return f"({', '.join(type(part).__name__ for part in product)})"
