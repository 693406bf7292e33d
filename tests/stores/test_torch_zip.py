"""The torch-free reader of `.pt` files against `torch.load(weights_only=True)`."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stateregistry import errors
from stateregistry.entry import DTYPES, Entry, Kind
from stateregistry.stores.base import Document
from stateregistry.stores.torch_zip import RECORD, open_torch, sniff_torch

DTYPE_NAMES = sorted(DTYPES)
SHAPES = [(), (1,), (0,), (7,), (3, 5), (2, 0, 3), (4, 4), (2, 3, 1, 5)]


def tensor_of(array):
    """The same bits as a tensor."""
    if not array.size:
        return torch.empty(array.shape, dtype=getattr(torch, array.dtype.name))
    raw = torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8).copy())
    return raw.view(getattr(torch, array.dtype.name)).reshape(array.shape)


def bytes_of(tensor):
    if not tensor.numel():
        return b""
    plain = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format).reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes()


def saved(path, state, **options):
    torch.save(state, path, **options)
    return path


def agree(path):
    """Hold every entry and alias against what torch itself loads."""
    theirs = torch.load(path, weights_only=True)
    with open_torch(path) as found:
        names = {**found.stored_names, **{alias: alias.replace("/", ".") for alias in found.aliases}}
        for key, name in names.items():
            for value in (found.read(key), found.view(key)):
                assert value.shape == tuple(theirs[name].shape)
                assert str(theirs[name].dtype) == f"torch.{value.dtype.name}"
                assert value.tobytes() == bytes_of(theirs[name]), key
            assert found.read(key).flags.owndata
            assert found.read(key).flags.writeable
            assert not found.view(key).flags.writeable
        return set(names.values())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_every_dtype_and_shape_has_the_bits_that_torch_loads(tmp_path, bits, dtype, shape):
    array = bits(dtype, shape)
    path = saved(tmp_path / "x.pt", {"a.b": tensor_of(array)})
    with open_torch(path) as found:
        assert found["a/b"].dtype == dtype
        assert found.read("a/b").tobytes() == array.tobytes()
    assert agree(path) == {"a.b"}


LAYOUTS = {
    "transposed": lambda t: t.t(),
    "strided": lambda t: t[:, ::2],
    "offset": lambda t: t[2:, 1:],
    "column": lambda t: t[:, 3],
    "expanded": lambda t: t[0].expand(4, 5),
    "one element": lambda t: t[2, 3],
    "diagonal": lambda t: t.diagonal(),
    "windows": lambda t: t.reshape(-1).unfold(0, 4, 3),
    "one row": lambda t: t[1:2].t(),
    "empty slice": lambda t: t[5:],
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex128", "bool", "float8_e5m2"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_tensors_have_the_bits_that_torch_loads(tmp_path, bits, layout, dtype):
    tensor = LAYOUTS[layout](tensor_of(bits(dtype, (5, 5))))
    assert agree(saved(tmp_path / "x.pt", {"w": tensor, "v": torch.ones(3)})) == {"w", "v"}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_that_torch_can_write_is_read(tmp_path, protocol):
    state = OrderedDict(w=torch.randn(3, 4), b=torch.nn.Parameter(torch.randn(3)), t=torch.randn(2, 2).t())
    path = saved(tmp_path / "x.pt", state, pickle_protocol=protocol)
    theirs = torch.load(path, weights_only=False)
    with open_torch(path) as found:
        assert found.native_order == ("w", "b", "t")
        for key in found:
            assert found.read(key).tobytes() == bytes_of(theirs[key])


def test_conjugated_and_negated_tensors_are_resolved(tmp_path, bits):
    tensor = tensor_of(bits("complex64", (3, 4)))
    other = tensor_of(bits("complex64", (3, 4), 1)).conj().imag
    assert other.is_neg()
    assert agree(saved(tmp_path / "x.pt", {"c": tensor.conj(), "n": other})) == {"c", "n"}


@st.composite
def states(draw):
    """Tensors of any dtype, rank and layout, some of them over one storage."""
    state = {}
    names = st.text(st.characters(exclude_characters="~/.", exclude_categories=["Cs"]), min_size=1, max_size=5)
    for name in draw(st.lists(names, max_size=6, unique=True)):
        if state and draw(st.booleans()):
            base = state[draw(st.sampled_from(sorted(state)))]
        else:
            dtype = draw(st.sampled_from(DTYPE_NAMES))
            shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
            size = int(np.prod(shape, dtype=np.int64)) * DTYPES[dtype]
            raw = draw(st.binary(min_size=size, max_size=size))
            raw = bytes(byte & 1 for byte in raw) if dtype == "bool" else raw
            if raw:
                base = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(getattr(torch, dtype)).reshape(shape)
            else:
                base = torch.empty(shape, dtype=getattr(torch, dtype))
        if base.dim() and draw(st.booleans()):
            base = base.transpose(0, draw(st.integers(0, base.dim() - 1)))
        if base.dim() and base.shape[0] and draw(st.booleans()):
            base = base[draw(st.integers(0, base.shape[0] - 1)) :: draw(st.integers(1, 2))]
        state[name] = base
    return state


@given(states())
def test_any_state_has_the_bits_that_torch_loads(tmp_path_factory, state):
    path = saved(tmp_path_factory.mktemp("any") / "x.pt", state)
    assert agree(path) == set(state)


# -------------------------------------------------------------------- kinds, ties, what is no array


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3)
        self.bn = torch.nn.BatchNorm2d(3)
        self.tied = torch.nn.Conv2d(3, 3, 3)
        self.tied.weight = self.conv.weight


def test_a_state_dict_lists_parameters_buffers_and_ties(tmp_path):
    with open_torch(saved(tmp_path / "x.pt", Net().state_dict())) as found:
        assert found.native_order == (
            "conv/weight", "conv/bias", "bn/weight", "bn/bias", "bn/running_mean", "bn/running_var",
            "bn/num_batches_tracked", "tied/bias",
        )  # fmt: skip
        assert found.aliases == {"tied/weight": "conv/weight"}
        assert found.dialect == "torch"
        assert all(entry.inferred for entry in found.values())
        buffers = [key for key, entry in found.items() if entry.kind is Kind.BUFFER]
        assert buffers == ["bn/num_batches_tracked", "bn/running_mean", "bn/running_var"]
        assert [key for key, entry in found.items() if entry.trainable] == [
            "bn/bias", "bn/weight", "conv/bias", "conv/weight", "tied/bias",
        ]  # fmt: skip


def test_the_canonical_key_of_a_tie_is_the_least_and_stands_where_the_first_stood(tmp_path):
    tensor = torch.randn(2, 2)
    state = {"a": torch.zeros(1), "z.w": tensor, "m": torch.zeros(2), "b.w": tensor.detach()}
    with open_torch(saved(tmp_path / "x.pt", state)) as found:
        assert found.native_order == ("a", "b/w", "m")
        assert found.aliases == {"z/w": "b/w"}
        assert found.read("z/w").tobytes() == bytes_of(tensor)


def test_views_of_one_storage_that_are_not_one_place_are_entries_of_their_own(tmp_path):
    tensor = torch.randn(4, 4)
    state = {"whole": tensor, "part": tensor[1:], "turned": tensor.t(), "one": tensor[:1], "flat": tensor[0]}
    path = saved(tmp_path / "x.pt", state)
    with open_torch(path) as found:
        assert found.aliases == {}
        assert len(found) == 5
    agree(path)


def test_empty_tensors_are_never_ties(tmp_path):
    tensor = torch.zeros(0, 3)
    with open_torch(saved(tmp_path / "x.pt", {"a": tensor, "b": tensor})) as found:
        assert list(found) == ["a", "b"]
        assert found.aliases == {}


def test_strides_that_are_never_taken_do_not_separate_ties(tmp_path):
    tensor = torch.randn(1, 4)
    state = {"a": tensor, "b": tensor.as_strided((1, 4), (99, 1))}
    with open_torch(saved(tmp_path / "x.pt", state)) as found:
        assert found.aliases == {"b": "a"}


def test_parameters_and_buffers_that_say_so_are_not_inferred(tmp_path):
    state = {
        "running_mean": torch.nn.Parameter(torch.randn(2)),
        "frozen": torch.nn.Parameter(torch.randn(2), requires_grad=False),
        "table": torch.nn.Buffer(torch.randn(2)),
        "codes": torch.nn.Parameter(torch.ones(2, dtype=torch.int32), requires_grad=False),
    }
    with open_torch(saved(tmp_path / "x.pt", state)) as found:
        assert dict(found) == {
            "running_mean": Entry(Kind.PARAMETER, (2,), "float32", trainable=True),
            "frozen": Entry(Kind.PARAMETER, (2,), "float32"),
            "table": Entry(Kind.BUFFER, (2,), "float32"),
            "codes": Entry(Kind.PARAMETER, (2,), "int32"),
        }
        assert not any(entry.inferred for entry in found.values())


def test_a_tie_of_a_parameter_and_a_plain_tensor_is_a_parameter(tmp_path):
    tensor = torch.randn(2)
    state = {"bn.running_mean": tensor, "w": torch.nn.Parameter(tensor)}
    with open_torch(saved(tmp_path / "x.pt", state)) as found:
        assert found["bn/running_mean"] == Entry(Kind.PARAMETER, (2,), "float32", trainable=True)
        assert found.aliases == {"w": "bn/running_mean"}


def test_a_parameter_with_python_attributes_is_read(tmp_path):
    parameter = torch.nn.Parameter(torch.randn(3))
    parameter.note = "kept by somebody"
    tensor = torch.randn(3)
    tensor.note = {"a": [1, (2,)]}
    path = saved(tmp_path / "x.pt", {"p": parameter, "t": tensor})
    with open_torch(path) as found:
        assert found["p"] == Entry(Kind.PARAMETER, (3,), "float32", trainable=True)
        assert found.read("t").tobytes() == bytes_of(tensor)


def test_a_tensor_of_the_meta_device_is_listed_and_not_read(tmp_path):
    with open_torch(saved(tmp_path / "x.pt", {"w": torch.zeros(3, 2, device="meta")})) as found:
        assert not found["w"].concrete
        assert found["w"].shape == (3, 2)
        for how in (found.read, found.view):
            with pytest.raises(errors.AbstractError):
                how("w")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:ComplexHalf", "ignore:Sparse")
def test_what_no_registry_holds_is_opaque_with_its_reason(tmp_path):
    state = OrderedDict(
        w=torch.ones(2),
        quantised=torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        sparse=torch.eye(3).to_sparse(),
        half=torch.zeros(2, dtype=torch.complex32),
        step=3,
        rate=0.5,
        label="x",
        nothing=None,
        counts=Counter("aab"),
        size=torch.Size([2, 3]),
        dtype=torch.float16,
        device=torch.device("cpu"),
        raw=b"\x00\xff",
        flag=True,
        kinds={"a"},
        number=1 + 2j,
    )
    state["sub._extra_state"] = {"scale": torch.ones(1), "name": "x"}
    with open_torch(saved(tmp_path / "x.pt", state)) as found:
        assert list(found) == ["w"]
        reasons = dict(found.opaque)
    assert "nothing" not in reasons  # None is absence
    assert set(reasons) == {*(set(state) - {"w", "nothing", "sub._extra_state"}), "sub/_extra_state"}
    assert "quantised" in reasons["quantised"]
    assert "sparse" in reasons["sparse"]
    assert "complex32" in reasons["half"]
    assert "Python int" in reasons["step"]
    assert "extra state" in reasons["sub/_extra_state"]
    assert "a name of torch" in reasons["dtype"]
    assert "torch.device" in reasons["device"]


def test_names_become_keys_and_stay_known(tmp_path):
    state = {"a.b/c": torch.ones(1), "d": torch.ones(1), "e~f.g": torch.ones(1)}
    with open_torch(saved(tmp_path / "x.pt", state)) as found:
        assert found.stored_names == {"a/b~1c": "a.b/c", "d": "d", "e~0f/g": "e~f.g"}


def test_an_empty_state_dict_is_a_state(tmp_path):
    with open_torch(saved(tmp_path / "x.pt", torch.nn.ReLU().state_dict())) as found:
        assert len(found) == 0


# -------------------------------------------------------------------- our document, byte order, large archives


def add_record(path, name, value):
    with zipfile.ZipFile(path, "a") as target:
        target.writestr(f"{path.stem}/{name}", value)


def our_document(entries):
    return Document(entries, {"odd/k.ey": "odd/k.ey"}, {"y": "w"}, "flax-linen", {"residual": [1]}).to_json()


@pytest.mark.parametrize("place", [RECORD, f".data/{RECORD}"])
def test_our_document_is_read_and_torch_does_not_mind_it(tmp_path, place):
    path = saved(tmp_path / "x.pt", {"w": torch.ones(2), "odd/k.ey": torch.ones(1), "z": torch.ones(1)})
    add_record(path, place, our_document({"w": {"kind": "buffer", "tag": "cache"}, "odd/k.ey": {"kind": "parameter"}}))
    with open_torch(path) as found:
        assert sorted(found) == ["odd/k.ey", "w", "z"]
        assert found["w"] == Entry(Kind.BUFFER, (2,), "float32")
        assert (found["w"].tag, found["w"].inferred, found["z"].inferred) == ("cache", False, True)
        assert found.aliases == {"y": "w"}
        assert found.dialect == "flax-linen"
        assert found.document.extra == {"residual": [1]}
    assert set(torch.load(path, weights_only=True)) == {"w", "odd/k.ey", "z"}


def test_two_documents_are_refused(tmp_path):
    path = saved(tmp_path / "x.pt", {"w": torch.ones(2)})
    for place in (RECORD, f".data/{RECORD}"):
        add_record(path, place, Document().to_json())
    with pytest.raises(errors.FileFormatError, match="twice"):
        open_torch(path)


@pytest.mark.parametrize("value", [b"{", b"\xff", b"[]", b'{"schema":"x"}'])
def test_a_document_that_is_none_is_refused(tmp_path, value):
    path = saved(tmp_path / "x.pt", {"w": torch.ones(2)})
    add_record(path, RECORD, value)
    with pytest.raises(errors.FileFormatError, match="metadata"):
        open_torch(path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64", "complex128", "int64", "int16", "bool"])
def test_a_big_endian_file_is_read_as_torch_reads_it(tmp_path, bits, dtype):
    """The same archive with swapped storages and the record that says so."""
    tensor = tensor_of(bits(dtype, (5, 4)))
    little = saved(tmp_path / "little.pt", {"w": tensor, "t": tensor[1:, ::2]})
    width = DTYPES[dtype] // (2 if dtype.startswith("complex") else 1)
    big = tmp_path / "big.pt"
    with zipfile.ZipFile(little) as source, zipfile.ZipFile(big, "w") as target:
        for info in source.infolist():
            raw = source.read(info)
            if "/data/" in info.filename:
                raw = np.frombuffer(raw, np.uint8).reshape(-1, width)[:, ::-1].tobytes()
            target.writestr(info.filename, b"big" if info.filename.endswith("/byteorder") else raw)
    agree(big)
    with open_torch(big) as found:
        assert found.read("w").tobytes() == bytes_of(tensor)


def test_an_archive_with_64_bit_numbers_is_read(tmp_path, monkeypatch):
    """The structures that torch uses above 4 GiB, in a small file."""
    plain = saved(tmp_path / "plain.pt", {"w": torch.randn(30, 40), "b": torch.randn(3)})
    large = tmp_path / "large.pt"
    with zipfile.ZipFile(plain) as source, monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 100)
        patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
        with zipfile.ZipFile(large, "w") as target:
            for info in source.infolist():
                target.writestr(info.filename, source.read(info))
    assert b"PK\x06\x06" in large.read_bytes()
    with open_torch(large) as found, open_torch(plain) as expected:
        assert dict(found) == dict(expected)
        assert all(found.read(key).tobytes() == expected.read(key).tobytes() for key in found)


def test_an_archive_above_4_gib_is_read(tmp_path):
    """Sparse on disk: torch writes the records without their data."""
    path = tmp_path / "x.pt"
    with torch.serialization.skip_data():
        torch.save({"big": torch.empty(5 * 2**30, dtype=torch.int8), "w": torch.ones(3)}, path)
    if path.stat().st_size < 5 * 2**30:
        pytest.fail("torch has not written a large archive")
    with path.open("r+b") as file, open_torch(path) as found:
        file.seek(found.place("w").extents[0][0])
        file.write(np.arange(3, dtype=np.float32).tobytes())
        file.flush()
        assert found.read("w").tolist() == [0.0, 1.0, 2.0]
        assert found.view("big")[-1] == 0


# -------------------------------------------------------------------- lifetime, and what is loaded


@pytest.mark.parametrize("how", ["read", "view"])
def test_a_file_that_is_cut_after_opening_is_an_error_not_a_fault(tmp_path, how):
    path = saved(tmp_path / "x.pt", {"w": torch.randn(300, 70), "t": torch.randn(30, 7).t()})
    with open_torch(path) as found:
        os.truncate(path, 4096)
        for key in found:
            with pytest.raises(errors.FileFormatError, match="when it was opened"):
                getattr(found, how)(key)


def test_values_read_before_closing_stay(tmp_path):
    tensor = torch.randn(3, 4)
    with open_torch(saved(tmp_path / "x.pt", {"w": tensor, "t": tensor.t()})) as found:
        values = found.read("w"), found.view("w"), found.read("t").T, found.view("t").T
    assert {value.tobytes() for value in values} == {bytes_of(tensor)}
    with pytest.raises(errors.UnsupportedError, match="closed"):
        found.read("w")


def test_a_file_is_read_only(tmp_path):
    path = saved(tmp_path / "x.pt", {"w": torch.ones(2)})
    before = path.read_bytes()
    with open_torch(path) as found, pytest.raises(errors.UnsupportedError, match="read-only"):
        found.replace({"w": np.zeros(2, np.float32)})
    assert path.read_bytes() == before


def test_reading_a_torch_file_loads_no_torch(tmp_path):
    path = saved(tmp_path / "x.pt", {"w": torch.ones(2)})
    code = (
        "import sys, stateregistry as sr\n"
        f"with sr.open({str(path)!r}) as found: assert found.read('w').tolist() == [1, 1]\n"
        "print(sorted({'torch', 'jax', 'flax', 'pickle'} & set(sys.modules) - {'pickle'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_torch_archive_is_known_by_its_content(tmp_path):
    path = saved(tmp_path / "any.name", {"w": torch.ones(2)})
    assert sniff_torch(path, path.read_bytes()[:4096])
    old = saved(tmp_path / "old", {"w": torch.ones(2)}, _use_new_zipfile_serialization=False)
    assert sniff_torch(old, old.read_bytes()[:4096])
    np.savez(tmp_path / "x.npz", w=np.ones(2))
    assert not sniff_torch(tmp_path / "gone", b"PK\x03\x04" + bytes(50))
    for other in (b"", b"\x80", b"PK\x03\x04", b"\x80\x02\0\0\0\0\0\0{", (tmp_path / "x.npz").read_bytes()[:4096]):
        assert not sniff_torch(tmp_path / "x.npz", other)


def test_a_torch_archive_whose_pickle_is_not_the_first_member_is_known(tmp_path):
    plain = saved(tmp_path / "plain.pt", {"w": torch.ones(2)})
    turned = tmp_path / "turned.pt"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(turned, "w") as target:
        for info in reversed(source.infolist()):
            target.writestr(info.filename, source.read(info))
    assert sniff_torch(turned, turned.read_bytes()[:4096])
    agree(turned)


def test_the_format_before_zip_is_refused_with_the_way_out(tmp_path):
    path = saved(tmp_path / "old.pt", {"w": torch.ones(2)}, _use_new_zipfile_serialization=False)
    with pytest.raises(errors.FileFormatError, match=r"before 1\.6.*\n.*torch\.save\(torch\.load"):
        open_torch(path)


def test_opening_leaves_no_handle_behind(tmp_path):
    path = saved(tmp_path / "x.pt", {"w": torch.ones(2)})
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with open_torch(path) as found:
            found.view("w")
        with pytest.raises(errors.FileFormatError):
            open_torch(path, part="nowhere")
    assert len(os.listdir("/proc/self/fd")) <= before
    assert isinstance(found.unwrap(), Path)
