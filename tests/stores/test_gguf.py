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
