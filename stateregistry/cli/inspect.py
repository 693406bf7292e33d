"""`stateregistry inspect`: what is in a checkpoint or a model, from metadata alone unless values are asked for."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stateregistry.cli import completion, pages
from stateregistry.cli.failures import NO
from stateregistry.cli.options import common, examples

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stateregistry.cli.terminal import Terminal
    from stateregistry.registry import StateRegistry
    from stateregistry.report.blocks import Block
    from stateregistry.report.summary import Summary
    from stateregistry.tools.profiles import Profile
    from stateregistry.tools.statistics import Statistics

_EPILOG = examples(
    "stateregistry inspect model.safetensors",
    "stateregistry inspect model.safetensors --html model.html",
    "stateregistry inspect checkpoint.pt --kind buffer --match '*running*' --all",
    "stateregistry inspect tiny.pth --layers --stats",
    "stateregistry inspect examples.crepe:torch_tiny --depth 1",
)
KINDS = ("parameter", "trainable", "frozen", "buffer")


@click.command(epilog=_EPILOG, short_help="Show what is in a checkpoint or a model.")
@click.argument("source", metavar="FILE|MODULE:FACTORY", shell_complete=completion.files)
@click.option(
    "--match", metavar="GLOB", shell_complete=completion.keys_of("source"),
    help="Only entries whose key matches, such as 'encoder/*/kernel'.",
)  # fmt: skip
@click.option("--kind", type=click.Choice(KINDS), help="Only entries of this kind.")
@click.option("--dtype", metavar="NAME", help="Only entries of this dtype, such as float16.")
@click.option("--depth", type=click.IntRange(min=1), help="How many levels of the tree to show.")
@click.option("--all", "everything", is_flag=True, help="Every entry on a line of its own, nothing folded.")
@click.option("--layers", is_flag=True, help="Show the layers: their kinds, and what role each entry has.")
@click.option(
    "--stats/--no-stats", default=None, help="Read the values and show their statistics; a page does by itself."
)
@pages.html_option
@click.option("--no-progress", is_flag=True, help="Draw no progress bar.")
@common
@click.pass_obj
def inspect(
    terminal: Terminal,
    source: str,
    *,
    match: str | None,
    kind: str | None,
    dtype: str | None,
    depth: int | None,
    everything: bool,
    layers: bool,
    stats: bool | None,
    html: Path | None,
    no_progress: bool,
) -> int:
    """Show what is in a checkpoint or a model: parameters, buffers, and what is odd.

    Reads metadata only, unless --stats or --html is given, and executes nothing from a file. A model is named by a
    function that builds it.
    """
    from stateregistry.cli.sources import opened, path_of
    from stateregistry.report import summary
    from stateregistry.report.blocks import Table

    terminal.command = "inspect"
    reads = bool(stats) or (stats is None and html is not None)
    if html is not None:
        pages.refuse(html, {"FILE": path_of(source)})
    with opened(source, values=reads) as reg:
        keep = _chosen(reg, match, kind, dtype)
        facts = summary.summarize(reg, keep)
        profiles: dict[str, Profile] | None = None
        found: dict[str, Statistics] | None = None
        if reads:
            profiles, found = {}, {}
            pictures = profiles if html is not None else None
            _read(terminal, reg, facts, found, pictures, bar=not no_progress)
        verdict = summary.verdict(source, _what(reg), facts)
        blocks: list[Block | None] = [verdict, summary.counts(facts), summary.biggest(facts)]
        blocks += summary.notes(facts, found)
        order = [key for key in reg.native_order if key in facts.entries]
        blocks.append(summary.listing(facts, order) if everything else summary.tree(facts, depth=depth))
        blocks += _more(reg, facts, found, order, layers=layers, stats=bool(stats), everything=everything)
        document = _document(source, reg, facts)
        if layers:
            document["layers"] = summary.layer_rows(reg.layers)
        if found is not None:
            from stateregistry.report import values

            document["stats"] = {key: values.document(one) for key, one in found.items()}
        if html is not None:
            from stateregistry.pages import inspecting

            kinds = [layer.kind for layer in reg.layers] if keep is None else []
            title = pages.title_of(source)
            page = inspecting.page(
                title,
                verdict.text,
                facts,
                profiles=profiles,
                statistics=found,
                how=pages.typed(terminal),
                layers=kinds,
            )
            pages.write(html, page)
        shown = [block for block in blocks if block is not None and not (isinstance(block, Table) and not block.rows)]
        terminal.answer(shown, document)
    if html is not None:
        terminal.say(f"the page is {html}")
    if keep is not None and not keep:
        terminal.say(f"no entry matches{_spelled(match, reg)}{_other_dtypes(dtype, reg)}")
        return NO
    return 0


def _more(
    reg: StateRegistry,
    facts: Summary,
    found: Mapping[str, Statistics] | None,
    order: list[str],
    *,
    layers: bool,
    stats: bool,
    everything: bool,
) -> list[Block]:
    """What was asked for beside the usual: layers, statistics."""
    from stateregistry.report import summary, values

    blocks: list[Block] = []
    if layers:
        blocks += summary.layers(reg.layers, everything=everything)
    if stats and found is not None:
        limit = None if everything else values.ROWS
        blocks.append(values.table({key: found[key] for key in order if key in found}, limit=limit))
    return blocks


def _read(
    terminal: Terminal,
    reg: StateRegistry,
    facts: Summary,
    found: dict[str, Statistics],
    pictures: dict[str, Profile] | None,
    *,
    bar: bool,
) -> None:
    """Look at the values of every entry that has some, one after the other; in full at those that are drawn."""
    from stateregistry.cli.progress import Bar
    from stateregistry.tools.profiles import profile
    from stateregistry.tools.statistics import describe

    wanted: frozenset[str] = frozenset()
    if pictures is not None:
        from stateregistry.pages.inspecting import largest

        wanted = frozenset(largest(facts))
    chosen = [key for key, entry in facts.entries.items() if entry.concrete]
    total, done = sum(facts.entries[key].nbytes for key in chosen), 0
    with Bar(terminal, "reading values", wanted=bar) as progress:
        for key in chosen:
            if pictures is None or key not in wanted:
                found[key] = describe(reg.view(key))
            else:
                pictures[key] = profile(reg.view(key))
                found[key] = pictures[key].statistics
            done += facts.entries[key].nbytes
            progress(done, total)


def _chosen(reg: StateRegistry, match: str | None, kind: str | None, dtype: str | None) -> list[str] | None:
    """The keys asked for, `None` for all."""
    if match is None and kind is None and dtype is None:
        return None
    from stateregistry.report.spelling import standing

    return [
        key
        for key, entry in reg.items()
        if (match is None or fnmatch.fnmatchcase(key, match))
        and (kind is None or kind in {standing(entry), entry.kind.value})
        and dtype in {None, entry.dtype}
    ]


def _spelled(match: str | None, reg: StateRegistry) -> str:
    if match is None:
        return ""
    slashed = match.replace(".", "/")
    if slashed != match and any(fnmatch.fnmatchcase(key, slashed) for key in reg):
        return f" {match!r}; keys are spelled with '/': {slashed!r}"
    from stateregistry.report.near import near

    close = near(slashed.strip("*/"), reg)
    return f" {match!r}; did you mean {close!r}?" if close else f" {match!r}"


def _other_dtypes(dtype: str | None, reg: StateRegistry) -> str:
    """The dtypes that there are, where another was asked for."""
    there = sorted({entry.dtype for entry in reg.values()})
    return "" if dtype is None or dtype in there else f": none is {dtype!r}, there is {', '.join(there) or 'nothing'}"


def _what(reg: StateRegistry) -> str:
    """What kind of thing it is."""
    from stateregistry.stores.base import FileRegistry  # lazy: loaded for files, needed for nothing else

    name = reg.adapter or type(reg).__name__
    if not isinstance(reg, FileRegistry):
        return f"{name} model"
    dialect = f" in the names of {reg.dialect}" if reg.dialect and reg.dialect != name else ""
    return f"{name} {'directory' if reg.path.is_dir() else 'file'}{dialect}"


def _document(source: str, reg: StateRegistry, facts: Summary) -> dict[str, Any]:
    order = {key: index for index, key in enumerate(reg.native_order)}
    entries = [
        {
            "key": key, "kind": entry.kind.value, "shape": list(entry.shape), "dtype": entry.dtype,
            "trainable": entry.trainable, "persistent": entry.persistent, "concrete": entry.concrete,
            "rng": entry.rng, "tag": entry.tag, "inferred": entry.inferred, "bytes": entry.nbytes,
            "native_index": order[key],
        }
        for key, entry in facts.entries.items()
    ]  # fmt: skip
    return {
        "source": source,
        "adapter": reg.adapter,
        "dialect": reg.dialect,
        "counts": {
            "trainable": facts.trainable.to_json(), "frozen": facts.frozen.to_json(),
            "buffers": facts.buffers.to_json(), "not_saved": facts.unsaved.to_json(),
            "aliases": len(facts.aliases), "listed": facts.listed,
        },
        "entries": entries,
        "aliases": dict(facts.aliases),
        "opaque": dict(facts.opaque),
        "odd": list(facts.odd),
    }  # fmt: skip
