"""Layers that the sides see otherwise: arrays that are kernels, fused convolutions, stacks without norms, parallel lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import linen, nnx, serialization, traverse_util
from safetensors.numpy import save_file

import stateregistry as sr

Arrays = Mapping[str, np.ndarray]


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def converted(room: Path, source: Arrays, target: Mapping[str, Sequence[int]], **options: Any) -> dict[str, np.ndarray]:
    """What a msgpack file of the shapes of `target` holds after a conversion from a torch file."""
    save_file({key.replace("/", "."): value for key, value in source.items()}, room / "source.safetensors")
    tree = traverse_util.unflatten_dict({tuple(key.split("/")): np.zeros(s, np.float32) for key, s in target.items()})
    (room / "like.msgpack").write_bytes(serialization.msgpack_serialize({"params": tree}))
    options = {"allow": ("assumption",), **options}
    done = sr.convert(room / "source.safetensors", room / "like.msgpack", out=room / "out.msgpack", **options)
    found = serialization.msgpack_restore(done.target.read_bytes())["params"]
    return {"/".join(path): value for path, value in traverse_util.flatten_dict(found).items()}


def bits(one: np.ndarray, two: np.ndarray) -> bool:
    return np.asarray(one).tobytes() == np.ascontiguousarray(two).tobytes()


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_an_array_that_is_the_kernel_of_a_linear_lies_as_its_sizes_say(tmp_path: Path, shape: tuple[int, int]) -> None:
    class Source(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = torch.nn.Parameter(torch.from_numpy(array(*shape)))

    class Target(linen.Module):
        @linen.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return linen.Dense(4, use_bias=False, name="project")(x)

    net = Target()
    x = np.zeros((1, 6), np.float32)
    target = sr.of(net.init(jax.random.key(0), x), module=net, args=(x,))
    kernel = sr.convert(Source(), target, allow=("assumption",)).target["params"]["project"]["kernel"]
    expected = array(*shape) if shape == (6, 4) else array(*shape).T
    assert bits(kernel, expected)


def test_a_square_array_is_no_kernel() -> None:
    class Source(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = torch.nn.Parameter(torch.from_numpy(array(5, 5)))

    class Target(linen.Module):
        @linen.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return linen.Dense(5, use_bias=False, name="project")(x)

    net = Target()
    x = np.zeros((1, 5), np.float32)
    target = sr.of(net.init(jax.random.key(0), x), module=net, args=(x,))
    assert not sr.plan(Source(), target, allow=("assumption",)).ok


def test_a_fused_convolution_of_one_place_is_taken_apart(tmp_path: Path) -> None:
    source = {"attn/to_qkv/weight": array(18, 6, 1, 1), "out/weight": array(7, 6), "out/bias": array(7)}
    names = ("query", "key", "value")
    shapes = {**{f"attention/{name}/kernel": (6, 6) for name in names}, "head/kernel": (6, 7), "head/bias": (7,)}
    found = converted(tmp_path, source, shapes)
    for number, name in enumerate(names):
        third = source["attn/to_qkv/weight"][6 * number : 6 * number + 6, :, 0, 0]
        assert bits(found[f"attention/{name}/kernel"], third.T)


def test_layers_without_norms_are_seen_to_be_stacked(tmp_path: Path) -> None:
    source = {}
    for number in range(3):
        source |= {f"experts/{number}/w1/weight": number + array(5, 4), f"experts/{number}/w1/bias": number + array(5)}
        source |= {f"experts/{number}/w2/weight": number + array(4, 5), f"experts/{number}/w2/bias": number + array(4)}
    shapes = {
        "expert/wi/kernel": (3, 4, 5),
        "expert/wi/bias": (3, 5),
        "expert/wo/kernel": (3, 5, 4),
        "expert/wo/bias": (3, 4),
    }
    found = converted(tmp_path, source, shapes)
    assert bits(found["expert/wi/kernel"], np.stack([source[f"experts/{n}/w1/weight"].T for n in range(3)]))
    assert bits(found["expert/wo/bias"], np.stack([source[f"experts/{n}/w2/bias"] for n in range(3)]))


def test_a_projection_into_heads_is_no_stack(tmp_path: Path) -> None:
    source = {"q/weight": array(6, 4), "q/bias": array(6), "o/weight": array(4, 6), "o/bias": array(4)}
    shapes = {"a/query/kernel": (4, 2, 3), "a/query/bias": (2, 3), "a/out/kernel": (2, 3, 4), "a/out/bias": (4,)}
    found = converted(tmp_path, source, shapes)
    assert bits(found["a/query/kernel"].reshape(4, 6), source["q/weight"].T)


def test_a_transposed_kernel_is_told_by_its_bias(tmp_path: Path) -> None:
    source = {"up/weight": array(6, 4, 2, 2), "up/bias": array(4), "c/weight": array(6, 3, 3, 3), "c/bias": array(6)}
    torch_net = torch.nn.ModuleDict({"up": torch.nn.ConvTranspose2d(6, 4, 2), "c": torch.nn.Conv2d(3, 6, 3)})
    with torch.no_grad():
        for key, value in source.items():
            torch_net.get_parameter(key.replace("/", ".")).copy_(torch.from_numpy(value))
    shapes = {"Up/kernel": (2, 2, 4, 6), "Up/bias": (4,), "Conv/kernel": (3, 3, 3, 6), "Conv/bias": (6,)}
    tree = traverse_util.unflatten_dict({tuple(key.split("/")): np.zeros(s, np.float32) for key, s in shapes.items()})
    found = sr.convert(torch_net, {"params": tree}, allow=("assumption",)).target["params"]
    assert bits(found["Up"]["kernel"], source["up/weight"].transpose(2, 3, 1, 0))


class Sides(nnx.Module):
    def __init__(self, count: int) -> None:
        rngs = nnx.Rngs(0)
        self.mixers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])
        self.extra = nnx.List([nnx.Linear(4, 6, rngs=rngs) for _ in range(2)])
        self.norms = nnx.List([nnx.LayerNorm(4, rngs=rngs) for _ in range(count)])
        self.last = nnx.LayerNorm(4, rngs=rngs)


class Blocks(torch.nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        torch.manual_seed(count)
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(4), "a": torch.nn.Linear(4, 4), "b": torch.nn.Linear(4, 6)})
            for _ in range(2)
        )
        self.norm_f = torch.nn.LayerNorm(4)
        self.others = torch.nn.ModuleList(torch.nn.LayerNorm(4) for _ in range(count - 2))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_()


def test_lists_side_by_side_are_what_blocks_hold() -> None:
    model = Blocks(2)
    found = sr.convert(model, Sides(2), allow=("assumption",)).target
    for number in range(2):
        norm = model.layers[number]["norm"].weight.detach().numpy()
        assert bits(np.asarray(found.norms[number].scale[...]), norm)


def test_a_list_of_another_length_beside_blocks_says_nothing_of_them() -> None:
    plan = sr.plan(Blocks(3), Sides(3), allow=("assumption",))
    assert not plan.ok
    assert not any("side by side" in move.evidence for move in plan.moves if move.target.startswith("norms"))


SCALED = {
    **{f"blocks/{n}/fc/weight": array(6, 6) + n for n in (0, 1)},
    **{f"blocks/{n}/fc/bias": array(6) - n for n in (0, 1)},
    **{f"blocks/{n}/ls/gamma": array(6) * (n + 2) for n in (0, 1)},
}


def test_a_lone_scale_is_an_array_where_the_other_side_has_arrays_and_no_norm_without_bias(tmp_path: Path) -> None:
    shapes = {f"layer_{n}/dense/kernel": (6, 6) for n in (0, 1)} | {f"layer_{n}/dense/bias": (6,) for n in (0, 1)}
    made = converted(tmp_path, SCALED, {**shapes, **{f"layer_{n}/layer_scale/scale": (6,) for n in (0, 1)}})
    for n in (0, 1):
        assert bits(made[f"layer_{n}/layer_scale/scale"], SCALED[f"blocks/{n}/ls/gamma"])


def test_a_lone_scale_beside_one_scale_less_than_arrays_stays_what_it_looks_like(tmp_path: Path) -> None:
    """Three arrays for two scales: which of them are meant is not for their number to say."""
    shapes = {f"layer_{n}/dense/kernel": (6, 6) for n in (0, 1)} | {f"layer_{n}/dense/bias": (6,) for n in (0, 1)}
    source = {**SCALED, "offset": array(6) + 9}
    with pytest.raises(sr.errors.PlanError):
        converted(tmp_path, source, {**shapes, **{f"layer_{n}/layer_scale/scale": (6,) for n in (0, 1)}})
