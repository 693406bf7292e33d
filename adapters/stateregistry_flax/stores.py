"""The store objects of Flax's msgpack files and Orbax's directories: what says whether a path is theirs.

Light, as every installed store is asked before a file is opened: readers and writers are loaded when they are used. Imports
neither JAX, Flax nor NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, final

from stateregistry import errors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stateregistry.registry import StateRegistry
    from stateregistry.stores.base import FileRegistry, Progress
    from stateregistry.stores.limits import Limits
    from stateregistry.streaming.layout import Layout


@final
class MsgpackStore:
    """Opens and writes Flax msgpack files."""

    name = "flax-msgpack"
    suffixes = (".msgpack",)
    install = "pip install 'stateregistry[flax]'"
    dialect = "flax-linen"
    #: The format has no room for our metadata: `sr.save` writes it beside the file.
    sidecar = True

    def sniff(self, path: Path, head: bytes, /) -> bool:
        """A msgpack map from names."""
        if not head or not (0x80 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
            return False
        from stateregistry_flax.msgpack_scan import looks_like_it  # lazy: a scanner, for who begins as a map does

        return looks_like_it(head, path.stat().st_size)

    def open(self, path: Path, /) -> FileRegistry:
        """A lazy registry over the file; see `open_msgpack` for what it raises."""
        from stateregistry_flax.msgpack_store import open_msgpack

        return open_msgpack(path)

    def open_within(self, path: Path, limits: Limits, /) -> FileRegistry:
        """As `open`, with limits other than the defaults."""
        from stateregistry_flax.msgpack_store import open_msgpack

        return open_msgpack(path, limits)

    def write(self, path: Path, source: StateRegistry, /, *, extra: Mapping[str, Any], progress: Progress) -> None:
        """Write the values of `source` by collection. Kinds, flags, aliases, order and `extra` are for the sidecar.

        Raises:
            UnsupportedError: a name that the format reserves. MissingDependencyError: no msgpack.
            FileAccessError: writing failed.
        """
        from stateregistry.stores.streamed import fill  # lazy: the engine, for who writes

        fill(path, self.layout(path, source, extra=extra, shard_bytes=None, before=None), source, progress)

    def layout(
        self,
        path: Path,
        source: StateRegistry,
        /,
        *,
        extra: Mapping[str, Any],
        shard_bytes: int | None,
        before: Sequence[str] | None,
    ) -> Layout:
        """Where every value will lie; the format has no shards.

        Raises:
            UnsupportedError: a name that the format reserves, or shards. MissingDependencyError: no msgpack.
        """
        from stateregistry_flax.msgpack_write import layout

        if shard_bytes is not None:
            message = f"{path}: the format {self.name} has one file, however large"
            raise errors.UnsupportedError(message, hint="leave shard_bytes out, or write .safetensors")
        return layout(path, source)


@final
class OrbaxStore:
    """What `orbax.checkpoint.StandardCheckpointer` writes: a directory with a tree of arrays."""

    name: str = "orbax"
    suffixes: tuple[str, ...] = (".orbax",)
    install: str = "pip install 'stateregistry[orbax]'"
    dialect: str = "flax-linen"
    #: What it writes is a directory.
    folder: bool = True

    def sniff(self, path: Path, head: bytes, /) -> bool:
        """Whether a directory is one of Orbax."""
        if head or not path.is_dir():
            return False
        from stateregistry_flax.orbax_metadata import is_checkpoint  # lazy: only for directories

        return is_checkpoint(path)

    def strangers(self, folder: Path, /) -> Sequence[str]:
        """What a directory holds that is no part of one tree of arrays: steps and items of several are that, too."""
        from stateregistry_flax.orbax_metadata import strangers  # lazy: only where one is replaced

        return strangers(folder)

    def open(self, path: Path, /) -> FileRegistry:
        """A lazy registry over the directory; see `open_orbax` for what it raises."""
        from stateregistry_flax.orbax_store import open_orbax

        return open_orbax(path)

    def open_within(self, path: Path, limits: Limits, /) -> FileRegistry:
        """As `open`, with limits other than the defaults."""
        from stateregistry_flax.orbax_store import open_orbax

        return open_orbax(path, limits=limits)

    def open_part(self, path: Path, part: str, limits: Limits, /) -> FileRegistry:
        """As `open`, one item of several, or a part of its tree (`sr.open("run::state.params")`)."""
        from stateregistry_flax.orbax_store import open_orbax

        return open_orbax(path, part=part, limits=limits)

    def write(self, path: Path, source: StateRegistry, /, *, extra: Mapping[str, Any], progress: Progress) -> None:
        """Write every entry of `source` as Orbax writes a tree of arrays; see `save_orbax` for what it raises."""
        from stateregistry_flax.orbax_store import save_orbax

        save_orbax(path, source, extra=extra, progress=progress)


msgpack: Final = MsgpackStore()
orbax: Final = OrbaxStore()
