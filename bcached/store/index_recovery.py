"""The index of a set that is being opened: read once, counted, and the journal's keys laid over it.

Nothing is written. What the journal still holds stays needed until the leaves it belongs to are written out,
which is done when the set is alive. Order: every node, with what its keys say of gens and live sectors; the
gens that the journal's keys name; where the nodes lie; and only then, with all gens known, the journal's
keys: one after the other they are laid over each other, and the result over the leaves. A stale key cuts what
it overlaps here as it did when it was new. Keys of the journal are few, but each may have a leaf of its own:
where memory does not suffice for the leaves, only their changes stay.
"""

import asyncio
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from random import SystemRandom

import numpy as np

from bcached.errors import BadField
from bcached.format.bkey import Bounds, check_extent
from bcached.format.jset import JournalEntry
from bcached.format.sizes import node_sectors
from bcached.keys import Key, Pointer
from bcached.state.btree import Tree
from bcached.state.btree_node import Unwritten, position_at
from bcached.state.bucket_table import State
from bcached.state.census import stale_by
from bcached.state.extents import Extents
from bcached.state.index_health import IndexHealth
from bcached.state.key_rows import KeyRows
from bcached.state.live_sectors import LiveSectors
from bcached.state.node_shape import NodeShape
from bcached.state.recount import Recount
from bcached.store.btree import Btree
from bcached.store.btree_io import NodeIo
from bcached.store.bucket_contents import check_arrival, check_live_sectors, check_recount
from bcached.store.doubtful_leaves import DoubtfulLeaves
from bcached.store.member import Member
from bcached.store.membership import MemberFound
from bcached.store.node_reader import NodeFound
from bcached.units import SECTOR_BYTES

Progress = Callable[[str], None]
LEAVES_A_REPORT = 1024
KEYS_A_REPORT = 65_536


@dataclass(slots=True)
class RecoveredIndex:
    """The index in memory, what reads its nodes, and the counts of live sectors that go with it."""

    tree: Tree
    io: NodeIo
    live: LiveSectors
    health: IndexHealth
    keys_replayed: int = 0


class _GensOnly:
    """What reading nodes needs of buckets; nobody writes any yet."""

    def __init__(self, members: Sequence[Member], recounts: Sequence[Recount]) -> None:
        self._members = members
        self._recounts = recounts

    def raise_gen(self, pointer: Pointer) -> None:
        """Follow a pointer, and remember the gen it names."""
        self._recounts[pointer.device].name(np.array([self._bucket(pointer)]), np.array([pointer.gen]))

    def staleness(self, pointer: Pointer) -> int:
        """How many gens the pointer is behind its bucket."""
        table = self._members[pointer.device].cache.table
        return stale_by(table.gens[self._bucket(pointer)], pointer.gen)

    def _bucket(self, pointer: Pointer) -> int:
        return self._members[pointer.device].cache.geometry.bucket_of(pointer.sector)

    def take(self, count: int, growth: int) -> list[Pointer] | None:
        """Not while a set is opened."""
        raise AssertionError("nothing is written while the index is recovered")

    async def wait_for(self, count: int, growth: int) -> None:
        """Not while a set is opened."""
        raise AssertionError("nothing is written while the index is recovered")

    async def durable(self, seq: int) -> None:
        """Not while a set is opened."""
        raise AssertionError("nothing is written while the index is recovered")

    async def set_root(self, key: Key, level: int) -> None:
        """Not while a set is opened."""
        raise AssertionError("nothing is written while the index is recovered")

    def may_bump(self, _pointer: Pointer) -> bool:
        """Not while a set is opened."""
        return False

    def bump(self, _pointer: Pointer) -> int:
        """Not while a set is opened."""
        raise AssertionError("nothing is written while the index is recovered")

    def bumps_durable(self, count: int) -> None:
        """Not while a set is opened."""

    def free(self, pointer: Pointer) -> None:
        """Not while a set is opened."""


def shape_of(members: Sequence[Member]) -> NodeShape:
    """What the nodes of a set look like."""
    superblock = members[0].superblock
    bucket_sectors = superblock.bucket_sectors
    return NodeShape(node_sectors(bucket_sectors), superblock.block_sectors * SECTOR_BYTES, bucket_sectors)


