"""Registries over the state of optimizers keep what the specification says of any registry."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from runs import TORCH, Nnx, Torch, batches, run

import stateregistry as sr
from stateregistry import errors

BOTH = pytest.mark.parametrize("framework", ["torch", "flax-linen", "flax-nnx"])


@BOTH
def test_entries_are_buffers_with_a_place_and_the_native_shape(trained, framework):
    state = trained(framework, "adam").state
    assert all(entry.kind is sr.Kind.BUFFER and not entry.trainable for entry in state.values())
    assert set(state.places) == set(state)
    model = state.model
    moments = [(key, place) for key, place in state.places.items() if place.slot.endswith("moment")]
    assert len(moments) == 2 * sum(entry.trainable for entry in model.values())
    assert all(state[key].shape == model[place.parameters[0]].shape for key, place in moments)


@BOTH
def test_a_write_is_what_is_read_and_the_rest_stays(trained, framework):
    state = trained(framework, "adam").state
    before = sr.snapshot(state)
    key = next(key for key in state if len(state[key].shape) == 4)
    value = np.random.default_rng(1).standard_normal(state[key].shape).astype("f")
    new = state.replace({key: value})
    assert (new is state) is state.in_place
    after = sr.snapshot(new)
    assert after[key].tobytes() == value.tobytes()
    assert all(after[name].tobytes() == before[name].tobytes() for name in before if name != key)
    if not state.in_place:
        assert sr.snapshot(state)[key].tobytes() == before[key].tobytes()


@BOTH
def test_a_wrong_value_changes_nothing(trained, framework):
    state = trained(framework, "adam").state
    before = sr.snapshot(state)
    first, second = [key for key in state if len(state[key].shape) == 4][:2]
    with pytest.raises(errors.MismatchError):
        state.replace({first: np.ones(state[first].shape, "f"), second: np.ones((1,), "f")})
    assert all(sr.snapshot(state)[key].tobytes() == before[key].tobytes() for key in before)


def test_a_fresh_torch_optimizer_lists_what_an_update_would_make():
    made = run("torch", "adam")
    state = made.state
    assert not any(entry.concrete for entry in state.values())
    made.step(*batches(1)[0])
    assert {key: (e.shape, e.dtype) for key, e in state.items()} == {
        key: (e.shape, e.dtype) for key, e in run("torch", "adam").state.items()
    }
    assert all(entry.concrete for entry in state.values())


def test_a_part_of_what_an_update_makes_is_refused_and_leaves_nothing():
    made = run("torch", "adam")
    with pytest.raises(errors.AbstractError, match="mid/weight/step"):
        made.state.replace({"mid/weight/exp_avg": np.zeros((8, 8), "f")})
    assert not made.optimizer.state


def test_a_write_that_fails_takes_away_what_it_made(monkeypatch):
    made = run("torch", "adam")
    values = {key: np.zeros(entry.shape, entry.dtype) for key, entry in made.state.items() if key.startswith("mid/")}
    calls = []

    class Failing(dict):
        def __setitem__(self, name, value):
            calls.append(name)
            if len(calls) == 4:
                raise RuntimeError("full")
            super().__setitem__(name, value)

    original = made.optimizer.state
    original.default_factory = Failing
    with pytest.raises(errors.CommitError, match="every place has its old value"):
        made.state.replace(values)
    assert not original


def test_the_tensors_of_a_torch_optimizer_stay_the_objects_that_they_are(trained):
    made = trained("torch", "adam")
    tensor = made.optimizer.state[made.net.mid.weight]["exp_avg"]
    made.state.replace({"mid/weight/exp_avg": np.full((8, 8), 2, "f")})
    assert made.optimizer.state[made.net.mid.weight]["exp_avg"] is tensor
    assert float(tensor[0, 0]) == 2


def test_tied_parameters_are_one():
    net = Torch()
    net.head.weight = net.mid.weight
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    state = sr.of(optimizer, model=net)
    assert {place.parameters for place in state.places.values()} == {
        (key,) for key in sr.of(net) if sr.of(net)[key].trainable
    }


def test_groups_with_other_settings_are_listed():
    net = Torch()
    groups = [{"params": net.stem.parameters(), "lr": 0.1}, {"params": net.mid.parameters()}]
    state = sr.of(torch.optim.SGD(groups, lr=0.2, momentum=0.9), model=net)
    assert state.settings["learning_rate"] == (0.1, 0.2)
    assert state.settings["momentum"] == 0.9


def test_what_no_optimizer_of_ours_keeps_is_opaque(trained):
    made = trained("torch", "adam")
    made.optimizer.state[made.net.mid.weight]["mystery"] = torch.zeros(2)
    assert list(made.state.opaque) == ["mid/weight/mystery"]
    plan = sr.plan(made.state, run("flax-linen", "adam").state)
    assert [problem.problem for problem in plan.problems] == ["unexpected"]


@pytest.mark.parametrize("name", ["Adagrad", "RMSprop", "NAdam"])
def test_an_optimizer_that_is_not_known_is_named(name):
    net = Torch()
    with pytest.raises(errors.UnsupportedError, match=f"{name} is not known"):
        sr.of(getattr(torch.optim, name)(net.parameters()), model=net)


def test_a_subclass_may_compute_something_else():
    class Mine(torch.optim.Adam):
        pass

    net = Torch()
    with pytest.raises(errors.UnsupportedError, match="Mine is not known"):
        sr.of(Mine(net.parameters()), model=net)


def test_an_optimizer_of_another_model_is_refused():
    with pytest.raises(errors.UnsupportedError, match="no parameters of the model"):
        sr.of(TORCH["adam"](Torch().parameters()), model=Torch())


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda: TORCH["adam"](Torch().parameters()), "sr.of(optimizer, model=net)"),
        (lambda: optax.adam(1e-3).init({"a": jnp.zeros(2)}), "sr.of(opt_state, model=variables)"),
        (lambda: nnx.Optimizer(Nnx(), optax.adam(1e-3), wrt=nnx.Param), "sr.of(opt_state, model=variables)"),
    ],
    ids=["torch", "optax", "nnx"],
)
def test_without_a_model_it_says_what_to_pass(make, hint):
    with pytest.raises(errors.AdapterError) as error:
        sr.of(make())
    assert hint in error.value.hint


def test_the_model_of_another_framework_is_refused():
    net = Torch()
    with pytest.raises(errors.AdapterError, match="flax-nnx"):
        sr.of(TORCH["adam"](net.parameters()), model=Nnx())


def test_an_unknown_state_of_optax_has_entries_without_a_place():
    params = {"params": {"mid": {"kernel": jnp.zeros((8, 8))}}}
    state = sr.of(optax.rmsprop(1e-3).init(params["params"]), model=params)
    assert list(state) == ["0/nu/mid/kernel"]
    assert not state.places


def test_a_registry_sees_groups_that_come_and_parameters_that_are_frozen():
    net = Torch()
    optimizer = torch.optim.Adam(net.mid.parameters())
    state = sr.of(optimizer, model=net)
    assert "head/weight/step" not in state
    optimizer.add_param_group({"params": net.head.parameters()})
    assert "head/weight/step" in state
    net.head.weight.requires_grad_(False)
    assert "head/weight/step" not in state
    del optimizer.param_groups[1]
    assert "head/bias/step" not in state
