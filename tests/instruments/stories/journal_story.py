# SPDX-License-Identifier: GPL-2.0-only
"""A journal under all who use it: clients who change their minds, leaves that are written, roots, prios.

Leaves are ranges of sectors. What a leaf has on the device is a model's, and changes at one moment; what the
journal has is on recorded devices. So at any moment it can be cut off: the leaves as they stood then, with
the keys that are read back laid over them in order, must be what was accepted up to the newest entry, and
that must be all that was acknowledged.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from bcached.device import BlockDevice
from bcached.format.bkey import key_words
from bcached.format.superblock import Superblock
from bcached.keys import Key, Pointer
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.index.journal_pins import SeqPins
from bcached.store.finding import refuse_fatal
from bcached.store.journal.journal import Journal
from bcached.store.journal.locations import Locations
from bcached.store.journal.reader import JournalFound
from bcached.store.journal.ring import JournalRing
from bcached.store.member import Member, geometry_of
from bcached.store.membership import MemberFound
from bcached.store.reading.journal_check import read_journal
from instruments.devices.durability_log import DurabilityLog
from instruments.devices.latent_device import LatentDevice
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.recording_device import RecordingDevice
from instruments.samples.format_samples import ENTRY, SUPERBLOCK

FIRST = 3
LEAF_SECTORS = 40
Sectors = dict[int, tuple[int, int]]  # what each one holds: device and sector


def ring_superblock(buckets: int, bucket_sectors: int, block_sectors: int) -> Superblock:
    """A member with such a ring, and nothing else that matters."""
    return replace(
        SUPERBLOCK,
        bucket_count=700,
        bucket_sectors=bucket_sectors,
        block_sectors=block_sectors,
        first_bucket=FIRST,
        journal_buckets=tuple(range(FIRST, FIRST + buckets)),
    )


def ring_of(superblock: Superblock) -> JournalRing:
    """A member's ring, in which nothing was written yet."""
    return JournalRing(geometry_of(superblock), superblock.journal_buckets)


def lay(sectors: Sectors, key: Key) -> None:
    """What a key says of each sector."""
    for step in range(key.sectors):
        if key.pointers:
            sectors[key.offset + step] = key.pointers[0].device, key.pointers[0].sector + step
        else:
            sectors.pop(key.offset + step, None)


@dataclass(eq=False)
class Leaf:
    """A range of sectors in memory and on the device."""

    pending: list[tuple[int, Key]] = field(default_factory=list)
    writing: bool = False


class WatchedLog(DurabilityLog):
    """Has somebody look just before anything begins or ends."""

    watch: Callable[[], None] | None = None

    def _next(self) -> int:
        if self.watch is not None:
            self.watch()
        return super()._next()


@dataclass
class Cut:
    """What is on the devices at a moment, as far as the journal does not say it."""

    positions: list[int]
    written: int  # how many write-outs of leaves there had been
    acknowledged: int


