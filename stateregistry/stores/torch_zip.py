"""Reads torch `.pt` and `.pth` files (zip format) without torch and without running anything from them.

The pickle inside is interpreted by a machine that knows tensors, parameters and plain containers and nothing else; a
file that needs more is refused as unsafe. Values are mapped from the archive, whose members lie in it as they are.
Every tensor is held against the length of its record, which `torch.load(mmap=True)` does not do. Our document is a
record of its own, which `torch.load` ignores. Imports NumPy, no framework.
"""

from __future__ import annotations

import math
import struct
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final, NoReturn, final

import numpy as np

from stateregistry import errors
from stateregistry.entry import DTYPES, Entry, Kind, numpy_dtype
from stateregistry.stores import bits
from stateregistry.stores.base import Document, FileRegistry
from stateregistry.stores.collector import collector_paused
from stateregistry.stores.kinds import TRAINABLE
from stateregistry.stores.limits import DEFAULT, Limits
from stateregistry.stores.listing import Stored, list_stored
from stateregistry.stores.mapped import MappedFile
from stateregistry.stores.pickle_machine import Machine, Table
from stateregistry.stores.torch_objects import Absent, Allowlist, Storage, StorageType, Tensor, width_of
from stateregistry.stores.torch_tree import describe_opaque, select_state
from stateregistry.stores.zip_archive import LOCAL_MAGIC, Member, read_directory, read_member, require_stored

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stateregistry.stores.bits import ByteOrder

#: The record that holds our document, in the top folder of the archive or in its folder `.data`.
RECORD: Final = "stateregistry.json"
_PICKLE = "/data.pkl"
#: What the format before zip begins with: a pickle of protocol 2 with a magic number of ten bytes.
_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
#: First instructions of a pickle that holds an object: containers, globals, frames, texts.
_PICKLE_STARTS = frozenset(b"}])(c\x95\x8c\x8a\x8fXKGNU")


def sniff_torch(path: Path, head: bytes, /) -> bool:
    """Whether a file is a torch archive, a torch file of the format before, or a bare pickle.

    The last two are recognised so that opening them says what they are and what to do.
    """
    if head[:4] == LOCAL_MAGIC:
        return _first_name(head).endswith(_PICKLE) or _has_pickle(path)
    return _is_bare_pickle(head)


def _is_bare_pickle(head: bytes) -> bool:
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
    members = read_directory(file, limits)
    folder = _folder(members, where)
    require_stored(members, where)
    order = _byte_order(file, members, folder)
    document = _document(file, members, folder, limits) if not part else None
    reader = _Records(members, folder, where)
    pickle = members[f"{folder}{_PICKLE}"]
    limits.check("pickle_bytes", pickle.size, f"{where}: length of the pickle")
    allowed = Allowlist(where, limits)
    root = Machine(read_member(file, pickle), allowed.known, reader.storage, where, limits).run()
    state = select_state(root, part, where, limits)
    limits.check("entries", len(state), f"{where}: number of arrays")
    return TorchFileRegistry(file, state, reader.records, order, document, limits)


def _refuse_old(file: MappedFile, head: bytes, limits: Limits) -> NoReturn:
    where = str(file.path)
    hint = "save it again: torch.save(torch.load(path, weights_only=True), new_path), with torch 1.6 or later"
    if head.startswith(_LEGACY):
        message = f"{where}: is in the torch format from before 1.6, which is read by torch alone"
        raise errors.FileFormatError(message, expected="a zip archive", found="the legacy format", hint=hint)
    if _is_bare_pickle(head):
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
    if found != [first] or not first:
        listed = ", ".join(found) or "none"
        message = f"{where}: a torch archive has one folder with a data.pkl, and this one has {listed}"
        raise errors.FileFormatError(message, hint="the file is damaged, or was not written by torch.save")
    if f"{first}/constants.pkl" in members or any(name.startswith(f"{first}/code/") for name in members):
        message = f"{where}: is a TorchScript archive, which holds a program beside its weights"
        hint = "nothing was run; where it is trusted: torch.save(torch.jit.load(path).state_dict(), new_path)"
        raise errors.UnsafeFileError(message, found=("TorchScript",), hint=hint)
    return first


