"""Torch files that would run code, contradict themselves, or ask for too much. Nothing runs; each is refused, cheaply."""

from __future__ import annotations

import builtins
import functools
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import stateregistry as sr
from stateregistry import errors
from stateregistry.stores.limits import Limits
from stateregistry.stores.torch_zip import open_torch


class Storage:
    """Stands for a storage in a forged pickle: the fields of its persistent id, whatever they are."""

    def __init__(self, kind, key="0", count=4, location="cpu", head="storage"):
        self.id = (head, kind, key, location, count)


class Call:
    """Stands for a call in a forged pickle: nothing is called when it is made."""

    def __init__(self, function, *args):
        self.function, self.args = function, args


class _Forger(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.id if isinstance(obj, Storage) else None

    def reducer_override(self, obj):
        return (obj.function, obj.args) if isinstance(obj, Call) else NotImplemented


def forge_pickle(obj, protocol=2):
    """The pickle of an object made of containers, `Storage` and `Call`."""
    buffer = io.BytesIO()
    _Forger(buffer, protocol=protocol).dump(obj)
    return buffer.getvalue()


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


V2 = torch._utils._rebuild_tensor_v2
V3 = torch._utils._rebuild_tensor_v3
HOOKS = OrderedDict()


def tensor(offset=0, shape=(2, 2), stride=(2, 1), requires_grad=False, storage=None, count=4, **more):
    storage = storage if storage is not None else Storage(torch.FloatStorage, count=count)
    return Call(V2, storage, offset, shape, stride, requires_grad, HOOKS, *more.values())


RECORDS = {"data/0": bytes(16), "version": b"3\n"}


def test_the_forge_makes_files_that_are_read(archive):
    """What the corpus is built with makes a good file when nothing is wrong with it."""
    path = archive({"w": tensor()}, RECORDS)
    assert torch.load(path, weights_only=True)["w"].shape == (2, 2)
    with open_torch(path) as found:
        assert found.read("w").tobytes() == bytes(16)


# -------------------------------------------------------------------- pickles that would run something


def proto(body, version=2):
    return b"\x80" + bytes([version]) + body


def touch(marker):
    return f"touch {marker}"


def unsafe_pickles(marker):
    """Fault class -> pickle, what the error names."""
    command = touch(marker).encode()
    text = b"X" + struct.pack("<I", len(command)) + command
    short = b"\x8c" + bytes([len(command)]) + command
    system = Call(os.system, touch(marker))
    return {
        "os.system called": ({"w": tensor(), "x": system}, "posix.system"),
        "os.system named and not called": ({"w": tensor(), "x": os.system}, "posix.system"),
        "deep inside a list": ({"w": tensor(), "x": [[({"y": [system]},)]]}, "posix.system"),
        "as a key": (proto(b"}(cposix\nsystem\n" + text + b"\x85RK\x01u."), "posix.system"),
        "as the argument of a tensor": ({"w": Call(V2, system, 0, (2,), (1,), False, HOOKS)}, "posix.system"),
        "as the type of a storage": ({"w": tensor(storage=Storage(os.system))}, "posix.system"),
        "as the whole persistent id": (proto(b"cposix\nsystem\n" + text + b"\x85RQ."), "posix.system"),
        "as hooks of a tensor": (
            {"w": Call(V2, Storage(torch.FloatStorage), 0, (2,), (1,), False, system)},
            "posix.system",
        ),
        "eval": ({"x": Call(eval, f"__import__('os').system('{touch(marker)}')")}, "builtins.eval|__builtin__.eval"),
        "exec": ({"x": Call(exec, "1")}, "exec"),
        "getattr": ({"x": Call(getattr, "a", "upper")}, "getattr"),
        "__import__": ({"x": Call(builtins.__import__, "os")}, "__import__"),
        "functools.partial": ({"x": Call(functools.partial, print, "x")}, r"functools\.partial"),
        "torch's own pickle loader": ({"x": Call(torch.storage._load_from_bytes, b"")}, "_load_from_bytes"),
        "torch.load": ({"x": Call(torch.load, "x")}, r"torch\.serialization\.load"),
        "a module": ({"x": Call(torch.nn.Linear, 2, 2)}, "torch.nn.modules.linear.Linear"),
        "a numpy array": (pickle.dumps({"x": np.ones(2)}, protocol=2), "numpy"),
        "a numpy scalar": (pickle.dumps({"x": np.float64(1)}, protocol=2), "numpy"),
        "a class made by NEWOBJ": (pickle.dumps({"x": io.BytesIO()}, protocol=2), "BytesIO"),
        "NEWOBJ of a class that is known": (proto(b"ctorch\nSize\n)\x81."), "object.__new__"),
        "NEWOBJ_EX": (proto(b"\x8c\x05posix\x8c\x06system\x93)}\x92.", 4), "posix.system"),
        "STACK_GLOBAL": (proto(b"\x8c\x05posix\x8c\x06system\x93" + short + b"\x85R.", 4), "posix.system"),
        "STACK_GLOBAL of texts from the memo": (
            proto(b"\x8c\x05posix\x94\x8c\x06system\x94h\x00h\x01\x93)R.", 4),
            "posix.system",
        ),
        "INST": (proto(b"(" + text + b"iposix\nsystem\n."), "INST"),
        "OBJ": (proto(b"(cposix\nsystem\n" + text + b"o."), "posix.system"),
        "EXT1": (proto(b"\x82\x01."), "EXT1"),
        "EXT2": (proto(b"\x83\x01\x01."), "EXT2"),
        "EXT4": (proto(b"\x84\x01\x01\x01\x01."), "EXT4"),
        "BUILD of an unknown object": (proto(b"cposix\nsystem\n}b."), "posix.system"),
        "SETITEM on an unknown object": (proto(b"cposix\nsystem\nK\x01K\x02s."), "posix.system"),
        "APPENDS to an unknown object": (proto(b"cposix\nsystem\n(K\x01e."), "posix.system"),
        "a name with dots": (proto(b"\x8c\x05torch\x8c\x11nn.Linear.forward\x93.", 4), "torch.nn.Linear.forward"),
        "unsafe, then damaged": (proto(b"cposix\nsystem\n" + text + b"\x85R\xff\xff"), "posix.system"),
        "unsafe, then cut": (proto(b"cposix\nsystem\n" + text[:7]), "posix.system"),
        "text instructions": (b"cposix\nsystem\n(S'" + command + b"'\ntR.", "posix.system"),
        "a subclass of dict": (
            pickle.dumps({"x": __import__("collections").defaultdict(list)}, protocol=2),
            "defaultdict",
        ),
        "two of them": ({"x": Call(eval, "1"), "y": os.system}, r"eval, .*posix\.system"),
    }


@pytest.mark.parametrize("fault", unsafe_pickles("/nowhere"))
def test_a_pickle_that_would_run_something_is_refused_and_nothing_runs(tmp_path, archive, bounded, fault):
    marker = tmp_path / "it-ran"
    data, says = unsafe_pickles(marker)[fault]
    path = archive(data, RECORDS)
    with bounded(path.stat().st_size), pytest.raises(errors.UnsafeFileError, match=says) as caught:
        open_torch(path)
    assert "nothing was run" in str(caught.value)
    assert caught.value.found
    assert not marker.exists()


def test_the_corpus_would_have_run(tmp_path):
    """The test of the test: Python's own unpickler does what ours refuses."""
    marker = tmp_path / "it-ran"
    data, _ = unsafe_pickles(marker)["os.system named and not called"]
    assert data["x"] is os.system
    pickle.loads(forge_pickle(Call(os.system, touch(marker))))
    assert marker.exists()


def test_a_bare_pickle_that_would_run_something_is_unsafe_too(tmp_path):
    marker = tmp_path / "it-ran"
    path = tmp_path / "x.pt"
    path.write_bytes(forge_pickle({"x": Call(os.system, touch(marker))}))
    with pytest.raises(errors.UnsafeFileError, match=r"posix\.system"):
        sr.open(path)
    assert not marker.exists()


def test_a_bare_pickle_of_plain_values_is_not_a_torch_file(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps({"x": [1, 2]}, protocol=2))
    with pytest.raises(errors.FileFormatError, match="bare Python pickle"):
        sr.open(path)


def test_a_whole_module_is_refused_with_the_way_out(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(errors.UnsafeFileError, match=r"Linear(.|\n)*torch\.save\(model\.state_dict\(\), path\)"):
        open_torch(tmp_path / "x.pt")


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_torchscript_archive_is_refused_as_a_program(tmp_path):
    torch.jit.trace(torch.nn.ReLU(), torch.ones(1)).save(tmp_path / "x.pt")
    with pytest.raises(errors.UnsafeFileError, match="TorchScript"):
        open_torch(tmp_path / "x.pt")


# -------------------------------------------------------------------- pickles that contradict themselves


def nested(depth):
    return proto(b")" + b"\x85" * depth + b".")


#: Fault class -> pickle or object, records, what the error says.
PICKLES = {
    "empty": (b"", RECORDS, "damaged"),
    "cut": (forge_pickle({"w": tensor()})[:-20], RECORDS, "damaged|ends in the middle"),
    "no end": (proto(b"}"), RECORDS, "damaged"),
    "bytes after the end": (forge_pickle({"w": tensor()}) + b"x", RECORDS, "before its record does"),
    "values left on the stack": (proto(b"}}."), RECORDS, "leaves values"),
    "a mark left open": (proto(b"}(."), RECORDS, "leaves values|damaged"),
    "an instruction that is none": (proto(b"\xfe."), RECORDS, "0xfe"),
    "an instruction of the first protocols": (proto(b"I5\n."), RECORDS, "0x49"),
    "a protocol that is none": (proto(b"}.", 9), RECORDS, "protocol"),
    "a pop from nothing": (proto(b"a."), RECORDS, "damaged"),
    "a pop below a mark": (proto(b"K\x01(a."), RECORDS, "damaged"),
    "a mark that is not there": (proto(b"t."), RECORDS, "damaged"),
    "a memo that is not there": (proto(b"h\x07."), RECORDS, "damaged"),
    "text that is not utf-8": (proto(b"X\x02\0\0\0\xff\xfe."), RECORDS, "damaged"),
    "a text of 2**60 bytes": (proto(b"\x8d" + struct.pack("<Q", 2**60) + b"x."), RECORDS, "middle of a value"),
    "a text of 4 GB": (proto(b"X\xff\xff\xff\xffx."), RECORDS, "middle of a value"),
    "a frame that is too long": (proto(b"\x95" + struct.pack("<Q", 2**40) + b"}.", 4), RECORDS, "frame"),
    "an integer of 100 bytes": (proto(b"\x8a\x64" + b"\x01" * 100 + b"."), RECORDS, "integer of 100 bytes"),
    "an integer of -1 bytes": (proto(b"\x8b\xff\xff\xff\xff."), RECORDS, "integer of -1 bytes"),
    "a name twice": (proto(b"}(X\x01\0\0\0wK\x01X\x01\0\0\0wK\x02u."), RECORDS, "'w' twice"),
    "a name twice, item by item": (proto(b"}X\x01\0\0\0wK\x01sX\x01\0\0\0wK\x02s."), RECORDS, "'w' twice"),
    "a key without a value": (proto(b"}(K\x01u."), RECORDS, "sets items"),
    "a key that is a dict": (proto(b"}}K\x01s."), RECORDS, "key that is a Table"),
    "a key that nests deep": (proto(b"})" + b"\x85" * 100_000 + b"K\x01s."), RECORDS, "key that is a tuple"),
    "an item set on a list": (proto(b"]K\x01K\x02s."), RECORDS, "sets items of a list"),
    "an append to a dict": (proto(b"}K\x01a."), RECORDS, "appends to a Table"),
    "an append to a tuple": (proto(b")K\x01a."), RECORDS, "appends to a tuple"),
    "a call of a text": (proto(b"X\x01\0\0\0w)R."), RECORDS, "calls a str"),
    "a call of a dtype": (proto(b"ctorch\nfloat32\n)R."), RECORDS, "calls a TorchDtype"),
    "a call with a list": (proto(b"ctorch\nSize\n]R."), RECORDS, "no tuple"),
    "attributes of a text": (proto(b"X\x01\0\0\0w}b."), RECORDS, "attributes of a str"),
    "a global that is no text": (proto(b"K\x01K\x02\x93.", 4), RECORDS, "no text"),
    "a size of a list": ({"x": Call(torch.Size, [1, 2])}, RECORDS, "torch.Size"),
    "bytes in another coding": ({"x": Call(__import__("_codecs").encode, "a", "rot13")}, RECORDS, "Latin-1"),
    "an ordered dict of something": ({"x": Call(OrderedDict, [("a", 1)])}, RECORDS, "OrderedDict"),
    "a tensor of too few values": ({"w": Call(V2, 1)}, RECORDS, "from 1 values"),
    "a tensor without a storage": ({"w": Call(V2, "x", 0, (1,), (1,), False, HOOKS)}, RECORDS, "without a storage"),
    "a shape that is a list": ({"w": tensor(shape=[2, 2])}, RECORDS, "tuple of sizes"),
    "a negative size": ({"w": tensor(shape=(-2, -2))}, RECORDS, "tuple of sizes"),
    "a size that is a fraction": ({"w": tensor(shape=(2.0, 2))}, RECORDS, "tuple of sizes"),
    "a size that is true": ({"w": tensor(shape=(True, 2))}, RECORDS, "tuple of sizes"),
    "a size of 2**70": ({"w": tensor(shape=(2**70, 2))}, RECORDS, "tuple of sizes"),
    "a product above 2**63": ({"w": tensor(shape=(2**40, 2**40), stride=(0, 0))}, RECORDS, "more elements"),
    "an empty shape that NumPy cannot hold": (
        {"w": tensor(shape=(0, 2**62, 2**62), stride=(1, 1, 1))},
        RECORDS,
        "more elements",
    ),
    "too many axes": ({"w": tensor(shape=(1,) * 65, stride=(1,) * 65)}, RECORDS, "rank=64"),
    "one stride too few": ({"w": tensor(stride=(1,))}, RECORDS, "has 1 strides"),
    "a negative stride": ({"w": tensor(offset=3, stride=(-2, -1))}, RECORDS, "strides"),
    "a stride that is a text": ({"w": tensor(stride=("2", "1"))}, RECORDS, "strides"),
    "a negative offset": ({"w": tensor(offset=-1)}, RECORDS, "offset"),
    "an offset that is true": ({"w": tensor(offset=True, shape=(1,), stride=(1,))}, RECORDS, "offset"),
    "an offset beyond the storage": ({"w": tensor(offset=1)}, RECORDS, "reaches element 4"),
    "a stride beyond the storage": ({"w": tensor(stride=(3, 1))}, RECORDS, "reaches element 4"),
    "a stride that overflows": ({"w": tensor(stride=(2**62, 2**62))}, RECORDS, "reaches element"),
    "requires_grad that is a number": ({"w": tensor(requires_grad=1)}, RECORDS, "requires_grad"),
    "a tensor repeated without end": ({"w": tensor(shape=(2**40,), stride=(0,))}, RECORDS, "expansion=1,024"),
    "64 floats in a record of 40 bytes": (
        {"w": tensor(shape=(64,), stride=(1,), count=64)},
        {"data/0": bytes(40)},
        "64 elements of 4 bytes in a record of 40",
    ),
    "a record that is too long": ({"w": tensor()}, {"data/0": bytes(20)}, "in a record of 20"),
    "a record that is missing": ({"w": tensor()}, {}, "not in the archive"),
    "a storage of another file": (
        {"w": tensor(storage=Storage(torch.FloatStorage, key="../data.pkl"))},
        RECORDS,
        "not in the archive",
    ),
    "a storage key that is a number": (
        {"w": tensor(storage=Storage(torch.FloatStorage, key=0))},
        RECORDS,
        "wrong values",
    ),
    "a storage of -4 elements": ({"w": tensor(count=-4)}, RECORDS, "none"),
    "a storage of 2**70 elements": ({"w": tensor(count=2**70)}, RECORDS, "in a record of 16"),
    "a storage that is a tensor": ({"w": tensor(storage=Storage("x"))}, RECORDS, "wrong values"),
    "a persistent id of another sort": (
        {"w": tensor(storage=Storage(torch.FloatStorage, head="module"))},
        RECORDS,
        "kept outside",
    ),
    "a persistent id that is a text": (proto(b"X\x01\0\0\0wQ."), RECORDS, "kept outside"),
    "one storage under two dtypes": (
        {"w": tensor(), "v": tensor(storage=Storage(torch.IntStorage))},
        RECORDS,
        "two dtypes",
    ),
    "one storage under two lengths": (
        {"w": tensor(), "v": tensor(storage=Storage(torch.ByteStorage, count=16))},
        RECORDS,
        "two dtypes",
    ),
    "a newer dtype that is a storage": (
        {"w": Call(V3, Storage(torch.UntypedStorage, count=16), 0, (2,), (1,), False, HOOKS, torch.FloatStorage)},
        RECORDS,
        "newer dtype",
    ),
    "an old tensor of too few values": ({"w": Call(torch._utils._rebuild_tensor, 1)}, RECORDS, "expected 4"),
    "a tensor without values, of too few": (
        {"w": Call(torch._utils._rebuild_meta_tensor_no_storage, torch.float32)},
        RECORDS,
        "without values",
    ),
    "a tensor without values, of a negative size": (
        {"w": Call(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (-1,), (1,), False)},
        RECORDS,
        "tuple of sizes",
    ),
    "a tensor of another device, of too few values": (
        {"w": Call(torch._utils._rebuild_device_tensor_from_cpu_tensor, 1)},
        RECORDS,
        "another device",
    ),
    "attributes of a tensor, of too few values": (
        {"w": Call(torch._tensor._rebuild_from_type_v2, 1)},
        RECORDS,
        "attributes",
    ),
    "attributes of a tensor without arguments": (
        {"w": Call(torch._tensor._rebuild_from_type_v2, V2, torch.Tensor, 1, {})},
        RECORDS,
        "without arguments",
    ),
    "a parameter of a text": ({"w": Call(torch._utils._rebuild_parameter, "x", True, HOOKS)}, RECORDS, "parameter"),
    "an empty name": ({"": tensor()}, RECORDS, "empty segment"),
    "an empty segment": ({"a..b": tensor()}, RECORDS, "empty segment"),
    "a name inside another": ({"a": tensor(), "a.b": 1}, RECORDS, "'a' is an array and holds 'a.b'"),
    "a name of 5,000 characters": ({"x" * 5000: tensor()}, RECORDS, "name_chars"),
    "a tuple that nests 1,000,000 deep": (nested(1_000_000), RECORDS, "holds a tuple"),
    "a list inside itself": (proto(b"]q\x00h\x00a."), RECORDS, "holds a list"),
    "a dict inside itself": (proto(b"}q\x00X\x01\0\0\0wh\x00s."), RECORDS, None),
}


@pytest.mark.parametrize("fault", PICKLES)
def test_a_pickle_that_cannot_be_is_refused(archive, bounded, fault):
    data, records, says = PICKLES[fault]
    path = archive(data, records)
    with bounded(path.stat().st_size):
        if says is None:  # strange, and no array in it: listed as opaque, never followed
            with open_torch(path) as found:
                assert list(found.opaque) == ["w"]
            return
        with pytest.raises(errors.StateError, match=says) as caught:
            open_torch(path)
    assert not isinstance(caught.value, errors.UnsafeFileError)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 20_000


@pytest.mark.parametrize(("levels", "refused"), [(20, True), (60, False)])
def test_lists_that_share_each_other_are_looked_at_once(archive, bounded, levels, refused):
    """10**levels places in some kilobytes. Below the nesting that is looked through, it is a value like any other."""
    inner = [tensor()]
    for _ in range(levels):
        inner = [inner] * 10
    path = archive({"w": inner}, RECORDS)
    with bounded(path.stat().st_size):
        if refused:
            with pytest.raises(errors.FileFormatError, match="more than one state"):
                open_torch(path)
        else:
            with open_torch(path) as found:
                assert list(found.opaque) == ["w"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"N" * 1_200_000, "pickle_stack"),
        (b"(" * 1_200_000, "pickle_stack"),
        (b"(N" * 700_000, "pickle_stack"),
        (b"]q\x00" + b"h\x00" * 1_200_000, "pickle_stack"),
    ],
    ids=["values", "marks", "both", "memo"],
)
def test_a_stack_that_grows_without_end_is_refused(archive, bounded, body, says):
    path = archive(proto(body + b"."), RECORDS)
    with bounded(path.stat().st_size), pytest.raises(errors.FileFormatError, match=says):
        open_torch(path)


