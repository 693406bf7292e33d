"""Writing `.pt` files: what torch loads from them is what was there, and our own metadata does not disturb it."""

from __future__ import annotations

import io
import json
import pickletools
import struct
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import DTYPES
from stateregistry_torch import store
from stateregistry_torch.writing import ALIGNMENT, DOCUMENT, PREFIX, write_torch


def everything(tensor_of, bits):
    """A model with every dtype, shape and sort of state that a file can hold."""
    model = nn.Module()
    for number, dtype in enumerate(sorted(DTYPES)):
        model.register_buffer(f"b_{dtype}", tensor_of(bits(dtype, (2, 3), number)))
    model.register_buffer("scalar", torch.tensor(2.5))
    model.register_buffer("empty", torch.zeros(0, 3))
    model.register_buffer("hollow", torch.zeros(3, 0, 2))
    model.register_buffer("transposed", torch.randn(4, 3).t())
    model.register_parameter("slash/and~tilde", nn.Parameter(torch.randn(2)))
    model.body = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model.body[0].bias.requires_grad_(False)
    model.again = model.body[0]
    return model


def written(path, source, extra=None):
    told = []
    write_torch(path, source, extra=extra or {}, progress=lambda key, nbytes: told.append((key, nbytes)))
    return told


LOADS = {
    "eager": {},
    "mapped": {"mmap": True},
    "weights only": {"weights_only": True},
    "mapped weights only": {"mmap": True, "weights_only": True},
    "full pickle": {"weights_only": False},
}


@pytest.mark.parametrize("options", LOADS.values(), ids=LOADS)
def test_torch_loads_every_bit_of_it(options, tmp_path, tensor_of, bits, raw):
    model = everything(tensor_of, bits)
    path = tmp_path / "model.pt"
    written(path, sr.of(model), {"note": {"for": "others"}})
    state = torch.load(path, **options)
    expected = model.state_dict()
    assert set(state) == set(expected)
    assert {name: raw(tensor) for name, tensor in state.items()} == {name: raw(t) for name, t in expected.items()}
    assert state["again.weight"] is state["body.0.weight"]
    assert all(tensor.is_contiguous() for tensor in state.values())
    other = everything(tensor_of, lambda dtype, shape, seed: bits(dtype, shape, seed + 99))
    assert str(other.load_state_dict(state)) == "<All keys matched successfully>"


def test_the_pickle_is_the_one_that_torch_saves(tmp_path, tensor_of, bits):
    path = tmp_path / "model.pt"
    model = everything(tensor_of, bits)
    written(path, sr.of(model))
    ours = zipfile.ZipFile(path).read(f"{PREFIX}/data.pkl")
    tables = (model.named_parameters, model.named_buffers)
    tensors = dict([pair for table in tables for pair in table(remove_duplicate=False)])
    plain = {id(tensor): tensor.detach().contiguous() for tensor in tensors.values()}
    buffer = io.BytesIO()
    torch.save(OrderedDict((name, plain[id(tensors[name])]) for name in torch.load(path)), buffer)
    assert ours == zipfile.ZipFile(buffer).read("archive/data.pkl")
    assert pickletools.optimize(ours)


def test_our_reader_gives_back_what_was_written(tmp_path, tensor_of, bits, same):
    reg = sr.of(everything(tensor_of, bits))
    path = tmp_path / "model.pt"
    sr.save(reg, path, extra={"note": {"for": "others"}})
    with sr.open(path) as found:
        assert dict(found) == dict(reg)
        assert dict(found.aliases) == dict(reg.aliases)
        assert found.dialect == "torch"
        assert found.document.extra == {"note": {"for": "others"}}
        for key in [*reg, *reg.aliases]:
            same(found.read(key), reg.read(key))
        sr.load(reg, found)


def test_the_archive_is_laid_out_as_torch_lays_it_out(tmp_path, tensor_of, bits):
    path = tmp_path / "model.pt"
    told = written(path, sr.of(everything(tensor_of, bits)))
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        infos = archive.infolist()
        assert all(info.filename.startswith(f"{PREFIX}/") for info in infos)
        assert json.loads(archive.read(f"{PREFIX}/{DOCUMENT}"))["dialect"] == "torch"
        for info in infos:
            name, extra = struct.unpack_from("<HH", data, info.header_offset + 26)
            assert (info.header_offset + 30 + name + extra) % ALIGNMENT == 0
            assert info.compress_type == zipfile.ZIP_STORED
            assert (info.create_system, info.date_time) == (0, (1980, 1, 1, 0, 0, 0))  # nothing of machine or moment
    assert sum(nbytes for _, nbytes in told) == sum(
        info.file_size for info in infos if info.filename.startswith(f"{PREFIX}/data/")
    )


