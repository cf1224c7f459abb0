# SPDX-License-Identifier: GPL-2.0-only
"""The index of a set that is being opened: read once, counted, and merged with the journal's keys.

Nothing is written. The journal's keys stay needed until their leaves are written out, which is done once the
set is running. Order: 1. every node, with the gens and live sectors that its keys name; 2. the gens of the
journal's keys; 3. the buckets of the nodes; 4. with all gens known, the journal's keys: merged in order,
newest wins, then merged into the leaves. A stale key cuts what it overlaps here as it did when it was new.
Keys of the journal are few, but each may belong to another leaf: if memory does not suffice for the leaves,
only their changes stay.
"""

import asyncio
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from bcached.errors import BadField
from bcached.format.jset import JournalEntry
from bcached.format.sizes import node_sectors
from bcached.keys import Key, Pointer
from bcached.state.accounting.check_counts import Census
from bcached.state.accounting.index_health import IndexHealth
from bcached.state.accounting.live_sectors import LiveSectors
from bcached.state.accounting.opening_counts import Recount
from bcached.state.accounting.volume_use import VolumeUse
from bcached.state.buckets.bucket_table import State
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.unwritten import Unwritten
from bcached.state.index.node import position_at
from bcached.state.index.node_shape import NodeShape
from bcached.state.index.tree import Tree
from bcached.store.btree.node_cache import NodeCache
from bcached.store.btree.node_io import NodeIo
from bcached.store.btree.node_reader import NodeFound
from bcached.store.btree.node_rules import claim_bucket
from bcached.store.finding import refuse_fatal
from bcached.store.member import Member
from bcached.store.membership import MemberFound
from bcached.store.opening.doubtful_leaves import DoubtfulLeaves
from bcached.store.reading.bucket_checks import BucketContents
from bcached.store.reading.location_checks import bounds_of
from bcached.store.reading.replay import journaled_sectors, merge_entries
from bcached.store.reading.torn_append import may_be_torn
from bcached.store.reading.tree_reader import NodeGens

Progress = Callable[[str], None]
MetadataLocation = tuple[Pointer, str]  # of a bucket with metadata, and where that pointer is
LEAVES_A_REPORT = 1024
KEYS_A_REPORT = 65_536


@dataclass(slots=True)
class RecoveredIndex:
    """The index in memory, the reader of its nodes, and its counts of live sectors."""

    tree: Tree
    io: NodeIo
    live: LiveSectors
    health: IndexHealth
    keys_replayed: int = 0


def shape_of(members: Sequence[Member]) -> NodeShape:
    """Returns the sizes of a set's nodes."""
    superblock = members[0].superblock
    bucket_sectors = superblock.bucket_sectors
    return NodeShape(node_sectors(bucket_sectors), superblock.block_bytes, bucket_sectors)


def node_io(members: Sequence[Member]) -> NodeIo:
    """Returns the reader and writer of a set's nodes."""
    found = [MemberFound(member.block_device, member.superblock) for member in members]
    bounds = bounds_of([member.superblock for member in members])
    return NodeIo(found, shape_of(members), bounds)


def live_sectors(members: Sequence[Member]) -> LiveSectors:
    """Returns the counter of a set's live sectors."""
    return LiveSectors([member.buckets for member in members])


async def recover_index(
    members: Sequence[Member],
    censuses: Sequence[Census],
    entries: Sequence[JournalEntry],
    metadata: Sequence[MetadataLocation],
    limit_bytes: int,
    progress: Progress,
    volumes: Container[int],
) -> RecoveredIndex:
    """Returns the index that the newest entry names, merged with the keys of all these entries.

    The members' tables hold what prios, journal and uuid table say; afterwards also nodes and live data.
    metadata is the uuid table's location; volumes are the inodes in use.
    """
    root, level = entries[-1].root, entries[-1].level
    doubtful = DoubtfulLeaves([member.buckets for member in members], volumes)
    found = [MemberFound(member.block_device, member.superblock) for member in members]
    recounts = [_recount_of(member) for member in members]
    contents = BucketContents(found, censuses, recounts, refuse_fatal)
    for pointer, _ in metadata:
        contents.name_pointer(pointer)
    bounds = bounds_of([member.superblock for member in members])
    replayed = merge_entries(members[0].path, entries, bounds, refuse_fatal)
    io = node_io(members)
    journaled = journaled_sectors(entries)
    io.may_be_torn = lambda node: may_be_torn(node, journaled)
    locations = list(metadata)

    def claim(node: NodeFound) -> None:
        claim_bucket(found, censuses, node, refuse_fatal)
        locations.append((node.key.pointers[0], node.where))

    # 1. Every node is read once, and counted. Only now may a wrong checksum be that of a torn append.
    io.claim = claim
    reader = await NodeCache.open(root, level, io, NodeGens(contents), limit_bytes)
    use = VolumeUse()
    await _count_leaves(reader, contents, doubtful, use, progress)
    io.may_be_torn = io.claim = lambda _: False
    # 2. The gens of the journal's keys.
    contents.judge(replayed.keys, locations)
    # 3. The buckets of the nodes, and what was counted.
    _place_nodes(members, reader.tree)
    for member, recount in zip(members, recounts, strict=True):
        _fill_counts(member, recount)
    # 4. All gens are known: the journal's keys, and then what no look-up finds.
    live = LiveSectors([member.buckets for member in members], use)
    index = RecoveredIndex(reader.tree, io, live, IndexHealth())
    await _replay(index, reader, entries, doubtful, progress)
    doubtful.are_all |= any(recount.overtook_dirty for recount in recounts)
    index.health = IndexHealth(await doubtful.count(reader, live.use), io.vanished)
    _finish_tables(members, contents, index, entries[-1].seq)
    return index


