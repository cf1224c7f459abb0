# SPDX-License-Identifier: GPL-2.0-only
"""A set that was on a device before it was formatted again. It is there as long as the new one is unused."""

from bcached.device.block_device import BlockDevice
from bcached.format.magic import set_magic_of
from bcached.format.superblock import Superblock
from bcached.store.finding import Finding, Report, Severity
from bcached.store.make.journal_traces import has_journal
from bcached.store.repair.layout_scan import LayoutFound, find_layout


async def find_former_set(device: BlockDevice, fresh: Superblock, report: Report) -> LayoutFound | None:
    """Returns how the set was made that an unused one was written over, and reports it; None without one."""
    if not await has_journal(device):
        return None
    layout = await find_layout(device)
    if layout is None or layout.set_magic == set_magic_of(fresh.set_uuid):
        return None
    problem = (
        f"the journal of another set, {layout.uuid_half}-..., up to entry {layout.newest_seq}, and its index "
        "are there: the device was formatted again"
    )
    lost = "nothing until the new set is used"
    report(Finding("former-set", Severity.NOTE, "device", device.path, problem, lost))
    return layout
