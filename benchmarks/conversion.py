"""How long a conversion takes, and in how much memory: a sharded safetensors checkpoint from torch's layout to Flax's.

Shapes of a 7B model in float32, every matrix transposed, digests included. Beside it, in the same run and each in a
process of its own: a plain copy of the same bytes (the limit), and the two usual ways with the `safetensors` library. All of
them end with fsync. Every output is compared with the source in full. The promises (`--check` fails beyond them): at most
2.5 times a plain copy with two workers and 3.5 times with one, at least 3 times faster than `ascontiguousarray`, no slower
than torch, and at most 96 MB of anonymous memory over the idle process.

    python benchmarks/conversion.py [--gb 0.5] [--rounds 3] [--folder DIR] [--single] [--check] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

SCHEMA = "stateregistry.bench.conversion/1"
CASES = ("copy", "ours-1", "ours-2", "numpy", "torch")
SHAPES = {
    "self_attn.q_proj": (4096, 4096), "self_attn.k_proj": (4096, 4096), "self_attn.v_proj": (4096, 4096),
    "self_attn.o_proj": (4096, 4096), "mlp.gate_proj": (11008, 4096), "mlp.up_proj": (11008, 4096),
    "mlp.down_proj": (4096, 11008),
}  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One case: seconds, the ratio to a plain copy (median of the rounds), and what it took of the machine.

    `processor` is in seconds of user and system, which other work on the machine changes little; `anonymous` the peak of
    anonymous memory over the idle process in MB.
    """

    case: str
    median: float
    best: float
    ratio: float
    processor: float
    anonymous: float


def made(folder: Path, gigabytes: float, *, single: bool) -> int:
    """A checkpoint of random bits in four shards, or of one matrix; returns its bytes."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    wanted = int(gigabytes * 1e9)
    names: list[tuple[str, tuple[int, int]]] = []
    total = 0
    if single:
        names.append(("lm_head", (wanted // 4 // 4096, 4096)))
        total = 4 * names[0][1][0] * 4096
    while total < wanted and not single:
        for name, shape in SHAPES.items():
            if total >= wanted:
                break
            names.append((f"model.layers.{len(names) // len(SHAPES)}.{name}", shape))
            total += 4 * shape[0] * shape[1]
    shards = 1 if single else 4
    weights = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        arrays = {}
        for name, (rows, columns) in names[shard * len(names) // shards : (shard + 1) * len(names) // shards]:
            arrays[f"{name}.weight"] = _random(rng, rows, columns)
            weights[f"{name}.weight"] = file
            arrays[f"{name}.bias"] = rng.standard_normal(rows, np.float32)  # says which axis is the output
            weights[f"{name}.bias"] = file
        save_file(arrays, folder / file, metadata={"format": "pt"})
        del arrays
    index = {"metadata": {"total_size": total}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return total


def _random(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Bits that repeat nowhere near: making all of them at random would take longer than what is measured."""
    block = rng.integers(0, 2**31, 1 << 20, dtype=np.uint32)
    flat = np.empty(rows * columns, np.uint32)
    for number, start in enumerate(range(0, flat.size, block.size)):
        piece = flat[start : start + block.size]
        piece[...] = (block + np.uint32(number))[: piece.size]
    return (flat & np.uint32(0x3FFFFFFF)).view(np.float32).reshape(rows, columns)


# ---------------------------------------------------------------------- cases, each run in a process of its own


def shards(folder: Path) -> list[Path]:
    """The files of values of a checkpoint."""
    return sorted(folder.glob("*.safetensors"))


def synced(path: Path) -> None:
    """Wait until a file is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def copy(source: Path, target: Path) -> None:
    """The limit: the same bytes, read and written in blocks of 16 MiB."""
    buffer = memoryview(bytearray(1 << 24))
    for path in shards(source):
        with path.open("rb", buffering=0) as one, (target / path.name).open("wb", buffering=0) as two:
            while count := one.readinto(buffer):
                two.write(buffer[:count])
            os.fsync(two.fileno())


def ours(source: Path, target: Path, workers: int) -> None:
    """Planned from the files alone, streamed, with digests of every value and every file."""
    import stateregistry as sr

    sr.convert(
        source / "model.safetensors.index.json", to="flax-linen", allow=("assumption", "choice"),
        out=target / "model.safetensors", shard_bytes=_shard_bytes(source), workers=workers,
    )  # fmt: skip


def _shard_bytes(source: Path) -> int:
    return max(path.stat().st_size for path in shards(source))


def usual_numpy(source: Path, target: Path) -> None:
    """`safetensors.numpy` with `ascontiguousarray(array.T)`."""
    from safetensors.numpy import load_file, save_file

    for path in shards(source):
        arrays = {
            _renamed(name): np.ascontiguousarray(array.T) if array.ndim == 2 else array
            for name, array in load_file(path).items()
        }
        save_file(arrays, target / path.name)
        synced(target / path.name)


def usual_torch(source: Path, target: Path) -> None:
    """`safetensors.torch` with `tensor.t().contiguous()`."""
    from safetensors.torch import load_file, save_file

    for path in shards(source):
        tensors = {
            _renamed(name): tensor.t().contiguous() if tensor.ndim == 2 else tensor
            for name, tensor in load_file(path).items()
        }
        save_file(tensors, target / path.name)
        synced(target / path.name)


def _renamed(name: str) -> str:
    return name.replace(".weight", ".kernel")


class Anonymous(threading.Thread):
    """Watches the anonymous memory of this process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.idle = self.peak = self._now()
        self.over = threading.Event()

    @staticmethod
    def _now() -> int:
        text = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(text.partition("RssAnon:")[2].split()[0])

    def run(self) -> None:
        """Look a hundred times a second."""
        while not self.over.wait(0.01):
            self.peak = max(self.peak, self._now())


