"""What a registry over an NNX module lists: variables of every type, bare arrays, ties, cycles, live changes."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import Entry, Kind
from stateregistry_flax import graph

F32 = np.float32


class Scale(nnx.Param):
    """A parameter type of the user's own."""


class Counter(nnx.Variable):
    """A buffer type of the user's own."""


class Model(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(2, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.scale = Scale(jnp.ones(3))
        self.count = Counter(jnp.zeros((), jnp.int32))
        self.cache = nnx.Cache(jnp.zeros(2))
        self.seen = nnx.Intermediate(jnp.zeros(2))
        self.noise = nnx.Perturbation(jnp.zeros(2))
        self.raw = jnp.zeros(4)
        self.host = np.zeros(4)
        self.none = nnx.Param(None)
        self.rate = 0.5
        self.act = nnx.relu


def test_every_type_of_variable_has_its_kind_and_tag():
    reg = sr.of(Model(nnx.Rngs(0)))
    rows = {key: (entry.kind.name, entry.tag, entry.persistent, entry.rng) for key, entry in reg.items()}
    assert rows == {
        "linear/kernel": ("PARAMETER", "Param", True, False),
        "linear/bias": ("PARAMETER", "Param", True, False),
        "norm/scale": ("PARAMETER", "Param", True, False),
        "norm/bias": ("PARAMETER", "Param", True, False),
        "norm/mean": ("BUFFER", "BatchStat", True, False),
        "norm/var": ("BUFFER", "BatchStat", True, False),
        "drop/rngs/key": ("BUFFER", "RngKey", True, True),
        "drop/rngs/count": ("BUFFER", "RngCount", True, True),
        "scale": ("PARAMETER", "Scale", True, False),
        "count": ("BUFFER", "Counter", True, False),
        "cache": ("BUFFER", "Cache", True, False),
        "seen": ("BUFFER", "Intermediate", False, False),
        "noise": ("BUFFER", "Perturbation", False, False),
        "raw": ("BUFFER", "array", True, False),
        "host": ("BUFFER", "array", True, False),
    }
    assert list(reg) == sorted(rows)
    assert reg["host"].dtype == "float64"
    assert reg["drop/rngs/key"] == Entry(Kind.BUFFER, (2,), "uint32", rng=True)
    assert reg.opaque == {}
    assert (reg.adapter, reg.dialect, reg.in_place) == ("flax-nnx", "flax-nnx", True)


def test_the_listing_is_what_nnx_state_lists():
    model = Model(nnx.Rngs(0))
    listed = {"/".join(map(str, path)) for path, leaf in nnx.to_flat_state(nnx.state(model))}
    assert listed == {*sr.of(model), "none"}


def test_native_order_is_the_order_of_declaration():
    class Two(nnx.Module):
        def __init__(self):
            self.z = nnx.Param(jnp.ones(1))
            self.a = nnx.List([nnx.Param(jnp.ones(1)) for _ in range(12)])

    assert sr.of(Two()).native_order == ("z", *(f"a/{n}" for n in range(12)))


def test_lists_dicts_and_odd_names_are_walked(same):
    class Odd(nnx.Module):
        def __init__(self):
            self.names = nnx.Dict(
                {"a.x/y": nnx.Param(jnp.ones(2)), "~": nnx.Param(jnp.ones(2)), "0": nnx.Param(jnp.ones(1))}
            )
            self.layers = nnx.List([nnx.Param(jnp.ones(1)), nnx.Dict({"é": nnx.Param(jnp.ones(1))})])
            self.plain = nnx.data({"k": [jnp.ones(1), nnx.Param(jnp.ones(1))], "t": (jnp.ones(2),)})

    model = Odd()
    reg = sr.of(model)
    assert list(reg) == [
        "layers/0", "layers/1/é", "names/0", "names/a.x~1y", "names/~0", "plain/k/0", "plain/k/1", "plain/t/0",
    ]  # fmt: skip
    for key in reg:
        new = np.full(reg[key].shape, 7, F32)
        same(reg.replace({key: new}).read(key), new)
        assert reg[key].concrete
    assert model.names["a.x/y"][...].tolist() == [7, 7]
    assert type(model.plain["t"]) is tuple
    assert model.plain["t"][0].tolist() == [7, 7]


def test_an_empty_name_and_a_mix_of_indices_and_names_are_refused():
    model = nnx.Dict({"a": nnx.Param(jnp.ones(1))})
    setattr(model, "", nnx.Param(jnp.ones(1)))
    with pytest.raises(errors.KeyPathError):
        sr.of(model)

    class Mixed(nnx.Module):
        def __init__(self):
            self.d = nnx.data(OrderedDict({0: jnp.ones(1), "0": jnp.ones(1)}))

    with pytest.raises(errors.UnsupportedError, match="cannot list"):
        sr.of(Mixed())


def test_what_is_no_array_is_opaque():
    class Other(nnx.Module):
        def __init__(self):
            self.tree = nnx.Variable({"a": jnp.ones(2)})
            self.number = nnx.Param(3)
            self.tiny = nnx.Param(jnp.ones(2, jnp.int4))
            self.marked = nnx.data(42)
            self.w = nnx.Param(jnp.ones(2))
            self.again = self.tree

    reg = sr.of(Other())
    assert list(reg) == ["w"]
    assert set(reg.opaque) == {"tree", "number", "tiny", "marked", "again"}
    assert reg.aliases == {}
    with pytest.raises(errors.OpaqueError):
        reg.read("tree")


class Tied(nnx.Module):
    def __init__(self, rngs):
        self.z = nnx.Linear(2, 2, rngs=rngs)
        self.a = self.z
        self.head = nnx.Linear(2, 2, rngs=rngs)
        self.head.kernel = self.z.kernel


def test_shared_modules_and_variables_are_aliases_of_the_least_key(bits, same):
    model = Tied(nnx.Rngs(0))
    reg = sr.of(model)
    assert list(reg) == ["a/bias", "a/kernel", "head/bias"]
    assert reg.aliases == {"head/kernel": "a/kernel", "z/bias": "a/bias", "z/kernel": "a/kernel"}
    new = bits(shape=(2, 2))
    reg = reg.replace({"z/kernel": new})
    for key in ("a/kernel", "z/kernel", "head/kernel"):
        same(reg.read(key), new)
    assert model.head.kernel is model.z.kernel
    with pytest.raises(errors.ConflictError):
        reg.replace({"z/kernel": new, "head/kernel": new + 1})
    with pytest.raises(KeyError, match="alias"):
        reg["z/kernel"]
    assert reg.with_trainable({"head/kernel": False})["a/kernel"].trainable is False


def test_one_array_in_two_variables_or_attributes_is_no_alias(same):
    class Shared(nnx.Module):
        def __init__(self, array):
            self.a, self.b = nnx.Param(array), nnx.Param(array)
            self.c, self.d = array, array
            self.s, self.t = nnx.data((array,)), nnx.data((array,))

    reg = sr.of(Shared(jnp.ones(2)))
    assert reg.aliases == {}
    assert len(reg) == 6
    reg.replace({"a": np.zeros(2, F32), "c": np.zeros(2, F32), "s/0": np.zeros(2, F32)})
    for key in ("b", "d", "t/0"):
        same(reg.read(key), np.ones(2, F32))


def test_one_tuple_in_two_attributes_holds_two_places(same):
    class Shared(nnx.Module):
        def __init__(self):
            pair = (jnp.ones(2), nnx.Param(jnp.ones(1)))
            self.s, self.t = nnx.data(pair), nnx.data(pair)

    reg = sr.of(Shared())
    assert list(reg) == ["s/0", "s/1", "t/0"]
    assert reg.aliases == {"t/1": "s/1"}
    reg.replace({"s/0": np.zeros(2, F32)})
    same(reg.read("t/0"), np.ones(2, F32))
    assert reg.aliases == {"t/1": "s/1"}


def test_bare_arrays_of_a_shared_module_and_of_a_shared_list_are_aliases(same):
    class Table(nnx.Module):
        def __init__(self):
            self.raw = jnp.ones(2)

    class Shared(nnx.Module):
        def __init__(self):
            self.a = Table()
            self.b = self.a
            values = [jnp.ones(1)]
            self.l, self.m = nnx.data(values), nnx.data(values)

    model = Shared()
    reg = sr.of(model)
    assert reg.aliases == {"b/raw": "a/raw", "m/0": "l/0"}
    reg.replace({"b/raw": np.zeros(2, F32), "m/0": np.zeros(1, F32)})
    assert model.a.raw.tolist() == [0, 0]
    assert model.l[0].tolist() == [0]


def test_cycles_end_where_they_close():
    class Child(nnx.Module):
        def __init__(self, parent):
            self.parent = parent
            self.w = nnx.Param(jnp.ones(1))

    class Parent(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.ones(1))
            self.left, self.right = Child(self), Child(self)
            self.left.twin, self.right.twin = self.right, self.left

    reg = sr.of(Parent())
    assert list(reg) == ["left/twin/w", "left/w", "w"]
    assert reg.aliases == {"right/twin/w": "left/w", "right/w": "left/twin/w"}


def test_sharing_without_end_is_refused(monkeypatch):
    class Knot(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.ones(1))

    knots = [Knot() for _ in range(12)]
    for knot in knots:
        knot.others = nnx.List([other for other in knots if other is not knot])
    monkeypatch.setattr(graph, "MOST_PATHS", 5000)
    start = time.perf_counter()
    with pytest.raises(errors.UnsupportedError, match="paths"):
        sr.of(knots[0])
    assert time.perf_counter() - start < 20


def test_native_changes_of_structure_are_seen(same):
    model = Tied(nnx.Rngs(0))
    reg = sr.of(model)
    model.extra = nnx.Param(jnp.full(3, 5.0))
    assert "extra" in reg
    same(reg.read("extra"), np.full(3, 5, F32))
    del model.extra
    assert "extra" not in reg
    with pytest.raises(KeyError):
        reg["extra"]
    model.head.bias = nnx.BatchStat(jnp.ones(2))
    assert reg["head/bias"].kind is Kind.BUFFER
    model.head.kernel = nnx.Param(jnp.ones((2, 2)))
    assert "head/kernel" in reg
    assert "head/kernel" not in reg.aliases
    model.head.kernel = nnx.Param(None)
    assert "head/kernel" not in reg


def test_a_native_tie_is_seen_by_the_next_listing():
    model = Tied(nnx.Rngs(0))
    model.head.kernel = nnx.Param(jnp.ones((2, 2)))
    reg = sr.of(model)
    model.head.kernel = model.z.kernel
    assert "head/kernel" not in reg
    assert reg.aliases["head/kernel"] == "a/kernel"


def test_native_changes_of_values_are_seen(same):
    model = Model(nnx.Rngs(0))
    reg = sr.of(model)
    model.linear.kernel[...] = jnp.full((2, 3), 2.0)
    model.raw = jnp.full(4, 3.0)
    same(reg.read("linear/kernel"), np.full((2, 3), 2, F32))
    same(reg.read("raw"), np.full(4, 3, F32))
    model.raw = jnp.full(5, 3.0)
    assert reg["raw"].shape == (5,)


def test_lookups_cost_no_walk(monkeypatch):
    model = nnx.List([nnx.Linear(1, 1, rngs=nnx.Rngs(0)) for _ in range(50)])
    reg = sr.of(model)
    walks = []
    real = graph.walk
    monkeypatch.setattr(graph, "walk", lambda root: walks.append(1) or real(root))
    for key in list(reg.native_order):
        assert reg[key].shape
        reg.read(key)
        assert f"{key}/nothing" not in reg
        assert "nothing" not in reg
        assert "1/nothing" not in reg
        assert "//" not in reg
    assert len(walks) == 1
    model[3].kernel.set_raw_value(jnp.zeros((1, 1)))
    assert reg.read("3/kernel").tolist() == [[0]]
    assert len(walks) == 1
    model[3].kernel = nnx.Param(jnp.ones((1, 1)))
    assert reg.read("3/kernel").tolist() == [[1]]
    assert len(walks) == 2


def test_an_alias_is_told_from_a_new_place_without_a_walk(monkeypatch):
    reg = sr.of(Tied(nnx.Rngs(0)))
    walks = []
    real = graph.walk
    monkeypatch.setattr(graph, "walk", lambda root: walks.append(1) or real(root))
    assert "z/kernel" not in reg
    assert walks == []


def test_a_walk_takes_no_more_calls_than_nnx_state():
    model = nnx.List([nnx.Linear(1, 1, rngs=nnx.Rngs(0)) for _ in range(200)])

    def calls(function):
        made = 0

        def count(frame, event, argument):
            nonlocal made
            made += event in ("call", "c_call")

        sys.setprofile(count)
        try:
            function()
        finally:
            sys.setprofile(None)
        return made

    reg = sr.of(model)
    assert calls(lambda: dict(reg)) < 2 * calls(lambda: nnx.state(model))


def test_listing_has_no_effect():
    model = Model(nnx.Rngs(0))
    before = [(path, id(node)) for path, node in nnx.iter_graph(model)]
    reg = sr.of(model)
    assert dict(reg) == dict(reg)
    assert (reg.aliases, reg.opaque, reg.native_order) == (reg.aliases, reg.opaque, reg.native_order)
    sr.snapshot(reg)
    assert [(path, id(node)) for path, node in nnx.iter_graph(model)] == before
    assert model.drop.rngs.count[...] == 0


def test_an_empty_module_is_a_registry_of_nothing():
    reg = sr.of(nnx.Dict({}))
    assert (len(reg), reg.replace({}), sr.snapshot(reg), reg.layers) == (0, reg, {}, ())


def test_modules_that_are_no_pytrees_are_walked(same):
    class Plain(nnx.Module, pytree=False):
        def __init__(self):
            self.w = nnx.Param(jnp.ones(2))
            self.items = [jnp.ones(1), "text", nnx.Param(jnp.ones(2))]

    model = Plain()
    reg = sr.of(model)
    assert list(reg) == ["items/0", "items/2", "w"]
    reg.replace({"items/0": np.zeros(1, F32)})
    assert model.items[0].tolist() == [0]
    assert model.items[1] == "text"


def test_refs_are_places_that_keep_their_identity(same):
    class WithRefs(nnx.Module):
        def __init__(self):
            self.bare = jax.new_ref(jnp.ones(2))
            self.w = nnx.Param(jnp.ones(2), ref=True)
            self.again = self.bare

    model = WithRefs()
    reg = sr.of(model)
    bare, inner = model.bare, model.w.get_raw_value()
    assert list(reg) == ["again", "w"]
    assert reg.aliases == {"bare": "again"}
    reg.replace({"bare": np.zeros(2, F32), "w": np.full(2, 3, F32)})
    assert model.bare is bare
    assert model.w.get_raw_value() is inner
    assert bare[...].tolist() == [0, 0]
    same(reg.read("w"), np.full(2, 3, F32))


def test_variables_of_the_hijax_kind_are_variables(same):
    class Model(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.ones(2), hijax=True)
            self.m = nnx.BatchStat(jnp.ones(2), hijax=True)

    model = Model()
    reg = sr.of(model)
    w = model.w
    assert [(entry.kind, entry.tag) for entry in reg.values()] == [
        (Kind.BUFFER, "BatchStat"),
        (Kind.PARAMETER, "Param"),
    ]
    reg.replace({"w": np.full(2, 3, F32)})
    assert model.w is w
    same(model.w.get_raw_value(), np.full(2, 3, F32))
