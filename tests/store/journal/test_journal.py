# SPDX-License-Identifier: GPL-2.0-only
"""Entries on their way to the members: what they cover, what they name, and what a failure leaves."""

import asyncio
import re
from dataclasses import dataclass
from random import Random

import pytest

from bcached.device.block_device import BlockDevice
from bcached.errors import BcachedError, DeviceError, FlushFailed, SetRefused
from bcached.format.bkey import key_words
from bcached.format.jset import JournalEntry
from bcached.keys import Key, Pointer
from bcached.store.journal.journal import Journal
from bcached.store.opening.recovery import OpenedSet
from instruments.devices.durability_log import DurabilityLog, Entry
from instruments.devices.failing_device import FailingDevice, Fault
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.recording_device import RecordingDevice
from instruments.samples.format_samples import ROOT_KEY
from instruments.samples.read_back import parse_journal_bucket
from instruments.samples.used_set import BUCKET_BYTES, open_set, used_devices
from instruments.stories.journal_story import JournalStory


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
    key = journal.locations.uuid_bucket
    writing = asyncio.create_task(journal.commit())
    await asyncio.sleep(0)
    journal.locations.prio_heads[0] = 99  # too late for this one
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
    assert {str(answer) for answer in answers} == {str(answers[0])}, "all are told what went wrong first"
    with pytest.raises(FlushFailed, match=re.escape(str(answers[0]))):
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
    ring = recorded.journal.space.rings.each[0]
    ring.resume([99] * len(ring.buckets), 0, BUCKET_BYTES)
    with pytest.raises(SetRefused, match="no free journal bucket for entry 2"):
        await recorded.journal.commit()
    with pytest.raises(BcachedError, match="aborted: entry 2 was not completely written"):
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


# Keys


def a_journal(rings: tuple[int, ...] = (8,), block_sectors: int = 1, seed: int = 1) -> JournalStory:
    """A journal with rings of buckets of 4 KiB, in which nothing was written yet."""
    return JournalStory(Random(seed), list(rings), 8, block_sectors, leaves=100)


def data(offset: int, sectors: int = 1) -> Key:
    return Key(0, offset, sectors, False, (Pointer(0, 10_000 + offset, 1),))


def entries_of(story: JournalStory) -> list[JournalEntry]:
    magic = story.superblocks[0].set_magic
    writes = [entry.data for entry in story.logs[0].entries if entry.data is not None]
    return [JournalEntry.parse(raw, magic, "the log") for raw in writes]


async def settle() -> None:
    for _ in range(40):
        await asyncio.sleep(0)


async def test_keys_go_into_the_open_entry_in_order_until_its_flush_is_issued() -> None:
    story = a_journal()
    journal = story.journal
    assert journal.accepted_seq == journal.seq == 0
    assert [journal.append([data(1), data(2)]), journal.append([data(3)])] == [1, 1]
    assert (journal.accepted_seq, journal.seq) == (1, 0)
    writing = asyncio.create_task(journal.commit())
    await asyncio.sleep(0)
    assert journal.append([data(4)]) == 2, "the flush that is under way may not cover its data"
    assert await writing == 1
    assert (journal.durable_seq, journal.accepted_seq) == (1, 2)
    assert await journal.commit() == 2
    assert [entry.keys for entry in entries_of(story)] == [(data(1), data(2), data(3)), (data(4),)]


async def test_who_waits_for_an_entry_never_writes_it() -> None:
    story = a_journal()
    journal = story.journal
    asked: list[bool] = []
    journal.on_wanted = lambda: asked.append(journal.is_wanted)
    seq = journal.append([data(1)])
    assert not journal.is_wanted, "nobody is in a hurry"
    waiting = asyncio.create_task(journal.durable(seq))
    await settle()
    assert (waiting.done(), journal.is_wanted) == (False, True)
    assert asked == [False, True]
    assert kinds(story.logs[0]) == []
    await journal.commit()
    await waiting
    assert not journal.is_wanted
    await journal.durable(seq)


