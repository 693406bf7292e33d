"""Completion in the shell: files, names of tensors, adapters. By click's mechanism; nothing here may fail or print.

A name is completed up to its next `/`, so that a model of ten thousand entries is walked and not listed. Only files are
opened, their metadata alone: no factory is called, since completing a line must not run a model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from stateregistry.cli.options import common, examples

if TYPE_CHECKING:
    from click import Context, Parameter
    from click.shell_completion import CompletionItem

    from stateregistry.cli.terminal import Terminal

Completer = Callable[["Context", "Parameter", str], "list[CompletionItem]"]
#: Completions that are offered at most.
MOST = 200


def files(context: Context, parameter: Parameter, incomplete: str) -> list[CompletionItem]:
    """What the shell itself offers for a file."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def keys_of(*arguments: str) -> Completer:
    """Completes keys of the files that these arguments name."""

    def complete(context: Context, parameter: Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        found: set[str] = set()
        for argument in arguments:
            given = context.params.get(argument)
            # Where the line ends in an option that still wants its value, click has not looked at the arguments.
            for source in given if isinstance(given, tuple) and given else (given,) if given else context.args:
                found |= _keys(source)
        return [CompletionItem(name) for name in steps(found, incomplete)[:MOST]]

    return complete


def steps(keys: Iterable[str], incomplete: str) -> list[str]:
    """The keys that begin so, up to their next `/`."""
    found = set()
    for key in keys:
        if key.startswith(incomplete):
            slash = key.find("/", len(incomplete))
            found.add(key if slash < 0 else key[: slash + 1])
    return sorted(found)


def _keys(source: object) -> set[str]:
    if not isinstance(source, (str, os.PathLike)) or not os.path.exists(str(source).partition("::")[0]):  # noqa: PTH110
        return set()
    from stateregistry.errors import StateError
    from stateregistry.stores.opening import open as open_file

    try:
        with open_file(str(source)) as file:
            return {key for key in file if key.isprintable()}
    except (StateError, OSError):
        return set()  # what cannot be read has no names; the command itself will say why


def adapters(context: Context, parameter: Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of adapters that something can be converted to."""
    from click.shell_completion import CompletionItem

    from stateregistry import plugins

    names = [found.name for found in plugins.discover(plugins.ADAPTERS) if found.error is None]
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_STATEREGISTRY_COMPLETE"
_WHERE = {
    "bash": "stateregistry completion bash > ~/.local/share/bash-completion/completions/stateregistry",
    "zsh": "stateregistry completion zsh > ~/.zfunc/_stateregistry    # a directory of fpath",
    "fish": "stateregistry completion fish > ~/.config/fish/completions/stateregistry.fish",
}


@click.command("completion", epilog=examples(*_WHERE.values()), short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(SHELLS))
@common
@click.pass_obj
def completion(terminal: Terminal, shell: str) -> int:
    """Print the script by which a SHELL completes commands, options, files, and names of tensors.

    A name is completed up to its next '/'. Names are read from the file on the line; no model is built for them.
    """
    from click.shell_completion import get_completion_class

    terminal.command = "completion"
    kind = get_completion_class(shell)
    assert kind is not None  # one of click's own
    found = click.get_current_context().find_root().command
    script = kind(found, {}, "stateregistry", VARIABLE).source()
    if terminal.json:
        terminal.answer((), {"shell": shell, "script": script})
    else:
        terminal.write(script)
    return 0


def answer(group: click.Command, instruction: str) -> int:
    """What the shell asks by the variable `VARIABLE`: completions of the line."""
    from click.shell_completion import shell_complete

    return shell_complete(group, {}, "stateregistry", VARIABLE, instruction)
