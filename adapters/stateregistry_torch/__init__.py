"""stateregistry_torch: PyTorch modules as registries, and the writing of `.pt` files.

`import stateregistry_torch` imports no framework and none of its own modules: every name is loaded when it is first used.
`adapter` and `store` are light objects that ask `sys.modules` whether torch is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateregistry.lazily import attributes

if TYPE_CHECKING:
    from stateregistry_torch.declared import bare as bare
    from stateregistry_torch.declared import register_layer as register_layer
    from stateregistry_torch.plugin import adapter as adapter
    from stateregistry_torch.pt_store import store as store

#: Public name -> the module that has it. None of them is the name of a module, which would take its place.
_HOMES = {"adapter": ".plugin", "bare": ".declared", "register_layer": ".declared", "store": ".pt_store"}

__all__ = ["adapter", "bare", "register_layer", "store"]


if not TYPE_CHECKING:  # to a type checker, a name that is not above is an error
    __getattr__ = attributes(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