async def test_an_entry_that_is_on_its_way_is_not_wanted_once_more() -> None:
    story = a_journal()
    journal = story.journal
    seq = journal.append([data(1)])
    writing = asyncio.create_task(journal.commit())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(journal.durable(seq))
    await asyncio.sleep(0)
    assert not journal.is_wanted
    await writing
    await waiting


async def test_all_who_wait_for_an_entry_share_one_flush_and_one_write() -> None:
    story = a_journal((8, 9))
    journal = story.journal

    async def client(number: int) -> None:
        await journal.durable(journal.append([data(number)]))

    clients = [asyncio.create_task(client(number)) for number in range(64)]
    await asyncio.sleep(0)
    await journal.commit()
    await asyncio.gather(*clients)
    assert [kinds(log) for log in story.logs] == [["flush", "durable write"]] * 2
    assert len(entries_of(story)[0].keys) == 64


async def test_whoever_gives_up_waiting_breaks_nothing() -> None:
    for turns in range(8):
        story = a_journal()
        journal = story.journal
        waiting = [asyncio.create_task(journal.durable(journal.append([data(n)]))) for n in range(3)]
        full = asyncio.create_task(journal.wait_for_space(journal.commit_words))
        await asyncio.sleep(0)
        writing = asyncio.create_task(journal.commit())
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting[0].cancel()
        full.cancel()
        assert await writing == 1
        await asyncio.gather(*waiting[1:])
        await asyncio.gather(waiting[0], full, return_exceptions=True)
        assert await journal.commit() == 2


@pytest.mark.parametrize("verb", ["flush", "write"])
async def test_when_a_device_fails_those_who_wait_hear_of_it(verb: str) -> None:
    story = a_journal()
    journal = story.journal
    failing = FailingDevice(story.members[0].block_device, Fault("flush" if verb == "flush" else "write", 1))
    story.members[0].block_device = failing
    seq = journal.append([data(1)])
    waiting = [asyncio.create_task(journal.durable(seq)) for _ in range(3)]
    room = asyncio.create_task(journal.wait_for_space(journal.commit_words))
    await asyncio.sleep(0)
    with pytest.raises(DeviceError):
        await journal.commit()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert all("Input/output error" in str(answer) for answer in answers), answers
    assert not journal.is_wanted
    await room  # the entry was sealed; whoever appends now waits in vain, and is told
    seq = journal.append([data(2)])
    with pytest.raises(DeviceError, match="Input/output error"):
        await journal.durable(seq)
    with pytest.raises(DeviceError, match="Input/output error"):
        await journal.wait_for_space(journal.commit_words)


async def test_a_root_is_durable_with_its_level_and_all_keys_accepted_before() -> None:
    story = a_journal()
    story.journal.append([data(7)])
    await story.journal.set_root(ROOT_KEY, 2)
    (entry,) = entries_of(story)
    assert (entry.root, entry.level, entry.keys) == (ROOT_KEY, 2, (data(7),))


async def test_those_who_asked_are_told_of_each_entry() -> None:
    story = a_journal()
    told: list[int] = []
    story.journal.on_durable.append(told.append)
    for _ in range(3):
        await story.journal.commit()
    assert told == [1, 2, 3]


async def test_an_entry_needs_those_whose_keys_are_in_no_written_leaf() -> None:
    story = a_journal()
    journal = story.journal
    for number in range(3):
        await story.accept([data(50 * number)])
        await journal.commit()
    story.pins.unpin(1)
    await journal.commit()
    story.pins.unpin(2)
    story.pins.unpin(3)
    await journal.commit()
    assert [entry.last_seq for entry in entries_of(story)] == [1, 1, 1, 2, 5]
    assert journal.space.rings.durable_last_seq == 5


# Room


