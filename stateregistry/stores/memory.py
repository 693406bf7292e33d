"""Registries that exist to be written: a mapping of arrays, and the persistent part of another registry.

Read-only, lazy, and without copies: a value is looked at when it is written. Imports NumPy, no framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, final

from stateregistry import errors, keys
from stateregistry.display import counted
from stateregistry.entry import Entry, dtype_name
from stateregistry.registry import ReadOnlyRegistry, StateRegistry
from stateregistry.stores.base import FileRegistry
from stateregistry.stores.kinds import infer_kind, inferred

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np


@final
class ArraysRegistry(ReadOnlyRegistry):
    """A registry over NumPy arrays by key. Kinds are inferred from names, as in a bare file.

    Raises:
        KeyPathError: a key is not legal. DuplicateKeyError: a key is a prefix of another.
        DtypeError: arrays of a dtype that a registry does not hold.
    """

    adapter: ClassVar[str] = ""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        for key in arrays:
            keys.split(key)
        keys.check_prefix_free(arrays)
        names = {key: dtype_name(array.dtype) for key, array in arrays.items()}
        wrong = tuple(key for key, name in names.items() if name is None)
        if wrong:
            listed = ", ".join(f"{key!r} ({arrays[key].dtype})" for key in wrong[:5])
            message = f"{counted(len(wrong), 'array', 'is', 'are')} of a dtype that a registry does not hold: {listed}"
            raise errors.DtypeError(message, keys=wrong, hint="give arrays of numbers or bools")
        self._arrays = dict(arrays)
        self._listed_entries = {
            key: inferred(infer_kind(key, arrays), array.shape, str(names[key])) for key, array in arrays.items()
        }

    def _entries(self) -> Mapping[str, Entry]:
        return self._listed_entries

    def _read(self, key: str, /) -> np.ndarray:
        return self._arrays[key]

    def unwrap(self) -> Mapping[str, np.ndarray]:
        """The arrays."""
        return self._arrays


@final
class PersistentPart(ReadOnlyRegistry):
    """The persistent entries of a registry, with the aliases that they have, in native order."""

    adapter: ClassVar[str] = ""

    def __init__(self, source: StateRegistry) -> None:
        listed = dict(source.items())
        self._source = source
        self._listed_entries = {key: listed[key] for key in source.native_order if listed[key].persistent}

    @property
    def dialect(self) -> str:
        """That of the source."""
        return self._source.dialect

    def _entries(self) -> Mapping[str, Entry]:
        return self._listed_entries

    def _aliases(self) -> Mapping[str, str]:
        aliases = self._source.aliases
        return {alias: key for alias, key in aliases.items() if key in self._listed_entries}

    def _read(self, key: str, /) -> np.ndarray:
        # A file that is cut short under a memory map would kill the process: copy its values by reads.
        return self._source.read(key) if isinstance(self._source, FileRegistry) else self._source.view(key)

    @property
    def whole(self) -> StateRegistry:
        """The registry that it is a part of."""
        return self._source

    def unwrap(self) -> Any:
        """The native object of the source."""
        return self._source.unwrap()

    def source_path(self) -> Path | None:
        """The file that values come from, `None` where the source is no file."""
        return self._source.path if isinstance(self._source, FileRegistry) else None
