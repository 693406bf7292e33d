"""Which objects are Flax's, what to pass instead of those that nearly are, and that asking imports nothing."""

from __future__ import annotations

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from flax.core import freeze
from flax.training import train_state

import stateregistry as sr
from stateregistry import errors
from stateregistry_flax import linen, msgpack
from stateregistry_flax import nnx as nnx_adapter

VARIABLES = {"params": {"w": jnp.ones(2)}, "batch_stats": {"m": jnp.ones(2)}}


@pytest.mark.parametrize(
    "variables",
    [
        VARIABLES,
        freeze(VARIABLES),
        {"params": {}},
        {"params": freeze({"w": jnp.ones(1)})},
        {"params": {"w": np.ones(1)}},
    ],
    ids=["dict", "frozen", "empty", "half", "numpy"],
)
def test_a_mapping_of_collections_with_params_is_linens(variables):
    assert linen.recognises(variables)
    assert sr.of(variables).adapter == "flax-linen"


def state_of(params):
    return train_state.TrainState.create(apply_fn=lambda: 0, params=params, tx=optax.sgd(0.1))


@pytest.mark.parametrize(
    ("near", "hint"),
    [
        ({"Dense_0": {"kernel": jnp.ones(2)}}, '{"params": tree}'),
        ({"batch_stats": {"m": jnp.ones(2)}}, '{"params": {}, **tree}'),
        ({"w": jnp.ones(2)}, '{"params": tree}'),
        ({"a.weight": np.ones(2), "a.bias": np.ones(2)}, "state_dict"),
        ({"params": {"w": jnp.ones(2)}, "step": 3}, "step is none"),
        (nn.Dense(3), "module.init"),
        (state_of({"w": jnp.ones(2)}), '"params": state.params'),
        (state_of(VARIABLES), "pass state.params, which"),
    ],
    ids=["bare", "statistics", "flat", "dotted", "step", "module", "train-state", "train-state-of-variables"],
)
def test_what_is_nearly_linen_variables_is_explained(near, hint):
    assert not linen.recognises(near)
    assert hint in linen.explain(near)
    with pytest.raises(errors.AdapterError) as caught:
        sr.of(near, adapter="flax-linen")
    assert hint in caught.value.hint
    with pytest.raises(errors.AdapterError) as caught:
        sr.of(near)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("near", "hint"),
    [
        (nnx.graphdef(nnx.Linear(1, 1, rngs=nnx.Rngs(0))), "nnx.merge"),
        (nnx.split(nnx.Linear(1, 1, rngs=nnx.Rngs(0))), "nnx.merge(*parts)"),
        (nnx.Rngs(0), "adapter='flax-nnx'"),
        (nnx.Linear, "instance"),
    ],
    ids=["graphdef", "parts", "rngs", "class"],
)
def test_what_is_nearly_an_nnx_module_is_explained(near, hint):
    assert not nnx_adapter.recognises(near)
    with pytest.raises(errors.AdapterError) as caught:
        sr.of(near)
    assert hint in caught.value.hint


class Net(nn.Module):
    """A module whose only state are statistics, or none at all."""

    tracks: bool

    @nn.compact
    def __call__(self, x):
        if self.tracks:
            x = nn.BatchNorm(use_running_average=True, use_scale=False, use_bias=False, name="bn")(x)
        return nn.LayerNorm(use_scale=False, use_bias=False)(x)


@pytest.mark.parametrize("tracks", [True, False])
def test_variables_without_parameters_are_variables_where_a_module_says_so(tracks):
    x = np.ones((2, 3), np.float32)
    variables = Net(tracks).init(jax.random.key(0), x)
    assert set(variables) == ({"batch_stats"} if tracks else set())
    reg = sr.of(variables, module=Net(tracks), args=(x,))
    assert set(reg) == ({"bn/mean", "bn/var"} if tracks else set())
    assert [layer.kind for layer in reg.layers] == ["batch_norm"] * tracks
    with pytest.raises(errors.AdapterError):
        sr.of(variables)
    if tracks:
        moved = reg.replace({"bn/mean": np.full(3, 2, np.float32)}).unwrap()
        assert set(moved) == {"batch_stats"}
        assert moved["batch_stats"]["bn"]["mean"].tolist() == [2.0] * 3
        source = torch.nn.ModuleDict({"bn": torch.nn.BatchNorm1d(3, affine=False)})
        done = sr.convert(source, reg, allow=("choice",))
        assert set(done.target) == {"batch_stats"}


def test_a_module_does_not_make_variables_of_what_is_none():
    with pytest.raises(errors.AdapterError):
        sr.of({"a": np.ones(2)}, module=Net(tracks=False), args=(np.ones((2, 3)),))
    with pytest.raises(errors.AdapterError):
        sr.of({"a": {"b": torch.ones(2)}}, module=Net(tracks=False), args=(np.ones((2, 3)),))


def test_the_state_of_an_nnx_module_is_a_registry_whose_layers_are_inferred():
    model = nnx.Dict({"fc": nnx.Linear(2, 3, rngs=nnx.Rngs(0)), "bn": nnx.BatchNorm(3, rngs=nnx.Rngs(0))})
    state = nnx.state(model)
    reg = sr.of(state)
    assert dict(reg) == dict(sr.of(model))
    assert reg.unwrap() is state
    assert {(layer.path, layer.kind, layer.inferred) for layer in reg.layers} == {
        ("fc", "linear", True),
        ("bn", "batch_norm", True),
    }
    reg.replace({"fc/bias": np.full(3, 7, np.float32)})
    assert state["fc"]["bias"][...].tolist() == [7.0] * 3


