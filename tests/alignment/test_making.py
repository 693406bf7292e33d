"""Numbers that Linen gave as modules were made: of what reads one input, and of norms declared apart from what they serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
import torch
import toy

import stateregistry as sr
from stateregistry.conversion.planning.plan import Plan
from stateregistry.conversion.side import Side

WIDTH = 6


class Called(nn.Module):
    """A model whose body is a function."""

    body: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.body(x)


def planned(body: Callable[[jax.Array], jax.Array], **modules: torch.nn.Module) -> Plan:
    net, x = Called(body), jnp.ones((2, WIDTH))
    variables = net.init(jax.random.key(0), x)
    return sr.plan(torch.nn.ModuleDict(modules), sr.of(variables, module=net, args=(x,)))


def linear() -> torch.nn.Linear:
    return torch.nn.Linear(WIDTH, WIDTH)


def two_heads(x: jax.Array) -> jax.Array:
    return nn.Dense(WIDTH)(x) * jnp.exp(nn.Dense(WIDTH)(x))


def one_after_another(x: jax.Array) -> jax.Array:
    y = nn.Dense(WIDTH)(x)
    return nn.Dense(WIDTH)(nn.relu(y))


def test_numbers_of_layers_that_read_one_input_are_an_assumption() -> None:
    plan = planned(two_heads, fc21=linear(), fc22=linear())
    assert {problem.problem for problem in plan.problems} == {"assumption"}
    assert all("read one input" in problem.text for problem in plan.problems)


def test_numbers_of_layers_that_read_one_another_stand() -> None:
    plan = planned(one_after_another, fc1=linear(), fc2=linear())
    assert plan.ok, str(plan)
    assert {move.grade for move in plan.moves} == {"numbers"}


class Pieces(nn.Module):
    """Two layers in one of several containers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return one_after_another(x)


def test_first_layers_of_containers_that_read_one_input_are_told_by_their_containers() -> None:
    def body(x: jax.Array) -> jax.Array:
        return Pieces(name="left")(x) + 2 * Pieces(name="right")(x)

    def two() -> torch.nn.Module:
        return torch.nn.Sequential(linear(), torch.nn.ReLU(), linear())

    plan = planned(body, left=two(), right=two())
    assert plan.ok, str(plan)


class Layer(nn.Module):
    """One layer of a stack in one array: with a name that Linen gave."""

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return nn.relu(nn.Dense(WIDTH)(x)), None


def test_layers_of_one_array_come_one_after_another_although_they_are_seen_once() -> None:
    def body(x: jax.Array) -> jax.Array:
        stack = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return stack(name="layers")(x, None)[0]

    layers = torch.nn.ModuleList(torch.nn.ModuleDict({"fc": linear()}) for _ in range(3))
    plan = planned(body, layers=layers)
    assert plan.ok, str(plan)


def test_what_was_seen_of_inputs_outlives_json() -> None:
    net, x = Called(two_heads), jnp.ones((2, WIDTH))
    side = Side.of(sr.of(net.init(jax.random.key(0), x), module=net, args=(x,)))
    (one, two) = side.layers
    assert one.reads == two.reads is not None
    assert [layer.reads for layer in Side.from_dict(side.to_dict()).layers] == [one.reads, two.reads]


def block(*, apart: bool) -> toy.Model:
    """Attention and MLP with their norms, which torch declares beside them or apart from them."""
    rows = [
        ("layer_norm", (WIDTH,), "norm1", "LayerNorm_0"), ("linear", (WIDTH, WIDTH), "mix", "mix"),
        ("layer_norm", (WIDTH,), "norm2", "LayerNorm_1"), ("linear", (WIDTH, 9), "wide", "wide"),
        ("linear", (9, WIDTH), "narrow", "narrow"),
    ]  # fmt: skip
    toys = toy.model(rows)
    return (toys[0], toys[2], toys[1], *toys[3:]) if apart else toys


@pytest.mark.parametrize("apart", [False, True])
def test_numbers_of_norms_that_are_declared_apart_from_what_they_serve_are_an_assumption(apart: bool) -> None:
    source, target = toy.side(block(apart=apart), "torch", typed=True), toy.side(block(apart=False), "flax", typed=True)
    plan = toy.make(source, target, allow=("choice",))
    assert {problem.problem for problem in plan.problems} == ({"assumption"} if apart else set())
    assert all("declared apart" in problem.text for problem in plan.problems)


def test_numbers_of_norms_of_which_no_declaration_is_known_stand() -> None:
    source, target = (toy.side(block(apart=False), framework, typed=True) for framework in ("torch", "flax"))
    source = replace(source, entries=dict(sorted(source.entries.items())))
    plan = toy.make(source, target, allow=("choice",))
    assert plan.ok, str(plan)
