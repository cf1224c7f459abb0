# SPDX-License-Identifier: GPL-2.0-only
"""An index on a device in memory, with a toy's buckets and a toy's journal, and what a cut leaves of it.

The model knows every sector by itself. Before each change of the device, and after it, it is written down
what a power cut would find beside the device: which journal entries, which root, and the gens as far as they
could be written. So at every such moment the index can be read back and held against the model.
"""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from uuid import UUID

import numpy as np

from bcached.format.bkey import END_MAX, Bounds
from bcached.format.bset import Bset, pack_bset
from bcached.format.sizes import node_sectors
from bcached.format.superblock import Superblock
from bcached.keys import INODE_MAX, Key, Pointer
from bcached.state.accounting.check_counts import Census
from bcached.state.accounting.opening_counts import Recount
from bcached.state.buckets.gens import behind
from bcached.state.index.keys.extents import Extents
from bcached.state.index.node import Interior, Leaf
from bcached.state.index.node_shape import NodeShape
from bcached.store.btree.node_cache import NodeCache
from bcached.store.btree.node_io import NodeIo
from bcached.store.btree.node_rules import MayBeTorn
from bcached.store.btree.write_back import WriteBack
from bcached.store.finding import Finding, Severity
from bcached.store.member import geometry_of
from bcached.store.membership import MemberFound
from bcached.store.reading.bucket_checks import BucketContents
from bcached.store.reading.torn_append import MappedSectors
from bcached.store.reading.tree_reader import TreeReader
from instruments.devices.durability_log import DurabilityLog
from instruments.devices.memory_device import MemoryDevice
from instruments.devices.recording_device import RecordingDevice
from instruments.samples.read_back import parse_node

SECTOR = 512
NODE_BUCKETS = 1600  # the rest is for data, and not on the device
BUCKETS = 1 << 16
Sector = tuple[int, int]
Model = dict[Sector, tuple[bool, tuple[tuple[int, int, int], ...]]]


def superblock_of(bucket_sectors: int, block_sectors: int) -> Superblock:
    return Superblock(
        uuid=UUID(int=1),
        set_uuid=UUID(int=0x0123456789ABCDEF0123456789ABCDEF),
        version=3,
        bucket_count=BUCKETS,
        bucket_sectors=bucket_sectors,
        block_sectors=block_sectors,
        first_bucket=3,
        journal_buckets=(3, 4),
    )


def lay(model: Model, key: Key) -> None:
    """What a key says of each of its sectors."""
    for step in range(key.sectors):
        if key.pointers:
            where = tuple((p.device, p.sector + step, p.gen) for p in key.pointers)
            model[key.inode, key.offset + step] = (key.dirty, where)
        else:
            model.pop((key.inode, key.offset + step), None)


def model_of(keys: Iterable[Key]) -> Model:
    """The sectors of keys none of which overlaps another."""
    model: Model = {}
    for key in keys:
        size = len(model)
        lay(model, key)
        assert len(model) == size + key.sectors, f"{key} overlaps another"
    return model


class ToyBuckets:
    """Node buckets of one device; gens go to the device at once, unless they must not."""

    def __init__(self, bucket_sectors: int, rng: Random) -> None:
        self.gens = np.zeros(BUCKETS, np.uint8)
        self.gens_on_disk = self.gens.copy()
        self.bucket_sectors = bucket_sectors
        self.ready = list(range(5, NODE_BUCKETS))
        self.in_use: set[int] = set()
        self.blocked = 0
        self.bumpable = True
        self.smallest_room = len(self.ready)
        self._rng = rng

    def take(self, count: int, growth: int) -> list[Pointer] | None:
        if len(self.ready) < count:
            return None
        return [self._take() for _ in range(count)]

    def _take(self) -> Pointer:
        bucket = self.ready.pop(self._rng.randrange(len(self.ready)))
        self.in_use.add(bucket)
        self.gens[bucket] += 1
        self.smallest_room = min(self.smallest_room, len(self.ready))
        return Pointer(0, bucket * self.bucket_sectors, int(self.gens[bucket]))

    async def wait_for(self, count: int, growth: int) -> None:
        raise AssertionError("there are always enough")

    def may_bump(self, pointer: Pointer) -> bool:
        return self.bumpable

    def bump(self, pointer: Pointer) -> int:
        self.blocked += 1
        bucket = self._bucket(pointer)
        assert self.gens[bucket] == pointer.gen
        self.gens[bucket] += 1
        return int(self.gens[bucket])

    def bumps_durable(self, count: int) -> None:
        self.blocked -= count
        assert self.blocked >= 0

    def write_gens(self) -> None:
        """What a prio write does, when it may."""
        if not self.blocked:
            self.gens_on_disk = self.gens.copy()

    def free(self, pointer: Pointer) -> None:
        bucket = self._bucket(pointer)
        self.in_use.remove(bucket)
        self.ready.append(bucket)

    def raise_gen(self, pointer: Pointer) -> None:
        bucket = self._bucket(pointer)
        ahead = (pointer.gen - int(self.gens[bucket])) & 255
        if ahead < 128:
            self.gens[bucket] = pointer.gen

    def staleness(self, pointer: Pointer) -> int:
        return behind(pointer.gen, int(self.gens[self._bucket(pointer)]))

    def _bucket(self, pointer: Pointer) -> int:
        return pointer.sector // self.bucket_sectors


