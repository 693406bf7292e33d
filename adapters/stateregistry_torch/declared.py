"""Declared layer types: which modules are layers, beside those of `torch.nn`: by type, or by name without importing it.

`register_layer` is the public door; the types of well-known packages (`packages`) stand as if they had come through it. A
subclass counts as its base as long as it leaves the methods alone that compute. Looks types up, builds nothing. Imports no
torch, so a name can be registered before anything is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, final

from stateregistry.errors import AdapterError
from stateregistry.layers.vocabulary import Layer
from stateregistry_torch.packages import BARE, LAYERS

#: What a module is: a layer, several, or `None` for none. See `register_layer`.
Builder = Callable[[Any], Layer | Iterable[Layer] | None]


@final
@dataclass(frozen=True, slots=True)
class Row:
    """What a type is.

    Attributes:
        build: from a module to its layers.
        methods: what a subclass must leave alone to count as the type.
        strict: a tensor whose rank contradicts the declaration is an error; else the module is no layer then.
    """

    build: Builder
    methods: tuple[str, ...] = ("forward",)
    strict: bool = False


def bare(_: Any) -> None:
    """A declaration: its parameters are parameters of their own, as a class token or a layer scale is."""


_ROWS: Final[dict[type | str, Row]] = {
    **{name: Row(build) for name, build in LAYERS.items()},
    **dict.fromkeys(BARE, Row(bare)),
}


def register_layer(target: type | str, build: Builder, /, *, methods: tuple[str, ...] = ("forward",)) -> None:
    """Say what a type of module is, for every registry over a torch module from now on.

    A declaration names, for every tensor, its role and its axes (spec chapter "Layers"); how it converts follows:

        def scaled(module):
            kernel, bias = Piece("kernel", "w", "in out"), Piece("bias", "b", "out")
            return sr.Layer("linear", "", (kernel, bias), config={"gain": module.gain})

        stateregistry_torch.register_layer("my_models.ScaledLinear", scaled)

    Args:
        target: the type, or its name as `module.Class` where it is defined; the class need not be importable.
        build: called with a module of the type. It returns a `Layer` whose `path` is `""` (or, for one module that is
            several layers, different names), and whose pieces are named relative to the module (`"q_proj/weight"` for
            one of an inner module, which is no layer of its own then). A piece that the module does not have, or has as
            `None`, is left out. `None` instead of a layer: its parameters are parameters of their own.
        methods: what a subclass must leave alone to count as this type.

    The last word on a type is valid, also on a type of `torch.nn`.

    Raises:
        AdapterError: no type of module, a name without a module, no function, or a method that the type does not have.
    """
    if isinstance(target, str):
        if not all(part.isidentifier() or part == "<locals>" for part in target.split(".")) or "." not in target:
            message = f"register_layer: {target!r} is no qualified name of a class"
            raise AdapterError(message, hint="write it as package.module.Class, where the class is defined")
    elif not (isinstance(target, type) and issubclass(target, getattr(sys.modules.get("torch.nn"), "Module", ()))):
        message = f"register_layer: {target!r} is neither a type of torch modules nor the name of one"
        raise AdapterError(message, hint="pass the class itself, or its qualified name as a string")
    else:
        _refuse_unknown(target, methods)
    if not callable(build):
        message = f"register_layer: the declaration of {_name(target)} is {build!r}, not a function of a module"
        raise AdapterError(message, hint="pass a function that returns a Layer, or stateregistry_torch.bare")
    for other in [known for known in _ROWS if _name(known) == _name(target)]:
        if isinstance(other, str) or isinstance(target, str) or other is target:
            del _ROWS[other]
    _ROWS[target] = Row(build, methods, strict=True)


def _name(target: type | str) -> str:
    return target if isinstance(target, str) else f"{target.__module__}.{target.__qualname__}"


def _refuse_unknown(cls: type, methods: tuple[str, ...]) -> None:
    unknown = [name for name in methods if not hasattr(cls, name)]
    if unknown:
        message = f"register_layer: {_name(cls)} has no method {', '.join(unknown)}"
        raise AdapterError(message, hint="methods= names what a subclass must leave alone to count as this type")


def registered(cls: type, /) -> Row | None:
    """What was registered for exactly this type, `None` for nothing."""
    row = _ROWS.get(cls)
    if row is not None:
        return row
    row = _ROWS.get(_name(cls))
    if row is not None:
        _refuse_unknown(cls, row.methods)
    return row
