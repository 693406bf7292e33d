"""Undeclared types, doubtful names, other layouts of one framework: told, never guessed."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from one_layer import S, linen, nnx_net, told, torch_net
from torch.nn.utils import parametrize, prune

import stateregistry as sr
import stateregistry_flax
import stateregistry_torch
from stateregistry.layers.vocabulary import Layer, Piece

pytestmark = pytest.mark.usefixtures("forgotten")


class TorchOwn(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = torch.nn.Parameter(torch.rand(S, S)), torch.nn.Parameter(torch.rand(S))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.w + self.b


class NnxOwn(nnx.Module):
    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.w, self.b = nnx.Param(jnp.asarray(random.random((S, S)))), nnx.Param(jnp.asarray(random.random(S)))

    def __call__(self, x: Any) -> Any:
        return x @ self.w[...].T + self.b[...]


class LinenOwn(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return x @ self.param("w", nn.initializers.normal(), (S, S)) + self.param("b", nn.initializers.ones, (S,))


OWN = {
    "torch": lambda: torch_net(TorchOwn()),
    "linen": lambda: linen(LinenOwn),
    "nnx": lambda: nnx_net(NnxOwn()),
}
KNOWN = {
    "torch": lambda: torch_net(torch.nn.Linear(S, S)),
    "linen": lambda: linen(lambda name: nn.Dense(S, name=name)),
    "nnx": lambda: nnx_net(nnx.Linear(S, S, rngs=nnx.Rngs(0))),
}
NAMES = {"torch": "TorchOwn", "linen": "LinenOwn", "nnx": "NnxOwn"}
DOORS = {"torch": "stateregistry_torch", "linen": "stateregistry_flax", "nnx": "stateregistry_flax"}
OTHERS = [(one, two) for one in OWN for two in OWN if one != two]


# ------------------------------------------------------------------------------------------------ undeclared types


@pytest.mark.parametrize(("one", "two"), OTHERS)
def test_a_type_that_nobody_declared_is_told_with_path_type_candidates_and_the_line_that_settles_it(
    one: str, two: str
) -> None:
    text = told(sr.plan(OWN[one](), KNOWN[two]()))
    assert f"fc is a {__name__}.{NAMES[one]}, a type that nobody declared" in text
    assert "it could be a linear (as the" in text
    line = f'{DOORS[one]}.register_layer("{__name__}.{NAMES[one]}", lambda module: sr.Layer("linear", "", (Piece("kernel", "w"'
    assert line in text
    back = told(sr.plan(KNOWN[two](), OWN[one]()))
    assert f"fc is a {__name__}.{NAMES[one]}, a type that nobody declared" in back


@pytest.mark.parametrize(("one", "two"), OTHERS)
def test_two_types_that_nobody_declared_are_never_paired_for_certain(one: str, two: str) -> None:
    text = told(sr.plan(OWN[one](), OWN[two]()))
    assert f"{__name__}.{NAMES[one]}" in text
    assert "it could be a linear" in text
    assert f"{DOORS[one]}.register_layer" in text


def test_the_line_that_is_shown_settles_it() -> None:
    """It is taken out of the message and run, with the axes as the type has them."""
    source, target = OWN["torch"](), KNOWN["nnx"]()
    text = told(sr.plan(source, target))
    line = text[text.index("stateregistry_torch.register_layer") : text.index("; or ")]
    assert 'Piece("kernel", "w", "out in")' in line
    line = line.replace('"out in"', '"in out"')
    eval(line, {"stateregistry_torch": stateregistry_torch, "sr": sr, "Piece": Piece})  # a line that people paste
    done = sr.convert(source, target)
    x = np.random.default_rng(1).random((3, S)).astype(np.float32)
    with torch.no_grad():
        expected = source["fc"](torch.from_numpy(x)).numpy()
    assert np.abs(np.asarray(done.target["fc"](x)) - expected).max() < 1e-5


class TorchDoubled(torch.nn.Linear):
    """A subclass that computes something else of the same arrays."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class NnxDoubled(nnx.Linear):
    def __call__(self, x: Any) -> Any:
        return 2 * super().__call__(x)


