"""What a write leaves alone: objects, gradients, autograd, optimizers, devices, flags; and that it is all or nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import stateregistry as sr
from stateregistry import errors
from stateregistry_torch import overlap


def model_of(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))


def others(reg, seed=5):
    """Other values for every entry."""
    rng = np.random.default_rng(seed)
    return {
        key: (rng.standard_normal(entry.shape) * 4).astype(entry.dtype) for key, entry in reg.items() if entry.concrete
    }


def described(model):
    """Everything of every tensor but its values."""
    return {
        name: (
            id(tensor), type(tensor), tensor.device, tensor.dtype, tensor.shape, tensor.stride(), tensor.data_ptr(),
            tensor.requires_grad, tensor.is_leaf, id(tensor.grad),
        )
        for table in (model.named_parameters, model.named_buffers)
        for name, tensor in table(remove_duplicate=False)
    }  # fmt: skip


def test_a_write_returns_the_registry_and_keeps_every_object():
    model = model_of()
    model(torch.randn(4, 3)).sum().backward()
    reg, before, entries = sr.of(model), described(model), dict(sr.of(model))
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    values = others(reg)
    assert reg.replace(values) is reg
    assert described(model) == before
    assert dict(reg) == entries
    for key, value in values.items():
        assert reg.read(key).tobytes() == value.tobytes()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), grads, strict=True))
    sr.load(reg, others(reg, 6))
    assert described(model) == before


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW], ids=lambda cls: cls.__name__)
def test_an_optimizer_stays_linked_and_keeps_its_state(make):
    model = model_of()
    options = {"momentum": 0.9} if make is torch.optim.SGD else {}
    optimizer = make(model.parameters(), lr=0.1, **options)
    model(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    name = "momentum_buffer" if make is torch.optim.SGD else "exp_avg"
    moments = {id(p): optimizer.state[p][name].clone() for p in model.parameters()}
    reg = sr.of(model)
    values = others(reg)
    reg.replace(values)
    assert all(torch.equal(optimizer.state[p][name], moments[id(p)]) for p in model.parameters())
    optimizer.zero_grad()
    model(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    for key in ("0/weight", "1/weight", "2/weight", "2/bias"):  # the bias before a BatchNorm has no gradient
        assert reg.read(key).tobytes() != values[key].tobytes()


def test_a_write_is_not_recorded_and_leaves_stay_leaves():
    model = model_of()
    reg = sr.of(model)
    reg.replace(others(reg))
    for parameter in model.parameters():
        assert parameter.is_leaf
        assert parameter.grad_fn is None
        assert parameter.requires_grad
    model(torch.randn(4, 3)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_write_between_forward_and_backward_is_noticed_by_autograd():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    out = model(torch.randn(4, 3)).sum()
    sr.of(model).replace({"1/weight": np.ones((3, 3), np.float32)})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


@pytest.mark.parametrize("again", [lambda p: p.detach(), lambda p: p.data, lambda p: torch.from_numpy(p.detach().numpy())],
                         ids=["detached", "data", "from NumPy"])  # fmt: skip
def test_a_write_to_one_of_two_objects_over_one_memory_is_noticed_at_both(again):
    model = nn.Module()
    model.z = nn.Parameter(torch.randn(3, 3))
    model.a = nn.Parameter(again(model.z))
    assert dict(sr.of(model).aliases) == {"z": "a"}
    for name in ("z", "a"):
        out = (torch.randn(3, 3, requires_grad=True) @ getattr(model, name)).sum()
        sr.of(model).replace({"a": np.ones((3, 3), np.float32)})
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.backward()


@pytest.mark.parametrize(
    "mode",
    [torch.no_grad, torch.enable_grad, torch.inference_mode, lambda: torch.device("meta")],
    ids=["no_grad", "enable_grad", "inference_mode", "device"],
)
def test_the_mode_of_the_caller_does_not_matter(mode):
    model = model_of()
    before = described(model)
    version = model[0].weight._version
    with mode():
        reg = sr.of(model)
        values = others(reg)
        reg.replace(values)
        assert reg.read("0/weight").tobytes() == values["0/weight"].tobytes()
        reg.with_trainable({"2/bias": False}).with_trainable({"2/bias": True})
    assert described(model) == before
    assert model[0].weight._version == version + 1
    model(torch.randn(4, 3)).sum().backward()


def test_inference_tensors_are_read_and_written():
    with torch.inference_mode():
        model = model_of()
    reg = sr.of(model)
    values = others(reg)
    reg.replace(values)
    for key, value in values.items():
        assert reg.read(key).tobytes() == value.tobytes()
    assert model[0].weight.is_inference()
    assert reg.with_trainable({"0/weight": False})["0/weight"].trainable is False
    assert reg.with_trainable({"0/weight": True})["0/weight"].trainable is True


def test_hooks_on_parameters_stay():
    model = nn.Linear(2, 2)
    calls = []
    model.weight.register_hook(lambda grad: calls.append("hook"))
    model.weight.register_post_accumulate_grad_hook(lambda p: calls.append("post"))
    sr.of(model).replace({"weight": np.ones((2, 2), np.float32)})
    model(torch.ones(1, 2)).sum().backward()
    assert calls == ["hook", "post"]


def test_a_buffer_that_is_the_result_of_a_graph_is_written_without_being_recorded():
    model = nn.Module()
    source = torch.ones(3, requires_grad=True)
    model.register_buffer("b", source * 2)
    sr.of(model).replace({"b": np.float32([7, 8, 9])})
    assert model.b.tolist() == [7.0, 8.0, 9.0]
    assert type(model.b.grad_fn).__name__ == "MulBackward0"
    assert not sr.of(model)["b"].trainable


def test_a_compiled_or_counted_module_keeps_computing_with_the_new_values():
    model = nn.Linear(2, 2, bias=False)
    sr.of(model).replace({"weight": np.float32([[1, 2], [3, 4]])})
    assert model(torch.tensor([[1.0, 1.0]])).tolist() == [[3.0, 7.0]]


def test_a_recurrent_layer_computes_with_what_was_written():
    model, other = nn.LSTM(3, 4), nn.LSTM(3, 4)
    sr.load(sr.of(model), sr.of(other))
    x = torch.randn(2, 1, 3)
    assert torch.equal(model(x)[0], other(x)[0])


# -------------------------------------------------------------------- ties


def tied():
    model = nn.Module()
    model.z = nn.Linear(3, 3)
    model.a = nn.Linear(3, 3)
    model.a.weight = model.z.weight
    model.again = model.a
    model.view = nn.Parameter(model.z.bias.detach())
    return model


def test_ties_of_every_sort_are_one_entry_and_survive():
    model = tied()
    reg = sr.of(model)
    expected = {"again/weight": "a/weight", "again/bias": "a/bias", "z/weight": "a/weight", "z/bias": "view"}
    assert dict(reg.aliases) == expected
    assert list(reg) == ["a/bias", "a/weight", "view"]
    assert reg.native_order == ("view", "a/weight", "a/bias")
    for key in ("a/weight", "again/weight", "z/weight"):
        value = np.random.default_rng(len(key)).standard_normal((3, 3)).astype(np.float32)
        reg.replace({key: value})
        for other in ("a/weight", "again/weight", "z/weight"):
            assert reg.read(other).tobytes() == value.tobytes()
        assert model.z.weight.detach().numpy().tobytes() == value.tobytes()
    reg.replace({"z/bias": np.float32([1, 2, 3])})
    assert model.view.tolist() == model.z.bias.tolist() == [1.0, 2.0, 3.0]
    assert model.z.weight is model.a.weight
    assert dict(reg.aliases) == expected


def test_aliases_are_given_equal_bits_or_refused():
    model = tied()
    reg = sr.of(model)
    value = np.full((3, 3), np.nan, np.float32)
    reg.replace({"a/weight": value, "z/weight": value.copy()})
    before = reg.read("a/weight").tobytes()
    with pytest.raises(errors.ConflictError) as error:
        reg.replace({"a/weight": value, "z/weight": -value})
    assert error.value.keys == ("a/weight", "z/weight")
    assert reg.read("a/weight").tobytes() == before


def test_a_group_is_frozen_and_thawed_with_all_of_its_objects():
    model = tied()
    reg = sr.of(model)
    reg.with_trainable({"z/bias": False, "again/weight": False})
    assert not any(tensor.requires_grad for tensor in (model.view, model.z.bias, model.a.weight))
    assert (reg["view"].trainable, reg["a/weight"].trainable, reg["a/bias"].trainable) == (False, False, True)
    reg.with_trainable({"view": True})
    assert model.view.requires_grad
    assert model.z.bias.requires_grad


def test_a_group_of_a_parameter_and_a_transient_buffer_is_a_persistent_parameter():
    model = nn.Module()
    model.register_buffer("cache", torch.randn(3), persistent=False)
    model.weight = nn.Parameter(model.cache)
    entry = sr.of(model)["cache"]
    assert (entry.kind, entry.persistent, entry.trainable) == (sr.Kind.PARAMETER, True, True)
    sr.of(model).with_trainable({"cache": False})
    assert not model.weight.requires_grad
    assert not sr.of(model)["cache"].trainable


def test_a_gradient_of_a_buffer_does_not_make_its_group_trainable():
    model = nn.Module()
    model.weight = nn.Parameter(torch.randn(3), requires_grad=False)
    model.register_buffer("b", model.weight.detach().requires_grad_())
    assert not sr.of(model)["b"].trainable
    assert sr.of(model)["b"].kind is sr.Kind.PARAMETER


def test_a_buffer_that_is_saved_anywhere_is_saved():
    model = nn.ModuleDict({"a": nn.Module(), "b": nn.Module()})
    model["a"].register_buffer("x", torch.randn(3), persistent=False)
    model["b"].register_buffer("x", model["a"].x)
    reg = sr.of(model)
    assert dict(reg.aliases) == {"b/x": "a/x"}
    assert reg["a/x"].persistent
    model["b"].register_buffer("x", model["a"].x, persistent=False)
    assert not reg["a/x"].persistent


def test_two_storages_over_one_numpy_array_are_a_tie():
    memory = np.zeros(4, np.float32)
    model = nn.Module()
    model.a = nn.Parameter(torch.from_numpy(memory))
    model.b = nn.Parameter(torch.from_numpy(memory))
    assert dict(sr.of(model).aliases) == {"b": "a"}


def test_equal_values_and_empty_tensors_are_no_ties():
    model = nn.Module()
    model.a, model.b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    model.register_buffer("c", torch.zeros(0))
    model.register_buffer("d", torch.zeros(0))
    model.register_buffer("e", model.a.detach()[:0])
    model.register_buffer("f", model.a.detach()[:0])
    reg = sr.of(model)
    assert not reg.aliases
    assert not reg.opaque
    assert len(reg) == 6


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(lambda w: w[1:3], id="rows"),
        pytest.param(lambda w: w[:, 1:], id="columns"),
        pytest.param(lambda w: w.t(), id="transpose"),
        pytest.param(lambda w: w.reshape(-1), id="flat"),
        pytest.param(lambda w: w.view(torch.int32), id="other dtype"),
        pytest.param(lambda w: w[0, 0], id="one element"),
        pytest.param(lambda w: w.as_strided((2,), (5,)), id="strided"),
    ],
)
def test_what_shares_a_part_with_an_earlier_place_is_opaque(part):
    model = nn.Module()
    model.w = nn.Parameter(torch.randn(4, 4))
    model.register_buffer("part", part(model.w.detach()))
    reg = sr.of(model)
    assert list(reg) == ["w"]
    assert reg.opaque == {"part": "it shares a part of its memory with 'w'"}
    with pytest.raises(errors.SourceError):
        reg.replace({"part": reg.read("w")})


def test_every_part_of_a_large_place_is_found_however_many_there_are():
    model = nn.Module()
    model.w = nn.Parameter(torch.randn(10, 10))
    for row in (1, 4, 7):
        model.register_buffer(f"row{row}", model.w.detach()[row])
    assert set(sr.of(model).opaque) == {"row1", "row4", "row7"}


def test_a_strided_place_reaches_further_than_its_size():
    base = torch.zeros(8)
    model = nn.Module()
    model.register_buffer("even", base[::2])
    model.register_buffer("last", base[6:7])
    model.register_buffer("between", base[5:6])
    reg = sr.of(model)
    assert set(reg.opaque) == {"last"}
    assert list(reg) == ["between", "even"]


def test_empty_tensors_are_never_one_place():
    empty = torch.zeros(0, 3)
    assert not overlap.same_place(empty, empty)
    assert not overlap.share_elements(empty, empty)


def test_parts_that_interleave_without_meeting_are_places_of_their_own(same):
    fused = torch.zeros(4, 6)
    model = nn.Module()
    for number, name in enumerate("qkv"):
        model.register_parameter(name, nn.Parameter(fused[:, 2 * number : 2 * number + 2]))
    model.register_buffer("even", torch.zeros(8)[::2])
    base = torch.zeros(8)
    model.register_buffer("one", base[::2])
    model.register_buffer("two", base[1::2])
    reg = sr.of(model)
    assert not reg.opaque
    assert not reg.aliases
    values = others(reg)
    reg.replace(values)
    for key, value in values.items():
        same(reg.read(key), value)


def test_conjugate_views_of_one_memory_are_not_one_place():
    model = nn.Module()
    model.z = nn.Parameter(torch.randn(3, dtype=torch.complex64))
    model.register_buffer("c", model.z.detach().conj())
    assert set(sr.of(model).opaque) == {"c"}


def test_the_parameters_of_fused_memory_are_many_places():
    flat = torch.zeros(60)
    model = nn.Module()
    for number in range(20):
        model.register_parameter(f"p{number}", nn.Parameter(flat[3 * number : 3 * number + 3]))
    reg = sr.of(model)
    assert len(reg) == 20
    assert not reg.opaque


# -------------------------------------------------------------------- all or nothing


class Broken(torch.Tensor):
    """A tensor that cannot be written."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.copy_:
            raise RuntimeError("out of memory on the device")
        return torch.Tensor.__torch_function__.__func__(cls, func, types, args, kwargs or {})


