# SPDX-License-Identifier: GPL-2.0-only
"""Reading the journal back: every member's ring, as far as it can hold an entry that matters.

Each bucket's beginning is read first, since an entry whose bucket does not begin with one is never looked
for. Then these are read whole: buckets that can hold a needed entry, and those that could hide an entry newer
than the newest, which are buckets that begin with something else, and the bucket that is next in the ring. An
opening uses these only; a check reads the others, too, once it has judged the same ones (journal_check.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from bcached.device.block_device import BlockDevice
from bcached.errors import BadMagic, BcachedError, FormatError
from bcached.format.jset import (
    JSET_BYTES_MAX,
    EntryTrace,
    JournalEntry,
    PlacedEntry,
    claimed_seq,
    is_of_another_set,
    scan_journal_bucket,
    sound_entries,
    trace_entries,
)
from bcached.store.membership import MemberFound


@dataclass(frozen=True, slots=True)
class BucketFound:
    """One journal bucket of one member, read whole."""

    member: int
    index: int  # position in the ring
    bucket: int
    where: str
    entries: list[PlacedEntry]  # entries of the newest lap of the ring in this bucket
    leftovers: list[PlacedEntry]  # entries of earlier laps behind those; the kernel reads them, too
    traces: list[EntryTrace]  # every position with an entry's magic
    behind: list[PlacedEntry]  # sound entries behind `end`, which an opening does not use
    end: FormatError | None  # what is wrong at the position of the next entry
    next_byte: int  # where the next entry would begin
    next_seq: int  # the seq that the bytes there claim

    @property
    def sound(self) -> list[PlacedEntry]:
        """All sound entries in the bucket."""
        return [*self.entries, *self.leftovers, *self.behind]


@dataclass(slots=True)
class RingFound:
    """One member's journal: the newest seq of each bucket, and the position behind the newest entry."""

    newest_seqs: list[int]
    index: int = 0
    behind_byte: int = 0


class End(IntEnum):
    """How it is known that no entry is newer than the newest found (reading/ring_end.py), best first."""

    PROVEN = 0  # what an earlier lap of the ring left is where a newer entry would be
    PLAUSIBLE = 1  # nothing contradicts it, but an entry erased without a trace could not be noticed
    SUSPECT = 2  # something was erased there


@dataclass(frozen=True, slots=True)
class JournalEnd:
    """How the end is known; if it is suspect, where that shows and why."""

    known: End = End.PLAUSIBLE
    where: str = ""
    why: str = ""
    is_certain: bool = True  # that a power cut does not explain it
    is_torn: bool = False  # a device that garbles the sector it is writing when the power fails explains it
    unread: BcachedError | None = field(default=None, compare=False)  # what may be there could not be read
    keys: "KeySector | None" = field(default=None, compare=False)  # what is there, if it is keys


@dataclass(frozen=True, slots=True)
class KeySector:
    """A sector of keys where the next entry would be, though no earlier lap of the ring was there."""

    where: str
    raw: bytes


@dataclass(slots=True)
class JournalFound:
    """What was read of all members: their rings, the buckets that count, and the entries to be replayed."""

    rings: list[RingFound] = field(default_factory=list)
    buckets: list[BucketFound] = field(default_factory=list)
    others: list[BucketFound] = field(default_factory=list)  # buckets without a needed entry
    entries: list[JournalEntry] = field(default_factory=list)  # oldest first
    end: JournalEnd | None = None  # judged if all buckets were read, and there is no trace of newer entries

    @property
    def newest(self) -> JournalEntry:
        """The entry that names the locations of all metadata."""
        return self.entries[-1]

    def sound_by_seq(self) -> dict[int, JournalEntry]:
        """Returns every sound entry in the buckets that were read, needed or not; of two the first found."""
        known: dict[int, JournalEntry] = {}
        for bucket in [*self.buckets, *self.others]:
            for placed in bucket.sound:
                known.setdefault(placed.entry.seq, placed.entry)
        return known

    def placed(self) -> Iterator[tuple[BucketFound, PlacedEntry]]:
        """Every entry of every member and where it is, in the order of the devices."""
        for bucket in sorted([*self.buckets, *self.others], key=_position_of):
            for placed in bucket.entries:
                yield bucket, placed


@dataclass(frozen=True, slots=True)
class _Start:
    """The beginning of a bucket: the seq of its first entry, or whether anything else is there."""

    first_seq: int
    is_blank: bool


