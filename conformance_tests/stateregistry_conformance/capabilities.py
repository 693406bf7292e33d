"""Capabilities: the closed vocabulary of what a framework can hold beyond the core (specification, chapter 2).

A harness declares a set of these names; a name that is not here is a mistake of the harness. Imports nothing.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Every capability, with what the framework can then hold.
CAPABILITIES: Mapping[str, str] = MappingProxyType(
    {
        "dtype.bfloat16": "arrays of bfloat16",
        "dtype.float8": "arrays of at least one of the five float8 dtypes",
        "dtype.complex": "arrays of complex64 or complex128",
        "dtype.int64": "arrays of int64 or uint64",
        "dtype.float64": "arrays of float64",
        "dtype.integer": "arrays of integers of 8, 16 or 32 bits",
        "dtype.bool": "arrays of bool",
        "ties": "one place under two keys",
        "nonpersistent": "state that is not saved",
        "abstract": "arrays with shape and dtype but no value",
        "rng": "the state of a random number generator, inside the model",
        "fault": "(harness) a native write that can be made to fail on demand",
        "empty": "a model without any entry",
        "native_trainable": "a flag of its own that says whether a parameter is trainable",
        "layers": "standard layers, which the adapter declares by roles and named axes",
    }
)
