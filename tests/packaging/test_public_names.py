"""The public names are a promise: this list changes on purpose or not at all."""

from __future__ import annotations

import pytest

import stateregistry as sr

PUBLIC = {
    "Diff", "Entry", "Kind", "Layer", "Plan", "Report", "StateError", "StateRegistry", "Verification", "__version__",
    "cast", "check", "convert", "count", "diff", "errors", "keys", "load", "mask", "of", "open", "plan",
    "rules", "save", "snapshot", "tools", "verify",
}  # fmt: skip


def test_the_public_names_are_frozen():
    assert set(sr.__all__) == PUBLIC
    assert len(sr.__all__) == len(PUBLIC)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_resolves(name):
    assert getattr(sr, name) is not None


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="paln"):
        sr.paln  # noqa: B018  # the attribute access is what is tested


def test_the_directory_lists_the_public_names():
    assert set(dir(sr)) == PUBLIC


@pytest.mark.parametrize("name", [name for name in dir(sr.errors) if name.endswith("Error")])
def test_every_error_is_a_state_error_and_a_builtin_that_a_caller_would_expect(name):
    error = getattr(sr.errors, name)
    assert issubclass(error, sr.StateError)
    builtins = [base for base in error.__mro__ if base.__module__ == "builtins" and base not in (Exception, object)]
    assert builtins[:-1] or name == "StateError"
