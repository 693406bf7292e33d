"""Placement of arrays, in processes of their own, as the number of devices is fixed when JAX starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def start(name, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-W", "error", str(HERE / name), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process):
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return out


def test_device_sharding_and_metadata_survive_every_write():
    assert "eight devices: done" in finish(start("eight_devices.py"))


def test_a_value_of_several_processes_is_written_and_never_read_in_part():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    both = [start("two_processes.py", address, str(number)) for number in range(2)]
    try:
        for process in both:
            assert "two processes: done" in finish(process)
    finally:
        for process in both:
            process.kill()
