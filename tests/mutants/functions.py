"""Mutants of the functions over registries: `check`, `load`, `snapshot`, `cast`, and the splitting of keys.

No adapter can be wrong here, so these are no harnesses: `FunctionMutant.installed()` puts the wrong function in the place of
the right one for the length of a `with` block, for everybody who holds it, and a correct harness shows the bug meanwhile.
Run them one at a time and in the process that runs the checks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mutants import casts, loads, snaps
from mutants.loading import MIXED, saved
from mutants.support import (
    F16,
    PARAMETER,
    PLAIN,
    TIED,
    accepted,
    noise,
    over,
    shown,
)
from mutants.swapping import FunctionMutant, Functions, Make
from stateregistry import checking, keys
from stateregistry.checking import check
from stateregistry_conformance.harness import Harness

FUNCTIONS = Functions()
mutant = FUNCTIONS.mutant

Problems = list[checking.Problem]


def all_function_mutants() -> tuple[FunctionMutant, ...]:
    """Every mutant of a function."""
    return (*FUNCTIONS, *loads.FUNCTIONS, *snaps.FUNCTIONS, *casts.FUNCTIONS)


# ------------------------------------------------------------------------------------------------------------------ keys


@mutant(
    "f-keys-empty-segments",
    "KEY-002",
    keys.split,
    lambda split: (
        lambda key: tuple(keys.unescape(part) for part in key.split("/")) if isinstance(key, str) else split(key)
    ),
    story="`key.split('/')`: 'a//b' has three segments, one of them empty.",
)
def _(harness: Harness) -> None:
    shown(accepted(lambda: keys.split("a//b")))


@mutant(
    "f-keys-empty-segments-skipped",
    "KEY-002",
    keys.split,
    lambda split: lambda key: split("/".join(part for part in key.split("/") if part)) if key else split(key),
    story="File systems collapse '//' and drop a leading '/': two spellings for one key.",
    also=("KEY-001",),
)
def _(harness: Harness) -> None:
    shown(accepted(lambda: keys.split("/a")))


@mutant(
    "f-keys-unescaped-in-the-wrong-order",
    "KEY-001",
    keys.unescape,
    lambda unescape: lambda segment: segment.replace("~0", "~").replace("~1", "/"),
    story="'~0' undone before '~1': the name '~1' comes back as '/'.",
)
def _(harness: Harness) -> None:
    shown(keys.split(keys.join("~1")) != ("~1",))


# ----------------------------------------------------------------------------------------------------------------- check


def _compare(change: Callable[[Problems, Any, Any, Any], Problems]) -> Make:
    """`compare` with other problems: `change(problems, entries, aliases, arrays)`, where all values have to be there."""

    def make(compare: Callable[..., Any]) -> Callable[..., Any]:
        def changed(entries: Any, aliases: Any, arrays: Any, *, partial: bool, **options: Any) -> Problems:
            problems = compare(entries, aliases, arrays, partial=partial, **options)
            return problems if partial else change(problems, entries, aliases, arrays)

        return changed

    return make


@mutant(
    "f-check-order-of-discovery",
    "LOAD-001",
    checking.Report.of.__func__,
    lambda of: lambda cls, problems: cls(tuple(problems)),
    story="torch reports keys as lists in order of discovery.",
    also=("ATOM-002",),
)
def _(harness: Harness) -> None:
    registry = over(harness, PLAIN)[1]
    found = check(registry, {**PLAIN.values(), "z": noise((1,)), "a": noise((1,))}).unexpected
    shown(found == ("z", "a"))


@mutant(
    "f-check-ok-in-spite-of-dtypes",
    "LOAD-001",
    checking.Report.ok.fget,
    lambda ok: lambda report: all(problem.problem == "dtype" for problem in report),
    story="torch copies with a cast, so a foreign dtype is no problem.",
    also=("LOAD-002", "WRITE-006"),
)
def _(harness: Harness) -> None:
    report = check(over(harness, PLAIN)[1], {**PLAIN.values(), "enc/b": noise((3,), F16)})
    shown(report.ok and report.dtype)


@mutant(
    "f-check-shapes-before-dtypes",
    "LOAD-001",
    checking.compare,
    _compare(
        lambda ps, *_: [
            p for p in ps if p.problem != "dtype" or p.key not in {q.key for q in ps if q.problem == "shape"}
        ]
    ),
    story="One problem per key: when the shape is wrong the dtype is not looked at.",
    also=("ATOM-002",),
)
def _(harness: Harness) -> None:
    report = check(over(harness, PLAIN)[1], {**PLAIN.values(), "enc/b": noise((4,), F16)})
    shown(report.shape and not report.dtype)


@mutant(
    "f-check-buffers-never-missing",
    "LOAD-004",
    checking.compare,
    _compare(lambda ps, entries, *_: [p for p in ps if p.problem != "missing" or entries[p.key].kind is PARAMETER]),
    story="NNX ignores what is missing; here statistics only, since 'they are computed anyway'.",
    also=("LOAD-002",),
)
def _(harness: Harness) -> None:
    values = PLAIN.values()
    del values["norm/mean"]
    shown(check(over(harness, PLAIN)[1], values).ok)


def _unlike_persistent(compare: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, strict_persistence=False, **options: compare(*args, **options)


@mutant(
    "f-check-unsaved-accepted",
    "LOAD-005",
    checking.compare,
    _unlike_persistent,
    story="Whatever the model has may be given, saved or not: a stale mask in a file overwrites the one that was built.",
    also=("LOAD-001",),
)
def _(harness: Harness) -> None:
    shown(check(over(harness, MIXED)[1], {**saved(), "cache": noise((2,))}).ok)


@mutant(
    "f-check-unsaved-missing",
    "LOAD-005",
    checking.compare,
    _compare(
        lambda ps, entries, _, arrays: [
            *ps,
            *(checking.Problem("missing", key) for key, e in entries.items() if not e.persistent and key not in arrays),
        ]
    ),
    story="Every buffer is expected, as in a check over `named_buffers` instead of `state_dict`.",
    also=("LOAD-002", "LOAD-004"),
)
def _(harness: Harness) -> None:
    shown(check(over(harness, MIXED)[1], saved()).missing == ("cache",))


def _aliases_too(problems: Problems, entries: Any, aliases: Any, arrays: Any) -> Problems:
    absent = [alias for alias, key in aliases.items() if alias not in arrays and entries[key].persistent]
    return [*problems, *(checking.Problem("missing", alias) for alias in absent)]


@mutant(
    "f-check-every-name-of-a-tie",
    "LOAD-006",
    checking.compare,
    _compare(_aliases_too),
    story="torch reports the other names of a tied weight as missing although the value is there.",
    also=("LOAD-002", "LOAD-004"),
)
def _(harness: Harness) -> None:
    shown(not check(over(harness, TIED)[1], TIED.values()).ok)


@mutant(
    "f-check-canonical-names",
    "LOAD-008",
    checking.compare,
    _compare(lambda ps, _, aliases, __: [replace(p, key=aliases.get(p.key, p.key)) for p in ps]),
    story="Keys are canonicalised first, so the report names a weight otherwise than the file that the user looks into.",
)
def _(harness: Harness) -> None:
    report = check(over(harness, TIED)[1], {"tail": noise((4, 3)), "z": noise((3,))})
    shown(report.shape == ("emb/table/w",))


def _second_of_a_conflict(problems: Problems, *_: Any) -> Problems:
    first = min((p.key for p in problems if p.problem == "conflict"), default=None)
    return [p for p in problems if p.problem != "conflict" or p.key != first]


@mutant(
    "f-check-half-of-a-conflict",
    "LOAD-008",
    checking.compare,
    _compare(_second_of_a_conflict),
    story="The value that came second is the wrong one: which of the two that is depends on the file.",
)
def _(harness: Harness) -> None:
    values = {"tail": noise((2, 3)), "head/w": noise((2, 3), seed=9), "z": noise((3,))}
    shown(len(check(over(harness, TIED)[1], values).conflict) == 1)
