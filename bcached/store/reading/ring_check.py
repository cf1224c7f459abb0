# SPDX-License-Identifier: GPL-2.0-only
"""Whether a member's journal buckets are in the order of a ring, for bcached and for the kernel.

bcached needs that order among the buckets that are needed: else there might be no space for the entry that
frees them. The kernel finds the newest entry by a bisection (kernel_bisection.py), which anything out of
order may mislead; that concerns only a set that the kernel is to use.
"""

import shlex
from collections.abc import Sequence
from itertools import pairwise

from bcached.format.jset import JournalEntry
from bcached.store.finding import Finding, Report, Severity
from bcached.store.journal.reader import JournalFound, RingFound
from bcached.store.membership import MemberFound
from bcached.store.reading.kernel_bisection import newest_by_bisection

STRUCTURE = "journal"
BucketEntries = list[list[JournalEntry]]  # of one member, in the order of its ring


def report_ring(
    found: JournalFound, number: int, members: Sequence[MemberFound], report: Report, *, thorough: bool
) -> None:
    """Report a ring that has no space, or buckets out of order: fatal among needed ones.

    Others out of order are wrong for the kernel only.
    """
    ring, where = found.rings[number], f"{members[number].path} journal"
    ends, needed = ring.newest_seqs, found.newest.last_seq
    if not any(ends):
        return
    way = shlex.join(["bcachectl", "repair", "-n", "--drop-damaged", *(member.path for member in members)])
    if not is_in_ring_order(ends, needed):
        problem = (
            "expected the buckets that are needed in the order of a ring, "
            f"found them to end with entries {ends}"
        )
        lost = "nothing: all entries are there"
        report(Finding("journal-ring", Severity.FATAL, STRUCTURE, where, problem, lost, way))
    elif ends[(ring.index + 1) % len(ends)] >= needed and not _has_block_behind(ring, members[number]):
        problem = f"no bucket is free for another entry: all end with entries from {needed} on, {ends}"
        lost = "nothing: all entries are there"
        report(Finding("journal-full", Severity.FATAL, STRUCTURE, where, problem, lost, way))
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
    is_full = len(needed) == len(list(filter(None, lap)))
    in_order = all(before < after for before, after in pairwise(needed))
    return in_order and (is_full or lap[0] < oldest_needed)


def _has_block_behind(ring: RingFound, member: MemberFound) -> bool:
    """Whether there is space for an entry without keys in the bucket of the newest entry."""
    superblock = member.superblock
    return ring.behind_byte + superblock.block_bytes <= superblock.bucket_bytes


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
