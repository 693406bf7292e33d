"""What a page of many entries costs: making it, its size, and how long a browser takes to answer a person.

Pages of `inspect` over files of which only the header matters: names that fold, as models have them, and names that do not, at
10,000 and 100,000 entries. In headless Chromium: from opening to the first answer of the search field, and, measured inside
the page, from an input to the second frame after what it changed, as medians. Exits 1 where a promise is broken: a page of
10,000 entries is at most 8 MB and answers every input within 500 ms.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

SCRIPT = str(Path(sysconfig.get_path("scripts")) / "stateregistry")
LIMIT_MB, LIMIT_MS = 8.0, 500.0
PROMISED = 10_000

#: From an input to the second frame after its effect, by which it has been painted once. What is typed is answered when the
#: count of what was found has changed, which every input here does.
ANSWER = """async ([kind, value]) => {
  const start = performance.now();
  if (kind === "zoom") location.hash = value;
  else {
    const field = document.getElementById(kind), count = document.getElementById("count"), before = count.textContent;
    field.value = value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    while (count.textContent === before) {
      if (performance.now() - start > 10000) throw new Error(`no answer to ${kind} ${value}`);
      await new Promise(requestAnimationFrame);
    }
  }
  await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return performance.now() - start;
}"""
INPUTS = {
    "search": (("find", "5"), ("find", "55"), ("find", "")),
    "filter": (("kind", "trainable"), ("kind", "")),
    "zoom": (("zoom", "#map-1"), ("zoom", "#")),
}


@dataclass(frozen=True, slots=True)
class Found:
    """One page: seconds of a processor to make it, megabytes, elements, seconds to open it, milliseconds for each input."""

    name: str
    entries: int
    made: float
    size: float
    elements: int
    opened: float
    answers: dict[str, float]

    @property
    def kept(self) -> bool:
        """Whether what is promised of 10,000 entries holds."""
        return self.entries > PROMISED or (self.size <= LIMIT_MB and max(self.answers.values()) <= LIMIT_MS)


def write(path: Path, names: list[str]) -> None:
    """A safetensors file with an array of some elements under each name."""
    header, end = {}, 0
    for number, name in enumerate(names):
        size = 4 * (1 + number % 50)
        header[name] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def names_of(kind: str, count: int) -> list[str]:
    """Names of a model of many layers, or names in which nothing repeats."""
    if kind == "layers":
        parts = ("norm.weight", "norm.running_mean", "linear.weight", "linear.bias")
        return [f"decoder.layer.{n // 4}.{parts[n % 4]}" for n in range(count)]
    return [f"part{n % 7}.{(n * 0x9E3779B97F4A7C15) % (1 << 64):016x}.w{n}x" for n in range(count)]


def look(browser: Browser, path: Path, rounds: int) -> tuple[float, int, dict[str, float]]:
    """Open a page and use it."""
    opened: list[float] = []
    times: dict[str, list[float]] = {kind: [] for kind in INPUTS}
    elements = 0
    for _ in range(rounds):
        page = browser.new_page()
        start = time.perf_counter()
        page.goto(path.as_uri())
        page.locator("#count").wait_for()
        opened.append(time.perf_counter() - start)
        elements = page.evaluate("document.getElementsByTagName('*').length")
        for kind, inputs in INPUTS.items():
            times[kind].extend(page.evaluate(ANSWER, list(one)) for one in inputs)
        page.close()
    return statistics.median(opened), elements, {kind: statistics.median(found) for kind, found in times.items()}


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each page is opened (default 3)")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    found = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for count in (PROMISED, 10 * PROMISED):
            for kind in ("layers", "names"):
                file, page = Path(folder) / f"{kind}{count}.safetensors", Path(folder) / f"{kind}{count}.html"
                write(file, names_of(kind, count))
                before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
                command = [SCRIPT, "inspect", str(file), "--no-stats", "--html", str(page)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                made = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
                opened, elements, answers = look(browser, page, options.rounds)
                size = page.stat().st_size / 1e6
                found.append(Found(f"{count:,} {kind}", count, made, size, elements, opened, answers))
        browser.close()
    print("| entries | made, processor s | page, MB | elements | open, s | search, ms | filter, ms | zoom, ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for one in found:
        cells = " | ".join(f"{one.answers[kind]:.0f}" for kind in INPUTS)
        print(f"| {one.name} | {one.made:.1f} | {one.size:.2f} | {one.elements:,} | {one.opened:.2f} | {cells} |")
    late = [one.name for one in found if not one.kept]
    if late:
        print(f"\nnot kept: {', '.join(late)}", file=sys.stderr)
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
