"""Outputs at URLs in several files: made one by one, wherever, and continued after a stop with what the server has."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest

import stateregistry as sr
from stateregistry import errors
from stateregistry.stores import sent

ON_A_CLUSTER = Path(__file__).parents[1] / "streaming" / "on_a_cluster.py"
SHARD = 60_000
quiet = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


@pytest.fixture
def source(tmp_path, bits):
    """A checkpoint of linear layers, two of which fill a file of SHARD bytes."""
    from safetensors.numpy import save_file

    def make(seed=0, name="x"):
        state = {f"l.{n}.weight": bits("float32", (64, 96), seed + n) for n in range(12)}
        state |= {f"l.{n}.bias": bits("float32", (64,), seed + n) for n in range(12)}
        path = tmp_path / f"{name}.safetensors"
        save_file(state, path, metadata={"format": "pt"})
        return path

    return make


def convert(path, out, name="m.safetensors", **more):
    asked = {"to": "flax-linen", "allow": ("assumption", "choice"), "shard_bytes": SHARD, **more}
    return sr.convert(path, out=f"{out}/{name}", **asked)


def local(path, folder, **more):
    folder.mkdir()
    done = convert(path, folder, **more)
    return {one.name: one.read_bytes() for one in folder.iterdir()}, done


def objects(url):
    system, path = fsspec.url_to_fs(url)
    system.invalidate_cache()
    return {name.rpartition("/")[2]: system.cat_file(name) for name in system.find(path)}


class Counted:
    """Counts what is sent by name, and lets the sending of some fail."""

    def __init__(self, monkeypatch, fails=lambda name: False):
        self.names = []
        real = sent.put_file

        def put(path, target):
            if fails(target.name):
                raise errors.FileAccessError(f"{target}: the line is cut")
            self.names.append(target.name)
            return real(path, target)

        monkeypatch.setattr(sent, "put_file", put)


def fails_after(count):
    seen = []
    return lambda name: seen.append(name) or len(seen) > count


def test_what_arrives_is_byte_for_byte_what_a_local_run_writes(bucket, source, tmp_path):
    path, told = source(), []
    whole, here = local(path, tmp_path / "here")
    done = convert(path, bucket, progress=lambda now, total: told.append((now, total)))
    assert objects(bucket) == whole
    assert len(whole) > 2
    assert done.receipt.to_dict() == here.receipt.to_dict()
    assert told[-1][0] == told[-1][1] == 12 * 4 * (64 * 96 + 64)
    with ThreadPoolExecutor(2) as executor:
        convert(path, f"{bucket}/more", executor=executor, workers=2)
    assert objects(f"{bucket}/more") == whole


def test_a_stopped_run_is_continued_without_sending_again_what_is_there(bucket, source, tmp_path, monkeypatch):
    path = source()
    whole, _ = local(path, tmp_path / "here")
    with monkeypatch.context() as patch:
        first = Counted(patch, fails_after(2))
        with pytest.raises(errors.FileAccessError, match="the line is cut") as caught:
            convert(path, bucket, resume=True)
    assert "resume=True" in str(caught.value.__notes__)
    assert len(first.names) == 2
    assert not [name for name in objects(bucket) if name.endswith(".index.json")]
    second = Counted(monkeypatch)
    convert(path, bucket, resume=True)
    assert set(second.names) == {name for name in whole if name.endswith(".safetensors")} - set(first.names)
    assert objects(bucket) == whole


@pytest.mark.parametrize("how", ["changed", "gone", "cut"])
def test_what_has_changed_since_is_sent_again(bucket, source, tmp_path, monkeypatch, how):
    path = source()
    whole, _ = local(path, tmp_path / "here")
    with monkeypatch.context() as patch:
        first = Counted(patch, fails_after(2))
        with pytest.raises(errors.FileAccessError):
            convert(path, bucket, resume=True)
    system = fsspec.filesystem("memory")
    there = f"{bucket}/{first.names[0]}"
    raw = bytearray(system.cat_file(there))
    raw[-1] ^= 1
    system.rm_file(there) if how == "gone" else system.pipe_file(there, bytes(raw[: -1 if how == "cut" else None]))
    second = Counted(monkeypatch)
    convert(path, bucket, resume=True)
    assert first.names[0] in second.names
    assert first.names[1] not in second.names
    assert objects(bucket) == whole


def test_a_server_without_versions_is_held_to_the_digest(bucket, source, tmp_path, monkeypatch):
    path = source()
    whole, _ = local(path, tmp_path / "here")
    monkeypatch.setattr("stateregistry.stores.url.stamp_of", lambda info: 0)
    with monkeypatch.context() as patch:
        first = Counted(patch, fails_after(2))
        with pytest.raises(errors.FileAccessError):
            convert(path, bucket, resume=True)
    system = fsspec.filesystem("memory")
    raw = bytearray(system.cat_file(f"{bucket}/{first.names[1]}"))
    raw[-1] ^= 1
    system.pipe_file(f"{bucket}/{first.names[1]}", bytes(raw))
    second = Counted(monkeypatch)
    convert(path, bucket, resume=True)
    assert first.names[0] not in second.names
    assert first.names[1] in second.names
    assert objects(bucket) == whole


def test_of_another_source_nothing_is_taken_and_nothing_is_left(bucket, source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Counted(patch, fails_after(3))
        with pytest.raises(errors.FileAccessError):
            convert(source(), bucket, resume=True)
    other = source(seed=50, name="y")
    whole, _ = local(other, tmp_path / "here", shard_bytes=2 * SHARD)
    convert(other, bucket, resume=True, shard_bytes=2 * SHARD)
    assert objects(bucket) == whole


@pytest.mark.parametrize("count", [0, 1, 3])
def test_without_resume_a_failure_leaves_the_old_output_and_nothing_else(bucket, source, monkeypatch, count):
    convert(source(), bucket)
    before = objects(bucket)
    with monkeypatch.context() as patch:
        Counted(patch, fails_after(count))
        with pytest.raises(errors.FileAccessError):
            convert(source(seed=9, name="y"), bucket, overwrite=True)
    assert objects(bucket) == before
    with pytest.raises(errors.TargetExistsError):
        convert(source(seed=9, name="y"), bucket)


@pytest.mark.parametrize("arrives", [True, False])
def test_an_index_that_may_have_arrived_keeps_its_files(bucket, source, tmp_path, monkeypatch, arrives):
    path = source(seed=9, name="y")
    whole, _ = local(path, tmp_path / "here")
    convert(source(), bucket)
    before = objects(bucket)
    real = sent.put_bytes

    def put(data, target):
        if arrives or not target.name.endswith(".index.json"):
            real(data, target)
        if target.name.endswith(".index.json"):
            raise errors.FileAccessError(f"{target}: no answer")

    with monkeypatch.context() as patch:
        patch.setattr(sent, "put_bytes", put)
        with pytest.raises(errors.FileAccessError, match="no answer"):
            convert(path, bucket, overwrite=True)
    if not arrives:
        assert objects(bucket) == before
        return
    with sr.open(f"{bucket}/m.safetensors.index.json", verify=True) as ckpt:
        assert ckpt.damaged() == {}
    second = Counted(monkeypatch)
    convert(path, bucket, resume=True)
    assert second.names == []
    found = objects(bucket)
    assert len(found) == len(whole)  # under names that the old output did not have
    with sr.open(f"{bucket}/m.safetensors.index.json", verify=True) as ckpt:
        assert ckpt.damaged() == {}


def test_a_run_that_another_one_has_overtaken_gives_up(bucket, source, monkeypatch):
    path, real = source(), sent.put_file
    begun = []

    def put(made, target):
        if not begun:
            begun.append(target)
            with monkeypatch.context() as patch:
                patch.setattr(sent, "put_file", fails_after_first(real))
                with pytest.raises(errors.FileAccessError):
                    convert(path, bucket, resume=True)
        return real(made, target)

    monkeypatch.setattr(sent, "put_file", put)
    with pytest.raises(errors.FileAccessError, match="another run writes"):
        convert(path, bucket, resume=True)
    assert not [name for name in objects(bucket) if name.endswith(".index.json")]


def fails_after_first(real):
    seen = []

    def put(path, target):
        if seen:
            raise errors.FileAccessError("stop")
        seen.append(target)
        return real(path, target)

    return put


def test_one_file_is_not_resumed_and_says_why(bucket, source):
    for name, more in (("m.safetensors", {}), ("m.msgpack", {})):
        with pytest.raises(errors.UnsupportedError, match="nothing to resume"):
            sr.convert(
                source(), out=f"{bucket}/{name}", to="flax-linen", allow=("assumption", "choice"), resume=True, **more
            )
    assert objects(bucket) == {}


def test_a_failing_worker_is_one_error_and_nothing_is_left(bucket, source, tmp_path):
    path = source()
    plan = sr.plan(path, to="flax-linen", allow=("assumption", "choice"))
    with sr.open(path) as ckpt, ThreadPoolExecutor(2) as executor:
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(errors.FileFormatError):
            plan.execute(
                ckpt, out=f"{bucket}/m.safetensors", shard_bytes=SHARD, executor=executor, workers=2
            )  # fmt: skip
    assert objects(bucket) == {}


# ------------------------------------------------------------------------------------------------------ a real S3 API

KILLED = """
import os, signal, sys
import stateregistry as sr
from stateregistry.stores import sent
real, seen = sent.put_file, []
def put(path, target):
    real(path, target)
    seen.append(target)
    if len(seen) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
