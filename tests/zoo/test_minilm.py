"""Real weights: a published sentence encoder becomes two Flax models, one of them with names of its own, without rules."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@cache
def minilm() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "examples" / "minilm.py"
    spec = importlib.util.spec_from_file_location("examples_minilm", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@cache
def expected() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids, mask = minilm().tokens()
    return ids, mask, minilm().Torch().embed(ids, mask)


def test_the_sentences_are_of_different_lengths_and_embeddings_tell_them_apart() -> None:
    _, mask, embeddings = expected()
    assert len(set(mask.sum(1).tolist())) > 1
    similar = embeddings @ embeddings.T
    assert similar[0, 1] > similar[0, 3] + 0.2


@pytest.mark.parametrize("into", ["into_hub", "into_linen"])
def test_the_published_checkpoint_gives_the_same_embeddings_in_flax(into: str) -> None:
    ids, mask, before = expected()
    embed, plan = getattr(minilm(), into)()
    found = embed(ids, mask)
    assert plan.ok
    assert np.abs(found - before).max() <= minilm().TOLERANCE * np.abs(before).max()