def test_more_steps_than_the_limit_are_refused(archive):
    path = archive(proto(b"]" + b"q\x00" * 100_000 + b"."), RECORDS)
    with pytest.raises(errors.FileFormatError, match="pickle_steps=50,000"):
        open_torch(path, limits=Limits(pickle_steps=50_000))


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


def test_a_bool_that_is_neither_true_nor_false_is_refused_when_it_is_read(archive):
    storage = Storage(torch.BoolStorage, count=4)
    path = archive({"w": tensor(storage=storage), "t": tensor(storage=storage, stride=(1, 2))}, {"data/0": b"\0\1\2\1"})
    with open_torch(path) as found:
        for key in ("w", "t"):
            for how in (found.read, found.view):
                with pytest.raises(errors.FileFormatError, match="byte 2"):
                    how(key)


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


@pytest.fixture
def good(archive):
    return archive({"w": tensor()}, {**RECORDS, "byteorder": b"little", "version": b"3\n"})


def central(raw):
    """Offsets of the rows of the directory, by name."""
    rows, at = {}, raw.index(b"PK\x01\x02")
    while raw[at : at + 4] == b"PK\x01\x02":
        name, extra, comment = struct.unpack_from("<3H", raw, at + 28)
        rows[raw[at + 46 : at + 46 + name].decode()] = at
        at += 46 + name + extra + comment
    return rows