def bounds_of(members: Sequence[Member]) -> Bounds:
    """What pointers of a set must lie in."""
    superblocks = [member.superblock for member in members]
    return Bounds(
        bucket_sectors=superblocks[0].bucket_sectors,
        first_bucket=max(superblock.first_bucket for superblock in superblocks),
        bucket_counts=tuple(superblock.bucket_count for superblock in superblocks),
    )


def node_io(members: Sequence[Member]) -> NodeIo:
    """What reads and writes the nodes of a set."""
    found = [MemberFound(member.block_device, member.superblock) for member in members]
    return NodeIo(found, shape_of(members), bounds_of(members))


def live_sectors(members: Sequence[Member]) -> LiveSectors:
    """What keeps count of the live sectors of a set."""
    return LiveSectors([member.cache for member in members], members[0].cache.geometry.bucket_sectors)


async def recover_index(
    members: Sequence[Member],
    entries: Sequence[JournalEntry],
    cache_bytes: int,
    progress: Progress,
    volumes: Container[int],
) -> RecoveredIndex:
    """The index that the newest entry names, with the keys of all these entries in it.

    The members' tables hold what prios, journal and uuid table say; afterwards also nodes and live data.
    volumes are the inodes of those there are.
    """
    root, level = entries[-1].root, entries[-1].level
    doubtful = DoubtfulLeaves([member.cache for member in members], volumes)
    bounds = bounds_of(members)
    recounts = [Recount(member.cache.table) for member in members]
    replayed = _laid_over(members[0].path, entries, bounds)

    def may_be_torn(node: NodeFound) -> bool:
        # An interior append that was cut off has not taken effect: the old nodes still count.
        return node.level > 0 or any(True for _ in replayed.between(node.low, node.high))

    io = node_io(members)
    io.may_be_torn = may_be_torn
    nobody = _GensOnly(members, recounts)
    reader = await Btree.open(root, level, io, nobody, nobody, SystemRandom(), cache_bytes)
    await _count_leaves(reader, recounts, doubtful, members[0].cache.geometry.bucket_sectors, progress)
    io.may_be_torn = lambda _: False
    _name_journal_keys(entries, bounds, recounts)
    _place_nodes(members, reader.tree)
    for member, recount in zip(members, recounts, strict=True):
        check_recount(member, recount)
        _fill_counts(member, recount)
    index = RecoveredIndex(reader.tree, io, live_sectors(members), IndexHealth())
    await _replay(index, reader, members, entries, doubtful, progress)
    doubtful.are_all |= any(recount.overtook_dirty for recount in recounts)
    index.health = IndexHealth(await doubtful.count(reader), io.vanished)
    for member in members:
        check_live_sectors(member)
        if not index.live.cleaned_seq:  # else leaves on the device still name what was dirty
            member.cache.emptying_durable(entries[-1].seq)
        for _ in member.cache.table.recount_distances():
            pass
    return index


def _laid_over(path: str, entries: Sequence[JournalEntry], bounds: Bounds) -> Extents:
    """Check the keys of the journal; where they lie, laid over each other."""
    replayed = Extents(keep_deletions=True)
    for entry in entries:
        for number, key in enumerate(entry.keys):
            check_extent(key, bounds, f"{path} journal entry {entry.seq}, key {number}")
            replayed.insert(key)
    return replayed


