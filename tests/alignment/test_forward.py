"""Outputs decide what no metadata tells apart: the candidate that agrees is kept, and nothing else is changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx

import stateregistry as sr
from stateregistry.errors import AmbiguousAlignment, PlanError, UnsupportedError

SIZE, LENGTH = 6, 5
INPUT = np.random.default_rng(0).normal(size=(2, LENGTH, SIZE)).astype(np.float32)


class Attention(torch.nn.Module):
    """One head; what the projections are called says nothing."""

    def __init__(self, names: tuple[str, str, str], blocks: int = 1) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.names = names
        self.blocks = torch.nn.ModuleList(
            torch.nn.ModuleDict({name: torch.nn.Linear(SIZE, SIZE) for name in names}) for _ in range(blocks)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            query, key, value = (block[name](x) for name in self.names)
            x = x + torch.softmax(query @ key.transpose(-1, -2), -1) @ value
        return x


class Projections(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # Called in another order than torch declares them, which is no evidence for kernels.
        value, key, query = (linen.Dense(SIZE, name=name)(x) for name in ("zed", "why", "ex"))
        return x + jax.nn.softmax(query @ jnp.swapaxes(key, -1, -2)) @ value


class LinenAttention(linen.Module):
    blocks: int = 1

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for number in range(self.blocks):
            x = Projections(name=f"layers_{number}")(x)
        return x


class Step(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return Projections(name="attention")(x), None


class Scanned(linen.Module):
    blocks: int = 3
    axis: int = 0

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scanned = linen.scan(Step, variable_axes={"params": self.axis}, split_rngs={"params": True}, length=self.blocks)
        return scanned(name="layers")(x, None)[0]


class Parallel(torch.nn.Module):
    """Branches that are summed: any may be any."""

    def __init__(self, first: str = "left", second: str = "right") -> None:
        super().__init__()
        torch.manual_seed(2)
        for name in (first, second):
            inner = torch.nn.Sequential(torch.nn.Linear(SIZE, 9), torch.nn.Tanh(), torch.nn.Linear(9, SIZE))
            self.add_module(name, inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = self.children()
        return one(x) + two(x)


class Branch(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.inner, self.outer = nnx.Linear(SIZE, 9, rngs=rngs), nnx.Linear(9, SIZE, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.outer(jnp.tanh(self.inner(x)))


class NnxParallel(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.north, self.south = Branch(rngs), Branch(rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.north(x) + self.south(x)


def runs(model: torch.nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """What a torch module makes of an array."""

    def run(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(x)).numpy()

    return run


def run_torch(model: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    return runs(model)(x)


def linen_attention(blocks: int = 1) -> tuple[sr.StateRegistry, Callable[..., Any]]:
    net = LinenAttention(blocks)
    variables = net.init(jax.random.key(3), INPUT)
    return sr.of(variables, module=net, args=(INPUT,)), net.apply


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("names", [("a", "b", "c"), ("c", "a", "b")])
def test_the_one_pairing_whose_outputs_agree_is_kept(names: tuple[str, str, str], blocks: int) -> None:
    model = Attention(names, blocks)
    target, apply = linen_attention(blocks)
    with pytest.raises(AmbiguousAlignment):
        sr.convert(model, target)
    done = sr.convert(model, target, forward=(runs(model), apply, INPUT))
    np.testing.assert_allclose(apply(done.target, INPUT), runs(model)(INPUT), atol=1e-5)
    for number in range(blocks):
        for mine, its in zip(names, ("ex", "why", "zed"), strict=True):
            kernel = done.target["params"][f"layers_{number}"][its]["kernel"]
            assert np.asarray(kernel).tobytes() == model.blocks[number][mine].weight.detach().numpy().T.tobytes()
    assert any("the outputs agree" in move.evidence for move in done.plan.moves)
    assert sr.Plan.from_json(done.plan.to_json()) == done.plan


def test_the_way_back_leaves_a_torch_target_alone_until_one_agrees() -> None:
    target, apply = linen_attention()
    variables = target.unwrap()
    model = Attention(("a", "b", "c"))
    before = copy.deepcopy(model.state_dict())
    places = {name: tensor.data_ptr() for name, tensor in model.named_parameters()}
    seen = []

    def run(tried: torch.nn.Module, x: np.ndarray) -> np.ndarray:
        assert tried is not model
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
        seen.append(tried)
        return run_torch(tried, x)

    done = sr.convert(target, model, forward=(lambda x: apply(variables, x), run, INPUT))
    assert done.target is model
    assert 6 <= len(seen) <= 12
    assert {name: tensor.data_ptr() for name, tensor in model.named_parameters()} == places
    np.testing.assert_allclose(run_torch(model, INPUT), apply(variables, INPUT), atol=1e-5)


def test_branches_that_are_summed_are_interchangeable() -> None:
    model, target = Parallel(), NnxParallel(nnx.Rngs(0))
    with pytest.raises(AmbiguousAlignment):
        sr.convert(model, target)
    done = sr.convert(model, target, forward=(runs(model), lambda net, x: net(x), INPUT))
    assert done.target is target
    np.testing.assert_allclose(target(INPUT), runs(model)(INPUT), atol=1e-5)
    assert any(move.evidence.startswith("interchangeable") for move in done.plan.moves)


def test_inputs_on_which_nothing_depends_decide_nothing() -> None:
    model = Attention(("a", "b", "c"))
    target, apply = linen_attention()
    same = np.repeat(INPUT[:, :1], LENGTH, axis=1)  # every key gets the same attention, whatever query and key are
    before = sr.snapshot(target)
    with pytest.raises(AmbiguousAlignment, match="do not depend on layers_0/"):
        sr.convert(model, target, forward=(runs(model), apply, same))
    assert {key: value.tobytes() for key, value in sr.snapshot(target).items()} == {
        key: value.tobytes() for key, value in before.items()
    }


def test_a_source_that_computes_something_else_is_refused_with_all_that_was_tried() -> None:
    model = Attention(("a", "b", "c"))
    target, apply = linen_attention()
    with pytest.raises(
        AmbiguousAlignment, match="6 candidates were tried, and the outputs of none of them agree"
    ) as error:
        sr.convert(model, target, forward=(lambda x: 2 * runs(model)(x), apply, INPUT))
    assert str(error.value).count("outputs differ by") == 6


def test_a_plan_without_questions_is_held_against_the_outputs_too() -> None:
    model, twin = Attention(("a", "b", "c")), Attention(("a", "b", "c"))
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.mul_(1.5)
    before = copy.deepcopy(twin.state_dict())
    with pytest.raises(PlanError, match="the outputs do not agree"):
        sr.convert(model, twin, forward=(lambda x: -runs(model)(x), run_torch, INPUT))
    assert all(torch.equal(twin.state_dict()[name], value) for name, value in before.items())
    sr.convert(model, twin, forward=(runs(model), run_torch, INPUT))
    assert all(torch.equal(twin.state_dict()[name], value) for name, value in model.state_dict().items())


class Many(torch.nn.Module):
    """Layers side by side, each for an output of its own."""

    def __init__(self, names: str) -> None:
        super().__init__()
        torch.manual_seed(4)
        for name in names:
            self.add_module(name, torch.nn.Linear(SIZE, SIZE))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([layer(x) for layer in self.children()])


class LinenMany(linen.Module):
    names: tuple[str, ...]

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.stack([linen.Dense(SIZE, name=name)(x) for name in self.names])


def test_too_many_candidates_that_are_given_the_same_are_refused() -> None:
    net = LinenMany(("ka", "lo", "mi", "nu", "po", "ru", "ta"))
    variables = net.init(jax.random.key(3), INPUT)
    runs_of_target: list[int] = []

    def apply(tried: Any, x: np.ndarray) -> Any:
        runs_of_target.append(1)
        return net.apply(tried, x)

    model = Many("bdfghjs")
    with pytest.raises(AmbiguousAlignment, match="more than 64 candidates"):
        sr.convert(model, variables, allow=("assumption",), forward=(runs(model), apply, INPUT))
    assert len(runs_of_target) <= 2


def test_the_order_of_layers_that_give_outputs_is_told_by_the_outputs() -> None:
    net = LinenMany(("ka", "lo", "mi"))
    target = sr.of(net.init(jax.random.key(3), INPUT), module=net, args=(INPUT,))
    model = Many("hdf")
    done = sr.convert(model, target, forward=(runs(model), net.apply, INPUT))
    np.testing.assert_allclose(net.apply(done.target, INPUT), runs(model)(INPUT), atol=1e-5)


def test_a_problem_that_is_no_question_is_told_before_anything_is_run() -> None:
    def never(*args: object) -> np.ndarray:
        raise AssertionError(args)

    target, _ = linen_attention(2)
    with pytest.raises(PlanError, match=r"(?s)repetitions.*forward= was not run: .* \(structure\) are none of that"):
        sr.convert(Attention(("a", "b", "c"), 3), target, forward=(never, never, INPUT))


def test_a_candidate_that_stands_out_and_is_not_near_enough_is_told_with_the_tolerance() -> None:
    """A model that rounds: its outputs agree to a few thousandths, and no other candidate comes near."""
    target, apply = linen_attention(1)
    model = Attention(("a", "b", "c"))

    def rough(variables: Any, x: np.ndarray) -> np.ndarray:
        return np.asarray(apply(variables, x)) * np.float32(1.003)

    with pytest.raises(AmbiguousAlignment, match=r"nearer than any other by far: .* tolerance="):
        sr.convert(model, target, forward=(runs(model), rough, INPUT))
    done = sr.convert(model, target, forward=(runs(model), rough, INPUT), tolerance=0.01)
    np.testing.assert_allclose(apply(done.target, INPUT), runs(model)(INPUT), atol=1e-4)


def test_a_file_is_no_target_to_run(tmp_path: Any) -> None:
    model = Attention(("a", "b", "c"))
    sr.save(model, tmp_path / "like.safetensors")
    forward = (runs(model), run_torch, INPUT)
    with pytest.raises(UnsupportedError, match=r"like\.safetensors"):
        sr.convert(model, tmp_path / "like.safetensors", out=tmp_path / "out.safetensors", forward=forward)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_function_of_the_inputs_alone_is_told_what_it_takes() -> None:
    model = Attention(("a", "b", "c"))
    with pytest.raises(TypeError) as error:
        sr.convert(model, Attention(("a", "b", "c")), forward=(runs(model), lambda x: x, INPUT))
    assert any("fb the target that is tried" in note for note in error.value.__notes__)


SCALES = ("one", "two", "six", "ten", "odd"), ("red", "tan", "sky", "ash", "jet")


class Scaled(torch.nn.Module):
    """Scales of no layer between layers that are counted."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.steps = torch.nn.ModuleList(torch.nn.Linear(SIZE, SIZE) for _ in SCALES[0])
        for name in SCALES[0]:
            setattr(self, name, torch.nn.Parameter(torch.rand(SIZE) + 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name, step in zip(SCALES[0], self.steps, strict=True):
            x = torch.tanh(step(x * getattr(self, name)))
        return x


class LinenScaled(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for number, name in enumerate(SCALES[1]):
            scale = self.param(name, linen.initializers.normal(1.0), (SIZE,))
            x = jnp.tanh(linen.Dense(SIZE, name=f"phase_{number}")(x * scale))
        return x


def test_arrays_of_no_layer_are_told_one_after_the_other_by_what_comes_after_them() -> None:
    """Five of one shape are 120 candidates: more than are tried as they stand."""
    model, net = Scaled().eval(), LinenScaled()
    variables = net.init(jax.random.key(3), INPUT)
    target = sr.of(variables, module=net, args=(INPUT,))
    with pytest.raises(PlanError):
        sr.convert(model, target)
    done = sr.convert(model, target, forward=(runs(model), net.apply, INPUT))
    assert {move.sources[0].key: move.target for move in done.plan.moves if move.target in SCALES[1]} == dict(
        zip(*SCALES, strict=True)
    )
    back = Scaled().eval()
    with torch.no_grad():
        for parameter in back.parameters():
            parameter.add_(0.25)
    source = sr.of(done.target, module=net, args=(INPUT,))
    sr.convert(source, back, forward=(lambda x: net.apply(done.target, x), run_torch, INPUT))
    for name in SCALES[0]:
        assert getattr(back, name).detach().numpy().tobytes() == getattr(model, name).detach().numpy().tobytes()


@pytest.mark.parametrize("axis", [0, 1])
def test_an_answer_for_one_block_holds_for_all_that_are_stacked_with_it(axis: int) -> None:
    """A part of a stacked array cannot be run with: the answers of one block by itself would be given again and again."""
    model, net = Attention(("a", "b", "c"), 3), Scanned(axis=axis)
    variables = net.init(jax.random.key(0), INPUT)
    target = sr.of(variables, module=net, args=(INPUT,))
    runs = []

    def applied(tree: Any, x: np.ndarray) -> jax.Array:
        runs.append(1)
        return net.apply(tree, x)

    with torch.no_grad():
        expected = model(torch.from_numpy(INPUT)).numpy()
        there = sr.convert(model, target, forward=(lambda x: model(torch.from_numpy(x)), applied, INPUT))
    assert np.abs(np.asarray(net.apply(there.target, INPUT)) - expected).max() < 1e-5
    assert len(runs) < 40
    fresh = Attention(("a", "b", "c"), 3)
    with torch.no_grad():
        sr.convert(
            target, fresh,
            forward=(lambda x: net.apply(variables, x), lambda made, x: made(torch.from_numpy(x)), INPUT),
        )  # fmt: skip
        found = fresh(torch.from_numpy(INPUT)).numpy()
    assert np.abs(found - np.asarray(net.apply(variables, INPUT))).max() < 1e-5
