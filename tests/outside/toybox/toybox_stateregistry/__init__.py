"""The adapter of toybox for stateregistry. Imports toybox only when it is used."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from stateregistry import errors
from toybox_stateregistry.dialect import DIALECT

if TYPE_CHECKING:
    from stateregistry import StateRegistry


class Adapter:
    """Registries over `toybox.Box`."""

    name = "toybox"
    install = "pip install toybox"
    framework = "toybox"
    dialect = DIALECT

    def recognises(self, obj: object, /) -> bool:
        """Whether it is a box. Where toybox is not loaded, nothing is."""
        toybox = sys.modules.get("toybox")
        return toybox is not None and isinstance(obj, toybox.Box)

    def wrap(self, obj: Any, /, **options: Any) -> StateRegistry:
        """The registry over a box; there are no options."""
        if options or not self.recognises(obj):
            message = f"the adapter 'toybox' takes a toybox.Box and no options, not {type(obj).__name__}, {options}"
            raise errors.AdapterError(message, hint=self.explain(obj) or None)
        from toybox_stateregistry.registry import ToyboxRegistry

        return ToyboxRegistry(obj)

    def explain(self, obj: object, /) -> str:
        """What to pass instead of something of toybox that is no box."""
        toybox = sys.modules.get("toybox")
        near = toybox is not None and isinstance(obj, toybox.Slot)
        return "a slot has no name: put it into a toybox.Box" if near else ""


adapter = Adapter()
