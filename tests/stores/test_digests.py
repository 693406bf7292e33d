"""Every format that we write carries digests, and a flipped bit of what we wrote is found by whoever asks."""

from __future__ import annotations

import numpy as np
import pytest

import stateregistry as sr
from stateregistry import errors
from stateregistry.streaming.digests import of_array

WRITTEN = ["safetensors", "npz", "msgpack", "pt", "dcp", "orbax"]


@pytest.fixture
def source(bits, specimen):
    arrays = {
        "a/w": bits("float32", (32, 32)),
        "b/w": bits("bfloat16", (7,)),
        "c/n": bits("int64", (3,)),
        "d/w": bits("bool", (5,)),
    }
    return specimen(arrays, aliases={"z/w": "a/w"}, dialect="numpy")


@pytest.mark.parametrize("suffix", WRITTEN)
def test_the_digests_in_a_file_are_those_of_its_values(tmp_path, source, suffix):
    sr.save(source, tmp_path / f"x.{suffix}")
    with sr.open(tmp_path / f"x.{suffix}", verify=True) as ckpt:
        assert ckpt.document.by_key == {key: of_array(source.read(key)) for key in source}
        assert ckpt.damaged() == {}


@pytest.mark.parametrize("suffix", WRITTEN)
def test_single_flipped_bits_are_found_wherever_they_are(tmp_path, source, suffix):
    target = sr.save(source, tmp_path / f"x.{suffix}")
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size)
    rng = np.random.default_rng(11)
    for number in range(150):
        file = files[number % len(files)]
        good = file.read_bytes()
        at = int(rng.integers(len(good)))
        file.write_bytes(good[:at] + bytes([good[at] ^ (1 << int(rng.integers(8)))]) + good[at + 1 :])
        try:
            with sr.open(target, verify=True) as ckpt:
                assert ckpt.damaged(), (file.name, at)
        except errors.StateError:
            pass  # it does not open as a file with digests: found
        file.write_bytes(good)
    with sr.open(target) as ckpt:
        assert ckpt.damaged() == {}


@pytest.mark.parametrize("suffix", WRITTEN)
def test_verify_refuses_a_file_that_is_not_what_was_written(tmp_path, source, suffix):
    one, two = sr.save(source, tmp_path / f"x.{suffix}"), sr.save(source, tmp_path / "y.safetensors")
    assert sr.verify(one, two).equal
    file = max(
        (path for path in (one.rglob("*") if one.is_dir() else [one]) if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    raw = source.read("c/n").tobytes()
    content = file.read_bytes()
    at = content.index(raw) if raw in content else len(content) // 2  # Orbax compresses
    file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    for pair in ((one, two), (two, one)):
        with pytest.raises(errors.FileFormatError):
            sr.verify(*pair)


def test_verify_lists_what_is_damaged(tmp_path, source):
    one, two = sr.save(source, tmp_path / "x.safetensors"), sr.save(source, tmp_path / "y.safetensors")
    content = one.read_bytes()
    for key in ("a/w", "c/n"):
        at = content.index(source.read(key).tobytes())
        content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    one.write_bytes(content)
    with pytest.raises(errors.FileFormatError, match="damaged in 2 places") as caught:
        sr.verify(one, two)
    assert caught.value.keys == ("a/w", "c/n")


def test_files_of_others_are_compared_as_they_are(tmp_path, bits):
    import torch

    torch.save({"w": torch.from_numpy(bits("float32", (4, 4)))}, tmp_path / "x.pt")
    assert sr.verify(tmp_path / "x.pt", tmp_path / "x.pt").equal
    with pytest.raises(errors.FileFormatError, match="carries no digests"):
        sr.open(tmp_path / "x.pt", verify=True)


def test_torch_reads_a_file_that_carries_digests_as_ever(tmp_path, source):
    import torch

    sr.save(source, tmp_path / "x.pt")
    for mmap in (False, True):
        found = torch.load(tmp_path / "x.pt", weights_only=True, mmap=mmap)
        assert list(found) == ["a.w", "z.w", "b.w", "c.n", "d.w"]
        assert found["a.w"].numpy().tobytes() == source.read("a/w").tobytes()
        assert found["z.w"].data_ptr() == found["a.w"].data_ptr()


def damaged(path, source, key):
    content = path.read_bytes()
    at = content.index(source.read(key).tobytes())
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


def convert(ckpt, out):
    sr.convert(ckpt, out=out, to="numpy", allow=("choice", "assumption"))


@pytest.mark.parametrize("write", [sr.save, convert])
@pytest.mark.parametrize("suffix", WRITTEN)
def test_damage_does_not_get_new_digests_from_who_asked_for_it_to_be_found(tmp_path, source, suffix, write):
    """Values that are streamed from file to file are looked at too."""
    path = sr.save(source, tmp_path / "x.safetensors")
    damaged(path, source, "c/n")
    with sr.open(path, verify=True) as ckpt, pytest.raises(errors.FileFormatError, match="c/n"):
        write(ckpt, tmp_path / f"y.{suffix}")
    assert not (tmp_path / f"y.{suffix}").exists()