sent.put_file = put
sr.convert(sys.argv[1], out=sys.argv[2], to="flax-linen", allow=("assumption", "choice"), shard_bytes=int(sys.argv[3]))
"""


@quiet
def test_a_killed_run_to_s3_is_continued(s3, source, tmp_path, monkeypatch):
    path, out = source(), f"{s3}/killed"
    whole, _ = local(path, tmp_path / "here")
    command = [sys.executable, "-c", KILLED, path, f"{out}/m.safetensors", str(SHARD)]
    assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL
    left = objects(out)
    assert not [name for name in left if name.endswith(".index.json")]
    noted = [name for name in left if name.endswith(".done")]
    second = Counted(monkeypatch)
    convert(path, out, resume=True)
    files = {name for name in whole if name.endswith(".safetensors")}
    assert len(noted) >= 1
    assert len(second.names) == len(files) - len(noted)
    assert objects(out) == whole


@quiet
@pytest.mark.parametrize("kill", [False, True], ids=["whole", "one-killed"])
def test_workers_of_a_cluster_send_the_files_of_one_output_to_s3(s3, tmp_path, kill):
    rng = np.random.default_rng(3)
    state = {f"l.{n}.weight": rng.standard_normal((768, 512), dtype=np.float32) for n in range(24)}
    state |= {f"l.{n}.bias": rng.standard_normal(768, dtype=np.float32) for n in range(24)}
    there = f"{s3}/cluster-{kill}"
    path = sr.save(state, f"{there}/source.safetensors")
    whole, _ = local(path, tmp_path / "here", name="model.safetensors", shard_bytes=3_000_000, workers=1)
    command = [sys.executable, ON_A_CLUSTER, str(path), f"{there}/out", "3000000", "yes" if kill else "no"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert bool(told["killed"]) is kill
    assert os.getpid() not in told["before"]
    assert objects(f"{there}/out") == whole
    assert len(whole) > 10
