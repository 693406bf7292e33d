"""Coverage-guided fuzzing of every reader, with the corpus as seeds: whatever the bytes, arrays or one error of ours.

    python tests/hostile/fuzz.py [--seconds 60] [--readers msgpack npz] [--page]

Each reader runs in a process of its own under `atheris`. A finding (another error, 5 s, 1 GB) is kept in
tests/hostile/found/<reader>/, which the tests read from then on; the exit status is 1 then. `--page` writes docs/fuzzing.md,
where the rows of readers that were not run stay.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import final

ROOT = Path(__file__).resolve().parents[2]
FOUND = Path(__file__).with_name("found")
PAGE = ROOT / "docs" / "fuzzing.md"
if str(ROOT / "tests") not in sys.path:
    sys.path.insert(0, str(ROOT / "tests"))

#: What is instrumented: everything that looks at bytes of a file.
INSTRUMENTED = [
    "stateregistry.stores",
    "stateregistry.keys",
    "stateregistry_flax.msgpack_scan",
    "stateregistry_torch.legacy",
]
SECONDS, MEGABYTES = 5, 1024
LONGEST = 1 << 16


@final
@dataclass(frozen=True, slots=True)
class Harness:
    """How bytes become a file of one reader.

    Attributes:
        place: writes the bytes into a folder, and gives the path to open.
        seed: takes the bytes out of a file of the corpus; `None` where there are none.
        reader: whose files of the corpus are seeds.
    """

    reader: str
    place: Callable[[Path, bytes], Path]
    seed: Callable[[Path], bytes | None]


def _raw(name: str) -> Callable[[Path, bytes], Path]:
    def place(folder: Path, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return place


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() and path.stat().st_size <= LONGEST else None


def _member(name: str, suffix: str) -> Callable[[Path, bytes], Path]:
    """The bytes as one member of an archive, so that no checksum stands in the way."""

    def place(folder: Path, data: bytes) -> Path:
        path = folder / f"m{suffix}"
        with zipfile.ZipFile(path, "w") as out:
            out.writestr(name, data)
            if suffix == ".pt":
                out.writestr("archive/data/0", bytes(16))
        return path

    return place


def _inside(name: str) -> Callable[[Path], bytes | None]:
    def seed(path: Path) -> bytes | None:
        try:
            with zipfile.ZipFile(path) as archive:
                data = archive.read(name)
        except (OSError, KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError):
            return None
        return data if len(data) <= LONGEST else None

    return seed


def _header(folder: Path, data: bytes) -> Path:
    path = folder / "m.safetensors"
    path.write_bytes(len(data).to_bytes(8, "little") + data + bytes(64))
    return path


def _header_of(path: Path) -> bytes | None:
    raw = _bytes_of(path)
    return None if raw is None or len(raw) < 10 else raw[8 : 8 + int.from_bytes(raw[:8], "little")]


def _beside(name: str, files: Callable[[Path], None]) -> Callable[[Path, bytes], Path]:
    """The bytes as an index or as metadata beside good files, which are made once."""

    def place(folder: Path, data: bytes) -> Path:
        if not (folder / "ready").exists():
            files(folder)
            (folder / "ready").touch()
        (folder / name).write_bytes(data)
        return folder if name in (".metadata", "_METADATA", _SPEC) else folder / name

    return place


def _shards(folder: Path) -> None:
    from hostile import safetensors_indexes

    safetensors_indexes.checkpoint(folder)


def _torch_shards(folder: Path) -> None:
    from hostile import torch_indexes

    torch_indexes.checkpoint(folder)


def _distributed(folder: Path) -> None:
    from hostile import torch_dcp

    made = torch_dcp.written(folder, lambda metadata: None)
    for path in made.iterdir():
        path.rename(folder / path.name)
    made.rmdir()


def _orbax(folder: Path) -> None:
    from hostile import orbax_checkpoints

    made = orbax_checkpoints.written(folder, lambda path: None)
    for path in made.iterdir():
        path.rename(folder / path.name)
    made.rmdir()


def _metadata_of(path: Path) -> bytes | None:
    return _bytes_of(path / ".metadata")


def _orbax_metadata_of(path: Path) -> bytes | None:
    return _bytes_of(path / "_METADATA")


#: What Orbax keeps beside the blocks of one array, for TensorStore.
_SPEC = "params.dense.kernel/.zarray"


def _orbax_spec_of(path: Path) -> bytes | None:
    return _bytes_of(path / _SPEC)


HARNESSES = {
    "safetensors": Harness("safetensors", _raw("m.safetensors"), _bytes_of),
    "safetensors-header": Harness("safetensors", _header, _header_of),
    "safetensors-index": Harness("safetensors index", _beside("model.safetensors.index.json", _shards), _bytes_of),
    "torch-zip": Harness("torch zip", _raw("m.pt"), _bytes_of),
    "torch-pickle": Harness("torch zip", _member("archive/data.pkl", ".pt"), _inside("archive/data.pkl")),
    "torch-legacy": Harness("torch legacy", _raw("m.pt"), _bytes_of),
    "torch-index": Harness("torch index", _beside("pytorch_model.bin.index.json", _torch_shards), _bytes_of),
    "torch-dcp": Harness("torch DCP", _beside(".metadata", _distributed), _metadata_of),
    "npz": Harness("npz", _raw("m.npz"), _bytes_of),
    "npy": Harness("npz", _member("w.npy", ".npz"), _inside("w.npy")),
    "msgpack": Harness("msgpack", _raw("m.msgpack"), _bytes_of),
    "orbax": Harness("Orbax", _beside("_METADATA", _orbax), _orbax_metadata_of),
    "orbax-array": Harness("Orbax", _beside(_SPEC, _orbax), _orbax_spec_of),
    "keras": Harness("Keras", _raw("m.weights.h5"), _bytes_of),
    "gguf": Harness("GGUF", _raw("m.gguf"), _bytes_of),
    "document": Harness("our metadata", _header, _header_of),
}


def look(path: Path) -> None:
    """Open and read everything. What escapes is a finding.

    Raises:
        Whatever is no `StateError`.
    """
    import stateregistry as sr

    try:
        with sr.open(path) as found:
            for key in found:
                if found[key].concrete and found[key].nbytes <= 1 << 24:
                    found.read(key)
                    found.view(key)
    except sr.StateError as error:
        str(error)


def one(name: str, seeds: str, options: list[str]) -> None:
    """Fuzz one reader in this process; never returns."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from stateregistry import plugins

        plugins.stores()
    harness = HARNESSES[name]
    room = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))  # no disk

    look(harness.place(room, b""))  # what is imported and made only once takes no time of an input

    def target(data: bytes) -> None:
        look(harness.place(room, data))

    atheris.Setup([sys.argv[0], *options, seeds], target)
    atheris.Fuzz()


