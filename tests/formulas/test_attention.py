"""The formula of attention against torch, Linen and NNX, with as many heads as a head has dimensions."""

from __future__ import annotations

import flax.linen as nn
import numpy as np
import pytest
import torch
from flax import nnx

from stateregistry.errors import AxesError, UnsupportedError
from stateregistry_conformance.formulas import Named, forward

HEADS = ("heads", "head_dim")
NAMES = ("query", "key", "value")


def torch_roles(module):
    """Cut by hand: thirds of the fused array, or three arrays; rows are heads, the head dimension varying fastest."""
    heads, width = module.num_heads, module.embed_dim
    size = width // heads
    if module.in_proj_weight is not None:
        kernels = module.in_proj_weight.detach().numpy().reshape(3, heads, size, width)
    else:
        kernels = [getattr(module, f"{one}_proj_weight").detach().numpy() for one in "qkv"]
        kernels = [kernel.reshape(heads, size, -1) for kernel in kernels]
    roles = {f"{name}_kernel": Named(kernel, (*HEADS, "in")) for name, kernel in zip(NAMES, kernels, strict=True)}
    out = module.out_proj.weight.detach().numpy().reshape(width, heads, size)
    roles["out_kernel"] = Named(out, ("out", *HEADS))
    if module.in_proj_bias is not None:
        biases = module.in_proj_bias.detach().numpy().reshape(3, heads, size)
        roles |= {f"{name}_bias": Named(bias, HEADS) for name, bias in zip(NAMES, biases, strict=True)}
        roles["out_bias"] = Named(module.out_proj.bias.detach().numpy(), ("out",))
    if module.bias_k is not None:
        for name, extra in (("key", module.bias_k), ("value", module.bias_v)):
            roles[f"extra_{name}"] = Named(extra.detach().numpy().reshape(heads, size), HEADS)
    return roles


def torch_native(module, *inputs, **keywords):
    query, key, value = (torch.tensor(x).double() for x in (*inputs, *(inputs[-1:] * 2))[:3])
    return module(query, key, value, need_weights=False, **keywords)[0]


def flax_roles(values):
    axes = {"kernel": ("in", *HEADS), "bias": HEADS}
    roles = {f"{name}_{piece}": Named(values[name][piece], axes[piece]) for name in NAMES for piece in values[name]}
    roles["out_kernel"] = Named(values["out"]["kernel"], (*HEADS, "out"))
    if "bias" in values["out"]:
        roles["out_bias"] = Named(values["out"]["bias"], ("out",))
    return roles


def exchanged(roles, one, two):
    return roles | {one: roles[two], two: roles[one]}


def test_self_attention_is_what_torch_computes(bench) -> None:
    module = bench.torch(torch.nn.MultiheadAttention(4, 2, batch_first=True))
    x = bench.draw(2, 4, 4)
    roles, native = torch_roles(module), torch_native(module, x)
    bench.agrees(forward("attention", roles, {"heads": 2, "head_dim": 2}, [x])[0], native)
    for one, two in (("query", "key"), ("key", "value"), ("query", "value")):
        swapped = exchanged(roles, f"{one}_kernel", f"{two}_kernel")
        swapped = exchanged(swapped, f"{one}_bias", f"{two}_bias")
        bench.departs(forward("attention", swapped, {}, [x])[0], native)
        bench.departs(forward("attention", exchanged(roles, f"{one}_kernel", f"{two}_kernel"), {}, [x])[0], native)
    for role in ("query_kernel", "key_kernel", "value_kernel", "out_kernel", "value_bias"):
        axes = tuple({"heads": "head_dim", "head_dim": "heads"}.get(axis, axis) for axis in roles[role].axes)
        bench.departs(forward("attention", roles | {role: Named(roles[role].array, axes)}, {}, [x])[0], native)


def test_thirds_of_the_fused_array_that_are_swapped_are_seen(bench) -> None:
    module = bench.torch(torch.nn.MultiheadAttention(4, 2, batch_first=True))
    x = bench.draw(2, 4, 4)
    native = torch_native(module, x)
    roles = torch_roles(module)
    for order in (("value", "key", "query"), ("key", "value", "query"), ("query", "value", "key")):
        moved = dict(roles)
        for name, old in zip(NAMES, order, strict=True):
            for piece in ("kernel", "bias"):
                moved[f"{name}_{piece}"] = roles[f"{old}_{piece}"]
        bench.departs(forward("attention", moved, {}, [x])[0], native)


