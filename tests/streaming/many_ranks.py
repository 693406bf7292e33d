"""Run as one of several processes that share `DTensor`s over gloo: together they write one output and fill themselves from it.

python many_ranks.py FOLDER PORT RANK COUNT TASK

No full value may be gathered: what torch does for that is taken away. The bytes that this process reads and writes are counted.
Prints them as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh

import stateregistry as sr
from stateregistry import errors

FOLDER, PORT, RANK, COUNT, TASK = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
warnings.simplefilter("ignore")
dist.init_process_group("gloo", f"tcp://127.0.0.1:{PORT}", rank=RANK, world_size=COUNT)
mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b")) if COUNT == 4 else init_device_mesh("cpu", (COUNT,))
WIDE = 512


def plain(seed=4):
    """Every bit at random, NaNs among them; sizes that do not divide; one module under two names."""
    torch.manual_seed(seed)
    model = nn.Module()
    model.a = nn.Linear(WIDE, WIDE + 1)
    model.b = nn.Linear(WIDE, 7)
    model.c = nn.Linear(3, 5)
    model.norm = nn.BatchNorm1d(6)
    model.d = model.a
    for tensor in model.parameters():
        raw = np.random.default_rng([seed, *tensor.shape]).bytes(tensor.numel() * 4)
        tensor.data = torch.frombuffer(bytearray(raw), dtype=torch.float32).reshape(tensor.shape)
    model.to_half = nn.Parameter(torch.arange(WIDE * 8, dtype=torch.int16).view(torch.bfloat16).reshape(8, WIDE))
    return model


PLACED = {
    "a.weight": [Shard(0), Shard(1)], "a.bias": [Shard(0), Replicate()], "b.weight": [Shard(1), Shard(0)],
    "c.weight": [Replicate(), Replicate()], "to_half": [Shard(0), Shard(0)],
}  # fmt: skip


def spread(model):
    """The same model with sharded parameters; those of `norm`, `b.bias` and `c.bias` stay plain."""
    for name, placements in PLACED.items():
        owner, _, last = name.rpartition(".")
        module = model.get_submodule(owner)
        made = distribute_tensor(getattr(module, last).detach(), mesh, placements[: mesh.ndim], src_data_rank=None)
        module.register_parameter(last, nn.Parameter(made))
    return model


def refuse(*_, **__):
    raise AssertionError("a value was gathered")


class Counted:
    """Bytes that go through the system calls that read and write at positions."""

    def __init__(self):
        self.read = self.written = 0

    def __enter__(self):
        self._real = os.preadv, os.pread, os.pwrite, DTensor.full_tensor

        def preadv(handle, buffers, offset, *more):
            count = self._real[0](handle, buffers, offset, *more)
            self.read += count
            return count

        def pread(handle, count, offset):
            raw = self._real[1](handle, count, offset)
            self.read += len(raw)
            return raw

        def pwrite(handle, raw, offset):
            self.written += self._real[2](handle, raw, offset)
            return len(raw)

        os.preadv, os.pread, os.pwrite, DTensor.full_tensor = preadv, pread, pwrite, refuse
        return self

    def __exit__(self, *_):
        os.preadv, os.pread, os.pwrite, DTensor.full_tensor = self._real


def zeroed(model):
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            (tensor.to_local() if isinstance(tensor, DTensor) else tensor).zero_()
    return model


def bits_of(tensor):
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.detach().reshape(-1).view(torch.uint8).numpy().tobytes() if local.numel() else b""


def held(model):
    return [bits_of(tensor) for tensor in (*model.parameters(), *model.buffers())]


def own_bytes(model):
    return sum(len(raw) for raw in held(model))


CASES = [("one.safetensors", {}), ("cut.safetensors", {"shard_bytes": 300_000}), ("one.msgpack", {}), ("one.dcp", {})]


def alone():
    """The same model without shards, by one process."""
    for name, more in CASES:
        sr.save(plain(), FOLDER / name, **more)
    return {}


def write_and_read():
    """Every format that can be written together, and what each process reads to fill itself."""
    told = {"own": own_bytes(spread(plain()))}
    for name, more in CASES:
        model = spread(plain())
        with Counted() as counted:
            made = sr.save(model, FOLDER / name, **more)
        other = zeroed(spread(plain()))
        places = [
            (id(one), (one.to_local() if isinstance(one, DTensor) else one).data_ptr()) for one in other.parameters()
        ]
        with Counted() as opening:
            sr.open(made).close()
        with Counted() as reading:
            sr.load(other, made)
        now = [
            (id(one), (one.to_local() if isinstance(one, DTensor) else one).data_ptr()) for one in other.parameters()
        ]
        assert places == now
        assert held(other) == held(spread(plain())), name
        told[name] = {"written": counted.written, "read": reading.read - opening.read}
    return told


def disagree():
    """A buffer that is another one in each process; and the old output stays."""
    model = spread(plain())
    with torch.no_grad():
        model.norm.running_mean.fill_(float(RANK))
    for name in ("one.safetensors", "one.dcp"):
        with pytest.raises(errors.UnsupportedError) as caught:
            sr.save(model, FOLDER / name, overwrite=True)
        assert caught.value.keys == ("norm/running_mean",)
    return {}


def fail():
    """One process cannot read what it holds: all of them fail."""
    model = spread(plain(seed=9))
    if RANK == COUNT - 1:
        from stateregistry_torch.registry import TorchRegistry

        def broken(self, key):
            raise RuntimeError("the device is lost")

        TorchRegistry.part = broken
    for name in ("one.safetensors", "one.dcp"):
        with pytest.raises((errors.FileAccessError, RuntimeError), match="the device is lost"):
            sr.save(model, FOLDER / name, overwrite=True)
    return {}


def die():
    """One process is killed while it writes: the others say so."""
    model = spread(plain(seed=9))
    if RANK == COUNT - 1:
        from stateregistry.stores import together

        together._put = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(errors.FileAccessError, match="does not answer"):
        sr.save(model, FOLDER / "one.safetensors", overwrite=True)
    print(json.dumps({}), flush=True)
    os._exit(0)  # the group cannot be taken down any more


def refused():
    """What cannot be written together is said before anything is written; and paths that differ are outputs of their own."""
    model = spread(plain())
    for name, text in (("one.npz", "is written by one process"), ("memory://x/one.safetensors", "this is a URL")):
        with pytest.raises(errors.UnsupportedError, match=text):
            sr.save(model, name if "://" in name else FOLDER / name)
    if COUNT > 2:
        with pytest.raises(errors.UnsupportedError, match="others to another"):
            sr.save(model, FOLDER / f"mixed{min(RANK, 1)}.safetensors")
    sr.save(model, FOLDER / f"own{RANK}.safetensors")
    with pytest.raises((errors.TargetExistsError, errors.FileAccessError), match="exists already"):
        sr.save(model, FOLDER / "one.safetensors")
    return {}


TASKS = {"alone": alone, "write": write_and_read, "disagree": disagree, "fail": fail, "die": die, "refused": refused}
told = TASKS[TASK]()
dist.barrier()
dist.destroy_process_group()
print(json.dumps(told), flush=True)