async def test_there_is_room_for_as_many_words_as_an_entry_holds() -> None:
    story = a_journal((2,))
    journal = story.journal
    assert journal.commit_words == (4096 - 240) // 8
    keys = [data(number) for number in range(journal.commit_words // 3)]
    words = sum(map(key_words, keys))
    assert journal.has_space(journal.commit_words)
    journal.append(keys)
    assert journal.has_space(journal.commit_words - words)
    assert not journal.has_space(journal.commit_words - words + 1)
    await journal.commit()
    assert journal.has_space(journal.commit_words), "no leaf needs them"


async def test_keys_wait_until_the_open_entry_is_sealed_and_no_longer() -> None:
    story = a_journal()
    journal = story.journal
    journal.append([data(number) for number in range(160)])
    waiting = asyncio.create_task(journal.wait_for_space(12))
    await settle()
    assert journal.is_wanted
    assert not waiting.done()
    writing = asyncio.create_task(journal.commit())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert waiting.done()
    assert not writing.done()
    await writing


async def test_keys_wait_while_leaves_need_as_much_as_the_ring_can_carry() -> None:
    story = a_journal((4,))
    journal = story.journal
    pressed: list[int | None] = []
    journal.on_pressure.append(lambda: pressed.append(journal.pressure()))
    await story.accept([data(number) for number in range(150)])
    await journal.commit()
    assert pressed == [1]
    waiting = asyncio.create_task(journal.wait_for_space(60))
    await settle()
    assert not waiting.done()
    assert pressed == [1, 1], "leaves are to be written through entry 1"
    for leaf in story.leaves:
        await story.write_leaf(leaf)
    assert journal.pressure() is None
    await waiting
    assert journal.has_space(60)


async def test_what_leaves_release_counts_once_an_entry_tells_it_which_is_asked_for() -> None:
    story = a_journal((40,), block_sectors=8)
    journal = story.journal
    for number in range(14):
        await story.accept([data(40 * number + step) for step in range(20)])
        await journal.commit()
    while journal.has_space(2):
        await journal.commit()
    free = journal.free_buckets(story.members[0])
    assert free > 4, "kept back, to carry what is needed"
    waiting = asyncio.create_task(journal.wait_for_space(2))
    await settle()
    assert journal.pressure() == 1
    assert not journal.is_wanted
    story.pins.unpin(1)
    assert (journal.pressure(), journal.is_wanted) == (2, True), "half of the ring is to be free"
    await journal.commit()
    assert journal.free_buckets(story.members[0]) == free
    assert journal.space.rings.durable_last_seq == 2
    await waiting
    assert not journal.is_wanted


async def test_a_ring_without_needed_keys_is_never_short() -> None:
    story = a_journal((2,))
    for _ in range(50):
        await story.journal.commit()
        assert story.journal.pressure() is None


async def test_what_is_needed_is_carried_along_and_remembered_by_its_first_seq() -> None:
    story = a_journal((2,), block_sectors=8)
    journal = story.journal
    await story.accept([data(1), data(2)])
    await journal.commit()
    await story.accept([data(3)])
    for _ in range(3):
        await journal.commit()
    entries = entries_of(story)
    assert [entry.last_seq for entry in entries] == [1, 2, 3, 4]
    assert all(entry.keys == (data(1), data(2), data(3)) for entry in entries[1:])
    assert journal.oldest_kept_seq == 1, "its keys may name gens as old as that"
    for leaf in story.leaves:
        leaf.pending.clear()
    story.pins.unpin(1)
    assert await journal.commit() == 5
    assert entries_of(story)[-1].keys == ()
    assert journal.oldest_kept_seq == 5


async def test_it_shows_what_one_looks_for_in_a_debugger() -> None:
    story = a_journal((8, 9))
    await story.accept([data(1)])
    await story.journal.commit()
    await story.accept([data(2), data(3)])
    assert repr(story.journal) == (
        "<Journal entry 1, durable 1, needed from 1, open with 2 keys; "
        "<JournalSpace 9 words needed, 7 of 8 buckets free>>"
    )
    story.journal.abort(OSError())
    assert "open with 2 keys, aborted;" in repr(story.journal)
    assert repr(story.journal.space.rings.each[0]).startswith(
        "<JournalRing bucket 1 of 8, newest seqs [0, 1, "
    )
