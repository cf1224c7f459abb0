# SPDX-License-Identifier: GPL-2.0-only
"""Where else in a journal's ring a sector is that only one place can have.

The first sector of an entry has its seq and its checksum. A sector behind it has keys, and no two keys name
the same sectors of a device with the same gen; but an entry may repeat the keys of others: when the ring runs
out, the daemon writes all that are needed again (journal/relog.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bcached.format.damage.entry_rest import has_pointers
from bcached.format.jset import JSET_BYTES_MAX, JournalEntry, PlacedEntry
from bcached.state.index.keys.interior_keys import position_of
from bcached.store.journal.reader import BucketFound
from bcached.store.membership import MemberFound
from bcached.units import SECTOR_BYTES


@dataclass(frozen=True, slots=True)
class RingCopies:
    """The buckets of one member's ring."""

    member: MemberFound
    buckets: Sequence[BucketFound]

    async def of_entry(self, seq: int, sector: bytes, bucket: BucketFound, byte: int) -> str | None:
        """Returns where else an entry is that begins with a sector at a byte of a bucket; None if nowhere.

        A repair fills a gap with copies of an entry.
        """
        filled = self._filled_from(bucket, byte)
        for other in self.buckets:
            for placed in other.sound:
                at = placed.offset_bytes
                if placed.entry.seq != seq or (other is bucket and (at == byte or at in filled)):
                    continue
                if await self._read(other, at, SECTOR_BYTES) == sector:
                    return f"{other.where}, byte {at}"
        return None

    async def of_rest(self, sector: bytes, bucket: BucketFound, byte: int) -> str | None:
        """Returns where else a sector of keys is; None if nowhere, or if both places may have it."""
        for other in self.buckets if has_pointers(sector) else ():
            raw = await self._read(other, 0, self._bucket_bytes)
            for at in range(0, len(raw), SECTOR_BYTES) if sector in raw else ():
                is_same = raw[at : at + SECTOR_BYTES] == sector and (other is not bucket or at != byte)
                if is_same and not self._is_in_repetition(other, at):
                    return f"{other.where}, byte {at}"
        return None

    def _is_in_repetition(self, bucket: BucketFound, byte: int) -> bool:
        """Whether a byte is in an entry that may have keys of others."""
        length = self._block_bytes
        return any(
            placed.offset_bytes <= byte < placed.offset_bytes + placed.blocks * length
            and self._may_repeat(placed.entry)
            for placed in bucket.sound
        )

    def _filled_from(self, bucket: BucketFound, byte: int) -> set[int]:
        """Returns the bytes of the bucket to which an entry was copied, block after block, to fill a gap."""
        by_byte = {placed.offset_bytes: placed.entry for placed in bucket.sound}
        entry, filled = by_byte.get(byte), set[int]()
        if entry is None or not entry.is_a_filling:
            return filled
        while by_byte.get(byte) == entry:
            filled.add(byte)
            byte += self._block_bytes
        return filled

    def _may_repeat(self, entry: JournalEntry) -> bool:
        """Whether an entry may have keys of others: it needs no other, or is of several that are merged."""
        if entry.last_seq == entry.seq:
            return True
        needed = [
            placed
            for bucket in self.buckets
            for placed in bucket.sound
            if entry.last_seq <= placed.entry.seq <= entry.seq
        ]
        return _is_sorted(entry) and any(_is_sorted(one.entry) and self._is_long(one) for one in needed)

    def _is_long(self, placed: PlacedEntry) -> bool:
        return 2 * placed.blocks * self._block_bytes >= min(JSET_BYTES_MAX, self._bucket_bytes)

    async def _read(self, bucket: BucketFound, byte: int, length: int) -> bytes:
        return bytes(await self.member.block_device.read(bucket.bucket * self._bucket_bytes + byte, length))

    @property
    def _block_bytes(self) -> int:
        return self.member.superblock.block_bytes

    @property
    def _bucket_bytes(self) -> int:
        return self.member.superblock.bucket_bytes


def _is_sorted(entry: JournalEntry) -> bool:
    return all(position_of(one) < position_of(other) for one, other in pairwise(entry.keys))
