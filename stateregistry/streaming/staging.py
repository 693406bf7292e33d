"""Files that are being written beside their targets, the journal that a kill leaves, and the commit.

The names are derived from those of the targets, so that a later run finds what an earlier one left. The journal says which
output it was to become and the digest of each value that was written; nobody believes it: what lies in the file must have
that digest. It is locked while a run writes: two runs into one target do not mix. A commit makes every file durable,
moves it over its target, and makes the names durable; a manifest goes last. POSIX.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

import numpy as np
import xxhash

from stateregistry import errors
from stateregistry.streaming import disk
from stateregistry.streaming.disk import File
from stateregistry.streaming.layout import Layout

SCHEMA = "stateregistry.journal/1"
#: File systems without hard links answer `link` with one of these.
NO_LINKS = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES))


def _beside(target: Path, what: str) -> Path:
    """A hidden name in the same directory that only this target has, of bounded length."""
    return target.with_name(
        f".stateregistry-{xxhash.xxh3_64_hexdigest(target.name.encode(errors='surrogateescape'))}.{what}"
    )


@final
class Staging:
    """The files of one output while they are written. A context manager: leaving it releases the lock.

    Attributes:
        targets: where each file, then the manifest, will stand.
        parts: where each is written.
        proven: by key, the digests that an earlier run of the same work noted.
        sealed: an earlier run had completed every file, and was stopped while it gave them their names.
    """

    def __init__(self, target: Path, layout: Layout, signature: str, *, overwrite: bool, resume: bool) -> None:
        """Lock, clean up what an earlier run left, and make room.

        Args:
            target: what the output is called; its directory is where all files go.
            signature: of the whole work: plan, source and layout. A journal of other work proves nothing.
            resume: continue what an earlier run left; keep what this one leaves when it fails.

        Raises:
            TargetExistsError: a file exists, and is neither to be overwritten nor what an earlier run made.
            FileAccessError: another run writes there, or there is no room.
        """
        self._target, self._layout, self._overwrite, self._resume = target, layout, overwrite, resume
        names = [file.name for file in layout.files] + ([layout.manifest] if layout.manifest else [])
        self.targets = tuple(target.with_name(name) for name in names)
        self.parts = tuple(_beside(path, "partial") for path in self.targets)
        self.proven: dict[str, str] = {}
        self._journal_path = _beside(target, "journal")
        self._journal = self._locked()
        self._tail = 0
        self._signature = signature
        self.sealed = False
        self._done = False
        self._moved: list[Path] = []
        try:
            self._begin(signature)
        except BaseException as error:
            if self._journal.size == 0:
                self.drop()  # refused before it began
            else:
                self.abandon(error)
            self._journal.close()
            raise

    # ------------------------------------------------------------- lock and journal

    def _locked(self) -> File:
        while True:
            try:
                handle = os.open(self._journal_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                message = f"{self._target}: cannot be written beside: {error.strerror}"
                raise errors.FileAccessError(message, hint="see that the directory is writable") from error
            journal = File(self._journal_path, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                journal.close()
                message = f"{self._target}: another process is writing it at this moment"
                raise errors.FileAccessError(message, hint="wait until it is done, or write elsewhere") from error
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
                    journal.close()
                    raise disk.failure(self._journal_path, "locking", error) from error
            try:
                if os.path.samestat(os.fstat(handle), os.stat(self._journal_path)):  # noqa: PTH116  # compared
                    return journal
            except FileNotFoundError:
                pass  # the run that held the lock was done in between, and took its journal with it
            journal.close()

    def _read_journal(self) -> list[dict[str, Any]]:
        raw = np.empty(self._journal.size, np.uint8)
        self._journal.read_into(raw, 0)
        rows = []
        for line in raw.tobytes().split(b"\n"):
            try:
                row = json.loads(line)
            except ValueError:
                break  # the line that the kill cut, or damage: nothing after it is believed
            if not isinstance(row, dict):
                break
            rows.append(row)
        return rows

    def _begin(self, signature: str) -> None:
        rows = self._read_journal()
        head = rows[0] if rows and rows[0].get("schema") == SCHEMA else {}
        same = self._resume and head.get("signature") == signature
        if same:
            pairs = [row.get("done") for row in rows[1:]]
            self.proven = {str(k): str(v) for pair in pairs if isinstance(pair, dict) for k, v in pair.items()}
        else:
            for name in head.get("parts", ()):
                if isinstance(name, str) and _is_ours(name):
                    disk.unlink(self._target.with_name(name))
            for part in self.parts:
                disk.unlink(part)
        self.sealed = same and any(row.get("sealed") is True for row in rows[1:])
        if self.sealed:
            self._tail = self._journal.size
            return
        if not self._overwrite:
            stopped = any(row.get("sealed") is True for row in rows[1:])
            for path in self.targets:
                if os.path.lexists(path):
                    raise _exists(path, "resume=True completes the run that put it there" if stopped else "")
        self._room()
        header = {"schema": SCHEMA, "signature": signature, "parts": [part.name for part in self.parts]}
        header["replaces"] = list(self._layout.replaces)
        lines = [json.dumps(header), *([json.dumps({"done": self.proven})] if self.proven else [])]
        text = ("\n".join(lines) + "\n").encode()
        self._journal.empty()
        self._journal.write(text, 0)
        self._tail = len(text)
        for file, part in zip(self._layout.files, self.parts, strict=False):
            self._make(part, file.size)
            with File.writing(part) as out:
                for offset, data in file.frames:
                    out.write(data, offset)

    def _room(self) -> None:
        """Refuse a disk that cannot hold the output, before work begins."""
        there = sum(part.stat().st_blocks * 512 for part in self.parts if part.exists())
        disk.refuse_full(self._target, self._layout.size - there)

    def _make(self, part: Path, size: int) -> None:
        if part.exists() and part.stat().st_size == size:
            return
        disk.unlink(part)
        with File.creating(part) as file:
            file.allocate(size)

    def note(self, digests: Mapping[str, str]) -> None:
        """Add to the journal what was written."""
        line = (json.dumps({"done": dict(digests)}) + "\n").encode()
        self._journal.write(line, self._tail)
        self._tail += len(line)

    # ------------------------------------------------------------- the end

    def place(self, number: int) -> Path:
        """Where a file is now: beside its target, or at it where a sealed run was stopped while it moved them."""
        part = self.parts[number]
        return self.targets[number] if self.sealed and not part.exists() else part

    def seal(self, manifest: bytes | None) -> None:
        """Take note that every file is complete and durable; from here on, only names change.

        Raises:
            FileAccessError.
        """
        if manifest is not None:
            disk.unlink(self.parts[-1])
            with File.creating(self.parts[-1]) as file:
                file.write(manifest, 0)
                file.sync()
        line = b'{"sealed": true}\n'
        self._journal.write(line, self._tail)
        self._tail += len(line)

    def commit(self) -> None:
        """Move every file to its target, the manifest last.

        Raises:
            TargetExistsError: a target appeared meanwhile. FileAccessError.
        """
        folder = self._target.parent
        *others, last = range(len(self.targets))
        for number in others:
            self._move(number)
        if others:
            disk.sync_folder(folder)
        self._move(last)
        self._done = True
        disk.sync_folder(folder)
        for name in self._layout.replaces:
            if Path(name).name == name and folder / name not in self.targets:
                disk.unlink(folder / name)
        self.drop()

    def _move(self, number: int) -> None:
        part, path = self.parts[number], self.targets[number]
        if self.sealed and not part.exists():
            return  # the run that was stopped did it
        try:
            if self._overwrite:
                there = path.exists()
                if there:
                    part.chmod(stat.S_IMODE(path.stat().st_mode) & 0o777)
                _rename(part, path)
                self._moved += () if there else (path,)
                return
            if not (self.sealed and path.exists() and path.samefile(part)):  # stopped between the two names
                self._link(part, path)
            self._moved.append(path)
            disk.unlink(part)
        except OSError as error:
            if isinstance(error, errors.StateError):
                raise
            raise disk.failure(path, "putting the file in its place", error) from error

    @staticmethod
    def _link(part: Path, path: Path) -> None:
        try:
            disk.link(part, path)  # a rename would replace a file that appeared since it was looked for
        except OSError as error:
            if path.exists() and path.samefile(part):
                return  # it was done, whatever the system says
            if isinstance(error, FileExistsError):
                raise _exists(path) from error
            if error.errno not in NO_LINKS:
                raise
            if os.path.lexists(path):
                raise _exists(path) from error
            _rename(part, path)

    def restart(self) -> None:
        """Forget a sealed run whose files are not what its journal says."""
        self.sealed = False
        self.proven = {}
        self._journal.write(b"\n", 0)  # no journal of anything
        self._begin(self._signature)

    def abandon(self, error: BaseException) -> None:
        """After a failure: leave nothing, or, to be resumed, the parts and the journal."""
        if self._done:  # every file is in its place: only the end of the clearing away is missing
            error.add_note(f"resume=True clears away what was there before ({self._journal_path.name})")
            return
        if self._resume:
            error.add_note(f"what is done is kept for resume=True in {self._journal_path.name}")
            return
        moved = self._moved  # no manifest names them
        for part in (*self.parts, *moved):
            try:
                part.unlink(missing_ok=True)
            except OSError as left:
                error.add_note(f"the file {part} could not be removed: {left}")
        try:
            self.drop()
        except OSError as left:
            error.add_note(f"the journal {self._journal_path} could not be removed: {left}")

    def drop(self) -> None:
        """Remove the journal: there is nothing left to resume."""
        disk.unlink(self._journal_path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()


@final
@dataclass(frozen=True, slots=True)
class Remembered:
    """What the journal of an earlier run says of itself: its work, and the files it was to replace."""

    signature: str
    replaces: tuple[str, ...]


def remembered(target: Path) -> Remembered | None:
    """What a run that was stopped has left for `target`, `None` where there is nothing to resume."""
    try:
        with _beside(target, "journal").open("rb") as file:
            head = json.loads(file.readline(1 << 24))
        names = head["replaces"]
        if head["schema"] != SCHEMA or not all(isinstance(name, str) for name in names):
            return None
        return Remembered(str(head["signature"]), tuple(names))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _exists(path: Path, more: str = "") -> errors.TargetExistsError:
    hint = f"pass overwrite=True to replace it{'; ' if more else ''}{more}"
    return errors.TargetExistsError(f"{path}: exists already", hint=hint)


def _rename(part: Path, path: Path) -> None:
    try:
        disk.rename(part, path)
    except OSError:
        if part.exists() or not path.exists():
            raise  # otherwise it was done, whatever the system says: nobody else moves a part that is locked


def _is_ours(name: str) -> bool:
    return name.startswith(".stateregistry-") and name.endswith(".partial") and Path(name).name == name


def leftovers(folder: Path) -> Sequence[Path]:
    """What killed runs have left in a directory."""
    found = (path for path in folder.iterdir() if path.name.startswith(".stateregistry-"))
    return sorted(path for path in found if path.suffix in (".partial", ".journal"))
