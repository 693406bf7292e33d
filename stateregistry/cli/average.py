"""`stateregistry average`: one checkpoint of several, block by block, however large they are."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from stateregistry.cli import completion
from stateregistry.cli.options import as_path, common, examples

if TYPE_CHECKING:
    from stateregistry.cli.terminal import Terminal
    from stateregistry.tools.averaging import Buffers

_EPILOG = examples(
    "stateregistry average run1.safetensors run2.safetensors run3.safetensors -o soup.safetensors",
    "stateregistry average base.safetensors tuned.safetensors --weight 0.3 --weight 0.7 -o mix.safetensors",
    "stateregistry average step1000.pt step2000.pt step3000.pt --ema 0.9 --buffers last -o ema.safetensors",
)


@click.command(epilog=_EPILOG, short_help="Average checkpoints into one.")
@click.argument("sources", metavar="SRC...", nargs=-1, required=True, shell_complete=completion.files)
@click.option("-o", "--out", metavar="OUT", required=True, callback=as_path, help="The file to write.")
@click.option(
    "--weight", "weights", multiple=True, type=float, help="Weight of a source, once for each, in their order."
)
@click.option("--ema", type=float, metavar="DECAY", help="Weights of a moving average, the last source the newest.")
@click.option(
    "--buffers", type=click.Choice(("average", "first", "last")), default="average", show_default=True,
    help="Average floating buffers too, or take those of one source.",
)  # fmt: skip
@click.option("--format", "store", metavar="NAME", help="The store to write with, if the suffix of OUT does not say.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
@click.option("--no-progress", is_flag=True, help="Draw no progress bar.")
@common
@click.pass_obj
def average(
    terminal: Terminal,
    *,
    sources: tuple[str, ...],
    out: Path,
    weights: tuple[float, ...],
    ema: float | None,
    buffers: str,
    store: str | None,
    overwrite: bool,
    no_progress: bool,
) -> int:
    """Write the weighted mean of the SRCs, checkpoints of one architecture, to a file.

    Sums are in double precision and rounded once. Integers, such as step counters, are those of the last source: they are
    never averaged.
    """
    terminal.command = "average"
    if weights and ema is not None:
        raise click.UsageError("give --weight or --ema, not both")
    if weights and len(weights) != len(sources):
        raise click.UsageError(f"{len(weights)} --weight for {len(sources)} sources: give one for each, in their order")
    if len(sources) < 2:
        raise click.UsageError("an average takes two sources or more")
    from stateregistry.cli import writing
    from stateregistry.cli.sources import opened
    from stateregistry.tools.averaging import average as averaged
    from stateregistry.tools.moving import weights_of

    writing.check(sources, out, overwrite=overwrite)
    shares = weights_of(ema, len(sources)) if ema is not None else list(weights) or [1.0] * len(sources)
    with contextlib.ExitStack() as stack:
        states = [stack.enter_context(opened(text, values=True)) for text in sources]
        mixed = averaged(states, shares, buffers=cast("Buffers", buffers))
        nbytes = writing.write(terminal, mixed, out, store, overwrite=overwrite, bar=not no_progress)
        total = sum(shares)
        rows = [{"source": text, "share": share / total} for text, share in zip(sources, shares, strict=True)]
        lines = [f"{row['share']:.4g} of {row['source']}" for row in rows]
        document: dict[str, Any] = {"sources": rows, "buffers": buffers, **writing.told(mixed, out, nbytes)}
        text = f"{out}: {len(mixed)} entries, the mean of {len(sources)} states"
        terminal.answer(writing.blocks("written", text, lines), document)
    return 0
