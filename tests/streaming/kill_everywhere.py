"""A program that lets conversions die just before their n-th system call, for every n: run by the tests of crashes.

It forks, and so runs in a process of its own, without a framework and its threads. Nothing is flushed and nothing is cleaned
up in a process that dies like this, as with `kill -9`.

    python kill_everywhere.py once SOURCE ROOM NUMBER KIND SHARD_BYTES
    python kill_everywhere.py all ROOM KIND SHARD_BYTES BEFORE
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np

import stateregistry as sr
from stateregistry.streaming import disk
from stateregistry.streaming.staging import leftovers

KILLED = 86


def values(seed):
    """Some values of several widths."""
    rng = np.random.default_rng(seed)
    made = {f"block{n}/weight": rng.standard_normal((6, 5)).astype(np.float32) for n in range(4)}
    return {**made, "steps": rng.integers(0, 99, 3), "flags": rng.integers(0, 2, 7).astype(bool)}


def content(path):
    """The values of a checkpoint, all of them held against their digests."""
    with sr.open(path, verify=True) as found:
        assert found.damaged() == {}, found.damaged()
        return {key: found.read(key).tobytes() for key in found}


def present(room):
    """The content of what is there, whatever form it has."""
    for name in ("model.safetensors.index.json", "model.safetensors", "model.msgpack"):
        if (room / name).exists():
            return content(room / name)
    return None


def old(room, before):
    """What is there before the conversion."""
    if before == "none":
        return None
    name = "model.msgpack" if before == "msgpack" else "model.safetensors"
    return sr.save(values(2), room / name, shard_bytes=200 if before == "shards" else None)


def execute(source, room, kind, shard_bytes, **more):
    """A conversion in one thread."""
    out = room / ("model.msgpack" if kind == "msgpack" else "model.safetensors")
    return sr.plan(source, source).execute(source, out=out, shard_bytes=shard_bytes, resume=True, workers=1, **more)


def die_at(number):
    """Let this process die just before its n-th system call."""
    count = 0

    def before(call):
        nonlocal count
        count += 1
        if count == number:
            os._exit(KILLED)

    disk.before = before


def died(number, work):
    """Whether work, in a process of its own, came as far as its n-th system call."""
    child = os.fork()
    if child == 0:
        die_at(number)
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # told by the status
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED), status
    return status == KILLED


def everywhere(folder, kind, shard_bytes, before):
    """Every n: the old or the new is whole; resume makes the new, and nothing else is left."""
    source = sr.save(values(1), folder / "source.safetensors")
    overwrite = before != "none"
    new = content(source)
    number, going = 0, True
    while going:
        number += 1
        room = folder / f"r{number}"
        room.mkdir()
        path = old(room, before)
        was = None if path is None else content(path)
        going = died(number, lambda room=room: execute(source, room, kind, shard_bytes, overwrite=overwrite))
        assert present(room) in (was, new), number
        done = execute(source, room, kind, shard_bytes, overwrite=overwrite or not going)
        assert content(done.target) == present(room) == new, number
        assert leftovers(room) == [], number
        beside = [f"{done.target.name}.stateregistry.json"] if kind == "msgpack" else []
        assert sorted(one.name for one in room.iterdir()) == sorted([*done.receipt.files, *beside]), number
        shutil.rmtree(room)
    print(number)


if __name__ == "__main__":
    job, *rest = sys.argv[1:]
    if job == "once":
        die_at(int(rest[2]))
        execute(Path(rest[0]), Path(rest[1]), rest[3], int(rest[4]) or None)
    else:
        everywhere(Path(rest[0]), rest[1], int(rest[2]) or None, rest[3])
