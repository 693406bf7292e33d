"""Sources: what a caller may pass where state is wanted (a registry, a live object, a path) as a registry.

The one place that joins registries with files, so that conversion and tools need not know the stores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stateregistry import plugins
from stateregistry.registry import StateRegistry

if TYPE_CHECKING:
    import numpy as np

    from stateregistry.stores.base import Progress
    from stateregistry.streaming.engine import How
    from stateregistry.streaming.layout import Written
    from stateregistry.streaming.task import Asked, Held, Joined, Recipe, Stored


def is_path(source: object) -> bool:
    """Whether a caller means a file."""
    return isinstance(source, (str, os.PathLike))


def path_of(path: str | os.PathLike[str]) -> Path:
    """A path, or a URL as one that stores know.

    Raises:
        UnsupportedError: a URL that names no file.
    """
    from stateregistry.stores.url import path_of as as_path  # lazy: only for files

    return as_path(path)


@contextmanager
def resolved(source: Any) -> Iterator[StateRegistry]:
    """The registry of a registry, a live object or a path; a file that was opened here is closed again.

    Raises:
        AdapterError: nobody knows the object. FileMissingError, FileFormatError, UnsafeFileError: the file.
    """
    if is_path(source):
        from stateregistry.stores.opening import open as open_file  # lazy: only for files

        with open_file(source) as reg:
            yield reg
    else:
        yield plugins.of(source)


def place(source: StateRegistry, key: str) -> Stored | Joined | Asked | None:
    """Where in a file the value of a key or alias lies as it is, `None` where it does not."""
    from stateregistry.stores.opening import place_of  # lazy: only for files

    return place_of(source, key)


def value(source: StateRegistry, key: str) -> np.ndarray:
    """A value to look at: of a live registry a view, of a file a copy by positioned reads."""
    from stateregistry.stores.opening import value_of  # lazy: only for files

    return value_of(source, key)


def refuse_damaged(source: StateRegistry) -> None:
    """Refuse a file that carries digests and is not what was written.

    Raises:
        FileFormatError: it lists what is damaged.
    """
    from stateregistry.stores.opening import refuse_damaged as refuse  # lazy: only for files

    refuse(source)


def held(array: np.ndarray) -> Held:
    """A value in memory as the engine takes it."""
    from stateregistry.stores.api import in_memory  # lazy: only for files

    return in_memory(array)


def files(source: StateRegistry) -> tuple[Path, ...]:
    """The files that the values of a registry come from, empty for a live one."""
    from stateregistry.stores.opening import files_of  # lazy: only for files

    return files_of(source)


def made_at(path: Path) -> Mapping[str, Path]:
    """The files of an output by their names: one, or all of a directory."""
    from stateregistry.stores.api import made_at as made  # lazy: only for files

    return made(path)


def stream(
    source: StateRegistry,
    path: Path,
    *,
    recipe: Callable[[str], Recipe],
    position: Callable[[str], tuple[str, int]],
    origins: Sequence[Path],
    format: str | None,  # noqa: A002  # the word of the public functions
    shard_bytes: int | None,
    overwrite: bool,
    extra: Mapping[str, Any],
    how: How,
    token: str,
) -> Written | None:
    """Write a registry through the engine; `None`, with nothing done, where the store of the format cannot be streamed."""
    from stateregistry.stores.api import save_streamed  # lazy: only for files

    return save_streamed(
        source, path, recipe=recipe, position=position, origins=origins, format=format, shard_bytes=shard_bytes,
        overwrite=overwrite, extra=extra, how=how, token=token,
    )  # fmt: skip


def write(
    source: StateRegistry,
    path: Path,
    *,
    format: str | None,  # noqa: A002  # the word of the public functions
    shard_bytes: int | None,
    overwrite: bool,
    extra: Mapping[str, Any],
    progress: Progress,
) -> Path:
    """Write a registry to a file, atomically, through the store of its format."""
    from stateregistry.stores.api import save  # lazy: only for files

    return save(
        source, path, format=format, shard_bytes=shard_bytes, overwrite=overwrite, extra=extra, progress=progress
    )
