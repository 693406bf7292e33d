"""Models on the meta device: listed without values, given values in place, and put back when that fails."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from torch import nn

import stateregistry as sr
from stateregistry import errors


def build():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model.add_module("tied", model[0])
    return model


def meta():
    with torch.device("meta"):
        return build()


def values_of(reg, seed=3):
    rng = np.random.default_rng(seed)
    return {key: (rng.standard_normal(entry.shape) * 4).astype(entry.dtype) for key, entry in reg.items()}


def test_a_meta_model_lists_what_the_real_one_lists_without_values():
    reg, real = sr.of(meta()), sr.of(build())
    assert not any(entry.concrete for entry in reg.values())
    for name in ("kind", "shape", "dtype", "trainable", "persistent"):
        assert {key: getattr(entry, name) for key, entry in reg.items()} == {
            key: getattr(entry, name) for key, entry in real.items()
        }
    assert dict(reg.aliases) == dict(real.aliases)
    assert reg.layers == real.layers
    assert reg.native_order == real.native_order


def test_nothing_is_read_from_a_meta_model():
    reg = sr.of(meta())
    for look in (reg.read, reg.view):
        with pytest.raises(errors.AbstractError, match="0/weight"):
            look("0/weight")
    with pytest.raises(errors.AbstractError) as error:
        sr.snapshot(reg)
    assert set(error.value.keys) == set(reg)


def test_loading_into_a_meta_model_gives_a_working_one_with_the_same_objects():
    model, real = meta(), build().eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    objects = dict([*model.named_parameters(), *model.named_buffers()])
    frozen = model[2].bias.requires_grad_(False)
    reg = sr.of(model)
    assert sr.load(reg, sr.of(real)) is reg
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert tensor is objects[name]
        assert tensor.device.type == "cpu"
        assert tensor.is_leaf
    assert model.tied.weight is model[0].weight
    assert model[2].bias is frozen
    assert not frozen.requires_grad
    assert model[2].weight.requires_grad
    assert type(model[0].weight) is nn.Parameter
    assert type(model[1].running_mean) is torch.Tensor
    assert all(entry.concrete for entry in reg.values())
    x = torch.randn(4, 3)
    assert torch.equal(model.eval()(x), real(x))
    model(x).sum().backward()
    before = reg.read("0/weight")
    optimizer.step()
    assert reg.read("0/weight").tobytes() != before.tobytes()


def test_what_is_filled_is_written_in_place_the_next_time():
    model = meta()
    reg = sr.of(model)
    reg.replace(values_of(reg))
    pointer = model[0].weight.data_ptr()
    values = values_of(reg, 4)
    reg.replace(values)
    assert model[0].weight.data_ptr() == pointer
    assert reg.read("0/weight").tobytes() == values["0/weight"].tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e5m2", "complex128", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)], ids=str)
def test_every_dtype_and_shape_can_be_filled(dtype, shape, bits, raw):
    model = nn.Module()
    model.register_buffer("x", torch.empty(shape, dtype=getattr(torch, dtype), device="meta"))
    value = bits(dtype, shape)
    sr.of(model).replace({"x": value})
    assert raw(model.x) == (dtype, shape, value.tobytes())


def test_the_memory_format_is_kept():
    with torch.device("meta"):
        model = nn.Conv2d(3, 4, 5).to(memory_format=torch.channels_last)
    reg = sr.of(model)
    value = np.random.default_rng(0).standard_normal((4, 3, 5, 5)).astype(np.float32)
    reg.replace({"weight": value})
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    assert reg.read("weight").tobytes() == value.tobytes()


def test_objects_over_one_meta_storage_are_tied_before_and_after(same):
    model = nn.Module()
    model.z = nn.Parameter(torch.empty(3, 3, device="meta"))
    model.a = nn.Parameter(model.z.detach(), requires_grad=False)
    model.free = nn.Parameter(torch.empty(3, 3, device="meta"))
    model.register_buffer("part", model.free.detach()[1:])
    reg = sr.of(model)
    assert dict(reg.aliases) == {"z": "a"}
    assert set(reg.opaque) == {"part"}
    assert reg["a"].trainable
    value = np.float32([[1, 2, 3]] * 3)
    reg.replace({"z": value})
    assert dict(reg.aliases) == {"z": "a"}
    assert model.z.data_ptr() == model.a.data_ptr() != 0
    assert (model.z.requires_grad, model.a.requires_grad) == (True, False)
    same(reg.read("z"), value)


def test_a_failure_between_two_objects_over_one_storage_is_undone(monkeypatch):
    model = nn.Module()
    model.z = nn.Parameter(torch.empty(3, device="meta"))
    model.a = nn.Parameter(model.z.detach())
    swap = torch.utils.swap_tensors

    def failing(one, other):
        if one is model.a:
            raise RuntimeError("no memory")
        swap(one, other)

    monkeypatch.setattr(torch.utils, "swap_tensors", failing)
    reg = sr.of(model)
    with pytest.raises(errors.CommitError, match="every place has its old value"):
        reg.replace({"a": np.ones(3, np.float32)})
    assert model.z.is_meta
    assert model.a.is_meta


def test_a_part_of_a_meta_tensor_is_abstract_too():
    model = nn.Module()
    model.register_buffer("part", torch.empty(4, device="meta")[1:])
    reg = sr.of(model)
    assert not reg["part"].concrete
    assert [entry.concrete for entry in reg.values()] == [False]
    reg.replace({"part": np.ones(3, np.float32)})
    assert model.part.tolist() == [1.0, 1.0, 1.0]


def test_what_is_not_given_stays_abstract():
    model = meta()
    reg = sr.of(model)
    reg.replace({"0/weight": np.ones((3, 3), np.float32)})
    assert reg["0/weight"].concrete
    assert not reg["2/weight"].concrete


def test_attributes_and_subclasses_of_a_parameter_are_kept():
    class Tagged(nn.Parameter):
        pass

    model = nn.Module()
    model.w = Tagged(torch.empty(2, device="meta"))
    model.w.split = (1, 1)
    first = model.w
    sr.of(model).replace({"w": np.float32([1, 2])})
    assert model.w is first
    assert (type(model.w), model.w.split, model.w.tolist()) == (Tagged, (1, 1), [1.0, 2.0])


def test_a_model_made_in_inference_mode_stays_one():
    with torch.inference_mode():
        model = meta()
    reg = sr.of(model)
    reg.replace(values_of(reg))
    assert model[0].weight.is_inference()
    assert model[0].weight.requires_grad
    with torch.inference_mode():
        assert model.eval()(torch.randn(2, 3)).shape == (2, 3)


def test_filling_in_inference_mode_makes_ordinary_parameters():
    model = meta()
    reg = sr.of(model)
    with torch.inference_mode():
        reg.replace(values_of(reg))
    assert not model[0].weight.is_inference()
    model(torch.randn(4, 3)).sum().backward()
    assert model[0].weight.grad is not None


@pytest.mark.parametrize(
    ("lose", "words"),
    [
        pytest.param(lambda p, keep: keep.append(weakref.ref(p)), "weak references", id="weakref"),
        pytest.param(lambda p, keep: p.register_hook(lambda grad: None), "gradient hooks", id="hook"),
        pytest.param(
            lambda p, keep: p.register_post_accumulate_grad_hook(lambda q: None), "gradient hooks", id="post hook"
        ),
        pytest.param(lambda p, keep: setattr(p, "grad", torch.zeros_like(p)), "a gradient", id="grad"),
    ],
)
def test_what_could_not_be_swapped_without_a_loss_is_refused(lose, words):
    model, keep = meta(), []
    lose(model[0].weight, keep)
    reg = sr.of(model)
    with pytest.raises(errors.StateError, match=words):
        reg.replace(values_of(reg))
    assert not any(entry.concrete for entry in reg.values())


def test_a_native_failure_in_a_mixed_model_restores_values_and_abstractness(monkeypatch):
    model = meta()
    model.register_module("real", nn.Linear(3, 3))
    reg = sr.of(model)
    before = reg.read("real/weight")
    swaps = []
    swap = torch.utils.swap_tensors

    def failing(one, other):
        swaps.append("failed" if len(swaps) == 3 else one)
        if swaps[-1] == "failed":
            raise RuntimeError("no memory")
        swap(one, other)

    monkeypatch.setattr(torch.utils, "swap_tensors", failing)
    with pytest.raises(errors.CommitError, match="every place has its old value"):
        reg.replace(values_of(reg))
    assert swaps[3] == "failed"
    assert [id(tensor) for tensor in swaps[4:]] == [id(tensor) for tensor in swaps[2::-1]]  # no other one is touched
    assert {key for key, entry in reg.items() if entry.concrete} == {"real/weight", "real/bias"}
    assert reg.read("real/weight").tobytes() == before.tobytes()
    monkeypatch.undo()
    values = values_of(reg)
    reg.replace(values)
    assert all(reg.read(key).tobytes() == value.tobytes() for key, value in values.items())


def test_what_cannot_be_put_back_is_named(monkeypatch):
    model = meta()
    swaps = []
    swap = torch.utils.swap_tensors

    def once(one, other):
        swaps.append(one)
        if len(swaps) > 1:
            raise RuntimeError("no memory")
        swap(one, other)

    monkeypatch.setattr(torch.utils, "swap_tensors", once)
    with pytest.raises(errors.CommitError, match="NOT restored: 0/bias") as error:
        sr.of(model).replace({"0/bias": np.ones(3, np.float32), "0/weight": np.ones((3, 3), np.float32)})
    assert error.value.keys == ("0/bias",)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_tensor_that_torch_refuses_to_swap_puts_everything_back_on_the_meta_device():
    model = meta()
    with torch.device("meta"):
        # The C++ side of a script module holds its tensors too: torch refuses to swap them, and says so only then.
        model.add_module("scripted", torch.jit.script(nn.Linear(3, 3)))
    objects = {name: id(tensor) for name, tensor in model.named_parameters()}
    reg = sr.of(model)
    with pytest.raises(errors.CommitError, match="every place has its old value") as error:
        reg.replace(values_of(reg))
    assert isinstance(error.value.__cause__, RuntimeError)
    assert not any(entry.concrete for entry in reg.values())
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert {name: id(tensor) for name, tensor in model.named_parameters()} == objects
