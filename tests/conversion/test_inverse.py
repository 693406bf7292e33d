"""Rules read backwards: a layout goes through the renames as a pattern, or array by array, or is refused; never half."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flax import nnx

import stateregistry as sr
from stateregistry.conversion.rules.rules import Layout, Rules
from stateregistry.errors import RuleError

AXES = {"source_axes": "out in", "target_axes": "in out"}


def rules(layout: str, renames: dict[str, str]) -> Rules:
    rows = [{"source": source, "target": target} for source, target in renames.items()]
    return Rules.of({"layout": [{"source": layout, **AXES}], "rename": rows})


@pytest.mark.parametrize(
    ("layout", "renames", "expected"),
    [
        ("w/{n}", {"w/{i}": "fc/{i+1}/kernel", "b/{i}": "fc/{i+1}/bias"}, "fc/{n+1}/kernel"),
        ("w/{n+2}", {"w/{i+1}": "fc/{i}/kernel"}, "fc/{n+1}/kernel"),
        ("w/0", {"w/{i}": "fc/{i+1}/kernel"}, "fc/1/kernel"),
        ("a/b{k}/c", {"a/{x}": "b/{x}"}, "b/b{k}/c"),
        ("a/{r...}/w", {"a": "b"}, "b/{r...}/w"),
        ("proj", {"fc": "dense", "projection/{i}": "x/{i}"}, "proj"),
        ("proj", {"": "model"}, "model/proj"),
    ],
)
def test_a_layout_goes_through_a_rename_as_a_pattern(layout: str, renames: dict[str, str], expected: str) -> None:
    made = rules(layout, renames)
    assert made.inverse().layouts == (Layout(expected, "in out", "out in"),)
    assert made.inverse().inverse() == made


@pytest.mark.parametrize(
    ("layout", "renames"),
    [
        ("w/{n}", {"w/0": "x"}),
        ("w/{n}", {"w/0": "x", "w/1": "y"}),
        ("w/{n}/p", {"w/{i}/{j}": "B_{count}"}),
        ("a/{r...}/w", {"a/{x}": "b/{x}"}),
        ("w/{n}", {"w/{i}": "x/{i}", "w/{j}": "y/{j}"}),
        ("w/0", {"w/{i}": "x/{i-1}"}),
    ],
)
def test_a_layout_that_is_no_pattern_there_is_refused(layout: str, renames: dict[str, str]) -> None:
    with pytest.raises(RuleError, match="does not read backwards"):
        rules(layout, renames).inverse()


class Lists(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.ParameterList([torch.rand(4, 4) for _ in range(2)])


class Named(nnx.Module):
    def __init__(self) -> None:
        self.first, self.second = (nnx.Param(np.zeros((4, 4), np.float32)) for _ in range(2))


def test_a_plan_turns_a_layout_round_array_by_array_where_its_renames_are_no_pattern() -> None:
    source = Lists()
    done = sr.convert(source, Named(), rules=rules("w/{n}", {"w/0": "second", "w/1": "first"}))
    assert np.asarray(done.target.second.get_value()).tobytes() == source.w[0].detach().numpy().T.copy().tobytes()
    back = done.plan.invert()
    assert back.ok, str(back)
    made = back.execute(done.target, Lists()).target
    assert all(torch.equal(one, two) for one, two in zip(source.w, made.w, strict=True))
    assert made.w[0].detach().numpy().tobytes() == source.w[0].detach().numpy().tobytes()


def test_a_layout_of_several_segments_speaks_of_arrays_at_any_depth() -> None:
    net = torch.nn.ModuleDict({"a": torch.nn.ModuleDict({"b": Lists()})})

    class Inner(nnx.Module):
        def __init__(self) -> None:
            self.w = nnx.List([nnx.Param(np.zeros((4, 4), np.float32)) for _ in range(2)])

    target = nnx.Dict(a=nnx.Dict(b=Inner()))
    done = sr.convert(net, target, rules={"layout": [{"source": "a/{rest...}", **AXES}]})
    expected = net["a"]["b"].w[1].detach().numpy().T.copy()
    assert np.asarray(target.a.b.w[1].get_value()).tobytes() == expected.tobytes()
    assert done.plan.invert().ok