def _name_journal_keys(entries: Sequence[JournalEntry], bounds: Bounds, recounts: Sequence[Recount]) -> None:
    """Let the gens of the journal's keys count.

    Not before all nodes are read (kernel: bch_journal_mark): a child that only such a key makes stale was not
    replaced, and must not be passed over.
    """
    rows = KeyRows()
    for entry in entries:
        for key in entry.keys:
            if key.sectors and key.pointers:
                rows.add_key(key)
    for chunk in rows.chunks():
        for device, recount in enumerate(recounts):
            of_member = chunk.where(chunk.devices == device)
            recount.name(of_member.places // bounds.bucket_sectors, of_member.gens)


async def _count_leaves(
    reader: Btree,
    recounts: Sequence[Recount],
    doubtful: DoubtfulLeaves,
    bucket_sectors: int,
    progress: Progress,
) -> None:
    leaves = 0
    async for leaf in reader.leaves():
        doubtful.see_inodes(leaf)
        rows = KeyRows()
        rows.add(leaf.live)
        for chunk in rows.chunks():
            for device, recount in enumerate(recounts):
                of_member = chunk if len(recounts) == 1 else chunk.where(chunk.devices == device)
                if recount.add_rows(of_member, bucket_sectors):
                    doubtful.bounds.add(leaf.bound)
        leaves += 1
        if leaves % LEAVES_A_REPORT == 0:
            progress(f"recovering: {leaves} leaves of the index read")
            await asyncio.sleep(0)


def _place_nodes(members: Sequence[Member], tree: Tree) -> None:
    """Give the nodes' buckets their state; each must have one of its own."""
    for key in tree.node_keys():
        place_metadata(members, key, State.BTREE)


def place_metadata(members: Sequence[Member], key: Key, state: State) -> None:
    """Give a metadata bucket its state, and the gen of its pointer, which may be ahead of the one on disk."""
    pointer = key.pointers[0]
    cache = members[pointer.device].cache
    bucket = cache.geometry.bucket_of(pointer.sector)
    found = State(cache.table.states[bucket])
    where = f"{members[pointer.device].path} bucket {bucket}"
    if found != State.EMPTY:
        raise BadField("node key", where, f"a bucket of its own for {state.name}", found.name)
    cache.table.raise_gen(bucket, pointer.gen)
    if cache.table.gens[bucket] != pointer.gen:
        expected = f"a pointer with the bucket's gen {cache.table.gens[bucket]}"
        raise BadField("node key", where, expected, pointer.gen)
    cache.table.become_metadata(bucket, state)


def _fill_counts(member: Member, recount: Recount) -> None:
    """What was counted becomes the table's: live sectors, oldest gens, and who may not be metadata yet."""
    cache, table = member.cache, member.cache.table
    table.last_gc_array[:] = recount.oldest
    cache.take_over(recount.sectors, recount.dirty_sectors, recount.is_named)


async def _replay(
    index: RecoveredIndex,
    reader: Btree,
    members: Sequence[Member],
    entries: Sequence[JournalEntry],
    doubtful: DoubtfulLeaves,
    progress: Progress,
) -> None:
    """Lay the journal's keys over the leaves, of which no more stay than there is memory for."""
    tree, newest_seq = index.tree, entries[-1].seq
    changes = await _by_leaf(index, members, entries, doubtful, progress)
    for bound in sorted(changes):
        leaf = await reader.leaf_at(*position_at(bound - 1))
        index.live.went(tree.lay_over(leaf, changes.pop(bound)), newest_seq)
        if not reader.evict() and leaf is not tree.root and not leaf.is_torn:
            tree.set_aside(leaf)


async def _by_leaf(
    index: RecoveredIndex,
    members: Sequence[Member],
    entries: Sequence[JournalEntry],
    doubtful: DoubtfulLeaves,
    progress: Progress,
) -> dict[int, Unwritten]:
    """The journal's keys, laid over each other in their order and counted, by the bound of their leaf."""
    tree, live = index.tree, index.live
    changes: dict[int, Unwritten] = {}
    for entry in entries:
        for key in entry.keys:
            if not key.sectors:
                continue
            for bound, part in tree.parts_of(key):
                if bound not in changes:
                    changes[bound] = Unwritten(Extents(keep_deletions=True), entry.seq)
                    tree.pins.pin(entry.seq)
                changes[bound].newest_seq = entry.seq
                live.went(changes[bound].extents.insert(part), entry.seq)
                check_arrival(members, part)
                doubtful.see_key(bound, part)
                live.came(part)
            index.keys_replayed += 1
            if index.keys_replayed % KEYS_A_REPORT == 0:
                progress(f"recovering: {index.keys_replayed} keys of the journal replayed")
                await asyncio.sleep(0)
    return changes