def patched(raw, at, form, value):
    return raw[:at] + struct.pack(form, value) + raw[at + struct.calcsize(form) :]


def local(raw, name):
    return struct.unpack_from("<I", raw, central(raw)[name] + 42)[0]


W = "archive/data/0"
P = "archive/data.pkl"
#: Fault class -> bytes of a good archive to bytes of a bad one, what the error says.
ARCHIVES = {
    "cut in the directory": (lambda r: r[:-30], "no directory|follows"),
    "cut in the values": (lambda r: r[:200], "no directory"),
    "cut after the first name": (lambda r: r[:46], "no directory"),
    "bytes after the end": (lambda r: r + b"x", "follows the end"),
    "bytes before the beginning": (lambda r: b"PK\x03\x04" + r, "directory"),
    "a comment that is too long": (lambda r: patched(r, len(r) - 2, "<H", 5), "follows the end"),
    "one member too many": (
        lambda r: patched(patched(r, len(r) - 14, "<H", 5), len(r) - 12, "<H", 5),
        "damaged|cut short|said to lie",
    ),
    "one member too few": (lambda r: patched(patched(r, len(r) - 14, "<H", 3), len(r) - 12, "<H", 3), "bytes more"),
    "several disks": (lambda r: patched(r, len(r) - 18, "<H", 1), "several files"),
    "a directory that lies elsewhere": (lambda r: patched(r, len(r) - 6, "<I", 5), "does not end"),
    "a directory beyond the end": (lambda r: patched(r, len(r) - 6, "<I", 2**31), "does not end"),
    "a zip64 directory without a locator": (lambda r: patched(r, len(r) - 6, "<I", 2**32 - 1), "no locator"),
    "a directory that is damaged": (lambda r: patched(r, central(r)[W], "<I", 7), "damaged"),
    "a name that reaches over the end": (lambda r: patched(r, central(r)[W] + 28, "<H", 60000), "damaged"),
    "encrypted": (lambda r: patched(r, central(r)[W] + 8, "<H", 1), "encrypted"),
    "encrypted in its own header": (lambda r: patched(r, local(r, W) + 6, "<H", 1), "header of the member"),
    "compressed by the directory alone": (lambda r: patched(r, central(r)[W] + 10, "<H", 8), "header of the member"),
    "compressed by its header alone": (lambda r: patched(r, local(r, W) + 8, "<H", 8), "header of the member"),
    "two lengths in the directory": (lambda r: patched(r, central(r)[W] + 24, "<I", 40), "40 bytes stored as 16"),
    "another length in its own header": (lambda r: patched(r, local(r, W) + 22, "<I", 8), "another size"),
    "a length beyond the archive": (
        lambda r: patched(patched(r, central(r)[W] + 20, "<I", 2**30), central(r)[W] + 24, "<I", 2**30),
        "another size|ends before",
    ),
    "a zip64 length that is not given": (lambda r: patched(r, central(r)[W] + 20, "<I", 2**32 - 1), "not given"),
    "another name in its own header": (lambda r: patched(r, local(r, W) + 30, "<B", 66), "another name"),
    "a header that is none": (lambda r: patched(r, local(r, W), "<I", 7), "header of the member"),
    "a header beyond the directory": (lambda r: patched(r, central(r)[W] + 42, "<I", len(r) - 10), "beyond"),
    "two members over the same bytes": (
        lambda r: patched(r, central(r)[W] + 42, "<I", local(r, P)),
        "overlaps|another",
    ),
    "an extra field over the end": (lambda r: patched(r, local(r, W) + 28, "<H", 60000), "damaged|ends before"),
    "a pickle with another checksum": (lambda r: patched(r, central(r)[P] + 16, "<I", 7), "CRC-32"),
    "a flipped bit in the pickle": (lambda r: r.replace(b"FloatStorage", b"floatStorage"), "CRC-32"),
}


