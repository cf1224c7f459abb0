# SPDX-License-Identifier: GPL-2.0-only
"""The members of a set on several devices, also where nothing is left of a superblock.

The others say how the set was made, and if one number is missing, which member it is. If several are, or none
has a superblock, the devices are taken in the order in which they are named, and nothing is sure.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from uuid import UUID, uuid5

from bcached.device.block_device import BlockDevice
from bcached.errors import SetRefused
from bcached.format.superblock import (
    FEATURE_INCOMPAT_BCACHED_SET,
    SUPERBLOCK_SECTOR,
    VERSION_FEATURES,
    Superblock,
    first_bucket_for,
)
from bcached.store.finding import Finding, Report, Severity
from bcached.store.membership import MemberFound, with_new_journal
from bcached.store.rescue.remains.journal_left import entries_near_beginning
from bcached.store.rescue.remains.superblock_left import KnownLayout, MemberLeft, read_member_left
from bcached.units import SECTOR_BYTES

UNKNOWN = UUID(int=0)  # the uuid of a device of whose superblock nothing is left


async def read_members_left(
    devices: Sequence[BlockDevice], layout: KnownLayout | None, report: Report
) -> list[MemberLeft]:
    """Returns the members on these devices, in their order. Raises SetRefused if one cannot be told."""
    found, lost = await _read_each(devices, layout, report)
    known = [one.found.superblock for number, one in enumerate(found) if number not in lost]
    refusals = [error for error in lost.values() if error is not None]
    if refusals and not known:
        raise refusals[0]
    if len(devices) == 1 or not lost:
        return found
    like = known[0] if known else _of_several(found[0].found.superblock, len(devices))
    numbers = _numbers_left(devices, like, known, lost)
    for number, member in zip(lost, numbers, strict=True):
        device = devices[number]
        found[number] = MemberLeft(MemberFound(device, superblock_like(like, device, member)), is_guess=True)
        await _refuse_stranger(found[number].found, lost[number])
        if known:
            _report_lost(found[number].found, report)
    if len(numbers) > 1:
        _report_order([devices[number].path for number in lost], numbers, report)
    return found


async def _read_each(
    devices: Sequence[BlockDevice], layout: KnownLayout | None, report: Report
) -> tuple[list[MemberLeft], dict[int, SetRefused | None]]:
    """Returns the members, and by the number of the device why none is left; None if a layout is."""
    found: list[MemberLeft] = []
    lost: dict[int, SetRefused | None] = {}
    for number, device in enumerate(devices):
        try:
            found.append(await read_member_left(device, layout, report))
        except SetRefused as error:
            lost[number] = error
            found.append(MemberLeft(MemberFound(device, _NOTHING), is_guess=True))
        else:
            if found[number].found.superblock.uuid == UNKNOWN:
                lost[number] = None
    return found, lost


def _numbers_left(
    devices: Sequence[BlockDevice],
    like: Superblock,
    known: Sequence[Superblock],
    lost: Collection[int],
) -> list[int]:
    """Returns the numbers of the members that no superblock has. Raises SetRefused if one is not named."""
    numbers = sorted(set(range(like.members)) - {superblock.member for superblock in known})
    if len(devices) != like.members or len(numbers) != len(lost):
        raise SetRefused(
            f"{devices[min(lost)].path}: nothing is left of its superblock, and which member it is can be "
            f"told only beside all others: expected {like.members} devices of the set, found {len(devices)}"
        )
    return numbers


def superblock_like(other: Superblock, device: BlockDevice, member: int) -> Superblock:
    """Returns the superblock that a member was made with, by another one of its set.

    Its uuid is lost; it gets another one, always the same, that no other member has.
    """
    return with_new_journal(
        replace(
            other,
            uuid=uuid5(other.set_uuid, f"member {member}"),
            member=member,
            bucket_count=device.size_bytes // SECTOR_BYTES // other.bucket_sectors,
            first_bucket=first_bucket_for(other.bucket_sectors),
        )
    )


_NOTHING = Superblock(
    uuid=UNKNOWN,
    set_uuid=UNKNOWN,
    version=VERSION_FEATURES,
    bucket_count=0,
    bucket_sectors=1,
    block_sectors=1,
    first_bucket=0,
)


def _of_several(superblock: Superblock, members: int) -> Superblock:
    """Returns a superblock of a set with several members; the owner's layout says nothing of these."""
    return replace(
        superblock,
        version=VERSION_FEATURES,
        feature_incompat=FEATURE_INCOMPAT_BCACHED_SET,
        members=members,
    )


async def _refuse_stranger(member: MemberFound, why: SetRefused | None) -> None:
    """Refuse a device without an entry of the set's journal, which all members have."""
    async for _ in entries_near_beginning(member):
        return
    if why is not None:
        raise SetRefused(f"{why}. It has no journal entry of set {member.superblock.set_uuid} either")


def _report_lost(member: MemberFound, report: Report) -> None:
    where = f"{member.path} sector {SUPERBLOCK_SECTOR}"
    problem = f"nothing is left of it: taken for member {member.superblock.member}, made as the others are"
    report(Finding("superblock", Severity.FATAL, "superblock", where, problem, "nothing, if that is right"))


def _report_order(paths: Sequence[str], numbers: Sequence[int], report: Report) -> None:
    problem = (
        f"which of them is which member is not known: taken in this order for {', '.join(map(str, numbers))}"
    )
    lost = "nothing, if that is the right order: name them in another one to try it"
    report(Finding("superblock-order", Severity.FATAL, "set", ", ".join(paths), problem, lost))
