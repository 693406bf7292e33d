"""`stateregistry convert`: planned first, written whole or not at all, and back again to the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import stateregistry as sr
from stateregistry.cli.convert import ALLOW
from stateregistry.cli.flags import spelled


def keys_and_bytes(path):
    with sr.open(path) as file:
        return {key: (file[key].kind, file.read(key).dtype, file.read(key).tobytes()) for key in file}


def test_the_names_of_the_option_are_those_of_the_library():
    from stateregistry.conversion.planning.plan import ALLOW as NAMES

    assert set(ALLOW) == set(NAMES)


def test_a_file_is_converted_to_the_model_of_a_factory(run, file, model):
    done = run("convert", file, "out.safetensors", "--like", "factories:build")
    assert done.code == 0, done
    assert done.out.startswith("plan ok: numpy to numpy")
    last = "written: out.safetensors: 6 parameters of 96 elements, 3 buffers of 3 elements"
    assert last in done.out
    found = keys_and_bytes("out.safetensors")
    reg = sr.of(model)
    assert {key: row[2] for key, row in found.items()} == {key: reg.read(key).tobytes() for key in reg}


def test_a_model_is_converted_to_a_file(run, model):
    done = run("convert", "factories:build", "out.safetensors", "--like", "factories:build")
    assert done.code == 0, done
    assert keys_and_bytes("out.safetensors")["block2/weight"][2] == sr.of(model).read("block2/weight").tobytes()


def test_a_dry_run_shows_every_move_and_writes_nothing(run, room, file):
    before = {path: path.stat().st_mtime_ns for path in room.iterdir()}
    done = run("convert", file, "out.safetensors", "--like", "factories:build", "--dry-run")
    assert done.code == 0
    assert "block{1..3}/weight" in done.out
    assert "written" not in done.out
    assert {path: path.stat().st_mtime_ns for path in room.iterdir() if path.name != "__pycache__"} == before


def test_a_plan_with_problems_is_the_answer_no(run, room, file):
    (room / "factories.py").write_text((room / "factories.py").read_text().replace("range(1, 4)", "range(1, 3)"))
    done = run("convert", file, "out.safetensors", "--like", "factories:build")
    assert done.code == 1
    assert done.out.startswith("plan not ok: numpy to numpy, 3 problems; nothing is written")
    assert "3 unexpected" in done.out
    assert done.out.count("--allow unexpected") == 3
    assert not Path("out.safetensors").exists()


def test_what_is_allowed_by_name_is_done(run, room, file):
    (room / "factories.py").write_text((room / "factories.py").read_text().replace("range(1, 4)", "range(1, 3)"))
    options = ["--allow", "unexpected", "--allow", "lossy"]
    done = run("convert", file, "out.safetensors", "--like", "factories:build", *options)
    assert done.code == 0, done
    assert len(keys_and_bytes("out.safetensors")) == 6


def test_an_entry_that_is_missing_keeps_the_value_of_the_target(run, room, file, model):
    text = (room / "factories.py").read_text()
    (room / "more.py").write_text(text.replace("range(1, 4)", "range(1, 5)").replace("seed=0", "seed=9"))
    refused = run("convert", file, "out.safetensors", "--like", "more:build")
    assert refused.code == 1
    assert "--allow missing" in refused.out
    done = run("convert", file, "out.safetensors", "--like", "more:build", "--allow", "missing")
    assert done.code == 0, done
    found = keys_and_bytes("out.safetensors")
    assert found["block1/weight"][2] == sr.of(model).read("block1/weight").tobytes()
    kept = run("inspect", "more:build", "--json")
    assert kept.code == 0
    from stateregistry.cli import factories

    assert found["block4/weight"][2] == factories.live("more:build").read("block4/weight").tobytes()


def test_the_document_has_the_plan_and_the_receipt(run, file):
    document = run("convert", file, "out.safetensors", "--like", "factories:build", "--json").json
    assert document["schema"] == "stateregistry.convert/1"
    assert document["ok"] is True
    assert document["written"]["path"] == "out.safetensors"
    assert document["written"]["bytes"] == Path("out.safetensors").stat().st_size
    assert document["parameters"]["tensors"] == 6
    assert document["buffers"]["tensors"] == 3
    assert len(document["receipt"]["digests"]) == 9
    assert sr.Plan.from_json(json.dumps(document["plan"])).ok


def test_the_document_of_a_plan_with_problems_has_them(run, room, file):
    (room / "factories.py").write_text((room / "factories.py").read_text().replace("range(1, 4)", "range(1, 3)"))
    done = run("convert", file, "out.safetensors", "--like", "factories:build", "--json")
    assert done.code == 1
    assert done.json["ok"] is False
    assert done.json["written"] is None
    assert {row["problem"] for row in done.json["plan"]["problems"]} == {"unexpected"}


def test_the_plan_is_saved_and_can_be_read_again(run, file):
    done = run("convert", file, "out.safetensors", "--like", "factories:build", "--plan", "plan.json", "--dry-run")
    assert done.code == 0
    assert sr.Plan.from_json(Path("plan.json").read_text(encoding="utf-8")).ok


@pytest.mark.parametrize("existing", ["out.safetensors", "plan.json"])
def test_what_exists_is_not_overwritten_unless_asked(run, room, file, existing):
    (room / existing).write_bytes(b"precious")
    command = ["convert", file, "out.safetensors", "--like", "factories:build", "--plan", "plan.json"]
    done = run(*command)
    assert done.code == 3
    assert done.err.startswith(f"error: {existing} exists")
    assert "--overwrite" in done.err
    assert (room / existing).read_bytes() == b"precious"
    assert sorted(path.name for path in room.iterdir() if path.suffix in (".safetensors", ".json")) == sorted(
        {existing, "model.safetensors"}
    )
    assert run(*command, "--overwrite").code == 0
    assert len(keys_and_bytes("out.safetensors")) == 9


def test_a_directory_that_is_not_there_is_said_before_work_begins(run, file):
    done = run("convert", file, "nowhere/out.safetensors", "--like", "factories:build")
    assert done.code == 2
    assert "'nowhere'" in done.err


def test_a_suffix_that_names_no_format_is_said(run, room, file):
    done = run("convert", file, "out.xyz", "--like", "factories:build")
    assert done.code == 2
    assert ".safetensors" in done.err
    assert "--format" in done.err
    assert run("convert", file, "out.xyz", "--like", "factories:build", "--format", "safetensors").code == 0


def test_the_source_is_never_its_own_target(run, room, file):
    before = (room / file).read_bytes()
    done = run("convert", file, file, "--like", "factories:build", "--overwrite")
    assert done.code == 2
    assert (room / file).read_bytes() == before


@pytest.mark.parametrize(
    ("out", "more"),
    [
        ("out.safetensors", ["--plan", "model.safetensors"]),
        ("out.safetensors", ["--plan", "./model.safetensors"]),
        ("out.safetensors", ["--plan", "link.safetensors"]),
        ("out.safetensors", ["--plan", "hard.safetensors"]),
        ("out.safetensors", ["--plan", "model.safetensors", "--dry-run"]),
        ("out.safetensors", ["--plan", "out.safetensors"]),
        ("out.safetensors", ["--plan", "rules.toml", "--rules", "rules.toml"]),
        ("out.safetensors", ["--plan", "other.safetensors", "--residual", "other.safetensors"]),
        ("out.safetensors", ["--plan", "out.safetensors.stateregistry.json"]),
        ("out.safetensors", ["--plan", "model.safetensors.stateregistry.json"]),
        ("other.safetensors", ["--residual", "other.safetensors"]),
        ("rules.toml", ["--rules", "rules.toml"]),
        ("link.safetensors", []),
        ("hard.safetensors", []),
    ],
)
def test_no_file_that_is_read_or_written_is_written_over(run, room, file, out, more):
    (room / "link.safetensors").symlink_to("model.safetensors")
    (room / "hard.safetensors").hardlink_to(room / "model.safetensors")
    (room / "other.safetensors").write_bytes((room / file).read_bytes())
    (room / "rules.toml").write_text("", encoding="utf-8")
    before = {path.name: path.read_bytes() for path in room.iterdir() if path.is_file()}
    done = run("convert", file, out, "--like", "factories:build", "--overwrite", *more)
    assert done.code == 2, done
    assert "at once" in done.err
    assert {path.name: path.read_bytes() for path in room.iterdir() if path.is_file()} == before


def test_a_file_is_not_written_over_by_a_state_inside_it(run, room, torch_models):
    import torch
    import torch_models as models

    torch.save({"model": models.build().state_dict()}, "run.pt")
    before = (room / "run.pt").read_bytes()
    for more in (["run.pt"], ["out.pt", "--plan", "run.pt"]):
        done = run("convert", "run.pt::model", *more, "--like", "torch_models:build", "--overwrite")
        assert done.code == 2, done
        assert "at once" in done.err
        assert (room / "run.pt").read_bytes() == before


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize(("plan", "words"), [("nodir/p.json", "'nodir'"), ("folder", "folder: is a directory")])
def test_a_plan_that_cannot_be_written_is_said_by_the_name_that_was_given(run, room, file, plan, words, overwrite):
    (room / "folder").mkdir()
    more = ["--overwrite"] if overwrite else []
    done = run("convert", file, "out.safetensors", "--like", "factories:build", "--plan", plan, *more)
    assert done.code == 2, done
    assert words in done.err
    assert not (room / "out.safetensors").exists()
    assert list((room / "folder").iterdir()) == []


def test_rules_rename(run, room, file, model):
    (room / "factories.py").write_text((room / "factories.py").read_text().replace('f"block{n}"', 'f"stage{n - 1}"'))
    (room / "rules.toml").write_text('[[rename]]\nsource = "block{i}"\ntarget = "stage{i-1}"\n', encoding="utf-8")
    done = run("convert", file, "out.safetensors", "--like", "factories:build", "--rules", "rules.toml")
    assert done.code == 0, done
    found = keys_and_bytes("out.safetensors")
    assert found["stage2/weight"][2] == sr.of(model).read("block3/weight").tobytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[rename]\n", ["rules.toml"]),
        ('[[rname]]\nsource = "a"\n', ["rname"]),
        (None, ["rules.toml"]),
    ],
)
def test_rules_that_cannot_be_read_are_refused(run, room, file, text, words):
    if text is not None:
        (room / "rules.toml").write_text(text, encoding="utf-8")
    done = run("convert", file, "out.safetensors", "--like", "factories:build", "--rules", "rules.toml")
    assert done.code == 2
    for word in words:
        assert word in done.err
    assert not Path("out.safetensors").exists()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--to", "tensorflow", ["no adapter 'tensorflow'", "flax-linen"]),
        ("--dtype", "float12", ["float12"]),
        ("--residual", "absent.msgpack", ["absent.msgpack"]),
    ],
)
def test_a_value_that_no_option_takes_is_refused(run, file, option, value, words):
    to = [] if option == "--to" else ["--to", "numpy"]
    done = run("convert", file, "out.safetensors", option, value, *to)
    assert done.code == 2, done
    for word in words:
        assert word in done.err


def test_a_file_without_a_residual_cannot_give_one(run, file):
    done = run("convert", file, "out.safetensors", "--like", "factories:build", "--residual", file)
    assert done.code == 2
    assert "carries no residual" in done.err


def test_a_cast_happens_only_when_asked_for(run, room, file, model):
    done = run("convert", file, "out.safetensors", "--like", "factories:build", "--dtype", "lossless")
    assert done.code == 0, done
    text = (room / "factories.py").read_text().replace("np.float32", "np.float64")
    (room / "wide.py").write_text(text, encoding="utf-8")
    refused = run("convert", file, "wide.safetensors", "--like", "wide:build")
    assert refused.code == 1
    assert "--dtype" in refused.out
    done = run("convert", file, "wide.safetensors", "--like", "wide:build", "--dtype", "target")
    assert done.code == 0, done
    wide = sr.of(model).read("block1/weight").astype(np.float64)
    assert keys_and_bytes("wide.safetensors")["block1/weight"][2] == wide.tobytes()


@pytest.mark.parametrize(("size", "count"), [("100", 5), ("0.1KB", 5), ("1MiB", 1), ("2 GB", 1)])
def test_shards_are_cut_by_size(run, file, model, size, count):
    done = run("convert", file, "out.safetensors", "--like", "factories:build", "--shard-size", size, "--json")
    assert done.code == 0, done
    shards = sorted(path.name for path in Path().glob("out*.safetensors"))
    assert len(shards) == count
    written = done.json["written"]
    assert written["path"] == ("out.safetensors" if count == 1 else "out.safetensors.index.json")
    assert written["files"] == sorted(path.name for path in Path().glob("out*"))
    assert written["bytes"] == sum(path.stat().st_size for path in Path().glob("out*"))
    reg = sr.of(model)
    assert {key: row[2] for key, row in keys_and_bytes(written["path"]).items()} == {
        key: reg.read(key).tobytes() for key in reg
    }
    assert set(done.json["receipt"]["files"]) == set(written["files"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--shard-size", "big"], "is no size"),
        (["--shard-size", "5XB"], "is no size"),
        (["--shard-size", "0"], "is no size"),
        (["--shard-size", "-1"], "is no size"),
        (["--workers", "0"], "--workers"),
        (["--workers", "two"], "--workers"),
    ],
)
def test_numbers_that_are_none_are_refused(run, room, file, more, words):
    done = run("convert", file, "out.safetensors", "--like", "factories:build", *more)
    assert done.code == 2
    assert words in done.err
    assert not list(room.glob("out*"))


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_no_byte(run, room, file, workers):
    assert run("convert", file, "one.safetensors", "--like", "factories:build").code == 0
    done = run("convert", file, "two.safetensors", "--like", "factories:build", "--workers", workers)
    assert done.code == 0, done
    assert (room / "one.safetensors").read_bytes() == (room / "two.safetensors").read_bytes()


def test_a_run_that_was_stopped_is_resumed(run, room, file, monkeypatch):
    from stateregistry.streaming import disk

    count = 0

    def stop(call):
        nonlocal count
        count += 1
        if count == 20:
            raise KeyboardInterrupt

    command = ["convert", file, "out.safetensors", "--like", "factories:build", "--workers", 1]
    for more, left in ([], 0), (["--resume"], 2):
        count = 0
        monkeypatch.setattr(disk, "before", stop)
        assert run(*command, *more).code == 130
        assert len(list(room.glob(".stateregistry-*"))) == left
        assert not (room / "out.safetensors").exists()
    monkeypatch.setattr(disk, "before", None)
    assert run(*command, "--resume").code == 0
    assert not list(room.glob(".stateregistry-*"))
    assert len(keys_and_bytes("out.safetensors")) == 9
    assert run(*command, "--resume").code == 3, "it is done, and exists"


TO_FLAX = ["--to", "flax-linen", "--source-like", "torch_models:build", "--allow", "choice"]


def test_torch_to_flax_and_back_gives_the_same_bytes(run, torch_models):
    import torch

    there = run("convert", "torch_models:build", "a.pt", "--like", "torch_models:build")
    assert there.code == 0, there
    assert torch.load("a.pt", weights_only=True)["norm.num_batches_tracked"] == 12345
    refused = run("convert", "a.pt", "b.msgpack", *TO_FLAX[:4])
    assert refused.code == 1
    assert "--allow choice" in refused.out
    done = run("convert", "a.pt", "b.msgpack", *TO_FLAX)
    assert done.code == 0, done
    assert "6 parameters of 177 elements, 2 buffers of 10 elements" in done.out
    assert "1 entry without a place kept in its metadata" in done.out
    back = run("convert", "b.msgpack", "c.pt", "--like", "torch_models:build", "--allow", "assumption")
    assert back.code == 0, back
    assert run("diff", "a.pt", "c.pt").code == 0
    assert torch.load("c.pt", weights_only=True)["norm.num_batches_tracked"] == 12345
    assert keys_and_bytes("a.pt") == keys_and_bytes("c.pt")


def test_an_earlier_output_gives_back_what_another_tool_lost(run, room, torch_models):
    """Saved again by Flax, the file has no metadata of ours: the first conversion still has the counter."""
    import torch
    from flax import serialization

    run("convert", "torch_models:build", "a.pt", "--like", "torch_models:build")
    assert run("convert", "a.pt", "b.msgpack", *TO_FLAX).code == 0
    tree = serialization.msgpack_restore((room / "b.msgpack").read_bytes())
    (room / "lost.msgpack").write_bytes(
        serialization.msgpack_serialize({k: tree[k] for k in ("params", "batch_stats")})
    )
    back = ["convert", "lost.msgpack", "c.pt", "--like", "torch_models:build", "--allow", "assumption"]
    done = run(*back, "--residual", "b.msgpack")
    assert done.code == 0, done
    assert torch.load("c.pt", weights_only=True)["norm.num_batches_tracked"] == 12345
    assert run("diff", "a.pt", "c.pt").code == 0


def test_a_counter_of_statistics_that_changed_since_is_not_used_and_this_is_said(run, room, torch_models):
    import torch
    from flax import serialization

    run("convert", "torch_models:build", "a.pt", "--like", "torch_models:build")
    assert run("convert", "a.pt", "b.msgpack", *TO_FLAX).code == 0
    tree = serialization.msgpack_restore((room / "b.msgpack").read_bytes())
    tree["batch_stats"]["norm"]["mean"] = tree["batch_stats"]["norm"]["mean"] + np.float32(1)
    (room / "moved.msgpack").write_bytes(
        serialization.msgpack_serialize({k: tree[k] for k in ("params", "batch_stats")})
    )
    back = ["convert", "moved.msgpack", "c.pt", "--like", "torch_models:build", "--allow", "assumption"]
    done = run(*back, "--residual", "b.msgpack")
    assert done.code == 0, done
    assert "norm/num_batches_tracked" in done.err
    assert torch.load("c.pt", weights_only=True)["norm.num_batches_tracked"] != 12345


@pytest.mark.parametrize(
    ("hint", "shown"),
    [
        ("accept it with allow=('choice',)", "accept it with --allow choice"),
        ("name its place with a rule, or allow 'unexpected' to leave it out",
         "name its place with a rule, or give --allow unexpected to leave it out"),
        ("give the model (like=)", "give the model with --source-like"),
        ("ask with dtype='target' or dtype='lossless'", "ask with --dtype target or --dtype lossless"),
        ("pass overwrite=True to replace it", "give --overwrite to replace it"),
        ("choose a suffix of the list, or pass format=", "choose a suffix of the list, or give --format"),
        ("rename it, or say that you know: format='torch'", "rename it"),
        ("say which one: sr.open('run.pt::model')", "say which one: run.pt::model"),
        ("check the path", "check the path"),
    ],
)  # fmt: skip
def test_hints_are_spelled_as_flags(hint, shown):
    assert spelled(hint) == shown


def test_problems_that_differ_in_a_number_are_one_line_and_all_of_them_with_all(run, room):
    arrays = {f"conv{n}/weight": np.full((4, 2 + n, 3, 3), n, np.float32) for n in range(1, 4)}
    arrays |= {f"prelu{n}/weight": np.full(4, n, np.float32) for n in range(1, 4)}
    sr.save(arrays, room / "bare.safetensors")
    command = ("convert", "bare.safetensors", "out.msgpack", "--to", "flax-linen")
    done = run(*command)
    assert done.code == 1
    lines = [line for line in done.out.splitlines() if "ambiguous: " in line and line.startswith("  !")]
    assert [line.split(": ")[1] for line in lines] == ["conv{1..3}", "prelu{1..3}"]
    # The kind that stands as an example is the one that the name spells: it is said, never done.
    assert 'for each: add a rule [[layer]] path = "conv{1..3}" kind = "conv"' in lines[0]
    assert 'path = "prelu{1..3}" kind = "prelu"' in lines[1]
    assert "rules stand in a file, --rules FILE.toml" in done.out
    listed = [line for line in run(*command, "--all").out.splitlines() if line.startswith("  ! ambiguous: ")]
    assert len(listed) == len({line.split(": ")[1] for line in listed}) == 6


def test_the_rules_that_a_plan_asks_for_answer_it(run, room):
    arrays = {f"conv{n}/weight": np.full((4, 2 + n, 3, 3), n, np.float32) for n in range(1, 4)}
    sr.save(arrays, room / "bare.safetensors")
    rules = "".join(f'[[layer]]\npath = "conv{n}"\nkind = "conv"\n' for n in range(1, 4))
    (room / "kinds.toml").write_text(rules, encoding="utf-8")
    command = ("convert", "bare.safetensors", "out.msgpack", "--to", "flax-linen", "--rules", "kinds.toml")
    assert run(*command, "--allow", "assumption").code == 0


def test_convert_without_a_goal_says_which_there_are(run, file):
    done = run("convert", file, "out.npz")
    assert done.code == 2
    for word in ("--to torch", "changes the file alone", "--to flax-linen", "--like MODULE:FACTORY"):
        assert word in done.err


def test_an_adapter_that_is_not_there_gets_the_one_that_was_meant(run, file):
    done = run("convert", file, "out.npz", "--to", "flax_linen")
    assert done.code == 2
    assert "did you mean 'flax-linen'?" in done.err
