# SPDX-License-Identifier: GPL-2.0-only
"""Columns of what leaves point to, against the same counted key by key."""

from collections import Counter
from random import Random

import pytest

from bcached.keys import Key, Pointer
from bcached.state.accounting.leaf_pointers import copies, dirty_sectors, leaf_pointers, live_counts
from bcached.state.buckets.member_buckets import MemberBuckets
from bcached.state.index.keys.extents import Extents
from bcached.state.index.node import Leaf
from instruments.samples.small_member import BUCKET_SECTORS, BUCKETS, a_member

FIRST = 20


def leaf_of(random: Random, members: list[MemberBuckets], inode: int) -> Leaf:
    """A leaf of keys with one to three copies, some stale, some of them ahead."""
    live = Extents()
    for number in range(200):
        pointers = tuple(
            Pointer(
                random.randrange(len(members)),
                random.randrange(FIRST, BUCKETS) * BUCKET_SECTORS,
                random.choice([0, 0, 0, 1, 250, 255]),
            )
            for _ in range(random.randint(1, min(3, len(members))))
        )
        live.insert(Key(inode, number * 16, 8, random.random() < 0.5, pointers))
    return Leaf(Key(1 << 10, 0, BUCKET_SECTORS, False, (Pointer(0, 0, 0),)), 1, 1, live)


@pytest.mark.parametrize("member_count", [1, 2, 3])
def test_they_agree_with_the_keys(member_count: int) -> None:
    random = Random(member_count)
    members = [a_member(device=device) for device in range(member_count)]
    for member in members:
        for bucket in random.sample(range(FIRST, BUCKETS), 100):
            member.table.gens[bucket] = 1
    leaves = [leaf_of(random, members, inode) for inode in range(3)]
    live, dirty, behind = Counter[tuple[int, int]](), Counter[tuple[int, int]](), Counter[int]()
    for leaf in leaves:
        good = []
        for key in leaf.live:
            gens = [members[it.device].table.gens[it.sector // BUCKET_SECTORS] for it in key.pointers]
            good.append(sum(gen == it.gen for gen, it in zip(gens, key.pointers, strict=True)))
            for gen, pointer in zip(gens, key.pointers, strict=True):
                steps = (gen - pointer.gen) % 256
                behind[steps if steps <= 128 else 0] += 1
                if gen == pointer.gen:
                    place = pointer.device, pointer.sector // BUCKET_SECTORS
                    live[place] += key.sectors
                    dirty[place] += key.sectors * key.dirty
        total, found = copies(leaf, members)
        assert total.tolist() == [len(key.pointers) for key in leaf.live]
        assert found.tolist() == good
    for device, columns in enumerate(live_counts(leaves, members)):
        for expected, column in zip((live, dirty), columns, strict=True):
            assert column.tolist() == [expected[device, bucket] for bucket in range(len(column))]
    told = Counter(step for part in leaf_pointers(leaves, members) for step in part.behind.tolist())
    assert told == behind
    assert len(behind) > 3


def test_dirty_sectors_are_those_of_one_volume_however_many_copies() -> None:
    random = Random(1)
    leaf = leaf_of(random, [a_member(device=device) for device in range(3)], 7)
    expected = sum(key.sectors for key in leaf.live if key.dirty)
    assert expected > 100
    assert dirty_sectors(leaf, 7) == expected
    assert dirty_sectors(leaf, 6) == 0
