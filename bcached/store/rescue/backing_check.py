# SPDX-License-Identifier: GPL-2.0-only
"""A backing device beside its cache set: whether the two fit, and how much of its data only the cache has."""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from bcached.device.block_device import BlockDevice
from bcached.errors import FormatError, SetRefused
from bcached.format.backing_superblock import DATA_SECTOR_DEFAULT, BackingSuperblock
from bcached.store.finding import Finding, Report, Severity, finding_of
from bcached.store.rescue.dirty_extents import DirtyExtents
from bcached.store.rescue.owner_of import DIRTY, Owner, owner_of, read_backing
from bcached.store.rescue.remains.doubts import Confidence
from bcached.store.rescue.rescue import Rescue, first_data_sector
from bcached.store.rescue.unreadable import Unreadable
from bcached.units import SECTOR_BYTES

STRUCTURE = "backing device"


@dataclass(slots=True)
class CheckedBacking:
    """What was found: no superblock if that is damaged, no rescue if the set has no volume for it."""

    device: BlockDevice
    superblock: BackingSuperblock | None = None
    rescue: Rescue | None = None  # its dirty data, counted

    @property
    def path(self) -> str:
        """The device's name."""
        return self.device.path

    @property
    def inode(self) -> int | None:
        """Its volume in the set."""
        return self.rescue.owner.inode if self.rescue is not None else None

    @property
    def fits(self) -> bool:
        """Whether it may be the right device: it has a volume in the set, or cannot say which."""
        return self.rescue is not None or self.superblock is None

    @property
    def dirty_sectors(self) -> int:
        """The sectors that only the cache has, however sure."""
        return dirty_sectors(self.rescue) if self.rescue is not None else 0

    @property
    def data(self) -> range:
        """The sectors of its data, by the offsets that keys have."""
        assert self.superblock is not None
        return range(first_data_sector(self.superblock), self.device.size_bytes // SECTOR_BYTES)


def dirty_sectors(rescue: Rescue) -> int:
    """Returns the dirty sectors that were counted, readable or not."""
    return rescue.totals.sectors.total() + rescue.lost.sectors.total()


async def check_backing(
    extents: DirtyExtents, device: BlockDevice, unreadable: Unreadable, report: Report
) -> CheckedBacking:
    """Returns what is known of a backing device, and reports what is wrong. Raises SetRefused for others."""
    found = CheckedBacking(device)
    try:
        found.superblock = (await read_backing(device)).superblock
    except FormatError as error:
        report(finding_of(error, "backing-superblock", Severity.DAMAGE, "its state and its place in the set"))
        return found
    _judge_offset(found, report)
    try:
        owner = owner_of(extents.left, found.superblock, device.path, extents.inodes(), None)
    except SetRefused as error:
        problem = str(error).removeprefix(f"{device.path}: ").partition(". ")[0]
        report(Finding("backing-unknown", Severity.DAMAGE, STRUCTURE, device.path, problem))
        return found
    found.rescue = Rescue(extents, owner, Confidence.SURE, unreadable)
    found.rescue.count()
    _judge_state(
        found, owner, extents.left.members[0].superblock.set_uuid == found.superblock.set_uuid, report
    )
    _judge_size(found, report)
    return found


async def check_beside_unused(device: BlockDevice, set_uuid: UUID, report: Report) -> CheckedBacking:
    """Returns what is known of a backing device beside an unused set. Raises SetRefused for other devices."""
    found = CheckedBacking(device)
    try:
        found.superblock = superblock = (await read_backing(device)).superblock
    except FormatError as error:
        report(finding_of(error, "backing-superblock", Severity.DAMAGE, "its state and its place in the set"))
        return found
    _judge_offset(found, report)
    problem = ""
    if superblock.set_uuid.int and superblock.set_uuid != set_uuid:
        problem = f"the backing device is attached to another set ({superblock.set_uuid})"
    elif superblock.state_name == DIRTY:
        problem = "its state is dirty, and the set was never in use"
    if problem:
        lost = "its dirty data, if that is nowhere else" if superblock.state_name == DIRTY else ""
        report(Finding("backing-set", Severity.DAMAGE, STRUCTURE, found.path, problem, lost))
    return found


def _judge_offset(found: CheckedBacking, report: Report) -> None:
    """The data begins behind the superblock and inside of the device (kernel: "Bad data offset")."""
    assert found.superblock is not None
    sector, end = found.superblock.data_sector, found.device.size_bytes // SECTOR_BYTES
    if not DATA_SECTOR_DEFAULT <= sector < end:
        problem = f"expected its data to begin at sectors {DATA_SECTOR_DEFAULT} to {end - 1}, found {sector}"
        report(Finding("backing-offset", Severity.DAMAGE, STRUCTURE, found.path, problem, "all of its data"))


def _judge_state(found: CheckedBacking, owner: Owner, is_of_set: bool, report: Report) -> None:
    """1. Dirty data that may not be the newest. 2. Of another set. 3. Dirty by its state only: no harm."""
    assert found.superblock is not None
    if owner.doubt and found.dirty_sectors:
        lost = f"what is newer on it, if the cache's {found.dirty_sectors} dirty sectors are written to it"
        report(Finding("backing-state", Severity.DAMAGE, STRUCTURE, found.path, owner.doubt, lost))
    elif owner.doubt and not is_of_set:
        report(Finding("backing-set", Severity.DAMAGE, STRUCTURE, found.path, owner.doubt))
    elif found.superblock.state_name == DIRTY and not found.dirty_sectors:
        problem = "its state is dirty, but the cache has no dirty data of it"
        report(Finding("backing-state", Severity.NOTE, STRUCTURE, found.path, problem))


def _judge_size(found: CheckedBacking, report: Report) -> None:
    """Dirty data lies inside of the device's data."""
    assert found.rescue is not None
    for start, end in _dirty_ranges(found.rescue):
        if start < found.data.start or end > found.data.stop:
            where = f"{found.path} sectors {start} to {end - 1}"
            problem = f"expected dirty data inside of sectors {found.data.start} to {found.data.stop - 1}"
            lost = f"{end - start} dirty sectors: it is not the device, or not all of it"
            report(Finding("backing-size", Severity.DAMAGE, STRUCTURE, where, problem, lost))


def _dirty_ranges(rescue: Rescue) -> Iterator[tuple[int, int]]:
    """Yields first sectors and ends of dirty extents; of each column of sure ones only the outermost two."""
    for rows, others in rescue.extents.in_columns(rescue.owner.inode):
        if len(rows):
            ends, starts = rows.ends, rows.ends - rows.sectors
            for row in {int(starts.argmin()), int(ends.argmax())}:
                yield int(starts[row]), int(ends[row])
        for extent in others:
            yield extent.offset, extent.offset + extent.sectors
