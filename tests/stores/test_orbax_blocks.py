"""Large values of Orbax directories are read in the blocks that they are stored in, and never whole."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest

import stateregistry as sr
from stateregistry import errors
from stateregistry.parts import Box
from stateregistry.streaming.digests import of_array
from stateregistry.streaming.origins import Asked
from stateregistry.streaming.pieces import pieces
from stateregistry_flax import orbax_blocks, orbax_store, orbax_write
from stateregistry_flax.orbax_blocks import stretches

SHAPES = {"a/kernel": (96, 96), "b/kernel": (4, 5, 24, 24), "c/flag": (64, 65), "d/long": (9001,)}


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 1,024 bytes, and values of more than 2,048 in blocks."""
    monkeypatch.setattr(orbax_write, "_SMALL", 1 << 8)
    monkeypatch.setattr(orbax_write, "_BLOCK", 1 << 10)
    monkeypatch.setattr(orbax_store, "LARGE", 1 << 11)
    monkeypatch.setattr(orbax_store, "BLOCK", 1 << 12)
    monkeypatch.setattr(orbax_blocks, "_UNDER_WAY", 3000)


@pytest.fixture
def whole_is_an_error(monkeypatch):
    def refuse(self, place, key, window=None):
        raise AssertionError(f"{key} was read whole")

    monkeypatch.setattr(orbax_store.OrbaxFile, "_value", refuse)


@pytest.fixture
def source(bits, specimen):
    dtypes = {"a/kernel": "float32", "b/kernel": "bfloat16", "c/flag": "bool", "d/long": "int64"}
    return specimen({key: bits(dtypes[key], shape) for key, shape in SHAPES.items()}, dialect="flax-linen")


@pytest.fixture
def ckpt(tmp_path, source, small_blocks):
    with sr.open(sr.save(source, tmp_path / "x.orbax")) as opened:
        yield opened


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4), (1, 4, 1, 3), ()])
def test_a_stretch_is_its_boxes_one_after_another(shape):
    whole = np.arange(math.prod(shape)).reshape(shape)
    for start, end in itertools.combinations(range(whole.size + 1), 2):
        found = [(whole[box].reshape(-1), size) for box, size in stretches(shape, start, end - start)]
        assert all(part.size == size for part, size in found)
        assert np.concatenate([part for part, _ in found]).tolist() == list(range(start, end))


def test_values_come_in_pieces_with_the_bits_of_the_whole(ckpt, source):
    for key in ckpt:
        asked = ckpt.asked(key)
        assert isinstance(asked, Asked), key
        assert asked.block <= 1 << 10
        again = pickle.loads(pickle.dumps(asked))  # as it goes to a worker elsewhere
        assert b"".join(piece.tobytes() for piece in pieces(again)) == source.read(key).tobytes()


@pytest.mark.parametrize("suffix", ["safetensors", "msgpack", "orbax"])
@pytest.mark.parametrize("write", ["save", "convert"])
def test_a_file_is_written_from_it_without_a_whole_value(tmp_path, ckpt, source, whole_is_an_error, suffix, write):
    out = tmp_path / f"y.{suffix}"
    if write == "save":
        sr.save(ckpt, out)
    else:
        sr.convert(ckpt, out=out, to="flax-linen", workers=None if suffix == "orbax" else 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.undo()
        for key in source:
            assert bytes_in(out, key) == source.read(key).tobytes(), key


def bytes_in(path, key):
    with sr.open(path) as found:
        asked = found.asked(key)
        return found.read(key).tobytes() if asked is None else b"".join(p.tobytes() for p in pieces(asked))


def test_a_transpose_is_made_of_blocks(tmp_path, bits, small_blocks, whole_is_an_error, specimen):
    import jax.numpy as jnp
    from flax import linen as nn

    kernel = bits("float32", (72, 72))
    variables = {"params": {"dense": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(72)}}}

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(72, name="dense")(x)

    sr.save(sr.of(variables, module=Net(), args=(jnp.zeros((1, 72)),)), tmp_path / "x.orbax")
    template = sr.of(variables, module=Net(), args=(jnp.zeros((1, 72)),))
    with sr.open(tmp_path / "x.orbax", like=template) as ckpt:
        small = ckpt["dense/bias"]
        assert small.shape == (72,)
        with pytest.MonkeyPatch.context() as patch:
            real = orbax_store.np.asarray
            patch.setattr(
                orbax_store.OrbaxFile,
                "_value",
                lambda self, place, key, window=None: (
                    real(place.store.read(order="C").result()) if place.shape == (72,) else 1 / 0
                ),
            )
            sr.convert(ckpt, out=tmp_path / "y.safetensors", to="torch")
    with sr.open(tmp_path / "y.safetensors") as found:
        assert found.read("dense/weight").tobytes() == kernel.T.tobytes()


def test_digests_are_made_of_pieces(tmp_path, source, small_blocks, whole_is_an_error):
    path = sr.save(source, tmp_path / "x.orbax")
    with sr.open(path, verify=True) as ckpt:
        assert ckpt.damaged() == {}
        assert ckpt.document.by_key == {key: of_array(source.read(key)) for key in source}
        sr.save(ckpt, tmp_path / "y.safetensors")


def test_a_box_is_read_without_the_rest(ckpt, source):
    box = Box((1, 2, 3, 4), (2, 3, 5, 7))
    part = ckpt.read_part("b/kernel", box)
    assert part.tobytes() == source.read("b/kernel")[1:3, 2:5, 3:8, 4:11].tobytes()
    assert part.flags.writeable


def test_a_value_in_one_block_or_a_small_one_is_read_whole(tmp_path, ckpt, monkeypatch):
    monkeypatch.setattr(orbax_store, "BLOCK", 1 << 9)
    assert ckpt.asked("a/kernel") is None
    monkeypatch.setattr(orbax_store, "BLOCK", 1 << 12)
    monkeypatch.setattr(orbax_store, "LARGE", 1 << 20)
    assert ckpt.asked("a/kernel") is None


def test_a_file_that_changes_between_two_blocks_is_an_error(tmp_path, ckpt, source):
    read = pieces(ckpt.asked("d/long"))
    asked = ckpt.asked("a/kernel")
    next(read)
    data = min((tmp_path / "x.orbax" / "d").iterdir())
    data.write_bytes(data.read_bytes() + b"more")
    with pytest.raises(errors.FileFormatError, match="has changed"):
        list(pieces(asked))
    with pytest.raises(errors.FileFormatError, match="has changed"):
        sr.save(ckpt, tmp_path / "y.safetensors")
    assert not (tmp_path / "y.safetensors").exists()


def test_a_damaged_block_is_an_error_or_found_by_who_asked(tmp_path, source, small_blocks):
    path = sr.save(source, tmp_path / "x.orbax")
    file = max((one for one in path.rglob("*") if one.is_file()), key=lambda one: one.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(errors.FileFormatError), sr.open(path, verify=True) as ckpt:
        sr.save(ckpt, tmp_path / "y.safetensors")
    assert not (tmp_path / "y.safetensors").exists()
