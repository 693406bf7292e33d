"""`stateregistry verify`: whether B holds what a conversion of A gives, bit for bit; of one file, whether it is damaged."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import click

from stateregistry import errors
from stateregistry.cli import completion
from stateregistry.cli.failures import NO
from stateregistry.cli.flags import spelled
from stateregistry.cli.options import common, examples

if TYPE_CHECKING:
    from stateregistry.cli.terminal import Terminal

_EPILOG = examples(
    "stateregistry verify tiny.pth tiny.msgpack --source-like examples.crepe:torch_tiny --rules examples/crepe.toml",
    "stateregistry verify tiny.pth back.pt",
    "stateregistry verify back.pt",
    "stateregistry verify model.safetensors model.msgpack --rules names.toml --json",
)
#: What may be left out of the comparison. All else that a plan asks leave for is taken: bits show whether it was right.
ALLOW = ("missing", "unexpected")


@click.command(epilog=_EPILOG, short_help="Check a conversion, bit for bit.")
@click.argument("a", metavar="A", shell_complete=completion.files)
@click.argument("b", metavar="[B]", required=False, shell_complete=completion.files)
@click.option("--like", metavar="MODULE:FACTORY", help="The model that B was saved from.")
@click.option("--source-like", metavar="MODULE:FACTORY", help="The model that A was saved from.")
@click.option("--rules", metavar="FILE.toml", help="The rules that B was converted with.")
@click.option(
    "--allow", multiple=True, type=click.Choice(ALLOW), help="Leave out what B or A does not have; may be repeated."
)
@click.option("--all", "everything", is_flag=True, help="Show every difference.")
@click.option("--no-progress", is_flag=True, help="Draw no progress bar.")
@common
@click.pass_obj
def verify(
    terminal: Terminal,
    a: str,
    b: str | None,
    *,
    like: str | None,
    source_like: str | None,
    rules: str | None,
    allow: tuple[str, ...],
    everything: bool,
    no_progress: bool,
) -> int:
    """Compare B, a checkpoint or a model, with what a conversion of A to it gives, and exit with 1 if they differ.

    Names and layouts may be of two frameworks: they are planned as `convert` does it, and nothing is written. Values are
    compared by their bits. What the two models compute is compared by sr.verify(a, b, forward=...) in Python.

    Without B: whether A, a file that stateregistry wrote, is what was written, by its digests.
    """
    terminal.command = "verify"
    if b is None:
        given = {"--like": like, "--source-like": source_like, "--rules": rules, "--allow": allow}
        for flag, value in given.items():
            if value:
                raise click.UsageError(f"{flag} is about a comparison, and there is no B to compare {a} with")
        return _whole(terminal, a)
    from stateregistry.cli import sources
    from stateregistry.cli.progress import Bar
    from stateregistry.conversion.verification.verify import verify as compare
    from stateregistry.report import planning, verification

    for text, model, flag in ((a, source_like, "--source-like"), (b, like, "--like")):
        if model is not None and not sources.is_file(text):
            raise click.UsageError(f"{flag} says what a file was saved from, and {text} is a model itself")
    told: dict[str, Any] = {"a": a, "b": b}
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(sources.opened(a, values=True, like=source_like))
        there = stack.enter_context(sources.opened(b, values=True, like=like))
        bar = stack.enter_context(Bar(terminal, "comparing", wanted=not no_progress))
        try:
            found = compare(here, there, rules=rules, allow=allow, progress=bar)
        except errors.PlanError as error:
            if error.plan is None:
                raise
            plan = error.plan
            blocks = planning.outline(plan, moves=everything, everything=everything, spell=spelled)
            answer, code = (blocks, told | {"equal": False} | planning.document(plan)), NO
        else:
            blocks = verification.outline(found, a, b, everything=everything)
            answer, code = (blocks, told | verification.document(found)), 0 if found.equal else NO
    terminal.answer(*answer)
    return code


def _whole(terminal: Terminal, path: str) -> int:
    """Hold a file against the digests that it carries."""
    from stateregistry.cli import sources
    from stateregistry.display import counted
    from stateregistry.report.blocks import Notes, Verdict
    from stateregistry.report.spelling import printable
    from stateregistry.stores.base import FileRegistry

    if not sources.is_file(path):
        raise click.UsageError(f"{path} is a model, and has no digests: name a file, or a B to compare it with")
    with sources.opened(path, values=True) as file:
        assert isinstance(file, FileRegistry)  # it is a file
        wrong = file.damaged()
        entries = counted(len(file), "entry")
    name = printable(path)
    told = {"a": path, "b": None, "equal": not wrong, "damaged": dict(wrong)}
    if not wrong:
        terminal.answer([Verdict("whole", f"{name}: {entries} and all else as they were written", "good")], told)
        return 0
    lines = tuple(f"{printable(key) or 'what is not values'}: {why}" for key, why in wrong.items())
    verdict = Verdict("damaged", f"{name}: in {counted(len(wrong), 'place')} of {entries}", "bad")
    terminal.answer((verdict, Notes("", lines)), told)
    return NO
