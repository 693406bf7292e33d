"""`sr.save`: a file from a registry, whatever the format; and the same for a plan, through the engine.

Writing goes by the suffix or by `format=`. Only persistent entries are written, nothing that a file cannot hold is left out
silently, and the file appears complete or not at all. Finds stores by entry point and knows none by name. Imports no
framework.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace as with_fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stateregistry import errors, plugins
from stateregistry.display import counted
from stateregistry.parts import HoldsParts
from stateregistry.registry import StateRegistry
from stateregistry.stores.atomic import destination, replacing
from stateregistry.stores.atomic_folder import replacing_folder
from stateregistry.stores.base import (
    Document,
    FileRegistry,
    KeepsSidecar,
    KnowsItsSize,
    LaysOut,
    Progress,
    WritesFolder,
)
from stateregistry.stores.folder import files_below, strangers_for
from stateregistry.stores.limits import DEFAULT
from stateregistry.stores.memory import ArraysRegistry, PersistentPart
from stateregistry.stores.opening import by_suffix, named
from stateregistry.stores.sidecar import replacing_pair
from stateregistry.stores.streamed import as_it_is, held, position_of, stream
from stateregistry.stores.url import RemotePath, path_of
from stateregistry.streaming.disk import refuse_full
from stateregistry.streaming.engine import How
from stateregistry.streaming.layout import Written
from stateregistry.streaming.task import Held, Recipe

if TYPE_CHECKING:
    from stateregistry.plugins import Store


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
    told: Progress = progress if progress is not None else _quiet
    more = {**(registry.document.extra if isinstance(registry, FileRegistry) else {}), **(extra or {})}
    if isinstance(registry, HoldsParts):
        from stateregistry.stores.together import group_of, save_together  # lazy: only for who holds parts

        group = group_of(registry, target)
        if group is not None:
            return save_together(
                store, target, part, group, extra=more, shard_bytes=shard_bytes, overwrite=overwrite, progress=told
            )
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
    if isinstance(store, KnowsItsSize) and target.parent.is_dir():
        refuse_full(target, store.least_bytes(part))
    if folder:
        if shard_bytes is not None:
            message = f"{target}: the store {store.name!r} cuts its files by itself"
            raise errors.UnsupportedError(message, hint="leave shard_bytes out, or write .safetensors")
        with replacing_folder(target, overwrite=overwrite, strangers=strangers_for(store)) as temporary:
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
        if not (isinstance(store, KeepsSidecar) and store.sidecar):
            from stateregistry.stores.sent import send_streamed  # lazy: only for URLs

            return send_streamed(
                store, path, part, recipe=recipe, position=position, extra=extra, shard_bytes=shard_bytes,
                overwrite=overwrite, how=how, token=token, origins=origins,
            )  # fmt: skip
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
        message = f"{path}: is one file, which is there when its last part has arrived: there is nothing to resume"
        raise errors.UnsupportedError(message, hint="leave resume out, or write .safetensors with shard_bytes")
    with spooled(path, overwrite=overwrite) as local:
        written = save_streamed(source, local, format=store.name, overwrite=overwrite, how=how, **more)
    return None if written is None else with_fields(written, path=path.with_name(written.path.name))


def made_at(path: Path, /) -> Mapping[str, Path]:
    """The files of an output: one by its name, those of a directory by their paths from there."""
    return {name: path / name for name in files_below(path, DEFAULT)} if path.is_dir() else {path.name: path}


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


def _for_writing(target: Path, wanted: str | None) -> Store:
    if wanted is not None:
        return plugins.store(wanted)
    known = plugins.stores()
    found = by_suffix(target, known)
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        message = f"{target}: its suffix stands for {named(found)}"
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
    try:
        folder = not isinstance(target, RemotePath) and target.is_dir()
    except OSError as error:
        message = f"{str(target)[:200]!r}: is no path that can be written: {error.strerror or error}"
        raise errors.FileAccessError(message, hint="choose another name") from error
    if "\0" in str(target):
        message = f"{str(target)[:200]!r}: is no path that can be written: it has a null byte"
        raise errors.FileAccessError(message, hint="choose another name")
    if any(_is_same(origin, target) or (folder and _is_inside(origin, target)) for origin in files):
        message = f"{target}: is the file that the values come from"
        raise errors.UnsupportedError(message, hint="write to another path, then rename it")
    astray = {alias: key for alias, key in part.aliases.items() if alias < key or key not in part}
    if astray:  # a file that says so is refused by who opens it
        alias, key = next(iter(astray.items()))
        message = (
            f"{target}: {alias!r} is listed as an alias of {key!r}, and the key of a place is the least of its names"
        )
        raise errors.UnsupportedError(
            message, keys=tuple(astray), hint="report it to the author of what made this registry"
        )
    opaque = source.opaque
    if opaque:
        listed = "; ".join(f"{key!r} ({reason})" for key, reason in list(opaque.items())[:5])
        message = f"{counted(len(opaque), 'piece')} of state would be left out of {target}, being no arrays: {listed}"
        hint = "save what is wanted: sr.save(sr.snapshot(reg, where=...), path)"
        raise errors.OpaqueError(message, keys=tuple(opaque), hint=hint)
    abstract = tuple(key for key, entry in part.items() if not entry.concrete)
    if abstract:
        listed = ", ".join(map(repr, abstract[:5]))
        message = f"{counted(len(abstract), 'entry', 'has', 'have')} no values to write to {target}: {listed}"
        raise errors.AbstractError(message, keys=abstract, hint="load or replace their values first")
    return part
