# SPDX-License-Identifier: GPL-2.0-only
"""A journal of one entry without keys, which names new metadata, in place of one that may be damaged.

The new entry is written first, to the bucket of each ring that is next: it needs no other. What is left of
the old entries is erased then, wherever it is, so that neither bcached nor the kernel finds it again.
"""

from dataclasses import dataclass

import numpy as np

from bcached.format.jset import JSET_BYTES_MAX, JournalEntry, trace_entries
from bcached.store.membership import MemberFound
from bcached.store.patched_device import Patch
from bcached.store.reading.journal_check import SEQ_MAX
from bcached.store.rescue.remains.journal_left import JournalLeft
from bcached.units import SECTOR_BYTES


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the entry goes on a member."""

    member: int
    byte: int


def next_seq(journal: JournalLeft, members: list[MemberFound]) -> int:
    """Returns the seq for a new entry: higher than any that may have been written."""
    newest = journal.entries[-1].seq
    superblock = members[0].superblock
    # A ring cannot hold more entries than blocks.
    blocks = max(len(member.superblock.journal_buckets) for member in members)
    seq_max = newest + blocks * superblock.bucket_sectors // superblock.block_sectors
    traces = [trace.seq for bucket in journal.found.buckets for trace in bucket.traces]
    written = [newest, *(seq for seq in traces if seq <= seq_max)]
    # No entry can follow one with a higher seq, which is damaged.
    return max((seq for seq in written if seq < SEQ_MAX), default=0) + 1


async def write_entry(
    journal: JournalLeft, members: list[MemberFound], former_numbers: list[int], entry: JournalEntry
) -> tuple[list[Patch], list[Patch]]:
    """Returns the writes of the entry, and those that erase all others."""
    writes: list[Patch] = []
    erasures: list[Patch] = []
    for number, member in enumerate(members):
        superblock = member.superblock
        bucket_bytes, block_bytes = (
            superblock.bucket_bytes,
            superblock.block_bytes,
        )
        place = _Place(
            number, superblock.journal_buckets[_index(journal, former_numbers[number], member)] * bucket_bytes
        )
        raw = entry.pack(superblock.set_magic, block_bytes)
        writes.append(Patch(number, place.byte, raw))
        erasures += await _erasures(member, place, len(raw))
    return writes, erasures


def _index(journal: JournalLeft, number: int, member: MemberFound) -> int:
    """Returns which bucket of a ring is next: the one behind the newest entry's (kernel: 1 at first)."""
    newest, index = 0, 0
    for bucket in journal.found.buckets:
        for placed in bucket.entries:
            if bucket.member == number and placed.entry.seq > newest:
                newest, index = placed.entry.seq, bucket.index
    return (index + 1) % len(member.superblock.journal_buckets)


async def _erasures(member: MemberFound, place: _Place, length: int) -> list[Patch]:
    """Returns zeros for all that is in buckets with entries, and for the block behind the new entry.

    A rest of an old entry behind the new one would look as if a newer entry had been erased.
    """
    superblock = member.superblock
    bucket_bytes, block_bytes = (
        superblock.bucket_bytes,
        superblock.block_bytes,
    )
    blocks = set[int]()
    for bucket in superblock.journal_buckets:
        begin = bucket * bucket_bytes
        raw = await member.block_device.read(begin, bucket_bytes)
        if trace_entries(raw, superblock.set_magic, SECTOR_BYTES):
            used = np.frombuffer(raw, np.uint8).reshape(-1, block_bytes).any(axis=1)
            blocks.update((begin + np.flatnonzero(used) * block_bytes).tolist())
    behind = place.byte + length
    if behind < place.byte + bucket_bytes:
        blocks.add(behind)
    blocks -= set(range(place.byte, behind, block_bytes))
    assert length <= JSET_BYTES_MAX
    return [Patch(place.member, byte, bytes(block_bytes)) for byte in sorted(blocks)]
