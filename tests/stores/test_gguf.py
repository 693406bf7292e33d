"""GGUF files: what the `gguf` package writes is read bit for bit; what lies is refused."""

from __future__ import annotations

import struct

import gguf
import numpy as np
import pytest

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import Kind
from stateregistry.stores.gguf import _PLAIN, _QUANTISED
from stateregistry.stores.limits import Limits

FORMS = {name: gguf.GGMLQuantizationType(form) for form, name in _PLAIN.items()}


def written(path, arrays, fields=None, *, endian=gguf.GGUFEndian.LITTLE, alignment=None):
    """A file by the `gguf` package; `fields` is called with its writer."""
    writer = gguf.GGUFWriter(path, "llama", endianess=endian)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_array("tokenizer.ggml.tokens", ["a", "größe", ""] * 50)
    writer.add_array("tokenizer.ggml.scores", [0.5] * 70)
    writer.add_bool("x.flag", val=True)
    writer.add_float32("x.eps", 1.5)
    if fields is not None:
        fields(writer)
    for name, array in arrays.items():
        if array.dtype.name == "bfloat16":
            raw = array.view(np.uint8)
            writer.add_tensor(name, raw, raw_shape=raw.shape, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(name, array.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("alignment", [None, 8, 64])
@pytest.mark.parametrize("dtype", FORMS)
def test_every_dtype_comes_back_bit_for_bit(tmp_path, bits, dtype, alignment):
    arrays = {"blk.0.w": bits(dtype, (5, 5)), "blk.0.b": bits(dtype, (7,)), "t": bits(dtype, (2, 3, 4))}
    path = written(tmp_path / "m.gguf", arrays, alignment=alignment)
    with sr.open(path) as found:
        assert set(found) == {"blk/0/w", "blk/0/b", "t"}
        for name, value in arrays.items():
            key = name.replace(".", "/")
            assert found[key].dtype == dtype
            assert found[key].shape == value.shape
            assert found[key].kind is Kind.PARAMETER
            assert found[key].inferred
            for array in (found.read(key), found.view(key)):
                assert (array.dtype, array.tobytes()) == (value.dtype, value.tobytes())
            assert found.stored_names[key] == name
            ((offset, size),) = found.place(key).extents
            assert path.read_bytes()[offset : offset + size] == value.tobytes()


def test_it_reads_what_the_package_reads(tmp_path, bits):
    arrays = {f"t{n}": bits("float32", (n + 1, 4), n) for n in range(9)}
    path = written(tmp_path / "m.gguf", arrays)
    reader = gguf.GGUFReader(path)
    with sr.open(path) as found:
        for tensor in reader.tensors:
            assert found.read(tensor.name).tobytes() == tensor.data.tobytes()
            assert found[tensor.name].shape == tensor.data.shape
        fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        assert found.metadata.keys() == fields.keys()
        assert found.metadata["general.architecture"] == "llama"
        assert found.metadata["x.flag"] is True
        assert found.metadata["x.eps"] == 1.5
        assert found.metadata["tokenizer.ggml.tokens"] is None


def test_the_table_of_forms_is_that_of_the_package():
    table = {int(form): sizes for form, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {form: (block, nbytes) for form, (_, block, nbytes) in _QUANTISED.items()} == {
        form: sizes for form, sizes in table.items() if form not in _PLAIN
    }
    assert {form: name for form, (name, _, _) in _QUANTISED.items()} == {
        form: gguf.GGMLQuantizationType(form).name for form in table if form not in _PLAIN
    }
    assert {form: np.dtype(name).itemsize for form, name in _PLAIN.items() if name != "bfloat16"} == {
        form: table[form][1] for form in _PLAIN if form != 30
    }


def test_big_endian_files_are_read(tmp_path, bits):
    value = bits("float32", (4, 4))
    path = written(tmp_path / "m.gguf", {"w": value}, endian=gguf.GGUFEndian.BIG)
    with sr.open(path) as found:
        assert found.read("w").tobytes() == value.tobytes()
        assert found.view("w").tobytes() == value.tobytes()
        assert found.place("w") is None


def test_quantised_tensors_are_opaque_with_their_form(tmp_path, bits):
    def fields(writer):
        values = np.linspace(-1, 1, 256, dtype=np.float32).reshape(4, 64)
        raw = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor("q", raw, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    path = written(tmp_path / "m.gguf", {"w": bits("float32", (3, 3))}, fields)
    with sr.open(path) as found:
        assert found.opaque == {"q": "quantised as Q8_0: its elements are in no dtype"}
        assert set(found) == {"w"}
        with pytest.raises(errors.OpaqueError, match="Q8_0"):
            found.read("q")
        with pytest.raises(errors.OpaqueError, match="Q8_0"):
            sr.save(found, tmp_path / "m.safetensors")


def test_a_conversion_from_it_is_bit_for_bit(tmp_path, bits):
    arrays = {"a.w": bits("bfloat16", (6, 6)), "a.b": bits("float16", (5,))}
    with sr.open(written(tmp_path / "m.gguf", arrays)) as found:
        sr.save(found, tmp_path / "m.safetensors")
    with sr.open(tmp_path / "m.safetensors", verify=True) as again:
        assert all(again.read(key.replace(".", "/")).tobytes() == value.tobytes() for key, value in arrays.items())


def test_a_part_of_a_split_model_is_refused_and_writing_too(tmp_path, bits):
    arrays = {"w": bits("float32", (3,))}
    path = written(tmp_path / "m-00001-of-00003.gguf", arrays, lambda writer: writer.add_uint16("split.count", 3))
    with pytest.raises(errors.UnsupportedError, match="one of the 3 parts"):
        sr.open(path)
    with pytest.raises(errors.UnsupportedError, match="not written"):
        sr.save(arrays, tmp_path / "n.gguf")
    assert not (tmp_path / "n.gguf").exists()


# ------------------------------------------------------------------ hostile


def text(value, length=None):
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def field(name, kind, raw):
    return text(name) + struct.pack("<I", kind) + raw


def info(name="w", dims=(3, 2), form=0, offset=0, rank=None):
    count = len(dims) if rank is None else rank
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", count, *dims, form, offset)


@pytest.fixture
def forge(tmp_path):
    def make(infos=(), fields=(), *, data=bytes(24), version=3, count=None, pairs=None, magic=b"GGUF"):
        head = magic + struct.pack("<IQQ", version, len(infos) if count is None else count, len(fields) if pairs is None else pairs)  # noqa: E501  # fmt: skip
        head += b"".join(fields) + b"".join(infos)
        path = tmp_path / "m.gguf"
        path.write_bytes(head + bytes(-len(head) % 32) + data)
        return path

    return make


def test_a_forged_file_is_read(forge):
    with sr.open(forge([info()], [field("general.alignment", 4, struct.pack("<I", 32))])) as found:
        assert found["w"].shape == (2, 3)
        assert not found.read("w").any()


LIES = {
    "version 1": {"version": 1},
    "version 9": {"version": 9},
    "more tensors than the file": {"count": 1000},
    "2^63 tensors": {"count": 2**63},
    "more fields than the file": {"pairs": 1000},
    "2^64 fields": {"pairs": 2**64 - 1},
    "values cut short": {"infos": [info()], "data": bytes(23)},
    "no values": {"infos": [info()], "data": b""},
    "10 GB": {"infos": [info(dims=(50_000, 50_000))]},
    "a shape that overflows": {"infos": [info(dims=(2**62, 2**62))]},
    "a shape of 2^64": {"infos": [info(dims=(2**64 - 1,))]},
    "an empty axis beside a huge one": {"infos": [info(dims=(0, 2**63))]},
    "65 axes": {"infos": [info(dims=(1,) * 65)]},
    "2^32 axes": {"infos": [info(rank=2**32 - 1)]},
    "an offset beyond the file": {"infos": [info(offset=32)]},
    "an offset of 2^64": {"infos": [info(offset=2**64 - 32)]},
    "an offset that is not aligned": {"infos": [info(dims=(1,), offset=4)]},
    "tensors in the same bytes": {"infos": [info("a"), info("b")]},
    "a tensor within another": {"infos": [info("a", (40,)), info("b", (1,), offset=32)], "data": bytes(200)},
    "a name twice": {"infos": [info("a", (1,)), info("a", (1,), offset=32)], "data": bytes(200)},
    "a name that is too long": {"infos": [info("x" * 5000)]},
    "a name beyond the file": {"infos": [text("w", 2**40)]},
    "a name of 2^64 bytes": {"infos": [text("w", 2**64 - 1)]},
    "a name that is no text": {"infos": [info().replace(b"w", b"\xff")]},
    "a quantised tensor in half a block": {"infos": [info(dims=(33, 2), form=8)], "data": bytes(500)},
    "a quantised tensor beyond the file": {"infos": [info(dims=(32, 2000), form=8)]},
    "a quantised tensor in the bytes of another": {
        "infos": [info("a", (32, 4), form=8), info("b", (8,), offset=64)],
        "data": bytes(500),
    },
    "a field twice": {"fields": [field("a", 0, b"\0"), field("a", 0, b"\1")]},
    "a field of an unknown type": {"fields": [field("a", 13, b"")]},
    "a truth value that is none": {"fields": [field("a", 7, b"\2")]},
    "a text beyond the file": {"fields": [field("a", 8, text("x", 2**50))]},
    "an array beyond the file": {"fields": [field("a", 9, struct.pack("<IQ", 4, 2**40))]},
    "an array of 2^64": {"fields": [field("a", 9, struct.pack("<IQ", 12, 2**64 - 1))]},
    "an array of 2^61 texts": {"fields": [field("a", 9, struct.pack("<IQ", 8, 2**61))]},
    "an array of arrays": {"fields": [field("a", 9, struct.pack("<IQ", 9, 2**30))]},
    "an array of an unknown type": {"fields": [field("a", 9, struct.pack("<IQ", 77, 1))]},
    "an alignment of nothing": {"fields": [field("general.alignment", 4, bytes(4))]},
    "an alignment of 4 GB": {"fields": [field("general.alignment", 4, b"\xff" * 4)]},
    "an alignment that is a text": {"fields": [field("general.alignment", 8, text("32"))]},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_is_refused(forge, bounded, lie):
    path = forge(**LIES[lie])
    with bounded(path.stat().st_size), pytest.raises(errors.FileFormatError):
        sr.open(path)


@pytest.mark.parametrize("names", [("a..b",), ("a", "a.b"), ("",)], ids=str)
def test_names_that_give_no_keys_are_refused(forge, names):
    infos = [info(name, (1,), offset=32 * n) for n, name in enumerate(names)]
    with pytest.raises((errors.KeyPathError, errors.DuplicateKeyError)):
        sr.open(forge(infos, data=bytes(200)))


def test_a_tensor_of_a_form_that_nobody_knows_is_opaque(forge):
    with sr.open(forge([info("a", (2,)), info("b", form=999, offset=2**40)])) as found:
        assert found.opaque == {"b": "of the form 999, which is not known"}
        assert found.read("a").tolist() == [0, 0]


def test_a_header_that_is_cut_anywhere_is_refused(tmp_path, bits):
    raw = written(tmp_path / "m.gguf", {"a.w": bits("float32", (3, 3))}).read_bytes()
    for length in range(4, len(raw) - 1, 7):
        (tmp_path / "d.gguf").write_bytes(raw[:length])
        with sr.open(tmp_path / "m.gguf") as whole:
            ((offset, size),) = whole.place("a/w").extents
        if length >= offset + size:
            continue  # what is cut is the padding after the last value
        with pytest.raises(errors.StateError):
            sr.open(tmp_path / "d.gguf")


def test_a_flipped_bit_in_the_header_is_refused_or_gives_bytes_of_the_file(tmp_path, bits):
    """The format has no checksum: a name or a shape can change. Nothing but bytes of the file ever shows."""
    raw = written(tmp_path / "m.gguf", {"a.w": bits("float32", (4, 4))}).read_bytes()
    rng = np.random.default_rng(5)
    for at in rng.choice(len(raw) * 8, 600, replace=False):
        damaged = bytearray(raw)
        damaged[at // 8] ^= 1 << (at % 8)
        (tmp_path / "d.gguf").write_bytes(damaged)
        try:
            with sr.open(tmp_path / "d.gguf", format="gguf") as found:
                for key in found:
                    assert found.read(key).tobytes() in bytes(damaged)
        except errors.StateError:
            continue


def test_limits_are_named(forge):
    path = forge([info("aaaa", (1, 1))], [field("f", 8, text("x" * 300))])
    for limit in ({"header_bytes": 100}, {"rank": 1}, {"name_chars": 2}):
        with pytest.raises(errors.FileFormatError, match=next(iter(limit))):
            sr.open(path, limits=Limits(**limit))
    with pytest.raises(errors.FileFormatError, match="entries"):
        sr.open(forge([info("a", (1,)), info("b", (1,), offset=32)], data=bytes(200)), limits=Limits(entries=1))
