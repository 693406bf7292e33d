"""Every hostile file is refused, in little time and memory, and nothing of it runs; the page about it says what is so."""

from __future__ import annotations

import dataclasses
import os
import pickle
from collections import Counter

import pytest
import torch

import stateregistry as sr
from hostile import (
    corpus,
    documents,
    flax_msgpack,
    fuzz,
    gguf_files,
    keras_files,
    npz,
    orbax_checkpoints,
    safetensors_files,
    safetensors_indexes,
    table,
    torch_archives,
    torch_dcp,
    torch_indexes,
    torch_legacy,
    torch_pickles,
)
from hostile.corpus import Fault
from hostile.runner import EXTRA_BYTES, Outcome, as_asked, verdicts
from stateregistry import errors
from stateregistry.cli import main as command

FAULTS = corpus.faults()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of every file, by the id of its fault."""
    found = verdicts(FAULTS, tmp_path_factory.mktemp("hostile"))
    return {fault.id: outcome for fault, outcome in zip(FAULTS, found, strict=True)}


@pytest.mark.parametrize("reader", corpus.READERS)
def test_every_file_ends_as_the_corpus_asks(outcomes, reader):
    mine = corpus.faults(reader)
    assert mine
    wrong = {fault.id: problem for fault in mine if (problem := as_asked(fault, outcomes[fault.id]))}
    assert wrong == {}


def test_the_corpus_is_as_large_as_is_said_and_every_file_has_its_own_name():
    assert len({fault.kind for fault in FAULTS}) >= 80
    assert len(FAULTS) >= 250
    assert [name for name, count in Counter(fault.id for fault in FAULTS).items() if count > 1] == []
    assert {fault.reader for fault in FAULTS} == set(corpus.READERS)


def test_the_page_says_what_came_of_them(outcomes):
    found = table.page([(fault, outcomes[fault.id]) for fault in FAULTS])
    assert table.steady(table.PAGE.read_text(encoding="utf-8")) == table.steady(found)


KEPT = sorted(path for path in fuzz.FOUND.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", [None, *KEPT], ids=lambda path: path.name if path else "none")
def test_what_fuzzing_found_is_one_error_or_arrays(tmp_path, path):
    """`None` stands for a finding that was none: the corpus of findings may be empty."""
    name = "msgpack" if path is None else path.parent.name
    data = b"\x81\xa6params\xc1" if path is None else path.read_bytes()
    fuzz.look(fuzz.HARNESSES[name].place(tmp_path, data))


@pytest.mark.parametrize("name", fuzz.HARNESSES)
def test_every_harness_of_the_fuzzer_has_seeds_and_reaches_its_reader(tmp_path, name):
    harness = fuzz.HARNESSES[name]
    seeds = 0
    for number, fault in enumerate(corpus.faults(harness.reader)[:40]):
        folder = tmp_path / str(number)
        folder.mkdir()
        data = harness.seed(fault.make(folder))
        if data:
            seeds += 1
            room = tmp_path / f"{number}-room"
            room.mkdir()
            fuzz.look(harness.place(room, data))
    assert seeds > 5


# -------------------------------------------------------------------- the runner sees what it is there to see


def _watched(tmp_path, make):
    fault = Fault("probe", "probe", "probe", make)
    (outcome,) = verdicts([fault], tmp_path)
    return outcome, fault


GOOD = {
    "safetensors": lambda f: safetensors_files.written(f, {"w": safetensors_files.GOOD}, safetensors_files.DATA),
    "safetensors index": safetensors_indexes.checkpoint,
    "torch zip": torch_archives.good,
    "torch legacy": lambda f: torch_legacy.written(f, {"w": torch_legacy.tensor()}),
    "torch index": torch_indexes.checkpoint,
    "torch DCP": lambda f: torch_dcp.written(f, lambda metadata: None),
    "npz": lambda f: npz.written(f, {"w.npy": npz.GOOD}),
    "msgpack": lambda f: flax_msgpack.written(f, flax_msgpack.GOOD),
    "Orbax": lambda f: orbax_checkpoints.written(f, lambda path: None),
    "Keras": keras_files.archive,
    "GGUF": lambda f: gguf_files.written(f, [gguf_files.info()]),
    "our metadata": lambda f: documents.forged(f, documents.document(entries={"w": {"kind": "buffer"}})),
}


def test_a_good_file_of_every_reader_is_accepted_and_so_is_wrong_for_the_corpus(tmp_path):
    """The test of the forges: what makes the others refused is the fault, and nothing else."""
    assert GOOD.keys() == corpus.READERS.keys()
    faults = [Fault(reader, "none", "good", make) for reader, make in GOOD.items()]
    for fault, outcome in zip(faults, verdicts(faults, tmp_path), strict=True):
        assert outcome.verdict == "accepted", (fault.reader, outcome)
        assert outcome.bounded
        assert as_asked(fault, outcome).startswith("accepted, expected refused")


def test_the_forges_make_files_that_are_read(tmp_path):
    path = torch_archives.good(tmp_path)
    assert torch.load(path, weights_only=True)["w"].shape == (2, 2)
    with sr.open(path) as found:
        assert found.read("w").tobytes() == bytes(16)
    with sr.open(torch_legacy.written(tmp_path, {"w": torch_legacy.tensor()})) as found:
        assert found.read("w").tolist() == [0, 1, 2, 3]


def test_a_pickle_of_the_corpus_would_have_run(tmp_path):
    """The test of the test: Python's own unpickler does what ours refuses."""
    marker = tmp_path / "it-ran"
    pickle.loads(torch_pickles.forge_pickle(torch_pickles.Call(os.system, torch_pickles.touch(marker))))
    assert marker.exists()


