"""What is listed: names, places, what is opaque, what is refused, and that a live registry sees every change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

import stateregistry as sr
from stateregistry import Kind, errors, keys
from stateregistry_torch import settling
from stateregistry_torch.census import Census
from stateregistry_torch.walk import walk

SEGMENTS = st.text(min_size=1, max_size=6).filter(lambda text: "." not in text and not hasattr(nn.Module(), text))


@given(st.lists(SEGMENTS, min_size=1, max_size=4))
def test_every_name_that_torch_takes_round_trips(segments):
    root = module = nn.Module()
    for step in segments[:-1]:
        module.add_module(step, nn.Module())
        module = module._modules[step]
    module.register_buffer(segments[-1], torch.arange(3.0))
    reg = sr.of(root)
    assert list(reg) == [keys.join(*segments)]
    assert keys.split(next(iter(reg))) == tuple(segments)
    assert reg[keys.join(*segments)].shape == (3,)
    reg.replace({keys.join(*segments): np.float32([4, 5, 6])})
    assert module._buffers[segments[-1]].tolist() == [4.0, 5.0, 6.0]


def test_odd_names_are_escaped_and_not_normalised():
    model = nn.Module()
    for name in ("a/b", "a~b", "~1", "a b", "é", "e\u0301", "Ω", "10", "9"):
        model.register_parameter(name, nn.Parameter(torch.randn(2)))
    expected = sorted(["a~1b", "a~0b", "~01", "a b", "é", "e\u0301", "Ω", "10", "9"])
    assert list(sr.of(model)) == expected


def test_a_module_with_a_dot_in_its_name_has_one_segment():
    model = nn.Module()
    setattr(model, "a.b", nn.Linear(2, 2))
    assert list(sr.of(model)) == ["a.b/bias", "a.b/weight"]


def test_an_empty_name_is_refused():
    model = nn.Module()
    setattr(model, "", nn.Linear(2, 2))
    with pytest.raises(errors.KeyPathError):
        sr.of(model)


def test_one_name_in_two_tables_is_refused():
    model = nn.Linear(2, 2)
    model._buffers["weight"] = torch.zeros(2)
    with pytest.raises(errors.DuplicateKeyError, match="a parameter and a buffer"):
        sr.of(model)
    for table in ("_parameters", "_buffers"):
        model = nn.Module()
        getattr(model, table)["w"] = nn.Parameter(torch.zeros(2))
        model._modules["w"] = nn.Linear(2, 2)
        with pytest.raises(errors.DuplicateKeyError, match="'w' is at once a tensor and a module"):
            sr.of(model)


def test_a_none_does_not_take_its_name():
    model = nn.Module()
    model.register_parameter("w", None)
    model._buffers["w"] = torch.zeros(2)
    model._modules["v"] = None
    model._parameters["v"] = nn.Parameter(torch.zeros(2))
    assert list(sr.of(model)) == ["v", "w"]


def test_a_module_inside_itself_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    model[1].add_module("parent", model)
    with pytest.raises(errors.UnsupportedError, match="'1/parent'"):
        sr.of(model)


def test_a_module_that_forgot_its_init_is_refused():
    class Forgot(nn.Module):
        def __init__(self):
            pass

    with pytest.raises(errors.UnsupportedError, match="not initialised"):
        sr.of(Forgot())


def test_lazy_parameters_are_all_named_and_the_model_is_taken_once_it_has_run():
    model = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3), nn.LazyBatchNorm1d())
    with pytest.raises(errors.AbstractError) as error:
        sr.of(model)
    lazy = {"1/weight", "1/bias", "2/weight", "2/bias", "2/running_mean", "2/running_var"}
    assert set(error.value.keys) == lazy
    model(torch.randn(4, 2))
    assert lazy < set(sr.of(model))


def test_a_deep_model_needs_no_recursion():
    model = inner = nn.Module()
    for _ in range(3000):
        inner.add_module("x", nn.Module())
        inner = inner._modules["x"]
    inner.register_buffer("b", torch.arange(2.0))
    reg = sr.of(model)
    key = "x/" * 3000 + "b"
    assert list(reg) == [key]
    assert reg.read(key).tolist() == [0.0, 1.0]


def test_parametrizations_show_what_they_compute_from():
    model = parametrizations.weight_norm(nn.Linear(3, 2))
    assert list(sr.of(model)) == ["bias", "parametrizations/weight/original0", "parametrizations/weight/original1"]
    model = parametrizations.spectral_norm(nn.Linear(3, 2))
    reg = sr.of(model)
    assert {key: reg[key].kind for key in reg if key.startswith("param")} == {
        "parametrizations/weight/original": Kind.PARAMETER,
        "parametrizations/weight/0/_u": Kind.BUFFER,
        "parametrizations/weight/0/_v": Kind.BUFFER,
    }


def test_pruning_shows_the_original_and_the_mask():
    reg = sr.of(prune.random_unstructured(nn.Linear(3, 2), "weight", 0.5))
    assert {key: entry.kind for key, entry in reg.items()} == {
        "bias": Kind.PARAMETER,
        "weight_orig": Kind.PARAMETER,
        "weight_mask": Kind.BUFFER,
    }


def test_state_dict_hooks_do_not_change_keys():
    model = nn.Linear(2, 2)
    model._register_state_dict_hook(lambda module, state, prefix, local: state.update(renamed=state.pop("weight")))
    assert "renamed" in model.state_dict()
    assert list(sr.of(model)) == ["bias", "weight"]


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2))

    def get_extra_state(self):
        return {"steps": 3}

    def set_extra_state(self, state):
        pass


def test_extra_state_is_opaque_under_every_name_of_its_module():
    model = nn.Module()
    model.one = model.two = Counting()
    reg = sr.of(model)
    assert set(reg.opaque) == {"one/_extra_state", "two/_extra_state"}
    assert "get_extra_state" in reg.opaque["one/_extra_state"]
    with pytest.raises(errors.OpaqueError):
        reg.read("one/_extra_state")
    with pytest.raises(errors.OpaqueError):
        sr.snapshot(reg)


def test_a_buffer_called_extra_state_clashes_with_it():
    model = Counting()
    model.register_buffer("_extra_state", torch.zeros(2))
    with pytest.raises(errors.DuplicateKeyError, match="_extra_state"):
        sr.of(model)


def test_what_a_module_saves_beside_its_tensors_is_opaque():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.ones(1))
            self.packed = torch.arange(4)

        def _save_to_state_dict(self, destination, prefix, keep_vars):
            super()._save_to_state_dict(destination, prefix, keep_vars)
            destination[prefix + "packed"] = self.packed

    class Broken(nn.Module):
        def _save_to_state_dict(self, destination, prefix, keep_vars):
            raise ValueError("not now")

    model = nn.ModuleDict({"inner": Packed(), "broken": Broken()})
    reg = sr.of(model)
    assert list(reg) == ["inner/scale"]
    assert set(reg.opaque) == {"inner/packed", "broken/_save_to_state_dict"}
    with pytest.raises(errors.OpaqueError):
        sr.snapshot(reg)


@pytest.mark.filterwarnings("ignore")  # torch deprecates its own quantization
def test_a_quantized_model_does_not_lose_its_weights_silently():
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 2)), {nn.Linear}, dtype=torch.qint8)
    reg = sr.of(model)
    saved = {name.replace(".", "/") for name in model.state_dict()}
    assert saved == set(reg) | set(reg.opaque)
    with pytest.raises(errors.OpaqueError):
        sr.snapshot(reg)


class Wrapped(torch.Tensor):
    """A subclass with a form of its own."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch calls these features prototypes
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda: torch.eye(3).to_sparse(), "sparse_coo", id="sparse"),
        pytest.param(lambda: torch.eye(3).to_sparse_csr(), "sparse_csr", id="csr"),
        pytest.param(lambda: torch.zeros(2, dtype=torch.complex32), "complex32", id="complex32"),
        pytest.param(lambda: torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.qint8), "qint8", id="quantized"),
        pytest.param(lambda: torch.zeros(2, dtype=torch.bits8), "bits8", id="bits8"),
        pytest.param(lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested", id="nested"),
        pytest.param(
            lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
            "NestedTensor",
            id="jagged",
        ),
        pytest.param(lambda: torch.randn(3, 3).to_mkldnn(), "_mkldnn", id="mkldnn"),
        pytest.param(lambda: torch.zeros(3).as_subclass(Wrapped), "Wrapped", id="subclass"),
    ],
)
def test_what_no_registry_can_hold_is_opaque_with_the_reason(make, reason):
    model = nn.Linear(2, 2)
    try:
        model.register_buffer("odd", make())
    except RuntimeError as error:  # a build without one of these
        pytest.fail(f"this torch cannot make the specimen: {error}")
    model.again = nn.Module()
    model.again.register_buffer("odd", model.odd)
    reg = sr.of(model)
    assert list(reg) == ["bias", "weight"]
    assert set(reg.opaque) == {"odd", "again/odd"}
    assert reason in reg.opaque["odd"]
    with pytest.raises(errors.OpaqueError, match=reason):
        reg.read("odd")
    with pytest.raises(errors.SourceError):
        reg.replace({"odd": np.zeros(2, np.float32)})
    with pytest.raises(errors.SourceError, match=reason):
        reg.replace({"bias": model.odd})
    with pytest.raises(errors.OpaqueError):
        sr.snapshot(reg)
    assert set(sr.snapshot(reg, lambda key, entry: True)) == {"bias", "weight"}


