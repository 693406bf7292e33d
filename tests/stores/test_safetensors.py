"""The safetensors store against its own promises and against the format's library."""

from __future__ import annotations

import os
import struct
from json import loads
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

import stateregistry as sr
from stateregistry import errors, keys
from stateregistry.entry import DTYPES, Entry, Kind, numpy_dtype
from stateregistry.stores import safetensors as store
from stateregistry.stores.memory import ArraysRegistry
from stateregistry.stores.safetensors_header import NAME_OF

SHAPES = [(), (1,), (0,), (7,), (3, 5), (2, 0, 3), (4, 4), (2, 3, 1, 5)]


def write(path, source, **extra):
    store.write(path, source, extra=extra, progress=lambda key, nbytes: None)
    return path


def torch_bytes(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", sorted(NAME_OF))
def test_every_dtype_and_shape_comes_back_with_its_bits(tmp_path, bits, dtype, shape):
    array = bits(dtype, shape)
    with store.open(write(tmp_path / "x.safetensors", ArraysRegistry({"a/b": array}))) as found:
        assert (found["a/b"].dtype, found["a/b"].shape) == (dtype, shape)
        for value in (found.read("a/b"), found.view("a/b")):
            assert value.dtype == array.dtype
            assert value.shape == shape
            assert value.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", sorted(set(NAME_OF) - {"float8_e8m0fnu"}))
def test_the_library_reads_what_we_write(tmp_path, bits, dtype):
    array = bits(dtype, (3, 5))
    # One bool before it: the library views at an offset that must be a multiple of the width.
    source = ArraysRegistry({"a/b": np.ones(1, bool), "w": array, "z": bits("int64", ())})
    found = safetensors.torch.load_file(write(tmp_path / "x.safetensors", source))
    assert sorted(found) == ["a.b", "w", "z"]
    assert torch_bytes(found["w"]) == array.tobytes()
    assert torch_bytes(found["z"]) == source.read("z").tobytes()


def test_the_library_lists_an_8_bit_exponent_dtype_that_we_write(tmp_path, bits):
    source = ArraysRegistry({"w": bits("float8_e8m0fnu", (3, 5))})
    with safetensors.safe_open(write(tmp_path / "x.safetensors", source), "numpy") as found:
        assert found.get_slice("w").get_dtype() == "F8_E8M0"


@pytest.mark.parametrize("dtype", sorted(set(NAME_OF) - {"float8_e8m0fnu"}))
def test_we_read_what_the_library_writes(tmp_path, bits, dtype):
    array = bits(dtype, (3, 5))
    raw = torch.from_numpy(array.view(np.uint8).copy())
    tensor = raw.view({**safetensors.torch._TYPES}[NAME_OF[dtype]]).reshape(3, 5)
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"a.b": tensor, "c": torch.zeros(3)}, path, metadata={"format": "pt", "by": "hand"})
    with store.open(path) as found:
        assert found.read("a/b").tobytes() == array.tobytes()
        assert found.dialect == "torch"
        assert found.metadata["by"] == "hand"
        assert found["a/b"].inferred


LAYOUTS = {
    "fortran": lambda a: np.asfortranarray(a),
    "transposed": lambda a: a.T,
    "strided": lambda a: a[:, ::2],
    "reversed": lambda a: a[::-1, ::-1],
    "broadcast": lambda a: np.broadcast_to(a[0], (3, *a[0].shape)),
    "offset": lambda a: a[1:, 1:],
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64", "int64", "bool"])
def test_values_are_written_whatever_their_layout(tmp_path, bits, layout, dtype):
    """safetensors 0.8.0 writes the wrong values of an array that is not C-contiguous, without an error."""
    array = LAYOUTS[layout](bits(dtype, (5, 5)))
    path = write(tmp_path / "x.safetensors", ArraysRegistry({"w": array}))
    with store.open(path) as found:
        assert found.read("w").tobytes() == np.ascontiguousarray(array).tobytes()
    assert torch_bytes(safetensors.torch.load_file(path)["w"]) == np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "int16", "complex64", "uint64"])
def test_a_big_endian_source_is_stored_little_endian(tmp_path, bits, dtype):
    array = bits(dtype, (3, 4))
    swapped = array.astype(array.dtype.newbyteorder(">"))
    with store.open(write(tmp_path / "x.safetensors", ArraysRegistry({"w": swapped}))) as found:
        assert found.read("w").tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", *(name for name in NAME_OF if name.startswith("float8"))])
def test_every_code_of_a_small_float_survives(tmp_path, dtype):
    width = DTYPES[dtype]
    codes = np.arange(256**width, dtype=f"u{width}").view(numpy_dtype(dtype))
    with store.open(write(tmp_path / "x.safetensors", ArraysRegistry({"w": codes}))) as found:
        assert found.read("w").tobytes() == codes.tobytes()


