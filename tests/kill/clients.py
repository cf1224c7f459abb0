# SPDX-License-Identifier: GPL-2.0-only
"""Clients that keep a set busy until it goes, and write down what they were told."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

import msgspec

from bcached.client import Client
from bcached.errors import (
    ConnectionLost,
    DeviceError,
    DeviceFailed,
    NoFreeBuckets,
    NoSuchVolume,
    RequestError,
    ShuttingDown,
)
from bcached.keys import Key

from .grants import Grants
from .ledger import NOTHING, Change, Ledger, LostError, Sighting, Volume, data_of, token_of

VOLUME_SECTORS = 3072  # of the volumes that stay
PASSING_SECTORS = 64  # of those that come and go
STEADY = {"plain": None, "flash": VOLUME_SECTORS}  # flash-only ones are told their size
WORKERS = 3  # on each steady volume
ENDED = (ConnectionLost, ShuttingDown, DeviceError, DeviceFailed)


class Load:
    """What all clients share. position says how far the device's log has got."""

    def __init__(
        self,
        path: str,
        ledger: Ledger,
        grants: Grants,
        random: Random,
        copies: int = 1,
        position: Callable[[], int] = lambda: 0,
    ) -> None:
        self.path = path
        self.ledger = ledger
        self.grants = grants
        self.random = random
        self.copies = copies
        self.position = position
        self.endings: list[Exception] = []

    @contextmanager
    def until_the_end(self) -> Iterator[None]:
        """Whatever a client does until the daemon is gone; how it heard of that is kept."""
        try:
            yield
        except ENDED as error:
            self.endings.append(error)

    async def run(self) -> None:
        """Until the daemon is gone, and every connection with it."""
        inodes = {label: self.ledger.volumes[label].inode for label in STEADY}
        async with asyncio.TaskGroup() as clients:
            for label, inode in inodes.items():
                clients.create_task(self._client(inode, label == "flash"))
            clients.create_task(self._administrator())

    async def _client(self, inode: int | None, always_dirty: bool) -> None:
        assert inode is not None
        part = VOLUME_SECTORS // WORKERS
        with self.until_the_end():
            async with Client(self.path) as client, asyncio.TaskGroup() as workers:
                for index in range(WORKERS):
                    worker = Worker(self, client, inode, index * part, (index + 1) * part, always_dirty)
                    workers.create_task(worker.run())

    async def _administrator(self) -> None:
        with self.until_the_end():
            async with Client(self.path) as client:
                await Administrator(self, client).run()


