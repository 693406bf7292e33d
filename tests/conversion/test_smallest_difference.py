"""What is said of models that do not correspond: one sentence for one cause, by live models, by variables and by files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from flax import nnx

import stateregistry as sr
from stateregistry.conversion.planning.plan import PlanProblem

ALLOW = ("assumption", "choice")


def ends(source: Any, target: Any, way: str, room: Path) -> tuple[Any, Any]:
    """Both sides as they are, or as files."""
    if way == "live":
        return source, target
    paths = room / "source.safetensors", room / "target.safetensors"
    for one, path in zip((source, target), paths, strict=True):
        sr.save(one, path)
    return paths


def texts(source: Any, target: Any, way: str, room: Path) -> list[str]:
    """The problems there and back, which are as many."""
    here, there = ends(source, target, way, room)
    found = [sr.plan(*pair, allow=ALLOW).problems for pair in ((here, there), (there, here))]
    assert len(found[0]) == len(found[1])
    return [str(problem) for problem in found[0]]


def torch_net(width: int = 6, depth: int = 12, classes: int = 3, *, bias: bool = True) -> torch.nn.Module:
    layers = torch.nn.ModuleList([torch.nn.Linear(width, width, bias=bias) for _ in range(depth)])
    return torch.nn.ModuleDict({"layers": layers, "head": torch.nn.Linear(width, classes)})


def nnx_net(width: int = 6, depth: int = 12, classes: int = 3, *, bias: bool = True) -> nnx.Module:
    rngs = nnx.Rngs(0)
    layers = nnx.List([nnx.Linear(width, width, use_bias=bias, rngs=rngs) for _ in range(depth)])
    return nnx.Dict(layers=layers, head=nnx.Linear(width, classes, rngs=rngs))


WAYS = ("live", "files")


@pytest.mark.parametrize("way", WAYS)
def test_another_width_under_the_same_names_is_one_problem(way: str, tmp_path: Path) -> None:
    (text,) = texts(torch_net(9), nnx_net(6), way, tmp_path)
    assert "other sizes: 9 in the source is 6 in the target; in 25 entries" in text
    assert "[[drop]]" in text


@pytest.mark.parametrize("way", WAYS)
def test_another_number_of_classes_says_the_axis_and_both_sizes(way: str, tmp_path: Path) -> None:
    found = texts(torch_net(classes=5), nnx_net(), way, tmp_path)
    assert len(found) == 2
    assert all("out is 5 in the source and 3 in the target" in text for text in found)


def test_arrays_of_one_framework_in_other_sizes_are_told_together_too() -> None:
    (problem,) = sr.plan(torch_net(9), torch_net(6)).problems
    assert problem.problem == "shape"
    assert len(problem.keys) == 25  # but the bias of the head
    assert "9 in the source is 6 in the target" in problem.text


def test_sizes_in_another_order_keep_their_own_sentence() -> None:
    def net(*shape: int) -> torch.nn.Module:
        return torch.nn.ParameterList([torch.rand(shape) for _ in range(10)])

    found = sr.plan(net(3, 5), net(5, 3)).problems
    assert len(found) == 10
    assert all("[[layout]]" in problem.hint for problem in found)


@pytest.mark.parametrize("way", WAYS)
def test_biases_that_one_side_has_alone_are_one_problem(way: str, tmp_path: Path) -> None:
    (text,) = texts(torch_net(bias=False), nnx_net(), way, tmp_path)
    assert "no source for 12 entries called 'bias', `layers/0/bias` to `layers/11/bias`" in text
    plan = sr.plan(torch_net(bias=False), nnx_net(), allow=(*ALLOW, "missing"))
    assert plan.ok, str(plan)
    assert sum(move.op == "keep" for move in plan.moves) == 12


def test_few_entries_without_a_partner_are_told_one_by_one() -> None:
    found = sr.plan(torch_net(depth=3, bias=False), nnx_net(depth=3)).problems
    assert [problem.keys for problem in found] == [(f"layers/{n}/bias",) for n in range(3)]


class LinenMlp(nn.Module):
    bias: bool = True

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for number in range(3):
            x = nn.relu(nn.Dense(7, use_bias=self.bias, name=f"hidden_{number}")(x))
        return nn.Dense(4, name="out")(x)


def torch_mlp(*, bias: bool) -> torch.nn.Module:
    rows = [layer for size in (5, 7, 7) for layer in (torch.nn.Linear(size, 7, bias=bias), torch.nn.ReLU())]
    return torch.nn.Sequential(*rows, torch.nn.Linear(7, 4))


@pytest.mark.parametrize("bias", [True, False])
def test_biases_under_foreign_names_are_one_sentence(bias: bool) -> None:  # the case
    module, x = LinenMlp(bias), jnp.ones((1, 5))
    target = sr.of(module.init(jax.random.key(0), x), module=module, args=(x,))
    plan = sr.plan(torch_mlp(bias=not bias), target, allow=ALLOW)
    assert {problem.problem for problem in plan.problems} == {"missing", "unexpected"}
    here, there = ("target", "source") if bias else ("source", "target")
    assert all(f"the {here} has a bias in `" in problem.text for problem in plan.problems)
    assert all(f", and the {there} none in `" in problem.text for problem in plan.problems)
    assert sr.plan(torch_mlp(bias=bias), target, allow=ALLOW).ok


class Standardised(torch.nn.Conv2d):
    """A type of the author's, as timm, BiT and SAM have theirs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(x, self.weight - self.weight.mean(), self.bias, self.stride, self.padding)


