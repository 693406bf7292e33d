"""Errors that no shape shows are seeded into declarations, models and files, and our own checks catch every one.

A declaration with a wrong layout is caught twice: by the formula of the layer kind, computed from the exported roles, and by
`verify` with a forward pass. A model filled in a wrong order is caught by `verify` bit for bit. A kind or a dtype that is not
what it was is caught by the plan. Without its error, each of them passes the same checks.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx

import stateregistry as sr
import stateregistry_flax
import stateregistry_torch
from stateregistry import errors
from stateregistry.layers import axes
from stateregistry.layers.vocabulary import Layer
from stateregistry_conformance.formulas import Named, forward
from stateregistry_flax import declared as flax_declared
from stateregistry_torch import declared as torch_declared

S = 4  # every size


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test registers, no other knows."""
    for module in (flax_declared, torch_declared):
        monkeypatch.setattr(module.DECLARED, "rows", dict(module.DECLARED.rows))


def data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@dataclass(frozen=True)
class Seed:
    """A layer in torch and in NNX, both called with channels last, and the error in the declaration of one of them.

    Attributes:
        of: whose declaration is wrong. wrong: from an axis pattern to the wrong one.
    """

    kind: str
    torch: Callable[[], torch.nn.Module]
    nnx: Callable[[nnx.Rngs], nnx.Module]
    x: np.ndarray
    of: str
    wrong: Callable[[str], str]

    def torch_module(self) -> Any:
        torch.manual_seed(0)
        module = self.torch().eval()
        with torch.no_grad():
            for tensor in module.parameters():
                tensor.normal_()
        return module

    def nnx_module(self) -> Any:
        module = self.nnx(nnx.Rngs(0))
        reg = sr.of(module)
        values = {key: data(*entry.shape, seed=n) for n, (key, entry) in enumerate(reg.items()) if not entry.rng}
        return reg.replace(values).unwrap()

    def run_torch(self, module: Any) -> np.ndarray:
        with torch.no_grad():
            if self.kind == "attention":
                return module(*[torch.from_numpy(self.x)] * 3, need_weights=False)[0].numpy()
            if self.kind == "gru":
                return module(torch.from_numpy(self.x)[:, 0], torch.zeros(len(self.x), S)).numpy()
            x = torch.from_numpy(np.moveaxis(self.x, -1, 1).copy())
            return np.moveaxis(module(x).numpy(), 1, -1)

    def run_nnx(self, module: Any) -> np.ndarray:
        if self.kind == "gru":
            return np.asarray(module(np.zeros((len(self.x), S), np.float32), self.x[:, 0])[1])
        return np.asarray(module(self.x))

    def run(self, module: Any) -> np.ndarray:
        return self.run_torch(module) if isinstance(module, torch.nn.Module) else self.run_nnx(module)

    def registered(self, change: Callable[[str], str]) -> None:
        """Declare the type again, with another pattern for every array."""
        module = self.torch_module() if self.of == "torch" else self.nnx_module()
        (layer,) = sr.of(module).layers
        # A registered type writes every axis out.
        written = [re.sub(r"(-?)\*spatial", r"\1spatial.0 \1spatial.1", piece.axes) for piece in layer.pieces]
        pieces = tuple(replace(p, axes=change(text)) for p, text in zip(layer.pieces, written, strict=True))
        register = stateregistry_torch.register_layer if self.of == "torch" else stateregistry_flax.register_layer
        made = Layer(layer.kind, "", pieces, config=layer.config, lacks=layer.lacks)
        register(type(module), lambda _: made)


def exported(reg: sr.StateRegistry) -> tuple[str, dict[str, Named], dict[str, Any]]:
    """Kind, neutral arrays and config of the one layer of a registry."""
    (layer,) = reg.layers
    sizes = {name: value for name, value in layer.config.items() if name in ("heads", "head_dim")}
    roles = {}
    for piece in layer.pieces:
        bound = axes.bind(piece.axes, reg[layer.key(piece)].shape, sizes)
        parts = bound.expand(reg.read(layer.key(piece)))
        roles |= {role: Named(parts[part], bound.neutral) for role, part in piece.parts.items()}
    return layer.kind, roles, dict(layer.config)


