"""Broken adapters by those who wrote the checks: each is the reference with one fault, and fails on what it violates.

A mutant that survives is a hole in the suite. Each names the requirement it violates and the framework behaviour that it
imitates. The corpus of those who had not seen the checks is `tests/mutants`; the kill matrix counts both.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import pytest
from mutants.support import FrozenSubject, MutableSubject

from stateregistry import checking, errors
from stateregistry.entry import Entry, Kind, numpy_dtype
from stateregistry.registry import StateRegistry
from stateregistry_conformance.declaration import Declaration, Leaf
from stateregistry_conformance.harness import Specimen
from stateregistry_numpy.cells import Parameter
from stateregistry_numpy.module import Module
from stateregistry_numpy.registry import FrozenRegistry, MutableRegistry


class ReadsAlias(MutableRegistry):
    """`read` lends the memory of the model (torch's state_dict, NNX's state)."""

    violates = "SR-READ-003"

    def read(self, key: str, /) -> np.ndarray:
        return self._known(self._canonical(key)[0]).array


class ReadsReadOnly(MutableRegistry):
    """`read` gives what JAX gives: an array that cannot be written."""

    violates = "SR-READ-002"

    def read(self, key: str, /) -> np.ndarray:
        array = super().read(key)
        array.flags.writeable = False
        return array


class ViewsWritable(MutableRegistry):
    """`view` lends writable memory (tensor.numpy())."""

    violates = "SR-READ-006"

    def view(self, key: str, /) -> np.ndarray:
        return self._known(self._canonical(key)[0]).array


class ScalarsBecomeVectors(MutableRegistry):
    """`np.ascontiguousarray` on the way out turns `()` into `(1,)`."""

    violates = "SR-READ-002"

    def read(self, key: str, /) -> np.ndarray:
        return np.ascontiguousarray(super().read(key)).copy()


class ListsScalarsAsVectors(MutableRegistry):
    """`()` is listed as `(1,)` (torch takes the one for the other)."""

    violates = "SR-READ-001"

    def _entries(self) -> Mapping[str, Entry]:
        return {k: dataclasses.replace(e, shape=e.shape or (1,)) for k, e in super()._entries().items()}

    def _find(self, key: str, /) -> Entry | None:
        entry = super()._find(key)
        return None if entry is None else dataclasses.replace(entry, shape=entry.shape or (1,))


class NormalisesNaN(MutableRegistry):
    """A detour over arithmetic loses the payload of a NaN."""

    violates = "SR-READ-004"

    def _read(self, key: str, /) -> np.ndarray:
        array = super()._read(key)
        if array.dtype == np.float32:
            array = np.where(np.isnan(array), np.float32(np.nan), array)
        return array


class FlushesSubnormals(MutableRegistry):
    """Subnormal numbers become zero on the way in."""

    violates = "SR-DTYPE-003"

    def _stage(self, key: str, value: np.ndarray, /) -> np.ndarray:
        if value.dtype == np.float32:
            tiny = np.abs(value) < np.finfo(np.float32).smallest_normal
            value = np.where(tiny & (value != 0), np.float32(0), value)
        return value


class CastsSilently(MutableRegistry):
    """A write casts to the dtype of the entry (torch, Keras)."""

    violates = "SR-WRITE-006"

    def replace(self, values: Mapping[str, Any], /) -> Any:
        arrays, _ = checking.gather(values, self._convert)
        entries, known = self._listing(), self._aliases()
        fixed: dict[str, Any] = (
            dict(values) if not arrays else {key: values[key] for key in values if key not in arrays}
        )
        for key, array in arrays.items():
            entry = entries.get(known.get(key, key))
            fixed[key] = array if entry is None else array.astype(numpy_dtype(entry.dtype), copy=False)
        return super().replace(fixed)


class Broadcasts(MutableRegistry):
    """A write broadcasts (NNX's `v[...] =`)."""

    violates = "SR-WRITE-005"

    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        entry = self._find(key)
        if entry is not None:
            try:
                array = np.broadcast_to(array, entry.shape)
            except ValueError:
                return array
        return array


class TakesOneForScalar(MutableRegistry):
    """`(1,)` is taken for `()` (torch)."""

    violates = "SR-WRITE-005"

    def _convert(self, key: str, value: Any, /) -> np.ndarray:
        array = super()._convert(key, value)
        entry = self._find(key)
        return array.reshape(()) if entry is not None and entry.shape == () and array.shape == (1,) else array


class IgnoresUnknown(MutableRegistry):
    """Unknown keys are dropped without a word (Linen, Keras)."""

    violates = "SR-WRITE-007"

    def replace(self, values: Mapping[str, Any], /) -> Any:
        try:
            known = {key: values[key] for key in list(values) if key in self or key in self._aliases()}
        except OSError:
            return super().replace(values)
        return super().replace(known)


class WritesAsItGoes(MutableRegistry):
    """Keys are written one after the other until one raises (torch, NNX, Keras)."""

    violates = "SR-ATOM-001"

    def replace(self, values: Mapping[str, Any], /) -> Any:
        for key in list(values):
            super().replace({key: values[key]})
        return self


class ReadsAsItWrites(MutableRegistry):
    """The mapping is read while the model is written."""

    violates = "SR-ATOM-003"

    def replace(self, values: Mapping[str, Any], /) -> Any:
        try:
            for key in list(values):
                super().replace({key: values[key]})
        except OSError as error:
            problem = checking.Problem("invalid", "*", "a mapping", str(error))
            raise checking.refuse(checking.Report.of([problem]), "cannot replace") from error
        return self


class ReportsTheFirstProblem(MutableRegistry):
    """One error per attempt."""

    violates = "SR-ATOM-002"

    def replace(self, values: Mapping[str, Any], /) -> Any:
        try:
            return super().replace(values)
        except errors.MismatchError as error:
            first = checking.Report(error.report.problems[:1])
            raise checking.refuse(first, "cannot replace") from error


class StagesViews(MutableRegistry):
    """Values that are views of the model are read when their turn comes."""

    violates = "SR-ATOM-004"

    def replace(self, values: Mapping[str, Any], /) -> Any:
        kept = {k: x for k, x in values.items() if isinstance(x, np.ndarray)} if isinstance(values, dict) else {}
        super().replace(
            {key: value.copy() for key, value in kept.items()} | {k: values[k] for k in values if k not in kept}
        )
        for key, value in kept.items():
            self._known(self._canonical(key)[0]).array[...] = value
        return self


class DoesNotRollBack(MutableRegistry):
    """A failure in the middle leaves what was written."""

    violates = "SR-ATOM-005"

    def _roll_back(self, undo: Mapping[str, Any]) -> tuple[str, ...]:
        return ()


class LeavesWhatItMadeConcrete(MutableRegistry):
    """A place that had no value keeps the one that a write gave it before another place failed (a lazy layer)."""

    violates = "SR-ATOM-005"

    def _commit(self, staged: Mapping[str, Any], /) -> Any:
        return super()._commit({key: value for key, value in staged.items() if value is not None})

    def _same(self, key: str, backup: Any) -> bool:
        return backup is None or super()._same(key, backup)


class LetsNativeErrorsOut(MutableRegistry):
    """The exception of the framework reaches the caller."""

    violates = "SR-ERR-004"

    def _commit_or_roll_back(self, staged: Mapping[str, Any]) -> Any:
        try:
            return super()._commit_or_roll_back(staged)
        except errors.CommitError as error:
            raise error.__cause__ from None  # type: ignore[misc]


class DeclarationOrder(MutableRegistry):
    """Keys come in the order of declaration (torch)."""

    violates = "SR-LIST-001"

    def __iter__(self) -> Iterator[str]:
        return iter(self._listing())


class ListsLazily(MutableRegistry):
    """Iteration walks the live model, as torch's generators do."""

    violates = "SR-LIST-010"

    def __iter__(self) -> Iterator[str]:
        seen: set[str] = set()
        while rest := sorted(set(self._listing()) - seen):
            seen.add(rest[0])
            yield rest[0]


class ListsAliases(MutableRegistry):
    """A tied weight is listed under every name (torch's state_dict, MLX)."""

    violates = "SR-LIST-002"

    def _entries(self) -> Mapping[str, Entry]:
        walk = self._walk()
        return {**walk.entries, **{alias: walk.entries[key] for alias, key in walk.aliases.items()}}

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)


