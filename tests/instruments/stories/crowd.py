# SPDX-License-Identifier: GPL-2.0-only
"""A crowd of clients that do everything a client can at random moments, and a watch on what they are given.

All of it follows from one seed. The watch is a map of its own of who holds which blocks: what the set says
of itself is not asked.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from bcached.errors import LimitExceeded, NoFreeBuckets, NoSuchVolume, RequestError
from bcached.keys import Key, Pointer
from bcached.runtime.cache_set import CacheSet
from bcached.set_state import Replacement
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.reserves import Reserve
from bcached.state.sectors.reservations import ExtentRequest, Holder
from instruments.samples.living_set import spare_buckets

STARVED_S = 5.0  # so long nobody waits at the head of a queue while there is a bucket to be had


class Watch:
    """Who holds which blocks."""

    def __init__(self, cache_set: CacheSet) -> None:
        self._cache_set = cache_set
        self._block_sectors = cache_set.geometry.block_sectors
        self._owners: list[dict[int, object]] = [{} for _ in cache_set.members]
        self.given_sectors = 0

    def given(self, owner: object, key: Key) -> None:
        """Note that somebody was given a key; nobody else may hold any of it."""
        self.given_sectors += key.sectors
        for pointer in key.pointers:
            table = self._cache_set.members[pointer.device].buckets.table
            bucket = self._cache_set.geometry.bucket_of(pointer.sector)
            last = self._cache_set.geometry.bucket_of(pointer.sector + key.sectors - 1)
            assert bucket == last, f"{key} crosses a bucket's end"
            assert State(table.states[bucket]) in (State.OPEN, State.HELD, State.QUARANTINE), key
            assert table.gens[bucket] == pointer.gen, key
            for block in self._blocks(pointer, key.sectors):
                holder = self._owners[pointer.device].setdefault(block, owner)
                assert holder is owner, f"{key} was given to {owner} and is still held by {holder}"

    def ended(self, key: Key) -> None:
        """Note that a key is not held any more."""
        for pointer in key.pointers:
            for block in self._blocks(pointer, key.sectors):
                del self._owners[pointer.device][block]

    @property
    def held_blocks(self) -> int:
        return sum(len(owners) for owners in self._owners)

    def _blocks(self, pointer: Pointer, sectors: int) -> range:
        return range(
            pointer.sector // self._block_sectors, -(-(pointer.sector + sectors) // self._block_sectors)
        )


@dataclass
class Tally:
    """What came of it all."""

    done: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    longest_wait_s: float = 0.0

    def note(self, where: dict[str, int], name: str) -> None:
        where[name] = where.get(name, 0) + 1


class Client:
    """One client: it asks, waits, gives up, gives back, and dies."""

    def __init__(self, crowd: "Crowd", random: Random, number: int) -> None:
        self.crowd = crowd
        self.cache_set = crowd.cache_set
        self.random = random
        self.number = number
        self.lives = 1
        self.holder = self.cache_set.allocations.new_holder(f"client {number} life 1")
        self.keys: list[Key] = []
        self.buckets: list[Key] = []

    async def run(self, steps: int) -> None:
        """So many random steps."""
        acts: list[tuple[int, str, Callable[[], Awaitable[None]]]] = [
            (40, "carve", self.carve),
            (14, "allocate", self.allocate),
            (5, "allocate many", self.allocate_many),
            (8, "bucket", self.take_bucket),
            (30, "release", self.release),
            (8, "free bucket", self.free_bucket),
            (10, "rest", self.rest),
            (1, "die", self.die),
        ]
        for _ in range(steps):
            _, name, act = self.random.choices(acts, [weight for weight, _, _ in acts])[0]
            self.crowd.tally.note(self.crowd.tally.done, name)
            await act()
            if len(self.keys) > self.crowd.keys_max:
                await self.release()

    async def carve(self) -> None:
        request = self._request(plain=True)
        try:
            key = self.cache_set.allocations.carve(
                self.holder, request.inode, request.offset, request.sectors, request.write_point
            )
        except NoSuchVolume:
            return
        if key is not None:
            self._take(key)

    async def allocate(self) -> None:
        await self._ask([self._request()])

    async def allocate_many(self) -> None:
        await self._ask([self._request() for _ in range(self.random.randint(2, 12))])

    async def _ask(self, requests: list[ExtentRequest]) -> None:
        holder = self.holder

        def take(found: list[list[Key]]) -> None:
            for request, keys in zip(requests, found, strict=True):
                given = sum(key.sectors for key in keys)
                assert given == request.sectors if request.whole else 0 < given <= request.sectors
                assert all(len(key.pointers) == request.replicas for key in keys)
                for key in keys:
                    self._take(key)

        await self._wait(lambda timeout: self.cache_set.allocations.allocate(holder, requests, timeout), take)

    async def take_bucket(self) -> None:
        replicas = self.random.randint(1, len(self.cache_set.members))
        holder = self.holder

        def take(key: Key) -> None:
            self.crowd.given(holder, key)
            self.buckets.append(key)

        await self._wait(
            lambda timeout: self.cache_set.allocations.allocate_bucket(holder, replicas, timeout), take
        )

    async def _wait(self, ask: Callable[[float], "asyncio.Future[Any]"], take: Callable[[Any], None]) -> None:
        """Ask, and wait for it, give up early, or die while waiting."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            future = ask(self.random.choice([0, 0.001, 0.01, 0.5, 20]))
        except (NoFreeBuckets, NoSuchVolume, LimitExceeded) as error:
            self.crowd.tally.note(self.crowd.tally.refused, type(error).__name__)
            return
        if not future.done():
            match self.random.randrange(12):
                case 0:
                    await asyncio.sleep(self.random.random() * 0.01)
                    if not future.cancel() and future.exception() is None:
                        take(future.result())  # the answer was on its way already
                    return
                case 1:
                    await asyncio.sleep(self.random.random() * 0.01)
                    future.cancel()
                    if future.cancelled() or future.exception():
                        await self.die()
                    else:
                        take(future.result())
                    return
        try:
            take(await future)
        except (NoFreeBuckets, NoSuchVolume, LimitExceeded) as error:
            self.crowd.tally.note(self.crowd.tally.refused, type(error).__name__)
        self.crowd.tally.longest_wait_s = max(self.crowd.tally.longest_wait_s, loop.time() - begun)

    async def release(self) -> None:
        count = self.random.choice([1, 1, 1, 5, 50])
        self.random.shuffle(self.keys)
        going, self.keys = self.keys[:count], self.keys[count:]
        self.keys += [key for key in going if key.inode not in self.crowd.inodes]  # its volume is going
        going = [key for key in going if key.inode in self.crowd.inodes]
        if not going:
            return
        if len(going) == 1 and self.random.random() < 0.3:
            going, kept = self._part(going[0])
            self.keys += kept
        for key in going:
            self.crowd.watch.ended(key)
        self.cache_set.allocations.release(self.holder, going)

    def _part(self, key: Key) -> tuple[list[Key], list[Key]]:
        """A part of a key, and what that leaves of it."""
        block = self.cache_set.geometry.block_sectors
        blocks = key.sectors // block
        begin = self.random.randrange(blocks)
        end = self.random.randint(begin + 1, blocks)
        cuts = [(0, begin), (begin, end), (end, blocks)]
        parts = [_slice(key, first * block, (last - first) * block) for first, last in cuts]
        return [parts[1]], [part for part in (parts[0], parts[2]) if part.sectors]

    async def free_bucket(self) -> None:
        if self.buckets:
            key = self.buckets.pop(self.random.randrange(len(self.buckets)))
            self.crowd.watch.ended(key)
            self.cache_set.allocations.free_bucket(self.holder, key)

    async def rest(self) -> None:
        await asyncio.sleep(self.random.random() ** 4 * 0.05)

    async def die(self) -> None:
        """End the connection with all that it holds, and come back as somebody else."""
        self.crowd.bury(self)
        self.lives += 1
        self.holder = self.cache_set.allocations.new_holder(f"client {self.number} life {self.lives}")
        self.keys, self.buckets = [], []

    def _take(self, key: Key) -> None:
        if key.inode in self.crowd.inodes:  # else it went with its volume before we heard of it
            self.crowd.given(self.holder, key)
            self.keys.append(key)

    def _request(self, *, plain: bool = False) -> ExtentRequest:
        random, geometry = self.random, self.cache_set.geometry
        block, most = geometry.block_sectors, geometry.bucket_sectors // geometry.block_sectors
        whole = not plain and random.random() < 0.3
        blocks = random.randint(1, most * 3 if whole else max(most // random.choice([1, 2, 8]), 1))
        return ExtentRequest(
            random.choice(sorted(self.crowd.inodes)) if self.crowd.inodes else 0,
            random.randrange(1 << 20) * block,
            blocks * block,
            self.number,
            1 if plain or random.random() < 0.7 else random.randint(1, len(self.cache_set.members)),
            not plain and random.random() < 0.05,
            whole,
        )


def _slice(key: Key, skip: int, sectors: int) -> Key:
    pointers = tuple(Pointer(one.device, one.sector + skip, one.gen) for one in key.pointers)
    return Key(key.inode, key.offset + skip, sectors, key.dirty, pointers)


class Crowd:
    """So many clients, an administrator who meddles, and a watchdog."""

    def __init__(self, cache_set: CacheSet, seed: int, *, keys_max: int = 100) -> None:
        self.cache_set = cache_set
        self.random = Random(seed)
        self.keys_max = keys_max
        self.watch = Watch(cache_set)
        self.tally = Tally()
        self.clients: list[Client] = []
        self.inodes: set[int] = {volume.inode for volume in cache_set.volumes.all()}
        self._buried: list[tuple[list[Holder], list[Key]]] = []
        self._volumes_made = 0

    async def run(self, clients: int, steps: int) -> None:
        """Until every client has done its steps, and all that they held has ended."""
        if not self.inodes:
            await self._create_volume()
        self.clients = [Client(self, Random(self.random.random()), number) for number in range(clients)]
        async with asyncio.TaskGroup() as helpers:
            meddling = helpers.create_task(self._meddle(Random(self.random.random())))
            watching = helpers.create_task(self._watch_for_starvation())
            async with asyncio.TaskGroup() as group:
                for client in self.clients:
                    group.create_task(client.run(steps))
            watching.cancel()
            meddling.cancel()
        for client in self.clients:
            self.bury(client)
        await self._wait_for_ends()
        assert self.cache_set.verify() == []

    def given(self, holder: Holder, key: Key) -> None:
        """Somebody was given a key."""
        self._dig_up()
        self.watch.given(holder, key)

    def bury(self, client: Client) -> None:
        """A connection is gone; what it held may be given to others once its quarantine has ended."""
        self.cache_set.allocations.drop_holder(client.holder, None)
        self._buried.append(([client.holder], client.keys + client.buckets))

    def _dig_up(self) -> None:
        """Forget those whose quarantine has ended."""
        waiting = set(map(id, self.cache_set.allocations.quarantine.holders())) if self._buried else set()
        left = []
        for holders, keys in self._buried:
            if any(id(holder) in waiting for holder in holders):
                left.append((holders, keys))
            else:
                for key in keys:
                    self.watch.ended(key)
        self._buried = left

    async def _wait_for_ends(self) -> None:
        await asyncio.sleep(self.cache_set.shared.options.restart_grace_s * 2 + 0.1)
        now = self.cache_set.statistics()
        assert now.quarantined_holders == 0
        assert now.reserved_sectors == 0
        assert now.holders == 0
        assert not any(now.waiters.values())
        for member in self.cache_set.members:
            counts = member.buckets.table.counts
            assert counts[State.HELD] == counts[State.QUARANTINE] == counts[State.DIRTY] == 0
            assert int(member.buckets.table.pins_array.sum()) == counts[State.OPEN]

    async def _meddle(self, random: Random) -> None:
        """An administrator who does everything, and sometimes goes away in the middle of it."""
        cache_set = self.cache_set
        acts: list[Callable[[], Awaitable[None]]] = [
            cache_set.maintenance.collect_garbage,
            cache_set.maintenance.write_priorities,
            lambda: cache_set.maintenance.set_replacement(random.choice(list(Replacement))),
            lambda: cache_set.maintenance.set_discard(random.random() < 0.5),
            self._create_volume,
            self._create_volume,
            lambda: self._delete_volume(random),
        ]
        while True:
            await asyncio.sleep(random.random() ** 3)
            assert cache_set.verify() == []
            act = asyncio.ensure_future(random.choice(acts)())
            try:
                if random.random() < 0.2:
                    await asyncio.sleep(random.random() * 0.003)
                    act.cancel()
                await asyncio.wait([act])
            finally:
                act.cancel()
            if not act.cancelled() and (error := act.exception()) is not None:
                if not isinstance(error, RequestError):
                    raise error
                self.tally.note(self.tally.refused, f"admin: {type(error).__name__}")

    async def _create_volume(self) -> None:
        self._volumes_made += 1
        sectors = self.random.choice([0, 0, 1 << 20])
        await self.cache_set.volumes.create(f"volume {self._volumes_made}", sectors)
        # One whose caller went away may be there too.
        self.inodes = {volume.inode for volume in self.cache_set.volumes.all()}

    async def _delete_volume(self, random: Random) -> None:
        if len(self.inodes) > 1:
            inode = random.choice(sorted(self.inodes))
            self.inodes.discard(inode)
            await asyncio.shield(asyncio.ensure_future(self._delete_to_the_end(inode)))

    async def _delete_to_the_end(self, inode: int) -> None:
        try:
            await self.cache_set.volumes.delete(inode)
        except RequestError as error:
            self.tally.note(self.tally.refused, f"delete: {type(error).__name__}")
            return
        for client in self.clients:
            name = f"{client.holder.name}, volume {inode}"
            ends = [
                holder for holder in self.cache_set.allocations.quarantine.holders() if holder.name == name
            ]
            self._buried.append((ends, [key for key in client.keys if key.inode == inode]))
            client.keys = [key for key in client.keys if key.inode != inode]

    async def _watch_for_starvation(self) -> None:
        """Nobody is at the head of a queue for long while there is a bucket to be had."""
        queues = self.cache_set.shared.queue._queues
        since: dict[Reserve, tuple[Any, float]] = {}
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0.25)
            for reserve, queue in queues.items():
                head = queue.head if queue else None
                if head is None or not self._could_be_served(reserve, head.work):
                    since.pop(reserve, None)
                elif reserve not in since or since[reserve][0] is not head:
                    since[reserve] = head, loop.time()
                elif loop.time() - since[reserve][1] > STARVED_S:
                    raise AssertionError(
                        f"somebody waits for {reserve.name} though there are buckets: "
                        f"{self.cache_set.explain()} {self.cache_set.statistics()}"
                    )

    def _could_be_served(self, reserve: Reserve, work: Any) -> bool:
        copies = getattr(work, "_replicas", None) or max(
            (request.replicas for request in getattr(work, "_requests", ())), default=1
        )
        member_buckets = [member.buckets for member in self.cache_set.members]
        return sum(spare_buckets(buckets, reserve) > 0 for buckets in member_buckets) >= copies