def oracle_agrees(seed: Seed) -> bool:
    """Whether the native layer computes what the formula makes of the roles that its declaration exports."""
    module = seed.torch_module() if seed.of == "torch" else seed.nnx_module()
    kind, roles, config = exported(sr.of(module))
    found = forward(kind, roles, config, [seed.x])[0]
    found = found[:, 0] if kind == "gru" else found
    native = seed.run(module)
    return bool(np.abs(found - native).max() <= 1e-5 * np.abs(native).max())


def verify_agrees(seed: Seed) -> bool:
    """Whether both sides of a conversion compute the same, as `verify` says."""
    source, target = seed.torch_module(), seed.nnx_module()
    if seed.kind == "gru":  # NNX has no place for it
        with torch.no_grad():
            source.bias_hh[2 * S :] = 0
    done = sr.convert(source, target, allow=("choice",))
    forward_passes = (lambda _: seed.run(source), lambda _: seed.run(done.target), seed.x)
    return sr.verify(source, done.target, forward=forward_passes).outputs_equal()


def words(old: str, new: str) -> Callable[[str], str]:
    return lambda pattern: pattern.replace(old, new)


LINEAR: Any = (lambda: torch.nn.Linear(S, S), lambda rngs: nnx.Linear(S, S, rngs=rngs), data(3, S))
CONV: Any = (
    lambda: torch.nn.Conv2d(S, S, S), lambda rngs: nnx.Conv(S, S, (S, S), padding="VALID", rngs=rngs), data(2, 6, 6, S),
)  # fmt: skip
TRANSPOSED: Any = (
    lambda: torch.nn.ConvTranspose2d(S, S, S), lambda rngs: nnx.ConvTranspose(S, S, (S, S), padding="VALID", rngs=rngs),
    data(2, 3, 3, S),
)  # fmt: skip
GRU: Any = (lambda: torch.nn.GRUCell(S, S), lambda rngs: nnx.GRUCell(S, S, rngs=rngs), data(3, 1, S))
ATTENTION: Any = (
    lambda: torch.nn.MultiheadAttention(S, 2, batch_first=True),
    lambda rngs: nnx.MultiHeadAttention(2, S, S, S, decode=False, rngs=rngs), data(2, 5, S),
)  # fmt: skip

SEEDS = {
    "a forgotten transpose of a square matrix, in torch": Seed("linear", *LINEAR, "torch", words("out in", "in out")),
    "a forgotten transpose of a square matrix, in NNX": Seed("linear", *LINEAR, "nnx", words("in out", "out in")),
    "a missing flip": Seed("conv_transpose", *TRANSPOSED, "nnx", words("-spatial", "spatial")),
    "in and out of a transposed convolution": Seed(
        "conv_transpose", *TRANSPOSED, "torch", words("in out/groups", "out/groups in")
    ),
    # numpy.transpose(kernel, (2, 3, 1, 0)) takes a torch filter to Flax; done again, it does not take it back.
    "(2, 3, 1, 0) as its own inverse": Seed(
        "conv", *CONV, "torch", words("out in/groups spatial.0 spatial.1", "in/groups out spatial.1 spatial.0")
    ),
    "swapped gates of a GRU, in torch": Seed("gru", *GRU, "torch", words("(r|z|n:", "(z|r|n:")),
    "swapped gates of a GRU, in NNX": Seed("gru", *GRU, "nnx", words("(r|z|n:", "(z|r|n:")),
    "thirds of in_proj swapped": Seed("attention", *ATTENTION, "torch", words("(query|key|value:", "(value|key|query:")),
    "query and key of in_proj swapped": Seed(
        "attention", *ATTENTION, "torch", words("(query|key|value:", "(key|query|value:")
    ),
    "heads and head_dim swapped, in torch": Seed("attention", *ATTENTION, "torch", words("heads head_dim)", "head_dim heads)")),
    "heads and head_dim swapped, in NNX": Seed("attention", *ATTENTION, "nnx", words("heads head_dim", "head_dim heads")),
}  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS.values(), ids=SEEDS)
def test_a_wrong_declaration_is_caught_by_the_formula_and_by_verify(seed: Seed) -> None:
    seed.registered(lambda pattern: pattern)
    assert oracle_agrees(seed)
    assert verify_agrees(seed)
    seed.registered(seed.wrong)
    assert not oracle_agrees(seed)
    assert not verify_agrees(seed)


