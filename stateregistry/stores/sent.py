"""A streamed output at a URL: every file of it is made on a local disk by itself, sent, and gone from there.

No machine holds more than the files that are under way, and with an executor whichever worker takes a file makes it from the
sources and sends it: only the place of the output is shared. A file has its name when it is complete; the index is sent last,
and what it replaces goes after that. The journal of an output in several files lies beside it: a later run with `resume` takes
what the server still calls by the version that it gave it, or, from a server that gives none, what has the sha256 that was
noted. Nothing is locked at a URL: a run whose journal was taken over by another one gives up before it sends the index.
Imports fsspec.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import xxhash

from stateregistry import errors
from stateregistry.stores.safetensors_layout import Seals
from stateregistry.stores.streamed import signature_of
from stateregistry.stores.upload import put_bytes, put_file, refuse_existing, refuse_read_only, remove_file
from stateregistry.stores.url import RemotePath
from stateregistry.streaming import digests, engine
from stateregistry.streaming.disk import File
from stateregistry.streaming.layout import Frame, Layout, Written
from stateregistry.streaming.task import Task, perform

if TYPE_CHECKING:
    from stateregistry.registry import StateRegistry
    from stateregistry.stores.base import LaysOut
    from stateregistry.streaming.engine import How
    from stateregistry.streaming.task import Recipe

SCHEMA: Final = "stateregistry.sent/1"


@final
@dataclass(frozen=True, slots=True)
class Job:
    """One file of an output, which whoever takes it makes and sends. Plain data that can be pickled.

    Attributes:
        number: of the file in the layout. url: where it goes. size: its bytes. frames: what lies between its values.
        tasks: its values; their `path` is that of the local file, which the worker chooses.
        seal: what closes the file, from the digests of its values.
    """

    number: int
    url: str
    size: int
    frames: tuple[Frame, ...]
    tasks: tuple[Task, ...]
    seal: Callable[[Mapping[str, str], int], tuple[Frame, ...]]


@final
@dataclass(frozen=True, slots=True)
class Arrived:
    """A file that was sent: the digests of its values, its sha256, and what the server calls its version (0: nothing)."""

    number: int
    digests: Mapping[str, str]
    sha256: str
    stamp: int


def make_and_send(job: Job) -> Arrived:
    """Make a file in a directory of this machine and send it.

    Raises:
        FileAccessError, FileFormatError, CastError: as `perform`, or the server refuses.
    """
    with tempfile.TemporaryDirectory(prefix="stateregistry-") as folder:
        local = _begun(job, Path(folder))
        found = {done.key: done.digest for done in perform(_placed(job, local))}
        return _send(job, local, found)


def _begun(job: Job, folder: Path) -> Path:
    local = folder / f"{job.number}.partial"
    with File.creating(local) as out:
        out.allocate(job.size)
        for offset, data in job.frames:
            out.write(data, offset)
    return local


def _placed(job: Job, local: Path) -> tuple[Task, ...]:
    return tuple(replace(task, path=str(local)) for task in job.tasks)


def _send(job: Job, local: Path, found: Mapping[str, str]) -> Arrived:
    with File.writing(local) as out:
        for offset, data in job.seal(found, job.number):
            out.write(data, offset)
    text = digests.sha256(local)
    target = RemotePath(job.url)
    put_file(local, target)
    stamp = target.stat().st_mtime_ns
    local.unlink()
    return Arrived(job.number, dict(found), text, stamp)


# -------------------------------------------------------------------- journal


@final
class _Journal:
    """What lies beside an output in several files while it is sent: a head, and a note for each file that has arrived."""

    def __init__(self, target: RemotePath, signature: str, layout: Layout, *, kept: bool) -> None:
        self.path = target.with_name(f"{_stem(target)}.journal")
        self._target, self._kept = target, kept
        self._head: dict[str, Any] = {
            "schema": SCHEMA, "signature": signature, "run": secrets.token_hex(16),
            "replaces": list(layout.replaces), "files": [file.name for file in layout.files],
        }  # fmt: skip

    def begin(self, *, sealed: bool = False) -> None:
        """Write the head. An output that is one file needs none: it is there or it is not."""
        if self._kept:
            put_bytes(json.dumps({**self._head, "sealed": sealed}).encode(), self.path)

    def note(self, one: Arrived) -> None:
        """Add a file."""
        if self._kept:
            row = [self._head["signature"], dict(one.digests), one.sha256, one.stamp]
            put_bytes(json.dumps(row).encode(), _note(self._target, one.number))

    def check(self) -> None:
        """See that no other run has begun meanwhile.

        Raises:
            FileAccessError: it has.
        """
        there = _read(self.path) if self._kept else self._head
        if not isinstance(there, dict) or there.get("run") != self._head["run"]:
            message = f"{self._target}: another run writes the same output at this moment"
            raise errors.FileAccessError(message, hint="wait until it is done, or write elsewhere")

    def drop(self) -> None:
        """Remove it, the head last: until then a later run knows what there is to remove."""
        if self._kept:
            _drop(self._target, len(self._head["files"]))


def _stem(target: RemotePath) -> str:
    return f".stateregistry-{xxhash.xxh3_64_hexdigest(target.name.encode(errors='surrogateescape'))}"


def _note(target: RemotePath, number: int) -> RemotePath:
    return target.with_name(f"{_stem(target)}-{number:05d}.done")


def _drop(target: RemotePath, count: int) -> None:
    for number in range(count):
        _gone(_note(target, number))
    _gone(target.with_name(f"{_stem(target)}.journal"))


def _read(path: RemotePath) -> Any:
    """The JSON that lies there, `None` where there is none."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        raw = file.read()
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None  # not one of ours


