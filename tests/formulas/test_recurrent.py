"""The formulas of recurrent layers against torch, Linen and NNX, with as many features as hidden units."""

from __future__ import annotations

import itertools

import flax.linen as nn
import jax
import numpy as np
import pytest
import torch
from flax import nnx

from stateregistry.errors import AxesError, UnsupportedError
from stateregistry_conformance.formulas import Named, forward

AXES = {
    "input_kernel": ("hidden", "in"),
    "recurrent_kernel": ("hidden", "state"),
    "input_bias": ("hidden",),
    "recurrent_bias": ("hidden",),
}
#: What torch calls them, and the order of its gates.
TORCH = {
    "input_kernel": "weight_ih",
    "recurrent_kernel": "weight_hh",
    "input_bias": "bias_ih",
    "recurrent_bias": "bias_hh",
}
GATES = {"lstm": "ifgo", "gru": "rzn", "rnn": ""}


def torch_roles(module, kind, suffix="l0"):
    """The native arrays cut into gates, one after another."""
    roles = {}
    for piece, name in TORCH.items():
        value = getattr(module, f"{name}_{suffix}", None)
        if value is None:
            continue
        array = value.detach().numpy()
        if kind == "rnn":
            roles[piece] = Named(array, AXES[piece])
            continue
        for gate, part in zip(GATES[kind], np.split(array, len(GATES[kind])), strict=True):
            roles[f"{gate}_{piece}"] = Named(part, AXES[piece])
    if getattr(module, "proj_size", 0):
        projection = getattr(module, f"weight_hr_{suffix}").detach().numpy()
        roles["projection_kernel"] = Named(projection, ("state", "hidden"))
    return roles


def torch_native(module, x, *states):
    """Outputs, last h and (for LSTM) last c."""
    given = [torch.tensor(state).double()[None] for state in states]
    outputs, last = module(torch.tensor(x).double(), *([tuple(given) if len(given) > 1 else given[0]] if given else []))
    last = last if isinstance(last, tuple) else (last,)
    return [outputs, *(state[0] for state in last)]


def compare(bench, found, native):
    assert len(found) == len(native)
    for one, other in zip(found, native, strict=True):
        bench.agrees(one, other)


def exchanged(roles, one, two):
    """Every role of one gate for that of another."""
    moved = dict(roles)
    for piece in AXES:
        if f"{one}_{piece}" in roles:
            moved[f"{one}_{piece}"], moved[f"{two}_{piece}"] = roles[f"{two}_{piece}"], roles[f"{one}_{piece}"]
    return moved


# ------------------------------------------------------------------------------------------------------------- LSTM


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("initial", [True, False])
def test_lstm_is_what_torch_computes(bench, bias, initial) -> None:
    module = bench.torch(torch.nn.LSTM(3, 3, bias=bias, batch_first=True))
    x = bench.draw(3, 3, 3)
    states = [bench.draw(3, 3), bench.draw(3, 3)] if initial else []
    roles, native = torch_roles(module, "lstm"), torch_native(module, x, *states)
    compare(bench, forward("lstm", roles, {}, [x, *states]), native)
    for one, two in itertools.combinations("ifgo", 2):
        bench.departs(forward("lstm", exchanged(roles, one, two), {}, [x, *states])[0], native[0])
    for gate in "ifgo":
        for piece, axes in (("input_kernel", ("in", "hidden")), ("recurrent_kernel", ("state", "hidden"))):
            turned = Named(roles[f"{gate}_{piece}"].array, axes)
            bench.departs(forward("lstm", roles | {f"{gate}_{piece}": turned}, {}, [x, *states])[0], native[0])
    if initial:
        bench.departs(forward("lstm", roles, {}, [x, *states[::-1]])[0], native[0])


