"""Broken adapters, part one: what is read, written, loaded, refused and tied."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from stateregistry import checking, errors
from stateregistry.entry import Entry, Kind, numpy_dtype
from stateregistry_numpy.cells import Parameter
from stateregistry_numpy.registry import MutableRegistry


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
