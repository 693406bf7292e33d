"""Our document beside a file whose format has no room for it: `<file>.stateregistry.json`.

A pair of files cannot be replaced in one step, so the sidecar says which file it speaks of, by length and fingerprint,
and can remember the one before. A save writes the new file beside the old one, then commits a sidecar that describes
both, then commits the file, then a sidecar that describes it alone: at every moment the file that is there is
described. A file that its sidecar does not know was changed by another program: reading it is refused. The sidecar is
beside the file itself: a symbolic link to the file leads to it, as it leads to the target of a save.

The sidecar is the JSON of the document with two more fields: `file`, which file it is, and `before`. The fingerprint
pairs, it does not protect: xxh3_128 over the whole file up to 16 MiB, beyond that over 256 blocks of 64 KiB, evenly
spaced, first and last included. Imports no framework.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import xxhash

from stateregistry import errors
from stateregistry.stores.atomic import replacing
from stateregistry.stores.base import Document, load_object
from stateregistry.stores.limits import DEFAULT, Limits
from stateregistry.stores.mapped import MappedFile
from stateregistry.streaming.digests import NONE_YET, of_text

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIX = ".stateregistry.json"
_WHOLE = 16 * 2**20
_BLOCK = 64 * 2**10
_BLOCKS = 256


@final
@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Which file it is: its length, and a digest of it or of samples of it."""

    size: int
    digest: str

    @classmethod
    def of(cls, path: Path) -> Fingerprint:
        """The fingerprint of a file.

        Raises:
            FileMissingError, FileAccessError.
        """
        file = MappedFile(path)
        try:
            state = xxhash.xxh3_128()
            if file.size <= _WHOLE:
                state.update(file.read(0, file.size))
            else:
                last = file.size - _BLOCK
                for index in range(_BLOCKS):
                    state.update(file.read(last * index // (_BLOCKS - 1), _BLOCK))
            return cls(file.size, state.hexdigest())
        finally:
            file.close()

    def to_json(self) -> dict[str, Any]:
        """The object that stands in a sidecar."""
        return {"bytes": self.size, "xxh3_128": self.digest}


@final
@dataclass(frozen=True, slots=True)
class _Described:
    """One file and what is said of it: `None` for a file that had no document."""

    file: Fingerprint
    document: Document | None


def sidecar_path(path: Path, /) -> Path:
    """Where the sidecar of a file is written: beside the file that `atomic.destination` would replace."""
    real = Path(os.path.realpath(path)) if os.path.islink(path) else path  # noqa: PTH114  # never raises
    return real.with_name(real.name + SUFFIX)


def _found(path: Path) -> Path | None:
    """The sidecar to read. Caches link the two one by one to names of their own: then it is beside the link."""
    places = (sidecar_path(path), path.with_name(path.name + SUFFIX))
    return next((place for place in places if place.exists()), None)


def read_document(path: Path, /, limits: Limits = DEFAULT) -> Document | None:
    """What the sidecar of a file says of it; `None` for a file without one.

    Raises:
        FileFormatError: the sidecar is damaged, or speaks of another file.
    """
    beside = _found(path)
    if beside is None:
        return None
    body = _load(beside, limits)
    if "file" not in body:
        return _document(body, beside)  # written by hand, or by a program that does not pair
    present = Fingerprint.of(path)
    rows = [_described(body, beside)]
    if "before" in body:
        rows.append(_described(body["before"], beside))
    for row in rows:
        if row.file == present:
            return row.document
    message = f"{path}: is not the file that {beside.name} describes: another program has written one of them"
    hint = f"restore the file, or remove {beside.name} to read it as a foreign file"
    raise errors.FileFormatError(message, expected=rows[0].file, found=present, hint=hint)


def _load(beside: Path, limits: Limits) -> dict[str, Any]:
    file = MappedFile(beside)
    try:
        limits.check("document_bytes", file.size, f"{beside}: length")
        raw = file.read(0, file.size)
    finally:
        file.close()
    return load_object(raw, str(beside))


def _document(body: dict[str, Any], beside: Path) -> Document:
    return Document.from_json(json.dumps(body), str(beside))


def _described(body: object, beside: Path) -> _Described:
    """What a sidecar says of one file; of the file before, an object that has its document inside or is bare."""
    row = body.get("file") if isinstance(body, dict) else None
    if not isinstance(row, dict) or type(row.get("bytes")) is not int or not isinstance(row.get("xxh3_128"), str):
        message = f"{beside}: does not say which file it describes"
        raise errors.FileFormatError(message, hint="remove it to read the file as a foreign file")
    assert isinstance(body, dict)
    bare = body.keys() == {"file"}
    return _Described(Fingerprint(row["bytes"], row["xxh3_128"]), None if bare else _document(body, beside))


def _write(path: Path, new: _Described, before: _Described | None = None) -> None:
    body = _body(new)
    if before is not None:
        body["before"] = _body(before)
    text = _sealed(body)
    with replacing(sidecar_path(path), overwrite=True) as temporary:
        temporary.write_text(f"{text}\n", encoding="ascii")


def _sealed(body: dict[str, Any]) -> str:
    """The text with a digest of itself, made with zeros in its place."""
    blank = json.dumps({**body, "sum": NONE_YET}, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return json.dumps(
        {**body, "sum": of_text(blank.encode())}, sort_keys=True, separators=(",", ":"), ensure_ascii=True
    )


def problem(path: Path, /) -> str | None:
    """What is wrong with the sidecar of a file, held against its own digest; `None` where nothing is."""
    beside = _found(path)
    if beside is None:
        return "its sidecar is gone"
    text = beside.read_text(encoding="ascii", errors="replace").removesuffix("\n")
    found = load_object(text, str(beside)).get("sum")
    if not isinstance(found, str):
        return f"{beside.name} carries no digest"
    if of_text(text.replace(found, NONE_YET, 1).encode(errors="replace")) != found:
        return f"{beside.name} is not what was written"
    return None


def _body(row: _Described) -> dict[str, Any]:
    body: dict[str, Any] = {} if row.document is None else json.loads(row.document.to_json())
    return {**body, "file": row.file.to_json()}


def _present(path: Path) -> _Described | None:
    """The file that is there now, as its sidecar describes it."""
    if not path.exists():
        return None
    try:
        document = read_document(path)
    except errors.FileFormatError:
        document = None  # a sidecar that does not fit says nothing of the file, which is about to be replaced
    return _Described(Fingerprint.of(path), document)


@contextmanager
def replacing_pair(path: Path, document: Document, /, *, overwrite: bool = False) -> Iterator[Path]:
    """As `atomic.replacing`, for a file and the sidecar with its document.

    Raises:
        As `replacing`.
    """
    with ExitStack() as undo:
        with replacing(path, overwrite=overwrite) as temporary:
            yield temporary
            new, before = _prepare(path, temporary, document, undo)
        undo.pop_all()  # the file is committed, and described
    if before is not None:
        _write(path, new)


@contextmanager
def describing(path: Path, new_file: Path, document: Document, /) -> Iterator[None]:
    """A block in which `new_file` becomes `path`: the sidecar describes both while it runs, and the new one after it.

    Raises:
        FileAccessError: the sidecar cannot be written. The block fails: it is as it was.
    """
    with ExitStack() as undo:
        new, before = _prepare(path, new_file, document, undo)
        yield
        undo.pop_all()
    if before is not None:
        _write(path, new)


def _prepare(path: Path, new_file: Path, document: Document, undo: ExitStack) -> tuple[_Described, _Described | None]:
    """Commit a sidecar that describes the new file and the one that is there; `undo` puts the old sidecar back."""
    new = _Described(Fingerprint.of(new_file), document)
    beside = sidecar_path(path)
    old = beside.read_bytes() if beside.exists() else None
    before = _present(path)
    undo.callback(_put_back, beside, old, path, new.file)
    _write(path, new, before)
    return new, before


def _put_back(beside: Path, old: bytes | None, path: Path, new: Fingerprint) -> None:
    """After a failure, the sidecar that was there; unless the new file is in its place already, which is described."""
    if path.exists() and Fingerprint.of(path) == new:
        return
    if old is None:
        try:
            beside.unlink(missing_ok=True)
        except OSError as error:
            message = f"{beside}: describes a file that was not written, and cannot be removed: {error.strerror}"
            raise errors.FileAccessError(message, hint="remove it") from error
        return
    with replacing(beside, overwrite=True) as temporary:
        temporary.write_bytes(old)
