"""Run in a process of its own with eight virtual devices: files of sharded arrays are those of whole ones, both ways.

python eight_devices.py FOLDER
"""

from __future__ import annotations

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import stateregistry as sr

FOLDER = Path(sys.argv[1])
assert len(jax.devices()) == 8
MESH = Mesh(np.array(jax.devices()).reshape(4, 2), ("rows", "columns"))
RNG = np.random.default_rng(0)
PLACED = {"both": ("rows", "columns"), "one": ("rows",), "other": (None, "columns"), "copies": ()}
VALUES = {
    name: RNG.integers(0, 256, (256, 64, 4), np.uint8).view(np.float32)[..., 0] for name in PLACED
}  # fmt: skip  # any bits, NaNs among them


def spread(name, value):
    return jax.device_put(value, NamedSharding(MESH, PartitionSpec(*PLACED[name])))


def largest():
    """The largest array that any device holds, in bytes."""
    return max(shard.data.nbytes for array in jax.live_arrays() for shard in array.addressable_shards)


def bytes_of(path):
    return [(file.name, file.read_bytes()) for file in sorted(path.rglob("*")) if file.is_file()]


def both(kind, name, whole, sharded, **more):
    """The file of one state and of the other, which have to be the same bytes."""
    made = []
    for how, state in (("whole", whole), ("sharded", sharded)):
        folder = FOLDER / f"{kind}-{how}"
        folder.mkdir()
        sr.save(state, folder / name, **more)
        made.append(bytes_of(folder))
    assert made[0] == made[1], kind
    return FOLDER / f"{kind}-sharded"


NAMES = ("both", "one", "other")  # what is copied to every device is whole on each
whole = {"params": {name: VALUES[name] for name in NAMES}}
sharded = {"params": {name: spread(name, VALUES[name]) for name in NAMES}}
limit = largest()
assert limit == 256 * 64 * 4 // 2  # "other" lies on two columns
for kind, file, more in (
    ("safetensors", "m.safetensors", {}), ("shards", "m.safetensors", {"shard_bytes": 70_000}), ("msgpack", "m.msgpack", {}),
    ("npz", "m.npz", {}),
):  # fmt: skip
    folder = both(kind, file, whole, sharded, **more)
    assert largest() == limit, "a device held more than its shard"
    path = folder / file if (folder / file).exists() else folder
    with sr.open(path) as found:
        keys = {key.removeprefix("params/"): key for key in found}
        assert all(found.read(keys[name]).tobytes() == VALUES[name].tobytes() for name in NAMES)
        empty = {"params": {name: spread(name, np.zeros_like(VALUES[name])) for name in NAMES}}
        source = {name: found.read(key) for name, key in keys.items()}
        filled = sr.load(empty, source).unwrap()["params"]
    for name in NAMES:
        assert filled[name].sharding == sharded["params"][name].sharding
        for shard in filled[name].addressable_shards:
            assert np.asarray(shard.data).tobytes() == np.ascontiguousarray(VALUES[name][shard.index]).tobytes()
    assert largest() == limit, "a device held more than its shard"
    del filled, empty

model = nnx.Dict({name: nnx.Param(spread(name, np.zeros_like(VALUES[name]))) for name in NAMES})
sr.load(model, FOLDER / "safetensors-sharded" / "m.safetensors")
for name in NAMES:
    leaf = model[name].get_raw_value()
    assert leaf.sharding == sharded["params"][name].sharding
    assert np.asarray(leaf).tobytes() == VALUES[name].tobytes()
print("eight devices: done")
