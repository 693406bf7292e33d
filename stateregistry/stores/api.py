"""`sr.open` and `sr.save`: registries over files and files from registries, whatever the format.

Reading goes by the content: a suffix that says something else is an error, and nothing is guessed. Writing goes by the
suffix or by `format=`. Only persistent entries are written, nothing that a file cannot hold is left out silently, and
the file appears complete or not at all. Finds stores by entry point and knows none by name. Imports no framework.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace as with_fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stateregistry import errors, plugins
from stateregistry.registry import StateRegistry
from stateregistry.stores.atomic import destination, replacing
from stateregistry.stores.atomic_folder import replacing_folder
from stateregistry.stores.base import (
    Document,
    FileRegistry,
    KeepsSidecar,
    LaysOut,
    OpensPart,
    OpensWithin,
    Progress,
    WritesFolder,
)
from stateregistry.stores.folder import files_below
from stateregistry.stores.limits import DEFAULT, Limits
from stateregistry.stores.memory import ArraysRegistry, PersistentPart
from stateregistry.stores.sidecar import replacing_pair
from stateregistry.stores.streamed import as_it_is, held, position_of, stream
from stateregistry.stores.url import RemotePath, path_of
from stateregistry.streaming.engine import How
from stateregistry.streaming.layout import Written
from stateregistry.streaming.task import Held, Joined, Recipe, Stored

if TYPE_CHECKING:
    from stateregistry.plugins import Store

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


def save(
    source: Any,
    path: str | os.PathLike[str],
    /,
    *,
    format: str | None = None,  # noqa: A002  # the public name of the design
    shard_bytes: int | None = None,
    overwrite: bool = False,
    extra: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the persistent entries of a state to a file, which appears complete or not at all.

    Args:
        source: a registry, a native object, or a mapping from key to NumPy array.
        path: the file to write, or a URL, to which it is sent when it is whole; its suffix names the format.
        format: the name of the store, where the suffix does not.
        shard_bytes: cut the values into several files of at most so many bytes, where the format has shards; the
            path that is returned is that of their index then.
        overwrite: replace a file that exists. It stays whole until the new one is.
        extra: documents to travel with the file, JSON by name. Those that a source file carries (the residual of a
            conversion) travel on; one given here stands instead of one of the same name.
        progress: told the key and the bytes of each value that was written.

    Returns:
        The path.

    Raises:
        TargetExistsError: the file exists and `overwrite` was not given. FileMissingError: its directory does not.
        AbstractError: entries without values. OpaqueError: state that is no array, which would be left out.
        UnsupportedError: no store for the suffix, a state that the format cannot hold, or source and target are one
            file. FileAccessError: the system refuses. In every case the target is as it was.
    """
    target = path_of(path)
    store = _for_writing(target, format)
    registry = _registry(source)
    part = _writable(registry, target)
    if isinstance(target, RemotePath):
        from stateregistry.stores.upload import spooled  # lazy: only for URLs

        with spooled(target, overwrite=overwrite) as local:
            made = save(
                registry, local, format=store.name, shard_bytes=shard_bytes, overwrite=overwrite, extra=extra,
                progress=progress,
            )  # fmt: skip
        return target.with_name(made.name)
    folder = isinstance(store, WritesFolder) and store.folder
    if not folder:
        destination(target, overwrite=overwrite)
    told: Progress = progress if progress is not None else _quiet
    more = {**(registry.document.extra if isinstance(registry, FileRegistry) else {}), **(extra or {})}
    if folder:
        if shard_bytes is not None:
            message = f"{target}: the store {store.name!r} cuts its files by itself"
            raise errors.UnsupportedError(message, hint="leave shard_bytes out, or write .safetensors")
        with replacing_folder(target, overwrite=overwrite, known=lambda path: store.sniff(path, b"")) as temporary:
            store.write(temporary, part, extra=more, progress=told)
        return target
    if shard_bytes is not None:
        if not isinstance(store, LaysOut):
            message = f"{target}: the store {store.name!r} writes one file, however large"
            raise errors.UnsupportedError(message, hint="leave shard_bytes out, or write .safetensors")
        return _streamed(store, target, part, more, shard_bytes, None, overwrite=overwrite, progress=told)
    if isinstance(store, KeepsSidecar) and store.sidecar:
        document = Document.describe(part, extra=more, ordered=False)  # these formats have an order of their own
        document.to_json()  # what is not JSON is refused before the work starts
        if isinstance(store, LaysOut):
            real = destination(target, overwrite=overwrite)
            _streamed(store, real, part, more, None, document, overwrite=overwrite, progress=told)
            return target
        with replacing_pair(target, document, overwrite=overwrite) as temporary:
            store.write(temporary, part, extra=more, progress=told)
    else:
        with replacing(target, overwrite=overwrite) as temporary:
            store.write(temporary, part, extra=more, progress=told)
    return target


