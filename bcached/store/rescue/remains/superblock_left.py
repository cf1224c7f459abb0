# SPDX-License-Identifier: GPL-2.0-only
"""The superblock of a member whose own may be damaged, erased, or larger than the device.

What is read from a damaged one, or taken from the owner, is a guess: set_left.py says when it is trusted.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from uuid import UUID

from bcached.device.block_device import BlockDevice
from bcached.errors import DeviceError, FormatError, SetRefused
from bcached.format.damage.correction import corrected_superblock
from bcached.format.sizes import BLOCK_SECTORS_READ_MAX, BUCKET_SECTORS_MAX, BUCKET_SECTORS_MIN, MEMBERS_MAX
from bcached.format.superblock import (
    FEATURE_INCOMPAT_BCACHED_SET,
    SUPERBLOCK_BYTES,
    SUPERBLOCK_SECTOR,
    VERSION_FEATURES,
    VERSION_IN_USE,
    Superblock,
    first_bucket_for,
)
from bcached.format.superblock_fields import BackingDevice, is_power_of_two, unpack
from bcached.format.superblock_seal import resealed
from bcached.store.finding import Finding, Report, Severity, finding_of
from bcached.store.membership import MemberFound, with_new_journal
from bcached.store.rescue.remains.journal_left import entries_near_beginning, sizes_fit
from bcached.store.superblock_slot import read_superblock
from bcached.units import SECTOR_BYTES

ANY_SIZE = 1 << 63


@dataclass(frozen=True, slots=True)
class KnownLayout:
    """How a set was made, as its owner says: used where its superblock cannot be read, or is another's."""

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

    1. A sound one, or its copy, unless the owner wants another set. 2. A sound one that says more than the
    device has, or with its magic erased, or one bit wrong. 3. The fields of a damaged one, if the owner says
    the same. 4. The layout that the owner gives. 5. The layout that a damaged one says, if there are journal
    entries of it.
    """
    try:
        superblock = await read_superblock(device)
    except BackingDevice as error:
        if layout is None:
            raise
        _report_newer(device, error.what, True, report)
        return MemberLeft(MemberFound(device, _of_layout(layout, device)), is_guess=True)
    except (FormatError, DeviceError) as error:
        damage = error
    else:
        if layout is None or layout.set_uuid == superblock.set_uuid:
            return MemberLeft(MemberFound(device, superblock), is_guess=False)
        what = f"a device of set {superblock.set_uuid}"
        _report_newer(device, what, superblock.synchronous, report)
        return MemberLeft(MemberFound(device, _of_layout(layout, device)), is_guess=True)
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
        sealed = b""
        by_fields = await _of_fields(raw, device) if layout is None else _of_layout(layout, device)
        if by_fields is None:
            raise SetRefused(
                f"{damage}; if it was made with buckets of 512k and blocks of 4k, for example: "
                f"--geometry 512k,4k; `bcachectl show {device.path}` says what its journal tells of that"
            ) from None
        superblock = by_fields
    if sealed != raw and layout is not None and not layout.fits(superblock):
        sealed, superblock = b"", _of_layout(layout, device)
    _report(damage, report)
    return MemberLeft(MemberFound(device, superblock), is_guess=sealed != raw)


def _report(damage: FormatError | DeviceError, report: Report) -> None:
    report(
        finding_of(damage, "superblock", Severity.FATAL, "nothing, if the fields that are left fit the rest")
    )


def _report_newer(device: BlockDevice, what: str, is_used: bool, report: Report) -> None:
    """Report that the device was formatted again. Once it was in use so, nothing of the old set is sure."""
    rule, lost = "superblock", "nothing, if only the superblock was written"
    if is_used:
        rule, lost = "superblock-newer", "all that was written over since"
    where = f"{device.path} sector {SUPERBLOCK_SECTOR}"
    problem = f"the device was formatted again: it is {what}"
    report(Finding(rule, Severity.FATAL, "superblock", where, problem, lost))


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


async def _of_fields(raw: bytes, device: BlockDevice) -> Superblock | None:
    """Returns the superblock by the fields that say which set it is; None without a journal of that."""
    fields = unpack(raw, device.path)
    sizes = fields.bucket_sectors, fields.block_sectors
    is_possible = BUCKET_SECTORS_MIN <= sizes[0] <= BUCKET_SECTORS_MAX and sizes[1] <= BLOCK_SECTORS_READ_MAX
    if (
        not is_possible
        or not all(map(is_power_of_two, sizes))
        or not fields.member < fields.members <= MEMBERS_MAX
    ):
        return None
    superblock = replace(
        _of_layout(KnownLayout(*sizes, UUID(bytes=fields.set_uuid)), device),
        uuid=UUID(bytes=fields.uuid),
        version=VERSION_FEATURES if fields.members > 1 else VERSION_IN_USE,
        feature_incompat=FEATURE_INCOMPAT_BCACHED_SET if fields.members > 1 else 0,
        members=fields.members,
        member=fields.member,
    )
    async for _, entry in entries_near_beginning(MemberFound(device, superblock)):
        return superblock if sizes_fit(superblock, entry) else None
    return None


def refuse_unused(members: list[MemberLeft], report: Report) -> None:
    """Refuse a set that was never in use. A damaged superblock may have lost the flag that says so."""
    for member in members:
        if member.found.superblock.synchronous:
            continue
        if not member.is_guess:
            raise SetRefused(
                f"{member.found.path}: was never in use, so it holds nothing to rescue; of a set that was on "
                "it before, and had buckets of 512k and blocks of 4k, for example: --geometry 512k,4k "
                "--set-uuid UUID"
            )
        problem = "the superblock says that there is no journal"
        report(Finding("superblock-sync", Severity.DAMAGE, "superblock", member.found.path, problem))
