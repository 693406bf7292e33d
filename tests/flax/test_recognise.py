"""Which objects are Flax's, what to pass instead of those that nearly are, and that asking imports nothing."""

from __future__ import annotations

import subprocess
import sys

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
import pytest
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
        (nnx.state(nnx.Linear(1, 1, rngs=nnx.Rngs(0))), "nnx.merge"),
        (nnx.graphdef(nnx.Linear(1, 1, rngs=nnx.Rngs(0))), "nnx.merge"),
        (nnx.split(nnx.Linear(1, 1, rngs=nnx.Rngs(0))), "nnx.merge(*parts)"),
        (nnx.Rngs(0), "adapter='flax-nnx'"),
        (nnx.Linear, "instance"),
    ],
    ids=["state", "graphdef", "parts", "rngs", "class"],
)
def test_what_is_nearly_an_nnx_module_is_explained(near, hint):
    assert not nnx_adapter.recognises(near)
    with pytest.raises(errors.AdapterError) as caught:
        sr.of(near)
    assert hint in caught.value.hint


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
