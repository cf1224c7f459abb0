# SPDX-License-Identifier: GPL-2.0-only
"""The superblock of a device that may be damaged, and its copy at sector 16."""

from dataclasses import replace

from bcached.device.block_device import BlockDevice
from bcached.errors import BcachedError
from bcached.format.magic import SUPERBLOCK_MAGIC
from bcached.format.superblock import COPY_SECTOR, SUPERBLOCK_BYTES, SUPERBLOCK_SECTOR, Superblock
from bcached.format.superblock_fields import BackingDevice
from bcached.store.finding import Finding, Report, Severity, finding_of
from bcached.store.superblock_slot import read_superblock
from bcached.units import SECTOR_BYTES

RULE = "superblock"
COPY_RULE = "superblock-copy"


async def find_superblock(device: BlockDevice, report: Report, *, thorough: bool = True) -> Superblock | None:
    """Returns the superblock that an opening uses; None if there is none. thorough also checks its copy."""
    try:
        found = await read_superblock(device)
    except BackingDevice as error:
        problem = f"is {error.what}, not a cache device; its cache device is what can be checked"
        report(Finding(RULE, Severity.FATAL, "device", device.path, problem, cause=error))
        return None
    except BcachedError as error:
        report(finding_of(error, RULE, Severity.FATAL, "everything on the device, until it is repaired"))
        return None
    try:
        own = await _read_at(device, SUPERBLOCK_SECTOR)
    except BcachedError as error:
        # Kernel: has no copy, and refuses the device.
        report(finding_of(error, RULE, Severity.DAMAGE, "nothing: the copy at sector 16 is good"))
        return found
    if thorough and own.has_space_for_copy:
        await _check_copy(device, own, report)
    return own


async def _check_copy(device: BlockDevice, own: Superblock, report: Report) -> None:
    """Check the copy, if there is one: the kernel and make-bcache write none, and do not erase any."""
    try:
        raw = await device.read(COPY_SECTOR * SECTOR_BYTES, SUPERBLOCK_BYTES)
        if SUPERBLOCK_MAGIC not in raw and own.set_uuid.bytes not in raw:
            return
        copy = await _read_at(device, COPY_SECTOR)
    except BcachedError as error:
        report(finding_of(error, COPY_RULE, Severity.DAMAGE, "nothing, as long as sector 8 is good"))
        return
    if replace(copy, seq=own.seq, last_mount=own.last_mount) != own:
        where = f"{device.path} sector {COPY_SECTOR}"
        problem = (
            f"it (seq {copy.seq}, set {copy.set_uuid}) differs from the one at sector {SUPERBLOCK_SECTOR} "
        )
        problem += f"(seq {own.seq}): written by another program since, or the last change was interrupted"
        report(Finding(COPY_RULE, Severity.NOTE, "superblock copy", where, problem))


async def _read_at(device: BlockDevice, sector: int) -> Superblock:
    raw = await device.read(sector * SECTOR_BYTES, SUPERBLOCK_BYTES)
    return Superblock.parse(
        raw,
        device_bytes=device.size_bytes,
        logical_block_bytes=device.logical_block_bytes,
        where=f"{device.path} sector {sector}",
    )
