"""Activations: what a layer of torch was given and gave, as arrays whose axes have names.

Torch has channels behind the batch axis, and a sequence has time or batch first as the module says. A type that is none of
`torch.nn` says nothing of its axes: its activations have none. What has no values (a fake tensor, a packed sequence) is
`Unreadable`. Imports torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final, final

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from stateregistry.errors import StateError
from stateregistry.layers.calls import Activation
from stateregistry_torch import bits

#: From a number of axes to their names.
Axes = Callable[[int], tuple[str, ...]]
Inputs = dict[str, Activation | None]
Given = Mapping[str, Any]

#: How many spatial axes the norms of instances have: with one axis less there is no batch.
_RANKS: Final[Mapping[type, int]] = MappingProxyType({nn.InstanceNorm1d: 1, nn.InstanceNorm2d: 2, nn.InstanceNorm3d: 3})


@final
class Unreadable(Exception):  # noqa: N818  # no error of the caller: it becomes a remark
    """A value that cannot be looked at, and why."""


def _family(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}.{number}" for number in range(count))


def batch(count: int) -> tuple[str, ...]:
    """So many batch axes."""
    return _family("batch", count)


def features_last(ndim: int, count: int = 1) -> tuple[str, ...]:
    """`(*batch, *features)`."""
    return (*batch(ndim - count), *_family("features", count)) if ndim >= count else ()


def channels_first(rank: int, ndim: int) -> tuple[str, ...]:
    """`(batch, features, *spatial)`, or without a batch."""
    names = ("features.0", *_family("spatial", rank))
    return ("batch.0", *names) if ndim == rank + 2 else names if ndim == rank + 1 else ()


def channels_second(ndim: int) -> tuple[str, ...]:
    """`(batch, features, *spatial)` of whatever rank."""
    return ("batch.0", "features.0", *_family("spatial", ndim - 2)) if ndim >= 2 else ()


def sequence(first: bool, ndim: int) -> tuple[str, ...]:
    """`(batch, time, features)` or `(time, batch, features)`, or without a batch."""
    if ndim == 2:
        return ("time.0", "features.0")
    if ndim != 3:
        return ()
    return ("batch.0", "time.0", "features.0") if first else ("time.0", "batch.0", "features.0")


def _unnamed(_: int) -> tuple[str, ...]:
    return ()


def array(value: Any) -> np.ndarray:
    """An array of its own with the values of a tensor as they are now.

    Raises:
        Unreadable: it is no tensor, or one without values that this process can see.
    """
    if not isinstance(value, torch.Tensor):
        raise Unreadable(f"a {type(value).__name__} and not one tensor")
    try:
        return np.array(bits.lend(value))
    except (StateError, RuntimeError, TypeError) as error:  # torch has many tensors that are only called so
        text = error.message if isinstance(error, StateError) else f"{type(error).__name__}: {error}"
        raise Unreadable(text) from error


def _named(value: Any, axes: Axes) -> Activation:
    found = array(value)
    return Activation(found, axes(found.ndim))


def arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What `forward` was given, by the names of its parameters; by number and name where it does not say them."""
    try:
        return dict(list(inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments.items())[1:])
    except (TypeError, ValueError):
        return {**{str(number): value for number, value in enumerate(args)}, **kwargs}


def is_stack(module: Any) -> bool:
    """Whether a recurrent module is several layers: its initial states are stacked then."""
    return bool(module.num_layers > 1 or module.bidirectional)


def inputs_of(module: nn.Module, given: Given) -> Inputs:
    """The inputs of one call.

    Raises:
        Unreadable: one of them has no values.
    """
    if isinstance(module, nn.RNNBase):
        first = partial(sequence, module.batch_first)
        states = {} if is_stack(module) else _states(given, lambda state: state[0])
        return {"input": _named(_argument(given, "input"), first), **states}
    if isinstance(module, nn.RNNCellBase):
        return {"input": _named(_argument(given, "input"), features_last), **_states(given, lambda state: state)}
    if isinstance(module, nn.MultiheadAttention):
        first = partial(sequence, module.batch_first)
        return {name: _named(_argument(given, name), first) for name in ("query", "key", "value")}
    if isinstance(module, nn.Bilinear):
        return {name: _named(_argument(given, name), features_last) for name in ("input1", "input2")}
    if isinstance(module, nn.Embedding):
        return {"input": _named(_argument(given, "input"), batch)}
    tensors = [value for value in given.values() if isinstance(value, torch.Tensor)]
    return {"input": _named(tensors[0], _axes(module)) if tensors else None}


def _argument(given: Given, name: str) -> Any:
    """One argument; a class of the author's may give the `forward` of a known layer others."""
    if name not in given:
        raise Unreadable(f"its forward has no argument {name!r}")
    return given[name]


def _states(given: Given, pick: Callable[[Any], Any]) -> Inputs:
    """The initial states of a recurrent layer: one, or for an LSTM two."""
    states = given.get("hx")
    several = () if states is None else states if isinstance(states, tuple) else (states,)
    return {name: _named(pick(state), features_last) for name, state in zip(("state", "cell"), several, strict=False)}


def output_of(module: nn.Module, value: Any) -> Activation:
    """The main output of one call.

    Raises:
        Unreadable: it is not one tensor, or has no values.
    """
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        return _named(value[0], partial(sequence, module.batch_first))
    if isinstance(module, nn.RNNCellBase):
        return _named(value[0] if isinstance(value, tuple) else value, features_last)
    if isinstance(module, nn.Embedding):
        return _named(value, features_last)
    return _named(value, _axes(module))


def _axes(module: nn.Module) -> Axes:
    """How the types that change one tensor into another lay it out."""
    if isinstance(module, (nn.Linear, nn.Bilinear)):
        return features_last
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return partial(features_last, count=len(module.normalized_shape))
    if isinstance(module, _ConvNd):
        return partial(channels_first, len(module.kernel_size))
    if isinstance(module, _InstanceNorm):
        rank = next((_RANKS[base] for base in type(module).__mro__ if base in _RANKS), None)
        return _unnamed if rank is None else partial(channels_first, rank)
    if isinstance(module, (_BatchNorm, nn.GroupNorm)):
        return channels_second
    if isinstance(module, nn.PReLU):
        # One slope for all says nothing of where the features are.
        return channels_second if module.num_parameters > 1 else lambda ndim: channels_second(ndim) if ndim == 2 else ()
    return _unnamed


def mode_of(module: Any) -> str:
    """What a layer does otherwise in training, for people; empty for nothing."""
    if isinstance(module, _BatchNorm):
        batched = module.training or module.running_mean is None
        return "statistics of the batch" if batched else "running statistics"
    if isinstance(module, _InstanceNorm):
        own = module.training or not module.track_running_stats
        return "statistics of each instance" if own else "running statistics"
    return ""


def unseen_of(module: Any, given: Given) -> tuple[str, ...]:
    """What the function depends on beside the inputs that are compared."""
    names: dict[str, tuple[str, ...]] = {}
    if isinstance(module, nn.MultiheadAttention):
        names["a mask"] = ("key_padding_mask", "attn_mask")
    if isinstance(module, nn.RNNBase) and is_stack(module):
        names["an initial state"] = ("hx",)
    if isinstance(module, _ConvNd):
        names["an output size"] = ("output_size",)
    if isinstance(module, nn.EmbeddingBag):
        names["where bags begin"] = ("offsets",)
        names["weights of the samples"] = ("per_sample_weights",)
    return tuple(what for what, options in names.items() if any(given.get(name) is not None for name in options))
