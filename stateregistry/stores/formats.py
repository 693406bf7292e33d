"""The store objects of GGUF, Keras and NPZ: what says whether a file is theirs, and names the reader.

Every installed store is asked before a file is opened, so asking costs next to nothing: the readers, and NumPy, are loaded
when one of their files is opened, and a zip archive is looked into only where there is one. Imports no framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

from stateregistry import errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stateregistry.registry import StateRegistry
    from stateregistry.stores.base import FileRegistry, Progress
    from stateregistry.stores.limits import Limits

#: How a zip archive begins: with a member, or, where it has none, with the end of its directory.
_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06")


@final
class GgufStore:
    """Opens `.gguf` files."""

    name: str = "gguf"
    suffixes: tuple[str, ...] = (".gguf",)
    install: str = "nothing to install"
    dialect: str = ""

    def sniff(self, path: Path, head: bytes, /) -> bool:
        """Whether a file begins as a GGUF file."""
        return head[:4] == b"GGUF"

    def open(self, path: Path, /) -> FileRegistry:
        """A lazy registry over the file; see `open_gguf` for what it raises."""
        from stateregistry.stores.gguf import open_gguf

        return open_gguf(path)

    def open_within(self, path: Path, limits: Limits, /) -> FileRegistry:
        """As `open`, with limits other than the defaults."""
        from stateregistry.stores.gguf import open_gguf

        return open_gguf(path, limits)

    def write(self, path: Path, source: StateRegistry, /, *, extra: Mapping[str, Any], progress: Progress) -> None:
        """Refuse: a GGUF file is of use only with what it says of a model beside its tensors.

        Raises:
            UnsupportedError: always.
        """
        message = "GGUF files are read and not written"
        raise errors.UnsupportedError(message, hint="write .safetensors, and convert that with the tools of llama.cpp")


@final
class KerasStore:
    """Opens `.weights.h5` and `.keras` files."""

    name: str = "keras"
    suffixes: tuple[str, ...] = (".weights.h5", ".keras")
    install: str = "pip install 'stateregistry[keras]'"
    dialect: str = ""

    def sniff(self, path: Path, head: bytes, /) -> bool:
        """Whether a file is HDF5, or a zip archive with the weights of a model."""
        if head[:8] == b"\x89HDF\r\n\x1a\n":
            return True
        if not head.startswith(_ZIP):
            return False
        from stateregistry.stores.keras import is_archive

        return is_archive(path, head)

    def open(self, path: Path, /) -> FileRegistry:
        """A lazy registry over the file; see `open_keras` for what it raises."""
        from stateregistry.stores.keras import open_keras

        return open_keras(path)

    def open_within(self, path: Path, limits: Limits, /) -> FileRegistry:
        """As `open`, with limits other than the defaults."""
        from stateregistry.stores.keras import open_keras

        return open_keras(path, limits)

    def write(self, path: Path, source: StateRegistry, /, *, extra: Mapping[str, Any], progress: Progress) -> None:
        """Refuse: Keras reads weights into a model by the order in which that made them, which no registry knows.

        Raises:
            UnsupportedError: always.
        """
        message = "files of Keras are read and not written"
        raise errors.UnsupportedError(message, hint="write .safetensors, and assign the values in Keras")


@final
class NpzStore:
    """Opens and writes `.npz` archives."""

    name: str = "npz"
    suffixes: tuple[str, ...] = (".npz",)
    install: str = "nothing to install"
    dialect: str = ""

    def sniff(self, path: Path, head: bytes, /) -> bool:
        """Whether a file is a zip archive with arrays in it."""
        if not head.startswith(_ZIP):
            return False
        from stateregistry.stores.npz import is_npz

        return is_npz(path, head)

    def open(self, path: Path, /) -> FileRegistry:
        """A lazy registry over the archive; see `open_npz` for what it raises."""
        from stateregistry.stores.npz import open_npz

        return open_npz(path)

    def open_within(self, path: Path, limits: Limits, /) -> FileRegistry:
        """As `open`, with limits other than the defaults."""
        from stateregistry.stores.npz import open_npz

        return open_npz(path, limits)

    def least_bytes(self, source: StateRegistry, /) -> int:
        """The bytes of all values, which are stored as they are."""
        return sum(entry.nbytes for entry in source.values())

    def write(self, path: Path, source: StateRegistry, /, *, extra: Mapping[str, Any], progress: Progress) -> None:
        """Write every entry of `source`, one value in memory at a time, in native order.

        Raises:
            UnsupportedError: a name that a zip archive cannot hold. Before the file is opened.
        """
        from stateregistry.stores.npz_write import write_npz

        write_npz(path, source, extra=extra, progress=progress)


gguf: Final = GgufStore()
keras: Final = KerasStore()
npz: Final = NpzStore()
