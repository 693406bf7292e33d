"""Functions: activations without state that hang at torch modules, in neutral words.

Seen are modules that are nothing but a function (`nn.GELU`, a norm without scale and bias), and functions that are attributes
of a module. What a
`forward` calls by itself is not seen. A subclass is not its base: it may compute anything. Imports torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from stateregistry.keys import escape
from stateregistry_torch.layers import function_at, row_of
from stateregistry_torch.walk import Walk


def _always(word: str) -> Callable[[Any], str]:
    return lambda _: word


def _gelu(module: Any) -> str:
    return "gelu_tanh" if module.approximate == "tanh" else "gelu"


def _elu(module: Any) -> str:
    return "elu" if module.alpha == 1.0 else f"elu({module.alpha:g})"


def _leaky(module: Any) -> str:
    slope = module.negative_slope
    return "leaky_relu" if slope == 0.01 else f"leaky_relu({slope:g})"  # the default, also of Flax


_TYPES: Final[Mapping[type, Callable[[Any], str]]] = MappingProxyType(
    {
        nn.GELU: _gelu, nn.ReLU: _always("relu"), nn.ReLU6: _always("relu6"), nn.SiLU: _always("silu"),
        nn.Tanh: _always("tanh"), nn.Sigmoid: _always("sigmoid"), nn.ELU: _elu, nn.LeakyReLU: _leaky,
    }
)  # fmt: skip

#: Types of other packages, by qualified name.
_NAMED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "transformers.activations.GELUActivation": "gelu",
        "transformers.activations.NewGELUActivation": "gelu_tanh",
        "transformers.activations.FastGELUActivation": "gelu_tanh",
        "transformers.activations.PytorchGELUTanh": "gelu_tanh",
        "transformers.activations.GELUTanh": "gelu_tanh",
        "transformers.activations.QuickGELUActivation": "quick_gelu",
    }
)

_FUNCTIONS: Final[Mapping[Any, str]] = MappingProxyType(
    {
        functional.gelu: "gelu", functional.relu: "relu", torch.relu: "relu", functional.relu6: "relu6",
        functional.silu: "silu", torch.tanh: "tanh", functional.tanh: "tanh", torch.sigmoid: "sigmoid",
        functional.sigmoid: "sigmoid", functional.elu: "elu", functional.leaky_relu: "leaky_relu",
    }
)  # fmt: skip


def functions_of(found: Walk) -> dict[str, str]:
    """Every activation that is seen, by path."""
    seen: dict[str, str] = {}
    for prefix, module in zip(found.prefixes, found.modules, strict=True):
        cls = type(module)
        row = _TYPES.get(cls)
        word = row(module) if row is not None else _NAMED.get(f"{cls.__module__}.{cls.__qualname__}", "")
        if word:
            seen[prefix[:-1]] = word
        elif row_of(cls) is None:  # what a layer has is its config
            for name, value in vars(module).items():
                if word := _word(value):
                    seen[f"{prefix}{escape(name)}"] = word
        elif word := function_at(module, prefix[:-1]):
            seen[prefix[:-1]] = word
    return seen


def _word(value: Any) -> str:
    """The word of a function; empty for anything else."""
    if isinstance(value, functools.partial) and value.func is functional.gelu and not value.args:
        exact = value.keywords.get("approximate", "none") == "none"
        return "gelu" if exact else "gelu_tanh"
    if not callable(value):
        return ""
    try:
        return _FUNCTIONS.get(value, "")
    except TypeError:  # it has no hash, so it is none of the functions
        return ""
