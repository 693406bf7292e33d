"""Display: how values show themselves in a notebook. What a cell shows is made by the room `pages`, when it is asked for.

By its name and not by an import, so that what has this base stands on nothing that stands on it.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any


class Displayed:
    """Something that a notebook shows as a small table, without scripts; elsewhere it is its `repr`."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        html: str = importlib.import_module("stateregistry.pages.notebook").html(self)
        return html

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> dict[str, Any]:
        bundle = {"text/plain": importlib.import_module("stateregistry.pages.notebook").text(self)}
        if (include is None or "text/html" in include) and "text/html" not in (exclude or ()):
            bundle["text/html"] = self._repr_html_()
        return bundle
