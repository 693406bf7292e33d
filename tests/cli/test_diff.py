"""`stateregistry diff`: 0 for equal bits, 1 for anything else; kinds apart; what was not compared is said."""

from __future__ import annotations

import json

import numpy as np

import stateregistry as sr
import stateregistry_numpy


def test_equal_states_exit_with_0(run, file, room, model):
    sr.save(model, room / "copy.safetensors")
    done = run("diff", file, "copy.safetensors")
    assert done.code == 0
    assert done.out.startswith("equal: model.safetensors and copy.safetensors: 9 entries of 99 elements identical")


def test_different_states_exit_with_1_and_kinds_are_counted_apart(run, file, changed):
    done = run("diff", file, changed)
    assert done.code == 1
    assert done.out.startswith("different: model.safetensors and changed.safetensors: 2 with other bits")
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines()[2:6]}
    assert rows["trainable"] == ["5", "1", "0", "0", "0", "0"]
    assert rows["buffer"] == ["2", "1", "0", "0", "0", "0"]
    assert "block2/bias" in done.out
    assert "block3/steps" in done.out


def test_the_document_says_every_difference(run, file, changed, model):
    document = run("diff", file, changed, "--json").json
    assert document["schema"] == "stateregistry.diff/1"
    assert document["equal"] is False
    assert (document["a"], document["b"]) == ("model.safetensors", "changed.safetensors")
    assert [row["key"] for row in document["values"]] == ["block2/bias", "block3/steps"]
    assert document["values"][1]["max_abs"] == 30
    assert document["kinds"]["trainable"]["values"] == 1
    assert document["kinds"]["buffer"]["values"] == 1
    text = json.dumps(document, sort_keys=True, indent=2) + "\n"
    assert run("diff", file, changed, "--json").out == text


def test_parameters_come_before_buffers_and_large_changes_before_small_ones(run, room):
    before = stateregistry_numpy.Module()
    before.register_buffer("a_buffer", np.zeros(3))
    for name in ("x", "y", "z"):
        before.register_parameter(name, np.zeros(3))
    sr.save(before, room / "a.safetensors")
    sr.of(before).replace({"a_buffer": np.full(3, 99.0), "x": np.full(3, 1.0), "z": np.full(3, 5.0)})
    sr.save(before, room / "b.safetensors")
    lines = run("diff", "a.safetensors", "b.safetensors").out.partition("other bits\n  key")[2].splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["z", "x", "a_buffer"]


def test_the_sign_of_a_zero_is_a_difference_and_a_nan_equals_itself(run, room):
    for name, value in (("a", 0.0), ("b", -0.0)):
        model = stateregistry_numpy.Module()
        model.register_parameter("zero", np.array([value]))
        model.register_parameter("nan", np.array([np.nan]))
        sr.save(model, room / f"{name}.safetensors")
    done = run("diff", "a.safetensors", "b.safetensors", "--json")
    assert done.code == 1
    assert [row["key"] for row in done.json["values"]] == ["zero"]


def test_keys_of_one_side_are_listed_with_their_kind(run, file, room, model):
    model.register_buffer("extra", np.ones(2))
    sr.save(model, room / "more.safetensors")
    done = run("diff", file, "more.safetensors")
    assert done.code == 1
    assert "only in b\n  ! extra (buffer)" in done.out


def test_many_differences_are_cut_with_a_number_and_shown_on_request(run, room):
    for value in (0.0, 1.0):
        model = stateregistry_numpy.Module()
        for n in range(100):
            model.register_parameter(f"w{n}", np.full(1, value))
        sr.save(model, room / f"{value:g}.safetensors")
    short = run("diff", "0.safetensors", "1.safetensors").out
    assert "60 more; all of them with --all" in short
    assert "w99" not in short
    assert "w99" in run("diff", "0.safetensors", "1.safetensors", "--all").out
    assert len(run("diff", "0.safetensors", "1.safetensors", "--json").json["values"]) == 100


def test_a_model_is_compared_with_a_file(run, file):
    assert run("diff", "factories:build", file).code == 0


def test_a_template_without_values_is_not_called_equal(run, room, file):
    text = (
        "\n\ndef abstract():\n    from stateregistry_numpy.cells import abstract_cells\n"
        "    with abstract_cells():\n        return make(sn)\n"
    )
    (room / "factories.py").write_text((room / "factories.py").read_text() + text)
    done = run("diff", "factories:abstract", file)
    assert done.code == 1
    assert "not compared" in done.out.splitlines()[0]


def test_states_in_the_names_of_two_frameworks_get_a_hint(run, torch_models):
    assert run("convert", "torch_models:build", "a.pt", "--like", "torch_models:build").code == 0
    options = ["--to", "flax-linen", "--source-like", "torch_models:build", "--allow", "choice"]
    assert run("convert", "a.pt", "b.msgpack", *options).code == 0
    done = run("diff", "a.pt", "b.msgpack")
    assert done.code == 1
    assert done.err == "a is in the names of torch and b in those of flax-linen: convert one of them first\n"


def test_unreadable_input_is_not_a_difference(run, file):
    done = run("diff", file, "absent.safetensors")
    assert done.code == 2
