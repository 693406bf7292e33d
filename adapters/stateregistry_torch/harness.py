"""The harness of the torch adapter, for the conformance suite.

It builds modules and looks into them natively, never through the adapter. Imports neither torch nor the suite before it is
called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

import stateregistry as sr

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy as np

    from stateregistry.registry import StateRegistry
    from stateregistry_conformance.declaration import Declaration, Leaf
    from stateregistry_conformance.harness import Specimen
    from stateregistry_conformance.trials.case import LayerCase


@final
class TorchHarness:
    """Builds `torch.nn.Module`s: one plain module per container, one tensor per leaf."""

    name: str = "torch"
    adapter_version: str = sr.__version__
    capabilities: frozenset[str] = frozenset(
        {
            "dtype.bfloat16",
            "dtype.float8",
            "dtype.complex",
            "dtype.int64",
            "dtype.float64",
            "dtype.integer",
            "dtype.bool",
            "ties",
            "nonpersistent",
            "abstract",
            "fault",
            "empty",
            "native_trainable",
            "layers",
        }
    )

    def build(self, declaration: Declaration, /) -> Any:
        """A tree of plain modules with registered parameters and buffers; ties are one object under two names."""
        from stateregistry_torch import native

        return native.build(declaration)

    def registry(self, model: Any, /) -> StateRegistry:
        """The registry that `sr.of` gives."""
        return sr.of(model)

    def peek(self, model: Any, key: str, /) -> np.ndarray:
        """The bytes of the tensor, as an array."""
        from stateregistry_torch import native

        return native.array_of(native.reach(model, key))

    def poke(self, model: Any, key: str, value: np.ndarray, /) -> Any:
        """`copy_` into the tensor under `no_grad`."""
        from stateregistry_torch import native

        native.write(native.reach(model, key), value)
        return model

    def cell(self, model: Any, key: str, /) -> object:
        """The `Parameter` or the tensor."""
        from stateregistry_torch import native

        return native.reach(model, key)

    def fault(self, model: Any, key: str, /) -> Any:
        """Make `copy_` of the tensor raise."""
        from stateregistry_torch import native

        native.break_writes(native.reach(model, key))
        return model

    def train_step(self, model: Any, /) -> Any:
        """Subtract one from every parameter that requires a gradient."""
        from stateregistry_torch import native

        native.train_step(model)
        return model

    def peek_trainable(self, model: Any, key: str, /) -> bool:
        """`requires_grad`."""
        from stateregistry_torch import native

        return bool(native.reach(model, key).requires_grad)

    def poke_trainable(self, model: Any, key: str, flag: bool, /) -> Any:  # the value of the flag
        """`requires_grad_`."""
        from stateregistry_torch import native

        native.reach(model, key).requires_grad_(flag)
        return model

    def add(self, model: Any, leaf: Leaf, /) -> Any:
        """Register a further tensor."""
        from stateregistry_torch import native

        native.register(model, leaf, native.tensor_of(leaf))
        return model

    def drop(self, model: Any, key: str, /) -> Any:
        """Delete the attribute."""
        from stateregistry_torch import native

        native.drop(model, key)
        return model

    def describe(self, model: Any, key: str, /) -> object:
        """Type, device, layout, flags, gradient, placement."""
        from stateregistry_torch import native

        return native.describe(native.reach(model, key))

    def fingerprint(self, model: Any, /) -> object:
        """Modes, objects, versions, gradients, and the state of the global generator."""
        from stateregistry_torch import native

        return native.fingerprint(model)

    def specimen(self, name: str, /) -> Specimen:
        """One of the odd modules that torch can be made to hold."""
        from stateregistry_torch import specimens

        return specimens.specimen(name)

    def layer_kinds(self) -> Collection[str]:
        """Every kind of the vocabulary, and the two wrappers."""
        from stateregistry_torch import layer_harness

        return layer_harness.KINDS

    def build_layer(self, case: LayerCase, /) -> Any:
        """A module of `torch.nn`."""
        from stateregistry_torch import layer_harness

        return layer_harness.build(case)

    def layer_forward(self, model: Any, inputs: Sequence[np.ndarray], /) -> np.ndarray:
        """`model.forward`, with the channels where torch has them."""
        from stateregistry_torch import layer_harness

        return layer_harness.forward(model, inputs)

    def odd_layer(self, name: str, /) -> Specimen:
        """One of the modules that look like a layer."""
        from stateregistry_torch import layer_harness

        return layer_harness.odd(name)


harness: Final = TorchHarness()
