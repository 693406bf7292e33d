"""`stateregistry conform`: an adapter through the conformance suite.

The core does not know the suite: it is found by entry point, in the group `stateregistry.commands`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stateregistry.cli.options import common, examples

if TYPE_CHECKING:
    from stateregistry.cli.terminal import Terminal

GROUP = "stateregistry.commands"
_FILE = click.Path(path_type=Path, dir_okay=False)
_EPILOG = examples(
    "stateregistry conform torch",
    "stateregistry conform torch --profile full --report torch.json --html torch.html",
    "stateregistry conform mypackage.harness:harness --known conformance.toml",
    "python -m stateregistry_conformance verify-report torch.json",
)


@click.command(epilog=_EPILOG, short_help="Run an adapter through the conformance suite.")
@click.argument("name", metavar="NAME")
@click.option(
    "--profile", type=click.Choice(("quick", "full")), default="quick", help="How much to run; quick by default."
)
@click.option("--report", type=_FILE, metavar="FILE", help="Write the report as JSON.")
@click.option("--html", type=_FILE, metavar="FILE", help="Write the report as a page that needs nothing but itself.")
@click.option("--known", type=_FILE, metavar="FILE", help="A list of known failures, conformance.toml.")
@click.option("--check", "checks", multiple=True, metavar="CHECK", help="Run this check only; may be repeated.")
@click.option("--time-limit", type=float, default=60.0, metavar="SECONDS", help="For one check; 60 by default.")
@common
@click.pass_obj
def conform(terminal: Terminal, /, **options: Any) -> int:
    """Run the adapter NAME, an installed harness or module:object, through the suite; exit with 1 if it does not conform.

    The harness runs in a process of its own, which may hang or crash. The level that a report of the full profile is
    worth, and its badge, come from `python -m stateregistry_conformance verify-report` and `badge`.
    """
    terminal.command = "conform"
    code: int = _suite()(terminal, **options)
    return code


def _suite() -> Any:
    """What the suite offers under the name of this command.

    Raises:
        AdapterError: no suite is installed.
    """
    from importlib import metadata

    from stateregistry import errors

    for point in metadata.entry_points(group=GROUP, name="conform"):
        return point.load()
    raise errors.AdapterError("the conformance suite is not installed", hint="pip install 'stateregistry[conformance]'")
