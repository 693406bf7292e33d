"""An HDF5 file as a list of datasets, parsed by h5py in a process of its own.

Files exist that make HDF5's library end the process that reads them, and a checkpoint comes from a stranger. So h5py is never
loaded here: a child parses, gets the bytes that it asks for over a pipe, and tells what it found; when it dies, or is silent
for too long, that is an error about the file. What lies in one stretch is read here, by its place, without the child.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import threading
import weakref
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn, final

import numpy as np

from stateregistry import errors
from stateregistry.entry import DTYPES, numpy_dtype
from stateregistry.stores.hdf5 import frames
from stateregistry.stores.hdf5.walk import Dataset

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stateregistry.stores.limits import Limits
    from stateregistry.stores.mapped import MappedFile

INSTALL: Final = "pip install 'stateregistry[keras]'"
#: What parses: the same Python, and not what lies in the current directory.
COMMAND: Final = (sys.executable, "-P", "-m", "stateregistry.stores.hdf5.child")
#: Seconds without a word from the child after which the file is said to be at fault.
PATIENCE: Final = 60.0
#: Bytes that the row of one dataset can have: a name within the limits, spelled in JSON, and a shape.
_ROW: Final = 1 << 20


@final
class Stretch:
    """A stretch of an open file that is a file of its own, as the weights in an archive are."""

    def __init__(self, file: MappedFile, begin: int, size: int) -> None:
        self._file, self.begin, self.size = file, begin, size

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    def read(self, offset: int, count: int) -> bytes:
        """Bytes of the stretch.

        Raises:
            FileFormatError, FileAccessError, UnsupportedError: as `MappedFile.read`, and for bytes outside.
        """
        if offset + count > self.size:
            message = f"{self.path}: bytes {offset:,} to {offset + count:,} lie outside of its {self.size:,}"
            raise errors.FileFormatError(message, expected=self.size, found=offset + count)
        return self._file.read(self.begin + offset, count)


@final
class Hdf5:
    """An HDF5 file, open for reading. Threads may share it.

    Raises:
        MissingDependencyError: no h5py.
    """

    def __init__(self, stretch: Stretch, limits: Limits) -> None:
        self._stretch, self._limits, self.where = stretch, limits, str(stretch.path)
        if importlib.util.find_spec("h5py") is None:
            message = f"{self.where}: reading an HDF5 file needs the package 'h5py'"
            raise errors.MissingDependencyError(message, hint=INSTALL)
        self._lock = threading.Lock()
        self._child = _started()
        self._ends = weakref.finalize(self, _ended, self._child)
        about = {"size": stretch.size, "where": self.where, "limits": asdict(limits)}
        with self._lock:
            self._tell(frames.BEGIN, about)

    def close(self) -> None:
        """Release it. Idempotent."""
        self._ends()

    def datasets(self) -> Iterator[Dataset]:
        """Every dataset, in the order of their names.

        Raises:
            UnsafeFileError: something leads out of the file, or needs a filter that is no part of HDF5.
            FileFormatError: no HDF5 file, damaged, not written in full, or over a limit; or h5py does not survive it.
        """
        with self._lock:
            self._tell(frames.LIST, None)
            found = [self._dataset(data) for data in self._answers(frames.DATASET, _ROW)]
        yield from found

    def read(self, dataset: Dataset) -> np.ndarray:
        """The values of a dataset, an array of the caller's own.

        Raises:
            FileFormatError: they cannot be read.
        """
        assert dataset.dtype is not None
        with self._lock:
            self._tell(frames.VALUE, {"path": dataset.path, "dtype": dataset.dtype})
            found = list(self._answers(frames.VALUE, dataset.nbytes))
        if len(found) != 1 or len(found[0]) != dataset.nbytes:
            self._gone()
        return np.frombuffer(found[0], numpy_dtype(dataset.dtype)).reshape(dataset.shape)

    # ------------------------------------------------------------------ talking

    def _tell(self, tag: bytes, what: Any) -> None:
        try:
            frames.send(_pipe(self._child.stdin), tag, json.dumps(what).encode())
        except frames.Broken:
            self._gone()

    def _answers(self, wanted: bytes, longest: int) -> Iterator[bytearray]:
        """What the child answers, while its questions for bytes of the file are answered."""
        while True:
            tag, data = self._heard(longest)
            if tag == frames.DONE:
                return
            if tag == frames.BYTES and len(data) == 16:
                offset, count = int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little")
                self._serve(offset, count)
            elif tag == frames.ERROR:
                self._raise(data)
            elif tag == wanted:
                yield data
            else:
                self._gone()

    def _heard(self, longest: int) -> tuple[bytes, bytearray]:
        stream = _pipe(self._child.stdout)
        ready, _, _ = select.select([stream], [], [], PATIENCE)
        if not ready:
            self._ends()
            message = f"{self.where}: h5py reads in it for {PATIENCE:.0f} s and finds nothing"
            raise errors.FileFormatError(message, hint="the file is damaged, or made to last: get it again")
        try:
            return frames.receive(stream, max(longest, _ROW))
        except frames.Broken:
            self._gone()

    def _serve(self, offset: int, count: int) -> None:
        try:
            data = self._stretch.read(offset, count)
        except errors.StateError:
            self._ends()  # it waits for an answer that will not come
            raise
        try:
            frames.send(_pipe(self._child.stdin), frames.BYTES, data)
        except frames.Broken:
            self._gone()

    def _dataset(self, data: bytearray) -> Dataset:
        try:
            found = Dataset.of_row(json.loads(data))
        except (ValueError, TypeError, KeyError):
            self._gone()
        whole = found.dtype is None or (found.dtype in DTYPES and all(size >= 0 for size in found.shape))
        if not whole or (found.offset is not None and not 0 <= found.offset <= self._stretch.size - found.nbytes):
            self._gone()
        return found

    def _raise(self, data: bytearray) -> NoReturn:
        try:
            told = json.loads(data)
            name, message, hint = told["error"], str(told["message"]), str(told["hint"])
        except (ValueError, TypeError, KeyError):
            self._gone()
        raise (errors.UnsafeFileError if name == "UnsafeFileError" else errors.FileFormatError)(message, hint=hint)

    def _gone(self) -> NoReturn:
        """The child died, or says what it never says: the file is at fault."""
        self._ends()
        code = self._child.returncode
        why = (
            f"it ended by {signal.Signals(-code).name}" if code and code < 0 and code != -signal.SIGKILL else "it ended"
        )
        message = f"{self.where}: is no HDF5 file that can be read: h5py does not survive it ({why})"
        raise errors.FileFormatError(message, hint="the file is damaged, or made to do that: get it again")


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _started() -> subprocess.Popen[bytes]:
    """The child: the same Python, with the same places to import from."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(  # noqa: S603  # our own module
        COMMAND,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
        env={**os.environ, "PYTHONPATH": paths}, start_new_session=True,
    )  # fmt: skip


def _ended(child: subprocess.Popen[bytes]) -> None:
    """End the child, which has nothing that could be lost."""
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()
    if child.poll() is None:
        child.kill()
    child.wait()
