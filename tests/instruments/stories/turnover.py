# SPDX-License-Identifier: GPL-2.0-only
"""Clients that allocate and drop a device's size over and over, and a check of what its log of writes says.

The check reads journal entries and prio sets out of the log with format/, as a later life would after a power
cut at that very moment; what the set itself believes to be durable is not asked.
"""

import asyncio
from bisect import bisect_left
from dataclasses import dataclass, field
from random import Random

import numpy as np

from bcached.device.block_device import BlockDevice
from bcached.errors import FormatError
from bcached.format.jset import JournalEntry
from bcached.format.prio_set import PrioSet
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.state.buckets.bucket_table import State
from bcached.store.member import Member
from instruments.devices.durability_log import DurabilityLog
from instruments.devices.recording_device import RecordingDevice
from instruments.samples.living_set import extent


@dataclass
class Figures:
    """What it took."""

    allocations: int = 0
    sectors: int = 0
    waits: int = 0
    gen_distance: int = 0

    def look(self, cache_set: CacheSet) -> None:
        """Measure the gen distances, in the columns themselves."""
        for member in cache_set.members:
            table = member.buckets.table
            for against in (table.last_gc_array, table.gens_on_disk_array):
                self.gen_distance = max(self.gen_distance, int((table.gens_array - against).max()))


