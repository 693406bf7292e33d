"""The adapter object for `torch.optim`: light, and without torch until an optimizer is at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from stateregistry import errors
from stateregistry_torch.presence import INSTALL, is_of

if TYPE_CHECKING:
    from stateregistry.layers.vocabulary import Dialect
    from stateregistry.registry import StateRegistry


@final
class TorchOptimizerAdapter:
    """Registries over the state of an Adam, AdamW or SGD, written in place."""

    name: str = "torch-optim"
    install: str = INSTALL
    framework: str = "torch"
    dialect: Dialect | None = None

    def recognises(self, obj: object, /) -> bool:
        """Whether it is a `torch.optim.Optimizer`."""
        return is_of(obj, "torch.optim", "Optimizer")

    def wrap(self, obj: Any, /, **options: Any) -> StateRegistry:
        """The registry over the state of an optimizer.

        Args:
            obj: the optimizer.
            options: `model`: the module that it trains, or the registry of that module.

        Raises:
            AdapterError: another object, no `model=`, or one that is no torch module.
            UnsupportedError: an optimizer that is not known, or that does not train this model.
        """
        if not self.recognises(obj):
            message = f"the adapter {self.name!r} is for torch.optim.Optimizer, not {type(obj).__qualname__}"
            raise errors.AdapterError(message)
        from stateregistry.optimizers import model_of  # lazy: needs NumPy

        model = model_of(self.name, options, "sr.of(optimizer, model=net); or pass the model, for its own state")
        if model.adapter != "torch":
            message = f"model= takes the torch module that the optimizer trains, not a registry of {model.adapter!r}"
            raise errors.AdapterError(message, hint="sr.of(optimizer, model=net)")
        from stateregistry_torch.optimizer import TorchOptimizerRegistry  # lazy: needs torch

        return TorchOptimizerRegistry(obj, model)

    def explain(self, obj: object, /) -> str:  # the protocol's
        """Nothing: what nearly is an optimizer is explained by the adapter of modules."""
        return ""


adapter: Final = TorchOptimizerAdapter()
