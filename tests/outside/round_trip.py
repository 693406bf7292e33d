"""A model of toybox, of random bits, goes to the NumPy reference and back, and through a file: run where both are installed.

What arrives is compared with bytes that are permuted here by hand, not by the project. Prints nothing; fails by assertion.
"""

from __future__ import annotations

import random
import struct

import numpy as np
import toybox

import stateregistry as sr

SEED = 20


class Net(toybox.Box):
    """Square and oblong layers, nested and tied, beside state of every dtype that belongs to no layer."""

    def __init__(self) -> None:
        self.body = toybox.Affine(4, 4)
        self.deep = toybox.Box()
        self.deep.first = toybox.Affine(4, 3)
        self.deep.body = self.body
        self.plain = toybox.Affine(2, 2)
        del self.plain.shift
        self.scale = toybox.Weight((3, 2), "float64")
        self.half = toybox.Weight((5,), "float16")
        self.steps = toybox.Stat((), "int64")
        self.seen = toybox.Stat((2, 3), "int32")
        self.mask = toybox.Stat((7,), "bool")
        self.cache = toybox.Stat((4,), kept=False)


def randomised(net: Net, seed: int) -> Net:
    """Every bit drawn, NaNs of all sorts among them."""
    rng = random.Random(seed)
    for _, slot in toybox.slots(net):
        drawn = rng.randbytes(len(slot.data))
        slot.data[:] = bytes(byte & 1 for byte in drawn) if slot.dtype == "bool" else drawn
    signalling = struct.pack("<I", 0x7F800001)
    net.body.grid.data[4:8] = signalling
    return net


def bits(net: Net) -> dict[str, bytes]:
    return {"/".join(path): bytes(slot.data) for path, slot in toybox.slots(net)}


def permuted(slot: toybox.Slot) -> bytes:
    """The bytes of a matrix by columns, moved one number at a time."""
    rows, columns = slot.shape
    width = len(slot.data) // (rows * columns)
    cells = [bytes(slot.data[n * width : (n + 1) * width]) for n in range(rows * columns)]
    return b"".join(cells[row * columns + column] for column in range(columns) for row in range(rows))


net = randomised(Net(), SEED)
before = bits(net)
assert before["deep/body/grid"] == before["body/grid"]

# There: names and layouts of the reference, every bit in its place.
done = sr.convert(net, to="numpy", allow=("assumption",))  # the arrays of no layer keep their axes
there = sr.of(done.target)
layers = {"body": net.body, "deep/first": net.deep.first, "plain": net.plain}
for path, box in layers.items():
    matrix = there.read(f"{path}/matrix")
    assert matrix.shape == box.grid.shape[::-1], (path, matrix.shape)
    assert matrix.tobytes() == permuted(box.grid), path
    if "shift" in vars(box):
        assert there.read(f"{path}/bias").tobytes() == bytes(box.shift.data), path
for name in ("scale", "half", "steps", "seen", "mask"):
    found = there.read(name)
    assert (found.shape, found.dtype.name) == (getattr(net, name).shape, getattr(net, name).dtype), name
    assert found.tobytes() == before[name], name
kinds = {key: (entry.kind, entry.trainable) for key, entry in there.items()}
assert kinds["scale"] == kinds["half"] == (sr.Kind.PARAMETER, True)
assert kinds["steps"] == kinds["seen"] == kinds["mask"] == (sr.Kind.BUFFER, False)
assert dict(there.aliases) == {"deep/body/matrix": "body/matrix", "deep/body/bias": "body/bias"}
assert "cache" not in there  # not saved, so not converted
assert bits(net) == before

# It computes the same: small whole numbers, so that no rounding can hide a transpose or invent a difference.
whole = Net()
for box in (whole.body, whole.deep.first):
    for slot in (box.grid, box.shift):
        slot.numbers = [random.Random(SEED).randrange(-9, 9) * 1.0 + n for n in range(len(slot.data) // 4)]
twin = sr.convert(whole, to="numpy", allow=("assumption",)).target
x = [1.0, -2.0, 3.0, 5.0]
assert twin.deep.first(twin.body(np.array(x, np.float32))).tolist() == whole.deep.first(whole.body(x))

# And back, into a fresh model of other bits: ties are still ties, and what is not saved is left alone.
fresh = randomised(Net(), SEED + 1)
cache = bytes(fresh.cache.data)
sr.convert(done.target, fresh)
assert bits(fresh) == {**before, "cache": cache}
assert fresh.deep.body is fresh.body

# Through a file of any format, by the framework's own names.
sr.save(net, "net.safetensors")
loaded = randomised(Net(), SEED + 2)
cache = bytes(loaded.cache.data)
sr.load(loaded, "net.safetensors")
assert bits(loaded) == {**before, "cache": cache}
