"""Builds the distributions, installs the wheel into an empty environment, and runs it from another directory.

What only an installed copy can show: the wheel holds exactly our five packages, all first-party plugins are found by
entry point with no framework installed, importing imports none, the command line says which extra it needs, the NumPy
adapters pass the suite, and so does a stranger's distribution that is installed beside it. Run by `make wheel-check`;
prints one line per check, and stops at the first that fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "stateregistry",
    "stateregistry_conformance",
    "stateregistry_flax",
    "stateregistry_numpy",
    "stateregistry_torch",
}
#: A distribution of somebody else's: a framework, its adapter and its harness.
STRANGER = ROOT / "tests" / "outside" / "toybox"
ADAPTERS = ["flax-linen", "flax-nnx", "numpy", "numpy-frozen", "optax", "torch", "torch-optim"]
STORES = ["flax-msgpack", "gguf", "keras", "npz", "orbax", "safetensors", "torch", "torch-dcp"]
FRAMEWORKS = ("torch", "jax", "flax", "safetensors", "click", "rich", "pytest")

IMPORTS_NOTHING = """
    import sys
    import stateregistry as sr
    heavy = {"numpy", "ml_dtypes", "torch", "jax", "flax", "click", "rich"} & set(sys.modules)
    assert not heavy, f"import stateregistry imports {sorted(heavy)}"
    assert "site-packages" in sr.__file__, sr.__file__
"""

FINDS_ALL = f"""
    import sys
    from stateregistry import plugins
    for group, expected in ((plugins.ADAPTERS, {ADAPTERS}), (plugins.STORES, {STORES})):
        found = plugins.discover(group)
        assert [f.name for f in found] == expected, [f.name for f in found]
        broken = [(f.name, f.error) for f in found if f.error is not None]
        assert not broken, broken
    heavy = {{"torch", "jax", "flax"}} & set(sys.modules)
    assert not heavy, f"discovery imports {{sorted(heavy)}}"
"""

USES_THE_REFERENCE = """
    import sys
    import numpy as np
    import stateregistry as sr
    import stateregistry_numpy
    model = stateregistry_numpy.Module()
    model.register_parameter("w", np.arange(6, dtype=np.float32).reshape(2, 3))
    model.register_buffer("n", np.array(3))
    reg = sr.of(model)
    assert dict(reg) == {
        "w": sr.Entry(sr.Kind.PARAMETER, (2, 3), "float32", trainable=True),
        "n": sr.Entry(sr.Kind.BUFFER, (), "int64"),
    }, dict(reg)
    sr.save(reg, "model.safetensors")
    with sr.open("model.safetensors") as file:
        assert dict(file) == dict(reg)
        assert file.read("w").tobytes() == reg.read("w").tobytes()
    heavy = {"torch", "jax", "flax"} & set(sys.modules)
    assert not heavy, f"the NumPy reference imports {sorted(heavy)}"
"""


def main() -> None:
    """Run every check."""
    with tempfile.TemporaryDirectory(prefix="stateregistry-wheel-") as name:
        room = Path(name)
        wheel = build(room / "dist")
        check_contents(wheel)
        python = empty_environment(room / "venv", wheel)
        elsewhere = room / "elsewhere"
        elsewhere.mkdir()
        check_bare(python, elsewhere)
        check_with_extras(python, elsewhere, wheel)
        check_the_outside_door(python, room)
    print("wheel-check: all passed")


def build(out: Path) -> Path:
    """The wheel, built from the sdist, so that the sdist is known to hold all that a build needs."""
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)], ROOT)
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    passed(f"built {sdist.name} ({sdist.stat().st_size:,} bytes), and from it {wheel.name} ({wheel.stat().st_size:,})")
    return wheel


def check_contents(wheel: Path) -> None:
    """Exactly the five packages, with their marker of types, and no litter."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    expect(tops, PACKAGES, "top-level packages of the wheel")
    litter = [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".so"))]
    expect(litter, [], "compiled files in the wheel")
    expect("stateregistry/py.typed" in names, True, "the marker of types is shipped")
    licences = [name for name in names if name.endswith("/licenses/LICENSE")]
    expect(len(licences), 1, "licence files in the wheel")


def empty_environment(where: Path, wheel: Path) -> Path:
    """A virtual environment with the wheel and its three plain dependencies."""
    venv.create(where, with_pip=True)
    python = where / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install(python, str(wheel))
    code = f"import importlib.util as u; print([n for n in {FRAMEWORKS} if u.find_spec(n)])"
    expect(run([str(python), "-c", code], where).stdout.strip(), "[]", "frameworks and extras in the environment")
    return python


