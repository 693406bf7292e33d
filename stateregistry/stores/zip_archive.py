"""The directory of a zip archive whose members are stored as they are: where each member's bytes lie in the file.

Stricter than the format: members are not encrypted, names stand once, the local header of each member says what the
directory says, members do not overlap, and all of them lie before the directory. So no two readers can see different
archives in one file, and a member that is not compressed can be mapped into memory. Imports no framework.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol, final

from stateregistry import errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stateregistry.stores.limits import Limits

LOCAL_MAGIC = b"PK\x03\x04"
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_ENCRYPTED = 0x2041  # encrypted, strongly encrypted, headers masked
_SIZES_FOLLOW = 0x0008


class Bytes(Protocol):
    """A file, or a stretch of one, that is read at positions."""

    @property
    def path(self) -> Path:
        """The file, for messages."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, offset: int, nbytes: int) -> bytes:
        """Some of them, copied."""


@final
@dataclass(frozen=True, slots=True)
class Member:
    """One member.

    Attributes:
        name: its path inside the archive.
        offset: where its bytes begin in the file.
        size: how many they are, as they lie in the file.
        crc: the CRC-32 of what they hold, as the directory gives it.
        method: how they are compressed; 0 for not at all.
        full: how many bytes they hold, as the directory gives it; `size` where they are not compressed.
    """

    name: str
    offset: int
    size: int
    crc: int
    method: int
    full: int


def read_directory(file: Bytes, limits: Limits) -> Mapping[str, Member]:
    """The members of an archive by name, in the order of the file.

    Raises:
        FileFormatError: truncated, damaged, compressed, encrypted, or contradicting itself.
    """
    where = str(file.path)
    count, size, offset = _end_of_directory(file, where)
    limits.check("archive_members", count, f"{where}: members of the archive")
    if offset + size > file.size or count * _CENTRAL.size > size:
        _fail(where, "its directory is said to lie where the file does not have it")
    raw = file.read(offset, size)
    rows: list[_Row] = []
    at = 0
    for _ in range(count):
        at, row = _central(raw, at, where)
        rows.append(row)
    if at != len(raw):
        _fail(where, f"its directory has {len(raw) - at} bytes more than its {count} members take")
    rows.sort(key=lambda row: row.header)
    members: dict[str, Member] = {}
    cursor = 0
    for row in rows:
        if row.header < cursor:
            _fail(where, f"the member {row.name!r} overlaps the one before it")
        begin = _local(file, row, where, offset)
        cursor = begin + row.packed
        if cursor > offset:
            _fail(where, f"the member {row.name!r} has {row.packed:,} bytes, and its archive ends before")
        if row.name in members:
            _fail(where, f"the member {row.name!r} stands twice")
        members[row.name] = Member(row.name, begin, row.packed, row.crc, row.method, row.size)
    return members


def require_stored(members: Mapping[str, Member], where: str) -> None:
    """Refuse an archive with compressed members: they cannot be mapped, and can grow without end.

    Raises:
        FileFormatError: a member is compressed.
    """
    found = next((member for member in members.values() if member.method), None)
    if found is not None:
        message = f"{where}: the member {found.name!r} is compressed (method {found.method}), which torch does not do"
        hint = "unzip it and zip it again with 'zip -0', or torch.save it again"
        raise errors.FileFormatError(message, expected=0, found=found.method, hint=hint)


def read_member(file: Bytes, member: Member) -> bytes:
    """The bytes of a small member, held against their CRC.

    Raises:
        FileFormatError: they are not what the archive was written with.
    """
    raw = file.read(member.offset, member.size)
    if zlib.crc32(raw) != member.crc:
        _fail(str(file.path), f"the member {member.name!r} is damaged: its CRC-32 does not fit")
    return raw


def _fail(where: str, what: str) -> NoReturn:
    hint = "the file is truncated or damaged: get it again"
    raise errors.FileFormatError(f"{where}: {what}", hint=hint)


