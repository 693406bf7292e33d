"""Bits of values on their way to and from a file: byte order, contiguity, and bools that are bools.

Nothing here computes with values: they move as bytes, so that NaN payloads, -0.0 and every 8-bit code survive.
Imports NumPy, no framework.
"""

from __future__ import annotations

import sys
from typing import Any, Literal

import numpy as np

from stateregistry import errors
from stateregistry.entry import DTYPES, numpy_dtype

ByteOrder = Literal["little", "big"]


def decode(raw: np.ndarray, shape: tuple[int, ...], dtype: str, order: ByteOrder, where: str) -> np.ndarray[Any, Any]:
    """The raw bytes of a file, a contiguous `uint8` array of just the right length, as an array of a shape and dtype.

    No copy where the byte order is that of this machine.

    Raises:
        FileFormatError: a bool that is neither 0 nor 1.
    """
    raw = in_order(raw, dtype, order)
    check_bools(raw, dtype, where)
    return raw.view(numpy_dtype(dtype)).reshape(shape)


def in_order(raw: np.ndarray, dtype: str, order: ByteOrder) -> np.ndarray:
    """File bytes in the byte order of this machine; the same array where they are already."""
    return raw if order == sys.byteorder else swapped(raw, dtype)


def settle(array: np.ndarray, order: ByteOrder, where: str) -> np.ndarray[Any, Any]:
    """An array of the caller's that was filled with file bytes: swapped in place, and its bools checked.

    Raises:
        FileFormatError: a bool that is neither 0 nor 1.
    """
    raw = array.reshape(-1).view(np.uint8)
    if order != sys.byteorder:
        raw[...] = swapped(raw, array.dtype.name)
    check_bools(raw, array.dtype.name, where)
    return array


def swapped(raw: np.ndarray, dtype: str) -> np.ndarray:
    """The same bytes in the other byte order, as a copy; the parts of a complex number are swapped each."""
    width = DTYPES[dtype] // (2 if dtype.startswith("complex") else 1)
    if width == 1:
        return raw
    return np.ascontiguousarray(raw.reshape(-1, width)[:, ::-1]).reshape(-1)


def check_bools(raw: np.ndarray, dtype: str, where: str) -> None:
    """Refuse bytes that are no bool: what they compare equal to would depend on who compares.

    `raw` is an array of single bytes, of any layout, that `dtype` says how to take.

    Raises:
        FileFormatError: a byte of a bool array is neither 0 nor 1.
    """
    if dtype != "bool" or not raw.size:
        return
    largest = int(raw.view(np.uint8).max())
    if largest > 1:
        message = f"{where}: a bool is stored as the byte {largest}, expected 0 or 1"
        hint = "the file is damaged: get it again"
        raise errors.FileFormatError(message, expected="0 or 1", found=largest, hint=hint)


def flipped(array: np.ndarray, *, conjugate: bool, negative: bool) -> np.ndarray[Any, Any]:
    """A copy with signs flipped, which torch can leave undone in a file: of imaginary parts, or of all parts.

    Signs are flipped as bits, so that NaN keeps its payload.
    """
    owned = np.array(array, order="C", copy=True)
    parts = 2 if owned.dtype.name.startswith("complex") else 1
    width = owned.dtype.itemsize // parts
    signs = owned.reshape(-1).view(f"u{width}").reshape(-1, parts)
    bit = signs.dtype.type(1 << (8 * width - 1))
    if negative:
        signs ^= bit
    if conjugate and parts == 2:
        signs[:, 1] ^= bit
    return owned


def encode(array: np.ndarray) -> memoryview:
    """The bytes of an array of any layout and byte order as a file stores them: C order, little-endian.

    No copy of a C-contiguous array on a little-endian machine.
    """
    dtype = array.dtype
    if not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if sys.byteorder == "big":
        raw = swapped(raw, array.dtype.name)
    return raw.data
