"""How long opening and listing a safetensors file of many entries takes, against parsing its JSON header.

`python benchmarks/opening.py [--entries N] [--rounds N] [--json]`. Both are done in turn in one process; medians, and the
ratio pair by pair, so that a machine whose speed drifts compares with itself. The promise is a ratio of at most 2.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import tempfile
import time
from pathlib import Path

import stateregistry as sr


def write(path: Path, entries: int) -> str:
    """A foreign file (no metadata of ours) of small float32 vectors; returns its header text."""
    header, cursor = {}, 0
    for index in range(entries):
        size = 4 * (index % 64 + 1)
        name = f"model.layers.{index // 12}.block.q{index % 12}.weight"
        header[name] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [cursor, cursor + size]}
        cursor += size
    text = json.dumps(header, separators=(",", ":"))
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text.encode())
        file.truncate(8 + len(text) + cursor)
    return text


def seconds(action: object) -> float:
    """Seconds that one call takes."""
    started = time.perf_counter()
    action()  # type: ignore[operator]  # any callable
    return time.perf_counter() - started


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.safetensors"
        text = write(path, wanted.entries)

        def listing() -> None:
            with sr.open(path) as file:
                assert len(list(file.items())) == wanted.entries

        listing()
        pairs = [(seconds(listing), seconds(lambda: json.loads(text))) for _ in range(wanted.rounds)]
    ours, parsing = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    if wanted.json:
        row = {"entries": wanted.entries, "open_and_list": ours, "json_loads": parsing, "ratio": ratio}
        print(json.dumps({"schema": "stateregistry.benchmark.opening/1", **row}))
        return
    print(f"{wanted.entries:,} entries, median of {wanted.rounds}")
    print(f"  sr.open and list of entries   {ours * 1e3:8.1f} ms")
    print(f"  json.loads of the header      {parsing * 1e3:8.1f} ms")
    print(f"  ratio (limit 2)               {ratio:8.2f}")


if __name__ == "__main__":
    main()
