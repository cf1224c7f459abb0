# SPDX-License-Identifier: GPL-2.0-only
"""What is at a place where the next journal entry would be, and whether an earlier lap of the ring left it.

An entry overwrites its blocks and nothing else. So behind it is the rest of an entry of the lap before, and
then that lap's entries in sequence, up to the one in front of the first entry of the bucket that follows. A
power cut that interrupts the next entry may replace any sector of that but the first: else there is a trace
of that entry. Anything else in the first sector was written there by mistake, maybe over an entry.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bcached.errors import BcachedError
from bcached.format.damage.entry_rest import ends_of_rest
from bcached.format.damage.torn_entry import begins_with_key_word
from bcached.format.jset import EntryTrace, PlacedEntry, claimed_bytes, is_of_another_set
from bcached.format.magic import SUPERBLOCK_MAGIC
from bcached.store.journal.reader import BucketFound, End, JournalEnd, KeySector
from bcached.store.membership import MemberFound
from bcached.store.reading.ring_copies import RingCopies
from bcached.store.reading.ring_order import may_follow, may_precede
from bcached.units import SECTOR_BYTES

ERASED_BYTES = 24  # up to an entry's seq, and no more of it need be erased to hide it
UNLESS_DISCARDED = " (or the kernel discarded it, and discards were switched off since)"
GAP = f"there is a gap, and entries of an earlier lap are behind it{UNLESS_DISCARDED}"
NO_REST = "what is there is no entry, and nothing that an earlier lap of the ring can have left"


@dataclass(frozen=True, slots=True)
class NextPlace:
    """A byte of a journal bucket where the entry behind the newest would begin."""

    member: MemberFound
    bucket: BucketFound
    byte: int
    following: Sequence[BucketFound]  # the ring's other buckets, in the order in which they are used after it
    newest: int

    async def end(self) -> JournalEnd:
        """Returns what the first sector shows, if entries of an earlier lap are behind it, or there.

        1. An entry. 2. Zeros are not what a writer leaves. 3. The rest of an entry. 4. Anything else may be
        a sector that was being written when the power failed, but hardly any device garbles that.
        """
        try:
            return await self._end_by_sector(await self._read(self.byte, SECTOR_BYTES))
        except BcachedError as error:
            return JournalEnd(unread=error)

    async def _end_by_sector(self, first: bytes) -> JournalEnd:
        header = next((trace for trace in self.bucket.traces if trace.byte == self.byte), None)
        if header is not None:
            return await self._end_by_header(header, first)
        if not any(first[:ERASED_BYTES]):
            return self.suspect(GAP)
        if not await self._may_be_rest(first):
            return self.suspect(NO_REST, is_torn=True)
        copy = await self._copies.of_rest(first, self.bucket, self.byte)
        return self.suspect(f"what is there is at {copy}, too") if copy else JournalEnd(End.PROVEN)

    async def end_without_older(self) -> JournalEnd:
        """Returns what a place shows if no entry of an earlier lap is behind it, or there.

        1. What is somewhere else, too, was written here by mistake. 2. In the first lap, keys may be what
        was left of an entry whose write a power cut interrupted, or of the index (check/node_copies.py).
        3. Anything that no set has in such places cannot be all that was ever written behind the newest
        entry, but for the rest of the entry that it was written over.
        """
        try:
            return await self._end_by_bytes(await self._read(self.byte, self.bucket_bytes - self.byte))
        except BcachedError as error:
            return JournalEnd(unread=error)

    async def _end_by_bytes(self, raw: bytes) -> JournalEnd:
        is_entry = any(trace.byte == self.byte for trace in self.bucket.traces)
        if is_entry or not any(raw[:ERASED_BYTES]) or self.member.superblock.discard:
            return JournalEnd()
        if ends_of_rest(raw):
            first = raw[:SECTOR_BYTES]
            if copy := await self._copies.of_rest(first, self.bucket, self.byte):
                return self.suspect(f"what is there is at {copy}, too")
            if self.byte:
                keys = KeySector(self.where, first) if self._is_in_first_lap() else None
                return JournalEnd(keys=keys)
        is_of_a_set = SUPERBLOCK_MAGIC in raw[:SECTOR_BYTES] or is_of_another_set(raw, 0, self.bucket.where)
        if is_of_a_set or not all(map(ends_of_rest, _sectors(raw[SECTOR_BYTES:]))):
            return JournalEnd()
        return self.suspect(NO_REST, is_torn=True)

    def suspect(self, why: str, *, is_torn: bool = False) -> JournalEnd:
        """Returns an end that is suspect by what is there."""
        return JournalEnd(End.SUSPECT, self.where, why, is_torn=is_torn)

    @property
    def where(self) -> str:
        """The location, in words."""
        return f"{self.bucket.where}, byte {self.byte}"

    def gap_end(self) -> int:
        """Returns the byte where what an earlier lap left begins."""
        if (start := self._start_of_lap()) is not None:
            return start.offset_bytes
        behind = [trace.byte for trace in self.bucket.traces if self.byte < trace.byte]
        return min(behind, default=self.byte + self.block_bytes)

    async def _end_by_header(self, header: EntryTrace, first: bytes) -> JournalEnd:
        """Returns what an older entry there shows.

        1. Its number is damaged. 2. It is somewhere else, too, or belongs there. 3. It is not what the lap
        before had there. 4. It is, as far as that is known; if it is not whole, another was being written
        over it when the power failed.
        """
        if header.seq > self.newest:
            return JournalEnd()
        if (copy := await self._copies.of_entry(header.seq, first, self.bucket, self.byte)) is not None:
            return self.suspect(f"entry {header.seq} is there, and at {copy}, too")
        here = next((one for one in self.bucket.sound if one.offset_bytes == self.byte), None)
        if here is not None and not here.entry.is_a_filling and self._is_out_of_order(here):
            return self.suspect(
                f"entry {header.seq} is there, and those next to it in sequence are elsewhere"
            )
        start = self._start_of_lap()
        if start is not None and not self._leads_to(start, header, claimed_bytes(first)):
            why = f"entry {header.seq} is there, in front of entry {start.entry.seq} of an earlier lap"
            return self.suspect(why)
        return JournalEnd(End.PLAUSIBLE if here is None else End.PROVEN)

    def _is_out_of_order(self, here: PlacedEntry) -> bool:
        one, buckets = (self.bucket, here), (self.bucket, *self.following)
        return not (
            may_follow(one, buckets, self.block_bytes) and may_precede(one, buckets, self.block_bytes)
        )

    def _is_in_first_lap(self) -> bool:
        """Whether the ring has a bucket where the journal began, which the next lap uses first."""
        return any(begins_journal(one.sound, self.block_bytes) for one in (self.bucket, *self.following))

    def _start_of_lap(self) -> PlacedEntry | None:
        """Returns the first of the entries in sequence up to the lap's last here; None if unknown."""
        first = next((one for one in self.following[0].sound if not one.offset_bytes), None)
        if first is None or first.entry.seq > self.newest:
            return None
        last = first.entry.seq - 1
        sound = [one for one in self.bucket.sound if one.offset_bytes >= self.byte]
        by_end = {one.offset_bytes + one.blocks * self.block_bytes: one for one in sound}
        start = next((one for one in sound if one.entry.seq == last), None)
        while start is not None:
            before = by_end.get(start.offset_bytes)
            if before is None or before.entry.seq != start.entry.seq - 1:
                break
            start = before
        return start

    def _leads_to(self, start: PlacedEntry, header: EntryTrace, size_bytes: int) -> bool:
        """Whether all entries from the one there on have space in front of the start of a sequence.

        1. It is the start. 2. It is copied up to there: so a repair fills a gap. 3. It is the one before.
        4. So many are between them.
        """
        if start.offset_bytes == self.byte:
            return True
        copies = {one.offset_bytes for one in self.bucket.sound if one.entry == start.entry}
        if copies.issuperset(range(self.byte, start.offset_bytes, self.block_bytes)):
            return True
        end = self.byte + -(-size_bytes // self.block_bytes) * self.block_bytes
        between = start.entry.seq - 1 - header.seq
        if between == 0:
            return end == start.offset_bytes
        return between > 0 and end + between * self.block_bytes <= start.offset_bytes

    async def _may_be_rest(self, first: bytes) -> bool:
        """Whether a sector may be the rest of an entry.

        If a key goes on behind it, so must the next sector; but that may have been overwritten, by keys or by
        the zeros behind them.
        """
        ends = ends_of_rest(first) if self.byte else set()
        behind = self.byte + SECTOR_BYTES
        if not ends or min(ends) <= SECTOR_BYTES:
            return bool(ends)
        start = self._start_of_lap()
        if start is None:
            return True
        if behind >= start.offset_bytes:
            return False
        raw = await self._read(behind, SECTOR_BYTES)
        return begins_with_key_word(raw) or not any(raw)

    async def _read(self, byte: int, length: int) -> bytes:
        begin = self.bucket.bucket * self.bucket_bytes + byte
        return bytes(await self.member.block_device.read(begin, length))

    @property
    def _copies(self) -> RingCopies:
        return RingCopies(self.member, (self.bucket, *self.following))

    @property
    def block_bytes(self) -> int:
        """The size of a block."""
        return self.member.superblock.block_bytes

    @property
    def bucket_bytes(self) -> int:
        """The size of a bucket."""
        return self.member.superblock.bucket_bytes


def begins_journal(sound: Sequence[PlacedEntry], block_bytes: int) -> bool:
    """Whether the first of a bucket's entries is of the first lap: with entry 1, or where that was.

    Each entry takes a block.
    """
    first = min(sound, key=offset_of, default=None)
    return first is not None and first.entry.seq <= first.offset_bytes // block_bytes + 1


def offset_of(placed: PlacedEntry) -> int:
    """Returns the byte of the bucket where an entry begins."""
    return placed.offset_bytes


def _sectors(raw: bytes) -> Iterator[bytes]:
    return (raw[begin : begin + SECTOR_BYTES] for begin in range(0, len(raw), SECTOR_BYTES))
