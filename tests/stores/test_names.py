"""The spelling rule between stored names and keys, the inference of kinds, and the limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateregistry import errors, keys
from stateregistry.entry import DTYPES, Kind
from stateregistry.stores import names
from stateregistry.stores.kinds import BUFFER_NAMES, infer_kind, inferred
from stateregistry.stores.limits import DEFAULT, Limits

SEGMENTS = st.text(st.sampled_from("ab~/.\n\0é日"), min_size=1, max_size=3)
PATHS = st.lists(SEGMENTS, min_size=1, max_size=3).map(lambda parts: keys.join(*parts))


def tree_of(paths):
    kept = []
    for path in paths:
        if not any(other.startswith(f"{path}/") or path.startswith(f"{other}/") or other == path for other in kept):
            kept.append(path)
    return kept


@given(st.lists(PATHS, max_size=8))
def test_reading_undoes_writing(paths):
    wanted = tree_of(paths)
    stored, exact = names.names_of(wanted)
    assert list(stored) == wanted
    assert len(set(stored.values())) == len(wanted)
    assert names.keys_of(list(stored.values()), ".", "x", given=exact) == wanted


@given(st.lists(st.text(st.sampled_from("ab./~\n\0"), max_size=5), max_size=6, unique=True), st.sampled_from("./"))
def test_the_quick_way_and_the_careful_way_agree(found, separator):
    """What `_all_at_once` gives is what the loop gives, and what the loop refuses it leaves to the loop."""
    quick = names._all_at_once(found, separator)
    if quick is None:
        return
    assert quick == [keys.join(*name.split(separator)) for name in found]
    assert len(set(quick)) == len(quick)
    keys.check_prefix_free(quick)


@pytest.mark.parametrize(
    ("found", "dialect", "expected"),
    [
        (["a.b", "c"], "", "."),
        (["a/b", "c"], "", "/"),
        (["a/b", "c.d"], "", "."),
        (["a/b"], "torch", "."),
        ([], "", "/"),
    ],
)
def test_names_are_cut_where_the_rule_says(found, dialect, expected):
    assert names.separator_of(found, dialect) == expected


@pytest.mark.parametrize(
    ("found", "separator", "error", "says"),
    [
        (["a..b", "c", ".d"], ".", errors.KeyPathError, r"2 stored names.*'a\.\.b', '\.d'"),
        ([""], ".", errors.KeyPathError, "''"),
        (["/a"], "/", errors.KeyPathError, "'/a'"),
        (["a", "a.b", "c"], ".", errors.DuplicateKeyError, r"'a' is an array and holds 'a\.b'"),
        (["a.b~", "a", "x"], ".", errors.DuplicateKeyError, "'a' is an array and holds 'a.b~'"),
        (["a!", "a", "a.b"], ".", errors.DuplicateKeyError, "'a' is an array"),
    ],
)
def test_names_that_give_no_keys_of_their_own_are_named(found, separator, error, says):
    with pytest.raises(error, match=says) as caught:
        names.keys_of(found, separator, "file.x")
    assert str(caught.value).startswith("file.x: ")


def test_two_names_of_one_key_are_both_named():
    with pytest.raises(errors.DuplicateKeyError, match=r"'a\.b' and 'odd' are both 'a/b'"):
        names.keys_of(["a.b", "odd"], ".", "x", given={"a/b": "odd"})


def test_a_sibling_that_sorts_between_does_not_hide_a_prefix():
    """In plain sorted order 'a', 'a-b', 'a/b': neighbours alone would not show it."""
    with pytest.raises(errors.DuplicateKeyError):
        names.keys_of(["a", "a-b", "a.b"], ".", "x")


# -------------------------------------------------------------------- kinds


@pytest.mark.parametrize(
    ("key", "siblings", "kind"),
    [
        ("bn/running_mean", [], Kind.BUFFER),
        ("bn/running_var", [], Kind.BUFFER),
        ("num_batches_tracked", [], Kind.BUFFER),
        ("bn/mean", ["bn/var"], Kind.BUFFER),
        ("bn/var", ["bn/mean"], Kind.BUFFER),
        ("bn/mean", ["var", "other/var", "bn/x/var"], Kind.PARAMETER),
        ("mean", ["var"], Kind.BUFFER),
        ("fc/weight_u", ["fc/weight_orig"], Kind.BUFFER),
        ("fc/weight_u", ["fc/weight"], Kind.PARAMETER),
        ("bn/weight", [], Kind.PARAMETER),
        ("running_mean/weight", [], Kind.PARAMETER),
        ("my_running_mean", [], Kind.PARAMETER),
    ],
)
def test_kinds_are_inferred_from_the_last_segment_and_its_siblings(key, siblings, kind):
    assert infer_kind(key, {key, *siblings}) is kind


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_an_inferred_parameter_is_trainable_where_it_can_be(dtype):
    entry = inferred(Kind.PARAMETER, (2,), dtype)
    assert entry.inferred
    assert entry.trainable is ("float" in dtype or "complex" in dtype)
    assert not inferred(Kind.BUFFER, (2,), dtype).trainable


def test_every_sibling_of_the_table_is_a_last_segment():
    assert all("/" not in name + sibling for name, sibling in BUFFER_NAMES.items())


# -------------------------------------------------------------------- limits


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "9", None])
def test_a_limit_is_a_positive_int(wrong):
    with pytest.raises(ValueError, match="entries"):
        Limits(entries=wrong)


def test_a_rank_that_numpy_cannot_hold_is_no_limit():
    with pytest.raises(ValueError, match="64"):
        Limits(rank=65)


def test_going_over_a_limit_names_it_and_how_to_raise_it():
    with pytest.raises(errors.FileFormatError, match=r"here: 65 is above the limit rank=64\n.*Limits\(rank="):
        DEFAULT.check("rank", 65, "here")
    DEFAULT.check("rank", 64, "here")
