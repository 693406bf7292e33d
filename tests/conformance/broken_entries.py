"""Broken adapters, part two: kinds and flags, what is listed and under which key, and dtypes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from stateregistry import errors
from stateregistry.entry import Entry, Kind, numpy_dtype
from stateregistry.registry import StateRegistry
from stateregistry_numpy.cells import Parameter
from stateregistry_numpy.registry import MutableRegistry


class GuessesKinds(MutableRegistry):
    """Kinds are guessed from names."""

    violates = "SR-KIND-001"

    def _entries(self) -> Mapping[str, Entry]:
        return {key: self._guess(key, entry) for key, entry in super()._entries().items()}

    def _find(self, key: str, /) -> Entry | None:
        entry = super()._find(key)
        return None if entry is None else self._guess(key, entry)

    @staticmethod
    def _guess(key: str, entry: Entry) -> Entry:
        statistic = any(word in key for word in ("mean", "var", "stat"))
        return dataclasses.replace(entry, kind=Kind.BUFFER, trainable=False) if statistic else entry


class FrozenIsABuffer(MutableRegistry):
    """A frozen parameter is reported among the non-trainable weights (Keras)."""

    violates = "SR-KIND-002"

    def _entries(self) -> Mapping[str, Entry]:
        return {key: self._shown(entry) for key, entry in super()._entries().items()}

    def _find(self, key: str, /) -> Entry | None:
        entry = super()._find(key)
        return None if entry is None else self._shown(entry)

    @staticmethod
    def _shown(entry: Entry) -> Entry:
        return dataclasses.replace(entry, kind=Kind.PARAMETER if entry.trainable else Kind.BUFFER)


class OwnFlagBesideTheNativeOne(MutableRegistry):
    """The flag is kept on the handle although the framework has one."""

    violates = "SR-KIND-006"

    def _commit_trainable(self, mask: Mapping[str, bool], /) -> Any:
        return StateRegistry._commit_trainable(self, mask)


class IgnoresBuffersInMasks(MutableRegistry):
    """Freezing and thawing skip what they do not fit, silently (MLX)."""

    violates = "SR-KIND-004"

    def with_trainable(self, mask: Mapping[str, bool], /) -> Any:
        known = {key: self._find(self._aliases().get(key, key)) for key in mask if isinstance(key, str)}
        return super().with_trainable(
            {k: f for k, f in mask.items() if (e := known.get(k)) is None or e.can_train or not f}
        )


class IgnoresUnknownInMasks(MutableRegistry):
    """A misspelt name in a freeze list is ignored (MLX)."""

    violates = "SR-WRITE-016"

    def with_trainable(self, mask: Mapping[str, bool], /) -> Any:
        return super().with_trainable({k: f for k, f in mask.items() if k in self or k in self._aliases()})


class GuessesAreNotMarked(MutableRegistry):
    """Every entry says that it was inferred."""

    violates = "SR-KIND-008"

    def _find(self, key: str, /) -> Entry | None:
        entry = super()._find(key)
        return None if entry is None else dataclasses.replace(entry, inferred=True)

    def _entries(self) -> Mapping[str, Entry]:
        return {key: dataclasses.replace(entry, inferred=True) for key, entry in super()._entries().items()}


class ForgetsGenerators(MutableRegistry):
    """The state of a generator is a buffer like any other."""

    violates = "SR-KIND-009"

    def _find(self, key: str, /) -> Entry | None:
        entry = super()._find(key)
        return None if entry is None else dataclasses.replace(entry, rng=False)

    def _entries(self) -> Mapping[str, Entry]:
        return {key: dataclasses.replace(entry, rng=False) for key, entry in super()._entries().items()}


class CachesValues(MutableRegistry):
    """A value that was read once is remembered."""

    violates = "SR-LIST-011"

    def _read(self, key: str, /) -> np.ndarray:
        cache: dict[str, np.ndarray] = self.__dict__.setdefault("cache", {})
        return cache.setdefault(key, super()._read(key).copy())

    def _commit(self, staged: Mapping[str, Any], /) -> Any:
        self.__dict__.setdefault("cache", {}).clear()
        return super()._commit(staged)


class CachesStructure(MutableRegistry):
    """The listing of the first call is remembered."""

    violates = "SR-LIST-012"

    def _entries(self) -> Mapping[str, Entry]:
        kept: Mapping[str, Entry] = self.__dict__.setdefault("kept", super()._entries())
        return {key: entry for key in kept if (entry := MutableRegistry._find(self, key) or kept[key]) is not None}


class DrawsRandomNumbers(MutableRegistry):
    """Listing initialises something at random."""

    violates = "SR-LIST-009"

    def _entries(self) -> Mapping[str, Entry]:
        np.random.random()  # noqa: NPY002  # the global generator is what must not be drawn from
        return super()._entries()


class DropsZeroSize(MutableRegistry):
    """Arrays of size zero are left out."""

    violates = "SR-LIST-003"

    def _entries(self) -> Mapping[str, Entry]:
        return {key: entry for key, entry in super()._entries().items() if entry.size}

    def _find(self, key: str, /) -> Entry | None:
        entry = super()._find(key)
        return entry if entry is None or entry.size else None


class ListsPlainAttributes(MutableRegistry):
    """A plain array attribute is taken for state."""

    violates = "SR-LIST-003"

    def _plain(self) -> dict[str, Entry]:
        found = {k: x for k, x in vars(self.unwrap()).items() if isinstance(x, np.ndarray)}
        return {key: Entry(Kind.BUFFER, array.shape, array.dtype.name) for key, array in found.items()}

    def _entries(self) -> Mapping[str, Entry]:
        return {**super()._entries(), **self._plain()}


class DropsOpaque(MutableRegistry):
    """State that is no array is left out without a word."""

    violates = "SR-LIST-006"

    def _opaque(self) -> Mapping[str, str]:
        return {}


class FoldsCase(MutableRegistry):
    """Keys are compared without case."""

    violates = "SR-KEY-004"

    def _entries(self) -> Mapping[str, Entry]:
        return {key.lower(): entry for key, entry in super()._entries().items()}


class StripsWrappers(MutableRegistry):
    """The prefix of a wrapper is stripped (loaders for DataParallel)."""

    violates = "SR-KEY-004"

    def _entries(self) -> Mapping[str, Entry]:
        found = super()._entries()
        stripped = all(key.startswith("module/") for key in found)
        return {key.removeprefix("module/"): entry for key, entry in found.items()} if stripped else found


class DoesNotEscape(MutableRegistry):
    """Names are joined as they are."""

    violates = "SR-KEY-001"

    def _entries(self) -> Mapping[str, Entry]:
        return {key.replace("~1", "/").replace("~0", "~"): entry for key, entry in super()._entries().items()}


class PadsNumbers(MutableRegistry):
    """Steps of a list are padded so that they sort well."""

    violates = "SR-KEY-003"

    def _entries(self) -> Mapping[str, Entry]:
        return {
            "/".join(s.zfill(2) if s.isdigit() else s for s in k.split("/")): e for k, e in super()._entries().items()
        }


class KindsInKeys(MutableRegistry):
    """The collection is part of the key (Linen, Haiku)."""

    violates = "SR-KEY-005"

    def _entries(self) -> Mapping[str, Entry]:
        return {f"{entry.kind.value}s/{key}": entry for key, entry in super()._entries().items()}


class AbstractLooksConcrete(MutableRegistry):
    """An abstract place is listed like any other (torch)."""

    violates = "SR-READ-010"

    def _entries(self) -> Mapping[str, Entry]:
        return {key: dataclasses.replace(entry, concrete=True) for key, entry in super()._entries().items()}


class AbstractReadsAsZeros(MutableRegistry):
    """Reading what has no value gives zeros."""

    violates = "SR-READ-011"

    def view(self, key: str, /) -> np.ndarray:
        try:
            return super().view(key)
        except errors.AbstractError:
            entry = self[key]
            zeros = np.zeros(entry.shape, numpy_dtype(entry.dtype))
            zeros.flags.writeable = False
            return zeros


class AbstractWritesAreLost(MutableRegistry):
    """A copy into an abstract place does nothing (torch's meta tensors)."""

    violates = "SR-WRITE-014"

    def _commit(self, staged: Mapping[str, Any], /) -> Any:
        return super()._commit({key: value for key, value in staged.items() if self._known(key).concrete})


class ReadsInMemoryOrder(MutableRegistry):
    """A Fortran-ordered value is taken as it lies in memory (safetensors 0.8.0)."""

    violates = "SR-WRITE-012"

    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        if array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous:
            return np.frombuffer(array.tobytes("A"), array.dtype).reshape(array.shape)
        return array


class IntegersThroughFloats(MutableRegistry):
    """`int64` makes a detour over `float64`."""

    violates = "SR-DTYPE-007"

    def _stage(self, key: str, value: np.ndarray, /) -> np.ndarray:
        if value.dtype == np.int64:
            with np.errstate(all="ignore"):
                return value.astype(np.float64).astype(np.int64)
        return value


class BFloatThroughFloat(MutableRegistry):
    """`bfloat16` makes a detour over `float32`, which quietens signalling NaNs."""

    violates = "SR-DTYPE-004"

    def _stage(self, key: str, value: np.ndarray, /) -> np.ndarray:
        if value.dtype == ml_dtypes.bfloat16:
            with np.errstate(all="ignore"):
                return value.astype(np.float32).astype(ml_dtypes.bfloat16)
        return value


class BoolsAreBytes(MutableRegistry):
    """A `bool` comes back as `uint8`."""

    violates = "SR-DTYPE-010"

    def _entries(self) -> Mapping[str, Entry]:
        return {
            k: dataclasses.replace(e, dtype=e.dtype.replace("bool", "uint8")) for k, e in super()._entries().items()
        }

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)

    def _read(self, key: str, /) -> np.ndarray:
        array = super()._read(key)
        return array.view(np.uint8) if array.dtype == bool else array


class EverythingIsPersistent(MutableRegistry):
    """Whether a buffer is saved is not asked."""

    violates = "SR-SNAP-001"

    def _entries(self) -> Mapping[str, Entry]:
        return {key: dataclasses.replace(entry, persistent=True) for key, entry in super()._entries().items()}

    def _find(self, key: str, /) -> Entry | None:
        entry = super()._find(key)
        return None if entry is None else dataclasses.replace(entry, persistent=True)


class UnwrapsACopy(MutableRegistry):
    """`unwrap` gives a copy of the model."""

    violates = "SR-WRITE-004"

    def unwrap(self) -> Any:
        return copy.deepcopy(super().unwrap()) if "counting" not in self.__dict__ else super().unwrap()


class KindIsTheWeakest(MutableRegistry):
    """A parameter that shares memory with a buffer is reported as the buffer."""

    violates = "SR-ALIAS-009"

    def _entries(self) -> Mapping[str, Entry]:
        found = dict(super()._entries())
        for group in {id(group): group for group in self._groups.values()}.values():
            if any(not isinstance(cell, Parameter) for cell in group.members.values()):
                found[group.canonical] = dataclasses.replace(
                    found[group.canonical], kind=Kind.BUFFER, trainable=False, persistent=False
                )
        return found
