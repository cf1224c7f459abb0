# SPDX-License-Identifier: GPL-2.0-only
"""What a journal must be for a set to be opened, and what else is wrong with it.

One list of rules for the opening and for a check. The fatal ones use only what an opening reads of the
journal (journal/reader.py), so that both agree; a thorough check reads the rest as well, to report what else
is wrong, or where a missing entry was.

Kernel: discards a journal bucket as soon as nothing in it is needed any more, before the entry that says so
is written. So on a device that discards, the oldest entries from the newest's last_seq on may be missing
without a trace, and nothing is lost by it.
"""

from collections.abc import Sequence

from bcached.errors import BadChecksum, BadMagic, BcachedError
from bcached.format.jset import JournalEntry, TooLong
from bcached.store.finding import Finding, Report, Severity, finding_of
from bcached.store.journal.reader import BucketFound, End, JournalFound, read_bucket, read_ring
from bcached.store.membership import MemberFound
from bcached.store.read_around import around_bad_sectors
from bcached.store.reading.newer_entries import newer_traces, report_newer, way_back
from bcached.store.reading.ring_check import STRUCTURE, report_ring
from bcached.store.reading.ring_end import find_end, finding_of_end

NOT_AN_ENTRY = (BadMagic, BadChecksum, TooLong)
SEQ_MAX = (1 << 63) - 1  # a thousand entries a second for three hundred million years


async def read_journal(
    members: Sequence[MemberFound], report: Report, *, thorough: bool = False
) -> JournalFound:
    """Read and judge the members' journals. Returns no entries if none can be used."""
    found = await _read(members, report)
    if thorough:
        await _read_others(found, members, report)
    path = members[0].path
    known = {
        placed.entry.seq: placed.entry
        for bucket in reversed(found.buckets)
        for placed in reversed(bucket.entries)
    }
    oldest_needed = known[max(known)].last_seq if known else 0
    _report_nonsense(found, oldest_needed, report)
    if not known:
        lost = "everything: only the journal has the locations of the index and the volumes"
        problem = "no journal entries found, though the superblock says there is a journal"
        report(Finding("journal-empty", Severity.FATAL, STRUCTURE, path, problem, lost))
        return found
    found.entries = [known[seq] for seq in sorted(known) if seq >= oldest_needed]
    _report_contradictions(found, known, oldest_needed, report)
    _report_seq(found, path, report)
    await _report_gaps(found, members, report)
    newer = newer_traces(found, members, report)
    if newer:
        await report_newer(newer, found, members, report)
    elif thorough:
        await _report_end(found, members, report)
    for number in range(len(members)):
        report_ring(found, number, members, report, thorough=thorough)
    if thorough and len(members) > 1:
        _report_mirrors(found, members, report)
    return found


async def _read(members: Sequence[MemberFound], report: Report) -> JournalFound:
    """Reads what an opening uses."""
    found = JournalFound()
    for number, member in enumerate(members):
        try:
            ring, buckets = await read_ring(member, number)
        except BcachedError as error:
            lost = "the journal entries in it"
            report(finding_of(error, "journal-unreadable", Severity.FATAL, lost))
            ring, buckets = await read_ring(around_bad_sectors(member), number)
        found.rings.append(ring)
        found.buckets += sorted(buckets, key=_index_of)
    return found


async def _read_others(found: JournalFound, members: Sequence[MemberFound], report: Report) -> None:
    """Read the buckets that an opening does not use."""
    read = {(bucket.member, bucket.index) for bucket in found.buckets}
    for number, member in enumerate(members):
        for index in range(len(member.superblock.journal_buckets)):
            if (number, index) in read:
                continue
            try:
                found.others.append(await read_bucket(member, number, index))
            except BcachedError as error:
                report(finding_of(error, "journal-unreadable", Severity.DAMAGE, "old journal entries"))
                found.others.append(await read_bucket(around_bad_sectors(member), number, index))


def _index_of(bucket: BucketFound) -> int:
    return bucket.index


def _report_nonsense(found: JournalFound, oldest_needed: int, report: Report) -> None:
    """Report entries with a good checksum and invalid fields.

    One that is not needed any more is of the lap before: nothing is lost by it, wherever the newest one is.
    """
    for buckets, may_count in ((found.buckets, True), (found.others, False)):
        for bucket in buckets:
            if bucket.end is None or isinstance(bucket.end, NOT_AN_ENTRY):
                continue
            if bucket.next_seq < oldest_needed:
                lost = "nothing: it is not needed any more"
                report(finding_of(bucket.end, "journal-entry", Severity.NOTE, lost))
                continue
            severity = Severity.FATAL if may_count else Severity.DAMAGE
            report(finding_of(bucket.end, "journal-entry", severity, "the keys in it and behind it"))


