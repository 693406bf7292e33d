"""`.npz`: what is written comes back bit for bit, here and in NumPy, and what NumPy writes is read as NumPy reads it."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import DTYPES, EXTENDED, Entry, Kind
from stateregistry.stores.limits import Limits
from stateregistry.stores.npy_header import npy_header, parse_npy_header
from stateregistry.stores.npz_write import RECORD

PLAIN = [name for name in DTYPES if name not in EXTENDED]


def _same(found, expected):
    return found.dtype == expected.dtype and found.shape == expected.shape and found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (5, 7), (0, 3), (2, 3, 4, 5)], ids=str)
def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path, specimen, bits, dtype, shape):
    value = bits(dtype, shape)
    path = sr.save(specimen({"block/weight": value}), tmp_path / "m.npz")
    with sr.open(path, verify=True) as found:
        assert found.damaged() == {}
        assert found["block/weight"].dtype == dtype
        assert _same(found.read("block/weight"), value)
        assert _same(found.view("block/weight"), value)
        assert found.read("block/weight").flags.writeable
        assert not found.view("block/weight").flags.writeable


@pytest.mark.parametrize("dtype", PLAIN)
def test_numpy_reads_what_is_written(tmp_path, specimen, bits, dtype):
    arrays = {"a/weight": bits(dtype, (3, 5)), "a/bias": bits(dtype, ()), "b": bits(dtype, (0, 2))}
    path = sr.save(specimen(arrays), tmp_path / "m.npz")
    with np.load(path, allow_pickle=False) as found:
        assert set(found.files) == {"a.weight", "a.bias", "b", RECORD}
        for key, value in arrays.items():
            assert _same(found[key.replace("/", ".")], value)


@pytest.mark.parametrize("dtype", sorted(EXTENDED))
def test_a_dtype_that_numpy_lacks_is_its_bits_in_numpy_and_itself_here(tmp_path, specimen, bits, dtype):
    value = bits(dtype, (4, 6))
    path = sr.save(specimen({"w": value}), tmp_path / "m.npz")
    with np.load(path) as found:
        assert found["w"].dtype == (np.uint16 if dtype == "bfloat16" else np.uint8)
        assert found["w"].tobytes() == value.tobytes()
    with sr.open(path) as mine:
        assert mine["w"].dtype == dtype


@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed", "broadcast", "big-endian"])
def test_values_of_any_layout_are_written_in_c_order(tmp_path, specimen, bits, layout):
    value = bits("float32", (6, 6))
    given = {
        "fortran": np.asfortranarray(value), "strided": bits("float32", (12, 12))[::2, ::2], "reversed": value[::-1],
        "broadcast": np.broadcast_to(value[0], (6, 6)), "big-endian": value.astype(">f4"),
    }[layout]  # fmt: skip
    path = sr.save({"w": given}, tmp_path / "m.npz")
    with np.load(path) as found:
        assert found["w"].tobytes() == np.ascontiguousarray(given).astype("<f4").tobytes()


def test_kinds_flags_aliases_order_names_and_extra_come_back(tmp_path, specimen, bits):
    arrays = {"z/w": bits("float32", (3, 3)), "a/v1.5/x": bits("bfloat16", (2,)), "a/seen": bits("int64", ())}
    entries = {
        "z/w": Entry(Kind.PARAMETER, (3, 3), "float32", trainable=False, tag="frozen"),
        "a/seen": Entry(Kind.BUFFER, (), "int64", rng=True),
    }
    source = specimen(arrays, entries, aliases={"zz/tied": "z/w"})
    path = sr.save(source, tmp_path / "m.npz", extra={"residual": {"a": [1, 2]}})
    with sr.open(path) as found:
        assert dict(found) == dict(source)
        assert found.native_order == source.native_order == ("z/w", "a/v1.5/x", "a/seen")
        assert found.aliases == {"zz/tied": "z/w"}
        assert found.dialect == "specimen"
        assert found.document.extra == {"residual": {"a": [1, 2]}}
        assert found["z/w"].tag == "frozen"
        assert found.read("zz/tied").tobytes() == arrays["z/w"].tobytes()


def test_equal_states_make_equal_bytes(tmp_path, specimen, bits):
    source = specimen({"a/w": bits("float32", (4, 4)), "b": bits("bfloat16", (3,))})
    one, two = sr.save(source, tmp_path / "1.npz"), sr.save(source, tmp_path / "2.npz")
    assert one.read_bytes() == two.read_bytes()


def test_values_begin_where_they_can_be_mapped(tmp_path, specimen, bits):
    arrays = {f"k{n}": bits("float64", (n + 1,), n) for n in range(9)}
    with sr.open(sr.save(specimen(arrays), tmp_path / "m.npz")) as found:
        for key, value in arrays.items():
            place = found.place(key)
            assert place is not None
            assert place.extents[0][0] % 64 == 0
            assert found.view(key).flags.aligned
            assert not found.view(key).flags.owndata
            assert found.view(key).tobytes() == value.tobytes()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read_as_numpy_reads_it(tmp_path, bits, save):
    arrays = {f"{name}.weight": bits(name, (5, 5)) for name in PLAIN}
    arrays |= {
        "f.weight": np.asfortranarray(bits("float32", (4, 4))),
        "s": bits("float64", ()),
        "e": bits("int8", (0, 9)),
    }
    arrays |= {
        "big": bits("complex64", (3, 3)).astype(">c8"),
        "bigf": np.asfortranarray(bits("int32", (3, 2))).astype(">i4", order="F"),
    }
    save(tmp_path / "m.npz", **arrays)
    with sr.open(tmp_path / "m.npz") as found, np.load(tmp_path / "m.npz") as expected:
        assert set(found.stored_names.values()) == set(expected.files)
        for key, name in found.stored_names.items():
            native = expected[name].astype(expected[name].dtype.newbyteorder("="))
            assert _same(found.read(key), native)
            assert found.view(key).tobytes() == native.tobytes()
            assert found[key].inferred


def test_names_with_slashes_are_paths(tmp_path, bits):
    weight = bits("float32", (3, 3))
    np.savez(
        tmp_path / "m.npz",
        **{"params/Dense_0/kernel": weight, "batch_stats/BN_0/mean": weight[0], "batch_stats/BN_0/var": weight[1]},
    )
    with sr.open(tmp_path / "m.npz") as found:
        assert found["params/Dense_0/kernel"].kind is Kind.PARAMETER
        assert found["batch_stats/BN_0/mean"].kind is Kind.BUFFER
        assert found.read("params/Dense_0/kernel").tobytes() == weight.tobytes()


def test_arrays_that_no_registry_holds_are_opaque_with_the_reason(tmp_path, bits):
    import ml_dtypes

    np.savez(
        tmp_path / "m.npz", w=bits("float32", (2, 2)), text=np.array(["a", "b"]), raw=np.zeros(3, ml_dtypes.bfloat16),
        record=np.zeros(2, [("x", "<f4"), ("y", "<i2", (2,))]), when=np.zeros(2, "M8[ns]"), wide=np.zeros(2, np.longdouble),
    )  # fmt: skip
    with zipfile.ZipFile(tmp_path / "m.npz", "a") as archive:
        archive.writestr("readme", b"text")
    with sr.open(tmp_path / "m.npz") as found:
        assert set(found) == {"w"}
        assert found.opaque.keys() == {"text", "raw", "record", "when", "wide", "readme"}
        assert "does not say the dtype" in found.opaque["raw"]
        assert found.opaque["record"] == "a structured dtype"


def test_an_empty_archive_is_an_empty_state(tmp_path):
    np.savez(tmp_path / "m.npz")
    with sr.open(tmp_path / "m.npz") as found:
        assert dict(found) == {}
    sr.save({}, tmp_path / "mine.npz")
    with sr.open(tmp_path / "mine.npz") as found:
        assert dict(found) == {}


def test_states_of_zeros_compress_a_thousandfold_and_are_read(tmp_path):
    np.savez_compressed(tmp_path / "m.npz", w=np.zeros((1024, 4096), np.float32))
    assert (tmp_path / "m.npz").stat().st_size < 2**15
    with sr.open(tmp_path / "m.npz") as found:
        assert not found.read("w").any()


@pytest.mark.parametrize("compressed", [False, True])
def test_a_conversion_from_it_is_bit_for_bit(tmp_path, bits, compressed):
    arrays = {
        "a.w": bits("float32", (6, 6)),
        "a.f": np.asfortranarray(bits("float32", (6, 6))),
        "a.b": bits("bool", (9,)),
    }
    (np.savez_compressed if compressed else np.savez)(tmp_path / "m.npz", **arrays)
    with sr.open(tmp_path / "m.npz") as found:
        sr.save(found, tmp_path / "m.safetensors")
        sr.save(found, tmp_path / "again.npz")
    for name in ("m.safetensors", "again.npz"):
        with sr.open(tmp_path / name, verify=True) as again:
            for key, value in arrays.items():
                assert again.read(key.replace(".", "/")).tobytes() == np.ascontiguousarray(value).tobytes()


def test_a_name_that_a_zip_archive_cannot_hold_is_refused_before_the_first_byte(tmp_path, specimen, bits):
    for key in ("a\0b", "x" * 70_000, "\ud800"):
        with pytest.raises(errors.StateError, match=r"zip archive|UTF-8|legal"):
            sr.save(specimen({key: bits("float32", (2,))}), tmp_path / "m.npz")
        assert list(tmp_path.iterdir()) == []


def test_a_backslash_and_other_letters_in_names_come_back(tmp_path, specimen, bits):
    arrays = {"a\\b/w": bits("float32", (2,)), "größe/重み": bits("float32", (3,)), "a~1b/x.y": bits("int8", (3,))}
    with sr.open(sr.save(specimen(arrays), tmp_path / "m.npz")) as found:
        assert {key: found.read(key).tobytes() for key in found} == {key: arrays[key].tobytes() for key in arrays}


def test_the_header_is_the_one_that_numpy_reads(bits):
    for dtype in PLAIN:
        for shape in ((), (3,), (2, 3), (0,), (1, 2) * 16):
            raw = npy_header(dtype, shape)
            assert len(raw) % 64 == 0
            found = parse_npy_header(raw, "here", Limits())
            assert (found.dtype, found.shape, found.order, found.fortran, found.length) == (
                dtype,
                shape,
                "little",
                False,
                len(raw),
            )
            version = np.lib.format.read_magic(stream := io.BytesIO(raw))
            assert version == (1, 0)
            assert np.lib.format.read_array_header_1_0(stream) == (shape, False, np.dtype(dtype))


def test_old_and_new_headers_are_read():
    text = b"{'shape': (3L, 4L), \"fortran_order\": True,\n 'descr': '>f8'}"
    for version, width in ((1, 2), (2, 4), (3, 4)):
        raw = b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(width, "little") + text
        found = parse_npy_header(raw, "here", Limits())
        assert (found.shape, found.fortran, found.order, found.dtype) == ((3, 4), True, "big", "float64")
