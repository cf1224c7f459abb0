# SPDX-License-Identifier: GPL-2.0-only
"""An entry on its way to the devices: every member is flushed before any is written."""

import pytest

from bcached.errors import DeviceError, SetRefused
from bcached.format.superblock import Superblock
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.store.journal.entry_writer import EntryWriter
from bcached.store.journal.ring import JournalRing, Remaining
from bcached.store.journal.rings import Rings
from bcached.store.member import Member, geometry_of
from instruments.devices.failing_device import FailingDevice, Fault
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.passing_device import PassingDevice
from instruments.samples.format_samples import ENTRY
from instruments.stories.journal_story import ring_superblock

BUCKET = 4096
RAW = b"\x07" * 512


class NotedDevice(PassingDevice):
    """Notes the beginnings of flushes and writes of all devices, in their order."""

    def __init__(self, number: int, notes: list[str]) -> None:
        super().__init__(MemoryDevice(32 * BUCKET, path=f"d{number}"))
        self.number, self.notes = number, notes

    async def flush(self) -> None:
        self.notes.append(f"flush {self.number}")
        await super().flush()

    async def write(self, offset: int, data: object, *, durable: bool = False) -> None:
        assert durable
        self.notes.append(f"write {self.number} at {offset}")
        await super().write(offset, data, durable=durable)  # type: ignore[arg-type]


class Writer:
    """A writer to members whose rings ended at these entries."""

    def __init__(self, *newest: int) -> None:
        self.notes: list[str] = []
        self.now = 0.0
        superblock: Superblock = ring_superblock(8, 8, 1)
        geometry = geometry_of(superblock)
        tables = [MemberBuckets(geometry, number, seed=1) for number in range(len(newest))]
        self.members = [
            Member(number, NotedDevice(number, self.notes), superblock, table)
            for number, table in enumerate(tables)
        ]
        rings = [JournalRing(geometry, superblock.journal_buckets) for _ in newest]
        for ring, seq in zip(rings, newest, strict=True):
            ring.resume([seq, *[0] * 7], 0, BUCKET)
        self.writer = EntryWriter(self.members, Rings(rings, max(newest)), self.tick)

    def tick(self) -> float:
        self.now += 0.25
        return self.now

    async def write(self, seq: int) -> None:
        await self.writer.write(RAW, self.writer.advance(len(RAW), seq))


async def test_all_members_are_flushed_and_then_all_are_written() -> None:
    some = Writer(7, 7)
    await some.write(8)
    assert some.notes == ["flush 0", "flush 1", f"write 0 at {4 * BUCKET}", f"write 1 at {4 * BUCKET}"]
    for member in some.members:
        assert await member.block_device.read(4 * BUCKET, 512) == RAW


async def test_the_first_entry_goes_to_the_member_that_lacks_most_first_and_the_next_to_all() -> None:
    some = Writer(9, 7, 8)
    await some.write(10)
    assert [note.split(" at ")[0] for note in some.notes[3:]] == ["write 1", "write 2", "write 0"]
    some.notes.clear()
    await some.write(11)
    assert [note.split(" at ")[0] for note in some.notes[3:]] == ["write 0", "write 1", "write 2"]


async def test_nothing_is_written_when_a_flush_fails() -> None:
    some = Writer(7, 7)
    some.members[1].block_device = FailingDevice(some.members[1].block_device, Fault("flush", 1))
    with pytest.raises(DeviceError):
        await some.write(8)
    assert not [note for note in some.notes if note.startswith("write")]
    assert sum(some.writer.durations.counts) == 0


async def test_a_write_is_timed_with_its_flush() -> None:
    some = Writer(7)
    await some.write(8)
    durations = some.writer.durations
    assert (sum(durations.counts), durations.sum_s) == (1, 0.25)


def test_a_ring_without_space_is_refused_by_the_member_s_name() -> None:
    some = Writer(7, 7)
    some.writer.refuse_the_last_block([Remaining(0, 512), Remaining(1, 0)], 8)
    for left in (None, Remaining(0, 0)):
        with pytest.raises(SetRefused, match="d1: no free journal bucket for entry 8"):
            some.writer.refuse_the_last_block([Remaining(0, 512), left], 8)


def test_an_entry_is_packed_with_the_set_s_magic() -> None:
    some = Writer(7)
    superblock = some.members[0].superblock
    raw = some.writer.pack(ENTRY, b"")
    assert raw == ENTRY.pack(superblock.set_magic, 512)
