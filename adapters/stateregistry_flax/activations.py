"""Activations: what a layer of Flax was given and gave, as arrays whose axes have names. Linen and NNX alike.

Flax has features last. A type that is none of Flax says nothing of its axes: its activations have none. A tracer has no
values: it is `Unreadable`. Imports JAX and Flax.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, final

import flax.linen as nn
import jax
import numpy as np
from flax import nnx

from stateregistry.layers.calls import Activation
from stateregistry_flax.standard import normalised

#: From a number of axes to their names.
Axes = Callable[[int], tuple[str, ...]]
Inputs = dict[str, Activation | None]
Given = Mapping[str, Any]

RUNNERS: Final = (nn.RNN, nnx.RNN)
BOTH_WAYS: Final = (nn.Bidirectional, nnx.Bidirectional)
_LSTM: Final = (nn.LSTMCell, nn.OptimizedLSTMCell, nnx.LSTMCell, nnx.OptimizedLSTMCell)
_CELLS: Final = (*_LSTM, nn.GRUCell, nn.SimpleCell, nnx.GRUCell, nnx.SimpleCell)
_LINEAR: Final = (nn.Dense, nnx.Linear)
_GENERAL: Final = (nn.DenseGeneral, nnx.LinearGeneral)
_CONV: Final = (nn.Conv, nn.ConvTranspose, nnx.Conv, nnx.ConvTranspose)
_BATCH_NORM: Final = (nn.BatchNorm, nnx.BatchNorm)
_INSTANCE_NORM: Final = (nn.InstanceNorm, nnx.InstanceNorm)
_GROUP_NORM: Final = (nn.GroupNorm, nnx.GroupNorm)
_LAYER_NORM: Final = (nn.LayerNorm, nn.RMSNorm, nnx.LayerNorm, nnx.RMSNorm)
_EMBED: Final = (nn.Embed, nnx.Embed)
_PRELU: Final = (nn.PReLU, nnx.PReLU)
_ATTENTION: Final = (nn.MultiHeadDotProductAttention, nnx.MultiHeadAttention)
_ZEROS: Final = (jax.nn.initializers.zeros, nn.initializers.zeros_init(), nnx.initializers.zeros_init())


@final
class Unreadable(Exception):  # noqa: N818  # no error of the caller: it becomes a remark
    """A value that cannot be looked at, and why."""


def array(value: Any) -> np.ndarray:
    """An array with the values of a JAX or NumPy array as they are now.

    Raises:
        Unreadable: it is no array, or stands for one inside a transformation.
    """
    if isinstance(value, jax.core.Tracer):
        raise Unreadable("it was only traced, inside of a transformation such as checkpoint, vmap or grad")
    if not isinstance(value, (jax.Array, np.ndarray, np.generic, int, float)):
        raise Unreadable(f"a {type(value).__name__} and not one array")
    if isinstance(value, jax.Array) and (value.is_deleted() or not value.is_fully_addressable):
        raise Unreadable("its values are not in this process")
    if isinstance(value, jax.Array) and not isinstance(value.dtype, np.dtype):
        raise Unreadable(f"dtype {value.dtype}")
    return np.array(value)


def _family(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}.{number}" for number in range(count))


def batch(count: int) -> tuple[str, ...]:
    """So many batch axes."""
    return _family("batch", count)


def features_last(ndim: int, count: int = 1) -> tuple[str, ...]:
    """`(*batch, *features)`."""
    return (*batch(ndim - count), *_family("features", count)) if ndim >= count else ()


def channels_last(rank: int, ndim: int) -> tuple[str, ...]:
    """`(*batch, *spatial, features)`."""
    return (*batch(ndim - rank - 1), *_family("spatial", rank), "features.0") if ndim > rank else ()


def one_batch(ndim: int) -> tuple[str, ...]:
    """`(batch, *spatial, features)` of whatever rank."""
    return channels_last(ndim - 2, ndim) if ndim >= 2 else ()


def sequence(ndim: int, *, time_major: bool = False) -> tuple[str, ...]:
    """`(*batch, time, features)` or `(time, *batch, features)`."""
    if ndim < 2:
        return ()
    return ("time.0", *batch(ndim - 2), "features.0") if time_major else (*batch(ndim - 2), "time.0", "features.0")


def _unnamed(_: int) -> tuple[str, ...]:
    return ()


def named(value: Any, axes: Axes) -> Activation:
    """An activation, with the axes that an array of so many has.

    Raises:
        Unreadable: as `array`.
    """
    found = array(value)
    return Activation(found, axes(found.ndim))


def arguments(module: Any, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Given) -> dict[str, Any]:
    """What a call was given, by the names of the parameters; by number and name where it does not say them."""
    try:
        return dict(list(inspect.signature(function).bind(module, *args, **kwargs).arguments.items())[1:])
    except (TypeError, ValueError):
        return {**{str(number): value for number, value in enumerate(args)}, **kwargs}


def _chosen(module: Any, given: Given, name: str) -> Any:
    """A flag of a call, or of the module where the call does not say it."""
    asked = given.get(name)
    return getattr(module, name) if asked is None else asked


def _argument(given: Given, name: str) -> Any:
    """One argument of a call; a class of the author's may give the call of a known layer others."""
    if name not in given:
        raise Unreadable(f"its call has no argument {name!r}")
    return given[name]


# -------------------------------------------------------------------- one layer


