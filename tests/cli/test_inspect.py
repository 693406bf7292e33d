"""`stateregistry inspect`: the verdict first, parameters and buffers apart, every name whole."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

import stateregistry as sr
import stateregistry_numpy


def write_foreign(path, tensors, metadata=None):
    """A safetensors file of float32 zeros by the letter of the format, without any metadata of ours."""
    header, at = {"__metadata__": metadata} if metadata else {}, 0
    for name, shape in tensors.items():
        end = at + 4 * int(np.prod(shape))
        header[name], at = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, end]}, end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


def test_the_verdict_counts_parameters_and_buffers_apart(run, file):
    done = run("inspect", file)
    assert done.code == 0
    first = done.out.splitlines()[0]
    assert first.startswith("model.safetensors: safetensors file")
    assert "6 parameters of 96 elements and 3 buffers of 3 elements" in first
    assert done.err == ""


def test_what_repeats_is_said_once(run, file):
    tree = run("inspect", file).out.partition("what is in it")[2]
    assert "block{1..3}/" in tree
    assert "x3" in tree
    assert tree.count("weight") == 1


def test_all_lists_every_key_on_its_own_line(run, file, model):
    table = run("inspect", file, "--all").out.partition("every entry")[2]
    assert [line.split()[0] for line in table.splitlines()[2:]] == list(sr.of(model).native_order)


def test_the_document_says_the_same_as_the_registry(run, file, model):
    document = run("inspect", file, "--json").json
    assert document["schema"] == "stateregistry.inspect/1"
    rows = {row["key"]: row for row in document["entries"]}
    reg = sr.of(model)
    assert list(rows) == list(reg)
    for key, entry in reg.items():
        found = (rows[key]["kind"], tuple(rows[key]["shape"]), rows[key]["dtype"], rows[key]["trainable"])
        assert found == (entry.kind.value, entry.shape, entry.dtype, entry.trainable)
    assert document["counts"]["trainable"] == {"tensors": 6, "elements": 96, "bytes": 384, "dtypes": {"float32": 6}}
    assert document["counts"]["buffers"] == {"tensors": 3, "elements": 3, "bytes": 24, "dtypes": {"int64": 3}}


def test_the_document_is_sorted(run, file):
    text = run("inspect", file, "--json").out
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=2) + "\n"


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        (["--match", "block2/*"], ["block2/bias", "block2/steps", "block2/weight"]),
        (["--match", "*/steps"], ["block1/steps", "block2/steps", "block3/steps"]),
        (["--kind", "buffer"], ["block1/steps", "block2/steps", "block3/steps"]),
        (["--kind", "trainable", "--match", "*1/*"], ["block1/bias", "block1/weight"]),
    ],
)
def test_entries_are_chosen_by_name_and_by_kind(run, file, options, keys):
    done = run("inspect", file, "--json", *options)
    assert done.code == 0
    assert [row["key"] for row in done.json["entries"]] == keys


def test_nothing_that_matches_is_the_answer_no(run, file):
    done = run("inspect", file, "--match", "blok*")
    assert done.code == 1
    assert "no entry matches 'blok*'" in done.err


def test_a_dotted_pattern_is_explained(run, file):
    done = run("inspect", file, "--match", "block1.*")
    assert done.code == 1
    assert "keys are spelled with '/': 'block1/*'" in done.err


def test_depth_cuts_the_tree_and_not_the_counts(run, file):
    done = run("inspect", file, "--depth", 1)
    assert "block{1..3}/" in done.out
    assert "weight" not in done.out.partition("what is in it")[2]
    assert "96" in done.out


def test_a_bare_file_is_said_to_have_inferred_kinds(run, room):
    write_foreign(room / "bare.safetensors", {"bn.weight": (3,), "bn.running_mean": (3,)})
    done = run("inspect", "bare.safetensors")
    assert done.code == 0
    assert "inferred" in done.out
    assert all(row["inferred"] for row in run("inspect", "bare.safetensors", "--json").json["entries"])


def test_names_that_would_steer_a_terminal_are_shown_by_their_escapes(run, room):
    names = {"evil\x1b[31m": (2,), "line\nbreak": (2,), "bidi\u202etxt": (2,), "bell\x07": (2,), "[red]markup": (2,)}
    write_foreign(room / "evil.safetensors", names)
    for options in ([], ["--all"], ["--color", "always"]):
        done = run("inspect", "evil.safetensors", *options)
        assert done.code == 0
        text = done.out.replace("\x1b[0m", "").replace(
            "\x1b[", "", done.out.count("\x1b[") if options[:1] == ["--color"] else 0
        )
        assert "evil\\x1b[31m" in text or "evil\\x1b" in text
        assert "line\\nbreak" in text
        assert "bidi\\u202etxt" in text
        assert "\x07" not in done.out
        assert "[red]markup" in text
    document = run("inspect", "evil.safetensors", "--json").json
    assert {row["key"] for row in document["entries"]} == set(names)


def test_a_long_name_is_not_cut(run, room):
    name = "encoder." + "very_" * 60 + "long"
    write_foreign(room / "long.safetensors", {name: (2,), "b": (3,)})
    done = run("inspect", "long.safetensors", "--all")
    assert name.replace(".", "/") in done.out


def test_odd_things_are_pointed_out(run, room):
    model = stateregistry_numpy.Module()
    for n in range(4):
        model.register_parameter(f"w{n}", np.ones(3, np.float32))
    model.register_parameter("half", np.ones(3, np.float16))
    model.register_buffer("empty", np.ones((0, 4), np.float32))
    sr.save(model, room / "odd.safetensors")
    done = run("inspect", "odd.safetensors")
    assert "1 of the parameters is float16, most are float32: half" in done.out
    assert "1 has no elements: empty" in done.out


def test_a_tied_entry_is_counted_once(run, room):
    model = stateregistry_numpy.Module()
    model.register_parameter("a", np.ones(5, np.float32))
    model.b = model.a
    assert dict(sr.of(model).aliases) == {"b": "a"}
    sr.save(model, room / "tied.safetensors")
    document = run("inspect", "tied.safetensors", "--json").json
    assert document["aliases"] == {"b": "a"}
    assert document["counts"]["trainable"]["elements"] == 5


def test_a_model_is_named_by_the_function_that_builds_it(run):
    done = run("inspect", "factories:build")
    assert done.code == 0
    assert done.out.startswith("factories:build: numpy model, 6 parameters of 96 elements and 3 buffers")


def test_a_file_is_inspected_without_any_framework(process, file):
    code = (
        "import sys; from stateregistry.cli import main; code = main(['inspect', 'model.safetensors']);"
        "heavy = {'torch', 'jax', 'flax', 'safetensors', 'rich'} & set(sys.modules);"
        "sys.exit(f'imports {heavy}' if heavy else code)"
    )
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_statistics_are_those_of_the_values(run, room):
    sr.save({"w": np.array([1.0, -3.0, 0.0, np.nan]), "v": np.zeros(5, np.float32)}, room / "s.safetensors")
    done = run("inspect", "s.safetensors", "--stats")
    lines = {line.split()[0]: line.split()[1:] for line in done.out.partition("  values")[2].splitlines()[2:]}
    assert lines["w"] == ["-3", "1", "-0.6667", "1.7", "3.162", "1", "1"]
    assert "1 entry has NaN, 1 in all: w" in done.out
    assert "1 entry is all zero: v" in done.out
    stats = run("inspect", "s.safetensors", "--stats", "--json").json["stats"]
    assert stats["w"]["nan"] == 1
    assert stats["v"]["zero"] == 5
    assert "stats" not in run("inspect", "s.safetensors", "--json").json


def test_layers_are_listed_with_their_roles_and_counted_by_kind(run, torch_models):
    done = run("inspect", "torch_models:build", "--layers")
    assert "layers: 1 batch_norm, 1 conv, 1 linear" in done.out
    table = done.out.partition("  layers: ")[2]
    assert "Conv2d" in table
    assert "kernel: weight, bias: bias" in table
    rows = run("inspect", "torch_models:build", "--layers", "--json").json["layers"]
    assert [(row["path"], row["kind"]) for row in rows] == [
        ("conv", "conv"),
        ("norm", "batch_norm"),
        ("head", "linear"),
    ]


def test_a_model_without_known_layers_says_so(run, file):
    assert "no layer is known" in run("inspect", "factories:build", "--layers").out


def test_entries_are_chosen_by_dtype(run, file):
    rows = run("inspect", file, "--dtype", "int64", "--json").json["entries"]
    assert [row["key"] for row in rows] == ["block1/steps", "block2/steps", "block3/steps"]
    assert run("inspect", file, "--dtype", "float16").code == 1


@pytest.mark.parametrize(
    ("match", "meant"), [("blok2/bias", "block2/bias"), ("block1.wieght", "block1/weight"), ("blockk1/*", "block1")]
)
def test_a_name_that_nothing_matches_gets_the_one_that_was_meant(run, file, match, meant):
    assert f"did you mean {meant!r}?" in run("inspect", file, "--match", match).err


def test_statistics_of_a_template_without_values_are_none(run, room):
    text = (
        "\n\ndef abstract():\n    from stateregistry_numpy.cells import abstract_cells\n"
        "    with abstract_cells():\n        return make(sn)\n"
    )
    (room / "factories.py").write_text((room / "factories.py").read_text() + text)
    done = run("inspect", "factories:abstract", "--stats", "--html", "page.html")
    assert done.code == 0
    assert done.err == "the page is page.html\n"


@pytest.mark.parametrize("prefix", ["module", "_orig_mod", "_orig_mod/module"])
def test_a_wrapper_around_every_name_is_told_with_the_command_that_takes_it_away(run, room, model, prefix):
    plain = sr.snapshot(model)
    sr.save({f"{prefix}/{key}": value for key, value in plain.items()}, room / "wrapped.safetensors")
    told = run("inspect", "wrapped.safetensors").out
    assert f"all {len(plain)} names begin with {prefix}/" in told
    assert f"stateregistry rename FILE OUT --name {prefix}= " in told
    assert run("rename", "wrapped.safetensors", "plain.safetensors", "--name", f"{prefix}=").code == 0
    assert "names begin with" not in run("inspect", "plain.safetensors").out


def test_one_name_alone_is_under_no_wrapper(run, room):
    sr.save({"module/weight": np.ones(3, np.float32)}, room / "one.safetensors")
    assert "names begin with" not in run("inspect", "one.safetensors").out


def test_a_file_without_entries_says_so_and_shows_no_empty_tables(run, room):
    sr.save({}, room / "empty.safetensors")
    done = run("inspect", "empty.safetensors", "--stats", "--all")
    assert done.code == 0
    assert done.out.startswith("empty.safetensors: safetensors file, which holds no entry\n")
    assert "every entry" not in done.out
    assert "values" not in done.out


def test_a_dtype_that_no_entry_has_is_answered_with_those_that_there_are(run, file):
    done = run("inspect", file, "--dtype", "flaot32")
    assert done.code == 1
    assert "none is 'flaot32', there is float32, int64" in done.err


def test_a_page_and_the_terminal_fold_a_tree_once(run, file, monkeypatch):
    """Of 100,000 entries that is a good part of the time."""
    from stateregistry.report import summary

    calls = []
    real = summary.fold
    monkeypatch.setattr(summary, "fold", lambda entries: calls.append(1) or real(entries))
    assert run("inspect", file, "--html", "page.html").code == 0
    assert calls == [1]
