# SPDX-License-Identifier: GPL-2.0-only
"""Where entries go, and the one rule that matters: what a durable entry still needs is never overwritten."""

from copy import deepcopy
from random import Random

from bcached.state.buckets.geometry import Geometry
from bcached.store.journal.ring import JournalRing, Remaining

GEOMETRY = Geometry(
    bucket_count=530, first_bucket=3, bucket_sectors=8, block_sectors=1, journal_bucket_count=4
)
BUCKET, BLOCK = 4096, 512


def ring(count: int = 4) -> JournalRing:
    return JournalRing(GEOMETRY, range(3, 3 + count))


def test_the_first_entry_goes_to_the_start_of_the_second_bucket() -> None:
    # Kernel: advances before its first entry, and its search counts on that.
    assert ring().advance(BLOCK, 1, 0) == 4 * BUCKET


def test_entries_follow_each_other_block_by_block_and_bucket_by_bucket() -> None:
    here = ring()
    places = [here.advance(2 * BLOCK, seq, seq - 1) for seq in range(1, 14)]
    expected = [bucket * BUCKET + 2 * BLOCK * block for bucket in (4, 5, 6, 3) for block in range(4)]
    assert places == expected[:13]


def test_an_entry_that_does_not_fit_any_more_begins_the_next_bucket() -> None:
    here = ring()
    assert here.advance(6 * BLOCK, 1, 0) == 4 * BUCKET
    assert here.advance(3 * BLOCK, 2, 1) == 5 * BUCKET


def test_a_bucket_is_used_again_only_when_a_durable_entry_has_released_it() -> None:
    here = ring(2)
    assert here.advance(BUCKET, 1, 0) == 4 * BUCKET
    assert here.advance(BUCKET, 2, 1) == 3 * BUCKET
    assert here.advance(BUCKET, 3, 1) is None, "entry 1 is still needed"
    assert here.advance(BUCKET, 3, 2) == 4 * BUCKET


def test_a_full_ring_stays_as_it_was() -> None:
    here = ring(2)
    for seq in (1, 2):
        here.advance(BUCKET, seq, 0)
    before = deepcopy(vars(here))
    assert here.advance(BLOCK, 3, 1) is None
    assert vars(here) == before


def test_an_opening_begins_the_bucket_behind_that_of_the_newest_entry() -> None:
    here = ring()
    here.resume([9, 12, 0, 5], 1, 512)
    assert here.advance(BLOCK, 13, 12) == 5 * BUCKET


def test_an_opening_goes_on_behind_the_newest_entry_when_no_bucket_is_free() -> None:
    here = ring()
    here.resume([9, 12, 6, 7], 1, 1024)
    assert here.advance(BLOCK, 13, 6) == 4 * BUCKET + 1024
    assert here.advance(BLOCK, 14, 6) == 4 * BUCKET + 1536


def test_an_opening_with_the_ring_full_to_the_last_block_finds_no_place() -> None:
    here = ring()
    here.resume([9, 12, 6, 7], 1, BUCKET)
    assert here.advance(BLOCK, 13, 6) is None


def test_fifty_openings_that_lose_their_first_entry_use_up_nothing() -> None:
    for _ in range(50):
        here = ring()
        here.resume([9, 12, 0, 5], 1, 512)
        assert here.free_buckets(12) == 3
        assert here.advance(BLOCK, 13, 12) == 5 * BUCKET


def test_free_buckets_are_counted_as_far_as_they_can_be_begun_in_a_row() -> None:
    here = ring()
    assert here.free_buckets(0) == 3
    here.resume([9, 12, 0, 8], 1, 512)
    assert here.free_buckets(9) == 2, "entry 9 stands in the way"
    assert here.free_buckets(10) == 3


