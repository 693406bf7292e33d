"""The corpus: every fault of every reader, with its class, how its file is made, and what is to come of it.

A class says what is wrong in words that hold for every format ("a size that is negative"); a fault is one file of one
reader. What has to come of it is one refusal; or, where the thing is merely strange and never read as values, that it is
named among what is opaque; or, where only a name is strange, that it is kept as it is. Imports no reader: what opens the
files is the runner's business.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

#: Reader, as the table calls it, and the module of its faults. A further reader adds a line.
READERS = {
    "safetensors": "hostile.safetensors_files",
    "safetensors index": "hostile.safetensors_indexes",
    "torch zip": "hostile.torch_archives",
    "torch legacy": "hostile.torch_legacy",
    "torch index": "hostile.torch_indexes",
    "torch DCP": "hostile.torch_dcp",
    "npz": "hostile.npz",
    "msgpack": "hostile.flax_msgpack",
    "Orbax": "hostile.orbax_checkpoints",
    "Keras": "hostile.keras_files",
    "GGUF": "hostile.gguf_files",
    "our metadata": "hostile.documents",
}
#: Class -> variant -> whatever the module makes a file of.
Table = Mapping[str, Mapping[str, Any]]


@final
@dataclass(frozen=True, slots=True)
class Fault:
    """One hostile file.

    Attributes:
        reader: whose file it is. kind: the class of the fault. name: the variant.
        make: writes it into an empty folder and gives the path to open.
        says: a pattern that the refusal has to match.
        unsafe: refused as `UnsafeFileError`, because it would run code or leads out of its folder.
        opaque: keys that are named as opaque instead of a refusal.
        kept: keys that are what the file says, however strange, and are read as that.
        options: what is passed to `sr.open` beside the path.
    """

    reader: str
    kind: str
    name: str
    make: Callable[[Path], Path]
    says: str = ""
    unsafe: bool = False
    opaque: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def id(self) -> str:
        """How a test calls it."""
        return f"{self.reader}: {self.kind}: {self.name}"


def rows(table: Table) -> Iterator[tuple[str, str, Any]]:
    """Class, variant and what the file is made of, for each row."""
    for kind, variants in table.items():
        for name, made in variants.items():
            yield kind, name, made


def faults(reader: str | None = None) -> tuple[Fault, ...]:
    """All faults, or those of one reader."""
    wanted = READERS if reader is None else {reader: READERS[reader]}
    return tuple(fault for module in wanted.values() for fault in importlib.import_module(module).FAULTS)