def test_a_tensor_whose_storage_was_freed_is_opaque_and_never_read():
    model = nn.Linear(2, 2)
    reg = sr.of(model)
    model.weight.untyped_storage().resize_(0)
    assert "weight" not in reg
    assert reg.opaque == {"weight": "its storage has been freed"}
    with pytest.raises(errors.OpaqueError):
        reg.read("weight")


def test_a_tensor_that_reaches_beyond_its_storage_is_not_read():
    model = nn.Linear(2, 2)
    reg = sr.of(model)
    model.weight.untyped_storage().resize_(8)
    with pytest.raises(errors.UnsupportedError, match="freed or shrunk"):
        reg.read("weight")


# -------------------------------------------------------------------- a live registry


def test_what_is_added_removed_and_replaced_is_seen_at_once():
    model = nn.Sequential(nn.Linear(2, 2))
    reg = sr.of(model)
    model[0].register_buffer("extra", torch.arange(3.0))
    assert reg["0/extra"].shape == (3,)
    assert reg.read("0/extra").tolist() == [0.0, 1.0, 2.0]
    model[0].register_buffer("extra", torch.zeros(4, dtype=torch.int64), persistent=False)
    assert (reg["0/extra"].shape, reg["0/extra"].dtype, reg["0/extra"].persistent) == ((4,), "int64", False)
    del model[0].extra
    assert "0/extra" not in reg
    model.append(nn.Linear(2, 3))
    assert reg["1/weight"].shape == (3, 2)
    model[1] = nn.Linear(2, 5)
    assert reg["1/weight"].shape == (5, 2)
    assert list(reg) == ["0/bias", "0/weight", "1/bias", "1/weight"]