def test_lstm_with_a_projection_is_what_torch_computes(bench) -> None:
    module = bench.torch(torch.nn.LSTM(2, 3, proj_size=2, batch_first=True))
    x, h, c = bench.draw(4, 3, 2), bench.draw(4, 2), bench.draw(4, 3)
    roles = torch_roles(module, "lstm")
    compare(bench, forward("lstm", roles, {}, [x, h, c]), torch_native(module, x, h, c))
    without = {role: named for role, named in roles.items() if role != "projection_kernel"}
    with pytest.raises(AxesError, match="the size of the state"):
        forward("lstm", without, {}, [x, h, c])


def test_more_layers_and_directions_are_compositions(bench) -> None:
    module = bench.torch(torch.nn.LSTM(3, 3, num_layers=2, bidirectional=True, proj_size=2, batch_first=True))
    x = bench.draw(2, 4, 3)
    outputs, (h, c) = module(torch.tensor(x).double())
    y, lasts = x, []
    for layer in range(2):
        forth = forward("lstm", torch_roles(module, "lstm", f"l{layer}"), {}, [y])
        back = forward("lstm", torch_roles(module, "lstm", f"l{layer}_reverse"), {"reverse": True}, [y])
        y = np.concatenate([forth[0], back[0]], axis=-1)
        lasts += [forth, back]
    bench.agrees(y, outputs)
    for number, (_, last_h, last_c) in enumerate(lasts):
        bench.agrees(last_h, h[number])
        bench.agrees(last_c, c[number])


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.OptimizedLSTMCell])
def test_lstm_is_what_linen_computes(bench, cell) -> None:
    module, x = nn.RNN(cell(3), return_carry=True), bench.draw(3, 3, 3)
    h, c = bench.draw(3, 3), bench.draw(3, 3)
    values = bench.linen(module, x)["params"]["cell"]
    (last_c, last_h), outputs = module.apply({"params": {"cell": values}}, x, initial_carry=(c, h))
    roles = {}
    for gate in "ifgo":
        roles[f"{gate}_input_kernel"] = Named(values[f"i{gate}"]["kernel"], ("in", "hidden"))
        roles[f"{gate}_recurrent_kernel"] = Named(values[f"h{gate}"]["kernel"], ("state", "hidden"))
        roles[f"{gate}_input_bias+{gate}_recurrent_bias"] = Named(values[f"h{gate}"]["bias"], ("hidden",))
    compare(bench, forward("lstm", roles, {}, [x, h, c]), [outputs, last_h, last_c])


@pytest.mark.parametrize("fused", [True, False])
def test_lstm_is_what_nnx_computes(bench, fused) -> None:
    x, h, c = bench.draw(3, 3), bench.draw(3, 3), bench.draw(3, 3)
    roles = {}
    if fused:
        module = nnx.OptimizedLSTMCell(3, 3, rngs=nnx.Rngs(0))
        values = bench.nnx(module, "dense_i.kernel", "dense_h.kernel", "dense_h.bias")
        cut = {name: np.split(value, 4, axis=-1) for name, value in values.items()}
        arrays = {gate: [cut[name][number] for name in values] for number, gate in enumerate("ifgo")}
    else:
        module = nnx.LSTMCell(3, 3, rngs=nnx.Rngs(0))
        names = {g: (f"i{g}".replace("if", "if_") + ".kernel", f"h{g}.kernel", f"h{g}.bias") for g in "ifgo"}
        values = bench.nnx(module, *itertools.chain(*names.values()))
        arrays = {gate: [values[name] for name in names[gate]] for gate in "ifgo"}
    for gate, (input_kernel, recurrent_kernel, bias) in arrays.items():
        roles[f"{gate}_input_kernel"] = Named(input_kernel, ("in", "hidden"))
        roles[f"{gate}_recurrent_kernel"] = Named(recurrent_kernel, ("state", "hidden"))
        roles[f"{gate}_recurrent_bias"] = Named(bias, ("hidden",))
    (last_c, last_h), output = module((c, h), x)
    compare(bench, forward("lstm", roles, {}, [x[:, None], h, c]), [output[:, None], last_h, last_c])
    bench.departs(forward("lstm", exchanged(roles, "i", "f"), {}, [x[:, None], h, c])[0], output[:, None])