def of_no_type(count: int) -> tuple[torch.nn.Module, nnx.Module]:
    rngs = nnx.Rngs(0)
    sizes = [3, *range(8, 8 + count)]
    source = torch.nn.Sequential(*(Standardised(a, b, 3) for a, b in zip(sizes, sizes[1:], strict=False)))
    target = nnx.Dict(**{
        f"conv_{chr(97 + n)}x": nnx.Conv(a, b, (3, 3), rngs=rngs)
        for n, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False))
    })  # fmt: skip
    return source, target


@pytest.mark.parametrize(("count", "problems"), [(2, {"missing", "unexpected"}), (9, {"structure"})])
def test_a_type_that_nobody_declared_is_named_as_the_one_cause(count: int, problems: set[str]) -> None:
    plan = sr.plan(*of_no_type(count), allow=ALLOW)
    assert {problem.problem for problem in plan.problems} == problems
    assert len(plan.problems) == len(problems)
    for problem in plan.problems:
        assert f"0 is a {__name__}.Standardised, a type that nobody declared" in problem.text
        assert f"and {count - 1} more of this type" in problem.text
        assert f'stateregistry_torch.register_layer("{__name__}.Standardised"' in problem.hint


def test_what_is_missing_on_one_side_alone_is_not_laid_to_a_type() -> None:
    source, target = of_no_type(2)
    plan = sr.plan(torch.nn.Sequential(), target, allow=ALLOW)
    assert "nobody declared" not in str(plan)
    assert not sr.plan(source, nnx.Dict(), allow=ALLOW).ok


class HaikuNorm(nn.Module):
    names: tuple[str, str] = ("scale", "offset")

    @nn.compact
    def __call__(self, x: Any) -> Any:
        one, two = (self.param(name, nn.initializers.ones, (x.shape[-1],)) for name in self.names)
        return x * one + two


@pytest.mark.parametrize(
    ("names", "pieces"),
    [
        (("scale", "offset"), 'Piece("scale", "scale", "*features"), Piece("bias", "offset", "*features")'),
        (("alpha", "beta"), 'Piece("scale", "alpha", "*features"), Piece("bias", "beta", "*features")'),
        (("one", "two"), 'Piece("scale", <one of: one, two>, "*features"), Piece("bias", <one of: one, two>,'),
    ],
)
def test_the_line_that_declares_a_type_takes_roles_from_names_and_leaves_open_what_they_do_not_say(
    names, pieces
) -> None:
    """By order alone, scale and offset were exchanged by whoever pasted it."""
    module, x = HaikuNorm(names), jnp.ones((1, 6))
    target = sr.of(module.init(jax.random.key(0), x), module=module, args=(x,))
    text = str(sr.plan(torch.nn.LayerNorm(6), target))
    assert pieces in text
    line = text[text.index("stateregistry_flax.register_layer(") :].split(")))", maxsplit=1)[0] + ")))"
    if "<" in line:
        with pytest.raises(SyntaxError):
            compile(line, "pasted", "eval")
    else:
        compile(line, "pasted", "eval")


