"""Entries on their way to the members: what they cover, what they name, and what a failure leaves."""

import asyncio
from dataclasses import dataclass

import pytest

from bcached.device.block_device import BlockDevice
from bcached.device.memory_device import MemoryDevice
from bcached.errors import BcachedError, DeviceError, FlushFailed, SetRefused
from bcached.format.jset import JournalEntry, parse_journal_bucket
from bcached.store.journal import Journal
from bcached.store.recovery import OpenedSet
from instruments.durability_log import DurabilityLog, Entry
from instruments.failing_device import FailingDevice, Fault
from instruments.recording_device import RecordingDevice
from instruments.used_set import BUCKET_BYTES, open_set, used_devices


@dataclass
class Recorded:
    """An open set on recorded devices."""

    opened: OpenedSet
    logs: list[DurabilityLog]

    @property
    def journal(self) -> Journal:
        return self.opened.journal

    @classmethod
    async def of(cls, *bucket_counts: int) -> "Recorded":
        recorders = [await RecordingDevice.over(device) for device in await reopened(*bucket_counts)]
        opened = await open_set(recorders)
        for recorder in recorders:
            recorder.log.entries.clear()
        return cls(opened, [recorder.log for recorder in recorders])


async def reopened(*bucket_counts: int) -> list[MemoryDevice]:
    devices = await used_devices(*bucket_counts, entries=1)
    for device in devices:
        await device.close()
    return [device.reopen() for device in devices]


def entry_in(written: Entry, opened: OpenedSet) -> JournalEntry:
    assert written.data is not None
    (placed,) = parse_journal_bucket(written.data, opened.members[0].superblock.set_magic, 512)
    return placed.entry


def kinds(log: DurabilityLog) -> list[str]:
    return [("durable " if entry.durable else "") + entry.kind for entry in log.entries]


async def test_an_entry_is_a_flush_of_every_member_and_then_a_durable_write_to_each() -> None:
    recorded = await Recorded.of(530, 560)
    assert await recorded.journal.commit() == 2
    assert [kinds(log) for log in recorded.logs] == [["flush", "durable write"]] * 2
    first, second = (log.entries for log in recorded.logs)
    assert first[1].data == second[1].data
    ended = max(log.entries[0].ended or 0 for log in recorded.logs)
    assert all(log.entries[1].issued > ended for log in recorded.logs)


async def test_an_entry_names_what_is_in_use_when_its_flush_is_issued() -> None:
    recorded = await Recorded.of(530)
    journal = recorded.journal
    key = journal.uuid_bucket
    writing = asyncio.create_task(journal.commit())
    await asyncio.sleep(0)
    journal.prio_heads[0] = 99  # too late for this one
    await writing
    await journal.commit()
    first, second = (entry_in(e, recorded.opened) for e in recorded.logs[0].entries if e.durable)
    assert first.prio_heads[0] != 99
    assert second.prio_heads[0] == 99
    assert first.uuid_bucket == second.uuid_bucket == key
    assert (first.seq, first.last_seq, second.seq) == (2, 2, 3)


async def test_all_who_ask_while_an_entry_is_written_share_the_next() -> None:
    recorded = await Recorded.of(530)
    first = asyncio.create_task(recorded.journal.commit())
    await asyncio.sleep(0)  # sealed, and on its way
    later = [asyncio.create_task(recorded.journal.commit()) for _ in range(5)]
    assert [await first, *[await task for task in later]] == [2, 3, 3, 3, 3, 3]
    assert kinds(recorded.logs[0]) == ["flush", "durable write"] * 2


async def test_what_was_written_before_a_commit_is_durable_when_it_returns() -> None:
    recorded = await Recorded.of(530, 560)
    devices = [member.block_device for member in recorded.opened.members]

    async def write_and_commit(number: int) -> None:
        device, log = devices[number % 2], recorded.logs[number % 2]
        data, place = bytes([number]) * 512, (400 + number) * BUCKET_BYTES
        for _ in range(number):
            await asyncio.sleep(0)
        await device.write(place, data)
        await recorded.journal.commit()
        assert log.durable_bytes(place, 512) == data

    await asyncio.gather(*(write_and_commit(number) for number in range(30)))
    assert recorded.journal.seq < 25, "they shared"


@pytest.mark.parametrize("verb", ["flush", "write"])
async def test_when_a_member_fails_nobody_is_told_that_the_entry_is_durable(verb: str) -> None:
    first, second = await reopened(530, 560)
    count = 2 if verb == "flush" else 1  # the opening flushes once
    failing = FailingDevice(second, Fault("flush" if verb == "flush" else "write", count))
    journal = (await open_set([first, failing])).journal
    answers = await asyncio.gather(*(journal.commit() for _ in range(4)), return_exceptions=True)
    assert len(failing.fired) == 1
    assert all(isinstance(answer, DeviceError) for answer in answers), answers
    assert isinstance(answers[0], FlushFailed)
    with pytest.raises(DeviceError, match="the journal broke off: entry 2 was not written whole"):
        await journal.commit()


async def test_after_a_cancelled_entry_none_is_written_that_no_reader_would_find() -> None:
    for turns in range(12):
        recorded = await Recorded.of(530)
        journal = recorded.journal
        writing = asyncio.create_task(journal.commit())
        sharing = asyncio.create_task(journal.commit())
        for _ in range(turns):
            await asyncio.sleep(0)
        writing.cancel()
        outcomes = await asyncio.gather(writing, sharing, return_exceptions=True)
        told = [outcome for outcome in outcomes if isinstance(outcome, int)]
        again = await open_set([MemoryDevice.holding(await image_of(recorded.opened))])
        assert all(seq <= again.journal.seq for seq in told), (turns, outcomes, again.journal.seq)


async def image_of(opened: OpenedSet) -> bytes:
    device: BlockDevice = opened.members[0].block_device
    return await device.read(0, device.size_bytes)


async def test_one_who_was_cancelled_while_waiting_for_its_turn_leaves_no_trace() -> None:
    recorded = await Recorded.of(530)
    first = asyncio.create_task(recorded.journal.commit())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(recorded.journal.commit())
    await asyncio.sleep(0)
    waiting.cancel()
    assert await first == 2
    assert await recorded.journal.commit() == 3


async def test_a_ring_without_a_place_ends_the_journal() -> None:
    recorded = await Recorded.of(530)
    ring = recorded.opened.members[0].ring
    ring.newest_seqs = [99] * len(ring.buckets)
    ring.resume(0, BUCKET_BYTES)
    with pytest.raises(SetRefused, match="no free journal bucket for entry 2"):
        await recorded.journal.commit()
    with pytest.raises(BcachedError, match="broke off"):
        await recorded.journal.commit()
    assert kinds(recorded.logs[0]) == []


async def test_entries_go_round_the_ring_for_ever() -> None:
    recorded = await Recorded.of(530, 560)
    journal = recorded.journal
    for _ in range(200):
        await journal.commit()
        assert all(journal.free_buckets(member) == 3 for member in recorded.opened.members)
    again = await open_set(
        [
            MemoryDevice.holding(await member.block_device.read(0, member.block_device.size_bytes))
            for member in recorded.opened.members
        ]
    )
    assert again.journal.seq == journal.seq == 201
