"""What the mutants of functions share: `FunctionMutant`, and how a function is swapped for the length of a `with` block.

The code object is swapped and not the name, so that whoever has imported the function calls the wrong one too. Run them one
at a time, in the process that runs the checks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from mutants.support import (
    MutableSubject,
)
from stateregistry_conformance.harness import Harness


@dataclass(frozen=True, slots=True)
class FunctionMutant:
    """A broken function of the core.

    Attributes:
        id: its name, `f-...`.
        violates, also, story, proof: as those of `Mutant`.
        installed: puts it in place for the length of a `with` block.
        harness: a harness over a correct adapter; the bug shows through it while the mutant is installed.
    """

    id: str
    violates: str
    also: tuple[str, ...]
    story: str
    installed: Callable[[], AbstractContextManager[None]]
    harness: Callable[[], Harness]
    proof: Callable[[Harness], None]


_LOCK = threading.Lock()


@contextmanager
def swapped(function: Any, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Let a function do what `make(original)` does, whoever has imported it by whatever name."""
    with _LOCK:
        code = function.__code__
        original = FunctionType(
            code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
        )
        original.__kwdefaults__ = function.__kwdefaults__
        name = f"_standing_in_for_{function.__name__}"
        function.__globals__[name] = make(original)
        scope: dict[str, Any] = {}
        exec(
            f"def trampoline(*args, **kwargs):\n    return {name}(*args, **kwargs)\n", scope
        )  # no other way to a code object
        function.__code__ = scope["trampoline"].__code__
        try:
            yield
        finally:
            function.__code__ = code
            del function.__globals__[name]


Make = Callable[[Callable[..., Any]], Callable[..., Any]]


class Functions:
    """The mutants of one function or of a few, in the order in which they are written down."""

    def __init__(self) -> None:
        self._mutants: list[FunctionMutant] = []

    def mutant(
        self, name: str, violates: str, function: Any, make: Make, *, story: str, also: tuple[str, ...] = ()
    ) -> Callable[[Callable[[Harness], None]], Callable[[Harness], None]]:
        """Register a mutant of a function; what is decorated is its proof."""

        def add(proof: Callable[[Harness], None]) -> Callable[[Harness], None]:
            more = tuple(f"SR-{other}" for other in also)

            def install() -> AbstractContextManager[None]:
                return swapped(function, make)

            self._mutants.append(FunctionMutant(name, f"SR-{violates}", more, story, install, MutableSubject, proof))
            return proof

        return add

    def __iter__(self) -> Iterator[FunctionMutant]:
        return iter(self._mutants)
