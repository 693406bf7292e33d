"""`stateregistry rename`: the same checkpoint under other names, without a script."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stateregistry import errors
from stateregistry.cli import completion
from stateregistry.cli.options import as_path, common, examples
from stateregistry.display import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stateregistry.cli.terminal import Terminal
    from stateregistry.registry import StateRegistry

_EPILOG = examples(
    "stateregistry rename ddp.pt plain.pt --name module=",
    "stateregistry rename old.safetensors new.safetensors --name 'encoder.layer.{i}=blocks.{i}' --drop pooler",
    "stateregistry rename old.safetensors new.safetensors --rules names.toml --dry-run",
)


@click.command(epilog=_EPILOG, short_help="Give the entries of a checkpoint other names.")
@click.argument("source", metavar="SRC", shell_complete=completion.files)
@click.argument("out", metavar="OUT", callback=as_path)
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="OLD=NEW",
    shell_complete=completion.keys_of("source"),
    help="Call what lies under OLD NEW; may be repeated.",
)
@click.option(
    "--drop", "drops", multiple=True, metavar="PATH", shell_complete=completion.keys_of("source"),
    help="Leave out what lies under PATH; may be repeated.",
)  # fmt: skip
@click.option("--rules", metavar="FILE.toml", help="Renames and drops from a file.")
@click.option("--dry-run", is_flag=True, help="Show the names and write nothing.")
@click.option("--format", "store", metavar="NAME", help="The store to write with, if the suffix of OUT does not say.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option("--all", "everything", is_flag=True, help="Show every name.")
@click.option("--no-progress", is_flag=True, help="Draw no progress bar.")
@common
@click.pass_obj
def rename(
    terminal: Terminal,
    *,
    source: str,
    out: Path,
    names: tuple[str, ...],
    drops: tuple[str, ...],
    rules: str | None,
    dry_run: bool,
    store: str | None,
    overwrite: bool,
    everything: bool,
    no_progress: bool,
) -> int:
    """Write SRC to OUT with other names: the same arrays, kinds and ties.

    OLD and NEW are paths of whole segments with captures, as in the rules of convert: {i} is one segment, {i+1} a number
    shifted by one, {rest...} several segments; an empty NEW leaves OLD away.
    """
    terminal.command = "rename"
    wrong = next((text for text in names if "=" not in text), None)
    if wrong is not None:
        raise click.UsageError(f"--name {wrong!r}: write OLD=NEW")
    if not (names or drops or rules):
        raise click.UsageError("nothing to rename: give --name OLD=NEW, --drop PATH or --rules FILE.toml")
    from stateregistry.cli import writing
    from stateregistry.cli.sources import opened
    from stateregistry.conversion.rules.renaming import renamed
    from stateregistry.conversion.rules.rules import Rules
    from stateregistry.report.blocks import Column, Table
    from stateregistry.report.spelling import printable

    if not dry_run:
        writing.check([source], out, overwrite=overwrite)
    given = Rules.of([(text.partition("=")[0], text.partition("=")[2]) for text in names])
    file = Rules.of(rules)
    made = file.joined(given, drops=drops)
    with opened(source, values=not dry_run) as state:
        try:
            result = renamed(state, made)
        except errors.RuleError as error:
            raise _meant(error, [text.partition("=")[0] for text in names] + list(drops), state) from error
        moved = list(result.moved.items())
        nbytes = 0
        if not dry_run:
            nbytes = writing.write(terminal, result.registry, out, store, overwrite=overwrite, bar=not no_progress)
        dropped = len(state) + len(state.aliases) - len(result.registry) - len(result.registry.aliases)
        there = counted(len(state) + len(state.aliases), "name")
        text = f"{len(moved)} of {there} changed, {dropped} left out"
        shown = moved if everything else moved[:20]
        rows = tuple((printable(old), printable(new)) for old, new in shown)
        note = f"{len(moved) - len(shown)} more: --all" if len(moved) > len(shown) else ""
        blocks = writing.blocks("would write" if dry_run else "written", f"{out}: {text}", ())
        if rows:
            blocks.append(Table("", (Column("old name", wraps=True), Column("new name", wraps=True)), rows, note))
        document: dict[str, Any] = {"renamed": dict(moved), "dropped": dropped, "dry_run": dry_run, "written": None}
        terminal.answer(blocks, document | ({} if dry_run else writing.told(result.registry, out, nbytes)))
    return 0


def _meant(error: errors.RuleError, paths: Sequence[str], state: StateRegistry) -> errors.RuleError:
    """The error, with the name that was probably meant by a path that matches nothing."""
    from stateregistry.report.near import near

    for path in paths:
        bare = path.replace(".", "/").strip("/")
        known = any(key == bare or key.startswith(f"{bare}/") for key in state)
        close = "" if known or "{" in bare else near(bare, state)
        if close:
            return errors.RuleError(error.message, keys=error.keys, hint=f"did you mean {close!r}?")
    return error
