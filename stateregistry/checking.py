"""Checking: what is wrong with a set of values for a registry, all of it at once.

`gather` reads a mapping of values completely, before anything is written, into arrays that nobody else holds.
`compare` holds them against the entries and returns a `Report`. Both are pure. Imports NumPy, no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

from stateregistry import errors
from stateregistry.entry import Entry, dtype_name

if TYPE_CHECKING:
    import numpy as np

    from stateregistry.registry import StateRegistry

#: For how many unknown keys of one report a similar one is looked for: that costs more than all the rest.
SUGGESTED = 20

#: The classes of problem, in the order in which a report prints them.
CLASSES = ("missing", "unexpected", "shape", "dtype", "conflict", "invalid")


@final
@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the value of one key.

    Attributes:
        problem: one of `CLASSES`.
        key: the key as the caller gave it.
        expected, found: short texts, empty where they say nothing.
        hint: what to do, empty where nothing better than the obvious is known.
        cause: the exception behind it, where one was raised; not compared.
    """

    problem: str
    key: str
    expected: str = ""
    found: str = ""
    hint: str = ""
    cause: Exception | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        parts = [f"expected {self.expected}" if self.expected else "", f"found {self.found}" if self.found else ""]
        text = f"{self.key}: {self.problem}: " + ", ".join(part for part in parts if part)
        return f"{text}; {self.hint}" if self.hint else text


