"""The application: the commands, and the one place where what they raise becomes an exit code."""

from __future__ import annotations

import _thread
import os
import sys
import threading
from typing import TYPE_CHECKING, Final, TextIO, final

import click

from stateregistry import errors
from stateregistry._version import __version__
from stateregistry.cli import failures
from stateregistry.cli.adapters import adapters
from stateregistry.cli.average import average
from stateregistry.cli.completion import VARIABLE, answer, completion
from stateregistry.cli.conform import conform
from stateregistry.cli.convert import convert
from stateregistry.cli.diff import diff
from stateregistry.cli.inspect import inspect
from stateregistry.cli.options import settle
from stateregistry.cli.rename import rename
from stateregistry.cli.terminal import Terminal
from stateregistry.cli.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds after which an interrupt that was dropped is raised again.
_SOON: Final = 0.01
_EPILOG = """\b
First steps, with a checkpoint and the code of its model (class Net in net.py):
  stateregistry inspect model.pt
  stateregistry convert model.pt model.msgpack --to flax-linen --source-like net:Net --allow choice --html plan.html
  stateregistry verify model.pt model.msgpack --source-like net:Net

\b
Without its code: --to torch changes the file alone (model.safetensors, .npz), and for
another framework the plan says what it cannot know and which rule would tell it.

\b
Exit codes: 0 done or equal, 1 the answer is no, 2 wrong use or unreadable input,
3 refused for safety (the output exists, a file needs code to be run), 130 interrupted.
"""


@final
class _InOrderOfUse(click.Group):
    """Lists the commands as a person comes to need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which they were added."""
        return list(self.commands)


@click.group(
    "stateregistry", cls=_InOrderOfUse, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def group() -> None:
    """Look at, compare and convert the state of models: parameters and buffers, in any framework or file."""


for _each in (inspect, convert, verify, diff, rename, average, adapters, conform, completion):
    group.add_command(_each)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us: there is nobody to tell
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115  # for the life of the process
    terminal = Terminal()
    terminal.arguments = tuple(arguments)
    before, sys.unraisablehook = sys.unraisablehook, _raised_again(sys.unraisablehook)
    try:
        asked = os.environ.get(VARIABLE)
        code = answer(group, asked) if asked else _invoke(terminal, arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        _abandon(sys.stdout)
        return failures.CLOSED_PIPE
    except OSError as error:  # the disk that stdout goes to is full
        _abandon(sys.stdout)
        return failures.report(terminal, error)
    finally:
        sys.unraisablehook = before
    return code


def _raised_again(before: Callable[[sys.UnraisableHookArgs], object]) -> Callable[[sys.UnraisableHookArgs], object]:
    """A hook that loses no interrupt: Python drops one that comes while a finaliser or the garbage collector runs."""

    def hook(lost: sys.UnraisableHookArgs, /) -> object:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            return before(lost)
        threading.Timer(_SOON, _thread.interrupt_main).start()  # not from here: it would be dropped again
        return None

    return hook


def _abandon(stream: TextIO) -> None:
    """Let what Python still flushes when it ends go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _invoke(terminal: Terminal, arguments: list[str]) -> int:
    try:
        with group.make_context("stateregistry", list(arguments), obj=terminal) as context:
            code = group.invoke(context)
        code = code if isinstance(code, int) else 0
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        terminal.say(error.format_message())
        code = failures.TROUBLE
    except BrokenPipeError:
        raise
    except click.ClickException as error:
        settle(terminal, arguments)
        terminal.command = terminal.command or _command(arguments)
        code = failures.report(terminal, error)
    except SystemExit as error:  # a factory's own is caught where it is called; its model may have one of its own
        ended = errors.AdapterError(
            f"the code of a model or a plugin ended the program: sys.exit({error.code!r})",
            hint="--debug shows where",
        )
        ended.__cause__ = error
        code = failures.report(terminal, ended)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # the last door: everything becomes a message
        code = failures.report(terminal, error)
    return code


def _command(arguments: list[str]) -> str:
    """The command that was meant, for the schema of a document about wrong use."""
    return next((argument for argument in arguments if argument in group.commands), "error")
