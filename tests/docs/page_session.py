"""Runs a page of the documentation as a reader would: top to bottom, in one Python session and one folder.

    python           run in the namespace of the page; a `text` block right below is what it must print
    py               somebody else's way, shown beside ours: it must be Python
    console          each line after `$ ` is run, and what stands below, if anything, must be printed; an exit code that is
                     not 0 has to be shown by `$ echo $?`
    sh               each line is run and must succeed
    **`name`**       above a block makes it a file of the folder; `, further down` adds to it
    toml, json       must be read, rules as rules
    {directive}      belongs to the site

`...` alone on a line, or in one, stands for whatever is left out. A block of another kind, and one that cannot be run, has to
be named where the pages are listed (`test_pages`), with the reason.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from stateregistry.cli import main
from stateregistry.conversion.rules.rules import Rules

#: The tables that make a TOML file rules.
TABLES = {"rename", "drop", "keep", "fill", "layer", "layout", "order", "split", "join"}
LEFT_OUT = "..."
_FILE = re.compile(r"\*\*`([^`]+)`\*\*(, further down)?")
#: How a command prints into a page.
PLAIN = {"COLUMNS": "100", "NO_COLOR": "1"}
#: Seconds that one command may take.
_LIMIT = 120
#: Commands that are looked at instead of run: they change the machine.
Look = Callable[[list[str]], None]


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: the word after the fence, the text, its line in the page, and the file that it is or goes on with."""

    kind: str
    body: str
    line: int
    file: str = ""
    further: bool = False
    below: str = ""  # of a `text` block: the kind of the block that it directly follows

    @property
    def first(self) -> str:
        """Its first line, which names it in a list."""
        return self.body.partition("\n")[0]


def blocks(text: str) -> list[Block]:
    """Every fenced block of a page, in order."""
    found: list[Block] = []
    file, further, below = "", False, ""
    tokens = MarkdownIt().enable("table").parse(text)
    for token in tokens:
        if token.type == "fence":
            kind = token.info.strip() or "text"
            line = (token.map or [0])[0] + 2
            found.append(Block(kind, token.content, line, file, further, below if kind == "text" else ""))
            file, further, below = "", False, kind
        elif token.type == "inline":
            name = _FILE.fullmatch(token.content)
            file, further, below = (name[1] if name else ""), bool(name and name[2]), ""
    return found


def printed(wanted: str, found: str) -> bool:
    """Whether exactly this was printed, whatever stands where it leaves something out."""
    lines = [line.rstrip() for line in wanted.strip("\n").splitlines()]
    pattern = ""
    for line in lines:
        if line == LEFT_OUT:
            pattern += r"(?:.*\n)*?"
        else:
            pattern += r"[^\n]*?".join(re.escape(piece) for piece in line.split(LEFT_OUT)) + r"\n"
    text = "".join(f"{line.rstrip()}\n" for line in found.strip("\n").splitlines())
    return re.fullmatch(pattern, text) is not None


def commands(console: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block, with what stands below it."""
    for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, _, below = part.partition("\n")
        yield command, below


def lines_of(script: str) -> list[str]:
    """The commands of a block of shell; a backslash joins lines."""
    return [line for line in script.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


class Session:
    """One reader: a module whose names are those of the page, a folder, and the exit code of the last command."""

    def __init__(self, name: str, folder: Path, names: Mapping[str, object], looked_at: Mapping[str, Look]) -> None:
        self.module = types.ModuleType(name)
        self.module.__dict__.update(names)
        self.folder, self.status = folder, 0
        self._looked_at = looked_at
        self._said: str | None = None  # what Python printed last, until it is held against a block

    def run(self, block: Block, page: Path) -> None:
        """Run one block.

        Raises:
            AssertionError: it fails, or what it prints is not what stands there.
        """
        place = f"{page.name}:{block.line}"
        if block.file:
            target = self.folder / block.file
            target.parent.mkdir(parents=True, exist_ok=True)
            assert target.exists() == block.further, f"{place}: {block.file} begins twice, or goes on before it begins"
            before = target.read_text(encoding="utf-8") + "\n\n" if block.further else ""
            target.write_text(before + block.body, encoding="utf-8")
        if block.kind == "toml":
            data = tomllib.loads(block.body)
            if data.keys() & TABLES:
                Rules.of(data)
        elif block.kind == "json":
            json.loads(block.body)
        elif block.file:
            return
        elif block.kind == "python":
            self._python(block, page)
        elif block.kind == "py":
            compile(block.body, str(page), "exec")
        elif block.kind == "text":
            assert block.below == "python", f"{place}: a block that nothing above it prints"
            said, self._said = self._said, None
            assert said is not None, f"{place}: nothing ran whose output this could be"
            assert printed(block.body, said), f"{place}: printed instead:\n{said}"
        elif block.kind == "console":
            for command, below in commands(block.body):
                self._command(command, below, place)
            assert self.status == 0, f"{place}: exit {self.status}, and no `$ echo $?` shows it\n{self._said}"
        elif block.kind == "sh":
            for line in lines_of(block.body):
                self._command(line, "", place)
                assert self.status == 0, f"{place}: {line}: exit {self.status}\n{self._said}"
        else:
            message = f"{place}: a block of kind {block.kind!r} is not understood"
            raise AssertionError(message)

    def _python(self, block: Block, page: Path) -> None:
        code = compile("\n" * (block.line - 1) + block.body, str(page), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, self.module.__dict__)  # a page of ours
        self._said = out.getvalue()

    def _command(self, command: str, below: str, place: str) -> None:
        words = shlex.split(command, comments=True)
        if words == ["echo", "$?"]:
            assert below.strip() == str(self.status), f"{place}: the exit code was {self.status}, not {below.strip()}"
            self.status = 0
            return
        assert self.status == 0, f"{place}: before {command!r} a command ended with {self.status}, and nothing shows it"
        if words[0] in self._looked_at:
            self._looked_at[words[0]](words)
            return
        done = self._process(words)
        self.status, said = done.returncode, done.stdout + done.stderr
        if below.strip():
            assert printed(below, said), f"{place}: {command}: exit {self.status}, printed instead:\n{said}"
        elif self.status:
            self._said = said

    def _process(self, words: list[str]) -> subprocess.CompletedProcess[str]:
        """Run `python` in a process of its own, and so `stateregistry` where the page has installed a plugin for it."""
        start = {"stateregistry": ["-m", "stateregistry"], "python": []}.get(words[0])
        assert start is not None, f"{words[0]!r} is no command that a page may show"
        if words[0] == "stateregistry" and not any(self.folder.glob("*.dist-info")):
            return _in_this_process(words[1:])
        env = {**os.environ, **PLAIN, "PYTHONPATH": str(self.folder)}
        return subprocess.run(
            [sys.executable, *start, *words[1:]], cwd=self.folder, env=env, capture_output=True, text=True,
            check=False, timeout=_LIMIT,
        )  # fmt: skip


def _in_this_process(words: list[str]) -> subprocess.CompletedProcess[str]:
    """The command line, called: importing two frameworks anew for each command would take most of the time."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        for name, value in PLAIN.items():
            patch.setenv(name, value)
        status = main(words)
    return subprocess.CompletedProcess(words, status, out.buffer.getvalue().decode(), "")
