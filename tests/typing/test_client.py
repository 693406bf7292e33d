"""A project that is not ours is checked strictly against the installed wheel, by mypy and by pyright.

The client in `client/` uses the whole public interface; `mistakes.py` is what the types have to refuse: each of its lines is
marked as an error, and a mark that is not needed is an error, too. The wheel is unpacked into an environment of its own, where
the packages of this one are seen, but not the checkout.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLIENT = Path(__file__).with_name("client")
MYPY = "[mypy]\nstrict = true\nwarn_unused_ignores = true\n"
PYRIGHT = {
    "typeCheckingMode": "strict",
    "pythonVersion": "3.11",
    "enableTypeIgnoreComments": False,  # those are mypy's
    "reportUnnecessaryTypeIgnoreComment": "error",
}


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment elsewhere."""
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "MYPYPATH", "VIRTUAL_ENV"}}
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The interpreter of an environment that has our wheel."""
    room = tmp_path_factory.mktemp("installed")
    built = run("hatchling", "build", "-t", "wheel", "-d", room, cwd=ROOT)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = room.glob("*.whl")
    venv.create(room / "venv", with_pip=False, symlinks=True)
    python = room / "venv" / "bin" / "python"
    packages = room / "venv" / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    zipfile.ZipFile(wheel).extractall(packages)
    (packages / "beside.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return python


@pytest.fixture
def project(tmp_path) -> Path:
    """The client, as a project of its own."""
    for file in CLIENT.glob("*.py"):
        shutil.copy(file, tmp_path)
    (tmp_path / "mypy.ini").write_text(MYPY, encoding="utf-8")
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(PYRIGHT), encoding="utf-8")
    return tmp_path


def mypy(project: Path, python: Path) -> subprocess.CompletedProcess[str]:
    files = sorted(file.name for file in project.glob("*.py"))
    return run("mypy", "--python-executable", python, "--cache-dir", project / "cache", *files, cwd=project)


def pyright(project: Path, python: Path) -> subprocess.CompletedProcess[str]:
    return run("basedpyright", "--pythonpath", python, "--project", project, cwd=project)


def test_the_environment_has_the_wheel_and_not_the_checkout(installed, tmp_path):
    code = "import stateregistry, stateregistry_torch; print(stateregistry.__file__, stateregistry_torch.__file__)"
    done = subprocess.run([installed, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert all(str(installed.parents[1]) in path for path in done.stdout.split())


@pytest.mark.parametrize("check", [mypy, pyright])
def test_a_strict_client_is_content_and_its_mistakes_are_found(check, project, installed):
    done = check(project, installed)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("check", [mypy, pyright])
def test_a_mistake_that_is_not_marked_fails(check, project, installed):
    """Were the package untyped, or seen as `Any`, the client would be content whatever it said."""
    for file in project.glob("*.py"):
        file.unlink()
    code = "import stateregistry as sr\n\nnumber: str = sr.count(object())\nsr.paln(object())\n"
    (project / "wrong.py").write_text(code, encoding="utf-8")
    done = check(project, installed)
    assert done.returncode == 1
    assert "wrong.py:3" in done.stdout
    assert "wrong.py:4" in done.stdout


def test_every_mistake_is_marked_for_both():
    lines = (CLIENT / "mistakes.py").read_text(encoding="utf-8").splitlines()
    marked = [line for line in lines if "# type: ignore[" in line]
    assert len(marked) > 15
    assert all("# pyright: ignore[" in line for line in marked)


def test_the_client_uses_the_whole_of_the_package():
    import stateregistry as sr

    text = "".join(file.read_text(encoding="utf-8") for file in CLIENT.glob("*.py"))
    unused = [name for name in sr.__all__ if f"sr.{name}" not in text and name not in {"Layer", "__version__"}]
    unused += [name for name in sr.tools.__all__ if f"sr.tools.{name}(" not in text and f"sr.{name}(" not in text]
    assert [name for name in unused if name not in {"Ema", "Statistics"}] == []
