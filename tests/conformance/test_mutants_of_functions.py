"""Deliberately broken functions over registries, each caught on the requirement that it violates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import pytest

import stateregistry as sr
from stateregistry import casting, checking, errors, plugins, transfer
from stateregistry.entry import numpy_dtype
from stateregistry_numpy.harness import mutable

load, check, snapshot, cast = transfer.load, checking.check, transfer.snapshot, casting.cast


def load_ignores_what_is_missing(target: Any, source: Any, allow: Any = ()) -> Any:
    return load(target, source, {*allow, "missing"} if set(allow) <= {"unexpected", "missing"} else allow)


def load_ignores_what_is_unexpected(target: Any, source: Any, allow: Any = ()) -> Any:
    return load(target, source, {*allow, "unexpected"} if set(allow) <= {"unexpected", "missing"} else allow)


def load_tolerates_both_when_told_one(target: Any, source: Any, allow: Any = ()) -> Any:
    return load(target, source, {"missing", "unexpected"} if set(allow) & {"missing", "unexpected"} else allow)


def load_takes_any_name(target: Any, source: Any, allow: Any = ()) -> Any:
    return load(target, source, set(allow) & {"missing", "unexpected"})


def load_fills_missing_with_zeros(target: Any, source: Any, allow: Any = ()) -> Any:
    done = load(target, source, allow)
    if "missing" not in allow or not isinstance(source, dict):
        return done
    zeros = {k: np.zeros(e.shape, numpy_dtype(e.dtype)) for k, e in done.items() if e.persistent and k not in source}
    return done.replace(zeros)


def load_casts(target: Any, source: Any, allow: Any = ()) -> Any:
    registry = plugins.of(target)
    if isinstance(source, dict):
        entries = dict(registry)
        source = {
            key: value.astype(numpy_dtype(entries[key].dtype))
            if isinstance(value, np.ndarray) and key in entries and value.dtype.kind in "fc"
            else value
            for key, value in source.items()
        }
    with np.errstate(all="ignore"):
        return load(registry, source, allow)


def load_thaws(target: Any, source: Any, allow: Any = ()) -> Any:
    done = load(target, source, allow)
    return done.with_trainable({key: True for key, entry in done.items() if entry.can_train})


def load_takes_everything_of_a_registry(target: Any, source: Any, allow: Any = ()) -> Any:
    done = load(target, source, allow)
    if isinstance(source, sr.StateRegistry):
        done = done.replace({k: source.read(k) for k, e in source.items() if e.concrete and k in done})
    return done


def load_writes_before_it_checks(target: Any, source: Any, allow: Any = ()) -> Any:
    registry = plugins.of(target)
    if isinstance(source, dict):
        for key, value in source.items():
            report = check(registry, {key: value}, partial=True)
            if report.ok and not set(allow) - {"missing", "unexpected"}:
                registry = registry.replace({key: value})
    return load(registry, source, allow)


def load_loads_a_dotted_path_only(target: Any, source: Any, allow: Any = ()) -> Any:
    if isinstance(source, str):
        raise errors.UnsupportedError("a path is a Path")
    return load(target, source, allow)


def check_keeps_the_order_given(reg: Any, values: Any, /, *, partial: bool = False) -> Any:
    report = check(reg, values, partial=partial)
    return checking.Report(tuple(reversed(report.problems)))


def check_asks_for_aliases(reg: Any, values: Any, /, *, partial: bool = False) -> Any:
    report = check(reg, values, partial=partial)
    lost = [key for key in reg.aliases if not partial and key not in list(values)]
    return checking.Report.of([*report, *(checking.Problem("missing", key) for key in lost)])


def check_names_canonical_keys(reg: Any, values: Any, /, *, partial: bool = False) -> Any:
    report, aliases = check(reg, values, partial=partial), dict(reg.aliases)
    return checking.Report.of([dataclasses.replace(p, key=aliases.get(p.key, p.key)) for p in report])


def check_expects_what_is_not_saved(reg: Any, values: Any, /, *, partial: bool = False) -> Any:
    report = check(reg, values, partial=partial)
    lost = [k for k, e in reg.items() if not e.persistent and k not in list(values)]
    return checking.Report.of([*report, *(checking.Problem("missing", key) for key in lost)])


def check_stops_at_the_first(reg: Any, values: Any, /, *, partial: bool = False) -> Any:
    return checking.Report(check(reg, values, partial=partial).problems[:1])


def snapshot_takes_everything(reg: Any, where: Any = None) -> Any:
    return snapshot(reg, where or (lambda _key, _entry: True))


def snapshot_lends(reg: Any, where: Any = None) -> Any:
    return {key: plugins.of(reg).view(key) for key in snapshot(reg, where)}


def snapshot_in_native_order(reg: Any, where: Any = None) -> Any:
    taken = snapshot(reg, where)
    return {key: taken[key] for key in plugins.of(reg).native_order if key in taken}


def snapshot_under_all_names(reg: Any, where: Any = None) -> Any:
    taken = snapshot(reg, where)
    return {**taken, **{alias: taken[key] for alias, key in reg.aliases.items() if key in taken}}


def snapshot_leaves_out_what_has_no_value(reg: Any, where: Any = None) -> Any:
    return snapshot(reg, where or (lambda _key, entry: entry.persistent and entry.concrete))


def snapshot_leaves_out_what_is_opaque(reg: Any, where: Any = None) -> Any:
    return snapshot(reg, where or (lambda _key, entry: entry.persistent))


def snapshot_ignores_where(reg: Any, where: Any = None) -> Any:
    return snapshot(reg) if not plugins.of(reg).opaque else snapshot(reg, where)


def snapshot_looks_at_tags(reg: Any, where: Any = None) -> Any:
    taken = snapshot(reg, where)
    return {key: value for key, value in taken.items() if plugins.of(reg)[key].tag != "batch_stats"}


def _cast(values: Any, reg: Any) -> dict[str, np.ndarray]:
    entries = dict(reg)
    with np.errstate(all="ignore"):
        return {k: np.asarray(x).astype(numpy_dtype(entries[k].dtype)) for k, x in values.items()}


def cast_wraps(values: Any, reg: Any, rule: Any = "exact") -> Any:
    try:
        return cast(values, reg, rule)
    except errors.CastError:
        whole = all(np.asarray(x).dtype.kind in "iu" and "int" in dict(reg)[k].dtype for k, x in values.items())
        if rule == "exact" or not whole:
            raise
        return _cast(values, reg)


def cast_decides_by_dtype(values: Any, reg: Any, rule: Any = "exact") -> Any:
    for key, value in values.items():
        if rule == "lossless" and not np.can_cast(np.asarray(value).dtype, numpy_dtype(dict(reg)[key].dtype), "safe"):
            raise errors.CastError(f"{key}: not safe", keys=(key,))
    return cast(values, reg, rule)


def cast_overflows(values: Any, reg: Any, rule: Any = "exact") -> Any:
    try:
        return cast(values, reg, rule)
    except errors.CastError:
        kinds = {np.asarray(x).dtype.kind + ("f" if "float" in dict(reg)[k].dtype else "-") for k, x in values.items()}
        if rule != "same_kind" or kinds != {"ff"}:
            raise
        return _cast(values, reg)


def cast_takes_bools(values: Any, reg: Any, rule: Any = "exact") -> Any:
    if rule != "exact" and all(np.asarray(x).dtype == bool for x in values.values()):
        return _cast(values, reg)
    return cast(values, reg, rule)


def cast_drops_imaginary_parts(values: Any, reg: Any, rule: Any = "exact") -> Any:
    if rule == "lossless" and all(np.asarray(x).dtype.kind == "c" for x in values.values()):
        real = {k: np.asarray(x).real for k, x in values.items() if not np.asarray(x).imag.any()}
        return cast(real if len(real) == len(values) else values, reg, rule)
    return cast(values, reg, rule)


def cast_is_lossless_when_exact(values: Any, reg: Any, rule: Any = "exact") -> Any:
    return cast(values, reg, "lossless" if rule == "exact" else rule)


def cast_gives_the_arrays_back(values: Any, reg: Any, rule: Any = "exact") -> Any:
    done = cast(values, reg, rule)
    return {key: values[key] if np.asarray(values[key]).dtype == done[key].dtype else done[key] for key in done}


def cast_scales_in_place(values: Any, reg: Any, rule: Any = "exact") -> Any:
    done = cast(values, reg, rule)
    for value in values.values():
        if isinstance(value, np.ndarray) and value.dtype == np.float64:
            value[...] = value.astype(np.float32)
    return done


def load_lends(target: Any, source: Any, allow: Any = ()) -> Any:
    """What a registry lends is put into the target as it is."""
    done = load(target, source, allow)
    if isinstance(source, sr.StateRegistry) and done.in_place and source.in_place:
        theirs = dict(source.unwrap().cells())
        for key, cell in done.unwrap().cells():
            if key in theirs and cell.concrete and theirs[key].concrete:
                cell.array = theirs[key].array
    return done


def check_reads_dots_as_slashes(reg: Any, values: Any, /, *, partial: bool = False) -> Any:
    report = check(reg, values, partial=partial)
    return checking.Report.of([dataclasses.replace(p, key=p.key.replace(".", "/")) for p in report])


def cast_knows_canonical_keys(values: Any, reg: Any, rule: Any = "exact") -> Any:
    lost = [key for key in values if key in plugins.of(reg).aliases]
    if lost:
        raise errors.CastError(f"no such key: {lost}", keys=tuple(lost))
    return cast(values, reg, rule)


def snapshot_never_knows_enough(reg: Any, where: Any = None) -> Any:
    if where is None:
        raise errors.OpaqueError("say which", keys=tuple(plugins.of(reg).opaque))
    return snapshot(reg, where)


#: The broken function, the name of what it stands for, and the requirement that it violates.
MUTANTS: list[tuple[Callable[..., Any], str, str]] = [
    (load_ignores_what_is_missing, "load", "SR-LOAD-002"),
    (load_ignores_what_is_missing, "load", "SR-LOAD-004"),
    (load_ignores_what_is_unexpected, "load", "SR-LOAD-002"),
    (load_tolerates_both_when_told_one, "load", "SR-LOAD-003"),
    (load_takes_any_name, "load", "SR-LOAD-003"),
    (load_fills_missing_with_zeros, "load", "SR-LOAD-003"),
    (load_casts, "load", "SR-WRITE-006"),
    (load_thaws, "load", "SR-SNAP-006"),
    (load_thaws, "load", "SR-WRITE-008"),
    (load_takes_everything_of_a_registry, "load", "SR-LOAD-007"),
    (load_writes_before_it_checks, "load", "SR-ATOM-001"),
    (load_loads_a_dotted_path_only, "load", "SR-LOAD-007"),
    (check_keeps_the_order_given, "check", "SR-LOAD-001"),
    (check_asks_for_aliases, "check", "SR-LOAD-006"),
    (check_names_canonical_keys, "check", "SR-LOAD-008"),
    (check_expects_what_is_not_saved, "check", "SR-LOAD-005"),
    (check_stops_at_the_first, "check", "SR-LOAD-001"),
    (snapshot_takes_everything, "snapshot", "SR-SNAP-002"),
    (snapshot_lends, "snapshot", "SR-SNAP-002"),
    (snapshot_in_native_order, "snapshot", "SR-SNAP-002"),
    (snapshot_under_all_names, "snapshot", "SR-SNAP-002"),
    (snapshot_leaves_out_what_has_no_value, "snapshot", "SR-SNAP-004"),
    (snapshot_leaves_out_what_is_opaque, "snapshot", "SR-SNAP-005"),
    (snapshot_ignores_where, "snapshot", "SR-SNAP-003"),
    (snapshot_looks_at_tags, "snapshot", "SR-KIND-010"),
    (cast_wraps, "cast", "SR-DTYPE-013"),
    (cast_wraps, "cast", "SR-DTYPE-014"),
    (cast_decides_by_dtype, "cast", "SR-DTYPE-013"),
    (cast_overflows, "cast", "SR-DTYPE-014"),
    (cast_takes_bools, "cast", "SR-DTYPE-015"),
    (cast_drops_imaginary_parts, "cast", "SR-DTYPE-015"),
    (cast_is_lossless_when_exact, "cast", "SR-DTYPE-012"),
    (cast_gives_the_arrays_back, "cast", "SR-DTYPE-012"),
    (cast_scales_in_place, "cast", "SR-DTYPE-011"),
    (load_lends, "load", "SR-WRITE-011"),
    (check_reads_dots_as_slashes, "check", "SR-LOAD-008"),
    (cast_knows_canonical_keys, "cast", "SR-DTYPE-011"),
    (snapshot_never_knows_enough, "snapshot", "SR-SNAP-005"),
]


@dataclasses.dataclass(frozen=True)
class Broken:
    """One of them as the kill matrix takes it."""

    function: Callable[..., Any]
    name: str
    violates: str
    also: ClassVar[tuple[str, ...]] = ()

    @property
    def id(self) -> str:
        return f"{self.function.__name__}-{self.violates}"

    def harness(self) -> Any:
        return mutable

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the package have it in place of the right one."""
        with pytest.MonkeyPatch.context() as patch:
            getattr(sr, self.name)
            patch.setattr(sr, self.name, self.function)
            yield


def all_mutants() -> tuple[Broken, ...]:
    """Every broken function of this file."""
    return tuple(Broken(*one) for one in MUTANTS)


@pytest.mark.parametrize("mutant", all_mutants(), ids=lambda mutant: mutant.id)
def test_a_broken_function_fails_on_the_requirement_it_violates(mutant: Broken, killers: Any) -> None:
    assert killers(mutant), f"{mutant.id} survived on {mutant.violates}"
