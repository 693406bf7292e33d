"""The document of ours that travels with a file: what a format cannot say about the state that it holds.

Kind and flags of every entry, aliases, the native spelling, digests, the residual of a conversion. It is JSON, so that it
fits the metadata of any format or a sidecar, and is checked when it is read: it comes from a file, so nothing in it is
believed that contradicts the arrays. Imports no framework.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from dataclasses import replace as with_fields
from typing import TYPE_CHECKING, Any, NoReturn, final

from stateregistry import errors
from stateregistry.entry import Entry, Kind
from stateregistry.stores.names import first_repeated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stateregistry.registry import StateRegistry

SCHEMA = "stateregistry.file/1"


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
        digests: xxh3_128 of every value, in the order of the sorted keys, as one text; empty where none were made.
        frame: xxh3_128 of all that is not values (the header of a file), itself read as zeros; empty where none was made.
    """

    entries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    dialect: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    order: tuple[int, ...] = ()
    digests: str = ""
    frame: str = ""

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
            source: the registry.
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
        body |= {name: text for name, text in (("digests", self.digests), ("frame", self.frame)) if text}
        try:
            return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            message = f"what is to travel with the file is not JSON: {error}"
            raise errors.UnsupportedError(message, hint="extra takes texts, numbers, lists and objects") from error

    @classmethod
    def from_json(cls, text: str, where: str) -> Document:
        """The document that a file carries.

        Args:
            text: its JSON.
            where: the file, for messages.

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
        digests, frame = body.get("digests", ""), body.get("frame", "")
        if not isinstance(digests, str) or (digests and len(digests) != _DIGEST * len(parts["entries"])):
            wrong.append("digests")
        if not isinstance(frame, str) or len(frame) not in (0, _DIGEST):
            wrong.append("frame")
        if wrong:
            raise errors.FileFormatError(f"{where}: our metadata has a part of the wrong type: {', '.join(wrong)}")
        fixed = {"digests": digests, "frame": frame}
        return cls(parts["entries"], parts["names"], parts["aliases"], dialect, parts["extra"], tuple(order), **fixed)

    @property
    def by_key(self) -> dict[str, str]:
        """The digests of all values, by key."""
        if not self.digests:
            return {}
        text = self.digests
        return {key: text[n * _DIGEST : (n + 1) * _DIGEST] for n, key in enumerate(sorted(self.entries))}

    def with_digests(self, digests: Mapping[str, str], frame: str) -> Document:
        """The same with the digests of all values, and that of what is between them, the frame."""
        return with_fields(self, digests="".join(digests[key] for key in sorted(self.entries)), frame=frame)

    def entry(self, key: str, shape: tuple[int, ...], dtype: str, where: str) -> Entry | None:
        """The entry of a stored array, `None` where the document does not have its key.

        Args:
            shape, dtype: those of the array that is really there.
            where: the file, for messages.

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

    Args:
        where: the file, for messages.

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


_DIGEST = 32  # characters
_DEFAULTS = {"trainable": False, "persistent": True, "rng": False, "inferred": False}


def _flags(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": entry.kind.value}
    row |= {name: getattr(entry, name) for name, default in _DEFAULTS.items() if getattr(entry, name) is not default}
    if entry.tag:
        row["tag"] = entry.tag
    return row
