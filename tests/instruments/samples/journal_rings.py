# SPDX-License-Identifier: GPL-2.0-only
"""Members whose journal buckets hold what a test puts there."""

from collections.abc import Mapping
from dataclasses import replace

from bcached.format.jset import JournalEntry
from bcached.store.membership import MemberFound
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.format_samples import ENTRY, SUPERBLOCK

BUCKET, BLOCK = 4096, 512
COUNT = 8
MEMBER = replace(
    SUPERBLOCK, bucket_sectors=8, block_sectors=1, first_bucket=3, journal_buckets=tuple(range(3, 3 + COUNT))
)
Ring = Mapping[int, list[JournalEntry | bytes]]  # what stands in a bucket, by its index


def entry(seq: int, last_seq: int | None = None) -> JournalEntry:
    """An entry that needs those from last_seq on; only itself if that is None."""
    return replace(ENTRY, seq=seq, last_seq=seq if last_seq is None else last_seq)


def packed(one: JournalEntry) -> bytes:
    """An entry as it is on the device."""
    return bytes(one.pack(MEMBER.set_magic, BLOCK))


def member(ring: Ring, discard: bool = False) -> MemberFound:
    """A member whose journal holds this."""
    device = MemoryDevice(64 * BUCKET)
    for index, contents in ring.items():
        offset = MEMBER.journal_buckets[index] * BUCKET
        for content in contents:
            raw = content if isinstance(content, bytes) else packed(content)
            device.disk.contents[offset : offset + len(raw)] = raw
            offset += len(raw)
    return MemberFound(device, replace(MEMBER, discard=discard))
