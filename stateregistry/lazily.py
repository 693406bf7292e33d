"""Lazily: a package whose public names are loaded when they are first used (PEP 562). Imports nothing until then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping


def attributes(package: str, homes: Mapping[str, str], modules: Collection[str] = ()) -> Callable[[str], Any]:
    """The `__getattr__` of a package. A name that was used once is an attribute like any other.

    Args:
        package: `__name__` of the package.
        homes: public name -> the module that has it, absolute or, with a dot before it, within the package.
        modules: names that are such a module themselves.

    Returns:
        What raises `AttributeError` for a name that is not public.
    """

    def loaded(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            message = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(message)
        import importlib
        import sys

        module = importlib.import_module(home, package)
        value = module if name in modules else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return loaded
