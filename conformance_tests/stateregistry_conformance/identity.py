"""Identity: digests that say by which requirements and by which suite a report was made.

Equal digests mean equal content, whatever the platform: requirements as canonical JSON, sources with the line ends of Unix.
Everything of the suite that decides a verdict is in its digest; how reports are drawn is not.
Imports the standard library.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stateregistry_conformance.specification import requirements

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

#: Parts of the suite that draw reports, or that no check uses.
_UNDECIDING = frozenset(
    {"page", "table.py", "text.py", "badge.py", "plugin.py", "suite.py", "command.py",
     "__main__.py", "__pycache__"}
)  # fmt: skip
_SUFFIXES = (".py", ".json", ".safetensors", ".npz", ".bin", ".toml")


def canonical(document: Any) -> bytes:
    """JSON as one sequence of bytes: sorted, without spaces, ASCII."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def digest(document: Any) -> str:
    """The SHA-256 of a document, in hexadecimal."""
    return hashlib.sha256(canonical(document)).hexdigest()


@cache
def requirements_digest() -> str:
    """Of every requirement of the version: ids, levels, texts, capabilities, chapters, in order."""
    return digest([asdict(requirement) for requirement in requirements().values()])


@cache
def suite_digest() -> str:
    """Of every source and table of the installed suite that decides a verdict."""
    return _sources(resources.files("stateregistry_conformance"), _UNDECIDING)


@cache
def core_digest() -> str:
    """Of the sources of the installed core. A fact of the report, not a condition: the core is part of what is checked."""
    return _sources(resources.files("stateregistry"), frozenset({"__pycache__"}))


def _sources(root: Traversable, without: frozenset[str]) -> str:
    found = hashlib.sha256()
    for name, content in sorted(_files(root, "", without)):
        data = content.replace(b"\r\n", b"\n") if Path(name).suffix in {".py", ".json", ".toml"} else content
        found.update(f"{name} {len(data)}\n".encode())
        found.update(data)
    return found.hexdigest()


def _files(folder: Traversable, prefix: str, without: frozenset[str]) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.name in without:
            continue
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/", without)
        elif entry.name.endswith(_SUFFIXES):
            yield f"{prefix}{entry.name}", entry.read_bytes()