def test_cross_attention_with_features_of_its_own_for_key_and_value_is_what_torch_computes(bench) -> None:
    module = bench.torch(torch.nn.MultiheadAttention(4, 2, kdim=3, vdim=5, batch_first=True))
    query, key, value = bench.draw(2, 4, 4), bench.draw(2, 6, 3), bench.draw(2, 6, 5)
    roles = torch_roles(module)
    bench.agrees(forward("attention", roles, {}, [query, key, value])[0], torch_native(module, query, key, value))


def test_cross_attention_of_equal_sizes_is_what_torch_computes(bench) -> None:
    module = bench.torch(torch.nn.MultiheadAttention(4, 2, batch_first=True, bias=False))
    query, key = bench.draw(2, 4, 4), bench.draw(2, 4, 4)
    roles, native = torch_roles(module), torch_native(module, query, key)
    assert "query_bias" not in roles
    bench.agrees(forward("attention", roles, {}, [query, key])[0], native)
    bench.departs(forward("attention", roles, {}, [key, query])[0], native)


@pytest.mark.parametrize(("pair", "zero"), [(True, False), (False, True), (True, True)])
def test_the_extra_key_and_value_and_the_step_of_zeros_are_those_of_torch(bench, pair, zero) -> None:
    module = torch.nn.MultiheadAttention(4, 2, add_bias_kv=pair, add_zero_attn=zero, batch_first=True)
    bench.torch(module)
    x = bench.draw(2, 4, 4)
    roles, native = torch_roles(module), torch_native(module, x)
    bench.agrees(forward("attention", roles, {"add_zero_attn": zero}, [x])[0], native)
    if pair:
        swapped = exchanged(roles, "extra_key", "extra_value")
        bench.departs(forward("attention", swapped, {"add_zero_attn": zero}, [x])[0], native)
        without = {role: named for role, named in roles.items() if not role.startswith("extra")}
        bench.departs(forward("attention", without, {"add_zero_attn": zero}, [x])[0], native)
    if zero:
        bench.departs(forward("attention", roles, {}, [x])[0], native)


@pytest.mark.parametrize("pair", [False, True])
def test_a_mask_of_torch_is_true_where_it_forbids(bench, pair) -> None:
    module = bench.torch(torch.nn.MultiheadAttention(4, 2, add_bias_kv=pair, batch_first=True))
    x = bench.draw(2, 4, 4)
    allowed = np.tril(np.ones((4, 4), bool))
    native = torch_native(module, x, attn_mask=torch.tensor(~allowed))
    roles = torch_roles(module)
    bench.agrees(forward("attention", roles, {}, [x, x, x, allowed])[0], native)
    bench.agrees(forward("attention", roles, {"causal": True}, [x])[0], native)
    bench.departs(forward("attention", roles, {}, [x])[0], native)


@pytest.mark.parametrize("bias", [True, False])
def test_attention_is_what_linen_computes(bench, bias) -> None:
    module = nn.MultiHeadDotProductAttention(2, use_bias=bias)
    query, key = bench.draw(2, 3, 4), bench.draw(2, 5, 4)
    values = bench.linen(module, query, key)["params"]
    mask = np.ones((2, 2, 3, 5), bool)
    mask[1, 0, :, 2:] = False
    native = module.apply({"params": values}, query, key, mask=mask)
    roles = flax_roles(values)
    bench.agrees(forward("attention", roles, {"heads": 2}, [query, key, key, mask])[0], native)
    bench.departs(forward("attention", roles, {"heads": 2}, [query, key])[0], native)
    turned = Named(roles["query_kernel"].array, ("in", "head_dim", "heads"))
    bench.departs(forward("attention", roles | {"query_kernel": turned}, {}, [query, key, key, mask])[0], native)


