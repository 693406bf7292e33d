"""Residual: what a move could not carry, kept beside the result so that the way back is bit-exact.

A record belongs to the values it was taken beside (its anchors): a BatchNorm counter to the statistics that it counts.
If one of those has changed since (the model was trained on), the record is stale, and the fallback that the plan states
is used and reported instead. JSON both ways, so that it travels in a file's metadata.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np
import xxhash

from stateregistry.entry import numpy_dtype
from stateregistry.errors import FileFormatError

if TYPE_CHECKING:
    from collections.abc import Callable


def digest(array: np.ndarray) -> str:
    """Content identity of a value: xxh3_128 of dtype, shape and C-order bytes."""
    hasher = xxhash.xxh3_128(f"{array.dtype.name}{list(array.shape)}".encode())
    if array.size:
        hasher.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)  # ml_dtypes have no buffer format
    return hasher.hexdigest()


@final
@dataclass(frozen=True, slots=True)
class Record:
    """One value that the other side has no place for.

    Attributes:
        key: its key on the side that it came from.
        value: the value, bit for bit.
        anchors: digests of the values it belongs to, by their key on the side that lacks it.
    """

    key: str
    value: np.ndarray
    anchors: Mapping[str, str]

    def fresh(self, read: Callable[[str], np.ndarray | None]) -> bool:
        """Whether every value that it belongs to is still what it was. `read` gives `None` for a key that is gone."""
        values = ((read(key), wanted) for key, wanted in self.anchors.items())
        return all(value is not None and digest(value) == wanted for value, wanted in values)


@final
@dataclass(frozen=True, slots=True)
class Residual:
    """All records of one conversion, by key. Empty is false."""

    records: Mapping[str, Record]

    def __bool__(self) -> bool:
        return bool(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; values as base64 of their bytes."""
        return {
            record.key: {
                "dtype": record.value.dtype.name,
                "shape": list(record.value.shape),
                "data": base64.b64encode(record.value.tobytes()).decode(),
                "anchors": dict(record.anchors),
            }
            for record in self.records.values()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "residual") -> Self:
        """The residual that `to_dict` wrote.

        Args:
            data: what it wrote, as JSON gives it back.
            where: the file that it comes from, for messages.

        Raises:
            FileFormatError: it is damaged: bytes and shape disagree, or a field is missing or of the wrong type.
        """
        records = {}
        if not isinstance(data, Mapping):
            raise FileFormatError(
                f"{where}: the residual is damaged: a {type(data).__name__} where records were expected"
            )
        for key, row in data.items():
            try:
                shape = tuple(int(size) for size in row["shape"])
                raw = base64.b64decode(row["data"], validate=True)
                value = np.frombuffer(raw, dtype=numpy_dtype(row["dtype"])).reshape(shape).copy()
                anchors = {str(name): str(text) for name, text in row["anchors"].items()}
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise FileFormatError(f"{where}: the residual of {key!r} is damaged: {error}", keys=(key,)) from error
            records[key] = Record(key, value, anchors)
        return cls(records)
