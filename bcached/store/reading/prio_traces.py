# SPDX-License-Identifier: GPL-2.0-only
"""Prio sets that only journal entries newer than all that were found can have named.

A chain is written with the seq behind that of the one before, to other buckets, and an entry that names its
head is durable before the next one is written (kernel: bch_prio_write waits for bch_journal_meta). So of the
heads that entries in sequence name, one k changes before the newest has a seq k lower, or its bucket was used
again. 1. A seq higher by two or more: the chain between was named by an entry that is missing. 2. A seq lower
than that: the head that the newest entry found names was written again since. One chain more than entries
name proves nothing: the power may have failed before the entry that was to name it was written. A set need
not be whole for that: its first sector, which has the seq, was not written before its time either.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from bcached.errors import BcachedError
from bcached.format.prio_set import claimed_seq
from bcached.store.journal.reader import JournalFound
from bcached.store.membership import MemberFound
from bcached.units import SECTOR_BYTES


@dataclass(frozen=True, slots=True)
class PrioTrace:
    """A prio set that contradicts the newest entry found: its bucket, and why it does."""

    bucket: int
    where: str
    why: str


async def prio_traces(found: JournalFound, number: int, member: MemberFound) -> AsyncIterator[PrioTrace]:
    """Yields the prio sets of a member that show that entries newer than the newest found were erased."""
    heads = heads_named(found, number)
    newest = await _seq_at(member, heads[0]) if len(heads) > 1 else None
    if newest is None:
        return
    for bucket, changes in {head: changes for changes, head in reversed([*enumerate(heads)])}.items():
        seq = await _seq_at(member, bucket)
        if seq is None or newest - changes <= seq <= newest + 1:
            continue
        expected = f"{newest - changes}, as {changes} changes before number {newest}"
        why = f"the prios there are number {seq}, but the entries found make them {expected}"
        yield PrioTrace(bucket, f"{member.path} bucket {bucket}", why)


def heads_named(found: JournalFound, number: int) -> list[int]:
    """Returns the heads of a member's prio chains that entries without a gap name, newest first.

    Nothing is known of what was before an entry with which a journal begins.
    """
    entries = found.sound_by_seq()
    heads: list[int] = []
    seq = found.newest.seq
    while (entry := entries.get(seq)) is not None:
        if not heads or heads[-1] != entry.prio_heads[number]:
            heads.append(entry.prio_heads[number])
        if entry.is_a_beginning:
            break
        seq -= 1
    return heads


async def _seq_at(member: MemberFound, bucket: int) -> int | None:
    """Returns the seq of the prio set that begins a bucket; None if there is none."""
    superblock = member.superblock
    if not superblock.first_bucket <= bucket < superblock.bucket_count:
        return None
    begin = bucket * superblock.bucket_bytes
    try:
        return claimed_seq(await member.block_device.read(begin, SECTOR_BYTES), superblock.set_magic)
    except BcachedError:
        return None
