# SPDX-License-Identifier: GPL-2.0-only
"""The power cuts are judged themselves: each bug planted here, a step left out or misplaced, must be found.

A test that finds nothing in code that is right proves little; this one says what it would have found.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bcached.device.run_all import DeviceOperation, run_all
from bcached.format.superblock import COPY_SECTOR, SUPERBLOCK_SECTOR, Superblock
from bcached.runtime import lifetime
from bcached.set_state import Replacement
from bcached.state.buckets.free_inc import FreeInc
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.store import member as member_module
from bcached.store.journal import entry_writer
from bcached.store.journal.journal import Journal
from bcached.store.journal.ring import JournalRing
from bcached.store.member import Member
from bcached.store.opening import recovery
from bcached.store.reading import set_reader
from bcached.units import SECTOR_BYTES
from instruments.crash.crash_judge import Judge, cuts, ledger_of
from instruments.crash.crash_states import draw_states
from instruments.stories.crash_story import FRESH, Ledger, Story

Plant = Callable[[pytest.MonkeyPatch], None]
Told = Callable[[Path], Awaitable["str | None"]]
STATES_A_MOMENT = 16
TWICE_STATES_A_MOMENT = 2


def verdict(story: Story, from_moment: int = 0) -> str | None:
    """The first complaint about any state of a story."""
    found = next(Judge(story, Random(1), STATES_A_MOMENT).complaints(from_moment), None)
    return found.text if found else None


# Stories


async def of_all_at_once(folder: Path) -> str | None:
    """Volumes, prios and superblocks are written at the same time, in many alignments; then buckets move."""
    story = await Story.fresh(folder, 530, discard=True)
    async with story.life():
        for delay in range(12):
            await asyncio.gather(story.write_prios(), after(delay, lambda: story.create("one")))
        await story.turn_over(60, at_once=30)
        await story.set_fields(Replacement.FIFO, False)
    return verdict(story)


async def after(delay: int, work: Callable[[], Awaitable[Any]]) -> None:
    for _ in range(delay):
        await asyncio.sleep(0)
    await work()


async def of_a_former_set(folder: Path) -> str | None:
    """A set that was in use, and whose superblock says that it is fresh."""
    story = await Story.fresh(folder, 530)
    async with story.life():
        for number in range(12):
            await story.create(f"{number}")
            await story.write_prios()
    image = bytearray(story.disks[0].image())
    used = Superblock.parse(image[4096:8192], device_bytes=len(image), logical_block_bytes=512)
    image[4096:8192] = replace(used, synchronous=False).pack()
    again = Story.on([image], Ledger.of(FRESH, [(Replacement.LRU, False)]), folder)
    async with again.life():
        await again.create("new")
    return verdict(again)


async def of_several_lives(folder: Path) -> str | None:
    """Five lives, each with new entries, which go round a ring of ten buckets with one entry each."""
    story = await Story.fresh(folder, 1400, block_bytes=4096, discard=True)
    for number in range(5):
        async with story.life():
            await story.create(f"{number}")
            await story.turn_over(10, at_once=10)
    return verdict(story)


async def of_a_first_run_cut_twice(folder: Path) -> str | None:
    """The first run of two members is cut at every moment, begun again, and cut again."""
    return await cut_twice(await Story.fresh(folder, 530, 530), folder)


async def of_a_superblock_cut_twice(folder: Path) -> str | None:
    """Changes of the superblock are cut, the set is opened again, changed again, and cut again."""
    story = await Story.fresh(folder, 530)
    async with story.life():
        await story.set_fields(Replacement.FIFO, True)
    return await cut_twice(story, folder)


async def cut_twice(story: Story, folder: Path) -> str | None:
    if wrong := verdict(story):
        return wrong
    async with story.life():
        pass
    for first, _, walks in cuts(story):
        random = Random(first)
        drawn = list(draw_states(walks, random, STATES_A_MOMENT))
        for states in random.sample(drawn, min(len(drawn), TWICE_STATES_A_MOMENT)):
            images = [state.image() for state in states]
            again = Story.on(images, ledger_of(images), folder)
            async with again.life():
                await again.set_fields(Replacement.RANDOM, False)
            if wrong := verdict(again):
                return wrong
    return None


async def of_a_kill_and_a_cut(folder: Path) -> str | None:
    """The daemon is killed while it writes an entry; the next goes by what it reads, and the power fails."""
    story = await Story.fresh(folder, 530, discard=True)
    async with story.life():
        await story.create("one")
        since = story.clock.now
        await story.turn_over(20, at_once=10)
        await story.write_prios()
    log = story.logs[0]
    for entry in (entry for entry in log.entries if entry.durable):
        moment = story.clock.positions.index((entry.issued + 1,))
        if moment < since:
            continue
        again = story.killed_at(moment, Random(moment))
        async with again.life() as cache_set:
            again.see(cache_set)
            opened = again.clock.now
            await again.turn_over(10, at_once=10)
        if wrong := verdict(again, opened):
            return wrong
    return None


# Bugs


def journal_operations(change: Callable[[list[DeviceOperation]], Iterable[DeviceOperation]]) -> Plant:
    """A journal that does other things than it should."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        async def changed(operations: Iterable[DeviceOperation]) -> None:
            await run_all(list(change(list(operations))))

        patch.setattr(entry_writer, "run_all", changed)

    return plant


