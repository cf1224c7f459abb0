# SPDX-License-Identifier: GPL-2.0-only
"""The journal of a set as far as it can be read, entries behind damaged ones included.

An opening takes the newest entry that it reaches from the start of a bucket, and refuses a set whose journal
has a hole. Here every entry with a right checksum counts. Keys of entries behind the last hole are the newest
of their ranges; all older ones may have been overwritten by the keys that are missing.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from bcached.errors import BcachedError
from bcached.format.jset import JSET_BYTES_MAX, JournalEntry, sound_entries, trace_entries
from bcached.format.sizes import JOURNAL_BUCKETS_MAX, MEMBERS_MAX, METADATA_BYTES_MAX, metadata_bytes
from bcached.format.superblock import Superblock
from bcached.keys import Key
from bcached.store.finding import DAMAGED_ENTRY, TORN_ENTRY, Finding, Report, Severity
from bcached.store.journal.reader import End, JournalFound, read_bucket
from bcached.store.membership import MemberFound
from bcached.store.read_around import ReadAround
from bcached.store.reading.newer_entries import newer_traces
from bcached.store.reading.ring_check import STRUCTURE
from bcached.store.reading.ring_end import find_end, finding_of_end
from bcached.store.rescue.remains.journal_end import is_interrupted, may_hide_newer
from bcached.units import SECTOR_BYTES

CHUNK_BYTES = 1 << 20
BUCKETS_LOOKED_AT = 300  # a journal has 256 at most, behind the superblock's
BYTES_LOOKED_AT = 4 << 30  # if there is none


@dataclass(slots=True)
class JournalLeft:
    """The entries that count, and from which of them on nothing is missing."""

    found: JournalFound
    sure_from: int = 0  # the keys of entries from this seq on are the newest of their ranges
    is_whole: bool = True  # then so are the keys of the index
    is_lost: bool = False  # there is no entry
    others: list[JournalEntry] = field(default_factory=list)  # not needed any more, newest first
    contradictions: set[int] = field(default_factory=set)  # seqs that two different entries have

    @property
    def entries(self) -> list[JournalEntry]:
        """The entries to replay, oldest first."""
        return self.found.entries

    @property
    def older(self) -> list[JournalEntry]:
        """Those of the others with no entry missing between them and the newest, oldest first."""
        expected = self.entries[-1].last_seq
        if not self.is_whole or self.entries[0].seq != expected:
            return []
        older = list[JournalEntry]()
        for entry in self.others:
            expected -= 1
            if entry.seq != expected or entry.seq in self.contradictions:
                break
            older.append(entry)
        return older[::-1]

    @property
    def sure(self) -> list[JournalEntry]:
        """The entries whose keys are the newest."""
        return [entry for entry in self.entries if entry.seq >= self.sure_from]

    @property
    def with_newest_prios(self) -> list[JournalEntry]:
        """The entries since the last prio write: no bucket that they name was reused since."""
        last = self.entries[-1].prio_heads
        count = 0
        for entry in reversed(self.entries):
            if entry.prio_heads != last:
                break
            count += 1
        return [entry for entry in self.entries[-count:] if entry.seq >= self.sure_from]


async def read_journal_left(members: Sequence[MemberFound], report: Report) -> JournalLeft:
    """Read all journal buckets of all members. Without any entry, the index can only be searched for."""
    found, holes = await _read_buckets(members, report)
    known: dict[int, JournalEntry] = {}
    contradictions = set[int]()
    for bucket in found.buckets:
        for placed in bucket.sound:
            entry = placed.entry
            if known.setdefault(entry.seq, entry) != entry:
                contradictions.add(entry.seq)
    if not known:
        return _lost(found, members, report)
    newest = known[max(known)]
    found.entries = [known[seq] for seq in sorted(known) if seq >= newest.last_seq]
    others = [known[seq] for seq in sorted(known, reverse=True) if seq < newest.last_seq]
    left = JournalLeft(found, others=others, contradictions=contradictions)
    _find_hole(left, members, holes, report)
    newer = newer_traces(found, members, report)
    is_cut_off = bool(newer) and await is_interrupted(found, members)
    if is_cut_off:
        newer = {}
        problem = (
            f"the power failed while entry {newest.seq + 1} was written: entry {newest.seq} is the newest"
        )
        where, lost = members[0].path, "nothing: nothing in it was acknowledged"
        report(Finding(TORN_ENTRY, Severity.TORN, STRUCTURE, where, problem, lost))
    if newer or may_hide_newer(found, members, holes) or contradictions & {e.seq for e in left.entries}:
        left.sure_from, left.is_whole = newest.seq + 1, False
    if newer:
        problem = f"entry {newest.seq} is the newest that is whole, but there are traces of newer ones"
        lost = "the changes in them, if the power did not fail while they were written"
        where = newer[min(newer)][0].where
        report(Finding(DAMAGED_ENTRY, Severity.DAMAGE, STRUCTURE, where, problem, lost))
    else:
        await _judge_end(left, members, report)
    return left


async def _judge_end(left: JournalLeft, members: Sequence[MemberFound], report: Report) -> None:
    """Doubt everything if the end of the journal shows that a newer entry was erased."""
    found = left.found
    found.end = end = await find_end(found, members)
    if end.known == End.SUSPECT:
        left.sure_from, left.is_whole = found.newest.seq + 1, False
        report(finding_of_end(found))


def _lost(found: JournalFound, members: Sequence[MemberFound], report: Report) -> JournalLeft:
    """Returns a journal with one entry that names nothing."""
    lost = "where the index and the volumes are: leaves have to be searched for"
    problem = "found no journal entry"
    report(Finding("journal-empty", Severity.FATAL, STRUCTURE, members[0].path, problem, lost))
    nowhere = Key(0, 0, 0, False, ())
    found.entries = [JournalEntry(1, 1, nowhere, nowhere, 0, (0,) * MEMBERS_MAX)]
    return JournalLeft(found, sure_from=2, is_whole=False, is_lost=True)


async def _read_buckets(
    members: Sequence[MemberFound], report: Report
) -> tuple[JournalFound, list[ReadAround]]:
    """Returns all journal buckets, and the members as they were read, around what is unreadable."""
    found = JournalFound()
    around = [ReadAround(member.block_device, member.superblock.block_bytes) for member in members]
    for number, member in enumerate(members):
        readable = replace(member, block_device=around[number])
        for index in range(len(member.superblock.journal_buckets)):
            found.buckets.append(await read_bucket(readable, number, index))
        for begin, end in around[number].holes:
            problem = f"bytes {begin} to {end - 1} cannot be read"
            where = f"{member.path} journal bucket {begin // (member.superblock.bucket_bytes)}"
            lost = "the journal entry there, if there was one"
            report(Finding("journal-unreadable", Severity.DAMAGE, STRUCTURE, where, problem, lost))
    return found, around


def _find_hole(
    left: JournalLeft, members: Sequence[MemberFound], around: Sequence[ReadAround], report: Report
) -> None:
    """Find the last missing entry. One at the front was discarded by the kernel, if it left no trace."""
    entries = left.entries
    oldest = entries[-1].last_seq
    traces = {trace.seq for bucket in left.found.buckets for trace in bucket.traces}
    discards = all(member.superblock.discard for member in members) and not any(one.holes for one in around)
    expected = oldest
    for entry in entries:
        missing = range(expected, entry.seq)
        is_discarded = expected == oldest and discards and not traces.intersection(missing)
        if missing and not is_discarded:
            left.sure_from, left.is_whole = entry.seq, False
            problem = (
                f"entries {missing.start} to {missing.stop - 1} of {oldest} to {entries[-1].seq} are missing"
            )
            where = members[0].path
            report(Finding("journal-hole", Severity.DAMAGE, STRUCTURE, where, problem, "the keys in them"))
        expected = entry.seq + 1


def sizes_fit(superblock: Superblock, entry: JournalEntry) -> bool:
    """Whether the uuid table that an entry names is as long as it is with a superblock's buckets."""
    return entry.uuid_bucket.sectors * SECTOR_BYTES == metadata_bytes(superblock.bucket_sectors)