# -------------------------------------------------------------------------------------------------------------- GRU


@pytest.mark.parametrize("bias", [True, False])
def test_gru_is_what_torch_computes(bench, bias) -> None:
    module = bench.torch(torch.nn.GRU(3, 3, bias=bias, batch_first=True))
    x, h = bench.draw(3, 3, 3), bench.draw(3, 3)
    roles, native = torch_roles(module, "gru"), torch_native(module, x, h)
    compare(bench, forward("gru", roles, {}, [x, h]), native)
    for one, two in itertools.combinations("rzn", 2):
        bench.departs(forward("gru", exchanged(roles, one, two), {}, [x, h])[0], native[0])
    if not bias:
        return
    for gate in "rz":  # only the sum of these two matters
        swapped = roles | {
            f"{gate}_input_bias": roles[f"{gate}_recurrent_bias"],
            f"{gate}_recurrent_bias": roles[f"{gate}_input_bias"],
        }
        compare(bench, forward("gru", swapped, {}, [x, h]), native)
    swapped = roles | {"n_input_bias": roles["n_recurrent_bias"], "n_recurrent_bias": roles["n_input_bias"]}
    bench.departs(forward("gru", swapped, {}, [x, h])[0], native[0])
    summed = Named(roles["n_input_bias"].array + roles["n_recurrent_bias"].array, ("hidden",))
    moved = {role: named for role, named in roles.items() if role != "n_recurrent_bias"} | {"n_input_bias": summed}
    bench.departs(forward("gru", moved, {}, [x, h])[0], native[0])


def test_gru_multiplies_by_the_reset_gate_after_the_recurrent_product(bench) -> None:
    """The other convention, `R_n (r * h)`, has the same roles and shapes and is another function."""
    module = bench.torch(torch.nn.GRU(3, 3, bias=False, batch_first=True))
    x, h = bench.draw(3, 1, 3), bench.draw(3, 3)
    roles, native = torch_roles(module, "gru"), torch_native(module, x, h)
    at = {role: named.array.astype(np.float64) for role, named in roles.items()}
    now = x[:, 0].astype(np.float64)
    r, z = (
        1 / (1 + np.exp(-(now @ at[f"{gate}_input_kernel"].T + h @ at[f"{gate}_recurrent_kernel"].T))) for gate in "rz"
    )
    before = np.tanh(now @ at["n_input_kernel"].T + (r * h) @ at["n_recurrent_kernel"].T)
    after = np.tanh(now @ at["n_input_kernel"].T + r * (h @ at["n_recurrent_kernel"].T))
    bench.departs((1 - z) * before + z * h, native[1])
    bench.agrees((1 - z) * after + z * h, native[1])


def test_gru_is_what_linen_computes(bench) -> None:
    module, x, h = nn.RNN(nn.GRUCell(3), return_carry=True), bench.draw(3, 3, 3), bench.draw(3, 3)
    values = bench.linen(module, x)["params"]["cell"]
    last, outputs = module.apply({"params": {"cell": values}}, x, initial_carry=h)
    roles = {}
    for gate in "rzn":
        roles[f"{gate}_input_kernel"] = Named(values[f"i{gate}"]["kernel"], ("in", "hidden"))
        roles[f"{gate}_recurrent_kernel"] = Named(values[f"h{gate}"]["kernel"], ("state", "hidden"))
        name = f"{gate}_input_bias" if gate == "n" else f"{gate}_input_bias+{gate}_recurrent_bias"
        roles[name] = Named(values[f"i{gate}"]["bias"], ("hidden",))
    roles["n_recurrent_bias"] = Named(values["hn"]["bias"], ("hidden",))
    compare(bench, forward("gru", roles, {}, [x, h]), [outputs, last])