@pytest.mark.parametrize("fault", ARCHIVES)
def test_an_archive_that_cannot_be_is_refused(good, bounded, fault):
    change, says = ARCHIVES[fault]
    raw = good.read_bytes()
    bad = change(raw)
    assert bad != raw
    good.write_bytes(bad)
    with bounded(len(bad)), pytest.raises(errors.FileFormatError, match=says) as caught:
        open_torch(good)
    assert str(good) in str(caught.value)


@pytest.fixture
def large(good, tmp_path, monkeypatch):
    """The good archive with the structures of archives above 4 GiB."""
    path = tmp_path / "large.pt"
    with zipfile.ZipFile(good) as source, monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 10)
        patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
        with zipfile.ZipFile(path, "w") as target:
            for info in source.infolist():
                target.writestr(info.filename, source.read(info))
    with open_torch(path) as found:
        assert list(found) == ["w"]
    return path


def end64(raw):
    return raw.index(b"PK\x06\x06")


def extra64(raw):
    """Where the 64-bit numbers of the record begin in its row of the directory."""
    at = central(raw)[W]
    return at + 46 + len(W)


def counted(raw, count):
    """As many members as that, by the large directory; the small one says to look there."""
    for at, form, value in (
        (len(raw) - 14, "<H", 0xFFFF),
        (len(raw) - 12, "<H", 0xFFFF),
        (end64(raw) + 24, "<Q", count),
        (end64(raw) + 32, "<Q", count),
    ):
        raw = patched(raw, at, form, value)
    return raw


