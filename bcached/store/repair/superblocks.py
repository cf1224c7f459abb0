# SPDX-License-Identifier: GPL-2.0-only
"""The step that writes superblocks again: from the copy, the fields left, other members, a scan or options.

What is guessed is written only if it leads to the newest journal entry there is.
"""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID, uuid4

from bcached.device.block_device import BlockDevice
from bcached.errors import BcachedError, SetRefused
from bcached.format.magic import SUPERBLOCK_MAGIC
from bcached.format.superblock import (
    COPY_SECTOR,
    SUPERBLOCK_BYTES,
    SUPERBLOCK_SECTOR,
    Superblock,
)
from bcached.store.membership import MemberFound
from bcached.store.patched_device import Patch
from bcached.store.repair.journal_place import with_places_found
from bcached.store.repair.layout_scan import scan_layout
from bcached.store.repair.repair_step import RepairStep
from bcached.store.rescue.remains.journal_left import fits_its_journal, read_journal_left, sizes_fit
from bcached.store.rescue.remains.members_left import superblock_like
from bcached.store.rescue.remains.superblock_left import KnownLayout, MemberLeft, read_member_left
from bcached.units import SECTOR_BYTES


async def rewrite_superblocks(
    devices: Sequence[BlockDevice], layout: KnownLayout | None, set_uuid: UUID | None
) -> RepairStep:
    """Plan to write the superblocks that are damaged; patches are of devices."""
    found = _without_contradictions([await _best(device, layout, set_uuid) for device in devices])
    known = [one for one in found if one is not None]
    step = RepairStep("write the superblock again")
    members: list[MemberLeft] = []
    for number, device in enumerate(devices):
        one = found[number] or await _from_elsewhere(device, known, set_uuid, len(devices))
        one = MemberLeft(_fitted(one.found), one.is_guess)
        members.append(one)
    _refuse_contradictions(members)
    members = await with_places_found(devices, members)
    await _refuse_wrong_guesses(members)
    for number, one in enumerate(members):
        await _add(step, number, one.found)
    return step


def _without_contradictions(found: Sequence[MemberLeft | None]) -> list[MemberLeft | None]:
    """Returns None in place of a guess that says otherwise than a sound superblock of the set."""
    sound = [_of_set(one) for one in found if one is not None and not one.is_guess]
    if not sound:
        return list(found)
    return [one if one is not None and _of_set(one) in sound else None for one in found]


def _of_set(one: MemberLeft) -> tuple[object, ...]:
    """Returns what all superblocks of a set have in common."""
    superblock = one.found.superblock
    return superblock.set_uuid, superblock.bucket_sectors, superblock.block_sectors, superblock.members


async def _best(device: BlockDevice, layout: KnownLayout | None, set_uuid: UUID | None) -> MemberLeft | None:
    """Returns the member by its own superblock, its copy, what is left of them, or the owner's layout.

    None without any, or if it is of a set that was never in use, and the owner wants another.
    """
    try:
        best = await read_member_left(device, layout, lambda _: None)
    except SetRefused:
        return None
    superblock = best.found.superblock
    is_other = set_uuid is not None and superblock.set_uuid != set_uuid
    return None if is_other and not best.is_guess and not superblock.synchronous else best


async def _from_elsewhere(
    device: BlockDevice, known: Sequence[MemberLeft], set_uuid: UUID | None, count: int
) -> MemberLeft:
    """Returns a member by the others of its set, or by what a scan finds on it."""
    if known:
        return MemberLeft(MemberFound(device, _like_others(device, known, count)), is_guess=True)
    layout = await scan_layout(device, set_uuid)
    return await read_member_left(device, layout, lambda _: None)


def _like_others(device: BlockDevice, known: Sequence[MemberLeft], count: int) -> Superblock:
    first = known[0].found.superblock
    numbers = set(range(first.members)) - {one.found.superblock.member for one in known}
    if len(numbers) != 1 or count != first.members:
        raise SetRefused(
            f"{device.path}: expected all {first.members} members of the set, one of them without a "
            f"superblock, found {count}, of which {count - len(known)} have none"
        )
    (number,) = numbers
    return superblock_like(first, device, number)


