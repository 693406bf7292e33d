"""Runs the property tests with a large budget and the tests marked `soak`, and writes the table docs/soak.md.

Takes minutes to hours. `make soak` runs it; arguments are passed on to pytest (`-k`, `-n`, a folder): modules that were not run
keep their rows. Exit status is pytest's.
"""

from __future__ import annotations

import os
import platform
import re
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


_ROW = re.compile(r"\| `([\w.]+)` \| (\d+) \| ([^|]+) \| ([\d,]+) \|")
_TOLD = re.compile(r"- `([\w.]+)`, (`.*)")


@dataclass(frozen=True, slots=True)
class Row:
    """The outcome of the tests of one module, and what they have to tell (`record_property("told", ...)`)."""

    module: str
    tests: int
    outcome: str
    seconds: float
    told: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"| `{self.module}` | {self.tests} | {self.outcome} | {self.seconds:,.0f} |"


def main(arguments: list[str]) -> int:
    """Run, write the page, return pytest's status."""
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
    known = {row.module: row for row in kept(PAGE.read_text(encoding="utf-8"))} if PAGE.exists() else {}
    known |= {row.module: row for row in rows}
    PAGE.write_text(page([known[module] for module in sorted(known)]), encoding="utf-8")
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
        Row(name, len(them), _outcome([one for one, _ in them]), sum(took for _, took in them), tuple(told[name]))
        for name, them in sorted(cases.items())
    ]


def _outcome(found: list[str]) -> str:
    bad = [one for one in found if one != "passed"]
    return "passed" if not bad else ", ".join(f"{bad.count(name)} {name}" for name in sorted(set(bad)))


def kept(text: str) -> list[Row]:
    """The rows that stand on a page."""
    told: dict[str, list[str]] = {}
    for module, said in _TOLD.findall(text):
        told.setdefault(module, []).append(said)
    return [
        Row(module, int(tests), outcome, float(seconds.replace(",", "")), tuple(told.get(module, ())))
        for module, tests, outcome, seconds in _ROW.findall(text)
    ]


def page(rows: Iterable[Row]) -> str:
    """The page."""
    rows = list(rows)
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    day = time.strftime("%Y-%m-%d", time.gmtime())
    lines = [
        "# Soak: the last long run of each module",
        "",
        "Every property test with 5,000 examples (where a test sets no smaller number itself) and every test marked",
        "`soak`. Written by `make soak`; not edited by hand.",
        "",
        f"{day}, Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores; {versions}.",
        f"{sum(row.tests for row in rows)} tests in {sum(row.seconds for row in rows):,.0f} s.",
        "",
        "| module | tests | outcome | seconds |",
        "| --- | ---: | --- | ---: |",
        *map(str, rows),
    ]
    said = [f"- `{row.module}`, {text}" for row in rows for text in row.told]
    lines += ["", "What the tests tell:", "", *said] if said else []
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
