"""What a person names on the command line: a file, a link, a model that says nothing of the file."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import stateregistry as sr

TO_FLAX = ["--to", "flax-linen", "--allow", "choice", "--source-like", "torch_models:build"]


@pytest.fixture
def wrapped(room, torch_models, run):
    """Writes the checkpoint of the model with a prefix before all of its names."""
    import torch

    def write(prefix):
        assert run("convert", "torch_models:build", "plain.pt", "--like", "torch_models:build", "--overwrite").code == 0
        state = torch.load("plain.pt", weights_only=True)
        torch.save({f"{prefix}{name}": value for name, value in state.items()}, "wrapped.pt")

    return write


@pytest.mark.parametrize("prefix", ["module.", "model.encoder."])
def test_a_prefix_of_all_names_is_told_with_the_command_that_leaves_it_away(run, wrapped, prefix):
    """Else the model would say nothing of the file, and be asked for again."""
    wrapped(prefix)
    path = prefix.rstrip(".").replace(".", "/")
    told = run("convert", "wrapped.pt", "out.msgpack", *TO_FLAX)
    assert told.code == 2
    assert f"its names begin with {path}/" in told.err
    assert f"stateregistry rename wrapped.pt OUT --name {path}=" in told.err
    assert run("rename", "wrapped.pt", "bare.pt", "--name", f"{path}=").code == 0
    assert run("convert", "bare.pt", "out.msgpack", *TO_FLAX).code == 0
    assert run("verify", "plain.pt", "out.msgpack", "--source-like", "torch_models:build").code == 0


def test_a_prefix_that_names_lack_is_told_with_the_command_that_adds_it(run, room, wrapped):
    wrapped("")
    (room / "wrappers.py").write_text(
        "import torch, torch_models\n"
        "def build():\n"
        "    model = torch.nn.Module()\n"
        "    model.add_module('body', torch_models.build())\n"
        "    return model\n",
        encoding="utf-8",
    )
    how = [*TO_FLAX[:-1], "wrappers:build"]
    told = run("convert", "wrapped.pt", "out.msgpack", *how)
    assert told.code == 2
    assert "stateregistry rename wrapped.pt OUT --name '{rest...}=body/{rest...}'" in told.err
    assert run("rename", "wrapped.pt", "body.pt", "--name", "{rest...}=body/{rest...}").code == 0
    assert run("convert", "body.pt", "out.msgpack", *how).code == 0
    sys.modules.pop("wrappers", None)


def test_a_model_that_has_no_name_of_the_file_is_refused(run, room, torch_models):
    sr.save({"a/w": np.ones((3, 3), np.float32)}, room / "other.safetensors")
    told = run("convert", "other.safetensors", "out.msgpack", *TO_FLAX)
    assert told.code == 2
    assert "torch_models:build is not the model of other.safetensors" in told.err


def test_a_model_needs_no_other_to_say_what_it_was_saved_from(run, room, torch_models):
    told = run("convert", "torch_models:build", "out.msgpack", *TO_FLAX)
    assert told.code == 2
    assert "is a model itself" in told.err


def test_a_link_that_leads_nowhere_is_said_to_be_one(run, room):
    (room / "link.pt").symlink_to("gone.pt")
    told = run("inspect", "link.pt")
    assert told.code == 2
    assert "symbolic link" in told.err
    assert "gone.pt" in told.err


def test_an_empty_name_is_no_file(run, room):
    """As a path it would be the current directory."""
    told = run("inspect", "")
    assert told.code == 2
    assert "there is no file ''" in told.err


@pytest.mark.parametrize("name", [".", "/", "./"])
def test_an_output_without_a_name_is_refused(run, file, name):
    told = run("convert", file, name, "--to", "numpy", "--overwrite")
    assert told.code == 2
    assert "names no file" in told.err


def test_a_directory_is_called_one(run, room, model):
    sr.save(model, room / "model.dcp")
    assert run("inspect", "model.dcp").out.startswith("model.dcp: torch directory")


def test_ties_are_told_by_their_names(run, room):
    import torch

    table = torch.ones(3, 3)
    torch.save({"embed.weight": table, "head.weight": table}, "tied.pt")
    assert "counted once: head/weight is embed/weight" in run("inspect", "tied.pt").out


def test_many_dtypes_are_one_line(run, room):
    names = ["float32", "float16", "float64", "int8", "int16", "uint8"]
    sr.save({name: np.ones(3, name) for name in names}, room / "many.npz")
    out = run("inspect", "many.npz").out
    assert "the parameters are of 6 dtypes" in out
    assert out.count("  ! ") == 1


@pytest.mark.parametrize("command", [["rename", "--name", "block1=x"], ["average"], ["convert", "--to", "numpy"]])
def test_every_command_writes_to_a_url(run, file, command):
    name, *how = command
    url = f"memory://sources/{name}/out.safetensors"
    sides = [file, file, "-o", url] if name == "average" else [file, url]
    done = run(name, *sides, *how)
    assert done.code == 0, done
    assert f"written: {url}" in done.out
    with sr.open(url, verify=True) as ckpt:
        assert len(ckpt) == 9
    assert run(name, *sides, *how).code == 3, "it exists"


@pytest.mark.parametrize("command", [["rename", "--name", "block1=x"], ["average", "-o"]])
def test_a_url_of_no_file_is_refused(run, file, command):
    name, *how = command
    done = run(name, file, file, *how, "memory://") if name == "average" else run(name, file, "memory://", *how)
    assert done.code == 2
    assert "no URL of a file" in done.err