def test_kinds_flags_tags_aliases_and_order_travel(tmp_path, bits, specimen):
    arrays = {
        "z/weight": bits("float32", (4, 4)),
        "z/count": bits("int64", ()),
        "a/mask": bits("bool", (3,)),
        "a/key": bits("uint32", (2,)),
        "m": bits("float64", (2,)),
    }
    entries = {
        "z/weight": Entry(Kind.PARAMETER, (4, 4), "float32", trainable=False, tag="Param"),
        "z/count": Entry(Kind.BUFFER, (), "int64", tag="buffer"),
        "a/mask": Entry(Kind.BUFFER, (3,), "bool", persistent=False),
        "a/key": Entry(Kind.BUFFER, (2,), "uint32", rng=True, tag="RngKey"),
        "m": Entry(Kind.PARAMETER, (2,), "float64", trainable=True, inferred=True),
    }
    source = specimen(arrays, entries, aliases={"z/zz/tied": "z/weight", "zz": "z/weight"}, dialect="flax-nnx")
    path = write(tmp_path / "x.safetensors", source, residual={"n": [1, 2.5, "x"]})
    with store.open(path) as found:
        assert dict(found) == entries
        assert {key: entry.tag for key, entry in found.items()} == {key: e.tag for key, e in entries.items()}
        assert [key for key, entry in found.items() if entry.inferred] == ["m"]
        assert found.native_order == tuple(arrays)
        assert dict(found.aliases) == {"z/zz/tied": "z/weight", "zz": "z/weight"}
        assert found.read("zz").tobytes() == arrays["z/weight"].tobytes()
        assert found.dialect == "flax-nnx"
        assert found.document.extra == {"residual": {"n": [1, 2.5, "x"]}}


def test_a_file_of_the_torch_dialect_says_so_to_transformers(tmp_path, bits, specimen):
    source = specimen({"w": bits("float32", (2,))}, dialect="torch")
    with safetensors.safe_open(write(tmp_path / "x.safetensors", source), "numpy") as found:
        assert found.metadata()["format"] == "pt"


def test_the_same_state_gives_the_same_bytes(tmp_path, bits, specimen):
    source = specimen({"b": bits("float32", (3, 3)), "a": bits("int8", (3,))})
    one = write(tmp_path / "one.safetensors", source, x=1).read_bytes()
    assert one == write(tmp_path / "two.safetensors", source, x=1).read_bytes()


def test_values_begin_at_a_multiple_of_their_width(tmp_path, bits):
    source = ArraysRegistry({key: bits(key, (3,)) for key in sorted(NAME_OF)})
    raw = write(tmp_path / "x.safetensors", source).read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    assert length % 8 == 0
    header = loads(raw[8 : 8 + length])
    for dtype in NAME_OF:
        assert (8 + length + header[dtype]["data_offsets"][0]) % DTYPES[dtype] == 0


def test_progress_is_told_every_value_in_the_order_of_the_file(tmp_path, bits):
    told = []
    source = ArraysRegistry({"a": bits("int8", (3,)), "b": bits("float64", (2,))})
    store.write(tmp_path / "x", source, extra={}, progress=lambda key, nbytes: told.append((key, nbytes)))
    assert told == [("b", 16), ("a", 3)]


def test_an_empty_state_is_a_file_too(tmp_path):
    path = write(tmp_path / "x.safetensors", ArraysRegistry({}))
    with store.open(path) as found:
        assert len(found) == 0
    assert safetensors.numpy.load_file(path) == {}


ODD_KEYS = [
    "a.b",
    "a~1b/c",
    "..",
    ".",
    "ü/日本",
    "a b\n\t",
    "x/\u0000",
    "~0",
    "a/b.c",
    "__metadata__/w",
    "é",
    "e\u0301",
]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_keys_come_back_exactly(tmp_path, bits, key):
    array = bits("float32", (2,))
    path = write(tmp_path / "x.safetensors", ArraysRegistry({key: array, "plain/w": array}))
    with store.open(path) as found:
        assert sorted(found) == sorted([key, "plain/w"])
        assert found.read(key).tobytes() == array.tobytes()
    assert len(safetensors.numpy.load_file(path)) == 2


def test_keys_that_would_have_one_stored_name_are_kept_apart(tmp_path, bits):
    arrays = {"a/b.c": bits("int8", (2,), 1), "a~1b/c": bits("int8", (2,), 2)}
    with store.open(write(tmp_path / "x.safetensors", ArraysRegistry(arrays))) as found:
        for key, array in arrays.items():
            assert found.read(key).tobytes() == array.tobytes()


SEGMENTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
PATHS = st.lists(SEGMENTS, min_size=1, max_size=3).map(lambda parts: keys.join(*parts))