def test_gru_of_nnx_has_no_recurrent_bias_of_the_new_gate(bench) -> None:
    module, x, h = nnx.GRUCell(3, 3, rngs=nnx.Rngs(0)), bench.draw(3, 3), bench.draw(3, 3)
    values = bench.nnx(module, "dense_i.kernel", "dense_i.bias", "dense_h.kernel")
    assert module.dense_h.bias is None
    roles = {}
    for number, gate in enumerate("rzn"):
        cut = {name: np.split(value, 3, axis=-1)[number] for name, value in values.items()}
        roles[f"{gate}_input_kernel"] = Named(cut["dense_i.kernel"], ("in", "hidden"))
        roles[f"{gate}_recurrent_kernel"] = Named(cut["dense_h.kernel"], ("state", "hidden"))
        roles[f"{gate}_input_bias"] = Named(cut["dense_i.bias"], ("hidden",))
    last, output = module(h, x)
    compare(bench, forward("gru", roles, {}, [x[:, None], h]), [output[:, None], last])
    bench.departs(forward("gru", exchanged(roles, "r", "z"), {}, [x[:, None], h])[0], output[:, None])


# -------------------------------------------------------------------------------------------------------------- RNN


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_rnn_is_what_torch_computes(bench, activation) -> None:
    module = bench.torch(torch.nn.RNN(3, 3, nonlinearity=activation, batch_first=True))
    x, h = bench.draw(3, 3, 3), bench.draw(3, 3)
    roles, native = torch_roles(module, "rnn"), torch_native(module, x, h)
    compare(bench, forward("rnn", roles, {"activation": activation}, [x, h]), native)
    other = {"tanh": "relu", "relu": "tanh"}[activation]
    bench.departs(forward("rnn", roles, {"activation": other}, [x, h])[0], native[0])
    swapped = roles | {
        "input_kernel": Named(roles["recurrent_kernel"].array, ("hidden", "in")),
        "recurrent_kernel": Named(roles["input_kernel"].array, ("hidden", "state")),
    }
    bench.departs(forward("rnn", swapped, {"activation": activation}, [x, h])[0], native[0])


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("flavour", ["linen", "nnx"])
def test_rnn_is_what_flax_computes(bench, residual, flavour) -> None:
    x, h = bench.draw(3, 3), bench.draw(3, 3)
    if flavour == "linen":
        module = nn.SimpleCell(3, residual=residual)
        values = bench.linen(module, h, x)["params"]
        last, output = module.apply({"params": values}, h, x)
        arrays = values["i"]["kernel"], values["h"]["kernel"], values["i"]["bias"]
    else:
        module = nnx.SimpleCell(3, 3, residual=residual, rngs=nnx.Rngs(0))
        arrays = bench.nnx(module, "dense_i.kernel", "dense_h.kernel", "dense_i.bias").values()
        last, output = module(h, x)
    input_kernel, recurrent_kernel, bias = arrays
    roles = {
        "input_kernel": Named(input_kernel, ("in", "hidden")),
        "recurrent_kernel": Named(recurrent_kernel, ("state", "hidden")),
        "input_bias+recurrent_bias": Named(bias, ("hidden",)),
    }
    compare(bench, forward("rnn", roles, {"residual": residual}, [x[:, None], h]), [output[:, None], last])
    bench.departs(forward("rnn", roles, {"residual": not residual}, [x[:, None], h])[0], output[:, None])


def test_a_reversed_layer_keeps_outputs_at_the_place_of_their_input(bench) -> None:
    module, x = nn.RNN(nn.SimpleCell(3), reverse=True, keep_order=True, return_carry=True), bench.draw(2, 4, 3)
    values = bench.linen(module, x)["params"]["cell"]
    last, outputs = module.apply({"params": {"cell": values}}, x, init_key=jax.random.key(0))
    roles = {
        "input_kernel": Named(values["i"]["kernel"], ("in", "hidden")),
        "recurrent_kernel": Named(values["h"]["kernel"], ("state", "hidden")),
        "input_bias": Named(values["i"]["bias"], ("hidden",)),
    }
    compare(bench, forward("rnn", roles, {"reverse": True}, [x]), [outputs, last])
    bench.departs(forward("rnn", roles, {}, [x])[0], outputs)