def test_a_module_that_is_replaced_higher_up_is_seen():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    reg = sr.of(model)
    assert reg["0/0/weight"].shape == (2, 2)
    model[0] = nn.Sequential(nn.Linear(7, 7))
    assert reg["0/0/weight"].shape == (7, 7)
    assert reg.read("0/0/weight").tobytes() == model[0][0].weight.detach().numpy().tobytes()
    model[0] = nn.ReLU()
    assert "0/0/weight" not in reg


def test_data_flags_and_dtype_are_those_of_now():
    model = nn.Linear(2, 2)
    reg = sr.of(model)
    model.weight.requires_grad_(False)
    assert reg["weight"].trainable is False
    model.weight.data = torch.zeros(5, 1)
    assert reg["weight"].shape == (5, 1)
    model.half()
    assert reg["weight"].dtype == reg["bias"].dtype == "float16"
    model.register_buffer("b", torch.zeros(2))
    assert reg["b"].persistent
    model._non_persistent_buffers_set.add("b")
    assert not reg["b"].persistent


def test_a_tie_that_is_made_or_broken_is_seen_by_the_next_listing():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    reg = sr.of(model)
    assert not reg.aliases
    model["b"].weight = model["a"].weight
    assert reg.aliases == {"b/weight": "a/weight"}
    assert "b/weight" not in reg
    model["b"].weight = nn.Parameter(torch.zeros(2, 2))
    assert "b/weight" in reg
    assert not reg.aliases
    model["b"].weight.data = model["a"].weight.data
    assert "b/weight" in list(reg) or reg.aliases == {"b/weight": "a/weight"}
    assert reg.aliases == {"b/weight": "a/weight"}


def test_a_key_that_was_an_alias_is_found_when_the_canonical_one_goes():
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    reg = sr.of(model)
    assert "b/weight" not in reg
    del model["a"]
    assert "b/weight" in reg
    assert reg["b/weight"].shape == (2, 2)
    assert "a/weight" not in reg


def test_writing_while_iterating_is_safe():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    reg = sr.of(model)
    for key in reg:
        reg = reg.replace({key: reg.read(key) + 1})
        model.register_buffer(f"new_{key.replace('/', '_')}", torch.zeros(1))
    assert len(reg) == 8


def test_lookups_do_not_walk_over_the_model(monkeypatch):
    model = nn.ModuleList([nn.Linear(2, 2) for _ in range(50)])
    reg = sr.of(model)
    walks = []
    monkeypatch.setattr("stateregistry_torch.census.walk", lambda root: walks.append(1) or walk(root))
    dict(reg)
    assert len(walks) == 1
    known = tuple(reg.keys())
    for key in known:
        assert reg.get(key) is not None
        reg.read(key)
        assert f"{key}/x" not in reg
        assert "nothing/at/all" not in reg
    assert len(walks) == 2


