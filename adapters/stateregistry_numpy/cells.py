"""Cells: the places of the reference model that hold arrays, `Parameter`, `Buffer` and `Rng`.

A cell owns its array: what is given is copied, C-contiguous and native-endian. Sharing one cell object under two names
is a tie; memory is shared only by whoever assigns `cell.array` on purpose. A cell may be abstract: a shape and a dtype
without values. Imports NumPy and the errors of the core.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from stateregistry import errors
from stateregistry.entry import numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike

_without_values: ContextVar[bool] = ContextVar("_without_values", default=False)


@contextmanager
def abstract_cells() -> Iterator[None]:
    """Let every cell that is made inside hold a shape and a dtype only."""
    token = _without_values.set(True)
    try:
        yield
    finally:
        _without_values.reset(token)


@final
@dataclass(frozen=True, slots=True)
class Abstract:
    """An array that is not there yet.

    Raises:
        DtypeError: a dtype that no registry holds. ValueError: a negative size.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __init__(self, shape: tuple[int, ...], dtype: str | np.dtype[Any]) -> None:
        if any(size < 0 for size in shape):
            raise ValueError(f"{shape} is not a shape: sizes are not negative")
        name = dtype if isinstance(dtype, str) else dtype.name
        object.__setattr__(self, "shape", tuple(shape))
        object.__setattr__(self, "dtype", numpy_dtype(name))


