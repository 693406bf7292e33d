"""A layer over the system calls of `os`: the n-th one that touches a folder dies, fails, or does half of its work.

Everything that the project does to files goes through functions of `os` (those of `pathlib` too); while the layer is
installed, each is counted if its path or descriptor lies in the watched folder. At the n-th the strike falls: the process
dies before or after the call, the call fails with an error before or after it was done, or it moves half of the bytes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

KILLED = 86
#: Calls that are counted: of a path, and of a descriptor.
OF_PATHS = ("open", "unlink", "remove", "rename", "replace", "link", "chmod", "mkdir", "rmdir")
OF_HANDLES = (
    "pwrite", "write", "preadv", "pread", "read", "ftruncate", "posix_fallocate", "fsync", "fdatasync", "close",
)  # fmt: skip
#: How a strike can fall.
KILLS = ("killed before", "killed after")
FAILS = ("fails before", "fails after")
HALF = "half"


class Strike:
    """The layer. A context manager; `made` has the names of the calls that were counted."""

    def __init__(self, folder: Path, number: int, how: str, code: int = 0) -> None:
        self.folder_path, self.folder = folder, os.path.realpath(folder)
        self.number, self.how, self.code = number, how, code
        self.made: list[str] = []
        self.struck = ""
        self._handles: set[int] = set()
        self._lock = threading.Lock()
        self._real: dict[str, Callable] = {}

    def __enter__(self):
        for name in (*OF_PATHS, *OF_HANDLES):
            self._real[name] = getattr(os, name)
            setattr(os, name, self._wrapped(name))
        return self

    def __exit__(self, *_):
        for name, real in self._real.items():
            setattr(os, name, real)

    def _wrapped(self, name):
        real = self._real[name]

        def call(*args, **more):
            if not self._concerns(name, args):
                return real(*args, **more)
            with self._lock:
                self.made.append(name)
                falls = len(self.made) == self.number
                if falls:
                    self.struck = name
            result = self._fall(name, real, args, more) if falls else real(*args, **more)
            self._remember(name, args, result)
            return result

        return call

    def _concerns(self, name, args):
        if name in OF_HANDLES:
            return args[0] in self._handles
        return isinstance(args[0], (str, bytes, os.PathLike)) and self._inside(args[0])

    def _inside(self, path):
        path = os.path.abspath(os.fsdecode(path))  # noqa: PTH100  # not resolved: a link in the folder is in it
        return path == self.folder or path.startswith(self.folder + os.sep)

    def _remember(self, name, args, result):
        if name == "open":
            self._handles.add(result)
        elif name == "close":
            self._handles.discard(args[0])

    def _fall(self, name, real, args, more):
        if self.how == "killed before":
            os._exit(KILLED)
        if self.how == "fails before" and name != "close":
            raise OSError(self.code, os.strerror(self.code))
        if self.how == HALF and name in ("pwrite", "write") and len(args[1]) > 1:
            return real(args[0], bytes(args[1][: len(args[1]) // 2]), *args[2:])
        if self.how == HALF and name == "preadv" and len(args[1][0]) > 1:
            return real(args[0], [args[1][0][: len(args[1][0]) // 2]], *args[2:])
        try:
            result = real(*args, **more)
        finally:
            if self.how == "killed after":
                os._exit(KILLED)
        if self.how in FAILS:
            if name == "open":
                self._real["close"](result)
            self._remember(name, args, result) if name == "close" else None
            raise OSError(self.code, os.strerror(self.code))
        return result
