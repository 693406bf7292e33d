"""Folding says exactly which names it stands for, and never folds what differs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateregistry import Entry, Kind
from stateregistry.report import folding
from stateregistry.report.folding import fold

W = Entry(Kind.PARAMETER, (3, 4), "float32", trainable=True)
B = Entry(Kind.BUFFER, (3,), "float32")


def names(entries):
    return [branch.name for branch in fold(entries)]


@pytest.mark.parametrize(
    ("given_names", "folded"),
    [
        (["conv1", "conv2", "conv3"], ["conv{1..3}"]),
        (["conv1_BN", "conv2_BN", "conv10_BN"], ["conv{1,2,10}_BN"]),
        (["l00", "l01", "l02"], ["l{00..02}"]),
        (["l8", "l9", "l10"], ["l{8..10}"]),
        (["0", "2", "4", "6"], ["{0,2..6}"]),
        (["a1", "b1"], ["a1", "b1"]),
        (["a1", "a01"], ["a{01,1}"]),
        (["x1y1", "x1y2", "x2y1"], ["x{1..2}y1", "x1y2"]),
        ([f"p{2**n}" for n in range(12)], [f"p{2**n}" for n in range(12)]),
        (["only"], ["only"]),
        (["v1", "v999999999999"], ["v{1,999999999999}"]),
    ],
)
def test_the_pattern_names_what_it_stands_for(given_names, folded):
    assert names(dict.fromkeys(given_names, W)) == folded


def test_names_with_a_million_digits_fold_or_not_but_do_not_hang():
    assert sum(branch.tensors for branch in fold({"9" * 1_000_000: W, "1": W})) == 2


def test_different_kinds_do_not_fold():
    assert names({"a1": W, "a2": B}) == ["a1", "a2"]


def test_different_members_do_not_fold():
    assert names({"a1/w": W, "a2/w": W, "a2/b": B}) == ["a1", "a2"]


def test_sizes_that_differ_are_stars():
    (branch,) = fold({"a1/w": W, "a2/w": Entry(Kind.PARAMETER, (3, 9), "float32", trainable=True)})
    (leaf,) = branch.children
    assert (branch.times, leaf.sizes, leaf.elements) == (2, (3, None), 39)


def test_a_chain_of_containers_is_one_line():
    (branch,) = fold({"encoder/stack/w": W, "encoder/stack/b": B})
    assert branch.name == "encoder/stack"


def test_a_key_of_ten_thousand_segments_is_shown():
    assert fold({"/".join(["a"] * 10_000): W})[0].tensors == 1


@given(
    st.dictionaries(
        st.text("ab01_/", min_size=1, max_size=6).map(lambda t: t.strip("/") or "x"), st.sampled_from([W, B])
    )
)
def test_nothing_is_lost_or_counted_twice(entries):
    entries = {"/".join(part for part in key.split("/") if part): entry for key, entry in entries.items()}
    entries = {k: e for k, e in entries.items() if not any(o != k and (f"{o}/").startswith(f"{k}/") for o in entries)}
    branches = fold(entries)
    assert sum(branch.tensors for branch in branches) == len(entries)
    assert sum(branch.nbytes for branch in branches) == sum(entry.nbytes for entry in entries.values())
    assert sum(leaves(branch) for branch in branches) == len(entries)


def leaves(branch):
    """How many arrays the lines below stand for, by multiplying what the folds say."""
    below = sum(leaves(child) for child in branch.children) if branch.children else 1
    return branch.times * below


def test_a_large_model_folds_quickly():
    entries = {f"layers/{n}/attention/{name}/weight": W for n in range(12_000) for name in ("q", "k", "v", "o")}
    (branch,) = fold(entries)
    assert np.prod([branch.tensors]) == 48_000


def test_rows_fold_where_one_number_moves_in_several_places_and_others_stand_still() -> None:
    lines = [
        ("dtype", f"m/layers/{n}/{part}/w -> t/block_{n + 1}/{part}/k", "bfloat16 in the source, float32 in the target")
        for n in range(40)
        for part in ("up", "down")
    ]
    assert folding.rows(lines) == [
        ("dtype", f"m/layers/{{0..39}}/{part}/w -> t/block_{{1..40}}/{part}/k", lines[0][2]) for part in ("up", "down")
    ]


def test_rows_whose_numbers_move_apart_fold_by_one_of_them() -> None:
    lines = [(f"stage{i}/block{j}",) for i in range(2) for j in range(5)]
    assert folding.rows(lines) == [("stage0/block{0..4}",), ("stage1/block{0..4}",)]
    assert folding.rows([("a1", "b0"), ("a2", "b1"), ("a5", "b2"), ("a6", "b3")]) == [
        ("a{1..2}", "b{0..1}"),
        ("a{5..6}", "b{2..3}"),
    ]


def test_equal_rows_are_not_one() -> None:
    assert folding.rows([("a1",), ("a1",)]) == [("a1",), ("a1",)]
    assert folding.rows([("a1", "b1"), ("a01", "b2")]) == [("a1", "b1"), ("a01", "b2")]
