"""The adapters of the package, for Flax Linen and Flax NNX.

These objects are what the entry points name. Making and asking them imports neither JAX nor Flax; using them does,
and says what to install where that fails.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

from stateregistry import errors
from stateregistry_flax import dialect, recognise

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from stateregistry.layers.calls import Observation
    from stateregistry.registry import StateRegistry

T = TypeVar("T")

INSTALL = "pip install 'stateregistry[flax]'"


@contextmanager
def _needs_flax(name: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("jax", "jaxlib", "flax"):
            raise
        message = f"the adapter {name!r} needs the package {error.name!r}"
        raise errors.MissingDependencyError(message, keys=(name,), hint=INSTALL) from error


def _check_options(name: str, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = tuple(sorted(set(options) - set(known)))
    if unknown:
        message = f"the adapter {name!r} has no option {', '.join(map(repr, unknown))}"
        hint = f"its options are {', '.join(known)}" if known else "it has none"
        raise errors.AdapterError(message, keys=unknown, hint=hint)


def _abstractly(thunk: Callable[[], T]) -> T:
    if "jax" not in sys.modules:
        return thunk()
    from stateregistry_flax import templates

    return templates.abstractly(thunk)


@final
class LinenAdapter:
    """Registries over Linen variables."""

    name = "flax-linen"
    install = INSTALL
    framework = "flax"
    dialect = dialect.LINEN
    _options = ("module", "args", "kwargs", "rngs", "method", "transient", "prefix_collections")

    def recognises(self, obj: object, /) -> bool:
        """A mapping of collections with `params` among them."""
        return recognise.is_variables(obj)

    def fits(self, obj: object, options: Mapping[str, Any], /) -> bool:
        """Whether `module=` says that a mapping is its variables, none of them parameters."""
        return recognise.is_linen_module(options.get("module")) and recognise.are_collections(obj)

    def explain(self, obj: object, /) -> str:
        """What to pass instead: of bare parameters, a module, a `TrainState`, a state dict."""
        return recognise.explain_linen(obj)

    def wrap(self, obj: Any, /, **options: Any) -> StateRegistry:
        """The registry over variables.

        Args:
            obj: dict or `FrozenDict` of collections, `params` among them unless `module` is given (a module may have none).
            options: `module`, `args`, `kwargs`, `rngs`, `method`: to run the module abstractly for its layers.
                `transient`: collections that are not meant to be saved (`intermediates`, `perturbations`).
                `prefix_collections`: begin every key with its collection.

        Raises:
            AdapterError: no variables, or options that do not fit.
        """
        _check_options(self.name, options, self._options)
        if not recognise.is_variables(obj) and not self.fits(obj, options):
            found = f"{type(obj).__module__}.{type(obj).__qualname__}"
            message = f"the adapter {self.name!r} takes the variables of a Linen module, not a {found}"
            hint = self.explain(obj) or 'Linen variables are a dict of collections: {"params": {...}, ...}'
            raise errors.AdapterError(message, hint=hint)
        transient = options.get("transient", dialect.TRANSIENT)
        if isinstance(transient, str) or not all(isinstance(name, str) for name in transient):
            message = f"transient= takes names of collections, not {transient!r}"
            raise errors.AdapterError(message, hint="transient=('intermediates',)")
        with _needs_flax(self.name):
            from stateregistry_flax.linen_registry import LinenRegistry

            prefix = bool(options.get("prefix_collections", False))
            return LinenRegistry(obj, trace=self._trace(options), transient=transient, prefix_collections=prefix)

    def _trace(self, options: Mapping[str, Any]) -> Any:
        module = options.get("module")
        args, kwargs = options.get("args", ()), options.get("kwargs") or {}
        if module is None:
            if set(options) & {"args", "kwargs", "rngs", "method"}:
                message = "args=, kwargs=, rngs= and method= are of the call of module=, which is not given"
                raise errors.AdapterError(message, hint="sr.of(variables, module=net, args=(x,))")
            return None
        if not recognise.is_linen_module(module):
            message = f"module= takes a Linen module, not a {type(module).__module__}.{type(module).__qualname__}"
            raise errors.AdapterError(message, hint="pass the flax.linen.Module that made the variables")
        if not isinstance(args, (tuple, list)) or not isinstance(kwargs, Mapping):
            message = f"args= takes a tuple and kwargs= a dict, not {type(args).__name__} and {type(kwargs).__name__}"
            raise errors.AdapterError(message, hint="a single input x is args=(x,)")
        from stateregistry_flax.linen_layers import Trace

        return Trace(module, tuple(args), kwargs, options.get("rngs"), options.get("method"))

    def abstractly(self, thunk: Callable[[], T], /) -> T:
        """Call `thunk` with JAX arrays that are only shapes, if JAX is loaded."""
        return _abstractly(thunk)

    def template(self, product: object, /) -> StateRegistry | None:
        """The abstract registry of `(module, args, kwargs)`, `(module, args)` or variables; `None` of anything else."""
        if recognise.is_linen_module(product):
            message = "a Linen module alone does not say its shapes"
            raise errors.AdapterError(message, hint="return (module, args, kwargs) from the factory")
        if isinstance(product, tuple) and len(product) in (2, 3) and recognise.is_linen_module(product[0]):
            from stateregistry_flax import templates

            return templates.linen_template(product)
        if recognise.is_variables(product):
            with _needs_flax(self.name):
                from stateregistry_flax import templates

                return templates.variables_template(product)
        return None

    def observe(self, registry: StateRegistry, /, *, compiled: bool) -> AbstractContextManager[Observation]:
        """Watch the layers while their owner applies the module, whichever it is; JAX compiles nothing, unless `compiled`."""
        from stateregistry_flax.linen_observing import observed

        return observed(registry, compiled=compiled)

    def assemble(self, image: StateRegistry, /) -> Any:
        """Linen variables that hold what `image` lists: nested dicts by collection."""
        with _needs_flax(self.name):
            from stateregistry_flax import assemble

            return assemble.variables_of(image)


@final
class NnxAdapter:
    """Registries over NNX modules."""

    name = "flax-nnx"
    install = INSTALL
    framework = "flax"
    dialect = dialect.NNX

    def recognises(self, obj: object, /) -> bool:
        """An `nnx.Module`, or the `nnx.State` of one."""
        return recognise.is_nnx_module(obj) or recognise.is_nnx_state(obj)

    def explain(self, obj: object, /) -> str:
        """What to pass instead: of a `GraphDef`, an optimizer."""
        return recognise.explain_nnx(obj)

    def wrap(self, obj: Any, /, **options: Any) -> StateRegistry:
        """The registry over a live module, or over an `nnx.State`, which does not know its types; there are no options.

        Raises:
            AdapterError: no module, or an option.
        """
        _check_options(self.name, options, ())
        if not recognise.is_nnx_node(obj) and not recognise.is_nnx_state(obj):
            found = f"{type(obj).__module__}.{type(obj).__qualname__}"
            message = f"the adapter {self.name!r} takes an nnx.Module, not a {found}"
            raise errors.AdapterError(message, hint=self.explain(obj) or None)
        from stateregistry_flax.nnx_registry import NnxRegistry

        return NnxRegistry(obj)

    def abstractly(self, thunk: Callable[[], T], /) -> T:
        """Call `thunk` with JAX arrays that are only shapes, if JAX is loaded."""
        return _abstractly(thunk)

    def template(self, product: object, /) -> StateRegistry | None:
        """The registry of an `nnx.Module`; `None` of anything else."""
        if not recognise.is_nnx_module(product):
            return None
        from stateregistry_flax import templates

        return templates.nnx_template(product)

    def observe(self, registry: StateRegistry, /, *, compiled: bool) -> AbstractContextManager[Observation]:
        """Watch the layers while their owner runs the module; JAX compiles nothing, unless `compiled`."""
        from stateregistry_flax.nnx_observing import observed

        return observed(registry, compiled=compiled)

    def assemble(self, image: StateRegistry, /) -> Any:
        """An `nnx.State` that holds what `image` lists."""
        with _needs_flax(self.name):
            from stateregistry_flax import assemble

            return assemble.state_of(image)


linen: Final = LinenAdapter()
nnx: Final = NnxAdapter()