def save_streamed(
    source: StateRegistry,
    path: Path,
    /,
    *,
    recipe: Callable[[str], Recipe],
    position: Callable[[str], tuple[str, int]],
    origins: Sequence[Path],
    format: str | None,  # noqa: A002  # as above
    shard_bytes: int | None,
    overwrite: bool,
    extra: Mapping[str, Any],
    how: How,
    token: str,
) -> Written | None:
    """As `save`, through the engine; `None`, with nothing done, where the store of the format knows no layout.

    Args:
        source: what is written; its values come from `recipe`, in the order of `position`.
        origins: the files that values come from, none of which may be the target.
        token: what the values depend on.

    Raises:
        As `save`.
    """
    store = _for_writing(path, format)
    if not isinstance(store, LaysOut):
        return None
    part = _writable(source, path, origins)
    if isinstance(path, RemotePath):
        return _sent(
            store, source, path, recipe=recipe, position=position, origins=origins, shard_bytes=shard_bytes,
            overwrite=overwrite, extra=extra, how=how, token=token,
        )  # fmt: skip
    destination(path, overwrite=overwrite or how.resume)
    document = None
    if isinstance(store, KeepsSidecar) and store.sidecar:
        document = Document.describe(part, extra=extra, ordered=False)
        document.to_json()  # what is not JSON is refused before the work starts
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    return stream(
        store, target, part, recipe=recipe, position=position, extra=extra, shard_bytes=shard_bytes,
        overwrite=overwrite, how=how, token=token, document=document, origins=origins,
    )  # fmt: skip


def _sent(
    store: Store, source: StateRegistry, path: RemotePath, *, overwrite: bool, how: How, **more: Any
) -> Written | None:
    """As `save_streamed`, into a local directory and from there to a URL."""
    from stateregistry.stores.upload import spooled  # lazy: only for URLs

    if how.resume:
        message = f"{path}: what is sent to a URL begins anew: nothing is left there of a run that was stopped"
        raise errors.UnsupportedError(message, hint="leave resume out")
    with spooled(path, overwrite=overwrite) as local:
        written = save_streamed(source, local, format=store.name, overwrite=overwrite, how=how, **more)
    return None if written is None else with_fields(written, path=path.with_name(written.path.name))


def place_of(source: StateRegistry, key: str, /) -> Stored | Joined | None:
    """Where in a file the value of a key or alias lies as it is, `None` where it does not."""
    return source.origin(source.aliases.get(key, key)) if isinstance(source, FileRegistry) else None


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


def made_at(path: Path, /) -> Mapping[str, Path]:
    """The files of an output: one by its name, those of a directory by their paths from there."""
    return {name: path / name for name in files_below(path, DEFAULT)} if path.is_dir() else {path.name: path}


def value_of(source: StateRegistry, key: str, /) -> np.ndarray:
    """A value to look at: of a file a copy by positioned reads, which a file that is cut short cannot kill."""
    return source.read(key) if isinstance(source, FileRegistry) else source.view(key)


def in_memory(array: np.ndarray, /) -> Held:
    """A value in memory as the engine takes it."""
    return held(array)


def _streamed(
    store: LaysOut,
    target: Path,
    part: PersistentPart,
    extra: Mapping[str, Any],
    shard_bytes: int | None,
    document: Document | None,
    *,
    overwrite: bool,
    progress: Progress,
) -> Path:
    written = stream(
        store, target, part, recipe=as_it_is(part), position=lambda key: position_of(part, key), extra=extra,
        shard_bytes=shard_bytes, overwrite=overwrite, how=How(workers=1), token="", document=document, each=progress,
    )  # fmt: skip
    return written.path


def _quiet(key: str, nbytes: int, /) -> None:
    """Nobody asked."""


