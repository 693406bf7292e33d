"""Models of the zoo that do not correspond: the smallest difference is named, once, and not every key."""

from __future__ import annotations

import pytest
import torch
import zoo_audio
import zoo_mixed
import zoo_transformers
from zoo_all import FOREIGN

import stateregistry as sr

PAIRS = {pair.name: pair for pair in FOREIGN}


def shallow_wavenet() -> torch.nn.Module:
    model = zoo_audio.WaveNet()
    model.conv_layers = model.conv_layers[:4]
    return model


def deep_conformer() -> torch.nn.Module:
    model = zoo_audio.Conformer()
    model.layers.append(zoo_audio.ConformerBlock())
    return model


def more_experts() -> torch.nn.Module:
    model = zoo_mixed.MoeModel()
    for layer in model.layers:
        layer["block_sparse_moe"].experts.append(zoo_mixed.Expert())
    return model


def headless_vit() -> torch.nn.Module:
    model = zoo_transformers.VisionTransformer()
    del model.head
    return model


UNLIKE = [
    ("wavenet-linen", shallow_wavenet, "the source has 4 repetitions of `conv_layers`, the target has 6 of `dilated`"),
    ("conformer-linen", deep_conformer, "the source has 3 repetitions of `layers`, the target has 2 of `conformer`"),
    ("moe-linen", more_experts, "the source has 10 repetitions of `layers/block_sparse_moe/experts`, the target has 8"),
    ("vit-timm-linen", headless_vit, "head/kernel"),
]


@pytest.mark.parametrize(("name", "make", "text"), UNLIKE, ids=lambda value: getattr(value, "__name__", None))
def test_the_smallest_difference_is_named(name, make, text) -> None:
    side = PAIRS[name].flax()
    plan = sr.plan(make(), side.registry(side.fresh(1)), allow=("assumption", "choice"))
    assert not plan.ok
    assert text in str(plan)
    assert len(plan.problems) <= 3, str(plan)


def test_another_width_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    side = PAIRS["vit-timm-linen"].flax()
    target = side.tree(side.fresh(1))
    monkeypatch.setattr(zoo_transformers, "DIM", 48)
    plan = sr.plan(zoo_transformers.VisionTransformer(), target, allow=("assumption", "choice"))
    assert not plan.ok
    assert "most have 48 in the source and 24 in the target" in str(plan)
    assert len(plan.problems) <= 3, str(plan)
