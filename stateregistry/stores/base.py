"""What a store gives: a lazy, read-only registry over a file, and the document of ours that travels with a file.

The `Document` is what a format cannot say: kind and flags of every entry, aliases, the native spelling, the residual of
a conversion. It is JSON, so that it fits the metadata of any format or a sidecar, and is checked when it is read: it
comes from a file, so nothing in it is believed that contradicts the arrays. Imports no framework.
"""

from __future__ import annotations

import copy
import json
from abc import abstractmethod
from dataclasses import dataclass, field
from dataclasses import replace as with_fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol, Self, final, runtime_checkable

from stateregistry import errors
from stateregistry.entry import Entry, Kind
from stateregistry.registry import ReadOnlyRegistry, StateRegistry
from stateregistry.stores.names import first_repeated

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    import numpy as np

    from stateregistry.layers.vocabulary import Layer
    from stateregistry.stores.limits import Limits

SCHEMA = "stateregistry.file/1"


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


class FileRegistry(ReadOnlyRegistry):
    """A registry over a file. A context manager: values read before `close` stay valid, views do not.

    Attributes:
        path: the file or directory.
        document: what our own metadata says; empty for a foreign file.
    """

    adapter: ClassVar[str]
    _instead = "load it into a live model with sr.load(model, path), or write a new file with sr.save"
    #: What `like=` says of entries whose kind the file does not say.
    _told: Mapping[str, Entry] = MappingProxyType({})
    _told_layers: tuple[Layer, ...] = ()

    def __init__(self, path: Path, *, dialect: str = "", document: Document | None = None) -> None:
        self.path = path
        self.document = document if document is not None else Document()
        self._dialect = self.document.dialect or dialect

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

    def read(self, key: str, /) -> np.ndarray:
        """As `StateRegistry.read`, by positioned reads where the store has them.

        A file that is cut short meanwhile is an error then, not a fault in a memory map.
        """
        canonical, entry = self._canonical(key)
        array = self._load(canonical) if entry.concrete else None
        return super().read(key) if array is None else array

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


@final
@dataclass(frozen=True, slots=True)
class Document:
    """What a format cannot say about the state it holds.

    Attributes:
        entries: by key, the fields of an entry that are not its shape and dtype.
        names: the stored name of every key that the format's own spelling does not give.
        aliases: alias key -> canonical key.
        dialect: the dialect of the keys: the adapter that the state came from.
        order: the native order, as positions in the sorted keys; empty where the file stores the entries in it.
        extra: documents of others by name, among them the residual of a conversion.
    """

    entries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    dialect: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    order: tuple[int, ...] = ()

    @classmethod
    def describe(
        cls,
        source: StateRegistry,
        *,
        names: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
        ordered: bool = True,
    ) -> Document:
        """The document of a registry that is about to be written.

        Args:
            names: the stored names that the format's spelling does not give, by key.
            extra: documents of others.
            ordered: the file will store the entries in native order, so that the document need not.
        """
        entries = {key: _flags(entry) for key, entry in source.items()}
        order: tuple[int, ...] = ()
        if not ordered:
            position = {key: index for index, key in enumerate(source)}
            order = tuple(position[key] for key in source.native_order)
        return cls(entries, dict(names or {}), dict(source.aliases), source.dialect, dict(extra or {}), order)

    def to_json(self) -> str:
        """Canonical JSON: sorted, no spaces.

        Raises:
            UnsupportedError: `extra` has a value that JSON does not have.
        """
        body: dict[str, Any] = {
            "schema": SCHEMA, "dialect": self.dialect, "entries": self.entries, "names": self.names,
            "aliases": self.aliases, "extra": self.extra,
        }  # fmt: skip
        if self.order:
            body["order"] = self.order
        try:
            return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            message = f"what is to travel with the file is not JSON: {error}"
            raise errors.UnsupportedError(message, hint="extra takes texts, numbers, lists and objects") from error

    @classmethod
    def from_json(cls, text: str, where: str) -> Document:
        """Read a document that a file carries.

        Raises:
            FileFormatError: not JSON, another schema, or a part of the wrong type.
        """
        body = load_object(text, where)
        if body.get("schema") != SCHEMA:
            found = body.get("schema")
            message = f"{where}: our metadata has schema {str(found)[:80]!r}, expected {SCHEMA!r}"
            raise errors.FileFormatError(message, expected=SCHEMA, found=found, hint="update stateregistry")
        parts = {name: body.get(name, {}) for name in ("entries", "names", "aliases", "extra")}
        wrong = [name for name, part in parts.items() if not isinstance(part, dict)]
        wrong += [
            name
            for name in ("names", "aliases")
            if name not in wrong and not all(isinstance(text, str) for text in parts[name].values())
        ]
        dialect, order = body.get("dialect", ""), body.get("order", [])
        if not isinstance(dialect, str):
            wrong.append("dialect")
        if not isinstance(order, list) or not all(type(place) is int for place in order):
            wrong.append("order")
        if "entries" not in wrong and not all(isinstance(row, dict) for row in parts["entries"].values()):
            wrong.append("entries")
        if wrong:
            raise errors.FileFormatError(f"{where}: our metadata has a part of the wrong type: {', '.join(wrong)}")
        return cls(parts["entries"], parts["names"], parts["aliases"], dialect, parts["extra"], tuple(order))

    def entry(self, key: str, shape: tuple[int, ...], dtype: str, where: str) -> Entry | None:
        """The entry of a stored array, `None` where the document does not have it.

        Raises:
            FileFormatError: the document says of it what no entry can be.
        """
        row = self.entries.get(key)
        if row is None:
            return None
        try:
            kind = Kind(row.get("kind"))
            flags = {name: row.get(name, default) for name, default in _DEFAULTS.items()}
            if not all(isinstance(flag, bool) for flag in flags.values()) or not isinstance(row.get("tag", ""), str):
                raise TypeError("a flag that is not true or false, or a tag that is not a text")  # noqa: TRY301
            return Entry(kind, shape, dtype, tag=row.get("tag", ""), **flags)
        except (ValueError, TypeError) as error:
            message = f"{where}: our metadata of {key!r} is wrong: {error}"
            raise errors.FileFormatError(message, keys=(key,)) from error


def load_object(text: str | bytes, where: str) -> dict[str, Any]:
    """The object that a JSON text of ours is.

    Raises:
        FileFormatError: not JSON, no object, or an object with one name twice.
    """
    try:
        body = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "it nests too deep" if isinstance(error, RecursionError) else str(error)[:200]
        message = f"{where}: our metadata is not JSON: {reason}"
        raise errors.FileFormatError(message, hint="the file was cut or edited: restore it") from error
    if not isinstance(body, dict):
        message = f"{where}: our metadata is a JSON {type(body).__name__}, expected an object"
        raise errors.FileFormatError(message, hint="the file was cut or edited: restore it")
    return body


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        message = f"the name {str(first_repeated(name for name, _ in pairs))[:80]!r} stands twice in one object"
        raise ValueError(message)
    return found


def _no_constant(text: str) -> NoReturn:
    message = f"{text} is not JSON"
    raise ValueError(message)


_DEFAULTS = {"trainable": False, "persistent": True, "rng": False, "inferred": False}


def _flags(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": entry.kind.value}
    row |= {name: getattr(entry, name) for name, default in _DEFAULTS.items() if getattr(entry, name) is not default}
    if entry.tag:
        row["tag"] = entry.tag
    return row