def check_bare(python: Path, elsewhere: Path) -> None:
    """No extra is installed."""
    snippet(python, elsewhere, IMPORTS_NOTHING, "`import stateregistry` imports nothing heavy")
    snippet(python, elsewhere, FINDS_ALL, "all adapters and stores are found, no framework is imported")
    snippet(python, elsewhere, USES_THE_REFERENCE, "the NumPy reference works, to a file and back")
    command = [str(python.with_name("stateregistry")), "--version"]
    version = run(command, elsewhere).stdout
    expect(version.startswith("stateregistry 0."), True, f"--version without the cli extra: {version.strip()}")
    failed = run([str(python), "-m", "stateregistry", "inspect", "model.safetensors"], elsewhere, status=2)
    expect("stateregistry[cli]" in failed.stderr, True, "other commands name the extra that they need")
    expect("Traceback" in failed.stderr, False, "traceback without the extra")
    missing = """
        import stateregistry as sr
        try:
            sr.of(object())
        except sr.StateError as error:
            assert "stateregistry[torch]" in str(error), error
        else:
            raise SystemExit("sr.of(object()) was accepted")
    """
    snippet(python, elsewhere, missing, "an unknown object is refused with the way to install frameworks")


def check_with_extras(python: Path, elsewhere: Path, wheel: Path) -> None:
    """The command line and the suite, still without a framework."""
    install(python, f"{wheel}[cli,conformance]")
    script = str(python.with_name("stateregistry"))
    shown = run([script, "inspect", "model.safetensors"], elsewhere)
    expect("trainable" in shown.stdout, True, "`stateregistry inspect` with the cli extra")
    listed = run([script, "adapters"], elsewhere).stdout
    expect(all(name in listed for name in ADAPTERS), True, "`stateregistry adapters` lists all five")
    for adapter in ("numpy", "numpy-frozen"):
        conform(python, elsewhere, adapter)
    run([script, "conform", "numpy", "--report", "numpy.json", "--html", "numpy.html"], elsewhere)
    passed("`stateregistry conform` finds the suite, and writes a report and a page")


def check_the_outside_door(python: Path, room: Path) -> None:
    """A stranger's wheel: built from a copy outside of the checkout, installed, and run where no pytest could run."""
    source, theirs = room / "stranger", room / "theirs"
    shutil.copytree(STRANGER, source, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    run([*pip, "--wheel-dir", str(room / "stranger-dist"), str(source)], room)
    (wheel,) = (room / "stranger-dist").glob("*.whl")
    run([str(python), "-m", "pip", "install", "--quiet", "--no-index", str(wheel)], room)
    passed(f"built and installed {wheel.name} beside it; it wants nothing more")
    theirs.mkdir()
    hostile = '[tool.pytest.ini_options]\naddopts = ["--no-such-option"]\n'
    (theirs / "pyproject.toml").write_text(hostile, encoding="utf-8")
    expect(
        run([str(python), "-m", "pytest"], theirs, status=4).returncode, 4, "pytest refuses to run in that directory"
    )
    conform(python, theirs, "toybox")
    listed = run([str(python.with_name("stateregistry")), "adapters"], theirs).stdout
    expect("toybox" in listed, True, "`stateregistry adapters` lists it")
    run([str(python), str(STRANGER.with_name("round_trip.py"))], theirs)
    passed("its models convert to the NumPy reference and back, bit for bit")


def conform(python: Path, where: Path, name: str) -> None:
    """Run the suite on an installed harness."""
    done = run([str(python), "-m", "stateregistry_conformance", name], where)
    passed(f"the suite: {done.stdout.splitlines()[0]}")


def install(python: Path, what: str) -> None:
    """Install at the tested versions."""
    pins = str(ROOT / "constraints.txt")
    run([str(python), "-m", "pip", "install", "--quiet", "--constraint", pins, what], ROOT)


def snippet(python: Path, where: Path, code: str, what: str) -> None:
    """Run a piece of code in the environment."""
    run([str(python), "-c", textwrap.dedent(code)], where)
    passed(what)


def run(command: list[str], where: Path, *, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command away from the checkout, with nothing of this process's Python in its environment."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=where, env=env, capture_output=True, text=True, check=False)
    if done.returncode != status:
        what = f"FAILED (exit {done.returncode}, expected {status}): {' '.join(command)}"
        sys.exit(f"{what}\n{done.stdout}\n{done.stderr}")
    return done


def expect(found: object, wanted: object, what: str) -> None:
    """Stop unless equal."""
    if found != wanted:
        sys.exit(f"FAILED {what}: expected {wanted!r}, found {found!r}")
    passed(f"{what}: {found}" if not isinstance(found, bool) else what)


def passed(what: str) -> None:
    """Say it."""
    print(f"  ok  {what}", flush=True)


if __name__ == "__main__":
    main()
