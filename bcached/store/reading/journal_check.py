"""What a journal must be for a set to be opened, and what else is wrong with it.

One list of rules for the opening and for a check. The fatal ones use only what an opening reads of the
journal (journal/reader.py), so that both agree; a thorough check reads the rest as well, to report what else
is wrong, or where a missing entry was.

Kernel: discards a journal bucket as soon as nothing in it is needed any more, before the entry that says so
is written. So on a device that discards, the oldest entries from the newest's last_seq on may be missing
without a trace, and nothing is lost by it.
"""

import shlex
from collections.abc import Sequence
from itertools import pairwise

from bcached.errors import BadChecksum, BadMagic, BcachedError
from bcached.format.jset import JournalEntry, TooLong
from bcached.store.finding import Finding, Report, Severity, finding_of
from bcached.store.journal.reader import BucketFound, JournalFound, RingFound, read_bucket, read_ring
from bcached.store.membership import MemberFound

STRUCTURE = "journal"
NOT_AN_ENTRY = (BadMagic, BadChecksum, TooLong)
GOLDEN_RATIO = 2_654_435_769  # kernel: spreads the buckets it tries first
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
    _report_unreadable(found, members, report)
    for number, member in enumerate(members):
        _report_ring(found, number, member, report, thorough=thorough)
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
            ring, buckets = RingFound([0] * len(member.superblock.journal_buckets)), []
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


def _index_of(bucket: BucketFound) -> int:
    return bucket.index


def _report_nonsense(found: JournalFound, oldest_needed: int, report: Report) -> None:
    """Report entries with a good checksum and invalid fields. One not needed may be of the lap before."""
    for buckets, may_count in ((found.buckets, True), (found.others, False)):
        for bucket in buckets:
            if bucket.end is None or isinstance(bucket.end, NOT_AN_ENTRY):
                continue
            counts = may_count and bucket.next_seq >= oldest_needed
            severity = Severity.FATAL if counts else Severity.DAMAGE
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
    newest = found.newest
    first, last = missing.start, missing.stop - 1  # more may be missing than len can tell
    names = f"{first}" if first == last else f"{first} to {last}"
    problem = f"journal entries {names} are missing of {newest.last_seq} to {newest.seq}"
    places = [
        f"{bucket.where}, byte {byte}"
        for bucket in [*found.buckets, *found.others]
        for byte, seq, _ in bucket.traces
        if seq in missing
    ]
    where = places[0] if places else members[0].path
    if places:
        problem += "; one of them is here and damaged, or behind a damaged one"
    if may_be_discarded and not places:
        # Kernel: discards a bucket before the entry that releases it is durable, and so accepts this.
        problem += ", which the kernel accepts on a device that discards"
        report(Finding("journal-gap", Severity.NOTE, STRUCTURE, where, problem))
        return
    advice = ""
    if any(entry.seq == first - 1 for entry in found.entries):
        advice = way_back(members, first - 1)
    report(Finding("journal-gap", Severity.FATAL, STRUCTURE, where, problem, "the keys in them", advice))


def _report_unreadable(found: JournalFound, members: Sequence[MemberFound], report: Report) -> None:
    """Report traces of entries newer than the newest that can be read.

    1. A seq that may follow the newest. 2. A damaged seq at the next entry's position. 3. No entry: a note.
    """
    newest = found.newest.seq
    # A ring cannot hold more entries than blocks: no entry was written with a higher seq.
    most = newest + max(map(_blocks_of_ring, members))
    beyond: dict[int, str] = {}
    for bucket in found.buckets:
        follows = not bucket.entries or bucket.entries[-1].entry.seq == newest
        for byte, seq, last_seq in bucket.traces:
            where = f"{bucket.where}, byte {byte}"
            # A later entry never has an older last_seq: this is an old entry with a damaged seq.
            is_old = seq > newest + 1 and last_seq < found.newest.last_seq
            if newest < seq <= most and not is_old:
                beyond.setdefault(seq, where)
            elif seq > most and follows and byte == bucket.next_byte and not is_old:
                beyond.setdefault(newest + 1, where)  # its seq is damaged
            elif seq > newest:
                problem = f"a block with an entry's magic has seq {seq}, which no entry can have: ignored"
                report(Finding("journal-stray", Severity.NOTE, STRUCTURE, where, problem))
        if follows and bucket.end is not None and bucket.next_seq == newest + 1:
            beyond.setdefault(newest + 1, f"{bucket.where}, byte {bucket.next_byte}")  # its magic is gone
    if not beyond:
        return
    where = beyond[min(beyond)]
    if max(beyond) > newest + 1:
        # One entry is in flight at a time, so a power cut cannot cause this.
        problem = (
            f"entry {newest} is the newest that can be read, but entries up to {max(beyond)} were written: "
            "a power cut cannot cause this"
        )
        lost = f"all changes since entry {newest}"
        advice = way_back(members, newest)
        report(Finding("journal-lost", Severity.FATAL, STRUCTURE, where, problem, lost, advice))
        return
    problem = f"entry {newest + 1} is not complete, so entry {newest} counts as the newest"
    lost = "nothing if the power failed while it was written; else the changes in it"
    report(Finding("journal-torn", Severity.TORN, STRUCTURE, where, problem, lost))


