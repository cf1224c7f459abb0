"""Changes of the uuid table and of superblocks: rare, durable before they are answered, one at a time.

Such a change runs in a task of its own, which goes on when the client that asked for it goes away: half of
one is worse than either end.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from uuid import UUID, uuid4

from bcached.errors import LimitExceeded, NoSuchVolume, RequestError, VolumeInUse
from bcached.format.uuid_entry import UuidEntry
from bcached.keys import Key
from bcached.runtime.index import Index
from bcached.runtime.services import Services
from bcached.state.buckets.bucket_table import State
from bcached.state.sectors.pending_allocations import MetadataBucket
from bcached.state.sectors.sector_allocator import SectorAllocator
from bcached.store.journal.journal import Journal
from bcached.store.member import Member
from bcached.store.uuid_table import UuidTable, Volume

BUCKET_TIMEOUT_S = 30.0

Work = Callable[[], Coroutine[Any, Any, Any]]
Spawn = Callable[[Work], "asyncio.Task[Any]"]
Entries = list[UuidEntry | None]


class Volumes:
    """The volumes of a set; the sector allocator is told which inodes there are."""

    def __init__(
        self,
        members: list[Member],
        journal: Journal,
        table: UuidTable,
        sectors: SectorAllocator,
        index: Index,
        services: Services,
        spawn: Spawn,
    ) -> None:
        self._members = members
        self._journal = journal
        self._table = table
        self._sectors = sectors
        self._index = index
        self._services = services
        self._spawn = spawn
        self._turn = asyncio.Lock()
        self._place: MetadataBucket | None = None  # the bucket of a table that is being written
        self._old: tuple[int, int] | None = None  # that of the table before, which may still count
        self._tell_inodes()

    def volumes(self) -> list[Volume]:
        """The volumes there are, by inode."""
        return list(self._table.volumes())

    def table_places(self) -> set[tuple[int, int]]:
        """(device, bucket) of those in use for the uuid table."""
        fresh = None if self._place is None else self._place.taken
        tables = (self._place_of(self._journal.uuid_bucket), fresh, self._old)
        return {place for place in tables if place is not None}

    async def create(self, label: str, sectors: int, uuid: UUID | None) -> int:
        """A new volume's inode, durable."""

        async def change() -> int:
            chosen = uuid or uuid4()
            self._table.check_new(label, sectors, chosen)
            inode = await self._find_inode()
            await self._write(self._table.with_volume(inode, label, sectors, chosen))
            self._tell_inodes()
            return inode

        inode: int = await self._run(change)
        return inode

    async def _find_inode(self) -> int:
        """The first inode that is free, and that no key still names data under: its data is another's.

        Nothing adds keys under an inode without a volume, so the answer stays good.
        """
        for inode in self._table.free_inodes():
            if not await self._index.names_data(inode):
                return inode
        raise LimitExceeded("volumes", len(self._table.entries) + 1)

    async def delete(
        self, inode: int, end_reservations: Callable[[int], Awaitable[None]], *, force: bool
    ) -> None:
        """Take a volume away, durable; nothing new is reserved for it from the first moment on.

        Its keys go first, durably: whoever gets the slot next must find none of them. So are those dropped
        that stand under an inode without a volume.
        """

        async def change() -> None:
            has_slot = self._table.is_taken(inode)
            if not has_slot and not await self._index.has_keys(inode):
                raise NoSuchVolume(inode)
            if not force:
                await self._refuse_if_dirty(inode)  # a volume that stays is there for its clients meanwhile
            self._sectors.inodes.pop(inode, None)
            try:
                if not force:
                    await self._refuse_if_dirty(inode)  # what came in while it was looked at before
                await self._index.drop_volume(inode, BUCKET_TIMEOUT_S)
                if has_slot:
                    await self._write(self._table.without_volume(inode))
                self._index.health.forget(inode)
                await end_reservations(inode)
            finally:
                self._tell_inodes()

        await self._run(change)

    async def _refuse_if_dirty(self, inode: int) -> None:
        dirty_sectors = await self._index.dirty_sectors(inode)
        if dirty_sectors:
            raise VolumeInUse(inode, dirty_sectors)

    async def change_superblocks(self, **fields: object) -> None:
        """Write other fields to every member's superblock, where they differ."""

        async def change() -> None:
            for member in self._members:
                if any(getattr(member.superblock, name) != value for name, value in fields.items()):
                    await member.change_superblock(**fields)

        await self._run(change)

    async def _run(self, change: Work) -> Any:
        """Run a change to its end, whatever becomes of the caller, who hears what he did wrong."""

        async def in_turn() -> Any:
            try:
                async with self._turn:
                    self._services.check_changeable()  # it may have been a long wait
                    return await change()
            except RequestError as error:
                return error

        task = self._spawn(in_turn)
        await asyncio.wait([task])  # awaiting the task itself would cancel it when the caller goes away
        if task.cancelled() or task.exception() is not None:
            self._services.check_changeable()  # it took the set down, and the caller hears why
        result = task.result()
        if isinstance(result, RequestError):
            raise result
        return result

    async def _write(self, entries: Entries) -> None:
        """The table to a fresh bucket, then the journal entry that names it; then the old one is free."""
        self._place = MetadataBucket(self._sectors, State.UUID)
        try:
            device, bucket = await self._services.queue.submit(self._place, BUCKET_TIMEOUT_S)
            self._services.buckets_moved()
            await self._replace(device, bucket, entries)
        finally:
            self._place = None
        self._services.buckets_moved()

    async def _replace(self, device: int, bucket: int, entries: Entries) -> None:
        journal, cache = self._journal, self._members[device].cache
        synchronous = self._services.options.synchronous
        if synchronous:
            raw = self._table.pack(entries)
            await self._members[device].block_device.write(cache.geometry.byte_of(bucket), raw)
        self._old = old_device, old_bucket = self._place_of(journal.uuid_bucket)
        journal.uuid_bucket = self._table.key_at(device, bucket, cache.table.gens[bucket])
        if synchronous:
            await journal.commit()
        self._table.entries = entries
        self._old = None
        self._members[old_device].cache.free_metadata([old_bucket])

    def _place_of(self, key: Key) -> tuple[int, int]:
        pointer = key.pointers[0]
        return pointer.device, self._members[pointer.device].cache.geometry.bucket_of(pointer.sector)

    def _tell_inodes(self) -> None:
        volumes = self.volumes()
        self._sectors.inodes = {volume.inode: volume.uuid for volume in volumes}
        self._sectors.flash_sectors = {
            volume.inode: volume.sectors for volume in volumes if volume.flash_only
        }
