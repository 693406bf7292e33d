"""Opens hostile files, each in a process of its own with little memory and little time, and says what came of them.

A file is opened as anybody would (`sr.open`) and every value is read and viewed. The process is a fork of one that has all
readers loaded; it may not allocate more than twice the file and some, has five seconds of a processor (and thirty by the
clock, as the machine may have other work), and is watched: a call that runs a program, unpickles, connects or opens a file
outside of the folder is noted, and so is a file that appears in it. The process in which HDF5 is parsed is watched too.

    python -m hostile.runner FOLDER < MANIFEST.json > OUTCOMES.json
"""

from __future__ import annotations

import json
import os
import re
import resource
import selectors
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from hostile.corpus import Fault

#: What a refusal may take: seconds of a processor, seconds by the clock, and bytes beyond twice the file.
SECONDS = 5.0
CLOCK = 30
EXTRA_BYTES = 64 * 2**20
#: Address space is not memory: threads, maps of the file and the allocator reserve more than they touch.
SLACK_BYTES = 256 * 2**20
TESTS = Path(__file__).resolve().parents[1]

RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen")
REACHES = ("socket.connect", "socket.bind", "urllib.Request", "ftplib.connect", "webbrowser.open", "ctypes.dlopen")
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree", "shutil.move")


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a file.

    Attributes:
        verdict: `refused`, `unsafe` (refused as such), `opaque` (named and not read), `accepted`, `crash`, `hang`, `executed`.
        text: the error, or what was seen. seconds: of a processor.
        memory: bytes at the peak beyond the idle process. size: bytes of the file, or of all files of the folder.
    """

    verdict: str
    text: str
    seconds: float
    memory: int
    size: int

    @property
    def bounded(self) -> bool:
        """Whether it kept to the memory that a file may ask for."""
        return self.memory <= 2 * self.size + EXTRA_BYTES


def verdicts(faults: Sequence[Fault], room: Path, *, jobs: int = 2) -> list[Outcome]:
    """Make every file in a folder of its own and run them all."""
    manifest = []
    for number, fault in enumerate(faults):
        folder = room / f"{number:04d}" / "in"
        folder.mkdir(parents=True)
        path = str(fault.make(folder))
        manifest.append({"folder": str(folder.parent), "path": path, "options": dict(fault.options)})
    command = [sys.executable, "-m", "hostile.runner", str(jobs)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, input=json.dumps(manifest), capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return [Outcome(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def as_asked(fault: Fault, outcome: Outcome) -> str:
    """What is wrong with an outcome, empty where it is as the corpus asks."""
    wanted = "unsafe" if fault.unsafe else "opaque" if fault.opaque else "accepted" if fault.kept else "refused"
    if outcome.verdict != wanted:
        return f"{outcome.verdict}, expected {wanted}: {outcome.text}"
    if fault.says and not re.search(fault.says, outcome.text):
        return f"does not say {fault.says!r}: {outcome.text}"
    named = fault.opaque or fault.kept
    if named and set(json.loads(outcome.text)) != set(named):
        return f"does not name {named}: {outcome.text}"
    if not all(part.isprintable() for part in outcome.text.split("\n")):
        return f"shows what a terminal would act on: {outcome.text!r}"
    if len(outcome.text) > 20_000:
        return f"says {len(outcome.text):,} characters"
    if not outcome.bounded:
        return f"took {outcome.memory:,} bytes for {outcome.size:,}"
    return f"took {outcome.seconds:.1f} s" if outcome.seconds > SECONDS else ""


# ---------------------------------------------------------------- the process that forks


def serve(manifest: list[dict[str, Any]], jobs: int) -> list[dict[str, Any]]:
    """Fork for each file, a few at a time, and collect what they say."""
    outcomes: list[dict[str, Any]] = [{}] * len(manifest)
    waiting: Iterator[tuple[int, dict[str, Any]]] = iter(enumerate(manifest))
    flying: dict[int, tuple[int, int, float, bytearray]] = {}
    selector = selectors.DefaultSelector()
    more = True
    while more or flying:
        while more and len(flying) < jobs:
            found = next(waiting, None)
            if found is None:
                more = False
                break
            number, row = found
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(read)
                _child(row, write)
            os.close(write)
            os.set_blocking(read, False)
            selector.register(read, selectors.EVENT_READ)
            flying[read] = (number, pid, time.monotonic(), bytearray())
        for key, _ in selector.select(0.05) if flying else ():
            while piece := _piece(key.fd):
                flying[key.fd][3].extend(piece)
            number, pid, began, text = flying[key.fd]
            if piece == b"":
                selector.unregister(key.fd)
                os.close(key.fd)
                del flying[key.fd]
                outcomes[number] = _reaped(pid, text, manifest[number], time.monotonic() - began)
        for read, (number, pid, began, _) in list(flying.items()):
            if time.monotonic() - began > 2 * CLOCK:  # the child dies of its alarm before that
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                selector.unregister(read)
                os.close(read)
                del flying[read]
                outcomes[number] = _row("hang", "killed", time.monotonic() - began, 0, manifest[number])
    return outcomes


def _piece(handle: int) -> bytes | None:
    try:
        return os.read(handle, 1 << 16)
    except BlockingIOError:
        return None


def _row(verdict: str, text: str, seconds: float, memory: int, row: dict[str, Any]) -> dict[str, Any]:
    return {"verdict": verdict, "text": text, "seconds": seconds, "memory": memory, "size": row["size"]}


def _reaped(pid: int, text: bytearray, row: dict[str, Any], seconds: float) -> dict[str, Any]:
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    appeared = sorted(set(_listing(row["folder"])) - set(row["before"]))
    if appeared:
        return _row("executed", f"made {appeared}", seconds, 0, row)
    if status in (-signal.SIGALRM, -signal.SIGPROF):
        return _row("hang", "more than its seconds", seconds, 0, row)
    if status or not text:
        return _row("crash", f"status {status}", seconds, 0, row)
    told = json.loads(text)
    return _row(told["verdict"], told["text"], told["seconds"], told["memory"], row)


def _listing(folder: str) -> list[str]:
    return [str(path) for path in Path(folder).rglob("*")]


# ---------------------------------------------------------------- the process of one file


def _child(row: dict[str, Any], pipe: int) -> None:
    """Open one file and say what came of it; never returns."""
    import stateregistry as sr
    from stateregistry.stores.limits import Limits

    seen: list[str] = []
    os.chdir(row["folder"])
    options = dict(row["options"])
    if "limits" in options:
        options["limits"] = Limits(**options["limits"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = Path("/proc/self/status").read_text(encoding="ascii")
    space = _field(status, "VmSize") + 2 * row["size"] + EXTRA_BYTES + SLACK_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    signal.alarm(CLOCK)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the high-water mark
    idle = _field(Path("/proc/self/status").read_text(encoding="ascii"), "VmRSS")
    apart = _watched_apart(row["folder"] + "-apart")
    sys.addaudithook(_Watch(seen, row["folder"]))
    begin = time.process_time()
    try:
        verdict, text = _look(sr, row["path"], options)
    except BaseException as error:  # noqa: BLE001  # whatever escapes a reader is what this is here to find
        verdict, text = "crash", "".join(traceback.format_exception(error))[-4000:]
    took = time.process_time() - begin
    peak = _field(Path("/proc/self/status").read_text(encoding="ascii"), "VmHWM")
    seen += apart.noted()
    if seen:
        verdict, text = "executed", "; ".join(seen[:5])
    told = json.dumps({"verdict": verdict, "text": text, "seconds": took, "memory": peak - idle + apart.memory()})
    with os.fdopen(pipe, "wb") as out:
        out.write(told.encode())
    os._exit(0)


@final
@dataclass(frozen=True, slots=True)
class _Apart:
    """What the process in which HDF5 is parsed noted: see `hostile.apart`."""

    path: Path

    def noted(self) -> list[str]:
        """What it did that no reader has to do."""
        return [line[2:] for line in self._lines() if line.startswith("! ")]

    def memory(self) -> int:
        """Bytes at its peak beyond what it had before it saw a file; 0 where there was none."""
        found = [int(line) for line in self._lines() if line.isdecimal()]
        return max(found) - found[0] if found else 0

    def _lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []


def _watched_apart(notes: str) -> _Apart:
    """Have HDF5 parsed by a process that is watched like this one; what it notes goes to a file beside the folder."""
    from stateregistry.stores.hdf5 import file

    file.COMMAND = (sys.executable, "-P", "-m", "hostile.apart", notes)  # type: ignore[misc]
    return _Apart(Path(notes))


def _look(sr: Any, path: str, options: dict[str, Any]) -> tuple[str, str]:
    try:
        with sr.open(path, **options) as found:
            for key in found:
                if found[key].concrete:
                    found.read(key)
                    found.view(key)
            if found.opaque:
                return "opaque", json.dumps(sorted(found.opaque))
            return "accepted", json.dumps(sorted(found)[:100])
    except sr.errors.UnsafeFileError as error:
        return "unsafe", str(error)
    except sr.errors.StateError as error:
        return "refused", str(error)


def _field(status: str, name: str) -> int:
    return 1024 * int(status.partition(f"{name}:")[2].split()[0])


@final
class _Watch:
    """An audit hook: notes what no reader has to do."""

    def __init__(self, seen: list[str], folder: str) -> None:
        self._seen = seen
        self._allowed = (
            os.path.realpath(folder),
            f"/proc/{os.getpid()}/",
            "/proc/meminfo",
            "/sys/",
            os.devnull,
            *_code(),
        )

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """Take note."""
        if event == "subprocess.Popen" and tuple(args[1])[:4] == (sys.executable, "-P", "-m", "hostile.apart"):
            return  # which notes for itself
        if event in RUNS or event in REACHES or event in CHANGES or event == "pickle.find_class":
            self._seen.append(f"{event} {str(args)[:200]}")
        elif event == "open" and isinstance(args[0], (str, bytes)):
            path = os.path.realpath(os.fsdecode(args[0]))
            if not path.startswith(self._allowed):
                self._seen.append(f"opened {path[:200]}")


def _code() -> tuple[str, ...]:
    """Where modules are imported from: that is no file of the checkpoint."""
    found = [path for path in sys.path if path] + [sys.prefix, sys.base_prefix]
    return tuple({os.path.realpath(path) + os.sep for path in found})


def main() -> int:
    """Read the manifest, load every reader, fork."""
    manifest = json.loads(sys.stdin.read())
    for row in manifest:
        row["before"] = _listing(row["folder"])
        found = [Path(name) for name in row["before"]]
        row["size"] = sum(path.stat().st_size for path in found if path.is_file() and not path.is_symlink())
    import stateregistry as sr
    from stateregistry import plugins

    plugins.stores()
    # Importing these, which the readers of some formats ask, is not what is measured.
    import h5py  # noqa: F401
    import tensorstore  # noqa: F401
    import torch  # noqa: F401

    _warm(sr)
    print(json.dumps(serve(manifest, int(sys.argv[1]))))
    return 0


def _warm(sr: Any) -> None:
    """Load what readers import when they are first used, so that a child does not."""
    import tempfile

    import numpy as np

    with tempfile.TemporaryDirectory() as room:
        for suffix in (".safetensors", ".npz", ".pt", ".msgpack"):
            path = sr.save({"w": np.zeros(2, np.float32)}, Path(room) / f"w{suffix}")
            with sr.open(path) as found:
                found.read("w")
                found.view("w")


if __name__ == "__main__":
    sys.exit(main())