class ForgetsAliases(MutableRegistry):
    """The further names of a tied weight are not known (NNX, safetensors)."""

    violates = "SR-ALIAS-002"

    def _aliases(self) -> Mapping[str, str]:
        return {}


class CanonicalIsTheFirst(MutableRegistry):
    """The canonical key is the first declared (torch)."""

    violates = "SR-ALIAS-003"

    def _swap(self) -> dict[str, str]:
        names: dict[int, str] = {}
        first = {}
        for key, cell in self.unwrap().cells():
            first[key] = names.setdefault(id(cell), key)
        return {key: first[key] for key in self._walk().entries if key in first}

    def _entries(self) -> Mapping[str, Entry]:
        swap = self._swap()
        return {swap.get(key, key): entry for key, entry in self._walk().entries.items()}

    def _aliases(self) -> Mapping[str, str]:
        walk, swap = self._walk(), self._swap()
        names = {*walk.aliases, *walk.entries} - set(self._entries())
        return {name: swap[walk.aliases.get(name, name)] for name in names}

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)


class LastWins(MutableRegistry):
    """Of conflicting values for one place the last one wins (torch, NNX)."""

    violates = "SR-ALIAS-005"

    def replace(self, values: Mapping[str, Any], /) -> Any:
        if not isinstance(values, dict):
            return super().replace(values)
        aliases = self._aliases()
        return super().replace({aliases.get(key, key): value for key, value in values.items()})


