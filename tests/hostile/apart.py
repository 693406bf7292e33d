"""The process in which HDF5 is parsed, watched: what it does that no reader has to do, and its memory, go into a file.

    python -m hostile.apart NOTES

A line is the bytes at the peak so far, or `! ` and what was done. `hostile.runner` has it run in the place of
`stateregistry.stores.hdf5.child`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO

from hostile.runner import _field, _Watch
from stateregistry.stores.hdf5 import child, frames


class Notes(list[str]):
    """Notes that are written as they are made: this process may end at any moment."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def append(self, text: str) -> None:
        """Write one."""
        os.write(self._handle, f"! {text}\n".encode("utf-8", "backslashreplace"))

    def peak(self) -> None:
        """Write how much memory this process has had."""
        status = Path("/proc/self/status").read_text(encoding="ascii")
        os.write(self._handle, f"{_field(status, 'VmHWM')}\n".encode())


def main() -> None:
    """Watch, then parse."""
    import h5py  # noqa: F401  # loading it is not what is watched

    notes = Notes(sys.argv[1])
    notes.peak()
    plain = frames.send

    def send(stream: IO[bytes], tag: bytes, data: bytes | bytearray | memoryview = b"") -> None:
        notes.peak()
        plain(stream, tag, data)

    frames.send = send
    sys.addaudithook(_Watch(notes, str(Path.cwd())))
    child.main()


if __name__ == "__main__":
    main()
