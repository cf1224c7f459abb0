# SPDX-License-Identifier: GPL-2.0-only
"""What an undo file holds: blocks as they were before a repair wrote them, and what it wrote.

Each record is a line of JSON and, behind it, the bytes that it announces. The first one names the devices. A
record that an interruption cut off ends the file: what it is about was not written yet. The last one of a
repair that ended tells how many there are.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import BinaryIO

import msgspec

from bcached.errors import SetRefused
from bcached.units import SECTOR_BYTES

FORMAT = "bcached undo file, version 1"
DIGEST_BYTES = 8
LINE_BYTES_MAX = 1 << 20
HEADER = b'{"format":"%s","devices":[' % FORMAT.encode()  # how a file begins


class DeviceNamed(msgspec.Struct, frozen=True):
    """A device that a repair writes to."""

    path: str
    size_bytes: int


class UndoHeader(msgspec.Struct, frozen=True):
    """The first record."""

    format: str
    devices: list[DeviceNamed]


class _RecordLine(msgspec.Struct, frozen=True):
    """The line of each other record. after has the digest of each sector as it was written."""

    device: int
    byte: int
    length: int
    digest: str
    after: str


class UndoEnd(msgspec.Struct, frozen=True):
    """The last record of a repair that ended: how many there are, without the header and this one."""

    records: int


@dataclass(frozen=True, slots=True)
class UndoRecord:
    """Bytes as they were, and a digest of each sector as it was written then."""

    device: int
    byte: int
    before: bytes
    after: tuple[bytes, ...]


def pack_header(devices: Sequence[DeviceNamed]) -> bytes:
    """Returns the first record."""
    header = msgspec.to_builtins(UndoHeader(FORMAT, list(devices)))
    return json.dumps(header, separators=(",", ":")).encode() + b"\n"  # a path may be no UTF-8


def pack_record(device: int, byte: int, before: bytes, after: bytes) -> bytes:
    """Returns a record of whole sectors."""
    assert len(before) == len(after)
    digests = b"".join(sector_digests(after))
    line = _RecordLine(device, byte, len(before), digest_of(before).hex(), digests.hex())
    return msgspec.json.encode(line) + b"\n" + before


def pack_end(records: int) -> bytes:
    """Returns the last record."""
    return msgspec.json.encode(UndoEnd(records)) + b"\n"


def holds_no_record(path: str) -> bool:
    """Whether a file has at most a header: that is what an interruption leaves of one that was just begun."""
    with open(path, "rb") as file:
        raw = file.read(LINE_BYTES_MAX)
    if not raw.startswith(HEADER[: len(raw)]):
        return False
    return not raw.partition(b"\n")[2]


def read_header(file: BinaryIO, path: str) -> UndoHeader:
    """Returns the first record. Raises SetRefused if it is no undo file."""
    try:
        header = msgspec.convert(json.loads(file.readline(LINE_BYTES_MAX)), UndoHeader)
    except (ValueError, RecursionError):  # MsgspecError is a ValueError, too
        header = None
    if header is None or header.format != FORMAT:
        raise SetRefused(f"{path}: expected an undo file of bcachectl repair, found something else")
    return header


def read_records(file: BinaryIO, path: str) -> Iterator[UndoRecord | UndoEnd]:
    """Yields the whole records. Raises SetRefused if one is damaged, or missing, that others follow."""
    count = 0
    while line := file.readline(LINE_BYTES_MAX):
        record = _end_of(line) or _record_of(line, file)
        is_last = record is None or isinstance(record, UndoEnd)
        if is_last and file.read(1):
            raise SetRefused(f"{path}: damaged at byte {file.tell()}: nothing was restored")
        if isinstance(record, UndoEnd) and record.records != count:
            raise SetRefused(
                f"{path}: damaged: expected {record.records} records, found {count}: nothing was restored"
            )
        if record is None:
            return
        count += 1
        yield record


def _end_of(line: bytes) -> UndoEnd | None:
    try:
        return msgspec.json.decode(line, type=UndoEnd)
    except msgspec.MsgspecError:
        return None


def _record_of(line: bytes, file: BinaryIO) -> UndoRecord | None:
    try:
        head = msgspec.json.decode(line, type=_RecordLine)
        digests = bytes.fromhex(head.after)
    except (msgspec.MsgspecError, ValueError):
        return None
    before = file.read(head.length)
    sectors, rest = divmod(len(before), SECTOR_BYTES)
    if rest or len(digests) != sectors * DIGEST_BYTES or digest_of(before).hex() != head.digest:
        return None
    after = (digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES))
    return UndoRecord(head.device, head.byte, before, tuple(after))


def sector_digests(data: bytes) -> Iterator[bytes]:
    """Yields a digest of each sector."""
    view = memoryview(data)
    for at in range(0, len(view), SECTOR_BYTES):
        yield digest_of(view[at : at + SECTOR_BYTES])


def digest_of(data: bytes | memoryview) -> bytes:
    """Returns a digest of some bytes."""
    return blake2b(data, digest_size=DIGEST_BYTES).digest()
