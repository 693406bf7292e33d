"""Run in a process of its own with eight virtual devices: placement survives every write."""

from __future__ import annotations

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import stateregistry as sr
from stateregistry_flax.linen_harness import harness as linen_harness
from stateregistry_flax.nnx_harness import harness as nnx_harness

P = PartitionSpec
assert len(jax.devices()) == 8
MESH = Mesh(np.array(jax.devices()).reshape(4, 2), ("rows", "columns"))
RNG = np.random.default_rng(0)


def spread(value, *axes):
    return jax.device_put(value, NamedSharding(MESH, P(*axes)))


def same(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert (found.shape, found.dtype, found.tobytes()) == (expected.shape, expected.dtype, expected.tobytes())


def check_leaves(old_leaf, new_leaf, value):
    assert new_leaf.sharding == old_leaf.sharding, (new_leaf.sharding, old_leaf.sharding)
    assert new_leaf.committed == old_leaf.committed
    assert jax.typeof(new_leaf).weak_type == jax.typeof(old_leaf).weak_type
    same(new_leaf, value)
    for shard in new_leaf.addressable_shards:
        same(shard.data, value[shard.index])


VALUES = {
    "both": spread(jnp.zeros((8, 4)), "rows", "columns"),
    "one": spread(jnp.zeros((8, 4), jnp.bfloat16), "rows", None),
    "copies": spread(jnp.zeros((3, 3))),
    "weak": spread(jnp.full((8, 4), 2.0), None, "columns"),
    "third": jax.device_put(jnp.zeros(5), jax.devices()[3]),
    "first": jnp.zeros(5),
    "large": spread(jnp.zeros((1024, 1024)), "rows", "columns"),
}
with jax.default_device(jax.devices()[5]):
    VALUES["free"] = jnp.zeros(5)
assert not VALUES["free"].committed

NEW = {key: RNG.normal(size=leaf.shape).astype(leaf.dtype) for key, leaf in VALUES.items()}

# Linen
tree = {"params": dict(VALUES), "boxed": {"box": nn.Partitioned(VALUES["both"], names=("rows", "columns"))}}
reg = sr.of(tree)
assert reg["both"].shape == (8, 4)
written = reg.replace({**NEW, "box": NEW["both"]})
for key, leaf in VALUES.items():
    check_leaves(leaf, written.unwrap()["params"][key], NEW[key])
    same(written.read(key), NEW[key])
    same(reg.read(key), leaf)
box = written.unwrap()["boxed"]["box"]
assert box.names == ("rows", "columns")
check_leaves(VALUES["both"], box.value, NEW["both"])

# NNX
model = nnx.Dict({key: nnx.Param(leaf) for key, leaf in VALUES.items()})
model["bare"] = VALUES["both"]
live = sr.of(model)
live.replace({**NEW, "bare": NEW["both"]})
for key, leaf in VALUES.items():
    check_leaves(leaf, model[key].get_raw_value(), NEW[key])
    same(live.read(key), NEW[key])
check_leaves(VALUES["both"], model["bare"], NEW["both"])

# Generators that are spread, and shapes that know where they will lie
keys = jax.device_put(jax.random.split(jax.random.key(0), 8), NamedSharding(MESH, P("rows")))
data = np.asarray(jax.random.key_data(keys))[::-1]
back = sr.of({"params": {}, "rng": {"keys": keys}}).replace({"keys": data}).unwrap()["rng"]["keys"]
assert back.sharding.is_equivalent_to(keys.sharding, 1)
same(jax.random.key_data(back), data)
shape = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=NamedSharding(MESH, P("rows", "columns")))
filled = sr.of({"params": {"w": shape}}).replace({"w": NEW["both"]}).unwrap()["params"]["w"]
check_leaves(VALUES["both"], filled, NEW["both"])

# Compiled code goes on without a copy between devices, as its arguments lie where they lay.
step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 2, tree))
only = {"params": {key: VALUES[key] for key in ("both", "one", "copies")}}
step(only)
compiled = step._cache_size()
step(sr.of(only).replace({key: NEW[key] for key in only["params"]}).unwrap())
assert step._cache_size() == compiled

# Metadata of variables made under a mesh
with jax.set_mesh(MESH):
    made = nnx.Linear(
        8, 4, kernel_init=nnx.with_partitioning(nnx.initializers.normal(), ("rows", "columns")), rngs=nnx.Rngs(0)
    )
before = (made.kernel.get_raw_value().sharding, made.kernel.get_metadata())
sr.of(made).replace({"kernel": NEW["both"]})
assert (made.kernel.get_raw_value().sharding, made.kernel.get_metadata()) == before

# The specimen of the suite
for harness in (linen_harness, nnx_harness):
    specimen = harness.specimen("sharded")
    (key,) = specimen.keys
    cell = harness.cell(specimen.model, key)
    assert len((cell if harness is linen_harness else cell.get_raw_value()).sharding.device_set) == 8
    same(harness.registry(specimen.model).read(key), specimen.declaration.values()[key])
print("eight devices: done")
