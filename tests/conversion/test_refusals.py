"""What a plan refuses, all of it at once, and that nothing was written when it did."""

from __future__ import annotations

from pathlib import Path

import models
import numpy as np
import pytest
import torch
from flax import nnx

import stateregistry as sr
from stateregistry.errors import PlanError, RuleError, UnsupportedError


def found(plan: sr.Plan) -> set[tuple[str, str]]:
    return {(problem.problem, problem.keys[-1] if problem.keys else "") for problem in plan.problems}


class Custom(torch.nn.Module):
    """A layer of nobody's: a square matrix whose axes only its author knows."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.kernel = torch.nn.Parameter(torch.rand(*shape))


class NnxCustom(nnx.Module):
    def __init__(self, *shape: int) -> None:
        self.kernel = nnx.Param(np.zeros(shape, np.float32))


def test_everything_that_is_wrong_is_reported_at_once() -> None:
    net = models.torch_net()
    net.extra = torch.nn.Linear(2, 2)
    net.fc = torch.nn.Linear(models.SIDE, 3)
    del net.ln
    plan = sr.plan(net, models.NnxNet())
    assert found(plan) == {
        ("shape", "fc/kernel"), ("shape", "fc/bias"), ("missing", "ln/scale"), ("missing", "ln/bias"),
        ("unexpected", "extra/weight"), ("unexpected", "extra/bias"), ("choice", "bn/num_batches_tracked"),
    }  # fmt: skip
    with pytest.raises(PlanError, match="extra/weight") as caught:
        plan.execute(net, models.NnxNet())
    assert caught.value.plan is plan


def test_a_refused_conversion_leaves_the_target_as_it_was() -> None:
    target = models.NnxNet()
    before = {key: value.tobytes() for key, value in sr.snapshot(sr.of(target)).items()}
    with pytest.raises(PlanError):
        sr.convert(models.torch_net(), target)
    assert {key: value.tobytes() for key, value in sr.snapshot(sr.of(target)).items()} == before


def test_missing_and_unexpected_are_tolerated_by_name_only() -> None:
    source, target = models.torch_net(), models.NnxNet()
    source.extra, target.more = torch.nn.Linear(2, 2), nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    kept = np.asarray(target.more.kernel.get_value()).tobytes()
    done = sr.convert(source, target, allow=("choice", "missing", "unexpected"))
    assert np.asarray(done.target.more.kernel.get_value()).tobytes() == kept


def test_an_unknown_name_in_allow_is_refused_with_those_that_exist() -> None:
    with pytest.raises(PlanError, match="assumption"):
        sr.plan(models.torch_net(), models.NnxNet(), allow=("everything",))


def test_neither_or_both_of_target_and_to_is_refused() -> None:
    with pytest.raises(PlanError, match="either a target or to="):
        sr.plan(models.torch_net())
    with pytest.raises(PlanError, match="either a target or to="):
        sr.convert(models.torch_net(), models.NnxNet(), to="torch")


def test_layers_of_different_kinds_under_one_path_do_not_pair() -> None:
    net = models.torch_net()
    net.fc = torch.nn.Embedding(models.SIDE, models.SIDE)
    assert ("kind", "fc") in found(sr.plan(net, models.NnxNet()))


def test_a_buffer_never_becomes_a_parameter() -> None:
    net = torch.nn.Module()
    net.register_buffer("scale", torch.ones(3))
    target = nnx.Dict(scale=nnx.Param(np.zeros(3, np.float32)))
    assert found(sr.plan(net, target)) >= {("kind", "scale")}


def test_a_square_matrix_of_no_known_layer_is_an_assumption() -> None:
    plan = sr.plan(Custom(4, 4), NnxCustom(4, 4))
    assert found(plan) == {("assumption", "kernel")}
    assert sr.plan(Custom(4, 4), NnxCustom(4, 4), allow=("assumption",)).ok


def test_an_array_that_no_other_order_would_fit_is_none() -> None:
    assert sr.plan(Custom(1, 3, 4), NnxCustom(1, 3, 4)).ok


def test_a_layout_rule_settles_it_and_reads_backwards() -> None:
    rules = {"layout": [{"source": "kernel", "source_axes": "out in", "target_axes": "in out"}]}
    source = Custom(4, 4)
    done = sr.convert(source, NnxCustom(4, 4), rules=rules)
    assert np.array_equal(np.asarray(done.target.kernel.get_value()), source.kernel.detach().numpy().T)
    back = done.plan.invert().execute(done.target, Custom(4, 4))
    assert torch.equal(back.target.kernel, source.kernel)


def test_a_cast_is_made_only_where_it_is_asked_for() -> None:
    source, target = models.torch_net().half(), models.NnxNet()
    assert {problem for problem, _ in found(sr.plan(source, target, allow=("choice",)))} == {"dtype"}
    done = sr.convert(source, target, allow=("choice",), dtype="lossless")
    expected = source.fc.bias.detach().numpy().astype(np.float32)
    assert np.asarray(done.target.fc.bias.get_value()).tobytes() == expected.tobytes()


def test_a_lossless_cast_that_would_round_is_refused_by_value_before_anything_is_written() -> None:
    source, target = Custom(3).double(), NnxCustom(3)
    with torch.no_grad():
        source.kernel.fill_(1 / 3)
    plan = sr.plan(source, target, dtype="lossless")
    assert plan.ok
    assert [str(condition) for condition in plan.conditions] == ["kernel as float32: every value comes back"]
    with pytest.raises(PlanError, match="kernel"):
        plan.execute(source, target)
    assert not np.asarray(target.kernel.get_value()).any()


def test_a_cast_that_overflows_is_refused_by_value() -> None:
    source = Custom(3).double()
    with torch.no_grad():
        source.kernel.fill_(1e300)
    with pytest.raises(PlanError, match="kernel"):
        sr.convert(source, NnxCustom(3), dtype="target")


def test_an_integer_never_becomes_a_float() -> None:
    net = torch.nn.Module()
    net.register_buffer("scale", torch.ones(3, dtype=torch.int32))
    target = nnx.Dict(scale=nnx.BatchStat(np.zeros(3, np.float32)))
    assert ("dtype", "scale") in found(sr.plan(net, target, dtype="target"))


def test_a_plan_is_refused_for_another_source_or_target() -> None:
    plan = sr.plan(models.torch_net(), models.NnxNet(), allow=("choice",))
    with pytest.raises(PlanError, match="another source"):
        plan.execute(models.torch_net(1), models.NnxNet())
    with pytest.raises(PlanError, match="another target"):
        plan.execute(models.torch_net(), models.NnxNet(1))


def test_a_plan_for_a_target_needs_it() -> None:
    net = models.torch_net()
    with pytest.raises(PlanError, match="pass it to execute"):
        sr.plan(net, models.NnxNet(), allow=("choice",)).execute(net)


def test_rules_that_match_nothing_and_names_claimed_twice_are_problems() -> None:
    plan = sr.plan(models.torch_net(), models.NnxNet(), rules={"nowhere": "anywhere"})
    assert "matches nothing" in str(plan)
    plan = sr.plan(models.torch_net(), models.NnxNet(), rules={"fc": "ln"})
    assert ("rule", "ln/bias") in found(plan) or ("rule", "fc/bias") in found(plan)


def test_what_this_version_does_not_do_is_refused_not_ignored() -> None:
    net = models.torch_net()
    plan = sr.plan(net, models.NnxNet(), allow=("choice",))
    with pytest.raises(UnsupportedError, match="workers"):
        plan.execute(net, models.NnxNet(), workers=2)


def test_a_plan_reads_back_from_json_as_the_same_plan() -> None:
    plan = sr.plan(models.torch_net(), models.NnxNet(), allow=("choice",))
    again = sr.Plan.from_json(plan.to_json())
    assert again == plan
    assert again.digest() == plan.digest()
    net = models.torch_net()
    models.assert_close(models.run_nnx(again.execute(net, models.NnxNet()).target), models.run_torch(net))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": "stateregistry.plan/9"}', '{"schema": "stateregistry.plan/1"}']
)
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        sr.Plan.from_json(text)


def test_config_that_the_function_depends_on_is_found() -> None:
    target = models.NnxNet()
    target.ln = nnx.LayerNorm(models.SIDE, rngs=nnx.Rngs(0))  # flax's default eps is 1e-6
    plan = sr.plan(models.torch_net(), target, allow=("choice",))
    assert [(f.path, f.name, f.source, f.target, f.matters) for f in plan.findings] == [
        ("bn", "momentum", 0.1, 0.01, "training"), ("bn", "unbiased_var", True, False, "training"),
        ("ln", "eps", 1e-5, 1e-6, "evaluation"),
    ]  # fmt: skip


def test_a_layer_rule_that_calls_arrays_what_they_are_not_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    sr.save(torch.nn.ModuleDict({"fc": torch.nn.Linear(3, 4)}), path)
    target = nnx.Dict(fc=nnx.Linear(3, 4, rngs=nnx.Rngs(0)))
    with pytest.raises(RuleError, match="calls fc a conv, and its arrays are none"):
        sr.plan(path, target, rules={"layer": [{"path": "fc", "kind": "conv"}]})
    assert sr.plan(path, target, rules={"layer": [{"path": "fc", "kind": "linear"}]}).ok
