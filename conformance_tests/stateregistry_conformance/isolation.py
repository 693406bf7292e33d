"""Isolation: runs the worker process, asks it one thing at a time, and ends it when it does not answer in time.

Whatever a harness does to its process (hang, crash, exit, print a report of its own) comes out as `Ended`, with what it was
doing; the next question starts a new process. No process is left behind. Imports the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final, Self, final

from stateregistry_conformance import crumb

#: What the process begins with: the path of its parent, so that both import the same.
_BOOT: Final = """
import sys, json
sys.path[:] = json.loads(sys.argv.pop(1))
from stateregistry_conformance.worker import main
main()
"""


@final
class Ended(Exception):  # noqa: N818  # it is an answer
    """The worker ended or was ended.

    Attributes:
        where: what it was calling: a member of the harness, `import`, or empty for the adapter itself.
    """

    def __init__(self, how: str, where: str) -> None:
        self.where = where
        known = {"": "the adapter", "import": "importing the harness", "start": "the process of the suite"}
        subject = known.get(where, f"{where} of the harness")
        super().__init__(f"{subject} {how}")


@final
class Worker:
    """One process at a time; `ask` starts it when it is needed."""

    def __init__(self) -> None:
        self._room = tempfile.TemporaryDirectory(prefix="stateregistry-conform-", ignore_cleanup_errors=True)
        self._folder = Path(self._room.name)
        self._crumb = self._folder / "crumb"
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.log = self._folder / "log"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._room.cleanup()

    @property
    def running(self) -> bool:
        """Whether there is a process that was not ended."""
        return self._process is not None

    def ask(self, question: Mapping[str, Any], limit: float) -> dict[str, Any]:
        """The answer to a question.

        Raises:
            Ended: none came within `limit` seconds, or the process ended. A new one is started by the next question.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended: the answer that does not come says so
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
        try:
            answer = self._answers.get(timeout=limit)
        except queue.Empty:
            self.end()
            raise Ended(f"did not return within {limit:g} s", crumb.found(self._crumb)) from None
        if answer is None:
            code = process.wait()
            self.end()
            raise Ended(f"ended the process ({_told(code)})", crumb.found(self._crumb))
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        crumb.prepare(self._crumb)
        token = secrets.token_hex(16)
        path = [entry or str(Path.cwd()) for entry in sys.path]
        command = [sys.executable, "-P", "-c", _BOOT, json.dumps(path), token, str(self._crumb), str(os.getpid())]
        env = {
            **os.environ,
            "PYTHONHASHSEED": "0",
            "PYTHONIOENCODING": "utf-8:backslashreplace",
            "HYPOTHESIS_STORAGE_DIRECTORY": str(self._folder / "hypothesis"),
        }
        with self.log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=env, start_new_session=True
            )
        assert process.stdout is not None
        self._process, self._answers = process, queue.SimpleQueue()
        reader = threading.Thread(target=_read, args=(process.stdout, token, self._answers), daemon=True)
        reader.start()
        return process

    def end(self) -> None:
        """End the process, and every process that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()


def _read(stream: IO[bytes], token: str, answers: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    mark = f"{token} ".encode()
    with stream:
        for line in stream:
            if line.startswith(mark):
                answers.put(json.loads(line[len(mark) :]))
    answers.put(None)


def _told(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