class BreaksTies(MutableRegistry):
    """A write puts a new object in place (torch's assign=True, MLX)."""

    violates = "SR-ALIAS-006"

    def _commit(self, staged: Mapping[str, Any], /) -> Any:
        for key, value in staged.items():
            *parents, name = key.split("/")
            module = self.unwrap()
            for step in parents:
                module = module.members[step]
            old = self._known(key)
            new = Parameter(value, old.trainable) if isinstance(old, Parameter) else copy.copy(old)
            if not isinstance(old, Parameter):
                new.array = np.array(value)
            setattr(module, name, new)
        return self


class LosesIdentity(MutableRegistry):
    """A write gives every place a new array and a new cell; ties apart, nobody notices but the optimizer."""

    violates = "SR-WRITE-002"

    def _commit(self, staged: Mapping[str, Any], /) -> Any:
        tied = set(self._aliases().values())
        BreaksTies._commit(self, {key: value for key, value in staged.items() if key not in tied})  # type: ignore[arg-type]
        return super()._commit({key: value for key, value in staged.items() if key in tied})


class ReturnsAnother(MutableRegistry):
    """A write in place returns a new handle."""

    violates = "SR-WRITE-002"

    def replace(self, values: Mapping[str, Any], /) -> Any:
        super().replace(values)
        return type(self)(self.unwrap())


class EqualValuesAreTies(MutableRegistry):
    """Ties are found by comparing values."""

    violates = "SR-ALIAS-007"

    def _walk(self) -> Any:
        walk = super()._walk()
        seen: dict[bytes, str] = {}
        aliases = dict(walk.aliases)
        for key in sorted(walk.entries):
            cell = self._cell(key)
            if cell is not None and cell.concrete and cell.array.size:
                bits = cell.array.tobytes() + str(cell.shape).encode()
                if bits in seen:
                    aliases[key] = seen[bits]
                seen.setdefault(bits, key)
        entries = {key: entry for key, entry in walk.entries.items() if key not in aliases}
        return dataclasses.replace(walk, entries=entries, aliases=aliases)

    def _find(self, key: str, /) -> Entry | None:
        return self._walk().entries.get(key)


class ToleratesOverlap(MutableRegistry):
    """Places that overlap in memory are listed as if they were apart (torch)."""

    violates = "SR-ALIAS-008"

    def __init__(self, module: Any) -> None:
        self._module = module
        self._groups = {}

    def _walk(self) -> Any:
        try:
            return super()._walk()
        except errors.UnsupportedError:
            cells = dict(self.unwrap().cells())
            entries = {k: Entry(Kind.BUFFER, c.shape, c.dtype.name) for k, c in cells.items()}
            return type("Walk", (), {"entries": entries, "aliases": {}, "opaque": {}})


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


class SharesCallersMemory(FrozenRegistry):
    """The caller's array becomes part of the tree (jnp.asarray on large arrays)."""

    violates = "SR-WRITE-011"

    def replace(self, values: Mapping[str, Any], /) -> Any:
        other = super().replace(values)
        if other is self or not isinstance(values, dict):
            return other
        for key, value in values.items():
            canonical = self._aliases().get(key, key)
            if (
                isinstance(value, np.ndarray)
                and value.flags.c_contiguous
                and value.flags.writeable
                and value.dtype.isnative
            ):
                collection, path = other._places[canonical]
                node = getattr(other._model, collection)
                for step in path[:-1]:
                    node = node[step]
                _tree(node)[path[-1]] = value
        return other