class BrokenParameter(Broken, nn.Parameter):
    pass


@pytest.mark.parametrize("position", ["0/weight", "1/running_mean", "2/bias"])
def test_a_native_failure_is_rolled_back_wherever_it_happens(position):
    model = model_of()
    path, name = position.split("/")
    cell = getattr(model[int(path)], name)
    cell.__class__ = BrokenParameter if isinstance(cell, nn.Parameter) else Broken
    reg = sr.of(model)
    before = {key: reg.read(key).tobytes() for key in reg}
    objects = described(model)
    with pytest.raises(errors.CommitError, match="every place has its old value") as error:
        reg.replace(others(reg))
    assert isinstance(error.value.__cause__, RuntimeError)
    assert {key: reg.read(key).tobytes() for key in reg} == before
    assert described(model) == objects


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        pytest.param(("nowhere", np.zeros(3, np.float32)), errors.UnexpectedKeyError, id="key"),
        pytest.param(("1/bias", np.zeros(4, np.float32)), errors.ShapeError, id="shape"),
        pytest.param(("1/bias", np.zeros(3)), errors.DtypeMismatchError, id="dtype"),
        pytest.param(("1/bias", torch.zeros(3, device="meta")), errors.SourceError, id="meta"),
        pytest.param(("1/bias", "text"), errors.SourceError, id="text"),
    ],
)
def test_a_bad_value_anywhere_changes_nothing(bad, error, position):
    model = model_of()
    reg = sr.of(model)
    before = {key: reg.read(key).tobytes() for key in reg}
    values = others(reg)
    values.pop("1/bias")
    items = list(values.items())
    items.insert([0, len(items) // 2, len(items)][position], bad)
    with pytest.raises(error):
        reg.replace(dict(items))
    assert {key: reg.read(key).tobytes() for key in reg} == before


def test_freezing_is_all_or_nothing():
    model = model_of()
    reg = sr.of(model)
    with pytest.raises(errors.KindError, match="running_mean"):
        reg.with_trainable({"0/weight": False, "1/running_mean": True, "2/weight": False})
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(errors.UnexpectedKeyError):
        reg.with_trainable({"0/weight": False, "nowhere": False})
    assert model[0].weight.requires_grad


def test_a_failure_while_freezing_puts_every_flag_back(monkeypatch):
    model = model_of()
    reg = sr.of(model)
    # Not a leaf: torch refuses to change its flag.
    model[2]._parameters["bias"] = model[0].bias * 2
    with pytest.raises(errors.CommitError):
        reg.with_trainable({"0/weight": False, "0/bias": False, "2/bias": False})
    assert model[0].weight.requires_grad
    assert model[0].bias.requires_grad


def test_objects_of_one_memory_with_different_flags_keep_them_when_freezing_fails():
    model = nn.Module()
    model.a = nn.Parameter(torch.randn(3))
    model.b = nn.Parameter(model.a.detach(), requires_grad=False)
    model.leaf = nn.Linear(2, 2)
    model.leaf._parameters["bias"] = model.leaf.bias * 2
    reg = sr.of(model)
    with pytest.raises(errors.CommitError):
        reg.with_trainable({"a": False, "leaf/bias": False})
    assert (model.a.requires_grad, model.b.requires_grad) == (True, False)


def test_an_integer_parameter_is_never_trainable():
    model = nn.Module()
    model.steps = nn.Parameter(torch.arange(3), requires_grad=False)
    reg = sr.of(model)
    assert reg["steps"].kind is sr.Kind.PARAMETER
    assert not reg["steps"].trainable
    with pytest.raises(errors.KindError):
        reg.with_trainable({"steps": True})
    reg.replace({"steps": np.array([7, 8, 2**40])})
    assert model.steps.tolist() == [7, 8, 2**40]


def test_loading_between_models_takes_registries_and_modules_alike():
    one, other = model_of(1), model_of(2)
    one[1].register_buffer("scratch", torch.ones(2), persistent=False)
    sr.load(sr.of(one), sr.of(other))
    assert sr.snapshot(sr.of(one)).keys() == sr.snapshot(sr.of(other)).keys()
    for key, value in sr.snapshot(sr.of(other)).items():
        assert sr.of(one).read(key).tobytes() == value.tobytes()
    assert one[1].scratch.tolist() == [1.0, 1.0]
