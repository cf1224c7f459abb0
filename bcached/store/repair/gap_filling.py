# SPDX-License-Identifier: GPL-2.0-only
"""The step that ends a journal behind its newest entry, where newer ones seem to have been erased.

What an earlier lap of the ring would have left is written there: entries that are older than all others, and
name nothing new. So neither a check nor a rescue doubts that end again, nor while the ring is filled further.
"""

from dataclasses import dataclass, replace

from bcached.store.check.checker import CheckedSet
from bcached.store.journal.reader import BucketFound, End
from bcached.store.patched_device import Patch
from bcached.store.reading.ring_end import Newest, RingRead, older_in
from bcached.store.repair.repair_step import RepairStep


def fill_gap(checked: CheckedSet) -> RepairStep:
    """Plan to fill the gap behind the newest entry; nothing is to be done without one."""
    journal, members = checked.journal, checked.members
    step = RepairStep("end the journal where it ends now")
    if journal is None or journal.end is None or journal.end.known != End.SUSPECT:
        return step
    patches: list[Patch] = []
    for number, member in enumerate(members):
        ring = RingRead(journal, number, member)
        if (newest := ring.newest()) is not None:
            patches += _Gap(ring, newest).patches()
    step.stages = [patches]
    step.gives_up = [f"all changes since journal entry {journal.newest.seq} that were erased"]
    return step


@dataclass(frozen=True, slots=True)
class _Gap:
    """The gap in one member's ring: behind the newest entry, and at the start of the buckets that follow."""

    ring: RingRead
    newest: Newest

    def patches(self) -> list[Patch]:
        """Returns the old entries to write."""
        patches = []
        if older_in(self.newest.bucket, self.newest.behind, self.newest.seq):
            patches = self._filled(self.newest.bucket, self.newest.behind, 0)
        following = self.ring.following(self.newest.bucket)
        oldest = next((one for one in following if self._begins_older(one)), self.newest.bucket)
        gap = following[: following.index(oldest)] if oldest in following else following
        first = oldest.entries[0].entry.seq if oldest.entries else 0
        for place, bucket in enumerate(gap):
            if bucket.traces or not self.ring.may_be_blank(bucket):
                patches += self._filled(bucket, 0, first - len(gap) + place)
        return patches

    def _begins_older(self, bucket: BucketFound) -> bool:
        older = older_in(bucket, 0, self.newest.seq)
        return bool(older) and older[0].byte == 0

    def _filled(self, bucket: BucketFound, begin: int, seq: int) -> list[Patch]:
        """Returns entries for each block from a byte on up to the first older one, or for one block."""
        older = older_in(bucket, begin, self.newest.seq)
        end = older[0].byte if older else begin + self.ring.block_bytes
        seq = older[0].seq - 1 if older else seq
        if seq < 1:
            return []
        entry = replace(self.ring.found.newest, seq=seq, last_seq=max(seq - 1, 1), keys=())
        raw = entry.pack(self.ring.member.superblock.set_magic, self.ring.block_bytes)
        first = bucket.bucket * self.ring.bucket_bytes
        places = range(first + begin, first + end, self.ring.block_bytes)
        return [Patch(self.ring.number, byte, raw) for byte in places]
