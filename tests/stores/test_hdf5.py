"""HDF5 is parsed in a process of its own: what ends or stops that process is an error about the file, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

import stateregistry as sr
from stateregistry import errors
from stateregistry.stores.hdf5 import file as door
from stateregistry.stores.hdf5 import frames

KILLS = next((Path(__file__).parents[1] / "hostile" / "found" / "keras").glob("crash-e45d0d11*"))


@pytest.fixture
def values():
    rng = np.random.default_rng(3)
    return {f"layers/dense_{n}/vars/0": rng.standard_normal((64, 64), np.float32) for n in range(8)}


@pytest.fixture
def weights(tmp_path, values):
    """Compressed, so that every value has to be asked for."""
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        for name, array in values.items():
            file.create_dataset(name, data=array, chunks=(16, 16), compression="gzip", shuffle=True)
    return path


def alive(registry):
    return registry._hdf5._child.poll() is None


def test_a_file_that_ends_the_process_that_parses_it_is_one_error_here(tmp_path):
    path = tmp_path / "m.weights.h5"
    path.write_bytes(KILLS.read_bytes())
    with pytest.raises(errors.FileFormatError, match="h5py does not survive it"):
        sr.open(path)


def test_h5py_is_never_loaded_here(weights, values):
    program = (
        "import sys, stateregistry as sr\n"
        f"with sr.open({str(weights)!r}) as found:\n"
        f"    assert len(found) == {len(values)} and all(found.read(key).any() for key in found)\n"
        "assert 'h5py' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_closing_ends_the_process_and_so_does_forgetting(weights):
    found = sr.open(weights)
    child = found._hdf5._child
    assert child.poll() is None
    found.close()
    assert child.returncode is not None
    child = sr.open(weights)._hdf5._child
    assert child.returncode is not None


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_process_that_dies_while_a_value_is_read_is_an_error_about_the_file(weights, number):
    with sr.open(weights) as found:
        os.kill(found._hdf5._child.pid, number)
        for _ in range(2):  # and it stays one
            with pytest.raises(errors.FileFormatError, match="h5py does not survive it"):
                found.read("layers/dense_0/vars/0")
        assert not alive(found)


def test_a_process_that_says_nothing_for_too_long_is_ended(weights, monkeypatch):
    monkeypatch.setattr(door, "PATIENCE", 0.5)
    with sr.open(weights) as found:
        os.kill(found._hdf5._child.pid, signal.SIGSTOP)
        with pytest.raises(errors.FileFormatError, match="finds nothing"):
            found.read("layers/dense_0/vars/0")
        assert not alive(found)


@pytest.mark.parametrize(
    "said",
    [
        b"", b"?", b"D" + (1 << 40).to_bytes(8, "little"), b"D" + (2).to_bytes(8, "little") + b"{}",
        b"Q" + bytes(8), b"V" + (3).to_bytes(8, "little") + b"abc" + b"." + bytes(8), b"." + bytes(8),
        b"E" + (2).to_bytes(8, "little") + b"[]", b"E" + (1).to_bytes(8, "little") + b"{",
    ],
)  # fmt: skip
def test_what_a_process_never_says_is_an_error(weights, said, monkeypatch):
    with sr.open(weights) as found:
        child = found._hdf5._child
        read, write = os.pipe()
        os.write(write, said)
        os.close(write)
        real, child.stdout = child.stdout, os.fdopen(read, "rb", buffering=0)
        with pytest.raises(errors.FileFormatError, match="h5py does not survive it"):
            found.read("layers/dense_0/vars/0")
        real.close()
        assert not alive(found)


def test_it_gets_no_byte_from_outside_of_its_stretch(weights):
    with sr.open(weights) as found:
        size = weights.stat().st_size
        for offset, count in ((size, 1), (0, size + 1), (2**63, 1)):
            with pytest.raises(errors.FileFormatError, match="lie outside"):
                found._hdf5._stretch.read(offset, count)


def test_threads_share_it(weights, values):
    with sr.open(weights) as found, ThreadPoolExecutor(4) as pool:
        for key, array in zip([*values] * 5, pool.map(found.read, [*values] * 5), strict=True):
            assert array.tobytes() == values[key].tobytes()


def test_a_frame_larger_than_a_pipe_arrives_whole():
    read, write = os.pipe()
    data = np.random.default_rng(0).bytes(1 << 20)
    with (
        os.fdopen(read, "rb", buffering=0) as hear,
        os.fdopen(write, "wb", buffering=0) as say,
        ThreadPoolExecutor(1) as pool,
    ):
        sent = pool.submit(frames.send, say, frames.VALUE, data)
        assert frames.receive(hear, 1 << 20) == (frames.VALUE, bytearray(data))
        sent.result()
