# SPDX-License-Identifier: GPL-2.0-only
"""How it is known that the newest journal entry found is the newest that was written.

Entries are written one behind the other, a bucket is filled before the next is begun, and a bucket is not
erased before it is used again. So the next entry would be right behind the newest, or at the start of the
next bucket. What an earlier lap of the ring left at both places proves that there was none. Zeros at one of
them, with entries of an earlier lap further behind, are no state that a writer leaves: something was erased.
Nor is an entry that the ring has twice: one of them was written where another belongs.
If there is nothing of an earlier lap, an entry that was never written and one that was erased look the same
in the journal. The prios may show that several were written (prio_traces.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bcached.errors import BcachedError
from bcached.format.damage.torn_entry import begins_with_key_word
from bcached.format.jset import EntryTrace, PlacedEntry
from bcached.store.finding import SUSPECT_END, Finding, Severity
from bcached.store.journal.reader import BucketFound, End, JournalEnd, JournalFound
from bcached.store.membership import MemberFound
from bcached.store.reading.prio_traces import prio_traces
from bcached.units import SECTOR_BYTES

ERASED_BYTES = 24  # up to an entry's seq, and no more of it need be erased to hide it
UNLESS_DISCARDED = " (or the kernel discarded it, and discards were switched off since)"
STRUCTURE, LOST = "journal", "the changes in newer entries, if there were any"


async def find_end(found: JournalFound, members: Sequence[MemberFound]) -> JournalEnd:
    """Returns how the end is known. All buckets must have been read; found.buckets or others has them.

    An entry is written to every member before it counts: one member that proves the end is enough.
    """
    ends = [
        await RingRead(found, number, member).end()
        for number, member in enumerate(members)
        if member.superblock.journal_buckets
    ]
    for known in (End.PROVEN, End.SUSPECT):
        for end in ends:
            if end.known == known:
                return end
    for number, member in enumerate(members):
        async for trace in prio_traces(found, number, member):
            return JournalEnd(End.SUSPECT, trace.where, trace.why)
    return JournalEnd()


def finding_of_end(found: JournalFound, advice: str = "") -> Finding:
    """Returns the finding of an end that is suspect."""
    assert found.end is not None
    seq, end = found.newest.seq, found.end
    cannot = "cannot" if end.is_certain else "can hardly"
    problem = (
        f"entry {seq} is the newest found, but a newer one may have been erased: {end.why}; a power cut "
        f"{cannot} cause this"
    )
    return Finding(SUSPECT_END, Severity.DAMAGE, STRUCTURE, found.end.where, problem, LOST, advice)


@dataclass(frozen=True, slots=True)
class Newest:
    """A member's newest entry: its seq, its bucket, and the byte of that bucket behind it."""

    seq: int
    bucket: BucketFound
    behind: int


