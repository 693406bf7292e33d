"""Where everything will lie in a safetensors output: one file, or shards with the index that Hugging Face reads.

Within a file 8-byte elements come first and 1-byte elements last: the format allows no hole, and so every array is
aligned to its element, which torch needs to view it. Shards are cut along the native order. Their names are
`model-00001-of-00004.safetensors`; where such files are there already, a tag in the name keeps the old ones whole until
the new index stands, which is the last step. Digests have a fixed length, so that the header can be filled in at the end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_fields
from pathlib import Path
from typing import Any, final

import xxhash

from stateregistry import errors
from stateregistry.entry import DTYPES, Entry
from stateregistry.registry import StateRegistry
from stateregistry.stores.base import Document
from stateregistry.stores.names import names_of
from stateregistry.stores.safetensors_header import INDEX_SUFFIX, METADATA_NAME, NAME_OF, SUFFIX, build_header
from stateregistry.streaming.digests import NONE_YET, of_text
from stateregistry.streaming.layout import Frame, Layout, OutFile, Slot

Row = tuple[str, str, Entry]


def layout(
    path: Path,
    source: StateRegistry,
    *,
    extra: Mapping[str, Any],
    shard_bytes: int | None,
    before: Sequence[str] | None = None,
) -> Layout:
    """The layout of every entry of `source`: in one file, or in shards of at most `shard_bytes` of values each.

    Args:
        before: the files of the output that was there when the run began that is resumed; by default those there now.

    Raises:
        UnsupportedError: a dtype that the format does not have, a header beyond what it allows, or shards of no size.
        KeyPathError: a key that cannot name an array.
    """
    entries = dict(source.items())
    _check_dtypes(entries)
    native = source.native_order
    shards = _cut([(key, entries[key].nbytes) for key in native], shard_bytes)
    names = [path.name]
    old: tuple[str, ...] = ()
    if len(shards) > 1 or path.name.endswith(INDEX_SUFFIX):
        old = _there(path) if before is None else tuple(before)
        names = _shard_names(path, len(shards), old)
    stored, exact = names_of(native)
    order = [sorted(keys, key=lambda key: -DTYPES[entries[key].dtype]) for keys in shards]
    flat = tuple(key for keys in order for key in keys)
    document = Document.describe(source, names=exact, extra=extra, ordered=flat == native)
    if names == [path.name]:
        return _one(names[0], [(key, stored[key], entries[key]) for key in flat], document)
    parts = [
        _one(name, [(key, stored[key], entries[key]) for key in keys], _share(document, keys))
        for name, keys in zip(names, order, strict=True)
    ]
    total = sum(entry.nbytes for entry in entries.values())
    return _many(path, parts, stored, document, total, old)


def _check_dtypes(entries: Mapping[str, Entry]) -> None:
    wrong = tuple(key for key, entry in entries.items() if entry.dtype not in NAME_OF)
    if wrong:
        listed = ", ".join(f"{key!r} ({entries[key].dtype})" for key in wrong[:5])
        message = f"the safetensors format has no dtype for {len(wrong)} entries: {listed}"
        hint = "write a .pt file, which has them, or cast them with sr.cast"
        raise errors.UnsupportedError(message, keys=wrong, hint=hint)


def _cut(sizes: Sequence[tuple[str, int]], limit: int | None) -> list[list[str]]:
    """Keys in shards, in order; an array above the limit has a shard of its own."""
    if limit is not None and (type(limit) is not int or limit < 1):
        raise errors.UnsupportedError(f"shard_bytes is a positive number of bytes, not {limit!r}")
    shards: list[list[str]] = [[]]
    filled = 0
    for key, size in sizes:
        if limit is not None and shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += size
    return shards


# ---------------------------------------------------------------------- files


def _header(rows: Sequence[Row], document: Document) -> bytes:
    metadata = {METADATA_NAME: document.to_json()}
    if document.dialect == "torch":
        metadata["format"] = "pt"  # transformers asks for it
    return build_header([(stored, entry.dtype, entry.shape, entry.nbytes) for _, stored, entry in rows], metadata)


@final
@dataclass(frozen=True, slots=True)
class Seal:
    """What closes one file: its header, with the digests of its values and of itself. Can be sent to another process."""

    rows: tuple[Row, ...]
    document: Document

    def __call__(self, digests: Mapping[str, str], number: int, /) -> tuple[Frame, ...]:
        """The header, from the digests of at least the values of this file."""
        own = {key: digests[key] for key in self.document.entries}
        frame = of_text(_header(self.rows, self.document.with_digests(own, NONE_YET)))
        return ((0, _header(self.rows, self.document.with_digests(own, frame))),)


@final
@dataclass(frozen=True, slots=True)
class Seals:
    """What closes each file of several."""

    parts: tuple[Seal, ...]

    def __call__(self, digests: Mapping[str, str], number: int, /) -> tuple[Frame, ...]:
        """As that of the file of a number."""
        return self.parts[number](digests, 0)


def _one(name: str, rows: Sequence[Row], document: Document) -> Layout:
    blank = document.with_digests(dict.fromkeys(document.entries, NONE_YET), NONE_YET)
    header = _header(rows, blank)
    cursor = len(header)
    slots = {}
    for key, _, entry in rows:
        slots[key] = Slot(0, (((cursor, entry.nbytes),),))
        cursor += entry.nbytes

    seal = Seal(tuple(rows), document)
    return Layout((OutFile(name, cursor, ((0, header),)),), slots, seal)


def _share(document: Document, keys: Sequence[str]) -> Document:
    """What the document says of the entries of one shard, so that it can be read alone."""
    here = set(keys)
    return Document(
        {key: row for key, row in document.entries.items() if key in here},
        {key: name for key, name in document.names.items() if key in here},
        {alias: key for alias, key in document.aliases.items() if key in here},
        document.dialect,
    )


def _many(
    path: Path,
    parts: Sequence[Layout],
    stored: Mapping[str, str],
    document: Document,
    total: int,
    old: tuple[str, ...],
) -> Layout:
    files = tuple(part.files[0] for part in parts)
    slots = {key: Slot(n, slot.places) for n, part in enumerate(parts) for key, slot in part.slots.items()}
    names = {stored[key]: files[slot.file].name for key, slot in slots.items()}
    index = index_path(path)

    def text(told: Document) -> bytes:
        metadata = {"total_size": total, METADATA_NAME: told.to_json()}
        body = {"metadata": metadata, "weight_map": names}
        return (json.dumps(body, indent=2, sort_keys=True, ensure_ascii=True) + "\n").encode("ascii")

    def manifest(digests: Mapping[str, str], /) -> bytes:
        blank = document.with_digests(digests, NONE_YET)
        return text(with_fields(blank, frame=of_text(text(blank))))

    seals = Seals(tuple(part.seal for part in parts if isinstance(part.seal, Seal)))
    return Layout(files, slots, seals, index.name, manifest, old)


# ---------------------------------------------------------------------- names


def index_path(path: Path) -> Path:
    """The index of the shards that are written for `path`."""
    return path if path.name.endswith(INDEX_SUFFIX) else path.with_name(f"{_stem(path)}{INDEX_SUFFIX}")


def _stem(path: Path) -> str:
    return path.name.removesuffix(INDEX_SUFFIX).removesuffix(SUFFIX)


def _shard_names(path: Path, count: int, taken: Sequence[str]) -> list[str]:
    """The names that transformers gives; with a tag where the output that is replaced has such."""
    stem = _stem(path)
    for number in range(10_000):
        tag = f"-{xxhash.xxh3_64_hexdigest(f'{stem} {number}'.encode(errors='surrogateescape'))[:8]}" if number else ""
        names = [f"{stem}{tag}-{n:05d}-of-{count:05d}{SUFFIX}" for n in range(1, count + 1)]
        if not set(names) & set(taken):
            return names
    raise errors.FileAccessError(f"{path}: no names are left for its shards", hint="remove old shards beside it")


def _there(path: Path) -> tuple[str, ...]:
    """The files of the output that is there now: shards that its index names, and a single file of the same name."""
    own = f"{_stem(path)}-"
    single = path.with_name(f"{_stem(path)}{SUFFIX}")
    try:
        listed = set(json.loads(index_path(path).read_bytes())["weight_map"].values())
    except errors.FileAccessError:
        raise  # of a URL: whether there is an index is not known
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        listed = set()  # there is no index, or one that names nothing
    shards = sorted(name for name in listed if isinstance(name, str) and _is_shard(name, own))
    return (*((single.name,) if single.is_file() else ()), *shards)


def _is_shard(name: str, own: str) -> bool:
    """Whether a name in an old index is a shard of this output, and so may be removed with it."""
    return Path(name).name == name and name.startswith(own) and name.endswith(SUFFIX)
