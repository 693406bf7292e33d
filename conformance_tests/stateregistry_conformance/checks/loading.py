"""Checks of chapter 10, strictness and load."""

from __future__ import annotations

import json
import struct
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import stateregistry as sr
from stateregistry import errors, plugins
from stateregistry_conformance.check import check
from stateregistry_conformance.declaration import Declaration
from stateregistry_conformance.samples import buffer, core, others, parameter, square, tied, transient, values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stateregistry_conformance.subject import Subject
    from stateregistry_conformance.verdict import Verdict

_FIELDS = ("missing", "unexpected", "shape", "dtype", "conflict", "invalid")


def _report(report: Any) -> dict[str, tuple[str, ...]]:
    return {name: getattr(report, name) for name in _FIELDS}


def _expect(v: Verdict, report: Any, what: str, **expected: tuple[str, ...]) -> None:
    for name in _FIELDS:
        found = getattr(report, name)
        v.holds(isinstance(found, tuple), f"report.{name} is a tuple, found {found!r}")
        v.equal(found, expected.get(name, ()), f"report.{name} of {what}")
    v.holds(report.ok is (not any(expected.values())), f"report.ok of {what}: found {report.ok!r}")


@check("SR-LOAD-001")
def check_reports_every_class(h: Subject, v: Verdict) -> None:
    declaration = core()
    model = h.build(declaration)
    registry = h.registry(model)
    good = others(declaration)
    _expect(v, sr.check(registry, good), "a complete set of values")
    pairs: list[tuple[str, Any]] = [(key, value) for key, value in good.items() if key not in {"scale", "one"}]
    pairs = [(key, value) for key, value in pairs if not key.startswith("encoder")]
    pairs += [
        ("zzz", values("zzz", (2,))),
        ("encoder/weight", values("w", (4, 5))),
        ("encoder/bias", values("b", (4,)).astype(np.complex64)),
        ("aaa", values("aaa", (2,))),
        ("encoder/norm/var", "text"),
        ("encoder/norm/mean", values("m", (5,)).astype(np.complex64)),
    ]
    reports = []
    for order in (pairs, pairs[::-1], pairs[4:] + pairs[:4]):
        report = sr.check(registry, dict(order))
        _expect(
            v,
            report,
            "values with eight problems",
            missing=("one", "scale"),
            unexpected=("aaa", "zzz"),
            shape=("encoder/norm/mean", "encoder/weight"),
            dtype=("encoder/bias", "encoder/norm/mean"),
            invalid=("encoder/norm/var",),
        )
        reports.append(report)
    v.holds(all(report == reports[0] for report in reports), "reports are independent of the order of the values")
    _expect(v, sr.check(registry, {}), "no values", missing=tuple(declaration.entries()))
    v.same_state(h.peek_all(model, declaration), declaration.values(), "native values after check")
    v.passed()


@check("SR-LOAD-001")
def one_problem_alone_is_reported_every_time(h: Subject, v: Verdict) -> None:
    declaration = core()
    registry = h.registry(h.build(declaration))
    good = others(declaration)
    less = {key: value for key, value in good.items() if key != "scale"}
    cases: dict[str, tuple[dict[str, Any], dict[str, tuple[str, ...]]]] = {
        "a missing key": (less, {"missing": ("scale",)}),
        "an unexpected key": ({**good, "nothing": values("x", (3,))}, {"unexpected": ("nothing",)}),
        "a wrong shape": ({**good, "one": values("x", (3,))}, {"shape": ("one",)}),
        "a shape of the same size": ({**good, "one": values("x", (1, 2))}, {"shape": ("one",)}),
        "a wrong dtype": ({**good, "one": values("x", (2,), "float16")}, {"dtype": ("one",)}),
        "what is no array": ({**good, "one": "text"}, {"invalid": ("one",)}),
    }
    for name, (given, expected) in cases.items():
        for time in ("first", "second", "third"):
            _expect(v, sr.check(registry, given), f"{name}, asked for the {time} time", **expected)
    for time in ("first", "second"):
        _expect(v, sr.check(registry, good), f"a complete set of values, asked for the {time} time")
    v.passed()


@check("SR-LOAD-002")
def load_writes_everything_when_the_report_is_clean(h: Subject, v: Verdict) -> None:
    for declaration in (core(), square()):
        registry = h.registry(h.build(declaration))
        given = others(declaration)
        v.holds(sr.check(registry, given).ok, "check is clean")
        registry = sr.load(registry, given)
        v.same_state(h.peek_all(registry.unwrap(), declaration), given, "native values after load")
        model = h.build(declaration)
        installed = plugins.adapters().get(registry.adapter)  # one that is named as module:object need not be
        if installed is not None and installed.recognises(model):
            loaded = sr.load(model, given)
            v.same_state(
                h.peek_all(loaded.unwrap(), declaration), given, "native values after load into the live object"
            )
    v.passed()


