"""`stateregistry average`: the mean of checkpoints, streamed, refused before any work where it cannot be written."""

from __future__ import annotations

import numpy as np
import pytest

import stateregistry as sr


def values(path) -> dict[str, np.ndarray]:
    with sr.open(path) as file:
        return {key: file.read(key) for key in file}


def test_the_mean_of_two_files_is_written(run, file, changed):
    done = run("average", file, changed, "-o", "soup.safetensors")
    assert done.code == 0
    assert done.out.startswith("written: soup.safetensors: 9 entries, the mean of 2 states")
    a, b, soup = values(file), values(changed), values("soup.safetensors")
    assert soup.keys() == a.keys()
    assert soup["block2/bias"].tolist() == [0] * 8
    assert soup["block1/weight"].tobytes() == a["block1/weight"].tobytes()
    assert soup["block3/steps"] == b["block3/steps"] == 33


def test_weights_and_their_shares_are_told(run, file, changed):
    document = run("average", file, changed, "--weight", 3, "--weight", 1, "-o", "s.safetensors", "--json").json
    assert document["schema"] == "stateregistry.average/1"
    assert [row["share"] for row in document["sources"]] == [0.75, 0.25]
    assert document["written"]["entries"] == 9
    np.testing.assert_allclose(values("s.safetensors")["block2/bias"], 0.5 * values(file)["block2/bias"], rtol=1e-6)


def test_a_moving_average_counts_the_newest_most(run, file, changed):
    document = run("average", file, changed, "--ema", 0.9, "-o", "e.safetensors", "--json").json
    assert [round(row["share"], 4) for row in document["sources"]] == [0.4737, 0.5263]


def test_buffers_of_one_source(run, file, changed):
    assert run("average", file, changed, "--buffers", "first", "-o", "f.safetensors").code == 0
    assert values("f.safetensors")["block3/steps"] == 3


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["model.safetensors"], 2, "two sources or more"),
        (["model.safetensors", "changed.safetensors", "--weight", "1"], 2, "one for each"),
        (["model.safetensors", "changed.safetensors", "--weight", "1", "--weight", "-1"], 2, "have the sum 0"),
        (["model.safetensors", "changed.safetensors", "--ema", "1"], 2, "a decay of 1"),
        (["model.safetensors", "changed.safetensors", "--ema", "0.5", "--weight", "1"], 2, "not both"),
        (["model.safetensors", "missing.safetensors"], 2, "there is no file"),
    ],
)
def test_wrong_use_is_said(run, file, changed, arguments, code, says):
    done = run("average", *arguments, "-o", "out.safetensors")
    assert done.code == code
    assert says in done.err


def test_a_target_that_exists_or_is_a_source_is_refused(run, file, changed, room):
    assert run("average", file, changed, "-o", changed).code == 2
    (room / "there.safetensors").write_bytes(b"x")
    assert run("average", file, changed, "-o", "there.safetensors").code == 3
    assert (room / "there.safetensors").read_bytes() == b"x"
    assert run("average", file, changed, "-o", "there.safetensors", "--overwrite").code == 0


def test_other_architectures_are_named(run, file, room):
    sr.save({"block1/weight": np.zeros((4, 4), "float32")}, room / "other.safetensors")
    done = run("average", file, "other.safetensors", "-o", "out.safetensors")
    assert done.code == 2
    assert "block1/weight: shape" in done.err
    assert not (room / "out.safetensors").exists()
