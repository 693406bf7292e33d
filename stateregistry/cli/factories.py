"""Factories: `module:factory` on the command line, a function without parameters that builds a model.

This runs code of the user's, and only because the user named it. A factory returns a torch module, an NNX module, a
reference model, or for Linen `(module, args, kwargs)`. As a template it is called so that arrays take no memory.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stateregistry import errors, plugins

if TYPE_CHECKING:
    from stateregistry.registry import StateRegistry

_SPEC = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)")


def is_spec(text: str, /) -> bool:
    """Whether a text is spelled `module:factory`."""
    return _SPEC.fullmatch(text) is not None


def template(spec: str, /) -> StateRegistry:
    """The registry of what the factory builds, abstract where its framework can be.

    Raises:
        AdapterError: no such module or factory, it raised, or no adapter knows what it returned.
    """
    factory = _find(spec)
    builders = [p for p in plugins.adapters().values() if isinstance(p, plugins.SupportsTemplates)]
    thunk: Callable[[], Any] = factory
    for builder in builders:
        thunk = _under(builder, thunk)
    product = _call(spec, thunk)
    for builder in builders:
        found = builder.template(product)
        if found is not None:
            return found
    return _registry(spec, product)


def live(spec: str, /) -> StateRegistry:
    """The registry of what the factory builds, with its values; abstract where it has none (Linen).

    Raises:
        AdapterError: as `template`.
    """
    product = _call(spec, _find(spec))
    known = plugins.adapters().values()
    if not any(plugin.recognises(product) for plugin in known):
        for plugin in known:
            found = plugin.template(product) if isinstance(plugin, plugins.SupportsTemplates) else None
            if found is not None:
                return found
    return _registry(spec, product)


def _under(builder: plugins.SupportsTemplates, thunk: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: builder.abstractly(thunk)


def _registry(spec: str, product: Any) -> StateRegistry:
    try:
        return plugins.of(product)
    except errors.AdapterError as error:
        message = f"{spec}: the factory returned what no adapter knows: {error.message}"
        hint = "return a torch module, an NNX module, a reference model, or for Linen (module, args, kwargs)"
        raise errors.AdapterError(message, hint=error.hint or hint) from error


def _find(spec: str) -> Callable[[], Any]:
    match = _SPEC.fullmatch(spec)
    if match is None:
        message = f"{spec!r} is not spelled module:factory"
        hint = "name an importable module and a function in it, for example models.crepe:build"
        raise errors.AdapterError(message, hint=hint)
    module, path = match.groups()
    found: Any = _import(spec, module)
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            where = getattr(sys.modules[module], "__file__", None) or "no file"
            message = f"{spec}: the module {module!r} ({where}) has no {path!r}"
            raise errors.AdapterError(message, hint="name a function of that module") from error
    if not callable(found):
        message = f"{spec}: {path!r} is a {type(found).__name__}, not a function"
        raise errors.AdapterError(message, hint="name a function without parameters that returns the model")
    return found  # type: ignore[no-any-return]  # callable, and what it returns is looked at


def _import(spec: str, module: str) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: the current directory first
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            message = f"{spec}: the module {module!r} needs {error.name!r}, which is not installed"
            raise errors.MissingDependencyError(message, hint=f"pip install {error.name}") from error
        message = f"{spec}: there is no module {error.name!r}"
        hint = "it is looked for in the current directory and among the installed packages"
        raise errors.AdapterError(message, hint=hint) from error
    except SystemExit as error:
        message = f"{spec}: importing the module {module!r} ended the program: sys.exit({error.code!r})"
        raise errors.AdapterError(message, hint="put what a script does under if __name__ == '__main__'") from error
    except Exception as error:
        message = f"{spec}: importing the module {module!r} failed: {type(error).__name__}: {error}"
        raise errors.AdapterError(message, hint="--debug shows where") from error


def _call(spec: str, thunk: Callable[[], Any]) -> Any:
    try:
        return thunk()
    except errors.StateError:
        raise
    except SystemExit as error:
        message = f"{spec}: the factory ended the program: sys.exit({error.code!r})"
        raise errors.AdapterError(message, hint="a factory returns the model; --debug shows where it ends") from error
    except Exception as error:
        message = f"{spec}: the factory failed: {type(error).__name__}: {error}"
        hint = "a factory is called without arguments; --debug shows where it failed"
        raise errors.AdapterError(message, hint=hint) from error