# -------------------------------------------------------------------- reading


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
    fits = {name: store for name, store in known.items() if store.sniff(file, head)}
    if wanted is not None:
        store = plugins.store(wanted)
        if not store.sniff(file, head):
            what = f"its content is {_listed(fits)}" if fits else "its content is not"
            message = f"{file}: was to be read as {wanted!r}, and {what}"
            raise errors.FileFormatError(message, expected=wanted, found=tuple(fits), hint="leave format= out")
        return store
    claimed = _by_suffix(file, known)
    if not fits:
        raise _unknown_content(file, head, claimed)
    agreed = {name: store for name, store in fits.items() if name in claimed}
    if claimed and not agreed:
        message = f"{file}: its suffix says {_listed(claimed)}, and its content is {_listed(fits)}"
        hint = f"rename it, or say that you know: format={next(iter(fits))!r}"
        raise errors.FileFormatError(message, expected=tuple(claimed), found=tuple(fits), hint=hint)
    chosen = agreed or fits
    if len(chosen) > 1:
        message = f"{file}: its content could be {_listed(chosen)}"
        raise errors.FileFormatError(message, found=tuple(chosen), hint=f"say which: format={next(iter(chosen))!r}")
    return next(iter(chosen.values()))


def _by_suffix(file: Path, known: Mapping[str, Store]) -> dict[str, Store]:
    name = file.name.lower()
    return {key: store for key, store in known.items() if name.endswith(tuple(store.suffixes))}


def _listed(stores: Mapping[str, Store]) -> str:
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
    said = f"its suffix says {_listed(claimed)}, but it" if claimed else "it"
    message = f"{file}: is of no known format: {said} {what}; known: {names}"
    hint = "the file is truncated or damaged, or its store is not installed"
    return errors.FileFormatError(message, expected=tuple(claimed) or None, found=head[:16], hint=hint)


# -------------------------------------------------------------------- writing


def _for_writing(target: Path, wanted: str | None) -> Store:
    if wanted is not None:
        return plugins.store(wanted)
    known = plugins.stores()
    found = _by_suffix(target, known)
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        message = f"{target}: its suffix stands for {_listed(found)}"
        raise errors.UnsupportedError(message, hint=f"say which: format={next(iter(found))!r}")
    suffixes = ", ".join(f"{name} ({' '.join(store.suffixes)})" for name, store in known.items()) or "none"
    message = f"{target}: its suffix names no format that can be written; stores: {suffixes}"
    raise errors.UnsupportedError(message, hint="choose a suffix of the list, or pass format=")


def _registry(source: Any) -> StateRegistry:
    if isinstance(source, StateRegistry):
        return source
    if not isinstance(source, Mapping):
        return plugins.of(source)
    try:
        pairs = dict(source.items())
    except Exception as error:
        message = f"the mapping to save raised while it was read ({type(error).__name__}: {error})"
        raise errors.UnsupportedError(message, hint="nothing was written") from error
    if all(isinstance(key, str) and isinstance(value, (np.ndarray, np.generic)) for key, value in pairs.items()):
        return ArraysRegistry({key: np.asarray(value) for key, value in pairs.items()})
    return plugins.of(source)


def _is_same(one: Path, two: Path) -> bool:
    if isinstance(one, RemotePath) or isinstance(two, RemotePath):
        return os.fspath(one) == os.fspath(two)
    try:
        return one.samefile(two)
    except OSError:
        return False  # one of them is not there, or cannot be looked at: `destination` says which


def _is_inside(origin: Path, folder: Path) -> bool:
    return any(_is_same(parent, folder) for parent in origin.absolute().parents)


def _writable(source: StateRegistry, target: Path, origins: Sequence[Path] = ()) -> PersistentPart:
    """What is to be written, all of which can be."""
    part = PersistentPart(source)
    files = source.files if isinstance(source, FileRegistry) else tuple(origins)
    folder = not isinstance(target, RemotePath) and target.is_dir()
    if any(_is_same(origin, target) or (folder and _is_inside(origin, target)) for origin in files):
        message = f"{target}: is the file that the values come from"
        raise errors.UnsupportedError(message, hint="write to another path, then rename it")
    opaque = source.opaque
    if opaque:
        listed = "; ".join(f"{key!r} ({reason})" for key, reason in list(opaque.items())[:5])
        message = f"{len(opaque)} pieces of state are no arrays and would be left out of {target}: {listed}"
        hint = "save what is wanted: sr.save(sr.snapshot(reg, where=...), path)"
        raise errors.OpaqueError(message, keys=tuple(opaque), hint=hint)
    abstract = tuple(key for key, entry in part.items() if not entry.concrete)
    if abstract:
        listed = ", ".join(map(repr, abstract[:5]))
        message = f"{len(abstract)} entries have no values to write to {target}: {listed}"
        raise errors.AbstractError(message, keys=abstract, hint="load or replace their values first")
    return part