@final
@dataclass(frozen=True, slots=True)
class Row:
    """What came of one reader: how many inputs in how many seconds, how much of the code was reached, and findings."""

    name: str
    seconds: float
    inputs: int
    reached: int
    findings: int


def run(name: str, seconds: int) -> Row:
    """Fuzz one reader in a process of its own."""
    from hostile import corpus

    harness = HARNESSES[name]
    kept = FOUND / name
    with tempfile.TemporaryDirectory() as room:
        seeds = Path(room) / "seeds"
        seeds.mkdir()
        for number, fault in enumerate(corpus.faults(harness.reader)):
            folder = Path(room) / str(number)
            folder.mkdir()
            data = harness.seed(fault.make(folder))
            if data:
                (seeds / f"{number:04d}").write_bytes(data)
        found = Path(room) / "found"
        found.mkdir()
        options = [
            f"-max_total_time={seconds}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES + 1024}", f"-max_len={LONGEST}",
            f"-artifact_prefix={found}/", "-print_final_stats=1", "-verbosity=1",
        ]  # fmt: skip
        begin = time.monotonic()
        command = [sys.executable, __file__, "--one", name, str(seeds), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
        took = time.monotonic() - begin
        log = done.stdout + done.stderr
        for path in found.iterdir():
            kept.mkdir(parents=True, exist_ok=True)
            (kept / path.name).write_bytes(path.read_bytes())
            print(log[-6000:])
        if done.returncode and not any(found.iterdir()):
            raise RuntimeError(log[-6000:])
        return Row(name, took, _last(r"#(\d+)\s", log), _last(r"cov: (\d+)", log), sum(1 for _ in found.iterdir()))


def _last(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


_ROW = re.compile(r"\| (\S+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| (\d+) \|")


def kept(text: str) -> dict[str, Row]:
    """The rows that stand on a page."""
    found = {}
    for name, *numbers in _ROW.findall(text):
        seconds, inputs, reached, findings = (int(number.replace(",", "")) for number in numbers)
        found[name] = Row(name, seconds, inputs, reached, findings)
    return found


def page(rows: list[Row]) -> str:
    """The page about the last run of each reader."""
    day = time.strftime("%Y-%m-%d", time.gmtime())
    versions = ", ".join(f"{name} {version(name)}" for name in ("stateregistry", "atheris", "numpy", "torch"))
    inputs, minutes = sum(row.inputs for row in rows), sum(row.seconds for row in rows) / 60
    findings = sum(row.findings for row in rows)
    missing = [name for name in HARNESSES if name not in {row.name for row in rows}]
    lines = [
        "# Fuzzing: the last run of each reader",
        "",
        "Every reader under coverage-guided fuzzing, with the [hostile corpus](hostile.md) as seeds. A finding is an",
        f"error that is not one of ours, {SECONDS} s for one input, or {MEGABYTES} MB. Findings are mended and kept in",
        "`tests/hostile/found/`, which a test reads. Written by `make fuzz`; not edited by hand.",
        "",
        f"{day}, Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores; {versions}.",
        f"{inputs:,} inputs in {minutes:,.1f} minutes, {findings} findings.",
        *([f"Not run: {', '.join(missing)}."] if missing else []),
        "",
        "| reader | seconds | inputs | edges reached | findings |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(f"| {row.name} | {row.seconds:,.0f} | {row.inputs:,} | {row.reached:,} | {row.findings} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Fuzz the readers that were asked for, one after another."""
    if arguments[:1] == ["--one"]:
        one(arguments[1], arguments[2], arguments[3:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each reader")
    parser.add_argument("--readers", nargs="+", choices=HARNESSES, default=list(HARNESSES))
    parser.add_argument("--page", action="store_true", help="write docs/fuzzing.md")
    asked = parser.parse_args(arguments)
    rows = []
    for name in asked.readers:
        rows.append(run(name, asked.seconds))
        print(rows[-1], flush=True)
    if asked.page:
        known = kept(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
        known |= {row.name: row for row in rows}
        PAGE.write_text(page([known[name] for name in HARNESSES if name in known]), encoding="utf-8")
    return 1 if any(row.findings for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
