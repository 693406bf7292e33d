"""Run twice at once, as the two processes of one JAX program: a value that a process does not see is never given in part."""

from __future__ import annotations

import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"

import jax
import numpy as np
import pytest
from flax import nnx

import stateregistry as sr
from stateregistry import errors

jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
assert len(jax.devices()) == 2
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
old = np.arange(8, dtype=np.float32).reshape(4, 2)
new = old[::-1].copy()


def spread(value):
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def holds(array, value):
    assert array.sharding == sharding
    for shard in array.addressable_shards:
        assert np.asarray(shard.data).tobytes() == value[shard.index].tobytes()


leaf = spread(old)
assert not leaf.is_fully_addressable
model = nnx.Dict({"w": nnx.Param(leaf)})
for reg in (sr.of({"params": {"w": leaf}}), sr.of(model)):
    assert (reg["w"].shape, reg["w"].concrete) == ((4, 2), True)
    for look in (reg.read, reg.view):
        with pytest.raises(errors.UnsupportedError) as caught:
            look("w")
        assert caught.value.keys == ("w",)
    written = reg.replace({"w": new})
    native = written.unwrap()
    holds(native["w"].get_raw_value() if native is model else native["params"]["w"], new)
print("two processes: done")
