"""The harness of the NNX adapter: builds modules of variables and looks into them natively.

Parameters are `nnx.Param`, buffers `nnx.BatchStat`, what is not saved `nnx.Intermediate`, generators `nnx.RngKey`;
steps that count from 0 are an `nnx.List`. Importing it imports no framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy as np

    from stateregistry.registry import StateRegistry
    from stateregistry_conformance.declaration import Declaration, Leaf
    from stateregistry_conformance.harness import Specimen
    from stateregistry_conformance.trials.case import LayerCase


@final
class NnxHarness:
    """Models are nested modules whose attributes are variables."""

    name = "flax-nnx"

    @property
    def adapter_version(self) -> str:
        """The version of the distribution."""
        from stateregistry._version import __version__

        return __version__

    @property
    def capabilities(self) -> frozenset[str]:
        """As Linen, and shared variables, and a write that fails."""
        from stateregistry_flax import native

        return native.CAPABILITIES | {"ties", "fault", "layers"}

    def build(self, declaration: Declaration, /) -> Any:
        """A fresh model that holds what is declared."""
        from stateregistry_flax import nnx_native

        return nnx_native.build(declaration)

    def registry(self, model: Any, /) -> StateRegistry:
        """The registry under test."""
        from stateregistry_flax import nnx

        return nnx.wrap(model)

    def peek(self, model: Any, key: str, /) -> np.ndarray:
        """The value of a place, read natively."""
        from stateregistry_flax import native, nnx_native

        return native.bits(nnx_native.value(model, key))

    def poke(self, model: Any, key: str, value: np.ndarray, /) -> Any:
        """Change the value of a place natively."""
        from stateregistry_flax import native, nnx_native

        nnx_native.assign(model, key, native.like(nnx_native.value(model, key), value))
        return model

    def cell(self, model: Any, key: str, /) -> object:
        """The native object that is the place."""
        from stateregistry_flax import nnx_native

        return nnx_native.variable(model, key)

    def fault(self, model: Any, key: str, /) -> Any:
        """The variable belongs to another trace: NNX itself refuses every write to it."""
        from stateregistry_flax import nnx_native

        nnx_native.make_foreign(nnx_native.variable(model, key))
        return model

    def train_step(self, model: Any, /) -> Any:
        """Move every parameter by its last bit."""
        from stateregistry_flax import nnx_native

        nnx_native.train_step(model)
        return model

    def add(self, model: Any, leaf: Leaf, /) -> Any:
        """Add a variable to the live module."""
        from stateregistry_flax import nnx_native

        nnx_native.add(model, leaf)
        return model

    def drop(self, model: Any, key: str, /) -> Any:
        """Remove a variable from the live module."""
        from stateregistry_flax import nnx_native

        nnx_native.drop(model, key)
        return model

    def describe(self, model: Any, key: str, /) -> object:
        """Everything about a native cell but its value."""
        from stateregistry_flax import native, nnx_native

        variable = nnx_native.variable(model, key)
        return (type(variable), variable.get_metadata(), native.description(variable.get_raw_value()))

    def fingerprint(self, model: Any, /) -> object:
        """What looking must not change."""
        from stateregistry_flax import nnx_native

        return nnx_native.fingerprint(model)

    def specimen(self, name: str, /) -> Specimen:
        """A fresh odd model."""
        from stateregistry_flax import nnx_specimens

        return nnx_specimens.specimen(name)

    def layer_kinds(self) -> Collection[str]:
        """Every kind that Flax has."""
        from stateregistry_flax import nnx_layer_harness

        return nnx_layer_harness.KINDS

    def build_layer(self, case: LayerCase, /) -> Any:
        """A module."""
        from stateregistry_flax import nnx_layer_harness

        return nnx_layer_harness.build(case)

    def layer_forward(self, model: Any, inputs: Sequence[np.ndarray], /) -> np.ndarray:
        """The call of the module."""
        from stateregistry_flax import nnx_layer_harness

        return nnx_layer_harness.forward(model, inputs)

    def odd_layer(self, name: str, /) -> Specimen:
        """One of the modules that look like a layer."""
        from stateregistry_flax import nnx_layer_harness

        return nnx_layer_harness.odd(name)


harness = NnxHarness()