def _fitted(member: MemberFound) -> MemberFound:
    """Returns a member with no more buckets than its device has, and a uuid."""
    superblock = member.superblock
    count = member.block_device.size_bytes // SECTOR_BYTES // superblock.bucket_sectors
    uuid = superblock.uuid if superblock.uuid.int else uuid4()
    return replace(
        member, superblock=replace(superblock, uuid=uuid, bucket_count=min(superblock.bucket_count, count))
    )


def _refuse_contradictions(members: Sequence[MemberLeft]) -> None:
    """Refuse guesses that are not of one set: which of them is wrong is not known."""
    first = members[0]
    for one in members:
        if any(other.is_guess for other in members) and _of_set(one) != _of_set(first):
            raise SetRefused(
                f"{one.found.path}: what is left of its superblock contradicts that of {first.found.path}: "
                "say how the set was made with --geometry and --set-uuid"
            )


async def _refuse_wrong_guesses(members: Sequence[MemberLeft]) -> None:
    if not any(one.is_guess for one in members):
        return
    in_order = sorted(members, key=lambda one: one.found.superblock.member)
    journal = await read_journal_left([one.found for one in in_order], lambda _: None)
    for one in members:
        if not one.is_guess:
            continue
        superblock, newest = one.found.superblock, journal.entries[-1]
        fits = not journal.is_lost and sizes_fit(superblock, newest)
        if not fits or not await fits_its_journal(one.found, newest.seq):
            raise SetRefused(
                f"{one.found.path}: the journal is not where a superblock with buckets of "
                f"{superblock.bucket_sectors} sectors and blocks of {superblock.block_sectors} says: "
                "give the right sizes with --geometry, and the set's uuid with --set-uuid"
            )


async def _add(step: RepairStep, number: int, member: MemberFound) -> None:
    """Add the writes of a member's superblock and its copy, if they are not sound."""
    device, superblock = member.block_device, member.superblock
    own, copy = await _at(device, SUPERBLOCK_SECTOR), await _at(device, COPY_SECTOR)
    is_right = own is not None and own.bucket_count == superblock.bucket_count
    if own is not None and own.set_uuid != superblock.set_uuid:
        _refuse_in_use(device, own)
        is_right = False
        step.gives_up.append(f"{device.path}: set {own.set_uuid}, which was never in use")
    has_copy = superblock.has_space_for_copy and await _may_have_copy(device, superblock)
    is_copied = copy is not None and replace(copy, seq=0, last_mount=0) == replace(
        superblock, seq=0, last_mount=0
    )
    if is_right and (is_copied or not has_copy):
        return
    new = superblock if is_right else replace(superblock, seq=superblock.next_seq)
    raw = new.pack()
    if has_copy:
        step.stages.append([Patch(number, COPY_SECTOR * SECTOR_BYTES, raw)])
    if not is_right:
        step.stages.append([Patch(number, SUPERBLOCK_SECTOR * SECTOR_BYTES, raw)])
    step.keeps.append(
        f"{member.path}: set {new.set_uuid}, member {new.member} of {new.members}, "
        f"{new.bucket_count} buckets of {new.bucket_sectors} sectors, blocks of {new.block_sectors}"
    )


def _refuse_in_use(device: BlockDevice, newer: Superblock) -> None:
    if newer.synchronous:
        raise SetRefused(
            f"{device.path}: is a device of set {newer.set_uuid}, which was in use: expected one that was "
            "formatted again and not used since. `bcachectl rescue` with --geometry and --set-uuid reads "
            "what is left of the former set"
        )


async def _may_have_copy(device: BlockDevice, superblock: Superblock) -> bool:
    """Whether bcached's copy is there, or nothing: the kernel and make-bcache write none."""
    raw = await device.read(COPY_SECTOR * SECTOR_BYTES, SUPERBLOCK_BYTES)
    return SUPERBLOCK_MAGIC in raw or superblock.set_uuid.bytes in raw


async def _at(device: BlockDevice, sector: int) -> Superblock | None:
    try:
        raw = await device.read(sector * SECTOR_BYTES, SUPERBLOCK_BYTES)
        return Superblock.parse(
            raw,
            device_bytes=device.size_bytes,
            logical_block_bytes=device.logical_block_bytes,
            where=f"{device.path} sector {sector}",
        )
    except BcachedError:
        return None
