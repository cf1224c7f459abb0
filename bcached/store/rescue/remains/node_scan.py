# SPDX-License-Identifier: GPL-2.0-only
"""Leaves that no node leads to any more, found by their contents.

Every bset has the set's magic, and its checksum gives the node's gen. What is found may have been replaced
since, so none of it is sure. 1. A node whose bucket has a newer gen was replaced. 2. Keys that the journal or
the rest of the index has count instead of a found leaf's. 3. Where two leaves name different sectors, both
claims are conflicting.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from bcached.device.run_all import run_all
from bcached.device.sampling import read_sectors
from bcached.errors import BcachedError, SetRefused
from bcached.format.bkey import END_MAX
from bcached.format.node_gen import gen_of_node, looks_like_node
from bcached.format.sizes import node_sectors
from bcached.keys import INODE_MAX, Key, Pointer
from bcached.state.accounting.check_counts import Use
from bcached.state.buckets.geometry import Geometry
from bcached.state.index.keys.extents import Extents
from bcached.state.index.keys.key_rows import KeyRows
from bcached.store.btree.node_reader import NodeFound, read_node
from bcached.store.btree.node_rules import is_extent, leaf_extents
from bcached.store.check.outdated_keys import OutdatedKeys
from bcached.store.finding import Finding
from bcached.store.membership import MemberFound
from bcached.store.rescue.remains.missing_members import is_missing
from bcached.store.rescue.remains.set_left import SetLeft
from bcached.units import SECTOR_BYTES

BATCH, BATCHES_AT_ONCE = 256, 4  # sectors read by one call, and calls in flight: half a megabyte in memory
SearchProgress = Callable[[int, int], None]


@dataclass(slots=True)
class FoundLeaves:
    """The keys of the leaves found, merged."""

    extents: Extents = field(default_factory=Extents)
    contested: list[Key] = field(default_factory=list)  # parts that are named twice


def no_search_progress(_: int, __: int) -> None:
    """Progress that is not reported."""


async def add_found_leaves(left: SetLeft, progress: SearchProgress = no_search_progress) -> None:
    """Search all members for nodes, and add the keys of the leaves to what was found of the set.

    Only if a parent is damaged or missing; progress is called with the sectors that were searched, and with
    all that are. Gens are raised by all nodes first, since only then it is known which were replaced.
    """
    if not left.lost_branches:
        return
    found = FoundLeaves()
    nodes = [key async for key in _nodes(left, progress)]
    await _raise_gens(left, nodes)
    locations = {(key.pointers[0].device, key.pointers[0].sector) for key in nodes}
    for key in nodes:
        if left.checked.staleness(key.pointers[0]):
            continue
        node = await read_node(left.members, key, 0)
        if not _is_interior(node, locations):
            _merge(found, leaf_extents([node], left.bounds, _ignore))
            left.found_leaves += 1
    if left.journal.is_lost and not left.found_leaves:
        superblock = left.members[0].superblock
        raise SetRefused(
            f"{left.members[0].path}: found neither a journal entry nor a leaf of set {superblock.set_uuid}, "
            f"with buckets of {superblock.bucket_sectors} sectors and blocks of {superblock.block_sectors}"
        )
    _cut_by_the_rest(left, found)
    assert left.checked.tree is not None
    left.checked.tree.rows.add(found.extents)
    left.doubts.take_as_outdated(OutdatedKeys(left.checked.tree.rows, left.known_entries, left.bounds).keys)
    for key in found.contested:
        left.doubts.contested.insert(key)


async def _nodes(left: SetLeft, progress: SearchProgress) -> AsyncIterator[Key]:
    """Yields keys for the nodes at the beginning of buckets that nothing is known to use."""
    unused = {
        number: np.flatnonzero(np.isin(census.uses, (Use.FREE, Use.DATA))).tolist()
        for number, census in enumerate(left.checked.censuses)
        if not is_missing(left.members[number].block_device)
    }
    searched, total = 0, sum(map(len, unused.values()))
    for device, buckets in unused.items():
        member, census = left.members[device], left.checked.censuses[device]
        bucket_sectors = member.superblock.bucket_sectors
        sectors = node_sectors(bucket_sectors)
        for begin in range(0, len(buckets), BATCH * BATCHES_AT_ONCE):
            some = buckets[begin : begin + BATCH * BATCHES_AT_ONCE]
            async for bucket in _beginning_as_nodes(member, some, census.geometry):
                sector = census.geometry.sector_of(bucket)
                gen = await _gen_at(member, device, sector, sectors)
                if gen is not None:
                    left.found_nodes.add((device, bucket))
                    yield Key(INODE_MAX, END_MAX - sectors, sectors, False, (Pointer(device, sector, gen),))
            searched += len(some)
            progress(searched * bucket_sectors, total * bucket_sectors)


async def _beginning_as_nodes(
    member: MemberFound, buckets: list[int], geometry: Geometry
) -> AsyncIterator[int]:
    """Yields the buckets whose first sectors are a node's."""
    found: dict[int, list[bytes | None]] = {}

    async def read(begin: int) -> None:
        offsets = [geometry.byte_of(bucket) for bucket in buckets[begin : begin + BATCH]]
        found[begin] = await read_sectors(member.block_device, offsets)

    await run_all([partial(read, begin) for begin in range(0, len(buckets), BATCH)])
    sectors = (sector for begin in sorted(found) for sector in found[begin])
    for bucket, raw in zip(buckets, sectors, strict=True):
        if raw is not None and looks_like_node(raw, member.superblock.set_magic):
            yield bucket


