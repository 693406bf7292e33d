"""Entry: the metadata of one place that holds an array, and Kind: how that place was declared.

No array inside, so listing a model of any size is cheap and `dict(a) == dict(b)` is a comparison of architectures.
The dtypes that a registry speaks are the names in `DTYPES`; what a framework holds in another type is `opaque`.
Imports no framework, and NumPy only when a dtype is turned into one.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, final

from stateregistry.errors import DtypeError, KindError

if TYPE_CHECKING:
    import numpy as np

#: Bytes per element of every dtype that a registry can hold, by its NumPy / ml_dtypes name.
DTYPES: dict[str, int] = {
    "bool": 1,
    "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8,
    "complex64": 8, "complex128": 16,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
}  # fmt: skip

_INEXACT = frozenset(name for name in DTYPES if "float" in name or "complex" in name)
#: The dtypes of ml_dtypes; every other name is NumPy's own.
EXTENDED = frozenset(name for name in DTYPES if name.startswith(("bfloat", "float8")))


@final
class Kind(enum.Enum):
    """How a place was declared. Freezing, casting and writing never change it."""

    PARAMETER = "parameter"
    BUFFER = "buffer"

    def __repr__(self) -> str:
        return f"Kind.{self.name}"


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """The metadata of one place that holds an array.

    Attributes:
        kind: how the place was declared.
        shape: the global shape; `()` is a scalar and differs from `(1,)`.
        dtype: a name in `DTYPES`.
        trainable: the optimizer may change it *now*; only a parameter of floating or complex dtype can be.
        persistent: it is saved (torch: `register_buffer(persistent=False)` is not).
        concrete: it holds values (not so on torch's meta device or for `jax.ShapeDtypeStruct`).
        rng: it is the state of a random number generator.
        tag: the native label, free text, not compared.
        inferred: kind and flags were guessed from names, as a bare file does not say them; not compared.

    Raises:
        KindError: `trainable` for a buffer or for an integer or boolean dtype.
        DtypeError: an unknown dtype name. ValueError: a negative size.
    """

    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    trainable: bool = False
    persistent: bool = True
    concrete: bool = True
    rng: bool = False
    tag: str = field(default="", compare=False)
    inferred: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            message = f"{self.dtype!r} is not a dtype that a registry holds"
            raise DtypeError(message, found=self.dtype, expected=tuple(DTYPES))
        if self.trainable and (self.kind is not Kind.PARAMETER or self.dtype not in _INEXACT):
            message = f"a {self.kind.value} of dtype {self.dtype} cannot be trainable"
            raise KindError(message, hint="only a parameter of floating or complex dtype can be trainable")
        if any(size < 0 for size in self.shape):
            message = f"{self.shape} is not a shape: sizes are not negative"
            raise ValueError(message)

    @property
    def size(self) -> int:
        """The number of elements: 1 for a scalar, 0 where an axis is empty."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The number of bytes of the values."""
        return math.prod(self.shape) * DTYPES[self.dtype]

    @property
    def can_train(self) -> bool:
        """Whether `trainable` may be true: a parameter of floating or complex dtype."""
        return self.kind is Kind.PARAMETER and self.dtype in _INEXACT

    def __str__(self) -> str:
        return f"{self.kind.value} {self.dtype}{list(self.shape)}"


@cache
def numpy_dtype(name: str, /) -> np.dtype[Any]:
    """The NumPy dtype of a dtype name, native-endian.

    Raises:
        DtypeError: not one of `DTYPES`.
    """
    import numpy as np  # lazy: metadata alone never needs NumPy

    if name not in DTYPES:
        message = f"{name!r} is not a dtype that a registry holds"
        raise DtypeError(message, found=name, expected=tuple(DTYPES))
    if name in EXTENDED:
        import ml_dtypes

        extended: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return extended
    return np.dtype(name)


def dtype_name(dtype: np.dtype[Any], /) -> str | None:
    """The name of a NumPy dtype, whatever its byte order; `None` where a registry cannot hold it."""
    name = dtype.name
    return name if name in DTYPES else None
