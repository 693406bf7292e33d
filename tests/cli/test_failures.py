"""Bad input: one clear message, the exit code that the documentation gives, nothing executed, nothing written."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile

import pytest

import stateregistry as sr
from stateregistry.cli import failures
from stateregistry.cli.app import group


class Harmful:
    """Unpickling it would make a file."""

    def __reduce__(self):
        return (os.system, ("touch executed",))


def write_harmful_zip(path):
    """A torch file whose pickle would run a command."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"w": Harmful()}, protocol=2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


def truncated(path, source):
    path.write_bytes(source.read_bytes()[:-5])


COMMANDS = [("inspect", "{}"), ("diff", "{}", "{}"), ("convert", "{}", "out.safetensors", "--to", "numpy")]


@pytest.fixture(params=COMMANDS, ids=[command[0] for command in COMMANDS])
def on(request, run):
    """Every command, on one file."""

    def call(file, *options):
        return run(*(part.format(file) for part in request.param), *options)

    return call


def checked(done, code, *words):
    assert done.code == code, done
    assert done.out == ""
    assert done.err.startswith("error: ")
    for word in words:
        assert word in done.err, done.err


def test_a_file_that_is_missing_is_named_with_the_one_that_is_near(on, file):
    checked(on("modle.safetensors"), 2, "'modle.safetensors'", "did you mean 'model.safetensors'?")


def test_a_truncated_file_is_refused(on, room, file):
    truncated(room / "cut.safetensors", file)
    checked(on("cut.safetensors"), 2, "cut.safetensors")


def test_an_empty_file_is_refused(on, room):
    (room / "empty.safetensors").touch()
    checked(on("empty.safetensors"), 2, "empty.safetensors")


def test_a_file_that_is_not_what_its_suffix_says_is_refused(on, room):
    (room / "text.safetensors").write_text("these are not tensors" * 100, encoding="utf-8")
    checked(on("text.safetensors"), 2, "text.safetensors")


def test_a_directory_is_refused(on, room):
    (room / "folder").mkdir()
    checked(on("folder"), 2, "folder")


def test_a_duplicate_key_is_refused(on, room):
    one = '"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    text = f"{{{one},{one}}}".encode()
    text += b" " * (-len(text) % 8)
    (room / "twice.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    checked(on("twice.safetensors"), 2, "w")


def test_a_harmful_file_with_another_suffix_is_refused_and_nothing_runs(on, room):
    write_harmful_zip(room / "harmful.safetensors")
    checked(on("harmful.safetensors"), 2, "suffix says 'safetensors'", "content is 'torch'")
    assert not (room / "executed").exists()


@pytest.mark.parametrize("name", ["harmful.pt", "harmful.pth"])
def test_a_file_that_would_run_code_is_refused_for_safety_and_nothing_runs(on, room, name):
    write_harmful_zip(room / name)
    done = on(name)
    checked(done, 3, name, "system")
    assert not (room / "executed").exists()


def test_a_bare_pickle_is_refused_and_nothing_runs(on, room):
    (room / "bare.pkl").write_bytes(pickle.dumps({"w": Harmful()}))
    done = on("bare.pkl")
    assert done.code in (2, 3)
    assert done.err.startswith("error: ")
    assert not (room / "executed").exists()


def test_the_harmful_pickle_of_these_tests_is_harmful(room):
    """Else the tests above would prove nothing."""
    write_harmful_zip(room / "harmful.pt")
    data = zipfile.ZipFile(room / "harmful.pt").read("archive/data.pkl")
    pickle.load(io.BytesIO(data))  # on purpose
    assert (room / "executed").exists()


def test_an_error_is_a_document_too(on, room):
    write_harmful_zip(room / "harmful.pt")
    done = on("harmful.pt", "--json")
    document = json.loads(done.out)
    assert document["schema"].startswith("stateregistry.")
    assert document["exit"] == done.code == 3
    assert document["error"]["type"] == "UnsafeFileError"
    assert document["error"]["message"] in done.err.replace("\\n", "\n")


def test_an_interrupt_that_python_drops_is_not_lost(run, room):
    """One that comes while the garbage collector runs, as that of JAX does, would be no more than a line on stderr."""
    done = run("inspect", "factories:dropped", "--stats")
    assert done.code == 130
    assert "interrupted" in done.err
    assert "Exception ignored" not in done.err


def test_wrong_use_is_a_document_too(run):
    done = run("inspect", "--depth", "none", "x", "--json")
    assert done.code == 2
    assert done.json["schema"] == "stateregistry.inspect/1"
    assert done.json["error"]["type"] == "BadParameter"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspec", "x"], ["Did you mean 'inspect'?"]),
        (["inspect"], ["Missing argument", "stateregistry inspect --help"]),
        (["inspect", "x", "--al"], ["--all"]),
        (["convert", "a", "b"], ["--like", "--to"]),
        (["convert", "a", "b", "--to", "torch", "--like", "m:f"], ["either"]),
        (["convert", "a", "b", "--to", "torch", "--allow", "all"], ["assumption"]),
    ],
)
def test_wrong_use_is_explained(run, arguments, words):
    done = run(*arguments)
    checked(done, 2, *words)


