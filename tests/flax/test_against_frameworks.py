"""Random trees and random modules: the registry lists and writes what JAX and NNX themselves see."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core import FrozenDict
from hypothesis import given, settings
from hypothesis import strategies as st

import stateregistry as sr

NAMES = st.sampled_from(["a", "b", "a.b", "a/b", "~", "w", "0", "10", "2", "é", "A"])
ARRAYS = st.builds(
    lambda shape, dtype, seed: np.random.default_rng(seed).integers(0, 100, shape).astype(dtype),
    st.sampled_from([(), (0,), (2,), (2, 3)]),
    st.sampled_from(["float32", "int32", "float16", "int64", "bool"]),
    st.integers(0, 2**16),
)
LEAVES = ARRAYS | ARRAYS.map(lambda value: jnp.array(value.astype(np.float32)))


def containers(inner):
    dicts = st.dictionaries(NAMES, inner, max_size=4)
    return st.one_of(
        dicts,
        dicts.map(FrozenDict),
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        inner.map(lambda value: nn.Partitioned(value, names=("x",))),
    )


TREES = st.dictionaries(NAMES, st.recursive(LEAVES | st.none(), containers, max_leaves=12), max_size=4)


def paths(tree):
    """What JAX sees, under keys made here: a box adds no step."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        steps = [getattr(step, "key", getattr(step, "idx", getattr(step, "name", None))) for step in path]
        boxes = [isinstance(step, jax.tree_util.GetAttrKey) for step in path]
        found["/".join(sr.keys.escape(str(step)) for step, box in zip(steps, boxes, strict=True) if not box)] = leaf
    return found


@settings(max_examples=200)
@given(TREES)
def test_linen_lists_and_writes_what_jax_sees(tree):
    variables = {"params": tree}
    expected = {key.partition("/")[2]: leaf for key, leaf in paths(variables).items()}
    reg = sr.of(variables)
    assert list(reg) == sorted(expected)
    for key, leaf in expected.items():
        value = reg.read(key)
        assert (value.shape, value.dtype.name, value.tobytes()) == (
            leaf.shape,
            leaf.dtype.name,
            np.asarray(leaf).tobytes(),
        )
    written = reg.replace({key: np.zeros_like(reg.read(key)) for key in reg}).unwrap()
    zeros = jax.tree.map(
        lambda leaf: np.zeros_like(leaf) if isinstance(leaf, np.ndarray) else jnp.zeros_like(leaf), variables
    )
    assert jax.tree.structure(written) == jax.tree.structure(zeros)
    assert [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(written)] == [
        np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(zeros)
    ]
    assert types(written) == types(variables)
    assert sr.of(written).native_order == reg.native_order


def types(tree):
    """Every container of a tree with its type and order."""
    if isinstance(tree, (dict, FrozenDict)):
        return (type(tree), [(name, types(child)) for name, child in tree.items()])
    if isinstance(tree, (list, tuple)):
        return (type(tree), [types(child) for child in tree])
    if isinstance(tree, nn.Partitioned):
        return (type(tree), tree.names, types(tree.value))
    return type(tree)


VARIABLES = st.builds(
    lambda kind, value: kind(jnp.array(value.astype(np.float32))),
    st.sampled_from([nnx.Param, nnx.BatchStat, nnx.Cache, nnx.Intermediate]),
    ARRAYS,
)


def modules(inner):
    named = st.dictionaries(NAMES, inner, max_size=4)
    return st.one_of(
        named.map(nnx.Dict),
        st.lists(inner, max_size=3).map(nnx.List),
        st.lists(inner, max_size=2).map(lambda items: nnx.Dict({"data": nnx.data(items)})),
        st.lists(inner, max_size=2).map(lambda items: nnx.Dict({"data": nnx.data(tuple(items))})),
    )


MODULES = st.dictionaries(
    NAMES, st.recursive(VARIABLES | ARRAYS | st.just(nnx.relu), modules, max_leaves=12), max_size=4
).map(nnx.Dict)


@settings(max_examples=150)
@given(MODULES, st.data())
def test_nnx_lists_and_writes_what_nnx_sees(model, data):
    nodes = [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Variable)]
    if nodes:
        model.tied = data.draw(st.sampled_from(nodes))
    reg = sr.of(model)
    listed = {
        "/".join(sr.keys.escape(str(step)) for step in path): leaf for path, leaf in nnx.to_flat_state(nnx.state(model))
    }
    aliases = reg.aliases
    assert {aliases.get(key, key) for key in listed} == set(reg)
    assert len(listed) == len(reg)
    variables = {id(leaf): leaf for leaf in listed.values() if isinstance(leaf, nnx.Variable)}
    for key, leaf in listed.items():
        raw = leaf.get_raw_value() if isinstance(leaf, nnx.Variable) else leaf
        assert reg.read(key).tobytes() == np.asarray(raw).tobytes()
    reg.replace({key: np.ones_like(reg.read(key)) for key in reg})
    for key, leaf in nnx.to_flat_state(nnx.state(model)):
        if isinstance(leaf, nnx.Variable):
            assert variables.pop(id(leaf)) is leaf, key
        raw = leaf.get_raw_value() if isinstance(leaf, nnx.Variable) else leaf
        assert np.asarray(raw).tobytes() == np.ones_like(np.asarray(raw)).tobytes()
    assert not variables
    assert sr.of(model).native_order == reg.native_order
