"""The safetensors store: a reader and a writer of our own, because streaming needs both. This module is the store.

Reading is lazy: the header when the file is opened, values memory-mapped when they are viewed. Writing streams one
value at a time, C-contiguous and little-endian, whatever layout the source has. Kinds, flags, aliases and native order
travel in `__metadata__["stateregistry"]`; every other reader of the format sees an ordinary file.
Refuses what the format cannot hold before it writes. Imports no framework and not the `safetensors` library.
"""

from __future__ import annotations

import struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from stateregistry import errors
from stateregistry.entry import DTYPES, Entry, numpy_dtype
from stateregistry.stores import bits
from stateregistry.stores.base import Document, FileRegistry, Progress
from stateregistry.stores.collector import collector_paused
from stateregistry.stores.limits import DEFAULT, Limits
from stateregistry.stores.listing import Stored, list_stored
from stateregistry.stores.mapped import MappedFile
from stateregistry.stores.names import names_of
from stateregistry.stores.safetensors_header import NAME_OF, Header, build_header, header_length, parse_header

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stateregistry.registry import StateRegistry

name = "safetensors"
suffixes = (".safetensors",)
install = "nothing to install"
dialect = ""

#: The text of `__metadata__` that is ours.
METADATA_NAME = "stateregistry"
#: A header that a file of this format can plausibly have; beyond it, another format begins with 8 odd bytes.
_PLAUSIBLE_HEADER = 1 << 32


def sniff(path: Path, head: bytes, /) -> bool:  # the Store protocol has it
    """Whether a file begins with the length of a header and a `{`."""
    if len(head) < 9 or head[8:9] != b"{":
        return False
    length: int = struct.unpack("<Q", head[:8])[0]
    return 2 <= length < _PLAUSIBLE_HEADER


def open(path: Path, /) -> SafetensorsRegistry:  # noqa: A001  # the name that the Store protocol has
    """A lazy, read-only registry over a file.

    Raises:
        FileMissingError, FileAccessError, FileFormatError; KeyPathError, DuplicateKeyError (names that give no keys).
    """
    return open_within(path, DEFAULT)


def open_within(path: Path, limits: Limits, /) -> SafetensorsRegistry:
    """As `open`, with limits other than the defaults."""
    file = MappedFile(path)
    try:
        with collector_paused():
            return _registry(file, limits)
    except BaseException:
        file.close()
        raise


def _registry(file: MappedFile, limits: Limits) -> SafetensorsRegistry:
    where = str(file.path)
    length = header_length(file.read(0, min(8, file.size)), file.size, where, limits)
    header = parse_header(file.read(8, length), file.size, where, limits)
    own = header.metadata.get(METADATA_NAME)
    if own is None:
        return SafetensorsRegistry(file, header, None)
    limits.check("document_bytes", len(own), f"{where}: length of our metadata")
    return SafetensorsRegistry(file, header, Document.from_json(own, where))


@final
class SafetensorsRegistry(FileRegistry):
    """A registry over one safetensors file.

    Attributes:
        metadata: the texts of `__metadata__`, ours included.
    """

    adapter: ClassVar[str] = name

    def __init__(self, file: MappedFile, header: Header, document: Document | None) -> None:
        bare = "torch" if header.metadata.get("format") == "pt" else dialect
        super().__init__(file.path, dialect=bare, document=document)
        stored = Stored(
            header.names, header.shapes, header.dtypes, opaque=header.opaque, dialect=bare, document=document
        )
        listing = list_stored(stored, str(file.path))
        self.metadata = MappingProxyType(dict(header.metadata))
        self._file = file
        self._listed_entries = listing.entries
        self._tied = listing.aliases
        self._unknown_dtypes = listing.opaque
        self._names = listing.stored
        self._starts = dict(zip(listing.keys, header.starts, strict=True))

    def _entries(self) -> Mapping[str, Entry]:
        return self._listed_entries

    def _aliases(self) -> Mapping[str, str]:
        return self._tied

    def _opaque(self) -> Mapping[str, str]:
        return self._unknown_dtypes

    @property
    def stored_names(self) -> Mapping[str, str]:
        """The name that each entry has inside the file, by key."""
        return MappingProxyType(dict(self._names))

    def _read(self, key: str, /) -> np.ndarray:
        entry = self._listed_entries[key]
        raw = self._file.view(self._starts[key], entry.nbytes)
        return bits.decode(raw, entry.shape, entry.dtype, "little", f"{self.path}: {key!r}")

    def _load(self, key: str, /) -> np.ndarray:
        entry = self._listed_entries[key]
        array = np.empty(entry.shape, numpy_dtype(entry.dtype))
        self._file.copy_into(array, self._starts[key])
        return bits.settle(array, "little", f"{self.path}: {key!r}")

    def close(self) -> None:
        """Release the file. Idempotent."""
        self._file.close()


def write(path: Path, source: StateRegistry, /, *, extra: Mapping[str, Any], progress: Progress) -> None:
    """Write every entry of `source` to `path`, one value at a time, in native order within each width of element.

    The format allows no hole between arrays, so 8-byte elements come first and 1-byte elements last: every array
    is aligned to its element, which torch needs to view it. The native order is in our metadata where it differs.

    Raises:
        UnsupportedError: a dtype that the format does not have, or a header beyond what it allows.
        KeyPathError: a key that cannot name an array. FileAccessError: writing failed.
    """
    rows, metadata = _plan(source, extra)
    header = build_header([(stored, entry.dtype, entry.shape, entry.nbytes) for _, stored, entry in rows], metadata)
    try:
        with path.open("wb") as file:
            file.write(header)
            for key, _, entry in rows:
                file.write(bits.encode(source.view(key)))
                progress(key, entry.nbytes)
    except errors.StateError:
        raise
    except OSError as error:
        raise errors.FileAccessError(f"{path}: writing failed: {error.strerror or error}") from error


def _plan(source: StateRegistry, extra: Mapping[str, Any]) -> tuple[list[tuple[str, str, Entry]], dict[str, str]]:
    """Key, stored name and entry of every array in the order of the file, and the texts of `__metadata__`."""
    entries = dict(source.items())
    wrong = tuple(key for key, entry in entries.items() if entry.dtype not in NAME_OF)
    if wrong:
        listed = ", ".join(f"{key!r} ({entries[key].dtype})" for key in wrong[:5])
        message = f"the safetensors format has no dtype for {len(wrong)} entries: {listed}"
        hint = "write a .pt file, which has them, or cast them with sr.cast"
        raise errors.UnsupportedError(message, keys=wrong, hint=hint)
    native = source.native_order
    order = sorted(native, key=lambda key: -DTYPES[entries[key].dtype])
    stored, exact = names_of(order)
    document = Document.describe(source, names=exact, extra=extra, ordered=tuple(order) == native)
    metadata = {METADATA_NAME: document.to_json()}
    if document.dialect == "torch":
        metadata["format"] = "pt"  # transformers asks for it
    return [(key, stored[key], entries[key]) for key in order], metadata
