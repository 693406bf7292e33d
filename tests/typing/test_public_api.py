"""The public interface of Python changes on purpose or not at all, and every name of it says what it is.

`public_api.txt` has a line for each name, with its signature. After a change that is meant: `python
tests/typing/public_api.py --write`, and a line in the changelog (docs/deprecation.md).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import docstrings
import public_api
import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_interface_is_the_one_that_is_written_down():
    wanted, found = public_api.LIST.read_text(encoding="utf-8").splitlines(), public_api.text().splitlines()
    gone, new = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    assert (gone, new) == ([], []), "if it is meant: python tests/typing/public_api.py --write, and the changelog"
    assert wanted == found


def test_the_list_is_the_same_on_every_machine():
    text = public_api.text()
    assert " at 0x" not in text
    assert str(ROOT) not in text


def test_a_change_of_a_signature_shows():
    def one(a: int, *, b: str = "x") -> None: ...
    def two(a: int, *, b: str = "y") -> None: ...
    def three(a: int, b: str = "x") -> None: ...

    lines = {next(public_api.described("f", function)) for function in (one, two, three)}
    assert len(lines) == 3


def everything() -> Iterator[tuple[str, object]]:
    """Every public name, and every public member of a class among them."""
    for module in public_api.MODULES:
        here = public_api.module(module)
        for one in public_api.names(module):
            value = getattr(here, one)
            yield f"{module}.{one}", value
            if isinstance(value, type):
                for name, member in vars(value).items():
                    if not name.startswith("_") or name in public_api.HOOKS:
                        yield f"{module}.{one}.{name}", member


def functions() -> Iterator[tuple[str, Callable[..., object]]]:
    """Those that can be called."""
    for name, value in everything():
        found = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if inspect.isfunction(found):
            yield name, found


def test_every_function_says_what_it_takes_gives_and_raises():
    assert [problem for name, function in functions() for problem in docstrings.problems(name, function)] == []


def test_every_class_and_property_says_what_it_is():
    silent = [
        name
        for name, value in everything()
        if (isinstance(value, type) and not (value.__doc__ or "").strip())
        or (isinstance(value, property) and not (value.fget.__doc__ or "").strip())
    ]
    assert silent == []


def test_there_is_something_to_check():
    assert len(list(functions())) > 120
    assert len(list(everything())) > 400


def _silent(a):
    return a


def _no_argument(a: int) -> int:
    """The number."""
    return a


def _no_result(a: int) -> int:
    """Double a number `a`."""
    return 2 * a


def _no_error(a: int) -> int:
    """The number `a`."""
    if not a:
        raise ValueError("zero")
    return a


def _whole(a: int) -> int:
    """Double a number.

    Args:
        a: the number.

    Returns:
        Twice the number.

    Raises:
        ValueError: it is zero.
    """
    if not a:
        raise ValueError("zero")
    return 2 * a


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (_silent, "no docstring"),
        (_no_argument, "argument a"),
        (_no_result, "what it returns"),
        (_no_error, "raises ValueError"),
    ],
)
def test_a_docstring_that_lacks_something_is_found(function, problem):
    (found,) = docstrings.problems("f", function)
    assert problem in found


def test_a_whole_docstring_is_content():
    assert list(docstrings.problems("f", _whole)) == []


@pytest.mark.parametrize("name", [name for name in public_api.MODULES if name.startswith("stateregistry")])
def test_the_reference_has_every_public_name(name):
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    shown = {one.strip().rpartition(".")[2] for one in text.replace(",", "\n").split()}
    modules = {
        "StateError",
        "errors",
        "keys",
        "tools",
        "rules",
        "__version__",
        "adapter",
        "store",
        "linen",
        "nnx",
        "msgpack",
        "orbax",
    }
    absent = [one for one in public_api.names(name) if one not in shown | modules and name != "stateregistry.errors"]
    assert absent == []