class JournalStory:
    """A journal on recorded devices, and what should be in it."""

    def __init__(
        self,
        random: Random,
        rings: list[int],
        bucket_sectors: int,
        block_sectors: int,
        *,
        leaves: int = 12,
        latency_s: float = 0.0,
        images: list[bytes] | None = None,
    ) -> None:
        self.shape = rings, bucket_sectors, block_sectors
        self.random = random
        self.leaves = [Leaf() for _ in range(leaves)]
        self.pins = SeqPins()
        self.accepted: list[tuple[int, Key]] = []
        self.written: list[list[Key]] = []  # each write-out, in order
        self.acknowledged = 0
        self.moments: list[Cut] = []
        self.superblocks = [ring_superblock(count, bucket_sectors, block_sectors) for count in rings]
        images = images or [bytes((FIRST + count) * bucket_sectors * 512) for count in rings]
        self.disks = [MemoryDevice.holding(image) for image in images]
        self.logs = [WatchedLog(image) for image in images]
        slow: Sequence[BlockDevice] = self.disks
        if latency_s:
            slow = [LatentDevice(disk, random, latency_s) for disk in self.disks]
        self.members = [
            self._member(number, RecordingDevice(device, log))
            for number, (device, log) in enumerate(zip(slow, self.logs, strict=True))
        ]
        self.journal = Journal(
            self.members,
            list(map(ring_of, self.superblocks)),
            Locations(ENTRY.uuid_bucket, ENTRY.root),
            seq=0,
            durable_last_seq=0,
            clock=lambda: asyncio.get_running_loop().time(),
        )
        self._adopt(self.journal)
        self.over = asyncio.Event()

    async def reopened(self, cut: Cut) -> "JournalStory":
        """Another life, after the power failed at a moment."""
        images = self.images_after(cut)
        rings, bucket_sectors, block_sectors = self.shape
        story = JournalStory(
            self.random, rings, bucket_sectors, block_sectors, leaves=len(self.leaves), images=images
        )
        devices = [member.block_device for member in story.members]
        found = await read_journal(list(map(MemberFound, devices, self.superblocks)), refuse_fatal)
        await self.check(found, cut.written, cut.acknowledged)
        resumed = list(map(ring_of, self.superblocks))
        for ring, left in zip(resumed, found.rings, strict=True):
            ring.resume(left.newest_seqs, left.index, left.behind_byte)
        newest = found.newest
        story.accepted = [change for change in self.accepted if change[0] <= newest.seq]
        story.written = self.written[: cut.written]
        story.acknowledged = newest.seq
        for entry in found.entries:
            for key in entry.keys:
                story.put(key, entry.seq)
        story._adopt(
            Journal(
                story.members,
                resumed,
                Locations.named_by(newest),
                seq=newest.seq,
                durable_last_seq=newest.last_seq,
                clock=lambda: asyncio.get_running_loop().time(),
                entries=found.entries,
            )
        )
        return story

    def watch(self) -> None:
        """Remember every moment at which something begins or ends on a device."""
        for log in self.logs:
            log.watch = self.mark

    def _member(self, number: int, device: RecordingDevice) -> Member:
        superblock = self.superblocks[number]
        geometry = geometry_of(superblock)
        return Member(number, device, superblock, MemberBuckets(geometry, number, seed=1))

    def _adopt(self, journal: Journal) -> None:
        self.journal = journal
        self._look = asyncio.Event()
        journal.space.oldest_needed = lambda: self.pins.oldest
        journal.on_wanted = self._look.set
        journal.on_durable.append(self._durable)

    def _durable(self, seq: int) -> None:
        assert seq == self.journal.durable_seq
        assert seq > self.acknowledged
        self.acknowledged = seq
        self.mark()

    def mark(self) -> None:
        """Remember this moment, to cut the power at later."""
        positions = [log.position for log in self.logs]
        self.moments.append(Cut(positions, len(self.written), self.acknowledged))

    # Those who use the journal

    def some_keys(self, most_words: int) -> list[Key]:
        """Keys of at most so many words: data and deletions, of which some go over leaves' bounds."""
        keys: list[Key] = []
        words = 0
        while words < most_words:
            sectors = self.random.randint(1, 12)
            start = self.random.randrange(len(self.leaves) * LEAF_SECTORS - sectors)
            pointers: tuple[Pointer, ...] = (Pointer(0, self.random.randrange(1 << 30), 1),)
            key = Key(0, start, sectors, False, pointers if self.random.random() < 0.8 else ())
            words += key_words(key)
            if words <= most_words:
                keys.append(key)
        return keys or [Key(0, 0, 1, False, ())]

    async def accept(self, keys: list[Key]) -> int:
        """Append when there is room, and put the keys where they belong."""
        words = sum(map(key_words, keys))
        while not self.journal.has_space(words):
            await self.journal.wait_for_space(words)
        seq = self.journal.append(keys)
        assert seq == self.journal.accepted_seq == self.journal.seq + 1
        for key in keys:
            self.accepted.append((seq, key))
            self.put(key, seq)
        return seq

    def put(self, key: Key, seq: int) -> None:
        """Have the leaves a key goes to need its entry."""
        for leaf in self.leaves_of(key):
            if not leaf.pending:
                self.pins.pin(seq)
            leaf.pending.append((seq, key))

    def leaves_of(self, key: Key) -> list[Leaf]:
        """The leaves a key goes to."""
        return self.leaves[key.offset // LEAF_SECTORS : (key.end - 1) // LEAF_SECTORS + 1]

    async def client(self, changes: int, words: int) -> None:
        """Commit again and again; now and then do not wait for it, or give up."""
        for _ in range(changes):
            if self.random.random() < 0.3:
                await asyncio.sleep(self.random.random() * 0.01)
            giving_up = 0.0005 * self.random.random() if self.random.random() < 0.2 else None
            try:
                async with asyncio.timeout(giving_up):
                    seq = await self.accept(self.some_keys(self.random.randint(2, words)))
                    if self.random.random() < 0.7:
                        await self.journal.durable(seq)
                        assert self.journal.durable_seq >= seq
            except TimeoutError:
                pass

    async def write_leaf(self, leaf: Leaf) -> None:
        """Write out what a leaf has; that may take a root and a prio write."""
        if leaf.writing or not leaf.pending:
            return
        leaf.writing = True
        count = len(leaf.pending)  # what comes from now on is written another time
        oldest, newest = leaf.pending[0][0], leaf.pending[-1][0]
        await self.journal.durable(newest)
        for _ in range(self.random.choice([0, 0, 1, 3])):
            await self.journal.commit()
        if self.random.random() < 0.5:
            await self.journal.set_root(ENTRY.root, self.random.randrange(3))
        index = self.leaves.index(leaf)
        low, high = index * LEAF_SECTORS, (index + 1) * LEAF_SECTORS
        self.mark()
        self.written.append([_within(key, low, high) for _, key in leaf.pending[:count]])
        self.mark()
        leaf.pending = leaf.pending[count:]
        self.pins.unpin(oldest)
        leaf.writing = False
        if leaf.pending:
            self._pin_late(leaf.pending[0][0])

    def _pin_late(self, seq: int) -> None:
        """Pin what came while a leaf was written: the tree does so at once, which comes to the same."""
        pins = self.pins._pins
        pins[seq] = pins.get(seq, 0) + 1
        for later in sorted(pins):
            pins.move_to_end(later)

    async def leaf_writer(self, late_s: float) -> None:
        """Write leaves when the journal asks for it, and not always at once."""
        while not self.over.is_set():
            through = self.journal.pressure()
            if through is None:
                await asyncio.sleep(0.001)
                continue
            await asyncio.sleep(late_s * self.random.random())
            leaves = [leaf for leaf in self.leaves if leaf.pending and leaf.pending[0][0] <= through]
            assert leaves, "the journal asks for what is done already"
            for leaf in leaves:
                await self.write_leaf(leaf)

    async def meddler(self, pause_s: float) -> None:
        """Entries for which nobody waits to have room."""
        while not self.over.is_set():
            self.journal.locations.prio_heads[0] = self.random.randrange(1, 600)
            await self.journal.commit()
            await asyncio.sleep(0.0001 + pause_s * self.random.random())

    async def writer(self) -> None:
        """What the journal writer does, without delay."""
        while not self.over.is_set():
            if self.journal.is_wanted or self.journal.open_entry.opened_at is not None:
                await self.journal.commit()
                continue
            self._look.clear()
            await self._look.wait()

    async def live(
        self, clients: int, changes: int, words: int, *, late_s: float = 0.0, pause_s: float = 0.005
    ) -> None:
        """Have everybody at it until the clients are done."""
        async with asyncio.TaskGroup() as group:
            others: list[Coroutine[Any, Any, None]] = [
                self.leaf_writer(late_s),
                self.meddler(pause_s),
                self.writer(),
            ]
            for other in others:
                group.create_task(other)
            async with asyncio.TaskGroup() as crowd:
                for _ in range(clients):
                    crowd.create_task(self.client(changes, words))
            self.over.set()
            self._look.set()

    # What is left

    async def check(self, found: JournalFound, written: int, acknowledged: int) -> None:
        """Hold what was read back against what was accepted."""
        newest = found.newest.seq
        assert newest >= acknowledged
        assert [entry.seq for entry in found.entries] == list(range(found.newest.last_seq, newest + 1))
        expected: Sectors = {}
        for seq, key in self.accepted:
            if seq <= newest:
                lay(expected, key)
        actual: Sectors = {}
        for keys in self.written[:written]:
            for key in keys:
                lay(actual, key)
        for entry in found.entries:
            for key in entry.keys:
                lay(actual, key)
        assert actual == expected, f"entries {found.newest.last_seq} to {newest}"

    async def check_now(self) -> None:
        """As if the daemon were gone: all that was written is there."""
        images = [bytes(disk.disk.contents) for disk in self.disks]
        await self._check_images(images, len(self.written), self.acknowledged)

    async def check_cut(self, cut: Cut) -> None:
        """As if the power had failed at a moment."""
        await self._check_images(self.images_after(cut), cut.written, cut.acknowledged)

    def images_after(self, cut: Cut) -> list[bytes]:
        """What a power cut at a moment may leave."""
        logs = zip(self.logs, cut.positions, strict=True)
        return [log.image_after_cut(self.random, position) for log, position in logs]

    async def _check_images(self, images: list[bytes], written: int, acknowledged: int) -> None:
        devices = [MemoryDevice.holding(image) for image in images]
        found = await read_journal(list(map(MemberFound, devices, self.superblocks)), refuse_fatal)
        await self.check(found, written, acknowledged)


def _within(key: Key, low: int, high: int) -> Key:
    start, end = max(key.offset, low), min(key.end, high)
    pointers = tuple(
        Pointer(pointer.device, pointer.sector + start - key.offset, pointer.gen) for pointer in key.pointers
    )
    return Key(key.inode, start, end - start, key.dirty, pointers)