def test_no_entry_that_is_needed_is_ever_overwritten() -> None:
    for seed in range(200):
        random = Random(seed)
        here = ring(random.randint(2, 6))
        durable_last_seq, there = 0, dict[int, tuple[int, int]]()  # seq: begin and end
        for seq in range(1, 60):
            size = random.randint(1, 8) * BLOCK
            begin = here.advance(size, seq, durable_last_seq)
            if begin is None:
                assert durable_last_seq < seq - 1, "there is always room when nothing is needed any more"
                durable_last_seq = seq - 1
                begin = here.advance(size, seq, durable_last_seq)
                assert begin is not None, seed
            assert begin // BUCKET == (begin + size - 1) // BUCKET, "whole in one bucket"
            hit = {old for old, (start, stop) in there.items() if start < begin + size and begin < stop}
            assert not [old for old in hit if old >= max(durable_last_seq, 1)], (seed, seq)
            there = {old: extent for old, extent in there.items() if old not in hit}
            there[seq] = (begin, begin + size)
            if random.random() < 0.5:
                durable_last_seq = random.randint(max(durable_last_seq, 1), seq)


def test_what_is_left_behind_an_entry_is_known_before_it_is_placed() -> None:
    here = ring()
    assert here.remaining_after(3 * BLOCK, 0, 1) == Remaining(3, 5 * BLOCK), (
        "all others, once it is the only one needed"
    )
    here.advance(3 * BLOCK, 1, 0)
    assert here.remaining_after(5 * BLOCK, 1, 1) == Remaining(3, 0)
    assert here.remaining_after(6 * BLOCK, 1, 1) == Remaining(2, 2 * BLOCK), "entry 1 is needed, and stays"
    assert here.remaining_after(6 * BLOCK, 1, 2) == Remaining(3, 2 * BLOCK)


def test_a_full_ring_has_no_room_for_an_entry_that_would_free_all_of_it() -> None:
    here = ring(2)
    for seq in (1, 2):
        here.advance(BUCKET, seq, 0)
    assert here.remaining_after(BLOCK, 1, 3) is None


def test_the_bucket_of_an_entry_tells_the_newest_with_it() -> None:
    here = ring()
    here.newest_seqs = [9, 12, 0, 5]
    assert [here.newest_with(seq) for seq in (3, 5, 6, 9, 10, 13)] == [5, 5, 9, 9, 12, 13]


def test_what_is_left_is_what_is_found_afterwards() -> None:
    for seed in range(100):
        random = Random(seed)
        here = ring(random.randint(2, 6))
        durable_last_seq = 0
        for seq in range(1, 60):
            size, last_seq = random.randint(1, 8) * BLOCK, random.randint(max(durable_last_seq, 1), seq)
            room = here.remaining_after(size, durable_last_seq, last_seq)
            if room is None:
                assert here.advance(size, seq, durable_last_seq) is None
                durable_last_seq = seq
                continue
            byte = here.advance(size, seq, durable_last_seq)
            assert byte is not None
            durable_last_seq = last_seq
            assert room == Remaining(here.free_buckets(last_seq), BUCKET - byte % BUCKET - size), (seed, seq)


def test_free_buckets_are_counted_on_from_what_was_counted_before() -> None:
    for seed in range(100):
        random = Random(seed)
        here = ring(random.randint(2, 7))
        durable_last_seq = 0
        for seq in range(1, 80):
            if here.advance(random.randint(1, 8) * BLOCK, seq, durable_last_seq) is None:
                durable_last_seq = seq - 1
            if random.random() < 0.5:
                durable_last_seq = random.randint(max(durable_last_seq, 1), seq)
            if random.random() < 0.5:
                continue
            afresh = ring(len(here.buckets))
            afresh.resume(here.newest_seqs, here.index, 0)
            for last_seq in random.sample([durable_last_seq, random.randint(0, seq)], 2):
                assert here.free_buckets(last_seq) == afresh.free_buckets(last_seq), (seed, seq)
                afresh.resume(here.newest_seqs, here.index, 0)
