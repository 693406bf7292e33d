"""Sources: what a caller may pass where state is wanted (a registry, a live object, a path) as a registry.

The one place that joins registries with files, so that conversion and tools need not know the stores.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stateregistry import plugins
from stateregistry.registry import StateRegistry

if TYPE_CHECKING:
    from stateregistry.stores.base import Progress


def is_path(source: object) -> bool:
    """Whether a caller means a file."""
    return isinstance(source, (str, os.PathLike))


@contextmanager
def resolved(source: Any) -> Iterator[StateRegistry]:
    """The registry of a registry, a live object or a path; a file that was opened here is closed again.

    Raises:
        AdapterError: nobody knows the object. FileMissingError, FileFormatError, UnsafeFileError: the file.
    """
    if is_path(source):
        from stateregistry.stores.api import open as open_file  # lazy: only for files

        with open_file(source) as reg:
            yield reg
    else:
        yield plugins.of(source)


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
