"""Runs every first-party adapter through the full conformance suite and writes `docs/conformance/`. Run by `make conform`.

For each adapter: its report, and the badge that `stateregistry_conformance badge` derives from it; for all of them one page,
and `README.md`, which is made from the reports alone. Then the kill matrix, and the table beside the specification. Exits
with 1 where an adapter has no level or a mutant survives. `--only` makes one part: with `pages` nothing is run, and what
follows from the reports that are there is made again; `unseen` is the kill matrix with a new estimate at its end, and is no
part of the whole. Imports the suite, no framework.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stateregistry_conformance import page
from stateregistry_conformance.badge import badge
from stateregistry_conformance.levels import NONE, level, problems
from stateregistry_conformance.report import Report, parse
from stateregistry_conformance.runner import GROUP
from stateregistry_conformance.verdict import Status

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "conformance"
MATRIX = ROOT / "tests" / "conformance" / "kill_matrix.py"
TABLE = "docs/spec/conformance.md"
OURS = "stateregistry"
PARTS = ("reports", "pages", "matrix", "table")
#: What is made when it is asked for, and not else.
FURTHER = ("unseen",)

HEAD = """\
# Conformance reports

Every first-party adapter, run through the full profile of the conformance suite. Written by `make conform`, from the reports
beside this page; tests hold them to the suite of this checkout. [What each requirement says](../spec/0.1.md). The
[matrix](index.html) is one file: save it and open it in a browser. How the suite itself is tested: the
[kill matrix](kill-matrix.md).

| adapter | level | requirements | framework | capabilities |
| --- | --- | --- | --- | --- |
"""


def names() -> list[str]:
    """The harnesses of our own distribution, as they are installed."""
    points = importlib.metadata.entry_points(group=GROUP)
    return sorted(point.name for point in points if point.dist is not None and point.dist.name == OURS)


def framework(report: Report) -> str:
    """The framework that an adapter says it is for, with the version that was loaded."""
    from stateregistry import plugins

    distribution = plugins.adapter(report.header.adapter).framework
    return (
        f"{distribution} {report.header.distributions.get(distribution, '')}".strip() if distribution else "none needed"
    )


def readme(reports: dict[str, Report]) -> str:
    """The page that lists the reports."""
    rows = []
    for name, report in reports.items():
        statuses = list(report.statuses.values())
        told = ", ".join(f"{statuses.count(status)} {status.value}" for status in Status if status in statuses)
        claimed = ", ".join(f"`{capability}`" for capability in report.header.capabilities)
        rows.append(f"| [{name}]({name}.json) | {level(report)} | {told} | {framework(report)} | {claimed} |\n")
    first = next(iter(reports.values())).header
    profile = first.profile
    budget = f"{profile.examples} examples of at most {profile.steps} steps, seed {profile.seed}"
    return f"{HEAD}{''.join(rows)}\nThe random machine ran {budget}. {first.python}, {first.platform}.\n"


def pages(reports: dict[str, Report]) -> dict[str, str]:
    """Every file that is made from the reports, by name."""
    made = page.columns([(name, report, level(report)) for name, report in reports.items()])
    badges = {f"{name}.badge.json": json.dumps(badge(report), indent=2) + "\n" for name, report in reports.items()}
    return {"README.md": readme(reports), "index.html": page.render(made), **badges}


def run(name: str) -> None:
    """Run one adapter; an adapter that does not conform still has a report."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "stateregistry_conformance", name, "--profile", "full"]
    done = subprocess.run(
        [*command, "--report", str(FOLDER / f"{name}.json")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    print(f"{time.monotonic() - begun:6.1f} s  {(done.stdout or done.stderr).splitlines()[0]}", flush=True)
    if done.returncode not in {0, 1}:
        sys.exit(f"{done.stdout}\n{done.stderr}")


def read() -> dict[str, Report]:
    """The reports that are there, by name."""
    return {name: parse((FOLDER / f"{name}.json").read_bytes()) for name in names()}


def write_pages() -> bool:
    """Write what follows from the reports; whether every adapter has a level."""
    reports = read()
    stale = [f"{name}: {why}" for name, report in reports.items() for why in problems(report)]
    if stale:
        sys.exit("\n".join(["there is no level to write down: run `make conform`", *stale]))
    for name, text in pages(reports).items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    for name, report in reports.items():
        print(f"{name}: {level(report)}", *level(report).reasons, sep="\n  ")
    return all(level(report).name != NONE for report in reports.values())


def called(*command: str) -> bool:
    """Run a script of ours that prints what it finds; whether it was content."""
    return subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode == 0


def main(arguments: list[str]) -> int:
    """Run, write, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=(*PARTS, *FURTHER), action="append", help="make this part only")
    parser.add_argument("--jobs", type=int, default=2, help="how many processes at once (2)")
    options = parser.parse_args(arguments)
    parts = options.only or PARTS
    FOLDER.mkdir(exist_ok=True)
    good = True
    if "reports" in parts:
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(run, names()))
    if "reports" in parts or "pages" in parts:
        good &= write_pages()
    if "matrix" in parts or "unseen" in parts:
        good &= called(str(MATRIX), "--jobs", str(options.jobs), *(["--unseen"] if "unseen" in parts else []))
    if "table" in parts:
        good &= called("-m", "stateregistry_conformance", "--table", TABLE)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
