"""The adapter object for optax states and `nnx.Optimizer`: light, and without JAX until one is at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from stateregistry import errors
from stateregistry_flax import recognise
from stateregistry_flax.plugin import INSTALL

if TYPE_CHECKING:
    from stateregistry.layers.vocabulary import Dialect
    from stateregistry.registry import StateRegistry


def _is_optax(obj: object) -> bool:
    """Whether an object is a named tuple of optax, or plain tuples and dicts around one. Imports nothing."""
    if isinstance(obj, tuple) and hasattr(obj, "_fields"):
        return type(obj).__module__.partition(".")[0] == "optax"
    children = obj.values() if isinstance(obj, dict) else obj if isinstance(obj, tuple) else ()
    return any(map(_is_optax, children))


@final
class OptaxAdapter:
    """Registries over the state of an optax transformation: bare and functional, or in an `nnx.Optimizer` and in place."""

    name: str = "optax"
    install: str = INSTALL
    framework: str = "flax"
    dialect: Dialect | None = None

    def recognises(self, obj: object, /) -> bool:
        """An `nnx.Optimizer`, or tuples and dicts with a state of optax among them."""
        return recognise.is_nnx_optimizer(obj) or _is_optax(obj)

    def wrap(self, obj: Any, /, **options: Any) -> StateRegistry:
        """The registry over the state of an optimizer.

        Args:
            obj: what `tx.init(params)` returns and `tx.update` goes on with, or an `nnx.Optimizer`.
            options: `model`: the variables or the NNX module that it trains, or their registry.

        Raises:
            AdapterError: another object, or no `model=`. UnsupportedError: a state of parameters that the model has not.
        """
        if not self.recognises(obj):
            message = f"the adapter {self.name!r} is for states of optax, not {type(obj).__qualname__}"
            raise errors.AdapterError(message, hint="pass what tx.init(params) returns, or an nnx.Optimizer")
        from stateregistry.optimizers import model_of  # lazy: needs NumPy

        model = model_of(self.name, options, "sr.of(opt_state, model=variables), or model= an NNX module")
        from stateregistry_flax.optax_registry import NnxOptimizerRegistry, OptaxRegistry  # lazy: needs JAX

        made = NnxOptimizerRegistry if recognise.is_nnx_optimizer(obj) else OptaxRegistry
        return made(obj, model)

    def explain(self, obj: object, /) -> str:  # the protocol's
        """Nothing: what nearly is a model is explained by the adapters of models."""
        return ""


adapter: Final = OptaxAdapter()
