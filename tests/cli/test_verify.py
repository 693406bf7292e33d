"""`stateregistry verify`: 0 for the same bits through the plan, 1 for anything else, whatever the two frameworks are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import stateregistry as sr
import stateregistry_numpy

TORCH = ["--source-like", "torch_models:build"]


@pytest.fixture
def both(run: Callable, torch_models: None) -> tuple[str, str]:
    """A torch checkpoint, and what converting it to Linen gave."""
    assert run("convert", "torch_models:build", "a.pt", "--like", "torch_models:build").code == 0
    assert run("convert", "a.pt", "b.msgpack", "--to", "flax-linen", *TORCH, "--allow", "choice").code == 0
    return "a.pt", "b.msgpack"


def test_a_conversion_is_verified_without_reading_the_receipt(run, both):
    done = run("verify", *both, *TORCH)
    assert done.code == 0, done
    first, *_ = done.out.splitlines()
    assert first == "equal: a.pt and b.msgpack, torch to flax-linen: 8 entries equal bit for bit"
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines()[2:6]}
    assert rows["trainable"] == ["6", "0", "0"]
    assert rows["buffer"] == ["2", "0", "1"]
    assert "norm/num_batches_tracked: " in done.out


def test_files_alone_are_enough_where_their_names_say_the_layers(run, both):
    assert run("verify", *both).code == 0


def test_a_model_is_verified_against_a_file(run, both):
    assert run("verify", "torch_models:build", both[1]).code == 0
    assert run("verify", "torch_models:build", both[0]).code == 0


def test_other_bits_exit_with_1_and_name_the_entry_on_both_sides(run, file, changed):
    done = run("verify", file, changed)
    assert done.code == 1
    verdict = "different: model.safetensors and changed.safetensors, numpy to numpy: 2 with other bits, 7 entries equal"
    assert done.out.startswith(verdict)
    row = next(line for line in done.out.splitlines() if line.split()[:1] == ["block2/bias"])
    assert row.split()[:3] == ["block2/bias", "block2/bias", "trainable"]
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines()[2:6]}
    assert rows["trainable"] == ["5", "1", "0"]
    assert rows["buffer"] == ["2", "1", "0"]


def test_the_document_says_everything(run, file, changed):
    done = run("verify", file, changed, "--json")
    assert done.code == 1
    document = done.json
    assert document["schema"] == "stateregistry.verify/1"
    assert (document["a"], document["b"], document["equal"]) == ("model.safetensors", "changed.safetensors", False)
    assert {row["b"] for row in document["differences"]} == {"block2/bias", "block3/steps"}
    assert document["kinds"]["trainable"] == {"equal": 5, "different": 1, "not_compared": 0}
    assert document["equal_entries"] == 7
    assert json.dumps(document, sort_keys=True, indent=2) + "\n" == run("verify", file, changed, "--json").out


def test_what_does_not_correspond_is_the_answer_no_and_says_what_to_allow(run, room, file):
    (room / "less.py").write_text((room / "factories.py").read_text().replace("range(1, 4)", "range(1, 3)"))
    done = run("verify", file, "less:build")
    assert done.code == 1
    assert done.out.startswith("plan not ok: numpy to numpy, 3 problems")
    assert "--allow unexpected" in done.out
    assert run("verify", file, "less:build", "--json").json["equal"] is False
    made = run("convert", file, "less.safetensors", "--like", "less:build", "--allow", "unexpected")
    assert made.code == 0, made
    allowed = run("verify", file, "less.safetensors", "--allow", "unexpected")
    assert allowed.code == 0, allowed
    assert "block3/weight" in allowed.out


def test_names_of_its_own_are_given_by_rules(run, room, file):
    text = (room / "factories.py").read_text().replace('f"block{n}"', 'f"layer{n}"')
    (room / "renamed.py").write_text(text)
    (room / "names.toml").write_text('[[rename]]\nsource = "block{n}"\ntarget = "layer{n}"\n')
    assert run("verify", file, "renamed:build").code == 1
    assert run("verify", file, "renamed:build", "--rules", "names.toml").code == 0


def test_many_differences_are_cut_with_a_number_and_shown_on_request(run, room):
    for value in (0.0, 1.0):
        model = stateregistry_numpy.Module()
        for number in range(100):
            model.register_parameter(f"w{number}", np.full(1, value))
        sr.save(model, room / f"{value:g}.safetensors")
    short = run("verify", "0.safetensors", "1.safetensors").out
    assert "60 more; all of them with --all" in short
    assert "w99" not in short
    assert "w99" in run("verify", "0.safetensors", "1.safetensors", "--all").out


def test_findings_are_told_with_equal_bits(run, room, torch_models):
    text = (room / "torch_models.py").read_text().replace("BatchNorm2d(5)", "BatchNorm2d(5, eps=1e-3)")
    (room / "other_eps.py").write_text(text)
    done = run("verify", "torch_models:build", "other_eps:build")
    assert done.code == 0
    assert "norm: eps is 1e-05 in the source and 0.001 in the target" in done.out


def test_a_model_for_what_is_a_model_is_wrong_use(run, file):
    done = run("verify", file, "factories:build", "--like", "factories:build")
    assert done.code == 2
    assert "--like says what a file was saved from" in done.err


def test_unreadable_input_is_not_a_difference(run, file):
    assert run("verify", file, "absent.safetensors").code == 2
    assert run("verify", file, file, "--rules", "absent.toml").code == 2


def test_nothing_is_written_and_nothing_is_changed(run, room, both):
    before = {path: path.stat().st_mtime_ns for path in Path().iterdir() if path.is_file()}
    run("verify", *both)
    assert {path: path.stat().st_mtime_ns for path in Path().iterdir() if path.is_file()} == before


def test_the_help_has_examples_and_the_overview_the_command(run):
    text = run("verify", "--help").out
    assert "Examples:" in text
    assert "stateregistry verify tiny.pth tiny.msgpack" in text
    assert "verify" in run("--help").out


def test_a_bar_is_drawn_for_a_person_who_waits(run, file, monkeypatch):
    from stateregistry.cli import progress

    told = []
    monkeypatch.setattr(progress.Bar, "__call__", lambda self, done, total: told.append((done, total)))
    assert run("verify", file, file).code == 0
    assert told[-1][0] == told[-1][1] > 0


def test_one_file_is_held_against_its_digests(run, room, file):
    done = run("verify", file)
    assert done.code == 0
    assert done.out == "whole: model.safetensors: 9 entries and all else as they were written\n"
    content = bytearray(Path(file).read_bytes())
    content[-1] ^= 1
    Path(file).write_bytes(content)
    done = run("verify", file)
    assert done.code == 1
    assert done.out.startswith("damaged: model.safetensors: in 1 place of 9 entries\n")
    document = run("verify", file, "--json").json
    assert document["equal"] is False
    assert len(document["damaged"]) == 1
    assert document["schema"] == "stateregistry.verify/1"


def test_one_file_without_digests_or_a_model_says_nothing_of_itself(run, room, torch_models):
    import torch

    torch.save({"w": torch.ones(3)}, "foreign.pt")
    done = run("verify", "foreign.pt")
    assert done.code == 2
    assert "carries no digests" in done.err
    done = run("verify", "torch_models:build")
    assert done.code == 2
    assert "a B to compare it with" in done.err


@pytest.mark.parametrize("option", [["--allow", "missing"], ["--like", "factories:build"], ["--rules", "x.toml"]])
def test_options_of_a_comparison_need_two_sides(run, file, option):
    done = run("verify", file, *option)
    assert done.code == 2
    assert f"{option[0]} is about a comparison" in done.err
