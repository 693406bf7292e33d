"""Rules that count, that split and join layers, and that number an axis in another order: by outputs, both ways.

Everything is square: heads, channels and pixels have one size, so that no shape can hide a wrong order.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flax import nnx, serialization, traverse_util
from safetensors.torch import save_file

import stateregistry as sr
from stateregistry.conversion.rules.rules import Rules
from stateregistry.errors import PlanError, RuleError

SIDE = 4


def linear(n: int = SIDE, m: int = SIDE) -> nnx.Linear:
    return nnx.Linear(n, m, rngs=nnx.Rngs(0))


def scrambled(model):
    """The same model with random values everywhere."""
    random = np.random.default_rng(0)
    reg = sr.of(model)
    reg.replace({key: random.standard_normal(reg[key].shape).astype(reg[key].dtype) for key in reg})
    return model


def data(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def close(a, b) -> bool:
    a, b = np.asarray(a.detach()), np.asarray(b)
    return bool(np.abs(a - b).max() <= 1e-5 * np.abs(a).max())


def there_and_back(torch_model, nnx_model, rules, *, forward) -> None:
    """Convert both ways with one set of rules; outputs agree after each, and the bits come back."""
    made = sr.convert(scrambled(torch_model), nnx_model, rules=rules)
    assert close(*forward(torch_model, made.target))
    before = sr.snapshot(sr.of(torch_model))
    again = made.plan.invert()
    sr.of(torch_model).replace({key: np.zeros_like(value) for key, value in before.items()})
    back = again.execute(made.target, torch_model)
    assert {k: v.tobytes() for k, v in sr.snapshot(sr.of(back.target)).items()} == {
        k: v.tobytes() for k, v in before.items()
    }
    other = sr.convert(scrambled(nnx_model), torch_model, rules=Rules.of(rules).inverse())
    assert close(*forward(other.target, nnx_model))


# -------------------------------------------------------------------- order


class TorchFlat(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(SIDE, SIDE, 1), torch.nn.Linear(SIDE**3, SIDE)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))


class NnxFlat(nnx.Module):
    def __init__(self) -> None:
        self.conv = nnx.Conv(SIDE, SIDE, (1, 1), rngs=nnx.Rngs(0))
        self.fc = linear(SIDE**3)

    def __call__(self, x):
        x = self.conv(x)
        return self.fc(x.reshape(x.shape[0], -1))


FLATTEN = {"axis": "in", "source_axes": "c=4 h=4 w=4", "target_axes": "h w c"}


@pytest.mark.parametrize("named", [{"source": "fc"}, {"target": "fc"}, {"source": "f{x}", "target": "fc"}])
def test_a_linear_after_a_flatten_takes_its_rows_in_the_order_that_the_rule_says(named) -> None:
    image = data(2, SIDE, SIDE, SIDE)

    def forward(a, b):
        return a(torch.from_numpy(image)), b(image.transpose(0, 2, 3, 1))

    there_and_back(TorchFlat(), NnxFlat(), {"order": [{**FLATTEN, **named}]}, forward=forward)
    with pytest.raises(PlanError, match="flattened image"):
        sr.convert(scrambled(TorchFlat()), NnxFlat())


def test_an_order_holds_for_the_bias_too() -> None:
    source, target = torch.nn.Sequential(torch.nn.Linear(SIDE, 8)), nnx.Dict({"0": linear(SIDE, 8)})
    rules = {"order": [{"source": "0", "axis": "out", "source_axes": "half=2 pair", "target_axes": "pair half"}]}
    done = sr.convert(scrambled(source), target, rules=rules)
    halves = source[0].bias.detach().numpy()
    assert np.asarray(target["0"].bias[...]).tolist() == halves.reshape(2, 4).T.reshape(-1).tolist()
    weight = source[0].weight.detach().numpy().reshape(2, 4, SIDE)
    assert np.asarray(target["0"].kernel[...]).tolist() == weight.transpose(2, 1, 0).reshape(SIDE, 8).tolist()
    assert done.plan.ok


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({**FLATTEN, "source": "fc", "axis": "features"}, "has no axis 'features' to take apart"),
        ({**FLATTEN, "source": "nothing"}, "order 'nothing' matches nothing"),
        ({**FLATTEN, "source": "fc", "source_axes": "c=5 h=4 w=4"}, "does not agree with"),
        ({**FLATTEN, "source": "fc", "source_axes": "c h w"}, "nothing says the size of"),
    ],
)
def test_an_order_that_does_not_fit_is_a_problem(rule, says) -> None:
    plan = sr.plan(TorchFlat(), NnxFlat(), rules={"order": [rule]})
    assert not plan.ok
    assert says in str(plan)


# -------------------------------------------------------------------- split and join


class Fused(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(SIDE, 3 * SIDE) for _ in range(2)])


class Three(nnx.Module):
    def __init__(self) -> None:
        names = [f"{name}{n}" for n in range(2) for name in "qkv"]
        for name in names:
            setattr(self, name, linear())


SPLITS = {
    "one after another": ("q|k|v: out", lambda y: y.reshape(-1, 3, SIDE)),
    "inside every head": (
        "heads=2 q|k|v: head_dim",
        lambda y: y.reshape(-1, 2, 3, 2).swapaxes(1, 2).reshape(-1, 3, SIDE),
    ),
}


@pytest.mark.parametrize("named", SPLITS)
def test_a_fused_layer_is_split_as_the_rule_says_and_joined_on_the_way_back(named) -> None:
    axes, cut = SPLITS[named]
    x = data(5, SIDE)

    def forward(a, b):
        fused = [cut(layer(torch.from_numpy(x)).detach().numpy()) for layer in a.blocks]
        apart = [[getattr(b, f"{name}{n}")(x) for name in "qkv"] for n in range(2)]
        return torch.from_numpy(np.stack(fused)), np.asarray(apart).transpose(0, 2, 1, 3)

    rule = {"source": "blocks.{i}", "axis": "out", "axes": axes, "targets": ["q{i}", "k{i}", "v{i}"]}
    there_and_back(Fused(), Three(), {"split": [rule]}, forward=forward)


def test_a_split_of_files_is_that_of_the_models(tmp_path) -> None:
    """Neither module is at hand: what a rule takes apart along `out` is no embedding."""
    targets = [f"b{{i}}/{n}" for n in "qkv"]
    rules = {"split": [{"source": "blocks.{i}", "axis": "out", "axes": "q|k|v: out", "targets": targets}]}
    expected = sr.convert(scrambled(Fused()), to="flax-linen", rules=rules).target
    given, like = tmp_path / "given.safetensors", tmp_path / "like.msgpack"
    save_file(scrambled(Fused()).state_dict(), given)
    like.write_bytes(serialization.to_bytes(expected))
    done = sr.convert(given, like, out=tmp_path / "made.msgpack", rules=rules, allow=("assumption",))
    found = serialization.msgpack_restore(done.target.read_bytes())
    flat, wanted = (traverse_util.flatten_dict(tree) for tree in (found, expected))
    assert {key: np.asarray(value).tobytes() for key, value in flat.items()} == {
        key: np.asarray(value).tobytes() for key, value in wanted.items()
    }


def test_a_split_needs_no_target() -> None:
    rule = {"source": "blocks.{i}", "axis": "out", "axes": "q|k|v: out", "targets": [f"b{{i}}/{n}" for n in "qkv"]}
    made = sr.convert(scrambled(Fused()), to="flax-linen", rules={"split": [rule]})
    assert set(made.target["params"]["b1"]) == {"q", "k", "v"}
    weight = sr.of(scrambled(Fused())).read("blocks/1/weight")
    assert made.target["params"]["b1"]["k"]["kernel"].tolist() == weight[SIDE : 2 * SIDE].T.tolist()


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"source": "blocks.7", "axis": "out", "axes": "q|k: out", "targets": ["a", "b"]}, "there is no such layer"),
        (
            {"source": "blocks.0", "axis": "in", "axes": "q|k: in", "targets": ["a", "b"]},
            "bias of the linear has no axis",
        ),
        ({"source": "blocks.0", "axis": "out", "axes": "q|k|v|w|x: out", "targets": list("abcde")}, "does not agree"),
    ],
)
def test_a_split_that_does_not_fit_is_a_problem(rule, says) -> None:
    plan = sr.plan(Fused(), {"params": {name: {"kernel": np.zeros((4, 4), "f"), "bias": np.zeros(4, "f")} for name in "abcde"}},
                   rules={"split": [rule]})  # fmt: skip
    assert not plan.ok
    assert says in str(plan)


def test_a_join_needs_a_target() -> None:
    rules = {"join": [{"sources": ["q0", "k0", "v0"], "axis": "out", "axes": "q|k|v: out", "target": "qkv"}]}
    with pytest.raises(PlanError, match="needs a target"):
        sr.convert(Three(), to="torch", rules=rules)


# -------------------------------------------------------------------- counting


class Stages(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for stage, depth in (("2", 2), ("10", 3), ("1", 11)):
            setattr(self, f"layer{stage}", torch.nn.ModuleList([torch.nn.Linear(SIDE, SIDE) for _ in range(depth)]))
        self.layer_norm = torch.nn.LayerNorm(SIDE)


class Flat(nnx.Module):
    def __init__(self, first: int = 0) -> None:
        for n in range(16):
            setattr(self, f"Block_{n + first}", linear())
        self.layer_norm = nnx.LayerNorm(SIDE, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("target", "first"), [("Block_{count}", 0), ("Block_{count+3}", 3)])
def test_stages_and_blocks_are_counted_in_the_order_of_their_numbers(target, first) -> None:
    rules = {"rename": [{"source": "layer{s}.{b}", "target": target}]}
    source = scrambled(Stages())
    model = sr.convert(source, Flat(first), rules=rules).target
    order = [f"layer1/{n}" for n in range(11)] + ["layer2/0", "layer2/1"] + [f"layer10/{n}" for n in range(3)]
    for number, path in enumerate(order):
        kernel = np.asarray(getattr(model, f"Block_{number + first}").kernel[...])
        assert kernel.tolist() == sr.of(source).read(f"{path}/weight").T.tolist()
    again = sr.convert(scrambled(Flat(first)), source, rules=Rules.of(rules).inverse()).target
    assert (
        sr.of(again).read("layer10/0/weight").tolist()
        == sr.of(scrambled(Flat(first))).read(f"Block_{13 + first}/kernel").T.tolist()
    )


def test_what_both_sides_capture_is_not_counted_over() -> None:
    rules = Rules.of({"s{s}.b{b}": "stage{s}/{count}"})
    source = torch.nn.Module()
    for stage in range(2):
        setattr(source, f"s{stage}", torch.nn.Module())
        for block in (3, 5):
            getattr(source, f"s{stage}").register_module(f"b{block}", torch.nn.Linear(2, 2))
    names = set(sr.of(sr.convert(source, to="numpy", rules=rules).target))
    assert names >= {f"stage{s}/{n}/bias" for s in range(2) for n in range(2)}
    assert len(names) == 8


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({"a{count}": "b{count}"}, "counts on both sides"),
        ({"a{i}": "b{j}_{count}"}, "does not read backwards"),
        (
            {"split": [{"source": "a{i}", "axis": "out", "axes": "q|k: out", "targets": ["b", "c"]}]},
            "does not have its captures",
        ),
        ({"split": [{"source": "a", "axis": "out", "axes": "q|k: out", "targets": ["b"]}]}, "2 parts in"),
        ({"split": [{"source": "a", "axis": "out", "axes": "q|k: out", "targets": "b"}]}, "targets is 'b'"),
        ({"order": [{"axis": "in", "source_axes": "a b", "target_axes": "b c", "source": "x"}]}, "on one side and"),
        ({"order": [{"axis": "in", "source_axes": "a b", "target_axes": "b a"}]}, "names no layer"),
        ({"order": [{"axis": "in", "source_axes": "a|b: c", "target_axes": "a|b: c", "source": "x"}]}, "has no parts"),
        (
            {"order": [{"axis": "in", "source_axes": "a) (b", "target_axes": "b a", "source": "x"}]},
            "more than one axis",
        ),
    ],
)
def test_a_rule_that_cannot_hold_is_refused_when_it_is_read(rules, says) -> None:
    with pytest.raises(RuleError, match=says):
        Rules.of(rules)


def test_a_count_of_nothing_is_a_problem() -> None:
    plan = sr.plan(Stages(), Flat(), rules={"stage{s}.{b}": "Block_{count}"})
    assert "matches nothing to count" in str(plan)


def test_rules_come_back_from_a_plan_in_json() -> None:
    rules = {
        "order": [{**FLATTEN, "source": "fc"}],
        "rename": [{"source": "layer{s}.{b}", "target": "Block_{count}"}],
        "split": [{"source": "a", "axis": "out", "axes": "q|k: out", "targets": ["b", "c"]}],
        "join": [{"sources": ["b", "c"], "axis": "out", "axes": "q|k: out", "target": "a"}],
    }
    plan = sr.plan(Stages(), Flat(), rules=rules)
    assert sr.Plan.from_json(plan.to_json()).rules == plan.rules == Rules.of(rules)
    assert plan.rules.inverse().inverse() == plan.rules
