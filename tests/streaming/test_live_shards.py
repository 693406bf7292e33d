"""Live arrays that are sharded over devices or processes: files of them are those of whole ones, and fill them again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import stateregistry as sr

HERE = Path(__file__).parent


def start(name, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, str(HERE / name), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process):
    try:
        out, err = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return out


def test_arrays_on_eight_devices_are_written_as_whole_ones_and_no_device_holds_more_than_its_shard(tmp_path):
    assert "eight devices: done" in finish(start("eight_devices.py", tmp_path))


def test_tensors_of_two_processes_are_written_as_whole_ones_and_filled_in_place(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [start("two_ranks.py", tmp_path, port, rank) for rank in range(2)]
    try:
        for process in both:
            assert "two ranks: done" in finish(process)
    finally:
        for process in both:
            process.kill()


def together(folder, count, task, allowed=()):
    """Run a task in several processes; what each told. Those of `allowed` may have been killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    all_of_them = [start("many_ranks.py", folder, port, rank, count, task) for rank in range(count)]
    told = []
    try:
        for rank, process in enumerate(all_of_them):
            if rank in allowed:
                process.wait(timeout=90)
                assert process.returncode == -signal.SIGKILL
                continue
            told.append(json.loads(finish(process).splitlines()[-1]))
    finally:
        for process in all_of_them:
            process.kill()
            process.communicate()
    return told


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process writes of the same model."""
    folder = tmp_path_factory.mktemp("alone")
    together(folder, 1, "alone")
    return folder


@pytest.mark.parametrize("count", [2, 3, 4])
def test_processes_write_one_output_together_and_each_reads_its_shards_alone(tmp_path, alone, count):
    folder = tmp_path / "together"
    folder.mkdir()
    told = together(folder, count, "write")
    whole, made = files_of(alone), files_of(folder)
    for name in [name for name in whole if not name.startswith("one.dcp")]:
        assert made.pop(name) == whole[name], name
    assert all(name.startswith("one.dcp/") for name in made)  # nothing else is left
    assert sum(name.endswith(".distcp") for name in made) >= count
    with sr.open(folder / "one.dcp", verify=True) as one, sr.open(alone / "one.dcp", verify=True) as other:
        assert dict(one) == dict(other)
        assert one.aliases == other.aliases
        assert one.document.digests == other.document.digests
        assert one.damaged() == {}
        assert all(one.read(key).tobytes() == other.read(key).tobytes() for key in one)
    values = len(whole["one.safetensors"])
    for name in ("one.safetensors", "cut.safetensors", "one.msgpack", "one.dcp"):
        # Beyond opening: the shards of a process and what it has in full, never what others hold. In DCP each shard is an
        # archive, of which some kilobytes are looked at.
        beside = 150_000 if name == "one.dcp" else 20_000
        assert all(row[name]["read"] < row["own"] + beside for row in told), (name, [row[name] for row in told])
    for name in ("one.safetensors", "cut.safetensors"):
        assert sum(row[name]["written"] for row in told) < values + 20_000  # every byte once, and the headers
    assert max(row["own"] for row in told) < 0.6 * values
    if count == 4:
        assert max(row["own"] for row in told) < 0.35 * values


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_torch_reads_what_the_processes_wrote(tmp_path):
    import torch
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    together(tmp_path, 2, "write")
    with sr.open(tmp_path / "one.safetensors") as ckpt:
        wanted = {key.replace("/", "."): ckpt.read(key) for key in ckpt}
    state = {name: torch.zeros(value.shape) for name, value in wanted.items() if value.dtype == "float32"}
    load(state, storage_reader=FileSystemReader(tmp_path / "one.dcp"), no_dist=True)
    assert len(state) > 5
    assert all(value.numpy().tobytes() == wanted[name].tobytes() for name, value in state.items())


@pytest.mark.parametrize("task", ["disagree", "fail"])
def test_what_fails_in_one_process_fails_in_all_and_leaves_the_old_output(tmp_path, task):
    together(tmp_path, 2, "write")
    before = files_of(tmp_path)
    together(tmp_path, 2, task)
    assert files_of(tmp_path) == before


def test_a_process_that_dies_leaves_the_old_output(tmp_path):
    together(tmp_path, 2, "write")
    before = files_of(tmp_path)
    together(tmp_path, 2, "die", allowed=(1,))
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("count", [2, 4])
def test_what_cannot_be_written_together_is_said_before(tmp_path, count):
    (tmp_path / "one.safetensors").write_bytes(b"old")
    together(tmp_path, count, "refused")
    own = {f"own{rank}.safetensors" for rank in range(count)}
    assert set(files_of(tmp_path)) == {"one.safetensors", *own}
    assert len({(tmp_path / name).read_bytes() for name in own}) == 1