def test_no_command_shows_the_help_on_stderr(run):
    done = run()
    assert done.code == 2
    assert done.out == ""
    assert "inspect" in done.err


@pytest.mark.parametrize("command", sorted(group.commands))
def test_every_command_has_help_with_two_examples(run, command):
    done = run(command, "--help")
    assert done.code == 0
    assert done.out.count(f"\n    stateregistry {command}") >= 2
    assert "--json" in done.out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (sr.errors.UnsafeFileError("x"), 3),
        (sr.errors.TargetExistsError("x"), 3),
        (sr.errors.PlanError("x", plan=object()), 1),
        (sr.errors.PlanError("x", plan=None), 2),
        (sr.errors.FileFormatError("x"), 2),
        (sr.errors.FileMissingError("x"), 2),
        (sr.errors.MissingDependencyError("x"), 2),
        (PermissionError(13, "Permission denied", "f"), 2),
        (MemoryError(), 2),
        (RuntimeError("a bug"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_error_has_its_exit_code(error, code):
    assert failures.status(error) == code


def test_a_bug_is_said_to_be_one_without_a_traceback(run, file, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("inner trouble")

    monkeypatch.setattr("stateregistry.report.summary.summarize", broken)
    done = run("inspect", file)
    checked(done, 2, "RuntimeError: inner trouble", "this is a bug")
    assert "Traceback" in run("inspect", file, "--debug").err


def test_names_in_messages_do_not_steer_the_terminal(run):
    done = run("inspect", "evil\x1b[31m.pt")
    assert "\x1b" not in done.err
    assert "\\x1b[31m" in done.err


def test_a_file_that_may_not_be_read_is_refused(run, room, file, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied", "model.safetensors")

    monkeypatch.setattr("stateregistry.stores.opening.open", forbidden)
    checked(run("inspect", file), 2, "Permission denied: model.safetensors")


def test_a_prefix_that_all_names_have_is_told_with_the_command_that_takes_it_away(torch_models):
    import torch_models as models

    model = models.build()
    values = {f"module/{key}": value for key, value in sr.snapshot(sr.of(model)).items()}
    with pytest.raises(sr.errors.LoadError) as caught:
        sr.load(model, values)
    assert "all 9 unexpected names lie under 'module/', and without it 9 of them fit" in caught.value.hint
    assert "stateregistry rename FILE OUT --name module=" in caught.value.hint
    bare = {key: value for key, value in sr.snapshot(sr.of(model)).items() if not key.startswith("conv")}
    with pytest.raises(sr.errors.LoadError) as caught:
        sr.load(model, bare)
    assert "lie under" not in caught.value.hint
