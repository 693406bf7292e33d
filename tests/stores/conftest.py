"""Builders that the tests of the stores share: registries to write, and files to read that no writer would make."""

from __future__ import annotations

import json
import struct
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest

from stateregistry.entry import DTYPES, Entry, Kind, numpy_dtype
from stateregistry.registry import ReadOnlyRegistry

TESTS = Path(__file__).resolve().parents[1]
if str(TESTS) not in sys.path:
    sys.path.append(str(TESTS))  # for the forges of `hostile`


class Specimen(ReadOnlyRegistry):
    """A registry in which a test says everything."""

    adapter: ClassVar[str] = "specimen"

    def __init__(
        self,
        entries: Mapping[str, Entry],
        arrays: Mapping[str, np.ndarray],
        aliases: Mapping[str, str] | None = None,
        opaque: Mapping[str, str] | None = None,
        dialect: str = "specimen",
    ) -> None:
        self._mine, self._arrays, self._ties = dict(entries), dict(arrays), dict(aliases or {})
        self._strange, self._called = dict(opaque or {}), dialect

    @property
    def dialect(self) -> str:
        return self._called

    def _entries(self) -> Mapping[str, Entry]:
        return self._mine

    def _aliases(self) -> Mapping[str, str]:
        return self._ties

    def _opaque(self) -> Mapping[str, str]:
        return self._strange

    def _read(self, key: str, /) -> np.ndarray:
        return self._arrays[key]

    def unwrap(self) -> None:
        return None


def random_bits(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Every bit of the dtype at random, NaN payloads included; bools that are bools."""
    rng = np.random.default_rng([seed, len(shape), *shape, *dtype.encode()])
    count = int(np.prod(shape, dtype=np.int64))
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    raw = np.frombuffer(rng.bytes(count * DTYPES[dtype]), np.uint8)
    return raw.view(numpy_dtype(dtype)).reshape(shape).copy()


@pytest.fixture
def bits() -> Callable[..., np.ndarray]:
    return random_bits


@pytest.fixture
def specimen() -> Callable[..., Specimen]:
    """A registry of entries and arrays; entries not given are trainable parameters where they can be."""

    def make(arrays: Mapping[str, np.ndarray], entries: Mapping[str, Entry] | None = None, **more: Any) -> Specimen:
        made = {}
        for key, array in arrays.items():
            bare = Entry(Kind.PARAMETER, array.shape, array.dtype.name)
            made[key] = Entry(Kind.PARAMETER, array.shape, array.dtype.name, trainable=bare.can_train)
        return Specimen({**made, **(entries or {})}, arrays, **more)

    return make


@pytest.fixture
def forge(tmp_path: Path) -> Callable[..., Path]:
    """A safetensors file with any header: an object, or text, or bytes; `length` is what the first 8 bytes say."""

    def make(header: Any, data: bytes = b"", length: int | None = None, name: str = "forged.safetensors") -> Path:
        if isinstance(header, (dict, list)):
            header = json.dumps(header)
        raw = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
        path = tmp_path / name
        path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
        return path

    return make


def _resident(field: str) -> int:
    """Bytes of this process in memory: now (`VmRSS`) or at most since the mark was reset (`VmHWM`)."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(text.partition(f"{field}:")[2].split()[0])


@contextmanager
def _bounded(file_bytes: int) -> Iterator[None]:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the high-water mark
    before = _resident("VmRSS")
    begin = time.perf_counter()
    try:
        yield
    finally:
        took = time.perf_counter() - begin
        grown = _resident("VmHWM") - before
    assert took < 5, f"{took:.1f} s for a refusal"
    assert grown <= 2 * file_bytes + 64 * 2**20, f"{grown:,} bytes for a file of {file_bytes:,}"


@pytest.fixture
def bounded() -> Callable[[int], AbstractContextManager[None]]:
    """Holds a block to 5 s and to twice the file plus 64 MiB of memory. Linux."""
    return _bounded


@pytest.fixture
def bucket():
    """A directory of the file system in memory, of its own."""
    name = f"memory://{uuid.uuid4().hex}"
    yield name
    system = fsspec.filesystem("memory")
    if system.exists(name):
        system.rm(name, recursive=True)


@pytest.fixture(scope="module")
def s3():
    """A bucket of a server that speaks S3, and the URL of it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        system = fsspec.filesystem("s3", skip_instance_cache=True)
        system.makedirs("models", exist_ok=True)  # the server keeps what an earlier one of this process had
        yield "s3://models"
        fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()
