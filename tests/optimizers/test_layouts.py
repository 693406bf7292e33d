"""What an optimizer keeps moves as its parameter does: split, stacked, tied, frozen, masked; or it is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen
from runs import Linen, Torch, run
from torch import nn

import stateregistry as sr
from stateregistry import errors


def stepped(net: nn.Module, optimizer: torch.optim.Optimizer, *inputs: torch.Tensor, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        out = net(*inputs)
        out = out[0] if isinstance(out, tuple) else out
        (out**2 * torch.linspace(0, 1, out.numel()).reshape(out.shape)).sum().backward()
        optimizer.step()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attn(x, x, x, need_weights=False)[0]


class LinenAttention(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.MultiHeadDotProductAttention(2, name="attn")(x)


def linen_registry(module: linen.Module, x: Any) -> sr.StateRegistry:
    return sr.of(module.init(jax.random.key(0), x), module=module, args=(x,))


def test_the_moments_of_a_fused_projection_are_split_as_it_is():
    torch.manual_seed(0)
    net = Attention()
    optimizer = torch.optim.Adam(net.parameters())
    stepped(net, optimizer, torch.randn(2, 5, 8))
    model = linen_registry(LinenAttention(), jnp.zeros((2, 5, 8)))
    state = optax.adam(1e-3).init(model.unwrap()["params"])
    made = sr.convert(sr.of(optimizer, model=net), sr.of(state, model=model)).target
    fused = optimizer.state[net.attn.in_proj_weight]
    for slot, name in ((made[0].mu, "exp_avg"), (made[0].nu, "exp_avg_sq")):
        for number, part in enumerate(("query", "key", "value")):
            want = fused[name].numpy()[8 * number : 8 * number + 8].reshape(2, 4, 8).transpose(2, 0, 1)
            np.testing.assert_array_equal(np.asarray(slot["attn"][part]["kernel"]), want)
    assert int(made[0].count) == 3


class Block(linen.Module):
    @linen.compact
    def __call__(self, x: Any, _: Any) -> Any:
        return linen.tanh(linen.Dense(8, name="dense")(x)), None


class Stacked(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        scan = linen.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return scan(name="layers")(x, None)[0]


def test_the_moments_of_separate_layers_are_stacked_as_they_are():
    torch.manual_seed(0)
    net = nn.Module()
    net.layers = nn.ModuleList(nn.ModuleDict({"dense": nn.Linear(8, 8)}) for _ in range(3))
    net.forward = lambda x: [x := torch.tanh(layer["dense"](x)) for layer in net.layers][-1]
    optimizer = torch.optim.Adam(net.parameters())
    stepped(net, optimizer, torch.randn(2, 8))
    model = linen_registry(Stacked(), jnp.zeros((2, 8)))
    state = optax.adam(1e-3).init(model.unwrap()["params"])
    made = sr.convert(sr.of(optimizer, model=net), sr.of(state, model=model), allow=("assumption",)).target
    want = np.stack([optimizer.state[layer["dense"].weight]["exp_avg"].numpy().T for layer in net.layers])
    np.testing.assert_array_equal(np.asarray(made[0].mu["layers"]["dense"]["kernel"]), want)


class LinenLSTM(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.RNN(linen.OptimizedLSTMCell(8), name="rnn")(x)


def test_two_biases_that_become_one_are_refused():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(8, 8, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rnn(x)[0]

    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    stepped(net, optimizer, torch.randn(2, 5, 8))
    model = linen_registry(LinenLSTM(), jnp.zeros((2, 5, 8)))
    state = sr.of(optax.adam(1e-3).init(model.unwrap()["params"]), model=model)
    plan = sr.plan(sr.of(optimizer, model=net), state, allow=("missing", "unexpected", "choice", "lossy"))
    refused = [problem for problem in plan.problems if problem.problem == "impossible"]
    assert refused
    assert all("larger steps" in problem.text for problem in refused)
    assert not [problem for problem in refused if "/kernel" in problem.keys[-1]]
    back = sr.plan(state, sr.of(torch.optim.Adam(net.parameters()), model=net), allow=("choice",))
    assert not back.ok


def test_updates_counted_differently_are_refused_before_anything_is_written(trained):
    source, target = trained("torch", "adam"), run("flax-linen", "adam")
    source.optimizer.state[source.net.head.bias]["step"] += 1
    with pytest.raises(errors.PlanError, match="7 to 8 updates"):
        sr.convert(source.state, target.state)


def test_a_parameter_that_was_never_updated_is_named(trained):
    source, target = trained("torch", "adam"), run("flax-linen", "adam")
    del source.optimizer.state[source.net.head.bias]
    plan = sr.plan(source.state, target.state)
    assert {problem.keys for problem in plan.problems} == {("0/mu/head/bias",), ("0/nu/head/bias",)}
    assert "no update" in plan.problems[0].text
    assert sr.convert(source.state, target.state, allow=("missing",)).plan.ok


def test_a_fresh_optimizer_has_nothing_to_continue():
    plan = sr.plan(run("torch", "adam").state, run("flax-linen", "adam").state)
    assert all("no update" in problem.text for problem in plan.problems)
    assert plan.problems


def test_one_rule_does_not_become_another(trained):
    plan = sr.plan(trained("torch", "sgd").state, run("flax-linen", "adam").state)
    assert {problem.problem for problem in plan.problems} == {"missing", "unexpected"}
    assert any("keeps no first moment" in problem.text for problem in plan.problems)


def test_the_maxima_of_amsgrad_are_two_things(trained):
    source = run("torch", "adam")
    source.optimizer = torch.optim.Adam(source.net.parameters(), amsgrad=True)
    stepped(source.net, source.optimizer, torch.randn(2, 3, 6, 6))
    target = run("flax-linen", "adam")
    target.opt_state = optax.amsgrad(1e-3).init(target.variables["params"])
    plan = sr.plan(source.state, target.state)
    assert {p.problem for p in plan.problems} == {"missing", "unexpected"}
    assert all("max" in "".join(p.keys) for p in plan.problems)


def test_frozen_parameters_and_masks_leave_out_the_same(trained):
    net = Torch()
    net.stem.requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters())
    stepped(net, optimizer, torch.randn(2, 3, 6, 6))
    source = sr.of(optimizer, model=net)
    assert not [key for key in source if key.startswith("stem/")]
    target = run("flax-linen", "adam")
    params = target.variables["params"]
    mask = {name: jax.tree.map(lambda _, name=name: name != "stem", tree) for name, tree in params.items()}
    target.opt_state = optax.masked(optax.adam(1e-3), mask).init(params)
    assert sr.convert(source, target.state).plan.ok
    labels = {name: jax.tree.map(lambda _, name=name: "b" if name == "stem" else "a", t) for name, t in params.items()}
    tx = optax.multi_transform({"a": optax.adam(1e-3), "b": optax.set_to_zero()}, labels)
    target.opt_state = tx.init(params)
    done = sr.convert(source, target.state)
    want = optimizer.state[net.mid.weight]["exp_avg"].numpy().T
    found = done.target.inner_states["a"].inner_state[0].mu["mid"]["kernel"]
    np.testing.assert_array_equal(np.asarray(found), want)


def test_moments_in_sixteen_bits_are_cast_when_asked(trained):
    source, target = trained("torch", "adam"), run("flax-linen", "adam")
    target.opt_state = optax.adam(1e-3, mu_dtype=jnp.bfloat16).init(target.variables["params"])
    plan = sr.plan(source.state, target.state)
    assert {problem.problem for problem in plan.problems} == {"dtype"}
    done = sr.convert(source.state, target.state, dtype="target", allow=("lossy",))
    assert done.target[0].mu["mid"]["kernel"].dtype == jnp.bfloat16


def test_names_that_differ_are_paired_by_the_models_and_their_rules(trained):
    class Other(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            x = linen.relu(linen.Conv(8, (3, 3), name="first")(x))
            x = linen.Conv(8, (3, 3), use_bias=False, name="second")(x)
            x = linen.relu(linen.BatchNorm(use_running_average=True, name="third")(x)).mean((1, 2))
            return linen.Dense(8, name="five")(linen.relu(linen.Dense(8, name="four")(x)))

    source = trained("torch", "adam")
    model = linen_registry(Other(), jnp.zeros((1, 6, 6, 3)))
    state = sr.of(optax.adam(1e-3).init(model.unwrap()["params"]), model=model)
    rules = {"mid": "four", "head": "five"}
    made = sr.convert(source.state, state, rules=rules).target
    want = source.optimizer.state[source.net.mid.weight]["exp_avg"].numpy().T
    np.testing.assert_array_equal(np.asarray(made[0].mu["four"]["kernel"]), want)
    with pytest.raises(errors.AmbiguousAlignment):
        sr.convert(source.state, state)


def test_an_optimizer_does_not_become_a_model(trained):
    source = trained("torch", "adam")
    with pytest.raises(errors.PlanError, match="one side is the state of an optimizer"):
        sr.plan(source.state, source.model)


def test_a_state_made_of_all_variables_is_understood():
    target = run("flax-linen", "adam")
    target.opt_state = optax.adam(1e-3).init({"params": target.variables["params"]})
    assert target.state.places["0/mu/params/mid/kernel"].parameters == ("mid/kernel",)


def test_a_state_of_another_model_is_refused():
    state = optax.adam(1e-3).init({"elsewhere": jnp.zeros((2, 2))})
    with pytest.raises(errors.UnsupportedError, match="elsewhere"):
        sr.of(state, model=Linen().init(jax.random.key(0), jnp.zeros((1, 6, 6, 3))))