async def fits_its_journal(member: MemberFound, newest: int) -> bool:
    """Whether a superblock that is a guess hides no entries: newest is the highest seq found by it.

    1. No entry near the device's beginning is newer: the journal is where the superblock says. 2. All begin
    at a block: blocks are not smaller. (If they are larger, bsets are found behind a gap, which is damage.)
    """
    block_bytes = member.superblock.block_bytes
    async for byte, entry in entries_near_beginning(member):
        if entry.seq > newest or byte % block_bytes:
            return False
    return True


async def with_journal_found(member: MemberFound) -> MemberFound:
    """Returns a member whose superblock is a guess with all journal buckets that there may be.

    Its first bucket may be another than the usual one. Buckets too many do no harm to a reader. But the
    entries must show that the sizes are right: of the largest buckets only the journal's place does.
    """
    superblock = member.superblock
    bucket_bytes = superblock.bucket_bytes
    if bucket_bytes >= METADATA_BYTES_MAX:
        return member
    found = set[int]()
    async for byte, entry in entries_near_beginning(member):
        if not sizes_fit(superblock, entry) or byte % (superblock.block_bytes):
            return member
        found.add(byte // bucket_bytes)
    every = found | set(superblock.journal_buckets)
    first, last = min(every), min(max(every), superblock.bucket_count - 1)
    journal = tuple(range(first, last + 1))
    if len(journal) > JOURNAL_BUCKETS_MAX:
        return member
    return replace(member, superblock=replace(superblock, journal_buckets=journal))


async def entries_near_beginning(member: MemberFound) -> AsyncIterator[tuple[int, JournalEntry]]:
    """Yields the sound entries of the set where journals are, and the byte at which each begins.

    Behind the usual place of the journal only where no entry is there: its first bucket may be any.
    """
    device, superblock = member.block_device, member.superblock
    usual = BUCKETS_LOOKED_AT * superblock.bucket_bytes
    is_found = False
    for begin in range(0, min(device.size_bytes, max(usual, BYTES_LOOKED_AT)), CHUNK_BYTES):
        if is_found and begin >= usual:
            return
        length = min(CHUNK_BYTES + JSET_BYTES_MAX, device.size_bytes - begin)
        try:
            raw = await device.read(begin, length)
        except BcachedError:
            continue
        traces = [trace.byte for trace in trace_entries(raw, superblock.set_magic, SECTOR_BYTES)]
        for placed in sound_entries(raw, traces, superblock.set_magic, SECTOR_BYTES, member.path):
            if placed.offset_bytes < CHUNK_BYTES:
                if not is_found and begin >= usual:
                    usual += begin
                is_found = True
                yield begin + placed.offset_bytes, placed.entry
