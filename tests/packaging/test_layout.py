"""House rules that no other tool checks: roots of import stay roots, every module says what it is for, versions agree.

The guards are themselves tested on a tree made to break them.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import stateregistry

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("stateregistry", "adapters", "conformance_tests")
EVERYTHING = (*SOURCES, "tests", "examples", "benchmarks", "docs")


def modules(root: Path, folders: tuple[str, ...]) -> list[Path]:
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def import_roots_that_are_packages(root: Path) -> list[str]:
    return [name for name in ("adapters", "conformance_tests", "tests") if (root / name / "__init__.py").exists()]


def without_docstring(root: Path, folders: tuple[str, ...]) -> list[str]:
    return [
        str(path.relative_to(root))
        for path in modules(root, folders)
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]


def test_the_roots_of_import_are_no_packages():
    """With an `__init__.py`, `import adapters` at the root of a checkout would shadow another project's package."""
    assert import_roots_that_are_packages(ROOT) == []


def test_every_module_says_what_it_is_for():
    assert without_docstring(ROOT, EVERYTHING) == []


def test_the_guards_can_fail(tmp_path):
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "__init__.py").write_text("x = 1\n", encoding="utf-8")
    assert import_roots_that_are_packages(tmp_path) == ["adapters"]
    assert without_docstring(tmp_path, ("adapters",)) == [str(Path("adapters/__init__.py"))]


def test_there_are_modules_to_check():
    assert len(modules(ROOT, SOURCES)) > 30


@pytest.mark.parametrize("name", ["utils.py", "helpers.py", "misc.py", "common.py"])
def test_no_module_is_named_after_nothing(name):
    assert [path for path in modules(ROOT, SOURCES) if path.name.strip("_") == name] == []


def test_work_to_do_stands_in_issues_and_not_in_comments():
    marks = re.compile(r"#.*\b(TODO|FIXME|XXX)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in modules(ROOT, SOURCES)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if marks.search(line)
    ]
    assert found == []


def test_the_version_is_told_once():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert config["project"]["dynamic"] == ["version"]
    assert config["tool"]["hatch"]["version"]["path"] == "stateregistry/_version.py"
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{stateregistry.__version__}]" in changelog


def test_every_package_of_the_wheel_is_in_every_list_of_packages():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = {Path(path).name for path in config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    assert wheel == set(config["tool"]["importlinter"]["root_packages"])
    assert wheel == set(config["tool"]["ruff"]["lint"]["isort"]["known-first-party"])


def test_every_extra_is_part_of_all():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = config["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    assert set(everything.removeprefix("stateregistry[").removesuffix("]").split(",")) == set(extras) - {"all"}


def test_what_is_installed_by_an_extra_is_pinned_for_tests():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*config["project"]["dependencies"]]
    for extra, packages in config["project"]["optional-dependencies"].items():
        wanted += [] if extra == "all" else packages
    wanted += [line for line in (ROOT / "requirements-dev.txt").read_text().splitlines() if not line.startswith("#")]
    names = {re.match(r"[\w.-]+", package)[0].lower().replace("_", "-") for package in wanted}
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert names - {pin.lower().replace("_", "-") for pin in pins} == set()


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("import adapters", "TID251"),
        ("from conformance_tests import stateregistry_conformance", "TID251"),
        ("from . import keys", "TID252"),
    ],
)
def test_ruff_refuses_imports_that_the_layout_forbids(code, rule):
    text = f'"""A module."""\n\nfrom __future__ import annotations\n\n{code}\n'
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", "--stdin-filename"]
    place = str(ROOT / "stateregistry" / "probe.py")
    done = subprocess.run([*command, place, "-"], input=text, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert rule in done.stdout
