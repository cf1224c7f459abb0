# SPDX-License-Identifier: GPL-2.0-only
"""The power fails at every moment of many lives, in every way it may: the set must open as it was promised.

BCACHED_CRASH_STATES is how many states are drawn at a moment; the default is for every day. A failure names
the seed, the moment and the state, which come out the same every time.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from bcached.errors import BcachedError, NoFreeBuckets
from bcached.format.superblock import Superblock
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.set_state import Replacement
from bcached.state.sectors.reservations import Holder
from instruments.crash.crash_judge import Judge, cuts, ledger_of
from instruments.crash.crash_states import Walk, draw_states
from instruments.devices.failing_device import Fault, Verb
from instruments.stories.crash_story import FRESH, Ledger, Story

STATES_A_MOMENT = int(os.environ.get("BCACHED_CRASH_STATES", "24"))
LRU, FIFO, RANDOM = Replacement.LRU, Replacement.FIFO, Replacement.RANDOM


def judged(story: Story, seed: int = 1, from_moment: int = 0, states: int = STATES_A_MOMENT) -> Judge:
    """The judge of all that a power cut may leave of a story, who must have had nothing to complain about."""
    judge = Judge(story, Random(seed), states)
    wrong = next(judge.complaints(from_moment), None)
    assert wrong is None, f"seed {seed}, moment {wrong.moment}, state {wrong.number}: {wrong.text}"
    return judge


async def busy_life(story: Story, turnover: int = 24) -> None:
    """One life with everything in it that writes metadata."""
    async with story.life():
        first = await story.create("first")
        await story.create("second")
        await story.write_prios()
        await story.turn_over(turnover, at_once=8)
        await story.delete(first)
        await story.set_fields(FIFO, True)
        await story.turn_over(turnover, at_once=8)
        await story.create("third")


@pytest.mark.parametrize("bucket_counts", [(530,), (1400,), (530, 560), (520, 520, 520)], ids=str)
async def test_a_first_run_that_breaks_off_leaves_a_fresh_set_or_a_whole_one(
    tmp_path: Path, bucket_counts: tuple[int, ...]
) -> None:
    story = await Story.fresh(tmp_path, *bucket_counts)
    async with story.life():
        pass
    judge = judged(story)
    assert judge.fresh > 10
    assert judge.states - judge.fresh > 5


async def test_a_first_run_brings_nothing_of_a_former_set_back(tmp_path: Path) -> None:
    story = await Story.fresh(tmp_path, 530)
    await busy_life(story)
    image = bytearray(story.disks[0].image())
    used = Superblock.parse(image[4096:8192], device_bytes=len(image), logical_block_bytes=512)
    image[4096:8192] = replace(used, synchronous=False, discard=False, replacement=LRU).pack()
    image[8192:12288] = bytes(4096)
    again = Story.on([image], Ledger.of(FRESH, [(LRU, False)]), tmp_path)
    async with again.life():
        await again.create("new")
    judged(again)


@pytest.mark.parametrize("bucket_counts", [(530,), (1400,), (530, 560)], ids=str)
@pytest.mark.parametrize("block_bytes", [512, 4096])
async def test_what_was_acknowledged_outlives_a_cut_at_any_moment(
    tmp_path: Path, bucket_counts: tuple[int, ...], block_bytes: int
) -> None:
    story = await Story.fresh(tmp_path, *bucket_counts, block_bytes=block_bytes)
    await busy_life(story)
    judge = judged(story)
    assert judge.moments > 80


async def test_a_cut_in_a_prio_write_loses_nothing_and_frees_no_bucket_early(tmp_path: Path) -> None:
    story = await Story.fresh(tmp_path, 530)
    async with story.life():
        await story.create("first")
        await story.turn_over(60, at_once=30)
        begun = len(story.clock.positions)
        await story.write_prios()
        written = len(story.clock.positions)
        await story.turn_over(60, at_once=30)
    assert written > begun
    judged(story, from_moment=begun)


@pytest.mark.parametrize("members", [1, 2])
async def test_life_after_life_keeps_what_was_there(tmp_path: Path, members: int) -> None:
    story = await Story.fresh(tmp_path, *[530] * members, discard=True)
    for number in range(4):
        async with story.life():
            await story.create(f"volume {number}")
            await story.turn_over(12, at_once=6)
    judged(story)


async def test_buckets_turned_over_with_discards_carry_durable_gens(tmp_path: Path) -> None:
    story = await Story.fresh(tmp_path, 530, discard=True)
    async with story.life():
        for _ in range(5):
            await story.turn_over(60, at_once=30)
            await story.write_prios()
    assert len(story.ledger.handed_out) > 100
    judged(story)


async def test_a_few_buckets_used_over_and_over_do_not_run_away_from_the_gens_on_disk(tmp_path: Path) -> None:
    story = await Story.fresh(tmp_path, 530)
    async with story.life() as cache_set:
        holder = cache_set.allocations.new_holder("hoarder")
        keys = await everything(cache_set, holder)
        for key in keys[:6]:
            cache_set.allocations.free_bucket(holder, key)
        table = cache_set.members[0].buckets.table
        farthest = 0
        for _ in range(700):
            cache_set.allocations.free_bucket(
                holder, await cache_set.allocations.allocate_bucket(holder, 1, 5)
            )
            farthest = max(farthest, table.distance_disk)
        assert 48 < farthest <= 96
    judged(story, states=4)


async def everything(cache_set: CacheSet, holder: Holder) -> list[Key]:
    """Take all buckets there are."""
    keys = []
    while True:
        try:
            keys.append(await cache_set.allocations.allocate_bucket(holder, 1, 0.2))
        except NoFreeBuckets:
            return keys


@pytest.mark.parametrize("seed", range(6))
async def test_lives_by_chance(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    counts = random.choice([(530,), (1400,), (530, 560)])
    story = await Story.fresh(tmp_path, *counts, discard=random.random() < 0.5)
    for _ in range(random.randint(1, 3)):
        async with story.life():
            for _ in range(random.randint(1, 6)):
                await something(story, random)
    judged(story, seed)


async def something(story: Story, random: Random) -> None:
    """One thing that a set can be asked for."""
    there = story.ledger.volumes[-1].value
    kind = random.randrange(5)
    if kind == 0 and there:
        await story.delete(random.choice(list(there)))
    elif kind <= 1:
        await story.create(f"volume {random.randrange(1000)}")
    elif kind == 2:
        await story.write_prios()
    elif kind == 3:
        await story.set_fields(random.choice(list(Replacement)), random.random() < 0.5)
    else:
        await story.turn_over(random.randrange(1, 60), at_once=random.randrange(1, 30))


@pytest.mark.parametrize("members", [1, 2, 3])
async def test_a_cut_in_the_opening_after_a_cut_is_no_worse(tmp_path: Path, members: int) -> None:
    random = Random(members)
    story = await Story.fresh(tmp_path, *[530] * members, discard=members == 1)
    await busy_life(story, turnover=10)
    states = 0
    for first in images_after_cuts(story, random, 16):
        again = Story.on(first, ledger_of(first), tmp_path)
        async with again.life():
            await again.turn_over(8)
            await again.create("after the cut")
        states += judged(again, members, states=6).states
    assert states > 1000


def images_after_cuts(story: Story, random: Random, count: int) -> Iterator[list[bytearray]]:
    """Whole images of some states, taken from all over the story."""
    total = sum(1 for _ in cuts(story))
    chosen = set(random.sample(range(total), count))
    for number, (_, _, walks) in enumerate(cuts(story)):
        if number in chosen:
            drawn = list(draw_states(walks, random, 12))
            yield [state.image() for state in random.choice(drawn)]


@pytest.mark.parametrize("members", [1, 2])
async def test_what_a_killed_daemon_left_unflushed_and_the_next_one_saw_is_not_lost_to_a_cut(
    tmp_path: Path, members: int
) -> None:
    random = Random(members)
    story = await Story.fresh(tmp_path, *[530] * members, discard=True)
    await busy_life(story, turnover=10)
    opened = next(change.kept for change in story.ledger.volumes if change.value == {})
    assert opened is not None
    for _ in range(12):
        again = story.killed_at(random.randrange(opened, story.clock.now), random)
        async with again.life() as cache_set:
            again.see(cache_set)
            since = again.clock.now
            await again.turn_over(20, at_once=10)
            await again.create("after the kill")
        judged(again, members, from_moment=since, states=6)


async def test_fifty_cuts_in_openings_do_not_use_the_journal_up(tmp_path: Path) -> None:
    random = Random(1)
    story = await Story.fresh(tmp_path, 530)
    await busy_life(story)
    for _ in range(50):
        images = [disk.image() for disk in story.disks]
        story = Story.on(images, ledger_of([bytearray(image) for image in images]), tmp_path)
        async with story.life():
            await story.write_prios()
        begun = next(entry for entry in story.logs[0].entries if entry.durable).issued + 1
        walk = Walk(story.logs[0])
        walk.advance(begun)
        torn = random.choice([states[0].image() for states in draw_states([walk], random, 12)])
        story = Story.on([torn], ledger_of([torn]), tmp_path)
    async with story.life() as cache_set:
        member = cache_set.members[0]
        assert cache_set.journal.free_buckets(member) >= member.buckets.geometry.journal_bucket_count - 2
        await story.create("last")
    judged(story)


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("verb", ["write", "flush"])
async def test_a_device_that_fails_at_any_write_or_flush_costs_nothing_that_was_acknowledged(
    tmp_path: Path, verb: Verb, members: int
) -> None:
    made = await Story.fresh(tmp_path, *[530] * members)
    images = [disk.image() for disk in made.disks]
    for count in range(1, 100):
        story = Story.on(images, Ledger.of(FRESH, [(LRU, False)] * members), tmp_path)
        try:
            async with story.life(Fault(verb, count)):
                await story.create("first")
                await story.write_prios()
                await story.turn_over(16, at_once=8)
                await story.set_fields(FIFO, False)
                await story.delete(0)
        except BcachedError:
            judged(story, count, states=4)
        else:
            break
    assert 10 < count < 99, "every write and flush of that life has failed once"
