"""A run that dies or fails at any of its system calls: the old or the new checkpoint is whole, and resume completes."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import stateregistry as sr
from stateregistry import errors
from stateregistry.streaming import disk
from stateregistry.streaming.staging import leftovers

#: What is written, and what was there before under that name.
OUTPUTS = [
    ("single", None, None), ("single", None, "single"), ("shards", 150, None), ("shards", 150, "shards"),
    ("shards", 150, "single"),
]  # fmt: skip


def old(room, before, arrays):
    shard_bytes = 200 if before == "shards" else None
    return None if before is None else sr.save(arrays, room / "model.safetensors", shard_bytes=shard_bytes)


def execute(source, room, shard_bytes, *, overwrite=False, resume=False, **more):
    plan = sr.plan(source, source)
    out = room / "model.safetensors"
    return plan.execute(source, out=out, shard_bytes=shard_bytes, overwrite=overwrite, resume=resume, workers=1, **more)


def present(room, content):
    """The content of what is there, whatever form it has."""
    for name in ("model.safetensors.index.json", "model.safetensors", "model.msgpack"):
        if (room / name).exists():
            return content(room / name)
    return None


PROGRAM = Path(__file__).with_name("kill_everywhere.py")
FORMATS = [("msgpack", None, None), ("msgpack", None, "msgpack"), ("npz", None, None), ("npz", None, "npz")]
#: Every way in which a system call is struck; beside a kill, each output has one of the few, in turn.
WAYS = (
    "killed before", "killed after", "half", "fails before:EIO", "fails after:EIO", "fails before:ENOSPC",
    "fails after:ENOSPC", "in one go fails before:ENOSPC", "in one go fails after:EIO",
)  # fmt: skip
FEW = ("half", "fails after:EIO", "in one go fails before:ENOSPC")


def struck(folder, kind, shard_bytes, before, *ways):
    command = [sys.executable, PROGRAM, "all", folder, kind, str(shard_bytes or 0), before or "none", *ways]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = [int(line) for line in done.stdout.split()]
    assert len(counts) == len(ways)
    assert min(counts) > 20
    return sum(counts)


@pytest.mark.parametrize("output", range(len(OUTPUTS) + len(FORMATS)), ids=lambda n: str([*OUTPUTS, *FORMATS][n]))
def test_struck_at_any_system_call_one_checkpoint_is_whole_and_another_run_completes(tmp_path, output):
    struck(tmp_path, *[*OUTPUTS, *FORMATS][output], "killed before", FEW[output % len(FEW)])


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "shard_bytes", "before"), [*OUTPUTS, *FORMATS])
def test_struck_in_every_way_at_any_system_call(tmp_path, record_property, kind, shard_bytes, before):
    runs = struck(tmp_path, kind, shard_bytes, before, *WAYS)
    record_property("told", f"{runs:,} runs, one strike each")


def killed(folder, kind, shard_bytes, before, count, seed):
    """SIGKILL so often at random moments; how many came before the work was done."""
    command = [sys.executable, PROGRAM, "random", folder, kind, str(shard_bytes or 0), before or "none", str(count)]
    done = subprocess.run([*command, str(seed)], check=False, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stdout.split()[-1])


def test_killed_at_random_moments_one_checkpoint_is_whole_and_resume_completes(tmp_path):
    assert killed(tmp_path, "shards", 1_500_000, "shards", 25, 1) > 5


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "shard_bytes", "before", "count"),
    [
        ("single", None, None, 420), ("single", None, "single", 420), ("shards", 1_500_000, "shards", 640),
        ("shards", 1_500_000, None, 220), ("msgpack", None, "msgpack", 420),
    ],
)  # fmt: skip
def test_a_thousand_kills_at_random_moments(tmp_path, record_property, kind, shard_bytes, before, count):
    """In all of them together: about half of the moments come after the end."""
    hit = killed(tmp_path, kind, shard_bytes, before, count, 2)
    record_property("told", f"{count} runs, SIGKILL in {hit} of them before the end")
    assert hit > count // 5


def test_ctrl_c_on_the_command_line_is_130_and_leaves_what_was_there(tmp_path, values):
    rng = np.random.default_rng(1)
    state = {f"layers/{n}/weight": rng.standard_normal((2048, 4096), dtype=np.float32) for n in range(8)}
    source = sr.save(state, tmp_path / "source.safetensors")
    room = tmp_path / "out"
    how = ["--to", "torch", "--allow", "assumption", "--allow", "choice"]
    for _ in range(5):  # the work may be done before the signal comes
        shutil.rmtree(room, ignore_errors=True)
        room.mkdir()
        before = sr.save(values(2), room / "model.safetensors").read_bytes()
        command = [
            sys.executable,
            "-m",
            "stateregistry",
            "convert",
            source,
            room / "model.safetensors",
            "--overwrite",
            *how,
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
            while running.poll() is None and not list(room.glob("*.partial")):
                time.sleep(0.001)
            running.send_signal(signal.SIGINT)
            told = running.stderr.read()
        if running.returncode != 0:
            break
    assert running.returncode == 130, told
    assert "Traceback" not in told
    assert [path.name for path in room.iterdir()] == ["model.safetensors"]
    assert (room / "model.safetensors").read_bytes() == before


def test_resume_does_only_what_the_journal_does_not_prove(source, room, content, killed_at, monkeypatch):
    writes = []
    monkeypatch.setattr(disk, "before", lambda call: writes.append(call))
    execute(source, room, None, resume=True)
    total = writes.count("write")
    (room / "model.safetensors").unlink()
    monkeypatch.undo()
    killed_at(0.7, source, room)
    monkeypatch.setattr(disk, "before", lambda call: writes.append(call))
    assert leftovers(room)
    writes.clear()
    execute(source, room, None, resume=True)
    assert 0 < writes.count("write") < total
    assert content(room / "model.safetensors") == content(source)


def test_a_part_that_was_damaged_since_is_written_again(source, room, content, killed_at):
    """The journal says that a value is there: only its bytes prove it."""
    killed_at(0.5, source, room, shard_bytes=150)
    for part in leftovers(room):
        if part.suffix == ".partial":
            part.write_bytes(b"\xee" * part.stat().st_size)
    done = execute(source, room, 150, resume=True)
    assert content(done.target) == content(source)
    assert leftovers(room) == []


@pytest.mark.parametrize("resume", [True, False])
def test_what_another_run_left_is_not_taken_for_this_one(source, room, content, values, killed_at, resume):
    other = sr.save(values(5), source.with_name("other.safetensors"))
    killed_at(0.6, other, room)
    assert leftovers(room)
    done = execute(source, room, None, resume=resume)
    assert content(done.target) == content(source)
    assert leftovers(room) == []


def test_reading_that_fails_leaves_nothing(source, room, failing_at, monkeypatch):
    made = failing_at(3, OSError(errno.EIO, "Input/output error"), {"read"})
    with pytest.raises(errors.FileAccessError, match=r"source\.safetensors: reading failed: Input/output"):
        execute(source, room, None)
    assert made == ["read"] * 3
    assert list(room.iterdir()) == []


def test_short_reads_and_writes_are_continued(source, room, content, monkeypatch):
    write, read = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: write(fd, bytes(data[:7]), at))
    monkeypatch.setattr(os, "preadv", lambda fd, parts, at: read(fd, [parts[0][:5]], at))
    done = execute(source, room, 150)
    monkeypatch.undo()
    assert content(done.target) == content(source)


def test_ctrl_c_leaves_nothing_or_what_resume_needs(source, room, content):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(source, room, None, progress=stop)
    assert list(room.iterdir()) == []
    with pytest.raises(KeyboardInterrupt):
        execute(source, room, None, progress=stop, resume=True)
    assert {path.suffix for path in room.iterdir()} == {".partial", ".journal"}
    execute(source, room, None, resume=True)
    assert [path.name for path in room.iterdir()] == ["model.safetensors"]


def test_two_runs_into_one_target_do_not_mix(source, room):
    def again(done, total):
        with pytest.raises(errors.FileAccessError, match="another process is writing it"):
            execute(source, room, None, overwrite=True)

    execute(source, room, None, progress=again)
    assert [path.name for path in room.iterdir()] == ["model.safetensors"]


def test_a_disk_that_is_too_small_is_said_before_the_work_starts(source, room, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(errors.FileAccessError, match="the disk has 100 free"):
        execute(source, room, None)
    assert list(room.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_said_before_the_work_starts(source, room, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(errors.FileAccessError, match="not writable"):
        execute(source, room, None)


@pytest.mark.parametrize("mask", [0o022, 0o077])
@pytest.mark.parametrize("shard_bytes", [None, 150])
def test_new_files_have_the_mode_of_the_umask(source, room, mask, shard_bytes):
    before = os.umask(mask)
    try:
        execute(source, room, shard_bytes)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in room.iterdir()} == {0o666 & ~mask}


def test_a_source_is_never_its_own_target(source):
    plan = sr.plan(source, source)
    with pytest.raises(errors.UnsupportedError, match="is the file that the values come from"):
        plan.execute(source, out=source, overwrite=True)


def test_a_target_that_exists_is_refused(source, room):
    execute(source, room, 150)
    before = {path.name: path.read_bytes() for path in room.iterdir()}
    with pytest.raises(errors.TargetExistsError):
        execute(source, room, 150)
    assert {path.name: path.read_bytes() for path in room.iterdir()} == before


def test_a_source_that_changes_its_length_meanwhile_is_an_error(source, room):
    plan = sr.plan(source, source)
    with sr.open(source) as here, pytest.raises(errors.FileFormatError, match="when it was opened"):
        plan.execute(
            here, out=room / "o.safetensors", progress=lambda done, total: os.truncate(source, 4000), workers=1
        )
    assert list(room.iterdir()) == []


def test_values_larger_than_any_window_need_no_more_memory(tmp_path):
    """Peak anonymous memory is that of the windows, whatever the largest tensor has."""
    rng = np.random.default_rng(0)
    big = rng.integers(0, 2**31, (12000, 4096), dtype=np.int32).view(np.float32)
    path = sr.save({"head/weight": big, "head/bias": np.zeros(12000, np.float32)}, tmp_path / "big.safetensors")
    del big
    code = f"""
import threading
from pathlib import Path
from types import SimpleNamespace
import stateregistry as sr
from stateregistry.conversion.execution import execute
def now():
    return 1024 * int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0])
plan = sr.plan({str(path)!r}, to="numpy")
print(plan)
idle, peak, over = now(), [0], threading.Event()
def watch():
    while not over.wait(0.005):
        peak[0] = max(peak[0], now())
thread = threading.Thread(target=watch)
thread.start()
plan.execute({str(path)!r}, out={str(tmp_path / "o.safetensors")!r}, workers=2)
over.set()
thread.join()
print("GREW", peak[0] - idle)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.partition("GREW")[2]) <= 96e6
