"""Transfer: the state of a registry as plain arrays, and plain arrays into a registry, strictly.

`load` writes everything or nothing and says everything that is wrong at once; `snapshot` copies what is meant to be saved and
refuses to leave anything out. Neither casts, renames or guesses. Imports NumPy, no framework; a path is opened by the stores,
which are imported only then.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from stateregistry import checking, errors, plugins
from stateregistry.display import counted
from stateregistry.entry import numpy_dtype
from stateregistry.keys import shared_prefix
from stateregistry.parts import Box, HoldsParts, ReadsParts
from stateregistry.registry import StateRegistry
from stateregistry.sources import is_path, resolved
from stateregistry.tools.select import Where, selector

if TYPE_CHECKING:
    from stateregistry.checking import Problem
    from stateregistry.entry import Entry

#: The classes of problem that `load` can be told to tolerate.
ALLOWABLE: Final = frozenset({"missing", "unexpected"})

_NOTHING: Final = object()


def load(target: Any, source: Any = _NOTHING, allow: Collection[str] = ()) -> StateRegistry:
    """Write the values of a source into a target: the same keys, shapes and dtypes, all or nothing.

    Args:
        target: a registry, or a live object that `sr.of` knows.
        source: a mapping of arrays by key; a registry or live object, of which the persistent entries are taken; or the
            path of a file.
        allow: `"missing"`: entries without a value keep theirs. `"unexpected"`: values without an entry are left out.

    Returns:
        The registry over the target with the new values: the same one if it is written in place. `.unwrap()` is the
        native object.

    Raises:
        LoadError: with `.report` of everything that is wrong. Nothing was written.
        UnsupportedError: one argument only, a class in `allow` that cannot be tolerated, a target that is read-only.
        AbstractError, CommitError: as `replace`.
    """
    if source is _NOTHING:
        message = "sr.load(target, source) fills a live model: it needs both, and was given one argument"
        raise errors.UnsupportedError(
            message, hint="sr.open(path) opens a file to look at it; sr.load(model, path) loads it into a model"
        )
    allowed = _allowed(allow)
    if is_path(target):
        message = f"the target of sr.load is a live model, not the path {os.fspath(target)!r}"
        raise errors.UnsupportedError(message, hint="sr.load(model, path); sr.save(model, path) writes a file")
    registry = plugins.of(target)
    registry.replace({})  # a read-only registry refuses here, before anything is read
    with _opened(source) as opened:
        boxes = _boxes(registry, opened)
        arrays, problems = _compared(registry, opened, boxes)
        if checking.Report.of(problems).without(allowed).ok:
            problems += _read_parts(opened, boxes, arrays)
    report = checking.Report.of(problems).without(allowed)
    if not report.ok:
        raise _refused(report)
    entries, aliases = registry._listing(), registry.aliases  # noqa: SLF001  # the base class of the same package
    known: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    for key, array in arrays.items():
        canonical = aliases.get(key, key)
        entry = entries.get(canonical)
        if entry is not None and entry.persistent:
            known[canonical], names[canonical] = array, key
    try:
        parts = {aliases.get(key, key) for key in boxes}
        more = (parts,) if parts else ()  # a registry that holds no parts may not know of them
        return registry._write(known, entries, *more)  # noqa: SLF001  # as replace, which would copy everything once more
    except errors.LoadError:
        raise
    except errors.MismatchError as error:
        raise _refused(error.report.renamed(names)) from error


def _allowed(allow: Collection[str]) -> frozenset[str]:
    if isinstance(allow, str):
        raise errors.UnsupportedError(f"allow={allow!r} is one text", hint=f"give a collection: allow={{{allow!r}}}")
    names = list(allow)
    wrong = sorted(str(name) for name in names if not isinstance(name, str) or name not in ALLOWABLE)
    if wrong:
        message = f"load cannot be told to allow {', '.join(map(repr, wrong))}"
        hint = "only 'missing' and 'unexpected' can be tolerated; shapes and dtypes never: see sr.cast, sr.convert"
        raise errors.UnsupportedError(message, expected=tuple(sorted(ALLOWABLE)), found=tuple(wrong), hint=hint)
    return frozenset(names)


def _opened(source: Any) -> AbstractContextManager[Any]:
    if not is_path(source) and isinstance(source, Mapping) and not _is_native(source):
        return nullcontext(source)  # a mapping of arrays
    return resolved(source)


def _is_native(source: Any) -> bool:
    """Whether a mapping is a registry or a live object (a tree of Linen variables is a mapping too)."""
    if isinstance(source, StateRegistry):
        return True
    try:
        return any(adapter.recognises(source) for adapter in plugins.adapters().values())
    except Exception:  # noqa: BLE001  # a mapping that raises when it is looked into: reading it reports what it raised
        return False


@final
class _Values(Mapping[str, np.ndarray]):
    """The values of the persistent entries of a registry, read when asked for."""

    def __init__(self, registry: StateRegistry, without: Collection[str] = ()) -> None:
        self._registry = registry
        self._keys = [key for key, entry in registry.items() if entry.persistent and key not in without]

    def __getitem__(self, key: str) -> np.ndarray:
        return self._registry.view(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _boxes(target: StateRegistry, source: Any) -> dict[str, Box]:
    """The keys of a file of whose values a box is all that this process wants, and that box."""
    if not (isinstance(target, HoldsParts) and isinstance(source, ReadsParts) and isinstance(source, StateRegistry)):
        return {}
    held = target.boxes()
    if not held:
        return {}
    aliases = target.aliases
    given: dict[str, list[str]] = {}
    for key, entry in source.items():
        if entry.persistent and entry.concrete:
            given.setdefault(aliases.get(key, key), []).append(key)
    # Several values for one place have to be equal in every bit, so they are read whole.
    return {keys[0]: held[canonical] for canonical, keys in given.items() if canonical in held and len(keys) == 1}


def _read_parts(source: Any, boxes: Mapping[str, Box], arrays: dict[str, np.ndarray]) -> list[Problem]:
    """The boxes, in the place of what stood for the values."""
    problems = []
    for key, box in boxes.items():
        try:
            arrays[key] = source.read_part(key, box)
        except errors.StateError as error:
            problems.append(
                checking.Problem("invalid", key, "a value that fits", error.message, error.hint or "", error)
            )
    return problems


def _compared(
    target: StateRegistry, source: Any, boxes: Collection[str]
) -> tuple[dict[str, np.ndarray], list[Problem]]:
    """The values of a source, in arrays of our own, and everything that is wrong with them for the target.

    What is read in boxes is not read yet: an array of its shape without memory stands for it.
    """
    values = _Values(source, boxes) if isinstance(source, StateRegistry) else source
    arrays, problems = checking.gather(values, target._convert)  # noqa: SLF001  # the hook of the same package
    arrays |= {key: _hollow(source[key]) for key in boxes}
    entries, aliases = target._listing(), target.aliases  # noqa: SLF001  # as above
    opaque = target.opaque
    problems += checking.compare(entries, aliases, arrays, partial=False, opaque=opaque, strict_persistence=True)
    if isinstance(source, StateRegistry):
        problems += _kinds(entries, aliases, source)
        problems += [
            checking.Problem("unexpected", key, "an array", f"opaque state ({reason})")
            for key, reason in source.opaque.items()
        ]
    unread = {aliases.get(problem.key, problem.key) for problem in problems if problem.problem == "invalid"}
    return arrays, [p for p in problems if not (p.problem == "missing" and p.key in unread)]


def _hollow(entry: Entry) -> np.ndarray:
    """An array of the shape and dtype of an entry, and of no memory to speak of."""
    return np.broadcast_to(np.zeros((), numpy_dtype(entry.dtype)), entry.shape)


def _kinds(entries: Mapping[str, Entry], aliases: Mapping[str, str], source: StateRegistry) -> list[Problem]:
    """A parameter for a buffer or the reverse; what was only inferred from names yields."""
    problems = []
    for key, given in source.items():
        entry = entries.get(aliases.get(key, key))
        if entry is None or not given.persistent or given.inferred or entry.inferred or entry.kind is given.kind:
            continue
        hint = "the two models declare it differently: fix one, or give a plain snapshot if that is meant"
        problems.append(checking.Problem("invalid", key, f"a {entry.kind.value}", f"a {given.kind.value}", hint))
    return problems


def _refused(report: checking.Report) -> errors.LoadError:
    count = len(report.problems)
    message = f"cannot load: {count} {'problem' if count == 1 else 'problems'}, nothing was written\n{report}"
    keys = tuple(dict.fromkeys(problem.key for problem in report))
    classes = {problem.problem for problem in report}
    hint = None
    if classes <= ALLOWABLE:
        names = ", ".join(repr(name) for name in sorted(classes))
        hint = f"allow={{{names}}} loads the rest; sr.convert renames and rearranges"
        hint = _prefixed(report) or hint
    return errors.LoadError(message, report=report, keys=keys, hint=hint)


def _prefixed(report: checking.Report) -> str:
    """What to do where all names of one side lie under a path that the other does not have; else empty."""
    extra = [problem.key for problem in report if problem.problem == "unexpected"]
    absent = [problem.key for problem in report if problem.problem == "missing"]
    prefix, fit = shared_prefix(extra, set(absent))
    if prefix:
        return (
            f"all {len(extra)} unexpected names lie under '{prefix}/', and without it {fit} of them fit, as a wrapper such as "
            f"DataParallel leaves them: stateregistry rename FILE OUT --name {prefix.replace('/', '.')}="
        )
    prefix, fit = shared_prefix(absent, set(extra))
    if prefix:
        return f"all {len(absent)} missing names lie under '{prefix}/', and {fit} are given without it: load into that part"
    return ""


def snapshot(reg: StateRegistry | Any, where: Where = None) -> dict[str, np.ndarray]:
    """The state that is meant to be saved, as arrays of the caller's own, by canonical key in sorted order.

    Args:
        reg: a registry or a live object.
        where: a predicate of `(key, entry)`, a `Kind` or a pattern of keys, to take exactly what it selects; by default
            every persistent entry.

    Raises:
        AbstractError: entries without values would have to be in it; names all of them.
        OpaqueError: without `where`, when the model holds state that is no array; names all of it.
        UnsupportedError: a value is not addressable from this process.
    """
    registry = plugins.of(reg)
    if where is None and registry.opaque:
        names = ", ".join(f"{key!r} ({reason})" for key, reason in registry.opaque.items())
        message = f"a snapshot would leave out state that is no array: {names}"
        hint = "say that it may be left out by choosing what to take: snapshot(reg, where='*')"
        raise errors.OpaqueError(message, keys=tuple(registry.opaque), hint=hint)
    chosen = selector(where, lambda _, entry: entry.persistent)
    entries = {key: entry for key, entry in registry.items() if chosen(key, entry)}
    abstract = tuple(key for key, entry in entries.items() if not entry.concrete)
    if abstract:
        names = ", ".join(map(repr, abstract))
        message = f"{counted(len(abstract), 'entry', 'has', 'have')} no values: {names}"
        raise errors.AbstractError(message, keys=abstract, hint="build the model with real arrays, or load it first")
    return {key: registry.read(key) for key in entries}
