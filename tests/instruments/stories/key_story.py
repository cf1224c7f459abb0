# SPDX-License-Identifier: GPL-2.0-only
"""A set with clients' data on recorded devices, and ledgers of what was promised of it, and when."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from bcached.errors import NoFreeBuckets
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.index.conditional_commits import CommitConditions
from bcached.runtime.index.lookups import LookupRequest
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.index.keys.key_ranges import Span
from bcached.state.sectors.reservations import ExtentRequest, Holder
from bcached.units import SECTOR_BYTES
from instruments.crash.crash_states import ClockedLog
from instruments.samples.leaves_away import LeavesAway, TreeFigures
from instruments.stories.crash_story import Ledger, Story
from instruments.stories.key_ledger import KeyLedger, Place, data_of

PLAIN, FLASH = 0, 1  # the volumes of most stories
VOLUME_SECTORS = 1 << 12
PATIENCE_S = 20.0


class KeyStory(Story):
    """A story in which clients write, commit and drop keys."""

    def __init__(
        self, logs: Sequence[ClockedLog], images: Sequence[bytes], ledger: Ledger, folder: Path
    ) -> None:
        super().__init__(logs, images, ledger, folder)
        self.keys = KeyLedger()
        self.tokens = count(1)
        self.pending: list[tuple[Key, int]] = []  # written, not committed
        self.newest_seq = 0
        self.was_killed = False
        self.opened_at = 0  # the moment at which the last life was open
        self.skipped: list[range] = []  # moments that are of no interest
        self.tree = TreeFigures()
        self.evacuated = 0  # buckets
        self.options: dict[str, Any] = {}  # of all lives
        self._holder: Holder | None = None
        self._leaves: LeavesAway | None = None

    @property
    def holder(self) -> Holder:
        """The client of this life."""
        assert self.cache_set is not None
        if self._holder is None or self._holder not in self.cache_set.allocations.holders:
            self._holder = self.cache_set.allocations.new_holder("client")
            self.pending = []
        return self._holder

    # What the client does

    async def write(
        self, inode: int, offset: int, sectors: int, *, dirty: bool = True, replicas: int = 1
    ) -> None:
        """Allocate, and write the data; nothing is committed. Without room, nothing happens."""
        assert self.cache_set is not None
        wanted = ExtentRequest(inode, offset, sectors, 1, replicas, whole=True)
        try:
            (keys,) = await self.cache_set.allocations.allocate(self.holder, [wanted], PATIENCE_S)
        except NoFreeBuckets:
            return
        token = next(self.tokens)
        for key in keys:
            await self._write_data(key, token)
            dirty_key = Key(key.inode, key.offset, key.sectors, dirty or inode == FLASH, key.pointers)
            self.pending.append((dirty_key, token))

    async def _write_data(self, key: Key, token: int) -> None:
        assert self.cache_set is not None
        for pointer in key.pointers:
            device = self.cache_set.members[pointer.device].block_device
            await device.write(pointer.sector * SECTOR_BYTES, data_of(token, key))

    async def commit(self, *, durable: bool, replaces: Sequence[Span] = ()) -> None:
        """Commit all that was written, in one go, in place of all else in some ranges."""
        assert self.cache_set is not None
        if not self.pending:
            return
        written, self.pending = self.pending, []
        keys = [key for key, _ in written]
        try:
            seq = await self._commit(keys, replaces)
        except NoFreeBuckets:
            self.cache_set.allocations.release(self.holder, keys)
            return
        within = {place for place, _ in self.keys.there() if any(_is_in(place, span) for span in replaces)}
        self.keys.put(within - {place for key in keys for place in _places(key)}, None, seq, seq)
        for key, token in written:
            self.keys.put(_places(key), (key.dirty, token), seq, seq)
        await self._accepted(seq, durable)

    async def _commit(self, keys: Sequence[Key], replaces: Sequence[Span]) -> int:
        assert self.cache_set is not None
        if not replaces:
            return await self.cache_set.index.commit(self.holder, keys, PATIENCE_S)
        commits, conditions = self.cache_set.conditional_commits, CommitConditions(tuple(replaces))
        return (await commits.commit(self.holder, keys, conditions, PATIENCE_S)).seq

    async def _accepted(self, seq: int, durable: bool) -> None:
        assert self.cache_set is not None
        self.newest_seq = max(self.newest_seq, seq)
        if durable:
            await self.cache_set.index.durable(seq)
            self.keys.promise(self.clock.now, seq)

    async def drop(self, inode: int, offset: int, sectors: int, *, durable: bool) -> None:
        """Invalidate a range."""
        assert self.cache_set is not None
        low = self.cache_set.journal.seq + 1
        try:
            _, seq = await self.cache_set.index.invalidate(inode, offset, sectors, PATIENCE_S)
        except NoFreeBuckets:
            seq = -1
        there = [(inode, sector) for sector in range(offset, offset + sectors)]
        there = [place for place in there if self.keys.now(place) is not None]
        self.keys.put(there, None, low, seq if seq >= 0 else float("inf"))
        if seq >= 0:
            await self._accepted(seq, durable)

    async def clean(self, inode: int, offset: int, sectors: int, *, durable: bool) -> None:
        """Make clean what a look-up finds."""
        assert self.cache_set is not None
        index = self.cache_set.index
        found = (await self.cache_set.lookups.lookup(LookupRequest(inode, offset, sectors))).keys
        if not found:
            return
        low = self.cache_set.journal.seq + 1
        cleaned, seq = await index.mark_clean(found, PATIENCE_S)
        for key, is_clean in zip(found, cleaned, strict=True):
            for place in _places(key):
                value = self.keys.now(place)
                if value is not None and value[0] and inode != FLASH:
                    high = float(seq) if is_clean else float("inf")
                    self.keys.put([place], (False, value[1]), low if not is_clean else seq, high)
        await self._accepted(seq, durable)

    async def flush(self) -> None:
        """Make durable all that was accepted."""
        assert self.cache_set is not None
        seq = self.newest_seq
        await self.cache_set.index.flush()
        self.keys.promise(self.clock.now, seq)

    async def collect(self) -> None:
        """Collect garbage."""
        assert self.cache_set is not None
        await self.cache_set.maintenance.collect_garbage()

    async def create(self, label: str, sectors: int = 0) -> int:
        """Create a volume; with sectors, a flash-only one."""
        assert self.cache_set is not None
        there = self.ledger.volumes[-1].value
        inode = next(number for number in range(len(there) + 1) if number not in there)
        change = self._begin(self.ledger.volumes, {**there, inode: label})
        assert await self.cache_set.volumes.create(label, sectors) == inode
        change.kept = self.clock.now
        return inode

    async def delete(self, inode: int) -> None:
        """Delete a volume with all it holds; whatever was written for it goes, too."""
        assert self.cache_set is not None
        there = [place for place, _ in self.keys.there() if place[0] == inode]
        low = self.cache_set.journal.seq + 1
        left = {number: label for number, label in self.ledger.volumes[-1].value.items() if number != inode}
        change = self._begin(self.ledger.volumes, left)
        self.pending = [(key, token) for key, token in self.pending if key.inode != inode]
        try:
            await self.cache_set.volumes.delete(inode, force=True)
        except BaseException:
            self.keys.put(there, None, low, float("inf"))
            raise
        change.kept = self.clock.now
        seq = self.cache_set.journal.durable_seq
        self.keys.put(there, None, low, seq)
        self.keys.promise(self.clock.now, seq)

    async def sow(self, inode: int, start: int, count: int) -> None:
        """Commit so many keys of a sector, two sectors apart; only every 32nd has data, and may stay."""
        assert self.cache_set is not None
        wanted = [ExtentRequest(inode, start + 2 * number, 1, 1, whole=True) for number in range(count)]
        granted = await self.cache_set.allocations.allocate(self.holder, wanted, PATIENCE_S)
        keys = [key for keys in granted for key in keys]
        seq = await self.cache_set.index.commit(self.holder, keys, PATIENCE_S)
        for key in keys[::32]:
            token = next(self.tokens)
            await self._write_data(key, token)
            self.keys.put(_places(key), (False, token), seq, seq)

    async def thin(self, inode: int, start: int, count: int) -> None:
        """Drop what was sown and has no data."""
        for offset in range(start, start + 2 * count, 64):
            await self.drop(inode, offset + 1, 63, durable=False)

    # What the ledger hears of

    def _watch(self, device: int, buckets: MemberBuckets) -> None:
        super()._watch(device, buckets)
        table = buckets.table
        invalidate = table.invalidate

        def watched(buckets: Any) -> None:
            invalidate(buckets)
            self._reclaim({(device, int(bucket)) for bucket in buckets})

        table.invalidate = watched  # type: ignore[method-assign]

    def _reclaim(self, given_up: set[tuple[int, int]]) -> None:
        """Clean data in these buckets goes, unless it has another copy."""
        cache_set = self.cache_set
        assert cache_set is not None
        if self._leaves is None or self._leaves.cache_set is not cache_set:
            self._leaves = LeavesAway(cache_set, self.disks, self.tree)
        bucket_sectors = cache_set.geometry.bucket_sectors
        for key in self._leaves.all_keys():
            if key.dirty or not any((p.device, p.sector // bucket_sectors) in given_up for p in key.pointers):
                continue
            if not any(map(cache_set.sectors.validity.is_current, key.pointers)):
                for place in _places(key):
                    self.keys.reclaim(place, self.clock.now)

    def opened(self, cache_set: CacheSet) -> None:
        """A life has begun: what was found is on the devices, and its entries too."""
        self.newest_seq = cache_set.journal.seq
        self._holder, self.pending = None, []
        self._leaves = LeavesAway(cache_set, self.disks, self.tree)
        self.opened_at = self.clock.now

    def some_place(self, random: Random, inode: int) -> Place:
        """Where something is, by preference."""
        there = [place for place, _ in self.keys.there() if place[0] == inode]
        return random.choice(there) if there and random.random() < 0.8 else (inode, random.randrange(64))


def _is_in(place: Place, span: Span) -> bool:
    inode, start, end = span
    return place[0] == inode and start <= place[1] < end


def _places(key: Key) -> list[Place]:
    return [(key.inode, sector) for sector in range(key.offset, key.end)]


def gens_of(cache_set: CacheSet) -> list[np.ndarray]:
    return [member.buckets.table.gens_array.copy() for member in cache_set.members]
