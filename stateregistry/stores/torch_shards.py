"""A sharded torch checkpoint: `pytorch_model.bin.index.json` and the files that it names, as one registry.

The index comes from a stranger. A shard is a plain name in the directory of the index: no path, no parent, no absolute one;
a symbolic link may lead to that directory or, in the cache of Hugging Face, to its `blobs`, and nowhere else. Index and
shards must agree in both directions. Kinds are inferred over the names of all shards, as of one file. Imports no framework.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, NoReturn, final

from stateregistry import errors
from stateregistry.stores.document import load_object
from stateregistry.stores.kinds import infer_kind, inferred
from stateregistry.stores.links import refuse_leading_out
from stateregistry.stores.listed import ListedFile
from stateregistry.stores.listing import Listing
from stateregistry.stores.mapped import MappedFile
from stateregistry.stores.names import DOT, keys_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np

    from stateregistry.entry import Entry
    from stateregistry.stores.base import FileRegistry
    from stateregistry.stores.limits import Limits
    from stateregistry.streaming.task import Stored as Place

INDEX_SUFFIX: Final = ".bin.index.json"
_WHOLE: Final = "pytorch_model.bin"
_SHARDS: Final = (".bin", ".pt", ".pth")
_OTHER: Final = (".safetensors", ".safetensors.index.json")
_FIRST = re.compile(rb'"weight_map"\s*:\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*"[^"]*\.(?:bin|pt|pth)"')


def in_folder(folder: Path) -> Path | None:
    """The one index of a directory, else its `pytorch_model.bin`; `None` where it has neither, or safetensors files.

    A directory with both holds the same state twice, and safetensors files come first, as in Hugging Face's own loaders.
    """
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return None
    if any(name.endswith(_OTHER) for name in names):
        return None
    found = [name for name in names if name.endswith(INDEX_SUFFIX)] or [name for name in names if name == _WHOLE]
    return folder / found[0] if len(found) == 1 else None


def is_index(path: Path, head: bytes) -> bool:
    """Whether a file is the JSON of an index of torch files, by its beginning and, where that says nothing, its name."""
    if not head.lstrip().startswith(b"{"):
        return False
    if b'"weight_map"' in head:
        return _FIRST.search(head) is not None or path.name.endswith(INDEX_SUFFIX)
    return path.name.endswith(INDEX_SUFFIX) and b'"metadata"' in head


def open_sharded(path: Path, open_one: Callable[[Path], FileRegistry], limits: Limits) -> ShardedTorchRegistry:
    """A registry over the shards that an index names.

    Args:
        open_one: opens one of them.

    Raises:
        UnsafeFileError: the index leads out of its directory. FileFormatError: it is damaged, or is not that of its
            shards; and whatever opening a shard raises.
    """
    weights = _weights(path, limits)
    shards = sorted(set(weights.values()))
    for shard in shards:
        _check_name(path, shard)
        refuse_leading_out(path.parent, shard)
    found = keys_of(list(weights), DOT, str(path))
    parts: list[FileRegistry] = []
    try:
        for shard in shards:
            here = {key for key, file in zip(found, weights.values(), strict=True) if file == shard}
            parts.append(open_one(path.parent / shard))
            _check_names(path, shard, here, {*parts[-1], *parts[-1].aliases, *parts[-1].opaque})
        return ShardedTorchRegistry(path, parts)
    except BaseException:
        for part in parts:
            part.close()
        raise


def _weights(path: Path, limits: Limits) -> Mapping[str, str]:
    with MappedFile(path) as file:
        limits.check("header_bytes", file.size, f"{path}: length")
        body = load_object(file.read(0, file.size), str(path))
    weights = body.get("weight_map")
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights.values()):
        message = f"{path}: has no weight_map from names of tensors to names of files"
        raise errors.FileFormatError(message, hint="the index is damaged: get it again")
    if not weights:
        message = f"{path}: names no tensors, and an index has at least one"
        raise errors.FileFormatError(message, hint="the index is damaged: get it again")
    limits.check("entries", len(weights), f"{path}: number of arrays")
    limits.check("name_chars", max(map(len, weights), default=0), f"{path}: length of a name")
    return weights


def _check_name(path: Path, shard: str) -> None:
    plain = shard not in ("", ".", "..") and not set(shard) & {"/", "\\", "\0"} and Path(shard).name == shard
    if not plain or not shard.isprintable() or not shard.endswith(_SHARDS):
        message = f"{path}: names the shard {shard[:200]!r}, which is not a torch file of its directory"
        hint = "nothing outside of the directory was looked at; get the index from who made the checkpoint"
        raise errors.UnsafeFileError(message, found=(shard[:200],), hint=hint)


def _check_names(path: Path, shard: str, said: Iterable[str], held: Iterable[str]) -> None:
    said, held = set(said), set(held)
    for what, wrong in (("lacks", said - held), ("holds, beyond what the index says,", held - said)):
        if wrong:
            _disagree(path, f"{shard} {what} {len(wrong)} tensors", sorted(wrong))


def _disagree(path: Path, what: str, wrong: Sequence[str]) -> NoReturn:
    listed = ", ".join(repr(key[:80]) for key in wrong[:5])
    hint = "index and shards are of different checkpoints: get them again"
    raise errors.FileFormatError(f"{path}: {what}: {listed}", keys=tuple(wrong[:100]), hint=hint)


@final
class ShardedTorchRegistry(ListedFile):
    """A registry over the shards of one torch checkpoint."""

    adapter: ClassVar[str] = "torch"

    def __init__(self, path: Path, parts: Sequence[FileRegistry]) -> None:
        self._parts = tuple(parts)
        self._part_of = {key: part for part in parts for key in part}
        known = {key for part in parts for key in (*part, *part.aliases, *part.opaque)}
        entries = {key: _inferred_again(key, part[key], part, known) for part in parts for key in part.native_order}
        tied = {alias: key for part in parts for alias, key in part.aliases.items()}
        opaque = {key: why for part in parts for key, why in part.opaque.items()}
        names = {key: name for part in parts for key, name in part.stored_names.items()}
        super().__init__(path, Listing(tuple(entries), entries, opaque, tied, names), dialect="torch")

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read: the shards, and their index."""
        return (*(file for part in self._parts for file in part.files), self.path)

    def place(self, key: str, /) -> Place | None:
        """Where the value lies, as its shard says."""
        return self._part_of[key].place(key)

    def _read(self, key: str, /) -> np.ndarray:
        return self._part_of[key].view(key)

    def _load(self, key: str, /) -> np.ndarray:
        return self._part_of[key].read(key)

    def close(self) -> None:
        """Release the files. Idempotent."""
        for part in self._parts:
            part.close()


def _inferred_again(key: str, entry: Entry, part: FileRegistry, known: set[str]) -> Entry:
    """An entry whose kind was inferred from the names of one shard, by those of all: a sibling may lie in another."""
    if not entry.inferred:
        return entry
    names = [key, *(alias for alias, canonical in part.aliases.items() if canonical == key)]
    kinds = sorted((infer_kind(name, known) for name in names), key=lambda kind: kind.value != "parameter")
    return inferred(kinds[0], entry.shape, entry.dtype)
