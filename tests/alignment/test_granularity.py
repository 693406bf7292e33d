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


def blocks(count: int, inner: int = 4, outer: int = 5) -> dict[str, np.ndarray]:
    """Blocks of two linears without a bias and a norm, beside a head that is no block."""
    source = {"head/weight": array(7, inner), "head/bias": array(7)}
    for number in range(count):
        source |= {f"layers/{number}/up/weight": number + array(outer, inner)}
        source |= {f"layers/{number}/down/weight": number + array(inner, outer)}
        source |= {f"layers/{number}/norm/weight": number + array(inner)}
    return source


def stacked_shapes(axis: int, count: int, inner: int = 4, outer: int = 5) -> dict[str, tuple[int, ...]]:
    plain = {"up/kernel": (inner, outer), "down/kernel": (outer, inner), "norm/scale": (inner,)}
    shapes = {name: tuple(np.insert(shape, axis if axis >= 0 else len(shape), count)) for name, shape in plain.items()}
    return {"logits/kernel": (inner, 7), "logits/bias": (7,), **{f"scan/{name}": s for name, s in shapes.items()}}


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_blocks_stacked_along_any_axis_are_those_of_the_other_side(tmp_path: Path, axis: int) -> None:
    source = blocks(3)
    found = converted(tmp_path, source, stacked_shapes(axis, 3))
    for name, kernel in (("up", "up/kernel"), ("down", "down/kernel")):
        held = [source[f"layers/{number}/{name}/weight"].T for number in range(3)]
        assert bits(found[f"scan/{kernel}"], np.stack(held, axis))
    held = [source[f"layers/{number}/norm/weight"] for number in range(3)]
    assert bits(found["scan/norm/scale"], np.stack(held, axis))


def test_blocks_of_another_number_are_no_stack_of_these(tmp_path: Path) -> None:
    with pytest.raises(sr.errors.PlanError):
        converted(tmp_path, blocks(3), stacked_shapes(1, 2))


def test_blocks_that_two_axes_count_are_taken_as_stacked_in_front_and_that_is_an_assumption(tmp_path: Path) -> None:
    source, shapes = blocks(4, 4, 4), stacked_shapes(0, 4, 4, 4)
    with pytest.raises(sr.errors.PlanError, match=r"4 blocks along the first axis.*4 along another axis too"):
        converted(tmp_path, source, shapes, allow=())
    found = converted(tmp_path, source, shapes)
    assert bits(found["scan/norm/scale"], np.stack([source[f"layers/{n}/norm/weight"] for n in range(4)]))


def test_an_axis_that_no_shape_tells_from_another_is_a_question(tmp_path: Path) -> None:
    source = {"head/weight": array(7, 4), "head/bias": array(7)}
    for number in range(3):
        source |= {f"layers/{number}/{name}/weight": number + array(3, size) for name, size in (("a", 4), ("b", 6))}
    shapes = {"logits/kernel": (4, 7), "logits/bias": (7,), "scan/c/kernel": (4, 3, 3), "scan/d/kernel": (6, 3, 3)}
    with pytest.raises(sr.errors.PlanError, match="along axis 1 or -1, and no shape tells which"):
        converted(tmp_path, source, shapes)


@pytest.mark.parametrize("heads", [2, 4])
def test_projections_of_stacked_heads_need_no_bias(tmp_path: Path, heads: int) -> None:
    source: dict[str, np.ndarray] = {}
    sizes = {"q_proj": (8, 6), "k_proj": (2 * heads, 6), "v_proj": (2 * heads, 6), "o_proj": (6, 8)}
    for number in range(3):
        source |= {f"layers/{number}/attn/{name}/weight": number + array(*size) for name, size in sizes.items()}
        source |= {f"layers/{number}/norm/weight": number + array(6)}
    shapes = {
        "scan/attention/query/kernel": (6, 3, 4, 2), "scan/attention/key/kernel": (6, 3, heads, 2),
        "scan/attention/value/kernel": (6, 3, heads, 2), "scan/attention/out/kernel": (4, 3, 2, 6),
        "scan/norm/scale": (6, 3),
    }  # fmt: skip
    found = converted(tmp_path, source, shapes)
    query = [source[f"layers/{number}/attn/q_proj/weight"].T.reshape(6, 4, 2) for number in range(3)]
    out = [source[f"layers/{number}/attn/o_proj/weight"].T.reshape(4, 2, 6) for number in range(3)]
    assert bits(found["scan/attention/query/kernel"], np.stack(query, 1))
    assert bits(found["scan/attention/out/kernel"], np.stack(out, 1))


