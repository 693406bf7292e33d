"""Worker: the process in which a harness and its framework live, so that nothing they do can end or forge a run.

Reads one question per line from its standard input and writes one answer per line to its standard output, each behind a token
of this process, so that what a harness prints is noise. Both streams are taken away before a harness is imported: what it
prints goes to the log. An answer says what a check found; what counts is decided by the parent.
Imports NumPy, the core and the suite; run by `stateregistry_conformance.isolation` only.
"""

from __future__ import annotations

import faulthandler
import importlib.metadata
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, final

from stateregistry_conformance.check import Profile
from stateregistry_conformance.crumb import Crumb
from stateregistry_conformance.report import row_to_json
from stateregistry_conformance.runner import everything, locate, run_check
from stateregistry_conformance.seal import Seal
from stateregistry_conformance.smoke import members
from stateregistry_conformance.subject import Subject
from stateregistry_conformance.verdict import HarnessError, Row, Status

if TYPE_CHECKING:
    from collections.abc import Mapping


def main() -> None:
    """Serve one parent until it says that it is done, or is gone."""
    token, crumb, parent = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    questions, answers = _take_the_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # keys are pressed for the parent
    faulthandler.enable(2)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    serving = _Serving(Crumb(crumb))
    for line in questions:
        answer = serving.answer(json.loads(line))
        answers.write(f"{token} {json.dumps(answer)}\n".encode())
        answers.flush()
    os._exit(0)  # threads of a framework are not waited for


def _take_the_streams() -> tuple[IO[bytes], IO[bytes]]:
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return questions, answers


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)  # the group is ours: this process and what the harness has started


@final
class _Serving:
    def __init__(self, crumb: Crumb) -> None:
        self._crumb = crumb
        self._seal = Seal()
        self._subject: Subject | None = None

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        if question["do"] == "open":
            return self._open(str(question["name"]))
        if question["do"] == "check":
            return self._check(question)
        return {"loaded": _loaded()}

    def _open(self, name: str) -> dict[str, Any]:
        self._crumb.leave("import")
        try:
            harness = locate(name)
            members(harness)
            self._subject = Subject(harness, trace=self._crumb.leave, alone=True)
            found = {
                "name": harness.name,
                "version": harness.adapter_version,
                "capabilities": self._subject.capabilities,
            }
        except HarnessError as error:
            return {"error": str(error)}
        except BaseException as error:  # noqa: BLE001  # a member of the harness that raises, a skip among them
            return {"error": f"it raised {type(error).__name__} when it was asked who it is: {error}"}
        finally:
            self._crumb.leave("")
        capabilities = sorted(str(capability) for capability in found["capabilities"])
        return {"name": str(found["name"]), "version": str(found["version"]), "capabilities": capabilities}

    def _check(self, question: Mapping[str, Any]) -> dict[str, Any]:
        assert self._subject is not None
        given = question["profile"]
        profile = Profile(given["name"], given["examples"], given["steps"], given["seed"], tuple(given["layers"]))
        one = everything()[question["check"]]
        faulthandler.dump_traceback_later(0.9 * question["limit"], file=2)
        self._crumb.leave("")
        try:
            rows = run_check(self._subject, one, named=question["named"], profile=profile)
        finally:
            faulthandler.cancel_dump_traceback_later()
        broken = self._seal.broken()
        if broken is not None:
            said = f"the harness rewrote {broken}: nothing that was found since can be relied on"
            rows = [Row(name, one.name, Status.ERROR, said, layer=one.layer, blame="harness") for name in one.ids]
        return {"rows": [row_to_json(row) for row in rows], "broken": broken is not None}


def _loaded() -> dict[str, str]:
    """The versions of every distribution of which a module is loaded."""
    modules = {name.split(".")[0] for name in sys.modules}
    distributions = importlib.metadata.packages_distributions()
    names = {name for module in modules for name in distributions.get(module, ())}
    return {name: importlib.metadata.version(name) for name in sorted(names, key=str.lower)}