def one(case: str, source: Path, target: Path) -> None:
    """Run one case here and print what it took."""
    name, _, workers = case.partition("-")
    if name == "ours":
        import stateregistry as sr
        from stateregistry.conversion.execution import execute  # noqa: F401  # imported before the clock starts

        sr.plan(source / "model.safetensors.index.json", to="flax-linen", allow=("assumption", "choice"))
    elif name == "numpy":
        import safetensors.numpy  # as above
    elif name == "torch":
        import safetensors.torch  # noqa: F401  # as above
    watch = Anonymous()
    watch.start()
    begin, used = time.perf_counter(), time.process_time()
    if name == "ours":
        ours(source, target, int(workers))
    else:
        {"copy": copy, "numpy": usual_numpy, "torch": usual_torch}[name](source, target)
    took, used = time.perf_counter() - begin, time.process_time() - used
    watch.over.set()
    watch.join()
    print(json.dumps({"seconds": took, "processor": used, "anonymous": (watch.peak - watch.idle) / 1e6}))


# ---------------------------------------------------------------------- all cases


def compared(source: Path, target: Path) -> None:
    """Hold every value of an output against the source, row by row of the transpose, in bounded memory."""
    import stateregistry as sr

    with sr.open(source) as before, sr.open(_opened(target)) as after:
        kernels = {key.replace("kernel", "weight").removeprefix("params/"): key for key in after}
        assert set(kernels) == set(before), f"{sorted(set(kernels) ^ set(before))[:4]}"
        for key, found in kernels.items():
            one, two = before.view(key), after.view(found)
            expected = one.T if one.ndim == 2 else one
            assert expected.shape == two.shape, key
            for start in range(0, two.shape[0], 512):
                same = np.array_equal(
                    expected[start : start + 512].view(np.uint32), two[start : start + 512].view(np.uint32)
                )
                assert same, f"{key}: rows from {start} differ"


def _opened(target: Path) -> Path:
    single = target / "model.safetensors"
    return single if single.exists() else target


def measured(case: str, source: Path, room: Path) -> dict[str, float]:
    """Run one case in a process of its own, into an empty directory, and compare what it wrote."""
    target = room / "out"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    os.sync()
    command = [sys.executable, __file__, "--one", case, str(source), str(target)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if case.startswith("ours"):
        compared(source, target)
    shutil.rmtree(target)
    return found


def rows(source: Path, room: Path, rounds: int, cases: tuple[str, ...]) -> Iterator[Row]:
    """Every case, interleaved."""
    found: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            found[case].append(measured(case, source, room))
    limit = statistics.median(run["seconds"] for run in found["copy"])
    for case, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        median = statistics.median(seconds)
        used = statistics.median(run["processor"] for run in runs)
        yield Row(case, median, min(seconds), median / limit, used, max(run["anonymous"] for run in runs))


def broken(table: dict[str, Row]) -> list[str]:
    """The promises that do not hold."""
    promises = {
        "ours-2 takes at most 2.5 times a copy": table["ours-2"].ratio <= 2.5,
        "ours-1 takes at most 3.5 times a copy": table["ours-1"].ratio <= 3.5,
        "ours-2 is 3 times faster than ascontiguousarray": table["ours-2"].median * 3 <= table["numpy"].median,
        "ours-2 is no slower than torch": table["ours-2"].median <= table["torch"].median,
        "96 MB of anonymous memory": max(table["ours-1"].anonymous, table["ours-2"].anonymous) <= 96,
    }
    return [text for text, kept in promises.items() if not kept]


def main() -> int:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=0.5, help="gigabytes of the checkpoint")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work: the disk that is measured")
    parser.add_argument("--single", action="store_true", help="one matrix instead of many")
    parser.add_argument("--check", action="store_true", help="fail where a promise does not hold")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--one", nargs=3, metavar=("CASE", "SOURCE", "TARGET"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        one(asked.one[0], Path(asked.one[1]), Path(asked.one[2]))
        return 0
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        room = Path(name)
        source = room / "in"
        source.mkdir()
        total = made(source, asked.gb, single=asked.single)
        table = list(rows(source, room, asked.rounds, tuple(asked.cases)))
    failed = broken({row.case: row for row in table}) if asked.check else []
    if asked.json:
        told: dict[str, Any] = {
            "schema": SCHEMA,
            "bytes": total,
            "rows": [asdict(row) for row in table],
            "broken": failed,
        }
        print(json.dumps(told, indent=1))
    else:
        print(f"{total / 1e9:.2f} GB, {asked.rounds} rounds, each case in a process of its own\n")
        print("| case | median s | best s | to a copy | processor s | anonymous MB |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for row in table:
            times = f"{row.median:.2f} | {row.best:.2f} | {row.ratio:.2f} | {row.processor:.2f}"
            print(f"| {row.case} | {times} | {row.anonymous:.0f} |")
        print(*(f"not kept: {text}" for text in failed), sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
