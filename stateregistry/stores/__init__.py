"""Stores: registries over files, and files from registries. Never executes anything from a file.

`stateregistry.stores:safetensors` is the entry point of the safetensors store; everything else is found in the modules.
Importing this package imports no framework, no NumPy and none of its modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stateregistry.stores import safetensors as safetensors

__all__ = ["safetensors"]


if not TYPE_CHECKING:  # to a type checker, a name that is not above is an error

    def __getattr__(name: str) -> Any:
        if name == "safetensors":
            import importlib

            return importlib.import_module("stateregistry.stores.safetensors")
        message = f"module 'stateregistry.stores' has no attribute {name!r}"
        raise AttributeError(message)
