# SPDX-License-Identifier: GPL-2.0-only
"""Values of the disk format for tests: one good sample of each structure, and strategies for all of them."""

import struct
from uuid import UUID

from hypothesis import strategies as st

from bcached.format.bkey import END_MAX
from bcached.format.checksum import crc64_seeded, crc64_we
from bcached.format.jset import JournalEntry
from bcached.format.superblock import FEATURE_INCOMPAT_BCACHED_SET, Superblock
from bcached.format.uuid_entry import UuidEntry
from bcached.format.volume_owner import NOBODY_ID, EntryOwner
from bcached.keys import INODE_MAX, Key, Pointer
from bcached.set_state import Replacement

GIB = 1 << 30
SUPERBLOCK = Superblock(
    uuid=UUID(bytes=bytes(range(16))),
    set_uuid=UUID(bytes=bytes(range(16, 32))),
    version=0,
    bucket_count=1024,
    bucket_sectors=1024,
    block_sectors=8,
    first_bucket=1,
)
SET_MAGIC = SUPERBLOCK.set_magic
UUID_KEY = Key(0, -1024, 1024, False, (Pointer(0, 22528, 1),))
ROOT_KEY = Key(INODE_MAX, END_MAX - 512, 512, False, (Pointer(0, 21504, 1),))
EXTENT = Key(0, 137888, 8, True, (Pointer(0, 8320, 1),))
ENTRY = JournalEntry(1, 1, UUID_KEY, ROOT_KEY, 0, (9, 0, 0, 0, 0, 0, 0, 0))
ENTRY_WITH_KEY = JournalEntry(2, 1, UUID_KEY, ROOT_KEY, 0, (9, 0, 0, 0, 0, 0, 0, 0), (EXTENT,))

words = st.integers(0, (1 << 64) - 1)
halves = st.integers(0, (1 << 32) - 1)
uuids = st.uuids()
labels = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
pointers = st.builds(
    Pointer, device=st.integers(0, 4095), sector=st.integers(0, (1 << 43) - 1), gen=st.integers(0, 255)
)


@st.composite
def keys(draw: st.DrawFn, most_pointers: int = 6) -> Key:
    """Any key the format can hold, deletions, placeholders and keys of nodes included."""
    end, sectors = draw(st.integers(0, END_MAX)), draw(st.integers(0, 65535))
    copies = draw(st.lists(pointers, max_size=most_pointers))
    inode = draw(st.integers(0, INODE_MAX))
    return Key(inode, end - sectors, sectors, draw(st.booleans()), tuple(copies))


@st.composite
def superblocks(draw: st.DrawFn) -> Superblock:
    """Any superblock a device of 64 GiB can have."""
    bucket_sectors = 1 << draw(st.integers(3, 15))
    bucket_count = draw(st.integers(513, 64 * GIB // 512 // bucket_sectors))
    first_bucket = draw(st.integers(max(1, 16 // bucket_sectors), 200))
    journal_count = draw(st.integers(0, min(256, bucket_count - first_bucket - 1)))
    members = draw(st.integers(1, 8))
    version = draw(st.sampled_from([0, 3, 5]))
    known = st.sampled_from([0, FEATURE_INCOMPAT_BCACHED_SET, 2, 2 | FEATURE_INCOMPAT_BCACHED_SET])
    return Superblock(
        uuid=draw(uuids.filter(lambda uuid: uuid.int)),
        set_uuid=draw(uuids.filter(lambda uuid: uuid.int)),
        version=version,
        bucket_count=bucket_count,
        bucket_sectors=bucket_sectors,
        block_sectors=1 << draw(st.integers(0, 3)),
        first_bucket=first_bucket,
        members=members,
        member=draw(st.integers(0, members - 1)),
        journal_buckets=tuple(range(first_bucket, first_bucket + journal_count)),
        synchronous=journal_count > 0 and draw(st.booleans()),
        discard=draw(st.booleans()),
        replacement=draw(st.sampled_from(Replacement)),
        seq=draw(words),
        label=draw(labels),
        last_mount=draw(halves),
        feature_incompat=draw(known if version == 5 else words),
        other_flags=draw(words) & ~0b11111,
    )


entry_owners = st.builds(EntryOwner, st.integers(0, NOBODY_ID - 1), st.booleans(), st.booleans())
uuid_entries = st.builds(
    UuidEntry,
    uuid=uuids.filter(lambda uuid: uuid.int),
    label=labels,
    first_reg=halves,
    last_reg=halves,
    invalidated=halves,
    flash_only=st.booleans(),
    sectors=words,
    other_flags=halves.map(lambda flags: flags & ~1),
    owner=st.none() | entry_owners,
    maker=st.none() | st.integers(0, NOBODY_ID - 1),
)


@st.composite
def journal_entries(draw: st.DrawFn) -> JournalEntry:
    """Any journal entry."""
    seq = draw(st.integers(1, (1 << 64) - 1))
    return JournalEntry(
        seq=seq,
        last_seq=draw(st.integers(1, seq)),
        uuid_bucket=draw(keys()),
        root=draw(keys()),
        level=draw(st.integers(0, 16)),
        prio_heads=tuple(draw(st.lists(words, min_size=8, max_size=8))),
        keys=tuple(draw(st.lists(keys(), max_size=20))),
        version=draw(st.integers(0, 1)),
    )


def with_field(raw: bytes | bytearray, offset: int, layout: str, value: int | bytes) -> bytes:
    """A copy of raw with one field overwritten."""
    changed = bytearray(raw)
    struct.pack_into(f"<{layout}", changed, offset, value)
    return bytes(changed)


def sealed(raw: bytes | bytearray, used_bytes: int, seed: int | None = None) -> bytes:
    """A copy of raw with the checksum over its used bytes put right."""
    body = bytes(raw[8:used_bytes])
    checksum = crc64_we(body) if seed is None else crc64_seeded(body, seed)
    return checksum.to_bytes(8, "little") + bytes(raw[8:])


def flipped(raw: bytes | bytearray, bit: int) -> bytes:
    """A copy of raw with one bit turned over."""
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