def _tree(node: Any) -> dict[Any, Any]:
    """The dict below a mapping proxy."""
    import gc

    return next(found for found in gc.get_referents(node) if isinstance(found, dict))


class ChangesTheReceiver(FrozenRegistry):
    """A functional write changes what the receiver wraps."""

    violates = "SR-WRITE-003"

    def _commit(self, staged: Mapping[str, Any], /) -> Any:
        other = super()._commit(staged)
        self._model = other._model
        return other


class LosesFlags(FrozenRegistry):
    """The flags that the handle carries are lost at the next write."""

    violates = "SR-KIND-005"

    def replace(self, values: Mapping[str, Any], /) -> Any:
        other = super().replace(values)
        if other is not self:
            other._flags = {}
        return other

    def _write(self, arrays: Mapping[str, np.ndarray], entries: Mapping[str, Entry]) -> Any:
        other = super()._write(arrays, entries)
        if other is not self:
            other._flags, other._listed = {}, None
        return other


class HidesDuplicates(FrozenRegistry):
    """Of two places with one key the last one is listed (flatten_dict)."""

    violates = "SR-KEY-006"

    def __init__(self, model: Any) -> None:
        seen = {}
        for collection, path, _ in model.leaves():
            seen[path] = collection
        for name in ("parameters", "buffers"):
            model = dataclasses.replace(model, **{name: _kept(getattr(model, name), seen, name)})
        super().__init__(model)


def _kept(tree: Any, seen: Mapping[Any, str], name: str, path: tuple[Any, ...] = ()) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    found = {}
    for step, child in tree.items():
        here = (*path, step)
        if seen.get(here, name) == name:
            found[step] = _kept(child, seen, name, here)
    return found


class MergesPrefixes(FrozenRegistry):
    """A name may be at once an array and a container (Linen over two collections)."""

    violates = "SR-KEY-007"

    def _index(self) -> dict[str, Entry]:
        try:
            return super()._index()
        except errors.DuplicateKeyError as error:
            if error.keys and "prefix" not in str(error) and "container" not in str(error):
                raise
            return {}


class AcceptsEmptyNames(FrozenRegistry):
    """An empty name is mangled into something else (Haiku, MLX)."""

    violates = "SR-KEY-002"

    def _index(self) -> dict[str, Entry]:
        try:
            return super()._index()
        except errors.KeyPathError:
            return {}


class ForgetsTheSecondFreeze(MutableRegistry):
    """Flags are those of the first time that somebody asked after a change (a cached list of weights, Keras)."""

    violates = "SR-KIND-003"
    _flags: dict[str, bool] | None = None
    _frozen = 0

    def with_trainable(self, mask: Mapping[str, bool], /) -> Any:
        self._frozen += 1
        done = super().with_trainable(mask)
        if self._frozen == 1:
            self._flags = {key: entry.trainable for key, entry in super()._entries().items()}
        return done

    def _entries(self) -> Mapping[str, Entry]:
        known = self._flags or {}
        return {
            key: dataclasses.replace(entry, trainable=known.get(key, entry.trainable))
            for key, entry in super()._entries().items()
        }

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)


class EveryParameterIsTrained(MutableRegistry):
    """An integer parameter is to be trainable as all parameters are, which no entry can be."""

    violates = "SR-KIND-003"

    def _entries(self) -> Mapping[str, Entry]:
        found = super()._entries()
        whole = {key: entry for key, entry in found.items() if entry.kind is Kind.PARAMETER and not entry.can_train}
        return {**found, **{key: dataclasses.replace(entry, trainable=True) for key, entry in whole.items()}}

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)


class StartsThawed(MutableRegistry):
    """What was frozen before the model was wrapped is not looked at (Equinox: the mask is the caller's)."""

    violates = "SR-KIND-006"

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._before = {key for key, cell in module.cells() if isinstance(cell, Parameter) and not cell.trainable}

    def _entries(self) -> Mapping[str, Entry]:
        found = super()._entries()
        thawed = {key for key in self._before & set(found) if found[key].can_train}
        return {**found, **{key: dataclasses.replace(found[key], trainable=True) for key in thawed}}

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)


class ReadsWhatItHasRead(MutableRegistry):
    """A registry remembers what it has read, and writes past that."""

    violates = "SR-WRITE-001"

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._seen: dict[str, np.ndarray] = {}

    def _read(self, key: str, /) -> np.ndarray:
        return self._seen.setdefault(key, super()._read(key).copy())


