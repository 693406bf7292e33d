"""One budget of memory for all workers, and one large value shared by several: the same bytes and digests as by one."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stateregistry.conversion.execution.recipes import geometry
from stateregistry.layers import axes
from stateregistry.streaming import buffers, engine, task
from stateregistry.streaming.cutting import boxes, cut
from stateregistry.streaming.digests import of_array
from stateregistry.streaming.geometry import ASK, group, reading, runs, starts
from stateregistry.streaming.task import Held, Stored, Task

WORKERS = [1, 2, 3, 4, 8]
#: Shapes and the order of their axes in the target.
TURNS = {
    "square": ((700, 700), (1, 0)),
    "tall": ((60_000, 9), (1, 0)),
    "wide": ((9, 60_000), (1, 0)),
    "a convolution": ((70, 60, 3, 5), (2, 3, 1, 0)),
    "experts": ((6, 300, 200), (0, 2, 1)),
    "three turned round": ((50, 70, 110), (2, 0, 1)),
    "five axes": ((11, 13, 7, 9, 17), (3, 1, 4, 2, 0)),
    "as it is": ((490_000,), (0,)),
}


def turned(shape, order):
    """The group of a rearrangement of axes."""
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    made = [shape[axis] for axis in order]
    outs = [math.prod(made[axis + 1 :]) for axis in range(len(made))]
    return group(made, (0, outs), [(0, 0, [steps[axis] for axis in order])])


def stored(path, array):
    """An array in a file, at an odd offset."""
    path.write_bytes(b"12345" + array.tobytes())
    status = path.stat()
    return Stored(str(path), status.st_size, status.st_mtime_ns, ((5, array.nbytes),), array.dtype.name, "x")


def small_rooms(monkeypatch, budget=1 << 20):
    """The budget and what follows from it, a 64th of what it is."""
    monkeypatch.setattr(buffers, "BUDGET", budget)
    monkeypatch.setattr(buffers, "LARGEST", budget // 2)
    monkeypatch.setattr(buffers, "SMALLEST", budget // 64)
    monkeypatch.setattr(engine, "_PART", budget // 2)
    monkeypatch.setattr(buffers, "memory", buffers.Memory())


def work(tmp_path, *, files=True):
    """Tasks of every kind into one file, what they should make of it, and the digests."""
    rng = np.random.default_rng(5)
    parts = []
    for name, (shape, order) in TURNS.items():
        array = rng.standard_normal(shape).astype(np.float32)
        parts.append((name, [array], (turned(shape, order),), np.ascontiguousarray(array.transpose(order)), ""))
    two = [rng.standard_normal((500, 400)).astype(np.float32) for _ in range(2)]
    for name, pattern, feeds in (
        ("a sum", "in out", [axes.Feed("out in", (500, 400))] * 2),
        ("fused", "(a|b: in) out", [axes.Feed("out in", (500, 400), "", part) for part in "ab"]),
        ("interleaved", "in (a|b: out)", [axes.Feed("out in", (500, 400), "", part) for part in "ab"]),
        ("in turns", "in (out) (a|b:)", [axes.Feed("out in", (500, 400), "", part) for part in "ab"]),
    ):
        shape = {"a sum": (400, 500), "fused": (800, 500), "interleaved": (400, 1000), "in turns": (400, 500, 2)}[name]
        assembly = axes.assemble(feeds, pattern, shape)
        parts.append((name, two, geometry(assembly), np.ascontiguousarray(assembly.apply(two)), ""))
    narrow = two[0].T.astype(np.float16)
    parts.append(("a cast", two[:1], (turned((500, 400), (1, 0)),), np.ascontiguousarray(narrow), "same_kind"))
    tasks, expected, offset = [], {}, 3
    out = tmp_path / "out.bin"
    for name, arrays, groups, made, cast in parts:
        origins = tuple(
            stored(tmp_path / f"{name}-{n}.bin", array) if files else Held(array) for n, array in enumerate(arrays)
        )
        places = (((offset, made.nbytes),),)
        tasks.append(Task(name, made.dtype.name, made.shape, str(out), places, origins, groups, cast))
        expected[name] = (offset, made)
        offset += made.nbytes + 7
    out.write_bytes(b"\xee" * offset)
    return tasks, expected, out


def done(tasks, workers, executor=None):
    """The digests by key that the engine gives, and what the meter has counted."""
    total = sum(one.nbytes for one in tasks)
    told = []
    meter = engine.Meter(total, lambda count, _: told.append(count))
    found, _ = engine.run(tasks, workers=workers, executor=executor, meter=meter, note=lambda _: ())
    assert told[-1] == total
    return found


def check(expected, out, found):
    raw, end = out.read_bytes(), 0
    for name, (offset, made) in expected.items():
        assert raw[end:offset] == b"\xee" * (offset - end), f"something was written before {name}"
        end = offset + made.nbytes
        assert raw[offset:end] == made.tobytes(), name
        assert found[name] == of_array(made), name
    assert raw[end:] == b"\xee" * (len(raw) - end)


# -------------------------------------------------------------------- one budget


@pytest.mark.parametrize("files", [True, False], ids=["from files", "from memory"])
@pytest.mark.parametrize("workers", WORKERS)
def test_all_workers_together_keep_within_one_budget(tmp_path, monkeypatch, workers, files):
    small_rooms(monkeypatch)
    tasks, expected, out = work(tmp_path, files=files)
    check(expected, out, done(tasks, workers))
    assert 0 < buffers.memory.most <= buffers.BUDGET
    assert buffers.memory.lent == 0


@pytest.mark.parametrize("workers", [1, 4])
def test_what_is_not_in_the_budget_does_not_grow_with_a_value(tmp_path, monkeypatch, workers):
    """Arrays that NumPy makes beside the rooms: offsets of stretches, tiles, a step of a digest."""
    small_rooms(monkeypatch)
    shape = (1200, 3000)
    array = np.random.default_rng(6).integers(0, 2**32, shape, dtype=np.uint32)
    origin, made = stored(tmp_path / "in.bin", array), np.ascontiguousarray(array.T)
    out = tmp_path / "out.bin"
    out.write_bytes(bytes(made.nbytes))
    one = Task("k", "uint32", made.shape, str(out), (((0, made.nbytes),),), (origin,), (turned(shape, (1, 0)),))
    tracemalloc.start()
    try:
        found = done([one], workers)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert out.read_bytes() == made.tobytes()
    assert found == {"k": of_array(made)}
    assert peak < 4_000_000 < made.nbytes / 3


@pytest.mark.parametrize("workers", range(1, 65))
def test_the_rooms_of_all_workers_are_the_budget(workers):
    assert workers * buffers.room_for(workers) <= buffers.BUDGET <= 70_000_000


def test_values_in_memory_are_not_taken_while_many_are_under_way(tmp_path, monkeypatch):
    """A value that has to be computed is in memory whole: no more of them than there are hands, and one to come."""
    small_rooms(monkeypatch)
    workers, count = 2, 12
    out = tmp_path / "out.bin"
    array = np.random.default_rng(7).standard_normal(9 << 17).astype(np.float64)
    out.write_bytes(bytes(count * array.nbytes))
    taken, landed, most = 0, 0, 0

    def tasks():
        nonlocal taken, most
        for number in range(count):
            taken += 1
            most = max(most, taken - landed)
            place = (((number * array.nbytes, array.nbytes),),)
            yield Task(
                f"k{number}", "float64", array.shape, str(out), place, (Held(array),), (turned(array.shape, (0,)),)
            )

    def note(found):
        nonlocal landed
        landed += len(found)
        return ()

    engine.run(tasks(), workers=workers, executor=None, meter=engine.Meter(1, None), note=note)
    assert landed == count
    assert most <= workers
    assert out.read_bytes() == array.tobytes() * count


# -------------------------------------------------------------------- one value for several


def shared(tasks, room):
    """The names of tasks that are shared in parts."""
    return {one.key for one in tasks if task.parts(one, engine._PART, room) > 1}


@pytest.mark.parametrize("workers", WORKERS)
def test_a_value_in_parts_has_the_bytes_and_the_digest_of_one_in_one(tmp_path, monkeypatch, workers):
    small_rooms(monkeypatch, 1 << 16)
    tasks, expected, out = work(tmp_path)
    names = shared(tasks, buffers.room_for(workers))
    assert {"square", "tall", "a convolution"} <= names
    assert not names & {"as it is", "wide"}
    check(expected, out, done(tasks, workers))
    assert buffers.memory.most <= buffers.BUDGET


@pytest.mark.parametrize("shape", [(150, 170), (170, 150), (11, 2600), (2600, 11), (13, 140, 15), (3, 5, 7, 11, 13)])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_room_may_hold_neither_a_row_nor_a_column(tmp_path, monkeypatch, shape, workers):
    small_rooms(monkeypatch, 1024)
    array = np.random.default_rng(8).standard_normal(shape)
    made = np.ascontiguousarray(array.T)
    assert buffers.room_for(workers) == 512 < 8 * array.size // min(shape)
    out = tmp_path / "out.bin"
    out.write_bytes(bytes(made.nbytes))
    places = (((0, made.nbytes),),)
    one = turned(shape, tuple(reversed(range(len(shape)))))
    found = done(
        [Task("k", "float64", made.shape, str(out), places, (stored(tmp_path / "in.bin", array),), (one,))], workers
    )
    assert out.read_bytes() == made.tobytes()
    assert found == {"k": of_array(made)}
    assert buffers.memory.most <= buffers.BUDGET


@pytest.mark.parametrize("pool", ["threads", "processes"])
def test_an_executor_takes_the_parts_of_a_value(tmp_path, monkeypatch, pool):
    monkeypatch.setattr(engine, "_PART", 1 << 19)
    monkeypatch.setattr(engine, "_BATCH_BYTES", 1 << 19)
    monkeypatch.setattr(buffers, "LARGEST", 1 << 16)
    tasks, expected, out = work(tmp_path)
    assert shared(tasks, buffers.LARGEST)
    made = ThreadPoolExecutor(3) if pool == "threads" else ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    with made as executor:
        check(expected, out, done(tasks, 2, executor))


def test_a_failing_part_stops_the_others_and_is_the_error(tmp_path, monkeypatch):
    from stateregistry import errors

    small_rooms(monkeypatch, 1 << 16)
    tasks, _, _ = work(tmp_path)
    (tall,) = (one for one in tasks if one.key == "tall")
    path = tall.origins[0].path
    with open(path, "r+b") as file:  # noqa: PTH123
        file.truncate(1_000_000)
    with pytest.raises(errors.FileFormatError, match=r"tall-0\.bin"):
        done([tall], 2)
    assert buffers.memory.lent == 0


def test_what_an_earlier_run_has_proven_is_not_cut_into_parts(tmp_path, monkeypatch):
    from dataclasses import replace

    small_rooms(monkeypatch, 1 << 16)
    tasks, expected, out = work(tmp_path)
    found = done(tasks, 2)
    proven = [replace(one, proven=found[one.key]) for one in tasks]
    assert not shared(proven, buffers.room_for(2))
    for one in proven:
        path = one.origins[0].path
        with open(path, "r+b") as file:  # noqa: PTH123  # not looked at
            file.truncate(0)
    check(expected, out, done(proven, 2))


# -------------------------------------------------------------------- how a value is cut


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_boxes_are_all_of_a_group_and_overlap_nowhere(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5)))
    order = data.draw(st.permutations(range(len(shape))))
    one = turned(shape, order)
    limit = data.draw(st.sampled_from([1, 2, 7, 30, 10**6]))
    cuts = boxes(one, limit, data.draw(st.sampled_from([1, 1 << 13, ASK])))
    seen = np.zeros(one.count, int)
    for index in range(len(cuts)):
        box = cuts[index]
        assert box.count <= limit
        number, length = runs(box)
        begins = list(starts(box))
        assert len(begins) == number
        for begin in begins:
            seen[begin : begin + length] += 1
    assert (seen == 1).all()
    with pytest.raises(IndexError):
        cuts[len(cuts)]


@pytest.mark.parametrize(("shape", "order"), [((256_000, 4096), (1, 0)), ((32_768, 32_768), (1, 0))])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_large_matrix_is_read_and_written_in_long_stretches(shape, order, workers):
    one, room = turned(shape, order), buffers.room_for(workers) * 3 // 4
    how = cut((one,), one.count, 4, room)
    assert not how.ordered
    box = boxes(one, how.limit)[0]
    assert box.count * 4 <= room
    assert box.count * 4 > room // 2
    plan = reading(box, 0, 4, room)
    assert plan.span * plan.reads == box.count
    assert min(plan.span, runs(box)[1]) * 4 >= 4096


def test_a_box_of_a_remote_source_is_asked_for_in_few_requests():
    one = turned((256_000, 4096), (1, 0))
    near, far = (boxes(one, 6 << 20, call)[0] for call in (1 << 13, ASK))
    calls = [reading(box, 0, 4, 1 << 25, ASK).reads for box in (near, far)]
    assert calls[1] == 1 < calls[0]


@pytest.mark.parametrize(("n", "step"), list(itertools.product([40, 41], [2, 3])))
def test_what_is_read_with_holes_keeps_within_its_room(n, step):
    """Every second or third element of a row: read whole where it fits, else in smaller pieces, never one by one."""
    one = group((1000, n), (0, (n, 1)), [(0, 0, (n * step, step))])
    for room in (1 << 20, 1 << 14, 1 << 12):
        how = cut((one,), one.count, 4, room)
        first = one.part(0, 0, max(1, how.limit // n))
        plan = reading(first, 0, 4, room)
        assert plan.span * plan.reads * 4 <= room
        assert plan.reads < first.count
