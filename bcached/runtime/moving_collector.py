"""Moving garbage collection: the little that is live in nearly empty buckets is copied, to free them whole.

It draws on a reserve of its own, so it works when nothing else is free. A key that is overwritten while its
data is copied wins: the copy is given back. Dirty stays dirty. What cannot be read stays where it is: whoever
asks for it is told by the device. (kernel: bch_moving_gc)
"""

from collections.abc import Generator
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import numpy as np

from bcached.device.together import together
from bcached.errors import DeviceError, LimitExceeded, NoFreeBuckets
from bcached.keys import Key
from bcached.runtime.index import Index, cut_to
from bcached.runtime.services import Services
from bcached.runtime.slices import run_sliced
from bcached.runtime.turns import Turns
from bcached.state.btree_node import Leaf
from bcached.state.bucket_table import COUNT_BUCKETS, Bools, State
from bcached.state.cache import Cache
from bcached.state.leaf_pointers import leaf_pointers
from bcached.state.reservations import Holder
from bcached.state.reserves import Reserve
from bcached.state.sector_allocator import SectorAllocator
from bcached.store.member import Member
from bcached.units import SECTOR_BYTES

MOVES_AT_ONCE = 16  # kernel: 64 in flight
WRITE_POINT = -1  # no process has it, so what is moved lies together
PATIENCE_S = 1.0  # for the index to be ready for a copy
CANDIDATES_MAX = 65_536  # buckets that are looked at more closely
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
        self._members = members
        self._sectors = sectors
        self._index = index
        self._services = services

    async def move(self, turns: Turns) -> None:
        """One pass over the index, for the buckets that are worth it now; turns are the collection's."""
        services = self._services
        holder = Holder("moving garbage collection", 1 << 20, self._members[0].cache.geometry.bucket_sectors)
        self._sectors.gathering.add(holder)
        try:
            chosen = [
                await run_sliced(
                    _choose(member.cache), services.options.gc_slice_s, services.clock, services.slices
                )
                for member in self._members
            ]
            if any(buckets.any() for buckets in chosen):
                await self._move_out_of(chosen, holder, turns)
        finally:
            self._sectors.end_reads(holder)
            self._sectors.end(holder)
            self._sectors.gathering.discard(holder)
            services.buckets_moved()

    async def _move_out_of(self, chosen: list[Bools], holder: Holder, turns: Turns) -> None:
        """Look for keys that lie in the chosen buckets, and copy them while there is room."""
        await turns.begin()
        async for leaf in self._index.btree.leaves():
            keys = self._keys_in(leaf, chosen)
            for start in range(0, len(keys), MOVES_AT_ONCE):
                self._services.check_changeable()
                if not await self._move(holder, keys[start : start + MOVES_AT_ONCE]):
                    return
                await turns.begin()
            await turns.breathe()

    def _keys_in(self, leaf: Leaf, chosen: list[Bools]) -> list[Key]:
        """The keys of a leaf that lie, with any copy, in one of the chosen buckets."""
        numbers: set[int] = set()
        for part in leaf_pointers([leaf], self._sectors.caches):
            is_in = chosen[part.device][part.buckets] & part.is_current
            numbers.update(part.rows.keys[is_in].tolist())
        return list(leaf.live.keys_at(sorted(numbers)))

    async def _move(self, holder: Holder, keys: list[Key]) -> bool:
        """Copy some keys; False if there is no room for more."""
        moves: list[Move] = []
        for key in filter(self._is_movable, keys):
            move = self._prepare(holder, key)
            if move is None:
                break
            moves.append(move)
        else:
            if not moves:
                return True
        copied: set[Move] = set()
        await together(partial(self._copy, move, copied) for move in moves)
        for move in moves:
            self._sectors.unpin(holder, [move.old])
            if move not in copied:
                self._sectors.release(holder, [move.new])
                continue
            try:
                while not self._index.is_ready_for(move.old, move.new):
                    await self._index.make_ready_for(move.old, move.new, PATIENCE_S)
            except (NoFreeBuckets, LimitExceeded):  # or as many wait already as may
                return False  # the index has worse to do than to move; what was copied is given back
            if self._index.replace(holder, move.old, move.new):
                self.moved_sectors += move.new.sectors
            else:  # it was overwritten while it was copied
                self._sectors.release(holder, [move.new])
        return bool(moves)

    def _is_movable(self, key: Key) -> bool:
        """Whether all copies are good, and whole blocks of a volume that is still there."""
        whole = (key.offset | key.sectors) % self._members[0].cache.geometry.block_sectors == 0
        return (
            whole and key.inode in self._sectors.inodes and all(map(self._sectors.is_current, key.pointers))
        )

    def _prepare(self, holder: Holder, key: Key) -> Move | None:
        """Sectors for a copy, as many as one bucket gives, the old ones pinned meanwhile; None: no room."""
        new = self._sectors.carve(
            holder, key.inode, key.offset, key.sectors, WRITE_POINT, len(key.pointers), moving=True
        )
        if new is None:
            return None
        old = cut_to(key, new)
        self._sectors.pin(holder, [old])
        return Move(old, Key(new.inode, new.offset, new.sectors, key.dirty, new.pointers))

    async def _copy(self, move: Move, copied: set[Move]) -> None:
        data = await self._read(move.old)
        if data is None:
            return
        for pointer in move.new.pointers:
            await self._members[pointer.device].block_device.write(pointer.sector * SECTOR_BYTES, data)
        copied.add(move)

    async def _read(self, key: Key) -> bytes | None:
        """The data of a pinned key, from the first copy that can be read; None if none can."""
        for source in key.pointers:
            device = self._members[source.device].block_device
            with suppress(DeviceError):
                return await device.read(source.sector * SECTOR_BYTES, key.sectors * SECTOR_BYTES)
        return None


def _choose(cache: Cache) -> Generator[None, None, Bools]:
    """The emptiest buckets, as many as fit into the reserve, if that makes fewer of them."""
    table, bucket_sectors = cache.table, cache.geometry.bucket_sectors
    reserve = len(cache.reserves.lists[Reserve.MOVINGGC])
    found = np.zeros(0, np.int64)
    for start in range(0, table.bucket_count, COUNT_BUCKETS):
        chunk = slice(start, start + COUNT_BUCKETS)
        live = table.sectors_array[chunk] <= bucket_sectors // FULL_PART
        live &= (table.states_array[chunk] == State.CLEAN) | (table.states_array[chunk] == State.DIRTY)
        found = np.concatenate([found, start + np.flatnonzero(live)])
        if len(found) > CANDIDATES_MAX:
            found = found[np.argpartition(table.sectors_array[found], CANDIDATES_MAX)[:CANDIDATES_MAX]]
        yield
    found = found[np.argsort(table.sectors_array[found], kind="stable")]
    sums = np.cumsum(table.sectors_array[found], dtype=np.int64)
    count = int(np.searchsorted(sums, reserve * bucket_sectors, side="right"))
    chosen = np.zeros(table.bucket_count, bool)
    if count and count > -(-int(sums[count - 1]) // bucket_sectors):
        chosen[found[:count]] = True
    return chosen
