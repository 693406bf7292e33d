"""Digests of values: xxh3_128 of dtype, shape and C-order bytes, made while the bytes go by.

The same text for the same value, wherever it is stored: a value in a live model, in a `.safetensors` and in a `.msgpack`
has one digest. It finds damage; it is no protection against somebody who means it. Imports NumPy and xxhash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import xxhash

from stateregistry.streaming.disk import File

#: What stands where a digest will be.
NONE_YET = "0" * 32
#: Bytes that are read at once where a file is only hashed.
STEP = 1 << 20


def start(dtype: str, shape: tuple[int, ...]) -> xxhash.xxh3_128:
    """A digest that waits for the bytes of a value."""
    return xxhash.xxh3_128(f"{dtype}{list(shape)}".encode())


def of_array(array: np.ndarray) -> str:
    """The digest of a value in memory."""
    state = start(array.dtype.name, array.shape)
    if array.size:
        state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)  # ml_dtypes have no buffer format
    return state.hexdigest()


def of_stored(file: File, dtype: str, shape: tuple[int, ...], extents: Iterable[tuple[int, int]]) -> str:
    """The digest of a value that lies in a file, little-endian, in one or more stretches.

    Raises:
        FileFormatError: the file ends early. FileAccessError.
    """
    state = start(dtype, shape)
    buffer = np.empty(STEP, np.uint8)
    for offset, size in extents:
        for done in range(0, size, STEP):
            piece = buffer[: min(STEP, size - done)]
            file.read_into(piece, offset + done)
            state.update(piece.data)
    return state.hexdigest()


def of_pieces(dtype: str, shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> str:
    """The digest of a value that comes in flat pieces, in C order."""
    state = start(dtype, shape)
    for piece in pieces:
        state.update(piece.view(np.uint8).data)
    return state.hexdigest()


def of_text(text: bytes) -> str:
    """xxh3_128 of bytes."""
    return xxhash.xxh3_128(text).hexdigest()


def sha256_of(text: bytes) -> str:
    """sha256 of bytes."""
    return hashlib.sha256(text).hexdigest()


def sha256(path: str | Path) -> str:
    """sha256 of a file, as `sha256sum` prints it.

    Raises:
        FileMissingError, FileAccessError.
    """
    state = hashlib.sha256()
    _through(path, state.update)
    return state.hexdigest()


def of_file(path: str | Path) -> str:
    """xxh3_128 of a file, as `xxhsum -H2` prints it.

    Raises:
        FileMissingError, FileAccessError.
    """
    state = xxhash.xxh3_128()
    _through(path, state.update)
    return state.hexdigest()


def _through(path: str | Path, update: Callable[[memoryview], None]) -> None:
    buffer = np.empty(STEP, np.uint8)
    with File.reading(path) as file:
        size = file.size
        for done in range(0, size, STEP):
            piece = buffer[: min(STEP, size - done)]
            file.read_into(piece, done)
            update(piece.data)
