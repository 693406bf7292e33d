"""weight_norm and spectral_norm between all three frameworks: equal outputs both ways, every bit back, or a refusal.

Both ways of torch (parametrizations, and the older hooks) are converted. Every layer is square and hangs at
`normed/layer_instance` in all frameworks, where NNX puts what it wraps.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import numpy as np
import pytest
import torch
from cases import S, assert_close, data, live, opened
from flax import nnx
from torch.nn.utils import parametrizations

import stateregistry as sr
from stateregistry import errors

CHOICE = {"allow": ("choice",)}


class Torch(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.normed = torch.nn.ModuleDict({"layer_instance": inner})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.normed["layer_instance"](x)


class Linen(nn.Module):
    make: Any
    call: Any = ()

    def setup(self) -> None:
        self.normed = self.make()

    def __call__(self, x: Any) -> Any:
        return self.normed(x, **dict(self.call))


class Live(nnx.Module):
    def __init__(self, normed: nnx.Module, **call: Any) -> None:
        self.normed = normed
        self._call = nnx.static(call)

    def __call__(self, x: Any) -> Any:
        return self.normed(x, **self._call)


@dataclass(frozen=True)
class Row:
    """A wrapped layer in three frameworks. `dim` and `axes`: what is kept, as torch and as Flax say it."""

    name: str
    spectral: bool
    torch: Callable[[], torch.nn.Module]
    linen: Callable[[], Any]
    nnx: Callable[[nnx.Rngs], Any]
    x: np.ndarray
    dim: Any = 0
    axes: Any = -1
    steps: int = 1
    style: str = "new"

    def make_torch(self, seed: int = 0) -> Torch:
        module = self._wrapped(self.torch())
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in module.state_dict().values():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
        if self.spectral:  # in training a call iterates: from here on it has converged
            module.train()(torch.zeros(module_input(self.x).shape))
        return Torch(module.eval())

    def _wrapped(self, inner: torch.nn.Module) -> torch.nn.Module:
        options: dict[str, Any] = {"dim": self.dim} | ({"n_power_iterations": 3000} if self.spectral else {})
        if self.style == "new":
            wrap: Any = parametrizations.spectral_norm if self.spectral else parametrizations.weight_norm
            return wrap(inner, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return (torch.nn.utils.spectral_norm if self.spectral else torch.nn.utils.weight_norm)(inner, **options)

    def make_linen(self, seed: int = 1) -> sr.StateRegistry:
        return opened(self._linen(), self.x, seed=seed)

    def _linen(self) -> nn.Module:
        if self.spectral:
            return Linen(lambda: nn.SpectralNorm(self.linen(), n_steps=self.steps), (("update_stats", False),))
        return Linen(lambda: nn.WeightNorm(self.linen(), feature_axes=self.axes))

    def make_nnx(self, seed: int = 1) -> sr.StateRegistry:
        if self.spectral:
            return live(
                lambda rngs: Live(nnx.SpectralNorm(self.nnx(rngs), n_steps=self.steps, rngs=rngs), update_stats=False),
                seed,
            )
        return live(lambda rngs: Live(nnx.WeightNorm(self.nnx(rngs), feature_axes=self.axes, rngs=rngs)), seed)

    def registry(self, framework: str, seed: int = 1) -> sr.StateRegistry:
        if framework == "torch":
            return sr.of(self.make_torch(seed))
        return self.make_linen(seed) if framework == "linen" else self.make_nnx(seed)

    def run(self, framework: str, native: Any) -> np.ndarray:
        if framework == "linen":
            return np.asarray(self._linen().apply(native, self.x))
        if framework == "nnx":
            return np.asarray(nnx.clone(native)(self.x))  # a call overwrites the kernel with the normalised one
        with torch.no_grad():
            return module_output(native(module_input(self.x)))


def module_input(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


def module_output(y: torch.Tensor) -> np.ndarray:
    return np.moveaxis(y.numpy(), 1, -1)


def _linear(name: str, spectral: bool, **options: Any) -> Row:
    return Row(
        f"{name} of a linear", spectral, lambda: torch.nn.Linear(S, S), lambda: nn.Dense(S),
        lambda rngs: nnx.Linear(S, S, rngs=rngs), data(3, S), **options,
    )  # fmt: skip


def _conv(name: str, spectral: bool, **options: Any) -> Row:
    return Row(
        f"{name} of a conv", spectral, lambda: torch.nn.Conv2d(S, S, S), lambda: nn.Conv(S, (S, S), padding="VALID"),
        lambda rngs: nnx.Conv(S, S, (S, S), padding="VALID", rngs=rngs), data(2, 7, 7, S), **options,
    )  # fmt: skip


def _transposed(name: str, spectral: bool, transpose: bool, **options: Any) -> Row:
    flax = {"padding": "VALID", "transpose_kernel": transpose}
    return Row(
        f"{name} of a conv_transpose, transpose_kernel={transpose}", spectral, lambda: torch.nn.ConvTranspose2d(S, S, S),
        lambda: nn.ConvTranspose(S, (S, S), **flax), lambda rngs: nnx.ConvTranspose(S, S, (S, S), **flax, rngs=rngs),
        data(2, 4, 4, S), **options,
    )  # fmt: skip


def rows(style: str) -> list[Row]:
    """Every way to keep axes that both torch and Flax have."""
    w, s = f"{style} weight_norm", f"{style} spectral_norm"
    return [
        _linear(w, False, style=style), _linear(f"{w} dim=1", False, style=style, dim=1, axes=0),
        _linear(f"{w} dim=None", False, style=style, dim=None, axes=None),
        _conv(w, False, style=style), _conv(f"{w} dim=1", False, style=style, dim=1, axes=-2),
        _conv(f"{w} dim=3", False, style=style, dim=3, axes=1),
        _transposed(w, False, True, style=style), _transposed(w, False, False, style=style, axes=-2),
        _transposed(f"{w} dim=1", False, False, style=style, dim=1),
        _linear(s, True, style=style), _conv(s, True, style=style), _conv(f"{s} n_steps=3", True, style=style, steps=3),
        _transposed(s, True, False, style=style, dim=1), _transposed(f"{s} dim=0", True, True, style=style, dim=0),
    ]  # fmt: skip


ROWS = [*rows("new"), *rows("old")]
EACH = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
NEW = pytest.mark.parametrize("row", rows("new"), ids=lambda row: row.name)
WAYS = [way for way in itertools.permutations(("torch", "linen", "nnx"), 2) if "torch" in way]
BETWEEN = [("linen", "nnx"), ("nnx", "linen")]


def bits(reg: sr.StateRegistry) -> dict[str, bytes]:
    return {key: value.tobytes() for key, value in sr.snapshot(reg).items() if not reg[key].rng}


def there_and_back(row: Row, source: str, target: str) -> None:
    begun = row.registry(source)
    done = sr.convert(begun, row.registry(target, 2), **CHOICE)
    assert_close(row.run(target, done.target), row.run(source, begun.unwrap()))
    middle = row.registry(target, 3).replace(sr.snapshot(sr.of(done.target)))
    back = sr.convert(middle, row.registry(source, 4), residual=done.residual, **CHOICE)
    assert back.receipt.stale == ()
    assert bits(sr.of(back.target)) == bits(begun)


@EACH
@pytest.mark.parametrize(("source", "target"), WAYS, ids=[" to ".join(way) for way in WAYS])
def test_a_wrapped_layer_computes_the_same_and_comes_back_bit_for_bit(row: Row, source: str, target: str) -> None:
    there_and_back(row, source, target)


@NEW
@pytest.mark.parametrize(("source", "target"), BETWEEN, ids=[" to ".join(way) for way in BETWEEN])
def test_between_linen_and_nnx_too(row: Row, source: str, target: str) -> None:
    there_and_back(row, source, target)


def test_only_the_choices_are_asked_for() -> None:
    weight, spectral = rows("new")[0], rows("new")[9]
    for source, target, asked in (
        ("torch", "linen", set()), ("linen", "torch", set()),
        ("torch", "nnx", {"normed/scales/kernel"}), ("nnx", "linen", {"normed/layer_instance~1kernel~1scale"}),
    ):  # fmt: skip
        plan = sr.plan(weight.registry(source), weight.registry(target))
        assert {problem.problem for problem in plan.problems} <= {"choice"}
        assert {problem.keys[-1] for problem in plan.problems} == asked
        assert all("5577" in problem.text for problem in plan.problems)
    for source, target, asked in (
        ("torch", "linen", {"_v", "sigma"}), ("linen", "torch", {"_u", "_v", "sigma"}), ("linen", "nnx", set()),
    ):  # fmt: skip
        plan = sr.plan(spectral.registry(source), spectral.registry(target))
        assert {problem.problem for problem in plan.problems} <= {"choice"}
        assert {problem.keys[-1].rpartition("/")[2].rpartition("~1")[2] for problem in plan.problems} == asked


class NormedCell(nn.Module):
    """A cell whose arrays have a norm for each of their columns."""

    @nn.compact
    def __call__(self, carry: Any, x: Any) -> Any:
        return nn.WeightNorm(nn.LSTMCell(S, name="run"))(carry, x)


class TorchCell(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.run = torch.nn.LSTMCell(S, S)
        for name in ("weight_ih", "weight_hh"):
            parametrizations.weight_norm(self.run, name)
        with torch.no_grad():
            for tensor in self.parameters():
                tensor.normal_()


def test_the_gates_of_an_lstm_are_normed_one_by_one_in_both() -> None:
    torch.manual_seed(0)
    carry, x = (data(2, S, seed=5), data(2, S, seed=6)), data(2, S)
    target, source = opened(NormedCell(), carry, x), TorchCell()

    def agree(variables: Any, module: torch.nn.Module) -> None:
        c, h = (torch.from_numpy(value) for value in carry)
        with torch.no_grad():
            expected = module.run(torch.from_numpy(x), (h, c))[0].numpy()
        assert_close(np.asarray(NormedCell().apply(variables, carry, x)[1]), expected)

    done = sr.convert(source, target, **CHOICE)
    agree(done.target, source)
    back = sr.convert(target.replace(sr.snapshot(sr.of(done.target))), TorchCell(), residual=done.residual)
    assert bits(sr.of(back.target)) == bits(sr.of(source))
    agree(target.unwrap(), sr.convert(target, TorchCell(), **CHOICE).target)


# -------------------------------------------------------------------- spectral_norm: what has not converged


SPECTRAL = [row for row in rows("new") if row.spectral]


@pytest.mark.parametrize("row", SPECTRAL, ids=lambda row: row.name)
@pytest.mark.parametrize("target", ["linen", "nnx"])
def test_what_has_not_converged_is_refused_before_anything_is_written(row: Row, target: str) -> None:
    source, there = row.registry("torch"), row.registry(target)
    (u,) = (key for key in source if key.endswith("_u"))
    value = source.read(u)
    source = source.replace({u: np.roll(value, 1) + value})
    plan = sr.plan(source, there, **CHOICE)
    (condition,) = plan.conditions
    assert condition.test == "converged"
    assert str(condition) in str(plan)
    before = bits(there)
    with pytest.raises(errors.PlanError, match=r"has not converged: sigma is .* with u and v as they are stored and"):
        plan.execute(source, there)
    assert bits(there) == before


def test_the_condition_is_what_the_outputs_say() -> None:
    """Nearly converged: refused where the outputs differ by more than 1e-6 of their scale, and only there."""
    row = SPECTRAL[0]
    for error, holds in ((1e-1, False), (1e-2, False), (1e-5, True)):
        source = row.registry("torch")
        (u,) = (key for key in source if key.endswith("_u"))
        value = source.read(u)
        value = value + error * np.roll(value, 1)
        source = source.replace({u: (value / np.linalg.norm(value)).astype(np.float32)})
        target = row.registry("linen")
        plan = sr.plan(source, target, **CHOICE)
        if holds:
            done = plan.execute(source, target)
            assert_close(row.run("linen", done.target), row.run("torch", source.unwrap()))
        else:
            with pytest.raises(errors.PlanError, match="has not converged"):
                plan.execute(source, target)


def test_layers_that_iterate_a_different_number_of_times_have_to_have_converged() -> None:
    row, other = SPECTRAL[1], SPECTRAL[2]
    plan = sr.plan(row.make_linen(), other.make_nnx())
    assert [condition.test for condition in plan.conditions] == ["converged"]
    with pytest.raises(errors.PlanError, match=r"after 1 step of the iteration and .* after 3 steps"):
        plan.execute(row.make_linen(), other.make_nnx())
    assert sr.plan(row.make_linen(), row.make_nnx()).conditions == ()


def test_a_kernel_of_zeros_or_without_a_number_has_no_sigma() -> None:
    row = SPECTRAL[0]
    for value in (0.0, np.nan, np.inf):
        source = row.registry("torch")
        (key,) = (key for key in source if key.endswith("original"))
        source = source.replace({key: np.full((S, S), value, np.float32)})
        with pytest.raises(errors.PlanError, match="has not converged"):
            sr.convert(source, row.make_linen(), **CHOICE)


def test_sigma_is_what_the_source_divides_by() -> None:
    row = SPECTRAL[1]
    source = row.make_torch()
    done = sr.convert(source, row.make_linen(), **CHOICE)
    parts = source.normed["layer_instance"].parametrizations.weight
    sigma = np.asarray(done.target["batch_stats"]["normed"]["layer_instance/kernel/sigma"])
    ratio = (parts.original / source.normed["layer_instance"].weight).detach().numpy()
    assert np.abs(ratio / sigma - 1).max() < 1e-6


def test_a_plan_with_computed_values_is_the_same_after_json() -> None:
    row = SPECTRAL[0]
    for source, target in (("torch", "linen"), ("linen", "torch")):
        plan = sr.plan(row.registry(source), row.registry(target), **CHOICE)
        assert sr.Plan.from_json(plan.to_json()) == plan
        assert "compute" in str(plan)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_vectors_of_other_dtypes_are_computed_in_theirs(dtype: str) -> None:
    row = SPECTRAL[0]
    source = row.make_linen()
    target = Torch(row.make_torch().to(getattr(torch, dtype)))
    target = target.normed["layer_instance"]
    done = sr.convert(source, target, dtype="target", **CHOICE)
    native = module_output(done.target(module_input(row.x).to(getattr(torch, dtype))).detach().float())
    expected = row.run("linen", source.unwrap())
    resolution = float(torch.finfo(getattr(torch, dtype)).eps)
    assert np.abs(native - expected).max() <= max(1e-5, 4 * resolution) * np.abs(expected).max()


# -------------------------------------------------------------------- residual


@pytest.mark.parametrize("row", SPECTRAL, ids=lambda row: row.name)
@pytest.mark.parametrize("changed", ["kernel", "u"])
def test_a_trained_kernel_or_u_makes_what_was_kept_stale_and_it_is_computed_again(row: Row, changed: str) -> None:
    begun = row.make_torch()
    done = sr.convert(begun, row.make_linen(), **CHOICE)
    middle = row.make_linen(3).replace(sr.snapshot(sr.of(done.target)))
    (key,) = (key for key in middle if key.endswith(changed) and "bias" not in key)
    middle = middle.replace({key: data(*middle[key].shape, seed=8)})
    back = sr.convert(middle, row.make_torch(4), residual=done.residual, **CHOICE)
    assert {name.rpartition("_")[2] for name in back.receipt.stale} == {"u", "v"}
    assert_close(row.run("torch", back.target), row.run("linen", middle.unwrap()))


def test_a_trained_bias_leaves_what_was_kept_fresh() -> None:
    row = SPECTRAL[0]
    done = sr.convert(row.make_torch(), row.make_linen(), **CHOICE)
    middle = row.make_linen(3).replace(sr.snapshot(sr.of(done.target)))
    middle = middle.replace({"normed/layer_instance/bias": data(S, seed=8)})
    assert sr.convert(middle, row.make_torch(4), residual=done.residual, **CHOICE).receipt.stale == ()


# -------------------------------------------------------------------- impossible


CROSSED = {
    "weight_norm of a linear over in": (replace(rows("new")[0], dim=1), "in in the source and on out"),
    "weight_norm of the whole": (replace(rows("new")[0], dim=None), "no axis in the source and on out"),
    "the defaults of a conv_transpose": (
        replace(rows("new")[7], axes=-1), "in in the source and on out/groups in the target",
    ),
    "one spatial axis for another": (replace(rows("new")[5], dim=2), "spatial.0 in the source and on spatial.1"),
    "spectral_norm of a linear over in": (replace(rows("new")[9], dim=1), "in in the source and on out"),
    "spectral_norm of a conv_transpose": (
        replace(rows("new")[13], dim=1), "out/groups in the source and on in in the target",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("row", "says"), CROSSED.values(), ids=CROSSED)
@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_other_axes_are_impossible_with_the_axes_of_both_sides(row: Row, says: str, framework: str) -> None:
    source, target = sr.of(row.make_torch()), row.registry(framework)
    plan = sr.plan(source, target, allow=("choice", "missing", "unexpected", "lossy"))
    assert {problem.problem for problem in plan.problems} == {"impossible"}
    assert all(says in problem.text for problem in plan.problems)
    one, _, two = says.partition(" in the source and on ")
    turned = f"lies on {two.removesuffix(' in the target')} in the source and on {one} in the target"
    inverse = sr.plan(target, source, allow=("choice", "missing", "unexpected", "lossy"))
    assert {problem.problem for problem in inverse.problems} == {"impossible"}
    assert all(turned in problem.text for problem in inverse.problems)


def test_heads_have_a_norm_each_in_flax_and_one_in_torch() -> None:
    """Linen keeps the last native axis of a DenseGeneral, which is a part of what torch keeps."""
    module = Linen(lambda: nn.WeightNorm(nn.DenseGeneral((2, 2))))
    target = opened(module, data(3, 4))
    source = Torch(parametrizations.weight_norm(torch.nn.Linear(4, 4)))
    plan = sr.plan(source, target, **CHOICE)
    assert {problem.problem for problem in plan.problems} == {"impossible"}
    assert "on out in the source and on out.1 in the target" in str(plan)


def test_all_axes_of_a_family_are_the_plain_axis() -> None:
    module = Linen(lambda: nn.WeightNorm(nn.DenseGeneral((2, 2)), feature_axes=(-2, -1)))
    x = data(3, 4)
    target = opened(module, x)
    source = Torch(parametrizations.weight_norm(torch.nn.Linear(4, 4))).eval()
    with torch.no_grad():
        for tensor in source.parameters():
            tensor.normal_(generator=torch.Generator().manual_seed(3))
        done = sr.convert(source, target)
        assert_close(np.asarray(module.apply(done.target, x)).reshape(3, 4), source(torch.from_numpy(x)).numpy())


@pytest.mark.parametrize("row", [rows("new")[0], rows("new")[9]], ids=lambda row: row.name)
@pytest.mark.parametrize("framework", ["torch", "linen", "nnx"])
def test_a_layer_without_the_wrapper_has_no_place_for_what_it_holds(row: Row, framework: str) -> None:
    """Also where names and layouts are derived: nothing says where the arrays of a wrapper would hang."""
    source = row.registry(framework)
    for name in sorted({"torch", "flax-linen", "flax-nnx"} - {source.dialect}):
        plan = sr.plan(source, to=name, allow=("choice", "missing", "unexpected", "lossy"))
        assert "impossible" in {problem.problem for problem in plan.problems}
        assert any(problem.keys[0].endswith(("kernel", "original", "original1")) for problem in plan.problems)