class Worker:
    """Works on sectors of a volume that are its own, one thing after the other."""

    def __init__(
        self, load: Load, client: Client, inode: int, start: int, end: int, always_dirty: bool = False
    ) -> None:
        self.load = load
        self.ledger = load.ledger
        self.client = client
        self.inode = inode
        self.start = start
        self.end = end
        self.always_dirty = always_dirty
        self.random = load.random
        self.block = client.description.devices[0].block_sectors

    async def run(self) -> None:
        """Until the connection is lost."""
        deeds = {
            self.write: 40,
            self.invalidate: 8,
            self.clean: 0 if self.always_dirty else 10,
            self.read: 12,
            self.give_back: 4,
            self.take_bucket: 4,
            self.flush: 4,
            self.look: 4,
        }
        with self.load.until_the_end():
            while True:
                (deed,) = self.random.choices([*deeds], [*deeds.values()])
                try:
                    await deed()
                except NoFreeBuckets:
                    self.ledger.count("refused for want of buckets")
                    await self.invalidate()

    async def write(self) -> None:
        """Reserve, write, commit."""
        start, end = self._range()
        copies = 1 + (self.random.random() < 0.3) * (self.load.copies - 1)
        keys = await self.client.allocate(
            self.inode, start, end - start, whole=True, replicas=copies, timeout_ms=3000
        )
        for key in keys:
            self.load.grants.give(key)
        await self._keep(keys, start, end)

    async def take_bucket(self) -> None:
        """A whole bucket; it is given back, or used in part."""
        key = await self.client.allocate_bucket(timeout_ms=3000)
        self.load.grants.give(key)
        if self.random.random() < 0.5:
            await self.client.free_bucket(key)
            self.load.grants.take_back([key])
            return
        start, end = self._range()
        end = min(end, start + key.sectors)
        await self._keep(
            [msgspec.structs.replace(key, inode=self.inode, offset=start, sectors=end - start)], start, end
        )

    async def _keep(self, keys: Sequence[Key], start: int, end: int) -> None:
        ledger, token = self.ledger, self.ledger.new_token()
        dirty = self.always_dirty or self.random.random() < 0.7
        durable = self.random.random() < 0.6
        keys = [msgspec.structs.replace(key, dirty=dirty) for key in keys]
        await asyncio.gather(
            *(self.client.write(key, data_of(token, key.inode, key.offset, key.end)) for key in keys)
        )
        since, change = ledger.now(), ledger.begin(self.inode, start, end, token, dirty)
        try:
            await self.client.commit(keys, durable=durable, timeout_ms=3000)
        except NoFreeBuckets:
            ledger.withdraw(change)
            await self.client.release(keys)
            raise
        self._acknowledged([change], durable, since)
        ledger.count("durable commits" if durable else "lazy commits")

    def _acknowledged(self, changes: Sequence[Change], durable: bool, since: int) -> None:
        if durable:
            self.ledger.durable(since, self.load.position(), *changes)
        else:
            for change in changes:
                self.ledger.accept(change)

    async def invalidate(self) -> None:
        """Drop what is there."""
        start, end = self._range(8)
        durable = self.random.random() < 0.6
        since, change = self.ledger.now(), self.ledger.begin(self.inode, start, end, NOTHING)
        await self.client.invalidate(self.inode, start, end - start, durable=durable)
        self._acknowledged([change], durable, since)
        self.ledger.count("invalidations")

    async def clean(self) -> None:
        """Make dirty keys clean."""
        start, end = self._range(4)
        found = await self.client.lookup(self.inode, start, end - start)
        dirty = [key for key in found.keys if key.dirty]
        if not dirty:
            return
        durable = self.random.random() < 0.6
        since, ledger = self.ledger.now(), self.ledger
        changes = [
            [
                ledger.begin(self.inode, sector, sector + 1, self._token_at(sector), dirty=False)
                for sector in range(key.offset, key.end)
            ]
            for key in dirty
        ]
        cleaned = await self.client.mark_clean(dirty, durable=durable)
        # Of a key that was moved meanwhile some sectors may have become clean all the same.
        kept = [change for sectors, done in zip(changes, cleaned, strict=True) if done for change in sectors]
        self._acknowledged(kept, durable, since)
        ledger.count("keys made clean", sum(cleaned))

    def _token_at(self, sector: int) -> int:
        return self.ledger.changes[self.inode, sector][-1].token

    async def flush(self) -> None:
        """What was accepted is durable."""
        since = self.ledger.now()
        await self.client.flush()
        self.ledger.durable(since, self.load.position())

    async def read(self) -> None:
        """What is found is what should be."""
        start, end = self._range(4)
        found = await sightings(self.client, self.inode, start, end - start)
        for sector in range(start, end):
            self.ledger.judge_now((self.inode, sector), found.pop((self.inode, sector), None))
        if found:
            raise LostError(f"found beyond {start} to {end}: {found}")
        self.ledger.count("reads")

    async def give_back(self) -> None:
        """Reserve, and think better of it."""
        start, end = self._range()
        keys = await self.client.allocate(self.inode, start, end - start, whole=True, timeout_ms=3000)
        for key in keys:
            self.load.grants.give(key)
        await self.client.release(keys)
        self.load.grants.take_back(keys)

    async def look(self) -> None:
        """Look up with a pin, and let go."""
        start, end = self._range(8)
        found = await self.client.lookup(self.inode, start, end - start, pin=True)
        if found.keys:
            await self.client.unpin(found.keys)

    def _range(self, factor: int = 1) -> tuple[int, int]:
        blocks = (self.end - self.start) // self.block
        most = max(1, min(blocks, self.random.choice((2, 2, 8, 40)) * factor))
        length = self.random.randint(1, most)
        first = self.random.randint(0, blocks - length)
        start = self.start + first * self.block
        return start, start + length * self.block


