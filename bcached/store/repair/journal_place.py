# SPDX-License-Identifier: GPL-2.0-only
"""Where the journal of a set is whose superblock is lost: its first bucket may be another than the usual one.

The entries show some of its buckets. Any run of buckets as long as a journal that has all of those, and none
that is in use, makes a set that loses nothing and overwrites nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bcached.device.block_device import BlockDevice
from bcached.errors import BcachedError
from bcached.format.superblock import (
    COPY_SECTOR,
    SUPERBLOCK_SECTOR,
    SUPERBLOCK_SECTORS,
    Superblock,
    journal_bucket_count_for,
)
from bcached.store.membership import MemberFound
from bcached.store.patched_device import Patch, patched_devices
from bcached.store.repair.new_metadata.new_buckets import buckets_in_use
from bcached.store.rescue.remains.journal_left import entries_near_beginning
from bcached.store.rescue.remains.set_left import read_what_is_left
from bcached.store.rescue.remains.superblock_left import MemberLeft
from bcached.units import SECTOR_BYTES


@dataclass(frozen=True, slots=True)
class _Entries:
    """The buckets in which entries of a member's journal were found, and which of them has entry 1."""

    buckets: frozenset[int]
    first_entry: int | None

    @classmethod
    async def of(cls, member: MemberFound) -> "_Entries":
        """Returns what a search near the device's beginning finds."""
        bucket_bytes = member.superblock.bucket_bytes
        seqs = [(byte // bucket_bytes, entry.seq) async for byte, entry in entries_near_beginning(member)]
        first = [bucket for bucket, seq in seqs if seq == 1]
        return cls(frozenset(bucket for bucket, _ in seqs), first[0] if first else None)


async def with_places_found(
    devices: Sequence[BlockDevice], members: Sequence[MemberLeft]
) -> list[MemberLeft]:
    """Returns the members of these devices with journals that have all entries, and nothing that is in use.

    A journal for which there is no such place stays as it is.
    """
    entries = {
        number: await _Entries.of(member.found) for number, member in enumerate(members) if member.is_guess
    }
    entries = {number: found for number, found in entries.items() if found.buckets}
    if not entries:
        return list(members)
    smallest = {
        number: _with_journal(members[number].found.superblock, min(found.buckets), max(found.buckets) + 1)
        for number, found in entries.items()
    }
    used = await _used(devices, members, smallest)
    return [
        _placed(member, entries[number], used[number]) if number in used else member
        for number, member in enumerate(members)
    ]


async def _used(
    devices: Sequence[BlockDevice], members: Sequence[MemberLeft], smallest: dict[int, Superblock]
) -> dict[int, NDArray[np.bool_]]:
    """Returns which buckets of the members are in use, read with the smallest journals that there may be."""
    superblocks = [
        replace(smallest.get(number, member.found.superblock), synchronous=True)
        for number, member in enumerate(members)
    ]
    patches = [
        Patch(number, SUPERBLOCK_SECTOR * SECTOR_BYTES, superblock.pack())
        for number, superblock in enumerate(superblocks)
    ]
    try:
        left = await read_what_is_left(patched_devices(devices, patches))
    except BcachedError:
        return {}
    return {number: buckets_in_use(left, members[number].found.superblock.member) for number in smallest}


def _placed(member: MemberLeft, entries: _Entries, used: NDArray[np.bool_]) -> MemberLeft:
    superblock = member.found.superblock
    for first, end in _places(superblock, entries):
        others = [bucket for bucket in range(first, end) if bucket not in entries.buckets]
        is_behind = first * superblock.bucket_sectors >= SUPERBLOCK_SECTOR + SUPERBLOCK_SECTORS
        if is_behind and end < superblock.bucket_count and not used[others].any():
            placed = _with_journal(superblock, first, end)
            return replace(member, found=replace(member.found, superblock=placed))
    return member


def _places(superblock: Superblock, entries: _Entries) -> Iterator[tuple[int, int]]:
    """Yields the runs of buckets that the journal may be, the most probable one first.

    1. A first run begins its journal with the second bucket. 2. As it is. 3. In front of it there may be
    something of the owner's: the last place. 4. A set that was made larger or smaller keeps its journal.
    """
    low, end = min(entries.buckets), max(entries.buckets) + 1
    lowest = -(-(COPY_SECTOR + SUPERBLOCK_SECTORS) // superblock.bucket_sectors)
    journal = superblock.journal_buckets
    counts = len(journal), journal_bucket_count_for(superblock.bucket_count)
    if entries.first_entry == low:
        yield from ((low - 1, low - 1 + count) for count in counts if end <= low - 1 + count)
    if journal[0] <= low and end <= journal[-1] + 1:
        yield journal[0], journal[-1] + 1
    for count in counts:
        yield from ((first, first + count) for first in range(low, max(end - count, lowest) - 1, -1))
    yield low, max(end, low + 2)


def _with_journal(superblock: Superblock, first: int, end: int) -> Superblock:
    return replace(superblock, first_bucket=first, journal_buckets=tuple(range(first, end)))
