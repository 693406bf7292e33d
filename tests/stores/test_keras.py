"""Files of Keras 3: what Keras writes is read bit for bit without it, and nothing in a file leads out of it or runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import DTYPES, Entry, Kind
from stateregistry.stores.limits import Limits


@pytest.fixture
def weights(tmp_path):
    """A file in the layout of Keras: `{"layers/dense": [array, ...]}`; options go to every dataset."""

    def make(layers, name="x.weights.h5", **options):
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for layer, arrays in layers.items():
                group = file.create_group(f"{layer}/vars")
                group.attrs["name"] = layer.rpartition("/")[2]
                for number, array in enumerate(arrays):
                    if array.dtype.name == "bfloat16":
                        group.create_dataset(str(number), data=array.view("V2")).attrs["dtype"] = "bfloat16"
                    else:
                        group.create_dataset(str(number), data=array, **(options if array.shape else {}))
        return path

    return make


@pytest.fixture
def archive(weights, tmp_path):
    """A `.keras` archive around such a file."""

    def make(layers, config='{"class_name": "Sequential"}', **options):
        inner = weights(layers, name="inner.h5")
        path = tmp_path / "x.keras"
        with zipfile.ZipFile(path, "w", **options) as out:
            out.writestr("metadata.json", json.dumps({"keras_version": "3.15.1", "date_saved": "today"}))
            out.writestr("config.json", config)
            out.write(inner, "model.weights.h5")
        inner.unlink()
        return path

    return make


KERAS = """
import os, sys, numpy as np, keras
class Block(keras.layers.Layer):
    def build(self, shape):
        self.inner = [keras.layers.Dense(3), keras.layers.Dense(3, dtype="bfloat16")]
        self.count = self.add_weight(shape=(), dtype="int32", trainable=False)
        for layer in self.inner:
            layer.build((None, 3))
    def call(self, x):
        return self.inner[1](self.inner[0](x))
model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(3, 3), keras.layers.BatchNormalization(),
                          keras.layers.GlobalAveragePooling2D(), Block(), keras.layers.Dense(2)])
model.compile("adam", "mse")
model.optimizer.build(model.trainable_variables)
rng = np.random.default_rng(3)
for variable in model.variables:
    if variable.dtype != "int32":
        variable.assign(rng.standard_normal(variable.shape))
