"""Many machines: a cluster writes the same bytes as one process, whoever dies meanwhile; and the forecast keeps its word."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stateregistry as sr
from stateregistry.conversion.execution import forecast
from stateregistry.conversion.execution.forecast import Machines, Work, cut, simulated, work_of
from stateregistry.streaming.engine import batch_bytes

PROGRAM = Path(__file__).with_name("on_a_cluster.py")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Linear layers of 100 MB in torch's layout, in shards."""
    rng = np.random.default_rng(3)
    state = {}
    for number in range(12):
        state[f"layers.{number}.weight"] = rng.standard_normal((1536, 1024), dtype=np.float32)
        state[f"layers.{number}.bias"] = rng.standard_normal(1536, dtype=np.float32)
    folder = tmp_path_factory.mktemp("cluster")
    from safetensors.numpy import save_file

    weights = {}
    for shard in range(2):
        name = f"model-{shard + 1:05d}-of-00002.safetensors"
        part = {key: value for n, (key, value) in enumerate(state.items()) if n * 2 // len(state) == shard}
        save_file(part, folder / name, metadata={"format": "pt"})
        weights |= dict.fromkeys(part, name)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    return path


@pytest.mark.parametrize("kill", [False, True], ids=["whole", "one-killed"])
@pytest.mark.parametrize("shard_bytes", [0, 30_000_000], ids=["single", "shards"])
def test_a_cluster_of_processes_writes_the_bytes_of_one(checkpoint, tmp_path, shard_bytes, kill):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    sr.convert(
        checkpoint, to="flax-linen", allow=("assumption", "choice"), out=here / "model.safetensors",
        shard_bytes=shard_bytes or None, workers=1,
    )  # fmt: skip
    command = [sys.executable, PROGRAM, checkpoint, there, str(shard_bytes), "yes" if kill else "no"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told["before"]) == len(told["after"]) == 2
    assert set(told["killed"]) == set(told["before"]) - set(told["after"])
    assert bool(told["killed"]) is kill
    assert sorted(path.name for path in there.iterdir()) == sorted(path.name for path in here.iterdir())
    for path in here.iterdir():
        assert (there / path.name).read_bytes() == path.read_bytes()


# -------------------------------------------------------------------- the forecast


def _checkpoint_of(terabytes, seed):
    rng = random.Random(seed)
    sizes, total = [], 0
    while total < terabytes * 1e12:
        sizes.append(rng.choice([16_384, 90_177_536, 134_217_728, 180_355_072, rng.randrange(1, 1 << 30)]))
        total += sizes[-1]
    return sizes


@pytest.mark.parametrize("terabytes", [0.01, 1, 10])
@pytest.mark.parametrize("count", [1, 10, 100, 1000])
@pytest.mark.parametrize("storage", [1e9, 1e11, 1e13])
@pytest.mark.parametrize("dispatch", [1e-4, 1e-2])
def test_the_simulation_lies_between_the_bounds(terabytes, count, storage, dispatch):
    sizes = _checkpoint_of(terabytes, count)
    machines = Machines(count, 1, storage=storage, dispatch=dispatch)
    total = sum(sizes)
    work = Work(
        cut(sizes, batch_bytes(total, machines.hands)), cut(sizes, 5 * 10**9), cut([total], 5 * 10**9, split=True)
    )
    assert sum(work.batches) == sum(work.written) == sum(work.read) == total
    found = forecast.forecast(work, machines)
    seconds = simulated(work, machines)
    assert found.least * (1 - 1e-9) <= seconds <= found.most * (1 + 1e-9)
    if terabytes == 10 and count <= 100:
        assert seconds <= 1.1 * found.least  # many batches for each worker: the lower bound is the answer


def test_a_simulation_that_can_be_done_by_hand():
    machines = Machines(2, 1, speed=10.0, hashing=10.0, storage=1e9, dispatch=0.0)
    work = Work((100, 100, 100), (), ())
    assert simulated(work, machines) == pytest.approx(20)
    assert simulated(work, Machines(3, 1, speed=10.0, storage=30.0, dispatch=0.0)) == pytest.approx(
        20
    )  # 5 a second each
    assert simulated(work, Machines(3, 1, speed=10.0, storage=1e9, dispatch=4.0)) == pytest.approx(22)
    found = forecast.forecast(work, machines)
    assert (found.least, found.bound_by) == (pytest.approx(15), "workers")
    assert simulated(Work((), (), ()), machines) == 0


def test_the_forecast_of_a_plan_counts_its_bytes(checkpoint, capsys):
    plan = sr.plan(checkpoint, to="flax-linen", allow=("assumption", "choice"))
    total = 12 * 4 * (1536 * 1024 + 1536)
    work = work_of(plan, Machines(), shard_bytes=30_000_000)
    assert sum(work.batches) == sum(work.written) == sum(work.read) == total
    assert work.moved == 4 * total
    arguments = [
        str(checkpoint),
        "--to",
        "flax-linen",
        "--allow",
        "assumption",
        "--allow",
        "choice",
        "--machines",
        "1",
        "1000",
    ]
    assert forecast.main(arguments) == 0
    head, one, many = capsys.readouterr().out.splitlines()
    assert head == forecast.HEAD
    assert one.split()[:2] == ["1", "2"]
    assert many.split()[:2] == ["1,000", "2,000"]
    assert "302.3 MB" in one


def test_batches_for_other_machines_are_neither_few_nor_countless():
    assert batch_bytes(10 * 10**12, 1000) == 10 * 10**12 // 32_000
    assert batch_bytes(10**6, 1000) == 1 << 23
    assert batch_bytes(10**15, 10) == 1 << 30
