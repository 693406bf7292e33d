"""Progress: a bar of bytes on stderr, for a person who waits: only at a terminal, only after half a second."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self, final

from stateregistry.cli.terminal import Terminal, interactive

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Seconds before the bar appears: what is done by then needs none.
PATIENCE = 0.5


@final
class Bar:
    """A context manager that is called with bytes done and bytes in all, from any thread."""

    def __init__(self, terminal: Terminal, title: str, *, wanted: bool = True) -> None:
        self._terminal = terminal
        self._title = title
        self._wanted = wanted and interactive(sys.stderr)
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self._drawn: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, done: int, total: int, /) -> None:
        """Show how far it is."""
        if not self._wanted or time.monotonic() - self._start < PATIENCE:
            return
        with self._lock:
            if self._drawn is None:
                self._drawn = self._begin(total)
            progress, task = self._drawn
            progress.update(task, completed=done, total=total)

    def _begin(self, total: int) -> tuple[Progress, TaskID]:
        from rich import progress as rich

        columns = (
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(),
            rich.DownloadColumn(),
            rich.TransferSpeedColumn(),
            rich.TimeRemainingColumn(),
        )
        shown = rich.Progress(*columns, console=self._terminal.console(sys.stderr), transient=True)
        shown.start()
        return shown, shown.add_task(self._title, total=total)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn is not None:
            self._drawn[0].stop()
