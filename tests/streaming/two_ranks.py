"""Run as one of two processes that share `DTensor`s over gloo: what each writes are the bytes of the whole, and it reads them.

python two_ranks.py FOLDER PORT RANK
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

import stateregistry as sr

FOLDER, RANK = Path(sys.argv[1]), int(sys.argv[3])
warnings.simplefilter("ignore")
dist.init_process_group("gloo", f"tcp://127.0.0.1:{sys.argv[2]}", rank=RANK, world_size=2)
mesh = init_device_mesh("cpu", (2,))


def model():
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.Linear(10, 4))


def spread(plain):
    placed = {"0.weight": Shard(0), "0.bias": Shard(0), "2.weight": Shard(1), "2.bias": Replicate()}
    for name, parameter in list(plain.named_parameters()):
        if name in placed:
            owner = plain.get_submodule(name.rpartition(".")[0])
            made = distribute_tensor(parameter.detach(), mesh, [placed[name]])
            owner.register_parameter(name.rpartition(".")[2], nn.Parameter(made))
    return plain


for kind in ("safetensors", "pt", "npz"):
    whole = sr.save(model(), FOLDER / f"whole{RANK}.{kind}")
    shards = sr.save(spread(model()), FOLDER / f"sharded{RANK}.{kind}")  # both ranks read the same keys in one order
    assert shards.read_bytes() == whole.read_bytes(), kind
    other = spread(model())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    held = {name: parameter.to_local().data_ptr() for name, parameter in other.named_parameters() if "1." not in name}
    sr.load(other, shards)
    for name, parameter in other.named_parameters():
        expected = spread(model()).get_parameter(name)
        if name in held:
            assert parameter.placements == expected.placements
            assert parameter.to_local().data_ptr() == held[name]
            parameter, expected = parameter.to_local(), expected.to_local()  # noqa: PLW2901  # the shard of this rank
        assert torch.equal(parameter, expected)
dist.barrier()
dist.destroy_process_group()
print("two ranks: done")
