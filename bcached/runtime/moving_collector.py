"""Moving garbage collection: the little that is live in nearly empty buckets is copied, to free them whole.

It draws on a reserve of its own, so it works when nothing else is free. A key that is overwritten while its
data is copied wins: the copy is given back. Dirty stays dirty. (kernel: bch_moving_gc)
"""

from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcached.device.together import together
from bcached.errors import RequestError
from bcached.keys import Key
from bcached.runtime.index import Index, cut_to
from bcached.runtime.services import Services
from bcached.state.btree_node import Leaf
from bcached.state.bucket_table import State
from bcached.state.cache import Cache
from bcached.state.key_rows import KeyRows
from bcached.state.reservations import Holder
from bcached.state.reserves import Reserve
from bcached.state.sector_allocator import SectorAllocator
from bcached.store.member import Member
from bcached.units import SECTOR_BYTES

MOVES_AT_ONCE = 16  # kernel: 64 in flight
WRITE_POINT = -1  # no process has it, so what is moved lies together
FULL_PART = 2  # a bucket with more than this part of its sectors live is left alone


class Move(NamedTuple):
    """A key whose data is copied, and where to."""

    old: Key
    new: Key


class MovingCollector:
    """Copies live data out of nearly empty buckets."""

    def __init__(
        self, members: list[Member], sectors: SectorAllocator, index: Index, services: Services
    ) -> None:
        self.moved_sectors = 0
        self.moved_keys = 0
        self.overtaken = 0  # keys that were overwritten while they were copied
        self._members = members
        self._sectors = sectors
        self._index = index
        self._services = services
        services.node_writers.add(self)

    async def move(self) -> None:
        """One pass over the index, for the buckets that are worth it now."""
        chosen = [self._choose(member.cache) for member in self._members]
        if not any(buckets.any() for buckets in chosen):
            return
        self._services.begin_step(self)
        holder = Holder("moving garbage collection", 1 << 20, self._members[0].cache.geometry.bucket_sectors)
        self._sectors.gathering.add(holder)
        try:
            async for leaf in self._index.btree.leaves():
                keys = self._keys_in(leaf, chosen)
                for start in range(0, len(keys), MOVES_AT_ONCE):
                    self._services.check_changeable()
                    if not await self._move(holder, keys[start : start + MOVES_AT_ONCE]):
                        return
                    self._services.begin_step(self)
        finally:
            self._sectors.end_reads(holder)
            self._sectors.end(holder)
            self._sectors.gathering.discard(holder)
            self._services.end_step(self)
            self._services.buckets_moved()

    def _choose(self, cache: Cache) -> NDArray[np.bool_]:
        """The emptiest buckets, as many as fit into the reserve, if that makes fewer of them."""
        table, bucket_sectors = cache.table, cache.geometry.bucket_sectors
        chosen = np.zeros(table.bucket_count, bool)
        live = np.isin(table.states_array, (State.CLEAN, State.DIRTY))
        live &= table.sectors_array <= bucket_sectors // FULL_PART
        candidates = np.flatnonzero(live)
        candidates = candidates[np.argsort(table.sectors_array[candidates], kind="stable")]
        room = len(cache.reserves.lists[Reserve.MOVINGGC]) * bucket_sectors
        sums = np.cumsum(table.sectors_array[candidates], dtype=np.int64)
        count = int(np.searchsorted(sums, room, side="right"))
        if count and count > -(-int(sums[count - 1]) // bucket_sectors):
            chosen[candidates[:count]] = True
        return chosen

    def _keys_in(self, leaf: Leaf, chosen: list[NDArray[np.bool_]]) -> list[Key]:
        """The keys of a leaf that lie, with any copy, in one of the chosen buckets."""
        rows = KeyRows()
        rows.add(leaf.live)
        numbers: set[int] = set()
        for chunk in rows.chunks():
            for device, (member, buckets) in enumerate(zip(self._members, chosen, strict=True)):
                of_member = chunk.where(chunk.devices == device)
                places = of_member.places // member.cache.geometry.bucket_sectors
                current = member.cache.table.gens_array[places] == of_member.gens
                numbers.update(of_member.keys[buckets[places] & current].tolist())
        if not numbers:
            return []
        return [key for number, key in enumerate(leaf.live) if number in numbers]

    async def _move(self, holder: Holder, keys: list[Key]) -> bool:
        """Copy some keys; False if there is no room for more."""
        moves = [move for move in map(partial(self._prepare, holder), keys) if move is not None]
        if not moves:
            return False
        await together(partial(self._copy, move) for move in moves)
        for move in moves:
            self._sectors.unpin(holder, [move.old])
            while not self._index.is_ready_for(move.old, move.new):
                await self._index.make_ready_for(move.old, move.new)
            if self._index.replace(holder, move.old, move.new):
                self.moved_keys += 1
                self.moved_sectors += move.new.sectors
            else:
                self.overtaken += 1
                self._sectors.release(holder, [move.new])
        return True

    def _prepare(self, holder: Holder, key: Key) -> Move | None:
        """Sectors for a copy, as many as one bucket gives; the old ones are pinned meanwhile."""
        current = self._index.current(key)
        if current is None or key.inode not in self._sectors.inodes:
            return None
        copies = len(key.pointers)
        try:
            new = self._sectors.carve(
                holder, key.inode, key.offset, key.sectors, WRITE_POINT, copies, moving=True
            )
        except RequestError:
            return None
        if new is None:
            return None
        old = cut_to(key, new)
        self._sectors.pin(holder, [old])
        return Move(old, Key(new.inode, new.offset, new.sectors, key.dirty, new.pointers))

    async def _copy(self, move: Move) -> None:
        source = next(pointer for pointer in move.old.pointers if self._index.is_current(pointer))
        length = move.old.sectors * SECTOR_BYTES
        device = self._members[source.device].block_device
        data = await device.read(source.sector * SECTOR_BYTES, length)
        for pointer in move.new.pointers:
            await self._members[pointer.device].block_device.write(pointer.sector * SECTOR_BYTES, data)
