# SPDX-License-Identifier: GPL-2.0-only
"""The step back to an entry of the journal: everything newer is erased on all members."""

from bcached.errors import FormatError, SetRefused
from bcached.format.jset import JournalEntry
from bcached.store.check.checker import CheckedSet
from bcached.store.journal.reader import BucketFound
from bcached.store.membership import MemberFound
from bcached.store.patched_device import Patch
from bcached.store.repair.repair_step import RepairStep


async def clear_journal_behind(checked: CheckedSet, seq: int) -> RepairStep:
    """Plan to erase all entries newer than seq, so that neither bcached nor the kernel finds them again."""
    journal, members = checked.journal, checked.members
    if journal is None:
        raise SetRefused("the set has no journal that could be cleared")
    whole = {placed.entry.seq for _, placed in journal.placed()}
    if seq not in whole:
        there = f"found {min(whole)} to {max(whole)}" if whole else "found none"
        raise SetRefused(f"{members[0].path}: expected the number of a sound journal entry, {there}")
    doomed: list[tuple[int, Patch]] = []
    lost: dict[int, JournalEntry | None] = {}
    for bucket in [*journal.buckets, *journal.others]:
        doomed += await _newer(members[bucket.member], bucket, seq, lost)
    # The newest first: if interrupted, this leaves fewer entries, and no gap.
    doomed.sort(key=_seq_of, reverse=True)
    step = RepairStep(f"clear the journal behind entry {seq}", [[patch for _, patch in doomed]])
    if doomed:
        step.gives_up = _describe(lost, seq)
    return step


async def _newer(
    member: MemberFound, bucket: BucketFound, seq: int, lost: dict[int, JournalEntry | None]
) -> list[tuple[int, Patch]]:
    """Returns patches for the blocks of a bucket where an entry newer than seq begins, or seems to."""
    superblock = member.superblock
    bucket_bytes = superblock.bucket_bytes
    block_bytes = superblock.block_bytes
    raw = await member.block_device.read(bucket.bucket * bucket_bytes, bucket_bytes)
    found = {byte: newer for byte, newer, _ in bucket.traces if newer > seq}
    if bucket.next_byte < bucket_bytes and bucket.next_seq == seq + 1:
        found.setdefault(bucket.next_byte, bucket.next_seq)  # its magic is damaged
    patches = []
    for byte, newer in found.items():
        try:
            entry = JournalEntry.parse(raw[byte:], superblock.set_magic, bucket.where)
        except FormatError:
            lost.setdefault(newer, None)
        else:
            lost[newer] = entry
        offset = bucket.bucket * bucket_bytes + byte
        patches.append((newer, Patch(bucket.member, offset, bytes(block_bytes))))
    return patches


def _seq_of(doomed: tuple[int, Patch]) -> int:
    return doomed[0]


def _describe(lost: dict[int, JournalEntry | None], seq: int) -> list[str]:
    readable = [entry for entry in lost.values() if entry is not None]
    keys = [key for entry in readable for key in entry.keys]
    sectors, dirty = sum(key.sectors for key in keys), sum(key.sectors for key in keys if key.dirty)
    lines = [f"all changes since journal entry {seq}: {len(lost)} entries, {len(readable)} of them readable"]
    if readable:
        lines.append(
            f"in those that are readable: {len(keys)} keys of {sectors} sectors, {dirty} of them dirty"
        )
    return lines
