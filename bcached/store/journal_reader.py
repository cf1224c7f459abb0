"""Reading the journal back: all members' rings, the newest entry, and those still needed with it.

Each bucket's beginning is read first, since an entry whose bucket does not begin with one is never looked
for; then, whole, the buckets that can hold an entry that matters. Members may differ by the entries that
were being written when the power went: the union counts.

The kernel discards a journal bucket as soon as nothing in it is needed any more, and before the entry that
says so is written: on a device that discards, the oldest entries that the newest asks for may be gone without
a trace, and nothing is lost by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bcached.device.block_device import BlockDevice
from bcached.errors import SetRefused
from bcached.format.jset import JSET_BYTES_MAX, JournalEntry, parse_journal_bucket, trace_entries
from bcached.format.superblock import Superblock
from bcached.units import SECTOR_BYTES

SEQ_MAX = (1 << 63) - 1  # a thousand entries a second for three hundred million years


@dataclass(slots=True)
class RingFound:
    """One member's journal: the newest seq of each bucket, and the place behind the newest entry."""

    newest_seqs: list[int]
    index: int = 0
    behind_byte: int = 0


@dataclass(slots=True)
class JournalFound:
    """The entries that count, oldest first, and each member's ring."""

    entries: list[JournalEntry]
    rings: list[RingFound]

    @property
    def newest(self) -> JournalEntry:
        """The entry that tells where all metadata is."""
        return self.entries[-1]


async def read_journal(members: list[tuple[BlockDevice, Superblock]]) -> JournalFound:
    """All that the members' journals hold; SetRefused if there is nothing, or an entry is missing."""
    entries: dict[int, JournalEntry] = {}
    contradicted: dict[int, str] = {}  # by seq: where there is another entry of that number
    rings = []
    for device, superblock in members:
        rings.append(await _read_ring(device, superblock, entries, contradicted))
    path = members[0][0].path
    if not entries:
        raise SetRefused(f"{path}: no journal entries found, though the superblock says there is a journal")
    newest = entries[max(entries)]
    if newest.seq > SEQ_MAX:
        raise SetRefused(
            f"{path}: journal entry {newest.seq} is beyond {SEQ_MAX}, and there must be a next one"
        )
    for seq in sorted(contradicted):
        if seq >= newest.last_seq:
            where = contradicted[seq]
            raise SetRefused(f"{where}: entry {seq} is not the one on another member, or in another bucket")
    for (device, _), ring in zip(members, rings, strict=True):
        if not is_in_ring_order(ring.newest_seqs, newest.last_seq):
            raise SetRefused(
                f"{device.path} journal: expected its buckets in the order of a ring, "
                f"found them to end with entries {ring.newest_seqs}"
            )
    needed = [entries[seq] for seq in sorted(entries) if seq >= newest.last_seq]
    in_front = range(newest.last_seq, needed[0].seq)
    discarded = bool(in_front) and await _are_discarded(members, in_front)
    _refuse_gaps(path, newest, needed, needed[0].seq if discarded else newest.last_seq)
    return JournalFound(needed, rings)


async def _are_discarded(members: list[tuple[BlockDevice, Superblock]], seqs: range) -> bool:
    """Whether entries that are missing may have been discarded: one that is damaged leaves a trace."""
    for device, superblock in members:
        if not superblock.discard:
            return False
        bucket_bytes = superblock.bucket_sectors * SECTOR_BYTES
        block_bytes = superblock.block_sectors * SECTOR_BYTES
        for bucket in superblock.journal_buckets:
            raw = await device.read(bucket * bucket_bytes, bucket_bytes)
            if any(seq in seqs for _, seq in trace_entries(raw, superblock.set_magic, block_bytes)):
                return False
    return True


def is_in_ring_order(newest_seqs: Sequence[int], oldest_needed: int) -> bool:
    """Whether the buckets that are still needed were filled one after the other, round the ring.

    Else one of them may stand right behind the newest, and there is no room for the entry that would free it.
    """
    behind = newest_seqs.index(max(newest_seqs)) + 1
    lap = [*newest_seqs[behind:], *newest_seqs[:behind]]
    needed = [seq for seq in lap if seq and seq >= oldest_needed]
    return all(before < after for before, after in pairwise(needed))


def _refuse_gaps(path: str, newest: JournalEntry, needed: list[JournalEntry], expected: int) -> None:
    """Refuse what is not all of the entries from the expected one on.

    What the newest entry says is needed may be any number: go by the entries there are.
    """
    for entry in needed:
        if entry.seq != expected:
            raise SetRefused(
                f"{path}: journal entries {expected} to {entry.seq - 1} are missing "
                f"of {newest.last_seq} to {newest.seq}"
            )
        expected += 1


async def _read_ring(
    device: BlockDevice,
    superblock: Superblock,
    entries: dict[int, JournalEntry],
    contradicted: dict[int, str],
) -> RingFound:
    bucket_bytes = superblock.bucket_sectors * SECTOR_BYTES
    block_bytes = superblock.block_sectors * SECTOR_BYTES
    first_seqs = []
    for bucket in superblock.journal_buckets:
        where = f"{device.path} journal bucket {bucket}"
        raw = await device.read(bucket * bucket_bytes, min(bucket_bytes, JSET_BYTES_MAX))
        found = parse_journal_bucket(raw, superblock.set_magic, block_bytes, where)
        first_seqs.append(found[0].entry.seq if found else 0)
    ring = RingFound(list(first_seqs))
    newest = oldest_needed = complete_from = 0
    # Newest bucket first: what it says is needed tells how far back to read.
    for index in sorted(range(len(first_seqs)), key=lambda index: -first_seqs[index]):
        first = first_seqs[index]
        if not first:
            continue
        if first < complete_from:
            break
        bucket = superblock.journal_buckets[index]
        where = f"{device.path} journal bucket {bucket}"
        raw = await device.read(bucket * bucket_bytes, bucket_bytes)
        previous = 0
        for placed in parse_journal_bucket(raw, superblock.set_magic, block_bytes, where):
            if placed.entry.seq <= previous:
                break  # left over from the ring's round before
            previous = placed.entry.seq
            if entries.setdefault(previous, placed.entry) != placed.entry:
                contradicted.setdefault(previous, where)
            ring.newest_seqs[index] = previous
            if previous > newest:
                newest, oldest_needed = previous, placed.entry.last_seq
                ring.index, ring.behind_byte = index, placed.offset_bytes + placed.blocks * block_bytes
        if first <= oldest_needed:
            complete_from = first  # only a bucket that begins alike, which is wrong, is still to be looked at
    return ring
