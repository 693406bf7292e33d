"""The same function on both sides, and the same bytes after the way back: torch, Linen and NNX, square layers only."""

from __future__ import annotations

import jax
import models
import numpy as np
import pytest
import torch
from flax import nnx

import stateregistry as sr

CASES = [(1, 1), (2, 1), (3, 1), (2, 2), (2, 4)]


def bits(net: torch.nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in net.state_dict().items()}


def linen(rank: int, groups: int) -> sr.StateRegistry:
    net = models.LinenNet(rank, groups)
    return sr.of(models.linen_variables(rank, groups), module=net, args=models.inputs(rank))


@pytest.mark.parametrize(("rank", "groups"), CASES)
def test_torch_to_linen_computes_the_same_and_comes_back_bit_for_bit(rank: int, groups: int) -> None:
    net = models.torch_net(rank, groups)
    done = sr.convert(net, linen(rank, groups), allow=("choice",))
    models.assert_close(models.run_linen(done.target, rank, groups), models.run_torch(net, rank))
    there = sr.of(done.target, module=models.LinenNet(rank, groups), args=models.inputs(rank))
    back = sr.convert(there, models.torch_net(rank, groups, seed=9), residual=done.residual)
    assert bits(back.target) == bits(net)


@pytest.mark.parametrize(("rank", "groups"), CASES)
def test_torch_to_nnx_computes_the_same_and_comes_back_bit_for_bit(rank: int, groups: int) -> None:
    net = models.torch_net(rank, groups)
    done = sr.convert(net, models.NnxNet(rank, groups=groups), allow=("choice",))
    models.assert_close(models.run_nnx(done.target, rank), models.run_torch(net, rank))
    back = sr.convert(done.target, models.torch_net(rank, groups, seed=9), residual=done.residual)
    assert bits(back.target) == bits(net)


@pytest.mark.parametrize(("rank", "groups"), CASES)
def test_linen_to_nnx_and_back_needs_no_leave(rank: int, groups: int) -> None:
    source = sr.of(sr.convert(models.torch_net(rank, groups), linen(rank, groups), allow=("choice",)).target)
    source = sr.of(source.unwrap(), module=models.LinenNet(rank, groups), args=models.inputs(rank))
    done = sr.convert(source, models.NnxNet(rank, groups=groups))
    models.assert_close(models.run_nnx(done.target, rank), models.run_linen(source.unwrap(), rank, groups))
    back = sr.convert(done.target, linen(rank, groups))
    assert {k: v.tobytes() for k, v in sr.snapshot(sr.of(back.target)).items()} == {
        k: v.tobytes() for k, v in sr.snapshot(source).items()
    }


def test_a_derived_linen_tree_is_what_the_module_takes() -> None:
    net = models.torch_net()
    done = sr.convert(net, to="flax-linen", allow=("choice",))
    models.assert_close(models.run_linen(done.target), models.run_torch(net))


def test_the_residual_gives_a_derived_torch_state_its_counter_back() -> None:
    net = models.torch_net()
    there = sr.convert(net, to="flax-linen", allow=("choice",))
    source = sr.of(there.target, module=models.LinenNet(), args=models.inputs())
    back = sr.convert(source, to="torch", residual=there.residual)
    assert {name: value.numpy().tobytes() for name, value in back.target.items()} == bits(net)
    assert list(back.target) == list(net.state_dict())


def test_a_stale_residual_is_not_used_and_is_reported() -> None:
    """The model was trained on: its statistics are others, so the old counter does not count them."""
    net = models.torch_net()
    done = sr.convert(net, models.NnxNet(), allow=("choice",))
    done.target.bn.mean.set_value(done.target.bn.mean.get_value() + 1)
    back = sr.convert(done.target, models.torch_net(seed=9), residual=done.residual)
    assert back.target.bn.num_batches_tracked.item() == 0
    assert back.receipt.stale == ("bn/num_batches_tracked",)