def _report_contradictions(
    found: JournalFound, known: dict[int, JournalEntry], oldest_needed: int, report: Report
) -> None:
    """Report different entries of one seq."""
    counting = {(bucket.member, bucket.index) for bucket in found.buckets}
    for bucket, placed in found.placed():
        seq = placed.entry.seq
        if known.setdefault(seq, placed.entry) != placed.entry:
            is_fatal = seq >= oldest_needed and (bucket.member, bucket.index) in counting
            where = f"{bucket.where}, byte {placed.offset_bytes}"
            problem = f"entry {seq} differs from the entry {seq} on another member, or in another bucket"
            severity = Severity.FATAL if is_fatal else Severity.NOTE
            report(Finding("journal-contradiction", severity, STRUCTURE, where, problem))


def _report_seq(found: JournalFound, path: str, report: Report) -> None:
    """Report a seq so high that entries could not follow."""
    seq = found.newest.seq
    if seq > SEQ_MAX:
        problem = f"expected a journal entry with a seq of at most {SEQ_MAX}, found {seq}"
        report(Finding("journal-seq", Severity.FATAL, STRUCTURE, path, problem))


async def _report_gaps(found: JournalFound, members: Sequence[MemberFound], report: Report) -> None:
    """Report missing entries: every one from the newest's last_seq on is needed."""
    expected = found.newest.last_seq
    for entry in found.entries:
        if entry.seq != expected:
            missing = range(expected, entry.seq)
            discards = all(member.superblock.discard for member in members)
            at_front = expected == found.newest.last_seq
            if at_front and discards and not found.others:
                await _read_others(found, members, report)  # a damaged entry leaves a trace
            _report_gap(found, members, missing, at_front and discards, report)
        expected = entry.seq + 1


def _report_gap(
    found: JournalFound,
    members: Sequence[MemberFound],
    missing: range,
    may_be_discarded: bool,
    report: Report,
) -> None:
    """Report missing entries: a note if the kernel's discards explain it, else fatal."""
    newest = found.newest
    first, last = missing.start, missing.stop - 1  # more may be missing than len can return
    names = f"{first}" if first == last else f"{first} to {last}"
    problem = f"journal entries {names} are missing of {newest.last_seq} to {newest.seq}"
    traces = [
        f"{bucket.where}, byte {byte}"
        for bucket in [*found.buckets, *found.others]
        for byte, seq, _ in bucket.traces
        if seq in missing
    ]
    where = traces[0] if traces else members[0].path
    if traces:
        problem += "; one of them is here and damaged, or behind a damaged one"
    if may_be_discarded and not traces:
        # Kernel: discards a bucket before the entry that releases it is durable, and so accepts this.
        problem += ", which the kernel accepts on a device that discards"
        report(Finding("journal-gap", Severity.NOTE, STRUCTURE, where, problem))
        return
    advice = ""
    if any(entry.seq == first - 1 for entry in found.entries):
        advice = way_back(members, first - 1)
    report(Finding("journal-gap", Severity.FATAL, STRUCTURE, where, problem, "the keys in them", advice))


async def _report_end(found: JournalFound, members: Sequence[MemberFound], report: Report) -> None:
    """Report an end that is no writer's: the newest entries may have been erased."""
    found.end = end = await find_end(found, members)
    if end.unread is not None:
        report(finding_of(end.unread, "journal-unreadable", Severity.DAMAGE, "how the journal ends"))
    if end.known == End.SUSPECT:
        report(finding_of_end(found, way_back(members, found.newest.seq)))


def _report_mirrors(found: JournalFound, members: Sequence[MemberFound], report: Report) -> None:
    """Report entries missing on some members: each is written to all before the next is begun."""
    on_member: list[set[int]] = [set() for _ in members]
    for bucket, placed in found.placed():
        on_member[bucket.member].add(placed.entry.seq)
    for member, seqs in zip(members, on_member, strict=True):
        for entry in found.entries:
            if entry.seq in seqs:
                continue
            problem = f"entry {entry.seq} is missing here, but another member has it"
            severity = Severity.NOTE if entry is found.newest else Severity.TORN
            lost = "nothing, as long as that member can be read"
            report(Finding("journal-mirror", severity, STRUCTURE, f"{member.path} journal", problem, lost))