class LinenDense(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        kernel = self.param("kernel", nn.initializers.normal(), (x.shape[-1], S + 2))
        return x @ kernel + self.param("bias", nn.initializers.ones, (S + 2,))


class TorchGain(torch.nn.Module):
    """Named like a norm, and centred at zero, as those of Gemma are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(S))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + self.weight)


NOT_SQUARE = {
    "a subclass of torch": (lambda: torch_net(TorchDoubled(S, S + 2)), "TorchDoubled"),
    "a subclass of NNX": (lambda: nnx_net(NnxDoubled(S, S + 2, rngs=nnx.Rngs(0))), "NnxDoubled"),
    "a Linen module of one's own": (lambda: linen(LinenDense), "LinenDense"),
}


@pytest.mark.parametrize("what", NOT_SQUARE)
def test_a_shape_that_leaves_one_layout_does_not_say_what_an_undeclared_type_computes(what: str) -> None:
    make, name = NOT_SQUARE[what]
    known = (
        torch_net(torch.nn.Linear(S, S + 2)) if "torch" not in what else nnx_net(nnx.Linear(S, S + 2, rngs=nnx.Rngs(0)))
    )
    for source, target in ((make(), known), (known, make())):
        plan = sr.plan(source, target)
        assert {problem.problem for problem in plan.problems} == {"assumption"}
        assert f"fc is a {__name__}.{name}, a type that nobody declared" in told(plan)
        assert "it could be a linear (as the Linear on the other side)" in told(plan)
        assert sr.plan(source, target, allow=("assumption",)).ok
        assert sr.plan(source, target, rules={"layer": [{"path": "fc", "kind": "linear"}]}).ok


def test_a_vector_of_an_undeclared_type_is_no_norm_for_certain_either() -> None:
    for norm in (nnx.RMSNorm(S, rngs=nnx.Rngs(0)), nnx.LayerNorm(S, use_bias=False, rngs=nnx.Rngs(0))):
        plan = sr.plan(torch_net(TorchGain()), nnx_net(norm))
        assert [problem.problem for problem in plan.problems] == ["assumption"]
        assert "TorchGain, a type that nobody declared" in told(plan)
        assert sr.plan(torch_net(TorchGain()), nnx_net(norm), allow=("assumption",)).ok


def test_an_einsum_that_is_no_linear_is_not_taken_for_one_by_its_shape() -> None:
    """One matrix for each place of the sequence has the shape of a linear into heads."""
    x = np.ones((2, S, S), np.float32)
    source = torch_net(torch.nn.Linear(S, S * S))
    target = linen(lambda name: nn.Einsum((S, S, S), "bti,tio->bto", name=name), x)
    assert "fc is a flax.linen.linear.Einsum, a declared type, and yet no layer" in told(sr.plan(source, target))


def test_a_convolution_with_kernels_of_its_own_everywhere_says_that_no_other_framework_has_it() -> None:
    target = linen(lambda name: nn.ConvLocal(S, (3,), name=name), np.ones((2, 5, S), np.float32))
    text = told(sr.plan(torch_net(torch.nn.Conv1d(S, S, 3)), target))
    assert "fc is a flax.linen.linear.ConvLocal: it has a kernel for every place of its output" in text
    assert "register_layer" not in text


@pytest.mark.parametrize(("one", "two"), OTHERS)
def test_parameters_of_their_own_on_both_sides_move_unchanged_and_for_certain(one: str, two: str) -> None:
    for framework in (one, two):
        door = stateregistry_torch if framework == "torch" else stateregistry_flax
        door.register_layer(f"{__name__}.{NAMES[framework]}", door.bare)
    source = OWN[one]()
    done = sr.convert(source, OWN[two]())
    assert {move.grade for move in done.plan.moves} == {"certain"}
    assert sr.of(done.target).read("fc/w").tobytes() == sr.of(source).read("fc/w").tobytes()


def test_one_side_alone_declared_bare_settles_nothing() -> None:
    stateregistry_torch.register_layer(TorchOwn, stateregistry_torch.bare)
    assert "NnxOwn, a type that nobody declared" in told(sr.plan(OWN["torch"](), OWN["nnx"]()))


@pytest.mark.parametrize("framework", list(OWN))
def test_holders_say_which_module_has_an_entry(framework: str) -> None:
    holders = sr.of(OWN[framework]()).holders
    assert holders.keys() == {"fc/w", "fc/b"}
    told_ = {(holder.type, holder.path, holder.bare) for holder in holders.values()}
    assert told_ == {(f"{__name__}.{NAMES[framework]}", "fc", False)}


def test_nothing_holds_the_entries_of_a_file(tmp_path: Any) -> None:
    sr.save(OWN["torch"](), tmp_path / "x.safetensors")
    with sr.open(tmp_path / "x.safetensors") as file:
        assert dict(file.holders) == dict(file.activations) == {}


def test_a_declared_type_that_is_no_layer_as_it_stands_is_not_to_be_declared_again() -> None:
    """To declare `Linear` once more, as a type that nobody declared is, would change every Linear of every model."""
    pruned, symmetric = torch_net(torch.nn.Linear(S, S)), torch_net(torch.nn.Linear(S, S))
    prune.l1_unstructured(pruned["fc"], "weight", 0.5)
    turn = type("Turn", (torch.nn.Module,), {"forward": lambda self, kernel: kernel + kernel.T})
    parametrize.register_parametrization(symmetric["fc"], "weight", turn())
    for source in (pruned, symmetric):
        text = told(sr.plan(source, nnx_net(nnx.Linear(S, S, rngs=nnx.Rngs(0)))))
        assert "fc is a torch.nn.modules.linear.Linear, a declared type, and yet no layer as it stands" in text
        assert "make it a plain Linear first" in text
        assert "register_layer" not in text
        assert "nobody declared" not in text


def test_a_stack_that_several_axes_could_count_is_not_to_be_declared_again() -> None:
    make = nnx.vmap(lambda key: nnx.Linear(S, S, rngs=nnx.Rngs(key)))
    several = torch.nn.ModuleList(torch.nn.Linear(S, S) for _ in range(S))
    text = told(sr.plan(torch_net(several), nnx_net(make(jax.random.split(jax.random.key(0), S)))))
    assert "nothing says which axis counts stacked modules" in text
    assert "register_layer" not in text


# ------------------------------------------------------------------------------------------------ one framework


def test_one_framework_that_holds_a_kernel_in_two_orders_moves_its_axes() -> None:
    """A square kernel of the same name: copied as it lies, every number would be in another place."""
    stateregistry_torch.register_layer(
        "my_models.Turned",
        lambda _: Layer("linear", "", (Piece("kernel", "weight", "in out"), Piece("bias", "bias", "out"))),
    )
    turned = type("Turned", (torch.nn.Linear,), {"forward": lambda self, x: x @ self.weight, "__module__": "my_models"})
    source, target = torch_net(turned(S, S)), torch_net(torch.nn.Linear(S, S))
    expected = source["fc"].weight.detach().numpy().T
    done = sr.convert(source, target)
    assert np.ascontiguousarray(done.target["fc"].weight.detach().numpy()).tobytes() == expected.copy().tobytes()
    back = done.plan.invert().execute(done.target, torch_net(turned(S, S)))
    assert torch.equal(back.target["fc"].weight, source["fc"].weight)


@pytest.mark.parametrize("first", [False, True])
def test_transposed_convolutions_of_one_framework_that_store_their_kernel_otherwise(first: bool) -> None:
    def make(transpose: bool, seed: int) -> Any:
        layer = nnx.ConvTranspose(S, S, (3, 3), transpose_kernel=transpose, rngs=nnx.Rngs(seed))
        return nnx_net(layer)

    image = np.random.default_rng(0).normal(size=(1, 5, 5, S)).astype(np.float32)
    source = make(first, 1)
    target = sr.convert(source, make(not first, 2)).target
    expected = np.asarray(source["fc"](image))
    assert np.abs(np.asarray(target["fc"](image)) - expected).max() <= 1e-5 * np.abs(expected).max()


# ------------------------------------------------------------------------------------------------ weak names


def test_two_layers_of_common_names_are_a_cell_without_gates_only_if_the_caller_says_so() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            return nn.RNN(nn.SimpleCell(S, name="cell"))(x)

    x = np.ones((2, 3, S), np.float32)
    variables = Net().init(jax.random.key(0), x)
    assert {layer.path: layer.kind for layer in sr.of(variables).layers if layer.inferred}["cell"] == "rnn"
    plan = sr.plan(variables, to="torch", allow=("choice",))
    assert {problem.problem for problem in plan.problems} == {"assumption"}
    assert "as two linear layers of a module could be called as well" in told(plan)
    graded = {move.target: move.grade for move in plan.moves}
    assert set(graded.values()) == {"assumption"}, graded
    assert sr.plan(variables, to="torch", allow=("choice", "assumption")).ok
    assert sr.plan(variables, to="torch", allow=("choice",), rules={"layer": [{"path": "cell", "kind": "rnn"}]}).ok
    known = torch.nn.ModuleDict({"cell": torch.nn.RNN(S, S)})
    assert sr.plan(variables, known, allow=("choice",)).ok, "a model that knows settles it"


def test_a_norm_of_more_than_one_axis_that_names_alone_suggest_is_an_assumption() -> None:
    flat = {"params": {"n": {"scale": np.ones(S, np.float32)}}}
    wide = {"params": {"n": {"scale": np.ones((S, S), np.float32)}}}
    rules = {"layer": [{"path": "n", "kind": "rms_norm"}]}
    assert {move.grade for move in sr.plan(sr.of(flat), to="torch", rules=rules).moves} == {"certain"}
    assert {move.grade for move in sr.plan(sr.of(wide), to="torch", rules=rules).moves} == {"certain"}
    assert "ambiguous" in told(sr.plan(sr.of(wide), to="torch")) or "assumption" in told(
        sr.plan(sr.of(wide), to="torch")
    )


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_file_of_wrapped_weights_says_what_they_are_and_that_a_model_is_needed(ending: str, tmp_path: Any) -> None:
    with pytest.warns(FutureWarning):
        old = torch_net(torch.nn.utils.weight_norm(torch.nn.Linear(S, S)))
    new = torch_net(torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(S, S)))
    spectral = torch_net(torch.nn.utils.spectral_norm(torch.nn.Linear(S, S)))
    names = {"old": "fc/weight_g", "new": "fc/parametrizations/weight/original0", "spectral": "fc/weight_u"}
    for what, module in (("old", old), ("new", new), ("spectral", spectral)):
        sr.save(module, tmp_path / f"{what}.{ending}")
        text = told(sr.plan(tmp_path / f"{what}.{ending}", to="flax-linen"))
        norm = "spectral_norm" if what == "spectral" else "weight_norm"
        assert names[what] in text
        assert f"it is what {norm} of torch makes a weight of" in text
        assert "give the model" in text


def test_kinds_have_the_article_that_they_are_read_with() -> None:
    source = torch_net(torch.nn.InstanceNorm1d(S, affine=True))
    assert "an instance_norm (InstanceNorm1d)" in told(sr.plan(source, nnx_net(nnx.GroupNorm(S, 2, rngs=nnx.Rngs(0)))))


@pytest.mark.parametrize("dialect", ["torch", "flax-nnx"])
def test_an_ambiguous_layer_is_reported_with_its_path_its_candidates_and_the_rule(dialect: str, tmp_path: Any) -> None:
    if dialect == "torch":
        sr.save(torch_net(torch.nn.Conv1d(S, S, 3)), tmp_path / "x.safetensors")
        source, to = tmp_path / "x.safetensors", "flax-nnx"
    else:
        sr.save(nnx_net(nnx.Conv(S, S, (3,), rngs=nnx.Rngs(0))), tmp_path / "x.safetensors")
        source, to = tmp_path / "x.safetensors", "torch"
    text = told(sr.plan(source, to=to))
    assert "fc" in text
    assert "conv or conv_transpose" in text
    assert '[[layer]] path = "fc" kind = "conv"' in text