def test_without_a_residual_the_counter_starts_at_nought_only_by_leave() -> None:
    net = models.NnxNet()
    plan = sr.plan(net, models.torch_net())
    assert [(p.problem, p.keys) for p in plan.problems] == [("choice", ("bn/num_batches_tracked",))]
    done = sr.convert(net, models.torch_net(), allow=("choice",))
    assert done.target.bn.num_batches_tracked.item() == 0


def test_the_torch_model_is_filled_in_place_and_stays_linked_to_its_optimizer() -> None:
    source, target = models.NnxNet(), models.torch_net()
    weight = target.fc.weight
    optimizer = torch.optim.SGD(target.parameters(), lr=1.0)
    done = sr.convert(source, target, allow=("choice",))
    assert done.target is target
    assert target.fc.weight is weight
    assert optimizer.param_groups[0]["params"][6] is weight


def test_an_abstract_template_is_enough_to_plan_and_to_fill() -> None:
    net = models.torch_net()
    shapes = jax.eval_shape(lambda: models.LinenNet().init(jax.random.key(0), *models.inputs()))
    target = sr.of(shapes, module=models.LinenNet(), args=models.inputs())
    assert not any(entry.concrete for entry in target.values())
    done = sr.convert(net, target, allow=("choice",))
    models.assert_close(models.run_linen(done.target), models.run_torch(net))


def test_a_meta_model_can_be_planned_for_but_holds_nothing_to_convert() -> None:
    with torch.device("meta"):
        net = models.TorchNet()
    plan = sr.plan(net, models.NnxNet(), allow=("choice",))
    (problem,) = plan.problems
    assert problem.problem == "abstract"
    assert "hold no values: this plan can be read" in problem.text
    concrete = sr.plan(models.TorchNet(), models.NnxNet(), allow=("choice",))
    assert [str(move) for move in plan.moves] == [str(move) for move in concrete.moves]
    with pytest.raises(sr.errors.PlanError, match="no values"):
        sr.convert(net, models.NnxNet(), allow=("choice",))


def test_one_abstract_entry_is_enough_to_refuse() -> None:
    net = models.TorchNet()
    net.fc.bias = torch.nn.Parameter(torch.empty_like(net.fc.bias, device="meta"))
    (problem,) = sr.plan(net, models.NnxNet(), allow=("choice",)).problems
    assert (problem.problem, problem.keys) == ("abstract", ("fc/bias",))


def test_verify_compares_bits_and_outputs() -> None:
    net = models.torch_net()
    done = sr.convert(net, models.NnxNet(), allow=("choice",))
    forward = (lambda: models.run_torch(net), lambda: models.run_nnx(done.target), ())
    same = sr.verify(net, done.target, forward=forward)
    assert same.equal
    assert same.outputs_equal()
    kernel = done.target.fc.kernel
    kernel.set_value(kernel.get_value().T)  # square: no shape can tell
    wrong = sr.verify(net, done.target, forward=forward)
    assert [difference.target for difference in wrong.differences] == ["fc/kernel"]
    assert not wrong.outputs_equal()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_every_float_dtype_keeps_its_bits(dtype: str) -> None:
    net = models.torch_net().to(getattr(torch, dtype))
    done = sr.convert(net, to="flax-linen", allow=("choice",))
    fc = np.asarray(done.target["params"]["fc"]["kernel"])
    assert fc.dtype.name == dtype
    assert fc.tobytes() == np.ascontiguousarray(sr.of(net).read("fc/weight").T).tobytes()


def test_nnx_parameters_arrive_as_parameters_and_statistics_as_statistics() -> None:
    done = sr.convert(models.torch_net(), to="flax-nnx", allow=("choice",))
    kinds = {"/".join(map(str, path)): type(leaf) for path, leaf in nnx.to_flat_state(done.target)}
    assert kinds["bn/mean"] is nnx.BatchStat
    assert kinds["bn/scale"] is nnx.Param
