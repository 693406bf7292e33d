"""A program that strikes conversions at their n-th system call, for every n and in every way: run by the tests of crashes.

It forks, and so runs in a process of its own, without a framework and its threads. Nothing is flushed and nothing is cleaned
up in a process that dies like this, as with `kill -9`.

    python kill_everywhere.py once SOURCE ROOM NUMBER KIND SHARD_BYTES
    python kill_everywhere.py all ROOM KIND SHARD_BYTES BEFORE HOW...
    python kill_everywhere.py random ROOM KIND SHARD_BYTES BEFORE COUNT SEED
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import stateregistry as sr
from stateregistry.streaming.staging import leftovers

sys.path.insert(0, str(Path(__file__).parent))
from striking import FAILS, HALF, KILLED, KILLS, Strike  # found by the line above


class Where(NamedTuple):
    """Which of all the runs it is."""

    number: int
    how: str
    code: str
    resume: bool


CODES = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}
NAMES = {"msgpack": "model.msgpack", "npz": "model.npz"}


def values(seed):
    """Some values of several widths."""
    rng = np.random.default_rng(seed)
    made = {f"block{n}/weight": rng.standard_normal((6, 5)).astype(np.float32) for n in range(2)}
    return {**made, "steps": rng.integers(0, 99, 3), "flags": rng.integers(0, 2, 7).astype(bool)}


def content(path):
    """The values of a checkpoint, all of them held against their digests."""
    with sr.open(path, verify=True) as found:
        assert found.damaged() == {}, found.damaged()
        return {key: found.read(key).tobytes() for key in found}


def present(room):
    """The content of what is there, whatever form it has."""
    for name in ("model.safetensors.index.json", "model.safetensors", "model.msgpack", "model.npz"):
        if (room / name).exists():
            return content(room / name)
    return None


def old(room, before):
    """What is there before the conversion."""
    if before == "none":
        return None
    name = NAMES.get(before, "model.safetensors")
    return sr.save(values(2), room / name, shard_bytes=200 if before == "shards" else None)


def execute(source, room, kind, shard_bytes, resume=True, **more):
    """A conversion in one thread."""
    out = room / NAMES.get(kind, "model.safetensors")
    more = {"workers": 1, "resume": resume, **more} if kind != "npz" else more
    return sr.plan(source, source).execute(source, out=out, shard_bytes=shard_bytes, **more)


def died(strike, work):
    """Whether work, in a process of its own, came as far as its n-th system call."""
    child = os.fork()
    if child == 0:
        try:
            with strike:
                work()
        except BaseException as error:  # noqa: BLE001  # told by the status
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED), status
    return status == KILLED


def files_of(done, kind):
    """The names of what a conversion has written."""
    beside = [f"{done.target.name}.stateregistry.json"] if kind == "msgpack" else []
    return sorted([*done.receipt.files, *beside])


def failed(strike, work, where, new):
    """Whether work came as far as its n-th system call; if it failed, by one error of ours. Without resume, nothing is left."""
    names = sorted(one.name for one in strike.folder_path.iterdir())
    caught = None
    with strike:
        try:
            work()
        except sr.errors.StateError as error:
            caught = error
    if caught is not None:
        assert isinstance(caught, sr.errors.FileAccessError), (where, strike.struck, repr(caught))
        told = " ".join([str(caught), *getattr(caught, "__notes__", ())])
        assert os.strerror(strike.code) in told, (where, told)
        # What cannot be removed stays, and of a file that was made while the system said no nobody knows.
        stays = strike.struck == "unlink" or (strike.struck == "open" and "after" in where.how)
        left = sorted(one.name for one in strike.folder_path.iterdir())
        whole = present(strike.folder_path) == new and not leftovers(strike.folder_path)  # told too late to undo it
        assert where.resume or stays or "power cut" in told or left == names or whole, (where, strike.struck, left)
    return bool(strike.struck)


def everywhere(folder, kind, shard_bytes, before, how, code):
    """Every n: the old or the new is whole; resume makes the new, and nothing else is left. Returns how many."""
    source = sr.save(values(1), folder / "source.safetensors", overwrite=True)
    overwrite = before != "none"
    new = content(source)
    number, going = 0, True
    while going:
        number += 1
        room = folder / f"r{number}"
        room.mkdir()
        path = old(room, before)
        was = None if path is None else content(path)
        resume = kind != "npz" and not how.startswith("in one go")
        strike = Strike(room, number, how.removeprefix("in one go "), CODES.get(code, 0))
        where = Where(number, how, code, resume)

        def work(room=room, resume=resume):
            return execute(source, room, kind, shard_bytes, overwrite=overwrite, resume=resume)

        going = died(strike, work) if how in KILLS else failed(strike, work, where, new)
        assert present(room) in (was, new), where
        again = overwrite or (present(room) == new and not leftovers(room))
        done = execute(source, room, kind, shard_bytes, overwrite=again)
        assert content(done.target) == present(room) == new, where
        assert leftovers(room) == [], where
        assert sorted(one.name for one in room.iterdir()) == files_of(done, kind), (
            where, strike.struck, sorted(one.name for one in room.iterdir()),
        )  # fmt: skip
        shutil.rmtree(room)
    return number


def at_random(folder, kind, shard_bytes, before, count, seed):
    """SIGKILL at random moments of a conversion by two threads; returns how many came before it was done."""
    rng = np.random.default_rng(seed)
    large = {f"block{n}/weight": rng.standard_normal((256, 512)).astype(np.float32) for n in range(16)}
    source = sr.save(large, folder / "source.safetensors")
    new, overwrite, hit, lasts = content(source), before != "none", 0, 0.1
    for number in range(count):
        room = folder / f"r{number}"
        room.mkdir()
        path = old(room, before)
        was = None if path is None else content(path)
        begin = time.monotonic()
        child = os.fork()
        if child == 0:
            try:
                execute(source, room, kind, shard_bytes, overwrite=overwrite, workers=2)
            except BaseException as error:  # noqa: BLE001  # told by the status
                print(repr(error), flush=True)
                os._exit(1)
            os._exit(0)
        time.sleep(rng.random() * lasts * 1.1)
        os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL), status
        if status == 0:
            lasts = 0.9 * lasts + 0.1 * min(lasts, time.monotonic() - begin)
        else:
            hit += 1
            lasts *= 1.02  # so that about half of them come in time, however fast the machine is
        assert present(room) in (was, new), number
        again = overwrite or (present(room) == new and not leftovers(room))
        done = execute(source, room, kind, shard_bytes, overwrite=again)
        assert content(done.target) == present(room) == new, number
        assert sorted(one.name for one in room.iterdir()) == files_of(done, kind), number
        shutil.rmtree(room)
    return hit


def once(source, room, number, kind, shard_bytes):
    """One conversion that dies."""
    with Strike(room, number, "killed before"):
        execute(source, room, kind, shard_bytes)


if __name__ == "__main__":
    job, *rest = sys.argv[1:]
    if job == "once":
        once(Path(rest[0]), Path(rest[1]), int(rest[2]), rest[3], int(rest[4]) or None)
    elif job == "random":
        print(at_random(Path(rest[0]), rest[1], int(rest[2]) or None, rest[3], int(rest[4]), int(rest[5])))
    else:
        for one in rest[4:]:
            way, _, named = one.partition(":")
            assert way.removeprefix("in one go ") in (*KILLS, *FAILS, HALF), way
            print(everywhere(Path(rest[0]), rest[1], int(rest[2]) or None, rest[3], way, named), flush=True)
