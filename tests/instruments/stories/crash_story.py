# SPDX-License-Identifier: GPL-2.0-only
"""A set that lives on recorded devices, and a ledger of what it promised, and when.

The ledger knows nothing of the set's inside but two things: which buckets left free_inc and with which gens,
and the gens themselves when somebody asks for them to be made durable.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from bcached.device.block_device import BlockDevice
from bcached.runtime.cache_set import CacheSet
from bcached.runtime.coordination.options import SetOptions
from bcached.runtime.lifetime import running
from bcached.set_state import Replacement
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.store.make.layout import lay_out, plan_set
from instruments.crash.crash_states import Clock, ClockedLog
from instruments.devices.failing_device import FailingDevice, Fault
from instruments.devices.latent_device import StragglingDevice
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.recording_device import RecordingDevice

BUCKET_BYTES = 4096
FRESH = None  # the value of a set whose first run is not over
Gens = npt.NDArray[np.uint8]


@dataclass(slots=True)
class Change:
    """A value that something has from somewhere behind `begun`, and for certain from `kept` on."""

    value: Any
    begun: int
    kept: int | None = None


@dataclass
class Ledger:
    """What was promised. Volumes are labels by inode; fields are each member's that one can change."""

    volumes: list[Change]
    fields: list[list[Change]]
    gens: list[tuple[int, list[Gens]]] = field(default_factory=list)  # durable from that moment on
    handed_out: list[tuple[int, int, int, int]] = field(default_factory=list)  # moment, device, bucket, gen

    @classmethod
    def of(cls, volumes: dict[int, str] | None, fields: Sequence[tuple[Replacement, bool]]) -> "Ledger":
        """A ledger that begins with what is there."""
        return cls([Change(volumes, -1, 0)], [[Change(of_member, -1, 0)] for of_member in fields])


def possible(changes: Sequence[Change], first: int, last: int) -> list[Any]:
    """The values there may be in a state that a cut at any moment of [first, last] leaves."""
    lower = max(
        index for index, change in enumerate(changes) if change.kept is not None and change.kept <= last
    )
    upper = max(index for index, change in enumerate(changes) if change.begun < first)
    return [change.value for change in changes[lower : max(lower, upper) + 1]]


