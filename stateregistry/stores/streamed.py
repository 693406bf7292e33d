"""Writing through the engine: a layout of a store, recipes for its values, and a commit that is whole or not at all.

A recipe says where a value is read and how it becomes the target's; without one, values of files are copied from where
they lie and others taken from memory one after another. Knows stores by their protocol, and no plan.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stateregistry import errors
from stateregistry.registry import StateRegistry
from stateregistry.stores import bits, sidecar
from stateregistry.stores.base import Document, FileRegistry, LaysOut, Progress
from stateregistry.stores.memory import PersistentPart
from stateregistry.streaming import digests, engine
from stateregistry.streaming.disk import File
from stateregistry.streaming.engine import How
from stateregistry.streaming.geometry import whole
from stateregistry.streaming.layout import Layout, Written
from stateregistry.streaming.staging import Staging, remembered
from stateregistry.streaming.task import Held, Origin, Recipe, Task, perform


def origin(source: StateRegistry, key: str) -> Origin:
    """Where a value of a registry is taken from: the place in its file, else memory."""
    whole_source = source.whole if isinstance(source, PersistentPart) else source
    place = whole_source.trusted_origin(key) if isinstance(whole_source, FileRegistry) else None
    return place if place is not None else held(source.view(key))


def held(array: np.ndarray) -> Held:
    """A value in memory as the engine takes it: C-contiguous and little-endian, not copied where it is already."""
    if array.size > 1 and not any(array.strides):
        return Held(array)
    raw = np.frombuffer(bits.encode(array), np.uint8)
    return Held(raw.view(array.dtype.newbyteorder("=")).reshape(array.shape))


def position_of(source: StateRegistry, key: str) -> tuple[str, int]:
    """Where reading a value begins, `("", 0)` where it is in memory."""
    whole_source = source.whole if isinstance(source, PersistentPart) else source
    place = whole_source.origin(key) if isinstance(whole_source, FileRegistry) else None
    return (place.path, place.extents[0][0]) if place is not None and place.extents else ("", 0)


def as_it_is(source: StateRegistry) -> Callable[[str], Recipe]:
    """The recipe of a plain copy of every value of a registry."""
    entries = dict(source.items())
    return lambda key: Recipe((origin(source, key),), (whole(max(1, math.prod(entries[key].shape))),))


def _tasks(
    layout: Layout, source: StateRegistry, recipe: Callable[[str], Recipe], place: Callable[[int], str]
) -> Iterator[Task]:
    entries = dict(source.items())
    for key, slot in layout.slots.items():
        made, entry = recipe(key), entries[key]
        yield Task(key, entry.dtype, entry.shape, place(slot.file), slot.places, made.origins, made.groups, made.cast)


def fill(path: Path, layout: Layout, source: StateRegistry, progress: Progress) -> None:
    """Write a layout of one file into `path`, which is made if it is not there; committing it is the caller's business.

    Raises:
        FileAccessError: writing failed.
    """
    (file,) = layout.files
    with File.writing(path, make=True) as out:
        out.allocate(file.size)
        for offset, data in file.frames:
            out.write(data, offset)
    found = {}
    for task in _tasks(layout, source, as_it_is(source), lambda _: str(path)):
        (outcome,) = perform((task,))
        found[task.key] = outcome.digest
        progress(task.key, task.nbytes)
    with File.writing(path) as out:
        for offset, data in layout.seal(found, 0):
            out.write(data, offset)


# ------------------------------------------------------------------- the whole


def stream(
    store: LaysOut,
    target: Path,
    source: StateRegistry,
    *,
    recipe: Callable[[str], Recipe],
    position: Callable[[str], tuple[str, int]],
    extra: Mapping[str, Any],
    shard_bytes: int | None,
    overwrite: bool,
    how: How,
    token: str,
    document: Document | None,
    origins: Sequence[Path] = (),
    each: Progress | None = None,
) -> Written:
    """Write every entry of `source` through the engine, and commit.

    Args:
        source: what is written; its metadata only where `recipe` says the values.
        recipe: how each value is made. position: where reading it begins: file and offset. It is asked in that order.
        token: what the values depend on (plan, source files): a journal of another is not resumed.
        document: for a format that keeps ours beside the file.
        origins: the files that values come from, which get a digest in what is returned.
        each: told the key and the bytes of each value that was written.

    Raises:
        TargetExistsError, FileAccessError, FileFormatError, CastError: the target is as it was.
    """
    workers = how.count
    layout, signature = _laid_out(store, target, source, extra, shard_bytes, token, how)
    with Staging(target, layout, signature, overwrite=overwrite, resume=how.resume) as staging:
        try:
            found = _still_good(layout, source, staging) if staging.sealed else None
            if staging.sealed and found is None:
                staging.restart()
            ends: dict[int, str] = {}
            reading = engine.Read(origins)
            if found is None:
                found = _move(layout, source, recipe, position, staging, how, each, ends, reading)
            jobs = [(str(staging.place(n)), layout.seal(found, n)) for n in range(len(layout.files)) if n not in ends]
            rest, read = engine.finish_all(jobs, reading, workers=workers, executor=how.executor)
            sums = [ends[n] if n in ends else rest.pop(0) for n in range(len(layout.files))]
            files = {file.name: text for file, text in zip(layout.files, sums, strict=True)}
            manifest = None if layout.manifest_text is None else layout.manifest_text(found)
            if manifest is not None:
                files[layout.manifest] = digests.sha256_of(manifest)
            if not staging.sealed:
                staging.seal(manifest)
            with described(document, found, layout, staging):
                staging.commit()
        except BaseException as error:
            staging.abandon(error)
            raise
    return Written(staging.targets[-1], found, files, dict(zip((one.name for one in origins), read, strict=True)))


def _laid_out(
    store: LaysOut,
    target: Path,
    source: StateRegistry,
    extra: Mapping[str, Any],
    shard_bytes: int | None,
    token: str,
    how: How,
) -> tuple[Layout, str]:
    before = remembered(target) if how.resume else None
    if before is not None:
        old = store.layout(target, source, extra=extra, shard_bytes=shard_bytes, before=before.replaces)
        if signature_of(old, token) == before.signature:
            return old, before.signature
    layout = store.layout(target, source, extra=extra, shard_bytes=shard_bytes, before=None)
    return layout, signature_of(layout, token)


def signature_of(layout: Layout, token: str) -> str:
    """What tells one run from another: its layout, and what its values depend on."""
    rows = [[file.name, file.size, [[at, digests.of_text(data)] for at, data in file.frames]] for file in layout.files]
    return digests.of_text(json.dumps([token, rows, layout.manifest]).encode())


def _move(
    layout: Layout,
    source: StateRegistry,
    recipe: Callable[[str], Recipe],
    position: Callable[[str], tuple[str, int]],
    staging: Staging,
    how: How,
    each: Progress | None,
    ends: dict[int, str],
    reading: engine.Read,
) -> dict[str, str]:
    total = sum(size for slot in layout.slots.values() for _, size in slot.places[0])
    paths = [os.path.abspath(part) for part in staging.parts]  # noqa: PTH100  # a worker may be elsewhere
    order = sorted(layout.slots, key=position)

    def tasks() -> Iterator[Task]:
        entries = dict(source.items())
        for key in order:
            slot, entry, made = layout.slots[key], entries[key], recipe(key)
            task = Task(
                key, entry.dtype, entry.shape, paths[slot.file], slot.places, made.origins, made.groups, made.cast
            )
            yield replace(task, proven=staging.proven.get(key, ""))

    waiting = Counter(slot.file for slot in layout.slots.values())
    known: dict[str, str] = {}

    def note(found: Mapping[str, str]) -> list[engine.Ending]:
        """Take note of values, and say which files are complete now."""
        staging.note(found)
        known.update(found)
        complete = []
        for key in found:
            number = layout.slots[key].file
            waiting[number] -= 1
            if not waiting[number]:
                complete.append(engine.Ending(number, paths[number], layout.seal(known, number)))
            if each is not None:
                each(key, source[key].nbytes)
        return complete

    meter = engine.Meter(total, how.told)
    found, sums = engine.run(tasks(), workers=how.count, executor=how.executor, meter=meter, note=note, read=reading)
    ends.update(sums)
    return found


def _still_good(layout: Layout, source: StateRegistry, staging: Staging) -> dict[str, str] | None:
    """The digests of a sealed run, if every file is still what it says."""
    if staging.proven.keys() != layout.slots.keys():
        return None
    for number, out in enumerate(layout.files):
        try:
            with File.reading(staging.place(number), out.size) as file:
                for offset, data in layout.seal(staging.proven, number) or out.frames:
                    there = np.empty(len(data), np.uint8)
                    file.read_into(there, offset)
                    if there.tobytes() != data:
                        return None
                for key, slot in layout.slots.items():
                    entry = source[key]
                    for extents in slot.places if slot.file == number else ():
                        if digests.of_stored(file, entry.dtype, entry.shape, extents) != staging.proven[key]:
                            return None
        except (errors.FileMissingError, errors.FileFormatError):
            return None
    return dict(staging.proven)


@contextlib.contextmanager
def described(document: Document | None, found: Mapping[str, str], layout: Layout, staging: Staging) -> Iterator[None]:
    """Around a commit: our document beside the file, for formats without room for it."""
    if document is None:
        yield
        return
    frames = b"".join(data for _, data in layout.files[0].frames)
    told = document.with_digests(found, digests.of_text(frames))
    with sidecar.describing(staging.targets[0], staging.place(0), told):
        yield
