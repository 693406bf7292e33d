"""Writing `.npz`: an archive of `.npy` members that are not compressed, one value in memory at a time.

`numpy.load` reads it: every array under its name, and our document, the member `stateregistry.json`, as bytes. Values begin
at multiples of 64, so that they can be mapped. The comment of the archive is the digest of all that is not values. The bytes
depend on names, values and `extra` alone. Imports NumPy, no framework.
"""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any, Final

from stateregistry import errors
from stateregistry.entry import EXTENDED
from stateregistry.stores import zip_frame
from stateregistry.stores.bits import encode
from stateregistry.stores.document import Document
from stateregistry.stores.names import names_of
from stateregistry.stores.npy_header import ALIGNMENT, npy_header
from stateregistry.streaming.digests import of_array

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stateregistry.registry import StateRegistry
    from stateregistry.stores.base import Progress

#: The member that holds our document.
RECORD: Final = "stateregistry.json"
#: What the names of arrays end with inside an archive.
SUFFIX: Final = ".npy"
#: Bytes of the header before each member, less name and extra field.
_FILE_HEADER: Final = 30
#: Bytes that the name of a member can have.
_NAME_BYTES: Final = 0xFFFF


def write_npz(path: Path, source: StateRegistry, /, *, extra: Mapping[str, Any], progress: Progress) -> None:
    """Write every entry of `source` and our document.

    Raises:
        UnsupportedError: a name that a zip archive cannot hold, or `extra` that is not JSON. Before the file is opened.
    """
    entries, order = dict(source.items()), source.native_order
    stored, exact = names_of(order)
    _check_names(stored)
    document = Document.describe(source, names=exact, extra=extra)
    dtypes = {stored[key]: entry.dtype for key, entry in entries.items() if entry.dtype in EXTENDED}
    _text(document, dtypes)  # what is not JSON is refused before the work starts
    digests: dict[str, str] = {}
    values: list[tuple[int, int]] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for key in order:
            value = source.view(key)
            header = npy_header(entries[key].dtype, entries[key].shape)
            digests[key] = of_array(value)
            values.append(_add(archive, stored[key] + SUFFIX, header, encode(value)))
            progress(key, entries[key].nbytes)
        _add(archive, RECORD, _text(document.with_digests(digests, ""), dtypes), None)
        zip_frame.leave_room(archive)
    zip_frame.seal(path, values)


def _text(document: Document, dtypes: Mapping[str, str]) -> bytes:
    body = json.loads(document.to_json())
    if dtypes:
        body["dtypes"] = dict(dtypes)
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _check_names(stored: Mapping[str, str]) -> None:
    wrong = {}
    for key, name in stored.items():
        try:
            raw = (name + SUFFIX).encode("utf-8")
        except UnicodeEncodeError:
            wrong[key] = "is no text that UTF-8 has"
            continue
        if "\0" in name:
            wrong[key] = "has a NUL"
        elif len(raw) > _NAME_BYTES:
            wrong[key] = f"is longer than {_NAME_BYTES:,} bytes"
    if wrong:
        listed = "; ".join(f"{key[:80]!r} {why}" for key, why in list(wrong.items())[:5])
        message = f"{len(wrong)} names cannot stand in a zip archive: {listed}"
        raise errors.UnsupportedError(message, keys=tuple(wrong), hint="rename them, or save as .safetensors")


def _add(archive: zipfile.ZipFile, name: str, header: bytes, values: memoryview | None) -> tuple[int, int]:
    """Add a member, uncompressed, with its values aligned; where these lie."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.filename = name  # as it is: ZipInfo takes the separator of this system for '/'
    info.create_system = 0  # the default differs between systems
    info.file_size = len(header) + (len(values) if values is not None else 0)
    big = info.file_size * 1.05 > zipfile.ZIP64_LIMIT
    stream = archive.fp
    assert stream is not None  # it is open
    begin = stream.tell() + _FILE_HEADER + len(name.encode("utf-8")) + 4 + (20 if big else 0)
    padding = -begin % ALIGNMENT
    # An extra field that means nothing, as torch pads its records: id "FB" and its length.
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    with archive.open(info, "w", force_zip64=big) as member:
        member.write(header)
        if values is not None:
            member.write(values)
    end = stream.tell()
    return end - (len(values) if values is not None else 0), end
