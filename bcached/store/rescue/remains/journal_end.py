# SPDX-License-Identifier: GPL-2.0-only
"""Whether the newest entry that was found is the newest that was written.

If not, all that is older may have been overwritten. An entry behind it that a power cut interrupted does not
count: nothing in it was acknowledged, and the kernel ignores it.
"""

from collections.abc import Sequence
from dataclasses import replace

from bcached.errors import BcachedError
from bcached.format.damage.torn_entry import cut_of
from bcached.format.jset import JSET_BYTES_MAX, EntryTrace, claimed_bytes
from bcached.store.journal.reader import BucketFound, End, JournalFound
from bcached.store.membership import MemberFound
from bcached.store.read_around import ReadAround
from bcached.store.reading.newer_entries import newer_traces
from bcached.store.reading.next_place import NextPlace
from bcached.store.reading.ring_end import RingRead, older_in
from bcached.units import SECTOR_BYTES


def may_hide_newer(found: JournalFound, members: Sequence[MemberFound], around: Sequence[ReadAround]) -> bool:
    """Whether the entry behind the newest may be in what no member can read.

    It would be right behind it, or at the beginning of the bucket that is next. None is hidden further
    behind: the one before it would have to be there.
    """
    with_journal = [number for number, member in enumerate(members) if member.superblock.journal_buckets]
    return all(_hides_newer(found, number, members[number], around[number]) for number in with_journal)


def _hides_newer(found: JournalFound, number: int, member: MemberFound, around: ReadAround) -> bool:
    """Whether a member may hide the entry behind the newest; or all its newest ones."""
    if not around.holes:
        return False
    seq = found.newest.seq
    block_bytes, bucket_bytes = (
        sectors * SECTOR_BYTES
        for sectors in (member.superblock.block_sectors, member.superblock.bucket_sectors)
    )
    for bucket in found.buckets:
        for placed in bucket.sound:
            if bucket.member == number and placed.entry.seq == seq:
                buckets = member.superblock.journal_buckets
                behind = bucket.bucket * bucket_bytes + placed.offset_bytes + placed.blocks * block_bytes
                following = buckets[(bucket.index + 1) % len(buckets)] * bucket_bytes
                return any(around.is_hole(byte, byte + block_bytes) for byte in (behind, following))
    return True


async def is_interrupted(found: JournalFound, members: Sequence[MemberFound]) -> bool:
    """Whether all traces of newer entries are of one whose write a power cut interrupted.

    An entry counts once all members have it. So one that has what an earlier lap of its ring left there, and
    not even a trace, shows it, too.
    """
    newer = newer_traces(found, members, lambda _: None)
    if max(newer, default=0) == found.newest.seq + 1 and await _lacks_any_trace(found, members):
        return True
    buckets = []
    for bucket in found.buckets:
        cut_off = {
            trace.byte
            for trace in bucket.traces
            if trace.seq == found.newest.seq + 1
            and await _is_cut_off(found, members[bucket.member], bucket, trace)
        }
        traces = [trace for trace in bucket.traces if trace.byte not in cut_off]
        next_seq = 0 if bucket.next_byte in cut_off else bucket.next_seq
        buckets.append(replace(bucket, traces=traces, next_seq=next_seq))
    others = replace(found, buckets=buckets)
    return not newer_traces(others, members, lambda _: None)


async def _lacks_any_trace(found: JournalFound, members: Sequence[MemberFound]) -> bool:
    """Whether a member proves that the newest entry found is the newest that it ever had."""
    for number, member in enumerate(members):
        ring = RingRead(found, number, member)
        traces = [trace.seq for bucket in ring.buckets() for trace in bucket.traces]
        newest = ring.newest()
        if newest is None or newest.seq != found.newest.seq or max(traces) > newest.seq:
            continue
        if (await ring.end()).known == End.PROVEN:
            return True
    return False


async def _is_cut_off(
    found: JournalFound, member: MemberFound, bucket: BucketFound, trace: EntryTrace
) -> bool:
    bucket_bytes = member.superblock.bucket_bytes
    length = min(JSET_BYTES_MAX, bucket_bytes - trace.byte)
    try:
        raw = await member.block_device.read(bucket.bucket * bucket_bytes + trace.byte, length)
    except BcachedError:
        return False
    cut = cut_of(raw, member.superblock.set_magic, found.newest)
    if cut is None:
        return False
    block_bytes = member.superblock.block_bytes
    first = -(-cut // block_bytes) * block_bytes
    is_inside = first >= claimed_bytes(raw)  # of the last block, of which nothing is known
    return is_inside or await _was_left_behind(found, member, bucket, trace.byte + first)


async def _was_left_behind(found: JournalFound, member: MemberFound, bucket: BucketFound, byte: int) -> bool:
    """Whether a block behind the cut has what an earlier lap of the ring left there, as far as that is known.

    Else the entry may have been whole before that was written over it.
    """
    seq = found.newest.seq
    if not older_in(bucket, byte, seq):
        return True
    following = RingRead(found, bucket.member, member).following(bucket)
    end = await NextPlace(member, bucket, byte, following, seq).end()
    return end.known != End.SUSPECT
