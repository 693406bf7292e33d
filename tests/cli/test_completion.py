"""Completion: commands, options, names of tensors up to their next `/`; nothing is built, nothing breaks a line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from stateregistry.cli.completion import steps


@pytest.fixture
def complete(room):
    """What a shell is offered for a line; the last word is the one that is being typed."""

    def call(*words: str) -> list[str]:
        env = os.environ | {
            "COMP_WORDS": " ".join(("stateregistry", *words)), "COMP_CWORD": str(len(words)),
            "_STATEREGISTRY_COMPLETE": "bash_complete",
        }  # fmt: skip
        command = [sys.executable, "-m", "stateregistry"]
        done = subprocess.run(command, cwd=room, env=env, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        return [line.partition(",")[2] for line in done.stdout.splitlines() if line]

    return call


def test_commands_and_options_complete(complete):
    assert complete("ins") == ["inspect"]
    assert complete("inspect", "--ma") == ["--match"]
    assert complete("convert", "a", "b", "--allow", "lo") == ["lossy"]
    assert complete("convert", "a", "b", "--to", "flax") == ["flax-linen", "flax-nnx"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("inspect", "model.safetensors", "--match", ""), ["block1/", "block2/", "block3/"]),
        (("inspect", "model.safetensors", "--match", "block2/"), ["block2/bias", "block2/steps", "block2/weight"]),
        (("diff", "model.safetensors", "changed.safetensors", "--only", "block3/w"), ["block3/weight"]),
        (("rename", "model.safetensors", "new.safetensors", "--drop", "block1/b"), ["block1/bias"]),
        (("inspect", "model.safetensors", "--kind", "buffer", "--match", "block1/s"), ["block1/steps"]),
    ],
)
def test_names_of_tensors_complete_up_to_their_next_segment(complete, file, changed, words, found):
    assert complete(*words) == found


def test_what_cannot_be_read_has_no_names(complete, room):
    (room / "bad.safetensors").write_bytes(b"no")
    assert complete("inspect", "bad.safetensors", "--match", "") == []
    assert complete("inspect", "absent.safetensors", "--match", "") == []


def test_completing_builds_no_model(complete, room):
    (room / "factories.py").write_text("import pathlib\npathlib.Path('imported').touch()\n", encoding="utf-8")
    assert complete("inspect", "factories:build", "--match", "b") == []
    assert not (room / "imported").exists()


def test_steps_stop_at_the_next_slash():
    assert steps(["a/b/c", "a/b/d", "a/e", "f"], "") == ["a/", "f"]
    assert steps(["a/b/c", "a/b/d", "a/e", "f"], "a/") == ["a/b/", "a/e"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_its_script(run, shell):
    done = run("completion", shell)
    assert done.code == 0
    assert "_STATEREGISTRY_COMPLETE" in done.out
    assert json.loads(run("completion", shell, "--json").out)["schema"] == "stateregistry.completion/1"


def test_the_script_of_bash_is_bash(run):
    script = run("completion", "bash").out
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
