"""Writing one output by several processes, each of which holds parts of the state: nobody gathers a value.

Every process calls `sr.save` with the same path. The first lays the output out beside the target; each writes the stretches
that are its own into it, hashes its share of what lies there, and the first commits: the bytes are those that one process
would write. What every process has in full (buffers, replicas) has to be the same everywhere. A failure of one is a failure of
all, and leaves the target as it was. The path has to be on storage that all of them see. Imports NumPy, no framework.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from stateregistry import errors
from stateregistry.parts import Box, HoldsParts, Together
from stateregistry.stores import bits
from stateregistry.stores.atomic import destination
from stateregistry.stores.atomic_folder import replacing_folder
from stateregistry.stores.base import Document, KeepsSidecar, LaysOut, Progress, WritesFolder, WritesTogether
from stateregistry.stores.folder import strangers_for
from stateregistry.stores.streamed import described, signature_of
from stateregistry.stores.url import RemotePath
from stateregistry.streaming import digests, engine
from stateregistry.streaming.disk import File
from stateregistry.streaming.staging import Staging
from stateregistry.streaming.task import spread

if TYPE_CHECKING:
    from stateregistry.plugins import Store
    from stateregistry.stores.memory import PersistentPart
    from stateregistry.streaming.layout import Layout, Slot

T = TypeVar("T")
_STEP = 1 << 22


def group_of(source: object, target: Path, /) -> Together | None:
    """The processes that write one output, `None` where this one writes its own.

    Asks the others, where there are any: processes that name different paths write one file each.
    """
    group = source.together() if isinstance(source, HoldsParts) else None
    if group is None:
        return None
    paths = group.tell(os.path.abspath(target))  # noqa: PTH100  # links stay as they are
    if len(set(paths)) == 1:
        return group
    if len(set(paths)) == len(paths):
        return None
    message = f"{target}: some of {group.count} processes write to one path and others to another: {sorted(set(paths))}"
    raise errors.UnsupportedError(message, hint="give all of them one path, or each its own")


def save_together(
    store: Store,
    target: Path,
    part: PersistentPart,
    group: Together,
    *,
    extra: Mapping[str, Any],
    shard_bytes: int | None,
    overwrite: bool,
    progress: Progress,
) -> Path:
    """Write the persistent entries of a registry that holds parts; every process of the group calls it.

    Raises:
        UnsupportedError: a format that one process writes; values that are to be the same everywhere and are not.
        FileAccessError: another process failed, with its words. Else as `sr.save`.
    """
    if isinstance(target, RemotePath):
        message = (
            f"{target}: {group.count} processes write one output on storage that all of them see, and this is a URL"
        )
        raise errors.UnsupportedError(message, hint="save to a path, then copy it")
    if isinstance(store, WritesFolder) and store.folder and isinstance(store, WritesTogether):
        if shard_bytes is not None:
            message = f"{target}: the store {store.name!r} cuts its files by itself"
            raise errors.UnsupportedError(message, hint="leave shard_bytes out, or write .safetensors")
        return _folder(store, target, part, group, extra=extra, overwrite=overwrite, progress=progress)
    if not isinstance(store, LaysOut):
        message = f"{target}: the store {store.name!r} is written by one process, and {group.count} hold the state"
        hint = (
            "write .safetensors, .msgpack or .dcp, or give each process a path of its own: then each gathers the values"
        )
        raise errors.UnsupportedError(message, hint=hint)
    return _streamed(
        store, target, part, group, extra=extra, shard_bytes=shard_bytes, overwrite=overwrite, progress=progress
    )


def everywhere(group: Together, what: Callable[[], T], /) -> list[T]:
    """Do something in every process: what each got, by number, or an error in all of them.

    Raises:
        FileAccessError: it failed elsewhere. Here, what it raised.
    """
    caught: BaseException | None = None
    told: tuple[str, Any]
    try:
        told = ("", what())
    except BaseException as error:  # noqa: BLE001  # the others wait for an answer, whatever happened here
        caught = error
        words = error.message if isinstance(error, errors.StateError) else f"{type(error).__name__}: {error}"
        told = (words or "it gave up", None)
    answers = group.tell(told)
    if caught is not None:
        raise caught
    failed = [(number, words) for number, (words, _) in enumerate(answers) if words]
    if failed:
        number, words = failed[0]
        message = f"process {number} of {group.count} failed, so nothing was written: {words}"
        raise errors.FileAccessError(message, hint="see what it says; every process has to make the same calls")
    return [value for _, value in answers]


def refuse_unequal(rows: Sequence[Mapping[tuple[str, tuple[int, ...]], str]], /) -> None:
    """Refuse values that several processes have and that are not the same in all of them.

    Args:
        rows: by process, the digest of each such value by its key and where its box begins.

    Raises:
        UnsupportedError: it names them.
    """
    found: dict[tuple[str, tuple[int, ...]], set[str]] = {}
    for row in rows:
        for place, text in row.items():
            found.setdefault(place, set()).add(text)
    wrong = tuple(sorted({key for (key, _), texts in found.items() if len(texts) > 1}))
    if wrong:
        listed = ", ".join(map(repr, wrong[:5]))
        message = f"{len(wrong)} values are in every process and are not the same in all: {listed}"
        hint = "broadcast them from one process first, or let each save to a path of its own"
        raise errors.UnsupportedError(message, keys=wrong, hint=hint)


def whole_or_box(
    part: PersistentPart, key: str, boxes: Mapping[str, Box], rank: int, /
) -> tuple[Box, np.ndarray, bool]:
    """What this process has of a value: its box, the elements, and whether it is the one to write them."""
    entry, box = part[key], boxes.get(key)
    if box is None:
        return Box((0,) * len(entry.shape), entry.shape, rank == 0, 2), part.view(key), rank == 0
    assert isinstance(part.whole, HoldsParts)  # it has boxes
    return box, part.whole.part(key), box.first


def share(sizes: Mapping[str, int], group: Together, /) -> list[str]:
    """The keys that this process hashes: each goes to who has the fewest bytes so far."""
    loads, mine = [0] * group.count, []
    for key in sorted(sizes, key=lambda key: (-sizes[key], key)):
        least = loads.index(min(loads))
        loads[least] += sizes[key]
        if least == group.rank:
            mine.append(key)
    return mine


# ---------------------------------------------------------------- a layout of ours


def _streamed(
    store: LaysOut,
    target: Path,
    part: PersistentPart,
    group: Together,
    *,
    extra: Mapping[str, Any],
    shard_bytes: int | None,
    overwrite: bool,
    progress: Progress,
) -> Path:
    document: Document | None = None
    if isinstance(store, KeepsSidecar) and store.sidecar:
        document = Document.describe(part, extra=extra, ordered=False)
        document.to_json()  # what is not JSON is refused before the work starts
    staging: Staging | None = None
    layout: Layout | None = None
    with ExitStack() as stack:

        def begin() -> tuple[list[str], Mapping[str, Slot]] | None:
            nonlocal staging, layout
            if group.rank:
                return None
            destination(target, overwrite=overwrite)
            real = Path(os.path.realpath(target)) if target.is_symlink() else target
            layout = store.layout(real, part, extra=extra, shard_bytes=shard_bytes, before=None)
            staging = Staging(real, layout, signature_of(layout, ""), overwrite=overwrite, resume=False)
            stack.enter_context(staging)
            return [os.path.abspath(one) for one in staging.parts], layout.slots  # noqa: PTH100  # others are elsewhere

        try:
            told = everywhere(group, begin)[0]
            assert told is not None  # the first process says it
            paths, slots = told
            refuse_unequal(everywhere(group, lambda: _write(part, slots, paths, group, progress)))
            rows = everywhere(group, lambda: _hash(part, slots, paths, group))
            found = {key: text for row in rows for key, text in row.items()}

            def end() -> Path | None:
                if staging is None or layout is None:
                    return None
                jobs = [(str(staging.place(number)), layout.seal(found, number)) for number in range(len(layout.files))]
                engine.finish_all(jobs, (), workers=2, executor=None)
                staging.seal(None if layout.manifest_text is None else layout.manifest_text(found))
                with described(document, found, layout, staging):
                    staging.commit()
                return staging.targets[-1]

            made = everywhere(group, end)[0]
            assert made is not None  # the first process says it
        except BaseException as error:
            if staging is not None:
                staging.abandon(error)
            raise
    return target.with_name(made.name) if shard_bytes is not None else target


def _write(
    part: PersistentPart, slots: Mapping[str, Slot], paths: Sequence[str], group: Together, progress: Progress
) -> dict[tuple[str, tuple[int, ...]], str]:
    """Write what is this process's to write; the digests of what others have too."""
    assert isinstance(part.whole, HoldsParts)  # the caller asked for its group
    boxes = part.whole.boxes()
    shared = {}
    with ExitStack() as stack:
        files: dict[str, File] = {}
        for key in sorted(slots):
            box, array, mine = whole_or_box(part, key, boxes, group.rank)
            if box.copies > 1:
                shared[key, box.offsets] = digests.of_array(array)
            if not mine or not box.count:
                continue
            path = paths[slots[key].file]
            if path not in files:
                files[path] = stack.enter_context(File.writing(path))
            raw = np.frombuffer(bits.encode(array), np.uint8)
            for extents in slots[key].places:
                _put(files[path], extents, box, part[key].shape, raw)
            progress(key, raw.size)
        for file in files.values():
            file.sync()  # another machine is to see it
    return shared


