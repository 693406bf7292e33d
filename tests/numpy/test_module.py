"""The reference model: what a member is, what it refuses, and what it computes."""

from __future__ import annotations

import numpy as np
import pytest

import stateregistry as sr
from stateregistry import errors
from stateregistry_numpy import (
    Abstract,
    BatchNorm,
    Buffer,
    Conv,
    Embedding,
    LayerNorm,
    Linear,
    Module,
    Parameter,
    ReLU,
    Rng,
    Sequential,
)


class Net(Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = Linear(3, 4)
        self.register_buffer("mask", np.ones(4, np.float32), persistent=False)
        self.cache = np.zeros(4)

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.first(x) * self.mask.array


def test_assignment_and_registration_are_the_same() -> None:
    one, two = Module(), Module()
    one.w, one.b, one.child = Parameter(np.ones(3)), Buffer(np.ones(3)), Module()
    two.register_parameter("w", np.ones(3))
    two.register_buffer("b", np.ones(3))
    two.add_module("child", Module())
    assert dict(sr.of(one)) == dict(sr.of(two))
    assert sr.diff(one, two).equal


def test_a_plain_array_attribute_is_not_state() -> None:
    assert list(sr.of(Net())) == ["first/bias", "first/matrix", "mask"]
    assert sr.of(Net())["mask"].persistent is False


def test_a_registered_array_is_a_copy() -> None:
    given = np.ones(3)
    cell = Parameter(given)
    given[...] = 7
    assert cell.array.tolist() == [1, 1, 1]
    assert Parameter(np.asfortranarray(np.ones((3, 3)))).array.flags.c_contiguous
    assert Parameter(np.ones(3, ">f8")).array.dtype.isnative


def test_an_array_assigned_to_a_buffer_becomes_its_value() -> None:
    net = Net()
    cell = net.mask
    net.mask = np.full(4, 2, np.float32)
    assert net.mask is cell
    assert sr.of(net).read("mask").tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("value", [np.ones(3), 3.0, "text"])
def test_nothing_but_a_member_is_assigned_over_a_parameter(value: object) -> None:
    net = Net().first
    with pytest.raises(errors.UnsupportedError, match="matrix"):
        net.matrix = value


@pytest.mark.parametrize("name", ["", 3, None])
def test_a_name_that_is_no_name_is_refused(name: str) -> None:
    module = Module()
    with pytest.raises(errors.KeyPathError):
        module.register_parameter(name, np.ones(3))
    assert module.members == {}


def test_a_name_that_is_taken_is_refused() -> None:
    net = Net()
    for register in (net.register_parameter, net.register_buffer):
        for name in ("first", "mask", "cache"):
            with pytest.raises(errors.DuplicateKeyError):
                register(name, np.ones(3))
    with pytest.raises(errors.DuplicateKeyError):
        net.forward = Module()  # would hide the method
    net.register_buffer("forward", np.ones(3))
    assert "forward" in sr.of(net)


def test_a_module_without_init_says_what_is_missing() -> None:
    class Forgetful(Module):
        def __init__(self) -> None:
            self.w = Parameter(np.ones(3))

    with pytest.raises(errors.UnsupportedError, match=r"super\(\).__init__"):
        Forgetful()


def test_a_module_that_contains_itself_is_refused() -> None:
    module = Module()
    module.child = Module()
    module.child.parent = module
    with pytest.raises(errors.UnsupportedError, match="child/parent"):
        sr.of(module)
    assert "Module" in repr(module)


def test_a_deep_model_is_walked_without_recursion() -> None:
    module = root = Module()
    for _ in range(5000):
        module.n = Module()
        module = module.n
    module.w = Parameter(np.ones(3))
    assert len(sr.of(root)) == 1


def test_deleting_a_member_removes_it() -> None:
    net = Net()
    registry = sr.of(net)
    del net.first
    assert list(registry) == ["mask"]
    with pytest.raises(AttributeError):
        _ = net.first


def test_members_in_order_of_declaration_are_the_native_order() -> None:
    module = Module()
    module.z, module.a = Parameter(np.ones(3)), Module()
    module.a.q, module.a.b = Buffer(np.ones(3)), Parameter(np.ones(3))
    module.m = Parameter(np.ones(3))
    assert sr.of(module).native_order == ("z", "a/q", "a/b", "m")


def test_a_generator_moves_on_and_comes_back() -> None:
    module = Module()
    module.noise = Rng(42)
    registry = sr.of(module)
    assert registry["noise"].rng
    saved = registry.read("noise")
    first, second = module.noise.draw().standard_normal(3), module.noise.draw().standard_normal(3)
    assert first.tolist() != second.tolist()
    registry.replace({"noise": saved})
    assert module.noise.draw().standard_normal(3).tolist() == first.tolist()
    assert module.noise.draw().standard_normal(3).tolist() == second.tolist()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_does_not_fit_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="32 bits"):
        Rng(seed)


