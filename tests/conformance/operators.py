"""Mutants by operator: one small change at a time to the source of the reference and of the core, made by a program.

Nobody chooses these bugs, so they estimate what the suite finds of bugs that nobody has thought of. An operator changes one
node of a function (negates a condition, drops a copy or a call, swaps arguments, skips a statement, turns a comparison, a
constant or an `and`), the module is compiled again, and the code of that function alone is put in place while the mutant is
installed. Many change nothing that a user could notice; those that no check notices are printed, to be read.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import linecache
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from stateregistry_conformance.check import Check
from stateregistry_conformance.runner import everything, run_check
from stateregistry_conformance.subject import Subject
from stateregistry_conformance.verdict import Status
from stateregistry_numpy.harness import FrozenHarness, MutableHarness

#: Modules whose functions are changed, each with the functions that are not: text for people, layers, other frameworks.
SUBJECTS: dict[str, frozenset[str]] = {
    "stateregistry_numpy.registry": frozenset({"_what", "unwrap", "_layers", "_tree"}),
    "stateregistry.registry": frozenset({"__repr__", "_tree", "layers", "dialect", "_refusal", "unwrap"}),
    "stateregistry.checking": frozenset({"__str__", "__repr__"}),
    "stateregistry.transfer": frozenset(),
    "stateregistry.casting": frozenset(),
}


@dataclass(frozen=True)
class Change:
    """One mutant.

    Attributes:
        module, function: where it is.
        line: of the source.
        operator: what was done.
        number: which of the places of the module at which an operator applies.
    """

    module: str
    function: str
    line: int
    operator: str
    number: int

    @property
    def id(self) -> str:
        """Stable as long as the function is."""
        return f"{self.module}:{self.function}:{self.operator}:{self.number}"


# -------------------------------------------------------------------------------------------------------------- operators


def _negated(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], None]]]:
    if isinstance(node, (ast.If, ast.IfExp, ast.While)):

        def negate(found: Any) -> None:
            found.test = ast.UnaryOp(ast.Not(), found.test)

        yield "negated", negate
    if isinstance(node, ast.comprehension) and node.ifs:

        def drop(found: Any) -> None:
            found.ifs = found.ifs[1:]

        yield "unfiltered", drop


def _turned(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], None]]]:
    if isinstance(node, ast.BoolOp):

        def turn(found: Any) -> None:
            found.op = ast.Or() if isinstance(found.op, ast.And) else ast.And()

        yield "and-or", turn
        for place in range(len(node.values)):

            def leave(found: Any, place: int = place) -> None:
                found.values = [value for at, value in enumerate(found.values) if at != place]
                if len(found.values) == 1:
                    found.values = found.values * 2

            yield f"without-{place}", leave
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        pairs: dict[type, type] = {
            ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
            ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
        }  # fmt: skip

        def compare(found: Any) -> None:
            found.ops = [pairs[type(found.ops[0])]()]

        yield "compared", compare
    if isinstance(node, ast.Constant) and (isinstance(node.value, bool) or node.value in (0, 1)):

        def other(found: Any) -> None:
            found.value = (not found.value) if isinstance(found.value, bool) else 1 - found.value

        yield "constant", other
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitOr, ast.Add, ast.Sub)):

        def left(found: Any) -> None:
            found.right = copy.deepcopy(found.left)

        yield "left-only", left


#: Calls that hand something on better than it came; without them it is handed on as it is.
_CARE = {
    "copy",
    "sorted",
    "tuple",
    "dict",
    "list",
    "bool",
    "array",
    "set",
    "min",
    "MappingProxyType",
    "reversed",
    "str",
}


def _called(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], None]]]:
    if not isinstance(node, ast.Call):
        return
    if len(node.args) > 1 and not any(isinstance(one, ast.Starred) for one in node.args):

        def swap(found: Any) -> None:
            found.args[0], found.args[1] = found.args[1], found.args[0]

        yield "swapped", swap
    for place in range(len(node.keywords)):

        def default(found: Any, place: int = place) -> None:
            del found.keywords[place]

        if node.keywords[place].arg not in {"keys", "hint", "cause"}:
            yield f"default-{place}", default


def _careless(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], None]]]:
    for name, value in ast.iter_fields(node):
        if isinstance(value, ast.Call) and value.args and not isinstance(value.args[0], ast.Starred):
            called = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
            if called in _CARE and not isinstance(value.args[0], ast.GeneratorExp):

                def bare(found: Any, name: str = name) -> None:
                    setattr(found, name, getattr(found, name).args[0])

                yield f"no-{called}", bare


def _skipped(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], None]]]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if not isinstance(block, list):
            continue
        for place, statement in enumerate(block):
            simple = isinstance(statement, (ast.Expr, ast.AugAssign, ast.Raise, ast.Continue, ast.Break)) or (
                isinstance(statement, ast.Assign) and not isinstance(statement.targets[0], (ast.Name, ast.Tuple))
            )
            if simple and not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):

                def skip(found: Any, name: str = name, place: int = place) -> None:
                    getattr(found, name)[place] = ast.Pass()

                yield f"skipped-{name}-{place}", skip


_OPERATORS = (_negated, _turned, _called, _careless, _skipped)


# ---------------------------------------------------------------------------------------------------------------- mutants


@cache
def _source(module: str) -> str:
    return inspect.getsource(importlib.import_module(module))


def _functions(tree: ast.AST, inside: tuple[str, ...] = ()) -> Iterator[tuple[str, ast.AST]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            here = (*inside, node.name)
            if isinstance(node, ast.FunctionDef):
                yield ".".join(here), node
            else:
                yield from _functions(node, here)


def _places(tree: ast.Module, left_out: frozenset[str]) -> Iterator[tuple[str, ast.AST, str, Callable[[Any], None]]]:
    for function, root in _functions(tree):
        if function.rpartition(".")[2] in left_out:
            continue
        text = {
            id(inner)
            for node in ast.walk(root)
            if isinstance(node, (ast.JoinedStr, ast.Raise))
            for inner in ast.walk(node)
        }
        for node in _walked(root):
            if id(node) in text and not isinstance(node, ast.Raise):
                continue  # messages are nobody's contract
            for operator in _OPERATORS:
                for name, change in operator(node):
                    yield function, node, name, change


def _walked(root: ast.AST) -> Iterator[ast.AST]:
    if isinstance(root, ast.FunctionDef):
        for statement in root.body:
            yield from ast.walk(statement)
        yield ast.Module(body=root.body, type_ignores=[])


def changes() -> tuple[Change, ...]:
    """Every change that an operator can make, in the order of the source."""
    found = []
    for module, left_out in SUBJECTS.items():
        tree = ast.parse(_source(module))
        for number, (function, node, operator, _) in enumerate(_places(tree, left_out)):
            found.append(Change(module, function, getattr(node, "lineno", 0), operator, number))
    return tuple(found)


def _code(change: Change) -> CodeType:
    tree = ast.parse(_source(change.module))
    places = _places(tree, SUBJECTS[change.module])
    _, node, _, apply = next(place for number, place in enumerate(places) if number == change.number)
    apply(node)
    module = compile(ast.fix_missing_locations(tree), f"<{change.id}>", "exec", dont_inherit=True)
    return _inner(module, change.function.split("."))


def _inner(code: CodeType, path: list[str]) -> CodeType:
    for name in path:
        code = next(one for one in code.co_consts if isinstance(one, CodeType) and one.co_name == name)
    return code


def _function(change: Change) -> FunctionType:
    found: Any = importlib.import_module(change.module)
    for name in change.function.split("."):
        found = inspect.getattr_static(found, name)
    found = (
        getattr(found, "fget", None) or getattr(found, "__func__", None) or getattr(found, "__wrapped__", None) or found
    )
    assert isinstance(found, FunctionType), change.id
    return found


@contextmanager
def installed(change: Change) -> Iterator[None]:
    """Let a function do what a change makes of it, whoever holds it."""
    function = _function(change)
    old, new = function.__code__, _code(change)
    assert new.co_freevars == old.co_freevars, change.id
    function.__code__ = new
    try:
        yield
    finally:
        function.__code__ = old


# ------------------------------------------------------------------------------------------------------------- the estimate


@dataclass(frozen=True)
class Trial:
    """What became of one change: the check that noticed it, `""` where all were content."""

    change: Change
    noticed: str


class _Late(BaseException):
    """A change that makes a loop endless."""


#: Seconds for the checks on one change: a loop without end is noticed by the time limit of a run.
_LIMIT = 60


def _too_late(*_: object) -> None:
    raise _Late


_BROAD = ("writing.replace", "breadth", "loading", "dtypes.a", "snapshots", "aliases")


@cache
def _checks() -> tuple[Check, ...]:
    return tuple(
        one for one in everything().values() if one.layer in {"smoke", "directed"} and "layers" not in one.name
    )


def tried(change: Change) -> Trial:
    """Run the directed checks on both references until one is not content. In the main thread of a process of its own."""
    signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(_LIMIT)
    good = {Status.PASS, Status.NOT_APPLICABLE}
    try:
        with installed(change), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for harness in (MutableHarness(), FrozenHarness()):
                subject = Subject(harness)
                for one in _checks():
                    if any(row.status not in good for row in run_check(subject, one, named=change.id)):
                        return Trial(change, one.name)
    except _Late:
        return Trial(change, "the time limit")
    finally:
        signal.alarm(0)
    return Trial(change, "")


#: What somebody found who read changes that were not noticed.
_READ = """
Most of the rest is no bug. Of the changes that were not noticed somebody has read 35, taken at random: 20 change nothing that
a user could see (an argument that is the default, a hint, a text, a value that is compared with itself); 8 are in code that
no harness of a reference reaches (a native change of flags that fails, a store that cannot be written); 7 could have been
noticed, so that about nine in ten bugs that nobody chose are found. Of the seven, four need a second failure while the first
one is undone; one was a place without values that kept what a failed write had given it, for which there is a check since.
"""

TITLE = "## Bugs that nobody chose\n"

_TEXT = """
A program changes the reference and the core in one place at a time (`tests/conformance/operators.py`): it negates a condition,
leaves out a statement, swaps arguments, does not make a copy, forgets a keyword. Nobody has chosen these bugs, and no check was
written for them. A change is *noticed* when a directed check is not content with one of the two references; which requirement
it breaks nobody has said. Made again by `python docs/conform.py --only unseen`.

| module | changes | noticed |
| --- | ---: | ---: |
"""


def section(trials: Sequence[Trial]) -> str:
    """The estimate, as a part of the page of the kill matrix."""
    lines = []
    for module in SUBJECTS:
        mine = [one for one in trials if one.change.module == module]
        lines.append(f"| `{module}` | {len(mine)} | {sum(bool(one.noticed) for one in mine)} |")
    noticed = sum(bool(one.noticed) for one in trials)
    lines.append(f"| together | {len(trials)} | {noticed}: {100 * noticed / len(trials):.0f} % |")
    return f"{TITLE}{_TEXT}" + "\n".join(lines) + f"\n{_READ}"


def unnoticed(trials: Sequence[Trial]) -> list[str]:
    """The changes with which every check was content, each with its line, to be read by somebody."""
    found = []
    for one in trials:
        if not one.noticed:
            file = inspect.getsourcefile(importlib.import_module(one.change.module)) or ""
            found.append(f"not noticed: {one.change.id}: {linecache.getline(file, one.change.line).strip()}")
    return found