async def read_ring(member: MemberFound, number: int) -> tuple[RingFound, list[BucketFound]]:
    """Returns a member's ring and the buckets of it that count."""
    count = len(member.superblock.journal_buckets)
    if not count:  # before its first run, or of a geometry that is refused
        return RingFound([]), []
    starts = [await _read_start(member, index) for index in range(count)]
    ring = RingFound([start.first_seq for start in starts])
    found = await _read_needed(member, number, starts, ring)
    # What is hidden here would be newer than the newest; behind a blank bucket there is no more.
    upcoming = (ring.index + 1) % count
    for index, start in enumerate(starts):
        if not start.first_seq and (not start.is_blank or index == upcoming):
            found.append(await read_bucket(member, number, index))
    return ring, found


async def _read_needed(
    member: MemberFound, number: int, starts: Sequence[_Start], ring: RingFound
) -> list[BucketFound]:
    """Returns the buckets that can hold entries which the newest needs, and the newest itself."""
    found = []
    newest = oldest_needed = complete_from = 0
    # Newest bucket first: what it says is needed tells how far back to read.
    for index in sorted(range(len(starts)), key=lambda index: -starts[index].first_seq):
        first = starts[index].first_seq
        if not first or first < complete_from:
            break
        bucket = await read_bucket(member, number, index)
        found.append(bucket)
        if not bucket.entries:
            continue  # it changed since its beginning was read
        last = bucket.entries[-1]
        ring.newest_seqs[index] = last.entry.seq
        if last.entry.seq > newest:
            newest, oldest_needed = last.entry.seq, last.entry.last_seq
            ring.index, ring.behind_byte = index, bucket.next_byte
        if first <= oldest_needed:
            complete_from = first  # only a bucket with the same first seq, which is wrong, is left to read
    return found


async def read_bucket(member: MemberFound, number: int, index: int) -> BucketFound:
    """Reads a whole bucket."""
    superblock, block_bytes = member.superblock, member.superblock.block_bytes
    bucket = superblock.journal_buckets[index]
    where = f"{member.path} journal bucket {bucket}"
    raw = await _read(member.block_device, member, bucket, whole=True)
    placed, end = scan_journal_bucket(raw, superblock.set_magic, block_bytes, where)
    scanned = placed[-1].offset_bytes if placed else -1
    lap = 1
    while lap < len(placed) and _follows(placed[lap - 1].entry, placed[lap].entry):
        lap += 1
    placed, leftovers = placed[:lap], placed[lap:]
    if leftovers:
        end = None
    behind = placed[-1].offset_bytes + placed[-1].blocks * block_bytes if placed else 0
    is_foreign = isinstance(end, BadMagic) and is_of_another_set(raw, behind, where)
    next_seq = claimed_seq(raw, behind) if behind < len(raw) and not is_foreign else 0
    traces = trace_entries(raw, superblock.set_magic, block_bytes)
    further = [trace.byte for trace in traces if trace.byte > scanned]
    sound = sound_entries(raw, further, superblock.set_magic, block_bytes, where)
    return BucketFound(number, index, bucket, where, placed, leftovers, traces, sound, end, behind, next_seq)


def _follows(before: JournalEntry, after: JournalEntry) -> bool:
    """Whether two adjacent entries are of one lap: a later entry never has an older last_seq.

    So a damaged seq that is too high does not make an old entry a newer one. The next seq in order is
    accepted.
    """
    if after.seq == before.seq + 1:
        return True
    return after.seq > before.seq and after.last_seq >= before.last_seq


async def _read_start(member: MemberFound, index: int) -> _Start:
    superblock = member.superblock
    bucket = superblock.journal_buckets[index]
    raw = await _read(member.block_device, member, bucket, whole=False)
    where = f"{member.path} journal bucket {bucket}"
    found, _ = scan_journal_bucket(raw, superblock.set_magic, member.superblock.block_bytes, where, most=1)
    return _Start(found[0].entry.seq if found else 0, raw.count(0) == len(raw))


async def _read(device: BlockDevice, member: MemberFound, bucket: int, *, whole: bool) -> bytes:
    bucket_bytes = member.superblock.bucket_bytes
    length = bucket_bytes if whole else min(bucket_bytes, JSET_BYTES_MAX)
    return await device.read(bucket * bucket_bytes, length)


def _position_of(bucket: BucketFound) -> tuple[int, int]:
    return bucket.member, bucket.index