# -------------------------------------------------------------------- models that were filled in a wrong order


def seeded(name: str) -> Seed:
    return next(seed for title, seed in SEEDS.items() if title.startswith(name))


def part(array: np.ndarray, number: int, parts: int) -> np.ndarray:
    return np.split(array, parts, axis=-1)[number]


FILLED: dict[str, tuple[str, str, Callable[[np.ndarray], np.ndarray]]] = {
    "a forgotten transpose": ("a forgotten", "kernel", np.transpose),
    "a missing flip": ("a missing", "kernel", lambda k: np.flip(k, (0, 1))),
    "(2, 3, 1, 0) once more": ("(2, 3", "kernel", lambda k: k.transpose(2, 3, 1, 0)),
    "swapped gates": ("swapped", "dense_h/kernel", lambda k: np.concatenate([part(k, n, 3) for n in (1, 0, 2)], -1)),
    "heads and head_dim": ("heads and", "query/kernel", lambda k: k.swapaxes(1, 2)),
}


@pytest.mark.parametrize(("title", "key", "change"), FILLED.values(), ids=FILLED)
def test_a_model_filled_in_a_wrong_order_is_caught_bit_for_bit(title: str, key: str, change: Any) -> None:
    seed = seeded(title)
    source = seed.torch_module()
    if seed.kind == "gru":
        with torch.no_grad():
            source.bias_hh[2 * S :] = 0
    done = sr.convert(source, seed.nnx_module(), allow=("choice",))
    assert sr.verify(source, done.target).equal
    reg = sr.of(done.target)
    wrong = reg.replace({key: np.ascontiguousarray(change(reg.read(key)))})
    found = sr.verify(source, wrong)
    assert [difference.target for difference in found.differences] == [key]
    assert not found.equal


def test_thirds_that_arrive_in_each_other_s_place_are_caught_bit_for_bit() -> None:
    seed = seeded("thirds")
    source = seed.torch_module()
    reg = sr.of(sr.convert(source, seed.nnx_module()).target)
    keys, values = ("query/kernel", "value/kernel"), ("value/kernel", "query/kernel")
    reg = reg.replace({key: reg.read(value) for key, value in zip(keys, values, strict=True)})
    found = sr.verify(source, reg)
    assert {difference.target for difference in found.differences} == set(keys)


# -------------------------------------------------------------------- kinds


class Statistics(torch.nn.Module):
    """A batch_norm whose statistics an earlier converter made parameters of."""

    def __init__(self, *, trained: bool) -> None:
        super().__init__()
        self.bn = torch.nn.BatchNorm1d(S)
        if trained:
            for name in ("running_mean", "running_var"):
                value = self.bn._buffers.pop(name)
                self.bn.register_parameter(name, torch.nn.Parameter(value))


class LiveStatistics(nnx.Module):
    def __init__(self, *, trained: bool) -> None:
        self.bn = nnx.BatchNorm(S, rngs=nnx.Rngs(0))
        if trained:
            self.bn.mean, self.bn.var = nnx.Param(self.bn.mean[...]), nnx.Param(self.bn.var[...])


def linen_statistics(*, trained: bool) -> dict[str, Any]:
    of = {name: jax.numpy.ones(S) for name in ("mean", "var")}
    params = {"scale": jax.numpy.ones(S), "bias": jax.numpy.zeros(S)}
    if trained:
        return {"params": {"bn": {**params, **of}}}
    return {"params": {"bn": params}, "batch_stats": {"bn": of}}


MAKERS: dict[str, Callable[..., Any]] = {"torch": Statistics, "nnx": LiveStatistics, "linen": linen_statistics}
WAYS = [(one, two) for one in MAKERS for two in MAKERS if one != two]


