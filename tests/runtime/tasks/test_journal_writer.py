# SPDX-License-Identifier: GPL-2.0-only
"""The journal writer: at once for those who wait, after a while for keys alone, and to the very end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from bcached.errors import FlushFailed
from bcached.keys import Key
from bcached.runtime.coordination.options import SetOptions
from bcached.runtime.coordination.shared import create_shared
from bcached.runtime.tasks.journal_writer import GATHER_ITERATIONS, JournalWriter
from bcached.state.sectors.sector_allocator import SectorAllocator
from instruments.devices.failing_device import FailingDevice, Fault
from instruments.stories.journal_story import JournalStory
from instruments.time.virtual_time import in_virtual_time

DELAY_S = 0.25
LATENCY_S = 0.001


def key(number: int) -> Key:
    return Key(0, number, 1, False, ())


def writer_of(story: JournalStory) -> JournalWriter:
    options = SetOptions("unused", "unused", journal_delay_s=DELAY_S)
    sectors = SectorAllocator([member.buckets for member in story.members])
    clock = asyncio.get_running_loop().time
    return JournalWriter(story.journal, create_shared(options, sectors, clock, lambda: None))


@asynccontextmanager
async def written(latency_s: float = LATENCY_S) -> AsyncIterator[JournalStory]:
    """A journal with its writer, which ends well at the end."""
    story = JournalStory(Random(1), [6], 8, 1, latency_s=latency_s)
    writer = writer_of(story)
    running = asyncio.create_task(writer.run())
    yield story
    writer.end()
    await running


@in_virtual_time
async def test_whoever_waits_for_an_entry_gets_it_at_once() -> None:
    async with written() as story:
        begun = asyncio.get_running_loop().time()
        await story.journal.durable(story.journal.append([key(1)]))
        assert asyncio.get_running_loop().time() - begun < 10 * LATENCY_S
        assert story.journal.durable_seq == 1


@in_virtual_time
async def test_keys_alone_wait_for_company_but_not_for_long() -> None:
    async with written(0) as story:
        journal = story.journal
        journal.append([key(1)])
        await asyncio.sleep(0.8 * DELAY_S)
        journal.append([key(2)])
        assert journal.seq == 0
        await asyncio.sleep(0.21 * DELAY_S)
        assert journal.durable_seq == 1, "it is the first one's time that counts"
        journal.append([key(3)])
        await asyncio.sleep(0.8 * DELAY_S)
        assert journal.durable_seq == 1
        await asyncio.sleep(0.21 * DELAY_S)
        assert journal.durable_seq == 2


@in_virtual_time
async def test_nothing_is_written_when_nothing_is_asked() -> None:
    async with written() as story:
        await asyncio.sleep(100)
        assert story.logs[0].entries == []


@in_virtual_time
async def test_many_clients_share_entries() -> None:
    async with written() as story:

        async def client(number: int) -> None:
            for step in range(20):
                await story.journal.durable(story.journal.append([key(100 * number + step)]))

        await asyncio.gather(*(client(number) for number in range(64)))
        assert 20 <= story.journal.durable_seq <= 22


@pytest.mark.parametrize("keys", [5, GATHER_ITERATIONS + 5])
@in_virtual_time
async def test_keys_that_follow_each_other_share_the_entry_that_is_wanted(keys: int) -> None:
    async with written() as story:
        journal, seqs = story.journal, []
        for number in range(keys):
            seqs.append(journal.append([key(number)]))
            asyncio.ensure_future(journal.durable(seqs[-1])).add_done_callback(lambda _: None)
            await asyncio.sleep(0)
        limit = GATHER_ITERATIONS + 2  # it wakes in the second iteration
        assert seqs.count(1) == min(keys, limit)
        await journal.durable(seqs[-1])


@in_virtual_time
async def test_an_entry_that_another_task_writes_meanwhile_is_not_followed_by_an_empty_one() -> None:
    async with written() as story:
        journal = story.journal
        wanted = asyncio.ensure_future(journal.durable(journal.append([key(0)])))
        for number in range(1, 4):  # the journal writer lets them join
            await asyncio.sleep(0)
            journal.append([key(number)])
        assert await journal.commit() == 1
        await wanted
        await asyncio.sleep(10 * DELAY_S)
        assert journal.durable_seq == 1


@in_virtual_time
async def test_it_seals_an_entry_that_is_too_full_for_the_next_keys() -> None:
    async with written() as story:
        journal = story.journal
        journal.append([key(number) for number in range(journal.commit_words // 2)])
        await journal.wait_for_space(2)
        assert asyncio.get_running_loop().time() < DELAY_S
        journal.append([key(0)])


@in_virtual_time
async def test_what_was_accepted_is_written_when_it_ends() -> None:
    async with written() as story:
        story.journal.append([key(1)])
    assert story.journal.durable_seq == 1
    await story.check_now()


@in_virtual_time
async def test_a_device_that_fails_ends_it() -> None:
    story = JournalStory(Random(1), [6], 8, 1)
    story.members[0].block_device = FailingDevice(story.members[0].block_device, Fault("flush", 1))
    running = asyncio.create_task(writer_of(story).run())
    with pytest.raises(FlushFailed, match="cannot flush: Input/output error"):
        await story.journal.durable(story.journal.append([key(1)]))
    with pytest.raises(FlushFailed):
        await running


@in_virtual_time
async def test_clients_that_go_away_leave_it_working() -> None:
    async with written() as story:
        random = Random(2)
        for _ in range(50):
            waiting = [
                asyncio.create_task(story.journal.durable(story.journal.append([key(number)])))
                for number in range(4)
            ]
            await asyncio.sleep(random.random() * 4 * LATENCY_S)
            for task in waiting[:3]:
                task.cancel()
            await waiting[3]
            await asyncio.gather(*waiting, return_exceptions=True)
    assert story.journal.durable_seq >= 50
    await story.check_now()
