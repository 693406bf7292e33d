"""Every dtype between all three frameworks: after the way there and back, each value has the bytes that it had.

bfloat16 and the 8 bit floats have no NumPy dtype of their own, JAX makes int64 an int32 where it may, and 2**40 is no int32.
The arrays are made by NumPy, so nothing narrows them before they are converted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx

import stateregistry as sr
from stateregistry.entry import Kind

S = 4
COUNT = 2**40 + 7
FLOATS = {
    "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2, "float64": np.float64,
}  # fmt: skip
WAYS = list(itertools.permutations(("torch", "linen", "nnx"), 2))
EACH_WAY = pytest.mark.parametrize(("source", "target"), WAYS, ids=[" to ".join(way) for way in WAYS])


def of_norm(dtype: str) -> str:
    """JAX promotes no 8 bit floats by itself, so no Flax norm runs on them; they are found in linear layers."""
    return "float32" if "float8" in dtype else dtype


def held(dtype: str) -> set[str]:
    """Every dtype that a network has."""
    return {dtype, of_norm(dtype), "bool", "int64"}


def patterns(dtype: Any, *shape: int, seed: int = 0) -> np.ndarray:
    """Every bit pattern that comes, NaNs with payloads and negative zeros among them."""
    raw = np.random.default_rng(seed).bytes(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return np.frombuffer(raw, dtype).reshape(shape).copy()


class TorchNet(torch.nn.Module):
    """A linear layer, a batch_norm, a mask and a counter, under the same names in every framework."""

    def __init__(self, dtype: str) -> None:
        super().__init__()
        self.fc, self.bn = torch.nn.Linear(S, S), torch.nn.BatchNorm1d(S)
        self.fc.to(getattr(torch, dtype))
        self.bn.to(getattr(torch, of_norm(dtype)))
        self.register_buffer("mask", torch.zeros(S, S, dtype=torch.bool))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("ids", torch.zeros(S, dtype=torch.int64))


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        made = nn.Dense(S, dtype=np.float32, name="fc")(x)
        return nn.BatchNorm(use_running_average=True, dtype=np.float32, name="bn")(made)


def linen(dtype: str) -> sr.StateRegistry:
    of, norm = np.dtype(FLOATS[dtype]), np.dtype(FLOATS[of_norm(dtype)])
    variables = {
        "params": {
            "fc": {"kernel": np.zeros((S, S), of), "bias": np.zeros(S, of)},
            "bn": {"scale": np.zeros(S, norm), "bias": np.zeros(S, norm)},
        },
        "batch_stats": {
            "bn": {"mean": np.zeros(S, norm), "var": np.zeros(S, norm)},
            "mask": np.zeros((S, S), bool), "steps": np.zeros((), np.int64), "ids": np.zeros(S, np.int64),
        },
    }  # fmt: skip
    return sr.of(variables, module=LinenNet(), args=(jax.ShapeDtypeStruct((2, S), np.float32),))


def live(dtype: str) -> sr.StateRegistry:
    of, norm = np.dtype(FLOATS[dtype]), np.dtype(FLOATS[of_norm(dtype)])
    model = nnx.Dict({"fc": nnx.Linear(S, S, rngs=nnx.Rngs(0)), "bn": nnx.BatchNorm(S, rngs=nnx.Rngs(0))})
    for place, name, shape in (
        (model.fc, "kernel", (S, S)), (model.fc, "bias", (S,)), (model.bn, "scale", (S,)), (model.bn, "bias", (S,)),
    ):  # fmt: skip
        setattr(place, name, nnx.Param(np.zeros(shape, of if place is model.fc else norm)))
    for name in ("mean", "var"):
        setattr(model.bn, name, nnx.BatchStat(np.zeros(S, norm)))
    model["mask"] = nnx.BatchStat(np.zeros((S, S), bool))
    model["steps"], model["ids"] = nnx.BatchStat(np.zeros((), np.int64)), nnx.BatchStat(np.zeros(S, np.int64))
    return sr.of(model)


MAKE: Mapping[str, Callable[[str], sr.StateRegistry]] = {
    "torch": lambda dtype: sr.of(TorchNet(dtype)), "linen": linen, "nnx": live,
}  # fmt: skip


def filled(framework: str, dtype: str) -> sr.StateRegistry:
    """With bit patterns in every float, a mask that is neither symmetric nor constant, and counters beyond 32 bits."""
    reg = MAKE[framework](dtype)
    values: dict[str, np.ndarray] = {}
    for number, (key, entry) in enumerate(reg.items()):
        if "float" in entry.dtype:
            values[key] = patterns(FLOATS[entry.dtype], *entry.shape, seed=number)
        elif entry.dtype == "bool":
            values[key] = np.random.default_rng(3).random(entry.shape) < 0.5
        else:
            values[key] = np.full(entry.shape, COUNT, np.int64) + np.arange(entry.size).reshape(entry.shape)
    return reg.replace(values)


def bits(reg: sr.StateRegistry) -> dict[str, tuple[str, bytes]]:
    return {key: (value.dtype.name, value.tobytes()) for key, value in sr.snapshot(reg).items()}


ALLOW = ("choice", "assumption")


@EACH_WAY
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_bit_is_there_and_comes_back(dtype: str, source: str, target: str) -> None:
    begun = filled(source, dtype)
    before = bits(begun)
    assert {name for name, _ in before.values()} == held(dtype)
    done = sr.convert(begun, MAKE[target](dtype), allow=ALLOW)
    there = MAKE[target](dtype).replace(sr.snapshot(sr.of(done.target)))
    square = "weight" if source == "torch" else "kernel"
    moved = begun.read(f"fc/{square}")
    moved = moved.T if "torch" in (source, target) else moved
    other = "weight" if target == "torch" else "kernel"
    assert there.read(f"fc/{other}").tobytes() == np.ascontiguousarray(moved).tobytes()
    for name in ("mask", "steps", "ids"):
        assert there.read(name).tobytes() == begun.read(name).tobytes()
    back = sr.convert(there, MAKE[source](dtype), residual=done.residual, allow=ALLOW)
    assert back.receipt.stale == ()
    assert bits(sr.of(back.target)) == before


@pytest.mark.parametrize("to", ["flax-linen", "flax-nnx"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_derived_tree_has_every_bit_too(dtype: str, to: str) -> None:
    """Where the framework's own arrays are made, a counter of 64 bits is not made one of 32."""
    begun = filled("torch", dtype)
    made = sr.convert(begun, to=to, allow=ALLOW).target
    if to == "flax-nnx":
        leaves = {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(made)}
        assert {type(leaves[name]) for name in ("mask", "steps", "ids", "bn/mean")} == {nnx.BatchStat}
        found = {key: np.asarray(leaf.get_value()) for key, leaf in leaves.items()}
    else:
        reg = sr.of(made)
        assert {reg[name].kind for name in ("mask", "steps", "ids", "bn/mean")} == {Kind.BUFFER}
        found = sr.snapshot(reg)
    assert {value.dtype.name for value in found.values()} == held(dtype)
    expected = {"mask": "mask", "steps": "steps", "ids": "ids", "bn/scale": "bn/weight", "bn/var": "bn/running_var"}
    for key, name in expected.items():
        assert found[key].tobytes() == begun.read(name).tobytes()
    assert found["fc/kernel"].tobytes() == np.ascontiguousarray(begun.read("fc/weight").T).tobytes()


@EACH_WAY
@pytest.mark.parametrize("suffix", ["safetensors", "msgpack", "pt"])
def test_through_a_file(suffix: str, source: str, target: str, tmp_path: Any) -> None:
    """Written in the names and the layout of the target, read by nothing but the file."""
    if suffix == "pt" and target != "torch":
        suffix = "safetensors"  # a .pt file is torch's
    begun = filled(source, "bfloat16")
    path = tmp_path / f"there.{suffix}"
    sr.convert(begun, MAKE[target]("bfloat16"), out=path, allow=ALLOW)
    back = sr.convert(path, MAKE[source]("bfloat16"), allow=ALLOW)
    assert back.receipt.stale == ()
    assert bits(sr.of(back.target)) == bits(begun)
