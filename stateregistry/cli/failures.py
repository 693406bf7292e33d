"""Failures: what went wrong, as an exit code, as text and as a document. Without `--debug` no traceback is shown."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import click

from stateregistry import errors
from stateregistry.cli.flags import spelled
from stateregistry.report import spelling

if TYPE_CHECKING:
    from stateregistry.cli.terminal import Terminal

NO, TROUBLE, UNSAFE, INTERRUPTED, CLOSED_PIPE = 1, 2, 3, 130, 141


def status(error: BaseException) -> int:
    """The exit code of an error."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, (errors.UnsafeFileError, errors.TargetExistsError)):
        return UNSAFE
    if isinstance(error, errors.PlanError) and error.plan is not None:
        return NO  # a plan that cannot be executed is an answer; one that cannot be made is wrong use
    return TROUBLE


def report(terminal: Terminal, error: BaseException) -> int:
    """Show an error on stderr, and as the document where one was asked for; returns the exit code."""
    code = status(error)
    if terminal.debug and not isinstance(error, click.UsageError):
        terminal.say("".join(traceback.format_exception(error)).rstrip())
    terminal.say(_text(error))
    if terminal.json:
        terminal.answer((), {"error": document(error), "exit": code})
    return code


def document(error: BaseException) -> dict[str, Any]:
    """An error as JSON types."""
    found: dict[str, Any] = {"type": type(error).__name__, "message": _message(error)}
    if isinstance(error, errors.StateError):
        found |= {"keys": list(error.keys), "hint": error.hint}
        found |= {"expected": _plain(error.expected), "found": _plain(error.found)}
    if isinstance(error, errors.MismatchError):
        found["problems"] = [
            {"problem": p.problem, "key": p.key, "expected": p.expected, "found": p.found, "hint": p.hint}
            for p in error.report
        ]
    return found


def _plain(value: object) -> Any:
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else str(value)


def _message(error: BaseException) -> str:
    if isinstance(error, errors.StateError):
        return error.message
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the target is as it was"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}"


def _text(error: BaseException) -> str:
    lines = [f"error: {spelling.printable(_message(error), keep=chr(10))}"]
    if isinstance(error, errors.StateError) and error.hint:
        lines.append(f"  to do: {spelling.printable(spelled(error.hint), keep=chr(10))}")
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx is not None else "stateregistry"
        lines.append(f"  to do: see {path} --help")
    elif not isinstance(error, (errors.StateError, OSError, KeyboardInterrupt, MemoryError)):
        lines.append("  this is a bug: please report it, with what --debug shows")
    return "\n".join(lines)
