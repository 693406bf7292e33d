"""Display: how numbers of things are said, and how values show themselves in a notebook.

What a cell shows is made by the room `pages`, when it is asked for: by its name and not by an import, so that what has
this base stands on nothing that stands on it.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any


def counted(count: int, noun: str, one: str = "", many: str = "") -> str:
    """`1 buffer`, `2 buffers`, `3 entries`; with a verb for each number, `1 entry is`, `2 entries are`."""
    said = f"1 {noun}" if count == 1 else f"{count:,} {noun[:-1]}ies" if noun.endswith("y") else f"{count:,} {noun}s"
    return f"{said} {one if count == 1 else many}" if one else said


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
