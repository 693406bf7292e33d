"""`.npz` files that lie: every one is refused, in bounded time and memory, and nothing is run."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest

import stateregistry as sr
from stateregistry import errors
from stateregistry.stores.limits import Limits
from stateregistry.stores.npz_write import RECORD


def _npy(text, data=b"", version=1, length=None):
    raw = text.encode("latin-1") if isinstance(text, str) else text
    width = 2 if version == 1 else 4
    count = len(raw) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + count.to_bytes(width, "little") + raw + data


def _header(descr="'<f4'", fortran="False", shape="(2, 3)"):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


@pytest.fixture
def archive(tmp_path):
    """An archive of members as they are given."""

    def make(members, method=zipfile.ZIP_STORED):
        path = tmp_path / "m.npz"
        with zipfile.ZipFile(path, "w", method) as out:
            for name, data in members.items():
                out.writestr(name, data)
        return path

    return make


DATA = bytes(range(24))

LIES = {
    "not npy": b"something else altogether",
    "empty": b"",
    "magic only": b"\x93NUMPY",
    "version 9": _npy(_header(), DATA, 1).replace(b"\x93NUMPY\x01", b"\x93NUMPY\x09"),
    "minor version": _npy(_header(), DATA).replace(b"NUMPY\x01\x00", b"NUMPY\x01\x07"),
    "header longer than the member": _npy(_header(), DATA, length=5000),
    "header of 4 GB": _npy(_header(), DATA, version=2, length=2**32 - 1),
    "header above the limit": _npy(_header() + " " * 20_000, DATA),
    "no dict": _npy("(1, 2)", DATA),
    "a call": _npy(_header(shape="__import__('os').system('touch owned')"), DATA),
    "an expression": _npy(_header(shape="(2, 1+2)"), DATA),
    "a power": _npy(_header(shape="(9**9**9,)"), DATA),
    "negative": _npy(_header(shape="(-2, -3)"), DATA),
    "a float": _npy(_header(shape="(2.0, 3)"), DATA),
    "a bool for a size": _npy(_header(shape="(True, 6)"), DATA),
    "a text for a size": _npy(_header(shape="('2', 3)"), DATA),
    "a list for the shape": _npy(_header(shape="[2, 3]"), DATA),
    "a number for the shape": _npy(_header(shape="6"), DATA),
    "a missing comma": _npy(_header(shape="(2 3)"), DATA),
    "a comma too many": _npy(_header(shape="(2,, 3)"), DATA),
    "only a comma": _npy(_header(shape="(,)"), DATA),
    "an escape": _npy(_header(descr="'\\x3cf4'"), DATA),
    "a key missing": _npy("{'descr': '<f4', 'shape': (2, 3)}", DATA),
    "a key too many": _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'x': 1}", DATA),
    "a key twice": _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'shape': (3, 2)}", DATA),
    "fortran is a number": _npy(_header(fortran="0"), DATA),
    "more after the end": _npy(_header() + "import os", DATA),
    "nested deep": _npy(_header(shape="(" * 4000 + ")" * 4000), DATA),
    "brackets deep": _npy("[" * 9000, DATA),
    "a number of 5000 digits": _npy(_header(shape=f"({'9' * 5000},)"), DATA),
    "no text": _npy(b"\xff\xfe" + _header().encode(), DATA, version=3),
    "shape too large": _npy(_header(shape="(1000, 1000)"), DATA),
    "shape too small": _npy(_header(shape="(2, 2)"), DATA),
    "shape overflows": _npy(_header(shape="(4611686018427387904, 4611686018427387904, 4)"), DATA),
    "an empty axis beside a huge one": _npy(_header(shape="(0, 4611686018427387904, 8)")),
    "10 GB declared": _npy(_header(shape="(2684354560,)"), DATA),
    "65 axes": _npy(_header(shape="(" + "1, " * 64 + "6)"), DATA),
    "an unknown dtype": _npy(_header(descr="'float32'"), DATA),
    "a dtype of no order": _npy(_header(descr="'|f4'"), DATA),
    "a dtype of this machine": _npy(_header(descr="'=f4'"), DATA),
    "a dtype that is a dict": _npy(_header(descr="{'a': 1}"), DATA),
    "a dtype that is a number": _npy(_header(descr="4"), DATA),
    "values cut short": _npy(_header(), DATA[:-1]),
    "values too long": _npy(_header(), DATA + b"\0"),
}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
@pytest.mark.parametrize("lie", LIES)
def test_an_array_that_lies_is_refused(archive, bounded, monkeypatch, tmp_path, lie, method):
    monkeypatch.chdir(tmp_path)
    path = archive({"good.npy": _npy(_header(), DATA), "w.npy": LIES[lie]}, method)
    with bounded(path.stat().st_size), pytest.raises(errors.FileFormatError) as caught:
        sr.open(path)
    assert "w.npy" in str(caught.value)
    assert not (tmp_path / "owned").exists()


class _Runs:
    def __reduce__(self):
        return os.system, ("touch owned",)


@pytest.mark.parametrize("dtype", ["O", [("a", "<f4"), ("b", "O")], [("a", [("b", "O", (2,))])]], ids=str)
def test_arrays_of_objects_are_unsafe_and_nothing_is_run(tmp_path, monkeypatch, dtype):
    monkeypatch.chdir(tmp_path)
    array = np.zeros(1, dtype)
    if dtype == "O":
        array[0] = _Runs()
    np.savez(tmp_path / "m.npz", w=np.zeros(3, np.float32), bad=array)
    with pytest.raises(errors.UnsafeFileError, match="'bad'"):
        sr.open(tmp_path / "m.npz")
    assert not (tmp_path / "owned").exists()


def test_a_member_that_is_a_pickle_is_no_array(archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = archive({"good.npy": _npy(_header(), DATA), "w.npy": pickle.dumps(_Runs())})
    with pytest.raises(errors.FileFormatError, match=r"w\.npy"):
        sr.open(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a//b", "a..b", ".", "..", "", "a/"])
def test_a_name_that_is_no_key_is_refused(archive, name):
    path = archive({f"{name}.npy": _npy(_header(), DATA), "x/y.npy": _npy(_header(), DATA)})
    with pytest.raises((errors.KeyPathError, errors.DuplicateKeyError)):
        sr.open(path)


def test_a_name_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "m.npz"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("w.npy", _npy(_header(), DATA))
        with pytest.warns(UserWarning, match="Duplicate"):
            out.writestr("w.npy", _npy(_header(), DATA[::-1]))
    with pytest.raises(errors.FileFormatError, match="twice"):
        sr.open(path)


def test_an_array_inside_an_array_is_refused(archive):
    path = archive({"a.npy": _npy(_header(), DATA), "a.b.npy": _npy(_header(), DATA)})
    with pytest.raises(errors.DuplicateKeyError):
        sr.open(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_method_that_numpy_never_uses_is_refused(archive, method):
    with pytest.raises(errors.FileFormatError, match="method"):
        sr.open(archive({"w.npy": _npy(_header(), DATA)}, method))


def test_a_bomb_is_refused_by_what_it_declares(tmp_path, bounded):
    path = tmp_path / "m.npz"
    size = 3 * 2**27
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out, out.open("w.npy", "w") as member:
        member.write(_npy(_header(descr="'|u1'", shape=f"({size},)")))
        for _ in range(size // 2**24):
            member.write(bytes(2**24))
    with bounded(path.stat().st_size), pytest.raises(errors.FileFormatError, match="inflation"):
        sr.open(path)
    with sr.open(path, limits=Limits(inflation=2000)) as found:
        assert found["w"].shape == (size,)


def test_a_bomb_that_declares_little_is_refused_when_it_is_read(tmp_path, bounded):
    path = tmp_path / "m.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("w.npy", _npy(_header(descr="'|u1'", shape="(1000,)"), bytes(50 * 2**20)))
    raw = bytearray(path.read_bytes())
    full = len(_npy(_header(descr="'|u1'", shape="(1000,)"))) + 1000
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        begin = raw.index(signature)
        raw[begin + at : begin + at + 4] = struct.pack("<I", full)
    path.write_bytes(raw)
    with bounded(len(raw)), sr.open(path) as found, pytest.raises(errors.FileFormatError, match="more than"):
        found.read("w")


def test_a_member_that_ends_early_inside_is_refused(tmp_path):
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = _npy(_header(), DATA)
    raw = packed.compress(body) + packed.flush(zlib.Z_SYNC_FLUSH)  # no last block
    _forge(tmp_path / "m.npz", "w.npy", raw, body)
    with sr.open(tmp_path / "m.npz") as found, pytest.raises(errors.FileFormatError, match="ends in the middle"):
        found.read("w")


def test_bytes_after_the_end_of_what_is_compressed_are_refused(tmp_path):
    body = _npy(_header(), DATA)
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    _forge(tmp_path / "m.npz", "w.npy", packed.compress(body) + packed.flush() + b"more", body)
    with sr.open(tmp_path / "m.npz") as found, pytest.raises(errors.FileFormatError, match="declares"):
        found.read("w")


def _forge(path, name, packed, body):
    """An archive of one deflated member, whatever its bytes are."""
    crc, raw_name = zlib.crc32(body), name.encode()
    numbers = (20, 0, 8, 0, 0x21, crc, len(packed), len(body), len(raw_name), 0)
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", *numbers) + raw_name + packed
    central = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, *numbers, 0, 0, 0, 0, 0) + raw_name
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_in_a_foreign_file_never_gives_other_values(tmp_path, bits, save):
    value = bits("float32", (4, 4))
    save(tmp_path / "m.npz", w=value)
    raw = (tmp_path / "m.npz").read_bytes()
    rng = np.random.default_rng(7)
    found_out = 0
    for at in rng.choice(len(raw) * 8, 600, replace=False):
        damaged = bytearray(raw)
        damaged[at // 8] ^= 1 << (at % 8)
        (tmp_path / "d.npz").write_bytes(damaged)
        try:
            with sr.open(tmp_path / "d.npz") as found:
                for how in (found.read, found.view):
                    got = how("w")
                    assert got.tobytes() == value.tobytes()
                    assert got.dtype == value.dtype
                if save is np.savez:
                    found.place("w")
        except errors.StateError:
            found_out += 1
    assert found_out > 100


def test_a_conversion_notices_damage_of_a_foreign_file(tmp_path, bits):
    np.savez(tmp_path / "m.npz", w=bits("float32", (64, 64)))
    raw = bytearray((tmp_path / "m.npz").read_bytes())
    raw[5000] ^= 4
    (tmp_path / "m.npz").write_bytes(raw)
    with sr.open(tmp_path / "m.npz") as found, pytest.raises(errors.FileFormatError, match="CRC-32"):
        sr.save(found, tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def test_every_flipped_bit_in_what_is_written_is_found(tmp_path, specimen, bits):
    path = sr.save(specimen({"a/w": bits("float32", (3,)), "b": bits("bfloat16", (2,))}), tmp_path / "m.npz")
    raw = path.read_bytes()
    missed = []
    for at in range(len(raw) * 8):
        if at % 8 != (at // 8) % 8:  # one bit of each byte, all eight in turn
            continue
        damaged = bytearray(raw)
        damaged[at // 8] ^= 1 << (at % 8)
        (tmp_path / "d.npz").write_bytes(damaged)
        try:
            with sr.open(tmp_path / "d.npz") as found:
                if not found.damaged():
                    missed.append(at)
        except errors.StateError:
            continue
    assert missed == []


def test_a_file_cut_anywhere_is_refused(tmp_path, bits):
    np.savez(tmp_path / "m.npz", w=bits("float32", (4, 4)), v=bits("int8", (3,)))
    raw = (tmp_path / "m.npz").read_bytes()
    for length in range(len(raw)):
        (tmp_path / "d.npz").write_bytes(raw[:length])
        with pytest.raises(errors.StateError):
            sr.open(tmp_path / "d.npz")


def _with_document(tmp_path, change):
    """A file of ours whose document says something else."""
    import json

    sr.save({"w": np.arange(6, dtype=np.uint16), "v": np.arange(6, dtype=np.float32)}, tmp_path / "m.npz")
    with zipfile.ZipFile(tmp_path / "m.npz") as old, zipfile.ZipFile(tmp_path / "n.npz", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == RECORD:
                body = json.loads(data)
                data = change(body)
                data = json.dumps(body) if data is None else data
            new.writestr(name, data)
    return tmp_path / "n.npz"


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(dtypes={"w": "float8_e5m2"}),
        lambda body: body.update(dtypes={"v": "bfloat16"}),
        lambda body: body.update(dtypes={"w": "float32"}),
        lambda body: body.update(dtypes={"w": 3}),
        lambda body: body.update(dtypes=["w"]),
        lambda body: body.update(dtypes={"none": "bfloat16"}),
        lambda body: body.update(schema="other/1"),
        lambda body: body.update(digests="00"),
        lambda body: body["entries"].update(none={"kind": "parameter"}),
        lambda body: body.update(aliases={"w": "v"}),
        lambda body: b"[" * 100_000,
        lambda body: b'{"schema": NaN}',
        lambda body: b"\xff\xfe",
    ],
    ids=range(13),
)
def test_a_document_that_contradicts_the_arrays_is_refused(tmp_path, change):
    with pytest.raises(errors.FileFormatError):
        sr.open(_with_document(tmp_path, change))


def test_a_bool_that_is_none_is_refused(archive):
    path = archive({"w.npy": _npy(_header(descr="'|b1'", shape="(3,)"), b"\0\1\2")})
    with sr.open(path) as found:
        for how in (found.read, found.view):
            with pytest.raises(errors.FileFormatError, match="bool"):
                how("w")
        with pytest.raises(errors.FileFormatError, match="bool"):
            sr.save(found, path.with_name("out.safetensors"))


def test_limits_are_named(archive):
    path = archive({f"k{n}.npy": _npy(_header(), DATA) for n in range(5)})
    for limit in ({"entries": 4}, {"archive_members": 4}, {"npy_header_bytes": 20}, {"rank": 1}, {"name_chars": 1}):
        with pytest.raises(errors.FileFormatError, match=next(iter(limit))):
            sr.open(path, limits=Limits(**limit))


def test_an_archive_of_other_things_is_not_taken_for_arrays(archive, tmp_path):
    path = archive({"word/document.xml": b"<x/>", "fake.npy": b"no array"})
    with pytest.raises(errors.FileFormatError, match="of no known format"):
        sr.open(path)
    np.savez(tmp_path / "n.safetensors.npz", w=np.zeros(2))
    (tmp_path / "n.safetensors.npz").rename(tmp_path / "n.safetensors")
    with pytest.raises(errors.FileFormatError, match="'npz'"):
        sr.open(tmp_path / "n.safetensors")


def test_numpy_itself_agrees_about_what_is_no_header():
    """The grammar refuses nothing that NumPy writes: the headers of many dtypes and shapes, Fortran or not."""
    from stateregistry.stores.npy_header import header_length, parse_npy_header

    rng = np.random.default_rng(1)
    for code in ("?", "<i2", ">u8", "<c16", "<U7", "|S3", ">M8[ns]", "<m8[3D]", "|V5", "O", "<f2"):
        for _ in range(8):
            shape = tuple(int(size) for size in rng.integers(0, 5, rng.integers(0, 6)))
            stream = io.BytesIO()
            np.lib.format.write_array(stream, np.zeros(shape, code, order="F"), allow_pickle=True)
            raw = stream.getvalue()
            found = parse_npy_header(raw[: header_length(raw, "here", Limits())], "here", Limits())
            assert found.shape == shape
            assert found.unsafe == (code == "O")
