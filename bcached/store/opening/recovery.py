# SPDX-License-Identifier: GPL-2.0-only
"""From a set that was read and found sound to one that is open: tables and reserves filled.

A fresh set gets its first run, in the kernel's order of writes: prios, uuid table, root, journal entry, and
last the superblock that says the journal is valid. If interrupted before that, the next opening repeats it.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bcached.format.bkey import END_MAX
from bcached.format.bset import Bset, pack_bset
from bcached.format.sizes import node_sectors, uuid_slots
from bcached.format.superblock import VERSION_IN_USE
from bcached.format.uuid_entry import UuidEntry
from bcached.keys import INODE_MAX, Key, Pointer
from bcached.state.accounting.index_health import IndexHealth
from bcached.state.buckets.bucket_table import State
from bcached.state.buckets.geometry import INITIAL_PRIO, Geometry
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.buckets.reserves import Reserve
from bcached.state.index.keys.extents import Extents
from bcached.state.index.node import Leaf
from bcached.state.index.tree import Tree
from bcached.store.journal.journal import Journal
from bcached.store.journal.locations import Locations
from bcached.store.journal.ring import JournalRing
from bcached.store.member import Member, geometry_of
from bcached.store.membership import MemberFound, with_new_journal
from bcached.store.opening.index_recovery import (
    Progress,
    RecoveredIndex,
    live_sectors,
    node_io,
    place_metadata,
    recover_index,
    shape_of,
)
from bcached.store.reading.set_reader import Contents, SetFound
from bcached.store.superblock_slot import repair_superblock
from bcached.store.uuid_table import UuidTable
from bcached.store.wiping import wipe_buckets

BucketsFactory = Callable[[Geometry, int], MemberBuckets]
Clock = Callable[[], float]

FILLED_FIRST = (Reserve.PRIO, Reserve.BTREE)
INDEX_BYTES = 256 << 20  # of leaves in memory


@dataclass(slots=True)
class OpenedSet:
    """The parts of an open set."""

    members: list[Member]
    journal: Journal
    uuid_table: UuidTable
    index: RecoveredIndex


def _say_nothing(_: str) -> None:
    """Progress that is not reported."""


async def recover(
    found: SetFound,
    make_buckets: BucketsFactory,
    clock: Clock,
    *,
    index_bytes: int = INDEX_BYTES,
    progress: Progress = _say_nothing,
) -> OpenedSet:
    """Open a set that was in use. Writes nothing but a damaged superblock, from its copy."""
    assert found.contents is not None
    contents = found.contents
    newest = contents.newest
    members, rings = [], []
    for number, member in enumerate(found.members):
        geometry = geometry_of(member.superblock)
        buckets = make_buckets(geometry, number)
        _fill_table(buckets, contents, number)
        ring = JournalRing(geometry, member.superblock.journal_buckets)
        ring_found = contents.journal.rings[number]
        ring.resume(ring_found.newest_seqs, ring_found.index, ring_found.behind_byte)
        rings.append(ring)
        chain = contents.chains[number]
        members.append(Member(number, member.block_device, member.superblock, buckets, chain.seq))
    journal = Journal(
        members,
        rings,
        Locations.named_by(newest),
        seq=newest.seq,
        durable_last_seq=newest.last_seq,
        clock=clock,
        entries=contents.journal.entries,
    )
    place_metadata(members, newest.uuid_bucket, State.UUID)
    uuid_table = UuidTable(members[0].buckets.geometry, contents.uuids)
    volumes = {volume.inode for volume in uuid_table.volumes()}
    table = (newest.uuid_bucket.pointers[0], f"{members[0].path} journal entry {newest.seq}, uuid_bucket")
    index = await recover_index(
        members, contents.censuses, contents.journal.entries, [table], index_bytes, progress, volumes
    )
    journal.space.oldest_needed = lambda: index.tree.leaves.pins.oldest
    for opened in members:
        opened.buckets.reserves.fit_tree(newest.level)
        opened.buckets.initial_fill(FILLED_FIRST)
        await repair_superblock(opened.block_device, opened.superblock)
    return OpenedSet(members, journal, uuid_table, index)


def _fill_table(buckets: MemberBuckets, contents: Contents, number: int) -> None:
    """Fill in prios and gens from the chain; each bucket's oldest gen is at first the one on disk."""
    chain, table = contents.chains[number], buckets.table
    for column in (table.gens_array, table.gens_on_disk_array, table.last_gc_array):
        column[:] = chain.gens
    # Data never has a higher prio than new data. Higher ones are of former metadata; present metadata gets
    # its own below.
    np.minimum(chain.prios, INITIAL_PRIO, out=table.prios_array)
    for bucket in buckets.geometry.journal_buckets:
        table.move(bucket, State.JOURNAL)
    buckets.prio_chains.current = list(chain.buckets)
    for bucket in chain.buckets:
        table.become_metadata(bucket, State.PRIO)