class Administrator:
    """Makes and deletes volumes, collects garbage, writes prios, asks whether all is well."""

    def __init__(self, load: Load, client: Client) -> None:
        self.load = load
        self.ledger = load.ledger
        self.client = client
        self.random = load.random

    async def run(self) -> None:
        """Until the connection is lost."""
        deeds: list[Callable[[], Any]] = [
            self.make_volume,
            self.collect,
            self.prios,
            self.verify,
            self.policy,
        ]
        with self.load.until_the_end():
            while True:
                await self.random.choice(deeds)()
                await asyncio.sleep(self.random.random() * 0.02)

    async def make_volume(self) -> None:
        """A volume comes, is used, and goes; or one of a former life goes."""
        volumes = self.ledger.volumes
        old = [label for label in volumes if label not in STEADY and volumes[label].deleted_at is None]
        if old:
            return await self._delete(volumes[self.random.choice(old)])
        label = f"passing {self.ledger.new_token()}"
        volume = volumes[label] = Volume(label)
        sectors = self.random.choice((None, PASSING_SECTORS))
        volume.inode = await self.client.create_volume(label, sectors=sectors)
        volume.created_at = self.load.position()
        self.ledger.count("volumes made")
        worker = Worker(self.load, self.client, volume.inode, 0, PASSING_SECTORS, sectors is not None)
        for _ in range(self.random.randrange(6)):
            await worker.write()
        if self.random.random() < 0.7:
            await self._delete(volume)
        return None

    async def _delete(self, volume: Volume) -> None:
        assert volume.inode is not None
        volume.deleting = True
        since, change = self.ledger.now(), self.ledger.begin(volume.inode, 0, PASSING_SECTORS, NOTHING)
        await self.client.delete_volume(volume.inode, force=True)
        volume.deleted_at = self.load.position()
        self.ledger.durable(since, volume.deleted_at, change)
        if not self.ledger.keep_all:
            del self.ledger.volumes[volume.label]
            self.ledger.forget_volume(volume.inode)
        self.ledger.count("volumes deleted")
        try:
            await self.client.lookup(volume.inode, 0, PASSING_SECTORS)
        except NoSuchVolume:
            return
        raise LostError(f"volume {volume.inode} is there after it was deleted")

    async def collect(self) -> None:
        await self.client.collect_garbage()
        self.ledger.count("collections")

    async def prios(self) -> None:
        await self.client.write_priorities()

    async def policy(self) -> None:
        await self.client.set_replacement(self.random.choice(("lru", "fifo", "random")))
        await self.client.set_discard(self.random.random() < 0.5)

    async def verify(self) -> None:
        if violations := await self.client.verify():
            raise LostError(f"Verify: {violations}")


async def sightings(client: Client, inode: int, start: int, sectors: int) -> dict[tuple[int, int], Sighting]:
    """What is found of a range, read from every place it is said to be."""
    found: dict[tuple[int, int], Sighting] = {}
    ranges = [(start, sectors)]
    while ranges:
        at, length = ranges.pop()
        since = await client.now()
        answer = await client.lookup(inode, at, length, touch=False)
        if answer.next is not None:
            ranges.append((answer.next, at + length - answer.next))
        for key in answer.keys:
            good = await client.current_pointers(key, since)
            copies = [(p, await asyncio.to_thread(client._at.data.read, p, key.sectors)) for p in good]
            still = await client.current_pointers(key, since)
            copies = [(pointer, data) for pointer, data in copies if pointer in still]
            if not copies:
                if not client.is_connected:
                    raise ConnectionLost(client.path, "while reading")
                ranges.append((key.offset, key.sectors))
                continue
            for sector in range(key.offset, key.end):
                begin = (sector - key.offset) * 512
                tokens = {token_of(data[begin : begin + 512], inode, sector) for _, data in copies}
                if len(tokens) > 1 or (inode, sector) in found:
                    raise LostError(f"{inode}:{sector} is found twice, with {tokens}")
                found[inode, sector] = Sighting(tokens.pop(), key.dirty)
    return found


__all__ = ["Load", "RequestError", "Worker", "sightings"]