class Up(nn.Module):
    transposed: bool
    channels: int = 8

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.ConvTranspose(self.channels, (3, 3), transpose_kernel=self.transposed, name="up")(x)


@pytest.mark.parametrize("transposed", [True, False])
def test_a_square_transposed_kernel_of_variables_alone_is_an_assumption(transposed: bool) -> None:
    """Flax stores it in one of two ways, and nothing in the variables says which."""
    module, x = Up(transposed), jnp.ones((1, 4, 4, 8))
    variables = module.init(jax.random.key(0), x)
    source = torch.nn.ModuleDict({"up": torch.nn.ConvTranspose2d(8, 8, 3)})
    for pair in ((source, variables), (variables, source)):
        plan = sr.plan(*pair)
        assert {problem.problem for problem in plan.problems} == {"assumption"}
        assert "stored in one of two ways" in str(plan)
    live = sr.of(variables, module=module, args=(x,))
    done = sr.convert(source, live)
    kernel = source["up"].weight.detach().numpy()
    expected = kernel.transpose(2, 3, 1, 0) if transposed else kernel[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
    assert np.asarray(done.target["params"]["up"]["kernel"]).tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize("transposed", [True, False])
def test_a_transposed_kernel_whose_sizes_say_how_it_lies_is_none(transposed: bool) -> None:
    module, x = Up(transposed, 5), jnp.ones((1, 4, 4, 8))
    source = torch.nn.ModuleDict({"up": torch.nn.ConvTranspose2d(8, 5, 3)})
    assert sr.plan(source, module.init(jax.random.key(0), x)).ok


def block(framework: str) -> Any:
    if framework == "torch":
        return torch.nn.ModuleDict(
            {"q_proj": torch.nn.Linear(6, 6), "out_proj": torch.nn.Linear(6, 6), "up": torch.nn.Linear(6, 9)}
        )
    rngs = nnx.Rngs(0)
    return nnx.Dict(
        query=nnx.Linear(6, 6, rngs=rngs), out=nnx.Linear(6, 6, rngs=rngs), wide=nnx.Linear(6, 9, rngs=rngs)
    )


@pytest.mark.parametrize("to", ["x", "y"])
def test_a_rename_of_a_container_of_foreign_layers_is_an_anchor_for_what_lies_in_it(to: str) -> None:
    source = torch.nn.ModuleDict({"one": block("torch"), "two": block("torch")})
    target = nnx.Dict(x=block("nnx"), y=block("nnx"))
    assert not sr.plan(source, target).ok
    done = sr.convert(source, target, rules={"one": to})
    made = getattr(done.target, to)
    for name, other in (("q_proj", "query"), ("out_proj", "out"), ("up", "wide")):
        expected = source["one"][name].weight.detach().numpy().T.copy()
        assert np.asarray(getattr(made, other).kernel[...]).tobytes() == expected.tobytes()


def test_a_rename_of_one_array_of_a_layer_is_refused_as_before() -> None:
    source, target = (
        torch.nn.ModuleDict({"fc": torch.nn.Linear(3, 3)}),
        nnx.Dict(dense=nnx.Linear(3, 3, rngs=nnx.Rngs(0))),
    )
    plan = sr.plan(source, target, rules={"fc/weight": "other/kernel"})
    assert any(problem.problem == "rule" for problem in plan.problems)


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (PlanProblem("shape", ("a", "b"), "t"), "a -> b"),
        (PlanProblem("missing", ("a", "b"), "t"), "a and b"),
        (PlanProblem("unexpected", ("a", "...", "z"), "t"), "a ... z"),
        (PlanProblem("ambiguous", ("a", "b", "c"), "t"), "a and 2 more"),
        (PlanProblem("rule", ("a",), "t"), "a"),
        (PlanProblem("rule", (), "t"), ""),
    ],
)
def test_an_arrow_stands_between_source_and_target_alone(problem: PlanProblem, expected: str) -> None:
    assert problem.where() == expected
    assert problem.where(" → ") == expected.replace("->", "→")
    assert str(problem) == (f"{problem.problem}: {expected}: t" if expected else f"{problem.problem}: t")


