# SPDX-License-Identifier: GPL-2.0-only
"""How it is known that the newest journal entry found is the newest that was written.

Entries are written one behind the other, a bucket is filled before the next is begun, and a bucket is not
erased before it is used again. So the next entry would be right behind the newest, or at the start of the
next bucket. What an earlier lap of the ring left at both places proves that there was none. Zeros at one of
them, with entries of an earlier lap further behind, are no state that a writer leaves: something was erased.
Nor is anything else that no lap left there (next_place.py): it was written where another entry belongs.
If there is nothing of an earlier lap, an entry that was never written and one that was erased look the same
in the journal. The prios may show that several were written (prio_traces.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bcached.errors import BcachedError
from bcached.format.damage.torn_entry import begins_with_key_word
from bcached.format.jset import EntryTrace
from bcached.store.finding import SUSPECT_END, Finding, Severity
from bcached.store.journal.reader import BucketFound, End, JournalEnd, JournalFound
from bcached.store.membership import MemberFound
from bcached.store.reading.next_place import (
    ERASED_BYTES,
    UNLESS_DISCARDED,
    NextPlace,
    begins_journal,
    offset_of,
)
from bcached.store.reading.prio_traces import prio_traces
from bcached.store.reading.ring_order import may_follow, placed_of
from bcached.units import SECTOR_BYTES

STRUCTURE, LOST = "journal", "the changes in newer entries, if there were any"


async def find_end(found: JournalFound, members: Sequence[MemberFound]) -> JournalEnd:
    """Returns how the end is known. All buckets must have been read; found.buckets or others has them.

    If there is a trace of a newer entry, it must be of one whose write a power cut interrupted.
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
    unread = next((end.unread for end in ends if end.unread), None)
    return JournalEnd(unread=unread, keys=next((end.keys for end in ends if end.keys), None))


def finding_of_end(found: JournalFound, advice: str = "") -> Finding:
    """Returns the finding of an end that is suspect."""
    assert found.end is not None
    seq, end = found.newest.seq, found.end
    cause = "cannot cause this" if end.is_certain else "can hardly cause this"
    if end.is_torn:
        cause = "causes this only on a device that may garble the sector it is writing"
    problem = (
        f"entry {seq} is the newest found, but a newer one may have been erased: {end.why}; a power cut "
        f"{cause}"
    )
    severity = Severity.TORN if end.is_torn else Severity.DAMAGE
    return Finding(SUSPECT_END, severity, STRUCTURE, end.where, problem, LOST, advice)


@dataclass(frozen=True, slots=True)
class Newest:
    """A member's newest entry: its seq, its bucket, and the byte of that bucket behind it."""

    seq: int
    bucket: BucketFound
    behind: int
    is_in_order: bool  # else it was written to a wrong place


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
        """Returns the member's newest entry, of several where the one before it is; None without any."""
        buckets = self.buckets()
        sound = [placed.entry.seq for bucket in buckets for placed in bucket.sound]
        seq = max((seq for seq in sound if seq <= self.found.newest.seq), default=None)
        if seq is None:
            return None
        places = placed_of(seq, buckets)
        in_order = [one for one in places if may_follow(one, buckets, self.block_bytes)]
        bucket, placed = (in_order or places)[0]
        behind = placed.offset_bytes + placed.blocks * self.block_bytes
        return Newest(seq, bucket, behind, is_in_order=bool(in_order))

    def _is_newer_at(self, bucket: BucketFound, byte: int, seq: int) -> bool:
        newest = self.found.newest.seq
        return any(trace.byte == byte and seq < trace.seq <= newest + 1 for trace in bucket.traces)

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
        if not newest.is_in_order:
            where = f"{newest.bucket.where}, in front of byte {newest.behind}"
            return JournalEnd(
                End.SUSPECT, where, f"entry {newest.seq} is there, and not behind the one before"
            )
        following = self.following(newest.bucket)
        end = await self._end_here(newest, following)
        if end.known == End.SUSPECT or not following:
            return end
        upcoming = await self._end_at_next(following[0], newest.seq)
        worse = end if end.known > upcoming.known else upcoming
        return replace(worse, unread=end.unread or upcoming.unread, keys=end.keys or upcoming.keys)

    async def _end_here(self, newest: Newest, following: Sequence[BucketFound]) -> JournalEnd:
        """Returns what the place behind the newest entry shows.

        1. The bucket is full, or another entry was being written there. 2. No earlier lap reached further.
        3. Older entries.
        """
        if newest.behind >= self.bucket_bytes or self._is_newer_at(newest.bucket, newest.behind, newest.seq):
            return JournalEnd(End.PROVEN)
        place = NextPlace(self.member, newest.bucket, newest.behind, following, newest.seq)
        if not older_in(newest.bucket, newest.behind, newest.seq):
            return await place.end_without_older()
        return await place.end()

    async def _end_at_next(self, bucket: BucketFound, seq: int) -> JournalEnd:
        """Returns what the start of the next bucket shows.

        1. Another entry was being written there. 2. An older entry. 3. Nothing of the journal: in the first
        lap, or after a discard. 4. Something else.
        """
        if self._is_newer_at(bucket, 0, seq):
            return JournalEnd(End.PROVEN)
        place = NextPlace(self.member, bucket, 0, self.following(bucket), seq)
        older = older_in(bucket, 0, seq)
        if older and older[0].byte == 0:
            return await place.end()
        if not older and self.may_be_blank(bucket):
            return await place.end_without_older()
        is_blank = not older and not await self._has_rest(bucket)
        why = f"the ring was filled before, but this bucket has no entry{UNLESS_DISCARDED}"
        if older:
            why = "entries of an earlier lap are in this bucket, but not at its start"
        return place.suspect(why, is_torn=not is_blank and await self._has_bytes(bucket))

    async def _has_bytes(self, bucket: BucketFound) -> bool:
        """Whether anything but zeros is where the first entry of a bucket would begin."""
        try:
            raw = await self.member.block_device.read(bucket.bucket * self.bucket_bytes, SECTOR_BYTES)
        except BcachedError:
            return True
        return any(raw[:ERASED_BYTES])

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
        entries = sorted(next(used, []), key=offset_of)
        if not entries:
            return False
        entry = entries[0].entry
        is_first = begins_journal(entries, self.block_bytes)
        return is_first or entry.is_a_beginning or entry.seq >= self.found.newest.last_seq

    @property
    def block_bytes(self) -> int:
        """The size of a block."""
        return self.member.superblock.block_bytes

    @property
    def bucket_bytes(self) -> int:
        """The size of a bucket."""
        return self.member.superblock.bucket_bytes


def older_in(bucket: BucketFound, byte: int, seq: int) -> list[EntryTrace]:
    """Returns the traces of entries from a byte of a bucket on that are not newer than one."""
    return [trace for trace in bucket.traces if trace.byte >= byte and trace.seq <= seq]
