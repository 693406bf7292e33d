"""Harness: what the author of an adapter writes, about 30 lines, so that the suite can run it.

The suite talks to a model through two doors: the registry under test, and the side doors here (`peek`, `poke`, `cell`, ...),
which must never go through the adapter: an adapter is not checked with itself. The five members of `Harness` are needed;
each further Protocol is a probe that some requirements need: a core requirement whose probe is missing stays `untested`.
A module-level harness object imports no framework before it is called. Imports NumPy and the core, no framework.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, final, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy as np

    from stateregistry.registry import StateRegistry
    from stateregistry_conformance.declaration import Declaration, Leaf
    from stateregistry_conformance.trials.case import LayerCase


@runtime_checkable
class Harness(Protocol):
    """Builds native models and looks into them without the adapter. `model` is always the native object."""

    #: The name of the adapter.
    name: str
    #: The version of the adapter (or of the distribution that it comes in).
    adapter_version: str
    #: Names of `stateregistry_conformance.capabilities.CAPABILITIES`.
    capabilities: frozenset[str]

    def build(self, declaration: Declaration, /) -> Any:
        """A fresh native model, sharing nothing with an earlier one, that holds what is declared, bit for bit.

        Raises:
            CannotBuild: the framework cannot hold it. Whatever `declaration.needs()` does not name must be buildable,
                odd names apart: a name that the framework refuses is `CannotBuild` too.
        """

    def registry(self, model: Any, /) -> StateRegistry:
        """The registry under test over a native model. Errors of the adapter are let through."""

    def peek(self, model: Any, key: str, /) -> np.ndarray:
        """The value of a place, read natively: an array of the caller's own, with the native dtype, bit for bit."""

    def poke(self, model: Any, key: str, value: np.ndarray, /) -> Any:
        """Change the value of a place natively, as a training step would; ties see it.

        Returns:
            The model (the same where the framework writes in place, else a new one).
        """

    def cell(self, model: Any, key: str, /) -> object:
        """The native object that is the place (a `Parameter`, a `Variable`, a leaf); compared with `is`."""


@runtime_checkable
class SupportsFault(Protocol):
    """Needed for the capability `fault`."""

    def fault(self, model: Any, key: str, /) -> Any:
        """A model whose native write of that place raises an exception that is not a `StateError`, every time.

        Everything else of it works, and `peek` sees the old value. May be the same model, changed, or a new one.
        """


@runtime_checkable
class SupportsTraining(Protocol):
    """One step of an optimizer."""

    def train_step(self, model: Any, /) -> Any:
        """Change every trainable parameter natively, and nothing else; returns the model, as `poke` does."""


@runtime_checkable
class SupportsTrainable(Protocol):
    """Needed for the capability `native_trainable`."""

    def peek_trainable(self, model: Any, key: str, /) -> bool:
        """The native flag of a parameter."""

    def poke_trainable(self, model: Any, key: str, flag: bool, /) -> Any:  # the value of the flag itself
        """Set the native flag of a parameter; returns the model, as `poke` does."""


@runtime_checkable
class SupportsRestructure(Protocol):
    """Needed where registries are in place (SR-LIST-012)."""

    def add(self, model: Any, leaf: Leaf, /) -> Any:
        """Add a place natively to the live model; containers on its path exist. Returns the same model."""

    def drop(self, model: Any, key: str, /) -> Any:
        """Remove a place natively from the live model; returns the same model."""


@runtime_checkable
class SupportsDescription(Protocol):
    """Everything about a native cell but its value (SR-WRITE-009, SR-WRITE-010)."""

    def describe(self, model: Any, key: str, /) -> object:
        """Native type, shape, dtype, device, sharding, metadata, flags, gradient: as one object that compares with `==`."""


@runtime_checkable
class SupportsFingerprint(Protocol):
    """What looking at a model must not change (SR-LIST-009)."""

    def fingerprint(self, model: Any, /) -> object:
        """Modes, gradients, version counters, global generators ...: as one object that compares with `==`.

        A native write shows in it: by a version, an identity or the values.
        """


