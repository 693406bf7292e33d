"""What a number or a word of a program stands for: an array in some memory layout, or something that is none.

    7           values of their own for each number, in one of eight layouts (7 % 8)
    "zeros"     zeros        "-zeros"  negative zeros, where the dtype has them
    "same"      the present bits       "nearly"  the present bits, the last one of each changed
    "largest"   the largest finite number of the dtype
    "=name"     the view of another place of the same registry, of the same shape and dtype
    "!shape"    one axis more      "!ones"   every axis 1, or one more    "!flat"    one axis, or none
    "!dtype"    another dtype      "!wide"   a wider dtype                "!number"  a number of Python
    "!text"     no array           "!none"   None                         "!raises"  raises when it is read

Imports NumPy and ml_dtypes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, final

import ml_dtypes
import numpy as np

from stateregistry_conformance.lockstep.oracle import Flat, Given
from stateregistry_conformance.samples import nearly, values

if TYPE_CHECKING:
    from stateregistry.entry import Entry
    from stateregistry.registry import StateRegistry

#: Words that are no good value.
FAULTS: Final = ("!shape", "!ones", "!flat", "!dtype", "!wide", "!number", "!text", "!none", "!raises")
#: Words that are.
WORDS: Final = ("zeros", "-zeros", "same", "nearly", "largest")

_LAYOUTS: Final = 8


@final
class _Offering:
    """An object that is no array and offers `__array__`."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._array, dtype=dtype)


@final
class _Raising:
    """An object whose value cannot be read."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise OSError("the disk is gone")


def given_value(
    spec: int | str, name: str, entry: Entry | None, flat: Flat, registry: StateRegistry, *, good: bool
) -> Given:
    """The object that a spec stands for.

    Args:
        entry: of the place that is named; `None` for a name that nothing is called.
        good: whatever the spec says, a value without a fault.
    """
    if entry is None:
        return _plain(values(f"absent {spec}", (2, 2)))
    if isinstance(spec, str) and spec in FAULTS and not good:
        return _faulty(spec, entry)
    present = flat.values[flat.names[name]]
    if isinstance(spec, str) and spec.startswith("="):
        other = flat.names.get(spec[1:])
        lent = present if other is None else flat.values[other]
        if other is not None and (lent.shape, lent.dtype) == (present.shape, present.dtype):
            return Given(registry.view(spec[1:]), np.array(lent))
        return _plain(np.array(present))
    if spec == "zeros":
        return _plain(np.zeros_like(present))
    if spec == "-zeros":
        return _plain(np.negative(np.zeros_like(present)) if present.dtype != bool else np.array(present))
    if spec == "nearly":
        return _plain(nearly(present))
    if spec == "largest":
        return _plain(np.full(present.shape, _largest(present.dtype), present.dtype))
    if isinstance(spec, str):
        return _plain(np.array(present))
    return _laid_out(values(f"value {spec}", entry.shape, entry.dtype), spec % _LAYOUTS)


def _plain(array: np.ndarray) -> Given:
    return Given(array, np.array(array, order="C"))


def _faulty(spec: str, entry: Entry) -> Given:
    shapes = {
        "!shape": (*entry.shape, 2),
        "!ones": tuple(1 for _ in entry.shape) or (1,),
        "!flat": (math.prod(entry.shape),) if len(entry.shape) != 1 else (),
    }
    if spec in shapes:
        other = shapes[spec] if shapes[spec] != entry.shape else (*entry.shape, 2)
        return Given(values("fault", other, entry.dtype), None, "shape")
    if spec in {"!dtype", "!wide", "!number"}:
        item: object = values("fault", entry.shape, "float16" if entry.dtype != "float16" else "float32")
        if spec == "!wide":
            item = values("fault", entry.shape, "complex128")
        elif spec == "!number" and entry.shape == ():
            item = 2.5 if entry.dtype != "float64" else 2
        return Given(item, None, "dtype")
    return Given({"!text": "1.5", "!none": None}.get(spec, _Raising()), None, "invalid")


def _largest(dtype: np.dtype[Any]) -> object:
    if dtype.kind == "b":
        return True
    return np.iinfo(dtype).max if dtype.kind in "iu" else ml_dtypes.finfo(dtype).max  # type: ignore[no-untyped-call]  # ml_dtypes is untyped here


def _laid_out(array: np.ndarray, layout: int) -> Given:
    kept = np.array(array, order="C")
    if layout == 1:
        return Given(np.array(array, order="F"), kept)  # np.asfortranarray makes a vector of a scalar
    if layout == 2 and array.ndim:
        wide = np.zeros((*array.shape[:-1], array.shape[-1] * 2), array.dtype)
        wide[..., ::2] = array
        return Given(wide[..., ::2], kept)
    if layout == 3 and array.ndim:
        return Given(np.array(array[::-1], order="C")[::-1], kept)
    if layout == 4 and array.dtype.kind in "iufc":  # ml_dtypes' dtypes have no byte order
        return Given(array.astype(array.dtype.newbyteorder("S")), kept)
    if layout == 5:
        array.flags.writeable = False
        return Given(array, kept)
    if layout == 6:
        return Given(_Offering(array), kept)
    return Given(array, kept)
