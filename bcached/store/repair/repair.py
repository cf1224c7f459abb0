# SPDX-License-Identifier: GPL-2.0-only
"""Changes of a set on its devices at its owner's request, each a step that says what is lost by it.

A step is planned first, as patches; the set can be checked as it would be with them before anything is
written. They are written in order, so that a power cut leaves a set that can be repaired again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bcached.device.block_device import BlockDevice
from bcached.errors import FormatError, SetRefused
from bcached.format.jset import JournalEntry
from bcached.store.check.checker import CheckedSet, check_set
from bcached.store.journal.reader import BucketFound
from bcached.store.membership import MemberFound
from bcached.store.repair.patched_device import Patch, PatchedDevice
from bcached.units import SECTOR_BYTES


@dataclass(slots=True)
class RepairStep:
    """One change: what it does, what is lost by it, and its patches."""

    what: str
    gives_up: list[str] = field(default_factory=list)
    patches: list[Patch] = field(default_factory=list)


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
    step = RepairStep(f"clear the journal behind entry {seq}", patches=[patch for _, patch in doomed])
    if doomed:
        step.gives_up = _describe(lost, seq)
    return step


async def _newer(
    member: MemberFound, bucket: BucketFound, seq: int, lost: dict[int, JournalEntry | None]
) -> list[tuple[int, Patch]]:
    """Returns patches for the blocks of a bucket where an entry newer than seq begins, or seems to."""
    superblock = member.superblock
    bucket_bytes = superblock.bucket_sectors * SECTOR_BYTES
    block_bytes = superblock.block_sectors * SECTOR_BYTES
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


async def check_patched(
    devices: Sequence[BlockDevice], checked: CheckedSet, steps: Sequence[RepairStep]
) -> CheckedSet:
    """Returns what a check will find when the steps are done."""
    patches = [patch for step in steps for patch in step.patches]
    patched: list[BlockDevice] = []
    for device in devices:
        numbers = [number for number, member in enumerate(checked.members) if member.block_device is device]
        patched.append(PatchedDevice(device, [patch for patch in patches if patch.member in numbers]))
    return await check_set(patched)


async def write_steps(members: Sequence[MemberFound], steps: Sequence[RepairStep]) -> None:
    """Write the patches, durably."""
    for step in steps:
        for patch in step.patches:
            await members[patch.member].block_device.write(patch.byte, patch.data)
        for member in members:
            await member.block_device.flush()
