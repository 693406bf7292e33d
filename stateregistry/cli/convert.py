"""`stateregistry convert`: a checkpoint in the names and layout of another framework, planned first, written whole."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import click

from stateregistry import errors
from stateregistry.cli import completion, pages
from stateregistry.cli.failures import NO
from stateregistry.cli.flags import spelled
from stateregistry.cli.options import common, examples
from stateregistry.cli.writing import refuse_one_file, refuse_targets

if TYPE_CHECKING:
    from stateregistry.cli.terminal import Terminal
    from stateregistry.conversion.execution.results import Receipt
    from stateregistry.conversion.planning.plan import Plan
    from stateregistry.conversion.residual import Residual
    from stateregistry.registry import StateRegistry
    from stateregistry.report.blocks import Block

_EPILOG = examples(
    "stateregistry convert tiny.pth tiny.msgpack --like examples.crepe:flax_tiny --rules examples/crepe.toml --allow choice",
    "stateregistry convert tiny.msgpack back.pt --like examples.crepe:torch_tiny --rules examples/crepe.toml",
    "stateregistry convert model.safetensors out.msgpack --to flax-linen --dry-run --allow assumption --allow choice",
    "stateregistry convert tiny.pth tiny.npz --to numpy --dry-run --allow assumption --html plan.html",
)
_NEITHER = (
    "convert it to what? --to torch keeps the names and the layout of a torch checkpoint and changes the file alone; "
    "--to flax-linen, flax-nnx or numpy derives those of another framework; --like MODULE:FACTORY takes those of a model"
)
_BOTH = "give either --like MODULE:FACTORY or --to NAME, not both: what a model has is not derived"
ALLOW = ("missing", "unexpected", "choice", "lossy", "assumption")


@click.command(epilog=_EPILOG, short_help="Convert a checkpoint between frameworks.")
@click.argument("source", metavar="SRC", shell_complete=completion.files)
@click.argument("target", metavar="OUT", type=click.Path())
@click.option("--like", metavar="MODULE:FACTORY", help="Convert to the names and layout of the model this builds.")
@click.option(
    "--to",
    metavar="NAME",
    shell_complete=completion.adapters,
    help="Derive names and layout for an adapter, such as flax-linen.",
)
@click.option("--source-like", metavar="MODULE:FACTORY", help="The model that SRC was saved from.")
@click.option("--rules", metavar="FILE.toml", help="Rules: renames, drops, layouts and what names leave open.")
@click.option(
    "--allow", multiple=True, type=click.Choice(ALLOW), help="Accept what the plan calls by this name; may be repeated."
)
@click.option("--dtype", metavar="NAME", help="Cast floating entries: a dtype, 'target' or 'lossless'.")
@click.option("--residual", metavar="FILE", help="An earlier output that kept what this conversion needs back.")
@click.option("--dry-run", is_flag=True, help="Show the plan and write nothing.")
@click.option(
    "--plan", "plan_file", metavar="FILE.json", type=click.Path(path_type=Path), help="Save the plan as JSON."
)
@click.option("--format", "store", metavar="NAME", help="The store to write with, if the suffix of OUT does not say.")
@click.option(
    "--shard-size",
    metavar="SIZE",
    callback=lambda ctx, param, text: _size_of(text),
    help="Cut OUT into files of at most SIZE (5GB, 500MB) with an index.",
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Threads that convert; two by default.")
@click.option(
    "--resume", is_flag=True, help="Continue what a run that was stopped has left, and leave that if stopped."
)
@click.option("--overwrite", is_flag=True, help="Replace OUT (and the file of --plan) if it exists.")
@click.option("--all", "everything", is_flag=True, help="Show every move and every problem.")
@pages.html_option
@click.option("--no-progress", is_flag=True, help="Draw no progress bar.")
@common
@click.pass_obj
def convert(
    terminal: Terminal,
    *,
    source: str,
    target: str,
    like: str | None,
    to: str | None,
    source_like: str | None,
    rules: str | None,
    allow: tuple[str, ...],
    dtype: str | None,
    residual: str | None,
    plan_file: Path | None,
    store: str | None,
    shard_size: int | None,
    workers: int | None,
    resume: bool,
    dry_run: bool,
    overwrite: bool,
    everything: bool,
    html: Path | None,
    no_progress: bool,
) -> int:
    """Convert SRC, a checkpoint or a model, into the file OUT.

    Every entry of both sides is accounted for before anything is written. What is not exact must be allowed by name.
    """
    terminal.command = "convert"
    if (like is None) == (to is None):
        raise click.UsageError(_BOTH if like is not None else _NEITHER)
    from stateregistry.cli import factories, sources
    from stateregistry.stores.url import path_of

    out = path_of(target)
    read = {"SRC": sources.path_of(source), "--rules": rules, "--residual": residual and sources.path_of(residual)}
    files = {name: path_of(path) for name, path in read.items() if path}
    refuse_one_file(files, out, plan_file)
    pages.refuse(html, files | {"OUT": out, "--plan": plan_file})
    # What a run that is resumed has put in its place already, the engine knows.
    targets = [path for path in (None if dry_run or resume else out, plan_file) if path is not None]
    refuse_targets(targets, overwrite=overwrite, checkpoint=out)
    how = {"shard_bytes": shard_size, "workers": workers, "resume": resume}
    from stateregistry.conversion.api import plan as make_plan
    from stateregistry.report import planning
    from stateregistry.stores.atomic import replacing

    with contextlib.ExitStack() as stack:
        here = stack.enter_context(sources.opened(source, values=not dry_run, like=source_like))
        there = factories.template(like) if like is not None else None
        kept = _residual(residual) if residual is not None else None
        plan = make_plan(here, there, to=to, rules=rules, allow=allow, dtype=dtype, residual=kept)
        if plan_file is not None:
            with replacing(plan_file, overwrite=overwrite) as temporary:
                temporary.write_text(plan.to_json() + "\n", encoding="utf-8")
        told: dict[str, Any] = {"source": source, "out": str(out), "dry_run": dry_run, "written": None}
        drawn = _Drawn(terminal, html, source, out)
        if dry_run or not plan.ok:
            drawn.draw(plan)
            shown = planning.outline(plan, moves=plan.ok or everything, everything=everything, spell=spelled)
            terminal.answer((*shown, *_how_to_rule(plan)), lambda: told | planning.document(plan))
            return 0 if plan.ok else NO
        try:
            done = _execute(terminal, plan, here, like, out, store, how, overwrite=overwrite, bar=not no_progress)
        except errors.PlanError as error:
            if error.plan is None:
                raise
            drawn.draw(error.plan)
            shown = planning.outline(error.plan, moves=everything, everything=everything, spell=spelled)
            terminal.answer(shown, told | planning.document(error.plan))
            return NO
    out = path_of(done.target)  # the index, where there are shards
    folder = out if out.is_dir() else out.parent
    nbytes = sum((folder / name).stat().st_size for name in done.receipt.files)
    told["written"] = {
        "path": str(out),
        "files": sorted(done.receipt.files),
        "bytes": nbytes,
        "residual": len(done.residual),
    }
    told["receipt"] = done.receipt.to_dict()
    wrote = planning.written(plan, out.name, nbytes, len(done.residual))
    drawn.draw(plan, done.receipt, planning.sentence(wrote))
    blocks = [
        *planning.outline(plan, moves=everything, everything=everything, spell=spelled),
        *planning.written(plan, str(out), nbytes, len(done.residual)),
    ]
    terminal.answer(blocks, lambda: told | planning.document(plan))
    if done.receipt.stale:
        terminal.say(f"not used, as the values they belong to have changed since: {', '.join(done.receipt.stale)}")
    return 0


def _how_to_rule(plan: Plan) -> tuple[Block, ...]:
    """Where the rules go that problems ask for."""
    if not any("[[" in problem.hint for problem in plan.problems):
        return ()
    from stateregistry.report.blocks import Notes

    return (
        Notes(
            "", ("rules stand in a file, --rules FILE.toml: [[layer]] on a line of its own, then one setting a line",)
        ),
    )


@final
@dataclass(frozen=True, slots=True)
class _Drawn:
    """The page of this conversion, if one is wanted."""

    terminal: Terminal
    html: Path | None
    source: str
    out: Path

    def draw(self, plan: Plan, receipt: Receipt | None = None, written: str = "") -> None:
        """Write it."""
        if self.html is None:
            return
        from stateregistry.pages import converting

        title = pages.title_of(self.source)
        how = pages.typed(self.terminal)
        text = converting.page(plan, title, self.out.name, receipt=receipt, written=written, how=how, spell=spelled)
        pages.write(self.html, text)
        self.terminal.say(f"the page is {self.html}")


def _execute(
    terminal: Terminal,
    plan: Plan,
    source: StateRegistry,
    like: str | None,
    out: Path,
    store: str | None,
    how: dict[str, Any],
    *,
    overwrite: bool,
    bar: bool,
) -> Any:
    """Run the plan; a target that keeps values of its own is built with them."""
    from stateregistry.cli import factories
    from stateregistry.cli.progress import Bar

    keeps = like is not None and any(move.op == "keep" for move in plan.moves)
    target = factories.live(str(like)) if keeps else None
    with Bar(terminal, f"writing {out.name}", wanted=bar) as progress:
        return plan.execute(source, target, out=out, format=store, overwrite=overwrite, progress=progress, **how)


def _residual(path: str) -> Residual:
    """The residual that an earlier output carries."""
    from stateregistry.conversion.api import carried
    from stateregistry.stores.opening import open as open_file

    with open_file(path) as file:
        found = carried(file)
    if found is None:
        message = f"{path} carries no residual"
        raise errors.FileFormatError(message, hint="name the file that `stateregistry convert` wrote")
    return found


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def _size_of(text: str | None) -> int | None:
    """The bytes that a size such as `5GB` or `500MiB` says."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match[2].upper()) if match is not None else None
    size = int(float(match[1]) * unit) if match is not None and unit is not None else 0
    if size < 1:
        raise click.BadParameter(f"{text!r} is no size; write 5GB, 500MB or a number of bytes")
    return size