def test_a_head_may_be_larger_than_the_features_divided_by_the_heads(bench) -> None:
    module = nn.MultiHeadDotProductAttention(2, qkv_features=6, out_features=5)
    x = bench.draw(2, 3, 4)
    values = bench.linen(module, x)["params"]
    native = module.apply({"params": values}, x)
    bench.agrees(forward("attention", flax_roles(values), {"heads": 2, "head_dim": 3}, [x])[0], native)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_is_what_nnx_computes_with_fewer_heads_for_key_and_value_too(bench, kv_heads) -> None:
    module = nnx.MultiHeadAttention(4, 16, num_kv_heads=kv_heads, decode=False, rngs=nnx.Rngs(0))
    names = [f"{name}.{piece}" for name in (*NAMES, "out") for piece in ("kernel", "bias")]
    flat = bench.nnx(module, *names)
    values = {name: {piece: flat[f"{name}.{piece}"] for piece in ("kernel", "bias")} for name in (*NAMES, "out")}
    x = bench.draw(2, 4, 16) * np.float32(0.25)
    native, roles = module(x), flax_roles(values)
    bench.agrees(forward("attention", roles, {"heads": 4}, [x])[0], native)
    if kv_heads == 2:  # the heads of the query that share one follow one another: not every second
        order = [0, 2, 1, 3]
        wrong = dict(roles)
        for role, axis in (("query_kernel", 1), ("query_bias", 0), ("out_kernel", 0)):
            wrong[role] = Named(np.take(roles[role].array, order, axis), roles[role].axes)
        bench.departs(forward("attention", wrong, {"heads": 4}, [x])[0], native)


# --------------------------------------------------------------------------------------------------------------- refusal


def _roles(**changed):
    sizes = {"heads": 2, "head_dim": 3, "in": 4, "out": 4}
    roles = {f"{name}_kernel": Named(np.ones((2, 3, 4)), (*HEADS, "in")) for name in NAMES}
    roles["out_kernel"] = Named(np.ones((4, 2, 3)), ("out", *HEADS))
    for role, axes in changed.items():
        names = tuple(axes)
        roles[role] = Named(np.ones([axes[name] or sizes[name] for name in names]), names)
    return roles


X = np.ones((1, 5, 4))


@pytest.mark.parametrize(
    ("roles", "config", "inputs", "error", "says"),
    [
        (_roles(), {"heads": 3}, [X], AxesError, "config heads is 3, the arrays say 2"),
        (_roles(), {"head_dim": 2}, [X], AxesError, "config head_dim"),
        (_roles(key_kernel={"heads": 3, "head_dim": 3, "in": 4}), {}, [X], AxesError, "heads of the value"),
        (_roles(key_kernel={"heads": 2, "head_dim": 2, "in": 4}), {}, [X], AxesError, "head_dim of the key"),
        (_roles(out_kernel={"out": 4, "heads": 3, "head_dim": 2}), {}, [X], AxesError, "out_kernel"),
        (_roles(query_bias={"heads": 1, "head_dim": 3}), {}, [X], AxesError, "query_bias"),
        (_roles(out_bias={"out": 1}), {}, [X], AxesError, "out_bias"),
        (_roles(extra_key={"heads": 2, "head_dim": 3}), {}, [X], UnsupportedError, "one of extra_key"),
        (_roles(), {}, [X, np.ones((1, 5, 3))], AxesError, "the features of the key"),
        (_roles(), {}, [X, X, np.ones((1, 6, 4))], AxesError, "length of the value"),
        (_roles(), {}, [X, np.ones((2, 5, 4))], AxesError, "the batch of the key"),
        (_roles(), {}, [X, X, X, np.zeros((5, 5), bool)], UnsupportedError, "attends to nothing"),
        (_roles(), {}, [X, X, X, np.zeros((5, 5))], UnsupportedError, "truth values"),
        (_roles(), {"causal": 1}, [X], UnsupportedError, "causal"),
        (_roles(), {"num_heads": 2}, [X], UnsupportedError, "num_heads"),
    ],
)
def test_what_attention_cannot_be_is_refused(roles, config, inputs, error, says) -> None:
    with pytest.raises(error, match=says):
        forward("attention", roles, config, inputs)


def test_query_heads_that_the_heads_of_the_key_do_not_divide_are_refused() -> None:
    roles = _roles(query_kernel={"heads": 3, "head_dim": 3, "in": 4}, out_kernel={"out": 4, "heads": 3, "head_dim": 3})
    with pytest.raises(AxesError, match="do not divide"):
        forward("attention", roles, {}, [X])