class ToyJournal:
    """Entries of one key each, durable when somebody asks, some turns of the loop later."""

    def __init__(self, root: Key, level: int, rng: Random) -> None:
        self.keys: list[Key] = []  # entry n is at n - 1
        self.durable_seq = 0
        self.root, self.level = root, level
        self._rng = rng

    def append(self, key: Key) -> int:
        self.keys.append(key)
        return len(self.keys)

    async def durable(self, seq: int) -> None:
        assert seq <= len(self.keys)
        while self.durable_seq < seq:
            sealed = len(self.keys)
            await self._write()
            self.durable_seq = max(self.durable_seq, sealed)

    async def set_root(self, key: Key, level: int) -> None:
        sealed = len(self.keys)
        await self._write()
        self.durable_seq = max(self.durable_seq, sealed)
        self.root, self.level = key, level

    async def _write(self) -> None:
        for _ in range(self._rng.randrange(3)):
            await asyncio.sleep(0)


@dataclass(frozen=True)
class Moment:
    """What a cut would find beside the device."""

    durable_seq: int
    last_seq: int
    root: Key
    level: int
    gens: np.ndarray


class StoryLog(DurabilityLog):
    """A log that also keeps what was true before each of its positions."""

    def attach(self, look: "IndexStory") -> None:
        self.look = look
        self.moments: list[Moment] = []

    def _next(self) -> int:
        self.moments.append(self.look.moment())
        return super()._next()


