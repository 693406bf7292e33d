"""`sr.open`: a registry over a file, whatever the format, and what others may ask of one.

Reading goes by the content: a suffix that says something else is an error, and nothing is guessed. Every store that is
installed is asked, first-party or not; that is cheap, as a store object is light and loads its reader when it opens a
file. Finds stores by entry point and knows none by name. Imports no framework, and no NumPy before values are asked for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from stateregistry import errors, plugins
from stateregistry.stores.base import FileRegistry, OpensPart, OpensWithin
from stateregistry.stores.limits import DEFAULT, Limits
from stateregistry.stores.url import RemotePath, path_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

    from stateregistry.plugins import Store
    from stateregistry.registry import StateRegistry
    from stateregistry.streaming.origins import Asked, Joined, Stored

_HEAD = 4096
_PART = "::"


def open(  # noqa: A001  # the public name of the design
    path: str | os.PathLike[str],
    /,
    *,
    format: str | None = None,  # noqa: A002  # as above
    like: Any = None,
    limits: Limits = DEFAULT,
    verify: bool = False,
) -> FileRegistry:
    """A lazy, read-only registry over a file. Use it as a context manager.

    Args:
        path: the file, the index of a sharded checkpoint, or the directory that has one, or the URL of one of these, of
            which only what is asked for is read. `"file.pt::model"` is the state
            under a sub-key of a file that holds several, names joined by `.`; `"file.pt::."` its root.
        format: the name of the store, for a file whose suffix says something else than its content.
        like: a registry or a native object: where the file does not say kinds and flags, those of its entries of the
            same keys stand instead of inferred ones.
        limits: how much the file may ask of this process.
        verify: hold what is not values against its digest now, and each value against its own when it is first read.
            Files that `sr.save` and `sr.convert` wrote have digests where their format has room.

    Raises:
        FileMissingError: no such file. FileAccessError: not readable.
        FileFormatError: of no known format, damaged, or its suffix says something else than its content.
        UnsafeFileError: reading it would run code from it. UnsupportedError: a URL whose server gives no parts of a file.
        KeyPathError, DuplicateKeyError: stored names that give no keys of their own.
    """
    file, part = _split(path)
    store = _detect(file, format)
    found = _open(store, file, part, limits)
    try:
        if verify:
            found.verified()
        return found if like is None else found.told_by(plugins.of(like))
    except BaseException:
        found.close()
        raise


def place_of(source: StateRegistry, key: str, /) -> Stored | Joined | Asked | None:
    """Where in a file the value of a key or alias lies as it is, `None` where it does not.

    Raises:
        FileFormatError: the file was opened with `verify=True`, and the value is not what was written.
    """
    return source.trusted_origin(source.aliases.get(key, key)) if isinstance(source, FileRegistry) else None


def files_of(source: StateRegistry, /) -> tuple[Path, ...]:
    """The files that the values of a registry come from, empty for a live one."""
    return source.files if isinstance(source, FileRegistry) else ()


def refuse_damaged(source: StateRegistry, /) -> None:
    """Hold every value of a file that carries digests against its own, and all that is not values.

    Raises:
        FileFormatError: something is not what was written; each is listed.
    """
    if not isinstance(source, FileRegistry) or not source.has_digests:
        return
    found = source.damaged()
    if found:
        listed = "; ".join(why if not key else f"{key!r}: {why}" for key, why in list(found.items())[:5])
        message = f"{source.path}: is damaged in {len(found)} places: {listed}"
        raise errors.FileFormatError(message, keys=tuple(key for key in found if key), hint="restore the file")


def value_of(source: StateRegistry, key: str, /) -> np.ndarray:
    """A value to look at: of a file a copy by positioned reads, which a file that is cut short cannot kill."""
    return source.read(key) if isinstance(source, FileRegistry) else source.view(key)


def _split(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """The file and the sub-key."""
    text = os.fspath(path)
    if _PART not in text or os.path.lexists(text):
        return path_of(text), ""
    file, _, part = text.rpartition(_PART)
    if not file or not part:
        message = f"{text!r}: '::' stands between a file and the sub-key of a state in it"
        raise errors.KeyPathError(message, keys=(text,), hint="'file.pt::.' is the root of a file")
    return path_of(file), part


def _open(store: Store, file: Path, part: str, limits: Limits) -> FileRegistry:
    if part:
        if not isinstance(store, OpensPart):
            message = f"{file}: a {store.name} file holds one state, and the sub-key {part!r} was asked for"
            raise errors.UnsupportedError(message, hint="leave out '::' and what follows")
        return store.open_part(file, part, limits)
    if limits is DEFAULT:
        return store.open(file)
    if not isinstance(store, OpensWithin):
        message = f"{file}: the store {store.name!r} has no limits that could be set"
        raise errors.UnsupportedError(message, hint="leave out limits")
    return store.open_within(file, limits)


def _head(file: Path) -> bytes:
    """The first bytes of a file, `b""` for a directory."""
    try:
        if file.is_dir():
            return b""
        if not file.is_file():
            if isinstance(file, RemotePath) or not os.path.lexists(file):
                raise errors.FileMissingError(f"{file}: there is no such file", hint="check the path")
            raise errors.FileAccessError(f"{file}: is not a regular file", hint="give the path of a checkpoint file")
        with file.open("rb") as handle:
            return handle.read(_HEAD)
    except errors.StateError:
        raise
    except OSError as error:
        raise errors.FileAccessError(f"{file}: cannot be read: {error.strerror or error}") from error


def _detect(file: Path, wanted: str | None) -> Store:
    """The store that knows the content of a file; its suffix has to agree, unless the caller named the store."""
    head = _head(file)
    known = plugins.stores()
    try:
        fits = {name: store for name, store in known.items() if store.sniff(file, head)}
    except errors.StateError:
        raise
    except OSError as error:
        raise errors.FileAccessError(f"{file}: cannot be read: {error.strerror or error}") from error
    if wanted is not None:
        store = plugins.store(wanted)
        if not store.sniff(file, head):
            what = f"its content is {named(fits)}" if fits else "its content is not"
            message = f"{file}: was to be read as {wanted!r}, and {what}"
            raise errors.FileFormatError(message, expected=wanted, found=tuple(fits), hint="leave format= out")
        return store
    claimed = by_suffix(file, known)
    if not fits:
        raise _unknown_content(file, head, claimed)
    agreed = {name: store for name, store in fits.items() if name in claimed}
    if claimed and not agreed:
        message = f"{file}: its suffix says {named(claimed)}, and its content is {named(fits)}"
        hint = f"rename it, or say that you know: format={next(iter(fits))!r}"
        raise errors.FileFormatError(message, expected=tuple(claimed), found=tuple(fits), hint=hint)
    chosen = agreed or fits
    if len(chosen) > 1:
        message = f"{file}: its content could be {named(chosen)}"
        raise errors.FileFormatError(message, found=tuple(chosen), hint=f"say which: format={next(iter(chosen))!r}")
    return next(iter(chosen.values()))


def by_suffix(file: Path, known: Mapping[str, Store], /) -> dict[str, Store]:
    """The stores whose suffix a file has, by name."""
    name = file.name.lower()
    return {key: store for key, store in known.items() if name.endswith(tuple(store.suffixes))}


def named(stores: Mapping[str, Store], /) -> str:
    """Their names, for a message."""
    return " or ".join(repr(name) for name in stores)


def _unknown_content(file: Path, head: bytes, claimed: Mapping[str, Store]) -> errors.StateError:
    names = ", ".join(
        found.name if found.error is None else f"{found.name} (does not load: {found.error})"
        for found in plugins.discover(plugins.STORES)
    )
    if file.is_dir():
        message = f"{file}: is a directory, and no store knows what is in it; known: {names}"
        return errors.FileAccessError(message, hint="give the path of a checkpoint file")
    what = f"begins with {head[:16]!r}" if head else "is empty"
    said = f"its suffix says {named(claimed)}, but it" if claimed else "it"
    message = f"{file}: is of no known format: {said} {what}; known: {names}"
    hint = "the file is truncated or damaged, or its store is not installed"
    return errors.FileFormatError(message, expected=tuple(claimed) or None, found=head[:16], hint=hint)
