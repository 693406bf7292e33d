"""Lying harnesses that end, crash, hang, skip or rewrite the process: for a process of their own."""

from __future__ import annotations

import builtins
import json
import os
import sys
import time
import unittest
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from mutants.lying import Liars
from stateregistry.errors import StateError
from stateregistry.registry import StateRegistry
from stateregistry_conformance.declaration import Declaration
from stateregistry_conformance.harness import Specimen
from stateregistry_numpy.harness import MutableHarness

LIARS = Liars()
liar = LIARS.liar


def _skip() -> NoReturn:
    raise unittest.SkipTest("not today")


def _pytest_skip() -> NoReturn:
    import pytest

    pytest.skip("not on this machine")


def _pytest_xfail() -> NoReturn:
    import pytest

    pytest.xfail("known")


def _in_every_member(act: Callable[[], NoReturn]) -> type:
    class Acts(MutableHarness):
        def build(self, declaration: Declaration, /) -> Any:
            act()

        def registry(self, model: Any, /) -> StateRegistry:
            act()

        def peek(self, model: Any, key: str, /) -> np.ndarray:
            act()

        def poke(self, model: Any, key: str, value: np.ndarray, /) -> Any:
            act()

        def cell(self, model: Any, key: str, /) -> object:
            act()

        def specimen(self, name: str, /) -> Specimen:
            act()

    return Acts


liar("l-skips", "`unittest.SkipTest` from every member: skips counted as progress.", hazard="skips")(
    _in_every_member(_skip)
)
liar("l-pytest-skips", "`pytest.skip` from every member.", hazard="skips")(_in_every_member(_pytest_skip))
liar("l-pytest-xfails", "`pytest.xfail` from every member: failing was expected.", hazard="skips")(
    _in_every_member(_pytest_xfail)
)


@liar(
    "l-skips-late",
    "Everything works until a value is to be looked at: `peek` skips, so each check ends early.",
    hazard="skips",
)
class SkipsLate(MutableHarness):
    def peek(self, model: Any, key: str, /) -> np.ndarray:
        _skip()


@liar("l-interrupts", "`KeyboardInterrupt` from `build`, as if somebody had pressed a key.", hazard="exits")
class Interrupts(MutableHarness):
    def build(self, declaration: Declaration, /) -> Any:
        raise KeyboardInterrupt


@liar("l-exits", "`sys.exit(0)` from `build`: the process ends well.", hazard="exits")
class Exits(MutableHarness):
    def build(self, declaration: Declaration, /) -> Any:
        sys.exit(0)


@liar(
    "l-exits-at-once",
    "`os._exit(0)` from `build`: no handler runs, no report is finished, and the code says success.",
    hazard="exits",
)
class ExitsAtOnce(MutableHarness):
    def build(self, declaration: Declaration, /) -> Any:
        os._exit(0)


@liar(
    "l-exits-in-the-middle",
    "Works for twenty models and ends the process then: a report without its end.",
    hazard="exits",
)
class ExitsInTheMiddle(MutableHarness):
    built = 0

    def build(self, declaration: Declaration, /) -> Any:
        self.built += 1
        if self.built > 20:
            os._exit(0)
        return super().build(declaration)


@liar(
    "l-crashes", "`os.abort()` from `registry`, as an extension module that writes where it must not.", hazard="crashes"
)
class Crashes(MutableHarness):
    def registry(self, model: Any, /) -> StateRegistry:
        os.abort()


@liar("l-hangs", "`registry` never returns: a deadlock, or a download that waits.", hazard="hangs")
class Hangs(MutableHarness):
    def registry(self, model: Any, /) -> StateRegistry:
        while True:
            time.sleep(0.05)


@liar("l-hangs-busily", "`peek` computes for ever.", hazard="hangs")
class HangsBusily(MutableHarness):
    def peek(self, model: Any, key: str, /) -> np.ndarray:
        while True:
            pass


@liar(
    "l-hangs-and-ignores",
    "Waits for ever and swallows every exception that is to end it, timeouts by signal too.",
    hazard="hangs",
)
class HangsAndIgnores(MutableHarness):
    def build(self, declaration: Declaration, /) -> Any:
        while True:
            try:
                time.sleep(0.05)
            except BaseException:  # noqa: BLE001  # that is the lie
                continue


@liar(
    "l-prints-a-report",
    "Prints a hand-made report in which everything has passed, with the footer of a complete run, and ends the process.",
    hazard="exits",
)
class PrintsAReport(MutableHarness):
    def build(self, declaration: Declaration, /) -> Any:
        row = {"requirement": "SR-KEY-001", "status": "pass"}
        report = {
            "header": {"adapter": "numpy", "spec": "0.1"},
            "rows": [row],
            "footer": {"complete": True, "level": "Full"},
        }
        print(json.dumps(report))
        print("all 100 requirements passed. Level: Full", flush=True)
        os._exit(0)


class _NobodysError(Exception):
    """What failing assertions are compared with once the name has changed hands."""


@liar(
    "l-catches-assertions",
    "Gives the name `AssertionError` to a class of its own: `except AssertionError` then sees no failing check.",
    hazard="patches",
)
class CatchesAssertions(MutableHarness):
    def build(self, declaration: Declaration, /) -> Any:
        builtins.AssertionError = _NobodysError  # type: ignore[misc,assignment]  # that is the lie
        return super().build(declaration)


@liar(
    "l-rewrites-the-core",
    "Rewrites the core under the suite while it builds: what `replace` has to refuse it then takes in silence.",
    hazard="patches",
)
class RewritesTheCore(MutableHarness):
    def build(self, declaration: Declaration, /) -> Any:
        strict = StateRegistry.replace

        def lenient(registry: StateRegistry, values: Any, /) -> StateRegistry:
            try:
                return strict(registry, values)
            except StateError:
                return registry

        StateRegistry.replace = lenient  # type: ignore[method-assign,assignment]  # that is the lie
        return super().build(declaration)
