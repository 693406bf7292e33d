"""Torch files that would run code, contradict themselves, or ask for too much. Nothing runs; each is refused, cheaply."""

from __future__ import annotations

import pickle
import zipfile

import pytest
import torch
from hostile.torch_pickles import HOOKS, RECORDS, V2, V3, Call, Storage, forge_pickle, proto, tensor
from hypothesis import given
from hypothesis import strategies as st

import stateregistry as sr
from stateregistry import errors
from stateregistry.stores.limits import Limits
from stateregistry.stores.torch_zip import open_torch


@pytest.fixture
def archive(tmp_path):
    """A torch archive: the pickle, and records by their name below the top folder."""

    def make(data, records=None, *, folder="archive", compression=zipfile.ZIP_STORED):
        path = tmp_path / "forged.pt"
        raw = data if isinstance(data, bytes) else forge_pickle(data)
        with zipfile.ZipFile(path, "w", compression) as target:
            target.writestr(f"{folder}/data.pkl", raw)
            for record, value in (records or {}).items():
                target.writestr(f"{folder}/{record}", value)
        return path

    return make


def test_a_bare_pickle_of_plain_values_is_not_a_torch_file(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps({"x": [1, 2]}, protocol=2))
    with pytest.raises(errors.FileFormatError, match="bare Python pickle"):
        sr.open(path)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (Limits(entries=1), "entries=1"),
        (Limits(archive_members=2), "archive_members=2"),
        (Limits(pickle_bytes=50), "pickle_bytes=50"),
        (Limits(rank=1), "rank=1"),
        (Limits(name_chars=1), "name_chars=1"),
        (Limits(document_bytes=1), "document_bytes=1"),
    ],
)
def test_every_limit_is_held(archive, limits, says):
    records = {**RECORDS, "stateregistry.json": b'{"schema":"stateregistry.file/1"}'}
    path = archive({"w": tensor(), "vv": tensor(storage=Storage(torch.FloatStorage))}, records)
    with open_torch(path) as found:
        assert len(found) + len(found.aliases) == 2
    with pytest.raises(errors.FileFormatError, match=says):
        open_torch(path, limits=limits)


BYTES = Storage(torch.UntypedStorage, count=16)
META, MOVED = torch._utils._rebuild_meta_tensor_no_storage, torch._utils._rebuild_device_tensor_from_cpu_tensor
FLOATS = (Storage(torch.FloatStorage), 0, (2, 2), (2, 1))
TYPED = torch._tensor._rebuild_from_type_v2
QUANTISED = Call(V2, Storage(torch.QInt8Storage, count=16), 0, (2,), (1,), False, HOOKS)
RARE = {
    "the oldest function": (Call(torch._utils._rebuild_tensor, *FLOATS), "float32", None),
    "of another device": (Call(MOVED, tensor(), torch.float32, "xla:0", True), "float32", None),
    "of another device and dtype": (Call(MOVED, tensor(), torch.int8, "xla:0", True), None, "cast to torch.int8"),
    "without values, quantised": (Call(META, torch.qint8, (2,), (1,), False), None, "qint8"),
    "a quantised parameter": (Call(torch._utils._rebuild_parameter, QUANTISED, True, HOOKS), None, "qint8"),
    "a parameter with slots": (
        Call(TYPED, V2, torch.nn.Parameter, (*FLOATS, True, HOOKS), ({}, None)),
        "float32",
        None,
    ),
    "attributes of half a complex": (
        Call(TYPED, V3, torch.Tensor, (BYTES, 0, (2,), (1,), False, HOOKS, torch.complex32), {}),
        None,
        "complex32",
    ),
    "a bare storage": (Storage(torch.FloatStorage), None, "storage without a tensor"),
    "nested": (Call(torch._utils._rebuild_nested_tensor, 1, 2, 3, 4), None, "nested"),
}


@pytest.mark.parametrize("case", RARE)
def test_rarer_ways_to_write_a_tensor_are_read_or_named(archive, case):
    value, entry, reason = RARE[case]
    with open_torch(archive({"w": value}, RECORDS)) as found:
        if entry is None:
            assert reason in found.opaque["w"]
        else:
            assert found["w"].dtype == entry
            assert found.read("w").tobytes() == bytes(16)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_of_every_protocol_are_opaque(archive, protocol):
    state = {
        "bytes": b"ab", "long bytes": bytes(300), "array": bytearray(b"x"), "set": {1}, "frozen": frozenset((1,)),
        "big": 2**100, "negative": -(2**40), "float": 0.1, "text": "é" * 300, "none": None, "nested": [{"a": (1, 2, 3, 4)}],
    }  # fmt: skip
    if protocol < 4:
        del state["frozen"]  # written as a call of frozenset, which torch does not read either
    path = archive(forge_pickle(state, protocol), RECORDS)
    with open_torch(path) as found:
        assert set(found.opaque) == set(state) - {"none"}


def test_texts_of_python_2_are_texts(archive):
    path = archive(proto(b"}(U\x01aK\x01T\x01\0\0\0bK\x02B\x01\0\0\0cK\x03u."), RECORDS)
    with pytest.raises(errors.FileFormatError, match="no names"):  # the third is bytes
        open_torch(path)
    path = archive(proto(b"}(U\x01aK\x01T\x01\0\0\0bK\x02u."), RECORDS)
    with open_torch(path) as found:
        assert set(found.opaque) == {"a", "b"}


# -------------------------------------------------------------------- archives that contradict themselves


# -------------------------------------------------------------------- anything at all


def settle(path):
    """Open and read everything: whatever the bytes, the only error is one of ours."""
    try:
        with open_torch(path) as found:
            for key in found:
                if found[key].concrete:
                    found.read(key)
    except errors.StateError:
        pass


@given(st.data())
def test_flipped_and_cut_archives_give_our_errors_or_arrays(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("mutant") / "x.pt"
    torch.save({"w": torch.ones(2, 3), "b": torch.nn.Parameter(torch.ones(2)), "n": 3}, path)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw))
    settle(path)


OPCODES = st.sampled_from(
    sorted(b"(.)]}NKMJXUcRbaesutqrhjQ\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8c\x93\x94\x95\x8f\x90\x91")
)


@given(
    st.lists(
        st.one_of(
            OPCODES.map(lambda c: bytes([c])),
            st.binary(max_size=6),
            st.just(b"ctorch\nSize\n"),
            st.just(b"ctorch._utils\n_rebuild_tensor_v2\n"),
        )
    )
)
def test_random_pickles_give_our_errors_or_arrays(tmp_path_factory, parts):
    path = tmp_path_factory.mktemp("random") / "x.pt"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("archive/data.pkl", b"\x80\x02" + b"".join(parts) + b".")
    settle(path)
