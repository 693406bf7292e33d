"""Every example that `--help` shows runs as it stands there, in a folder that has the files it names."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import stateregistry as sr
from examples import crepe
from stateregistry.cli.app import group

ROOT = Path(__file__).resolve().parents[2]
RULES = '[[rename]]\nsource = "encoder/layer/{i}"\ntarget = "blocks/{i}"\n'
HARNESS = '"""A harness of one\'s own."""\n\nfrom stateregistry_numpy.harness import mutable as harness\n'
NET = """\
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16)
        self.head = torch.nn.Linear(16, 10)
"""
#: Options that keep a run of the suite short: one check instead of hundreds.
SHORT = {"conform": ["--check", "keys.joining_and_splitting_are_inverse"]}


def encoder(seed: int) -> torch.nn.Module:
    """A model with the names that the examples have."""
    torch.manual_seed(seed)
    model = torch.nn.Module()
    model.encoder = torch.nn.Module()
    model.encoder.layer = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(3)])
    model.pooler = torch.nn.Linear(4, 2)
    model.norm = torch.nn.BatchNorm1d(4)
    return model


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A directory such as the reader has, with what the first examples write."""
    folder = tmp_path_factory.mktemp("help")
    (folder / "examples").symlink_to(ROOT / "examples")
    shutil.copy(crepe.weights("tiny"), folder / "tiny.pth")
    for seed, name in enumerate(("model", "before", "after", "old", "run1", "run2", "run3", "base", "tuned")):
        sr.save(encoder(seed), folder / f"{name}.safetensors")
    for seed, name in enumerate(("checkpoint", "step1000", "step2000", "step3000")):
        torch.save(encoder(seed).state_dict(), folder / f"{name}.pt")
    torch.save({f"module.{key}": value for key, value in encoder(0).state_dict().items()}, folder / "ddp.pt")
    (folder / "names.toml").write_text(RULES, encoding="utf-8")
    options = {"to": "flax-linen", "rules": folder / "names.toml", "allow": ("choice", "assumption")}
    sr.convert(folder / "model.safetensors", out=folder / "model.msgpack", **options)
    (folder / "mypackage").mkdir()
    (folder / "mypackage" / "__init__.py").write_text('"""A package."""\n', encoding="utf-8")
    (folder / "mypackage" / "harness.py").write_text(HARNESS, encoding="utf-8")
    (folder / "conformance.toml").write_text("# nothing is known to fail\n", encoding="utf-8")
    (folder / "net.py").write_text(NET, encoding="utf-8")
    subprocess.run(
        [sys.executable, "-c", "import net, torch; torch.save(net.Net().state_dict(), 'model.pt')"],
        check=True,
        cwd=folder,
    )
    for directory in (".local/share/bash-completion/completions", ".zfunc", ".config/fish/completions"):
        (folder / directory).mkdir(parents=True)
    for line in examples_of("convert")[:2]:  # the second reads what the first has written, and other commands both
        subprocess.run([sys.executable, "-m", "stateregistry", *shlex.split(line)[1:]], check=True, cwd=folder)
    return folder


@pytest.fixture
def folder(prepared, tmp_path):
    """One of one's own: an example may run before or without those that stand above it."""
    return Path(shutil.copytree(prepared, tmp_path / "reader", symlinks=True))


def examples_of(command: str) -> list[str]:
    text = group.commands[command].epilog or ""
    return [line.strip() for line in text.splitlines() if re.match(rf"\s*stateregistry {command}\b", line)]


@pytest.mark.parametrize("command", sorted(group.commands))
def test_every_command_has_two_examples(command):
    assert len(examples_of(command)) >= 2


ORDER = [(command, line) for command in ("inspect", "convert", "verify", "diff", "rename", "average", "adapters",
                                         "conform", "completion") for line in examples_of(command)]  # fmt: skip


def test_no_command_is_left_out():
    assert {command for command, _ in ORDER} == set(group.commands)


@pytest.mark.parametrize(("command", "line"), ORDER, ids=[line for _, line in ORDER])
def test_the_example_runs(folder, command, line, monkeypatch):
    line, _, _ = line.partition("    #")
    text, _, into = line.partition(" > ")
    words = [sys.executable, "-m", "stateregistry", *shlex.split(text)[1:], *SHORT.get(command, [])]
    if command == "convert":
        (folder / words[5]).unlink(missing_ok=True)  # OUT, which the reader has not yet
        (folder / f"{words[5]}.stateregistry.json").unlink(missing_ok=True)
    done = subprocess.run(
        words, check=False, cwd=folder, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "."}
    )
    if into:
        (folder / into.strip().removeprefix("~/")).write_text(done.stdout, encoding="utf-8")
    # Two states that differ are an answer too.
    assert done.returncode in ({0, 1} if command == "diff" else {0}), line + done.stdout + done.stderr
    assert done.stdout


def test_the_first_steps_lead_from_a_file_to_a_checked_one_and_a_page_that_explains_it(folder):
    """What `stateregistry --help` says, in a folder with a checkpoint and the code of its model."""
    (folder / "model.msgpack").unlink()
    (folder / "model.msgpack.stateregistry.json").unlink()
    environment = os.environ | {"COLUMNS": "200"}
    shown = subprocess.run(
        [sys.executable, "-m", "stateregistry", "--help"], check=True, capture_output=True, text=True, env=environment
    )
    steps = [line.strip() for line in shown.stdout.splitlines() if line.startswith("    stateregistry ")]
    assert [step.split()[1] for step in steps] == ["inspect", "convert", "verify"]
    for step in steps:
        words = [sys.executable, "-m", "stateregistry", *shlex.split(step)[1:]]
        done = subprocess.run(words, check=False, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, step + done.stdout + done.stderr
    assert done.stdout.startswith("equal: model.pt and model.msgpack")
    assert "Content-Security-Policy" in (folder / "plan.html").read_text(encoding="utf-8")


def test_commands_are_listed_in_the_order_of_their_use():
    shown = subprocess.run(
        [sys.executable, "-m", "stateregistry", "--help"], check=True, capture_output=True, text=True
    )
    listed = [line.split()[0] for line in shown.stdout.partition("Commands:")[2].splitlines() if line.startswith("  ")]
    assert listed[:3] == ["inspect", "convert", "verify"]
