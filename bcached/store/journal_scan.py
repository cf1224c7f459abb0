"""The journal of a set that may be damaged: every entry there is, and what is wrong with the rest.

Opening reads no more of the journal than it must (journal_reader.py); here all of it is read, so that of an
entry that is missing it can be said where it was.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from bcached.errors import BadChecksum, BadMagic, BcachedError, FormatError
from bcached.format.jset import (
    JournalEntry,
    PlacedEntry,
    TooLong,
    claimed_seq,
    scan_journal_bucket,
    trace_entries,
)
from bcached.store.finding import Finding, Report, Severity, finding_of
from bcached.store.journal_reader import SEQ_MAX, is_in_ring_order
from bcached.store.membership import MemberFound
from bcached.units import SECTOR_BYTES

STRUCTURE = "journal"
NOT_AN_ENTRY = (BadMagic, BadChecksum, TooLong)
GOLDEN_RATIO = 2_654_435_769  # kernel: spreads the buckets it tries first


@dataclass(slots=True)
class BucketScan:
    """One journal bucket of one member."""

    member: int
    bucket: int
    where: str
    entries: list[PlacedEntry]  # in one lap of the ring: what is left of the one before is not among them
    traces: list[tuple[int, int]]  # (byte, seq) of all that looks like an entry
    end: FormatError | None  # why there are no more
    next_byte: int  # where the next entry would begin
    next_seq: int  # what stands where its seq would


@dataclass(slots=True)
class JournalScan:
    """All members' journals: the entries to be replayed, oldest first, and everything found."""

    buckets: list[BucketScan]
    entries: list[JournalEntry] = field(default_factory=list)

    @property
    def newest(self) -> JournalEntry:
        """The entry that tells where all metadata is."""
        return self.entries[-1]

    def placed(self) -> Iterator[tuple[BucketScan, PlacedEntry]]:
        """Every entry of every member and where it is, in the order of the devices."""
        for bucket in self.buckets:
            for placed in bucket.entries:
                yield bucket, placed


async def scan_journal(members: Sequence[MemberFound], report: Report) -> JournalScan:
    """Read everything; no entries if there is none to go by."""
    scan = JournalScan([])
    for number, member in enumerate(members):
        for bucket in member.superblock.journal_buckets:
            try:
                scan.buckets.append(await _scan_bucket(member, number, bucket))
            except BcachedError as error:
                lost = "the journal entries in it"
                report(finding_of(error, "journal-unreadable", Severity.DAMAGE, lost))
    known: dict[int, JournalEntry] = {}
    contradicting = [
        (found, placed)
        for found, placed in scan.placed()
        if known.setdefault(placed.entry.seq, placed.entry) != placed.entry
    ]
    if not known:
        lost = "everything: only the journal tells where the index and the volumes are"
        problem = "no journal entries found, though the superblock says there is a journal"
        report(Finding("journal-empty", Severity.FATAL, STRUCTURE, members[0].path, problem, lost))
        return scan
    oldest_needed = known[max(known)].last_seq
    scan.entries = [known[seq] for seq in sorted(known) if seq >= oldest_needed]
    for found, placed in contradicting:
        where, seq = f"{found.where}, byte {placed.offset_bytes}", placed.entry.seq
        severity = Severity.FATAL if seq >= oldest_needed else Severity.DAMAGE
        problem = f"entry {seq} is not the one found before it"
        report(Finding("journal-contradiction", severity, STRUCTURE, where, problem))
    _report_nonsense(scan, report)
    _report_seq(scan, members[0].path, report)
    _report_gaps(scan, members, report)
    _report_torn(scan, report)
    for number, member in enumerate(members):
        _report_ring(scan, number, member, report)
    if len(members) > 1:
        _report_mirrors(scan, members, report)
    return scan


