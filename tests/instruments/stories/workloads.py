# SPDX-License-Identifier: GPL-2.0-only
"""What clients and administrators do to a set, one operation after the other, or several at the same time.

Every workload follows from a seed or from the operations' names, so one that went wrong can be played again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, product
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

from bcached.errors import NoFreeBuckets
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.tasks.node_tidier import NodeTidier
from bcached.state.buckets.bucket_table import State
from instruments.crash.key_judge import begin_from
from instruments.stories.crash_story import Ledger
from instruments.stories.key_ledger import KeyLedger
from instruments.stories.key_story import FLASH, PLAIN, VOLUME_SECTORS, KeyStory

Operation = Callable[[KeyStory, Random], Awaitable[None]]
BUCKET_COUNT = 530
RANGE = 400  # sectors of each volume that are used
SCARCE_BUCKETS, MIXED_KEYS = 4, 90


class KilledError(Exception):
    """The daemon ends here, without a stop."""


# One operation each


async def write(story: KeyStory, random: Random) -> None:
    """Allocate a few extents, and write their data."""
    for _ in range(random.randint(2, 6)):
        inode = random.choice((PLAIN, FLASH))
        replicas = random.randint(1, len(story.logs))
        dirty = random.random() < 0.4
        sectors = random.randint(1, 12)
        await story.write(inode, random.randrange(RANGE), sectors, dirty=dirty, replicas=replicas)


async def commit(story: KeyStory, random: Random) -> None:
    """Commit all that was written."""
    await story.commit(durable=random.random() < 0.6)


async def overwrite(story: KeyStory, random: Random) -> None:
    """Write where something is, and commit."""
    for _ in range(random.randint(1, 5)):
        inode, sector = story.some_place(random, random.choice((PLAIN, FLASH)))
        await story.write(inode, sector, random.randint(1, 12), dirty=random.random() < 0.4)
    await story.commit(durable=random.random() < 0.6)


async def replace(story: KeyStory, random: Random) -> None:
    """Write a shorter value where a longer one may be, of which nothing is left with the same commit."""
    for _ in range(random.randint(1, 3)):
        inode, sector = story.some_place(random, random.choice((PLAIN, FLASH)))
        await story.write(inode, sector, random.randint(1, 6), dirty=random.random() < 0.4)
        reaches = (inode, max(sector - random.randint(0, 20), 0), sector + random.randint(8, 80))
        await story.commit(durable=random.random() < 0.6, replaces=[reaches])


async def invalidate(story: KeyStory, random: Random) -> None:
    """Drop a range."""
    inode, sector = story.some_place(random, random.choice((PLAIN, FLASH)))
    await story.drop(inode, sector, random.randint(1, 120), durable=random.random() < 0.6)


async def clean(story: KeyStory, random: Random) -> None:
    """Make clean what is dirty."""
    _, sector = story.some_place(random, PLAIN)
    await story.clean(PLAIN, sector, random.randint(1, 60), durable=random.random() < 0.6)


async def collect(story: KeyStory, _: Random) -> None:
    """Collect garbage, coalesce, and move."""
    await story.collect()


async def write_prios(story: KeyStory, _: Random) -> None:
    """Have the gens of now made durable."""
    await story.write_prios()


async def flush(story: KeyStory, _: Random) -> None:
    """Have all made durable that was accepted."""
    await story.flush()


async def turn_over(story: KeyStory, random: Random) -> None:
    """Take buckets and give them back, so that others must be found."""
    with suppress(NoFreeBuckets):
        await story.turn_over(random.randint(1, 40), random.randint(1, 20))


async def fill(story: KeyStory, random: Random) -> None:
    """Commit a great many small keys, so that nodes split."""
    for _ in range(random.randint(1, 8)):
        start, inode = random.randrange(RANGE), random.choice((PLAIN, FLASH))
        for step in range(12):
            await story.write(inode, start + 3 * step, random.randint(1, 2), dirty=random.random() < 0.4)
        await story.commit(durable=False)


async def volumes(story: KeyStory, random: Random) -> None:
    """Create a volume with something on it, or delete one with all that is on it."""
    there = story.ledger.volumes[-1].value
    if len(there) > 2:
        await story.delete(max(there))
        return
    inode = await story.create(f"volume {random.randrange(100)}")
    for start in range(0, 60, 12):
        await story.write(inode, start, random.randint(1, 12), dirty=random.random() < 0.5)
    await story.commit(durable=random.random() < 0.5)


async def together(story: KeyStory, random: Random) -> None:
    """A client works while garbage is collected, prios are written, and buckets are taken."""

    async def client() -> None:
        for _ in range(random.randint(1, 4)):
            await random.choice((overwrite, invalidate, clean, overwrite, fill))(story, random)

    others = random.sample([collect, write_prios, turn_over, flush], random.randint(1, 3))
    await asyncio.gather(client(), *(other(story, random) for other in others))


async def outdate(story: KeyStory, random: Random) -> None:
    """Put data over parts of older extents, and have buckets change hands until the newer is reclaimed."""
    start = random.randrange(RANGE)
    await story.write(PLAIN, start, 8, dirty=False)
    await story.commit(durable=True)
    await story.write(PLAIN, start + 2, 1, dirty=False)
    await story.write(PLAIN, RANGE + start, 15, dirty=False)
    await story.commit(durable=True)
    await story.drop(PLAIN, RANGE + start, 15, durable=False)
    for _ in range(2):
        await turn_over(story, random)
        await story.write_prios()


async def split_while_gens_are_written(story: KeyStory, random: Random) -> None:
    """Nodes are replaced while prios are written."""

    async def prios() -> None:
        for _ in range(4):
            await asyncio.sleep(0.005 * random.random())
            await story.write_prios()

    await asyncio.gather(fill(story, random), prios(), story.collect())


async def race(story: KeyStory, random: Random) -> None:
    """A client writes over what is moved."""

    async def client() -> None:
        for _ in range(8):
            await overwrite(story, random)
            await asyncio.sleep(0.002 * random.random())

    await invalidate(story, random)
    await asyncio.gather(client(), story.collect())


async def evacuate(story: KeyStory, random: Random) -> None:
    """Hardly a bucket is left, and one key in three is dirty: dirty data is moved together to make room.

    Meanwhile some of it is written over, dropped, and made clean.
    """
    cache_set = story.cache_set
    assert cache_set is not None
    await crowd(story, SCARCE_BUCKETS)
    emptied = cache_set.tasks.garbage_collector.evacuator.totals.emptied_buckets

    async def fill_up() -> None:
        for number in range(MIXED_KEYS):
            await story.write(PLAIN, 4 * number, 2, dirty=number % 3 == 0)
            if number % 8 == 7:
                await story.commit(durable=random.random() < 0.3)
        await story.commit(durable=True)

    async def client() -> None:
        for _ in range(6):
            await asyncio.sleep(0.01 * random.random())
            await random.choice((invalidate, clean))(story, random)

    await asyncio.gather(fill_up(), client())
    totals = cache_set.tasks.garbage_collector.evacuator.totals
    story.evacuated += totals.emptied_buckets - emptied


OPERATIONS: Sequence[Operation] = (
    *(write, commit, overwrite, overwrite, invalidate, clean, collect, write_prios),
    *(flush, turn_over, fill, fill, volumes, together, together),
    *(outdate, split_while_gens_are_written, race),
)


async def crowd(story: KeyStory, empty: int) -> None:
    """Somebody takes nearly all buckets that are empty, so that clean data must make room."""
    cache_set = story.cache_set
    assert cache_set is not None
    holder, begun = cache_set.allocations.new_holder("hoarder"), story.clock.now
    tables = [member.buckets.table for member in cache_set.members]
    with suppress(NoFreeBuckets):
        for _ in range(sum(table.bucket_count for table in tables)):
            if sum(table.counts[State.EMPTY] for table in tables) <= empty * len(tables):
                break
            await cache_set.allocations.allocate_bucket(holder, 1, 0.1)
    story.skipped.append(range(begun, story.clock.now))


# Whole stories


async def by_chance(
    seed: int, folder: Path, only: Sequence[Operation] = OPERATIONS, kind: "Kind | None" = None
) -> KeyStory:
    """A story of some lives, each with some operations, on a set of some kind; the last may be killed.

    Most begin with a set that is in use, and in most something is scarce.
    """
    kind = kind or Kind()
    random = Random(seed)
    counts = random.choice([(BUCKET_COUNT,), (BUCKET_COUNT,), (530, 560)])
    block_bytes = random.choice([512, 512, 1024, 4096])
    story = await KeyStory.fresh(folder, *counts, block_bytes=block_bytes, discard=random.random() < 0.5)
    if random.random() < 0.8 and kind.base is None:
        await furnish(story, random)
        story = Base.of([disk.image() for disk in story.disks]).story(folder)
    story = kind.base.story(folder) if kind.base else story
    story.options = kind.options
    story.latency = random.choice([None, Random(seed), Random(seed)])
    for _ in range(random.randint(1, 2)):
        is_crowded = random.random() < 0.6
        verify = not is_crowded and random.random() < 0.3  # with so many held, it takes its time
        async with alive(story, verify=verify, is_killed=random.random() < 0.3):
            if not story.ledger.volumes[-1].value:
                await story.create("plain")
                await story.create("flash", VOLUME_SECTORS)
            if is_crowded:
                await crowd(story, random.choice([4, 20, 60]))
            for _ in range(random.randint(1, 10)):
                await random.choice(only)(story, random)
        if story.was_killed:
            break
    return story


@dataclass(frozen=True)
class Base:
    """What stories begin with: the bytes of devices, and what they hold."""

    images: Sequence[bytes | bytearray]
    ledger: Ledger
    keys: KeyLedger

    @classmethod
    def of(cls, images: Sequence[bytes | bytearray]) -> "Base":
        return cls(images, *begin_from(images))

    def story(self, folder: Path) -> KeyStory:
        """A story that begins with this, durably."""
        ledger = Ledger.of(self.ledger.volumes[0].value, [each[0].value for each in self.ledger.fields])
        ledger.gens += self.ledger.gens
        story = KeyStory.on(self.images, ledger, folder)
        story.keys = self.keys.copy()
        story.tokens = count(1 + max((value[1] for _, value in self.keys.there() if value), default=0))
        return story


@dataclass(frozen=True)
class Kind:
    """What is special about a story by chance: the set it begins with, and options of its lives."""

    base: Base | None = None
    options: dict[str, Any] = field(default_factory=dict)


async def furnish(story: KeyStory, random: Random) -> None:
    """Two volumes, some data, and a tree of several leaves; stopped in order."""
    async with alive(story):
        await story.create("plain")
        await story.create("flash", VOLUME_SECTORS)
        for start in range(0, RANGE, 40):
            for inode in (PLAIN, FLASH):
                for step in range(0, 40, random.choice((2, 2, 4))):
                    await story.write(inode, start + step, 1, dirty=random.random() < 0.2)
                await story.commit(durable=False)


TALL_BUCKETS = 800
NEARLY_TALL_LEAVES = 118  # the root is nearly full of them


async def furnish_tall(story: KeyStory, *, three_levels: bool) -> None:
    """A volume with a tree of three levels, or soon of three, in which leaves hold hardly anything.

    No collection has come so far as to make them fewer. Only what stays is written: it would be too much.
    """

    async def nothing(*_: object) -> None:
        pass

    with patch.object(NodeTidier, "tidy", nothing):
        async with alive(story) as cache_set:
            await story.create("plain")
            await story.create("flash", VOLUME_SECTORS)
            tree, start = cache_set.index.nodes.tree, 0
            while tree.root.level < 2 if three_levels else len(tree.leaves) < NEARLY_TALL_LEAVES:
                await story.sow(PLAIN, start, 64)
                start += 128
                await asyncio.sleep(0.01)  # leaves are written
                if start >= 512:
                    await story.thin(PLAIN, start - 512, 64)
            for left in range(start - 384, start, 128):
                await story.thin(PLAIN, left, 64)


@asynccontextmanager
async def alive(story: KeyStory, *, is_killed: bool = False, **options: Any) -> AsyncIterator[CacheSet]:
    """One life of the set; a daemon that is killed stops nothing in order."""
    try:
        async with story.life(**story.options, **options) as cache_set:
            story.opened(cache_set)
            yield cache_set
            if is_killed:
                story.was_killed = True
                raise KilledError
    except KilledError:
        pass


async def after_a_cut(
    images: Sequence[bytes | bytearray], seed: int, folder: Path, kind: Kind | None = None
) -> KeyStory:
    """A set on what a cut left is opened and used: what it says then must be true after another cut, too."""
    random = Random(seed)
    story = Base.of(images).story(folder)
    story.options = kind.options if kind else {}
    story.latency = random.choice([None, Random(seed)])
    return await _go_on(story, random)


async def _go_on(story: KeyStory, random: Random) -> KeyStory:
    """A short life with everything in it."""
    async with alive(story, is_killed=random.random() < 0.3):
        if (story.ledger.volumes[-1].value or {}).keys() >= {PLAIN, FLASH}:
            if random.random() < 0.5:
                await crowd(story, random.choice([4, 20]))
            for operation in random.sample([overwrite, fill, together, invalidate, clean], 2):
                await operation(story, random)
        await story.collect()
        with suppress(NoFreeBuckets):
            await story.turn_over(12, 6)
        await story.write_prios()
    return story


async def after_a_kill(story: KeyStory, moment: int, seed: int) -> tuple[KeyStory, int]:
    """A daemon that was killed at a moment is started again, on devices that lost nothing yet.

    Also the moment at which it was open: from then on what it found is a promise.
    """
    random = Random(seed)
    again = story.killed_at(moment, random)
    images = [disk.image() for disk in again.disks]
    gens, handed_out = again.ledger.gens, again.ledger.handed_out
    again.ledger, again.keys = begin_from(images)
    again.ledger.gens += gens
    again.ledger.handed_out = handed_out
    again.tokens = count(next(story.tokens))
    again.options = story.options
    since = 0

    async with alive(again, is_killed=True):
        since = again.clock.now
        if again.ledger.volumes[-1].value.keys() >= {PLAIN, FLASH}:
            await overwrite(again, random)
        with suppress(NoFreeBuckets):
            await again.turn_over(8, 8)
        await again.collect()
    return again, since


# All short ones

EXHAUSTIVE: dict[str, Operation] = {
    "write": write,
    "commit": commit,
    "overwrite": overwrite,
    "invalidate": invalidate,
    "collect": collect,
    "write-prios": write_prios,
    "flush": flush,
}
REOPEN = "reopen"


def all_workloads(longest: int) -> list[tuple[str, ...]]:
    """Every sequence of so many operations, and of fewer."""
    names = [*EXHAUSTIVE, REOPEN]
    return [names_of for length in range(1, longest + 1) for names_of in product(names, repeat=length)]


async def play(base: Base, workload: Sequence[str], seed: int, folder: Path) -> tuple[KeyStory, int]:
    """A workload on a furnished set, and the moment at which its last operation began.

    What came before is that of a shorter workload. Writing first: there is always something to commit.
    """
    story = base.story(folder)
    random = Random(seed)
    story.latency = Random(seed)
    since, left = 0, list(workload)
    while True:
        async with alive(story, is_killed=REOPEN not in left):
            while left and left[0] != REOPEN:
                if len(left) == 1:
                    since = story.clock.now
                await EXHAUSTIVE[left.pop(0)](story, random)
            if len(left) == 1:
                since = story.clock.now
        if not left:
            return story, since
        left.pop(0)
        if not left:
            async with alive(story, is_killed=True):
                return story, since
