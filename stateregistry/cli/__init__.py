"""The command line: `stateregistry inspect | convert | verify | diff | rename | average | adapters | conform`.

stdout is the answer, stderr everything else. Exit codes: 0 done or equal; 1 the answer is no; 2 wrong use or unreadable
input; 3 refused for safety; 130 interrupted; 141 the reader of stdout went away. No traceback without `--debug`.
This module imports nothing, so that `--version` is fast and works without the `cli` extra.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from stateregistry._version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; never raises for what a user can get wrong."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        sys.stdout.write(f"stateregistry {__version__}\n")
        return 0
    try:
        from stateregistry.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        sys.stderr.write(
            f"error: the command line needs the package {error.name!r}\n"
            "  to do: pip install 'stateregistry[cli]'\n"
        )  # fmt: skip
        return 2
    return run(given)