async def turn_over(cache_set: CacheSet, sectors: int, seed: int, *, clients: int = 4) -> Figures:
    """Allocate so many sectors and drop them again; at times nearly everything is held."""
    inode = await cache_set.volumes.create("turnover")
    figures = Figures()
    capacity = cache_set.allocations.data_sectors

    async def client(number: int) -> None:
        random = Random(f"{seed} {number}")
        holder = cache_set.allocations.new_holder(f"client {number}")
        held: list[Key] = []
        held_sectors = 0
        share = capacity // clients * 9 // 10
        while figures.sectors < sectors:
            wanted = random.choice([8, 16, 64, 128, 128])
            key = cache_set.allocations.carve(holder, inode, random.randrange(1 << 30) * 8, wanted, number)
            if key is None:
                figures.waits += 1
                ((key,),) = await cache_set.allocations.allocate(
                    holder, [extent(wanted, inode=inode, write_point=number)], 30
                )
            held.append(key)
            held_sectors += key.sectors
            figures.sectors += key.sectors
            figures.allocations += 1
            if held_sectors > share or random.random() < 0.002:
                # Most at once: what does not go to the unused list takes the long way, through free_inc.
                random.shuffle(held)
                kept = random.randrange(len(held) // 2 + 1)
                cache_set.allocations.release(holder, held[kept:])
                held = held[:kept]
                held_sectors = sum(key.sectors for key in held)
            if figures.allocations % 64 == 0:
                figures.look(cache_set)
                await asyncio.sleep(0)
        cache_set.allocations.drop_holder(holder, None)

    await asyncio.gather(*(client(number) for number in range(clients)))
    return figures


@dataclass(frozen=True)
class Handover:
    """Just before the position a bucket with this gen left free_inc: discarded, or put on a reserve."""

    position: int
    bucket: int
    gen: int


@dataclass
class Witness:
    """A recorded device that also notes each bucket that leaves free_inc."""

    device: RecordingDevice
    handovers: list[Handover] = field(default_factory=list)

    @classmethod
    async def over(cls, inner: BlockDevice) -> "Witness":
        return cls(await RecordingDevice.over(inner))

    def observe(self, member: Member) -> None:
        """Note from now on what leaves the free_inc of this member."""
        table, log = member.buckets.table, self.device.log
        move, discard = table.move, self.device.discard
        bucket_bytes = member.buckets.geometry.bucket_bytes

        def observed_move(bucket: int, state: State) -> None:
            if table.states[bucket] == State.FREE_INC:
                self.handovers.append(Handover(log.position, bucket, table.gens[bucket]))
            move(bucket, state)

        async def observed_discard(offset: int, length: int) -> None:
            bucket = offset // bucket_bytes
            assert length == bucket_bytes
            assert table.states[bucket] in (State.FREE_INC, State.UNUSED)
            if table.states[bucket] == State.FREE_INC:
                self.handovers.append(Handover(log.position, bucket, table.gens[bucket]))
            await discard(offset, length)

        table.move = observed_move  # type: ignore[method-assign]
        self.device.discard = observed_discard  # type: ignore[method-assign]

    def check(self, member: Member) -> int:
        """That each handover came after its gen was durable; how many prio chains were read for it."""
        entries = _journal_entries(self.device.log, member)
        logs = _logs_of_buckets(self.device.log, member.buckets.geometry.bucket_bytes)
        assert entries, "the log holds no journal entry"
        chains = 0
        by_entry: dict[int, list[Handover]] = {}
        ends = [ended for ended, _ in entries]
        for handover in self.handovers:
            newest = bisect_left(ends, handover.position) - 1
            assert newest >= 0, f"{handover}: no journal entry was durable yet"
            by_entry.setdefault(newest, []).append(handover)
        for newest, handovers in by_entry.items():
            entry = entries[newest][1]
            # The same bytes at the first and at the last of them: then at all between.
            first = _durable_gens(logs, member, entry, handovers[0].position)
            last = _durable_gens(logs, member, entry, handovers[-1].position)
            assert (first == last).all()
            for handover in handovers:
                ahead = (int(first[handover.bucket]) - handover.gen) & 255
                assert ahead < 128, f"{handover}: the durable gen is {first[handover.bucket]}"
            chains += 2
        return chains


def _journal_entries(log: DurabilityLog, member: Member) -> list[tuple[int, JournalEntry]]:
    """(position from which it is durable, entry) of all writes into the journal's buckets, oldest first."""
    geometry = member.buckets.geometry
    journal = range(
        geometry.byte_of(geometry.journal_buckets.start), geometry.byte_of(geometry.journal_buckets.stop)
    )
    found: list[tuple[int, JournalEntry]] = []
    for write in log.entries:
        if write.kind != "write" or write.offset not in journal or not any(write.data or b""):
            continue
        assert write.data is not None
        assert write.durable, "a journal entry that was not written through"
        if write.ended is None or write.failed:
            continue
        entry = JournalEntry.parse(write.data, member.superblock.set_magic, f"log {write.issued}")
        assert not found or entry.seq == found[-1][1].seq + 1, "entries reach the device in order"
        found.append((write.ended, entry))
    return found


def _logs_of_buckets(log: DurabilityLog, bucket_bytes: int) -> dict[int, DurabilityLog]:
    """The same log, cut up by the buckets that were changed: asking one of them reads no other."""
    logs: dict[int, DurabilityLog] = {}
    for change in log.entries:
        for bucket in range(
            change.offset // bucket_bytes, -(-(change.offset + change.length) // bucket_bytes)
        ):
            if bucket not in logs:
                logs[bucket] = DurabilityLog(log.base, [], log.position, log.flushes)
            logs[bucket].entries.append(change)
    return logs


def _without_the_hidden(log: DurabilityLog, position: int) -> DurabilityLog:
    """The log of one bucket without what a later durable write of the same sectors has hidden for good."""
    changes = log.entries[: bisect_left(log.entries, position, key=lambda change: change.issued)]
    for at in reversed(range(len(changes))):
        last = changes[at]
        if last.kind == "write" and log.is_durable(last, position):
            hides = range(last.offset, last.offset + last.length)
            kept = [
                change
                for change in changes[:at]
                if change.ended is None
                or change.ended > last.issued
                or change.offset < hides.start
                or change.offset + change.length > hides.stop
            ]
            return DurabilityLog(log.base, [*kept, *changes[at:]], log.position, log.flushes)
    return log


def _durable_gens(
    logs: dict[int, DurabilityLog], member: Member, entry: JournalEntry, position: int
) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    """All gens as a power cut at the position would leave them for sure."""
    geometry = member.buckets.geometry
    bucket = entry.prio_heads[member.device]
    gens = []
    for _ in range(geometry.prio_bucket_count):
        log = _without_the_hidden(logs[bucket], position)
        raw = log.durable_bytes(geometry.byte_of(bucket), geometry.metadata_bytes, position)
        assert raw is not None, (
            f"prio bucket {bucket} is uncertain at {position}, and entry {entry.seq} names it"
        )
        try:
            prio_set = PrioSet.parse(raw, member.superblock.set_magic, f"bucket {bucket} at {position}")
        except FormatError as error:
            raise AssertionError(f"entry {entry.seq} names a bucket without prios: {error}") from error
        gens.append(prio_set.gens)
        bucket = prio_set.next_bucket
    return np.concatenate(gens)[: geometry.bucket_count]
