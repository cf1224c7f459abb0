# SPDX-License-Identifier: GPL-2.0-only
"""A clone of one member on another device: every bucket where it was, with its gen and prio.

The target is no cache device until everything else on it is durable: its superblock is erased first, and
written last. Until then a mark in its first sector says whose clone it is, so that an interrupted run is
simply repeated: what is there already is not written again.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from bcached.device.block_device import BlockDevice
from bcached.device.run_all import run_all
from bcached.errors import DeviceError, DeviceRefused
from bcached.format.jset import JournalEntry
from bcached.format.superblock import SUPERBLOCK_BYTES, SUPERBLOCK_SECTOR
from bcached.store.clone.live_areas import LiveAreas
from bcached.store.clone.windows import WRITE_GAP_BYTES, PieceWindow, windows, writes
from bcached.store.make.layout import HEAD_BYTES
from bcached.store.member import geometry_of
from bcached.store.membership import MemberFound
from bcached.store.reading.journal_check import read_journal
from bcached.store.superblock_slot import write_superblock
from bcached.units import SECTOR_BYTES, format_size

IN_FLIGHT = 4
BATCH = 64  # windows between two reports of progress


@dataclass(slots=True)
class Copied:
    """What was done, in sectors."""

    copied_sectors: int = 0
    equal_sectors: int = 0  # of these were there before
    verified_sectors: int = 0


Progress = Callable[[Copied], None]


@dataclass(slots=True)
class Clone:
    """One run: from a member, which is only read, to a target."""

    source: MemberFound
    areas: LiveAreas
    target: BlockDevice
    progress: Progress = lambda _: None
    done: Copied = field(default_factory=Copied)
    write_gap_bytes: int = WRITE_GAP_BYTES  # READ_GAP_BYTES where there are no holes that writing fills

    async def run(self, *, verify: bool) -> Copied:
        """Copy. With verify all is read again from both. Raises DeviceError if anything differs."""
        await self.target.write(0, mark_of(self.source).ljust(HEAD_BYTES, b"\0"))
        await self.target.flush()
        await self._each(self._copy)
        await self.target.flush()
        if verify:
            await self._each(self._verify)
        await self._write_superblock()
        return self.done

    async def _write_superblock(self) -> None:
        """Write the superblock, then its copy: the other way round a cut would leave a damaged device."""
        superblock = self.source.superblock
        byte = SUPERBLOCK_SECTOR * SECTOR_BYTES
        await self.target.write(byte, superblock.pack())
        await self.target.flush()
        if await self.target.read(byte, SUPERBLOCK_BYTES) != superblock.pack():
            raise DeviceError(self.target.path, "the superblock read back is not the one that was written")
        await write_superblock(self.target, superblock)
        await self.target.write(0, bytes(byte))  # the mark
        await self.target.flush()

    async def _each(self, step: Callable[[PieceWindow, bytes], Coroutine[Any, Any, None]]) -> None:
        following = windows(self.areas.pieces())
        while batch := list(islice(following, BATCH)):
            await run_all((partial(self._with_data, step, window) for window in batch), IN_FLIGHT)
            self.progress(self.done)

    async def _with_data(
        self, step: Callable[[PieceWindow, bytes], Coroutine[Any, Any, None]], window: PieceWindow
    ) -> None:
        """Read the window and do the step, or read its pieces: what is between them may be unreadable."""
        try:
            data = await self.source.block_device.read(window.byte, window.length)
        except DeviceError:
            if len(window.pieces) == 1:
                raise
            for one in window.each():
                await self._with_data(step, one)
            return
        await step(window, data)

    async def _copy(self, window: PieceWindow, data: bytes) -> None:
        there = await self.target.read(window.byte, window.length)
        different = window.differing(data, there)
        for byte, wanted in writes(window, different, data, there, self.write_gap_bytes):
            await self.target.write(byte, wanted)
        differing_bytes = sum(length for _, length in different)
        self.done.equal_sectors += (window.live_bytes - differing_bytes) // SECTOR_BYTES
        self.done.copied_sectors += window.live_bytes // SECTOR_BYTES

    async def _verify(self, window: PieceWindow, data: bytes) -> None:
        there = await self.target.read(window.byte, window.length)
        for byte, length in window.differing(data, there):
            raise DeviceError(
                self.target.path, f"{length} bytes at {byte} read back are not those that were written"
            )
        self.done.verified_sectors += window.live_bytes // SECTOR_BYTES


def mark_of(source: MemberFound) -> bytes:
    """Returns how an unfinished clone of a member begins."""
    return f"bcached: unfinished clone of cache device {source.superblock.uuid}\n".encode()


async def is_clone(source: MemberFound, target: BlockDevice) -> bool:
    """Whether a target is what a clone of this member left: nothing on it is lost.

    1. It was interrupted. 2. Its superblock was written, and it was not used since: it has the newest journal
    entry of the source.
    """
    head = await target.read(0, SUPERBLOCK_SECTOR * SECTOR_BYTES + SUPERBLOCK_BYTES)
    if head == mark_of(source).ljust(len(head), b"\0"):
        return True
    if head[SUPERBLOCK_SECTOR * SECTOR_BYTES :] != source.superblock.pack():
        return False
    return await _newest_entry(target, source) == await _newest_entry(source.block_device, source)


async def _newest_entry(device: BlockDevice, source: MemberFound) -> JournalEntry | None:
    """Returns the newest journal entry of a device with this superblock; None without any."""
    if not source.superblock.synchronous:
        return None
    journal = await read_journal([MemberFound(device, source.superblock)], lambda _: None)
    return journal.newest if journal.entries else None


def bytes_needed(source: MemberFound) -> int:
    """Returns how large a target must be: all buckets, but not what may be behind them."""
    return geometry_of(source.superblock).byte_of(source.superblock.bucket_count)


def refuse_unfit(source: MemberFound, target: BlockDevice) -> None:
    """Refuse a target that is too small, or that cannot write the set's blocks."""
    needed, block_bytes = bytes_needed(source), source.superblock.block_bytes
    if target.size_bytes < needed:
        buckets = f"{source.superblock.bucket_count:,} buckets"
        raise DeviceRefused(
            target.path,
            f"expected {needed:,} bytes ({format_size(needed)}) or more for {buckets}, found "
            f"{target.size_bytes:,}; `bcachectl resize` can make the set smaller",
        )
    if target.logical_block_bytes > block_bytes:
        raise DeviceRefused(
            target.path,
            f"its logical blocks are of {format_size(target.logical_block_bytes)}, and the set's blocks only "
            f"of {format_size(block_bytes)}: use a device with smaller blocks",
        )