@check("SR-LOAD-002")
def load_refuses_what_check_reports(h: Subject, v: Verdict) -> None:
    declaration = core()
    good = others(declaration)
    less = {key: value for key, value in good.items() if key != "scale"}
    wrong: dict[str, dict[str, Any]] = {
        "a missing key": less,
        "an unexpected key": {**good, "nothing": values("x", (3,))},
        "a wrong shape": {**good, "one": values("x", (3,))},
        "a wrong dtype": {**good, "one": values("x", (2,), "float16")},
        "what is no array": {**good, "one": "text"},
        "a missing and an unexpected key": {**less, "Scale": values("x", (5,))},
        "nothing at all": {},
    }
    for name, given in wrong.items():
        model = h.build(declaration)
        registry = h.registry(model)
        report = sr.check(registry, given)
        v.holds(not report.ok, f"check of {name} is not clean")
        error = v.refusal(partial(sr.load, registry, given), errors.LoadError, f"load of {name}")
        v.equal(_report(v.report(error)), _report(report), f"the report of the error for {name}, and that of check")
        v.same_state(h.peek_all(model, declaration), declaration.values(), f"native values after load of {name}")
    v.passed()


@check("SR-LOAD-003")
def load_tolerates_what_it_is_told_to(h: Subject, v: Verdict) -> None:
    declaration = core()
    good = others(declaration)
    less = {key: value for key, value in good.items() if not key.startswith("encoder")}
    more = {**good, "nothing": values("x", (3,)), "encoder/extra": values("x", (4,))}
    both = {**less, "nothing": values("x", (3,))}
    kept = {**declaration.values(), **less}
    for given, allow, expected in (
        (less, {"missing"}, kept),
        (more, {"unexpected"}, good),
        (both, {"missing", "unexpected"}, kept),
        (both, ("unexpected", "missing"), kept),
        (good, {"missing", "unexpected"}, good),
        ({}, ["missing"], declaration.values()),
    ):
        registry = sr.load(h.registry(h.build(declaration)), given, allow)
        native = h.peek_all(registry.unwrap(), declaration)
        v.same_state(native, expected, f"native values after load with allow={sorted(allow)}")
        v.lists(registry, declaration.entries(), f"entries after load with allow={sorted(allow)}")
    _tolerates_nothing_else(h, v, declaration, good, less, more, both)
    v.passed()


def _tolerates_nothing_else(
    h: Subject,
    v: Verdict,
    declaration: Declaration,
    good: Mapping[str, Any],
    less: Mapping[str, Any],
    more: Mapping[str, Any],
    both: Mapping[str, Any],
) -> None:
    refused: list[tuple[Mapping[str, Any], set[str]]] = [
        (less, {"unexpected"}),
        (more, {"missing"}),
        (both, {"missing"}),
        (both, {"unexpected"}),
    ]
    everything = {"missing", "unexpected"}
    refused.append(({**both, "one": values("x", (3,))}, everything))
    refused.append(({**both, "one": values("x", (2,), "float16")}, everything))
    refused.append(({**both, "one": "text"}, everything))
    for given, allow in refused:
        model = h.build(declaration)
        registry = h.registry(model)
        with v.refuses(errors.LoadError, f"load with allow={sorted(allow)} of what that does not cover"):
            sr.load(registry, given, allow)
        v.same_state(h.peek_all(model, declaration), declaration.values(), "native values after the refusal")
    for name in ("shape", "dtype", "conflict", "invalid", "everything", ""):
        model = h.build(declaration)
        with v.refuses(errors.StateError, f"load with allow={{{name!r}}}"):
            sr.load(h.registry(model), good, {name})
        v.same_state(h.peek_all(model, declaration), declaration.values(), f"native values after allow={{{name!r}}}")


@check("SR-LOAD-004")
def what_is_not_given_is_missing(h: Subject, v: Verdict) -> None:
    declaration = core()
    good = others(declaration)
    for key in declaration.entries():
        given = {name: value for name, value in good.items() if name != key}
        registry = h.registry(h.build(declaration))
        _expect(v, sr.check(registry, given), f"everything but {key!r}", missing=(key,))
        with v.refuses(errors.LoadError, f"load of everything but {key!r}"):
            sr.load(registry, given)
    if "ties" in h.capabilities:
        ties = tied()
        registry = h.registry(h.build(ties))
        _expect(v, sr.check(registry, {}), "nothing, for a model with ties", missing=tuple(ties.entries()))
    v.passed()


