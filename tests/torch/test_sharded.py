"""`DTensor`s on a mesh of one process: read whole, written where they are, never as a shard."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import stateregistry as sr
from stateregistry import errors

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def sharded_linear(mesh, placements=None, dtype=torch.float32):
    from torch.distributed.tensor import Shard, distribute_tensor

    model = nn.Linear(4, 6, dtype=dtype)
    for name, parameter in list(model.named_parameters()):
        spread = distribute_tensor(parameter.detach(), mesh, placements or [Shard(0)])
        model.register_parameter(name, nn.Parameter(spread))
    return model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
@pytest.mark.parametrize("placement", ["shard 0", "shard 1", "replicate"])
def test_a_sharded_parameter_is_read_and_written_whole(mesh, placement, dtype, bits, same):
    from torch.distributed.tensor import DTensor, Replicate, Shard

    placements = {"shard 0": [Shard(0)], "shard 1": [Shard(1)], "replicate": [Replicate()]}[placement]
    model = sharded_linear(mesh, [Shard(0)] if placement == "shard 1" else placements, getattr(torch, dtype))
    if placement == "shard 1":
        model.register_parameter("weight", nn.Parameter(model.weight.detach().redistribute(mesh, placements)))
    weight, shard = model.weight, model.weight.to_local().data_ptr()
    reg = sr.of(model)
    assert (reg["weight"].shape, reg["weight"].dtype, reg["weight"].trainable) == ((6, 4), dtype, True)
    value = bits(dtype, (6, 4))
    version = weight._version
    reg.replace({"weight": value})
    assert model.weight is weight
    assert isinstance(weight, DTensor)
    assert (weight.placements, weight.device_mesh) == (tuple(placements), mesh)
    assert weight.to_local().data_ptr() == shard
    assert weight._version > version
    assert weight.requires_grad
    assert weight.is_leaf
    same(reg.read("weight"), value)
    same(reg.view("weight"), value)
    integers = {"float32": torch.int32, "bfloat16": torch.int16, "complex64": torch.int64}[dtype]
    assert weight.detach().full_tensor().view(integers).contiguous().numpy().tobytes() == value.tobytes()


def test_a_write_between_forward_and_backward_is_noticed(mesh):
    from torch.distributed.tensor import Shard, distribute_tensor

    model = sharded_linear(mesh)
    x = distribute_tensor(torch.randn(2, 4), mesh, [Shard(0)]).requires_grad_()
    out = model(x).sum()
    sr.of(model).replace({"weight": np.zeros((6, 4), np.float32)})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def test_a_sharded_tensor_is_a_value(mesh, same):
    from torch.distributed.tensor import Shard, distribute_tensor

    model = nn.Linear(4, 6)
    value = torch.randn(6, 4)
    sr.of(model).replace({"weight": distribute_tensor(value, mesh, [Shard(0)])})
    same(sr.of(model).read("weight"), value.numpy())


def test_plain_and_sharded_models_load_from_each_other(mesh):
    plain, spread = nn.Linear(4, 6), sharded_linear(mesh)
    sr.load(sr.of(spread), sr.of(plain))
    assert torch.equal(spread.weight.detach().full_tensor(), plain.weight.detach())
    other = nn.Linear(4, 6)
    sr.load(sr.of(other), sr.of(spread))
    assert torch.equal(other.weight, plain.weight)


def test_sharded_objects_over_one_shard_are_a_tie(mesh, same):
    from torch.distributed.tensor import Replicate

    model = sharded_linear(mesh)
    model.register_parameter("again", nn.Parameter(model.weight.detach()))
    other = model.weight.detach().redistribute(mesh, [Replicate()])
    model.register_buffer("local", model.bias.detach().to_local())
    reg = sr.of(model)
    assert dict(reg.aliases) == {"weight": "again"}
    assert set(reg.opaque) == {"local"}
    value = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    reg.replace({"weight": value})
    same(reg.read("again"), value)
    assert tuple(other.shape) == (6, 4)


def test_a_partial_placement_is_read_as_its_sum_and_not_written(mesh, same):
    from torch.distributed.tensor import DTensor, Partial

    model = nn.Module()
    value = torch.randn(3)
    model.register_buffer("b", DTensor.from_local(value, mesh, [Partial()]))
    reg = sr.of(model)
    same(reg.read("b"), value.numpy())
    with pytest.raises(errors.SourceError, match="cannot be written from a full value"):
        reg.replace({"b": np.zeros(3, np.float32)})


def test_a_model_of_fully_shard_is_listed_trained_and_written(mesh):
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    fully_shard(model, mesh=mesh)
    reg = sr.of(model)
    assert list(reg) == ["0/bias", "0/weight", "1/bias", "1/weight"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    values = {key: np.full(entry.shape, 0.5, np.float32) for key, entry in reg.items()}
    reg.replace(values)
    assert all(reg.read(key).tobytes() == value.tobytes() for key, value in values.items())
    optimizer.zero_grad()
    assert model(torch.ones(1, 4)).tolist() == [[0.5 * 4 * 2.5 + 0.5] * 2]
    assert [layer.kind for layer in reg.layers] == ["linear", "linear"]


def test_a_sharded_meta_model_is_listed_and_not_filled(mesh):
    from torch.distributed.fsdp import fully_shard

    with torch.device("meta"):
        model = nn.Linear(4, 6)
    fully_shard(model, mesh=mesh)
    reg = sr.of(model)
    assert not reg["weight"].concrete
    with pytest.raises(errors.AbstractError):
        reg.read("weight")
    with pytest.raises(errors.StateError, match="to_empty"):
        reg.replace({"weight": np.zeros((6, 4), np.float32)})
    model.to_empty(device="cpu")
    reg.replace({"weight": np.ones((6, 4), np.float32)})
    assert reg["weight"].concrete
    assert reg.read("weight").sum() == 24


def test_a_failing_write_to_a_sharded_model_is_rolled_back(mesh, monkeypatch):
    model = sharded_linear(mesh)
    reg = sr.of(model)
    before = {key: reg.read(key).tobytes() for key in reg}
    calls = []
    increment = torch.autograd.graph.increment_version

    def failing(tensor):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("lost the other ranks")
        increment(tensor)

    monkeypatch.setattr(torch.autograd.graph, "increment_version", failing)
    with pytest.raises(errors.CommitError):
        reg.replace({"weight": np.zeros((6, 4), np.float32), "bias": np.zeros(6, np.float32)})
    assert {key: reg.read(key).tobytes() for key in reg} == before
