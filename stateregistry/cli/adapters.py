"""`stateregistry adapters`: what is installed, where it comes from, and how to install what is not.

Asks the metadata of installed distributions; imports no framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from stateregistry.cli.options import common, examples
from stateregistry.display import counted

if TYPE_CHECKING:
    from stateregistry.cli.terminal import Terminal
    from stateregistry.plugins import Found

_EPILOG = examples("stateregistry adapters", "stateregistry adapters --json")


@click.command(epilog=_EPILOG, short_help="List what is installed.")
@common
@click.pass_obj
def adapters(terminal: Terminal) -> int:
    """List adapters and stores, with the frameworks that are installed.

    An adapter makes a registry from a live object of one framework, a store from a file. Both are found by entry point.
    """
    from stateregistry import plugins
    from stateregistry.report.blocks import Block, Column, Notes, Table, Verdict

    terminal.command = "adapters"
    known = [_adapter(found) for found in plugins.discover(plugins.ADAPTERS)]
    formats = [_store(found) for found in plugins.discover(plugins.STORES)]
    broken = [row for row in (*known, *formats) if row["error"]]
    ready = sum(1 for row in known if row["ready"])
    blocks: list[Block] = [
        Verdict(
            counted(len(known), "adapter"),
            f"{ready} ready to use, and {counted(len(formats), 'store')}",
        ),
        Table(
            "",
            (Column("adapter"), Column("framework"), Column("converts"), Column("from"), Column("to install")),
            tuple((r["name"], _framework(r), _yes(r["dialect"]), r["distribution"], _install(r)) for r in known),
        ),
        Table(
            "",
            (Column("store"), Column("files"), Column("from")),
            tuple((r["name"], " ".join(r["suffixes"]), r["distribution"]) for r in formats),
        ),
    ]
    if broken:
        lines = tuple(f"{row['name']} ({row['value']}) does not load: {row['error']}" for row in broken)
        blocks.append(Notes("look at", lines))
    if not known:
        lines = ("entry points exist only for an installed distribution: pip install stateregistry",)
        blocks.append(Notes("look at", lines))
    terminal.answer(blocks, {"adapters": known, "stores": formats})
    return 0


def _adapter(found: Found) -> dict[str, Any]:
    row = _row(found) | {"framework": "", "version": None, "ready": False, "install": "", "dialect": False}
    if found.error is None:
        adapter = found.plugin
        version = _version(adapter.framework) if adapter.framework else None
        row |= {
            "framework": adapter.framework,
            "version": version,
            "ready": version is not None or not adapter.framework,
            "install": adapter.install,
            "dialect": adapter.dialect is not None,
        }
    return row


def _store(found: Found) -> dict[str, Any]:
    row = _row(found) | {"suffixes": [], "install": "", "dialect": ""}
    if found.error is None:
        store = found.plugin
        row |= {"suffixes": list(store.suffixes), "install": store.install, "dialect": store.dialect}
    return row


def _row(found: Found) -> dict[str, Any]:
    error = None if found.error is None else f"{type(found.error).__name__}: {found.error}"
    return {"name": found.name, "distribution": found.distribution, "value": found.value, "error": error}


def _version(distribution: str) -> str | None:
    """The installed version of a distribution, from its metadata; `None` where it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _framework(row: dict[str, Any]) -> str:
    if row["error"]:
        return "does not load"
    if not row["framework"]:
        return "none needed"
    return f"{row['framework']} {row['version'] or 'not installed'}"


def _install(row: dict[str, Any]) -> str:
    return "" if row["ready"] else str(row["install"])


def _yes(value: object) -> str:
    return "yes" if value else "no"
