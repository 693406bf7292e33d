"""Writing a live NNX module: variables keep their identity, optimizers stay linked, failures are rolled back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import DTYPES, Kind
from stateregistry_flax import nnx_native

F32 = np.float32
NARROWED = {"int64", "uint64", "float64", "complex128"}


class Holder(nnx.Module):
    """One variable and one bare array."""

    def __init__(self, array):
        self.w = nnx.Param(array)
        self.raw = array


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.dense(self.drop(self.norm(self.conv(x))))


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(), (0,), (3, 4)])
def test_every_bit_of_every_dtype_round_trips(dtype, shape, bits, same):
    old, new = bits(dtype, shape, 1), bits(dtype, shape, 2)
    model = Holder(np.array(old) if dtype in NARROWED else jnp.array(old))
    kind = type(model.raw)
    reg = sr.of(model)
    variable = model.w
    for key in ("raw", "w"):
        assert (reg[key].dtype, reg[key].shape) == (dtype, shape)
        same(reg.read(key), old)
    assert reg.replace({"w": new, "raw": new}) is reg
    assert model.w is variable
    for key in ("raw", "w"):
        same(reg.read(key), new)
    same(model.raw, new)
    same(variable.get_raw_value(), new)
    assert type(model.raw) is type(variable.get_raw_value()) is kind


def test_a_numpy_array_in_a_param_is_read_with_its_own_dtype(same):
    model = Holder(np.arange(4, dtype=np.int8))
    reg = sr.of(model)
    assert reg["w"].dtype == "int8"
    assert not reg["w"].trainable
    reg.replace({"w": np.arange(4, 8, dtype=np.int8)})
    assert model.w.get_raw_value().dtype == np.int8
    assert type(model.w.get_raw_value()) is np.ndarray


def test_values_are_copied_and_reads_are_owned(same):
    # From about a MiB on JAX borrows aligned NumPy memory on the CPU: smaller tests prove nothing.
    value = np.random.default_rng(0).normal(size=(600, 600)).astype(F32)
    kept = value.copy()
    model = Holder(jnp.zeros((600, 600)))
    reg = sr.of(model).replace({"w": value, "raw": value})
    value[:] = 7
    for key in ("w", "raw"):
        same(reg.read(key), kept)
        read = reg.read(key)
        read[:] = 8
        same(reg.read(key), kept)
    view = reg.view("w")
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1


def test_a_view_keeps_its_bits_when_the_model_moves_on(same):
    model = Holder(jnp.ones(3))
    reg = sr.of(model)
    view = reg.view("w")
    reg.replace({"w": np.zeros(3, F32)})
    same(view, np.ones(3, F32))


def test_hooks_and_overrides_do_not_change_the_bits(same):
    class Doubling(nnx.Param):
        def set_value(self, value, **kwargs):
            super().set_value(value * 2, **kwargs)

        def get_value(self, **kwargs):
            return super().get_value(**kwargs) / 2

    model = nnx.Dict({"w": Doubling(jnp.ones(2))})
    with pytest.warns(UserWarning, match="hooks are deprecated"):
        model["h"] = nnx.Param(jnp.ones(2), on_set_value=lambda _, value: value * 2, on_get_value=lambda _, v: v / 2)
    reg = sr.of(model)
    new = np.array([3, 5], F32)
    reg.replace({"w": new, "h": new})
    for key in ("w", "h"):
        same(reg.read(key), new)
        same(model[key].get_raw_value(), new)


def test_metadata_of_a_variable_survives():
    model = nnx.Dict({"w": nnx.Param(jnp.ones((2, 2)), out_sharding=("a", None), eager_sharding=False, note="kept")})
    before = model["w"].get_metadata()
    sr.of(model).replace({"w": np.zeros((2, 2), F32)})
    assert model["w"].get_metadata() == before
    assert model["w"].note == "kept"


def test_weak_types_survive_a_write(same):
    model = Holder(jnp.full((3,), 2.0))
    sr.of(model).replace({"w": np.arange(3, dtype=F32), "raw": np.arange(3, dtype=F32)})
    assert model.w.get_raw_value().weak_type
    assert model.raw.weak_type
    same(model.raw, np.arange(3, dtype=F32))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_generators_are_read_as_data_and_stay_generators(impl, same):
    model = nnx.Dropout(0.5, rngs=nnx.Rngs(jax.random.key(7, impl=impl)))
    reg = sr.of(model)
    key = model.rngs.key
    data = np.asarray(jax.random.key_data(key.get_raw_value()))
    same(reg.read("rngs/key"), data)
    reg.replace({"rngs/key": data[::-1], "rngs/count": np.array(41, np.uint32)})
    assert model.rngs.key is key
    assert str(jax.random.key_impl(key.get_raw_value())) == impl
    same(jax.random.key_data(key.get_raw_value()), data[::-1])
    first = model(jnp.ones(64))
    reg.replace({"rngs/count": np.array(41, np.uint32)})
    same(model(jnp.ones(64)), first)
    other = nnx.Dropout(0.5, rngs=nnx.Rngs(jax.random.key(8, impl=impl)))
    sr.load(other_reg := sr.of(other), reg)
    same(other_reg.read("rngs/key"), data[::-1])
    same(other.rngs.key.get_raw_value()[None].shape, model.rngs.key.get_raw_value()[None].shape)


def test_a_generator_is_given_by_its_typed_key_or_its_variable(same):
    model, other = nnx.Dropout(0.5, rngs=nnx.Rngs(1)), nnx.Dropout(0.5, rngs=nnx.Rngs(2))
    expected = np.asarray(jax.random.key_data(other.rngs.key.get_raw_value()))
    same(sr.of(model).replace({"rngs/key": other.rngs.key}).read("rngs/key"), expected)
    with pytest.raises(errors.SourceError, match="PRNG key"):
        sr.of(model).replace({"rngs/key": jax.random.key(0, impl="rbg")})


def test_variables_are_values(same):
    a, b = nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Linear(2, 3, rngs=nnx.Rngs(1))
    reg = sr.of(a).replace({"kernel": b.kernel})
    same(reg.read("kernel"), b.kernel.get_raw_value())
    assert a.kernel is not b.kernel


def test_two_places_can_be_exchanged_by_views_of_each_other(same):
    model = nnx.Dict({"a": nnx.Param(jnp.arange(3.0)), "b": nnx.Param(jnp.arange(5.0, 8.0))})
    reg = sr.of(model)
    reg.replace({"a": reg.view("b"), "b": reg.view("a")})
    same(reg.read("a"), np.arange(5, 8, dtype=F32))
    same(reg.read("b"), np.arange(3, dtype=F32))


def test_one_bad_value_writes_nothing(same):
    model = Net(nnx.Rngs(0))
    reg = sr.of(model)
    before = sr.snapshot(reg)
    raws = {id(node): node.get_raw_value() for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Variable)}
    values = {key: np.zeros_like(value) for key, value in before.items()}
    for bad in (np.zeros((2, 2), F32), np.zeros((4, 4), np.float64), object()):
        with pytest.raises(errors.MismatchError) as caught:
            reg.replace({**values, "dense/kernel": bad, "nowhere": np.zeros(1)})
        assert set(caught.value.report.unexpected) == {"nowhere"}
        for key, value in before.items():
            same(reg.read(key), value)
    assert all(
        node.get_raw_value() is raws[id(node)] for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Variable)
    )
    assert not hasattr(model, "nowhere")


@pytest.mark.parametrize("bad", ["conv/bias", "dense/bias", "norm/var"])
def test_a_failing_variable_rolls_the_others_back(bad, same):
    model = Net(nnx.Rngs(0))
    reg = sr.of(model)
    before = sr.snapshot(reg)
    raws = {key: reg._site(key).content() for key in reg}
    nnx_native.make_foreign(nnx_native.variable(model, bad))
    values = {key: np.zeros_like(value) for key, value in before.items()}
    with pytest.raises(errors.CommitError) as caught:
        reg.replace(values)
    assert "every place has its old value" in str(caught.value)
    assert type(caught.value.__cause__).__name__ == "TraceContextError"
    for key, value in before.items():
        same(reg.read(key), value)
        assert reg._site(key).content() is raws[key]  # the old arrays themselves


def test_a_failure_in_an_abstract_module_leaves_it_abstract():
    model = nnx.eval_shape(lambda: Net(nnx.Rngs(0)))
    reg = sr.of(model)
    nnx_native.make_foreign(model.dense.kernel)
    with pytest.raises(errors.CommitError):
        reg.replace({key: np.zeros(reg[key].shape, reg[key].dtype) for key in reg})
    assert not any(entry.concrete for entry in reg.values())


def test_abstract_modules_are_listed_and_get_values(same):
    model = nnx.eval_shape(lambda: Net(nnx.Rngs(0)))
    real = sr.of(Net(nnx.Rngs(3)))
    reg = sr.of(model)
    variable = model.dense.kernel
    assert [(key, entry.shape, entry.dtype, entry.kind) for key, entry in reg.items()] == [
        (key, entry.shape, entry.dtype, entry.kind) for key, entry in real.items()
    ]
    assert not any(entry.concrete for entry in reg.values())
    with pytest.raises(errors.AbstractError):
        reg.read("dense/kernel")
    with pytest.raises(errors.AbstractError) as caught:
        sr.snapshot(reg)
    assert set(caught.value.keys) == set(reg)
    assert sr.load(reg, real) is reg
    assert dict(reg) == dict(real)
    assert model.dense.kernel is variable
    for key in real:
        same(reg.read(key), real.read(key))
    assert model(jnp.ones((1, 4, 4, 2))).shape == (1, 4, 4, 4)


def test_a_wide_abstract_variable_is_refused_while_x64_is_off():
    model = nnx.Dict({"w": nnx.Param(jax.ShapeDtypeStruct((1,), np.int64))})
    with pytest.raises(errors.SourceError, match="x64"):
        sr.of(model).replace({"w": np.array([2**40])})


def test_training_goes_on_with_the_same_optimizer(same):
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(1e-1), wrt=nnx.Param)
    x = jnp.arange(64.0).reshape(2, 4, 4, 2) / 64

    @nnx.jit
    def step(model, optimizer):
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean(m(x) ** 2))(model)
        optimizer.update(model, grads)
        return loss

    step(model, optimizer)
    reg = sr.of(model)
    kernel, mean = model.dense.kernel, model.norm.mean
    moments = sr.of(optimizer, adapter="flax-nnx")
    before_moments = {key: moments.read(key) for key in moments}
    halved = {key: reg.read(key) * F32(0.5) for key in reg if reg[key].kind is Kind.PARAMETER}
    assert reg.replace(halved) is reg
    assert (model.dense.kernel is kernel, model.norm.mean is mean) == (True, True)
    for key, value in before_moments.items():
        same(moments.read(key), value)
    step(model, optimizer)
    assert not np.array_equal(reg.read("dense/kernel"), halved["dense/kernel"])
    # As an optimizer that knows nothing of the registry computes it, from the same state.
    twin = nnx.clone(Net(nnx.Rngs(0)))
    twin_optimizer = nnx.Optimizer(twin, optax.adam(1e-1), wrt=nnx.Param)
    step(twin, twin_optimizer)
    state = nnx.state(twin, nnx.Param)
    nnx.update(twin, jax.tree.map(lambda leaf: leaf * F32(0.5), state))
    step(twin, twin_optimizer)
    for key in reg:
        same(reg.read(key), sr.of(twin).read(key))


def test_a_registry_inside_nnx_jit_can_list_and_write_but_not_read():
    model = Net(nnx.Rngs(0))

    @nnx.jit
    def traced(model):
        reg = sr.of(model)
        assert reg["dense/bias"].shape == (4,)
        with pytest.raises(errors.AbstractError):
            reg.read("dense/bias")
        reg.replace({"dense/bias": np.full(4, 3, F32)})

    traced(model)
    assert model.dense.bias[...].tolist() == [3, 3, 3, 3]


def test_split_merge_and_clone_give_the_same_registry(same):
    model = Net(nnx.Rngs(0))
    reg = sr.of(model)
    for other in (nnx.merge(*nnx.split(model)), nnx.clone(model)):
        again = sr.of(other)
        assert dict(again) == dict(reg)
        for key in reg:
            same(again.read(key), reg.read(key))


def test_flags_live_on_the_handle(same):
    model = Net(nnx.Rngs(0))
    reg = sr.of(model)
    assert reg.with_trainable({"dense/kernel": False}) is reg
    assert not reg["dense/kernel"].trainable
    sr.load(reg, {key: np.zeros(reg[key].shape, reg[key].dtype) for key in reg})
    assert not reg["dense/kernel"].trainable
    assert not dict(reg)["dense/kernel"].trainable
    with pytest.raises(errors.KindError):
        reg.with_trainable({"norm/mean": True})


def test_a_place_that_has_gone_is_an_error_of_ours():
    model = Holder(jnp.ones(2))
    reg = sr.of(model)
    site = reg._site("w")
    assert site.holds()
    del model.w
    with pytest.raises(errors.UnknownKeyError):
        reg.read("w")
    with pytest.raises(errors.UnknownKeyError):
        reg._site("w")


def test_arrays_of_the_optimizer_are_listed_only_when_asked_for():
    model = Holder(jnp.ones(2))
    optimizer = nnx.Optimizer(model, optax.adam(1e-1), wrt=nnx.Param)
    with pytest.raises(errors.AdapterError, match="belongs to the parameters of its model"):
        sr.of(optimizer)
    assert {entry.kind for entry in sr.of(optimizer, adapter="flax-nnx").values()} == {Kind.BUFFER}


def test_what_a_roll_back_left_is_told_by_bits():
    reg = sr.of(nnx.Dict({"w": nnx.Param(jnp.ones(2), ref=True), "s": nnx.Param(jax.ShapeDtypeStruct((2,), F32))}))
    backup = reg._backup("w")
    assert reg._same("w", backup)
    assert not reg._same("w", jnp.zeros(2))
    assert not reg._same("w", jnp.ones(2, jnp.int32))
    assert not reg._same("w", jax.ShapeDtypeStruct((2,), F32))
    assert reg._same("s", reg._backup("s"))
    assert not reg._same("s", jax.ShapeDtypeStruct((3,), F32))


def test_names_that_look_like_those_of_nnx_are_not_lost():
    model = nnx.Dict({"_pytree__mine": nnx.Param(jnp.ones(2)), "_hidden": nnx.Param(jnp.ones(2))})
    assert list(sr.of(model)) == ["_hidden", "_pytree__mine"]
