"""What the tests of the torch adapter share: arbitrary bit patterns, and comparing them as bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stateregistry.entry import DTYPES, numpy_dtype


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(1234)


@pytest.fixture
def bits():
    """A function (dtype name, shape, seed) -> array of random bytes of that dtype, valid for `bool`."""

    def make(dtype="float32", shape=(3, 4), seed=0):
        rng = np.random.default_rng(seed)
        size = int(np.prod(shape, dtype=np.int64)) * DTYPES[dtype]
        raw = rng.integers(0, 2 if dtype == "bool" else 256, size, dtype=np.uint8)
        return raw.view(numpy_dtype(dtype)).reshape(shape)

    return make


@pytest.fixture
def raw():
    """A function from a tensor to its dtype, shape and bytes, without NumPy's dtypes and without the adapter."""

    def of(tensor):
        plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        data = plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), data

    return of


@pytest.fixture
def same():
    """A function that holds two arrays equal in shape, dtype and bytes."""

    def check(found, expected):
        found, expected = np.asarray(found), np.asarray(expected)
        assert (found.shape, found.dtype.name) == (expected.shape, expected.dtype.name)
        assert found.tobytes() == expected.tobytes()

    return check


@pytest.fixture
def tensor_of():
    """A function from an array to a tensor with its bytes, without the adapter."""

    def make(array):
        dtype = getattr(torch, array.dtype.name)
        if not array.size:
            return torch.empty(array.shape, dtype=dtype)
        flat = torch.frombuffer(bytearray(np.ascontiguousarray(array).tobytes()), dtype=torch.uint8)
        return flat.view(dtype).reshape(array.shape).clone()

    return make


@pytest.fixture(scope="session")
def mesh():
    """A device mesh of one process: `DTensor`s in it behave as on many, with one shard."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    if ours:
        dist.destroy_process_group()
