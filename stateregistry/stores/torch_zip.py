"""Reads torch `.pt` and `.pth` files (zip format) without torch and without running anything from them.

The pickle inside is interpreted by a machine that knows tensors, parameters and plain containers and nothing else; a
file that needs more is refused as unsafe. Values are mapped from the archive, whose members lie in it as they are.
Every tensor is held against the length of its record, which `torch.load(mmap=True)` does not do. Our document is a
record of its own, which `torch.load` ignores. Imports NumPy, no framework.
"""

from __future__ import annotations

import math
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn, final

import numpy as np

from stateregistry import errors
from stateregistry.entry import DTYPES, numpy_dtype
from stateregistry.stores import bits, zip_frame
from stateregistry.stores.base import Document
from stateregistry.stores.collector import collector_paused
from stateregistry.stores.limits import DEFAULT, Limits
from stateregistry.stores.listed import OneFile
from stateregistry.stores.listing import list_stored
from stateregistry.stores.mapped import MappedFile
from stateregistry.stores.pickle_machine import Machine, Table
from stateregistry.stores.torch_listing import stored_of
from stateregistry.stores.torch_objects import Allowlist, Storage, StorageType, Tensor, width_of
from stateregistry.stores.torch_tree import select_state
from stateregistry.stores.zip_archive import LOCAL_MAGIC, Bytes, Member, read_directory, read_member, require_stored
from stateregistry.streaming.task import Stored as Place

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stateregistry.stores.bits import ByteOrder

#: The record that holds our document, in the top folder of the archive or in its folder `.data`.
RECORD: Final = "stateregistry.json"
_PICKLE = "/data.pkl"
#: What the format before zip begins with: a pickle of protocol 2 with a magic number of ten bytes.
LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
#: First instructions of a pickle that holds an object: containers, globals, frames, texts.
_PICKLE_STARTS = frozenset(b"}])(c\x95\x8c\x8a\x8fXKGNU")


def sniff_torch(path: Path, head: bytes, /) -> bool:
    """Whether a file is a torch archive, a torch file of the format before, or a bare pickle.

    The last two are recognised so that opening them says what they are and what to do.
    """
    if head[:4] == LOCAL_MAGIC:
        return _first_name(head).endswith(_PICKLE) or _has_pickle(path)
    return is_bare_pickle(head)


def is_bare_pickle(head: bytes) -> bool:
    """Whether a file begins as a pickle does, that of the legacy format included."""
    # The length of a safetensors header can begin with the same bytes; its ninth is the '{' of the JSON.
    begins = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return begins and head[2:3] != b"" and head[2] in _PICKLE_STARTS and head[8:9] != b"{"


def _first_name(head: bytes) -> str:
    if len(head) < 30:
        return ""
    (length,) = struct.unpack_from("<H", head, 26)
    return head[30 : 30 + length].decode("utf-8", "replace")


def _has_pickle(path: Path) -> bool:
    try:
        file = MappedFile(path)
    except errors.StateError:
        return False
    try:
        return any(name.endswith(_PICKLE) for name in read_directory(file, DEFAULT))
    except errors.StateError:
        return False  # some other zip archive, or a damaged one whose first member is not a torch one
    finally:
        file.close()


def open_torch(path: Path, /, *, part: str = "", limits: Limits = DEFAULT) -> TorchFileRegistry:
    """A lazy, read-only registry over a torch file.

    Args:
        path: the file.
        part: the sub-key of the state inside the file, names joined by `.`; `"."` is the root whatever it holds;
            empty for a file whose root is a state.
        limits: how much the file may ask for.

    Raises:
        UnsafeFileError: reading it would run code from it. FileFormatError: truncated, damaged, of the format before
            zip, or not a mapping of names to tensors; the message lists the parts that are.
        FileMissingError, FileAccessError; KeyPathError, DuplicateKeyError (names that give no keys).
    """
    file = MappedFile(path)
    try:
        with collector_paused():
            return _open(file, part, limits)
    except BaseException:
        file.close()
        raise


def _open(file: MappedFile, part: str, limits: Limits) -> TorchFileRegistry:
    where = str(file.path)
    head = file.read(0, min(file.size, 4096))
    if head[:4] != LOCAL_MAGIC:
        _refuse_old(file, head, limits)
    archive = read_archive(file, limits)
    document = _document(file, archive.members, archive.folder, limits) if not part else None
    state = select_state(archive.root, part, where, limits)
    limits.check("entries", len(state), f"{where}: number of arrays")
    return TorchFileRegistry(file, state, archive.records, archive.order, document, limits)


@final
@dataclass(frozen=True, slots=True)
class Archive:
    """One archive of torch.

    Attributes:
        members: by name. folder: the one that all of them are in.
        root: what it holds, made of inert values.
        records: where the bytes of each storage lie, by its key. order: of the bytes of one element.
    """

    members: Mapping[str, Member]
    folder: str
    root: object
    records: Mapping[str, Member]
    order: ByteOrder


