"""The adapter object for PyTorch: light, and without torch until a torch object is at hand.

Recognising asks `sys.modules` first: an object can be a torch module only if torch is loaded already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

from stateregistry import errors
from stateregistry_torch.dialect import DIALECT
from stateregistry_torch.presence import INSTALL, is_of, require_torch

if TYPE_CHECKING:
    from collections import OrderedDict
    from contextlib import AbstractContextManager

    import torch

    from stateregistry.layers.calls import Observation
    from stateregistry.layers.vocabulary import Dialect
    from stateregistry.registry import StateRegistry

T = TypeVar("T")


@final
class TorchAdapter:
    """Registries over `torch.nn.Module`, written in place."""

    name: str = "torch"
    install: str = INSTALL
    framework: str = "torch"
    dialect: Dialect | None = DIALECT

    def recognises(self, obj: object, /) -> bool:
        """Whether it is a `torch.nn.Module`."""
        return is_of(obj, "torch.nn", "Module")

    def wrap(self, obj: Any, /, **options: Any) -> StateRegistry:
        """The registry over a module.

        Raises:
            AdapterError: another object, or any option: this adapter has none.
            AbstractError: lazy parameters that have no shape yet; all of them are named.
            KeyPathError, DuplicateKeyError, UnsupportedError: names or structures that the specification refuses.
        """
        if options:
            message = f"the adapter 'torch' has no options; given: {', '.join(sorted(options))}"
            raise errors.AdapterError(message, keys=tuple(sorted(options)))
        if not self.recognises(obj):
            message = f"the adapter 'torch' is for torch.nn.Module, not {type(obj).__module__}.{type(obj).__qualname__}"
            raise errors.AdapterError(message, hint=self.explain(obj) or None)
        from stateregistry_torch.registry import TorchRegistry  # lazy: needs torch

        return TorchRegistry(obj)

    def explain(self, obj: object, /) -> str:
        """What to pass instead of a state_dict, a checkpoint, a tensor, an optimizer or the class of a model."""
        if "torch" not in sys.modules:
            return ""
        if is_of(obj, "torch", "Tensor"):
            return "one tensor has no name: pass the torch module that holds it"
        if is_of(obj, "torch.optim", "Optimizer"):
            return "pass the model; the state of its optimizer is sr.of(optimizer, model=net)"
        if is_of(obj, "torch.export", "ExportedProgram"):
            return "pass the module of the exported program: sr.of(program.module())"
        if isinstance(obj, type) and issubclass(obj, getattr(sys.modules.get("torch.nn"), "Module", ())):
            return f"pass an instance: {obj.__name__}(...)"
        if isinstance(obj, Mapping):
            return _explain_mapping(obj)
        return ""

    def abstractly(self, thunk: Callable[[], T], /) -> T:
        """Call `thunk` under torch's meta device, so that tensors made in it take no memory.

        A constructor that looks at values (`torch.linspace(...).tolist()`) cannot run without them: it is then called
        again with real tensors, which costs memory and nothing else.
        """
        torch = sys.modules.get("torch")
        if torch is None:
            return thunk()
        try:
            with torch.device("meta"):
                return thunk()
        except (RuntimeError, NotImplementedError):
            return thunk()

    def template(self, product: object, /) -> StateRegistry | None:
        """The registry over a module."""
        return self.wrap(product) if self.recognises(product) else None

    def observe(self, registry: StateRegistry, /, *, compiled: bool) -> AbstractContextManager[Observation]:
        """Watch the layers of a module by forward hooks, which are removed at the end."""
        from stateregistry_torch.observing import observed  # lazy: needs torch

        return observed(registry, compiled=compiled)

    def assemble(self, image: StateRegistry, /) -> OrderedDict[str, torch.Tensor]:
        """A state_dict with the values of `image`: tensors on the CPU by dotted name, aliases sharing one tensor.

        Raises:
            UnsupportedError: a name with a dot. AbstractError: an entry without values.
            MissingDependencyError: torch is not installed.
        """
        require_torch("a torch state_dict")
        from stateregistry_torch.assembly import assemble  # lazy: needs torch

        return assemble(image)


def _explain_mapping(obj: Mapping[Any, Any]) -> str:
    values = list(obj.values())
    if values and all(isinstance(key, str) for key in obj) and all(is_of(value, "torch", "Tensor") for value in values):
        return "a state_dict says no kinds: pass the torch module itself, or open the saved file with sr.open(path)"
    for name, value in obj.items():
        if is_of(value, "torch.nn", "Module"):
            return f"pass the torch module itself: sr.of(obj[{name!r}])"
        if isinstance(value, Mapping) and value and all(is_of(tensor, "torch", "Tensor") for tensor in value.values()):
            return (
                f"a checkpoint with a state_dict under {name!r} is no model: pass the torch module, "
                "or open the saved file with sr.open(path)"
            )
    return ""


adapter: Final = TorchAdapter()