async def _gen_at(member: MemberFound, device: int, sector: int, sectors: int) -> int | None:
    """Returns the gen of the node at a sector; None if there is none."""
    try:
        raw = await member.block_device.read(sector * SECTOR_BYTES, sectors * SECTOR_BYTES)
    except BcachedError:
        return None
    return gen_of_node(raw, device, sector, member.superblock.set_magic)


async def _raise_gens(left: SetLeft, nodes: list[Key]) -> None:
    """Raise the gens of buckets to those that the found nodes name."""
    for key in nodes:
        rows = KeyRows()
        for found in (await read_node(left.members, key, 0)).all_keys():
            if found.pointers and (
                found.sectors == key.sectors or is_extent(found, left.bounds, "", _ignore)
            ):
                rows.add_key(found)
        for chunk in rows.chunks():
            for device, census in enumerate(left.checked.censuses):
                here = chunk.where(chunk.devices == device)
                inside = here.where(
                    here.first_sectors < census.geometry.sector_of(census.geometry.bucket_count)
                )
                census.raise_gens(census.geometry.buckets_of(inside.first_sectors), inside.gens)


def _is_interior(node: NodeFound, locations: set[tuple[int, int]]) -> bool:
    """Whether every key of a node is a node's: not dirty, of a node's size, and one is there."""
    keys = [key for key in node.all_keys() if key.sectors]
    return bool(keys) and all(
        not key.dirty
        and key.sectors == node.key.sectors
        and any((pointer.device, pointer.sector) in locations for pointer in key.pointers)
        for key in keys
    )


def _merge(found: FoundLeaves, leaf: Extents) -> None:
    """Add a leaf's keys; where another leaf has named other sectors, both are contested."""
    for key in leaf:
        for other in found.extents.lookup(key.inode, key.offset, key.end):
            if not _is_part(other, key):
                found.contested.append(other)
        found.extents.insert(key)


def _is_part(part: Key, key: Key) -> bool:
    """Whether a part names the same sectors as the key does."""
    moved = part.offset - key.offset
    return part.dirty == key.dirty and {(one.device, one.sector, one.gen) for one in part.pointers} <= {
        (one.device, one.sector + moved, one.gen) for one in key.pointers
    }


def _cut_by_the_rest(left: SetLeft, found: FoundLeaves) -> None:
    """Keep only what neither the journal nor a leaf of the index has."""
    tree = left.checked.tree
    assert tree is not None
    for key in left.doubts.replayed:
        found.extents.remove(key.inode, key.offset, key.end)
    for low, high in left.sound_leaves:
        for key in list(found.extents.between(low, high)):
            found.extents.remove(key.inode, key.offset, key.end)
    for chunk in tree.rows.chunks():
        for row in chunk:
            for cut in found.extents.remove(row.inode, row.offset, row.end):
                if not _is_part(cut, row):
                    found.contested.append(cut)


def _ignore(finding: Finding) -> None:
    del finding
