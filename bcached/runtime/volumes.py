# SPDX-License-Identifier: GPL-2.0-only
"""Changes of the uuid table and of superblocks: rare, durable before they are answered, one at a time.

Each change runs in a separate task, which continues if the client disconnects: a change must be complete or
not begun.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID, uuid4

from bcached.errors import (
    AmbiguousLabel,
    InvalidParameter,
    LimitExceeded,
    NoSuchVolume,
    RequestError,
    VolumeInUse,
)
from bcached.format.uuid_entry import UuidEntry
from bcached.format.volume_owner import EntryOwner
from bcached.keys import Key
from bcached.runtime.coordination.shared import Shared
from bcached.runtime.index.index import Index
from bcached.runtime.sectors.allocations import Allocations
from bcached.runtime.snapshot import orphans_of
from bcached.state.buckets.bucket_table import State
from bcached.state.sectors.pending_allocations import MetadataAllocation
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.state.sectors.volume_rights import ALL_RIGHTS, VolumeRights
from bcached.state.statistics import OrphanStatistics
from bcached.store.journal.journal import Journal
from bcached.store.member import Member
from bcached.store.uuid_table import UuidTable, VolumeInfo

BUCKET_TIMEOUT_S = 30.0

TableChange = Callable[[], Coroutine[Any, Any, Any]]
Spawn = Callable[[TableChange], "asyncio.Task[Any]"]
Entries = list[UuidEntry | None]


class Volumes:
    """The volumes of a set; keeps the sector allocator's list of inodes and the holders' rights up to date.

    owners: of the volumes that have one, by inode.
    """

    def __init__(
        self,
        members: list[Member],
        journal: Journal,
        table: UuidTable,
        sectors: SectorAllocator,
        index: Index,
        allocations: Allocations,
        shared: Shared,
        spawn: Spawn,
    ) -> None:
        self._members = members
        self._journal = journal
        self._table = table
        self._sectors = sectors
        self._index = index
        self._allocations = allocations
        self._shared = shared
        self._spawn = spawn
        self._lock = asyncio.Lock()
        self._new_table: MetadataAllocation | None = None  # the bucket of the table being written
        self._old_bucket: tuple[int, int] | None = None  # of the previous table, if still referenced
        self._opened: set[int] = set()  # inodes that clients found by a label in this run
        self._freed: dict[int, None] = {}  # those of them that were deleted, in that order
        self._all: list[VolumeInfo] = []
        self.owners: dict[int, EntryOwner] = {}
        self._update_inodes()

    def all(self) -> list[VolumeInfo]:
        """Returns the volumes, by inode; not to be changed."""
        return self._all

    def table_buckets(self) -> set[tuple[int, int]]:
        """Returns (device, bucket) of the buckets in use for the uuid table."""
        fresh = None if self._new_table is None else self._new_table.taken
        tables = (self._bucket_of(self._journal.locations.uuid_bucket), fresh, self._old_bucket)
        return {bucket for bucket in tables if bucket is not None}

    def orphans(self) -> tuple[OrphanStatistics, ...]:
        """Returns the inodes without a volume that still have keys, as counted last."""
        return orphans_of(self._index.health)

    async def create(
        self,
        label: str,
        sectors: int = 0,
        uuid: UUID | None = None,
        owner: EntryOwner | None = None,
    ) -> int:
        """Create a volume; returns its inode once it is durable. sectors > 0 makes it flash-only."""
        self._shared.stop.check_changeable()

        async def change() -> int:
            return await self._create(label, sectors, uuid or uuid4(), owner)

        inode: int = await self._run(change)
        return inode

    async def open(
        self,
        label: str,
        sectors: int | None = None,
        owner: EntryOwner | None = None,
        rights: VolumeRights = ALL_RIGHTS,
    ) -> tuple[int, bool]:
        """Returns the inode of the volume with a label, and whether it had to be created; it is durable.

        Volumes that the rights hide do not count; a new one counts for its user, unless that is an admin.
        Raises AmbiguousLabel if there are several, InvalidParameter if it has another size or owner than
        given, LimitExceeded if the user has made as many as it may.
        """
        self._shared.stop.check_changeable()
        if not label:
            raise InvalidParameter("label", "expected at least one byte, found none")

        async def change() -> tuple[int, bool]:
            found = [it for it in self._table.labelled(label) if it.inode not in rights.hidden]
            if not found:
                maker = None if rights.is_admin else rights.user
                return await self._create(label, sectors or 0, uuid4(), owner, maker), True
            if len(found) > 1:
                raise AmbiguousLabel(label, [volume.inode for volume in found])
            _check_size(found[0], sectors)
            _check_owner(found[0], owner)
            return found[0].inode, False

        opened: tuple[int, bool] = await self._run(change)
        self._opened.add(opened[0])
        return opened

    async def _create(
        self, label: str, sectors: int, uuid: UUID, owner: EntryOwner | None, maker: int | None = None
    ) -> int:
        self._table.check_new(label, sectors, uuid)
        if maker is not None:
            self._table.check_part(maker, self._shared.options.user_percent)
        inode = await self._find_inode()
        await self._write(self._table.with_volume(inode, label, sectors, uuid, owner, maker))
        self._update_inodes()
        return inode

    async def _find_inode(self) -> int:
        """Returns a free inode without keys that name data, which is a former volume's.

        One whose volume was opened by its label in this run comes last, since clients may have it open yet:
        they would take the new volume for it. No keys are added to an inode without a volume, so the result
        stays valid.
        """
        free = self._table.free_inodes()
        reused = [inode for inode in self._freed if inode in free]
        for inode in [*(inode for inode in free if inode not in self._freed), *reused]:
            if not await self._index.inode_keys.names_data(inode):
                return inode
        raise LimitExceeded("volumes", len(self._table.entries) + 1)

    async def set_owner(self, inode: int, owner: EntryOwner | None) -> None:
        """Give a volume another owner, or none, durably; requests that wait are held to it, too."""
        self._shared.stop.check_changeable()

        async def change() -> None:
            if not self._table.is_volume(inode):
                raise NoSuchVolume(inode)
            if self.owners.get(inode) != owner:
                await self._write(self._table.with_owner(inode, owner))
                self._update_inodes()

        await self._run(change)

    async def delete(self, inode: int, *, force: bool = False) -> None:
        """Delete a volume durably; reservations for it are refused at once, and end.

        Raises VolumeInUse if it has dirty data, unless force is set.

        Its keys are dropped first, durably, as the next volume in its slot must have none of them. Keys of
        an inode without a volume can be dropped, too.
        """
        self._shared.stop.check_changeable()

        async def change() -> None:
            has_slot = self._table.is_taken(inode)
            if not has_slot and not await self._index.inode_keys.has_any(inode):
                raise NoSuchVolume(inode)
            if not force:
                await self._refuse_if_dirty(inode)  # before, so that a refused volume stays usable
            self._sectors.inodes.pop(inode, None)
            try:
                if not force:
                    await self._refuse_if_dirty(inode)  # committed during the first check
                await self._index.drop_volume(inode, BUCKET_TIMEOUT_S)
                if has_slot:
                    await self._write(self._table.without_volume(inode))
                    if inode in self._opened:
                        self._freed.pop(inode, None)
                        self._freed[inode] = None
                self._forget(inode)
                await self._allocations.end_reservations(inode)
            finally:
                self._update_inodes()

        await self._run(change)

    def _forget(self, inode: int) -> None:
        """Remove a deleted volume from the counts by inode."""
        self._index.health.forget(inode)
        self._index.changes.live.use.forget(inode)
        self._index.reads.forget(inode)

    async def _refuse_if_dirty(self, inode: int) -> None:
        dirty_sectors = await self._index.inode_keys.dirty_sectors(inode)
        if dirty_sectors:
            raise VolumeInUse(inode, dirty_sectors)

    async def change_superblocks(self, **fields: object) -> None:
        """Set fields in the superblock of every member where they differ."""

        async def change() -> None:
            for member in self._members:
                if any(getattr(member.superblock, name) != value for name, value in fields.items()):
                    await member.change_superblock(**fields)

        await self._run(change)

    async def _run(self, change: TableChange) -> Any:
        """Run a change to its end, even if the caller is cancelled; raises its RequestError."""

        async def locked() -> Any:
            try:
                async with self._lock:
                    self._shared.stop.check_changeable()  # the wait may have been long
                    return await change()
            except RequestError as error:
                return error

        task = self._spawn(locked)
        await asyncio.wait([task])  # awaiting the task itself would cancel it with the caller
        if task.cancelled() or task.exception() is not None:
            self._shared.stop.check_changeable()  # it ended the set: raises the reason
        result = task.result()
        if isinstance(result, RequestError):
            raise result
        return result

    async def _write(self, entries: Entries) -> None:
        """Write the table to a new bucket, then the journal entry that names it; then free the old one."""
        self._new_table = MetadataAllocation(self._sectors, State.UUID)
        try:
            device, bucket = await self._shared.queue.submit(self._new_table, BUCKET_TIMEOUT_S)
            self._shared.buckets_moved()
            await self._replace(device, bucket, entries)
        finally:
            self._new_table = None
        self._shared.buckets_moved()

    async def _replace(self, device: int, bucket: int, entries: Entries) -> None:
        journal, buckets = self._journal, self._members[device].buckets
        synchronous = self._shared.options.synchronous
        if synchronous:
            raw = self._table.pack(entries)
            await self._members[device].block_device.write(buckets.geometry.byte_of(bucket), raw)
            self._members[device].written_bytes["uuids"] += len(raw)
        self._old_bucket = old_device, old_bucket = self._bucket_of(journal.locations.uuid_bucket)
        journal.locations.uuid_bucket = self._table.key_at(device, bucket, buckets.table.gens[bucket])
        if synchronous:
            await journal.commit()
        self._table.entries = entries
        self._old_bucket = None
        self._members[old_device].buckets.free_metadata([old_bucket])

    def _bucket_of(self, key: Key) -> tuple[int, int]:
        pointer = key.pointers[0]
        return pointer.device, self._members[pointer.device].buckets.geometry.bucket_of(pointer.sector)

    def _update_inodes(self) -> None:
        self._all = volumes = list(self._table.volumes())
        self._sectors.inodes = {volume.inode: volume.uuid for volume in volumes}
        self._sectors.flash_sectors = {
            volume.inode: volume.sectors for volume in volumes if volume.flash_only
        }
        self.owners = {volume.inode: volume.owner for volume in volumes if volume.owner is not None}
        for holder in self._allocations.holders:
            if holder.rights is not ALL_RIGHTS:
                holder.rights.update(self.owners)


def _check_size(volume: VolumeInfo, sectors: int | None) -> None:
    """Raises InvalidParameter if a volume is not of the size that its user expects."""
    size = volume.sectors if volume.flash_only else 0
    if sectors not in (None, size):
        raise InvalidParameter(
            "sectors", f"volume {volume.inode} ({volume.label}) has {size}, found {sectors}: leave it out"
        )


def _check_owner(volume: VolumeInfo, owner: EntryOwner | None) -> None:
    """Raises InvalidParameter if a volume has not the owner that its user expects."""
    if owner not in (None, volume.owner):
        raise InvalidParameter(
            "owner",
            f"volume {volume.inode} ({volume.label}) has {volume.owner or 'none'}, found {owner}",
        )
