"""An entry of no layer that is a buffer here and a parameter there: a choice with its reason; of a layer, never."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch

import stateregistry as sr

SIZE = 5


class Constant(torch.nn.Module):
    """A bias of the outputs that the author holds as a buffer, or as a parameter; `name` is what it is called."""

    def __init__(self, name: str, *, trained: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = torch.nn.Linear(4, SIZE)
        if trained:
            self.register_parameter(name, torch.nn.Parameter(torch.randn(1, SIZE)))
        else:
            self.register_buffer(name, torch.randn(1, SIZE))


def variables(name: str, *, trained: bool, shape: tuple[int, ...] = (1, SIZE)) -> dict[str, dict[str, object]]:
    params: dict[str, object] = {"head": {"kernel": jax.numpy.ones((4, SIZE)), "bias": jax.numpy.ones(SIZE)}}
    if trained:
        return {"params": {**params, name: jax.numpy.ones(shape)}}
    return {"params": params, "constants": {name: jax.numpy.ones(shape)}}


@pytest.mark.parametrize("trained", [True, False])
def test_a_constant_that_is_a_buffer_on_one_side_alone_is_a_choice(trained: bool) -> None:
    model = Constant("final_logits_bias", trained=trained)
    there = variables("final_logits_bias", trained=not trained)
    plan = sr.plan(model, there, allow=("assumption",))
    (problem,) = plan.problems
    assert (problem.problem, problem.keys) == ("choice", ("final_logits_bias", "final_logits_bias"))
    assert "each side keeps its own kind" in problem.text
    done = sr.convert(model, there, allow=("assumption", "choice"))
    made = sr.of(done.target)
    assert made.read("final_logits_bias").tobytes() == sr.of(model).read("final_logits_bias").tobytes()
    assert made["final_logits_bias"].kind is (sr.Kind.BUFFER if trained else sr.Kind.PARAMETER)
    back = sr.convert(done.target, Constant("final_logits_bias", trained=trained), allow=("assumption", "choice"))
    assert sr.diff(sr.of(model), sr.of(back.target)).equal


@pytest.mark.parametrize("name", ["running_mean", "var", "scale", "weight"])
def test_what_is_called_like_an_array_of_a_layer_stays_refused_without_one(name: str) -> None:
    plan = sr.plan(Constant(name, trained=False), variables(name, trained=True), allow=("assumption", "choice"))
    problems = {problem.problem for problem in plan.problems}
    assert problems in ({"kind"}, {"missing", "unexpected"})  # a weight or scale alone is read as that of a layer


def test_another_path_or_dtype_is_no_choice() -> None:
    one = Constant("offset_table", trained=False)
    plan = sr.plan(one, variables("shifts", trained=True), allow=("assumption", "choice"))
    assert not plan.ok
    narrow = {"params": {**variables("offset_table", trained=True)["params"]}}
    narrow["params"]["offset_table"] = np.ones((1, SIZE), np.float16)
    plan = sr.plan(one, narrow, dtype="target", allow=("assumption", "choice"))
    assert "kind" in {problem.problem for problem in plan.problems}