class Placed(Parameter):
    """A parameter that lies on a mesh of devices, as far as NumPy can tell."""

    mesh = ("data", "model")


class GathersWhatWasSpread(MutableRegistry):
    """A write puts a plain array where a spread one was (device_put without a sharding)."""

    violates = "SR-WRITE-009"

    @classmethod
    def subject(cls) -> Any:
        return SpreadSubject(cls)

    def _commit(self, staged: Mapping[str, Any], /) -> Any:
        done = super()._commit(staged)
        for key in staged:
            cell = self._known(key)
            if isinstance(cell, Placed):
                cell.mesh = ()
        return done


class SpreadSubject(MutableSubject):
    """The reference over a framework that spreads arrays."""

    def specimen(self, name: str, /) -> Any:
        if name != "sharded":
            return super().specimen(name)
        leaf = Leaf("w", Kind.PARAMETER, np.arange(12, dtype=np.float32).reshape(3, 4))
        model = Module()
        model.register_parameter("w", Placed(leaf.value.copy(), True))
        return Specimen(model, ("w",), Declaration((leaf,)))

    def describe(self, model: Any, key: str, /) -> object:
        return super().describe(model, key), getattr(self.cell(model, key), "mesh", None)


class WritesFreeze(MutableRegistry):
    """What was loaded is not trained any more (`requires_grad` of the array that was assigned)."""

    violates = "SR-WRITE-010"

    def _commit(self, staged: Mapping[str, Any], /) -> Any:
        done = super()._commit(staged)
        for key in staged:
            cell = self._known(key)
            if isinstance(cell, Parameter):
                cell.trainable = False
        return done


class NamesDtypesItsOwnWay(MutableRegistry):
    """One name for all small floats."""

    violates = "SR-DTYPE-001"

    def _entries(self) -> Mapping[str, Entry]:
        return {key: _named_alike(entry) for key, entry in super()._entries().items()}

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)


def _named_alike(entry: Entry) -> Entry:
    return dataclasses.replace(entry, dtype="float8_e5m2") if entry.dtype == "float8_e5m2fnuz" else entry


class TiedIsFrozen(MutableRegistry):
    """What is reached by two names is taken for shared with somebody, and not trained."""

    violates = "SR-ALIAS-009"

    def _entries(self) -> Mapping[str, Entry]:
        walk = self._walk()
        tied = set(walk.aliases.values())
        return {
            key: dataclasses.replace(entry, trainable=entry.trainable and key not in tied)
            for key, entry in walk.entries.items()
        }

    def _find(self, key: str, /) -> Entry | None:
        return self._entries().get(key)


MUTANTS: list[type[StateRegistry]] = [
    found
    for found in list(globals().values())
    if isinstance(found, type) and issubclass(found, StateRegistry) and "violates" in vars(found)
]


@dataclass(frozen=True)
class Broken:
    """One of them as the kill matrix takes it."""

    registry: type[StateRegistry]
    also: ClassVar[tuple[str, ...]] = ()

    @property
    def id(self) -> str:
        return self.registry.__name__

    @property
    def violates(self) -> str:
        found: str = vars(self.registry)["violates"]
        return found

    def harness(self) -> Any:
        made: Any = getattr(self.registry, "subject", None)
        if made is not None:
            return made()
        subject = MutableSubject if issubclass(self.registry, MutableRegistry) else FrozenSubject
        return subject(self.registry)


def all_mutants() -> tuple[Broken, ...]:
    """Every broken adapter of this file."""
    return tuple(Broken(registry) for registry in MUTANTS)


def test_there_are_enough_mutants() -> None:
    assert len(MUTANTS) >= 50


@pytest.mark.parametrize("mutant", all_mutants(), ids=lambda mutant: mutant.id)
def test_a_broken_adapter_fails_on_the_requirement_it_violates(mutant: Broken, killers: Any) -> None:
    """By the directed checks that decide it; what else fails is a matter of the kill matrix."""
    assert killers(mutant), f"{mutant.id} survived on {mutant.violates}"


@pytest.mark.parametrize("subject", [MutableSubject, FrozenSubject, SpreadSubject])
def test_the_same_disguise_over_the_reference_itself_is_green(subject: Any, reds: Any) -> None:
    """The disguise is not what makes mutants red."""
    assert reds(subject()) == {}