@st.composite
def states(draw):
    names = draw(st.lists(PATHS, max_size=6, unique=True))
    arrays = {}
    for key in names:
        if any(other.startswith(f"{key}/") or key.startswith(f"{other}/") for other in arrays) or key == "__metadata__":
            continue
        dtype = draw(st.sampled_from(sorted(NAME_OF)))
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
        size = int(np.prod(shape, dtype=np.int64)) * DTYPES[dtype]
        raw = draw(st.binary(min_size=size, max_size=size))
        raw = bytes(byte & 1 for byte in raw) if dtype == "bool" else raw
        arrays[key] = np.frombuffer(raw, np.uint8).view(numpy_dtype(dtype)).reshape(shape)
    return arrays


@given(states())
def test_any_state_comes_back(tmp_path_factory, arrays):
    path = write(tmp_path_factory.mktemp("any") / "x.safetensors", ArraysRegistry(arrays))
    with store.open(path) as found:
        assert sorted(found) == sorted(arrays)
        assert found.native_order == tuple(arrays)
        for key, array in arrays.items():
            value = found.read(key)
            assert (value.dtype, value.shape, value.tobytes()) == (array.dtype, array.shape, array.tobytes())
    with safetensors.safe_open(path, "numpy") as library:
        assert sorted(library.keys()) == sorted(found.stored_names.values())


# -------------------------------------------------------------------- what the format cannot hold


def test_a_reserved_name_is_refused(tmp_path, bits):
    with pytest.raises(errors.KeyPathError, match="__metadata__"):
        write(tmp_path / "x.safetensors", ArraysRegistry({"__metadata__": bits("int8", (1,))}))


def test_half_of_a_surrogate_pair_is_refused(tmp_path, bits):
    with pytest.raises(errors.KeyPathError, match="surrogate"):
        write(tmp_path / "x.safetensors", ArraysRegistry({"a\ud800": bits("int8", (1,))}))


def test_a_dtype_that_the_format_lacks_is_refused_before_anything_is_written(tmp_path, bits):
    path = tmp_path / "x.safetensors"
    with pytest.raises(errors.UnsupportedError, match=r"'w' \(complex128\)") as caught:
        write(path, ArraysRegistry({"a": bits("int8", (1,)), "w": bits("complex128", (2,))}))
    assert caught.value.keys == ("w",)
    assert not path.exists()


def test_a_header_beyond_the_format_is_refused(tmp_path, bits, monkeypatch):
    monkeypatch.setattr("stateregistry.stores.safetensors_header.MAX_HEADER", 100)
    path = tmp_path / "x.safetensors"
    with pytest.raises(errors.UnsupportedError, match="the safetensors format allows 100"):
        write(path, ArraysRegistry({"w": bits("int8", (1,))}))
    assert not path.exists()


def test_a_full_disk_is_one_error(bits):
    with pytest.raises(errors.FileAccessError, match="No space left"):
        write(Path("/dev/full"), ArraysRegistry({"w": bits("float64", (3000,))}))


def test_fields_in_another_order_are_read(forge):
    path = forge('{"w":{"data_offsets":[0,2],"shape":[2],"dtype":"I8"}}', b"ab")
    with store.open(path) as found:
        assert found.read("w").tobytes() == b"ab"


def test_extra_that_is_not_json_is_refused(tmp_path, bits):
    with pytest.raises(errors.UnsupportedError, match="JSON"):
        write(tmp_path / "x", ArraysRegistry({"w": bits("int8", (1,))}), residual={"x": float("nan")})


# -------------------------------------------------------------------- foreign files


