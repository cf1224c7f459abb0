# SPDX-License-Identifier: GPL-2.0-only
"""Filling a set with clean data of a backing device: read there, written to sectors of the set, committed.

It is what a client of the daemon does, so it is as safe: a key is durable only after its data.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from bcached.device.block_device import BlockDevice
from bcached.device.run_all import run_all
from bcached.keys import Key
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.warming.ranges import Range
from bcached.state.sectors.reservations import ExtentRequest, Holder
from bcached.units import SECTOR_BYTES

PIECE_SECTORS = 2048
BATCH = 16  # pieces that are committed at once
IN_FLIGHT = 4
WRITE_POINT = 1
TIMEOUT_S = 60.0


@dataclass(slots=True)
class Warming:
    """One run, for one volume; its keys count sectors of the backing device from its start."""

    cache_set: CacheSet
    inode: int
    backing: BlockDevice
    progress: Callable[[int], None] = lambda _: None
    warmed_sectors: int = 0
    _holder: Holder = field(init=False)

    async def fill(self, ranges: Iterable[Range]) -> None:
        """Bring the ranges in, none of which is in the cache; durable at the end."""
        self._holder = self.cache_set.allocations.new_holder("warm")
        pieces = self._pieces(ranges)
        while batch := list(islice(pieces, BATCH)):
            await self._bring(batch)
            self.progress(self.warmed_sectors)
        await self.cache_set.index.flush()

    def _pieces(self, ranges: Iterable[Range]) -> Iterator[Range]:
        most = min(PIECE_SECTORS, self.cache_set.geometry.bucket_sectors)
        for wanted in ranges:
            for first in range(wanted.first, wanted.end, most):
                yield Range(first, min(first + most, wanted.end))

    async def _bring(self, pieces: list[Range]) -> None:
        requests = [
            ExtentRequest(self.inode, piece.first, piece.sectors, WRITE_POINT, whole=True) for piece in pieces
        ]
        keys = [
            key
            for found in await self.cache_set.allocations.allocate(self._holder, requests, TIMEOUT_S)
            for key in found
        ]
        await run_all((partial(self._copy, key) for key in keys), IN_FLIGHT)
        await self.cache_set.index.commit(self._holder, keys, TIMEOUT_S)
        self.warmed_sectors += sum(key.sectors for key in keys)

    async def _copy(self, key: Key) -> None:
        (pointer,) = key.pointers
        data = await self.backing.read(key.offset * SECTOR_BYTES, key.sectors * SECTOR_BYTES)
        await self.cache_set.members[pointer.device].block_device.write(pointer.sector * SECTOR_BYTES, data)
