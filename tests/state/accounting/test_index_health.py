# SPDX-License-Identifier: GPL-2.0-only
"""What no look-up finds is counted key by key, and counted less as it goes, in whatever leaf it stands."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcached.format.bkey import END_MAX
from bcached.keys import INODE_MAX, Key, Pointer
from bcached.state.accounting.index_health import ORPHANS_MAX, IndexHealth, OrphanedKeys, Tally, names_data
from bcached.state.buckets.geometry import Geometry
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.index.keys.extents import Extents
from bcached.state.index.node import Interior, Leaf

BUCKET = 64
GEOMETRY = Geometry(
    bucket_count=640, bucket_sectors=BUCKET, block_sectors=1, first_bucket=2, journal_bucket_count=4
)


def some_members(members: int = 1) -> list[MemberBuckets]:
    return [MemberBuckets(GEOMETRY, member, seed=1) for member in range(members)]


def a_key(inode: int, offset: int, *pointers: Pointer, dirty: bool = False, sectors: int = 8) -> Key:
    return Key(inode, offset, sectors, dirty, pointers)


def at(bucket: int, gen: int = 0, device: int = 0) -> Pointer:
    return Pointer(device, bucket * BUCKET, gen)


def a_leaf(keys: Sequence[Key]) -> Leaf:
    live = Extents()
    for key in keys:
        live.insert(key)
    return Leaf(Key(INODE_MAX, END_MAX - 8, 8, False, (at(9),)), 1, 1, live)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.lists(st.booleans(), min_size=1, max_size=3))),
    st.sets(st.integers(0, 5)),
)
def test_every_key_is_counted_once_for_what_it_is(
    made: list[tuple[int, bool, list[bool]]], volumes: set[int]
) -> None:
    """Each is made of its inode, whether it is dirty, and whether each of its copies is stale."""
    members = some_members(3)
    for member in members:
        member.table.gens[100] = 7
    keys = [
        a_key(
            inode,
            100 * number,
            *(at(100, 6 if stale else 7, device) for device, stale in enumerate(copies)),
            dirty=dirty,
            sectors=number + 1,
        )
        for number, (inode, dirty, copies) in enumerate(made)
    ]
    tally = Tally()
    tally.add(a_leaf(keys), members, volumes)
    stale_dirty = [key for key, (_, dirty, stale) in zip(keys, made, strict=True) if dirty and any(stale)]
    assert tally.stale_dirty_keys == len(stale_dirty)
    assert tally.stale_dirty_sectors == sum(key.sectors for key in stale_dirty)
    held = [key for key, (_, dirty, stale) in zip(keys, made, strict=True) if dirty or not all(stale)]
    for inode in range(6):
        of_inode = [key for key in held if key.inode == inode]
        assert names_data(a_leaf(keys), inode, members) == bool(of_inode)
        if inode in volumes or not of_inode:
            assert inode not in tally.orphans
            continue
        dirty_sectors = sum(key.sectors for key in of_inode if key.dirty)
        clean_sectors = sum(key.sectors for key in of_inode if not key.dirty)
        assert tally.orphans[inode] == OrphanedKeys(len(of_inode), dirty_sectors, clean_sectors)
    assert tally.orphaned.keys == sum(key.inode not in volumes for key in held)


def test_very_many_inodes_are_counted_and_not_kept_one_by_one() -> None:
    tally, inodes = Tally(), ORPHANS_MAX + 100
    keys = [a_key(inode, 16 * copy, at(100)) for inode in range(inodes) for copy in range(2)]
    for first in range(0, len(keys), 51):  # so that some inodes have keys in two leaves
        tally.add(a_leaf(keys[first : first + 51]), some_members(), ())
    assert len(tally.orphans) == ORPHANS_MAX
    assert tally.orphaned_inodes == inodes
    assert tally.orphaned.keys == 2 * inodes


def test_what_goes_is_counted_no_more() -> None:
    members = some_members()
    members[0].table.gens[100] = 1
    keys = [a_key(0, 100 * n, at(100), dirty=True) for n in range(3)]
    tally = Tally()
    tally.add(a_leaf(keys), members, {0})
    health = IndexHealth(tally)
    health.stale_dirty_removed(a_key(0, 0, at(100), dirty=True, sectors=4))  # half of one is overwritten
    assert (health.tally.stale_dirty_keys, health.tally.stale_dirty_sectors) == (3, 20)
    health.stale_dirty_dropped(keys[1])
    assert (health.tally.stale_dirty_keys, health.tally.stale_dirty_sectors) == (2, 12)
    health.stale_dirty_removed(a_key(0, 4, at(100), dirty=True, sectors=4))
    health.stale_dirty_removed(keys[2])
    assert (health.tally.stale_dirty_keys, health.tally.stale_dirty_sectors) == (0, 0)
    assert health.dropped_keys == 1


@pytest.mark.parametrize("is_counted_already", [False, True])
def test_what_goes_while_it_is_counted_again_is_counted_neither_before_nor_after(
    is_counted_already: bool,
) -> None:
    members = some_members()
    members[0].table.gens[100] = 1
    keys = [a_key(0, 0, at(100), dirty=True), a_key(5, 100, at(100), dirty=True)]
    before = Tally()
    before.add(a_leaf(keys), members, {0, 5})
    health = IndexHealth(before)
    following = health.begin()
    if is_counted_already:
        following.add(a_leaf(keys), members, {0, 5})
        following.through = (5 << 64) | 1000
    health.stale_dirty_removed(keys[0])
    assert health.tally.stale_dirty_sectors == 8
    if not is_counted_already:
        following.add(a_leaf(keys[1:]), members, {0, 5})
    health.end()
    assert health.tally is following
    assert health.tally.stale_dirty_sectors == 8


def test_a_count_that_was_broken_off_changes_nothing() -> None:
    health = IndexHealth(Tally(stale_dirty_keys=3, stale_dirty_sectors=24))
    health.begin()
    health.abort()
    health.end()
    assert health.tally.stale_dirty_keys == 3


def test_nodes_have_vanished_as_long_as_a_node_tells_of_them() -> None:
    child = Key(INODE_MAX, END_MAX - 8, 8, False, (at(9),))
    parents = [Interior(child, 1, 1, 1, [child]) for _ in range(2)]
    health = IndexHealth(vanished=[(parents[0], 2), (parents[1], 3)])
    assert health.vanished_nodes == 5
    parents[0].is_detached = True
    assert health.vanished_nodes == 3