async def first_run(
    found: SetFound, make_buckets: BucketsFactory, clock: Clock, *, synchronous: bool
) -> OpenedSet:
    """Set up an empty set. Without `synchronous` the next opening finds it fresh again."""
    members = [_fresh_member(number, member, make_buckets) for number, member in enumerate(found.members)]
    for member in members:
        await _take_back(member)
    if synchronous:
        for member in members:
            await wipe_buckets(
                member.block_device, member.buckets.geometry, member.buckets.geometry.journal_buckets
            )
    geometry = members[0].buckets.geometry
    uuid_table = UuidTable(geometry, [None] * uuid_slots(geometry.bucket_sectors))
    nowhere = Key(0, 0, 0, False, ())
    rings = [JournalRing(member.buckets.geometry, member.superblock.journal_buckets) for member in members]
    journal = Journal(members, rings, Locations(nowhere, nowhere), seq=0, durable_last_seq=0, clock=clock)
    if synchronous:
        for member in members:
            await write_first_prios(member, journal)
    journal.locations.uuid_bucket = await write_uuids(members[0], uuid_table, uuid_table.entries)
    root = await _write_root(members[0])
    journal.locations.root = root.key
    if synchronous:
        await journal.commit()
        for member in members:
            version = max(member.superblock.version, VERSION_IN_USE)
            await member.change_superblock(version=version, synchronous=True, last_mount=int(time.time()))
    for member in members:
        # Refill the reserves after the first run: the next prio write could not wait for its buckets.
        member.buckets.initial_fill(FILLED_FIRST)
    tree = Tree(root, shape_of(members))
    journal.space.oldest_needed = lambda: tree.leaves.pins.oldest
    index = RecoveredIndex(tree, node_io(members), live_sectors(members), IndexHealth())
    return OpenedSet(members, journal, uuid_table, index)


def _fresh_member(number: int, found: MemberFound, make_buckets: BucketsFactory) -> Member:
    superblock = with_new_journal(found.superblock)
    geometry = geometry_of(superblock)
    buckets = make_buckets(geometry, number)
    for bucket in geometry.journal_buckets:
        buckets.table.move(bucket, State.JOURNAL)
    buckets.initial_fill(FILLED_FIRST)
    assert buckets.has_prio_chain, "too few buckets for a prio chain, which the reader checks"
    return Member(number, found.block_device, superblock, buckets)


async def _take_back(member: Member) -> None:
    """Mark the journal of an interrupted first run as invalid before it is wiped.

    If the wiping is interrupted too, the set would else have a member in use without a journal.
    """
    await repair_superblock(member.block_device, member.superblock)
    if member.superblock.synchronous:
        await member.change_superblock(synchronous=False)


async def write_first_prios(member: Member, journal: Journal) -> None:
    """Write the first prio chain; it is valid from the first journal entry on."""
    buckets = member.buckets
    buckets.take_prio_chain()
    gens, through = buckets.snapshot_gens()
    await member.write_prios(gens)
    journal.locations.prio_heads[member.device] = buckets.prio_chains.writing[0]
    for _ in buckets.gens_became_durable(gens, through):
        pass


async def write_uuids(member: Member, table: UuidTable, entries: list[UuidEntry | None]) -> Key:
    """Write the whole table to a fresh bucket of a member that has one. Returns the table's key."""
    bucket = member.buckets.take_metadata(State.UUID)
    assert bucket is not None, "the caller has reserved no bucket"
    await member.block_device.write(member.buckets.geometry.byte_of(bucket), table.pack(entries))
    return table.key_at(member.device, bucket, member.buckets.table.gens[bucket])


async def _write_root(member: Member) -> Leaf:
    """Write a tree of one empty leaf."""
    geometry = member.buckets.geometry
    bucket = member.buckets.take_metadata(State.BTREE)
    assert bucket is not None, "the reserve is empty after its first fill"
    sectors = node_sectors(geometry.bucket_sectors)
    pointer = Pointer(member.device, geometry.sector_of(bucket), member.buckets.table.gens[bucket])
    root = Key(INODE_MAX, END_MAX - sectors, sectors, False, (pointer,))
    seq = secrets.randbits(64) | 1
    raw = pack_bset(Bset(seq, ()), root, member.superblock.set_magic, geometry.block_bytes)
    await member.block_device.write(geometry.byte_of(bucket), raw, durable=True)
    return Leaf(root, seq, len(raw) // geometry.block_bytes, Extents(merge_within=geometry.bucket_sectors))