def test_equal_entries_are_one_object():
    reg = sr.of(nn.ModuleList([nn.Linear(2, 2) for _ in range(5)]))
    assert len({id(entry) for entry in reg.values()}) == 2


def test_listing_has_no_effect_on_the_model():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    model(torch.randn(4, 3)).sum().backward()
    before = [
        (tensor._version, id(tensor.grad), tensor.requires_grad, tensor.data_ptr()) for tensor in model.parameters()
    ]
    state, mode = torch.get_rng_state(), [module.training for module in model.modules()]
    reg = sr.of(model)
    for key in reg:
        reg.view(key)
        reg.read(key)
    sr.check(reg, sr.snapshot(reg))
    _ = reg.layers, reg.aliases, reg.opaque, reg.native_order, repr(reg)
    after = [
        (tensor._version, id(tensor.grad), tensor.requires_grad, tensor.data_ptr()) for tensor in model.parameters()
    ]
    assert after == before
    assert torch.equal(state, torch.get_rng_state())
    assert mode == [module.training for module in model.modules()]


def test_an_empty_module_is_an_empty_registry():
    reg = sr.of(nn.ReLU())
    assert (len(reg), dict(reg), dict(reg.aliases), dict(reg.opaque), reg.layers) == (0, {}, {}, {}, ())
    assert reg.replace({}) is reg
    assert sr.load(reg, {}) is reg


# -------------------------------------------------------------------- settling at once and one by one


@st.composite
def modules(draw):
    """Small models with plain, transposed, empty, shared, overlapping and foreign tensors."""
    root = nn.Module()
    made = []
    for number in range(draw(st.integers(0, 6))):
        dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]))
        shape = draw(st.sampled_from([(), (0,), (1,), (4,), (2, 3), (3, 2), (2, 2, 2)]))
        tensor = torch.zeros(shape, dtype=dtype, device=draw(st.sampled_from(["cpu", "cpu", "cpu", "meta"])))
        change = draw(st.sampled_from(["", "", "t", "same", "view", "slice", "sparse"]))
        if change == "t" and tensor.ndim == 2:
            tensor = tensor.t()
        elif change in {"same", "view", "slice"} and made:
            tensor = draw(st.sampled_from(made))
            if change == "view":
                tensor = tensor.detach()
            elif change == "slice" and tensor.ndim and tensor.layout is torch.strided:
                tensor = tensor.detach()[1:]
        elif change == "sparse" and tensor.ndim == 2 and not tensor.is_meta:
            tensor = tensor.to_sparse()
        made.append(tensor)
        name = draw(st.permutations("abcdefg"))[0] + str(number)
        if draw(st.booleans()) and tensor.is_floating_point():
            if type(tensor) is torch.Tensor:
                tensor = made[-1] = nn.Parameter(tensor, requires_grad=draw(st.booleans()))
            root.register_parameter(name, tensor)
        else:
            root.register_buffer(name, tensor, persistent=draw(st.booleans()))
    return root


@given(modules())
def test_settling_at_once_gives_what_settling_row_by_row_gives(model):
    found = walk(model)
    quick, slow = settling.settle(found), settling.settle(found, at_once=False)
    for name in ("entries", "addresses", "groups", "opaque", "lazy"):
        assert getattr(quick, name) == getattr(slow, name), name


@given(modules())
def test_a_census_accounts_for_every_name_once(model):
    census = Census(model)
    names = [*census.entries, *census.aliases, *census.opaque]
    assert sorted(names) == sorted(walk(model).keys)
    for key, row in census.rows.items():
        assert census.entry(row) == census.entries[key]
        group = census.groups.get(row, [row])
        assert key == min(census.found.keys[member] for member in group)


@given(modules())
def test_two_keys_are_aliases_exactly_when_a_write_to_one_is_seen_at_the_other(model):
    reg = sr.of(model)
    concrete = {key: entry for key, entry in reg.items() if entry.concrete and entry.size}
    values = {key: np.full(entry.shape, 1).astype(reg.read(key).dtype) for key, entry in concrete.items()}
    for key, value in values.items():
        before = {
            other: reg.read(other).tobytes()
            for other in [*concrete, *reg.aliases]
            if reg[reg.aliases.get(other, other)].concrete
        }
        zero = np.zeros_like(value)
        reg.replace({key: value if before[key] != value.tobytes() else zero})
        changed = {other for other, bits in before.items() if reg.read(other).tobytes() != bits}
        assert changed == {key, *(alias for alias, canonical in reg.aliases.items() if canonical == key)}