class Attending(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.MultiHeadDotProductAttention(2, name="attn")(x, x)


def test_rules_that_name_the_parts_of_an_attention_hold_in_both_directions() -> None:
    module, x = Attending(), jnp.ones((1, 4, 6))
    target = sr.of(module.init(jax.random.key(0), x), module=module, args=(x,))
    source = torch.nn.ModuleDict({name: torch.nn.Linear(6, 6) for name in ("one", "two", "three", "four")})
    rules = {"one": "attn/query", "two": "attn/key", "three": "attn/value", "four": "attn/out"}
    done = sr.convert(source, target, rules=rules)
    back = torch.nn.ModuleDict({name: torch.nn.Linear(6, 6) for name in ("one", "two", "three", "four")})
    filled = sr.of(done.target, module=module, args=(x,))
    sr.convert(filled, back, rules={new: old for old, new in rules.items()})
    for name in rules:
        assert back[name].weight.detach().numpy().tobytes() == source[name].weight.detach().numpy().tobytes()


class Own(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W, self.b = torch.nn.Parameter(torch.rand(8, 8)), torch.nn.Parameter(torch.rand(8))


def test_what_an_author_calls_otherwise_is_not_laid_out_as_the_layers_beside_it_for_certain(tmp_path: Path) -> None:
    """`x @ W` beside a Linear: the Linear says how matrices called `weight` lie, and nothing of `W`."""
    source = torch.nn.ModuleDict({"fc1": Own(), "fc2": torch.nn.Linear(8, 5)})
    zeros = {
        "fc1": {"kernel": np.zeros((8, 8), np.float32), "bias": np.zeros(8, np.float32)},
        "fc2": {"kernel": np.zeros((8, 5), np.float32), "bias": np.zeros(5, np.float32)},
    }
    here, there = ends(source, {"params": zeros}, "files", tmp_path)
    for pair in ((here, there), (there, here)):
        plan = sr.plan(*pair)
        assert [problem.problem for problem in plan.problems] == ["assumption"]
        assert any(key.endswith("W") for key in plan.problems[0].keys)


@pytest.mark.parametrize("last", [False, True])
def test_one_array_of_a_name_whose_sizes_show_how_it_lies_says_it_of_those_that_are_square(
    last: bool, tmp_path: Path
) -> None:
    """`W` of the author's own layers, inputs first or last, beside a Linear that lies the one way it always does."""

    def own(inputs: int, outputs: int) -> torch.nn.Module:
        module = torch.nn.Module()
        module.W = torch.nn.Parameter(torch.rand((outputs, inputs) if last else (inputs, outputs)))
        module.b = torch.nn.Parameter(torch.rand(outputs))
        return module

    sizes = {"fc1": (8, 8), "fc2": (8, 6), "fc3": (6, 6)}
    rows = {name: own(*pair) for name, pair in sizes.items()}
    source = torch.nn.ModuleDict({**rows, "head": torch.nn.Linear(6, 5)})
    zeros = {
        name: {"kernel": np.zeros(pair, np.float32), "bias": np.zeros(pair[1], np.float32)}
        for name, pair in {**sizes, "head": (6, 5)}.items()
    }
    here, _ = ends(source, {"params": zeros}, "files", tmp_path)
    done = sr.convert(here, {"params": zeros})
    for name in sizes:
        kernel = source[name].W.detach().numpy()
        expected = kernel.T.copy() if last else kernel
        assert np.asarray(done.target["params"][name]["kernel"]).tobytes() == expected.tobytes()


def towers() -> tuple[torch.nn.Module, nnx.Module]:
    return torch.nn.ModuleDict({"one": block("torch"), "two": block("torch")}), nnx.Dict(x=block("nnx"), y=block("nnx"))


def test_a_question_of_whole_containers_is_asked_as_one_and_its_answer_is_one_rename() -> None:
    source, target = towers()
    (problem,) = sr.plan(source, target).problems
    assert "2 and 2 containers of 3 layers may be one another" in problem.text
    assert 'source = "one" target = "<one of: x, y>"' in problem.hint
    assert set(problem.answers) == {("one", "x"), ("one", "y"), ("two", "x"), ("two", "y")}
    assert sr.plan(source, target, rules=[problem.answers[0]]).ok


def test_a_forward_pass_tells_containers_apart_and_their_layers_with_them() -> None:
    torch.manual_seed(0)
    source, target = towers()
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)

    def here(given: np.ndarray) -> np.ndarray:
        one, two = (source[name] for name in ("one", "two"))
        with torch.no_grad():
            y = torch.from_numpy(given)
            return (
                two["up"](
                    two["out_proj"](torch.tanh(two["q_proj"](one["out_proj"](torch.relu(one["q_proj"](y))))))
                ).numpy()
                + one["up"](y).numpy()
            )

    def there(model: nnx.Module, given: np.ndarray) -> np.ndarray:
        first, second = model.y, model.x
        return np.asarray(
            second.wide(second.out(jnp.tanh(second.query(first.out(nnx.relu(first.query(given))))))) + first.wide(given)
        )

    done = sr.convert(source, target, forward=(here, there, x))
    np.testing.assert_allclose(there(done.target, x), here(x), atol=1e-5)
    assert (
        np.asarray(done.target.y.query.kernel[...]).tobytes()
        == source["one"]["q_proj"].weight.detach().numpy().T.copy().tobytes()
    )


@pytest.mark.parametrize("depth", [(2, 4), (3, 3)])
def test_a_dense_block_with_one_layer_more_is_counted_without_its_widths(depth: tuple[int, int]) -> None:
    """Every layer reads more than the one before it, so that no two are of one size."""

    def features(counts: tuple[int, int]) -> tuple[torch.nn.Module, nnx.Module]:
        rngs, width = nnx.Rngs(0), 8
        net, stages, transitions = torch.nn.ModuleDict({"stem": torch.nn.Conv2d(3, 8, 3)}), [], []
        for stage, count in enumerate(counts):
            rows = []
            for number in range(count):
                net[f"block{stage}_layer{number}"] = torch.nn.ModuleDict({
                    "norm": torch.nn.BatchNorm2d(width), "squeeze": torch.nn.Conv2d(width, 20, 1, bias=False),
                    "conv": torch.nn.Conv2d(20, 4, 3, bias=False),
                })  # fmt: skip
                rows.append(nnx.Dict(
                    bn=nnx.BatchNorm(width, rngs=rngs), less=nnx.Conv(width, 20, (1, 1), use_bias=False, rngs=rngs),
                    grow=nnx.Conv(20, 4, (3, 3), use_bias=False, rngs=rngs),
                ))  # fmt: skip
                width += 4
            net[f"transition{stage}"] = torch.nn.Conv2d(width, width // 2, 1)
            transitions.append(nnx.Conv(width, width // 2, (1, 1), rngs=rngs))
            stages.append(nnx.List(rows))
            width //= 2
        net["classifier"] = torch.nn.Linear(width, 5)
        other = nnx.Dict(
            first=nnx.Conv(3, 8, (3, 3), rngs=rngs), stages=nnx.List(stages), between=nnx.List(transitions),
            head=nnx.Linear(width, 5, rngs=rngs),
        )  # fmt: skip
        return net, other

    source, target = features(depth)[0], features((2, 3))[1]
    (problem,) = sr.plan(source, target, allow=ALLOW).problems
    assert problem.text == "the source has 6 repetitions of `block/layer`, the target has 5 of `stages/#`"
    (problem,) = sr.plan(target, source, allow=ALLOW).problems
    assert problem.text == "the source has 5 repetitions of `stages/#`, the target has 6 of `block/layer`"


def test_a_wrapper_that_one_side_has_alone_is_named() -> None:
    rngs, wrap = nnx.Rngs(0), torch.nn.utils.parametrizations.weight_norm
    source = torch.nn.Sequential(*(wrap(torch.nn.Conv1d(4 + n, 5 + n, 3)) for n in range(2)), torch.nn.Linear(6, 2))
    target = nnx.Dict(
        one=nnx.Conv(4, 5, (3,), rngs=rngs), two=nnx.Conv(5, 6, (3,), rngs=rngs), out=nnx.Linear(6, 2, rngs=rngs)
    )
    for pair, side, other in (((source, target), "source", "target"), ((target, source), "target", "source")):
        plan = sr.plan(*pair, allow=ALLOW)
        assert {problem.problem for problem in plan.problems} == {"missing", "unexpected"}
        assert all(f"the {side} has weight_norm in `0`" in problem.text for problem in plan.problems)
        assert all(f"the {other} the same layers without: `one`" in problem.text for problem in plan.problems)