async def _scan_bucket(member: MemberFound, number: int, bucket: int) -> BucketScan:
    superblock = member.superblock
    bucket_bytes = superblock.bucket_sectors * SECTOR_BYTES
    block_bytes = superblock.block_sectors * SECTOR_BYTES
    where = f"{member.path} journal bucket {bucket}"
    raw = await member.block_device.read(bucket * bucket_bytes, bucket_bytes)
    placed, end = scan_journal_bucket(raw, superblock.set_magic, block_bytes, where)
    lap = 1
    while lap < len(placed) and placed[lap].entry.seq > placed[lap - 1].entry.seq:
        lap += 1
    behind = placed[-1].offset_bytes + placed[-1].blocks * block_bytes if placed else 0
    next_seq = claimed_seq(raw, behind) if behind < len(raw) else 0
    traces = trace_entries(raw, superblock.set_magic, block_bytes)
    if lap < len(placed):
        end = None
    return BucketScan(number, bucket, where, placed[:lap], traces, end, behind, next_seq)


def _report_nonsense(scan: JournalScan, report: Report) -> None:
    """Entries that are whole and yet cannot be."""
    for bucket in scan.buckets:
        if bucket.end is not None and not isinstance(bucket.end, NOT_AN_ENTRY):
            report(finding_of(bucket.end, "journal-entry", Severity.FATAL, "the keys in it and behind it"))


def _report_seq(scan: JournalScan, path: str, report: Report) -> None:
    """There must be a next entry, and one after that."""
    if scan.newest.seq > SEQ_MAX:
        where, problem = f"{path} journal entry {scan.newest.seq}", f"expected a seq of at most {SEQ_MAX}"
        report(Finding("journal-seq", Severity.FATAL, STRUCTURE, where, problem))


def _report_gaps(scan: JournalScan, members: Sequence[MemberFound], report: Report) -> None:
    """Every entry from the newest's last_seq on must be there."""
    expected = scan.newest.last_seq
    for entry in scan.entries:
        if entry.seq != expected:
            missing = range(expected, entry.seq)
            at_front = expected == scan.newest.last_seq
            discards = all(member.superblock.discard for member in members)
            _report_gap(scan, missing, at_front and discards, report)
        expected = entry.seq + 1


def _report_gap(scan: JournalScan, missing: range, may_be_discarded: bool, report: Report) -> None:
    newest = scan.newest
    first, last = missing.start, missing.stop - 1  # more may be missing than len can tell
    names = f"{first}" if first == last else f"{first} to {last}"
    problem = f"entries {names} are missing of {newest.last_seq} to {newest.seq}"
    places = [
        f"{bucket.where}, byte {byte}"
        for bucket in scan.buckets
        for byte, seq in bucket.traces
        if seq in missing
    ]
    where = places[0] if places else scan.buckets[0].where.split(" journal bucket")[0]
    if places:
        problem += "; what was one of them is damaged, or stands behind one that is"
    if may_be_discarded and not places:
        # Kernel: discards a bucket before the entry that releases it is durable, and so forgives this.
        severity, lost = Severity.NOTE, ""
        problem += ", which the kernel forgives on a device that discards"
    else:
        severity, lost = Severity.FATAL, "the keys in them"
    report(Finding("journal-gap", severity, STRUCTURE, where, problem, lost))


def _report_torn(scan: JournalScan, report: Report) -> None:
    """What would be newer entries if they could be read."""
    newest = scan.newest.seq
    beyond: dict[int, str] = {}
    for bucket in scan.buckets:
        for byte, seq in bucket.traces:
            if seq > newest:
                beyond.setdefault(seq, f"{bucket.where}, byte {byte}")
        follows = not bucket.entries or bucket.entries[-1].entry.seq == newest
        if follows and bucket.end is not None and bucket.next_seq == newest + 1:
            beyond.setdefault(newest + 1, f"{bucket.where}, byte {bucket.next_byte}")  # its magic is gone
    if not beyond:
        return
    where = beyond[min(beyond)]
    if max(beyond) > newest + 1:
        # One entry is in flight at a time, so this was no power cut.
        problem = (
            f"entries up to {max(beyond)} are there but cannot be read, and the set falls back to {newest}"
        )
        lost = f"all changes since entry {newest}"
        report(Finding("journal-lost", Severity.DAMAGE, STRUCTURE, where, problem, lost))
        return
    problem = f"entry {newest + 1} is not whole, and the set falls back to entry {newest}"
    lost = "nothing if the power was cut while it was written; else the changes it held"
    report(Finding("journal-torn", Severity.TORN, STRUCTURE, where, problem, lost))


