"""Checkpoints that are directories appear whole or not at all, and replace one of their kind in one step."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import stateregistry as sr
from stateregistry import errors
from stateregistry.stores import atomic_folder
from stateregistry.stores.atomic_folder import replacing_folder

FOLDERS = ["dcp", "orbax"]


def content(path):
    return {inner.relative_to(path).as_posix(): inner.read_bytes() for inner in path.rglob("*") if inner.is_file()}


def beside_the_mark(folder):
    return [inner.name for inner in folder.iterdir() if inner.name not in ("mark", "more")]


def written(path, text, **options):
    with replacing_folder(path, strangers=beside_the_mark, **options) as made:
        made.mkdir()
        (made / "mark").write_text(text)


def test_a_directory_appears_and_is_replaced_by_one_of_its_kind(tmp_path):
    target = tmp_path / "x"
    written(target, "one", overwrite=False)
    assert content(target) == {"mark": b"one"}
    (target / "more").write_text("of the old one")
    with pytest.raises(errors.TargetExistsError):
        written(target, "two", overwrite=False)
    written(target, "two", overwrite=True)
    assert content(target) == {"mark": b"two"}
    assert list(tmp_path.iterdir()) == [target]


def test_a_directory_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.tex").write_text("years")
    with pytest.raises(errors.FileAccessError, match="something else"):
        written(tmp_path / "x", "one", overwrite=True)
    (tmp_path / "file").write_text("a file")
    with pytest.raises(errors.TargetExistsError):
        written(tmp_path / "file", "one", overwrite=True)
    assert content(tmp_path) == {"x/thesis.tex": b"years", "file": b"a file"}


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, OSError])
def test_a_failure_leaves_what_was_there(tmp_path, there, error):
    if there:
        written(tmp_path / "x", "one", overwrite=False)
    before = content(tmp_path)

    def fail():
        with replacing_folder(tmp_path / "x", overwrite=True, strangers=lambda folder: ()) as made:
            made.mkdir()
            (made / "mark").write_text("half")
            raise error(errno.ENOSPC, "full")

    with pytest.raises(errors.FileAccessError if error is OSError else error):
        fail()
    assert content(tmp_path) == before


def test_one_that_appears_meanwhile_is_not_replaced(tmp_path):
    def late():
        with replacing_folder(tmp_path / "x", overwrite=False, strangers=lambda folder: ()) as made:
            made.mkdir()
            (tmp_path / "x").mkdir()
            (tmp_path / "x" / "other").write_text("first")

    with pytest.raises(errors.TargetExistsError):
        late()
    assert content(tmp_path) == {"x/other": b"first"}


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    written(tmp_path / "real", "one", overwrite=False)
    (tmp_path / "link").symlink_to("real")
    written(tmp_path / "link", "two", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "real") == {"mark": b"two"}


def test_a_system_that_cannot_exchange_refuses_and_one_without_the_call_renames(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_folder.ctypes, "CDLL", lambda *_, **__: object())
    written(tmp_path / "x", "one", overwrite=False)
    assert content(tmp_path / "x") == {"mark": b"one"}
    with pytest.raises(errors.FileAccessError, match="exchange"):
        written(tmp_path / "x", "two", overwrite=True)
    assert content(tmp_path) == {"x/mark": b"one"}


def test_an_interrupted_run_leaves_nothing_though_threads_of_a_library_write_on(tmp_path):
    def late(folder):
        for number in range(40):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / str(number)).write_text("late")
            time.sleep(0.001)

    with ThreadPoolExecutor() as pool, pytest.raises(KeyboardInterrupt):  # noqa: PT012  # what is interrupted is a block
        with replacing_folder(tmp_path / "x", overwrite=False, strangers=lambda folder: ()) as made:
            made.mkdir()
            writing = pool.submit(late, made / "d")
            while not (made / "d").exists():
                time.sleep(0.001)
            raise KeyboardInterrupt
        writing.result()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", FOLDERS)
def test_a_checkpoint_replaces_one_of_its_format(tmp_path, bits, specimen, suffix):
    target = tmp_path / f"x.{suffix}"
    one, two = (specimen({"a/w": bits("float32", (8, 8), seed)}, dialect="numpy") for seed in (1, 2))
    sr.save(one, target)
    with pytest.raises(errors.TargetExistsError):
        sr.save(two, target)
    sr.save(two, target, overwrite=True)
    with sr.open(target, verify=True) as ckpt:
        assert ckpt.read("a/w").tobytes() == two.read("a/w").tobytes()
        with pytest.raises(errors.UnsupportedError, match="come from"):
            sr.save(ckpt, target, overwrite=True)
    other = tmp_path / f"y.{suffix}"
    other.mkdir()
    (other / "thesis.tex").write_text("years")
    with pytest.raises(errors.FileAccessError, match="something else"):
        sr.save(one, other, overwrite=True)
    with pytest.raises(errors.UnsupportedError, match="by itself"):
        sr.save(one, tmp_path / f"z.{suffix}", shard_bytes=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == [target.name, other.name]


@pytest.mark.parametrize("suffix", FOLDERS)
def test_what_lies_in_a_checkpoint_and_is_no_part_of_it_is_never_lost(tmp_path, bits, specimen, suffix):
    target = tmp_path / f"x.{suffix}"
    one = specimen({"a/w": bits("float32", (8, 8))}, dialect="numpy")
    sr.save(one, target)
    (target / "tokenizer.json").write_text("of somebody else")
    before = content(target)
    with pytest.raises(errors.FileAccessError, match=r"something else.*tokenizer\.json"):
        sr.save(one, target, overwrite=True)
    assert content(target) == before
    (target / "tokenizer.json").unlink()
    sr.save(one, target, overwrite=True)


@pytest.mark.parametrize("suffix", FOLDERS)
def test_a_directory_of_checkpoints_is_not_replaced_by_one(tmp_path, bits, specimen, suffix):
    one = specimen({"a/w": bits("float32", (8, 8))}, dialect="numpy")
    run = tmp_path / f"run.{suffix}"
    run.mkdir()
    for step in ("100", "200"):
        sr.save(one, run / f"{step}.{suffix}")
    before = content(run)
    with pytest.raises(errors.FileAccessError, match="something else"):
        sr.save(one, run, overwrite=True)
    assert content(run) == before


def test_a_checkpoint_with_an_array_in_each_directory_is_replaced(tmp_path, bits, specimen):
    import orbax.checkpoint as ocp

    target = tmp_path / "x.orbax"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save(target, {"params": {"dense": {"kernel": bits("float32", (4, 4))}}})
    sr.save(specimen({"a/w": bits("float32", (8, 8))}, dialect="numpy"), target, overwrite=True)
    with sr.open(target) as ckpt:
        assert set(ckpt) == {"a/w"}


KILLED = """
    import sys, numpy as np, stateregistry as sr
    number = 0
    while True:
        number += 1
        sr.save({f"a/{n}": np.full((64, 64), number, np.float32) for n in range(8)}, sys.argv[1], overwrite=True)
        print(number, flush=True)
"""


@pytest.mark.parametrize("suffix", FOLDERS)
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint_and_the_next_run_no_litter(tmp_path, bits, specimen, suffix):
    target = tmp_path / f"x.{suffix}"
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    for pause in (0.013, 0.057, 0.021, 0.089, 0.005):
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(KILLED), str(target)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env, text=True,
        ) as process:  # fmt: skip
            assert process.stdout.readline()  # it has written once: the imports are done
            time.sleep(pause)
            process.send_signal(signal.SIGKILL)
            process.wait()
        with sr.open(target, verify=True) as ckpt:
            assert ckpt.damaged() == {}
            assert len({float(ckpt.read(key)[0, 0]) for key in ckpt}) == 1
    sr.save(specimen({"a/w": bits("float32", (8, 8))}, dialect="numpy"), target, overwrite=True)
    assert list(tmp_path.iterdir()) == [target]
