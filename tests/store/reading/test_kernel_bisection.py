# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's search for the newest entry, beside an instrument that follows its source line by line."""

from collections.abc import Sequence
from random import Random

from bcached.format.jset import JournalEntry
from bcached.store.reading.kernel_bisection import newest_by_bisection
from instruments.crash.kernel_journal import KernelJournal
from instruments.samples.journal_rings import entry


def by_the_kernel(buckets: Sequence[list[JournalEntry]]) -> int:
    newest = KernelJournal(len(buckets), lambda index: buckets[index]).newest()
    assert newest is not None
    return newest.seq


def test_in_a_ring_that_was_filled_in_order_it_is_the_newest() -> None:
    for start in range(8):
        buckets: list[list[JournalEntry]] = [[] for _ in range(8)]
        for number in range(6):
            buckets[(start + number) % 8] = [entry(10 + 2 * number, 10), entry(11 + 2 * number, 10)]
        assert newest_by_bisection(buckets) == 21


def test_it_may_stop_before_an_empty_bucket() -> None:
    random, missed = Random(1), 0
    for _ in range(200):
        buckets = [[entry(seq)] for seq in range(1, 17)]
        buckets[random.randrange(2, 14)] = []
        missed += newest_by_bisection(buckets) < 16
    assert 0 < missed < 200


def test_whatever_the_buckets_hold_it_is_what_the_kernel_finds() -> None:
    for seed in range(2000):
        random = Random(seed)
        count = random.randint(2, 40)
        buckets: list[list[JournalEntry]] = []
        for _ in range(count):
            seqs = sorted(random.sample(range(1, 90), random.choice([0, 0, 1, 3])))
            buckets.append([entry(seq, random.randint(1, seq)) for seq in seqs])
        if any(buckets):
            assert newest_by_bisection(buckets) == by_the_kernel(buckets), seed
