# SPDX-License-Identifier: GPL-2.0-only
"""How much a ring may hold: it can always be relogged, whatever it holds then."""

from random import Random

from bcached.state.buckets.geometry import Geometry
from bcached.store.journal.limits import NEEDED_WORDS_MAX, JournalLimits


def limits(*rings: int, bucket_sectors: int = 8, block_sectors: int = 1) -> JournalLimits:
    return JournalLimits(
        Geometry(
            bucket_count=700,
            first_bucket=3,
            bucket_sectors=bucket_sectors,
            block_sectors=block_sectors,
            journal_bucket_count=max(rings),
        ),
        rings,
    )


def test_the_shortest_ring_decides() -> None:
    assert limits(9, 4, 6).buckets == 4


def test_an_entry_is_a_bucket_at_most_and_no_longer_than_the_format_allows() -> None:
    assert limits(4).entry_words == (4096 - 240) // 8
    assert limits(4, bucket_sectors=1024).entry_bytes(limits(4, bucket_sectors=1024).entry_words) == 32 << 10


def test_an_entry_takes_whole_blocks() -> None:
    of_sectors, of_pages = limits(4), limits(4, block_sectors=8)
    assert [of_sectors.entry_bytes(words) for words in (0, 34, 35)] == [512, 512, 1024]
    assert [of_pages.entry_bytes(words) for words in (0, of_pages.entry_words)] == [4096, 4096]


def test_what_fits_in_one_entry_takes_one_bucket_and_any_ring_may_need_it() -> None:
    smallest = limits(2)
    assert smallest.relog_buckets(smallest.entry_words, 9 * smallest.entry_words) == 1
    assert smallest.may_need(smallest.entry_words, 9 * smallest.entry_words)
    assert not smallest.may_need(smallest.entry_words + 1, smallest.entry_words + 1)


def test_a_relog_takes_at_most_a_quarter_of_the_ring() -> None:
    large = limits(400)
    for words in range(large.entry_words + 1, 100 * large.entry_words, 97):
        assert large.may_need(words, words) == (4 * large.relog_buckets(words, words) < 400)


def test_more_is_never_allowed_where_less_is_not() -> None:
    for seed in range(50):
        random = Random(seed)
        some = limits(random.randint(2, 300), bucket_sectors=random.choice([8, 64, 1024]))
        words = random.randint(1, 40 * some.entry_words)
        merged = random.randint(words, 3 * words)
        if some.may_need(words, merged):
            assert some.may_need(words - 1, merged)
            assert some.may_need(words, merged - 1)
        assert some.relog_buckets(words, merged) <= some.relog_buckets(words + 1, merged + 1)


def test_needed_keys_have_a_limit_in_memory_however_large_the_ring_is() -> None:
    huge = limits(100_000, bucket_sectors=1024)
    assert huge.may_need(NEEDED_WORDS_MAX, NEEDED_WORDS_MAX)
    assert not huge.may_need(NEEDED_WORDS_MAX + 1, NEEDED_WORDS_MAX + 1)


def test_entries_of_half_a_bucket_may_begin_in_the_middle_of_one() -> None:
    halves = limits(40, bucket_sectors=128)  # an entry is of 32 KiB at most
    assert [halves.buckets_of(entries) for entries in (1, 2, 3, 4)] == [2, 2, 3, 3]