def _put(file: File, extents: tuple[tuple[int, int], ...], box: Box, shape: tuple[int, ...], raw: np.ndarray) -> None:
    length, starts = box.runs(shape)
    width = raw.size // box.count
    size = length * width
    for number, start in enumerate(starts):
        piece = raw[number * size : (number + 1) * size]
        for offset, first, count in spread(extents, start * width, size):
            file.write(piece[first : first + count], offset)


def _hash(part: PersistentPart, slots: Mapping[str, Slot], paths: Sequence[str], group: Together) -> dict[str, str]:
    """The digests of the values of this process's share, from what lies in the files: every copy is what it should be."""
    found = {}
    for key in share({key: part[key].nbytes for key in slots}, group):
        entry, slot = part[key], slots[key]
        with File.reading(paths[slot.file]) as file:
            texts = {digests.of_stored(file, entry.dtype, entry.shape, extents) for extents in slot.places}
        if len(texts) != 1:
            message = f"{paths[slot.file]}: the copies of {key!r} are not what was written"
            raise errors.FileAccessError(message, keys=(key,), hint="the storage does not show what others write to it")
        found[key] = texts.pop()
    return found


# ---------------------------------------------------------------- a directory


def _folder(
    store: Any,
    target: Path,
    part: PersistentPart,
    group: Together,
    *,
    extra: Mapping[str, Any],
    overwrite: bool,
    progress: Progress,
) -> Path:
    with ExitStack() as stack:

        def begin() -> Path | None:
            if group.rank:
                return None
            made = replacing_folder(target, overwrite=overwrite, strangers=strangers_for(store))
            return stack.enter_context(made).absolute()

        try:
            temporary = everywhere(group, begin)[0]
            store.write_together(temporary, part, group, extra=extra, progress=progress)
        except BaseException as error:
            if stack.__exit__(type(error), error, error.__traceback__):
                raise AssertionError("nothing here keeps an error to itself") from error
            raise
        everywhere(group, stack.close)  # the first process gives it its name
    return target


def pieces(count: int, /) -> Iterator[tuple[int, int]]:
    """Where to read a value of so many bytes step by step: from, how many."""
    for at in range(0, count, _STEP):
        yield at, min(_STEP, count - at)
