# SPDX-License-Identifier: GPL-2.0-only
"""Traces of journal entries that are newer than the newest that can be read.

One entry is in flight at a time, so a power cut leaves a trace of the next one at most, and only if that has
several sectors. More traces mean that changes are lost; so does, unless the device may garble the sector that
it is writing when the power fails, a wrong checksum that whole sectors cannot explain.
"""

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from bcached.errors import BcachedError
from bcached.format.damage.correction import corrected_entry
from bcached.format.damage.damaged_entry import is_damaged
from bcached.format.jset import JSET_BYTES_MAX
from bcached.store.finding import DAMAGED_ENTRY, TORN_ENTRY, Finding, Report, Severity
from bcached.store.journal.reader import BucketFound, JournalFound
from bcached.store.membership import MemberFound
from bcached.store.reading.location_checks import bounds_of
from bcached.store.reading.ring_check import STRUCTURE


class NewerTrace(NamedTuple):
    """A journal bucket, and the byte of it where a newer entry begins."""

    bucket: BucketFound
    byte: int

    @property
    def where(self) -> str:
        """The location, in words."""
        return f"{self.bucket.where}, byte {self.byte}"


Newer = dict[int, list[NewerTrace]]  # by the seqs of the entries


def newer_traces(found: JournalFound, members: Sequence[MemberFound], report: Report) -> Newer:
    """Returns the traces of entries newer than the newest that can be read."""
    newest, newer = found.newest, Newer()
    # A ring cannot hold more entries than blocks: no entry was written with a higher seq.
    seq_max = newest.seq + max(map(_blocks_of_ring, members))
    for bucket in found.buckets:
        follows = not bucket.entries or bucket.entries[-1].entry.seq == newest.seq
        sound = {placed.offset_bytes for placed in bucket.behind}
        for byte, seq, last_seq in bucket.traces:
            if seq <= newest.seq:
                continue
            trace = NewerTrace(bucket, byte)
            # A later entry never has an older last_seq: this is an old entry with a damaged seq.
            is_old = seq > newest.seq + 1 and last_seq < newest.last_seq
            # 1. A seq that may follow the newest.
            if seq <= seq_max and not is_old:
                newer.setdefault(seq, []).append(trace)
            # 2. A damaged seq at the next entry's position.
            elif seq > seq_max and follows and byte == bucket.next_byte and not is_old:
                newer.setdefault(newest.seq + 1, []).append(trace)
            # 3. No entry that was ever written, but sound: the next entries will end in front of it.
            elif byte in sound:
                problem = (
                    f"a sound entry has seq {seq}, which no entry can have: ignored here, but the kernel "
                    "takes it for the newest once there are entries right up to it"
                )
                lost = "nothing here; the kernel may refuse the set"
                advice = way_back(members, newest.seq)
                report(
                    Finding("journal-stray", Severity.DAMAGE, STRUCTURE, trace.where, problem, lost, advice)
                )
            # 4. No entry.
            else:
                problem = f"a block with an entry's magic has seq {seq}, which no entry can have: ignored"
                report(Finding("journal-stray", Severity.NOTE, STRUCTURE, trace.where, problem))
        # 5. The right seq at the next entry's position, and a damaged magic: that is no trace.
        trace = NewerTrace(bucket, bucket.next_byte)
        if follows and bucket.end is not None and bucket.next_seq == newest.seq + 1:
            traces = newer.setdefault(newest.seq + 1, [])
            if trace not in traces:
                traces.append(trace)
    return newer


def _blocks_of_ring(member: MemberFound) -> int:
    superblock = member.superblock
    return len(superblock.journal_buckets) * superblock.bucket_sectors // superblock.block_sectors


async def report_newer(
    newer: Newer, found: JournalFound, members: Sequence[MemberFound], report: Report
) -> None:
    """Report entries that were written after the newest that can be read.

    1. Several. 2. One that was damaged. 3. One whose write may have been interrupted.
    """
    newest = found.newest.seq
    where = newer[min(newer)][0].where
    if max(newer) > newest + 1:
        problem = (
            f"entry {newest} is the newest that can be read, but entries up to {max(newer)} were written: "
            "a power cut cannot cause this"
        )
        lost, advice = f"all changes since entry {newest}", way_back(members, newest)
        report(Finding("journal-lost", Severity.FATAL, STRUCTURE, where, problem, lost, advice))
        return
    for trace in newer[newest + 1]:
        if (finding := await _damage(trace, found, members)) is not None:
            report(finding)
            return
    problem = f"entry {newest + 1} is not complete, so entry {newest} counts as the newest"
    lost = "nothing if the power failed while it was written; else the changes in it"
    report(Finding(TORN_ENTRY, Severity.TORN, STRUCTURE, where, problem, lost))


async def _damage(trace: NewerTrace, found: JournalFound, members: Sequence[MemberFound]) -> Finding | None:
    """Returns the finding of an entry that no power cut can have left as it is; None if one can."""
    member, newest = members[trace.bucket.member], found.newest
    bucket_bytes, set_magic = member.superblock.bucket_bytes, member.superblock.set_magic
    length = min(JSET_BYTES_MAX, bucket_bytes - trace.byte)
    try:
        raw = await member.block_device.read(trace.bucket.bucket * bucket_bytes + trace.byte, length)
    except BcachedError:
        return None
    if not is_damaged(raw, set_magic, newest, bounds_of([one.superblock for one in members])):
        return None
    problem = (
        f"entry {newest.seq + 1} is damaged, so entry {newest.seq} counts as the newest: a power cut causes "
        "this only on a device that may garble the sector it is writing"
    )
    lost, advice = "the changes in it", way_back(members, newest.seq)
    corrected = corrected_entry(raw, set_magic)
    if corrected is not None and corrected != raw[: len(corrected)]:
        lost = "nothing if its one wrong bit is corrected before the set is opened; else the changes in it"
        advice = shlex.join(["bcachectl", "repair", "--correct-bits", *(one.path for one in members)])
    return Finding(DAMAGED_ENTRY, Severity.DAMAGE, STRUCTURE, trace.where, problem, lost, advice)


def way_back(members: Sequence[MemberFound], seq: int) -> str:
    """Returns the command that discards all changes after an entry."""
    paths = shlex.join(member.path for member in members)
    return f"bcachectl repair --clear-journal-behind {seq} {paths}"