@final
@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is wrong with a set of values, independent of the order in which they were given.

    Each class of problem is a sorted tuple of keys; `problems` has the details in the same order.
    """

    problems: tuple[Problem, ...] = ()

    @classmethod
    def of(cls, problems: list[Problem]) -> Report:
        """A report with the problems in their one order: by class, then by key."""
        return cls(tuple(sorted(problems, key=lambda p: (CLASSES.index(p.problem), p.key, p.expected, p.found))))

    def _keys(self, problem: str) -> tuple[str, ...]:
        return tuple(p.key for p in self.problems if p.problem == problem)

    @property
    def missing(self) -> tuple[str, ...]:
        """Persistent entries for which no value was given."""
        return self._keys("missing")

    @property
    def unexpected(self) -> tuple[str, ...]:
        """Keys that the registry does not have."""
        return self._keys("unexpected")

    @property
    def shape(self) -> tuple[str, ...]:
        """Keys whose value has another shape."""
        return self._keys("shape")

    @property
    def dtype(self) -> tuple[str, ...]:
        """Keys whose value has another dtype."""
        return self._keys("dtype")

    @property
    def conflict(self) -> tuple[str, ...]:
        """Aliases of one place that were given different bits."""
        return self._keys("conflict")

    @property
    def invalid(self) -> tuple[str, ...]:
        """Keys whose value is no array that a registry can hold, or whose place cannot take one."""
        return self._keys("invalid")

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.problems

    def renamed(self, names: Mapping[str, str], /) -> Report:
        """The same report with keys as the caller gave them, where those were aliases."""
        return Report.of([replace(problem, key=names.get(problem.key, problem.key)) for problem in self.problems])

    def without(self, allowed: frozenset[str], /) -> Report:
        """The same report less the classes named."""
        return Report(tuple(p for p in self.problems if p.problem not in allowed))

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.problems)

    def __str__(self) -> str:
        return render(self.problems) if self.problems else "ok"


def render(problems: tuple[Problem, ...], limit: int = 20) -> str:
    """The problems, a line each, at most `limit` of them, with the number of the rest."""
    lines = [f"  {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  ... and {len(problems) - limit} more (all of them in .report)")
    return "\n".join(lines)


def gather(
    values: Mapping[str, Any], convert: Callable[[str, Any], np.ndarray] | None = None
) -> tuple[dict[str, np.ndarray], list[Problem]]:
    """Read a mapping completely into owned, C-contiguous, native-endian arrays.

    A value may have any layout (Fortran order, negative or zero strides, big-endian, read-only) or offer `__array__`.
    What cannot be read or held is a problem of class `invalid`; nothing is raised, so that all of it is reported.
    """
    import numpy as np  # lazy: who compares metadata needs none

    arrays: dict[str, np.ndarray] = {}
    problems: list[Problem] = []
    try:
        keys = list(values)
    except Exception as error:  # noqa: BLE001  # a caller's mapping may raise anything; what it raised is reported
        found = f"{type(error).__name__}: {error}"
        return {}, [Problem("invalid", "*", "a mapping that can be read", found, cause=error)]
    for key in keys:
        if not isinstance(key, str):
            problems.append(Problem("invalid", repr(key), "a str key", type(key).__name__))
            continue
        try:
            value = values[key]
            array = convert(key, value) if convert is not None else np.asarray(value)
            owned = _owned(array)
        except errors.StateError as error:
            problems.append(Problem("invalid", key, "a value that fits", error.message, error.hint or "", error))
        except Exception as error:  # noqa: BLE001  # as above: the value or its mapping raised
            found = f"{type(error).__name__}: {error}"
            problems.append(Problem("invalid", key, "a value that can be read", found, cause=error))
        else:
            if dtype_name(owned.dtype) is None:
                found = f"dtype {owned.dtype}"
                problems.append(Problem("invalid", key, "numbers of a dtype that a registry holds", found))
            else:
                arrays[key] = owned
    return arrays, problems


def _owned(array: np.ndarray) -> np.ndarray:
    import numpy as np  # lazy: who compares metadata needs none

    if type(array) is not np.ndarray:
        array = np.asarray(array)
    dtype = array.dtype
    native = dtype if dtype.isnative else dtype.newbyteorder("=")
    return np.array(array, dtype=native, order="C", copy=True)


def compare(
    entries: Mapping[str, Entry],
    aliases: Mapping[str, str],
    arrays: Mapping[str, np.ndarray],
    *,
    partial: bool,
    opaque: Mapping[str, str] | None = None,
    strict_persistence: bool = False,
) -> list[Problem]:
    """Hold gathered arrays against the entries of a registry.

    Args:
        partial: do not ask for the entries that were not given.
        strict_persistence: a value for a non-persistent entry is unexpected (`load`; `replace` takes it).
    """
    problems: list[Problem] = []
    strangers = 0
    given: dict[str, list[str]] = {}
    for key, array in arrays.items():
        canonical = aliases.get(key, key)
        entry = entries.get(canonical)
        if entry is None:
            strangers += 1
            problems.append(unknown(key, entries, opaque or {}, near=strangers <= SUGGESTED))
            continue
        if strict_persistence and not entry.persistent:
            problems.append(Problem("unexpected", key, "persistent entries only", "a non-persistent buffer"))
            continue
        given.setdefault(canonical, []).append(key)
        if array.shape != entry.shape:
            problems.append(Problem("shape", key, str(entry.shape), str(array.shape), _shape_hint(array.shape, entry)))
        found = dtype_name(array.dtype)
        if found != entry.dtype:
            hint = "writes never cast: convert the value with sr.cast(values, reg, rule)"
            problems.append(Problem("dtype", key, entry.dtype, str(found), hint))
    for canonical, keys in given.items():
        first = arrays[keys[0]]
        for key in keys[1:]:
            other = arrays[key]
            if other.shape != first.shape or other.dtype != first.dtype or other.tobytes() != first.tobytes():
                text = f"the same bits for every alias of {canonical!r}"
                problems.extend(Problem("conflict", name, text, "different bits") for name in keys)
                break
    if not partial:
        for key, entry in entries.items():
            if entry.persistent and key not in given:
                problems.append(Problem("missing", key, str(entry), "nothing"))
    return problems


def _shape_hint(shape: tuple[int, ...], entry: Entry) -> str:
    if len(shape) > 1 and shape == entry.shape[::-1]:
        return "the axes may be in another order: sr.convert derives it, a plain write does not"
    return ""


def unknown(key: str, entries: Mapping[str, Entry], opaque: Mapping[str, str], *, near: bool = True) -> Problem:
    """The problem with a key that is neither an entry nor an alias; `near`: look for a key that may be meant."""
    if key in opaque:
        return Problem("invalid", key, "a place that holds an array", f"opaque state ({opaque[key]})")
    return Problem("unexpected", key, "a key of the registry", "none such", suggest(key, entries, near=near))


def suggest(key: str, known: Mapping[str, Any], *, near: bool = True) -> str:
    """A hint for a key that is not known: its dotted spelling, or the closest key; empty where nothing is near."""
    if not isinstance(key, str):
        return ""
    slashed = key.replace(".", "/")
    if slashed in known:
        return f"keys are spelled with '/': {slashed!r}"
    if not near or len(known) > 2_000:  # difflib is quadratic in the length of names and linear in their number
        return ""
    import difflib  # lazy: only on the way to an error

    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.75)
    return f"did you mean {close[0]!r}?" if close else ""


_SINGLE: dict[str, type[errors.MismatchError]] = {
    "missing": errors.MissingKeyError,
    "unexpected": errors.UnexpectedKeyError,
    "shape": errors.ShapeError,
    "dtype": errors.DtypeMismatchError,
    "conflict": errors.ConflictError,
    "invalid": errors.SourceError,
}


def refuse(report: Report, what: str, *, hint: str | None = None) -> errors.MismatchError:
    """The error for a report: of the one class that is wrong, or `MismatchError` where several are."""
    classes = {problem.problem for problem in report}
    cls = _SINGLE[classes.pop()] if len(classes) == 1 else errors.MismatchError
    count = len(report.problems)
    message = f"{what}: {count} {'problem' if count == 1 else 'problems'}, nothing was written\n{report}"
    error = cls(message, report=report, keys=tuple(dict.fromkeys(p.key for p in report)), hint=hint)
    error.__cause__ = next((problem.cause for problem in report if problem.cause is not None), None)
    return error


def check(reg: StateRegistry, values: Mapping[str, Any], /, *, partial: bool = False) -> Report:
    """Say everything that `load(reg, values)` would refuse, without writing.

    Args:
        reg: the registry that would be written.
        values: arrays by key; aliases are understood.
        partial: do not ask for the entries that were not given.

    Returns:
        The report; wrong values raise nothing, they are in it.
    """
    arrays, problems = gather(values, reg._convert)  # noqa: SLF001  # the hook of the same package
    entries, aliases = dict(reg.items()), reg.aliases  # once: a live registry walks its model for each
    problems += compare(entries, aliases, arrays, partial=partial, opaque=reg.opaque, strict_persistence=not partial)
    failed = {aliases.get(p.key, p.key) for p in problems if p.problem == "invalid"}
    return Report.of([p for p in problems if not (p.problem == "missing" and p.key in failed)])
