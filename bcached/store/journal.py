"""The journal: one durable entry at a time, the same on every member.

An entry is sealed when its flush is issued: whatever the flush does not cover goes to the next entry.
All who ask for an entry while one is being written share the next. Every entry names all metadata, so the
newest alone finds the set.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from bcached.device.together import together
from bcached.errors import DeviceError, SetRefused
from bcached.format.jset import JournalEntry
from bcached.format.sizes import MEMBERS_MAX
from bcached.keys import Key
from bcached.state.statistics import WRITE_BOUNDS_S, Histogram
from bcached.store.member import Member


class Journal:
    """Writes entries; holds the places of all metadata as the next entry will tell them.

    clock gives seconds, for the durations.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        seq: int,
        durable_last_seq: int,
        uuid_bucket: Key,
        root: Key,
        clock: Callable[[], float],
    ) -> None:
        self.seq = seq  # of the newest entry
        self.uuid_bucket = uuid_bucket
        self.root = root
        # Heads of the prio chains; set once a chain is written whole, so no entry names one that is not.
        self.prio_heads = [0] * MEMBERS_MAX
        self.durable_last_seq = durable_last_seq
        self.durations = Histogram(WRITE_BOUNDS_S)
        self._members = members
        self._sealed = 0
        self._broke_off_at = 0
        self._turn = asyncio.Lock()
        self._clock = clock

    async def commit(self) -> int:
        """Make durable what was written to any member before this call, and where it stands; the seq."""
        sealed = self._sealed
        async with self._turn:
            self._refuse_if_broken_off()
            if self._sealed == sealed:
                await self._write_whole()
            return self.seq

    async def _write_whole(self) -> None:
        """Write an entry, or none ever again: a reader stops at one that is missing.

        Nor does anybody know on which members it stands. So whoever shares it must not take it for
        written, whether a device failed or its writer was cancelled.
        """
        self._broke_off_at = self.seq + 1
        await self._write_entry()
        self._broke_off_at = 0

    def _refuse_if_broken_off(self) -> None:
        if self._broke_off_at:
            raise DeviceError(
                self._members[0].path,
                f"the journal broke off: entry {self._broke_off_at} was not written whole",
            )

    async def _write_entry(self) -> None:
        begun = self._clock()
        entry = self._seal()
        raw = entry.pack(self._members[0].superblock.set_magic, self._members[0].cache.geometry.block_bytes)
        places = [self._place(member, raw, entry.seq) for member in self._members]
        await together(member.block_device.flush for member in self._members)
        await together(
            partial(member.block_device.write, place, raw, durable=True)
            for member, place in zip(self._members, places, strict=True)
        )
        self.durable_last_seq = entry.last_seq
        self.durations.observe(self._clock() - begun)

    def _seal(self) -> JournalEntry:
        self._sealed += 1
        self.seq += 1
        # Without keys no entry needs an older one.
        return JournalEntry(
            self.seq, self.seq, self.uuid_bucket, self.root, level=0, prio_heads=tuple(self.prio_heads)
        )

    def _place(self, member: Member, raw: bytes, seq: int) -> int:
        place = member.ring.place(len(raw), seq, self.durable_last_seq)
        if place is None:
            raise SetRefused(f"{member.path}: no free journal bucket for entry {seq}")
        return place

    def free_buckets(self, member: Member) -> int:
        """How many of a member's journal buckets could be begun now."""
        return member.ring.free_buckets(self.durable_last_seq)