@final
@dataclass(frozen=True, slots=True)
class _Left:
    """What the journal of an earlier run says of itself."""

    signature: str
    sealed: bool
    replaces: tuple[str, ...]
    files: tuple[str, ...]


def _left(target: RemotePath) -> _Left | None:
    head = _read(target.with_name(f"{_stem(target)}.journal"))
    if not isinstance(head, dict) or head.get("schema") != SCHEMA:
        return None
    names = [head.get("replaces"), head.get("files")]
    if not all(isinstance(one, list) and all(_is_name(name) for name in one) for one in names):
        return None
    return _Left(str(head.get("signature")), head.get("sealed") is True, tuple(head["replaces"]), tuple(head["files"]))


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name) and Path(name).name == name


def _noted(target: RemotePath, layout: Layout, signature: str) -> dict[int, Arrived]:
    """What an earlier run of the same work has sent, and is there as it was."""
    found = {}
    for number, file in enumerate(layout.files):
        row = _read(_note(target, number))
        if not isinstance(row, list) or len(row) != 4 or row[0] != signature or not isinstance(row[1], dict):
            continue
        made = {str(key): str(text) for key, text in row[1].items()}
        keys = {key for key, slot in layout.slots.items() if slot.file == number}
        if made.keys() != keys or type(row[3]) is not int:
            continue
        one = Arrived(number, made, str(row[2]), row[3])
        if _stands(target.parent, file.name, file.size, one):
            found[number] = one
    return found


def _stands(folder: Path, name: str, size: int, noted: Arrived) -> bool:
    """Whether a file that an earlier run has sent is still what it was."""
    path = folder / name
    if not path.is_file():
        return False
    status = path.stat()
    if status.st_size != size:
        return False
    if noted.stamp and status.st_mtime_ns:
        return status.st_mtime_ns == noted.stamp
    return digests.sha256(path) == noted.sha256


# ------------------------------------------------------------------- the whole