@check("SR-LOAD-005")
def what_is_not_persistent_is_neither_missing_nor_expected(h: Subject, v: Verdict) -> None:
    declaration = transient()
    registry = h.registry(h.build(declaration))
    given = others(declaration)
    saved = {key: value for key, value in given.items() if key != "cache"}
    _expect(v, sr.check(registry, saved), "the persistent values")
    _expect(v, sr.check(registry, given), "all values", unexpected=("cache",))
    with v.refuses(errors.LoadError, "load of a value that is not persistent"):
        sr.load(registry, given)
    registry = sr.load(registry, given, {"unexpected"})
    expected = {**saved, "cache": declaration.leaf("cache").value}
    v.same_state(
        h.peek_all(registry.unwrap(), declaration), expected, "native values after load with allow={'unexpected'}"
    )
    registry = registry.replace({"cache": given["cache"]})
    v.same_state(h.peek_all(registry.unwrap(), declaration), given, "native values after replace of 'cache'")
    v.passed()


@check("SR-LOAD-006")
def one_key_of_a_group_is_enough(h: Subject, v: Verdict) -> None:
    declaration = tied()
    given = others(declaration)
    for alias, canonical in declaration.aliases().items():
        named = {alias if key == canonical else key: value for key, value in given.items()}
        registry = h.registry(h.build(declaration))
        _expect(v, sr.check(registry, named), f"values with {alias!r} for {canonical!r}")
        registry = sr.load(registry, named)
        v.same(
            h.peek(registry.unwrap(), canonical), given[canonical], f"native value of {canonical!r} loaded as {alias!r}"
        )
        v.same(h.peek(registry.unwrap(), alias), given[canonical], f"native value of {alias!r}")
    v.passed()


@check("SR-LOAD-007")
def every_source_gives_the_same(h: Subject, v: Verdict) -> None:
    declarations = [core(), square()]
    declarations += [tied()] if "ties" in h.capabilities else []
    declarations += [transient()] if "nonpersistent" in h.capabilities else []
    for declaration in declarations:
        model = h.build(declaration)
        for key, value in others(declaration).items():
            model = h.poke(model, key, value)
        source = h.registry(model)
        saved = {key: value for key, value in others(declaration).items() if declaration.entries()[key].persistent}
        expected = {**declaration.values(), **saved}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state.safetensors"
            path.write_bytes(_safetensors(saved))
            for name, given in (("mapping", saved), ("registry", source), ("path", path), ("path as text", str(path))):
                loaded = sr.load(h.registry(h.build(declaration)), given)
                for key, value in expected.items():
                    v.same(h.peek(loaded.unwrap(), key), value, f"native value of {key!r} loaded from a {name}")
                v.lists(loaded, declaration.entries(), f"entries after load from a {name}")
    v.passed()


def _safetensors(state: Mapping[str, np.ndarray]) -> bytes:
    """A safetensors file, written by hand: the suite is not to trust a writer of the project."""
    names = {"float16": "F16", "float32": "F32"}
    header: dict[str, Any] = {}
    body = b""
    for key, value in state.items():
        raw = value.astype(value.dtype.newbyteorder("<")).tobytes()
        offsets = [len(body), len(body) + len(raw)]
        header[key] = {"dtype": names[value.dtype.name], "shape": list(value.shape), "data_offsets": offsets}
        body += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


@check("SR-LOAD-008")
def reports_name_keys_as_they_were_given(h: Subject, v: Verdict) -> None:
    declaration = Declaration((parameter("a/w"), buffer("b")))
    registry = h.registry(h.build(declaration))
    given = {"a.w": values("x", (3, 3)), "b": values("x", (3,)), "A/w": values("x", (3, 3))}
    _expect(v, sr.check(registry, given), "dotted names", missing=("a/w",), unexpected=("A/w", "a.w"), shape=("b",))
    v.passed()


@check("SR-LOAD-008")
def reports_name_aliases_as_they_were_given(h: Subject, v: Verdict) -> None:
    if "ties" not in h.capabilities:
        v.not_applicable("SR-LOAD-008", "the framework has no ties")
        return
    declaration = tied()
    registry = h.registry(h.build(declaration))
    good = {key: value for key, value in others(declaration).items() if key not in {"base/weight", "body/weight"}}
    given: dict[str, Any] = {
        **good,
        "head/weight": values("x", (2, 2)),
        "tail/weight": values("x", (3, 3)).astype(np.complex64),
    }
    _expect(v, sr.check(registry, given), "aliases that do not fit", shape=("head/weight",), dtype=("tail/weight",))
    given = {**good, "head/weight": "text", "tail/weight": values("x", (3, 3)), "tip/weight": values("y", (3, 3))}
    names = ("tail/weight", "tip/weight")
    _expect(v, sr.check(registry, given), "a conflict", conflict=names, invalid=("head/weight",))
    v.passed()