@pytest.mark.parametrize(("source", "target"), WAYS, ids=[" to ".join(way) for way in WAYS])
@pytest.mark.parametrize("wrong", ["source", "target"])
def test_buffers_that_arrive_as_parameters_are_refused(source: str, target: str, wrong: str) -> None:
    one = MAKERS[source](trained=wrong == "source")
    two = MAKERS[target](trained=wrong == "target")
    everything = ("choice", "assumption", "missing", "unexpected", "lossy")
    plan = sr.plan(one, two, allow=everything)
    assert not plan.ok
    refused = {key.rpartition("/")[2] for p in plan.problems if p.problem == "kind" for key in p.keys}
    assert len(refused & {"mean", "running_mean"}) >= 1
    assert len(refused & {"var", "running_var"}) >= 1
    with pytest.raises(errors.PlanError):
        plan.execute(one, two)
    right = sr.plan(MAKERS[source](trained=False), MAKERS[target](trained=False), allow=("choice", "assumption"))
    assert right.ok, str(right)


# -------------------------------------------------------------------- dtypes of a file


def mixed(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import save_file  # the usual writer

    torch.manual_seed(0)
    tensors = {
        "0.weight": torch.randn(S, S).to(torch.float16), "0.bias": torch.randn(S).to(torch.bfloat16),
        "1.weight": torch.randn(S, S).to(torch.bfloat16), "1.bias": torch.randn(S).to(torch.float16),
    }  # fmt: skip
    save_file(tensors, path)
    return tensors


def model_for(tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(S, S), torch.nn.Linear(S, S))
    for name, tensor in tensors.items():
        number, leaf = name.split(".")
        setattr(model[int(number)], leaf, torch.nn.Parameter(torch.zeros_like(tensor)))
    return model


def test_every_tensor_of_a_mixed_file_has_its_own_dtype_and_its_bits(tmp_path: Path) -> None:
    tensors = mixed(tmp_path / "mixed.safetensors")
    model = model_for(tensors)
    done = sr.convert(tmp_path / "mixed.safetensors", model)
    for name, tensor in tensors.items():
        assert done.target.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(done.target.state_dict()[name].view(torch.int16), tensor.view(torch.int16))
    assert sr.verify(tmp_path / "mixed.safetensors", model).equal
    live = nnx.Dict({str(n): nnx.Linear(S, S, rngs=nnx.Rngs(0)) for n in range(2)})
    for name, tensor in tensors.items():
        number, leaf = name.replace("weight", "kernel").split(".")
        dtype = jax.numpy.float16 if tensor.dtype == torch.float16 else jax.numpy.bfloat16
        setattr(live[number], leaf, nnx.Param(jax.numpy.zeros(tuple(tensor.shape), dtype)))
    reg = sr.of(sr.convert(model, live).target)
    for name, tensor in tensors.items():
        value = reg.read(name.replace("weight", "kernel").replace(".", "/"))
        assert value.tobytes() == tensor.view(torch.int16).numpy().T.tobytes()


@pytest.mark.parametrize("believed", ["F16", "BF16"])
def test_a_mixed_file_read_as_if_it_had_one_dtype_is_refused(tmp_path: Path, believed: str) -> None:
    """What a reader sees that takes the dtype of one tensor for all: sizes agree, values are others."""
    path, wrong = tmp_path / "mixed.safetensors", tmp_path / "wrong.safetensors"
    tensors = mixed(path)
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    rows = {name: {**row, "dtype": believed} if name != "__metadata__" else row for name, row in header.items()}
    text = json.dumps(rows, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    wrong.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
    model = model_for(tensors)
    others = {name.replace(".", "/") for name, row in header.items() if row.get("dtype", believed) != believed}
    plan = sr.plan(wrong, model)
    assert {(p.problem, p.keys[0]) for p in plan.problems} == {("dtype", name) for name in others}
    with pytest.raises(errors.PlanError, match="dtype"):
        sr.verify(wrong, sr.convert(path, model).target)