def _report_ring(scan: JournalScan, number: int, member: MemberFound, report: Report) -> None:
    """The kernel finds the newest entry by bisection, which needs the buckets in the order of the ring."""
    buckets = [
        [placed.entry for placed in bucket.entries] for bucket in scan.buckets if bucket.member == number
    ]
    seqs = [entries[0].seq if entries else 0 for entries in buckets]
    if not any(seqs):
        return
    last = max(entry.seq for entries in buckets for entry in entries)
    bisected = newest_by_bisection(buckets)
    newest = seqs.index(max(seqs))
    lap = [seq for seq in seqs[newest + 1 :] + seqs[: newest + 1] if seq]
    severity = Severity.DAMAGE
    ends = [entries[-1].seq if entries else 0 for entries in buckets]
    if not is_in_ring_order(ends, scan.newest.last_seq):
        severity = Severity.FATAL
        problem = f"the buckets that are needed are not in the order of a ring: they end with entries {ends}"
        lost = "nothing: all entries are there"
    elif any(after <= before for before, after in pairwise(lap)):
        problem = f"the buckets are not in the order of a ring: they begin with entries {seqs}"
        lost = "nothing here; the kernel may miss the newest entries"
    elif bisected != last:
        problem = f"the kernel's bisection ends at entry {bisected} of {last}: the buckets begin with {seqs}"
        lost = f"nothing here; the kernel misses all that was done since entry {bisected}"
    else:
        return
    report(Finding("journal-ring", severity, STRUCTURE, f"{member.path} journal", problem, lost))


def newest_by_bisection(buckets: Sequence[Sequence[JournalEntry]]) -> int:
    """The seq of the entry that the kernel takes for the newest; there is one.

    It tries buckets here and there until one holds entries, bisects from there up to the next one it has
    tried, and goes back from where that ended as long as there is something new. So it can stop before a
    bucket that is empty, because it was discarded, though there are newer entries behind it.
    """
    found: dict[int, int] = {}  # seq: its last_seq
    tried: list[int] = []

    def has_news(index: int) -> bool:
        tried.append(index)
        news = False
        for entry in buckets[index]:
            for seq in [seq for seq in found if seq < entry.last_seq]:
                del found[seq]
            expired = any(seq > entry.seq and last_seq > entry.seq for seq, last_seq in found.items())
            if entry.seq not in found and not expired:
                found[entry.seq] = entry.last_seq
                news = True
        return news

    count = len(buckets)
    hashed = [number * GOLDEN_RATIO % (1 << 32) % count for number in range(count)]
    begun = next((number for number in range(count) if hashed[number] in hashed[:number]), count)
    low = next(index for index in dict.fromkeys([*hashed[:begun], *range(count)]) if has_news(index))
    high = min((index for index in tried if index > low), default=count)
    middle = low
    while low + 1 < high:
        middle, newest = (low + high) // 2, max(found)
        has_news(middle)
        low, high = (middle, high) if max(found) != newest else (low, middle)
    for index in [*range(middle - 1, -1, -1), *range(count - 1, middle, -1)]:
        if index not in tried and not has_news(index):
            break
    return max(found)


def _report_mirrors(scan: JournalScan, members: Sequence[MemberFound], report: Report) -> None:
    """Each entry is written to all members before the next is begun."""
    on_member: list[set[int]] = [set() for _ in members]
    for bucket, placed in scan.placed():
        on_member[bucket.member].add(placed.entry.seq)
    for member, seqs in zip(members, on_member, strict=True):
        for entry in scan.entries:
            if entry.seq in seqs:
                continue
            problem = f"entry {entry.seq} is missing here, and there on another member"
            severity = Severity.NOTE if entry is scan.newest else Severity.TORN
            lost = "nothing, as long as that member is good"
            report(Finding("journal-mirror", severity, STRUCTURE, f"{member.path} journal", problem, lost))