def test_what_a_conversion_makes_for_nnx_can_be_opened_again():
    model = torch.nn.ModuleDict({"fc": torch.nn.Linear(2, 3), "blocks": torch.nn.ModuleList([torch.nn.Linear(3, 3)])})
    model["tied"] = model["fc"]
    done = sr.convert(model, to="flax-nnx")
    reg = sr.of(done.target)
    assert dict(reg.aliases) == {"tied/bias": "fc/bias", "tied/kernel": "fc/kernel"}
    fresh = torch.nn.ModuleDict({"fc": torch.nn.Linear(2, 3), "blocks": torch.nn.ModuleList([torch.nn.Linear(3, 3)])})
    fresh["tied"] = fresh["fc"]
    sr.convert(done.target, fresh, allow=("assumption",))
    assert sr.diff(sr.of(fresh), sr.of(model)).equal


def test_nnx_objects_that_are_no_modules_are_taken_by_name():
    reg = sr.of(nnx.Rngs(params=0, dropout=1), adapter="flax-nnx")
    assert [entry.rng for entry in reg.values()] == [True] * 4


@pytest.mark.parametrize("other", [3, None, "params", {}, [1], {"params": 3}, {1: 2}, object(), {"a": object()}])
def test_what_is_not_near_is_left_alone(other):
    assert not linen.recognises(other)
    assert not nnx_adapter.recognises(other)
    assert linen.explain(other) == "" or "params" in linen.explain(other)
    assert nnx_adapter.explain(other) == ""


def test_a_torch_checkpoint_under_params_is_not_linens():
    import torch

    checkpoint = {"params": {"a.weight": torch.ones(2)}}
    assert not linen.recognises(checkpoint)
    assert linen.explain(checkpoint) == ""


@pytest.mark.parametrize(("adapter", "obj"), [("flax-linen", VARIABLES), ("flax-nnx", nnx.Dict({}))])
def test_unknown_options_are_refused(adapter, obj):
    with pytest.raises(errors.AdapterError, match="'modul'"):
        sr.of(obj, adapter=adapter, modul=None)


ALONE = """
import sys
import stateregistry_flax as flax_plugins
heavy = [name for name in ("jax", "jaxlib", "flax", "torch", "optax", "msgpack") if name in sys.modules]
assert not heavy, heavy
for adapter in (flax_plugins.linen, flax_plugins.nnx):
    for other in ({"params": {}}, {"a": 1}, [], 3, object):
        adapter.recognises(other), adapter.explain(other), adapter.dialect, adapter.name
    assert adapter.abstractly(lambda: 3) == 3
    assert adapter.template(3) is None
from stateregistry_flax.linen_harness import harness as one
from stateregistry_flax.nnx_harness import harness as two
assert (one.name, two.name) == ("flax-linen", "flax-nnx")
heavy = [name for name in ("jax", "jaxlib", "flax", "torch", "msgpack") if name in sys.modules]
assert not heavy, heavy
"""


def alone(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_the_package_and_its_plugins_import_no_framework():
    done = alone(ALONE)
    assert done.returncode == 0, done.stderr


def test_that_test_can_fail():
    assert alone("import jax\n" + ALONE).returncode != 0


READ = """
import sys
import stateregistry as sr
with sr.open(sys.argv[1]) as file:
    for key in file:
        print(key, file[key], file.read(key).tobytes().hex())
assert not [name for name in ("jax", "jaxlib", "flax", "msgpack") if name in sys.modules]
"""


def test_a_msgpack_file_is_read_without_any_framework(tmp_path):
    path = sr.save(sr.of(VARIABLES), tmp_path / "x.msgpack")
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{key} {entry} {sr.of(VARIABLES).read(key).tobytes().hex()}" for key, entry in sr.of(VARIABLES).items()
    ]


MISSING = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "flax", "msgpack"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
import numpy as np
import stateregistry as sr
from pathlib import Path
for attempt in (
    lambda: sr.of({"params": {"w": np.ones(2)}}),
    lambda: sr.save({"w": np.ones(2, np.float32)}, Path(sys.argv[1]) / "x.msgpack"),
):
    try:
        attempt()
    except sr.errors.MissingDependencyError as error:
        assert "pip install 'stateregistry[flax]'" in str(error), error
    else:
        raise SystemExit("no error")
assert not list(Path(sys.argv[1]).iterdir())
"""


def test_a_missing_framework_is_named_with_how_to_install_it(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MISSING, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_plugins_are_found_by_entry_point():
    from stateregistry import plugins

    assert plugins.adapters()["flax-linen"] is linen
    assert plugins.adapters()["flax-nnx"] is nnx_adapter
    assert plugins.stores()["flax-msgpack"] is msgpack
    for adapter in (linen, nnx_adapter):
        assert isinstance(adapter, plugins.SupportsTemplates)
        assert isinstance(adapter, plugins.SupportsDerivation)
        assert adapter.dialect.name == adapter.name
