"""How the outputs are looked at, and the memory of a process while it makes them.

Every value of every output is held against the source, in bounded memory. The source and safetensors outputs are read by
the `safetensors` library, the other formats by our lazy readers, whose own tests hold them against those of the frameworks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np

from converting.checkpoint import shards

_ROWS = 512


@final
class Memory(threading.Thread):
    """Watches the memory of this process: what is anonymous, and all that is resident, mapped files included."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.idle = self.peak = self._now()
        self.over = threading.Event()

    @staticmethod
    def _now() -> tuple[int, int]:
        text = Path("/proc/self/status").read_text(encoding="ascii")
        anonymous, resident = (int(text.partition(name)[2].split()[0]) for name in ("RssAnon:", "VmRSS:"))
        return 1024 * anonymous, 1024 * resident

    def run(self) -> None:
        """Look a hundred times a second."""
        while not self.over.wait(0.01):
            anonymous, resident = self._now()
            self.peak = max(self.peak[0], anonymous), max(self.peak[1], resident)

    def beyond(self) -> tuple[float, float]:
        """Both peaks over the idle process, in MB."""
        self.over.set()
        self.join()
        return (self.peak[0] - self.idle[0]) / 1e6, (self.peak[1] - self.idle[1]) / 1e6


@contextmanager
def _opened(folder: Path) -> Iterator[Mapping[str, Any]]:
    """What looks a value up by its neutral name."""
    from safetensors import safe_open

    import stateregistry as sr

    with ExitStack() as stack:
        found: dict[str, Any] = {}
        for path in shards(folder):
            file = stack.enter_context(safe_open(path, framework="np"))
            found |= {_neutral(name): (file.get_tensor, name) for name in file.keys()}  # noqa: SIM118  # no mapping
        for path in (*folder.glob("*.msgpack"), *folder.glob("*.orbax")):
            if found:
                break  # the checkpoint that `from orbax` starts with lies beside what it was made of
            registry = stack.enter_context(sr.open(path))
            found |= {_neutral(key): (registry.view, key) for key in registry}
        yield found


def _neutral(name: str) -> str:
    return name.replace("/", ".").removeprefix("params.").replace("kernel", "weight")


def difference(source: Path, target: Path, *, turned: bool) -> str:
    """What is wrong with an output, empty where every value is that of the source, matrices `turned`."""
    with _opened(source) as before, _opened(target) as after:
        if set(before) != set(after):
            return f"names differ: {sorted(set(before) ^ set(after))[:4]}"
        for key, (read, name) in before.items():
            one = read(name)
            look, other = after[key]
            two = np.asarray(look(other))
            expected = one.T if turned and one.ndim == 2 else one
            if expected.shape != two.shape or expected.dtype != two.dtype:
                return f"{key}: {two.dtype}{list(two.shape)} instead of {expected.dtype}{list(expected.shape)}"
            for start in range(0, two.shape[0], _ROWS):
                rows = expected[start : start + _ROWS].view(np.uint32), two[start : start + _ROWS].view(np.uint32)
                if not np.array_equal(*rows):
                    return f"{key}: rows from {start} differ"
    return ""
