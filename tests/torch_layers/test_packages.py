"""Types of well-known packages: they are there, and compute what they are declared to be."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import numpy as np
import pytest
import torch

import stateregistry as sr
from stateregistry_torch.packages import BARE, LAYERS

pytest.importorskip("transformers")

#: Packages that are not installed here; their types are registered all the same, as nothing imports them.
ABSENT = ("timm.", "torchvision.")
TYPES = [name for name in (*LAYERS, *BARE) if not name.startswith(ABSENT)]
NORMS = [
    name for name in LAYERS if LAYERS[name].__name__ in ("_rms_norm", "_layer_norm") and not name.startswith(ABSENT)
]
SIZE = 6


def the_type(name: str) -> Any:
    module, _, cls = name.rpartition(".")
    return getattr(importlib.import_module(module), cls)


def random(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def test_every_name_is_that_of_a_module() -> None:
    assert len(TYPES) > 80
    assert [name for name in TYPES if not issubclass(the_type(name), torch.nn.Module)] == []


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_computes_what_it_is_declared_to_be(name: str) -> None:
    cls = the_type(name)
    eps = "eps" if "eps" in inspect.signature(cls.__init__).parameters else None
    norm = random(cls(SIZE, **({"eps": 1e-3} if eps else {})))
    (layer,) = sr.of(norm).layers
    x = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(1))
    roles = {role: sr.of(norm).read(key).astype(np.float64) for role, key in layer.roles.items()}
    wide = x.double().numpy()
    if layer.kind == "layer_norm":
        wide = wide - wide.mean(-1, keepdims=True)
    expected = wide / np.sqrt((wide * wide).mean(-1, keepdims=True) + layer.config["eps"]) * roles["scale"]
    expected = expected + roles.get("bias", 0.0)
    assert layer.config["eps"] == (1e-3 if eps else pytest.approx(layer.config["eps"]))
    with torch.no_grad():
        found = norm(x).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_norm_that_computes_with_one_plus_its_weight_is_none_of_them() -> None:
    """Its weight as that of a plain norm would be another function with the same shapes."""
    from flax import nnx
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

    source = torch.nn.ModuleDict({"norm": random(GemmaRMSNorm(SIZE))})
    plan = sr.plan(source, nnx.Dict({"norm": nnx.RMSNorm(SIZE, rngs=nnx.Rngs(0))}))
    assert [problem.problem for problem in plan.problems] == ["assumption"]
    assert "GemmaRMSNorm, a type that nobody declared" in str(plan.problems[0])


def test_a_table_says_by_how_much_its_rows_are_scaled() -> None:
    from transformers.models.bart.modeling_bart import BartScaledWordEmbedding

    plain, scaled = (sr.of(BartScaledWordEmbedding(5, SIZE, 1, embed_scale=scale)).layers[0] for scale in (1.0, 3.0))
    assert plain.kind == scaled.kind == "embedding"
    assert "embed_scale" not in plain.config
    assert scaled.config["embed_scale"] == 3.0
