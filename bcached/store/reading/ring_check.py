# SPDX-License-Identifier: GPL-2.0-only
"""Whether a member's journal buckets are in the order of a ring, for bcached and for the kernel.

bcached needs that order among the buckets that are needed: else there might be no space for the entry that
frees them. The kernel finds the newest entry by a bisection (kernel_bisection.py), which anything out of
order may mislead; that concerns only a set that the kernel is to use.
"""

from collections.abc import Sequence
from itertools import pairwise

from bcached.format.jset import JournalEntry
from bcached.store.finding import Finding, Report, Severity
from bcached.store.journal.reader import JournalFound
from bcached.store.reading.kernel_bisection import newest_by_bisection

STRUCTURE = "journal"
BucketEntries = list[list[JournalEntry]]  # of one member, in the order of its ring


def report_ring(found: JournalFound, number: int, where: str, report: Report, *, thorough: bool) -> None:
    """Report buckets out of ring order: fatal among needed ones, else wrong for the kernel only."""
    ends = found.rings[number].newest_seqs
    if not any(ends):
        return
    if not is_in_ring_order(ends, found.newest.last_seq):
        problem = (
            "expected the buckets that are needed in the order of a ring, "
            f"found them to end with entries {ends}"
        )
        lost = "nothing: all entries are there"
        report(Finding("journal-ring", Severity.FATAL, STRUCTURE, where, problem, lost))
    elif thorough and (misled := _kernel_misled(found, number)) is not None:
        problem, lost = misled
        report(Finding("journal-ring", Severity.DAMAGE, STRUCTURE, where, problem, lost))


def is_in_ring_order(newest_seqs: Sequence[int], oldest_needed: int) -> bool:
    """Whether the buckets that are still needed were filled in sequence, round the ring.

    Else one of them may be right behind the newest, and there is no space for the entry that would free it.
    """
    behind = newest_seqs.index(max(newest_seqs)) + 1
    lap = [*newest_seqs[behind:], *newest_seqs[:behind]]
    needed = [seq for seq in lap if seq and seq >= oldest_needed]
    return all(before < after for before, after in pairwise(needed))


def _kernel_misled(found: JournalFound, number: int) -> tuple[str, str] | None:
    """Returns what misleads the kernel's bisection, and what is lost by it; None if nothing does."""
    buckets, with_leftovers = _buckets_of(found, number)
    seqs = [entries[0].seq if entries else 0 for entries in buckets]
    if not any(seqs):
        return None
    newest, bisected = max(found.rings[number].newest_seqs), newest_by_bisection(with_leftovers)
    lap = _lap(buckets, seqs)
    # 1. Entries are out of order, wherever the bisection happens to end.
    for before, after in pairwise(lap):
        if after <= before:
            problem = (
                f"the buckets are not in the order of a ring: entry {after} is behind entry {before}, "
                f"and they begin with entries {seqs}"
            )
            stray = max(lap)
            if stray > newest:
                lost = f"the changes in entry {stray}: an opening does not read it there; the kernel may"
                return problem, lost
            return problem, "nothing here; the kernel may miss the newest entries"
    # 2. It ends beyond the newest.
    if bisected > newest:
        problem = f"the kernel takes entry {bisected} for the newest: a leftover, the newest is {newest}"
        return problem, "nothing here; the kernel may refuse the set"
    # 3. It ends before the newest.
    if bisected < newest:
        problem = (
            f"the kernel's bisection ends at entry {bisected} of {newest}: the buckets begin with {seqs}"
        )
        return problem, f"nothing here; the kernel misses all changes since entry {bisected}"
    return None


def _buckets_of(found: JournalFound, number: int) -> tuple[BucketEntries, BucketEntries]:
    """Returns the entries in each of a member's buckets, without and with leftovers (kernel: reads on)."""
    buckets: BucketEntries = [[] for _ in found.rings[number].newest_seqs]
    with_leftovers: BucketEntries = [[] for _ in buckets]
    for bucket in [*found.buckets, *found.others]:
        if bucket.member == number:
            buckets[bucket.index] = [placed.entry for placed in bucket.entries]
            read = (*bucket.entries, *bucket.leftovers)
            with_leftovers[bucket.index] = [placed.entry for placed in read]
    return buckets, with_leftovers


def _lap(buckets: BucketEntries, first_seqs: Sequence[int]) -> list[int]:
    """Returns the seqs of all entries, oldest bucket first: the kernel uses each one that it reads."""
    behind = first_seqs.index(max(first_seqs)) + 1
    return [entry.seq for entries in buckets[behind:] + buckets[:behind] for entry in entries]
