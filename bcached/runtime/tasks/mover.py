# SPDX-License-Identifier: GPL-2.0-only
"""Copying live data to another bucket, and putting the copy in its place.

It takes buckets from its own reserve, so it works when nothing else is free. If a key is overwritten while
its data is copied, the copy is released. Dirty stays dirty. Data that cannot be read stays where it is: a
client that reads it gets the device's error. (kernel: bch_moving_gc)
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum, auto
from functools import partial
from typing import NamedTuple

from bcached.device.run_all import run_all
from bcached.errors import DeviceError, LimitExceeded, NoFreeBuckets
from bcached.keys import Key
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.index.index import Index
from bcached.state.buckets.placement import members_with
from bcached.state.buckets.reserves import Reserve
from bcached.state.index.keys.key_ranges import cut_to
from bcached.state.sectors.open_buckets import MOVERS_WRITE_POINT
from bcached.state.sectors.reservations import Holder
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.store.member import Member
from bcached.units import SECTOR_BYTES

MOVES_AT_ONCE = 16  # kernel: 64 in flight
INDEX_TIMEOUT_S = 1.0  # how long a copy may wait for space in the index


class Move(NamedTuple):
    """A key whose data is copied, and where to."""

    old: Key
    new: Key


class MoveResult(Enum):
    """The result of a request to move some keys."""

    MOVED = auto()  # or skipped for good reason
    NO_SPACE = auto()  # there is no bucket for the copies
    INDEX_BUSY = auto()  # the index had no space for the key in time


class Mover:
    """Moves keys; holder owns the copies until they are committed."""

    def __init__(self, members: list[Member], sectors: SectorAllocator, index: Index, shared: Shared) -> None:
        self.moved_sectors = 0  # sectors of committed copies
        self.buckets_taken: Counter[int] = Counter()  # buckets taken for copies, by member
        self.own_changes = [(0, 0) for _ in members]  # by member: evacuation_finds() due to the mover
        self.copies_lacking = 1  # how many copies the last key without space has
        self.holder = Holder("moving garbage collection", 1 << 20, sectors.members[0].geometry)
        self._members = members
        self._sectors = sectors
        self._index = index
        self._shared = shared

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Allow moves within the block; at its end unfinished copies are released."""
        self._sectors.pending_holders.add(self.holder)
        try:
            yield
        finally:
            with self._own_changes():
                self._give_back()
            self._sectors.pending_holders.discard(self.holder)
            self._shared.buckets_moved()

    @contextmanager
    def _own_changes(self) -> Iterator[None]:
        """Count changes in the block as the mover's, which trigger no evacuation; it must not await."""
        before = [buckets.evacuation_finds() for buckets in self._sectors.members]
        yield
        for buckets, (reclaims, changes) in zip(self._sectors.members, before, strict=True):
            own = self.own_changes[buckets.device]
            now = buckets.evacuation_finds()
            self.own_changes[buckets.device] = own[0] + now[0] - reclaims, own[1] + now[1] - changes

    def _give_back(self) -> None:
        self._sectors.readers.end(self.holder)
        self._sectors.end(self.holder)

    def has_space(self) -> bool:
        """Whether there are buckets for the last key without space."""
        return members_with(self._sectors.members, Reserve.MOVINGGC, self.copies_lacking) is not None

    async def move(self, keys: Sequence[Key], tried: set[Key], *, undivided: bool = False) -> MoveResult:
        """Copy some keys that are in the index now, as far as there is space.

        undivided: a key stays one key, if need be at the cost of a bucket's rest. Otherwise it is cut there.
        Keys it begins to copy are added to tried: one that is unchanged afterwards cannot be moved.
        """
        moves: list[Move] = []
        result = MoveResult.MOVED
        for key in filter(self._is_movable, keys):
            begun = len(moves)
            result = self._prepare(key, moves, undivided=undivided)
            if len(moves) > begun:
                tried.add(key)
            if result is MoveResult.NO_SPACE:
                break
        if moves and not await self._copy_and_replace(moves):
            return MoveResult.INDEX_BUSY
        return result

    async def _copy_and_replace(self, moves: list[Move]) -> bool:
        """Copy, and replace the keys by their copies; returns False if the index cannot take them now.

        1. A key that could not be read stays: its copy is released. 2. The index does not get ready in time:
        all copies left are released. 3. The key is replaced, unless it was overwritten meanwhile.
        """
        copied: set[Move] = set()
        await run_all(partial(self._copy, move, copied) for move in moves)
        for move in moves:
            with self._own_changes():
                self._sectors.readers.unpin(self.holder, [move.old])
            if move not in copied:
                with self._own_changes():
                    self._sectors.release(self.holder, [move.new])
                continue
            try:
                if not self._index.is_ready_for(move.old, move.new):
                    await self._index.make_ready_for(move.old, move.new, INDEX_TIMEOUT_S)
            except (NoFreeBuckets, LimitExceeded):  # LimitExceeded: too many waiters
                with self._own_changes():
                    self._give_back()
                return False
            self._replace(move)
        return True

    def _replace(self, move: Move) -> None:
        """Replace the key by its copy, unless it was overwritten meanwhile."""
        with self._own_changes():
            if self._index.replace(self.holder, move.old, move.new):
                self.moved_sectors += move.new.sectors
            else:
                self._trace("bcache_gc_copy_collision", move.new)
                self._sectors.release(self.holder, [move.new])

    def _is_movable(self, key: Key) -> bool:
        """Whether all copies are current, and the key covers whole blocks of an existing volume."""
        whole = (key.offset | key.sectors) % self._sectors.members[0].geometry.block_sectors == 0
        return (
            whole
            and key.inode in self._sectors.inodes
            and all(map(self._sectors.validity.is_current, key.pointers))
        )

    def _prepare(self, key: Key, moves: list[Move], *, undivided: bool) -> MoveResult:
        """Reserve sectors for a copy, in as many buckets as necessary, and pin the old ones."""
        at = key.offset
        while at < key.end:
            before = self._sectors.buckets_taken
            new = self._sectors.carve(
                self.holder,
                key.inode,
                at,
                key.end - at,
                MOVERS_WRITE_POINT,
                len(key.pointers),
                moving=True,
                undivided=undivided,
            )
            if new is None:
                self.copies_lacking = len(key.pointers)
                return MoveResult.NO_SPACE
            if self._sectors.buckets_taken != before:
                self.buckets_taken.update(pointer.device for pointer in new.pointers)
            old = cut_to(key, new)
            self._sectors.readers.pin(self.holder, [old])
            moves.append(Move(old, Key(new.inode, new.offset, new.sectors, key.dirty, new.pointers)))
            at = new.end
        return MoveResult.MOVED

    async def _copy(self, move: Move, copied: set[Move]) -> None:
        data = await self._read(move.old)
        if data is None:
            return
        for pointer in move.new.pointers:
            member = self._members[pointer.device]
            await member.block_device.write(pointer.sector * SECTOR_BYTES, data)
            member.written_bytes["moved"] += len(data)
        copied.add(move)
        self._trace("bcache_gc_copy", move.new)

    def _trace(self, name: str, key: Key) -> None:
        trace = self._shared.trace
        if trace.listeners:
            trace.emit(name, inode=key.inode, offset=key.offset, sectors=key.sectors, dirty=key.dirty)

    async def _read(self, key: Key) -> bytes | None:
        """Returns the data of a pinned key from the first readable copy; None if there is none."""
        for source in key.pointers:
            device = self._members[source.device].block_device
            with suppress(DeviceError):
                return await device.read(source.sector * SECTOR_BYTES, key.sectors * SECTOR_BYTES)
        return None
