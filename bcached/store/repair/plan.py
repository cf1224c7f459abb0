# SPDX-License-Identifier: GPL-2.0-only
"""The steps that were named, in the order in which each one can rely on those before it."""

from collections.abc import Sequence

from bcached.device.block_device import BlockDevice
from bcached.errors import DeviceError, SetRefused
from bcached.format.sizes import BLOCK_SECTORS_MAX, PAGE_BYTES
from bcached.store.check.checker import CheckedSet, NodeRead, count_nothing
from bcached.store.repair.bit_correction import correct_bits
from bcached.store.repair.gap_filling import fill_gap
from bcached.store.repair.journal_clearing import clear_journal_behind
from bcached.store.repair.needs import StepOption, needed_steps, refuse_unanswered
from bcached.store.repair.prio_clearing import clear_prio_traces
from bcached.store.repair.rebuild import rebuild
from bcached.store.repair.repair import MEMBERS_RULE, Repair
from bcached.store.repair.superblocks import rewrite_superblocks
from bcached.store.repair.wishes import Wishes
from bcached.store.rescue.remains.node_scan import SearchProgress, no_search_progress
from bcached.units import format_size


async def plan_repair(
    devices: Sequence[BlockDevice],
    wishes: Wishes,
    searched: SearchProgress = no_search_progress,
    seen: Sequence[BlockDevice] | None = None,
    node_read: NodeRead = count_nothing,
) -> Repair:
    """Returns the repair, planned and previewed. Raises BcachedError if a step cannot be done.

    Seen are the devices as they are to be read, if copies lack something.
    """
    may_lack_members = StepOption.DROP_MISSING in wishes.steps
    try:
        repair = await Repair.of(devices, seen, node_read, may_lack_members=may_lack_members)
        return await _plan(repair, wishes, searched)
    except DeviceError as error:
        raise SetRefused(
            f"{error}: a repair needs a device that can be read. `bcachectl rescue` reads around what is bad "
            "and gets the dirty data back; or copy the device (ddrescue), and repair the copy"
        ) from error


async def _plan(repair: Repair, wishes: Wishes, searched: SearchProgress) -> Repair:
    repair.accepts_loss = wishes.accepts_loss
    if StepOption.SUPERBLOCK in wishes.steps:
        repair.add(await rewrite_superblocks(repair.view, wishes.layout, wishes.set_uuid))
    if StepOption.CORRECT_BITS in wishes.steps:
        repair.add(await correct_bits(repair.view))
    if StepOption.CLEAR_JOURNAL in wishes.steps:
        found = await repair.preview()
        repair.add(await clear_journal_behind(found, wishes.seq), found.members)
        await _end_journal(repair)
    if wishes.rebuilding:
        _refuse_large_blocks(await repair.preview())
        await _rebuild(repair, wishes, searched)
    await repair.preview()
    return repair


def _refuse_large_blocks(found: CheckedSet) -> None:
    """Refuse to write new metadata to a set that bcached cannot run."""
    for member in found.members:
        if member.superblock.block_sectors > BLOCK_SECTORS_MAX:
            raise SetRefused(
                f"{member.path}: its blocks of {format_size(member.superblock.block_bytes)} are larger than "
                f"a page of {format_size(PAGE_BYTES)}: bcached writes no metadata of such a set; `bcachectl "
                "rescue` gets the dirty data back"
            )


async def _end_journal(repair: Repair) -> None:
    """Add the steps after which nothing shows that entries newer than the newest were there."""
    found = await repair.preview()
    if (step := await fill_gap(found)).is_needed:
        repair.add(step, found.members)
    found = await repair.preview()
    if (step := await clear_prio_traces(found)).is_needed:
        repair.add(step, found.members)


async def _rebuild(repair: Repair, wishes: Wishes, searched: SearchProgress) -> None:
    """Add the step of new metadata, if what is damaged asks for it and is all named."""
    found = await repair.preview()
    needed = needed_steps(found.findings)
    if MEMBERS_RULE in found.findings.counts:
        needed.add(StepOption.DROP_MISSING)  # what else is wrong is not known yet
    if _misses_backing(found, wishes) or _has_other_size(found, wishes):
        needed.add(StepOption.REBUILD_VOLUMES)
    if not needed & wishes.rebuilding:
        return
    refuse_unanswered(needed, wishes.rebuilding)
    step, members = await rebuild(repair.view, wishes, found, searched)
    repair.add(step, members)


def _misses_backing(found: CheckedSet, wishes: Wishes) -> bool:
    """Whether the uuid table lacks a backing device that was named: no check knows of it."""
    uuids = {entry.uuid for entry in found.volumes if entry is not None}
    is_named = StepOption.REBUILD_VOLUMES in wishes.steps and not found.is_fresh
    return is_named and any(backing.superblock.uuid not in uuids for backing in wishes.backings)


def _has_other_size(found: CheckedSet, wishes: Wishes) -> bool:
    """Whether a volume has another size than the one that the owner says."""
    sizes = {inode: entry.sectors for inode, entry in enumerate(found.volumes) if entry is not None}
    is_named = StepOption.REBUILD_VOLUMES in wishes.steps and not found.is_fresh
    return is_named and any(sizes.get(inode) != sectors for inode, sectors in wishes.volume_sizes.items())
