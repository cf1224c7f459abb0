# SPDX-License-Identifier: GPL-2.0-only
"""What the owner of a set asks, beyond whether it is sound: whose dirty data it has, and is it readable."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bcached.device.block_device import BlockDevice
from bcached.errors import BcachedError
from bcached.store.check.checker import NodeRead, count_nothing
from bcached.store.finding import Finding, Report, Severity
from bcached.store.rescue.backing_check import CheckedBacking, check_backing
from bcached.store.rescue.corrections import read_corrected
from bcached.store.rescue.data_check import DataCheck, DataRead, Progress
from bcached.store.rescue.dirty_extents import DirtyExtents
from bcached.store.rescue.owner_of import Owner
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.remains.lost_keys import bring_back_lost
from bcached.store.rescue.remains.node_scan import SearchProgress, no_search_progress
from bcached.store.rescue.rescue import Rescue
from bcached.store.rescue.unreadable import Unreadable


@dataclass(slots=True)
class OwnerCheck:
    """The answer: dirty data by volume, the backing devices, and what became of reading the data."""

    rescues: dict[int, Rescue] = field(default_factory=dict)  # by inode, counted
    backings: list[CheckedBacking] = field(default_factory=list)
    data: DataRead | None = None  # None: not asked for


@dataclass(slots=True)
class OwnerQuestion:
    """What is asked about a set: its backing devices, and whether to read its data."""

    backings: Sequence[BlockDevice] = ()
    with_data: bool = False
    compare: bool = True  # not while the devices are in use: data changes under the comparison
    searched: SearchProgress = no_search_progress
    node_read: NodeRead = count_nothing

    async def answer(self, devices: Sequence[BlockDevice], report: Report, progress: Progress) -> OwnerCheck:
        """Read what is left of the set, and its data if asked for. Without any answer if nothing is left.

        Raises SetRefused if a backing device is none.
        """
        try:
            left = await read_corrected(devices, node_read=self.node_read)
            await bring_back_lost(left, self.searched)
        except BcachedError:  # which the check has reported
            return OwnerCheck()
        extents = DirtyExtents.of(left)
        unreadable = Unreadable.of(left.members)
        found = OwnerCheck()
        for device in self.backings:
            found.backings.append(await check_backing(extents, device, unreadable, report))
        found.rescues = _rescues(extents, unreadable, found.backings)
        if self.with_data:
            compared = found.backings if self.compare else []
            by_inode = {backing.inode: backing for backing in compared if backing.inode is not None}
            found.data = await DataCheck(left, unreadable, by_inode, report, progress).run()
        else:
            _report_unreadable(found.rescues, report)
        return found


def _report_unreadable(rescues: dict[int, Rescue], report: Report) -> None:
    """Report dirty data that is known to be unreadable before anything of it is read."""
    for inode, rescue in rescues.items():
        if extents := rescue.lost.extents.total():
            problem = f"{extents} extents of its dirty data cannot be read, or only in part"
            lost = f"{rescue.lost.sectors.total()} dirty sectors"
            report(Finding("data-unreadable", Severity.DAMAGE, "data", f"volume {inode}", problem, lost))


def _rescues(
    extents: DirtyExtents, unreadable: Unreadable, backings: Sequence[CheckedBacking]
) -> dict[int, Rescue]:
    """Returns what there is of each volume with dirty data, doubtful if its backing device says so."""
    found = {backing.rescue.owner.inode: backing.rescue for backing in backings if backing.rescue is not None}
    for inode in extents.inodes():
        if inode not in found:
            rescue = Rescue(extents, Owner(inode), Confidence.SURE, unreadable)
            rescue.count()
            found[inode] = rescue
    return dict(sorted(found.items()))