def _end_of_directory(file: Bytes, where: str) -> tuple[int, int, int]:
    """Number of members, bytes and offset of the central directory."""
    tail_at = max(0, file.size - _END.size - 0xFFFF)
    tail = file.read(tail_at, file.size - tail_at)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        _fail(where, "it begins as a zip archive and has no directory at its end")
    _, disk, first_disk, here, count, size, offset, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment != len(tail):
        _fail(where, "something follows the end of the zip archive")
    if disk or first_disk or here != count:
        _fail(where, "it is one part of a zip archive in several files")
    locator_at = tail_at + at - _LOCATOR.size
    locator = file.read(locator_at, _LOCATOR.size) if locator_at >= 0 else b""
    if locator[:4] != b"PK\x06\x07":
        if count == 0xFFFF or 0xFFFFFFFF in (size, offset):
            _fail(where, "its directory is a large one (zip64), and has no locator")
        if offset + size != tail_at + at:
            _fail(where, "its directory does not end where the archive ends")
        return count, size, offset
    _, disk64, end64_at, disks = _LOCATOR.unpack(locator)
    if disk64 or disks > 1 or end64_at + _END64.size != locator_at:
        _fail(where, "its large directory (zip64) does not lie where it is said to lie")
    record = _END64.unpack(file.read(end64_at, _END64.size))
    signature, length, _, _, disk, first_disk, here, count64, size64, offset64 = record
    if signature != b"PK\x06\x06" or length != _END64.size - 12 or disk or first_disk or here != count64:
        _fail(where, "the end of its large directory (zip64) is damaged")
    for small, large, top in ((count, count64, 0xFFFF), (size, size64, 2**32 - 1), (offset, offset64, 2**32 - 1)):
        if small not in (top, large):
            _fail(where, "its two directories (zip and zip64) contradict each other")
    if offset64 + size64 != end64_at:
        _fail(where, "its directory does not end where the archive ends")
    return count64, size64, offset64


@final
@dataclass(frozen=True, slots=True)
class _Row:
    """One row of the directory."""

    header: int
    name: str
    raw_name: bytes
    packed: int
    size: int
    crc: int
    flags: int
    method: int


def _central(raw: bytes, at: int, where: str) -> tuple[int, _Row]:
    """One row of the directory, and where the next begins."""
    if len(raw) - at < _CENTRAL.size:
        _fail(where, "its directory is cut short")
    row = _CENTRAL.unpack_from(raw, at)
    signature, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length = row[:13]
    disk, _, _, header = row[13:17]
    name_at = at + _CENTRAL.size
    extra_at = name_at + name_length
    end = extra_at + extra_length + comment_length
    if signature != b"PK\x01\x02" or end > len(raw):
        _fail(where, "its directory is damaged")
    raw_name = raw[name_at:extra_at]
    name = raw_name.decode("utf-8", "surrogateescape")
    if flags & _ENCRYPTED:
        _fail(where, f"the member {name!r} is encrypted")
    if 0xFFFFFFFF in (size, packed, header):
        size, packed, header = _large(raw[extra_at : extra_at + extra_length], size, packed, header, name, where)
    if (size != packed and not method) or disk not in (0, 0xFFFF):
        _fail(where, f"the member {name!r} has {size:,} bytes stored as {packed:,}")
    return end, _Row(header, name, raw_name, packed, size, crc, flags, method)


def _large(extra: bytes, size: int, packed: int, header: int, name: str, where: str) -> tuple[int, int, int]:
    """The 64-bit numbers of a member whose 32-bit ones are full."""
    at = 0
    while len(extra) - at >= 4:
        tag, length = struct.unpack_from("<2H", extra, at)
        if at + 4 + length > len(extra):
            break
        if tag == 1:
            numbers = list(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            full = [number == 0xFFFFFFFF for number in (size, packed, header)]
            if len(numbers) < sum(full):
                break
            return (
                numbers.pop(0) if full[0] else size,
                numbers.pop(0) if full[1] else packed,
                numbers.pop(0) if full[2] else header,
            )
        at += 4 + length
    _fail(where, f"the member {name!r} is a large one (zip64), and its length is not given")


def _local(file: Bytes, row: _Row, where: str, directory: int) -> int:
    """Where the bytes of a member begin, by its own header, which must say what the directory says."""
    name_at = row.header + _LOCAL.size
    if name_at + len(row.raw_name) > directory:
        _fail(where, f"the member {row.name!r} begins beyond the end of the archive")
    raw = file.read(row.header, _LOCAL.size + len(row.raw_name))
    signature, _, flags, method, _, _, _, packed, size, name_length, extra_length = _LOCAL.unpack_from(raw)
    begin: int = name_at + name_length + extra_length
    if signature != LOCAL_MAGIC or method != row.method or flags & _ENCRYPTED or begin > directory:
        _fail(where, f"the header of the member {row.name!r} is damaged")
    if name_length != len(row.raw_name) or raw[_LOCAL.size :] != row.raw_name:
        _fail(where, f"the member {row.name!r} has another name in its own header")
    # A size that follows the bytes is 0 here, and a large one is full: both are in the directory.
    free = {0xFFFFFFFF, 0} if (flags | row.flags) & _SIZES_FOLLOW else {0xFFFFFFFF}
    if not {packed} <= free | {row.packed} or not {size} <= free | {row.size}:
        _fail(where, f"the member {row.name!r} has another size in its own header")
    return begin