def inputs_of(module: Any, given: Given) -> Inputs:
    """The inputs of one call of a layer.

    Raises:
        Unreadable: one of them has no values.
    """
    if isinstance(module, _CELLS):
        return {"input": named(_argument(given, "inputs"), features_last), **_carry(module, _argument(given, "carry"))}
    if isinstance(module, _ATTENTION):
        query = _argument(given, "inputs_q")
        both = given.get("inputs_kv")
        key = next(one for one in (both, given.get("inputs_k"), query) if one is not None)
        value = next(one for one in (both, given.get("inputs_v"), key) if one is not None)
        return {name: named(one, sequence) for name, one in (("query", query), ("key", key), ("value", value))}
    if isinstance(module, _EMBED):
        return {"input": named(_argument(given, "inputs"), batch)}
    arrays = [one for one in given.values() if isinstance(one, (jax.Array, np.ndarray))]
    if not arrays:
        return {"input": None}
    if isinstance(module, _GENERAL):
        return {"input": named(arrays[0], partial(_general_input, module))}
    return {"input": named(arrays[0], _axes(module))}


def _carry(cell: Any, carry: Any) -> Inputs:
    if isinstance(cell, _LSTM):
        memory, state = carry
        return {"state": named(state, features_last), "cell": named(memory, features_last)}
    return {"state": named(carry, features_last)}


def output_of(module: Any, value: Any) -> Activation:
    """The main output of one call of a layer.

    Raises:
        Unreadable: it is not one array, or has no values.
    """
    if isinstance(module, _CELLS):
        return named(value[1], features_last)
    if isinstance(module, _ATTENTION):
        return named(value, sequence)
    if isinstance(module, _EMBED):
        return named(value, features_last)
    if isinstance(module, _GENERAL):
        return named(value, partial(features_last, count=len(_features(module))))
    return named(value, _axes(module))


def _whole(value: Any) -> tuple[int, ...]:
    return tuple(int(one) for one in value) if isinstance(value, Sequence) else (int(value),)


def _features(module: Any) -> tuple[int, ...]:
    return _whole(module.features if isinstance(module, nn.DenseGeneral) else module.out_features)


def _general_input(module: Any, ndim: int) -> tuple[str, ...]:
    over = sorted(axis % ndim for axis in _whole(module.axis))
    rest = [axis for axis in range(ndim) if axis not in over]
    return tuple(f"features.{over.index(n)}" if n in over else f"batch.{rest.index(n)}" for n in range(ndim))


def _axes(module: Any) -> Axes:
    """How the types that change one array into another lay it out."""
    if isinstance(module, _LINEAR):
        return features_last
    if isinstance(module, _CONV):
        return partial(channels_last, len(_whole(module.kernel_size)))
    if isinstance(module, _LAYER_NORM):
        count = normalised(module).get("normalized_axes")
        return _unnamed if count is None else partial(features_last, count=count)
    if isinstance(module, _BATCH_NORM):
        return one_batch if _whole(module.axis) == (-1,) else _unnamed
    if isinstance(module, _INSTANCE_NORM):
        return one_batch if _whole(module.feature_axes) == (-1,) else _unnamed
    if isinstance(module, (*_GROUP_NORM, *_PRELU)):
        return one_batch
    return _unnamed


def mode_of(module: Any, given: Given) -> str:
    """What a layer does otherwise in training, for people; empty for nothing."""
    if isinstance(module, _BATCH_NORM):
        return "running statistics" if _chosen(module, given, "use_running_average") else "statistics of the batch"
    return "statistics of each instance" if isinstance(module, _INSTANCE_NORM) else ""


def unseen_of(module: Any, given: Given) -> tuple[str, ...]:
    """What the function depends on beside the inputs that are compared."""
    masked = given.get("mask") is not None or bool(given.get("is_causal"))
    return ("a mask",) if masked else ()


# -------------------------------------------------------------------- a cell over time


def run_inputs(runner: Any, given: Given) -> tuple[Inputs, tuple[str, ...]]:
    """The inputs of an `RNN` or `Bidirectional`, and what it depends on beside them.

    Raises:
        Unreadable: one of them has no values, or there are sequence lengths: what lies behind an end means nothing.
    """
    if given.get("seq_lengths") is not None:
        raise Unreadable("it was given sequence lengths, and what lies behind the end of a sequence means nothing")
    time_major = bool(_chosen(runner, given, "time_major"))
    found: Inputs = {"input": named(given["inputs"], partial(sequence, time_major=time_major))}
    carry = given.get("initial_carry")
    if isinstance(runner, BOTH_WAYS):
        return found, () if carry is None else ("an initial state",)
    if carry is None:
        known = isinstance(runner.cell, _CELLS) and runner.cell.carry_init in _ZEROS
        return found, () if known else ("an initial state",)
    if not isinstance(runner.cell, _CELLS):
        return found, ("an initial state",)
    return found | _carry(runner.cell, carry), ()


def run_output(runner: Any, given: Given, value: Any) -> Activation:
    """The outputs of an `RNN` or `Bidirectional`, every one at the place of its input.

    Raises:
        Unreadable: it has no values.
    """
    outputs = value[1] if _chosen(runner, given, "return_carry") else value
    found = named(outputs, partial(sequence, time_major=bool(_chosen(runner, given, "time_major"))))
    if isinstance(runner, RUNNERS) and _chosen(runner, given, "reverse") and not _chosen(runner, given, "keep_order"):
        found = Activation(np.flip(found.array, found.axes.index("time.0")), found.axes)
    return found
