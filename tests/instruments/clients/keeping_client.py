# SPDX-License-Identifier: GPL-2.0-only
"""A client that keeps data in a set, and remembers of every sector what it may find there after any end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

from bcached.errors import DeviceError, DeviceFailed
from bcached.keys import Key, Pointer
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.conditional_commits import CommitConditions
from bcached.runtime.index.lookups import LookupRequest
from bcached.state.sectors.reservations import Holder
from bcached.units import SECTOR_BYTES
from instruments.samples.living_set import extent

Place = tuple[int, int]  # inode, sector
NOTHING = 0


class OwnWriteFailed(DeviceFailed):
    """The client's own write failed: it knows, and the set need not."""


@contextmanager
def own_write() -> Iterator[None]:
    """Writing data where a reservation says."""
    try:
        yield
    except DeviceError as error:
        raise OwnWriteFailed(str(error)) from None


@dataclass
class Kept:
    """Of each sector the tokens that may be found there; NOTHING is one of them where no key may be, too."""

    tokens: dict[Place, set[int]] = field(default_factory=dict)
    forgotten: set[int] = field(default_factory=set)  # volumes about which nothing is known any more

    def begin(self, inode: int, start: int, end: int, token: int) -> None:
        """A change was asked for: from now on it may be found."""
        for sector in range(start, end):
            self.tokens.setdefault((inode, sector), {NOTHING}).add(token)

    def done(self, inode: int, start: int, end: int, token: int) -> None:
        """It was acknowledged as durable: nothing else may be found."""
        for sector in range(start, end):
            self.tokens[inode, sector] = {token}


def data_of(token: int, key: Key) -> bytes:
    """What is written: each sector says with which change, and where it belongs."""
    sectors = (b"%d %d %d\n" % (token, key.inode, key.offset + step) for step in range(key.sectors))
    return b"".join(sector.ljust(SECTOR_BYTES, b".") for sector in sectors)


class KeepingClient:
    """Writes, drops and cleans, each durably, and one after the other for a range."""

    def __init__(self, cache_set: CacheSet, kept: Kept) -> None:
        self.cache_set = cache_set
        self.kept = kept
        self.holder: Holder = cache_set.allocations.new_holder("keeping client")
        self._tokens = count(1 + max((max(tokens) for tokens in kept.tokens.values()), default=0))

    async def write(
        self, inode: int, offset: int, sectors: int, *, replicas: int = 1, rest: int = 0
    ) -> list[Key]:
        """Dirty data, durable; so many sectors behind it, the rest, are removed by the same commit."""
        token = next(self._tokens)
        wanted = extent(sectors, inode=inode, offset=offset, replicas=replicas, whole=True)
        (keys,) = await self.cache_set.allocations.allocate(self.holder, [wanted], 20)
        dirty = [Key(key.inode, key.offset, key.sectors, True, key.pointers) for key in keys]
        end = offset + sectors
        self.kept.begin(inode, offset, end, token)
        self.kept.begin(inode, end, end + rest, NOTHING)
        with own_write():
            for key in dirty:
                for pointer in key.pointers:
                    device = self.cache_set.members[pointer.device].block_device
                    await device.write(pointer.sector * SECTOR_BYTES, data_of(token, key))
        if rest:
            conditions = CommitConditions(((inode, offset, end + rest),))
            commits = self.cache_set.conditional_commits
            seq = (await commits.commit(self.holder, dirty, conditions, 20)).seq
        else:
            seq = await self.cache_set.index.commit(self.holder, dirty, 20)
        await self.cache_set.index.durable(seq)
        self.kept.done(inode, offset, end, token)
        self.kept.done(inode, end, end + rest, NOTHING)
        return dirty

    async def scatter(self, inode: int, offset: int, step: int) -> None:
        """A bucket full of dirty sectors, a step apart: as many keys in one commit, not yet durable."""
        token = next(self._tokens)
        bucket = await self.cache_set.allocations.allocate_bucket(self.holder, 1, 20)
        (pointer,) = bucket.pointers
        keys = []
        for at in range(bucket.sectors):
            place = Pointer(pointer.device, pointer.sector + at, pointer.gen)
            keys.append(Key(inode, offset + at * step, 1, True, (place,)))
            self.kept.begin(inode, keys[-1].offset, keys[-1].end, token)
        with own_write():
            device = self.cache_set.members[pointer.device].block_device
            data = b"".join(data_of(token, key) for key in keys)
            await device.write(pointer.sector * SECTOR_BYTES, data)
        await self.cache_set.index.commit(self.holder, keys, 20)

    async def drop(self, inode: int, offset: int, sectors: int) -> None:
        """Nothing there any more, durably."""
        self.kept.begin(inode, offset, offset + sectors, NOTHING)
        index = self.cache_set.index
        _, seq = await index.invalidate(inode, offset, sectors, 20)
        await index.durable(seq)
        self.kept.done(inode, offset, offset + sectors, NOTHING)

    async def clean(self, keys: Sequence[Key]) -> None:
        """From now on the set may drop these."""
        for key in keys:
            self.kept.begin(key.inode, key.offset, key.end, NOTHING)
        index = self.cache_set.index
        _, seq = await index.mark_clean(keys, 20)
        await index.durable(seq)


async def check_kept(cache_set: CacheSet, kept: Kept) -> None:
    """Every sector holds what it may hold, and none that was never written holds anything."""
    found: dict[Place, bytes] = {}
    for inode in {inode for inode, _ in kept.tokens} & cache_set.sectors.inodes.keys() - kept.forgotten:
        start: int | None = 0
        while start is not None:
            request = LookupRequest(inode, start, (1 << 20) - start, limit=40)
            result = await cache_set.lookups.lookup(request)
            start = result.next
            for key in result.keys:
                pointer = key.pointers[0]
                device = cache_set.members[pointer.device].block_device
                raw = bytes(await device.read(pointer.sector * SECTOR_BYTES, key.sectors * SECTOR_BYTES))
                for step in range(key.sectors):
                    place = inode, key.offset + step
                    assert place not in found, f"{place} is found twice"
                    found[place] = raw[step * SECTOR_BYTES : (step + 1) * SECTOR_BYTES]
    for (inode, sector), allowed in kept.tokens.items():
        if inode in kept.forgotten:
            continue
        data = found.pop((inode, sector), None)
        if data is None:
            assert NOTHING in allowed, f"{inode}:{sector} is lost"
        else:
            one = Key(inode, sector, 1, True, ())
            assert data in [data_of(token, one) for token in allowed], f"{inode}:{sector} has {data[:20]!r}"
    assert not found, f"found what was never written: {sorted(found)[:5]}"
