"""Optimizers: the state of an optimizer as a registry of its own, tied to that of the model it trains.

What an optimizer keeps of a parameter is laid out as the parameter is, so a plan between two models says how it moves: every
entry has a place, the parameters that it belongs to and what it is of them, in neutral words. Entries are buffers: nobody
trains them. Names no framework.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final, get_args

from stateregistry import errors, plugins
from stateregistry.registry import StateRegistry

#: What an optimizer keeps: `first_moment` and `second_moment` are the running means of gradients and of their squares before
#: any correction of the bias (Adam); `second_moment_max` is the largest of the latter so far, and `second_moment_max_corrected`
#: of the latter after correction (AMSGrad as two frameworks define it); `momentum` is the running sum of gradients (SGD);
#: `step` is how many updates were made, a `tally` the same where no rule reads it; a `setting` is a hyper-parameter that
#: happens to lie in the state.
Slot = Literal[
    "first_moment",
    "second_moment",
    "second_moment_max",
    "second_moment_max_corrected",
    "momentum",
    "step",
    "tally",
    "setting",
]
SLOTS: tuple[str, ...] = get_args(Slot)


@final
@dataclass(frozen=True, slots=True)
class Place:
    """What one entry of an optimizer is.

    Attributes:
        slot: one of `SLOTS`.
        parameters: canonical keys of the model: the one that an array belongs to, and all whose updates a `step` or
            `tally` counts.
    """

    slot: Slot
    parameters: tuple[str, ...] = ()


class OptimizerRegistry(StateRegistry):
    """The state of one optimizer. An entry that is not concrete is one that the first update would make."""

    @property
    @abstractmethod
    def model(self) -> StateRegistry:
        """The registry of the model that the optimizer trains."""

    @property
    @abstractmethod
    def places(self) -> Mapping[str, Place]:
        """The place of every entry that has one, by canonical key."""

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, object]:
        """Hyper-parameters as far as they can be seen, in words that optimizers share: `learning_rate`, `b1`, ..."""


def model_of(adapter: str, options: Mapping[str, Any], example: str, /) -> StateRegistry:
    """The registry of the model that an optimizer trains, from the options that its adapter was given.

    Args:
        adapter: the name of the adapter. options: what `sr.of` was given: `model`, a native object or a registry.
        example: the call to show where there is none.

    Raises:
        AdapterError: another option, or no model.
    """
    unknown = tuple(sorted(set(options) - {"model"}))
    if unknown:
        message = f"the adapter {adapter!r} has no option {', '.join(map(repr, unknown))}"
        raise errors.AdapterError(message, keys=unknown, hint="its option is model=")
    if options.get("model") is None:
        message = "the state of an optimizer belongs to the parameters of its model, and no model was given"
        raise errors.AdapterError(message, hint=example)
    return plugins.of(options["model"])