class Story:
    """Recorded devices, and the set on them."""

    def __init__(
        self, logs: Sequence[ClockedLog], images: Sequence[bytes], ledger: Ledger, folder: Path
    ) -> None:
        self.clock = logs[0].clock
        self.logs = logs
        self.ledger = ledger
        self.folder = folder
        self.disks = [MemoryDevice.holding(image) for image in images]
        self.cache_set: CacheSet | None = None
        self.latency: Random | None = None  # what takes how long, if the devices are to be slow

    @classmethod
    def on(cls, images: Sequence[bytes | bytearray], ledger: Ledger, folder: Path) -> Self:
        """On devices that hold these bytes, durably."""
        clock, contents = Clock(), [bytes(image) for image in images]
        return cls([ClockedLog(image, clock) for image in contents], contents, ledger, folder)

    @classmethod
    async def fresh(
        cls, folder: Path, *bucket_counts: int, block_bytes: int = 512, discard: bool = False
    ) -> Self:
        """On devices that were just laid out."""
        devices = [MemoryDevice(count * BUCKET_BYTES, path=f"d{n}") for n, count in enumerate(bucket_counts)]
        layout = plan_set(devices, bucket_bytes=BUCKET_BYTES, block_bytes=block_bytes, discard=discard)
        await lay_out(layout, devices)
        return cls.on(
            [device.image() for device in devices],
            Ledger.of(FRESH, [(Replacement.LRU, discard)] * len(devices)),
            folder,
        )

    def killed_at(self, moment: int, random: Random) -> Self:
        """The same devices after the daemon was killed, not the power cut.

        What was written stays readable, flushed or not; of what was under way, each change is there or not.
        """
        clock = Clock()
        logs, images = [], []
        for log, position in zip(self.logs, self.clock.positions[moment], strict=True):
            after = ClockedLog(log.base, clock)
            image = bytearray(log.base)
            for entry in log.entries:
                under_way = entry.ended is None or entry.ended >= position
                if entry.issued >= position or (
                    under_way and (entry.kind == "flush" or random.random() < 0.3)
                ):
                    continue
                # Even a durable write may have got no further than into a cache.
                kept = replace(entry, ended=position, durable=False) if under_way else entry
                after.entries.append(kept)
                if entry.kind != "flush":
                    content = entry.data or bytes(entry.length)
                    image[entry.offset : entry.offset + entry.length] = content
            after.position = position + 1
            logs.append(after)
            images.append(bytes(image))
        clock.positions = [tuple(log.position for log in logs)]
        ledger = Ledger.of({}, [])
        ledger.gens = [(0, gens) for kept, gens in self.ledger.gens if kept <= moment]
        ledger.handed_out = [(0, *promise[1:]) for promise in self.ledger.handed_out if promise[0] <= moment]
        return type(self)(logs, images, ledger, self.folder)

    def see(self, cache_set: CacheSet) -> None:
        """Take what a set opened after a kill holds as a promise: what was seen must stay."""
        seen = {volume.inode: volume.label for volume in cache_set.volumes.all()}
        self.ledger.volumes = [Change(seen, -1, 0)]
        superblocks = [member.superblock for member in cache_set.members]
        self.ledger.fields = [[Change((one.replacement, one.discard), -1, 0)] for one in superblocks]

    @asynccontextmanager
    async def life(self, *faults: Fault, **options: Any) -> AsyncIterator[CacheSet]:
        """One life of the daemon with the set; faults are the last member's."""
        disks: list[BlockDevice] = [disk if disk.disk.is_open else disk.reopen() for disk in self.disks]
        disks[-1] = FailingDevice(disks[-1], *faults)
        if self.latency:
            disks = [StragglingDevice(disk, self.latency) for disk in disks]
        devices = [RecordingDevice(disk, log) for disk, log in zip(disks, self.logs, strict=True)]
        if self.ledger.volumes[-1].value is FRESH:
            self.ledger.volumes.append(Change({}, self.clock.now))
        options = {"restart_grace_s": 0, "seed": 1, "change_counters": 1 << 10} | options
        chosen = SetOptions(str(self.folder), str(self.folder), **options)
        async with running(devices, chosen) as cache_set:
            self.cache_set = cache_set
            if self.ledger.volumes[-1].kept is None:
                self.ledger.volumes[-1].kept = self.clock.now
            for member in cache_set.members:
                self._watch(member.device, member.buckets)
            yield cache_set

    def _watch(self, device: int, buckets: MemberBuckets) -> None:
        """Write down what leaves free_inc: from then on anybody may be given it."""
        push = buckets.push

        def watched(batch: list[int]) -> int:
            through_free_inc = [bucket for bucket in batch if buckets.table.states[bucket] == State.FREE_INC]
            count = push(batch)
            for bucket in through_free_inc:
                if buckets.table.states[bucket] == State.FREE:
                    promise = (self.clock.now, device, bucket, buckets.table.gens[bucket])
                    self.ledger.handed_out.append(promise)
            return count

        buckets.push = watched  # type: ignore[method-assign]

    async def create(self, label: str) -> int:
        """Create a volume."""
        assert self.cache_set is not None
        there = self.ledger.volumes[-1].value
        inode = next(number for number in range(len(there) + 1) if number not in there)
        change = self._begin(self.ledger.volumes, {**there, inode: label})
        assert await self.cache_set.volumes.create(label) == inode
        change.kept = self.clock.now
        return inode

    async def delete(self, inode: int) -> None:
        """Delete a volume."""
        assert self.cache_set is not None
        left = {number: label for number, label in self.ledger.volumes[-1].value.items() if number != inode}
        change = self._begin(self.ledger.volumes, left)
        await self.cache_set.volumes.delete(inode)
        change.kept = self.clock.now

    async def set_fields(self, replacement: Replacement, discard: bool) -> None:
        """Change what can be changed in the superblock, one field after the other."""
        assert self.cache_set is not None
        now = self.clock.now
        for changes in self.ledger.fields:
            changes.append(Change((replacement, changes[-1].value[1]), now))
        await self.cache_set.maintenance.set_replacement(replacement)
        now = self.clock.now
        for changes in self.ledger.fields:
            changes[-1].kept = now
            changes.append(Change((replacement, discard), now))
        await self.cache_set.maintenance.set_discard(discard)
        for changes in self.ledger.fields:
            changes[-1].kept = self.clock.now

    async def write_prios(self) -> None:
        """Have the gens of now made durable."""
        assert self.cache_set is not None
        gens = [member.buckets.table.gens_array.copy() for member in self.cache_set.members]
        await self.cache_set.maintenance.write_priorities()
        self.ledger.gens.append((self.clock.now, gens))

    async def turn_over(self, buckets: int, at_once: int = 6) -> None:
        """Take buckets and give them back, so many in all."""
        assert self.cache_set is not None
        holder = self.cache_set.allocations.new_holder("turnover")
        held = []
        try:
            for _ in range(buckets):
                held.append(await self.cache_set.allocations.allocate_bucket(holder, 1, 20))
                if len(held) == at_once:
                    for key in held:
                        self.cache_set.allocations.free_bucket(holder, key)
                    held = []
            for key in held:
                self.cache_set.allocations.free_bucket(holder, key)
        finally:
            self.cache_set.allocations.drop_holder(holder, None)

    def _begin(self, changes: list[Change], value: Any) -> Change:
        changes.append(Change(value, self.clock.now))
        return changes[-1]