LARGE = {
    "a locator to elsewhere": (lambda r: patched(r, raw_locator(r) + 8, "<Q", 0), "does not lie"),
    "a locator of several disks": (lambda r: patched(r, raw_locator(r) + 16, "<I", 2), "does not lie"),
    "an end that is none": (lambda r: patched(r, end64(r), "<I", 7), "damaged"),
    "an end of another length": (lambda r: patched(r, end64(r) + 4, "<Q", 2**60), "damaged"),
    "a count of the small directory": (
        lambda r: patched(patched(r, len(r) - 14, "<H", 1), len(r) - 12, "<H", 1),
        "contradict",
    ),
    "a directory of 2**62 bytes": (lambda r: patched(r, end64(r) + 40, "<Q", 2**62), "does not end|contradict"),
    "2**40 members": (lambda r: counted(r, 2**40), "archive_members"),
    "100,000 members in a small directory": (lambda r: counted(r, 10**5), "said to lie"),
    "a member of 2**62 bytes": (
        lambda r: patched(patched(r, extra64(r) + 4, "<Q", 2**62), extra64(r) + 12, "<Q", 2**62),
        "ends before|another size",
    ),
    "a length that is cut": (lambda r: patched(r, extra64(r) + 2, "<H", 7), "not given"),
    "a length that is cut further": (lambda r: patched(r, extra64(r) + 2, "<H", 60000), "not given"),
    "a length under another tag": (lambda r: patched(r, extra64(r), "<H", 9), "not given"),
}


