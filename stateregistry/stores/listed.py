"""A registry over a file whose arrays are told by a `Listing`: what every store with flat names has in common.

A store gives the listing and how the value of a key is had; keys, entries, aliases, opaque state and stored names follow.
Imports no framework.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from stateregistry.stores.base import FileRegistry

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stateregistry.entry import Entry
    from stateregistry.stores.document import Document
    from stateregistry.stores.listing import Listing
    from stateregistry.stores.mapped import MappedFile


class ListedFile(FileRegistry):
    """A registry over a `Listing`.

    Args:
        path: the file or directory.
        listing: what it shows.
        dialect: of the format, where our document names none. document: ours.
    """

    def __init__(self, path: Path, listing: Listing, *, dialect: str = "", document: Document | None = None) -> None:
        super().__init__(path, dialect=dialect, document=document)
        self._list = listing

    def _entries(self) -> Mapping[str, Entry]:
        return self._list.entries

    def _aliases(self) -> Mapping[str, str]:
        return self._list.aliases

    def _opaque(self) -> Mapping[str, str]:
        return self._list.opaque

    @property
    def stored_names(self) -> Mapping[str, str]:
        """The name that each entry has inside the file, by key."""
        return MappingProxyType(dict(self._list.stored))


class OneFile(ListedFile):
    """A `ListedFile` over one file, which it closes."""

    def __init__(
        self, file: MappedFile, listing: Listing, *, dialect: str = "", document: Document | None = None
    ) -> None:
        super().__init__(file.path, listing, dialect=dialect, document=document)
        self._file = file

    def close(self) -> None:
        """Release the file. Idempotent."""
        self._file.close()
