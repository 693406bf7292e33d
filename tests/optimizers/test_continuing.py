"""Training that is continued in another framework computes what it would have computed in its own."""

from __future__ import annotations

import numpy as np
import pytest
from runs import LinenRun, batches, carry, run

import stateregistry as sr

FRAMEWORKS = ("torch", "flax-linen", "flax-nnx")
PAIRS = [(one, two) for one in FRAMEWORKS for two in FRAMEWORKS if one != two]


@pytest.mark.parametrize("rule", ["adam", "adamw", "sgd", "nesterov"])
@pytest.mark.parametrize(("one", "two"), PAIRS)
def test_ten_further_steps_agree(trained, one, two, rule):
    source, target = trained(one, rule), run(two, rule)
    done = carry(source, target)
    assert done.plan.ok
    further = batches(10, seed=1)
    expected, found = [source.step(*b) for b in further], [target.step(*b) for b in further]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_without_the_state_of_the_optimizer_the_steps_do_not_agree(trained, rule):
    source, target = trained("torch", rule), run("flax-linen", rule)
    target.variables = sr.convert(source.model, target.model, allow=("choice",)).target
    further = batches(10, seed=1)
    expected, found = [source.step(*b) for b in further], [target.step(*b) for b in further]
    assert max(abs(np.array(found) / expected - 1)) > 1e-3


@pytest.mark.parametrize("rule", ["adam", "sgd"])
@pytest.mark.parametrize("middle", ["flax-linen", "flax-nnx"])
def test_there_and_back_every_bit_is_the_same(trained, rule, middle):
    source, there, back = trained("torch", rule), run(middle, rule), run("torch", rule)
    carry(source, there)
    carry(there, back)
    mine, found = sr.snapshot(source.state), sr.snapshot(back.state)
    assert mine.keys() == found.keys()
    assert all(np.array_equal(mine[key].view("u4"), found[key].view("u4")) for key in mine)


def test_a_count_of_a_schedule_goes_on_from_the_updates_that_were_made(trained):
    import optax

    source = trained("torch", "adam")
    target = LinenRun(optax.adam(optax.linear_schedule(1e-2, 0.0, 100)))
    target.variables = sr.convert(source.model, target.model, allow=("choice",)).target
    state = sr.convert(source.state, target.state).target
    assert [int(part.count) for part in (state[0], state[1])] == [7, 7]
    tx = optax.inject_hyperparams(optax.adam)(learning_rate=optax.linear_schedule(1e-2, 0.0, 100))
    target.opt_state = tx.init(target.variables["params"])
    state = sr.convert(source.state, target.state).target
    assert (int(state.count), int(state.hyperparams_states["learning_rate"].count)) == (7, 7)
    target.opt_state = optax.named_chain(("clip", optax.clip(1.0)), ("adam", optax.adam(1e-2))).init(
        target.variables["params"]
    )
    assert int(sr.convert(source.state, target.state).target["adam"][0].count) == 7


def test_settings_in_a_state_stay_and_differences_are_findings(trained):
    import optax

    source = trained("torch", "adam")
    target = LinenRun(optax.inject_hyperparams(optax.adam)(learning_rate=1e-3, b1=0.8, b2=0.95))
    target.variables = sr.convert(source.model, target.model, allow=("choice",)).target
    done = sr.convert(source.state, target.state)
    assert float(done.target.hyperparams["learning_rate"]) == np.float32(1e-3)
    (finding,) = [each for each in done.plan.findings if each.name == "learning_rate"]
    assert (finding.source, finding.matters) == (1e-2, "training")
    assert not [each for each in done.plan.findings if each.name in ("b1", "b2", "eps")]


def test_what_cannot_be_seen_is_told(trained):
    plan = sr.plan(trained("torch", "adamw").state, run("flax-linen", "adamw").state)
    (finding,) = plan.findings
    assert "weight_decay=0.1" in finding.source
    assert "decoupled=True" in finding.source


def test_a_plan_of_optimizers_is_json_both_ways_and_has_an_inverse(trained):
    plan = sr.plan(trained("torch", "adam").state, run("flax-linen", "adam").state)
    assert sr.Plan.from_json(plan.to_json()) == plan
    assert plan.invert().ok


def test_every_entry_of_both_sides_is_in_one_move(trained):
    source, target = trained("torch", "adam").state, run("flax-nnx", "adam").state
    plan = sr.plan(source, target)
    assert sorted(move.target for move in plan.moves if move.target) == sorted(target)
    assert sorted({feed.key for move in plan.moves for feed in move.sources}) == sorted(source)


def test_a_file_keeps_the_state_of_an_optimizer(trained, tmp_path):
    source, target = trained("torch", "adam"), run("torch", "adam")
    sr.save(source.state, tmp_path / "state.safetensors")
    with sr.open(tmp_path / "state.safetensors") as file:
        sr.load(target.state, file)
    mine, found = sr.snapshot(source.state), sr.snapshot(target.state)
    assert all(mine[key].tobytes() == found[key].tobytes() for key in mine)
    assert {len(state) for state in target.optimizer.state.values()} == {3}
