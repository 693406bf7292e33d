"""What a store gives: a lazy, read-only registry over a file; and what else a store can be asked for.

A registry over a file that carries digests can hold its values against them. Imports no framework.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import replace as with_fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

from stateregistry import errors
from stateregistry.entry import Entry
from stateregistry.registry import ReadOnlyRegistry, StateRegistry
from stateregistry.stores.document import SCHEMA, Document, load_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    import numpy as np

    from stateregistry.layers.vocabulary import Layer
    from stateregistry.parts import Box, Together
    from stateregistry.stores.limits import Limits
    from stateregistry.streaming.layout import Layout
    from stateregistry.streaming.origins import Asked, Joined, Stored

__all__ = [
    "SCHEMA", "Document", "FileRegistry", "KeepsSidecar", "KnowsItsFolder", "KnowsItsSize", "LaysOut", "OpensPart",
    "OpensWithin", "Progress", "WritesFolder", "WritesTogether", "load_object",
]  # fmt: skip


class Progress(Protocol):
    """Told, after each value that was written, its key and how many bytes it had."""

    def __call__(self, key: str, nbytes: int, /) -> None:
        """Take note."""


@runtime_checkable
class OpensWithin(Protocol):
    """A store that can be told how much a file may ask for (`sr.open(path, limits=...)`)."""

    def open_within(self, path: Path, limits: Limits, /) -> FileRegistry:
        """As `Store.open`, with limits other than the defaults."""


@runtime_checkable
class OpensPart(Protocol):
    """A store whose files may hold a state deeper inside (`sr.open("file.pt::model.encoder")`)."""

    def open_part(self, path: Path, part: str, limits: Limits, /) -> FileRegistry:
        """As `Store.open`, the state under a sub-key: names joined by `.`; `.` alone is the root as it is."""


@runtime_checkable
class KeepsSidecar(Protocol):
    """A store whose format has no room for our document.

    Where `sidecar` is true, `sr.save` writes the document beside the file (`stateregistry.stores.sidecar`), and the
    store's `open` calls `sidecar.read_document(path)`.
    """

    sidecar: bool


@runtime_checkable
class WritesFolder(Protocol):
    """A store whose output is a directory: where `folder` is true, `write` makes it at the path that it is given."""

    folder: bool


@runtime_checkable
class KnowsItsFolder(Protocol):
    """A store that says what a directory holds beside a checkpoint of its format: one that does may be replaced."""

    def strangers(self, folder: Path, /) -> Sequence[str]:
        """The names in a directory that are no part of one such checkpoint; all of them where it is none."""


@runtime_checkable
class KnowsItsSize(Protocol):
    """A store whose output has a least size, so that a disk without room for it is refused before the work starts."""

    def least_bytes(self, source: StateRegistry, /) -> int:
        """Bytes that the output of `source` has at least."""


@runtime_checkable
class WritesTogether(Protocol):
    """A store whose format lets every process write what it holds."""

    def write_together(
        self, path: Path, source: StateRegistry, group: Together, /, *, extra: Mapping[str, Any], progress: Progress
    ) -> None:
        """As `Store.write`, called by every process of a group with the same arguments.

        Args:
            source: the persistent part of a registry that holds parts (`stateregistry.parts.HoldsParts`).
        """


@runtime_checkable
class LaysOut(Protocol):
    """A store that knows where in its files every value will lie before it is there, so that the engine can write them."""

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
        """The files that `path` becomes, in shards of at most `shard_bytes` where that is given. Reads no values.

        Args:
            extra: documents that travel in ours.
            before: names of the files of the output that was there when the run began that is resumed; `None` for a
                new run.

        Raises:
            UnsupportedError: what the format cannot hold, or shards that it does not have.
        """


class FileRegistry(ReadOnlyRegistry):
    """A registry over a file. A context manager: values read before `close` stay valid, views do not.

    Attributes:
        path: the file or directory.
        document: what our own metadata says; empty for a foreign file.
    """

    adapter: ClassVar[str]
    _instead = "load it into a live model with sr.load(model, path), or write a new file with sr.save"
    #: Whether every value is held against its digest when it is read for the first time, and the keys that were.
    _verifying: bool = False
    _good: set[str]
    #: What `like=` says of entries whose kind the file does not say.
    _told: Mapping[str, Entry] = MappingProxyType({})
    _told_layers: tuple[Layer, ...] = ()

    def __init__(self, path: Path, *, dialect: str = "", document: Document | None = None) -> None:
        self.path = path
        self.document = document if document is not None else Document()
        self._dialect = self.document.dialect or dialect
        self._good = set()

    @property
    def dialect(self) -> str:
        """The dialect its names are in, `""` where the format and our document say nothing."""
        return self._dialect

    @abstractmethod
    def close(self) -> None:
        """Release the file. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def unwrap(self) -> Path:
        """The path."""
        return self.path

    @property
    def stored_names(self) -> Mapping[str, str]:
        """The name that each entry has inside the file, by key."""
        return {key: key for key in self}

    def _frame_problem(self) -> str | None:
        """What is wrong with all that is not values, held against its digest; `None` where nothing is."""
        return None

    @property
    def has_digests(self) -> bool:
        """Whether the file carries digests of its values, so that damage can be found."""
        return bool(self.document.digests)

    def verified(self) -> Self:
        """This registry, from now on holding every value against its digest when it is read for the first time.

        Raises:
            FileFormatError: the file carries no digests, or what is not values is damaged.
        """
        if not self.has_digests:
            message = f"{self.path}: carries no digests, so that nobody can tell whether it is damaged"
            hint = "only files that sr.save or sr.convert wrote have them: leave out verify, or write it again"
            raise errors.FileFormatError(message, hint=hint)
        problem = self._frame_problem()
        if problem is not None:
            raise errors.FileFormatError(f"{self.path}: {problem}", hint="the file is damaged: restore it")
        self._verifying, self._good = True, set()
        return self

    def damaged(self) -> Mapping[str, str]:
        """Every value that is not what was written, with the reason; `""` for what is not values. Reads everything.

        Raises:
            FileFormatError: the file carries no digests.
        """
        wrong: dict[str, str] = {}
        if not self.has_digests:
            self.verified()  # says so
        problem = self._frame_problem()
        if problem is not None:
            wrong[""] = problem
        for key, digest in self.document.by_key.items():
            problem = self._value_problem(key, digest)
            if problem is not None:
                wrong[key] = problem
        return MappingProxyType(wrong)

    def _value_problem(self, key: str, digest: str) -> str | None:
        from stateregistry.streaming import digests  # lazy: only who verifies
        from stateregistry.streaming.disk import File
        from stateregistry.streaming.pieces import pieces

        if key not in self or not self[key].concrete:
            return "is listed with a digest and has no values"
        entry, place = self[key], self.place(key)
        try:
            asked = self.asked(key) if place is None else None
            if asked is not None:
                found = digests.of_pieces(entry.dtype, entry.shape, pieces(asked))
            elif place is None:
                found = digests.of_array(self._load_or_view(key))
            else:
                with File.reading(place.path, place.size, place.modified) as file:
                    found = digests.of_stored(file, entry.dtype, entry.shape, place.extents)
        except errors.FileFormatError as error:
            return error.message
        if found != digest:
            return f"its bytes have the digest {found}, and had {digest} when they were written"
        return None

    def _load_or_view(self, key: str) -> np.ndarray:
        array = self._load(key)
        return super().view(key) if array is None else array

    def _hold(self, key: str) -> None:
        """Hold a canonical key's value against its digest, once.

        Raises:
            FileFormatError: it is not what was written, or was added by another program.
        """
        if not self._verifying or key in self._good or not self[key].concrete:
            return
        digest = self.document.by_key.get(key)
        problem = self._value_problem(key, digest) if digest else "has no digest: another program has added it"
        if problem is not None:
            message = f"{self.path}: {key!r}: {problem}"
            raise errors.FileFormatError(message, keys=(key,), hint="the file is damaged: restore it")
        self._good.add(key)

    def view(self, key: str, /) -> np.ndarray:
        """As `StateRegistry.view`; a file that was opened with `verify=True` holds the value against its digest first."""
        if self._verifying:
            self._hold(self._canonical(key)[0])
        return super().view(key)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that values come from."""
        return (self.path,)

    def place(self, key: str, /) -> Stored | None:
        """Where in a file the value of a canonical key lies as it is: C order, little-endian; `None` where it does not."""
        return None

    def origin(self, key: str, /) -> Stored | Joined | None:
        """As `place`, and for a value of which several processes have written parts, where each of these lies."""
        return self.place(key)

    def asked(self, key: str, /) -> Asked | None:
        """How the library of the format is asked for a canonical key's value in blocks; `None` where it gives it whole."""
        return None

    def trusted_origin(self, key: str, /) -> Stored | Joined | Asked | None:
        """`origin` or `asked`, for who will read there: with `verify=True` the value is held against its digest first.

        Raises:
            FileFormatError: it is not what was written.
        """
        self._hold(key)
        return self.origin(key) or self.asked(key)

    def read(self, key: str, /) -> np.ndarray:
        """As `StateRegistry.read`, by positioned reads where the store has them.

        A file that is cut short meanwhile is an error then, not a fault in a memory map.
        """
        canonical, entry = self._canonical(key)
        self._hold(canonical)
        array = self._load(canonical) if entry.concrete else None
        return super().read(key) if array is None else array

    def read_part(self, key: str, box: Box, /) -> np.ndarray:
        """The elements of a box of a canonical key's value, in C order; of what lies as it is in a file no others are read.

        A file that was opened with `verify=True` holds the whole value against its digest first.
        """
        self._hold(key)
        entry, origin = self[key], self.origin(key)
        if origin is None:
            window = tuple(slice(at, at + size) for at, size in zip(box.offsets, box.sizes, strict=True))
            return self.read(key)[window].copy()
        from stateregistry.stores.boxes import read_box  # lazy: only for parts

        return read_box(origin, entry.shape, box)

    def _load(self, key: str, /) -> np.ndarray | None:
        """The value of a canonical, concrete key as `read` promises it; `None` where `_read` is all that there is."""
        return None

    def told_by(self, like: StateRegistry, /) -> Self:
        """The same file, in which the kinds, flags and layers of `like` stand where the file's own are inferred.

        Only entries of equal keys take part; what our document says of an entry is not inferred and stays. A layer
        takes part if the file holds all its arrays in the same shapes.
        """
        other = copy.copy(self)
        entries = dict(like.items())
        told = {**entries, **{alias: entries[key] for alias, key in like.aliases.items()}}
        other._told, other._listed = MappingProxyType(told), None  # noqa: SLF001  # of the same class
        other._told_layers = tuple(layer for layer in like.layers if self._has_layer(layer, told))  # noqa: SLF001
        return other

    def _has_layer(self, layer: Layer, told: Mapping[str, Entry]) -> bool:
        """Whether the file holds every array of a layer, in the shape that the other side has it."""
        listing, aliases = self._listing(), self._aliases()
        keys = set(layer.roles.values())
        found = {key: listing.get(aliases.get(key, key)) for key in keys}
        return all(entry is not None and entry.shape == told[key].shape for key, entry in found.items())

    def _flagged(self, entries: Mapping[str, Entry]) -> Mapping[str, Entry]:
        entries = super()._flagged(entries)
        if not self._told:
            return entries
        return {key: _informed(entry, self._told.get(key)) for key, entry in entries.items()}

    def _layers(self) -> tuple[Layer, ...]:
        from stateregistry.layers.infer import infer_layers  # lazy: only a conversion asks

        told = {key for layer in self._told_layers for key in layer.roles.values()}
        rest = {key: entry for key, entry in self._listing().items() if key not in told}  # in native order
        return (*self._told_layers, *infer_layers(rest, self.dialect))


def _informed(entry: Entry, told: Entry | None) -> Entry:
    if told is None or not entry.inferred:
        return entry
    entry = with_fields(entry, kind=told.kind, trainable=False, inferred=False)
    return with_fields(
        entry,
        trainable=told.trainable and entry.can_train,
        persistent=told.persistent,
        rng=told.rng,
        tag=told.tag,
    )
