"""Paths as tokens, and names as words: what counts as the same spelling, and what does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateregistry.alignment.lexicon import similarity, words_of
from stateregistry.alignment.spelling import numbers, same, stems, tokens

SAME = [
    ("layers/0/conv1", "layers_0/conv_1"), ("encoder/layer/3", "encoder/layer_3"), ("module/fc", "fc"),
    ("_orig_mod/a/b", "a/b"), ("LayerNorm_0", "layer_norm/0"), ("h.0.attn", "h/0/attn"),
    ("stage0_self1_mlp", "stage_0/self_1/mlp"),
    ("block_1_conv_2/x", "block/1/conv2/x"), ("blocks/0/first_norm", "blocks/0/norm1"),
    ("blocks.0_mixer/up", "blocks/0/mixer/up"),
]  # fmt: skip
DIFFERENT = [
    ("layers/0", "layers/1"), ("conv1", "conv"), ("a/b", "ab"), ("layer/1/2", "layer/12"), ("norm1", "norm2"),
    ("blocks.1x1_conv", "blocks/1/x1_conv"), ("blocks/0_mixer", "blocks/0/mixer"),  # a segment may begin with a number
]  # fmt: skip


@pytest.mark.parametrize(("one", "two"), SAME)
def test_one_name_in_two_spellings_is_the_same(one: str, two: str) -> None:
    assert same(one) == same(two)


@pytest.mark.parametrize(("one", "two"), DIFFERENT)
def test_two_names_are_not_the_same(one: str, two: str) -> None:
    assert same(one) != same(two)


def test_a_number_belongs_to_the_name_before_it_and_a_second_one_stands_alone() -> None:
    assert stems(tokens("layer1/0/conv2")) == ("layer", "", "conv")
    assert numbers(tokens("layer1/0/conv2")) == (1, 0, 2)


def test_escaped_segments_are_read_as_they_are_written() -> None:
    assert same("a~1b/0") != same("a/b/0")
    assert same("x~0y") == same("x~0y")


@given(st.lists(st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8), min_size=1, max_size=4))
def test_every_path_has_tokens_and_equal_paths_equal_ones(segments: list[str]) -> None:
    path = "/".join(segments)
    assert same(path) == tuple(token.same for token in tokens(path))


@pytest.mark.parametrize(
    ("one", "two"),
    [("q_proj", "query"), ("attn", "SelfAttn"), ("wpe", "position_embeddings"), ("classifier", "head"), ("mlp", "ffn")],
)
def test_words_of_one_meaning_meet(one: str, two: str) -> None:
    assert words_of(one) & words_of(two)


@pytest.mark.parametrize(("one", "two"), [("q_proj", "k_proj"), ("Dense_0", "Conv_0"), ("gate_proj", "up_proj")])
def test_words_that_mean_nothing_or_other_things_do_not(one: str, two: str) -> None:
    assert not words_of(one) & words_of(two)


def test_similarity_is_nought_without_words() -> None:
    assert similarity(frozenset(), frozenset()) == 0.0
    assert similarity(frozenset("ab"), frozenset("ab")) == 1.0