@final
@dataclass(frozen=True, slots=True)
class Specimen:
    """A native model of a kind that a `Declaration` cannot say.

    Attributes:
        model: the native object.
        keys: the keys that the specimen is about, as `SPECIMENS` says.
        declaration: everything that the registry must list; `None` where the registry must be refused.
    """

    model: Any
    keys: tuple[str, ...] = ()
    declaration: Declaration | None = None


#: Every specimen that the suite asks for. `keys` and `declaration` are those of the `Specimen`.
SPECIMENS: Mapping[str, str] = MappingProxyType(
    {
        "empty_name": "a place, or a container on its path, has the empty name; must be refused",
        "duplicate_key": "two places that would get the same key, `keys`; must be refused",
        "prefix": "a name is at once that of an array and of a container of arrays, `keys` the array; must be refused",
        "unregistered": "an array hangs on the model that its framework does not register as state, or is computed from "
        "state, as `keys` (the key it would have); `declaration` says what is state",
        "none": "a name is registered with no array (`None`), as `keys`; `declaration` says what is state",
        "opaque": "registered state that is no array of a known dtype, as `keys`; `declaration` says the rest",
        "unknown_shape": "a place has no shape yet, as `keys`; must be refused with `AbstractError`",
        "sharded": "a place is spread over shards or devices, as `keys`; `declaration` has the full values",
        "wrapped": "a model inside a wrapper that adds a name to every path; `declaration` has the names as the wrapper "
        "registers them",
        "one_memory": "two native objects over the same memory, shape and strides, as `keys`; `declaration` says the tie",
        "shared_array": "two places hold one immutable array object, as `keys`; `declaration` has two leaves",
        "overlap": "two places overlap in memory without being the same place, as `keys`; must be refused with "
        "`UnsupportedError`, or `declaration` says what is left when `keys` are opaque",
        "mixed_tie": "one place as a parameter and as a buffer that is not persistent, as `keys`; `declaration` says "
        "the tie with a trainable, persistent parameter as its leaf",
        "gradients": "a trainable parameter, `keys`, has a gradient, and `describe` shows it; `declaration` as usual",
    }
)


@runtime_checkable
class SupportsSpecimens(Protocol):
    """Native models that break a law or are odd. Frameworks differ most here."""

    def specimen(self, name: str, /) -> Specimen:
        """A fresh specimen of one of `SPECIMENS`.

        Raises:
            CannotBuild: the framework cannot make such a model, with the reason.
        """


#: Every odd layer that the suite asks for, with what `keys` of its `Specimen` are; its `declaration` is not used.
ODD_LAYERS: Mapping[str, str] = MappingProxyType(
    {
        "undeclared": "a module of a type that nobody declared, whose arrays have the names and shapes of a linear layer, "
        "as `keys`",
        "overridden": "a module of a type made from a declared one that computes something else, with its arrays as `keys`",
        "bare": "a parameter of its own with the shape of a linear kernel, as `keys`, beside a linear layer",
        "contradiction": "a layer whose config contradicts the shapes of its arrays, `keys`",
        "norm_of_several": "weight_norm over a native array of several roles, with a norm across the roles; `keys` are all "
        "arrays that it is computed from",
    }
)


@runtime_checkable
class SupportsLayers(Protocol):
    """Needed for the capability `layers`: layers as the framework makes and runs them, without the adapter.

    `registry`, `peek` and `poke` take the models that are built here, too.
    """

    def layer_kinds(self) -> Collection[str]:
        """Every layer kind that the adapter declares, and which of `weight_norm`, `spectral_norm` and `stacked` it knows."""

    def build_layer(self, case: LayerCase, /) -> Any:
        """A fresh native model that is the layer and nothing else, in evaluation; its values are written by `poke`.

        Raises:
            CannotBuild: the framework has no such layer, or not with such config; what is asked for is never left out.
        """

    def layer_forward(self, model: Any, inputs: Sequence[np.ndarray], /) -> np.ndarray:
        """What the framework computes, in float32 or float64, channels last.

        Args:
            model: from `build_layer`.
            inputs: `case.inputs`, in float64 and channels last: the module gets them in its own dtype and order of axes.
        """

    def odd_layer(self, name: str, /) -> Specimen:
        """A fresh model of one of `ODD_LAYERS`.

        Raises:
            CannotBuild: the framework cannot make such a model, with the reason.
        """
