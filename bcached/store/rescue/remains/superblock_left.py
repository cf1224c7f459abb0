# SPDX-License-Identifier: GPL-2.0-only
"""The superblock of a member whose own may be damaged, erased, or larger than the device.

What is read from a damaged one, or taken from the owner, is a guess: set_left.py says when it is trusted.
"""

from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from bcached.device.block_device import BlockDevice
from bcached.errors import DeviceError, FormatError, SetRefused
from bcached.format.correction import corrected_superblock
from bcached.format.superblock import (
    SUPERBLOCK_BYTES,
    SUPERBLOCK_SECTOR,
    VERSION_IN_USE,
    Superblock,
    first_bucket_for,
)
from bcached.format.superblock_fields import BackingDevice
from bcached.format.superblock_seal import resealed
from bcached.store.finding import Finding, Report, Severity, finding_of
from bcached.store.membership import MemberFound, with_new_journal
from bcached.store.superblock_slot import read_superblock
from bcached.units import SECTOR_BYTES

ANY_SIZE = 1 << 63


@dataclass(frozen=True, slots=True)
class KnownLayout:
    """How a set was made, as its owner says: used where a superblock cannot be read."""

    bucket_sectors: int
    block_sectors: int
    set_uuid: UUID

    def fits(self, superblock: Superblock) -> bool:
        """Whether a superblock, which may be damaged, says the same."""
        found = superblock.bucket_sectors, superblock.block_sectors, superblock.set_uuid
        return found == (self.bucket_sectors, self.block_sectors, self.set_uuid)


@dataclass(frozen=True, slots=True)
class MemberLeft:
    """A member, and whether its superblock is a guess."""

    found: MemberFound
    is_guess: bool


async def read_member_left(device: BlockDevice, layout: KnownLayout | None, report: Report) -> MemberLeft:
    """Returns the member on a device, with the best superblock there is. Raises SetRefused without one.

    1. A sound one, or its copy. 2. A sound one that says more than the device has, or with its magic erased,
    or one bit wrong. 3. The fields of a damaged one, if the owner says the same. 4. The layout that the owner
    gives.
    """
    try:
        return MemberLeft(MemberFound(device, await read_superblock(device)), is_guess=False)
    except BackingDevice:
        raise
    except (FormatError, DeviceError) as error:
        damage = error
    raw = bytes(SUPERBLOCK_BYTES)
    with suppress(DeviceError):
        raw = await device.read(SUPERBLOCK_SECTOR * SECTOR_BYTES, SUPERBLOCK_BYTES)
    where = f"{device.path} sector {SUPERBLOCK_SECTOR}"
    corrected = corrected_superblock(raw)
    if corrected is not None:
        raw = corrected + raw[len(corrected) :]
    try:
        sealed = resealed(raw, where)
        superblock = Superblock.parse(
            sealed, device_bytes=ANY_SIZE, logical_block_bytes=SECTOR_BYTES, where=where
        )
    except FormatError:
        if layout is None:
            raise SetRefused(
                f"{damage}; if it was made with buckets of 512k and blocks of 4k, for example: "
                "--geometry 512k,4k"
            ) from None
        sealed, superblock = b"", _of_layout(layout, device)
    if sealed != raw and layout is not None and not layout.fits(superblock):
        sealed, superblock = b"", _of_layout(layout, device)
    _report(damage, report)
    return MemberLeft(MemberFound(device, superblock), is_guess=sealed != raw)


def _report(damage: FormatError | DeviceError, report: Report) -> None:
    report(
        finding_of(damage, "superblock", Severity.FATAL, "nothing, if the fields that are left fit the rest")
    )


def _of_layout(layout: KnownLayout, device: BlockDevice) -> Superblock:
    """Returns the superblock that make-bcache and the first run would write, without the device's uuid."""
    superblock = Superblock(
        uuid=UUID(int=0),
        set_uuid=layout.set_uuid,
        version=VERSION_IN_USE,
        bucket_count=device.size_bytes // SECTOR_BYTES // layout.bucket_sectors,
        bucket_sectors=layout.bucket_sectors,
        block_sectors=layout.block_sectors,
        first_bucket=first_bucket_for(layout.bucket_sectors),
        synchronous=True,
    )
    return with_new_journal(superblock)


def refuse_unused(members: list[MemberLeft], report: Report) -> None:
    """Refuse a set that was never in use. A damaged superblock may have lost the flag that says so."""
    for member in members:
        if member.found.superblock.synchronous:
            continue
        if not member.is_guess:
            raise SetRefused(f"{member.found.path}: was never in use, so it holds nothing to rescue")
        problem = "the superblock says that there is no journal"
        report(Finding("superblock-sync", Severity.DAMAGE, "superblock", member.found.path, problem))
