"""`stateregistry diff`: how two states differ: bit by bit, with what is the same place under another name, layout or dtype."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stateregistry.cli import completion, pages
from stateregistry.cli.failures import NO
from stateregistry.cli.options import common, examples

if TYPE_CHECKING:
    from stateregistry.cli.terminal import Terminal
    from stateregistry.tools.select import Where

_EPILOG = examples(
    "stateregistry diff before.safetensors after.safetensors",
    "stateregistry diff before.safetensors after.safetensors --only 'encoder/*' --html diff.html",
    "stateregistry diff tiny.pth back.pt --json",
    "stateregistry diff tiny.pth examples.crepe:torch_tiny --only trainable --rtol 1e-3",
)
KINDS = ("parameter", "trainable", "frozen", "buffer")


@click.command(epilog=_EPILOG, short_help="Show how two states differ.")
@click.argument("a", metavar="A", shell_complete=completion.files)
@click.argument("b", metavar="B", shell_complete=completion.files)
@click.option(
    "--only", metavar="GLOB|KIND", shell_complete=completion.keys_of("a", "b"),
    help="Compare only keys that match, such as 'encoder/*', or one kind: parameter, trainable, frozen, buffer.",
)  # fmt: skip
@click.option(
    "--rtol", type=click.FloatRange(min=0), default=0.0, help="Take for close what differs by this share of b."
)
@click.option("--atol", type=click.FloatRange(min=0), default=0.0, help="Take for close what differs by this.")
@click.option("--by-name", is_flag=True, help="Compare by names alone: recognise no renames and no transposes.")
@click.option("--all", "everything", is_flag=True, help="Show every difference.")
@pages.html_option
@click.option("--no-progress", is_flag=True, help="Draw no progress bar.")
@common
@click.pass_obj
def diff(
    terminal: Terminal,
    a: str,
    b: str,
    *,
    only: str | None,
    rtol: float,
    atol: float,
    by_name: bool,
    everything: bool,
    html: Path | None,
    no_progress: bool,
) -> int:
    """Compare A and B, each a checkpoint or a model, and exit with 1 if they differ.

    Equal means the same keys, metadata and bits; with --rtol or --atol, values that close. Kinds are counted apart.
    Renames, prefixes, transposes and casts are recognised and said to be that; what could not be compared is named.
    """
    from stateregistry.cli.progress import Bar
    from stateregistry.cli.sources import opened, path_of
    from stateregistry.report import differences
    from stateregistry.report.blocks import Verdict
    from stateregistry.report.spelling import printable
    from stateregistry.tools.compare import diff as compare
    from stateregistry.tools.recognition import recognise

    terminal.command = "diff"
    if html is not None:
        pages.refuse(html, {"A": path_of(a), "B": path_of(b)})
    with opened(a, values=True) as first, opened(b, values=True) as second:
        with Bar(terminal, "comparing", wanted=not no_progress) as bar:
            found = replace(compare(first, second, rtol=rtol, atol=atol, where=_where(only), progress=bar), a=a, b=b)
        with Bar(terminal, "recognising", wanted=not no_progress) as bar:
            pairs = () if by_name else recognise(first, second, found, progress=bar)
        dialects = first.dialect, second.dialect
        close = _near(only, (*first, *second)) if only and not found.kinds else ""
        if html is not None:
            from stateregistry.pages import differing

            shown = replace(found, a=pages.title_of(a), b=pages.title_of(b))
            pages.write(html, differing.page(first, second, shown, pairs, how=pages.typed(terminal)))
    kinds = {group: asdict(counts) for group, counts in differences.tally(found, pairs).items()}
    document: dict[str, Any] = found.to_json() | {"kinds": kinds, "recognised": [pair.to_json() for pair in pairs]}
    chosen = bool(found.kinds or not only)
    document["equal"] = found.equal and chosen
    blocks = differences.outline(found, pairs, everything=everything)
    if not found.kinds and not only:
        blocks = (Verdict("equal", f"{printable(a)} and {printable(b)}: both are empty", "good"), *blocks[1:])
    terminal.answer(blocks, document)
    if html is not None:
        terminal.say(f"the page is {html}")
    if not chosen:
        terminal.say(f"nothing was compared: no entry of either side matches {only!r}{close}")
    left = len(found.only_a) and len(found.only_b) and len(pairs) < max(len(found.only_a), len(found.only_b))
    if left and dialects[0] != dialects[1]:
        here, there = (name or "unknown" for name in dialects)
        terminal.say(f"a is in the names of {here} and b in those of {there}: convert one of them first, or ask")
        terminal.say(f"  stateregistry verify {a} {b}")
    return 0 if found.equal and chosen else NO


def _where(only: str | None) -> Where:
    if only not in KINDS:
        return only
    from stateregistry.report.spelling import standing

    return lambda _, entry: only in {standing(entry), entry.kind.value}


def _near(only: str, keys: tuple[str, ...]) -> str:
    """What was probably meant by a pattern that matches nothing."""
    from stateregistry.report.near import near

    close = near(only, KINDS) or near(only.replace(".", "/").strip("*/"), keys)
    return f"; did you mean {close!r}?" if close else ""
