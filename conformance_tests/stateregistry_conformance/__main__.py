"""`python -m stateregistry_conformance NAME|module:object`: one adapter through the suite; and what is done with reports.

    python -m stateregistry_conformance NAME [--profile full] [--report out.json] [--html out.html] [--known conformance.toml]
    python -m stateregistry_conformance verify-report FILE... [--rerun]
    python -m stateregistry_conformance badge FILE [--out badge.json]
    python -m stateregistry_conformance combine FILE... --html out.html

Exit codes: 0 conformant, 1 not, 2 wrong use or a harness that cannot be imported, 3 refused to replace a file, 130 interrupted.
stdout is the answer. Needs no library for command lines.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stateregistry import errors
from stateregistry.cli.terminal import Terminal
from stateregistry_conformance import command
from stateregistry_conformance.check import PROFILES
from stateregistry_conformance.runner import conforms, find_harness, installed, run
from stateregistry_conformance.session import TIME_LIMIT
from stateregistry_conformance.specification import VERSION
from stateregistry_conformance.table import render
from stateregistry_conformance.verdict import HarnessError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    terminal = Terminal()
    try:
        code = _run(given, terminal)
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = open("/dev/null", "w", encoding="utf-8")  # noqa: PTH123, SIM115  # for what is still flushed
        return 141
    except errors.StateError as error:
        return _failed(terminal, error)
    except KeyboardInterrupt:
        terminal.say("error: interrupted; nothing half written was left")
        return INTERRUPTED
    return code


def _run(given: list[str], terminal: Terminal) -> int:
    commands: dict[str, Callable[[list[str], Terminal], int]] = {
        "verify-report": _verify,
        "badge": _badge,
        "combine": _combine,
    }
    if given and given[0] in commands:
        return commands[given[0]](given[1:], terminal)
    return _conform(given, terminal)


def _failed(terminal: Terminal, error: errors.StateError) -> int:
    code = 3 if isinstance(error, errors.TargetExistsError) else 2
    terminal.say(f"error: {error}")
    if terminal.json:
        terminal.command = terminal.command or "conformance"
        terminal.answer(
            (), {"error": {"type": type(error).__name__, "message": error.message, "hint": error.hint}, "exit": code}
        )
    return code


def _parser(what: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m stateregistry_conformance{what}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document, for errors too")
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="use colour")
    parser.add_argument("--debug", action="store_true", help="show what the harness printed")
    return parser


def _taken(parser: argparse.ArgumentParser, given: list[str], terminal: Terminal) -> Any:
    terminal.json = "--json" in given
    options = parser.parse_args(given)
    terminal.json, terminal.color, terminal.debug = options.json, options.color, options.debug
    return options


def _conform(given: list[str], terminal: Terminal) -> int:
    parser = _parser("", f"Run an adapter through the conformance suite of the stateregistry specification {VERSION}.")
    parser.epilog = (
        "commands on reports: verify-report FILE..., badge FILE, combine FILE... --html PAGE (each with --help)"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="an installed harness, or module:object")
    parser.add_argument("--profile", choices=tuple(PROFILES), default="quick", help="how much to run (quick)")
    parser.add_argument("--report", metavar="FILE", type=Path, help="write the report as JSON")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write the report as a page")
    parser.add_argument("--known", metavar="FILE", type=Path, help="a list of known failures, conformance.toml")
    parser.add_argument(
        "--check", action="append", metavar="CHECK", default=[], help="run this check only (may be repeated)"
    )
    parser.add_argument("--time-limit", metavar="SECONDS", type=float, default=TIME_LIMIT, help="for one check (60)")
    parser.add_argument("--table", metavar="FILE", type=Path, help="write requirement x adapter as Markdown")
    options = _taken(parser, given, terminal)
    terminal.command = "conformance"
    if options.table is not None:
        return _table(options.names or list(installed()), options.table)
    if len(options.names) != 1:
        raise errors.StateError(
            "name one harness", hint=f"installed: {', '.join(installed()) or 'none'}; or module:object"
        )
    request = command.Request(
        name=options.names[0],
        profile=options.profile,
        report=options.report,
        html=options.html,
        known=options.known,
        checks=tuple(options.check),
        time_limit=options.time_limit,
    )
    return command.run(request, terminal)


def _verify(given: list[str], terminal: Terminal) -> int:
    parser = _parser(
        " verify-report", "Derive the level of reports from their rows; refuse those that this suite cannot have made."
    )
    parser.add_argument("files", nargs="+", metavar="FILE", type=Path, help="a report")
    parser.add_argument("--rerun", action="store_true", help="run the harness again, and compare every verdict")
    options = _taken(parser, given, terminal)
    return command.verify(options.files, terminal, rerun=options.rerun)


def _badge(given: list[str], terminal: Terminal) -> int:
    parser = _parser(
        " badge", "The badge of a report, as shields.io reads it; only of a report that verify-report accepts."
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="a report")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write it there instead of to stdout")
    options = _taken(parser, given, terminal)
    return command.badge(options.file, options.out, terminal)


def _combine(given: list[str], terminal: Terminal) -> int:
    parser = _parser(" combine", "Several reports on one page, requirement by adapter.")
    parser.add_argument("files", nargs="+", metavar="FILE", type=Path, help="a report")
    parser.add_argument("--html", metavar="FILE", type=Path, required=True, help="the page to write")
    options = _taken(parser, given, terminal)
    return command.combine(options.files, options.html, terminal)


def _table(names: Sequence[str], path: Path) -> int:
    try:
        reports = {name: run(find_harness(name), named=name) for name in names}
    except HarnessError as error:
        raise errors.AdapterError(str(error)) from error
    path.write_text(render(reports), encoding="utf-8")
    print(f"{path}: {', '.join(names)}")
    return 0 if all(conforms(rows) for rows in reports.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
