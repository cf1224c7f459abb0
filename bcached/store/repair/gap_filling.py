# SPDX-License-Identifier: GPL-2.0-only
"""The step that ends a journal behind its newest entry, where newer ones seem to have been erased.

What an earlier lap of the ring would have left is written there: entries that are older than all others, and
name nothing new. So neither a check nor a rescue doubts that end again, nor while the ring is filled further.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bcached.store.check.checker import CheckedSet
from bcached.store.journal.reader import BucketFound, End
from bcached.store.patched_device import Patch
from bcached.store.reading.next_place import NextPlace
from bcached.store.reading.ring_end import Newest, RingRead, older_in
from bcached.store.repair.repair_step import RepairStep


async def fill_gap(checked: CheckedSet) -> RepairStep:
    """Plan to fill the gap behind the newest entry; nothing is to be done without one."""
    journal, members = checked.journal, checked.members
    step = RepairStep("end the journal where it ends now")
    if journal is None or journal.end is None or journal.end.known != End.SUSPECT:
        return step
    patches: list[Patch] = []
    for number, member in enumerate(members):
        ring = RingRead(journal, number, member)
        if (newest := ring.newest()) is not None:
            patches += await _Gap(ring, newest).patches()
    step.stages = [patches]
    step.gives_up = [f"all changes since journal entry {journal.newest.seq} that were erased"]
    return step


@dataclass(frozen=True, slots=True)
class _Gap:
    """The gap in one member's ring: behind the newest entry, and at the start of the buckets that follow."""

    ring: RingRead
    newest: Newest

    async def patches(self) -> list[Patch]:
        """Returns the old entries to write."""
        following = self.ring.following(self.newest.bucket)
        patches = await self._here(following)
        oldest = next((one for one in following if self._begins_older(one)), self.newest.bucket)
        gap = following[: following.index(oldest)] if oldest in following else following
        first = oldest.entries[0].entry.seq if oldest.entries else 0
        for place, bucket in enumerate(gap):
            if bucket.traces or not self.ring.may_be_blank(bucket):
                patches += self._filled(self._place(bucket, 0), first - len(gap) + place)
            elif place == 0 and await self._is_foreign(self._place(bucket, 0)):
                patches += self._erased(self._place(bucket, 0))
        if not gap and following and (await self._place(oldest, 0).end()).known == End.SUSPECT:
            patches += self._filled(self._place(oldest, 0), self._last_in(following[1:]))
        return patches

    async def _here(self, following: Sequence[BucketFound]) -> list[Patch]:
        """Returns what ends the journal behind the newest entry."""
        place = self._place(self.newest.bucket, self.newest.behind)
        if place.byte >= place.bucket_bytes:
            return []
        if older_in(place.bucket, place.byte, self.newest.seq):
            is_suspect = (await place.end()).known == End.SUSPECT
            return self._filled(place, self._last_in(following)) if is_suspect else []
        return self._erased(place) if await self._is_foreign(place) else []

    def _place(self, bucket: BucketFound, byte: int) -> NextPlace:
        return NextPlace(self.ring.member, bucket, byte, self.ring.following(bucket), self.newest.seq)

    async def _is_foreign(self, place: NextPlace) -> bool:
        """Whether what no entry of an earlier lap is behind was written there by mistake."""
        end, judged = await place.end_without_older(), self.ring.found.end
        is_of_index = end.keys is not None and judged is not None and judged.keys == end.keys
        return end.known == End.SUSPECT or is_of_index

    def _last_in(self, following: Sequence[BucketFound]) -> int:
        """Returns the seq in front of the first entry of the next bucket; 0 if there is none."""
        return following[0].entries[0].entry.seq - 1 if following and following[0].entries else 0

    def _begins_older(self, bucket: BucketFound) -> bool:
        older = older_in(bucket, 0, self.newest.seq)
        return bool(older) and older[0].byte == 0

    def _filled(self, place: NextPlace, seq: int) -> list[Patch]:
        """Returns entries for each block up to the first one of an earlier lap, or for one block."""
        end = place.gap_end()
        older = older_in(place.bucket, end, self.newest.seq)
        seq = older[0].seq - 1 if older else seq
        if not 1 <= seq < self.newest.seq:
            return self._erased(place)
        entry = replace(self.ring.found.newest, seq=seq, last_seq=max(seq - 1, 1), keys=())
        assert entry.is_a_filling
        raw = entry.pack(self.ring.member.superblock.set_magic, self.ring.block_bytes)
        return self._patches(place, end, raw)

    def _erased(self, place: NextPlace) -> list[Patch]:
        return self._patches(place, place.byte + self.ring.block_bytes, bytes(self.ring.block_bytes))

    def _patches(self, place: NextPlace, end: int, raw: bytes) -> list[Patch]:
        first = place.bucket.bucket * self.ring.bucket_bytes
        places = range(first + place.byte, first + end, self.ring.block_bytes)
        return [Patch(self.ring.number, byte, raw) for byte in places]