def raw_locator(raw):
    return raw.index(b"PK\x06\x07")


@pytest.mark.parametrize("fault", LARGE)
def test_a_large_archive_that_cannot_be_is_refused(large, bounded, fault):
    change, says = LARGE[fault]
    raw = large.read_bytes()
    bad = change(raw)
    assert bad != raw
    large.write_bytes(bad)
    with bounded(len(bad)), pytest.raises(errors.FileFormatError, match=says):
        open_torch(large)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("archive/data.pkl", forge_pickle({"w": tensor()}))
        for value in (bytes(16), bytes([1]) * 16):
            target.writestr("archive/data/0", value)
    with pytest.raises(errors.FileFormatError, match="'archive/data/0' stands twice"):
        open_torch(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_archive_is_refused_and_not_inflated(archive, bounded, method):
    """100 MB of zeros in some kilobytes."""
    path = archive(
        {"w": tensor(shape=(25_000_000,), stride=(1,), count=25_000_000)}, {"data/0": bytes(10**8)}, compression=method
    )
    assert path.stat().st_size < 10**6
    with bounded(path.stat().st_size), pytest.raises(errors.FileFormatError, match="compressed"):
        open_torch(path)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a/data.pkl", "b/data.pkl"], "one folder"),
        (["b/other", "a/data.pkl"], "one folder"),
        (["data.pkl"], "one folder"),
        (["/data.pkl"], "one folder"),
        (["a/b/data.pkl"], "one folder"),
        (["a/other"], "one folder"),
        ([], "begins with|one folder"),
    ],
)
def test_an_archive_without_one_folder_is_refused(tmp_path, names, says):
    """Readers that take the first, and readers that take the last, would see two different files."""
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as target:
        for name in names:
            target.writestr(name, forge_pickle({}))
    with pytest.raises(errors.FileFormatError, match=says):
        open_torch(path)


@pytest.mark.parametrize("order", [b"middle", b"", b"LITTLE", b"little\n", b"x" * 1000])
def test_a_byte_order_that_is_none_is_refused(archive, order):
    with pytest.raises(errors.FileFormatError, match="byteorder"):
        open_torch(archive({"w": tensor()}, {**RECORDS, "byteorder": order}))


@pytest.mark.parametrize("size", [0, 1, 3, 4, 21, 29, 30, 60, 100, 300, 500])
def test_a_file_cut_anywhere_is_refused(good, size):
    raw = good.read_bytes()
    assert size < len(raw)
    good.write_bytes(raw[:size])
    with pytest.raises(errors.FileFormatError):
        open_torch(good)


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
