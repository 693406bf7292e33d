"""What a torch archive has inside, forged: pickles that would run something, and pickles that contradict themselves.

`Storage` and `Call` stand for a storage and a call in a pickle; nothing is called when one is made.
"""

from __future__ import annotations

import builtins
import functools
import io
import os
import pickle
import struct
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hostile.corpus import Table


class Storage:
    """Stands for a storage in a forged pickle: the fields of its persistent id, whatever they are."""

    def __init__(self, kind, key="0", count=4, location="cpu", head="storage", more=()):
        self.id = (head, kind, key, location, count, *more)


class Call:
    """Stands for a call in a forged pickle: nothing is called when it is made."""

    def __init__(self, function, *args):
        self.function, self.args = function, args


class _Forger(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.id if isinstance(obj, Storage) else None

    def reducer_override(self, obj):
        return (obj.function, obj.args) if isinstance(obj, Call) else NotImplemented


def forge_pickle(obj: Any, protocol: int = 2) -> bytes:
    """The pickle of an object made of containers, `Storage` and `Call`."""
    buffer = io.BytesIO()
    _Forger(buffer, protocol=protocol).dump(obj)
    return buffer.getvalue()


V2 = torch._utils._rebuild_tensor_v2
V3 = torch._utils._rebuild_tensor_v3
HOOKS = OrderedDict()


def tensor(offset=0, shape=(2, 2), stride=(2, 1), requires_grad=False, storage=None, count=4, **more):
    """A tensor of floats in the storage "0", or in another."""
    storage = storage if storage is not None else Storage(torch.FloatStorage, count=count)
    return Call(V2, storage, offset, shape, stride, requires_grad, HOOKS, *more.values())


RECORDS = {"data/0": bytes(16), "version": b"3\n"}


def proto(body: bytes, version: int = 2) -> bytes:
    """A pickle of instructions."""
    return b"\x80" + bytes([version]) + body


def touch(marker: Path | str) -> str:
    """The command that shows that it ran."""
    return f"touch {marker}"


def unsafe_pickles(marker: Path | str) -> Table:
    """Class -> variant -> pickle, what the error names."""
    command = touch(marker).encode()
    text = b"X" + struct.pack("<I", len(command)) + command
    short = b"\x8c" + bytes([len(command)]) + command
    system = Call(os.system, touch(marker))
    return {
        "a call of a function": {
            "os.system called": ({"w": tensor(), "x": system}, "posix.system"),
            "deep inside a list": ({"w": tensor(), "x": [[({"y": [system]},)]]}, "posix.system"),
            "eval": (
                {"x": Call(eval, f"__import__('os').system('{touch(marker)}')")},
                "builtins.eval|__builtin__.eval",
            ),
            "exec": ({"x": Call(exec, "1")}, "exec"),
            "getattr": ({"x": Call(getattr, "a", "upper")}, "getattr"),
            "__import__": ({"x": Call(builtins.__import__, "os")}, "__import__"),
            "functools.partial": ({"x": Call(functools.partial, print, "x")}, r"functools\.partial"),
            "torch's own pickle loader": ({"x": Call(torch.storage._load_from_bytes, b"")}, "_load_from_bytes"),
            "torch.load": ({"x": Call(torch.load, "x")}, r"torch\.serialization\.load"),
            "two of them": ({"x": Call(eval, "1"), "y": os.system}, r"eval, .*posix\.system"),
        },
        "a function that is named and not called": {
            "os.system named and not called": ({"w": tensor(), "x": os.system}, "posix.system"),
        },
        "a call as a key": {
            "as a key": (proto(b"}(cposix\nsystem\n" + text + b"\x85RK\x01u."), "posix.system"),
        },
        "a call as the argument of a tensor": {
            "as the argument of a tensor": ({"w": Call(V2, system, 0, (2,), (1,), False, HOOKS)}, "posix.system"),
            "as hooks of a tensor": (
                {"w": Call(V2, Storage(torch.FloatStorage), 0, (2,), (1,), False, system)},
                "posix.system",
            ),
        },
        "a call as the type of a storage": {
            "as the type of a storage": ({"w": tensor(storage=Storage(os.system))}, "posix.system"),
            "as the whole persistent id": (proto(b"cposix\nsystem\n" + text + b"\x85RQ."), "posix.system"),
        },
        "a class of another package": {
            "a module": ({"x": Call(torch.nn.Linear, 2, 2)}, "torch.nn.modules.linear.Linear"),
            "a numpy array": (pickle.dumps({"x": np.ones(2)}, protocol=2), "numpy"),
            "a numpy scalar": (pickle.dumps({"x": np.float64(1)}, protocol=2), "numpy"),
            "a subclass of dict": (
                pickle.dumps({"x": defaultdict(list)}, protocol=2),
                "defaultdict",
            ),
        },
        "the instruction NEWOBJ": {
            "a class made by NEWOBJ": (pickle.dumps({"x": io.BytesIO()}, protocol=2), "BytesIO"),
            "NEWOBJ of a class that is known": (proto(b"ctorch\nSize\n)\x81."), "object.__new__"),
            "NEWOBJ_EX": (proto(b"\x8c\x05posix\x8c\x06system\x93)}\x92.", 4), "posix.system"),
        },
        "the instruction STACK_GLOBAL": {
            "STACK_GLOBAL": (proto(b"\x8c\x05posix\x8c\x06system\x93" + short + b"\x85R.", 4), "posix.system"),
            "STACK_GLOBAL of texts from the memo": (
                proto(b"\x8c\x05posix\x94\x8c\x06system\x94h\x00h\x01\x93)R.", 4),
                "posix.system",
            ),
            "a name with dots": (proto(b"\x8c\x05torch\x8c\x11nn.Linear.forward\x93.", 4), "torch.nn.Linear.forward"),
        },
        "the instructions INST and OBJ": {
            "INST": (proto(b"(" + text + b"iposix\nsystem\n."), "INST"),
            "OBJ": (proto(b"(cposix\nsystem\n" + text + b"o."), "posix.system"),
        },
        "the instructions EXT": {
            "EXT1": (proto(b"\x82\x01."), "EXT1"),
            "EXT2": (proto(b"\x83\x01\x01."), "EXT2"),
            "EXT4": (proto(b"\x84\x01\x01\x01\x01."), "EXT4"),
        },
        "a state set on an object of the file's choice": {
            "BUILD of an unknown object": (proto(b"cposix\nsystem\n}b."), "posix.system"),
            "SETITEM on an unknown object": (proto(b"cposix\nsystem\nK\x01K\x02s."), "posix.system"),
            "APPENDS to an unknown object": (proto(b"cposix\nsystem\n(K\x01e."), "posix.system"),
        },
        "code, then damage": {
            "unsafe, then damaged": (proto(b"cposix\nsystem\n" + text + b"\x85R\xff\xff"), "posix.system"),
            "unsafe, then cut": (proto(b"cposix\nsystem\n" + text[:7]), "posix.system"),
        },
        "instructions of the text protocol": {
            "text instructions": (b"cposix\nsystem\n(S'" + command + b"'\ntR.", "posix.system"),
        },
    }


def nested(depth: int) -> bytes:
    """A tuple in a tuple in a tuple."""
    return proto(b")" + b"\x85" * depth + b".")


#: Pickle or object, records, what the error says.
PICKLES: Table = {
    "a pickle cut short": {
        "empty": (b"", RECORDS, "damaged"),
        "cut": (forge_pickle({"w": tensor()})[:-20], RECORDS, "damaged|ends in the middle"),
        "no end": (proto(b"}"), RECORDS, "damaged"),
    },
    "bytes that nobody claims": {
        "bytes after the end": (forge_pickle({"w": tensor()}) + b"x", RECORDS, "before its record does"),
    },
    "a pickle that leaves values": {
        "values left on the stack": (proto(b"}}."), RECORDS, "leaves values"),
        "a mark left open": (proto(b"}(."), RECORDS, "leaves values|damaged"),
    },
    "an instruction that is none": {
        "an instruction that is none": (proto(b"\xfe."), RECORDS, "0xfe"),
        "an instruction of the first protocols": (proto(b"I5\n."), RECORDS, "0x49"),
    },
    "a protocol that is none": {
        "a protocol that is none": (proto(b"}.", 9), RECORDS, "protocol"),
    },
    "a pop from an empty stack": {
        "a pop from nothing": (proto(b"a."), RECORDS, "damaged"),
        "a pop below a mark": (proto(b"K\x01(a."), RECORDS, "damaged"),
        "a mark that is not there": (proto(b"t."), RECORDS, "damaged"),
    },
    "a memo that is not there": {
        "a memo that is not there": (proto(b"h\x07."), RECORDS, "damaged"),
    },
    "text that is not UTF-8": {
        "text that is not utf-8": (proto(b"X\x02\0\0\0\xff\xfe."), RECORDS, "damaged"),
    },
    "a length beyond the file": {
        "a text of 2**60 bytes": (proto(b"\x8d" + struct.pack("<Q", 2**60) + b"x."), RECORDS, "middle of a value"),
        "a text of 4 GB": (proto(b"X\xff\xff\xff\xffx."), RECORDS, "middle of a value"),
        "a frame that is too long": (proto(b"\x95" + struct.pack("<Q", 2**40) + b"}.", 4), RECORDS, "frame"),
    },
    "an integer of thousands of digits": {
        "an integer of 100 bytes": (proto(b"\x8a\x64" + b"\x01" * 100 + b"."), RECORDS, "integer of 100 bytes"),
    },
    "a length that is negative": {
        "an integer of -1 bytes": (proto(b"\x8b\xff\xff\xff\xff."), RECORDS, "integer of -1 bytes"),
    },
    "a name twice": {
        "a name twice": (proto(b"}(X\x01\0\0\0wK\x01X\x01\0\0\0wK\x02u."), RECORDS, "'w' twice"),
        "a name twice, item by item": (proto(b"}X\x01\0\0\0wK\x01sX\x01\0\0\0wK\x02s."), RECORDS, "'w' twice"),
    },
    "a key that cannot be": {
        "a key without a value": (proto(b"}(K\x01u."), RECORDS, "sets items"),
        "a key that is a dict": (proto(b"}}K\x01s."), RECORDS, "key that is a Table"),
        "a key that nests deep": (proto(b"})" + b"\x85" * 100_000 + b"K\x01s."), RECORDS, "key that is a tuple"),
    },
    "items set on what has none": {
        "an item set on a list": (proto(b"]K\x01K\x02s."), RECORDS, "sets items of a list"),
        "an append to a dict": (proto(b"}K\x01a."), RECORDS, "appends to a Table"),
        "an append to a tuple": (proto(b")K\x01a."), RECORDS, "appends to a tuple"),
    },
    "a call of what is no function": {
        "a call of a text": (proto(b"X\x01\0\0\0w)R."), RECORDS, "calls a str"),
        "a call of a dtype": (proto(b"ctorch\nfloat32\n)R."), RECORDS, "calls a TorchDtype"),
        "a call with a list": (proto(b"ctorch\nSize\n]R."), RECORDS, "no tuple"),
        "attributes of a text": (proto(b"X\x01\0\0\0w}b."), RECORDS, "attributes of a str"),
        "a global that is no text": (proto(b"K\x01K\x02\x93.", 4), RECORDS, "no text"),
    },
    "a known function with wrong values": {
        "a size of a list": ({"x": Call(torch.Size, [1, 2])}, RECORDS, "torch.Size"),
        "bytes in another coding": ({"x": Call(__import__("_codecs").encode, "a", "rot13")}, RECORDS, "Latin-1"),
        "an ordered dict of something": ({"x": Call(OrderedDict, [("a", 1)])}, RECORDS, "OrderedDict"),
        "a tensor of too few values": ({"w": Call(V2, 1)}, RECORDS, "from 1 values"),
        "a tensor without a storage": ({"w": Call(V2, "x", 0, (1,), (1,), False, HOOKS)}, RECORDS, "without a storage"),
        "an old tensor of too few values": ({"w": Call(torch._utils._rebuild_tensor, 1)}, RECORDS, "expected 4"),
        "a tensor without values, of too few": (
            {"w": Call(torch._utils._rebuild_meta_tensor_no_storage, torch.float32)},
            RECORDS,
            "without values",
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
    },
    "a shape of another type": {
        "a shape that is a list": ({"w": tensor(shape=[2, 2])}, RECORDS, "tuple of sizes"),
    },
    "a size that is negative": {
        "a negative size": ({"w": tensor(shape=(-2, -2))}, RECORDS, "tuple of sizes"),
        "a tensor without values, of a negative size": (
            {"w": Call(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (-1,), (1,), False)},
            RECORDS,
            "tuple of sizes",
        ),
    },
    "a number that is no integer": {
        "a size that is a fraction": ({"w": tensor(shape=(2.0, 2))}, RECORDS, "tuple of sizes"),
    },
    "a size that is a truth value": {
        "a size that is true": ({"w": tensor(shape=(True, 2))}, RECORDS, "tuple of sizes"),
    },
    "a shape that overflows": {
        "a size of 2**70": ({"w": tensor(shape=(2**70, 2))}, RECORDS, "tuple of sizes"),
        "a product above 2**63": ({"w": tensor(shape=(2**40, 2**40), stride=(0, 0))}, RECORDS, "more elements"),
    },
    "an empty axis beside a huge one": {
        "an empty shape that NumPy cannot hold": (
            {"w": tensor(shape=(0, 2**62, 2**62), stride=(1, 1, 1))},
            RECORDS,
            "more elements",
        ),
    },
    "more axes than an array has": {
        "too many axes": ({"w": tensor(shape=(1,) * 65, stride=(1,) * 65)}, RECORDS, "rank=64"),
    },
    "strides that cannot be": {
        "one stride too few": ({"w": tensor(stride=(1,))}, RECORDS, "has 1 strides"),
        "a negative stride": ({"w": tensor(offset=3, stride=(-2, -1))}, RECORDS, "strides"),
        "a stride that is a text": ({"w": tensor(stride=("2", "1"))}, RECORDS, "strides"),
    },
    "an offset that is negative": {
        "a negative offset": ({"w": tensor(offset=-1)}, RECORDS, "offset"),
    },
    "offsets of another type": {
        "an offset that is true": ({"w": tensor(offset=True, shape=(1,), stride=(1,))}, RECORDS, "offset"),
    },
    "an offset beyond the end": {
        "an offset beyond the storage": ({"w": tensor(offset=1)}, RECORDS, "reaches element 4"),
    },
    "a stride beyond the end": {
        "a stride beyond the storage": ({"w": tensor(stride=(3, 1))}, RECORDS, "reaches element 4"),
        "a stride that overflows": ({"w": tensor(stride=(2**62, 2**62))}, RECORDS, "reaches element"),
    },
    "a flag that cannot be": {
        "requires_grad that is a number": ({"w": tensor(requires_grad=1)}, RECORDS, "requires_grad"),
    },
    "a tensor repeated without end": {
        "a tensor repeated without end": ({"w": tensor(shape=(2**40,), stride=(0,))}, RECORDS, "expansion=1,024"),
    },
    "shape and bytes disagree": {
        "64 floats in a record of 40 bytes": (
            {"w": tensor(shape=(64,), stride=(1,), count=64)},
            {"data/0": bytes(40)},
            "64 elements of 4 bytes in a record of 40",
        ),
        "a record that is too long": ({"w": tensor()}, {"data/0": bytes(20)}, "in a record of 20"),
    },
    "a record that is missing": {
        "a record that is missing": ({"w": tensor()}, {}, "not in the archive"),
        "a storage of another file": (
            {"w": tensor(storage=Storage(torch.FloatStorage, key="../data.pkl"))},
            RECORDS,
            "not in the archive",
        ),
    },
    "a storage that cannot be": {
        "a storage key that is a number": (
            {"w": tensor(storage=Storage(torch.FloatStorage, key=0))},
            RECORDS,
            "wrong values",
        ),
        "a storage of -4 elements": ({"w": tensor(count=-4)}, RECORDS, "none"),
        "a storage that is a tensor": ({"w": tensor(storage=Storage("x"))}, RECORDS, "wrong values"),
    },
    "gigabytes declared in a small file": {
        "a storage of 2**70 elements": ({"w": tensor(count=2**70)}, RECORDS, "in a record of 16"),
    },
    "a persistent id of another sort": {
        "a persistent id of another sort": (
            {"w": tensor(storage=Storage(torch.FloatStorage, head="module"))},
            RECORDS,
            "kept outside",
        ),
        "a persistent id that is a text": (proto(b"X\x01\0\0\0wQ."), RECORDS, "kept outside"),
    },
    "one storage that is two things": {
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
    },
    "a dtype of another type": {
        "a newer dtype that is a storage": (
            {"w": Call(V3, Storage(torch.UntypedStorage, count=16), 0, (2,), (1,), False, HOOKS, torch.FloatStorage)},
            RECORDS,
            "newer dtype",
        ),
    },
    "a name with an empty segment": {
        "an empty name": ({"": tensor()}, RECORDS, "empty segment"),
        "an empty segment": ({"a..b": tensor()}, RECORDS, "empty segment"),
    },
    "an array inside another by name": {
        "a name inside another": ({"a": tensor(), "a.b": 1}, RECORDS, "'a' is an array and holds 'a.b'"),
    },
    "a name of thousands of characters": {
        "a name of 5,000 characters": ({"x" * 5000: tensor()}, RECORDS, "name_chars"),
    },
    "nesting without end": {
        "a tuple that nests 1,000,000 deep": (nested(1_000_000), RECORDS, "holds a tuple"),
    },
    "a container inside itself": {
        "a list inside itself": (proto(b"]q\x00h\x00a."), RECORDS, "holds a list"),
        "a dict inside itself": (proto(b"}q\x00X\x01\0\0\0wh\x00s."), RECORDS, None),
    },
}

#: Pickles whose stack or memo grows.
GROWING: Table = {
    "a stack without end": {
        "values": b"N" * 1_200_000,
        "marks": b"(" * 1_200_000,
        "values and marks": b"(N" * 700_000,
        "one from the memo": b"]q\x00" + b"h\x00" * 1_200_000,
    }
}
