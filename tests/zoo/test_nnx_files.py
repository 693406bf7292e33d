"""The state of an NNX module in a msgpack file is its pure dict: what Flax loads by hand, and what `sr.open` reads again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flax import nnx, serialization, traverse_util

import stateregistry as sr
from stateregistry.errors import UnsupportedError


class Net(nnx.Module):
    def __init__(self, seed: int) -> None:
        rngs = nnx.Rngs(seed)
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)])
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)


class Torch(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first, self.second = torch.nn.Linear(3, 4), torch.nn.Linear(4, 4)
        self.bn = torch.nn.BatchNorm1d(4)


def by_hand(path: Path, net: nnx.Module) -> None:
    """As Flax documents it: the tree of the file in the state of a module."""
    tree = traverse_util.flatten_dict(serialization.msgpack_restore(path.read_bytes()))
    state = nnx.state(net)
    names = {tuple(map(str, where)): where for where, _ in nnx.to_flat_state(state)}
    assert tree.keys() == names.keys()
    flat = [(where, leaf.replace(tree[tuple(map(str, where))])) for where, leaf in nnx.to_flat_state(state)]
    nnx.update(net, nnx.from_flat_state(flat))


def same(net: Any, model: Torch) -> bool:
    kernels = [(net.layers[0], model.first), (net.layers[1], model.second)]
    return all(np.asarray(a.kernel[...]).tobytes() == b.weight.detach().numpy().T.tobytes() for a, b in kernels)


@pytest.mark.parametrize("like", ["module", "file"])
def test_a_file_of_an_nnx_module_is_loaded_by_hand_and_by_stateregistry(tmp_path: Path, like: str) -> None:
    model, target = Torch(), Net(0)
    given: Any = target
    if like == "file":
        given = tmp_path / "like.msgpack"
        flat = {tuple(map(str, where)): leaf.get_value() for where, leaf in nnx.to_flat_state(nnx.state(target))}
        given.write_bytes(serialization.msgpack_serialize(traverse_util.unflatten_dict(flat)))
    done = sr.convert(model, given, out=tmp_path / "out.msgpack", allow=("choice", "assumption"))
    one, two = Net(1), Net(2)
    by_hand(done.target, one)
    sr.load(two, done.target)
    assert same(one, model)
    assert same(two, model)
    with sr.open(done.target, like=Net(3)) as ckpt:
        assert set(ckpt) == set(sr.of(target))
        back = sr.convert(ckpt, Torch(), allow=("choice", "assumption")).target
    assert torch.equal(back.first.weight, model.first.weight)


def test_a_saved_nnx_module_is_its_pure_dict(tmp_path: Path) -> None:
    net = Net(4)
    sr.save(net, tmp_path / "net.msgpack")
    assert set(serialization.msgpack_restore((tmp_path / "net.msgpack").read_bytes())) == {"layers", "norm"}
    other = Net(5)
    by_hand(tmp_path / "net.msgpack", other)
    assert sr.diff(net, other).equal


def test_a_member_that_would_be_read_as_a_collection_is_refused(tmp_path: Path) -> None:
    class Named(nnx.Module):
        def __init__(self) -> None:
            self.params = nnx.Dict(inner=nnx.Param(np.ones(3, np.float32)))

    with pytest.raises(UnsupportedError, match="collection of that name"):
        sr.save(Named(), tmp_path / "net.msgpack")
    assert not (tmp_path / "net.msgpack").exists()