def _blocks_of_ring(member: MemberFound) -> int:
    superblock = member.superblock
    return len(superblock.journal_buckets) * superblock.bucket_sectors // superblock.block_sectors


def way_back(members: Sequence[MemberFound], seq: int) -> str:
    """Returns the command that discards all changes after an entry."""
    paths = shlex.join(member.path for member in members)
    return f"bcachectl repair --clear-journal-behind {seq} {paths}"


def _report_ring(
    found: JournalFound, number: int, member: MemberFound, report: Report, *, thorough: bool
) -> None:
    """Report buckets out of ring order: fatal among needed ones, else wrong for the kernel only."""
    ends = found.rings[number].newest_seqs
    if not any(ends):
        return
    where = f"{member.path} journal"
    if not is_in_ring_order(ends, found.newest.last_seq):
        problem = (
            "expected the buckets that are needed in the order of a ring, "
            f"found them to end with entries {ends}"
        )
        lost = "nothing: all entries are there"
        report(Finding("journal-ring", Severity.FATAL, STRUCTURE, where, problem, lost))
    elif thorough:
        _report_bisection(found, number, where, report)


def is_in_ring_order(newest_seqs: Sequence[int], oldest_needed: int) -> bool:
    """Whether the buckets that are still needed were filled in sequence, round the ring.

    Else one of them may be right behind the newest, and there is no space for the entry that would free it.
    """
    behind = newest_seqs.index(max(newest_seqs)) + 1
    lap = [*newest_seqs[behind:], *newest_seqs[:behind]]
    needed = [seq for seq in lap if seq and seq >= oldest_needed]
    return all(before < after for before, after in pairwise(needed))


def _report_bisection(found: JournalFound, number: int, where: str, report: Report) -> None:
    """Report what misleads the kernel's bisection for the newest entry, which needs buckets in ring order.

    1. Entries out of order. 2. It ends beyond the newest. 3. It ends before the newest. 4. Else nothing.
    """
    buckets: list[list[JournalEntry]] = [[] for _ in found.rings[number].newest_seqs]
    read = [list(bucket) for bucket in buckets]
    for bucket in [*found.buckets, *found.others]:
        if bucket.member == number:
            buckets[bucket.index] = [placed.entry for placed in bucket.entries]
            read[bucket.index] = [placed.entry for placed in (*bucket.entries, *bucket.leftovers)]
    seqs = [entries[0].seq if entries else 0 for entries in buckets]
    if not any(seqs):
        return
    bisected, last = newest_by_bisection(read), max(found.rings[number].newest_seqs)
    behind = seqs.index(max(seqs)) + 1
    # All entries, not only the first of each bucket: the kernel uses each one that it reads.
    lap = [entry.seq for entries in buckets[behind:] + buckets[:behind] for entry in entries]
    misplaced = next(((before, after) for before, after in pairwise(lap) if after <= before), None)
    if misplaced:
        before, after = misplaced
        problem = (
            f"the buckets are not in the order of a ring: entry {after} is behind entry {before}, "
            f"and they begin with entries {seqs}"
        )
        lost = "nothing here; the kernel may miss the newest entries"
        if (stray := max(lap)) > last:
            lost = f"the changes in entry {stray}: an opening does not read it there; the kernel may"
    elif bisected > last:
        problem = f"the kernel takes entry {bisected} for the newest: a leftover, the newest is {last}"
        lost = "nothing here; the kernel may refuse the set"
    elif bisected < last:
        problem = f"the kernel's bisection ends at entry {bisected} of {last}: the buckets begin with {seqs}"
        lost = f"nothing here; the kernel misses all changes since entry {bisected}"
    else:
        return
    report(Finding("journal-ring", Severity.DAMAGE, STRUCTURE, where, problem, lost))


def newest_by_bisection(buckets: Sequence[Sequence[JournalEntry]]) -> int:
    """Returns the seq of the entry that the kernel takes for the newest; there must be an entry.

    Kernel: 1. tries buckets by golden ratio hash until one has entries, 2. bisects from there up to the next
    one tried, 3. goes back from where that ended as long as there is something new. So it can stop before an
    empty bucket, which was discarded, though there are newer entries behind it.
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
