"""What rules say wins over what would have paired, and a rule without effect is never silent."""

from __future__ import annotations

import models
import numpy as np
import pytest
import torch
from flax import nnx

import stateregistry as sr
from stateregistry.errors import PlanError, RuleError


class Two(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)


class NnxTwo(nnx.Module):
    def __init__(self) -> None:
        self.body, self.head = nnx.Linear(3, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 3, rngs=nnx.Rngs(1))


TARGETS = [pytest.param(Two, id="same framework"), pytest.param(NnxTwo, id="across")]


def bits(obj: object, prefix: str) -> dict[str, bytes]:
    return {key: value.tobytes() for key, value in sr.snapshot(sr.of(obj)).items() if key.startswith(prefix)}


@pytest.mark.parametrize("target", TARGETS)
def test_keep_holds_the_targets_values_although_the_source_has_some(target) -> None:
    model = target()
    before = bits(model, "head")
    done = sr.convert(Two(), model, rules={"keep": [{"target": "head"}]})
    assert bits(done.target, "head") == before
    assert sum(move.op == "keep" for move in done.plan.moves) == 2


@pytest.mark.parametrize("target", TARGETS)
def test_drop_leaves_out_although_the_target_has_a_place(target) -> None:
    model = target()
    before = bits(model, "head")
    rules = {"drop": [{"source": "head"}], "keep": [{"target": "head"}]}
    assert bits(sr.convert(Two(), model, rules=rules).target, "head") == before
    plan = sr.plan(Two(), target(), rules={"drop": [{"source": "head"}]})
    assert {problem.problem for problem in plan.problems} == {"missing"}


@pytest.mark.parametrize("target", TARGETS)
def test_fill_fills_although_the_source_has_a_value(target) -> None:
    done = sr.convert(Two(), target(), rules={"fill": [{"target": "head/bias", "value": 7}]})
    assert (sr.of(done.target).read("head/bias") == 7).all()


def test_a_derived_tree_has_no_place_for_what_is_dropped() -> None:
    done = sr.convert(Two(), to="flax-linen", rules={"drop": [{"source": "head"}]})
    assert set(done.target["params"]) == {"body"}


@pytest.mark.parametrize(
    ("value", "dtype"), [(0.5, torch.int64), (-1, torch.uint8), (2.0, torch.bool), (1e39, torch.float32)]
)
def test_a_fill_that_the_dtype_cannot_hold_is_a_problem(value: float, dtype: torch.dtype) -> None:
    def model() -> torch.nn.Module:
        net = torch.nn.Module()
        net.register_buffer("x", torch.zeros(2, dtype=dtype))
        return net

    plan = sr.plan(model(), model(), rules={"fill": [{"target": "x", "value": value}]})
    assert [problem.problem for problem in plan.problems] == ["rule"]


@pytest.mark.parametrize(
    "rules",
    [
        {"drop": [{"source": 5}]}, {"rename": [{"source": "a", "target": 3}]}, {"fill": [{"target": "a", "value": "x"}]},
        {"layer": [{"path": "a", "kind": "nonsense"}]}, [("a", 3)],
        {"layout": [{"source": "a", "source_axes": "(((", "target_axes": "in"}]},
    ],
)  # fmt: skip
def test_rules_of_the_wrong_type_are_refused(rules) -> None:
    with pytest.raises(RuleError):
        sr.plan(Two(), NnxTwo(), rules=rules)


@pytest.mark.parametrize("to", [None, "flax-linen"])
def test_a_rename_of_one_array_of_a_layer_is_not_silently_ignored(to: str | None) -> None:
    target = None if to else NnxTwo()
    plan = sr.plan(Two(), target, to=to, rules={"head/weight": "out/kernel"})
    assert any(problem.problem == "rule" and "head/weight" in problem.keys for problem in plan.problems)


def test_renames_reach_the_root_and_leave_it() -> None:
    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(3, 3)

    done = sr.convert(torch.nn.Linear(3, 3), to="flax-linen", rules={"": "fc"})
    assert set(done.target["params"]["fc"]) == {"kernel", "bias"}
    done = sr.convert(Wrapped(), to="flax-linen", rules={"fc": ""})
    assert set(done.target["params"]) == {"kernel", "bias"}


def test_opaque_state_is_dropped_by_a_rule() -> None:
    class Extra(Two):
        def get_extra_state(self) -> object:
            return {"a": 1}

        def set_extra_state(self, state: object) -> None: ...

    plan = sr.plan(Extra(), NnxTwo())
    assert [problem.problem for problem in plan.problems] == ["opaque"]
    assert sr.plan(Extra(), NnxTwo(), rules={"drop": [{"source": "_extra_state"}]}).ok


def test_a_dtype_that_cannot_be_given_is_not_silently_ignored() -> None:
    plan = sr.plan(models.torch_net(), models.NnxNet(), allow=("choice",), dtype="float16")
    assert {problem.problem for problem in plan.problems} == {"dtype"}
    done = sr.convert(models.torch_net(), to="torch", dtype="float16")
    assert done.target["fc.weight"].dtype is torch.float16
    assert done.target["bn.num_batches_tracked"].dtype is torch.int64


def test_a_rounding_cast_is_not_called_exact() -> None:
    done = sr.convert(models.torch_net(), to="flax-linen", allow=("choice",), dtype="bfloat16")
    kinds = {move.cls for move in done.plan.moves if move.cast}
    assert kinds == {"lossy"}


def test_to_its_own_framework_gives_a_state_of_its_own() -> None:
    net = models.torch_net()
    done = sr.convert(net, to="torch")
    assert {name: value.numpy().tobytes() for name, value in done.target.items()} == {
        name: value.numpy().tobytes() for name, value in net.state_dict().items()
    }


def test_an_unknown_array_is_an_assumption_in_a_derived_tree_too() -> None:
    net = torch.nn.Module()
    net.kernel = torch.nn.Parameter(torch.rand(3, 4))
    plan = sr.plan(net, to="flax-linen")
    assert [problem.problem for problem in plan.problems] == ["assumption"]


@pytest.mark.parametrize("allow", ["choice", None, 3])
def test_allow_takes_a_collection_of_names(allow) -> None:
    with pytest.raises(PlanError, match="collection"):
        sr.plan(Two(), NnxTwo(), allow=allow)


def test_an_ambiguous_layer_is_reported_once(tmp_path) -> None:
    sr.save({"lm/weight": np.zeros((3, 3), np.float32)}, tmp_path / "x.safetensors")
    plan = sr.plan(tmp_path / "x.safetensors", to="flax-linen")
    assert all(problem.problem in {"ambiguous", "assumption"} for problem in plan.problems)
