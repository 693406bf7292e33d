"""Declared layer types: which modules are layers, beside those of `torch.nn`: by type, or by name without importing it.

`register_layer` is the public door; the types of well-known packages (`packages`) stand as if they had come through it. A
subclass counts as its base as long as it leaves the methods alone that compute. Looks types up, builds nothing. Imports no
torch, so a name can be registered before anything is loaded.
"""

from __future__ import annotations

import sys
from typing import Final

from stateregistry.layers.declared import Builder, DeclaredTypes, Row, bare
from stateregistry_torch.packages import BARE, LAYERS

__all__ = ["DECLARED", "bare", "register_layer"]


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
    DECLARED.register(target, build, methods)


def _modules() -> tuple[type, ...]:
    home = sys.modules.get("torch.nn")
    return () if home is None else (home.Module,)


#: Every type that is a layer beside those of `torch.nn`.
DECLARED: Final = DeclaredTypes(
    {**{name: Row(build) for name, build in LAYERS.items()}, **dict.fromkeys(BARE, Row(bare))},
    methods=("forward",),
    modules=_modules,
    noun="torch modules",
    bare="stateregistry_torch.bare",
)
