"""Limits: how much a file may ask of the process that reads it. Explicit, documented, settable.

A file from a stranger can declare anything; every reader holds what it declares against these numbers before it
believes it. The defaults are far above every checkpoint that is known and far below what hurts. Going over a limit is
a `FileFormatError` that names the limit. Imports nothing but the errors.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import final

from stateregistry import errors


@final
@dataclass(frozen=True, slots=True)
class Limits:
    """What a reader accepts, whatever a file declares.

    Attributes:
        header_bytes: the JSON header of a safetensors file; the format itself stops at 100 MB.
        entries: arrays in one file.
        rank: axes of one array; NumPy holds no more than 64.
        name_chars: characters of the name of one array.
        document_bytes: our own metadata, residual included.
        archive_members: members of a zip archive, files of an Orbax directory.
        inflation: bytes that compressed members of an archive, or a compressed array, hold for each byte of the file; the
            first 64 MiB are free.
        npy_header_bytes: the header of one array of an `.npz` archive; NumPy stops at 10,000.
        pickle_bytes: the `data.pkl` of a torch archive, which holds no values.
        pickle_steps: instructions in it; torch writes 30 for each tensor.
        pickle_stack: values on its stack, and marks open at once.
        nesting: containers within containers, where a sub-key is looked for; groups of an HDF5 file.
        expansion: elements of one strided tensor for each element of its storage (`expand` repeats without memory).

    Raises:
        ValueError: a limit that is not a positive `int`, or a rank above 64.
    """

    header_bytes: int = 100_000_000
    entries: int = 1_000_000
    rank: int = 64
    name_chars: int = 4096
    document_bytes: int = 100_000_000
    archive_members: int = 1_000_000
    inflation: int = 100
    npy_header_bytes: int = 10_000
    pickle_bytes: int = 256 * 2**20
    pickle_steps: int = 5_000_000
    pickle_stack: int = 1_000_000
    nesting: int = 32
    expansion: int = 1024

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if type(value) is not int or value < 1:
                message = f"the limit {item.name} is a positive int, not {value!r}"
                raise ValueError(message)
        if self.rank > 64:
            message = f"the limit rank is at most 64, which is what NumPy holds, not {self.rank}"
            raise ValueError(message)

    def check(self, name: str, found: int, where: str) -> None:
        """Hold a number that was found in a file against the limit of that name.

        Args:
            where: the file and the place in it, for the message.

        Raises:
            FileFormatError: it is above.
        """
        allowed: int = getattr(self, name)
        if found > allowed:
            message = f"{where}: {found:,} is above the limit {name}={allowed:,}"
            hint = f"if the file is to be trusted: sr.open(path, limits=Limits({name}=...))"
            raise errors.FileFormatError(message, expected=allowed, found=found, hint=hint)


DEFAULT = Limits()