def row(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_names_without_a_dot_are_cut_at_slashes(forge):
    path = forge({"params/Dense_0/kernel": row("I8", [1], 0, 1), "step": row("I8", [1], 1, 2)}, b"ab")
    with store.open(path) as found:
        assert list(found) == ["params/Dense_0/kernel", "step"]


def test_names_with_a_dot_are_cut_at_dots(forge):
    path = forge({"a.b": row("I8", [1], 0, 1), "c/d": row("I8", [1], 1, 2)}, b"ab")
    with store.open(path) as found:
        assert list(found) == ["a/b", "c~1d"]
        assert found.stored_names == {"a/b": "a.b", "c~1d": "c/d"}


def test_names_of_a_torch_file_are_cut_at_dots_alone(forge):
    path = forge({"__metadata__": {"format": "pt"}, "c/d": row("I8", [1], 0, 1)}, b"a")
    with store.open(path) as found:
        assert list(found) == ["c~1d"]


def test_kinds_of_a_foreign_file_are_inferred_and_marked(forge):
    header = {
        "bn.weight": row("F32", [1], 0, 4),
        "bn.running_mean": row("F32", [1], 4, 8),
        "bn.num_batches_tracked": row("I64", [], 8, 16),
        "emb.ids": row("I64", [1], 16, 24),
        "gauss.mean": row("F32", [1], 24, 28),
    }
    with store.open(forge(header, bytes(28))) as found:
        assert all(entry.inferred for entry in found.values())
        kinds = {key: (entry.kind, entry.trainable) for key, entry in found.items()}
    assert kinds == {
        "bn/weight": (Kind.PARAMETER, True),
        "bn/running_mean": (Kind.BUFFER, False),
        "bn/num_batches_tracked": (Kind.BUFFER, False),
        "emb/ids": (Kind.PARAMETER, False),
        "gauss/mean": (Kind.PARAMETER, True),
    }


def test_native_order_of_a_foreign_file_is_that_of_its_bytes(forge):
    header = {"b": row("I8", [1], 1, 2), "c": row("I8", [1], 2, 3), "a": row("I8", [1], 0, 1)}
    with store.open(forge(header, b"abc")) as found:
        assert found.native_order == ("a", "b", "c")
        assert bytes(found.read("b")) == b"b"


def test_an_array_at_an_odd_offset_is_read(forge):
    """The format does not align; a foreign file may not either."""
    value = np.arange(6, dtype=np.float64)
    header = {"a": row("I8", [1], 0, 1), "w": row("F64", [2, 3], 1, 49)}
    with store.open(forge(header, b"x" + value.tobytes())) as found:
        assert found.read("w").tobytes() == found.view("w").tobytes() == value.tobytes()
        assert (found.view("w") + 1).tolist() == (value + 1).reshape(2, 3).tolist()


@pytest.mark.parametrize(("dtype", "shape", "size"), [("F4", [4], 2), ("F6_E2M3", [4], 3), ("Q9_K", [5], 7)])
def test_a_dtype_that_no_registry_holds_is_opaque(forge, dtype, shape, size):
    header = {"q": row(dtype, shape, 0, size), "w": row("I8", [1], size, size + 1)}
    with store.open(forge(header, bytes(size + 1))) as found:
        assert list(found) == ["w"]
        assert dtype in found.opaque["q"]
        with pytest.raises(errors.OpaqueError):
            found.read("q")


# -------------------------------------------------------------------- laziness and lifetime


@pytest.fixture
def opened(tmp_path, bits):
    path = write(tmp_path / "x.safetensors", ArraysRegistry({"w": bits("float32", (300, 70))}))
    with store.open(path) as found:
        yield found


def test_a_view_is_the_file_itself(opened):
    view = opened.view("w")
    assert not view.flags.writeable
    assert not view.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 0
    with opened.path.open("r+b") as file:  # in place: a map sees it
        file.seek(-4, os.SEEK_END)
        file.write(b"\x01\x02\x03\x04")
    assert view.tobytes()[-4:] == b"\x01\x02\x03\x04"


def test_a_read_is_the_callers_own(opened):
    value = opened.read("w")
    assert value.flags.owndata
    assert value.flags.writeable
    assert value.flags.c_contiguous
    value[...] = 0
    assert any(opened.read("w").tobytes())


@pytest.mark.parametrize("how", ["read", "view"])
@pytest.mark.parametrize("change", [-4, -70 * 300 * 4, 4])
def test_a_file_whose_length_changes_after_opening_is_an_error_not_a_fault(opened, how, change):
    os.truncate(opened.path, opened.path.stat().st_size + change)
    with pytest.raises(errors.FileFormatError, match="when it was opened"):
        getattr(opened, how)("w")


def test_values_read_before_closing_stay(opened):
    value, view = opened.read("w"), opened.view("w")
    opened.close()
    opened.close()
    assert value.tobytes() == view.tobytes()
    for how in ("read", "view"):
        with pytest.raises(errors.UnsupportedError, match="closed"):
            getattr(opened, how)("w")


def test_a_file_is_read_only(opened):
    before = opened.path.read_bytes()
    with pytest.raises(errors.UnsupportedError, match="read-only"):
        opened.replace({"w": np.zeros((300, 70), np.float32)})
    with pytest.raises(errors.UnsupportedError, match="read-only"):
        opened.with_trainable({"w": False})
    assert opened.path.read_bytes() == before


def test_opening_leaves_no_handle_behind(tmp_path, bits):
    path = write(tmp_path / "x.safetensors", ArraysRegistry({"w": bits("float32", (3,))}))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with store.open(path) as found:
            found.read("w")
            found.view("w")
    path.write_bytes(path.read_bytes()[:-1])
    for _ in range(20):
        with pytest.raises(errors.FileFormatError):
            store.open(path)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_directory_with_one_file_is_that_file(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    sr.save({"a/b": np.arange(3.0)}, folder / "model.safetensors")
    with sr.open(folder) as found:
        assert found.read("a/b").tolist() == [0, 1, 2]
        assert found.files == (folder / "model.safetensors",)
