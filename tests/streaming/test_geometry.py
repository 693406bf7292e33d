"""Rearranging elements in windows: the same bytes as the algebra of axes gives, whatever the size of a window."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stateregistry.conversion.execution.recipes import geometry
from stateregistry.entry import numpy_dtype
from stateregistry.layers import axes
from stateregistry.streaming import moving, tiles
from stateregistry.streaming.digests import of_array
from stateregistry.streaming.geometry import group, whole
from stateregistry.streaming.task import Held, Stored, Task, perform

#: Feeds (pattern, shape, part, into), target pattern and shape, parts that are zero.
MOVES = {
    "a transpose": ([("out in", (37, 53), "", "")], "in out", (53, 37), ()),
    "a convolution": ([("out in/groups *spatial", (7, 5, 3, 2), "", "")], "*spatial in/groups out", (3, 2, 5, 7), ()),
    "a flipped one": ([("out in/groups *spatial", (7, 5, 3, 2), "", "")], "-*spatial in/groups out", (3, 2, 5, 7), ()),
    "heads split": ([("(heads head_dim) in", (12, 5), "", "")], "in heads head_dim", (5, 3, 4), ()),
    "a part taken": ([("(i|f|g|o: hidden) in", (24, 5), "g", "")], "in hidden", (5, 6), ()),
    "parts joined": (
        [("in heads head_dim", (5, 3, 4), "", part) for part in ("query", "key", "value")],
        "(query|key|value: heads head_dim) in", (36, 5), (),
    ),
    "parts interleaved": (
        [("out in", (6, 5), "", part) for part in "ifgo"], "in (i|f|g|o: out)", (5, 24), (),
    ),
    "parts innermost": ([("out", (6,), "", part) for part in "ab"], "(out) (a|b:)", (6, 2), ()),
    "a part that is zero": ([("out", (6,), "", "key")], "(query|key: out)", (12,), ("query",)),
    "stacked layers": ([("out in", (4, 3), "", str(n)) for n in range(3)], "(0|1|2:) in out", (3, 3, 4), ()),
    "a sum": ([("out in", (4, 3), "", "")] * 2, "in out", (3, 4), ()),
    "a single number": ([("1", (1,), "", "")], "1 1", (1, 1), ()),
}  # fmt: skip


def assembly_of(name):
    feeds, target, shape, zeros = MOVES[name]
    return axes.assemble([axes.Feed(*feed) for feed in feeds], target, shape, zeros=zeros)


def written(tmp_path, arrays, expected, groups, *, files, cast="", dtype=None, room=1 << 25):
    """Perform one task from memory or from a file; what it wrote, and the digest it says."""
    out = tmp_path / "out.bin"
    out.write_bytes(b"\xff" * (16 + expected.nbytes))
    origins = []
    for number, array in enumerate(arrays):
        if not files:
            origins.append(Held(np.ascontiguousarray(array)))
            continue
        path = tmp_path / f"{number}.bin"
        raw = array.tobytes()
        half = len(raw) // 3 // array.itemsize * array.itemsize
        path.write_bytes(b"12345" + raw[:half] + b"between" + raw[half:])  # two stretches, at odd offsets
        status = path.stat()
        extents = ((5, half), (12 + half, len(raw) - half)) if half else ((12, len(raw)),)
        origins.append(Stored(str(path), status.st_size, status.st_mtime_ns, extents, array.dtype.name, "x"))
    name = dtype or expected.dtype.name
    task = Task("k", name, expected.shape, str(out), (((16, expected.nbytes),),), tuple(origins), groups, cast)
    (outcome,) = perform((task,), room=room)
    assert out.read_bytes()[:16] == b"\xff" * 16
    return out.read_bytes()[16:], outcome.digest


@pytest.mark.parametrize("room", [1 << 25, 1024, 200, 8])
@pytest.mark.parametrize("files", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e5m2", "complex128", "bool"])
@pytest.mark.parametrize("name", MOVES)
def test_windows_give_the_bytes_that_the_algebra_gives(tmp_path, name, dtype, files, room):
    if name == "a sum" and dtype == "bool":
        dtype = "int64"
    rng = np.random.default_rng(len(name))
    shapes = [feed[1] for feed in MOVES[name][0]]
    if dtype == "bool":
        arrays = [rng.integers(0, 2, shape).astype(bool) for shape in shapes]
    else:
        arrays = [(rng.standard_normal(shape) * 9).astype(numpy_dtype(dtype)) for shape in shapes]
    assembly = assembly_of(name)
    expected = np.ascontiguousarray(assembly.apply(arrays))
    found, digest = written(tmp_path, arrays, expected, geometry(assembly), files=files, room=room)
    assert found == expected.tobytes()
    assert digest == of_array(expected)


@pytest.mark.parametrize("files", [True, False])
def test_a_cast_in_windows_is_the_cast_of_the_whole(tmp_path, monkeypatch, files):
    monkeypatch.setattr(moving, "_CAST", 100)
    array = np.random.default_rng(0).standard_normal((37, 53)).astype(np.float32)
    assembly = assembly_of("a transpose")
    expected = np.ascontiguousarray(array.T).astype(numpy_dtype("bfloat16"))
    more = {"files": files, "cast": "same_kind", "dtype": "bfloat16", "room": 4096}
    found, digest = written(tmp_path, [array], expected, geometry(assembly), **more)
    assert found == expected.tobytes()
    assert digest == of_array(expected)


def test_nan_payloads_and_negative_zeros_are_moved_as_they_are(tmp_path):
    bits = np.random.default_rng(1).integers(0, 2**32, (300, 400), dtype=np.uint32)
    bits[0, :3] = 0x7FA00001, 0x80000000, 0xFFC12345
    array = bits.view(np.float32)
    assembly = axes.assemble([axes.Feed("out in", (300, 400))], "in out", (400, 300))
    found, _ = written(tmp_path, [array], np.empty((400, 300), np.float32), geometry(assembly), files=True)
    assert found == np.ascontiguousarray(bits.T).tobytes()


def test_equal_strides_become_one_axis():
    assert group((3, 4, 5), (0, (20, 5, 1)), [(0, 0, (20, 5, 1))]) == whole(60)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_two_orders_of_axes_and_any_flips(tmp_path_factory, data):
    rank = data.draw(st.integers(1, 5))
    names = [f"n{n}" for n in range(rank)]
    sizes = {name: data.draw(st.integers(1, 6)) for name in names}

    def side():
        order = data.draw(st.permutations(names))
        flips = [data.draw(st.booleans()) for _ in order]
        pattern = " ".join(("-" if flip else "") + name for name, flip in zip(order, flips, strict=True))
        return pattern, tuple(sizes[name] for name in order)

    (left, one), (right, two) = side(), side()
    assembly = axes.assemble([axes.Feed(left, one)], right, two)
    array = np.arange(math.prod(one), dtype=np.int32).reshape(one)
    expected = np.ascontiguousarray(assembly.apply([array]))
    room = data.draw(st.sampled_from([1 << 20, 4096, 600, 16]))
    folder = tmp_path_factory.mktemp("any")
    found, digest = written(folder, [array], expected, geometry(assembly), files=data.draw(st.booleans()), room=room)
    assert found == expected.tobytes()
    assert digest == of_array(expected)


@pytest.mark.parametrize("pitch", [1024, 1000])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.complex128])
def test_blocks_cover_every_element(dtype, pitch):
    rng = np.random.default_rng(3)
    source = rng.integers(0, 200, (513, pitch)).astype(dtype)[:, : pitch - 7]
    target = np.zeros(source.shape[::-1], dtype)
    tiles.copy(target, source.T)
    assert target.tobytes() == np.ascontiguousarray(source.T).tobytes()


def test_a_bool_that_is_none_is_refused(tmp_path):
    from stateregistry import errors

    path = tmp_path / "in.bin"
    path.write_bytes(bytes([0, 1, 2, 1]))
    out = tmp_path / "out.bin"
    out.write_bytes(bytes(4))
    origin = Stored(str(path), 4, 0, ((0, 4),), "bool", "flags")
    task = Task("k", "bool", (4,), str(out), (((0, 4),),), (origin,), (whole(4),))
    with pytest.raises(errors.FileFormatError, match="flags: a bool is stored as the byte 2"):
        perform((task,))


def test_a_source_that_has_changed_is_an_error(tmp_path):
    from stateregistry import errors

    path, out = tmp_path / "in.bin", tmp_path / "out.bin"
    path.write_bytes(bytes(4))
    out.write_bytes(bytes(4))
    place = ((0, 4),)
    for size, modified, words in ((5, 0, "when it was opened"), (4, 1, "has changed")):
        origin = Stored(str(path), size, modified, place, "uint8")
        task = Task("k", "uint8", (4,), str(out), (place,), (origin,), (whole(4),))
        with pytest.raises(errors.FileFormatError, match=words):
            perform((task,))