model.save_weights(sys.argv[1] + "/m.weights.h5")
model.save(sys.argv[1] + "/m.keras")
np.savez(sys.argv[1] + "/told.npz", **{
    f"{kind}|{number}|{variable.path}": np.asarray(variable.value).astype("float32")
    for kind, found in (("parameter", model.trainable_variables), ("buffer", model.non_trainable_variables))
    for number, variable in enumerate(found)
})
"""


def test_what_keras_saves_is_read_bit_for_bit(tmp_path):
    env = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "KERAS_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", KERAS, str(tmp_path)], check=True, env=env, timeout=240)
    told = np.load(tmp_path / "told.npz")
    wanted = sorted((name.partition("|")[0], told[name].tobytes()) for name in told.files)
    for name in ("m.weights.h5", "m.keras"):
        with sr.open(tmp_path / name) as ckpt:
            assert set(ckpt.opaque) == {"optimizer"}
            assert {ckpt[key].dtype for key in ckpt} == {"float32", "bfloat16", "int32"}
            count = "layers/block/vars/0"
            assert ckpt[count].kind is Kind.PARAMETER  # nothing in the file says that it is not
            assert not ckpt[count].trainable
            found = [
                ("buffer" if key == count else ckpt[key].kind.value, ckpt.read(key).astype("float32").tobytes())
                for key in ckpt
            ]
            assert sorted(found) == wanted


def test_reading_needs_no_keras(weights, bits):
    path = weights({"layers/dense": [bits("float32", (3, 3))]})
    code = (
        "import sys, stateregistry as sr\n"
        f"with sr.open({str(path)!r}) as ckpt: assert ckpt.read('layers/dense/vars/0').shape == (3, 3)\n"
        "assert not {'jax', 'keras', 'torch', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_h5py_the_extra_is_named(weights, bits, monkeypatch):
    path = weights({"layers/dense": [bits("float32", (3, 3))]})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(errors.MissingDependencyError, match=r"stateregistry\[keras\]"):
        sr.open(path)


HELD = sorted(set(DTYPES) - {name for name in DTYPES if name.startswith("float8")})


@pytest.mark.parametrize("dtype", HELD)
@pytest.mark.parametrize("shape", [(), (3, 5), (0, 4)], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"compression": "gzip", "shuffle": True, "fletcher32": True}], ids=["plain", "gzip"]
)
def test_every_dtype_comes_back(weights, bits, dtype, shape, options):
    value = bits(dtype, shape)
    with sr.open(weights({"layers/dense": [value]}, **(options if 0 not in shape else {}))) as ckpt:
        key = "layers/dense/vars/0"
        assert (ckpt[key].dtype, ckpt[key].shape) == (dtype, shape)
        assert ckpt.read(key).tobytes() == value.tobytes() == np.ascontiguousarray(ckpt.view(key)).tobytes()
        ckpt.read(key)[...] = 0
        assert ckpt.read(key).tobytes() == value.tobytes()


def test_big_endian_values_are_read_as_what_they_are(weights, bits):
    value = bits("float32", (4, 4))
    with sr.open(weights({"layers/dense": [value.astype(">f4")]})) as ckpt:
        assert ckpt.place("layers/dense/vars/0") is None
        assert ckpt.read("layers/dense/vars/0").tobytes() == value.tobytes()


def test_values_in_one_stretch_are_mapped_and_streamed(weights, archive, bits, tmp_path):
    value = bits("float32", (16, 16))
    for path in (weights({"layers/dense": [value]}), archive({"layers/dense": [value]})):
        with sr.open(path) as ckpt:
            place = ckpt.place("layers/dense/vars/0")
            ((offset, size),) = place.extents
            assert path.read_bytes()[offset : offset + size] == value.tobytes()
            sr.save(ckpt, tmp_path / "out.safetensors", overwrite=True)
        with sr.open(tmp_path / "out.safetensors") as ckpt:
            assert ckpt.read("layers/dense/vars/0").tobytes() == value.tobytes()


def test_the_statistics_of_a_normalisation_are_buffers_and_numbers_count(weights, bits):
    row = [bits("float32", (4,), seed) for seed in range(4)]
    layers = {
        "layers/batch_normalization": row,
        "layers/batch_normalization_12": row[:3],
        "layers/dense": [bits("float32", (4, 4)), bits("float32", (4,))] + row * 3,
    }
    with sr.open(weights(layers)) as ckpt:
        buffers = {key for key in ckpt if ckpt[key].kind is Kind.BUFFER}
        assert buffers == {
            "layers/batch_normalization/vars/2", "layers/batch_normalization/vars/3",
            "layers/batch_normalization_12/vars/1", "layers/batch_normalization_12/vars/2",
        }  # fmt: skip
        assert all(entry.inferred for entry in ckpt.values())
        assert [key.rpartition("/")[2] for key in ckpt.native_order if key.startswith("layers/dense/")] == [
            str(n) for n in range(14)
        ]


def test_names_with_dots_are_cut_at_slashes(weights, bits):
    with sr.open(weights({"layers/a.b": [bits("float32", (4,))]})) as ckpt:
        assert set(ckpt) == {"layers/a.b/vars/0"}


def test_one_dataset_under_two_names_is_tied(weights, bits):
    path = weights({"layers/a": [bits("float32", (4,))], "layers/b": []})
    with h5py.File(path, "a") as file:
        file["layers/b/vars/0"] = file["layers/a/vars/0"]
    with sr.open(path) as ckpt:
        assert ckpt.aliases == {"layers/b/vars/0": "layers/a/vars/0"}


def test_what_is_no_number_is_opaque(weights, bits):
    path = weights({"layers/a": [bits("float32", (4,))]})
    with h5py.File(path, "a") as file:
        group = file["layers/a/vars"]
        group.create_dataset("1", data=["text"], dtype=h5py.string_dtype())
        group.create_dataset("2", data=np.zeros(2, [("a", "i4"), ("b", "f4")]))
        group.create_dataset("3", data=np.zeros(3, "V3"))
        group.create_dataset("4", data=h5py.Empty("f4"))
        group.create_dataset("5", data=np.zeros(2, ml_dtypes.bfloat16).view("V2"))  # and nothing says so
        group.create_dataset("6", data=np.array([file["layers"].ref], dtype=h5py.ref_dtype))
    with sr.open(path) as ckpt:
        assert set(ckpt.opaque) == {f"layers/a/vars/{n}" for n in range(1, 7)}


def test_like_says_kinds(weights, bits, specimen):
    path = weights({"layers/a": [bits("float32", (4,))]})
    entry = Entry(Kind.BUFFER, (4,), "float32", tag="mine")
    like = specimen({"layers/a/vars/0": np.zeros(4, np.float32)}, {"layers/a/vars/0": entry})
    with sr.open(path, like=like) as ckpt:
        assert ckpt["layers/a/vars/0"] == entry


def test_archives_say_their_version_and_their_config_is_not_looked_at(archive, bits):
    evil = '{"class_name": "Lambda", "config": {"function": "not even JSON'
    with sr.open(archive({"layers/a": [bits("float32", (4,))]}, config=evil)) as ckpt:
        assert ckpt.metadata["keras_version"] == "3.15.1"
        assert set(ckpt) == {"layers/a/vars/0"}


def test_writing_is_refused(tmp_path, specimen, bits):
    for name in ("x.keras", "x.weights.h5"):
        with pytest.raises(errors.UnsupportedError, match="read and not written"):
            sr.save(specimen({"a": bits("float32", (4,))}), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- damage and hostility


def test_every_truncation_is_an_error(weights, archive, bits):
    layers = {"layers/a": [bits("float32", (16, 16)), bits("float32", (4,))]}
    for path in (weights(layers), archive(layers)):
        whole = path.read_bytes()
        for cut in range(0, len(whole), 97):  # some cuts are found at the value
            path.write_bytes(whole[:cut])
            with pytest.raises(errors.StateError), sr.open(path) as ckpt:  # noqa: PT012
                for key in ckpt:
                    ckpt.read(key)


def test_flipped_bits_crash_nothing_and_in_an_archive_are_found(archive, bits):
    path = archive({"layers/a": [bits("float32", (16, 16)), bits("float32", (4,))]})
    whole = path.read_bytes()
    with sr.open(path) as ckpt:
        good = {key: ckpt.read(key).tobytes() for key in ckpt}
    rng = np.random.default_rng(5)
    begin = whole.index(b"\x89HDF")
    for at in rng.integers(begin, begin + len(whole) - begin - 400, 150):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << int(rng.integers(8)))]) + whole[at + 1 :])
        try:
            with sr.open(path) as ckpt:
                found = {key: ckpt.read(key).tobytes() for key in ckpt}
        except errors.StateError:
            continue
        assert found == good, f"byte {at}"


def test_limits_are_held(weights, bits):
    path = weights({"layers/abc": [bits("float32", (4, 4)), bits("float32", (4,))]})
    for limits in (Limits(entries=1), Limits(rank=1), Limits(name_chars=8), Limits(nesting=2)):
        with pytest.raises(errors.FileFormatError, match="limit"):
            sr.open(path, limits=limits)


def test_a_closed_file_gives_nothing(weights, bits):
    path = weights({"layers/a": [bits("float32", (4,)), bits("bool", (4,))]})
    with sr.open(path) as ckpt:
        pass
    for key in ckpt:
        with pytest.raises(errors.UnsupportedError, match="closed"):
            ckpt.read(key)