@dataclass
class IndexStory:
    """The tree, what it stands on, and the model."""

    nodes: NodeCache
    write_back: WriteBack
    buckets: ToyBuckets
    journal: ToyJournal
    superblock: Superblock
    rng: Random
    log: StoryLog
    model: Model = field(default_factory=dict)
    removed: int = 0
    copies_max: int = 1

    @classmethod
    async def begin(
        cls,
        seed: int,
        *,
        bucket_sectors: int = 8,
        block_sectors: int = 1,
        sectors: int = 0,
        limit_bytes: int = 1 << 30,
    ) -> "IndexStory":
        """An empty tree, as a first run leaves it, with nodes of so many sectors."""
        rng = Random(seed)
        superblock = superblock_of(bucket_sectors, block_sectors)
        device = MemoryDevice(NODE_BUCKETS * bucket_sectors * SECTOR)
        buckets = ToyBuckets(bucket_sectors, rng)
        (pointer,) = buckets.take(1, 1) or []
        sectors = sectors or node_sectors(bucket_sectors)
        root = Key(INODE_MAX, END_MAX - sectors, sectors, False, (pointer,))
        raw = pack_bset(Bset(rng.getrandbits(64), ()), root, superblock.set_magic, block_sectors * SECTOR)
        await device.write(pointer.sector * SECTOR, raw, durable=True)
        journal = ToyJournal(root, 0, rng)
        story = await cls.over(device, superblock, buckets, journal, rng, limit_bytes)
        story.copies_max = 1 + seed % 2
        return story

    @classmethod
    async def over(
        cls,
        device: MemoryDevice,
        superblock: Superblock,
        buckets: ToyBuckets,
        journal: ToyJournal,
        rng: Random,
        limit_bytes: int = 1 << 30,
        may_be_torn: MayBeTorn = lambda _: False,
    ) -> "IndexStory":
        """A tree that is on a device already."""
        log = StoryLog(device.image())
        member = MemberFound(RecordingDevice(device, log), superblock)
        shape = NodeShape(journal.root.sectors, superblock.block_sectors * SECTOR, superblock.bucket_sectors)
        io = NodeIo([member], shape, bounds_of(superblock), may_be_torn)
        nodes = await NodeCache.open(journal.root, journal.level, io, buckets, limit_bytes)
        story = cls(nodes, WriteBack(nodes, buckets, journal, rng), buckets, journal, superblock, rng, log)
        log.attach(story)
        return story

    def moment(self) -> Moment:
        oldest = self.nodes.tree.leaves.pins.oldest
        last_seq = len(self.journal.keys) + 1 if oldest is None else oldest
        journal = self.journal
        return Moment(journal.durable_seq, last_seq, journal.root, journal.level, self.buckets.gens_on_disk)

    # What happens

    async def insert(self, key: Key) -> None:
        """A key, into the model and the tree."""
        span = (key.inode, key.offset, key.end)
        if self.nodes.tree.missing(*span):
            await self.nodes.load([span])
        before = {place: self.model[place] for place in model_places(key) if place in self.model}
        removed = self.nodes.tree.insert(key, self.journal.append(key))
        assert model_of(removed) == before
        self.removed += len(removed)
        lay(self.model, key)

    def some_key(self, *, inodes: int = 2, sectors: int = 3000, size_max: int = 6) -> Key:
        """A key somewhere; one in six deletes."""
        rng = self.rng
        inode, start, size = rng.randrange(inodes), rng.randrange(sectors), rng.randint(1, size_max)
        return self.key_at(inode, start, size) if rng.randrange(6) else Key(inode, start, size, False, ())

    def key_at(self, inode: int, start: int, size: int) -> Key:
        pointers = [self._some_pointer(size) for _ in range(self.rng.choice([1, 1, 1, 1, self.copies_max]))]
        return Key(inode, start, size, self.rng.random() < 0.5, tuple(pointers))

    def _some_pointer(self, size: int) -> Pointer:
        bucket_sectors = self.superblock.bucket_sectors
        bucket = self.rng.randrange(NODE_BUCKETS, BUCKETS)
        assert size <= bucket_sectors
        within = self.rng.randrange(bucket_sectors - size + 1)
        return Pointer(0, bucket * bucket_sectors + within, 0)

    # What must hold

    async def check_memory(self) -> None:
        """The tree gives what the model says, and its own numbers agree with each other."""
        found = model_of([key async for leaf in self.nodes.leaves() for key in list(leaf.live)])
        assert found == self.model
        self.check_numbers()

    def check_numbers(self) -> None:
        tree = self.nodes.tree
        leaves = list(tree.leaves)
        assert tree.leaves.unwritten_words == sum(
            part.word_count for leaf in leaves for part in leaf.changes()
        )
        assert tree.leaves.memory_words == tree.leaves.unwritten_words + sum(
            leaf.live.word_count for leaf in leaves
        )
        assert tree.leaves.oversize == {
            leaf for leaf in leaves if leaf.live.word_count > tree.shape.node_words
        }
        seqs = [part.oldest_seq for leaf in leaves for part in leaf.changes() if part.oldest_seq]
        seqs += [changes.oldest_seq for changes in tree.leaves.deferred.values()]
        assert tree.leaves.pins.oldest == min(seqs, default=None)
        named = {key.pointers[0].sector // self.superblock.bucket_sectors for key in tree.node_keys()}
        assert named <= self.buckets.in_use
        if not self.write_back.replacement._lock.locked():
            assert named == self.buckets.in_use
        self._check_shape(tree.root, 0)

    def _check_shape(self, node: Leaf | Interior, low: int) -> None:
        assert not node.is_detached
        if isinstance(node, Leaf):
            assert all(low <= key.inode << 64 | key.offset for key in node.live)
            assert all(key.inode << 64 | key.end <= node.bound for key in node.live)
            assert node in self.nodes.tree.leaves
            return
        assert node.bounds == sorted(set(node.bounds))
        for child, bound in zip(node.children, node.bounds, strict=True):
            if not isinstance(child, Key):
                assert child.level == node.level - 1
                self._check_shape(child, low)
            low = bound

    def parse_all(self) -> int:
        """Every node that the tree names, as the format's own reader takes it; how many bsets."""
        image = self.log_device().image()
        return sum(
            len(parse_node(_bytes_of(image, key), key, self.superblock.set_magic, self.block_bytes))
            for key in self.nodes.tree.node_keys()
        )

    @property
    def block_bytes(self) -> int:
        return self.superblock.block_sectors * SECTOR

    def log_device(self) -> MemoryDevice:
        device = self.nodes.io._members[0].block_device
        assert isinstance(device, RecordingDevice)
        assert isinstance(device.inner, MemoryDevice)
        return device.inner

    def cuts(self) -> range:
        """The positions at which the power may be cut."""
        return range(len(self.log.moments))

    async def read_after_cut(self, position: int) -> tuple[Model, Model, int]:
        """What the device holds then, journal replayed; what it should; and how many nodes were torn."""
        moment = self.log.moments[position]
        image = self.log.image_after_cut(self.rng, position)
        keys = self.journal.keys
        expected: Model = {}
        for key in keys[: moment.durable_seq]:
            lay(expected, key)
        replayed = keys[moment.last_seq - 1 : moment.durable_seq]
        found, torn = await read_image(image, self.superblock, moment, replayed)
        return found, expected, torn

    async def check_device(self) -> None:
        """What is on the device now, with what the journal holds, is what the model says."""
        await self.write_back.write_all()
        moment = self.moment()
        found, torn = await read_image(self.log_device().image(), self.superblock, moment, ())
        assert found == self.model
        assert not torn

    async def reopen_after_cut(self, position: int, limit_bytes: int = 1 << 30) -> "IndexStory":
        """The index opened again: the whole tree read, the journal's keys inserted, torn nodes mended."""
        moment = self.log.moments[position]
        device = MemoryDevice.holding(self.log.image_after_cut(self.rng, position))
        buckets = ToyBuckets(self.superblock.bucket_sectors, self.rng)
        buckets.gens_on_disk, buckets.gens = moment.gens.copy(), moment.gens.copy()
        journal = ToyJournal(moment.root, moment.level, self.rng)
        journal.keys, journal.durable_seq = self.journal.keys[: moment.durable_seq], moment.durable_seq
        replayed = Extents(keep_deletions=True)
        for key in journal.keys[moment.last_seq - 1 :]:
            replayed.insert(key)
        story = await IndexStory.over(
            device,
            self.superblock,
            buckets,
            journal,
            self.rng,
            limit_bytes,
            lambda node: node.level > 0 or any(replayed.between(node.low, node.high)),
        )
        async for _ in story.nodes.leaves():
            pass
        buckets.in_use = {
            key.pointers[0].sector // buckets.bucket_sectors for key in story.nodes.tree.node_keys()
        }
        buckets.ready = [bucket for bucket in range(5, NODE_BUCKETS) if bucket not in buckets.in_use]
        for seq in range(moment.last_seq, moment.durable_seq + 1):
            key = journal.keys[seq - 1]
            await story.nodes.load([(key.inode, key.offset, key.end)])
            story.nodes.tree.insert(key, seq)
        await story.write_back.rewrite_torn()
        for key in journal.keys:
            lay(story.model, key)
        return story


def bounds_of(superblock: Superblock) -> Bounds:
    return Bounds(superblock.bucket_sectors, superblock.first_bucket, (superblock.bucket_count,))


def model_places(key: Key) -> Iterator[Sector]:
    return ((key.inode, sector) for sector in range(key.offset, key.end))


async def read_image(
    image: bytes, superblock: Superblock, moment: Moment, replayed: Iterable[Key]
) -> tuple[Model, int]:
    """What the reader of any bcache device makes of an image; and how many nodes were torn."""
    worse: list[Finding] = []
    member = MemberFound(MemoryDevice.holding(image), superblock)
    census = Census(geometry_of(superblock), moment.gens.copy())
    on_top = Extents(keep_deletions=True)
    replayed = list(replayed)
    for key in replayed:
        on_top.insert(key)
    recount = Recount(moment.gens.copy(), moment.gens.copy())
    contents = BucketContents([member], [census], [recount], worse.append)
    reader = TreeReader(contents, bounds_of(superblock), on_top, MappedSectors(replayed), worse.append)
    pointer = moment.root.pointers[0]
    census.raise_gens(np.array([pointer.sector // superblock.bucket_sectors]), np.array([pointer.gen]))
    async for _ in reader.nodes(moment.root, moment.level):
        pass
    assert [str(finding) for finding in worse if finding.severity > Severity.TORN] == []
    model: Model = {}
    numbers: dict[Sector, int] = {}
    for rows in reader.rows.chunks():
        for number, key in zip(rows.keys.tolist(), rows, strict=True):
            pointer = key.pointers[0]
            for step, place in enumerate(model_places(key)):
                assert numbers.setdefault(place, number) == number, f"{place} twice"
                before = model[place][1] if place in model else ()
                model[place] = (key.dirty, (*before, (pointer.device, pointer.sector + step, pointer.gen)))
    return model, sum(finding.rule == "node-torn" for finding in worse)


def _bytes_of(image: bytes, key: Key) -> bytes:
    begin = key.pointers[0].sector * SECTOR
    return image[begin : begin + key.sectors * SECTOR]
