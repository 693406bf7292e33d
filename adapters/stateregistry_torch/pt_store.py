"""The store object for `.pt` files and sharded `.bin` checkpoints: reading the zip format needs no torch, the rest does.

What reads archives is the restricted reader of the core, which runs nothing from a file; files of the format before it go
to `legacy`, which asks torch once that reader has looked through them. What writes is `writing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from stateregistry import errors
from stateregistry_torch.presence import INSTALL, require_torch

if TYPE_CHECKING:
    from stateregistry.registry import StateRegistry
    from stateregistry.stores.base import FileRegistry, Progress
    from stateregistry.stores.limits import Limits

#: Bytes that tell one format from another.
_HEAD: Final = 4096
#: How a zip archive begins, and a pickle.
_BEGINNINGS: Final = (b"PK\x03\x04", b"\x80")


@final
class TorchStore:
    """What `torch.save` writes: a mapping of dotted names to tensors, in one file or in shards with an index."""

    name: str = "torch"
    suffixes: tuple[str, ...] = (".pt", ".pth", ".bin", ".bin.index.json")
    install: str = INSTALL
    dialect: str = "torch"

    def sniff(self, path: Path, head: bytes, /) -> bool:
        """Whether the content is a torch file or an index of such, or a directory has one."""
        if not head and not path.is_dir():
            return False
        if not head or head.lstrip().startswith(b"{"):
            from stateregistry.stores.torch_shards import in_folder, is_index  # lazy: only for shards

            return is_index(path, head) if head else in_folder(path) is not None
        if not head.startswith(_BEGINNINGS):
            return False
        from stateregistry.stores.torch_zip import sniff_torch  # lazy: a reader with all that it needs

        return sniff_torch(path, head)

    def open(self, path: Path, /) -> FileRegistry:
        """A lazy, read-only registry over a torch file or an index. Runs nothing from a file.

        Needs torch for a file of the format from before 1.6 alone.

        Raises:
            UnsafeFileError: reading it would run code from it, or the index leads out of its directory.
            MissingDependencyError: a file of the old format, and no torch. And what `open_torch` raises.
        """
        from stateregistry.stores.limits import DEFAULT

        return self.open_within(path, DEFAULT)

    def open_within(self, path: Path, limits: Limits, /) -> FileRegistry:
        """As `open`, with limits other than the defaults."""
        from stateregistry.stores.torch_shards import in_folder, is_index, open_sharded

        file = (in_folder(path) or path) if path.is_dir() else path
        head = _head(file)
        if is_index(file, head):
            return open_sharded(file, lambda shard: _open_one(shard, "", limits), limits)
        return _open_one(file, "", limits)

    def open_part(self, path: Path, part: str, limits: Limits, /) -> FileRegistry:
        """As `open`, the state under a sub-key of a file that holds several (`sr.open("file.pt::model")`)."""
        from stateregistry.stores.torch_shards import is_index

        if path.is_dir() or is_index(path, _head(path)):
            message = f"{path}: a sharded checkpoint holds one state, and the sub-key {part!r} was asked for"
            raise errors.UnsupportedError(message, hint="leave out '::' and what follows")
        return _open_one(path, part, limits)

    def least_bytes(self, source: StateRegistry, /) -> int:
        """The bytes of all values, which are stored as they are."""
        return sum(entry.nbytes for entry in source.values())

    def write(self, path: Path, source: StateRegistry, /, *, extra: Mapping[str, Any], progress: Progress) -> None:
        """Write every entry of `source` as `torch.save` would write its state_dict, one value in memory at a time.

        Raises:
            UnsupportedError: a name with a dot, which no torch module can have. AbstractError: an entry without
                values. MissingDependencyError: torch is not installed. All before the first byte is written.
        """
        require_torch("writing a .pt file")
        if path.suffix == ".json":  # the temporary has the last suffix of the target
            message = f"a .json file is an index of shards, and the store {self.name!r} writes one file, however large"
            raise errors.UnsupportedError(message, hint="name a .pt, or write shards as .safetensors")
        from stateregistry_torch.writing import write_torch  # lazy: needs torch

        write_torch(path, source, extra=extra, progress=progress)


def _head(path: Path) -> bytes:
    from stateregistry.stores.mapped import MappedFile

    with MappedFile(path) as file:
        return file.read(0, min(file.size, _HEAD))


def _open_one(path: Path, part: str, limits: Limits) -> FileRegistry:
    from stateregistry.stores.torch_zip import LEGACY, open_torch

    if _head(path).startswith(LEGACY):
        require_torch("reading a torch file from before 1.6")
        from stateregistry_torch.legacy import open_legacy  # lazy: needs torch

        return open_legacy(path, part=part, limits=limits)
    return open_torch(path, part=part, limits=limits)


store: Final = TorchStore()