def read_archive(file: Bytes, limits: Limits) -> Archive:
    """What lies in a file, or a stretch of one, that begins as a zip archive.

    Raises:
        UnsafeFileError: reading it would run code from it. FileFormatError: truncated, damaged or over a limit.
    """
    where = str(file.path)
    members = read_directory(file, limits)
    folder = _folder(members, where)
    require_stored(members, where)
    order = _byte_order(file, members, folder)
    reader = _Records(members, folder, where)
    pickle = members[f"{folder}{_PICKLE}"]
    limits.check("pickle_bytes", pickle.size, f"{where}: length of the pickle")
    allowed = Allowlist(where, limits)
    root = Machine(read_member(file, pickle), allowed.known, reader.storage, where, limits).run()
    return Archive(members, folder, root, reader.records, order)


def _refuse_old(file: MappedFile, head: bytes, limits: Limits) -> NoReturn:
    where = str(file.path)
    hint = "save it again: torch.save(torch.load(path, weights_only=True), new_path), with torch 1.6 or later"
    if head.startswith(LEGACY):
        message = (
            f"{where}: is in the torch format from before 1.6, which torch itself has to read: sr.open(path) asks it"
        )
        raise errors.FileFormatError(message, expected="a zip archive", found="the legacy format", hint=hint)
    if is_bare_pickle(head):
        limits.check("pickle_bytes", file.size, f"{where}: length of the pickle")
        Machine(file.read(0, file.size), Allowlist(where, limits).known, lambda _: None, where, limits).run()
        message = f"{where}: is a bare Python pickle, not a torch archive"
        raise errors.FileFormatError(message, expected="a zip archive", found="a pickle", hint=hint)
    message = f"{where}: is not a torch file: it begins with {head[:8]!r}"
    raise errors.FileFormatError(message, expected="a zip archive", hint="the file is damaged, or of another format")


def _folder(members: Mapping[str, Member], where: str) -> str:
    """The top folder of the archive: torch takes that of the first member, and there must be no other."""
    found = [name.removesuffix(_PICKLE) for name in members if name.count("/") == 1 and name.endswith(_PICKLE)]
    first = next(iter(members), "").partition("/")[0]
    if found != [first] or first in ("", ".", ".."):
        listed = ", ".join(found) or "none"
        message = f"{where}: a torch archive has one folder with a data.pkl, and this one has {listed}"
        raise errors.FileFormatError(message, hint="the file is damaged, or was not written by torch.save")
    if f"{first}/constants.pkl" in members or any(name.startswith(f"{first}/code/") for name in members):
        message = f"{where}: is a TorchScript archive, which holds a program beside its weights"
        hint = "nothing was run; where it is trusted: torch.save(torch.jit.load(path).state_dict(), new_path)"
        raise errors.UnsafeFileError(message, found=("TorchScript",), hint=hint)
    return first


def _byte_order(file: Bytes, members: Mapping[str, Member], folder: str) -> ByteOrder:
    member = members.get(f"{folder}/byteorder")
    text = read_member(file, member) if member is not None and member.size <= 16 else b""
    if member is None or text == b"little":
        return "little"
    if text == b"big":
        return "big"
    message = f"{file.path}: the record byteorder says {text!r}, expected little or big"
    raise errors.FileFormatError(message, hint="the file is damaged: get it again")


def _document(file: MappedFile, members: Mapping[str, Member], folder: str, limits: Limits) -> Document | None:
    found = [members[name] for name in (f"{folder}/{RECORD}", f"{folder}/.data/{RECORD}") if name in members]
    if not found:
        return None
    where = str(file.path)
    if len(found) > 1:
        raise errors.FileFormatError(f"{where}: our metadata stands twice in the archive", hint="write it again")
    limits.check("document_bytes", found[0].size, f"{where}: length of our metadata")
    try:
        text = read_member(file, found[0]).decode("utf-8")
    except UnicodeDecodeError as error:
        raise errors.FileFormatError(f"{where}: our metadata is not text: {error}", hint="write it again") from error
    return Document.from_json(text, where)


@final
class _Records:
    """Makes storages of persistent ids, each held against the record of the archive that it names."""

    def __init__(self, members: Mapping[str, Member], folder: str, where: str) -> None:
        self._members = members
        self._folder = folder
        self._where = where
        self._made: dict[str, Storage] = {}
        #: Storage key -> the record with its bytes.
        self.records: dict[str, Member] = {}

    def storage(self, ident: object) -> Storage:
        """The storage of a persistent id, `("storage", type, key, location, number of elements)`."""
        if type(ident) is not tuple or len(ident) != 5 or ident[0] != "storage":
            self._fail("something other than a storage is kept outside of the pickle")
        _, kind, key, location, count = ident
        if not isinstance(kind, StorageType) or type(key) is not str or type(location) is not str:
            self._fail("a storage is named by the wrong values")
        if type(count) is not int or count < 0:
            self._fail(f"storage {key[:80]!r} has a number of elements that is none")
        member = self._members.get(f"{self._folder}/data/{key}")
        if member is None:
            self._fail(f"the record of storage {key[:80]!r} is not in the archive")
        width = width_of(kind.dtype)
        # torch counts whole elements, so that a record may be longer by less than one.
        if not 0 <= member.size - count * width < width:
            what = f"storage {key[:80]!r} has {count:,} elements of {width} bytes in a record of {member.size:,} bytes"
            self._fail(what)
        storage = Storage(key, count * width, kind.dtype)
        if self._made.setdefault(key, storage) != storage:
            self._fail(f"storage {key[:80]!r} is used under two dtypes or lengths")
        self.records[key] = member
        return self._made[key]

    def _fail(self, what: str) -> NoReturn:
        hint = "the file is truncated or damaged: get it again"
        raise errors.FileFormatError(f"{self._where}: {what}", hint=hint)


