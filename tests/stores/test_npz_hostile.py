"""`.npz` files that lie: every one is refused, in bounded time and memory, and nothing is run."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

import stateregistry as sr
from stateregistry import errors
from stateregistry.stores.limits import Limits


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
