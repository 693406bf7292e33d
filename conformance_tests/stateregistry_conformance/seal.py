"""Seal: notices when code of a harness rewrites the suite, the core or the built-ins under the checks.

Taken before a harness is imported, looked at after every check. New names are allowed; a function, a class or a member of a
class that is another object than before is not. It is a guard against shortcuts and accidents, not against an enemy who
runs in the same process. Imports NumPy, the core and the standard library.
"""

from __future__ import annotations

import builtins
import importlib
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeAlias, final

import numpy as np

#: Rooms that need packages which are not there in every installation, or that run something when they are imported.
_LEFT_OUT = ("stateregistry.cli", "stateregistry.__main__")
#: Built-ins that shells, tracers and import hooks replace for good reasons.
_REPLACED = frozenset({"__import__", "__build_class__", "print", "open", "input", "breakpoint", "exit", "quit"})
_NUMPY = ("array", "asarray", "array_equal", "ndarray", "dtype", "zeros", "zeros_like", "frombuffer", "arange")


#: A name, the live namespace that it is in, its name there, what it is, and its code where it is a function.
Place: TypeAlias = tuple[str, Mapping[str, Any], str, Any, CodeType | None]


@final
class Seal:
    """What everything was when the seal was taken."""

    def __init__(self) -> None:
        # Of the suite, what the checks need has been imported by whoever takes the seal.
        _import_all("stateregistry", _LEFT_OUT)
        self._places = tuple(_everything())

    def broken(self) -> str | None:
        """The name of something that is no longer what it was."""
        for name, namespace, key, was, code in self._places:
            if namespace.get(key) is not was or (isinstance(was, FunctionType) and was.__code__ is not code):
                return name
        return None


def _import_all(package: str, left_out: tuple[str, ...]) -> None:
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, f"{package}."):
        if not module.name.startswith(left_out):
            importlib.import_module(module.name)


def _everything() -> Iterator[Place]:
    for name, value in vars(builtins).items():
        if name not in _REPLACED and callable(value):
            yield f"builtins.{name}", vars(builtins), name, value, None
    for name in _NUMPY:
        yield f"numpy.{name}", vars(np), name, getattr(np, name), None
    for module_name in sorted(sys.modules):
        module = sys.modules[module_name]
        if module_name.split(".")[0] in {"stateregistry", "stateregistry_conformance"} and isinstance(
            module, ModuleType
        ):
            for name, value in vars(module).items():
                if not name.startswith("__") and (callable(value) or isinstance(value, ModuleType)):
                    yield _place(module_name, vars(module), name, value)
                    if isinstance(value, type) and value.__module__ == module_name:
                        yield from _members(f"{module_name}.{name}", value)


def _members(name: str, cls: type) -> Iterator[Place]:
    for member, value in vars(cls).items():
        if isinstance(value, (FunctionType, classmethod, staticmethod, property)):
            yield _place(name, vars(cls), member, value)


def _place(owner: str, namespace: Mapping[str, Any], name: str, value: Any) -> Place:
    return f"{owner}.{name}", namespace, name, value, value.__code__ if isinstance(value, FunctionType) else None
