"""Runs the property tests with a large budget and the tests marked `soak`, and writes the table docs/soak.md.

Takes minutes to hours. `make soak` runs it; arguments are passed on to pytest (`-k`, `-n`). Exit status is pytest's.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "soak.md"
PACKAGES = ("stateregistry", "numpy", "torch", "jax", "flax", "hypothesis")


@dataclass(frozen=True, slots=True)
class Row:
    """The outcome of the tests of one module, and what they have to tell (`record_property("told", ...)`)."""

    module: str
    outcomes: tuple[str, ...]
    seconds: float
    told: tuple[str, ...] = ()

    def __str__(self) -> str:
        bad = [outcome for outcome in self.outcomes if outcome != "passed"]
        verdict = "passed" if not bad else ", ".join(f"{bad.count(name)} {name}" for name in sorted(set(bad)))
        return f"| `{self.module}` | {len(self.outcomes)} | {verdict} | {self.seconds:,.0f} |"


def main(arguments: list[str]) -> int:
    """Run, write the page, return pytest's status."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as room:
        xml = Path(room) / "soak.xml"
        command = [sys.executable, "-m", "pytest", "-m", "hypothesis or soak", f"--junitxml={xml}"]
        command += ["-o", "junit_family=xunit1"]  # the later one has no room for what tests tell
        command += ["-o", "faulthandler_timeout=0", *arguments]  # no hang: one test may take an hour here
        env = os.environ | {"HYPOTHESIS_PROFILE": "soak"}
        status = subprocess.run(command, cwd=ROOT, env=env, check=False).returncode
        rows = read(xml) if xml.exists() else []
    if not rows:
        print("soak: no test ran", file=sys.stderr)
        return status or 1
    PAGE.write_text(page(rows, time.monotonic() - start), encoding="utf-8")
    print(f"soak: wrote {PAGE.relative_to(ROOT)}")
    return status


def read(xml: Path) -> list[Row]:
    """The outcomes of a JUnit file by module, in its order."""
    cases: dict[str, list[tuple[str, float]]] = {}
    told: dict[str, list[str]] = {}
    for case in ET.parse(xml).getroot().iter("testcase"):
        bad = [child.tag for child in case if child.tag in {"failure", "error", "skipped"}]
        module = case.attrib["classname"]
        cases.setdefault(module, []).append((bad[0] if bad else "passed", float(case.attrib["time"])))
        said = (one.attrib["value"] for one in case.iter("property") if one.attrib["name"] == "told")
        told.setdefault(module, []).extend(f"`{case.attrib['name']}`: {text}" for text in said)
    return [
        Row(name, tuple(o for o, _ in them), sum(s for _, s in them), tuple(told[name]))
        for name, them in sorted(cases.items())
    ]


def page(rows: Iterable[Row], seconds: float) -> str:
    """The page."""
    rows = list(rows)
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    day = time.strftime("%Y-%m-%d", time.gmtime())
    lines = [
        "# Soak: the last long run",
        "",
        "Every property test with 5,000 examples (where a test sets no smaller number itself) and every test marked",
        "`soak`. Written by `make soak`; not edited by hand.",
        "",
        f"{day}, Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores; {versions}.",
        f"{sum(len(row.outcomes) for row in rows)} tests in {seconds:,.0f} s.",
        "",
        "| module | tests | outcome | seconds |",
        "| --- | ---: | --- | ---: |",
        *map(str, rows),
    ]
    said = [f"- {text}" for row in rows for text in row.told]
    lines += ["", "What the tests tell:", "", *said] if said else []
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
