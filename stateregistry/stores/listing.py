"""From what a file stores to what a registry lists: one set of rules for every format with flat names.

Holds our document against the arrays that are really there: the document adds what the format cannot say and is not
believed in anything else. A document that speaks of arrays that the file does not have, or of aliases that cannot be,
is refused: a file that contradicts itself was cut or edited. Imports no framework.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from dataclasses import replace as with_fields
from typing import TYPE_CHECKING, final

from stateregistry import errors, keys
from stateregistry.entry import Entry, Kind
from stateregistry.stores.kinds import BUFFER_NAMES, infer_kind, inferred
from stateregistry.stores.names import DOT, keys_of, separator_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stateregistry.stores.base import Document


@final
@dataclass(frozen=True, slots=True)
class Listing:
    """What a registry over a file shows.

    Attributes:
        keys: the key of each stored name, in the order in which they were given, opaque ones included.
        entries: in native order.
        opaque: key -> reason.
        aliases: alias -> canonical key.
        stored: key -> stored name, of entries.
    """

    keys: tuple[str, ...]
    entries: Mapping[str, Entry]
    opaque: Mapping[str, str]
    aliases: Mapping[str, str]
    stored: Mapping[str, str]


@final
@dataclass(frozen=True, slots=True)
class Stored:
    """What a file stores, in its order.

    Attributes:
        names: the stored names, each once.
        shapes, dtypes: of each; the dtype `None` where the array is opaque.
        opaque: name -> reason, of those.
        declared: name -> entry, where the file itself says the kind.
        abstract: names of arrays without values.
        aliases: name -> name of the first name that has the same place, where the format has such.
        dialect: of the format. separator: where names are cut, if that is known whatever they look like.
        document: ours, `None` for a foreign file.
    """

    names: Sequence[str]
    shapes: Sequence[tuple[int, ...]]
    dtypes: Sequence[str | None]
    opaque: Mapping[str, str] = field(default_factory=dict)
    declared: Mapping[str, Entry] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    abstract: frozenset[str] = frozenset()
    dialect: str = ""
    document: Document | None = None
    separator: str = ""


def list_stored(stored: Stored, where: str, /) -> Listing:
    """Keys, entries, aliases and opaque state of what a file stores.

    Raises:
        KeyPathError, DuplicateKeyError: names that give no keys of their own.
        FileFormatError: our document contradicts the arrays.
    """
    document = stored.document
    if document is None:
        found = keys_of(stored.names, stored.separator or separator_of(stored.names, stored.dialect), where)
    else:
        _check_names(document, stored.names, where)
        found = keys_of(stored.names, DOT, where, given=document.names)
    key_of = dict(zip(stored.names, found, strict=True))
    entries = _entries(stored, found, where)
    for name in stored.abstract:
        entries[key_of[name]] = with_fields(entries[key_of[name]], concrete=False)
    opaque = {key_of[name]: reason for name, reason in stored.opaque.items()}
    aliases, entries = _tied({key_of[name]: key_of[first] for name, first in stored.aliases.items()}, entries)
    if document is not None:
        aliases |= _document_aliases(document, entries, opaque, aliases, where)
        absent = sorted(document.entries.keys() - entries.keys() - opaque.keys() - aliases.keys())
        if absent:
            message = f"{where}: our metadata lists {len(absent)} entries that are not stored: {', '.join(absent[:5])}"
            hint = "the file was cut or edited: restore it, or remove the metadata to read it as a foreign file"
            raise errors.FileFormatError(message, keys=tuple(absent), hint=hint)
        entries = _ordered(document, entries, where)
    name_of = dict(zip(found, stored.names, strict=True))
    return Listing(tuple(found), entries, opaque, aliases, {key: name_of[key] for key in entries})


def _entries(stored: Stored, found: list[str], where: str) -> dict[str, Entry]:
    if stored.document is None and not stored.declared:
        return _inferred_entries(stored, found)
    known = set(found)
    declared, document = stored.declared, stored.document
    rows = document.entries if document is not None else {}
    entries: dict[str, Entry] = {}
    # Most entries of a checkpoint are equal to another one: each distinct entry is made once.
    made: dict[object, Entry] = {}
    for name, key, shape, dtype in zip(stored.names, found, stored.shapes, stored.dtypes, strict=True):
        if dtype is None:
            continue
        row = rows.get(key)
        if row is not None and document is not None:
            ident: object = (shape, dtype, *row.items()) if _is_plain(row) else key
            entry = made.get(ident)
            if entry is None:
                entry = document.entry(key, shape, dtype, where)
                assert entry is not None  # its row was just looked up
                made[ident] = entry
        elif declared and name in declared:
            entry = declared[name]
        else:
            kind = infer_kind(key, known)
            ident = (shape, dtype, kind)
            entry = made.get(ident)
            if entry is None:
                entry = made[ident] = inferred(kind, shape, dtype)
        entries[key] = entry
    return entries


def _inferred_entries(stored: Stored, found: list[str]) -> dict[str, Entry]:
    """As `_entries`, of a foreign file that says no kind: a loop that does only what its 100,000 turns need."""
    known = set(found)
    entries: dict[str, Entry] = {}
    parameters: dict[tuple[tuple[int, ...], str | None], Entry] = {}
    for key, shape, dtype in zip(found, stored.shapes, stored.dtypes, strict=True):
        if dtype is None:
            continue
        if key[key.rfind("/") + 1 :] in BUFFER_NAMES and infer_kind(key, known) is Kind.BUFFER:
            entries[key] = inferred(Kind.BUFFER, shape, dtype)
            continue
        entry = parameters.get((shape, dtype))
        if entry is None:
            entry = parameters[shape, dtype] = inferred(Kind.PARAMETER, shape, dtype)
        entries[key] = entry
    return entries


def _is_plain(row: Mapping[str, object]) -> bool:
    return {bool, str}.issuperset(map(type, row.values()))


def _check_names(document: Document, names: Sequence[str], where: str) -> None:
    known = set(names)
    given = document.names
    wrong = sorted(key for key, name in given.items() if name not in known)
    if wrong:
        message = f"{where}: our metadata names stored arrays that are not there: {', '.join(wrong[:5])}"
        raise errors.FileFormatError(message, keys=tuple(wrong), hint="the file was cut or edited: restore it")
    if len(set(given.values())) != len(given):
        raise errors.FileFormatError(f"{where}: our metadata gives one stored name to two keys", keys=tuple(given))
    for key in given:
        _check_key(key, where)


def _check_key(key: str, where: str) -> None:
    try:
        keys.split(key)
    except errors.KeyPathError as error:
        raise errors.FileFormatError(f"{where}: our metadata has an illegal key: {error.message}") from error


def _tied(aliases: dict[str, str], entries: dict[str, Entry]) -> tuple[dict[str, str], dict[str, Entry]]:
    """Aliases under the least key of each group, which stands where the first member stood."""
    if not aliases:
        return {}, entries
    groups: dict[str, list[str]] = {}
    for key, first in aliases.items():
        groups.setdefault(first, [first]).append(key)
    final_aliases: dict[str, str] = {}
    renamed: dict[str, str] = {}
    for first, members in groups.items():
        least = min(members)
        renamed[first] = least
        final_aliases |= {key: least for key in members if key != least}
    merged: dict[str, Entry] = {}
    for key, entry in entries.items():
        if key in renamed:
            merged[renamed[key]] = _strongest([entries[member] for member in groups[key]])
        elif key not in aliases:
            merged[key] = entry
    return final_aliases, merged


def _strongest(members: list[Entry]) -> Entry:
    """The entry of a group: a parameter if one member is, trainable if one is, of what is declared if any is."""
    members = sorted(members, key=lambda entry: (entry.inferred, entry.kind.value != "parameter", not entry.trainable))
    return members[0]


def _document_aliases(
    document: Document,
    entries: Mapping[str, Entry],
    opaque: Mapping[str, str],
    stored: Mapping[str, str],
    where: str,
) -> dict[str, str]:
    """The aliases that the document has beyond those that the format stores, checked."""
    added = {}
    for alias, canonical in document.aliases.items():
        if stored.get(alias) == canonical:
            continue
        _check_key(alias, where)
        if alias in entries or alias in opaque or alias in stored or canonical not in entries or alias < canonical:
            message = f"{where}: our metadata calls {alias!r} an alias of {canonical!r}, which it cannot be"
            hint = "an alias has no array of its own, and its canonical key is the least of the group and is stored"
            raise errors.FileFormatError(message, keys=(alias, canonical), hint=hint)
        added[alias] = canonical
    if added:
        keys.check_prefix_free({**entries, **stored, **added, **opaque})
    return added


def _ordered(document: Document, entries: dict[str, Entry], where: str) -> dict[str, Entry]:
    if not document.order:
        return entries
    ordered = sorted(entries)
    if sorted(document.order) != list(range(len(ordered))):
        message = f"{where}: the native order in our metadata is not an order of the {len(ordered)} entries"
        raise errors.FileFormatError(message, hint="the file was cut or edited: restore it")
    return {ordered[place]: entries[ordered[place]] for place in document.order}