def is_flush(operation: DeviceOperation) -> bool:
    return getattr(operation, "__name__", "") == "flush"


def without_flush(operations: list[DeviceOperation]) -> list[DeviceOperation]:
    return [operation for operation in operations if not is_flush(operation)]


def without_durability(operations: list[DeviceOperation]) -> list[DeviceOperation]:
    for operation in operations:
        getattr(operation, "keywords", {}).pop("durable", None)
    return operations


def answers_before_the_entry_is_written(patch: pytest.MonkeyPatch) -> None:
    commit = Journal.commit
    running = set()

    async def at_once(self: Journal) -> int:
        task = asyncio.create_task(commit(self))
        running.add(task)
        return self.seq

    patch.setattr(Journal, "commit", at_once)


def shares_the_entry_under_way(patch: pytest.MonkeyPatch) -> None:
    commit = Journal.commit

    async def shared(self: Journal) -> int:
        if not self._lock.locked():
            return await commit(self)
        async with self._lock:
            return self.seq

    patch.setattr(Journal, "commit", shared)


def writes_every_entry_to_the_same_place(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(JournalRing, "advance", lambda self, *_: self.buckets[1] * self._bucket_bytes)


def fills_the_ring_out_of_order(patch: pytest.MonkeyPatch) -> None:
    advance = JournalRing.advance

    def jumping(self: JournalRing, size_bytes: int, seq: int, durable_last_seq: int) -> int | None:
        # Kernel: searches by halves, so a newest entry behind a gap of older ones is not found.
        if self._next_byte + size_bytes > self._bucket_bytes:
            self.index = (self.index + 2) % len(self.buckets)
        return advance(self, size_bytes, seq, durable_last_seq)

    patch.setattr(JournalRing, "advance", jumping)


def uses_a_seq_again_after_an_opening(patch: pytest.MonkeyPatch) -> None:
    recover = recovery.recover

    async def forgetful(*args: Any, **keywords: Any) -> recovery.OpenedSet:
        opened = await recover(*args, **keywords)
        opened.journal.seq -= 1
        return opened

    patch.setattr(lifetime, "recover", forgetful)


def names_a_prio_chain_before_it_is_written(patch: pytest.MonkeyPatch) -> None:
    journals: list[Journal] = []
    begin, write = Journal.__init__, Member.write_prios

    def noted(self: Journal, *args: Any, **keywords: Any) -> None:
        begin(self, *args, **keywords)
        journals.append(self)

    async def early(self: Member, gens: bytearray) -> None:
        journals[-1].locations.prio_heads[self.device] = self.buckets.prio_chains.writing[0]
        await write(self, gens)

    patch.setattr(Journal, "__init__", noted)
    patch.setattr(Member, "write_prios", early)


def writes_prios_in_place(patch: pytest.MonkeyPatch) -> None:
    take = MemberBuckets.take_prio_chain

    def same(self: MemberBuckets) -> list[int]:
        chains = self.prio_chains
        if not chains.current:
            return take(self)
        chains.writing, chains.current = chains.current, []
        return chains.writing

    patch.setattr(MemberBuckets, "take_prio_chain", same)


def frees_the_old_prio_chain_before_the_new_one_counts(patch: pytest.MonkeyPatch) -> None:
    take = MemberBuckets.take_prio_chain

    def freeing(self: MemberBuckets) -> list[int]:
        taken = take(self)
        before, self.prio_chains.current = self.prio_chains.current, []
        self.free_metadata(before)
        return taken

    patch.setattr(MemberBuckets, "take_prio_chain", freeing)


def hands_out_buckets_before_their_gens_are_durable(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FreeInc, "ready", property(lambda self: len(self.buckets)))


def does_not_wipe_the_journal(patch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> None:
        pass

    patch.setattr(recovery, "wipe_buckets", nothing)


def wipes_the_first_blocks_only(patch: pytest.MonkeyPatch) -> None:
    async def first_blocks(device: Any, geometry: Any, buckets: range) -> None:
        for bucket in buckets:
            await device.write(geometry.byte_of(bucket), bytes(geometry.block_bytes))
        await device.flush()

    patch.setattr(recovery, "wipe_buckets", first_blocks)


def trusts_the_journal_before_there_is_one(patch: pytest.MonkeyPatch) -> None:
    write = recovery.write_first_prios

    async def early(member: Member, journal: Journal) -> None:
        await member.change_superblock(version=3, synchronous=True)
        await write(member, journal)

    patch.setattr(recovery, "write_first_prios", early)


def writes_superblock_and_copy_at_once(patch: pytest.MonkeyPatch) -> None:
    async def at_once(device: Any, superblock: Superblock) -> None:
        for sector in (COPY_SECTOR, SUPERBLOCK_SECTOR):
            await device.write(sector * SECTOR_BYTES, superblock.pack())
        await device.flush()

    patch.setattr(member_module, "write_superblock", at_once)


def does_not_mend_a_damaged_superblock(patch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> None:
        pass

    patch.setattr(recovery, "repair_superblock", nothing)


def wipes_a_journal_that_is_still_trusted(patch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> None:
        pass

    patch.setattr(recovery, "_take_back", nothing)


def does_not_flush_what_it_read(patch: pytest.MonkeyPatch) -> None:
    read_set = set_reader.read_set

    async def unflushed(devices: Iterable[Any]) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            for device in devices:
                inner.setattr(type(device), "flush", lambda _: asyncio.sleep(0))
            return await read_set(list(devices))

    patch.setattr(lifetime, "read_set", unflushed)


BUGS: list[tuple[Plant, Told]] = [
    (journal_operations(without_flush), of_all_at_once),
    (journal_operations(without_durability), of_all_at_once),
    (answers_before_the_entry_is_written, of_all_at_once),
    (shares_the_entry_under_way, of_all_at_once),
    (writes_every_entry_to_the_same_place, of_all_at_once),
    (fills_the_ring_out_of_order, of_several_lives),
    (uses_a_seq_again_after_an_opening, of_several_lives),
    (names_a_prio_chain_before_it_is_written, of_all_at_once),
    (writes_prios_in_place, of_all_at_once),
    (frees_the_old_prio_chain_before_the_new_one_counts, of_all_at_once),
    (hands_out_buckets_before_their_gens_are_durable, of_all_at_once),
    (does_not_wipe_the_journal, of_a_former_set),
    (wipes_the_first_blocks_only, of_a_former_set),
    (trusts_the_journal_before_there_is_one, of_several_lives),
    (writes_superblock_and_copy_at_once, of_all_at_once),
    (does_not_mend_a_damaged_superblock, of_a_superblock_cut_twice),
    (wipes_a_journal_that_is_still_trusted, of_a_first_run_cut_twice),
    (does_not_flush_what_it_read, of_a_kill_and_a_cut),
]
STORIES = sorted({told for _, told in BUGS}, key=lambda told: getattr(told, "__name__", ""))


@pytest.mark.parametrize("told", STORIES)
async def test_without_a_bug_nothing_is_found(tmp_path: Path, told: Told) -> None:
    assert await told(tmp_path) is None


@pytest.mark.parametrize(("plant", "told"), BUGS)
async def test_a_planted_bug_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Plant, told: Told
) -> None:
    plant(monkeypatch)
    found = await told(tmp_path)
    assert found is not None
    print(found)
