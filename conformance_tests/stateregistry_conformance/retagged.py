"""A registry that lies about its tags: whatever depends on a tag behaves differently over it (SR-KIND-010).

It is also a registry of no adapter, made from the public surface of another one. Imports NumPy and the core.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, final

from stateregistry.entry import Entry, Kind
from stateregistry.registry import ReadOnlyRegistry

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from stateregistry.registry import StateRegistry

#: Labels that say the contrary.
_LIES = {Kind.PARAMETER: "batch_stats", Kind.BUFFER: "Parameter"}


@final
class Retagged(ReadOnlyRegistry):
    """Another registry, read-only, with tags that contradict the kinds."""

    adapter: ClassVar[str] = "retagged"

    def __init__(self, inner: StateRegistry) -> None:
        self._inner = inner

    def _entries(self) -> Mapping[str, Entry]:
        return {key: replace(self._inner[key], tag=_LIES[self._inner[key].kind]) for key in self._inner.native_order}

    def _aliases(self) -> Mapping[str, str]:
        return self._inner.aliases

    def _opaque(self) -> Mapping[str, str]:
        return self._inner.opaque

    def _read(self, key: str, /) -> np.ndarray:
        return self._inner.view(key)

    def unwrap(self) -> Any:
        """What the other registry wraps."""
        return self._inner.unwrap()