@final
class TorchFileRegistry(OneFile):
    """A registry over the state in one torch file."""

    adapter: ClassVar[str] = "torch"

    def __init__(
        self,
        file: MappedFile,
        state: Table,
        records: Mapping[str, Member],
        order: ByteOrder,
        document: Document | None,
        limits: Limits,
    ) -> None:
        longest = max(map(len, state), default=0)
        limits.check("name_chars", longest, f"{file.path}: length of a name")
        # None is absence, as in a module: `register_buffer(name, None)` has no value to save.
        values = {name: value for name, value in state.items() if value is not None}
        listing = list_stored(stored_of(values, document), str(file.path))
        tensors = dict(zip(listing.keys, values.values(), strict=True))
        super().__init__(file, listing, dialect="torch", document=document)
        self._order = order
        self._records = records
        self._tensors = {key: tensors[key] for key in listing.entries}

    def place(self, key: str, /) -> Place | None:
        """Where the value lies, `None` for one that is not stored as it is: strided, flipped or in another byte order."""
        tensor = self._tensors[key]
        if sys.byteorder == "big" or self._order == "big" or tensor.conjugate or tensor.negative:
            return None
        if 0 in tensor.shape or not is_contiguous(tensor):
            return None
        begin, _ = span_of(tensor, self._records)
        nbytes = math.prod(tensor.shape) * DTYPES[tensor.dtype]
        where, file = f"{self.path}: {key!r}", self._file
        return Place(file.absolute, file.size, file.modified, ((begin, nbytes),), tensor.dtype, where)

    def _read(self, key: str, /) -> np.ndarray:
        tensor = self._tensors[key]
        begin, nbytes = span_of(tensor, self._records)
        return shaped(self._file.view(begin, nbytes), tensor, self._order, f"{self.path}: {key!r}")

    def _load(self, key: str, /) -> np.ndarray:
        tensor = self._tensors[key]
        begin, nbytes = span_of(tensor, self._records)
        plain = not (tensor.conjugate or tensor.negative) and nbytes == math.prod(tensor.shape) * DTYPES[tensor.dtype]
        if plain and is_contiguous(tensor):
            array = np.empty(tensor.shape, numpy_dtype(tensor.dtype))
            self._file.copy_into(array, begin)
            return bits.settle(array, self._order, f"{self.path}: {key!r}")
        raw = np.empty(nbytes, np.uint8)
        self._file.copy_into(raw, begin)
        where = f"{self.path}: {key!r}"
        return np.array(shaped(raw, tensor, self._order, where), order="C", copy=True)

    def _frame_problem(self) -> str | None:
        records = {self._records[tensor.storage.key] for tensor in self._tensors.values() if isinstance(tensor, Tensor)}
        return zip_frame.problem(self._file, [(record.offset, record.offset + record.size) for record in records])


def is_contiguous(tensor: Tensor) -> bool:
    """Whether the elements of a tensor lie in C order without holes."""
    expected = 1
    for size, step in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True


def span_of(tensor: Tensor, records: Mapping[str, Member]) -> tuple[int, int]:
    """Where in the file the first element lies, and the bytes from it to the last one."""
    width = DTYPES[tensor.dtype]
    if 0 in tensor.shape:
        return 0, 0
    reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True))
    return records[tensor.storage.key].offset + tensor.offset * width, (reach + 1) * width


def shaped(raw: np.ndarray, tensor: Tensor, order: ByteOrder, where: str) -> np.ndarray[Any, Any]:
    """The bytes of a span as the array that lies in them; a view of them where nothing has to be turned."""
    width = DTYPES[tensor.dtype]
    if not raw.size or is_contiguous(tensor):
        array = bits.decode(raw, tensor.shape, tensor.dtype, order, where)
    else:
        flat = bits.in_order(raw, tensor.dtype, order)
        strides = tuple(step * width for step in tensor.stride)
        # NumPy checks once more that every stride stays inside the buffer.
        array = np.ndarray(tensor.shape, numpy_dtype(tensor.dtype), buffer=flat, strides=strides)
        bits.check_bools(array, tensor.dtype, where)
    if tensor.conjugate or tensor.negative:
        array = bits.flipped(array, conjugate=tensor.conjugate, negative=tensor.negative)
    return array
