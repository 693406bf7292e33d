"""Keys: joining and splitting are inverse for every name, and what cannot be a key is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateregistry import errors, keys

SEGMENTS = st.text(min_size=1)
#: Segments out of few characters, so that escapes meet one another.
TRICKY = st.text(alphabet="~/01a.", min_size=1, max_size=6)
PATHS = st.lists(st.one_of(SEGMENTS, TRICKY), min_size=1, max_size=5).map(tuple)


@given(PATHS)
def test_splitting_a_joined_path_gives_the_path(path: tuple[str, ...]) -> None:
    assert keys.split(keys.join(*path)) == path


@given(PATHS, PATHS)
def test_different_paths_have_different_keys(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    assert (keys.join(*first) == keys.join(*second)) == (first == second)


@given(st.text(alphabet="~/01a"))
def test_a_text_is_refused_or_comes_back(text: str) -> None:
    try:
        path = keys.split(text)
    except errors.KeyPathError:
        return
    assert keys.join(*path) == text


@pytest.mark.parametrize("text", ["", "/", "//", "a//b", "/a", "a/", "~", "a~", "a~2", "a/~x"])
def test_a_malformed_key_is_refused(text: str) -> None:
    with pytest.raises(errors.KeyPathError):
        keys.split(text)


@pytest.mark.parametrize("path", [(), ("",), ("a", ""), (3,), (None,)])
def test_a_malformed_path_is_refused(path: tuple[str, ...]) -> None:
    with pytest.raises(errors.KeyPathError):
        keys.join(*path)


@given(st.dictionaries(PATHS.map(lambda path: keys.join(*path)), st.integers(), max_size=8))
def test_what_is_nested_flattens_to_the_same(flat: dict[str, int]) -> None:
    try:
        tree = keys.nest(flat)
    except errors.DuplicateKeyError:
        paths = [keys.split(key) for key in flat]
        assert any(a != b and a == b[: len(a)] for a in paths for b in paths)
        return
    assert keys.flatten(tree) == flat


@pytest.mark.parametrize("names", [["a", "a/b"], ["a/b", "a/b/c/d"], ["x", "a/b/c", "a/b"]])
def test_a_key_that_is_a_prefix_of_another_is_refused_by_name(names: list[str]) -> None:
    with pytest.raises(errors.DuplicateKeyError) as caught:
        keys.check_prefix_free(names)
    assert set(caught.value.keys) <= set(names)
    assert caught.value.keys


@pytest.mark.parametrize("names", [[], ["a"], ["a", "ab", "a2/b"], ["w/s", "ws"], ["a/b", "a/bc"]])
def test_keys_that_only_look_like_prefixes_are_fine(names: list[str]) -> None:
    keys.check_prefix_free(names)


def test_numbers_sort_by_value_for_people() -> None:
    names = ["layer/10/w", "layer/2/w", "layer/1/w", "head"]
    assert sorted(names, key=keys.natural) == ["head", "layer/1/w", "layer/2/w", "layer/10/w"]