@dataclass(frozen=True, slots=True)
class RingRead:
    """The ring of one member, all of whose buckets were read."""

    found: JournalFound
    number: int
    member: MemberFound

    async def end(self) -> JournalEnd:
        """Returns how this member knows the end; one that lacks the newest entry knows it of those before."""
        newest = self.newest()
        if newest is None or newest.seq < self.found.newest.seq - 1:
            return JournalEnd()
        end = await self._end_behind(newest)
        lags = newest.seq < self.found.newest.seq  # what may be missing here is what another member has
        return JournalEnd() if lags and end.known == End.SUSPECT else end

    def newest(self) -> Newest | None:
        """Returns the member's newest entry; None without any."""
        newest = None
        for bucket in self.buckets():
            for placed in bucket.sound:
                if newest is None or placed.entry.seq > newest.seq:
                    behind = placed.offset_bytes + placed.blocks * self.block_bytes
                    newest = Newest(placed.entry.seq, bucket, behind)
        return newest

    def buckets(self) -> list[BucketFound]:
        """Returns the ring's buckets in their order."""
        buckets = [*self.found.buckets, *self.found.others]
        return sorted((one for one in buckets if one.member == self.number), key=lambda one: one.index)

    def following(self, bucket: BucketFound) -> list[BucketFound]:
        """Returns the ring's other buckets, in the order in which they are used after one."""
        buckets = self.buckets()
        return [*buckets[bucket.index + 1 :], *buckets[: bucket.index]]

    async def _end_behind(self, newest: Newest) -> JournalEnd:
        """Returns what both places show where the next entry would be."""
        here = newest.bucket
        twice = self._twice(here, newest.behind)
        if twice:
            return JournalEnd(End.SUSPECT, f"{here.where}, byte {newest.behind}", twice)
        known = await self._known_here(newest)
        if known == End.SUSPECT:
            why = f"there is a gap, and entries of an earlier lap are behind it{UNLESS_DISCARDED}"
            return JournalEnd(known, f"{here.where}, byte {newest.behind}", why)
        following = self.following(here)
        if not following:
            return JournalEnd(known)
        twice = self._twice(following[0], 0)
        if twice:
            return JournalEnd(End.SUSPECT, f"{following[0].where}, byte 0", twice)
        known_next, why = await self._known_of_next(following[0], newest.seq)
        if known_next == End.SUSPECT:
            return JournalEnd(known_next, f"{following[0].where}, byte 0", why)
        return JournalEnd(max(known, known_next))

    def _twice(self, bucket: BucketFound, byte: int) -> str:
        """Returns where else the sound entry at a byte of a bucket is; nothing if that is its only place.

        One without keys may be what a repair fills a gap with.
        """
        at = next((placed.entry for placed in bucket.sound if placed.offset_bytes == byte), None)
        for other in self.buckets() if at is not None and at.keys else ():
            for placed in other.sound:
                if placed.entry == at and (other is not bucket or placed.offset_bytes != byte):
                    return f"entry {at.seq} is there, and at {other.where}, byte {placed.offset_bytes}, too"
        return ""

    async def _known_here(self, newest: Newest) -> End:
        """Returns what the place behind the newest entry shows.

        1. The bucket is full. 2. No earlier lap reached further. 3. An older entry. 4. The rest of one, or a
        gap: the entries of a lap have none.
        """
        if newest.behind >= self.bucket_bytes:
            return End.PROVEN
        older = older_in(newest.bucket, newest.behind, newest.seq)
        if not older:
            return End.PLAUSIBLE
        if older[0].byte == newest.behind:
            return End.PROVEN
        return await self._known_at(newest.bucket, newest.behind)

    async def _known_at(self, bucket: BucketFound, byte: int) -> End:
        """Returns what a sector without an entry in front of older entries shows.

        1. Keys are the rest of an older entry. 2. Zeros are not what a writer leaves. 3. Anything else may be
        a sector that was being written when the power failed.
        """
        try:
            raw = await self.member.block_device.read(bucket.bucket * self.bucket_bytes + byte, SECTOR_BYTES)
        except BcachedError:
            return End.PLAUSIBLE
        if begins_with_key_word(raw):
            return End.PROVEN
        return End.PLAUSIBLE if any(raw[:ERASED_BYTES]) else End.SUSPECT

    async def _known_of_next(self, bucket: BucketFound, seq: int) -> tuple[End, str]:
        """Returns what the start of the next bucket shows, and why.

        1. An older entry. 2. Something else, with older entries behind it. 3. Nothing of the journal: in the
        first lap, or after a discard.
        """
        older = older_in(bucket, 0, seq)
        if older:
            if older[0].byte == 0:
                return End.PROVEN, ""
            why = "entries of an earlier lap are in this bucket, but not at its start"
            return max(await self._known_at(bucket, 0), End.PLAUSIBLE), why
        if self.may_be_blank(bucket):
            return End.PLAUSIBLE, ""
        why = f"the ring was filled before, but this bucket has no entry{UNLESS_DISCARDED}"
        known = await self._known_at(bucket, 0)
        if known == End.PLAUSIBLE and not await self._has_rest(bucket):
            known = End.SUSPECT  # a power cut leaves all sectors but one as they were, or as written
        return max(known, End.PLAUSIBLE), why

    async def _has_rest(self, bucket: BucketFound) -> bool:
        """Whether the second block of a bucket, or a later one, has a sector of keys, or none can be told."""
        begin = bucket.bucket * self.bucket_bytes + self.block_bytes
        length = self.bucket_bytes - self.block_bytes
        try:
            raw = memoryview(await self.member.block_device.read(begin, length))
        except BcachedError:
            return True
        return not length or any(
            begins_with_key_word(raw[byte:]) and begins_with_key_word(raw[byte + 8 :])
            for byte in range(0, length, SECTOR_BYTES)
        )

    def may_be_blank(self, blank: BucketFound) -> bool:
        """Whether a bucket has no entry because it was discarded, or not used yet.

        It was not used if the first bucket with entries behind it is where the journal began. 1. With entry
        1, or where that was: each entry takes a block. 2. A journal that a repair wrote begins with an entry
        without keys that needs no other. 3. Nothing is left that is not needed.
        """
        if self.member.superblock.discard:
            return True
        used = (sound for bucket in self.following(blank) if bucket.traces and (sound := bucket.sound))
        first = min(next(used, []), key=_offset_of, default=None)
        if first is None:
            return False
        entry = first.entry
        is_first = entry.seq <= first.offset_bytes // self.block_bytes + 1
        return is_first or entry.is_a_beginning or entry.seq >= self.found.newest.last_seq

    @property
    def block_bytes(self) -> int:
        """The size of a block."""
        return self.member.superblock.block_sectors * SECTOR_BYTES

    @property
    def bucket_bytes(self) -> int:
        """The size of a bucket."""
        return self.member.superblock.bucket_sectors * SECTOR_BYTES


def older_in(bucket: BucketFound, byte: int, seq: int) -> list[EntryTrace]:
    """Returns the traces of entries from a byte of a bucket on that are not newer than one."""
    return [trace for trace in bucket.traces if trace.byte >= byte and trace.seq <= seq]


def _offset_of(placed: PlacedEntry) -> int:
    return placed.offset_bytes