def _recount_of(member: Member) -> Recount:
    table = member.buckets.table
    return Recount(table.gens_array, table.gens_on_disk_array)


def _finish_tables(
    members: Sequence[Member], contents: BucketContents, index: RecoveredIndex, newest_seq: int
) -> None:
    """Judge the counts of all live data, and bring what follows from them up to date."""
    for device, member in enumerate(members):
        contents.judge_sectors(device, member.buckets.table.sectors_array)
        if not index.live.cleaned_seq:  # else leaves on the device still name cleaned data as dirty
            member.buckets.emptying_durable(newest_seq)
        for _ in member.buckets.table.recount_distances():
            pass


async def _count_leaves(
    reader: NodeCache,
    contents: BucketContents,
    doubtful: DoubtfulLeaves,
    use: VolumeUse,
    progress: Progress,
) -> None:
    """Count all leaves; use by the gens so far, and later keys may raise some."""
    leaves = 0
    async for leaf in reader.leaves():
        doubtful.see_inodes(leaf)
        if contents.count_leaf(leaf.live):
            doubtful.bounds.add(leaf.bound)
        use.add_leaves([leaf], doubtful.member_buckets)
        reader.tree.leaves.count_keys(leaf)
        leaves += 1
        if leaves % LEAVES_A_REPORT == 0:
            progress(f"recovering: {leaves} leaves of the index read")
            await asyncio.sleep(0)


def _place_nodes(members: Sequence[Member], tree: Tree) -> None:
    """Set the state of the nodes' buckets. Raises BadField if one is used for anything else."""
    for key in tree.node_keys():
        place_metadata(members, key, State.BTREE)


def place_metadata(members: Sequence[Member], key: Key, state: State) -> None:
    """Set a metadata bucket's state, and its gen from the pointer, which may be ahead of the one on disk."""
    pointer = key.pointers[0]
    buckets = members[pointer.device].buckets
    bucket = buckets.geometry.bucket_of(pointer.sector)
    found = State(buckets.table.states[bucket])
    where = f"{members[pointer.device].path} bucket {bucket}"
    if found != State.EMPTY:
        raise BadField("node key", where, f"a bucket of its own for {state.name}", found.name)
    buckets.table.raise_gen(bucket, pointer.gen)
    if buckets.table.gens[bucket] != pointer.gen:
        expected = f"a pointer with the bucket's gen {buckets.table.gens[bucket]}"
        raise BadField("node key", where, expected, pointer.gen)
    buckets.table.become_metadata(bucket, state)


def _fill_counts(member: Member, recount: Recount) -> None:
    """Copy the counts to the table: live sectors, oldest gens, and buckets that may not be metadata yet."""
    buckets, table = member.buckets, member.buckets.table
    table.last_gc_array[:] = recount.oldest
    buckets.table.take_over(recount.sectors, recount.dirty_sectors, recount.is_named)


async def _replay(
    index: RecoveredIndex,
    reader: NodeCache,
    entries: Sequence[JournalEntry],
    doubtful: DoubtfulLeaves,
    progress: Progress,
) -> None:
    """Merge the journal's keys into the leaves, within the memory limit."""
    tree, newest_seq = index.tree, entries[-1].seq
    changes = await _by_leaf(index, entries, doubtful, progress)
    for bound in sorted(changes):
        leaf = await reader.leaf_at(*position_at(bound - 1))
        tree.leaves.count_keys(leaf, -1)
        index.live.remove(tree.leaves.merge_changes(leaf, changes.pop(bound)), newest_seq)
        tree.leaves.count_keys(leaf)
        if not reader.evict() and leaf is not tree.root and not leaf.is_torn:
            tree.defer(leaf)


async def _by_leaf(
    index: RecoveredIndex, entries: Sequence[JournalEntry], doubtful: DoubtfulLeaves, progress: Progress
) -> dict[int, Unwritten]:
    """Returns the journal's keys, merged in order and counted, by the bound of their leaf."""
    tree, live = index.tree, index.live
    changes: dict[int, Unwritten] = {}
    for entry in entries:
        for key in entry.keys:
            if not key.sectors:
                continue
            for bound, part in tree.parts_of(key):
                if bound not in changes:
                    changes[bound] = Unwritten(Extents(keep_deletions=True), entry.seq)
                    tree.leaves.pins.pin(entry.seq)
                changes[bound].newest_seq = entry.seq
                live.remove(changes[bound].insert(part), entry.seq)
                doubtful.see_key(bound, part)
                live.add(part)
            index.keys_replayed += 1
            if index.keys_replayed % KEYS_A_REPORT == 0:
                progress(f"recovering: {index.keys_replayed} keys of the journal replayed")
                await asyncio.sleep(0)
    return changes
