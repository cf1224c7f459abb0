# SPDX-License-Identifier: GPL-2.0-only
"""Writing dirty extents to a device: the backing device of their volume, or an image.

A batch of them is read from the cache and written, and after a flush read back and compared by digests. What
is there already is not written again, so an interrupted run is simply repeated. What cannot be read is
counted, and the rest is written.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from itertools import islice

from bcached.device.block_device import BlockDevice
from bcached.device.run_all import run_all
from bcached.errors import DeviceError, SetRefused
from bcached.store.rescue.dirty_extents import DirtyExtent, Place
from bcached.store.rescue.unreadable import Unreadable
from bcached.units import SECTOR_BYTES

PIECE_SECTORS = 2048
IN_FLIGHT = 4
BATCH = 1024  # extents
DIGEST_BYTES = 16


@dataclass(slots=True)
class Written:
    """What was done, in sectors. extents are those that could not be read."""

    written_sectors: int = 0  # with the data of the cache now
    equal_sectors: int = 0  # of these had it before
    unreadable_sectors: int = 0
    unreadable_extents: int = 0
    different_sectors: int = 0  # read back otherwise than written
    is_verified: bool = False


Progress = Callable[[Written], None]


@dataclass(slots=True)
class DirtyDataWriter:
    """One run: from the members of a set to one device."""

    members: Sequence[BlockDevice]
    unreadable: Unreadable
    target: BlockDevice
    progress: Progress = lambda _: None
    done: Written = field(default_factory=Written)
    _digests: list[tuple[int, int, bytes]] = field(default_factory=list)  # byte, length

    async def run(self, extents: Iterable[DirtyExtent]) -> Written:
        """Write the extents and verify them. Raises DeviceError if the target fails."""
        following = iter(extents)
        # Two extents may share a block of the target that is read, changed and written.
        at_once = IN_FLIGHT if self.target.logical_block_bytes == SECTOR_BYTES else 1
        while batch := list(islice(following, BATCH)):
            await run_all((partial(self._copy, extent) for extent in batch), at_once)
            await self.target.flush()
            await run_all((partial(self._verify, *piece) for piece in self._digests), IN_FLIGHT)
            self._digests.clear()
            self.progress(self.done)
        self.done.is_verified = self.done.different_sectors == 0
        return self.done

    async def _copy(self, extent: DirtyExtent) -> None:
        missing = 0
        for skipped in range(0, extent.sectors, PIECE_SECTORS):
            sectors = min(PIECE_SECTORS, extent.sectors - skipped)
            copies = tuple(Place(place.device, place.sector + skipped) for place in extent.copies)
            piece = replace(extent, offset=extent.offset + skipped, sectors=sectors, copies=copies)
            missing += await self._copy_piece(piece)
        self.done.unreadable_sectors += missing
        self.done.unreadable_extents += missing > 0

    async def _copy_piece(self, piece: DirtyExtent) -> int:
        """Write a piece. Returns how many of its sectors could not be read."""
        data = await self._read(piece)
        if data is not None:
            await self._write(piece, data)
            return 0
        if piece.sectors == 1:
            return 1
        # Only some of its sectors may be bad.
        half = piece.sectors // 2
        behind = tuple(Place(place.device, place.sector + half) for place in piece.copies)
        rest = replace(piece, offset=piece.offset + half, sectors=piece.sectors - half, copies=behind)
        return await self._copy_piece(replace(piece, sectors=half)) + await self._copy_piece(rest)

    async def _read(self, piece: DirtyExtent) -> bytes | None:
        """Returns the data from the first copy that can be read."""
        for place in piece.copies:
            if self.unreadable.overlaps(place, piece.sectors):
                continue
            try:
                return await self.members[place.device].read(
                    place.sector * SECTOR_BYTES, piece.sectors * SECTOR_BYTES
                )
            except DeviceError:
                continue
        return None

    async def _write(self, piece: DirtyExtent, data: bytes) -> None:
        begin, end = piece.offset * SECTOR_BYTES, (piece.offset + piece.sectors) * SECTOR_BYTES
        # Whole blocks of the target: a volume may have smaller ones.
        block = self.target.logical_block_bytes
        first, last = begin - begin % block, min(-(-end // block) * block, self.target.size_bytes)
        before = await self.target.read(first, last - first)
        wanted = before[: begin - first] + data + before[end - first :]
        if wanted == before:
            self.done.equal_sectors += piece.sectors
        else:
            await self.target.write(first, wanted)
        self._digests.append((begin, end - begin, _digest(data)))
        self.done.written_sectors += piece.sectors

    async def _verify(self, begin: int, length: int, expected: bytes) -> None:
        if _digest(await self.target.read(begin, length)) != expected:
            self.done.different_sectors += length // SECTOR_BYTES


def refuse_outside(target: BlockDevice, first_sector: int, extents: Iterable[DirtyExtent]) -> None:
    """Refuse extents in front of the device's data, where its superblock is, or behind its end."""
    end = target.size_bytes // SECTOR_BYTES
    for extent in extents:
        behind = extent.offset + extent.sectors
        if not first_sector <= extent.offset <= behind <= end:
            raise SetRefused(
                f"{target.path}: expected dirty data inside of sectors {first_sector} to {end}, found "
                f"{extent.offset} to {behind}: is it the right device, and all of it?"
            )


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=DIGEST_BYTES).digest()