# --------------------------------------------------------------------------------------------------------------- refusal


def _roles(kind, **changed):
    prefixes = [f"{gate}_" for gate in GATES[kind]] or [""]
    sizes = {"hidden": 3, "in": 2, "state": 3}
    roles = {
        f"{prefix}{piece}": Named(np.ones([sizes[axis] for axis in axes]), axes)
        for prefix in prefixes
        for piece, axes in AXES.items()
    }
    for role, shape in changed.items():
        roles[role] = Named(np.ones(shape), AXES[role.split("_", 1)[1] if kind != "rnn" else role])
    return roles


X = np.ones((1, 4, 2))


@pytest.mark.parametrize(
    ("kind", "roles", "config", "inputs", "error", "says"),
    [
        ("lstm", _roles("lstm", f_input_kernel=(4, 2)), {}, [X], AxesError, "f_recurrent_bias|f_input_bias"),
        ("lstm", _roles("lstm", o_recurrent_kernel=(3, 4)), {}, [X], AxesError, "the kernels of o"),
        ("lstm", _roles("lstm", i_input_bias=(1,)), {}, [X], AxesError, "i_input_bias"),
        ("lstm", _roles("lstm"), {}, [np.ones((1, 4, 3))], AxesError, "the features of the input"),
        ("lstm", _roles("lstm"), {}, [X, np.ones((1, 4)), np.ones((1, 3))], AxesError, "initial state 1"),
        ("lstm", _roles("lstm"), {"activation": "gelu"}, [X], UnsupportedError, "activation"),
        ("lstm", _roles("lstm") | {"z_input_kernel": Named(X, ("a", "b", "c"))}, {}, [X], UnsupportedError, "z_input"),
        ("gru", _roles("gru", n_recurrent_bias=(1,)), {}, [X], AxesError, "a bias of n"),
        ("gru", _roles("gru"), {}, [X, np.ones((1, 3)), np.ones((1, 3))], UnsupportedError, "called with 3"),
        ("rnn", _roles("rnn", recurrent_kernel=(3, 2)), {}, [X], AxesError, "the size of the state"),
        ("rnn", _roles("rnn"), {"nonlinearity": "relu"}, [X], UnsupportedError, "nonlinearity"),
    ],
)
def test_what_a_recurrent_layer_cannot_be_is_refused(kind, roles, config, inputs, error, says) -> None:
    with pytest.raises(error, match=says):
        forward(kind, roles, config, inputs)


def test_a_missing_gate_is_refused() -> None:
    roles = {role: named for role, named in _roles("lstm").items() if not role.startswith("g_")}
    with pytest.raises(UnsupportedError, match="no g_input_kernel"):
        forward("lstm", roles, {}, [X])


def test_a_sum_of_biases_beside_one_of_them_is_refused() -> None:
    roles = _roles("rnn") | {"input_bias+recurrent_bias": Named(np.ones(3), ("hidden",))}
    with pytest.raises(UnsupportedError, match="count twice"):
        forward("rnn", roles, {}, [X])


def test_the_biases_of_the_new_gate_cannot_be_given_as_their_sum() -> None:
    roles = {role: named for role, named in _roles("gru").items() if not role.startswith("n_") or "kernel" in role}
    roles["n_input_bias+n_recurrent_bias"] = Named(np.ones(3), ("hidden",))
    with pytest.raises(UnsupportedError, match="no role n_input_bias\\+n_recurrent_bias"):
        forward("gru", roles, {}, [X])
