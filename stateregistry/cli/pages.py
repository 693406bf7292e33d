"""Pages from a command: `--html FILE`, refused before any work where it would replace what is no page of ours."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stateregistry import errors

if TYPE_CHECKING:
    from stateregistry.cli.terminal import Terminal

F = TypeVar("F", bound=Callable[..., Any])
#: How much of a file is looked at for the mark of our pages.
_HEAD = 4096


def html_option(function: F) -> F:
    """Add `--html FILE`."""
    return click.option(
        "--html", "html", metavar="FILE.html", type=click.Path(path_type=Path, dir_okay=False),
        help="Write a page too: one file that needs nothing but itself.",
    )(function)  # fmt: skip


def refuse(html: Path | None, others: Mapping[str, Path | None]) -> None:
    """Refuse a page over a file that is read or written besides, or over one that is no page of ours.

    Raises:
        UnsupportedError: it is one of `others`. TargetExistsError: it is no page. FileMissingError, FileAccessError: it
            cannot be written.
    """
    if html is None:
        return
    from stateregistry.cli.writing import refuse_one_file
    from stateregistry.pages.markup import GENERATOR
    from stateregistry.stores.atomic import destination

    known = {label: path for label, path in others.items() if path is not None}
    refuse_one_file(known, html, name="--html")
    real = destination(html, overwrite=True)
    if not real.exists() or not real.stat().st_size:
        return
    with real.open("rb") as file:
        head = file.read(_HEAD)
    if f'name="generator" content="{GENERATOR} '.encode() not in head:
        message = f"{html}: exists, and is no page of stateregistry"
        raise errors.TargetExistsError(message, hint="choose another name")


def write(html: Path, text: str) -> None:
    """Write a page, in one step."""
    from stateregistry.stores.atomic import replacing

    with replacing(html, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def typed(terminal: Terminal) -> str:
    """The command line that makes the page, with files by their names alone."""
    words = [title_of(word) if os.sep in word and not word.startswith("-") else word for word in terminal.arguments]
    return shlex.join(("stateregistry", *words))


def title_of(source: str) -> str:
    """What a page calls a source: the name of a file without its directory, which is nobody's business."""
    file, mark, part = source.partition("::")
    short = Path(file).name or file
    return f"{short}{mark}{part}"
