"""`stateregistry diff`: how two states differ, bit by bit."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from stateregistry.cli.failures import NO
from stateregistry.cli.options import common, examples

if TYPE_CHECKING:
    from stateregistry.cli.terminal import Terminal

_EPILOG = examples(
    "stateregistry diff before.safetensors after.safetensors",
    "stateregistry diff model.pt back.pt --json",
    "stateregistry diff models.crepe:build checkpoint.pt --all",
)


@click.command(epilog=_EPILOG, short_help="Show how two states differ, bit by bit.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--all", "everything", is_flag=True, help="Show every difference.")
@common
@click.pass_obj
def diff(terminal: Terminal, a: str, b: str, *, everything: bool) -> int:
    """Compare A and B, each a checkpoint or a model, and exit with 1 if they differ.

    Equal means the same keys, metadata and bits. Kinds are counted apart; what could not be compared is named.
    """
    from stateregistry.cli.sources import opened
    from stateregistry.report import differences
    from stateregistry.tools.compare import diff as compare

    terminal.command = "diff"
    with opened(a, values=True) as first, opened(b, values=True) as second:
        found = replace(compare(first, second), a=a, b=b)
        group_of = differences.groups(first, second)
        dialects = first.dialect, second.dialect
    kinds = {group: asdict(counts) for group, counts in differences.tally(found, group_of).items()}
    terminal.answer(differences.outline(found, group_of, everything=everything), found.to_json() | {"kinds": kinds})
    if found.only_a and found.only_b and dialects[0] != dialects[1]:
        here, there = (name or "unknown" for name in dialects)
        terminal.say(f"a is in the names of {here} and b in those of {there}: convert one of them first")
    return 0 if found.equal else NO
