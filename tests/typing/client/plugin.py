"""An adapter and a store of somebody else's: they satisfy the protocols without inheriting from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from stateregistry import Entry, Kind, Layer, StateRegistry, errors, plugins
from stateregistry.layers.vocabulary import Declaration, Dialect, Piece
from stateregistry.stores.base import Document, FileRegistry, Progress
from stateregistry_conformance import CannotBuild, Harness
from stateregistry_conformance import Declaration as Declared

LINEAR = Declaration("linear", (Piece("kernel", "w", "in out"), Piece("bias", "b", "out")))


class Box:
    """A model of two arrays."""

    def __init__(self) -> None:
        self.arrays = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32)}


class BoxRegistry(StateRegistry):
    """The state of a box, in place."""

    adapter: ClassVar[str] = "box"
    in_place: ClassVar[bool] = True

    def __init__(self, box: Box) -> None:
        self._box = box

    def unwrap(self) -> Box:
        return self._box

    def _entries(self) -> Mapping[str, Entry]:
        return {
            key: Entry(Kind.PARAMETER, value.shape, value.dtype.name, trainable=True)
            for key, value in self._box.arrays.items()
        }

    def _read(self, key: str, /) -> np.ndarray:
        return self._box.arrays[key]

    def _stage(self, key: str, value: np.ndarray, /) -> np.ndarray:
        return value

    def _commit(self, staged: Mapping[str, Any], /) -> Self:
        for key, value in staged.items():
            self._box.arrays[key][...] = value
        return self

    def _layers(self) -> tuple[Layer, ...]:
        return (Layer("linear", "", LINEAR.pieces, type="Box"),)


class BoxAdapter:
    """Registries over boxes."""

    name = "box"
    install = "pip install box"
    framework = "box"
    dialect: Dialect | None = Dialect("box", (LINEAR,))

    def recognises(self, obj: object, /) -> bool:
        return isinstance(obj, Box)

    def wrap(self, obj: Any, /, **options: Any) -> StateRegistry:
        if options or not isinstance(obj, Box):
            raise errors.AdapterError("no box", hint=self.explain(obj) or None)
        return BoxRegistry(obj)

    def explain(self, obj: object, /) -> str:
        return ""


class BoxFile(FileRegistry):
    """A file of boxes."""

    adapter: ClassVar[str] = "box"

    def _entries(self) -> Mapping[str, Entry]:
        return {}

    def _read(self, key: str, /) -> np.ndarray:
        raise errors.FileFormatError(f"{self.path}: {key!r} is damaged", keys=(key,))

    def close(self) -> None:
        """Nothing is held open."""


class BoxStore:
    """Files of boxes."""

    name = "box"
    suffixes: tuple[str, ...] = (".box",)
    install = "nothing"
    dialect = "box"

    def sniff(self, path: Path, head: bytes, /) -> bool:
        return head.startswith(b"box")

    def open(self, path: Path, /) -> FileRegistry:
        return BoxFile(path, document=Document())

    def write(self, path: Path, source: StateRegistry, /, *, extra: Mapping[str, Any], progress: Progress) -> None:
        path.write_text(Document.describe(source, extra=extra).to_json())
        for key, entry in source.items():
            progress(key, entry.nbytes)


class BoxHarness:
    """Boxes for the conformance suite."""

    name = "box"
    adapter_version = "1"
    capabilities: frozenset[str] = frozenset()

    def build(self, declaration: Declared, /) -> Box:
        if declaration.ties:
            raise CannotBuild("a box has no ties")
        box = Box()
        box.arrays = {leaf.key: leaf.value for leaf in declaration.leaves}
        return box

    def registry(self, model: Any, /) -> StateRegistry:
        return BoxRegistry(model)

    def peek(self, model: Any, key: str, /) -> np.ndarray:
        return np.array(model.arrays[key])

    def poke(self, model: Any, key: str, value: np.ndarray, /) -> Any:
        model.arrays[key][...] = value
        return model

    def cell(self, model: Any, key: str, /) -> object:
        return model.arrays[key]


adapter: plugins.Adapter = BoxAdapter()
harness: Harness = BoxHarness()
store: plugins.Store = BoxStore()