def test_the_bytes_depend_on_the_state_alone(tmp_path, tensor_of, bits):
    one, other = tmp_path / "one.pt", tmp_path / "two.pth"
    written(one, sr.of(everything(tensor_of, bits)))
    model = everything(tensor_of, bits)
    sr.load(sr.of(model), sr.open(one))
    written(other, sr.of(model))
    assert one.read_bytes() == other.read_bytes()
    with sr.open(one) as found:
        written(tmp_path / "three.pt", found)
    assert (tmp_path / "three.pt").read_bytes() == one.read_bytes()


def test_progress_is_told_every_value_in_native_order(tmp_path):
    reg = sr.of(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    told = written(tmp_path / "model.pt", reg)
    assert told == [(key, reg[key].nbytes) for key in reg.native_order]


def test_values_of_a_live_model_are_not_copied_and_never_held_together(tmp_path, monkeypatch):
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(8)])
    reg = sr.of(model)
    held = []
    monkeypatch.setattr(type(reg), "read", lambda self, key: pytest.fail("a copy was made"))
    view = type(reg).view

    def watched(self, key):
        array = view(self, key)
        held.append(sys.getrefcount(array))
        assert array.ctypes.data in {tensor.data_ptr() for tensor in model.parameters()}
        return array

    monkeypatch.setattr(type(reg), "view", watched)
    written(tmp_path / "model.pt", reg)
    assert len(held) == 16


@pytest.mark.parametrize("where", ["entry", "alias"])
def test_a_name_with_a_dot_is_refused_before_a_byte_is_written(where, tmp_path):
    model = nn.Module()
    model.register_buffer("b", torch.zeros(2))
    if where == "entry":
        setattr(model, "a.b", nn.Linear(2, 2))
    else:
        model.layer = nn.Linear(2, 2)
        setattr(model, "x.y", model.layer)
    path = tmp_path / "model.pt"
    with pytest.raises(errors.UnsupportedError) as error:
        written(path, sr.of(model))
    prefix = "a.b" if where == "entry" else "x.y"
    assert error.value.keys == (f"{prefix}/bias", f"{prefix}/weight")
    assert not path.exists()


def test_a_model_without_values_is_refused_before_a_byte_is_written(tmp_path):
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    with pytest.raises(errors.AbstractError) as error:
        written(tmp_path / "model.pt", sr.of(model))
    assert error.value.keys == ("bias", "weight")
    assert not (tmp_path / "model.pt").exists()


def test_an_empty_model_is_a_file_too(tmp_path):
    written(tmp_path / "model.pt", sr.of(nn.ReLU()))
    assert torch.load(tmp_path / "model.pt") == OrderedDict()


def test_a_state_of_another_dialect_is_spelled_with_dots(tmp_path, same):
    import stateregistry_numpy as reference

    model = reference.Module()
    model.body = reference.Linear(3, 2)
    reg = sr.of(model)
    path = tmp_path / "model.pt"
    written(path, reg)
    state = torch.load(path)
    assert sorted(state) == sorted(key.replace("/", ".") for key in reg)
    for key in reg:
        same(state[key.replace("/", ".")].numpy(), reg.read(key))
    with sr.open(path) as found:
        assert found.dialect == "numpy"


def test_a_source_in_any_memory_layout_is_written_in_logical_order(tmp_path, same):
    model = nn.Module()
    value = torch.randn(4, 6)
    model.register_buffer("odd", value.t()[::2])
    written(tmp_path / "model.pt", sr.of(model))
    state = torch.load(tmp_path / "model.pt")
    same(state["odd"].numpy(), np.ascontiguousarray(value.numpy().T[::2]))


def test_the_store_says_what_it_is():
    assert (store.name, store.dialect) == ("torch", "torch")
    assert store.suffixes == (".pt", ".pth", ".bin", ".bin.index.json")
    assert "stateregistry[torch]" in store.install


def test_the_store_recognises_what_it_wrote(tmp_path):
    path = tmp_path / "model.anything"
    store.write(path, sr.of(nn.Linear(2, 2)), extra={}, progress=lambda key, nbytes: None)
    assert store.sniff(path, path.read_bytes()[:4096])
    with store.open(path) as found:
        assert list(found) == ["bias", "weight"]
