"""`module:factory`: a model is named by a function; what is wrong with that name is said in one sentence."""

from __future__ import annotations

import pytest

import stateregistry as sr
from stateregistry.cli import factories


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models:build", True),
        ("models.crepe:build", True),
        ("models:Model.small", True),
        ("models", False),
        ("models:", False),
        (":build", False),
        ("a-b:c", False),
        ("C:\\models\\a.pt", False),
        ("models/crepe.py:build", False),
        ("1:2", False),
    ],
)
def test_the_spelling_is_recognised(text, expected):
    assert factories.is_spec(text) is expected


def test_a_template_has_no_values(room):
    reg = factories.template("factories:build")
    assert len(reg) == 9
    assert not any(entry.concrete for entry in reg.values())


def test_a_live_model_has_values(room, model):
    reg = factories.live("factories:build")
    assert {key: reg.read(key).tobytes() for key in reg} == {key: sr.of(model).read(key).tobytes() for key in reg}


def test_a_command_that_code_of_others_ends_is_an_error(run, monkeypatch, file):
    def leaves(*arguments, **options):
        raise SystemExit(0)

    monkeypatch.setattr(sr.stores.opening, "open", leaves)
    done = run("inspect", file)
    assert (done.code, done.out) == (2, "")
    assert "ended the program: sys.exit(0)" in done.err


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no_such_module:build", ["no module 'no_such_module'", "current directory"]),
        ("factories.deeper:build", ["factories.deeper"]),
        ("factories:biuld", ["'factories'", "has no 'biuld'"]),
        ("factories:constant", ["is a int, not a function"]),
        ("factories:not_a_model", ["returned what no adapter knows", "builtins.object"]),
        ("factories:fails", ["ValueError: no weights here"]),
        ("factories:wants", ["TypeError", "without arguments"]),
        ("broken:build", ["SyntaxError"]),
        ("factories:leaves", ["factories:leaves", "the factory ended the program", "sys.exit(7)"]),
        ("script:build", ["importing the module 'script' ended the program", "sys.exit(0)"]),
        ("needy:build", ["needs 'no_such_dependency'"]),
    ],
)
def test_what_is_wrong_with_a_factory_is_said(run, room, spec, words):
    (room / "broken.py").write_text("def build(:\n", encoding="utf-8")
    (room / "script.py").write_text("import sys\nsys.exit(0)\n", encoding="utf-8")
    (room / "needy.py").write_text("import no_such_dependency\n", encoding="utf-8")
    done = run("inspect", spec)
    assert done.code == 2
    assert done.out == ""
    for word in words:
        assert word in done.err, done.err