def send_streamed(
    store: LaysOut,
    target: RemotePath,
    source: StateRegistry,
    *,
    recipe: Callable[[str], Recipe],
    position: Callable[[str], tuple[str, int]],
    extra: Mapping[str, Any],
    shard_bytes: int | None,
    overwrite: bool,
    how: How,
    token: str,
    origins: Sequence[Path],
) -> Written:
    """Write every entry of `source` to a URL, file by file; see `streamed.stream` for what is given.

    Raises:
        TargetExistsError, FileAccessError, FileFormatError, CastError: what was there is as it was, unless the index, or
        the one file, had arrived. UnsupportedError: a protocol that takes nothing; one file is to be resumed.
    """
    workers = how.count
    refuse_read_only(target)
    plain = store.layout(target, source, extra=extra, shard_bytes=shard_bytes, before=None)
    several = bool(plain.manifest)
    if how.resume and not several:
        message = f"{target}: is one file, which is there when its last part has arrived: there is nothing to resume"
        raise errors.UnsupportedError(message, hint="leave resume out, or cut it into files with shard_bytes")
    layout, signature, arrived, sealed = plain, signature_of(plain, token), {}, False
    left = _left(target) if several else None
    if left is not None and how.resume:
        old = store.layout(target, source, extra=extra, shard_bytes=shard_bytes, before=left.replaces)
        if signature_of(old, token) == left.signature:
            layout, signature, sealed = old, left.signature, left.sealed
            arrived = _noted(target, layout, signature)
    last = layout.manifest or layout.files[0].name
    refuse_existing(target.with_name(last), overwrite=overwrite or sealed)
    if left is not None and left.signature != signature:
        _clear(target, left, plain)
    journal = _Journal(target, signature, layout, kept=several)
    return _Sending(target, layout, journal, how, workers, origins).run(source, recipe, position, arrived)


def _clear(target: RemotePath, left: _Left, layout: Layout) -> None:
    """Remove what a run that is not continued had sent; nothing that the output now there consists of."""
    completed = left.sealed and set(left.files) <= set(layout.replaces)  # it was stopped while it cleared away
    for name in left.replaces if completed else left.files:
        if name not in layout.replaces:
            _gone(target.with_name(name))
    _drop(target, len(left.files))


