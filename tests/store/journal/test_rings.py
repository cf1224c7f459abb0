# SPDX-License-Identifier: GPL-2.0-only
"""The rings of all members: the one with the least space decides."""

from bcached.state.buckets.geometry import Geometry
from bcached.store.journal.ring import JournalRing, Remaining
from bcached.store.journal.rings import Rings

BUCKET, BLOCK = 4096, 512
GEOMETRY = Geometry(
    bucket_count=700, first_bucket=3, bucket_sectors=8, block_sectors=1, journal_bucket_count=8
)


def rings(*counts: int) -> Rings:
    return Rings([JournalRing(GEOMETRY, range(3, 3 + count)) for count in counts], 0)


def test_as_many_buckets_are_free_as_in_the_ring_with_the_fewest() -> None:
    some = rings(8, 4, 6)
    assert some.free == 3
    for seq in (1, 2):
        some.advance(BUCKET, seq)
    assert some.free == 3, "they were not counted since"
    some.count_free()
    assert some.free == 2
    assert some.free_with(2) == 3, "if entry 1 were not needed any more"


def test_an_entry_goes_to_each_ring_s_own_position() -> None:
    some = Rings([JournalRing(GEOMETRY, range(3, 7)), JournalRing(GEOMETRY, range(9, 17))], 0)
    assert some.advance(BLOCK, 1) == [4 * BUCKET, 10 * BUCKET]
    assert some.advance(BLOCK, 2) == [4 * BUCKET + BLOCK, 10 * BUCKET + BLOCK]


def test_a_ring_that_is_full_has_no_position_and_nothing_left() -> None:
    some = rings(2, 8)
    for seq in (1, 2):
        some.advance(BUCKET, seq)
    assert some.remaining_after(BLOCK, 1) == [None, Remaining(5, BUCKET - BLOCK)]
    assert some.advance(BLOCK, 3)[0] is None


def test_to_free_a_bucket_of_every_ring_all_entries_in_it_must_not_be_needed() -> None:
    some = Rings([JournalRing(GEOMETRY, range(3, 7)) for _ in range(2)], 0)
    some.each[0].resume([3, 7, 0, 0], 1, 0)
    some.each[1].resume([5, 7, 0, 0], 1, 0)
    assert some.newest_with(2) == 5


def test_members_with_the_same_entries_are_written_at_once_others_one_by_one() -> None:
    some = rings(8, 4, 6)
    assert some.furthest_behind_first() == []
    for number, newest in enumerate((12, 10, 11)):
        ring = some.each[number]
        ring.resume([newest, *[0] * (len(ring.buckets) - 1)], 0, 0)
    assert some.furthest_behind_first() == [1, 2, 0]
