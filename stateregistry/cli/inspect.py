"""`stateregistry inspect`: what is in a checkpoint or a model, from metadata alone."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Any

import click

from stateregistry.cli.failures import NO
from stateregistry.cli.options import common, examples

if TYPE_CHECKING:
    from stateregistry.cli.terminal import Terminal
    from stateregistry.registry import StateRegistry
    from stateregistry.report.blocks import Block
    from stateregistry.report.summary import Summary

_EPILOG = examples(
    "stateregistry inspect model.safetensors",
    "stateregistry inspect checkpoint.pt --kind buffer --match 'encoder/*' --all",
    "stateregistry inspect models.crepe:build --depth 1",
)
KINDS = ("parameter", "trainable", "frozen", "buffer")


@click.command(epilog=_EPILOG, short_help="Show what is in a checkpoint or a model.")
@click.argument("source", metavar="FILE|MODULE:FACTORY")
@click.option("--match", metavar="GLOB", help="Only entries whose key matches, such as 'encoder/*/kernel'.")
@click.option("--kind", type=click.Choice(KINDS), help="Only entries of this kind.")
@click.option("--depth", type=click.IntRange(min=1), help="How many levels of the tree to show.")
@click.option("--all", "everything", is_flag=True, help="Every entry on a line of its own, nothing folded.")
@common
@click.pass_obj
def inspect(
    terminal: Terminal, source: str, match: str | None, kind: str | None, depth: int | None, *, everything: bool
) -> int:
    """Show what is in a checkpoint or a model: parameters, buffers, and what is odd.

    Reads metadata only and executes nothing from a file. A model is named by a function that builds it.
    """
    from stateregistry.cli.sources import opened
    from stateregistry.report import summary

    terminal.command = "inspect"
    with opened(source, values=False) as reg:
        keep = _chosen(reg, match, kind)
        facts = summary.summarize(reg, keep)
        blocks: list[Block | None] = [summary.verdict(source, _what(reg), facts), summary.counts(facts)]
        blocks.append(summary.biggest(facts))
        blocks += summary.notes(facts)
        if everything:
            order = [key for key in reg.native_order if key in facts.entries]
            blocks.append(summary.listing(facts, order))
        else:
            blocks.append(summary.tree(facts, depth=depth))
        terminal.answer([block for block in blocks if block is not None], _document(source, reg, facts))
    if keep is not None and not keep:
        terminal.say(f"no entry matches{_spelled(match, reg)}")
        return NO
    return 0


def _chosen(reg: StateRegistry, match: str | None, kind: str | None) -> list[str] | None:
    """The keys asked for, `None` for all."""
    if match is None and kind is None:
        return None
    from stateregistry.report.spelling import standing

    return [
        key
        for key, entry in reg.items()
        if (match is None or fnmatch.fnmatchcase(key, match))
        and (kind is None or kind in {standing(entry), entry.kind.value})
    ]


def _spelled(match: str | None, reg: StateRegistry) -> str:
    if match is None:
        return ""
    slashed = match.replace(".", "/")
    if slashed != match and any(fnmatch.fnmatchcase(key, slashed) for key in reg):
        return f" {match!r}; keys are spelled with '/': {slashed!r}"
    return f" {match!r}"


def _what(reg: StateRegistry) -> str:
    """What kind of thing it is."""
    name = reg.adapter or type(reg).__name__
    if not hasattr(reg, "path"):
        return f"{name} model"
    dialect = f" in the names of {reg.dialect}" if reg.dialect and reg.dialect != name else ""
    return f"{name} file{dialect}"


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
