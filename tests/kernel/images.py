# SPDX-License-Identifier: GPL-2.0-only
"""Images as bytes: made with make-bcache, read as far as a judge must, and damaged on purpose.

This reads the disk format by itself, a few offsets of it, and not with bcached's own parsers: a mistake
there must not be able to hide here.
"""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastcrc import crc64

SUPERBLOCK = 4096  # byte offset on the device
JOURNAL_MAGIC = 0x245235C1A3625032
SECTOR = 512
FLAG_SYNC = 1
JOURNAL_BUCKETS_AT = 208  # offset in the superblock of the first journal bucket's number
DATA_OFFSET = 16  # sectors of a backing device in front of its data, which keys count too
ENTRY_HEADER = 240  # bytes of a journal entry in front of its keys


class Reader:
    """Little-endian numbers by their place in some bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def u16(self, offset: int) -> int:
        """A 16-bit number."""
        return int.from_bytes(self.data[offset : offset + 2], "little")

    def u32(self, offset: int) -> int:
        """A 32-bit number."""
        return int.from_bytes(self.data[offset : offset + 4], "little")

    def u64(self, offset: int) -> int:
        """A 64-bit number."""
        return int.from_bytes(self.data[offset : offset + 8], "little")


@dataclass(frozen=True, slots=True)
class Superblock:
    """What a judge needs of it."""

    flags: int
    bucket_count: int
    first_bucket: int
    bucket_bytes: int
    block_bytes: int
    set_magic: int
    journal_buckets: tuple[int, ...]

    @property
    def synchronous(self) -> bool:
        """Whether there is a journal, to be trusted; an image nobody has used yet has none."""
        return bool(self.flags & FLAG_SYNC)


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where something lies, and its bucket's gen then."""

    sector: int
    gen: int

    @classmethod
    def of(cls, word: int) -> "Pointer":
        """Taken apart: 8 bits of gen, 43 of sector."""
        return cls(word >> 8 & (1 << 43) - 1, word & 0xFF)


@dataclass(frozen=True, slots=True)
class Entry:
    """A journal entry whose checksum is good."""

    offset: int  # in bytes, on the device
    seq: int
    uuid_table: Pointer
    root: Pointer
    prio_bucket: int


def make_bcache(tool: Path, path: Path, size_bytes: int, bucket_bytes: int, block_bytes: int) -> None:
    """An image that bcache's own tool laid out."""
    create(path, size_bytes)
    command = [str(tool), "-C", "-b", str(bucket_bytes), "-w", str(block_bytes), str(path)]
    subprocess.run(command, check=True, capture_output=True)


def make_backing(
    path: Path,
    data: bytes,
    uuid: bytes,
    cache: Path,
    *,
    dirty: bool = False,
    attached: bool = True,
    data_offset: int = DATA_OFFSET,
) -> Path:
    """A backing device with this data, attached as the volume of that uuid to the set of the cache device."""
    raw, of_cache = bytearray(4096), read_at(cache, SUPERBLOCK, 4096)
    state = (2 if dirty else 1) if attached else 0
    fields = {8: 8, 16: 4, 104: state << 61 | 1, 184: data_offset}  # where it is, version, writeback
    for offset, value in fields.items():
        raw[offset : offset + 8] = value.to_bytes(8, "little")
    raw[24:40] = of_cache[24:40]  # the magic
    if attached:
        raw[56:72] = of_cache[56:72]  # the set
    raw[40:56] = uuid
    raw[192:196] = of_cache[192:196]  # sizes of block and bucket
    raw[196] = 1  # devices in the set
    raw[:8] = crc64.we(bytes(raw[8:JOURNAL_BUCKETS_AT])).to_bytes(8, "little")
    create(path, data_offset * SECTOR + len(data))
    write_at(path, SUPERBLOCK, bytes(raw))
    write_at(path, data_offset * SECTOR, data)
    return path


def create(path: Path, size_bytes: int) -> None:
    """A sparse file."""
    with open(path, "wb") as file:
        file.truncate(size_bytes)


def copy(source: Path, target: Path) -> Path:
    """A sparse copy."""
    subprocess.run(["cp", "--sparse=always", str(source), str(target)], check=True)
    return target


def read_at(path: Path, offset: int, length: int) -> bytes:
    """Bytes of the image."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def write_at(path: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes of the image."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def superblock(path: Path) -> Superblock:
    """The superblock, taken at its word."""
    read = Reader(read_at(path, SUPERBLOCK, 4096))
    journal = [read.u64(JOURNAL_BUCKETS_AT + 8 * place) for place in range(read.u16(206))]
    return Superblock(
        flags=read.u64(104),
        bucket_count=read.u64(184),
        first_bucket=read.u16(204),
        bucket_bytes=read.u16(194) * SECTOR,
        block_bytes=read.u16(192) * SECTOR,
        set_magic=read.u64(56),
        journal_buckets=tuple(journal),
    )


def journal(path: Path) -> list[Entry]:
    """All journal entries with a good checksum, in the order of seq."""
    layout = superblock(path)
    found = [entry for bucket in layout.journal_buckets for entry in journal_bucket(path, layout, bucket)]
    return sorted(found, key=lambda entry: entry.seq)


def journal_bucket(path: Path, layout: Superblock, bucket: int) -> Iterator[Entry]:
    """The entries of one journal bucket, up to the first that is none."""
    start, at = bucket * layout.bucket_bytes, 0
    data = read_at(path, start, layout.bucket_bytes)
    while at + ENTRY_HEADER <= len(data):
        read = Reader(data[at:])
        length = ENTRY_HEADER + 8 * read.u32(28)
        if read.u64(8) != layout.set_magic ^ JOURNAL_MAGIC or at + length > len(data):
            return
        if crc64.we(read.data[8:length]) != read.u64(0):
            return
        uuid_table, root = Pointer.of(read.u64(56)), Pointer.of(read.u64(120))
        yield Entry(start + at, read.u64(16), uuid_table, root, read.u64(176))
        at += -(-length // layout.block_bytes) * layout.block_bytes


def flip(path: Path, offset: int) -> None:
    """Damage one byte."""
    write_at(path, offset, bytes([read_at(path, offset, 1)[0] ^ 0xFF]))


def damage_superblock(path: Path) -> None:
    """The device's uuid no longer fits the checksum."""
    flip(path, SUPERBLOCK + 40)


def damage_journal(path: Path) -> None:
    """The newest journal entry's last_seq no longer fits its checksum."""
    flip(path, journal(path)[-1].offset + 32)


def damage_prios(path: Path) -> None:
    """A gen in the first prio set no longer fits its checksum."""
    flip(path, journal(path)[-1].prio_bucket * superblock(path).bucket_bytes + 42)


def damage_root(path: Path) -> None:
    """The root node's checksum no longer fits the node."""
    flip(path, journal(path)[-1].root.sector * SECTOR)


def forget_journal(path: Path) -> None:
    """The superblock, with a good checksum, says that the device has never been used."""
    data = bytearray(read_at(path, SUPERBLOCK, 4096))
    data[104] &= ~FLAG_SYNC
    end = JOURNAL_BUCKETS_AT + 8 * Reader(bytes(data)).u16(206)
    data[:8] = crc64.we(bytes(data[8:end])).to_bytes(8, "little")
    write_at(path, SUPERBLOCK, bytes(data))