def _byte_order(file: MappedFile, members: Mapping[str, Member], folder: str) -> ByteOrder:
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
class TorchFileRegistry(FileRegistry):
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
        super().__init__(file.path, dialect="torch", document=document)
        longest = max(map(len, state), default=0)
        limits.check("name_chars", longest, f"{file.path}: length of a name")
        # None is absence, as in a module: `register_buffer(name, None)` has no value to save.
        values = {name: value for name, value in state.items() if value is not None}
        listing = list_stored(_stored(values, document), str(file.path))
        tensors = dict(zip(listing.keys, values.values(), strict=True))
        self._file = file
        self._order = order
        self._records = records
        self._listed_entries = listing.entries
        self._tied = listing.aliases
        self._not_arrays = listing.opaque
        self._names = listing.stored
        self._tensors = {key: tensors[key] for key in listing.entries}

    def _entries(self) -> Mapping[str, Entry]:
        return self._listed_entries

    def _aliases(self) -> Mapping[str, str]:
        return self._tied

    def _opaque(self) -> Mapping[str, str]:
        return self._not_arrays

    @property
    def stored_names(self) -> Mapping[str, str]:
        """The name that each entry has inside the file, by key."""
        return MappingProxyType(dict(self._names))

    def _read(self, key: str, /) -> np.ndarray:
        tensor = self._tensors[key]
        begin, nbytes = self._span(tensor)
        return self._shaped(self._file.view(begin, nbytes), tensor, key)

    def _load(self, key: str, /) -> np.ndarray:
        tensor = self._tensors[key]
        begin, nbytes = self._span(tensor)
        plain = not (tensor.conjugate or tensor.negative) and nbytes == math.prod(tensor.shape) * DTYPES[tensor.dtype]
        if plain and _is_contiguous(tensor):
            array = np.empty(tensor.shape, numpy_dtype(tensor.dtype))
            self._file.copy_into(array, begin)
            return bits.settle(array, self._order, f"{self.path}: {key!r}")
        raw = np.empty(nbytes, np.uint8)
        self._file.copy_into(raw, begin)
        return np.array(self._shaped(raw, tensor, key), order="C", copy=True)

    def _span(self, tensor: Tensor) -> tuple[int, int]:
        """Where in the file the first element lies, and the bytes from it to the last one."""
        width = DTYPES[tensor.dtype]
        if 0 in tensor.shape:
            return 0, 0
        reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True))
        return self._records[tensor.storage.key].offset + tensor.offset * width, (reach + 1) * width

    def _shaped(self, raw: np.ndarray, tensor: Tensor, key: str) -> np.ndarray:
        """The bytes of a span as the array that lies in them."""
        where = f"{self.path}: {key!r}"
        width = DTYPES[tensor.dtype]
        if not raw.size or _is_contiguous(tensor):
            array = bits.decode(raw, tensor.shape, tensor.dtype, self._order, where)
        else:
            flat = bits.in_order(raw, tensor.dtype, self._order)
            strides = tuple(step * width for step in tensor.stride)
            # NumPy checks once more that every stride stays inside the buffer.
            array = np.ndarray(tensor.shape, numpy_dtype(tensor.dtype), buffer=flat, strides=strides)
            bits.check_bools(array, tensor.dtype, where)
        if tensor.conjugate or tensor.negative:
            array = bits.flipped(array, conjugate=tensor.conjugate, negative=tensor.negative)
        return array

    def close(self) -> None:
        """Release the file. Idempotent."""
        self._file.close()


def _is_contiguous(tensor: Tensor) -> bool:
    expected = 1
    for size, step in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True


def _stored(values: Mapping[str, object], document: Document | None) -> Stored:
    shapes: list[tuple[int, ...]] = []
    dtypes: list[str | None] = []
    opaque: dict[str, str] = {}
    declared: dict[str, Entry] = {}
    abstract: set[str] = set()
    aliases: dict[str, str] = {}
    places: dict[object, str] = {}
    for name, value in values.items():
        if not isinstance(value, (Tensor, Absent)):
            opaque[name] = describe_opaque(name, value)
            shapes.append(())
            dtypes.append(None)
            continue
        shapes.append(value.shape)
        dtypes.append(value.dtype)
        if value.parameter or value.buffer:
            declared[name] = _declared(value)
        if isinstance(value, Absent):
            abstract.add(name)
        elif 0 not in value.shape:
            first = places.setdefault(_place(value), name)
            if first != name:
                aliases[name] = first
    return Stored(
        tuple(values), shapes, dtypes, opaque=opaque, declared=declared, aliases=aliases, abstract=frozenset(abstract),
        dialect="torch", document=document,
    )  # fmt: skip


def _declared(value: Tensor | Absent) -> Entry:
    if value.buffer:
        return Entry(Kind.BUFFER, value.shape, value.dtype, tag="buffer")
    trainable = value.requires_grad and value.dtype in TRAINABLE
    return Entry(Kind.PARAMETER, value.shape, value.dtype, trainable=trainable)


def _place(value: Tensor) -> object:
    """What two names share when a write to one of them, in torch, is seen at the other."""
    # The stride of an axis of one element is never taken.
    stride = tuple(step if size > 1 else 0 for size, step in zip(value.shape, value.stride, strict=True))
    bent = value.conjugate, value.negative
    return value.storage.key, value.dtype, value.offset, value.shape, stride, bent
