"""The layout of an output: which files, how long, and where in them every value will lie, before any byte is written.

A store makes it from metadata alone. What depends on values, their digests, has a fixed length, so that it can be
filled in at the end (`seal`). Values lie little-endian in C order. Imports nothing of the core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

Frame = tuple[int, bytes]


@final
@dataclass(frozen=True, slots=True)
class OutFile:
    """One file: its name in the directory of the target, its bytes, and all that lies between the values."""

    name: str
    size: int
    frames: tuple[Frame, ...]


@final
@dataclass(frozen=True, slots=True)
class Slot:
    """Where a value lies: the number of its file, and in it the stretches of each copy."""

    file: int
    places: tuple[tuple[tuple[int, int], ...], ...]


def _as_they_are(digests: Mapping[str, str], number: int, /) -> tuple[Frame, ...]:
    return ()


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """A whole output.

    Attributes:
        files: in the order in which they appear.
        slots: by key, every value that is written.
        seal: from the digests of the values of a file, and its number, what is written over its frames.
        manifest: its name, `""` where one file is all; it appears last.
        manifest_text: its content, from the digests of all values.
        replaces: names of files that belong to what was there before and go once the new ones are in place.
    """

    files: tuple[OutFile, ...]
    slots: Mapping[str, Slot]
    seal: Callable[[Mapping[str, str], int], tuple[Frame, ...]] = _as_they_are
    manifest: str = ""
    manifest_text: Callable[[Mapping[str, str]], bytes] | None = None
    replaces: tuple[str, ...] = field(default=())

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@final
@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes:
        path: the file, or the index of shards. digests: xxh3_128 of every value by key.
        files: sha256 of every file by name.
        origins: xxh3_128 of every file that values were read from, by name.
    """

    path: Path
    digests: Mapping[str, str]
    files: Mapping[str, str]
    origins: Mapping[str, str] = field(default_factory=dict)