@final
class _Sending:
    """One output on its way."""

    def __init__(
        self, target: RemotePath, layout: Layout, journal: _Journal, how: How, workers: int, origins: Sequence[Path]
    ) -> None:
        self._target, self._layout, self._journal = target, layout, journal
        self._how, self._workers, self._origins = how, workers, origins
        self._total = sum(size for slot in layout.slots.values() for _, size in slot.places[0])
        self._meter = engine.Meter(self._total, how.told)
        self._arrived: dict[int, Arrived] = {}
        self._manifest = b""

    def run(
        self,
        source: StateRegistry,
        recipe: Callable[[str], Recipe],
        position: Callable[[str], tuple[str, int]],
        arrived: Mapping[int, Arrived],
    ) -> Written:
        """Make, send, and commit."""
        layout = self._layout
        self._journal.begin()
        sent: list[str] = []
        try:
            for number, one in sorted(arrived.items()):
                self._arrived[number] = one
                self._meter.wrote(self._bytes(number))
            jobs = self._jobs(source, recipe, position, sent)
            (self._here if self._how.executor is None else self._there)(jobs)
            found = {key: text for one in self._arrived.values() for key, text in one.digests.items()}
            _, read = engine.finish_all([], self._origins, workers=self._workers, executor=self._how.executor)
            files = {file.name: self._arrived[n].sha256 for n, file in enumerate(layout.files)}
            last = layout.files[0].name
            if layout.manifest_text is not None:
                manifest, last = layout.manifest_text(found), layout.manifest
                files[last] = digests.sha256_of(manifest)
                self._journal.check()
                self._journal.begin(sealed=True)
                self._manifest = manifest
                put_bytes(manifest, self._target.with_name(last))
        except BaseException as error:
            self._abandon(error, sent)
            raise
        for name in layout.replaces:
            if _is_name(name):
                _gone(self._target.with_name(name))
        self._journal.drop()
        sources = dict(zip((one.name for one in self._origins), read, strict=True))
        return Written(self._target.with_name(last), found, files, sources)

    def _bytes(self, number: int) -> int:
        return sum(size for slot in self._layout.slots.values() if slot.file == number for _, size in slot.places[0])

    def _took(self, one: Arrived, nbytes: int) -> None:
        self._arrived[one.number] = one
        self._journal.note(one)
        self._meter.wrote(nbytes)

    def _jobs(
        self,
        source: StateRegistry,
        recipe: Callable[[str], Recipe],
        position: Callable[[str], tuple[str, int]],
        sent: list[str],
    ) -> Iterator[tuple[Job, int]]:
        """What is left to do, made when it is asked for: values in memory are taken one file after another."""
        layout, entries = self._layout, dict(source.items())
        members: dict[int, list[str]] = {number: [] for number in range(len(layout.files))}
        for key, slot in layout.slots.items():
            members[slot.file].append(key)
        for number, file in enumerate(layout.files):
            if number in self._arrived:
                continue
            tasks = []
            for key in sorted(members[number], key=position):
                made, entry = recipe(key), entries[key]
                places = layout.slots[key].places
                task = Task(key, entry.dtype, entry.shape, "", places, made.origins, made.groups, made.cast)
                tasks.append(task)
            seal = layout.seal.parts[number] if isinstance(layout.seal, Seals) else layout.seal
            url = str(self._target.with_name(file.name))
            sent.append(file.name)
            yield Job(number, url, file.size, file.frames, tuple(tasks), seal), self._bytes(number)

    def _here(self, jobs: Iterator[tuple[Job, int]]) -> None:
        """On this machine: while one file goes up, the next is made."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stateregistry-")))
            line = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="stateregistry-send"))
            going: Future[Arrived] | None = None
            for job, _ in jobs:
                local = _begun(job, folder)
                tasks = _placed(job, local)
                found, _ = engine.run(tasks, workers=self._workers, executor=None, meter=self._meter, note=lambda _: ())
                if going is not None:
                    self._took(going.result(), 0)
                going = line.submit(_send, job, local, found)
            if going is not None:
                self._took(going.result(), 0)

    def _there(self, jobs: Iterator[tuple[Job, int]]) -> None:
        """On the workers of an executor."""
        executor = self._how.executor
        assert executor is not None  # the caller looked
        flying: dict[Future[Arrived], int] = {}
        try:
            for job, nbytes in jobs:
                flying[executor.submit(make_and_send, job)] = nbytes
                if len(flying) >= 2 * self._workers:
                    self._land(flying)
            while flying:
                self._land(flying)
        except BaseException:
            for future in flying:
                future.cancel()
            wait(flying)  # nobody sends any more when what has arrived is removed
            raise

    def _land(self, flying: dict[Future[Arrived], int]) -> None:
        done, _ = wait(flying, return_when=FIRST_COMPLETED)
        for future in done:
            self._took(future.result(), flying.pop(future))

    def _is_there(self) -> bool:
        """Whether the index has arrived, whatever the server said when it was sent: then it needs its files."""
        path = self._target.with_name(self._layout.manifest)
        if not path.exists():
            return False
        with path.open("rb") as file:
            there: bytes = file.read()
        return there == self._manifest

    def _abandon(self, error: BaseException, sent: Sequence[str]) -> None:
        """After a failure: leave nothing that is not asked for."""
        if not self._layout.manifest:
            return  # the one file has arrived or it has not
        if self._how.resume:
            error.add_note(f"what has arrived is kept for resume=True: {self._journal.path}")
            return
        names = {*sent, *(self._layout.files[number].name for number in self._arrived)}
        try:
            if self._manifest and self._is_there():
                error.add_note(f"the output may be complete: resume=True finishes it ({self._journal.path})")
                return
            for name in sorted(names):
                _gone(self._target.with_name(name))
            self._journal.drop()
        except errors.StateError as left:
            error.add_note(f"what was sent may be left, and the next run removes it: {left.message}")


def _gone(path: RemotePath) -> None:
    if path.exists():
        remove_file(path)
