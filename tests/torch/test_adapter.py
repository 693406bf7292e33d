"""The adapter object: what it recognises, what it says of near misses, templates, and that it loads no framework."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

import stateregistry as sr
from stateregistry import errors
from stateregistry.plugins import SupportsDerivation, SupportsTemplates
from stateregistry_torch import adapter


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


def test_importing_the_package_loads_no_framework():
    code = "import sys, stateregistry_torch, stateregistry_torch.harness; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert run(code).stdout.split() == ["False", "False"]


def test_the_test_of_the_import_can_fail():
    code = "import sys, stateregistry_torch.registry; print('torch' in sys.modules)"
    assert run(code).stdout.split() == ["True"]


def test_recognising_and_explaining_load_no_framework():
    code = (
        "import sys; from stateregistry_torch import adapter; print(adapter.recognises(3), repr(adapter.explain({'a': 1})), "
        "adapter.abstractly(lambda: 5), 'torch' in sys.modules)"
    )
    assert run(code).stdout.split() == ["False", "''", "5", "False"]


def test_without_torch_writing_says_what_to_install():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from stateregistry_torch import adapter, store\n"
        "from stateregistry import errors\n"
        "for call in (lambda: store.write(None, None, extra={}, progress=None), lambda: adapter.assemble(None)):\n"
        "    try: call()\n"
        "    except errors.MissingDependencyError as error: print(error.hint)\n"
    )
    assert run(code).stdout.splitlines() == ["pip install 'stateregistry[torch]'"] * 2


def test_a_module_is_recognised_and_found_by_of():
    model = nn.Linear(2, 3)
    assert adapter.recognises(model)
    assert sr.of(model).unwrap() is model
    assert sr.of(model).adapter == sr.of(model).dialect == "torch"


def test_the_adapter_offers_templates_and_derivation():
    assert isinstance(adapter, SupportsTemplates)
    assert isinstance(adapter, SupportsDerivation)
    assert adapter.dialect.name == "torch"


def test_an_option_is_refused_by_name():
    with pytest.raises(errors.AdapterError, match="prefix") as error:
        sr.of(nn.Linear(2, 2), adapter="torch", prefix="x")
    assert error.value.keys == ("prefix",)


NEAR = {
    "a state_dict": (lambda: nn.Linear(2, 2).state_dict(), "pass the torch module"),
    "a checkpoint": (lambda: {"epoch": 3, "state_dict": nn.Linear(2, 2).state_dict()}, "'state_dict'"),
    "a dict with a model": (lambda: {"epoch": 3, "model": nn.Linear(2, 2)}, "obj['model']"),
    "a tensor": (lambda: torch.zeros(3), "holds it"),
    "a parameter": (lambda: nn.Parameter(torch.zeros(3)), "holds it"),
    "an optimizer": (lambda: torch.optim.SGD(nn.Linear(2, 2).parameters()), "pass the model"),
    "a class": (lambda: nn.Linear, "Linear(...)"),
}


@pytest.mark.parametrize(("make", "words"), NEAR.values(), ids=NEAR)
def test_a_near_miss_is_told_what_to_pass(make, words):
    with pytest.raises(errors.AdapterError) as error:
        sr.of(make())
    assert words in str(error.value)
    with pytest.raises(errors.AdapterError) as error:
        sr.of(make(), adapter="torch")
    assert words in str(error.value)


@pytest.mark.parametrize("obj", [3, "model.pt", {}, {"a": 1}, 3.5j, None, int, [nn.Linear(2, 2)]], ids=repr)
def test_what_is_not_near_gets_no_hint(obj):
    assert not adapter.recognises(obj)
    assert adapter.explain(obj) == ""


def test_an_exported_program_is_told_to_give_its_module():
    program = torch.export.export(nn.Linear(2, 2), (torch.randn(1, 2),))
    assert "program.module()" in adapter.explain(program)
    assert len(sr.of(program.module())) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile imports what torch itself deprecates
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_a_wrapper_is_taken_as_it_is(wrap):
    model = nn.Linear(2, 3)
    reg = sr.of(wrap(model))
    prefix = "module" if wrap is nn.DataParallel else "_orig_mod"
    assert list(reg) == [f"{prefix}/bias", f"{prefix}/weight"]
    reg.replace({f"{prefix}/bias": model.bias.detach().numpy() + 1})
    assert reg.read(f"{prefix}/bias").tobytes() == model.bias.detach().numpy().tobytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("stored", [False, True], ids=["scripted", "saved and loaded"])
def test_a_scripted_module_is_read_and_written(stored, tmp_path):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    scripted = torch.jit.script(model)
    if stored:
        torch.jit.save(scripted, tmp_path / "model.pt")
        scripted = torch.jit.load(tmp_path / "model.pt")
    reg = sr.of(scripted)
    assert dict(reg) == dict(sr.of(model))
    assert not reg.opaque
    assert all(reg.read(key).tobytes() == sr.of(model).read(key).tobytes() for key in reg)
    reg.replace({"1/running_mean": reg.read("1/running_mean") + 7})
    assert getattr(scripted, "1").running_mean.tolist() == [7.0, 7.0, 7.0]
    assert reg.with_trainable({"0/weight": False})["0/weight"].trainable is False
    assert not reg.layers


def test_a_thunk_runs_on_the_meta_device():
    model = adapter.abstractly(lambda: nn.Linear(1 << 20, 1 << 20))
    reg = adapter.template(model)
    assert reg["weight"].shape == (1 << 20, 1 << 20)
    assert not any(entry.concrete for entry in reg.values())


def test_a_constructor_that_looks_at_values_is_run_for_real():
    calls = []

    def build():
        calls.append(1)
        rates = [float(rate) for rate in torch.linspace(0, 1, 3)]
        return nn.Sequential(*[nn.Dropout(rate) for rate in rates], nn.Linear(2, 2))

    reg = adapter.template(adapter.abstractly(build))
    assert list(reg) == ["3/bias", "3/weight"]
    assert len(calls) == 2


def test_an_error_of_the_constructor_itself_is_not_hidden():
    def build():
        raise RuntimeError("no such checkpoint")

    with pytest.raises(RuntimeError, match="no such checkpoint"):
        adapter.abstractly(build)


def test_what_is_no_module_is_no_template():
    assert adapter.template({"params": {}}) is None


def test_assembling_gives_a_state_dict_that_torch_loads(raw):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3, dtype=torch.bfloat16))
    model.add_module("again", model[0])
    tensors = adapter.assemble(sr.of(model))
    assert tensors["again.weight"] is tensors["0.weight"]
    assert {name: raw(tensor) for name, tensor in tensors.items()} == {
        name: raw(tensor) for name, tensor in model.state_dict().items()
    }
    other = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3, dtype=torch.bfloat16))
    other.add_module("again", other[0])
    assert str(other.load_state_dict(tensors)) == "<All keys matched successfully>"
    tensors["0.weight"].fill_(9)
    assert raw(model[0].weight) != raw(tensors["0.weight"])


def test_assembling_without_values_is_refused():
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    with pytest.raises(errors.AbstractError) as error:
        adapter.assemble(sr.of(model))
    assert error.value.keys == ("bias", "weight")
