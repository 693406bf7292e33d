"""Every command on a file of 100,000 entries: seconds of the processor, seconds of the clock and peak memory.

Half the entries are 4 x 4 matrices and half are vectors, in 50,000 linear layers: what is measured is what an entry costs, not
what a byte does. Each command is a process of its own. Nothing is promised but that it ends; `make bench` prints the table.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def checkpoint(path: Path, layers: int, seed: int) -> None:
    """A file in torch's spelling."""
    values = np.random.default_rng(seed).standard_normal((layers, 20)).astype(np.float32)
    tensors = {}
    for number, row in enumerate(values):
        tensors[f"blocks.{number}.linear.weight"] = np.ascontiguousarray(row[:16].reshape(4, 4))
        tensors[f"blocks.{number}.linear.bias"] = row[16:].copy()
    save_file(tensors, path)


def commands() -> list[tuple[str, ...]]:
    """In the order in which one needs what another made."""
    return [
        ("inspect", "a.safetensors"),
        ("inspect", "a.safetensors", "--json"),
        ("diff", "a.safetensors", "b.safetensors"),
        ("average", "a.safetensors", "b.safetensors", "-o", "mean.safetensors"),
        ("rename", "a.safetensors", "renamed.safetensors", "--name", "blocks.{i}=layers.{i}"),
        ("convert", "a.safetensors", "out.msgpack", "--to", "flax-linen", "--allow", "assumption"),
        ("verify", "a.safetensors", "out.msgpack"),
    ]


def measured(command: tuple[str, ...], folder: Path) -> tuple[int, float, float, float]:
    """Exit code, seconds of the clock, of the processor, and MB at the peak."""
    program = (
        "import resource, subprocess, sys\n"
        "code = subprocess.run([sys.executable, '-m', 'stateregistry', *sys.argv[1:]], stdout=subprocess.DEVNULL).returncode\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(code, used.ru_utime + used.ru_stime, used.ru_maxrss)\n"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *command], cwd=folder, check=True, text=True, stdout=subprocess.PIPE
    )
    code, seconds, peak = done.stdout.split()
    unit = 1024**2 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB elsewhere
    return int(code), time.perf_counter() - started, float(seconds), float(peak) / unit


def main() -> int:
    """Print the table; 1 if a command did not end as it should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    options = parser.parse_args()
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed, file in enumerate(("a", "b")):
            checkpoint(folder / f"{file}.safetensors", options.entries // 2, seed)
        size = (folder / "a.safetensors").stat().st_size / 1e6
        print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores; {options.entries:,} entries, {size:.1f} MB")
        print(f"this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB\n")
        print("| command | processor, s | clock, s | peak, MB |")
        print("| --- | ---: | ---: | ---: |")
        for command in commands():
            code, clock, seconds, peak = measured(command, folder)
            print(f"| `{' '.join(command[:1] + command[2:] if command[0] == 'inspect' else command[:1])}` "
                  f"| {seconds:.1f} | {clock:.1f} | {peak:.0f} |", flush=True)  # fmt: skip
            if code != (1 if command[0] == "diff" else 0):
                wrong.append(f"{command[0]} ended with {code}")
    for text in wrong:
        print(text, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
