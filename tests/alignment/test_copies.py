"""What one side has twice and calls a copy: an assumption for the one, and the other has no place. Never in silence."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import stateregistry as sr


class Plain(torch.nn.Module):
    """Three linears, of which two are squares."""

    def __init__(self, *twice: str) -> None:
        super().__init__()
        self.enc = torch.nn.Linear(6, 8)
        self.mid = torch.nn.Linear(8, 8)
        self.fc = torch.nn.Linear(8, 8)
        self.out = torch.nn.Linear(8, 4)
        for name in twice:
            self.add_module(name, torch.nn.Linear(8, 8 if name.strip("_").startswith(("fc", "ema_fc")) else 4))


class Foreign(nn.Module):
    """The same in other words; `more` is one layer more at its end."""

    more: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="stem")(x)
        x = nn.Dense(8, name="middle")(x)
        x = nn.Dense(8, name="fc_last")(x)
        x = nn.Dense(4, name="readout")(x)
        return nn.Dense(4, name="extra")(x[..., :1].repeat(8, -1)) if self.more else x


RULES = {"rename": [{"source": "mid", "target": "middle"}]}


def variables(**options: bool):
    return Foreign(**options).init(jax.random.key(1), jnp.ones((1, 6)))


def plan(source, target, **options) -> sr.Plan:
    return sr.plan(sr.of(source), sr.of(target), **options)


@pytest.mark.parametrize("name", ["out_ema", "out_old", "outCopy", "old_out", "out_backup"])
def test_a_copy_has_no_place_and_what_it_copies_is_an_assumption(name: str) -> None:
    found = plan(Plain(name), variables(), rules=RULES)
    said = {problem.problem: problem for problem in found.problems}
    assert set(said) == {"unexpected", "assumption"}
    assert said["unexpected"].keys == (name,)
    assert "by its name a copy of 'out'" in said["unexpected"].text
    assert name in str(said["assumption"])


def test_it_converts_the_original_where_both_are_allowed() -> None:
    model, target = Plain("out_ema"), variables()
    made = sr.convert(model, target, rules=RULES, allow=("assumption", "unexpected"))
    wanted = model.out.weight.detach().numpy().T
    assert np.ascontiguousarray(wanted).tobytes() == np.asarray(made.target["params"]["readout"]["kernel"]).tobytes()


def test_the_copy_is_taken_where_a_rule_names_it() -> None:
    rules = {"rename": [*RULES["rename"], {"source": "out_ema", "target": "readout"}], "drop": [{"source": "out"}]}
    model, target = Plain("out_ema"), variables()
    found = plan(model, target, rules=rules)
    assert found.ok, found.problems
    made = sr.convert(model, target, rules=rules)
    wanted = model.out_ema.weight.detach().numpy().T
    assert np.ascontiguousarray(wanted).tobytes() == np.asarray(made.target["params"]["readout"]["kernel"]).tobytes()


def test_without_leave_for_its_place_the_original_of_a_copy_that_a_rule_names_is_left_over() -> None:
    rules = {"rename": [*RULES["rename"], {"source": "out_ema", "target": "readout"}]}
    found = plan(Plain("out_ema"), variables(), rules=rules)
    assert [problem.keys for problem in found.problems] == [("out",)]
    copied = [move for move in found.moves if move.op == "copy"]
    assert not [move for move in copied if any(feed.key.startswith("out/") for feed in move.sources)]


def test_a_copy_on_the_side_of_the_target_is_missing() -> None:
    found = plan(variables(), Plain("out_ema"), rules=sr.rules.Rules.of(RULES).inverse())
    assert {problem.problem for problem in found.problems} == {"missing", "assumption"}


@pytest.mark.parametrize("name", ["out_head", "out_target", "out2", "teacher_out", "gold_out", "outold"])
def test_words_that_do_not_say_copy_leave_two_of_one_shape_open(name: str) -> None:
    found = plan(Plain(name), variables(), rules=RULES)
    assert not found.ok
    assert "copy" not in " ".join(str(problem) for problem in found.problems)


def test_a_layer_called_a_copy_goes_to_the_place_that_the_other_side_has_for_it() -> None:
    """As many of them on both sides: which is which is open, and no name settles it."""
    found = plan(Plain("out_old"), variables(more=True), rules=RULES)
    assert not found.ok
    assert "copy" not in " ".join(str(problem) for problem in found.problems)


def test_a_copy_of_something_else_is_none() -> None:
    """`fc_ema` beside `fc`, in another shape: it is what it is."""

    class Odd(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.fc_ema = torch.nn.Linear(8, 5)

    found = plan(Odd(), variables(), rules=RULES)
    assert not any("copy" in str(problem) for problem in found.problems)
    assert any(key.startswith("fc_ema") for problem in found.problems for key in problem.keys)


def test_what_other_questions_leave_open_stays_open_with_a_copy_beside() -> None:
    """`mid` and `fc` are two squares that no word tells apart here: a copy elsewhere settles nothing."""
    found = plan(Plain("out_ema"), variables(), allow=("assumption", "unexpected"))
    assert "ambiguous" in {problem.problem for problem in found.problems}


@pytest.mark.parametrize(
    ("source", "target", "rules"),
    [
        (lambda: Plain("out_ema"), variables, {"drop": [{"source": "out_ema"}]}),
        (lambda: Plain("fc_head"), variables, {"drop": [{"source": "fc_head"}]}),
    ],
)
def test_what_a_rule_drops_is_no_candidate(source, target, rules) -> None:
    assert not plan(source(), target(), rules=RULES).ok
    assert plan(source(), target(), rules=RULES | rules).ok


def test_what_a_rule_keeps_is_no_candidate() -> None:
    inverse = {"rename": [{"source": "middle", "target": "mid"}]}
    assert not plan(variables(), Plain("out_head"), rules=inverse).ok
    found = plan(variables(), Plain("out_head"), rules=inverse | {"keep": [{"target": "out_head"}]})
    assert found.ok, found.problems


def test_a_bias_that_a_rule_drops_leaves_its_layer_among_the_candidates() -> None:
    found = plan(Plain(), variables(), rules=RULES | {"drop": [{"source": "out/bias"}]})
    assert any("readout/kernel" in move.target for move in found.moves)
