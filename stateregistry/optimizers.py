"""Optimizers: the state of an optimizer as a registry of its own, tied to that of the model it trains.

What an optimizer keeps of a parameter is laid out as the parameter is, so a plan between two models says how it moves: every
entry has a place, the parameters that it belongs to and what it is of them, in neutral words. Entries are buffers: nobody
trains them. Names no framework.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final, get_args

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