def test_the_state_of_a_generator_has_one_form() -> None:
    for wrong in (np.zeros(3, np.uint32), np.zeros(2, np.int32), Abstract((2,), "float32")):
        with pytest.raises(errors.UnsupportedError):
            Rng(wrong)


def test_integers_are_never_trainable() -> None:
    cell = Parameter(np.ones(3, np.int64))
    assert not cell.trainable
    with pytest.raises(errors.KindError):
        cell.trainable = True
    cell.trainable = False


def test_an_abstract_cell_has_shape_and_dtype_only() -> None:
    cell = Parameter(Abstract((2, 3), "bfloat16"))
    assert (cell.shape, cell.dtype.name, cell.concrete) == ((2, 3), "bfloat16", False)
    with pytest.raises(errors.AbstractError):
        _ = cell.array
    with pytest.raises(errors.DtypeError):
        Abstract((2,), "float128")
    with pytest.raises(ValueError, match="negative"):
        Abstract((-2,), "float32")


class TestLayers:
    """Against formulas written out."""

    def test_linear(self) -> None:
        rng = np.random.default_rng(0)
        layer, x = Linear(3, 4, rng=rng), rng.standard_normal((5, 3)).astype(np.float32)
        layer.bias.array[...] = rng.standard_normal(4)
        expected = np.array([[sum(x[i, k] * layer.matrix.array[j, k] for k in range(3)) + layer.bias.array[j]
                              for j in range(4)] for i in range(5)])  # fmt: skip
        np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-6)
        assert Linear(3, 4, bias=False)(x).shape == (5, 4)

    @pytest.mark.parametrize(
        ("size", "stride", "padding", "groups"), [((3,), 1, 0, 1), ((2, 3), 2, 1, 2), ((1, 1), 1, 0, 4)]
    )
    def test_conv(self, size: tuple[int, ...], stride: int, padding: int, groups: int) -> None:
        rng = np.random.default_rng(1)
        layer = Conv(4, 8, size, stride=stride, padding=padding, groups=groups, rng=rng)
        layer.bias.array[...] = rng.standard_normal(8)
        x = rng.standard_normal((2, 4, *(6 + n for n in range(len(size))))).astype(np.float32)
        found = layer(x)
        padded = np.pad(x, [(0, 0), (0, 0), *((padding, padding) for _ in size)]).astype(np.float64)
        step = 8 // groups
        for index in np.ndindex(*found.shape):
            batch, out, *place = index
            window = tuple(slice(p * stride, p * stride + s) for p, s in zip(place, size, strict=True))
            group = out // step
            part = padded[(batch, slice(group * 4 // groups, (group + 1) * 4 // groups), *window)]
            expected = (part * layer.filters.array[out]).sum() + layer.bias.array[out]
            assert found[index] == pytest.approx(expected, rel=1e-4, abs=1e-5)

    def test_batch_norm_uses_its_statistics(self) -> None:
        rng = np.random.default_rng(2)
        layer = BatchNorm(3, eps=1e-3)
        for name in ("gain", "bias", "mean", "variance"):
            layer.members[name].array[...] = rng.uniform(0.5, 2, 3)  # type: ignore[union-attr]
        x = rng.standard_normal((2, 3, 4)).astype(np.float32)
        g, b, m, s = (layer.members[n].array for n in ("gain", "bias", "mean", "variance"))  # type: ignore[union-attr]
        for index in np.ndindex(*x.shape):
            c = index[1]
            expected = g[c] * (x[index] - m[c]) / np.sqrt(s[c] + 1e-3) + b[c]
            assert layer(x)[index] == pytest.approx(expected, rel=1e-5, abs=1e-6)

    def test_layer_norm_over_two_axes(self) -> None:
        rng = np.random.default_rng(3)
        layer = LayerNorm(2, 3)
        layer.gain.array[...] = rng.standard_normal((2, 3))
        x = rng.standard_normal((4, 2, 3)).astype(np.float32)
        for n in range(4):
            expected = (x[n] - x[n].mean()) / np.sqrt(x[n].var() + 1e-5) * layer.gain.array
            np.testing.assert_allclose(layer(x)[n], expected, rtol=1e-4, atol=1e-5)

    def test_embedding_and_a_whole_model(self) -> None:
        model = Sequential(Embedding(7, 3), Linear(3, 2), ReLU())
        found = model(np.array([0, 6, 3]))
        table, matrix = model.members["0"].table.array, model.members["1"].matrix.array  # type: ignore[union-attr]
        np.testing.assert_allclose(found, np.maximum(table[[0, 6, 3]] @ matrix.T, 0), rtol=1e-6)

    def test_a_module_that_computes_nothing_says_so(self) -> None:
        with pytest.raises(errors.UnsupportedError, match="only holds state"):
            Module()(1)
