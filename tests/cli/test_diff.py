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
    assert done.err.startswith(
        "a is in the names of torch and b in those of flax-linen: convert one of them first, or ask\n"
    )
    command = done.err.splitlines()[-1].split()
    assert command == ["stateregistry", "verify", "a.pt", "b.msgpack"]
    # The values are found all the same, where bits tell them: a kernel with its axes in another order, a bias by its name.
    assert "transposed" in done.out


def test_unreadable_input_is_not_a_difference(run, file):
    done = run("diff", file, "absent.safetensors")
    assert done.code == 2


def changed_torch(room, name, change):
    """A file of the model of these tests with some values changed."""
    model = stateregistry_numpy.Module()
    rng = np.random.default_rng(3)
    for n in range(4):
        model.register_parameter(f"w{n}", rng.standard_normal((5, 5 + n)).astype(np.float32))
        model.register_buffer(f"mean{n}", rng.standard_normal(5).astype(np.float32))
    change(sr.of(model))
    sr.save(model, room / name)
    return name


def test_what_moved_is_said_in_a_few_words(run, room):
    before = changed_torch(room, "a.safetensors", lambda reg: None)
    after = changed_torch(
        room, "b.safetensors", lambda reg: reg.replace({f"mean{n}": np.ones(5, np.float32) for n in range(4)})
    )
    done = run("diff", before, after)
    assert done.out.splitlines()[0].endswith("only buffers moved, no parameter did")
    assert "moved" not in run("diff", before, after, "--only", "buffer").out


def test_renames_transposes_and_casts_are_said_to_be_that(run, room):
    rng = np.random.default_rng(0)
    w, v, u = (rng.standard_normal((4, 6)).astype(np.float32) for _ in range(3))
    sr.save({"a/w": w, "b/w": v, "c": u, "d": np.ones(3, np.float32)}, room / "a.safetensors")
    changed = {"x/w": w, "b/w": np.ascontiguousarray(v.T), "c": u.astype(np.float16), "d": np.ones(3, np.float32)}
    sr.save(changed, room / "b.safetensors")
    done = run("diff", "a.safetensors", "b.safetensors")
    assert done.code == 1
    assert "1 renamed, 1 transposed, 1 cast, 1 entry of 3 elements identical" in done.out.splitlines()[0]
    assert "float32 -> float16, rounded, nothing else" in done.out
    assert "axes 1,0" in done.out
    rows = {
        row["b"]: row["kinds"] for row in run("diff", "a.safetensors", "b.safetensors", "--json").json["recognised"]
    }
    assert rows == {"x/w": ["renamed"], "b/w": ["transposed"], "c": ["cast"]}
    plain = run("diff", "a.safetensors", "b.safetensors", "--by-name")
    assert "1 only in a, 1 only in b" in plain.out
    assert "2 with other metadata" in plain.out


def test_a_prefix_of_all_names_is_said_once(run, room, file, model):
    reg = sr.of(model)
    sr.save({f"module/{key}": reg.read(key) for key in reg}, room / "wrapped.safetensors")
    done = run("diff", file, "wrapped.safetensors")
    assert "all names of b lie under module/; without it 9 names fit" in done.out
    assert "9 entries of 99 elements identical but for the prefix of all names" in done.out.splitlines()[0]


def test_tolerances_make_close_values_equal(run, room):
    sr.save({"w": np.array([1.0, 2.0])}, room / "a.safetensors")
    sr.save({"w": np.array([1.0, 2.0001])}, room / "b.safetensors")
    assert run("diff", "a.safetensors", "b.safetensors").code == 1
    done = run("diff", "a.safetensors", "b.safetensors", "--rtol", "1e-3")
    assert done.code == 0
    assert done.out.startswith("close: ")
    assert "1 entry within rtol 0.001 and atol 0" in done.out
    assert run("diff", "a.safetensors", "b.safetensors", "--atol", "1e-5").code == 1
    assert run("diff", "a.safetensors", "b.safetensors", "--atol", "-1").code == 2


def test_a_part_is_compared(run, file, changed):
    assert run("diff", file, changed, "--only", "block1/*").code == 0
    rows = run("diff", file, changed, "--only", "buffer", "--json").json["values"]
    assert [row["key"] for row in rows] == ["block3/steps"]
    nothing = run("diff", file, changed, "--only", "nothing/*")
    assert nothing.code == 1
    assert "nothing was compared" in nothing.err
    assert "did you mean 'block1/weight'?" in run("diff", file, changed, "--only", "blok1/weight").err


def test_the_numbers_of_a_difference_are_in_the_document(run, file, changed):
    (row, _) = run("diff", file, changed, "--json").json["values"]
    assert row["key"] == "block2/bias"
    assert row["cosine"] == -1
    assert row["scale"] == -1
    assert row["rel_l2"] == 2
    assert row["max_rel"] == row["mean_rel"] == 2
    assert row["mean_abs"] > 0


def test_where_nothing_was_chosen_nothing_is_said_to_be_equal(run, file, changed):
    done = run("diff", file, changed, "--only", "nothing/*")
    assert done.out.startswith("undecided: ")
    assert run("diff", file, changed, "--only", "nothing/*", "--json").json["equal"] is False
    assert "did you mean 'buffer'?" in run("diff", file, changed, "--only", "bufer").err


def test_two_states_without_entries_are_equal(run, room):
    sr.save({}, room / "empty.safetensors")
    done = run("diff", "empty.safetensors", "empty.safetensors")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("equal: empty.safetensors and empty.safetensors: both are empty")
    assert run("diff", "empty.safetensors", "empty.safetensors", "--json").json["equal"] is True
