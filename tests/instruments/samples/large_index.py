# SPDX-License-Identifier: GPL-2.0-only
"""A set with little memory for the leaves of its index, and a key at every other place of a volume."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.conditional_commits import CommitConditions, CommitResult
from bcached.runtime.index.lookups import LookupRequest
from bcached.runtime.lifetime import running
from bcached.state.index.keys.key_ranges import Span
from bcached.state.sectors.reservations import Holder
from instruments.devices.memory_device import MemoryDevice
from instruments.samples.living_set import extent, fresh_members, reopened, set_options

PATIENCE_S = 60.0
BUCKETS = 1200
BOUND = 100_000  # of leaves in memory: a third of them
SPACING = 16
COUNT = 12_000


async def commit(
    cache_set: CacheSet, holder: Holder, places: Sequence[int], *, dirty: bool = False, spacing: int = SPACING
) -> list[Key]:
    """Commit a key at each place."""
    keys = await reserve(cache_set, holder, places, dirty=dirty, spacing=spacing)
    if cache_set.index.try_commit(holder, keys) is None:
        await cache_set.index.commit(holder, keys, PATIENCE_S)
    return keys


async def commit_if(
    cache_set: CacheSet, holder: Holder, keys: Sequence[Key], conditions: CommitConditions
) -> CommitResult:
    """Commit on conditions, as a request does."""
    commits = cache_set.conditional_commits
    outcome = commits.try_commit(holder, keys, conditions)
    return outcome or await commits.commit(holder, keys, conditions, PATIENCE_S)


def slots(places: Sequence[int], spacing: int = SPACING) -> tuple[Span, ...]:
    """All that belongs to these places."""
    return tuple((0, place * spacing, (place + 1) * spacing) for place in places)


async def reserve(
    cache_set: CacheSet,
    holder: Holder,
    places: Sequence[int],
    *,
    dirty: bool = False,
    behind: int = 0,
    spacing: int = SPACING,
) -> list[Key]:
    """Reserve sectors for a key at each place, or some sectors behind it."""
    wanted = [extent(4, inode=0, offset=place * spacing + behind) for place in places]
    given = [key for (key,) in await cache_set.allocations.allocate(holder, wanted, PATIENCE_S)]
    keys = [Key(key.inode, key.offset, key.sectors, dirty, key.pointers) for key in given]
    await asyncio.sleep(0)
    return keys


@asynccontextmanager
async def a_large_index(
    folder: Path,
    *,
    dirty: bool = False,
    moving_gc: bool = False,
    bound: int = BOUND,
    spacing: int = SPACING,
) -> AsyncIterator[tuple[CacheSet, dict[int, Key], Holder]]:
    """A set that was opened with too little memory for its leaves, and what is in it by place."""
    devices = await fresh_members([BUCKETS], 16 << 10)
    there: dict[int, Key] = {}
    options = set_options(folder, verify=False, moving_gc=False)
    async with running(devices, options) as cache_set:
        await cache_set.volumes.create("volume")
        holder = cache_set.allocations.new_holder("client")
        places = list(range(0, COUNT, 2))
        for at in range(0, len(places), 100):
            part = places[at : at + 100]
            there |= zip(
                part, await commit(cache_set, holder, part, dirty=dirty, spacing=spacing), strict=True
            )
    options = set_options(folder, verify=False, moving_gc=moving_gc, index_bytes=bound)
    async with running(reopened(devices), options) as cache_set:
        assert not cache_set.index.nodes.tree.is_whole
        yield cache_set, there, cache_set.allocations.new_holder("client")


async def found(cache_set: CacheSet, place: int, spacing: int = SPACING) -> list[Key]:
    """What a request finds at a place."""
    request = LookupRequest(0, place * spacing, spacing)
    result = cache_set.lookups.try_lookup(request)
    return (result or await cache_set.lookups.lookup(request)).keys


def image_of(cache_set: CacheSet) -> bytes:
    """What a power cut would leave, once all is durable."""
    device = cache_set.members[0].block_device
    assert isinstance(device, MemoryDevice)
    return device.image()


async def check_reopened(
    image: bytes, folder: Path, there: dict[int, Key], *, were_moved: bool = False, spacing: int = SPACING
) -> None:
    """Open what a power cut would leave: these keys, and no invariant is violated."""
    copy = folder / "copy"
    copy.mkdir()
    async with running([MemoryDevice.holding(image)], set_options(copy, restart_grace_s=0)) as cache_set:
        keys = [key async for leaf in cache_set.index.nodes.leaves() for key in list(leaf.live)]
        found = {key.offset // spacing: key for key in keys}
        assert found.keys() == there.keys()
        assert were_moved or found == there
        assert cache_set.verify() == []
