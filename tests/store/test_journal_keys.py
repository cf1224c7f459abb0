# SPDX-License-Identifier: GPL-2.0-only
"""Keys in the journal, whatever the ring: none that is needed is lost, and nobody waits for ever.

A hang is an error at once here: time is virtual, and the loop says when nothing is left to happen.
"""

import asyncio
from random import Random

import pytest

from bcached.format.bkey import key_words
from bcached.state.index.journal_pins import SeqPins
from instruments.stories.journal_story import JournalStory
from instruments.time.virtual_time import in_virtual_time

SHAPES = [  # rings, sectors of a bucket, sectors of a block
    ([2], 8, 8),
    ([2], 8, 1),
    ([3], 8, 8),
    ([4], 8, 1),
    ([4, 6], 8, 8),
    ([5, 3], 8, 1),
    ([9], 8, 8),
    ([16, 24], 8, 1),
    ([40], 8, 8),
    ([12], 24, 8),
]
shapes = pytest.mark.parametrize(("rings", "bucket_sectors", "block_sectors"), SHAPES, ids=str)


@shapes
@pytest.mark.parametrize("seed", range(2))
@in_virtual_time
async def test_rings_of_any_size_go_on_for_ever(
    rings: list[int], bucket_sectors: int, block_sectors: int, seed: int
) -> None:
    random = Random(seed)
    story = JournalStory(random, rings, bucket_sectors, block_sectors, latency_s=random.choice([0, 0.0003]))
    words = random.choice([4, 40, story.journal.commit_words])
    late_s = random.choice([0.0, 0.02])
    await story.live(random.randint(2, 8), 40, words, late_s=late_s, pause_s=random.choice([0, 0.005, 1]))
    await story.check_now()
    assert story.acknowledged > 20


@shapes
@pytest.mark.parametrize("seed", range(2))
@in_virtual_time
async def test_every_cut_leaves_what_was_acknowledged_in_order_and_nothing_torn(
    rings: list[int], bucket_sectors: int, block_sectors: int, seed: int
) -> None:
    random = Random(seed)
    story = JournalStory(random, rings, bucket_sectors, block_sectors, latency_s=0.0003 * seed)
    await story.journal.commit()
    story.watch()
    await story.live(4, 12, random.choice([12, story.journal.commit_words]), late_s=0.01)
    assert len(story.moments) > 40
    for cut in random.sample(story.moments, min(len(story.moments), 80)):
        await story.check_cut(cut)


@shapes
@in_virtual_time
async def test_fifty_cuts_one_after_the_other_do_not_use_the_ring_up(
    rings: list[int], bucket_sectors: int, block_sectors: int
) -> None:
    random = Random(7)
    story = JournalStory(random, rings, bucket_sectors, block_sectors)
    await story.journal.commit()
    story.watch()
    await story.live(4, 20, story.journal.commit_words, late_s=0.01)
    for _ in range(50):
        story = await story.reopened(random.choice(story.moments[-40:]))
        story.watch()
        story.mark()
        for _ in range(random.randrange(3)):
            await story.journal.commit()
            story.mark()
    await story.live(4, 20, story.journal.commit_words)
    await story.check_now()


@in_virtual_time
async def test_what_fills_more_than_an_entry_is_carried_in_parts_that_may_be_cut_off() -> None:
    random = Random(3)
    story = JournalStory(random, [40], 8, 8, leaves=400)
    journal = story.journal
    await journal.commit()
    words = 0
    while journal.has_space(200):
        keys = story.some_keys(200)
        await story.accept(keys)
        await journal.commit()
        words += sum(map(key_words, keys))
    assert words > 2 * journal.commit_words
    story.watch()
    free = journal.free_buckets(story.members[0])
    assert free > 10
    carried = 0
    for _ in range(150):
        before = journal.seq
        await journal.commit()
        if journal.seq > before + 1:
            carried += 1
            assert journal.free_buckets(story.members[0]) >= 40 - 1 - (journal.seq - before), (
                "all before it may be overwritten"
            )
        assert journal.durable_seq == journal.seq
    assert carried >= 2
    for cut in random.sample(story.moments, 80):
        await story.check_cut(cut)
    await story.live(2, 10, 200)
    await story.check_now()


@in_virtual_time
async def test_no_key_comes_between_the_parts_that_lay_older_ones_over_each_other() -> None:
    story = JournalStory(Random(3), [40], 8, 8, leaves=400)
    journal = story.journal
    while journal.has_space(200):
        await story.accept(story.some_keys(200))
        await journal.commit()
    between = 0
    for _ in range(60):
        before = journal.seq
        writing = asyncio.create_task(journal.commit())
        while not writing.done():
            await asyncio.sleep(0)
            if journal.seq == before + 2 and journal.durable_seq <= journal.seq and not between:
                between = journal.seq
                story.pins = SeqPins()  # all leaves were written just now: the ring could hold anything
                assert not journal.has_space(2)
    assert between
    assert journal.has_space(2)
