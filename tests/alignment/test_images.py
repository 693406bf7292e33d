"""Axes that hold a flattened image are asked about, also where the image is made of them, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen

import stateregistry as sr
from stateregistry.errors import AmbiguousAlignment, RuleError

ALLOW = ("choice", "assumption")


def data(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


class Generator(torch.nn.Module):
    """What a linear gives is made an image."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = torch.nn.Linear(10, 8 * 3 * 3), torch.nn.BatchNorm1d(72)
        self.up1, self.up2 = torch.nn.ConvTranspose2d(8, 6, 4, 2, 1), torch.nn.ConvTranspose2d(6, 3, 4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up2(torch.relu(self.up1(self.bn(self.fc(x)).view(-1, 8, 3, 3))))


class LinenGenerator(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.BatchNorm(use_running_average=True, epsilon=1e-5, name="flat_norm")(
            linen.Dense(72, name="project")(x)
        )
        x = linen.ConvTranspose(6, (4, 4), (2, 2), transpose_kernel=True, name="deconv_0")(x.reshape(-1, 3, 3, 8))
        return linen.ConvTranspose(3, (4, 4), (2, 2), transpose_kernel=True, name="deconv_1")(linen.relu(x))


class Vae(torch.nn.Module):
    """The encoder reads the width that the decoder gives."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = torch.nn.Conv2d(3, 8, 4, 2, 1), torch.nn.Conv2d(8, 16, 4, 2, 1)
        self.fc_mu, self.fc_var = torch.nn.Linear(64, 5), torch.nn.Linear(64, 5)
        self.latent = torch.nn.Linear(5, 64)
        self.d1, self.d2 = torch.nn.ConvTranspose2d(16, 8, 4, 2, 1), torch.nn.ConvTranspose2d(8, 3, 4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = torch.relu(self.c2(torch.relu(self.c1(x)))).flatten(1)
        return self.d2(torch.relu(self.d1(self.latent(self.fc_mu(flat) + 2 * self.fc_var(flat)).view(-1, 16, 2, 2))))


class LinenVae(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for number, width in enumerate((8, 16)):
            x = linen.relu(linen.Conv(width, (4, 4), (2, 2), padding=1, name=f"enc_{number}")(x))
        flat = x.reshape(len(x), -1)
        x = linen.Dense(5, name="mu")(flat) + 2 * linen.Dense(5, name="var")(flat)
        x = linen.Dense(64, name="latent_in")(x).reshape(-1, 2, 2, 16)
        x = linen.relu(linen.ConvTranspose(8, (4, 4), (2, 2), transpose_kernel=True, name="dec_0")(x))
        return linen.ConvTranspose(3, (4, 4), (2, 2), transpose_kernel=True, name="dec_1")(x)


class Recurrent(torch.nn.Module):
    """A recurrent layer reads columns of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rnn = torch.nn.Conv2d(1, 6, 3, padding=1), torch.nn.GRU(30, 7, batch_first=True)
        torch.nn.init.zeros_(self.rnn.bias_hh_l0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(self.conv(x).permute(0, 3, 1, 2).flatten(2))[0]


class LinenRecurrent(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.Conv(6, (3, 3), name="conv")(x).transpose(0, 2, 1, 3)
        return linen.RNN(linen.GRUCell(7, name="cell"))(x.reshape(*x.shape[:2], -1))


def order(path: str, axis: str, sizes: str, other: str) -> dict[str, str]:
    return {"source": path, "axis": axis, "source_axes": sizes, "target_axes": other}


IMAGE = "c=16 h=2 w=2"
CASES: dict[str, tuple[Callable[[], torch.nn.Module], linen.Module, np.ndarray, list[dict[str, str]]]] = {
    "generator": (
        Generator, LinenGenerator(), data(2, 10),
        [order("fc", "out", "c=8 h=3 w=3", "h w c"), order("bn", "features", "c=8 h=3 w=3", "h w c")],
    ),
    "autoencoder": (
        Vae, LinenVae(), data(2, 8, 8, 3),
        [order("fc_mu", "in", IMAGE, "h w c"), order("fc_var", "in", IMAGE, "h w c"), order("latent", "out", IMAGE, "h w c")],
    ),
    "recurrent": (Recurrent, LinenRecurrent(), data(2, 5, 4, 1), [order("rnn", "in", "c=6 h=5", "h c")]),
}  # fmt: skip


def scrambled(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(3)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and "bias_hh" not in name:
                tensor.uniform_(0.5, 1.5) if "var" in name.rsplit(".")[-1] else tensor.normal_()
    return model.eval()


def run_torch(model: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    """With channels last on both sides of images."""
    with torch.no_grad():
        given = torch.from_numpy(x)
        made = model(given.permute(0, 3, 1, 2) if given.ndim == 4 else given)
        return (made.permute(0, 2, 3, 1) if made.ndim == 4 else made).numpy()


def linen_side(net: linen.Module, x: np.ndarray, *, traced: bool) -> Any:
    variables = net.init(jax.random.key(0), x)
    return sr.of(variables, module=net, args=(x,)) if traced else variables


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_every_axis_of_an_image_is_asked_about_both_ways(name: str, traced: bool) -> None:
    make, net, x, orders = CASES[name]
    sides = make(), linen_side(net, x, traced=traced)
    for source, target in (sides, sides[::-1]):
        plan = sr.plan(source, target, allow=ALLOW)
        asked = [problem for problem in plan.problems if "flattened image" in problem.text]
        assert len(asked) == len(orders), str(plan)
        assert sorted(problem.hint.split('axis = "')[1].split('"')[0] for problem in asked) == sorted(
            rule["axis"] for rule in orders
        )


@pytest.mark.parametrize("name", CASES)
def test_with_the_rules_the_outputs_agree_and_each_of_them_is_needed(name: str) -> None:
    make, net, x, orders = CASES[name]
    model = scrambled(make())
    done = sr.convert(model, linen_side(net, x, traced=True), rules={"order": orders}, allow=ALLOW)
    expected = run_torch(model, x)
    np.testing.assert_allclose(net.apply(done.target, x), expected, atol=1e-4 * np.abs(expected).max())
    for number in range(len(orders)):
        some = [rule for place, rule in enumerate(orders) if place != number]
        assert not sr.plan(model, linen_side(net, x, traced=True), rules={"order": some}, allow=ALLOW).ok


@pytest.mark.parametrize("back", [False, True])
def test_a_forward_pass_finds_an_image_whose_channels_are_known(back: bool) -> None:
    """Whatever its height and width: these stay in their order."""
    make, net, x, _ = CASES["recurrent"]
    model, target = scrambled(make()), linen_side(net, x, traced=True)
    if back:
        source = sr.of(net.init(jax.random.key(5), x), module=net, args=(x,))
        done = sr.convert(
            source, make(), allow=("choice",), forward=(lambda y: net.apply(source.unwrap(), y), run_torch, x)
        )
        expected, made = np.asarray(net.apply(source.unwrap(), x)), run_torch(done.target, x)
    else:
        done = sr.convert(model, target, allow=ALLOW, forward=(lambda y: run_torch(model, y), net.apply, x))
        expected, made = run_torch(model, x), np.asarray(net.apply(done.target, x))
    np.testing.assert_allclose(made, expected, atol=1e-5)
    assert any("a flattened image with its channels elsewhere" in move.evidence for move in done.plan.moves)


@pytest.mark.parametrize("name", ["generator", "autoencoder"])
def test_a_forward_pass_does_not_take_one_order_for_the_other(name: str) -> None:
    """Channels that could be several numbers are not tried."""
    make, net, x, _ = CASES[name]
    model, target = scrambled(make()), linen_side(net, x, traced=True)
    with pytest.raises(AmbiguousAlignment, match=r"\[\[order\]\]"):
        sr.convert(model, target, allow=ALLOW, forward=(lambda x: run_torch(model, x), net.apply, x))


@pytest.mark.parametrize("axes", [("c=.. h=.. w=..", "h w c"), ("c=16 h=.. w=..", "h w c"), ("c h w", "h=.. w=.. c=4")])
def test_a_rule_whose_sizes_are_still_to_be_written_is_refused(axes: tuple[str, str]) -> None:
    with pytest.raises(RuleError, match="has no sizes") as error:
        sr.plan(Vae(), to="flax-linen", rules={"order": [order("fc_mu", "in", *axes)]})
    assert "write the sizes" in str(error.value)


def test_what_is_proposed_is_refused_as_it_is() -> None:
    make, net, x, _ = CASES["autoencoder"]
    plan = sr.plan(make(), linen_side(net, x, traced=True), allow=ALLOW)
    for problem in plan.problems:
        _, path, _, axis, _, first, _, second, *_ = problem.hint.split('"')
        with pytest.raises(RuleError, match="not complete"):
            sr.plan(make(), to="flax-linen", rules={"order": [order(path, axis, first, second)]})


# -------------------------------------------------------------------- widths that are no image


class Pooled(torch.nn.Module):
    """Three convolutions side by side, each reduced to one number a channel: 18 numbers, and no image."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = torch.nn.ModuleList([torch.nn.Conv1d(6, 6, width) for width in (1, 2, 3)])
        self.fc = torch.nn.Linear(18, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.cat([conv(x.transpose(1, 2)).amax(-1) for conv in self.convs], -1))


class LinenPooled(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        made = [linen.Conv(6, (w,), padding="VALID", name=f"width_{w}")(x).max(1) for w in (1, 2, 3)]
        return linen.Dense(4, name="out")(jnp.concatenate(made, -1))


class Twice(torch.nn.Module):
    """Two convolutions put together: 16 channels that another one reads, and the linear after a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(3, 8, 3, padding=1)
        self.both, self.fc = torch.nn.Conv2d(16, 6, 3), torch.nn.Linear(16, 4)


class LinenTwice(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.concatenate([linen.Conv(8, (1, 1), name="one")(x), linen.Conv(8, (3, 3), name="three")(x)], -1)
        return linen.Conv(6, (3, 3), name="next")(x).mean((1, 2)), linen.Dense(4, name="out")(x.mean((1, 2)))


class Timed(torch.nn.Module):
    """A linear that reads an argument before any convolution has made anything."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.conv, self.last = torch.nn.Linear(6, 8), torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 3, 3)


class LinenTimed(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        t = linen.Dense(8, name="embed_time")(t)
        return linen.Conv(3, (3, 3), name="to_rgb")(linen.Conv(8, (3, 3), name="stem")(x) + t[:, None, None])


@pytest.mark.parametrize(
    ("model", "net", "args"),
    [
        (Pooled(), LinenPooled(), (data(2, 5, 6),)),
        (Twice(), LinenTwice(), (data(2, 4, 4, 3),)),
        (Timed(), LinenTimed(), (data(2, 6, 6, 3), data(2, 6))),
    ],
)
def test_a_width_that_something_else_explains_is_no_question(model: Any, net: linen.Module, args: Any) -> None:
    target = sr.of(net.init(jax.random.key(0), *args), module=net, args=args)
    for source, other in ((model, target), (target, model)):
        plan = sr.plan(source, other, allow=ALLOW)
        assert plan.ok, str(plan)


# -------------------------------------------------------------------- a forward pass


class Ends(torch.nn.Module):
    """Six channels are reduced to their mean and largest value in each half: 24 numbers, and one order on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(3, 6, 1), torch.nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        halves = x[:, :, :2], x[:, :, 2:]
        return self.fc(torch.cat([half.mean((2, 3)) for half in halves] + [half.amax((2, 3)) for half in halves], -1))


class LinenEnds(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.Conv(6, (1, 1), name="point")(x)
        halves = x[:, :2], x[:, 2:]
        found = [half.mean((1, 2)) for half in halves] + [half.max((1, 2)) for half in halves]
        return linen.Dense(4, name="out")(jnp.concatenate(found, -1))


def test_a_forward_pass_bears_out_that_the_numbers_come_in_one_order() -> None:
    x, net, model = data(2, 4, 4, 3), LinenEnds(), scrambled(Ends())
    target = sr.of(net.init(jax.random.key(0), x), module=net, args=(x,))
    assert [problem.problem for problem in sr.plan(model, target, allow=ALLOW).problems] == ["ambiguous"]
    done = sr.convert(model, target, allow=ALLOW, forward=(lambda x: run_torch(model, x), net.apply, x))
    np.testing.assert_allclose(net.apply(done.target, x), run_torch(model, x), atol=1e-5)
    assert any("come in one order on both sides" in move.evidence for move in done.plan.moves)


def test_inputs_for_which_every_order_agrees_decide_nothing() -> None:
    net, model = LinenEnds(), scrambled(Ends())
    x = data(2, 4, 4, 3)
    target = sr.of(net.init(jax.random.key(0), x), module=net, args=(x,))
    with torch.no_grad():
        model.conv.weight.zero_()
        model.conv.bias.fill_(1)  # every number that the linear reads is one
    with pytest.raises(AmbiguousAlignment, match="the order of the 'in' axis of fc"):
        sr.convert(model, target, allow=ALLOW, forward=(lambda x: run_torch(model, x), net.apply, x))
