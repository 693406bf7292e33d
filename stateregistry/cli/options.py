"""Options that every command has, and how a command gets its terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stateregistry.cli.terminal import Terminal

if TYPE_CHECKING:
    from pathlib import Path

F = TypeVar("F", bound=Callable[..., Any])
COLORS = ("auto", "always", "never")


def _set(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    setattr(context.ensure_object(Terminal), str(parameter.name), value)


def common(function: F) -> F:
    """Add `--json`, `--color` and `--debug`; they are set on the terminal, not passed to the command."""
    for option in (
        click.option(
            "--debug", is_flag=True, callback=_set, is_eager=True, expose_value=False,
            help="Show the traceback of an error.",
        ),
        click.option(
            "--color", type=click.Choice(COLORS), default="auto", callback=_set, is_eager=True, expose_value=False,
            help="Use colour; auto looks at NO_COLOR, FORCE_COLOR, TERM and the terminal.",
        ),
        click.option(
            "--json", is_flag=True, callback=_set, is_eager=True, expose_value=False,
            help="Print one JSON document, for errors too.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def as_path(context: click.Context, parameter: click.Parameter, text: str) -> Path:
    """A callback: what a person names as the file to write, a URL too."""
    from stateregistry.stores.url import path_of  # lazy: only for who writes

    return path_of(text)


def examples(*lines: str) -> str:
    """The end of a help text: examples, one a line, not wrapped."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))


def settle(terminal: Terminal, arguments: Iterable[str]) -> None:
    """Read the common flags from arguments that click could not parse, so that this error too is shown as asked."""
    for argument in arguments:
        if argument == "--":
            return
        if argument == "--json":
            terminal.json = True
        if argument == "--debug":
            terminal.debug = True
