"""Writing a lazy registry to a file from a command: refusals first, a bar while it is written, and what was written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stateregistry import errors
from stateregistry.report.blocks import Notes, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stateregistry.cli.terminal import Terminal
    from stateregistry.registry import StateRegistry
    from stateregistry.report.blocks import Block


def check(sources: Sequence[str], out: Path, *, overwrite: bool) -> None:
    """Refuse before any work what cannot be written.

    Raises:
        TargetExistsError, FileMissingError, UnsupportedError: the target exists, has no directory, or is a source.
    """
    from stateregistry.cli.sources import path_of

    read = {f"source {number}": path_of(source) for number, source in enumerate(sources, 1)}
    refuse_one_file({name: path for name, path in read.items() if path is not None}, out)
    refuse_targets([out], overwrite=overwrite, checkpoint=out)


def refuse_one_file(named: dict[str, Path], out: Path, plan_file: Path | None = None, *, name: str = "OUT") -> None:
    """Refuse to write over what is read or written besides: another argument, or the sidecar of one."""
    from stateregistry.stores.sidecar import sidecar_path

    for path in (out, plan_file):
        if path is not None and not path.name:
            raise errors.FileAccessError(f"{path} names no file", hint="name one that can be written")
    written = {name: out} | ({"--plan": plan_file} if plan_file is not None else {})
    beside = {f"the sidecar of {label}": sidecar_path(path) for label, path in (named | {name: out}).items()}
    others = named | beside
    for two, second in written.items():
        for one, first in others.items():
            if _is_one(first, second):
                message = f"{second} is {one} and {two} at once"
                raise errors.UnsupportedError(message, hint="write to another path, then rename it")
        others[two] = second


def _is_one(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)  # hard links are one file too
    except OSError:
        return os.path.realpath(first) == os.path.realpath(second)  # one of them is not there yet


def refuse_targets(paths: list[Path], *, overwrite: bool, checkpoint: Path | None = None) -> None:
    """Refuse before any work is done what cannot be written, or what `--overwrite` would have to allow.

    `checkpoint` is the one of them that can be a directory.
    """
    from stateregistry.stores.atomic import destination
    from stateregistry.stores.url import RemotePath

    for path in paths:
        # What a server or a store of directories takes, it says itself.
        if isinstance(path, RemotePath) or (path == checkpoint and path.is_dir()):
            if path.exists() and not overwrite:
                raise errors.TargetExistsError(f"{path} exists", hint="choose another name, or give --overwrite")
            continue
        if not path.parent.is_dir():
            message = f"there is no directory {str(path.parent)!r} to write {path.name!r} in"
            raise errors.FileMissingError(message, hint="make it first")
        destination(path, overwrite=True)
        if path.exists() and not overwrite:
            message = f"{path} exists"
            raise errors.TargetExistsError(message, hint="choose another name, or give --overwrite")


def write(
    terminal: Terminal, registry: StateRegistry, out: Path, store: str | None, *, overwrite: bool, bar: bool
) -> int:
    """Write a registry, and return the bytes of its values."""
    from stateregistry.cli.progress import Bar
    from stateregistry.stores.api import save

    if not any(entry.persistent for entry in registry.values()):
        raise errors.UnsupportedError("nothing would be written: no entry is left")
    total = sum(entry.nbytes for entry in registry.values() if entry.persistent)
    done = 0
    with Bar(terminal, f"writing {out.name}", wanted=bar) as progress:

        def told(key: str, nbytes: int, /) -> None:
            nonlocal done
            done += nbytes
            progress(done, total)

        save(registry, out, format=store, overwrite=overwrite, progress=told)
    return total


def blocks(word: str, text: str, lines: Sequence[str]) -> list[Block]:
    """What was done, for people."""
    return [Verdict(word, text, "good"), *([Notes("", tuple(lines))] if lines else [])]


def told(registry: StateRegistry, out: Path, nbytes: int) -> dict[str, Any]:
    """What was written, for a document."""
    return {"written": {"path": str(out), "entries": len(registry), "bytes": nbytes}}