def test_a_file_outside_of_the_folder_is_seen(tmp_path):
    """A reader that follows a link out is noted, whatever it returns."""

    def make(folder):
        sr.save({"w": torch.ones(2).numpy()}, folder.parent / "out.safetensors")
        (folder / "m.safetensors").symlink_to(folder.parent / "out.safetensors")
        return folder / "m.safetensors"

    inside, _ = _watched(tmp_path / "a", make)
    assert inside.verdict == "accepted"  # a single file may be a link: the user named it

    def far(folder):
        path = sr.save({"w": torch.ones(2).numpy()}, tmp_path / "far.safetensors")
        (folder / "m.safetensors").symlink_to(path)
        return folder / "m.safetensors"

    outside, _ = _watched(tmp_path / "b", far)
    assert outside.verdict == "executed"
    assert "opened" in outside.text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"memory": EXTRA_BYTES + 300}, "took"),
        ({"seconds": 6.0}, r"took 6\.0 s"),
        ({"verdict": "executed"}, "executed, expected refused"),
        ({"verdict": "hang"}, "hang, expected refused"),
        ({"verdict": "crash"}, "crash, expected refused"),
        ({"text": "some\x1b[2Jthing"}, "terminal"),
        ({"text": "another reason"}, "does not say"),
        ({"text": "thing" * 10_000}, "characters"),
    ],
)
def test_an_outcome_that_is_not_as_asked_is_said(change, says):
    fault = Fault("probe", "probe", "probe", lambda folder: folder, "thing")
    good = Outcome("refused", "some thing", 0.1, 1000, 100)
    assert as_asked(fault, good) == ""
    found = as_asked(fault, dataclasses.replace(good, **change))
    assert found
    assert says.replace("\\", "") in found


def test_an_error_spells_what_a_terminal_would_act_on():
    error = errors.FileFormatError("no \x1b[2J such \u202e name\nbut a line", hint="a \x00 hint")
    assert str(error) == "no \\x1b[2J such \\u202e name\nbut a line\n  to do: a \\x00 hint"
    assert error.message.startswith("no \x1b")


def test_the_command_line_spells_it_too(tmp_path, capsys):
    path = sr.save({"a\x1b[2Jb": torch.ones(2).numpy()}, tmp_path / "m.safetensors")
    assert command(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "2Jb" in shown
