"""The bytes of a member of a zip archive, stored or deflated, in pieces: never more of them than the directory declares.

What is declared is bounded before anything is inflated, and what comes out is held against its length and its CRC-32, so
that a bomb costs what it declares at most, and damage is an error. Methods other than deflate are refused. Imports NumPy,
no framework.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from stateregistry import errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stateregistry.stores.limits import Limits
    from stateregistry.stores.mapped import MappedFile
    from stateregistry.stores.zip_archive import Member

STORED, DEFLATED = 0, 8
#: Stored bytes that are read at once, and bytes that come out of the inflater at once.
PIECE = 1 << 20
#: Compressed bytes that are read at once.
_READ = 1 << 16
#: What compressed members may hold whatever the file measures: states of zeros are compressed a thousandfold.
_FREE = 64 * 2**20


def check_inflation(members: Mapping[str, Member], size: int, where: str, limits: Limits) -> None:
    """Hold what the members are said to hold against the limit; `size` is that of the file.

    Raises:
        FileFormatError: above the limit, or a member that is compressed by something other than deflate.
    """
    grown = 0
    for member in members.values():
        if member.method not in (STORED, DEFLATED):
            message = (
                f"{where}: the member {member.name!r} is compressed by method {member.method}, which NumPy never uses"
            )
            hint = "write it again with numpy.savez or numpy.savez_compressed"
            raise errors.FileFormatError(message, expected=(STORED, DEFLATED), found=member.method, hint=hint)
        grown += member.full if member.method else 0
    if grown > _FREE:
        limits.check("inflation", grown // max(size, 1), f"{where}: bytes that each of its bytes is to become")


def pieces(file: MappedFile, member: Member, where: str) -> Iterator[bytes]:
    """All that a member holds, in pieces of at most `PIECE` bytes, held against length and CRC-32 at the end.

    Raises:
        FileFormatError: it is not what the archive was written with.
    """
    crc = 0
    for piece in _stored(file, member) if member.method == STORED else _inflated(file, member, where):
        crc = zlib.crc32(piece, crc)
        yield piece
    if crc != member.crc:
        _fail(where, f"the member {member.name!r} is damaged: its CRC-32 does not fit")


def read_into(target: np.ndarray, file: MappedFile, member: Member, skip: int, where: str) -> None:
    """Fill an array of bytes with what a member holds after its first `skip` bytes.

    Raises:
        FileFormatError: as `pieces`; or it does not hold `skip` and the length of the array.
    """
    if member.full != skip + target.size:
        _fail(where, f"the member {member.name!r} holds {member.full:,} bytes, expected {skip + target.size:,}")
    at = -skip
    for piece in pieces(file, member, where):
        begin = max(0, -at)
        if begin < len(piece):
            target[at + begin : at + len(piece)] = np.frombuffer(piece, np.uint8)[begin:]
        at += len(piece)


def beginning(file: MappedFile, member: Member, count: int, where: str) -> bytes:
    """The first bytes that a member holds, fewer where it ends before. Not held against the CRC.

    Raises:
        FileFormatError: it cannot be inflated.
    """
    count = min(count, member.full)
    if member.method == STORED:
        return file.read(member.offset, count)
    found = b""
    for piece in _inflated(file, member, where, step=max(count, 1)):
        found += piece
        if len(found) >= count:
            break
    return found[:count]


def _stored(file: MappedFile, member: Member) -> Iterator[bytes]:
    for done in range(0, member.size, PIECE):
        yield file.read(member.offset + done, min(PIECE, member.size - done))


def _inflated(file: MappedFile, member: Member, where: str, step: int = PIECE) -> Iterator[bytes]:
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    packed, done, waiting = 0, 0, b""
    while not machine.eof:
        if not waiting and packed < member.size:
            waiting = file.read(member.offset + packed, min(_READ, member.size - packed))
            packed += len(waiting)
        fed = bool(waiting)
        try:
            piece = machine.decompress(waiting, min(step, PIECE))  # what is left of a full window needs no more input
        except zlib.error as error:
            message = f"{where}: the member {member.name!r} cannot be inflated: {error}"
            raise errors.FileFormatError(message, hint="the file is truncated or damaged: get it again") from error
        waiting = machine.unconsumed_tail
        done += len(piece)
        if done > member.full:
            _fail(where, f"the member {member.name!r} holds more than the {member.full:,} bytes that it declares")
        if piece:
            yield piece
        elif not (fed or machine.eof):
            _fail(where, f"the member {member.name!r} ends in the middle of what it holds")
    if done != member.full or packed != member.size or machine.unused_data:
        _fail(where, f"the member {member.name!r} has {done:,} bytes inside, and declares {member.full:,}")


def _fail(where: str, what: str) -> NoReturn:
    hint = "the file is truncated or damaged: get it again"
    raise errors.FileFormatError(f"{where}: {what}", hint=hint)
