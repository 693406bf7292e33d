"""Rules read in both directions, and what does not read at all is refused with its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from stateregistry.conversion.rules.rules import Rename, Rules
from stateregistry.errors import FileMissingError, RuleError


@pytest.mark.parametrize(
    ("source", "target", "path", "expected"),
    [
        ("encoder", "body", "encoder/layer/0/weight", "body/layer/0/weight"),
        ("encoder.layer.{i}", "blocks/{i+1}", "encoder/layer/3/fc/weight", "blocks/4/fc/weight"),
        ("blocks/{i+1}", "encoder/layer/{i}", "blocks/4/fc", "encoder/layer/3/fc"),
        ("layer{s}/{b}/conv", "stage_{s}/block_{b}/conv", "layer2/10/conv", "stage_2/block_10/conv"),
        ("module", "", "module/fc/weight", "fc/weight"),
        ("", "module", "fc/weight", "module/fc/weight"),
        ("a/{rest...}/z", "b/{rest}", "a/x/y/z/w", "b/x/y/w"),
        ("{n}/{n}", "twice/{n}", "a/a/w", "twice/a/w"),
        ("fc.weight", "fc/kernel", "fc/weight", "fc/kernel"),
    ],
)
def test_a_rename_matches_whole_segments_from_the_start(source: str, target: str, path: str, expected: str) -> None:
    assert Rename(source, target).apply(path) == expected


@pytest.mark.parametrize(
    ("source", "path"),
    [("enc", "encoder/w"), ("encoder", "my/encoder/w"), ("l{i+0}", "lx/w"), ("{n}/{n}", "a/b/w"), ("a/b", "a")],
)
def test_a_rename_that_does_not_match_says_so(source: str, path: str) -> None:
    assert Rename(source, source).apply(path) is None


@pytest.mark.parametrize("path", ["encoder/layer/0/fc/weight", "encoder/layer/11/bias", "head/weight"])
def test_the_inverse_undoes_a_rename(path: str) -> None:
    rules = Rules.of({"encoder.layer.{i}": "blocks/{i+1}", "head": "classifier"})
    new = rules.rename(path)
    assert new is not None
    assert rules.inverse().rename(new) == path
    assert rules.inverse().inverse() == rules


def test_two_renames_that_claim_one_path_are_refused() -> None:
    rules = Rules.of({"a": "x", "a/b": "y"})
    with pytest.raises(RuleError, match="both claim 'a/b/w'"):
        rules.rename("a/b/w")


def test_a_capture_that_is_dropped_does_not_read_backwards() -> None:
    with pytest.raises(RuleError, match="does not read backwards"):
        Rules.of({"layer/{i}": "layer"})


@pytest.mark.parametrize(
    ("source", "target", "path"),
    [
        ("blocks/{i+1}", "layer/{i}", "blocks/0/w"),
        ("layer/{i}", "blocks/{i-2}", "layer/1/w"),
        ("layer/{i}", "blocks/{i+1}", "layer/norm/w"),
        ("{i}/{i+1}", "layer/{i}", "3/3/w"),
    ],
)
def test_a_path_that_would_count_below_the_first_or_not_at_all_is_not_meant(
    source: str, target: str, path: str
) -> None:
    """The rule reads backwards for no such path either."""
    assert Rules.of({source: target}).rename(path) is None


def test_numbers_that_are_one_apart_are_held_against_each_other() -> None:
    assert Rename("{i}/{i+1}", "layer/{i}").apply("3/4/w") == "layer/3/w"


def test_a_name_that_begins_with_a_dash_is_a_name() -> None:
    assert Rename("x/{n}", "y/{n}").apply("x/-a/w") == "y/-a/w"


@pytest.mark.parametrize("pattern", ["a/{", "a/{1}", "a}"])
def test_braces_that_are_no_capture_are_refused(pattern: str) -> None:
    with pytest.raises(RuleError):
        Rules.of({pattern: pattern}).rename("a/b")


def test_toml_gives_every_sort_of_rule(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(
        '[[rename]]\nsource = "a"\ntarget = "b"\n[[drop]]\nsource = "pooler"\n[[keep]]\ntarget = "head"\n'
        '[[fill]]\ntarget = "x"\nvalue = 0.5\n[[layer]]\npath = "wte"\nkind = "embedding"\n'
        '[[layout]]\nsource = "p"\nsource_axes = "out in"\ntarget_axes = "in out"\n'
    )
    rules = Rules.of(path)
    assert rules == Rules.of(rules.to_dict())
    assert (rules.drops, rules.keeps, rules.fills[0].value) == (("pooler",), ("head",), 0.5)


@pytest.mark.parametrize(
    "text",
    [
        "[[rename]\n",
        "[[renames]]\n",
        '[[rename]]\nsource = "a"\n',
        '[rename]\nsource = "a"\ntarget = "b"\n',
        "rename = 3\n",
    ],
)
def test_toml_that_is_no_rule_file_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(RuleError, match=r"bad\.toml"):
        Rules.of(path)


def test_a_rule_file_that_is_not_there_is_named() -> None:
    with pytest.raises(FileMissingError, match="nowhere"):
        Rules.of("nowhere.toml")


def test_something_else_than_rules_is_refused() -> None:
    with pytest.raises(RuleError, match="takes a TOML path"):
        Rules.of(3)  # type: ignore[arg-type]


def test_rules_that_match_nothing_are_listed() -> None:
    rules = Rules.of({"a": "b", "zz": "y"})
    assert rules.unused(["a/w"], ["b/w"]) == ("rename 'zz'",)
