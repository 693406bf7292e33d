"""The index of a sharded safetensors checkpoint: `model.safetensors.index.json`, as Hugging Face reads and writes it.

It comes from a stranger like any file. A shard is a plain name in the directory of the index: no path, no parent, no
absolute one. A symbolic link may lead to the directory itself or, in the cache of Hugging Face, to its `blobs`, and
nowhere else. What the index says and what the shards hold must agree in both directions: an array that one of them
lacks is an error, not a silent loss. Our metadata stands in the index as text. Imports no framework.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from stateregistry import errors
from stateregistry.stores.base import Document, load_object
from stateregistry.stores.safetensors_header import INDEX_SUFFIX, METADATA_NAME, SUFFIX

if TYPE_CHECKING:
    from stateregistry.stores.limits import Limits
    from stateregistry.stores.mapped import MappedFile


@final
@dataclass(frozen=True, slots=True)
class Index:
    """What an index says, checked as far as it can be without its shards.

    Attributes:
        path, folder: the index and its directory. raw: its bytes.
        shards: the names of the files, sorted. weights: which of them each array is in.
        document: our metadata, `None` where it has none.
    """

    path: Path
    raw: bytes
    shards: tuple[str, ...]
    weights: Mapping[str, str]
    document: str | None

    @property
    def folder(self) -> Path:
        """The directory of all files."""
        return self.path.parent

    def check(self, names: Sequence[Sequence[str]]) -> None:
        """Hold the names in each shard against the index.

        Raises:
            FileFormatError: an array is not where the index says, or in a shard and not in the index.
        """
        for shard, found in zip(self.shards, names, strict=True):
            here = {name for name, file in self.weights.items() if file == shard}
            for what, wrong in (
                ("lacks", here - set(found)),
                ("holds, beyond what the index says,", set(found) - here),
            ):
                if wrong:
                    listed = ", ".join(repr(name[:80]) for name in sorted(wrong)[:5])
                    message = f"{self.path}: {shard} {what} {len(wrong)} arrays: {listed}"
                    hint = "index and shards are of different checkpoints: get them again"
                    raise errors.FileFormatError(message, keys=tuple(sorted(wrong)[:100]), hint=hint)

    def problem(self) -> str | None:
        """What is wrong with the index, held against its own digest; `None` where nothing is."""
        from stateregistry.streaming.digests import NONE_YET, of_text  # lazy: only who verifies

        frame = Document.from_json(self.document, str(self.path)).frame if self.document is not None else ""
        if not frame:
            return f"{self.path.name} carries no digest"
        if of_text(self.raw.replace(frame.encode(), NONE_YET.encode(), 1)) != frame:
            return f"{self.path.name} is not what was written"
        return None


def in_folder(folder: Path) -> Path | None:
    """The one index, or else the one file, that a directory has; `None` where it has none or several."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return None
    for suffix in (INDEX_SUFFIX, SUFFIX):
        found = [name for name in names if name.endswith(suffix) and not name.startswith(".")]
        if len(found) == 1 and found[0].removesuffix(".index.json") not in {*names} - {*found}:
            return folder / found[0]
        if found:
            return None  # several, or an index beside a single file of the same name: nobody says which is meant
    return None


def looks_like_it(path: Path, head: bytes) -> bool:
    """Whether a file is the JSON of an index, going by its beginning and, where that says nothing, by its name."""
    text = head.lstrip()
    if not text.startswith(b"{"):
        return False
    return b'"weight_map"' in text or (b'"metadata"' in text and path.name.endswith(INDEX_SUFFIX))


def read(file: MappedFile, path: Path, limits: Limits) -> Index:
    """Read an index.

    Raises:
        FileFormatError: it is damaged. UnsafeFileError: it leads out of its directory.
    """
    limits.check("header_bytes", file.size, f"{path}: length")
    raw = file.read(0, file.size)
    body = load_object(raw, str(path))
    weights, metadata = body.get("weight_map"), body.get("metadata", {})
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights.values()):
        message = f"{path}: has no weight_map from names of arrays to names of files"
        raise errors.FileFormatError(message, hint="the index is damaged: get it again")
    if not weights:
        message = f"{path}: names no arrays, and an index has at least one"
        raise errors.FileFormatError(message, hint="the index is damaged: get it again")
    limits.check("entries", len(weights), f"{path}: number of arrays")
    document = metadata.get(METADATA_NAME) if isinstance(metadata, dict) else None
    if document is not None and not isinstance(document, str):
        raise errors.FileFormatError(f"{path}: our metadata is no text", hint="the index is damaged: get it again")
    shards = tuple(sorted(set(weights.values())))
    for shard in shards:
        _check_name(path, shard)
        _check_link(path, shard)
    return Index(path, raw, shards, weights, document)


def _check_name(path: Path, shard: str) -> None:
    plain = shard not in ("", ".", "..") and not set(shard) & {"/", "\\", "\0"} and Path(shard).name == shard
    if not plain or not shard.isprintable() or not shard.endswith(".safetensors"):
        message = f"{path}: names the shard {shard[:200]!r}, which is not a .safetensors file of its directory"
        hint = "nothing outside of the directory was looked at; get the index from who made the checkpoint"
        raise errors.UnsafeFileError(message, found=(shard[:200],), hint=hint)


def _check_link(path: Path, shard: str) -> None:
    """Refuse a link that leads out; one into the `blobs` beside `snapshots` is how the cache of Hugging Face works."""
    file = path.parent / shard
    if not file.is_symlink():
        return
    folder = Path(os.path.realpath(path.parent))  # never raises
    real = Path(os.path.realpath(file))
    allowed = [folder]
    if folder.parent.name == "snapshots":
        allowed.append(folder.parent.parent / "blobs")
    if not any(real.is_relative_to(root) for root in allowed):
        message = f"{path}: the shard {shard!r} is a link that leads out of its directory, to {real}"
        raise errors.UnsafeFileError(
            message, found=(str(real),), hint="copy the file into the directory if it is trusted"
        )


def merged(documents: Sequence[Document]) -> Document:
    """One document of those of all shards, for an index without ours."""
    entries = {key: row for one in documents for key, row in one.entries.items()}
    names = {key: name for one in documents for key, name in one.names.items()}
    aliases = {alias: key for one in documents for alias, key in one.aliases.items()}
    extra = {name: value for one in documents for name, value in one.extra.items()}
    dialects = {one.dialect for one in documents}
    found = Document(entries, names, aliases, dialects.pop() if len(dialects) == 1 else "", extra)
    digests = {key: digest for one in documents for key, digest in one.by_key.items()}
    return found.with_digests(digests, "") if digests.keys() == entries.keys() else found
