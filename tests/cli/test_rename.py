"""`stateregistry rename`: other names, the same arrays, kinds and ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import stateregistry as sr


def contents(path) -> dict[str, tuple[object, bytes]]:
    with sr.open(path) as file:
        return {key: (file[key], file.read(key).tobytes()) for key in file}


def test_a_prefix_is_left_away(run, room):
    inner = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    torch.save(torch.nn.DataParallel(inner).state_dict(), room / "ddp.pt")
    done = run("rename", "ddp.pt", "plain.pt", "--name", "module=")
    assert done.code == 0
    assert "7 of 7 names changed, 0 left out" in done.out
    found = torch.load(room / "plain.pt", weights_only=True)
    assert set(found) == set(inner.state_dict())
    assert all(torch.equal(found[name], value) for name, value in inner.state_dict().items())


def test_kinds_and_bits_stay(run, file):
    done = run("rename", file, "new.safetensors", "--name", "block{i}=layers.{i+10}", "--json")
    assert done.json["renamed"]["block3/steps"] == "layers/13/steps"
    before, after = contents(file), contents("new.safetensors")
    assert {key.replace("block", "layers/1"): value for key, value in before.items()} == after


def test_rules_of_a_file_and_of_the_command_line_are_joined(run, file, room):
    (room / "names.toml").write_text('[[rename]]\nsource = "block1"\ntarget = "first"\n[[drop]]\nsource = "block2"\n')
    done = run(
        "rename", file, "new.safetensors", "--rules", "names.toml", "--name", "block3=third", "--drop", "block3/steps"
    )
    assert done.code == 0
    assert set(contents("new.safetensors")) == {
        "first/bias",
        "first/steps",
        "first/weight",
        "third/bias",
        "third/weight",
    }


def test_a_tie_is_renamed_with_its_names(run, room):
    model = torch.nn.Module()
    model.a, model.b = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)
    model.b.weight = model.a.weight
    sr.save(model, room / "tied.pt")
    assert run("rename", "tied.pt", "new.pt", "--name", "b=c").code == 0
    with sr.open(room / "new.pt") as file:
        assert dict(file.aliases) == {"c/weight": "a/weight"}


@pytest.fixture
def tied(room):
    """A checkpoint in which `emb` and `head` are one place, listed under the former."""
    weight = torch.arange(16.0).reshape(4, 4)
    torch.save({"emb.weight": weight, "head.weight": weight, "n.weight": torch.ones(2)}, room / "tied.pt")
    return weight.numpy().tobytes()


@pytest.mark.parametrize("command", ["rename", "convert"])
@pytest.mark.parametrize("suffix", ["safetensors", "pt", "npz", "msgpack", "dcp"])
def test_a_tie_whose_least_name_changes_can_be_read_again(run, room, tied, command, suffix):
    (room / "names.toml").write_text('[[rename]]\nsource = "emb"\ntarget = "zz"\n')
    how = ["--to", "torch"] if command == "convert" else []
    assert run(command, "tied.pt", f"new.{suffix}", "--rules", "names.toml", *how).code == 0
    with sr.open(room / f"new.{suffix}", verify=True) as file:
        assert dict(file.aliases) == {"zz/weight": "head/weight"}
        assert set(file) == {"head/weight", "n/weight"}
        assert file.read("zz/weight").tobytes() == tied


@pytest.mark.parametrize("command", ["rename", "convert"])
@pytest.mark.parametrize(("drop", "left"), [("emb", "head"), ("head", "emb")])
def test_a_place_is_gone_only_when_all_of_its_names_are_dropped(run, room, tied, command, drop, left):
    """Who drops one name of two has not said a word of the other."""
    (room / "names.toml").write_text(f'[[drop]]\nsource = "{drop}"\n')
    how = ["--to", "torch"] if command == "convert" else []
    assert run(command, "tied.pt", "new.safetensors", "--rules", "names.toml", *how).code == 0
    with sr.open(room / "new.safetensors") as file:
        assert set(file) == {f"{left}/weight", "n/weight"}
        assert not file.aliases
        assert file.read(f"{left}/weight").tobytes() == tied


def test_two_names_of_one_place_do_not_become_one(run, tied):
    done = run("rename", "tied.pt", "new.pt", "--name", "head=emb")
    assert done.code == 2
    assert "'emb/weight'" in done.err


def test_an_alias_is_counted_among_the_names_that_change(run, tied):
    done = run("rename", "tied.pt", "new.pt", "--name", "head=out")
    assert done.out.startswith("written: new.pt: 1 of 3 names changed, 0 left out")
    assert "out/weight" in done.out


def test_a_dry_run_writes_nothing(run, file, room):
    done = run("rename", file, "new.safetensors", "--name", "block1=x", "--dry-run")
    assert done.code == 0
    assert done.out.startswith("would write: new.safetensors: 3 of 9")
    assert "block1/bias" in done.out
    assert not (room / "new.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "nothing to rename"),
        (["--name", "block1"], "write OLD=NEW"),
        (["--name", "blok1=x"], "matches nothing"),
        (["--name", "block1=block2"], "and another entry the name"),
        (["--name", "block1/bias=block2/weight/x"], "do not form a tree"),
        (["--name", "block{i}=b{j}"], "does not read backwards"),
        (["--drop", "{all}"], "nothing would be written"),
    ],
)
def test_what_cannot_be_is_refused(run, file, room, arguments, says):
    done = run("rename", file, "new.safetensors", *arguments)
    assert done.code == 2
    assert says in done.err
    assert not (room / "new.safetensors").exists()


def test_rules_that_need_a_target_are_refused(run, file, room):
    (room / "r.toml").write_text('[[fill]]\ntarget = "x"\nvalue = 1\n')
    done = run("rename", file, "new.safetensors", "--rules", "r.toml")
    assert done.code == 2
    assert "[[fill]]" in done.err


def test_names_are_shown_up_to_a_number_and_all_on_request(run, room):
    sr.save({f"w/{n}": np.zeros(1) for n in range(50)}, room / "many.safetensors")
    cut = run("rename", "many.safetensors", "a.safetensors", "--name", "w=v")
    assert "30 more: --all" in cut.out
    assert run("rename", "many.safetensors", "b.safetensors", "--name", "w=v", "--all").out.count("v/") == 50


def test_a_path_that_nothing_lies_under_gets_the_one_that_was_meant(run, file):
    done = run("rename", file, "new.safetensors", "--name", "blokc1=first")
    assert done.code == 2
    assert "did you mean 'block1'?" in done.err
    assert "did you mean 'block2/bias'?" in run("rename", file, "n.safetensors", "--drop", "block2/bais").err
