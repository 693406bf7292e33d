"""Builds the documentation: the generated pages, then the site, in which a warning is an error.

Run by `make docs`, which installs what it needs. With `--check` a generated page that would change is an error, too. The site
is written to `build/docs`, complete: it can be opened from there, and needs no network. That the blocks of code run, and that
the links between pages lead somewhere on the repository as well, is tested by `tests/docs`, without Sphinx.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "docs"
#: Commands that write a page, by the page.
GENERATORS: dict[str, list[str]] = {
    "docs/layers.md": ["docs/layers.py"],
    "docs/spec/conformance.md": ["-m", "stateregistry_conformance", "--table", "docs/spec/conformance.md"],
}


def generate() -> tuple[list[str], list[str]]:
    """Regenerate the generated pages; say which were stale, and which could not be made."""
    stale, failures = [], []
    for name, command in GENERATORS.items():
        page = ROOT / name
        before = page.read_text(encoding="utf-8") if page.exists() else ""
        failed = subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode
        if failed:
            failures.append(f"{name}: its generator failed with {failed}")
        elif page.read_text(encoding="utf-8") != before:
            stale.append(f"{name}: was stale and is regenerated")
    return stale, failures


def site() -> int:
    """Build the site from nothing; the exit status of Sphinx."""
    if importlib.util.find_spec("sphinx") is None:
        sys.exit("the site is built by Sphinx: pip install -c constraints.txt -r requirements-docs.txt, or make docs")
    command = [sys.executable, "-m", "sphinx", "--builder", "html", "--fresh-env", "--nitpicky", "--fail-on-warning"]
    places = ["--doctree-dir", str(ROOT / "build" / "doctrees"), str(ROOT / "docs"), str(SITE)]
    return subprocess.run([*command, "--quiet", *places], cwd=ROOT, check=False).returncode


def main(arguments: list[str]) -> int:
    """Regenerate, build, print what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="a generated page that changes is an error")
    options = parser.parse_args(arguments)
    stale, failures = generate()
    for line in [*stale, *failures]:
        print(line)
    failed = site()
    if not failed:
        print(f"docs: {SITE.relative_to(ROOT) / 'index.html'}")
    return 1 if failed or failures or (stale and options.check) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
