"""Live arrays that are sharded over devices or processes: files of them are those of whole ones, and fill them again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def start(name, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, str(HERE / name), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process):
    try:
        out, err = process.communicate(timeout=240)
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