def test_of_two_matrices_of_a_vocabulary_the_one_called_embedding_is_the_table(tmp_path: Path) -> None:
    """Containers that hold as much on both sides would pair the table with the head: `model` with `decoder`."""
    source = {
        "model/embed_tokens/weight": array(9, 4),
        "model/norm/weight": array(4),
        "lm_head/weight": array(9, 4) + 1,
    }
    shapes = {"decoder/norm/scale": (4,), "decoder/logits/kernel": (4, 9), "tokens/embedding": (9, 4)}
    found = converted(tmp_path, source, shapes)
    assert bits(found["tokens/embedding"], source["model/embed_tokens/weight"])
    assert bits(found["decoder/logits/kernel"], source["lm_head/weight"].T)


def test_a_projection_into_heads_is_no_stack(tmp_path: Path) -> None:
    source = {"q/weight": array(6, 4), "q/bias": array(6), "o/weight": array(4, 6), "o/bias": array(4)}
    shapes = {"a/query/kernel": (4, 2, 3), "a/query/bias": (2, 3), "a/out/kernel": (2, 3, 4), "a/out/bias": (4,)}
    found = converted(tmp_path, source, shapes)
    assert bits(found["a/query/kernel"].reshape(4, 6), source["q/weight"].T)


def test_convolutions_whose_biases_have_other_sizes_are_no_transposed_ones(tmp_path: Path) -> None:
    sizes = (("first", 8, 3), ("last", 3, 8))
    source = {f"{name}/weight": array(out, inner, 3, 3) for name, out, inner in sizes}
    source |= {f"{name}/bias": array(out) for name, out, _ in sizes}
    shapes = {"shallow/kernel": (3, 3, 3, 8), "shallow/bias": (8,), "rgb/kernel": (3, 3, 8, 3), "rgb/bias": (3,)}
    found = converted(tmp_path, source, shapes)
    assert bits(found["shallow/kernel"], source["first/weight"].transpose(2, 3, 1, 0))
    assert bits(found["rgb/kernel"], source["last/weight"].transpose(2, 3, 1, 0))


def test_a_convolution_is_no_transposed_one_of_two_groups(tmp_path: Path) -> None:
    """A kernel (16, 8) with a bias of 16 fits a transposed one of two groups, and beside it is one of a single group."""
    source = {"down/weight": array(16, 8, 3, 3), "down/bias": array(16)}
    source |= {"back/weight": array(16, 8, 3, 3) + 1, "back/bias": array(8)}
    shapes = {"one/kernel": (3, 3, 8, 16), "one/bias": (16,), "two/kernel": (3, 3, 8, 16), "two/bias": (8,)}
    found = converted(tmp_path, source, shapes)
    assert bits(found["one/kernel"], source["down/weight"].transpose(2, 3, 1, 0))
    assert bits(found["two/kernel"], source["back/weight"].transpose(2, 3, 1, 0))


class Turned(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = torch.nn.Conv2d(6, 4, 4, 2, 1, bias=False)
        self.back = torch.nn.ConvTranspose2d(9, 5, 4, 2, 1, bias=False)


def test_a_transposed_kernel_without_a_bias_is_told_by_what_the_other_side_has() -> None:
    kernels = {"enc/kernel": array(4, 4, 6, 4), "up/kernel": array(4, 4, 5, 9)}
    variables = {"params": traverse_util.unflatten_dict({tuple(key.split("/")): a for key, a in kernels.items()})}
    model = Turned()
    found = sr.convert(model, sr.of(variables), allow=("assumption",)).target["params"]
    assert bits(found["up"]["kernel"], model.back.weight.detach().numpy().transpose(2, 3, 1, 0))
    fresh = Turned()
    sr.convert(variables, fresh, allow=("assumption",))
    assert bits(fresh.back.weight.detach().numpy().transpose(2, 3, 1, 0), kernels["up/kernel"])


def test_a_transposed_kernel_that_nothing_asks_for_is_left_as_it_is() -> None:
    variables = {"params": {"enc": {"kernel": array(4, 4, 6, 4)}, "up": {"kernel": array(4, 4, 7, 9)}}}
    plan = sr.plan(Turned(), sr.of(variables), allow=("assumption",))
    assert not plan.ok
    assert not any(move.target == "up/kernel" and move.sources for move in plan.moves)


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
