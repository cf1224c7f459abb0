# SPDX-License-Identifier: GPL-2.0-only
"""Entries on their way to the devices: the same entry to every member."""

from collections.abc import Callable, Sequence
from functools import partial

from bcached.device.run_all import run_all
from bcached.errors import SetRefused
from bcached.format.jset import JournalEntry
from bcached.state.statistics import WRITE_BOUNDS_S, Histogram
from bcached.store.journal.ring import Remaining
from bcached.store.journal.rings import Rings
from bcached.store.member import Member


class EntryWriter:
    """Writes entries to all members, in their rings; clock returns seconds, for the durations."""

    def __init__(self, members: Sequence[Member], rings: Rings, clock: Callable[[], float]) -> None:
        assert len(members) == len(rings.each)
        self.members = members
        self.durations = Histogram(WRITE_BOUNDS_S)  # of writes, with their flush
        self._rings = rings
        self._clock = clock
        # If members' journals end at different entries, the first entry goes to them one after the other, the
        # one furthest behind first: else, after repeated power cuts, a member could lack any number.
        self._one_by_one = rings.furthest_behind_first()

    def pack(self, entry: JournalEntry, packed: bytes) -> bytes:
        """Returns an entry with these packed keys as it is on the devices."""
        first = self.members[0]
        return entry.pack(first.superblock.set_magic, first.buckets.geometry.block_bytes, packed)

    def advance(self, size_bytes: int, seq: int) -> list[int]:
        """Returns the byte offset of the next entry on each device. Raises SetRefused if a ring is full."""
        offsets = []
        for member, offset in zip(self.members, self._rings.advance(size_bytes, seq), strict=True):
            if offset is None:
                raise _full(member, seq)
            offsets.append(offset)
        return offsets

    async def write(self, raw: bytes, offsets: Sequence[int]) -> None:
        """Flush every member, then write an entry durably to each."""
        begun = self._clock()
        await run_all(member.block_device.flush for member in self.members)
        writes = [
            partial(member.block_device.write, offset, raw, durable=True)
            for member, offset in zip(self.members, offsets, strict=True)
        ]
        for number in self._one_by_one:
            await writes[number]()
        if not self._one_by_one:
            await run_all(writes)
        self._one_by_one = []
        for member in self.members:
            member.written_bytes["journal"] += len(raw)
        self.durations.observe(self._clock() - begun)

    def refuse_the_last_block(self, remaining: Sequence[Remaining | None], seq: int) -> None:
        """Raises SetRefused if an entry would leave nothing of a ring."""
        for member, left in zip(self.members, remaining, strict=True):
            if left is None or not any(left):
                raise _full(member, seq)


def _full(member: Member, seq: int) -> SetRefused:
    return SetRefused(f"{member.path}: no free journal bucket for entry {seq}")
