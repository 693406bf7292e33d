"""Bits in and bits out: every dtype, every layout, views, and values given as tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import DTYPES, numpy_dtype
from stateregistry_torch import bits as torch_bits

SHAPES = [(), (1,), (0,), (7,), (3, 3), (2, 0, 3), (2, 3, 1, 5)]


def holder(tensor, *, parameter=False):
    model = nn.Module()
    if parameter:
        model.register_parameter(
            "x", nn.Parameter(tensor, requires_grad=tensor.is_floating_point() or tensor.is_complex())
        )
    else:
        model.register_buffer("x", tensor)
    return model


def test_this_torch_has_every_dtype_of_the_specification():
    assert set(torch_bits.DTYPES) == set(DTYPES)


@pytest.mark.parametrize("parameter", [False, True], ids=["buffer", "parameter"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_random_bits_of_every_dtype_are_read_and_written_exactly(dtype, shape, parameter, bits, raw, same, tensor_of):
    before, after = bits(dtype, shape, 1), bits(dtype, shape, 2)
    model = holder(tensor_of(before), parameter=parameter)
    reg = sr.of(model)
    assert (reg["x"].dtype, reg["x"].shape) == (dtype, shape)
    same(reg.read("x"), before)
    same(reg.view("x"), before)
    tensor = model._parameters["x"] if parameter else model._buffers["x"]
    assert reg.replace({"x": after}) is reg
    assert raw(tensor) == (dtype, shape, after.tobytes())
    same(reg.read("x"), after)


@pytest.mark.parametrize("dtype", [name for name in sorted(DTYPES) if DTYPES[name] == 1])
def test_every_code_of_one_byte_survives(dtype, same, tensor_of):
    codes = np.arange(2 if dtype == "bool" else 256, dtype=np.uint8).view(numpy_dtype(dtype))
    model = holder(torch.zeros(codes.shape, dtype=torch.uint8).view(getattr(torch, dtype)))
    reg = sr.of(model).replace({"x": codes})
    same(reg.read("x"), codes)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int16", "uint16"])
def test_every_pattern_of_two_bytes_survives(dtype, same):
    codes = np.arange(1 << 16, dtype=np.uint16).view(numpy_dtype(dtype))
    reg = sr.of(holder(torch.zeros(1 << 16, dtype=getattr(torch, dtype)))).replace({"x": codes})
    same(reg.read("x"), codes)


@pytest.mark.parametrize("layout", ["transposed", "strided", "channels_last", "flipped axes", "offset"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn", "complex128", "complex64", "int64", "bool"])
def test_strides_are_kept_and_bits_arrive_in_logical_order(dtype, layout, bits, same, raw, tensor_of):
    value = bits(dtype, (4, 3, 2, 5))
    base = tensor_of(bits(dtype, (4, 3, 2, 5), 9))
    place = {
        "transposed": lambda: tensor_of(bits(dtype, (5, 2, 3, 4), 9)).permute(3, 2, 1, 0),
        "strided": lambda: tensor_of(bits(dtype, (8, 3, 4, 5), 9))[::2, :, ::2],
        "channels_last": lambda: base.contiguous(memory_format=torch.channels_last),
        "flipped axes": lambda: tensor_of(bits(dtype, (3, 4, 5, 2), 9)).permute(1, 0, 3, 2),
        "offset": lambda: tensor_of(bits(dtype, (6, 3, 2, 5), 9))[2:],
    }[layout]()
    strides, pointer = place.stride(), place.data_ptr()
    model = holder(place)
    reg = sr.of(model)
    reg.replace({"x": value})
    assert (model.x.stride(), model.x.data_ptr()) == (strides, pointer)
    assert raw(model.x)[2] == value.tobytes()
    same(reg.read("x"), value)
    same(reg.view("x"), value)


def test_what_lies_around_a_strided_place_is_left_alone():
    base = torch.arange(12.0).reshape(3, 4)
    sr.of(holder(base[:, 1:3])).replace({"x": np.full((3, 2), -1, np.float32)})
    assert base.tolist() == [[0, -1, -1, 3], [4, -1, -1, 7], [8, -1, -1, 11]]


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_conjugate_views_mean_what_torch_says(dtype, bits, same, raw, tensor_of):
    value, other = bits(dtype, (3, 4), 1), bits(dtype, (3, 4), 2)
    tensor = tensor_of(value).conj()
    assert tensor.is_conj()
    model = holder(tensor)
    reg = sr.of(model)
    same(reg.read("x"), np.conj(value))
    reg.replace({"x": other})
    assert model.x is tensor
    assert tensor.is_conj()
    assert raw(tensor)[2] == other.tobytes()
    same(reg.read("x"), other)


def test_negative_views_mean_what_torch_says(bits, same):
    tensor = torch.randn(4, dtype=torch.complex64).conj().imag
    assert tensor.is_neg()
    value = bits("float32", (4,))
    reg = sr.of(holder(tensor)).replace({"x": value})
    assert tensor.is_neg()
    same(reg.read("x"), value)
    same(tensor.resolve_neg().numpy(), value)


def test_reads_are_independent_and_views_are_borrowed():
    model = nn.Linear(3, 3)
    reg = sr.of(model)
    before = model.weight.detach().clone()
    owned = reg.read("weight")
    owned[...] = 7
    assert torch.equal(model.weight, before)
    assert owned.flags.owndata
    assert owned.flags.writeable
    view = reg.view("weight")
    assert np.shares_memory(view, reg.view("weight"))
    assert view.ctypes.data == model.weight.data_ptr()
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1
    assert not reg.view("weight").flags.writeable


def test_values_are_copied_even_when_they_are_large_and_aligned():
    model = holder(torch.zeros(1 << 19))
    value = np.arange(1 << 19, dtype=np.float32)
    sr.of(model).replace({"x": value})
    value[...] = -1
    assert model.x[5] == 5
    tensor = torch.arange(float(1 << 19))
    sr.of(model).replace({"x": tensor})
    tensor.fill_(-1)
    assert model.x[5] == 5


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_tensors_are_values_with_the_same_bits(dtype, bits, raw, tensor_of):
    value = bits(dtype, (3, 4))
    model = holder(torch.zeros((3, 4), dtype=getattr(torch, dtype)))
    given = tensor_of(value)
    if given.is_floating_point() or given.is_complex():
        given.requires_grad_()
    sr.of(model).replace({"x": given})
    assert raw(model.x)[2] == value.tobytes()
    sr.of(model).replace({"x": tensor_of(bits(dtype, (4, 3))).t()})
    assert raw(model.x)[2] == np.ascontiguousarray(bits(dtype, (4, 3)).T).tobytes()


def test_odd_tensors_are_values_too():
    model = holder(torch.zeros(2, dtype=torch.complex64))
    value = torch.tensor([1 + 2j, 3 - 4j])
    sr.of(model).replace({"x": value.conj()})
    assert model.x.tolist() == [1 - 2j, 3 + 4j]
    model = holder(torch.zeros(2, 3))
    sr.of(model).replace({"x": torch.tensor([5.0]).expand(2, 3)})
    assert model.x.tolist() == [[5.0] * 3] * 2
    with torch.inference_mode():
        value = torch.ones(2, 3)
    sr.of(model).replace({"x": value})
    assert model.x.tolist() == [[1.0] * 3] * 2


def test_a_meta_tensor_is_no_value():
    model = holder(torch.zeros(2, 3))
    with pytest.raises(errors.SourceError, match="meta") as error:
        sr.of(model).replace({"x": torch.zeros(2, 3, device="meta")})
    assert error.value.report.invalid == ("x",)


def test_two_places_can_be_exchanged_by_views_of_each_other():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    reg = sr.of(model)
    a, b = reg.read("a/weight"), reg.read("b/weight")
    reg.replace({"a/weight": reg.view("b/weight"), "b/weight": model["a"].weight})
    assert (reg.read("a/weight").tobytes(), reg.read("b/weight").tobytes()) == (b.tobytes(), a.tobytes())


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda a: np.asfortranarray(a), id="fortran"),
        pytest.param(lambda a: a[::-1][::-1], id="negative strides"),
        pytest.param(lambda a: a.astype(a.dtype.newbyteorder(">")), id="big-endian"),
        pytest.param(lambda a: a.tolist(), id="list of float64"),
        pytest.param(lambda a: a[:1], id="broadcastable"),
    ],
)
def test_layout_does_not_matter_and_dtype_and_shape_do(make):
    value = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
    model = holder(torch.zeros(3, 3))
    given = make(value)
    if isinstance(given, list):
        with pytest.raises(errors.DtypeMismatchError):
            sr.of(model).replace({"x": given})
    elif given.shape != (3, 3):
        with pytest.raises(errors.ShapeError):
            sr.of(model).replace({"x": given})
    else:
        sr.of(model).replace({"x": given})
        assert model.x.numpy().tobytes() == value.tobytes()
        return
    assert not model.x.any()


# -------------------------------------------------------------------- expanded memory


def test_an_expanded_place_takes_a_value_that_repeats_and_no_other(same):
    base = torch.zeros(3)
    model = holder(base.expand(4, 3))
    reg = sr.of(model)
    value = np.tile(np.float32([1, np.nan, -0.0]), (4, 1))
    reg.replace({"x": value})
    same(reg.read("x"), value)
    assert base.numpy().tobytes() == value[0].tobytes()
    assert model.x.stride() == (0, 1)
    value[2, 1] = 5
    with pytest.raises(errors.SourceError, match="expanded"):
        reg.replace({"x": value})
    assert base.numpy().tobytes() == value[0].tobytes()


def test_an_axis_of_size_one_is_not_expanded(same):
    model = holder(torch.arange(5).expand(1, -1))
    value = np.array([[5, 4, 3, 2, 1]])
    same(sr.of(model).replace({"x": value}).read("x"), value)


def test_memory_that_overlaps_itself_is_read_and_not_written(same):
    model = holder(torch.arange(6.0).unfold(0, 3, 1))
    reg = sr.of(model)
    same(reg.read("x"), np.float32([[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]))
    with pytest.raises(errors.SourceError, match="share memory"):
        reg.replace({"x": np.zeros((4, 3), np.float32)})
    assert reg.read("x")[3, 2] == 5


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), min_size=1, max_size=3))
def test_each_once_covers_memory_exactly_or_refuses(axes):
    shape, strides = [size for size, _ in axes], [stride for _, stride in axes]
    tensor = torch.zeros(64).as_strided(shape, strides)
    try:
        index = torch_bits.each_once(tensor)
    except errors.UnsupportedError:
        return
    part = tensor[index] if index else tensor
    offsets = sum(
        np.arange(size).reshape([-1 if axis == at else 1 for axis in range(len(shape))]) * stride
        for at, (size, stride) in enumerate(zip(part.shape, part.stride(), strict=True))
    )
    seen = set(np.broadcast_to(offsets, tuple(part.shape)).ravel().tolist())
    assert len(seen) == part.numel()
    part += 1
    assert bool((tensor == 1).all())