@cache
def is_inexact(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is floating or complex. The dtypes of ml_dtypes are of kind `V`: only the name says."""
    return "float" in dtype.name or "complex" in dtype.name


def own(value: ArrayLike) -> np.ndarray:
    """A C-contiguous, native-endian, writable copy of an array, bit for bit."""
    array = np.asarray(value)
    dtype = array.dtype if array.dtype.isnative else array.dtype.newbyteorder("=")
    return np.array(array, dtype=dtype, order="C", copy=True)


class Cell:
    """One place that holds an array, or an `Abstract` one. `Parameter`, `Buffer` and `Rng` are its kinds.

    Args:
        value: an array, which is copied, or an `Abstract`.
    """

    __slots__ = ("_array", "_spec")

    def __init__(self, value: ArrayLike | Abstract) -> None:
        spec = value if isinstance(value, Abstract) else None
        if spec is None and _without_values.get():
            array = np.asarray(value)
            spec = Abstract(array.shape, array.dtype)
        self._array: np.ndarray | None = None if spec is not None else own(value)  # type: ignore[arg-type]  # an array by now
        self._spec = spec

    @property
    def concrete(self) -> bool:
        """Whether there are values."""
        return self._array is not None

    @property
    def array(self) -> np.ndarray:
        """The array itself, writable: `cell.array[...] = x` writes in place.

        Assigning puts another array into the cell, the very object where it is native-endian: whoever assigns one array
        to two cells has tied them.

        Raises:
            AbstractError: there are no values.
        """
        if self._array is None:
            message = f"this {type(self).__name__} is abstract: {self.dtype}{list(self.shape)} without values"
            raise errors.AbstractError(message, hint="assign an array to it, or load values through a registry")
        return self._array

    @array.setter
    def array(self, value: np.ndarray) -> None:
        array = value if value.dtype.isnative else own(value)
        self._array, self._spec = array, None

    def empty(self) -> None:
        """Forget the values: the cell is abstract from now on, with its shape and dtype."""
        array = self._array
        if array is not None:
            self._array, self._spec = None, Abstract(array.shape, array.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, also of an abstract cell."""
        return self._present().shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype, also of an abstract cell."""
        return self._present().dtype

    def _present(self) -> np.ndarray | Abstract:
        if self._array is not None:
            return self._array
        assert self._spec is not None  # one of the two is always there
        return self._spec

    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> np.ndarray:  # NumPy's protocol
        return np.array(self.array, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        values = "" if self.concrete else ", abstract"
        return f"{type(self).__name__}({self.dtype}{list(self.shape)}{values})"


@final
class Parameter(Cell):
    """What an optimizer changes.

    Args:
        value: an array, which is copied, or an `Abstract`.
        trainable: whether an optimizer may change it now; ignored for integers and booleans, which it never may.
    """

    __slots__ = ("_trainable",)

    def __init__(self, value: ArrayLike | Abstract, trainable: bool = True) -> None:  # noqa: FBT002  # as torch's requires_grad
        super().__init__(value)
        self._trainable = trainable

    @property
    def can_train(self) -> bool:
        """Whether its dtype is floating or complex."""
        return is_inexact(self.dtype)

    @property
    def trainable(self) -> bool:
        """Whether an optimizer may change it now.

        Raises:
            KindError: set to true for integers or booleans.
        """
        return self._trainable and self.can_train

    @trainable.setter
    def trainable(self, flag: bool) -> None:
        if flag and not self.can_train:
            message = f"a parameter of dtype {self.dtype} cannot be trainable"
            raise errors.KindError(message, hint="only floating and complex dtypes can be trained")
        self._trainable = flag


class Buffer(Cell):
    """State that no optimizer changes: statistics, counters, masks.

    Args:
        value: an array, which is copied, or an `Abstract`.
        persistent: whether it is saved.
    """

    __slots__ = ("persistent",)

    def __init__(self, value: ArrayLike | Abstract, persistent: bool = True) -> None:  # noqa: FBT002  # as torch's register_buffer
        super().__init__(value)
        self.persistent = persistent


_WORD: Final = 1 << 32


@final
class Rng(Buffer):
    """A random number generator inside a model: `uint32[2]`, its seed and how often it was drawn from.

    Args:
        seed: the seed; the high bits beyond 32 are refused. Or an array or `Abstract` of `uint32[2]`.

    Raises:
        ValueError: a seed that does not fit. UnsupportedError: an array of another shape or dtype.
    """

    __slots__ = ()

    def __init__(self, seed: int | np.ndarray | Abstract, persistent: bool = True) -> None:  # noqa: FBT002  # as Buffer
        if isinstance(seed, int):
            if not 0 <= seed < _WORD:
                raise ValueError(f"seed {seed} does not fit into 32 bits")
            seed = np.array([seed, 0], np.uint32)
        if seed.shape != (2,) or seed.dtype != np.uint32:
            message = f"the state of a generator is uint32[2], not {seed.dtype}{list(seed.shape)}"
            raise errors.UnsupportedError(message)
        super().__init__(seed, persistent)

    def draw(self) -> np.random.Generator:
        """A generator for the next draw; the state moves on by one."""
        seed, count = (int(word) for word in self.array)
        self.array[1] = (count + 1) % _WORD
        return np.random.Generator(np.random.Philox(key=seed, counter=count << 64))


def same_place(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two arrays are the same memory with the same shape, strides and dtype; false for arrays of size zero."""
    if first.size == 0 or first.shape != second.shape or first.dtype != second.dtype:
        return False
    return _address(first) == _address(second) and _strides(first) == _strides(second)


def overlap(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two arrays share memory; true where that is too hard to decide (refuse rather than guess)."""
    try:
        return bool(np.shares_memory(first, second, max_work=100_000))  # type: ignore[arg-type]  # any bound, says NumPy's documentation
    except (np.exceptions.TooHardError, ValueError):
        return True


def extent(array: np.ndarray) -> tuple[int, int]:
    """The first byte of the memory of an array, and the first one behind it."""
    low = high = _address(array)
    if math.prod(array.shape) == 0:
        return low, low
    for size, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += (size - 1) * stride
        else:
            high += (size - 1) * stride
    return low, high + array.itemsize


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _strides(array: np.ndarray) -> tuple[int, ...]:
    # The stride of an axis of one element says nothing.
    return tuple(0 if size == 1 else step for size, step in zip(array.shape, array.strides, strict=True))
